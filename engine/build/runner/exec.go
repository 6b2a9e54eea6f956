package runner

import (
	"context"
	"fmt"

	"github.com/moby/buildkit/executor"
	"github.com/moby/buildkit/executor/oci"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/stack-run/stack/engine/runtime"
)

// Exec runs one more command in a container that Run runs, and waits for its end.
func (r *Runner) Exec(ctx context.Context, id string, process executor.ProcessInfo) error {
	r.mu.Lock()
	c := r.running[id]
	r.mu.Unlock()
	if c == nil {
		return fmt.Errorf("cannot exec in container %s: it does not run", id)
	}
	select {
	case <-c.started:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	if c.proc == nil {
		return fmt.Errorf("cannot exec in container %s: it has stopped", id)
	}
	p, err := execProcess(c, process.Meta)
	if err != nil {
		return err
	}
	entry, err := c.group.Entry()
	if err != nil {
		return err
	}
	defer entry.Close()
	streams, err := openStreams(process)
	if err != nil {
		return err
	}
	defer streams.close()
	proc, err := runtime.Exec(ctx, &runtime.ExecConfig{
		Target: c.proc.PID, StartTicks: c.proc.StartTicks, Process: p, Profile: c.spec.Linux.Seccomp,
		CgroupFD: entry.Dir, CgroupProcs: entry.Tasks,
		Stdin: streams.stdin, Stdout: streams.stdout, Stderr: streams.stderr, Warn: r.warn,
	})
	if err != nil {
		return exitError(ctx, process.Meta.ValidExitCodes, startExit(err), err)
	}
	defer proc.Close()
	kill := func(context.Context) error { return proc.Signal(unix.SIGKILL) }
	status, err := r.attend(ctx, proc, kill, process, streams)
	if err != nil {
		return err
	}
	return exitError(ctx, process.Meta.ValidExitCodes, status.Code, nil)
}

// execProcess is the container's process with what meta says instead.
func execProcess(c *container, meta executor.Meta) (*specs.Process, error) {
	p := *c.spec.Process
	p.Terminal = meta.Tty
	p.Args = meta.Args
	if meta.Cwd != "" {
		p.Cwd = meta.Cwd
	}
	if len(meta.Env) > 0 {
		p.Env = meta.Env
	}
	if meta.User != "" {
		uid, gid, groups, err := oci.GetUser(c.root, meta.User)
		if err != nil {
			return nil, err
		}
		p.User = specs.User{UID: uid, GID: gid, AdditionalGids: groups}
		p.Capabilities = capabilitiesOf(&p)
	}
	return &p, nil
}
