package cgroup

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// freezeBound and emptyBound are how long the kernel may take to stop or to
	// end the processes of a group before the wait is given up. Only processes in
	// an uninterruptible sleep take longer than some milliseconds.
	freezeBound = 10 * time.Second
	emptyBound  = 30 * time.Second
	// lookAgain is after how long a file is read again without an event: the
	// kernel announces changes, but not the removal of a group.
	lookAgain = time.Second
)

// bounded gives a wait an end: ctx's, or bound from now if that is earlier.
func bounded(ctx context.Context, bound time.Duration) (context.Context, context.CancelFunc) {
	return context.WithTimeoutCause(ctx, bound, fmt.Errorf("%w after %v", context.DeadlineExceeded, bound))
}

// await waits until cond accepts the content of a file that the kernel announces
// changes of to poll(2): cgroup.events, memory.events (kernel: cgroup-v2.rst).
// It takes a descriptor, and none of the user's few inotify instances.
func await(ctx context.Context, path string, cond func(map[string]uint64) bool) error {
	fd, err := openFD(path, unix.O_RDONLY|unix.O_NONBLOCK)
	if err != nil {
		return err
	}
	f := os.NewFile(uintptr(fd), path)
	defer f.Close()
	conn, err := f.SyscallConn()
	if err != nil {
		return err
	}
	ended := context.AfterFunc(ctx, func() { f.SetReadDeadline(time.Unix(1, 0)) })
	defer ended()
	buf := make([]byte, 4096)
	for ctx.Err() == nil {
		f.SetReadDeadline(time.Now().Add(lookAgain))
		if ctx.Err() != nil { // lest this undid what its end set
			break
		}
		var done bool
		var readErr error
		err := conn.Read(func(fd uintptr) bool {
			// Reading also tells the kernel which change has been seen.
			var n int
			if n, readErr = unix.Pread(int(fd), buf, 0); readErr != nil {
				return true
			}
			done = cond(keyed(string(buf[:n])))
			return done
		})
		switch {
		case readErr == unix.EINTR:
		case readErr != nil:
			return &fs.PathError{Op: "read", Path: path, Err: readErr}
		case done:
			return nil
		case err != nil && !errors.Is(err, os.ErrDeadlineExceeded):
			return err
		}
	}
	return context.Cause(ctx)
}

// who names processes for an error: "4711 (sh, uninterruptible)". A process that
// another pid namespace hides has no number here.
func who(pids []int) string {
	const most = 8
	var out []string
	for i, pid := range pids {
		if i == most {
			out = append(out, fmt.Sprintf("%d more", len(pids)-most))
			break
		}
		out = append(out, describe(pid))
	}
	if len(out) == 0 {
		return "no process that can be seen from here"
	}
	return "process " + strings.Join(out, ", ")
}

var states = map[byte]string{
	'R': "running", 'S': "sleeping", 'D': "in an uninterruptible wait, often for a disk or a file server",
	'T': "stopped", 't': "traced", 'Z': "ended and not reaped by its parent", 'X': "ending",
}

func describe(pid int) string {
	if pid == 0 {
		return "of another pid namespace"
	}
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	text := string(b)
	open, end := strings.IndexByte(text, '('), strings.LastIndexByte(text, ')')
	if err != nil || open < 0 || end < open || end+2 >= len(text) {
		return fmt.Sprintf("%d (gone meanwhile)", pid)
	}
	state := states[text[end+2]]
	if state == "" {
		state = text[end+2 : end+3]
	}
	return fmt.Sprintf("%d (%s, %s)", pid, text[open+1:end], state)
}
