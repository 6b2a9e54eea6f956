package engine

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/fsnotify/fsnotify"
	"github.com/moby/sys/signal"
	"golang.org/x/sys/unix"

	"github.com/stack-run/stack/engine/cgroup"
	"github.com/stack-run/stack/engine/logs"
	"github.com/stack-run/stack/engine/runtime"
)

// Task is a container's running process, owned by this process.
type Task struct {
	engine *Engine
	id     string
	proc   *runtime.Process
	group  *cgroup.Group
	pump   *logs.Pump
	fds    FDs
	// exits is the directory where a guardian writes the exit status of a process
	// that it reaped.
	exits   string
	pidHost bool // shares a pid namespace: signals have their default action

	done chan struct{} // closed when the process has ended; code is set then
	code int
	note string

	unread bool // the pump could not read all: set by Finish, for Release

	mu     sync.Mutex
	killed bool // by us
}

// Exit is how a task ended.
type Exit struct {
	Code      int // 128+n when signal n ended it
	OOMKilled bool
	// Note explains what a code alone does not.
	Note string
}

// Done is closed when the process has ended.
func (t *Task) Done() <-chan struct{} { return t.done }

// Pid is the process' ID on the host.
func (t *Task) Pid() int { return t.proc.PID }

func (t *Task) wait() {
	defer close(t.done)
	st, err := t.proc.Wait()
	if err == nil {
		t.code = st.Code
		if t.exits != "" { // a guardian wrote it down too
			readExit(t.exitPath())
		}
		return
	}
	t.code, t.note = t.collected()
}

func (t *Task) exitPath() string {
	return filepath.Join(t.exits, fmt.Sprintf("%d.%d", t.proc.PID, t.proc.StartTicks))
}

// collected finds the exit status of a process that another one reaped: a
// guardian, which writes it to a file before it reaps, or the host's init, after
// which the kernel remembers it for the pinned pidfd.
func (t *Task) collected() (code int, note string) {
	if code, ok := readExit(t.exitPath()); ok {
		return code, ""
	}
	if st, exited, err := runtime.ReadPin(t.engine.pinPath(t.id)); err == nil && exited {
		return st.Code, ""
	}
	if code, ok := awaitExit(t.exitPath(), 2*time.Second); ok {
		return code, ""
	}
	return lostExitCode, "the exit code is lost: the process ended while no supervisor, guardian or kernel record could keep it"
}

func readExit(path string) (int, bool) {
	b, err := os.ReadFile(path)
	if err != nil {
		return 0, false
	}
	os.Remove(path)
	text, _, _ := strings.Cut(string(b), " ")
	code, err := strconv.Atoi(strings.TrimSpace(text))
	return code, err == nil
}

// awaitExit waits for the file of a guardian that is about to write it.
func awaitExit(path string, bound time.Duration) (int, bool) {
	w, err := fsnotify.NewWatcher()
	if err != nil {
		return 0, false
	}
	defer w.Close()
	os.MkdirAll(filepath.Dir(path), 0o700)
	if err := w.Add(filepath.Dir(path)); err != nil {
		return 0, false
	}
	timeout := time.After(bound)
	for {
		if code, ok := readExit(path); ok {
			return code, true
		}
		select {
		case <-w.Events:
		case <-w.Errors:
		case <-timeout:
			return 0, false
		}
	}
}

// finishBound limits how long what a container left behind is waited for: killed
// processes that do not go, a process outside that writes to its log.
const finishBound = 5 * time.Second

// Finish ends what a process that has ended left behind: the rest of its cgroup
// is killed, its log read to the end. What can tell of its end stays until
// [Task.Release], so that nothing is lost with a supervisor killed in between.
func (t *Task) Finish() Exit {
	exit := Exit{Code: t.code, Note: t.note}
	if n, err := t.group.OOMKills(); err == nil && n > 0 {
		exit.OOMKilled = true
	}
	ctx, cancel := context.WithTimeout(context.Background(), finishBound)
	defer cancel()
	if err := errors.Join(t.group.Kill(ctx), t.group.WaitEmpty(ctx)); err != nil {
		t.engine.Warnf("cannot end all processes of container %s: %v", t.id[:12], err)
	}
	if t.pump != nil {
		if err := t.pump.Drain(ctx); err != nil {
			t.unread = errors.Is(err, logs.ErrUnread)
			t.engine.Warnf("cannot read the last output of container %s: %v", t.id[:12], err)
		}
	}
	return exit
}

// Release lets go of what a finished process still has, once its end is in the
// record. Without it the container's next start, or its removal, does.
func (t *Task) Release() {
	ctx, cancel := context.WithTimeout(context.Background(), finishBound)
	defer cancel()
	if err := t.deleteGroup(ctx); err != nil {
		t.engine.Warnf("cannot remove the cgroup of container %s: %v", t.id[:12], err)
	}
	if !t.unread { // else the container's next start finds it in the FIFOs
		t.engine.dropStdio(t.id, t.fds)
	}
	runtime.Unpin(t.engine.pinPath(t.id))
	t.proc.Close()
}

func (t *Task) deleteGroup(ctx context.Context) error {
	if err := t.group.Delete(ctx); err != nil {
		return err
	}
	return t.engine.dropParent(t.group.Path())
}

// abort ends a process that was started for nothing.
func (t *Task) abort() error {
	err := errors.Join(t.group.Kill(context.Background()), t.proc.End(finishBound))
	runtime.Unpin(t.engine.pinPath(t.id))
	return errors.Join(err, t.proc.Close())
}

// Signal sends a signal, by name or number, to the container's first process.
func (t *Task) Signal(name string) error {
	sig, err := signal.ParseSignal(name)
	if err != nil {
		return fmt.Errorf("cannot send signal %q: %w", name, err)
	}
	if err := t.proc.Signal(sig); err != nil && !errors.Is(err, runtime.ErrGone) {
		return fmt.Errorf("cannot send signal %s: %w", name, err)
	}
	return nil
}

// Kill ends all processes of the container.
func (t *Task) Kill() error {
	t.mu.Lock()
	t.killed = true
	t.mu.Unlock()
	err := t.proc.Signal(unix.SIGKILL)
	if errors.Is(err, runtime.ErrGone) {
		err = nil
	}
	return errors.Join(err, t.group.Kill(context.Background()))
}

// Deaf tells whether the process cannot react to a signal: it is PID 1 of a
// namespace of its own and has no handler, so the kernel drops the signal,
// pid_namespaces(7).
func (t *Task) Deaf(name string) (bool, error) {
	sig, err := signal.ParseSignal(name)
	if err != nil {
		return false, err
	}
	if sig == unix.SIGKILL || sig == unix.SIGSTOP {
		return false, nil
	}
	caught, ignored, err := runtime.CatchesSignal(t.proc.PID, sig)
	if err != nil {
		return false, err
	}
	return !caught && (ignored || !t.pidHost), nil
}

// SignalNumber is the number of a signal given by name or number, 0 for none.
func SignalNumber(name string) unix.Signal {
	sig, err := signal.ParseSignal(name)
	if err != nil {
		return 0
	}
	return sig
}

// Freeze stops all processes of the container from running, Thaw lets them go on.
func (t *Task) Freeze(ctx context.Context) error { return t.group.Freeze(ctx) }

// Thaw ends a Freeze.
func (t *Task) Thaw() error { return t.group.Thaw(context.Background()) }

// DescribeProcess says what a process does that should have ended: its state and, if
// it is known, where in the kernel it waits, proc_pid_wchan(5).
func (e *Engine) DescribeProcess(pid int) string {
	st, err := runtime.ReadStat(pid)
	if err != nil {
		return "it is gone"
	}
	where, err := os.ReadFile(fmt.Sprintf("/proc/%d/wchan", pid))
	if err != nil || len(where) < 2 {
		return fmt.Sprintf("state %c", st.State)
	}
	return fmt.Sprintf("state %c, in %s", st.State, where)
}

// Ended tells whether the process of a container that is recorded to run has
// ended, and its exit code as far as the kernel remembers it. It is for when no
// supervisor is there to see it.
func (e *Engine) Ended(c *Container) (code int, ended bool) {
	if c.State.Pid == 0 {
		return 0, false
	}
	if st, err := runtime.ReadStat(c.State.Pid); err == nil && st.StartTicks == c.State.StartTicks && st.Alive() {
		return 0, false
	}
	if st, exited, err := runtime.ReadPin(e.pinPath(c.ID)); err == nil && exited {
		return st.Code, true
	}
	return lostExitCode, true
}

// Adopt takes over a container that an earlier supervisor started. If it has
// ended since, the Task is done at once and knows the exit code.
func (e *Engine) Adopt(ctx context.Context, c *Container, k FDs, exits string) (*Task, error) {
	groups, err := e.Cgroups()
	if err != nil {
		return nil, err
	}
	group, err := groups.Open(e.cgroupPath(c))
	if err != nil {
		return nil, err
	}
	// Probes and hooks of whoever had it before: nobody waits for them any more.
	swept, cancel := context.WithTimeout(ctx, finishBound)
	defer cancel()
	if err := group.KillNested(swept, apartPrefix); err != nil {
		e.Warnf("container %s: %v", c.Spec.Name, err)
	}
	t := &Task{engine: e, id: c.ID, group: group, exits: exits, fds: k, done: make(chan struct{}), pidHost: c.Spec.Isolation.PIDMode != ""}
	t.proc, err = runtime.Adopt(c.State.Pid, c.State.StartTicks)
	gone := errors.Is(err, runtime.ErrGone)
	if err != nil && !gone {
		return nil, err
	}
	if err := e.resumePump(c, t, k); err != nil {
		return nil, err
	}
	if ep := c.State.Endpoint; ep != nil {
		if err := e.holdPorts(c.ID, ep, k); err != nil {
			e.Warnf("container %s: %v", c.Spec.Name, err)
		}
	}
	if gone {
		t.proc = &runtime.Process{PID: c.State.Pid, StartTicks: c.State.StartTicks}
		t.code, t.note = t.collected()
		close(t.done)
		return t, nil
	}
	go t.wait()
	return t, nil
}
