package lock

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// HeldError says that a wait for a lock came to its end.
type HeldError struct {
	Path   string
	What   string // the lock guards, may be empty
	PID    int    // of a holder, 0 if it cannot be seen
	Holder string // its command line
	Waited time.Duration
}

func (e *HeldError) Error() string {
	text := fmt.Sprintf("after %s still waiting for %s", e.Waited, e.describe())
	if e.PID == 0 {
		return text + "; try again when it is done"
	}
	return text + fmt.Sprintf("; let it finish, or end it: kill %d", e.PID)
}

// describe says what is waited for, and who has it.
func (e *HeldError) describe() string {
	what := "the lock " + e.Path
	if e.What != "" {
		what = e.What
	}
	if e.PID == 0 {
		return what + ", which another process has"
	}
	return fmt.Sprintf("%s, which PID %d (%s) has", what, e.PID, e.Holder)
}

// WithNotice returns a context in which a wait for a lock that lasts is told, once
// for each wait.
func WithNotice(ctx context.Context, tell func(string)) context.Context {
	return context.WithValue(ctx, noticeKey{}, tell)
}

type noticeKey struct{}

func noticeOf(ctx context.Context) func(string) {
	tell, _ := ctx.Value(noticeKey{}).(func(string))
	return tell
}

// holder finds out who holds the lock of f.
func (r request) holder(f *os.File) *HeldError {
	e := &HeldError{Path: r.path, What: r.what}
	var st unix.Stat_t
	if unix.Fstat(int(f.Fd()), &st) != nil {
		return e
	}
	locks, err := os.Open("/proc/locks")
	if err != nil {
		return e
	}
	defer locks.Close()
	e.PID = lockHolder(bufio.NewScanner(locks), unix.Major(st.Dev), unix.Minor(st.Dev), st.Ino)
	command, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", e.PID))
	if e.Holder = strings.TrimSpace(strings.ReplaceAll(string(command), "\x00", " ")); e.Holder == "" {
		e.Holder = "a process that has ended; another one inherited the lock"
	}
	return e
}

// lockHolder finds the first holder of an inode's flock in the lines of /proc/locks
// (proc_locks(5)), such as
//
//	2: FLOCK  ADVISORY  WRITE 4711 00:1a:815 0 EOF
//	2: -> FLOCK  ADVISORY  WRITE 4712 00:1a:815 0 EOF
//
// of which the second waits. The device of some file systems (btrfs, overlay) is
// not the one that stat(2) tells: then the inode has to do.
func lockHolder(lines *bufio.Scanner, major, minor uint32, inode uint64) int {
	device := fmt.Sprintf("%02x:%02x", major, minor)
	number := strconv.FormatUint(inode, 10)
	second := 0
	for lines.Scan() {
		words := strings.Fields(lines.Text())
		if len(words) < 6 || words[1] != "FLOCK" {
			continue
		}
		pid, _ := strconv.Atoi(words[4])
		at := strings.LastIndexByte(words[5], ':')
		if at < 0 || words[5][at+1:] != number || pid <= 0 {
			continue
		}
		if words[5][:at] == device {
			return pid
		}
		second = pid
	}
	return second
}
