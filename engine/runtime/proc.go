package runtime

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// ErrGone says that a process does not exist any more, or that another one has
// its pid now.
var ErrGone = errors.New("the process is gone")

// Stat is what /proc/PID/stat says about a process, proc_pid_stat(5).
type Stat struct {
	PID  int
	Comm string
	// State is R, S, D, T, t, Z, X or I.
	State byte
	PPID  int
	// StartTicks is the start time after boot in clock ticks. With the pid it
	// identifies a process for the time of a boot.
	StartTicks uint64
}

// Alive reports whether the process still runs: neither zombie nor dead.
func (s Stat) Alive() bool { return s.State != 'Z' && s.State != 'X' }

// ReadStat reads a process's state; ErrGone if there is none.
func ReadStat(pid int) (Stat, error) {
	b, err := readProc(pid, "stat")
	if err != nil {
		return Stat{}, err
	}
	return parseStat(b)
}

func readProc(pid int, file string) ([]byte, error) {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/" + file)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ESRCH) {
		return nil, fmt.Errorf("%w: pid %d", ErrGone, pid)
	}
	return b, err
}

// parseStat copes with a command name that contains spaces and parentheses.
func parseStat(b []byte) (s Stat, err error) {
	open, end := bytes.IndexByte(b, '('), bytes.LastIndexByte(b, ')')
	if open < 0 || end < open {
		return s, fmt.Errorf("cannot parse %q as /proc/PID/stat", b)
	}
	fields := strings.Fields(string(b[end+1:]))
	if len(fields) < 20 {
		return s, fmt.Errorf("cannot parse %q as /proc/PID/stat", b)
	}
	s.Comm, s.State = string(b[open+1:end]), fields[0][0]
	var e1, e2, e3 error
	s.PID, e1 = strconv.Atoi(strings.TrimSpace(string(b[:open])))
	s.PPID, e2 = strconv.Atoi(fields[1])
	s.StartTicks, e3 = strconv.ParseUint(fields[19], 10, 64)
	return s, errors.Join(e1, e2, e3)
}

// statusMask reads a line like "SigCgt:\t0000000180004002" of /proc/PID/status.
func statusMask(status []byte, key string) (uint64, error) {
	for line := range bytes.Lines(status) {
		if name, value, ok := strings.Cut(string(line), ":"); ok && name == key {
			return strconv.ParseUint(strings.TrimSpace(value), 16, 64)
		}
	}
	return 0, fmt.Errorf("/proc/PID/status has no line %s", key)
}

// CatchesSignal reports whether a process does something about a signal (has a
// handler, or waits for it with sigwait or signalfd) or ignores it. The first
// process of a pid namespace with neither does not die of a signal that is sent
// from inside, nor of any but SIGKILL and SIGSTOP from outside
// (pid_namespaces(7)): waiting for it to stop is in vain.
//
// In doubt it says caught.
func CatchesSignal(pid int, sig unix.Signal) (caught, ignored bool, err error) {
	dir := "/proc/" + strconv.Itoa(pid) + "/task"
	tasks, err := os.ReadDir(dir)
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			err = fmt.Errorf("%w: pid %d", ErrGone, pid)
		}
		return false, false, err
	}
	bit := uint64(1) << (sig - 1)
	for _, t := range tasks {
		// sigwait takes its signals out of the blocked set while it waits, so it
		// shows as the current call only. It is read twice, lest the thread gets
		// there between the call and the set.
		if waitsForSignals(dir + "/" + t.Name()) {
			return true, false, nil
		}
		status, err := os.ReadFile(dir + "/" + t.Name() + "/status")
		if err != nil {
			continue // the thread has ended
		}
		if waitsForSignals(dir + "/" + t.Name()) {
			return true, false, nil
		}
		cgt, err1 := statusMask(status, "SigCgt")
		blk, err2 := statusMask(status, "SigBlk")
		ign, err3 := statusMask(status, "SigIgn")
		if err := errors.Join(err1, err2, err3); err != nil {
			return false, false, err
		}
		if (cgt|blk)&bit != 0 {
			return true, false, nil
		}
		ignored = ignored || ign&bit != 0
	}
	return false, ignored, nil
}

// waitsForSignals reports whether a thread is in sigwait(3), or true if that
// cannot be known.
func waitsForSignals(task string) bool {
	b, err := os.ReadFile(task + "/syscall")
	if err != nil {
		_, gone := os.Stat(task)
		return gone == nil
	}
	nr, _, _ := strings.Cut(string(b), " ")
	return nr == strconv.Itoa(unix.SYS_RT_SIGTIMEDWAIT)
}
