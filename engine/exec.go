package engine

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/stack-run/stack/engine/cgroup"
	"github.com/stack-run/stack/engine/runtime"
	"github.com/stack-run/stack/engine/seccomp"
)

// ExecRequest is one command to run in a running container.
type ExecRequest struct {
	Process    Process
	Privileged bool
	// Stdin, Stdout, Stderr are handed over; with Process.TTY they are unused.
	Stdin, Stdout, Stderr *os.File
	Size                  *unix.Winsize
}

// Exec is a command that runs in a container, as a child of this process.
type Exec struct {
	proc  *runtime.Process
	group *cgroup.Group
	apart *cgroup.Nested // of the command and all it starts, or nil
}

// errPaused says that a container was frozen before a command got to run in it.
var errPaused = errors.New("it is paused")

// Exec starts a command in a running container: its namespaces, cgroup,
// capabilities and seccomp filter, with its environment below the request's.
func (e *Engine) Exec(ctx context.Context, c *Container, r ExecRequest) (*Exec, error) {
	return e.execIn(ctx, c, r, false)
}

// execIn is Exec, in a cgroup of its own if apart.
func (e *Engine) execIn(ctx context.Context, c *Container, r ExecRequest, apart bool) (*Exec, error) {
	if err := e.CheckExec(c); err != nil {
		return nil, err
	}
	x, err := e.exec(ctx, c, r, apart)
	if err != nil {
		if errors.Is(err, errPaused) {
			return nil, pausedError(c)
		}
		if _, ended := e.Ended(c); ended {
			c.State.Pid = 0
			return nil, e.CheckExec(c)
		}
		return nil, fmt.Errorf("cannot exec in container %s: %w", c.Spec.Name, err)
	}
	return x, nil
}

func pausedError(c *Container) error {
	return fmt.Errorf("cannot exec in container %s: %w; unpause it first", c.Spec.Name, errPaused)
}

// CheckExec tells why no command can be run in a container now.
func (e *Engine) CheckExec(c *Container) error {
	switch {
	case c.State.Pid == 0:
		return fmt.Errorf("cannot exec in container %s: it is not running; start it first (stack start %s)", c.Spec.Name, first(c.Service, c.Spec.Name))
	case c.State.Phase == Paused:
		return pausedError(c)
	}
	return nil
}

func (e *Engine) exec(ctx context.Context, c *Container, r ExecRequest, apart bool) (_ *Exec, err error) {
	base := e.base(c)
	root, err := os.OpenFile(fmt.Sprintf("/proc/%d/root/.", c.State.Pid), unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	user := first(r.Process.User, c.Spec.Process.User, base.User)
	u, home, err := resolveUser(root, user, slices.Concat(c.Spec.Process.GroupAdd, r.Process.GroupAdd))
	if err != nil {
		return nil, err
	}
	u.Umask = c.Spec.Process.Umask
	p, err := e.execProcess(c, base, r, u, home)
	if err != nil {
		return nil, err
	}
	filter, err := e.execFilter(c, r.Privileged, p)
	if err != nil {
		return nil, err
	}
	groups, err := e.Cgroups()
	if err != nil {
		return nil, err
	}
	group, err := groups.Open(e.cgroupPath(c))
	if err != nil {
		return nil, err
	}
	// The record may be older than a pause.
	if frozen, err := group.Frozen(); err == nil && frozen {
		return nil, errPaused
	}
	x := &Exec{group: group}
	defer func() {
		if err != nil && x.apart != nil {
			err = errors.Join(err, x.apart.Close())
		}
	}()
	enter := group.Entry
	if apart {
		// Where no group can be made (limits of the container's own making), the
		// command is with the others, and its children are looked for one by one.
		if nested, err := group.Nest(apartPrefix + NewID()[:12]); err == nil {
			x.apart, enter = nested, nested.Entry
		}
	}
	entry, err := enter()
	if err != nil {
		return nil, err
	}
	defer entry.Close()
	x.proc, err = runtime.Exec(ctx, &runtime.ExecConfig{
		Target: c.State.Pid, StartTicks: c.State.StartTicks, Process: p, Seccomp: filter,
		CgroupFD: entry.Dir, CgroupProcs: entry.Tasks, Stdin: r.Stdin, Stdout: r.Stdout, Stderr: r.Stderr,
		Stalled: func(*runtime.Process) error {
			if frozen, err := group.Frozen(); err == nil && frozen {
				return errPaused
			}
			return nil
		},
		Loosen: func(p *runtime.Process) { group.Release(p.PID) },
		Warn:   func(w string) { e.Warnf("%s", w) },
	})
	return x, err
}

// apartPrefix is how the groups of probes and hooks are named below a container's.
const apartPrefix = "apart-"

// execProcess is the OCI process of an exec: the container's own with the
// request's changes. Privileged gives all capabilities.
func (e *Engine) execProcess(c *Container, img ImageConfig, r ExecRequest, u specs.User, home string) (*specs.Process, error) {
	iso := c.Spec.Isolation
	if r.Privileged {
		iso.Privileged = true
	}
	caps, err := capabilities(iso.Privileged, iso.CapAdd, iso.CapDrop, hasCapability())
	if err != nil {
		return nil, err
	}
	sec, err := parseSecurity(iso.SecurityOpt)
	if err != nil {
		return nil, err
	}
	if len(r.Process.Command) == 0 {
		return nil, errors.New("no command given")
	}
	base := c.Spec.Process
	base.TTY = r.Process.TTY
	env := mergeEnv(environment(base, img, e.hostname(c), ""), r.Process.Env)
	if home != "" && !slices.ContainsFunc(env, func(kv string) bool { return strings.HasPrefix(kv, "HOME=") }) {
		env = append(env, "HOME="+home)
	}
	p := &specs.Process{
		Terminal: r.Process.TTY, User: u, Args: slices.Concat(r.Process.Entrypoint, r.Process.Command), Env: env,
		Cwd:          workingDir(img.WorkingDir, c.Spec.Process.WorkingDir, r.Process.WorkingDir),
		Capabilities: capabilitySets(caps, u.UID), NoNewPrivileges: sec.noNewPrivileges, Rlimits: rlimits(iso.Rlimits),
	}
	if sec.apparmor != "unconfined" && !r.Privileged && sec.apparmor != "" && thisHost(false).apparmor {
		p.ApparmorProfile = sec.apparmor
	}
	if adj := c.Spec.Limits.OOMScoreAdj; adj != 0 {
		p.OOMScoreAdj = &adj
	}
	if r.Size != nil {
		p.ConsoleSize = &specs.Box{Height: uint(r.Size.Row), Width: uint(r.Size.Col)}
	}
	return p, nil
}

// execFilter is the seccomp filter of an exec: the container's, or with
// privileged none but one of the user's own.
func (e *Engine) execFilter(c *Container, privileged bool, p *specs.Process) (*seccomp.Filter, error) {
	iso := c.Spec.Isolation
	if privileged {
		iso.Privileged = true
	} else if f, err := e.Records.filter(c.ID); err == nil {
		return f, nil // compiling it takes a tenth of an exec's time
	}
	_, filter, err := seccompFilter(iso, p.Capabilities.Bounding)
	return filter, err
}

// Console is the master of the command's terminal.
func (x *Exec) Console() *os.File { return x.proc.Console }

// Signal sends a signal to the command.
func (x *Exec) Signal(sig unix.Signal) error { return x.proc.Signal(sig) }

// Frozen tells whether the container is paused, so that the command reacts to no
// signal.
func (x *Exec) Frozen() bool {
	frozen, err := x.group.Frozen()
	return err == nil && frozen
}

// Kill ends the command, in a paused container too. What it started goes on.
func (x *Exec) Kill() error {
	x.group.Release(x.proc.PID)
	return x.proc.Signal(unix.SIGKILL)
}

// Wait returns the exit code, 128+n when signal n ended the command.
func (x *Exec) Wait() (int, error) {
	st, err := x.proc.Wait()
	return st.Code, err
}

// Close lets go of the command; it goes on if it still runs.
func (x *Exec) Close() error {
	var err error
	if x.apart != nil {
		err = x.apart.Close()
	}
	return errors.Join(err, x.proc.Close())
}

// outputLimit bounds what ExecOutput keeps.
const outputLimit = 64 << 10

// ExecOutput runs a command and returns what it printed and its exit code. When
// ctx ends, the command and all it started are killed.
func (e *Engine) ExecOutput(ctx context.Context, c *Container, r ExecRequest) ([]byte, int, error) {
	null, err := os.Open(os.DevNull)
	if err != nil {
		return nil, -1, err
	}
	defer null.Close()
	out, w, err := os.Pipe()
	if err != nil {
		return nil, -1, err
	}
	defer out.Close()
	r.Stdin, r.Stdout, r.Stderr = null, w, w
	x, err := e.execIn(ctx, c, r, true)
	w.Close()
	if err != nil {
		return nil, -1, err
	}
	defer x.Close()
	var buf bytes.Buffer
	read := make(chan struct{})
	go func() {
		defer close(read)
		io.Copy(&buf, io.LimitReader(out, outputLimit))
		io.Copy(io.Discard, out)
	}()
	code, err := x.waitOrKill(ctx)
	// A background process may keep the pipe open for ever.
	out.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
	<-read
	if ctx.Err() != nil {
		return buf.Bytes(), -1, errors.Join(context.Cause(ctx), err)
	}
	return buf.Bytes(), code, err
}

// waitOrKill waits for the command, and kills it and all it started when ctx ends.
func (x *Exec) waitOrKill(ctx context.Context) (int, error) {
	type end struct {
		code int
		err  error
	}
	ended := make(chan end, 1)
	go func() {
		code, err := x.Wait()
		ended <- end{code, err}
	}()
	select {
	case e := <-ended:
		if ctx.Err() == nil {
			return e.code, e.err
		}
		return -1, x.killTree()
	case <-ctx.Done():
	}
	if err := x.killTree(); err != nil {
		return -1, err
	}
	select {
	case <-ended:
		return -1, nil
	case <-time.After(finishBound):
		return -1, fmt.Errorf("process %d does not end, though it was killed", x.proc.PID)
	}
}

// killTree kills the command and all it started, whatever session they are in.
func (x *Exec) killTree() error {
	if x.apart != nil {
		ctx, cancel := context.WithTimeout(context.Background(), finishBound)
		defer cancel()
		return x.apart.End(ctx)
	}
	for _, pid := range descendants(x.proc.PID) {
		unix.Kill(pid, unix.SIGKILL)
	}
	if err := x.Kill(); err != nil && !errors.Is(err, runtime.ErrGone) {
		return err
	}
	return nil
}

// descendants lists the processes below pid, by /proc/PID/task/TID/children.
func descendants(pid int) []int {
	var out []int
	tasks, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
	if err != nil {
		return nil
	}
	for _, t := range tasks {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%s/children", pid, t.Name()))
		if err != nil {
			continue
		}
		for _, f := range strings.Fields(string(b)) {
			var child int
			if _, err := fmt.Sscan(f, &child); err == nil {
				out = append(append(out, descendants(child)...), child)
			}
		}
	}
	return out
}
