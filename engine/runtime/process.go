package runtime

import (
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// Process is a process that was started here or adopted. Its methods may be
// called at the same time and after Close: what needs the descriptor then finds
// the process gone.
type Process struct {
	// PID is the process's number in this process's pid namespace.
	PID int
	// PidFD is a pollable pidfd; it is closed by Close.
	PidFD *os.File
	// StartTicks, with PID, identifies the process for the time of a boot.
	StartTicks uint64
	// Console is the master side of its terminal, nil without one. The caller
	// closes it.
	Console *os.File
}

// ExitStatus is how a process ended.
type ExitStatus struct {
	// Code is the exit code, 128 plus the signal's number if a signal ended it.
	Code int
	// Signal is the signal that ended it, 0 for none.
	Signal unix.Signal
	// CoreDumped says that the signal produced a core dump.
	CoreDumped bool
}

// ErrStatusUnknown says that a process has ended and nobody here can know how:
// it was another process's child.
var ErrStatusUnknown = errors.New("the exit status went to another process")

// Adopt takes up a process that somebody else started. startTicks must be that
// of the process meant; 0 takes whichever has the pid. It returns ErrGone when
// that process has ended.
func Adopt(pid int, startTicks uint64) (*Process, error) {
	fd, err := unix.PidfdOpen(pid, unix.PIDFD_NONBLOCK)
	switch {
	case errors.Is(err, unix.ESRCH) || errors.Is(err, unix.EINVAL):
		return nil, fmt.Errorf("%w: pid %d", ErrGone, pid)
	case err != nil:
		return nil, fmt.Errorf("cannot open process %d: %w", pid, err)
	}
	p := &Process{PID: pid, PidFD: os.NewFile(uintptr(fd), "pidfd"), StartTicks: startTicks}
	// Read after the descriptor is open: it pins which process is looked at.
	s, err := ReadStat(pid)
	if err == nil && startTicks != 0 && s.StartTicks != startTicks {
		err = fmt.Errorf("%w: pid %d belongs to a newer process", ErrGone, pid)
	}
	if err != nil {
		p.PidFD.Close()
		return nil, err
	}
	p.StartTicks = s.StartTicks
	return p, nil
}

// Signal sends a signal; ErrGone if the process has been reaped, or let go of by
// Close.
func (p *Process) Signal(sig unix.Signal) error {
	return p.control(func(fd int) error {
		err := unix.PidfdSendSignal(fd, sig, nil, 0)
		switch {
		case errors.Is(err, unix.ESRCH):
			return fmt.Errorf("%w: pid %d", ErrGone, p.PID)
		case err != nil:
			return fmt.Errorf("cannot send signal %d to process %d: %w", int(sig), p.PID, err)
		}
		return nil
	})
}

func (p *Process) control(f func(fd int) error) error {
	if p.PidFD == nil {
		return fmt.Errorf("%w: pid %d", ErrGone, p.PID)
	}
	conn, err := p.PidFD.SyscallConn()
	if err != nil {
		return err
	}
	// Control itself fails only for a file that is closed.
	if cerr := conn.Control(func(fd uintptr) { err = f(int(fd)) }); cerr != nil {
		return fmt.Errorf("%w: pid %d was let go of", ErrGone, p.PID)
	}
	return err
}

// Close releases the descriptor. It does not touch the process. A second Close
// does nothing.
func (p *Process) Close() error {
	if p.PidFD == nil {
		return nil
	}
	if err := p.PidFD.Close(); !errors.Is(err, os.ErrClosed) {
		return err
	}
	return nil
}

// ended tells whether the process runs no more, reaped or not.
func (p *Process) ended() bool {
	over := false
	err := p.control(func(fd int) error {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0)
		over = n > 0
		return err
	})
	return over || errors.Is(err, ErrGone)
}

// wait is Wait for some time; os.ErrDeadlineExceeded says that it has passed.
func (p *Process) wait(bound time.Duration) (ExitStatus, error) {
	p.PidFD.SetReadDeadline(time.Now().Add(bound))
	defer p.PidFD.SetReadDeadline(time.Time{})
	return p.Wait()
}

// waitFor is wait for its end alone.
func (p *Process) waitFor(bound time.Duration) error {
	_, err := p.wait(bound)
	if errors.Is(err, ErrStatusUnknown) {
		return nil
	}
	return err
}

// End kills the process and reaps it, if it is a child. It waits for bound at most.
func (p *Process) End(bound time.Duration) error {
	if err := p.Signal(unix.SIGKILL); err != nil && !errors.Is(err, ErrGone) {
		return err
	}
	if p.PidFD == nil {
		return nil
	}
	return p.waitFor(bound)
}

// Wait waits for the end of the process and, if it is this process's child,
// reaps it. It holds no thread. For a process that is not a child it waits until
// its parent has reaped it, and returns its status where the kernel tells
// (Linux 6.15), else ErrStatusUnknown. A concurrent Close ends it with os.ErrClosed.
func (p *Process) Wait() (ExitStatus, error) {
	if p.PidFD == nil {
		return ExitStatus{}, fmt.Errorf("cannot wait for process %d: %w", p.PID, os.ErrClosed)
	}
	conn, err := p.PidFD.SyscallConn()
	if err != nil {
		return ExitStatus{}, err
	}
	var status ExitStatus
	// The poller is edge-triggered: each call looks again after a wake-up.
	rerr := conn.Read(func(fd uintptr) (done bool) {
		status, done, err = reap(int(fd))
		return done
	})
	switch {
	case errors.Is(rerr, os.ErrDeadlineExceeded):
		err = rerr
	case rerr != nil: // the poller's own error for a closed file
		err = os.ErrClosed
	}
	if err != nil {
		return ExitStatus{}, fmt.Errorf("cannot wait for process %d: %w", p.PID, err)
	}
	return status, nil
}

// reap looks once whether the process has ended.
func reap(fd int) (ExitStatus, bool, error) {
	var info unix.Siginfo
	var err error
	for {
		err = unix.Waitid(unix.P_PIDFD, fd, &info, unix.WEXITED|unix.WNOHANG, nil)
		if err != unix.EINTR {
			break
		}
	}
	switch {
	case err == unix.ECHILD:
		return foreignStatus(fd)
	case err == unix.EAGAIN || err == nil && info.Signo == 0:
		return ExitStatus{}, false, nil
	case err != nil:
		return ExitStatus{}, true, err
	}
	return childStatus(&info), true, nil
}

// foreignStatus is reap for another process's child.
func foreignStatus(fd int) (ExitStatus, bool, error) {
	status, known, err := pidfdExit(fd)
	if known {
		return status, true, nil
	}
	poll := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
	if n, perr := unix.Poll(poll, 0); perr != nil || n == 0 {
		return ExitStatus{}, false, nil
	}
	// It has ended. Where the kernel keeps the status it does so once the parent
	// has reaped it, which wakes the poller again.
	if err == nil && poll[0].Revents&unix.POLLHUP == 0 {
		return ExitStatus{}, false, nil
	}
	return ExitStatus{}, true, ErrStatusUnknown
}

const (
	cldExited = 1
	cldDumped = 3
)

// childStatus decodes the siginfo_t of waitid(2).
func childStatus(info *unix.Siginfo) ExitStatus {
	status := siginfoStatus(info)
	if info.Code == cldExited {
		return ExitStatus{Code: int(status)}
	}
	return ExitStatus{Code: 128 + int(status), Signal: unix.Signal(status), CoreDumped: info.Code == cldDumped}
}

// waitStatus decodes the status of wait(2).
func waitStatus(w unix.WaitStatus) ExitStatus {
	if w.Signaled() {
		return ExitStatus{Code: 128 + int(w.Signal()), Signal: w.Signal(), CoreDumped: w.CoreDump()}
	}
	return ExitStatus{Code: w.ExitStatus()}
}
