package compose

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/stack-run/stack/compose/apply"
	"github.com/stack-run/stack/compose/plan"
	"github.com/stack-run/stack/compose/supervise"
	"github.com/stack-run/stack/engine"
	"github.com/stack-run/stack/engine/logs"
)

// Run creates and starts one container outside the graph and, unless it is
// detached, connects the caller's streams to it and returns its exit code.
func (c *Client) Run(ctx context.Context, o RunOptions, p Progress) (int, error) {
	if err := engine.CheckName(o.Spec.Name); err != nil {
		return 125, err
	}
	project := o.Project
	if project == "" {
		// A project of its own, named after the container.
		project = supervise.SingleProject(o.Spec.Name)
	}
	o.Spec.Process.StdinOnce = o.Spec.Process.Stdin && !o.Detach
	req := supervise.CreateRequest{
		ID: engine.NewID(), Project: project, Spec: o.Spec, Service: o.Service, Desired: o.Desired, NoDeps: o.NoDeps, Follows: !o.CreateOnly,
	}
	if c.rehearse != nil {
		whole := req.Apply()
		whole.CreateOnly = o.CreateOnly
		return 0, c.rehearsed(whole)
	}
	var created supervise.CreateResult
	if err := c.create(ctx, req, &created, p); err != nil {
		return exitCode(err), err
	}
	if o.IDFile != "" {
		if err := writeIDFile(o.IDFile, created.ID); err != nil {
			remove := verbRequest(plan.VerbRemove, StopOptions{Force: true, Volumes: true})(project, []string{created.ID})
			return 125, errors.Join(err, c.apply(detached(ctx), remove, nil))
		}
	}
	if o.Started != nil {
		o.Started(created.ID)
	}
	if o.CreateOnly {
		return 0, nil
	}
	if o.Detach {
		err := c.callRun(ctx, project, supervise.RunRequest{ID: created.ID}, nil, p, nil)
		return exitCode(err), err
	}
	r, err := c.Engine.Records.Read(created.ID)
	if err != nil {
		return 125, err
	}
	return c.attached(ctx, r, o, true, p)
}

// create is the "create" request. A supervisor that has to be started takes longer
// than it takes to make the default network, which the container needs next; an error
// of that is the supervisor's to tell.
func (c *Client) create(ctx context.Context, req supervise.CreateRequest, res *supervise.CreateResult, p Progress) error {
	sv := c.supervisor(req.Project)
	ahead, enough := context.WithCancel(ctx)
	var made sync.WaitGroup
	var release func()
	if n := req.Spec.Network; n.Mode == "" && len(n.Networks) == 1 && n.Networks[0].Network == engine.DefaultNetwork {
		sv.Starting = sync.OnceFunc(func() {
			made.Go(func() { release, _ = c.Engine.HoldDefaultNetwork(ahead) })
		})
	}
	err := sv.Call(ctx, "create", req, res, p)
	for lost := 1; errors.Is(err, supervise.ErrLost) && ctx.Err() == nil && lost <= patience; lost++ {
		p.tell(lostOne(req.Project))
		err = sv.Call(ctx, "create", req, res, p) // of that ID there is only one
	}
	enough()
	if made.Wait(); release != nil {
		release()
		if err != nil { // a supervisor that has left could not take it away
			err = errors.Join(err, c.Engine.DropDefaultNetwork(detached(ctx)))
		}
	}
	return err
}

func detached(ctx context.Context) context.Context { return context.WithoutCancel(ctx) }

func writeIDFile(path, id string) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
	if err != nil {
		return fmt.Errorf("cannot write the container's ID: %w; remove the file or choose another --cidfile", err)
	}
	_, err = f.WriteString(id)
	return errors.Join(err, f.Close())
}

func exitCode(err error) int {
	var remote *supervise.RemoteError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &remote) && remote.ExitCode != 0:
		return remote.ExitCode
	}
	return 125
}

// Attach connects the caller's streams to a running container.
func (c *Client) Attach(ctx context.Context, container string, o RunOptions) (int, error) {
	r, err := c.find(ctx, container)
	if err != nil {
		return 1, err
	}
	if r.State.Pid == 0 {
		return 1, fmt.Errorf("cannot attach to container %s: it is not running", r.Spec.Name)
	}
	return c.attached(ctx, r, o, false, nil)
}

// attached connects streams, with start starts the container, and waits for its
// end. Output comes by way of the log, which loses nothing to a reader that
// holds it (package logs), input by the pipe or terminal that the guardian keeps.
func (c *Client) attached(ctx context.Context, r *engine.Container, o RunOptions, start bool, p Progress) (int, error) {
	keys, err := parseKeys(o.DetachKeys)
	if err != nil {
		return 125, err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	reader, err := c.outputReader(r)
	if err != nil {
		return 125, err
	}

	running, stored := make(chan struct{}), make(chan struct{})
	output := make(chan error, 1)
	go func() {
		if start && !r.Spec.Process.TTY {
			awaitShort(ctx, running, stored)
		}
		err := reader.Raw(ctx, logs.ReadOptions{From: logs.End, Follow: true, UntilExit: true, Lossless: true}, writer(o.Stdout), writer(o.Stderr))
		reader.Close() // lets the log of a container with --rm go
		output <- err
	}()

	type result struct {
		res supervise.WaitResult
		err error
	}
	ended := make(chan result, 1)
	go func() {
		// However it ends, nobody waits for more than there is.
		begun, over := sync.OnceFunc(func() { close(running) }), sync.OnceFunc(func() { close(stored) })
		defer over()
		var res supervise.WaitResult
		req := supervise.RunRequest{ID: r.ID, Wait: true, Attached: !start, Feeds: o.Stdin != nil}
		if ws := terminalSize(o.Stdout); ws != nil && r.Spec.Process.TTY {
			req.Rows, req.Columns = ws.Row, ws.Col
		}
		err := c.callRun(ctx, r.Project, req, &res, p, map[string]func(){supervise.StatusRunning: begun, supervise.StatusEnded: over})
		ended <- result{res, err}
	}()

	detach := make(chan struct{})
	finished := make(chan struct{})
	defer close(finished)
	go func() {
		select {
		case <-running:
		case <-finished:
			return
		}
		if o.Stdin != nil {
			if errors.Is(c.feed(ctx, r, o, keys), errDetached) {
				close(detach)
			}
		}
	}()
	left := make(chan struct{})
	if !o.NoSigProxy && !r.Spec.Process.TTY {
		stop := forwardSignals(func(sig unix.Signal) {
			c.apply(detached(ctx), verbRequest(plan.VerbKill, StopOptions{Signal: fmt.Sprint(int(sig))})(r.Project, []string{r.ID}), nil)
		}, func() { close(left) })
		defer stop()
	}
	select {
	case <-detach:
		return 0, nil
	case <-left:
		return 130, fmt.Errorf("left container %s, which goes on in spite of %d signals; end it with: stack container kill %[1]s", r.Spec.Name, impatient)
	case res := <-ended:
		if res.err != nil {
			return exitCode(res.err), res.err
		}
		if err := <-output; err != nil && !errors.Is(err, context.Canceled) {
			return res.res.ExitCode, err
		}
		return res.res.ExitCode, nil
	}
}

// short is how long a command may run and still count as one that ends at once, and
// shortStart how long its start and its hooks may take before that.
const (
	short      = 20 * time.Millisecond
	shortStart = 100 * time.Millisecond
)

// awaitShort waits for the end of a process that ends at once. All of its output
// can be read then, without notice of changes: an inotify(7) instance takes the
// kernel up to 8 ms to close.
func awaitShort(ctx context.Context, running, stored <-chan struct{}) {
	long := time.After(shortStart)
	for {
		select {
		case <-running:
			running, long = nil, time.After(short)
		case <-long:
			return
		case <-stored:
			return
		case <-ctx.Done():
			return
		}
	}
}

// callRun is the "run" request; told has what is called at events of a status.
func (c *Client) callRun(ctx context.Context, project string, req supervise.RunRequest, res any, p Progress, told map[string]func()) error {
	for {
		err := c.call(ctx, project, "run", req, res, func(e apply.Event) {
			if call := told[e.Status]; call != nil {
				call()
			} else if p != nil {
				p(e)
			}
		})
		if !errors.Is(err, supervise.ErrLost) || ctx.Err() != nil {
			return err
		}
		// The next supervisor goes on. What has run must not be started again.
		r, findErr := c.Engine.Records.Read(req.ID)
		if errors.Is(findErr, engine.ErrNotFound) && !req.Wait {
			return nil // it has run, and removed itself
		}
		if findErr != nil {
			return err
		}
		req.Attached = req.Attached || !r.State.StartedAt.IsZero()
	}
}

func writer(f *os.File) io.Writer {
	if f == nil {
		return io.Discard
	}
	return f
}

// feed passes input on to the container.
func (c *Client) feed(ctx context.Context, r *engine.Container, o RunOptions, keys []byte) error {
	if r.Spec.Process.TTY {
		console, err := c.descriptor(ctx, r, "tty")
		if err != nil {
			return err
		}
		defer console.Close()
		if o.Stdout != nil && terminalSize(o.Stdout) != nil {
			defer resizes(o.Stdout, console)()
		}
		_, err = io.Copy(console, &keyReader{r: o.Stdin, keys: keys})
		return err
	}
	held, err := c.descriptor(ctx, r, engine.StdinName)
	if err != nil {
		return err
	}
	pipe, err := logs.OpenInputWriter(held)
	if err := errors.Join(err, held.Close()); err != nil {
		return err
	}
	_, err = io.Copy(pipe, o.Stdin)
	err = errors.Join(err, pipe.Close())
	if r.Spec.Process.StdinOnce {
		// End of input is the last writer's leaving: the guardian's copy goes too.
		err = errors.Join(err, c.callFD(ctx, r.Project, supervise.FDRequest{ID: r.ID, Name: engine.StdinName, Close: true}, nil))
	}
	return err
}

// callFD is the "fd" request. The next supervisor has what one had that was killed.
func (c *Client) callFD(ctx context.Context, project string, req supervise.FDRequest, res *supervise.FDResult) error {
	for {
		err := c.call(ctx, project, "fd", req, res, nil)
		if !errors.Is(err, supervise.ErrLost) || ctx.Err() != nil {
			return err
		}
	}
}

// descriptor fetches a descriptor that the supervisor keeps, pidfd_getfd(2).
func (c *Client) descriptor(ctx context.Context, r *engine.Container, name string) (*os.File, error) {
	var at supervise.FDResult
	if err := c.callFD(ctx, r.Project, supervise.FDRequest{ID: r.ID, Name: name}, &at); err != nil {
		return nil, err
	}
	pidfd, err := unix.PidfdOpen(at.Pid, 0)
	if err != nil {
		return nil, fmt.Errorf("cannot reach the supervisor (pid %d): %w", at.Pid, err)
	}
	defer unix.Close(pidfd)
	fd, err := unix.PidfdGetfd(pidfd, at.FD, 0)
	if err != nil {
		return nil, fmt.Errorf("cannot fetch the container's %s: %w", name, err)
	}
	return os.NewFile(uintptr(fd), name), nil
}

// outputReader opens the container's log for reading all that comes from now on.
func (c *Client) outputReader(r *engine.Container) (*logs.Reader, error) {
	reader, err := logs.Open(c.Engine.LogDir(r.ID))
	if err == nil {
		if err = reader.Hold(logs.End); err == nil {
			return reader, nil
		}
		reader.Close()
	}
	if errors.Is(err, fs.ErrNotExist) {
		err = fmt.Errorf("%w: %s; it was removed at that moment", engine.ErrNotFound, r.Spec.Name)
	}
	return nil, err
}
