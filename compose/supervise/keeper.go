package supervise

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/stack-run/stack/compose/supervise/guard"
)

// Keeper holds the descriptors that must survive this process: each is also
// handed to the guardian, which passes it on to the next supervisor.
type Keeper struct {
	mu      sync.Mutex
	control int
	dir     string
	held    map[string]*os.File
}

// InheritKeeper takes over what the guardian passed to this process.
func InheritKeeper() (*Keeper, error) {
	k := &Keeper{control: guard.ControlFD, dir: os.Getenv(guard.EnvDir), held: map[string]*os.File{}}
	unix.CloseOnExec(guard.ControlFD)
	for _, line := range splitNames(os.Getenv(guard.EnvFDs)) {
		number, name, _ := strings.Cut(line, " ")
		fd, err := strconv.Atoi(number)
		if err != nil {
			return nil, fmt.Errorf("internal error: cannot read %s: %w", guard.EnvFDs, err)
		}
		unix.CloseOnExec(fd)
		k.held[name] = os.NewFile(uintptr(fd), name)
	}
	for _, v := range []string{guard.EnvFDs, guard.EnvRole} {
		if err := os.Unsetenv(v); err != nil {
			return nil, err
		}
	}
	return k, nil
}

func splitNames(s string) []string {
	if s == "" {
		return nil
	}
	return strings.Split(s, "\n")
}

// Get returns the held descriptor of that name, or nil. It stays the keeper's.
func (k *Keeper) Get(name string) *os.File {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.held[name]
}

// Names lists the held names that begin with prefix.
func (k *Keeper) Names(prefix string) []string {
	k.mu.Lock()
	defer k.mu.Unlock()
	var out []string
	for name := range k.held {
		if strings.HasPrefix(name, prefix) {
			out = append(out, name)
		}
	}
	slices.Sort(out)
	return out
}

// Hold keeps a duplicate of f under name, in this process and in the guardian.
func (k *Keeper) Hold(name string, f *os.File) error {
	fd, err := dup(f)
	if err != nil {
		return err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if old := k.held[name]; old != nil {
		old.Close()
	}
	k.held[name] = os.NewFile(uintptr(fd), name)
	return unix.Sendmsg(k.control, []byte("hold "+name), unix.UnixRights(fd), nil, unix.MSG_NOSIGNAL)
}

// Drop forgets a name. Unknown names are fine.
func (k *Keeper) Drop(name string) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	f := k.held[name]
	if f == nil {
		return nil
	}
	delete(k.held, name)
	return errors.Join(f.Close(), unix.Sendmsg(k.control, []byte("drop "+name), nil, nil, unix.MSG_NOSIGNAL))
}

// dup duplicates without switching the open file description's blocking mode,
// as (*os.File).Fd would.
func dup(f *os.File) (int, error) {
	conn, err := f.SyscallConn()
	if err != nil {
		return -1, err
	}
	fd, dupErr := -1, error(nil)
	err = conn.Control(func(raw uintptr) {
		fd, dupErr = unix.FcntlInt(raw, unix.F_DUPFD_CLOEXEC, 0)
	})
	return fd, errors.Join(err, dupErr)
}

// lost blocks until the guardian is gone. When the run directory is deleted under
// this process, it ends: the guards make it again, or leave it to a new chain.
func (k *Keeper) lost() {
	poll := []unix.PollFd{{Fd: int32(k.control), Events: unix.POLLIN}}
	// Where no more can be watched the next supervisor finds out.
	if watch, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK); err == nil {
		if _, err := unix.InotifyAddWatch(watch, k.dir, unix.IN_DELETE); err == nil {
			poll = append(poll, unix.PollFd{Fd: int32(watch), Events: unix.POLLIN})
		}
	}
	var buf [4096]byte
	for {
		if _, err := unix.Poll(poll, -1); err != nil && err != unix.EINTR {
			return
		}
		if poll[0].Revents != 0 {
			n, err := unix.Read(k.control, buf[:])
			if n <= 0 && err != unix.EINTR {
				return
			}
		}
		if len(poll) > 1 && poll[1].Revents != 0 {
			n, _ := unix.Read(int(poll[1].Fd), buf[:])
			if n > 0 && deleted(buf[:n], socketName) {
				os.Exit(exitHandOver)
			}
		}
	}
}

// deleted looks for a file's name in what a watch for deletions reads, inotify(7).
// A supervisor that leaves moves its files before it deletes them.
func deleted(events []byte, name string) bool {
	for len(events) >= unix.SizeofInotifyEvent {
		size := unix.SizeofInotifyEvent + int(binary.NativeEndian.Uint32(events[12:]))
		if size > len(events) {
			return false
		}
		if string(bytes.TrimRight(events[unix.SizeofInotifyEvent:size], "\x00")) == name {
			return true
		}
		events = events[size:]
	}
	return false
}

// succeed does what the guard package's comment says when the guardian is gone:
// a living warden (or a guardian that turns warden just now) starts the next
// supervisor, else this process turns into the warden. It does not return.
func (k *Keeper) succeed(project string) {
	warden, _ := strconv.Atoi(os.Getenv(guard.EnvWarden))
	if !guard.Deserted(warden) {
		os.Exit(3)
	}
	k.mu.Lock()
	var names []string
	var fds []int
	for name, f := range k.held {
		fd, err := dup(f)
		if err != nil {
			continue
		}
		names, fds = append(names, name), append(fds, fd)
	}
	guard.BecomeWarden(project, names, fds)
	os.Exit(3)
}
