package supervise

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/stack-run/stack/compose/machine"
	"github.com/stack-run/stack/engine"
	"github.com/stack-run/stack/netns"
)

// Requests about one container that decide nothing: to wait, to run a command in it,
// to change its name, limits and networks.

// wait answers when the container has ended for good. One that was never started has
// nothing to wait for, as in docker.
func (s *Supervisor) wait(ctx context.Context, req ContainerRequest, _ *reply) (any, error) {
	a, err := s.lookup(req.ID)
	if err != nil {
		return nil, err
	}
	if a.view.Load().phase == machine.Created {
		return WaitResult{}, nil
	}
	return s.awaitEnd(ctx, a)
}

// awaitEnd returns when a container has ended for good: exited and not about to be
// started again, or, if it removes itself, removed.
func (s *Supervisor) awaitEnd(ctx context.Context, a *actor) (WaitResult, error) {
	var v *view
	err := s.await(ctx, func([]*view) (bool, time.Time, error) {
		v = a.view.Load()
		switch v.phase {
		case machine.Gone, machine.Dead:
			return true, time.Time{}, nil
		case machine.Exited:
			return !v.Spec.AutoRemove && !v.State.StartedAt.IsZero(), time.Time{}, nil
		}
		return false, time.Time{}, nil
	})
	return WaitResult{ExitCode: v.State.ExitCode, Error: v.State.Error}, err
}

// run starts a created container and, if asked, waits for its end.
func (s *Supervisor) run(ctx context.Context, req RunRequest, r *reply) (any, error) {
	a, err := s.lookup(req.ID)
	if err != nil {
		return nil, err
	}
	ends := a.view.Load().ends
	if !req.Attached {
		size := [2]uint16{req.Rows, req.Columns}
		if err := a.startIt(ctx, false, func(c *engine.Container) { c.ConsoleSize = size }); err != nil {
			// One that removes itself is gone when this is told.
			return nil, s.afterFailedStart(ctx, a, err)
		}
		h := newHost(s, nil, r, nil)
		if err := h.postStart(ctx, a); err != nil {
			return nil, err
		}
	}
	if !req.Wait {
		return nil, nil
	}
	name := a.view.Load().Spec.Name
	r.event("Container", name, StatusRunning, "", false)
	err = s.await(ctx, func([]*view) (bool, time.Time, error) {
		v := a.view.Load()
		return v.ends > ends || !v.live(), time.Time{}, nil
	})
	if err != nil {
		if req.Feeds && a.view.Load().Spec.Process.StdinOnce && !s.leaves() && !s.handing.Load() {
			// Who gave the input is gone and could not say that it ends.
			err = errors.Join(err, s.keeper.Drop(engine.HeldName(a.id, engine.StdinName)))
		}
		return nil, err
	}
	r.event("Container", name, StatusEnded, "", false)
	return s.awaitEnd(ctx, a)
}

func (s *Supervisor) afterFailedStart(ctx context.Context, a *actor, cause error) error {
	if !a.view.Load().Spec.AutoRemove {
		return cause
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanupBound)
	defer cancel()
	// An error is the bound's: its removal goes on.
	_ = s.await(ctx, func([]*view) (bool, time.Time, error) {
		return !a.view.Load().busy, time.Time{}, nil
	})
	return cause
}

// exec starts a command and answers; when it ends is told by an event.
func (s *Supervisor) exec(ctx context.Context, req ExecRequest, _ *reply) (any, error) {
	a, err := s.lookup(req.ID)
	if err != nil {
		return nil, err
	}
	c := a.view.Load().Container
	x, err := s.engine.Exec(context.WithoutCancel(ctx), &c, engine.ExecRequest{Process: req.Process, Privileged: req.Privileged})
	if err != nil {
		return nil, err
	}
	go func() {
		defer x.Close()
		if tty := x.Console(); tty != nil {
			go io.Copy(io.Discard, tty) // nobody reads it, and none shall wait for that
		}
		code, err := x.Wait()
		if err == nil && !s.leaves() {
			s.emit(&c, "exec_die", map[string]string{"execID": req.ExecID, "exitCode": fmt.Sprint(code)})
		}
	}()
	return nil, nil
}

// rename gives a container a new name.
func (s *Supervisor) rename(ctx context.Context, req RenameRequest, _ *reply) (any, error) {
	a, err := s.lookup(req.ID)
	if err != nil {
		return nil, err
	}
	return nil, s.renameIt(ctx, a, req.Name)
}

func (s *Supervisor) renameIt(ctx context.Context, a *actor, name string) error {
	var now engine.Container
	err := a.change(ctx, func(c *engine.Container) error {
		err := s.engine.Records.Rename(c, name)
		now = *c
		return err
	})
	if err == nil {
		s.emit(&now, "rename", nil)
		err = s.engine.DescribeDelivery(&now)
	}
	return err
}

// update changes limits and restart policy.
func (s *Supervisor) update(ctx context.Context, req UpdateRequest, r *reply) (any, error) {
	a, err := s.lookup(req.ID)
	if err != nil {
		return nil, err
	}
	var now engine.Container
	err = a.change(ctx, func(c *engine.Container) error {
		c.Spec.Limits, c.Spec.Restart = req.Limits, req.Restart
		warnings, err := s.engine.UpdateLimits(c)
		if err != nil {
			return err
		}
		for _, w := range warnings {
			r.event("Container", c.Spec.Name, "Warning", w, false)
		}
		now = *c
		return nil
	})
	if err == nil {
		s.emit(&now, "update", nil)
	}
	return nil, err
}

// connect attaches a container to a network, or with Disconnect takes it off.
func (s *Supervisor) connect(ctx context.Context, req ConnectRequest, _ *reply) (any, error) {
	a, err := s.lookup(req.ID)
	if err != nil {
		return nil, err
	}
	joined := engine.Spec{Network: netns.EndpointSpec{Networks: []netns.Attachment{req.Attachment}}}
	release, err := s.holdDefaultNetwork(ctx, joined)
	if err != nil {
		return nil, err
	}
	defer release()
	var ep *netns.Endpoint
	err = a.change(ctx, func(c *engine.Container) error {
		if c.State.Endpoint != nil { // views keep the one they have
			own := *c.State.Endpoint
			c.State.Endpoint = &own
		}
		var err error
		if req.Disconnect {
			err = s.engine.Disconnect(ctx, c, req.Attachment.Network, req.Force)
		} else {
			err = s.engine.Connect(ctx, c, req.Attachment)
		}
		ep = c.State.Endpoint
		return err
	})
	if err != nil || ep == nil {
		return nil, err
	}
	s.resolver.Update(ep)
	return nil, s.serveNames(ep)
}

// descriptor tells a client where it finds a terminal or an input pipe.
func (s *Supervisor) descriptor(_ context.Context, req FDRequest, _ *reply) (any, error) {
	a, err := s.lookup(req.ID)
	if err != nil {
		return nil, err
	}
	name := engine.HeldName(a.id, req.Name)
	if req.Close {
		return nil, s.keeper.Drop(name)
	}
	f := s.keeper.Get(name)
	if f == nil {
		return nil, fmt.Errorf("container %s has no open %s", a.view.Load().Spec.Name, req.Name)
	}
	return fdResult(f)
}

// fdResult names a descriptor of this process.
func fdResult(f *os.File) (FDResult, error) {
	conn, err := f.SyscallConn()
	if err != nil {
		return FDResult{}, err
	}
	res := FDResult{Pid: os.Getpid()}
	err = conn.Control(func(fd uintptr) { res.FD = int(fd) })
	return res, err
}

// holdDefaultNetwork makes the default network if one of specs is to be on it,
// and keeps others from removing it until release.
func (s *Supervisor) holdDefaultNetwork(ctx context.Context, specs ...engine.Spec) (release func(), err error) {
	for _, sp := range specs {
		for _, a := range sp.Network.Networks {
			if a.Network == engine.DefaultNetwork {
				s.usesDefault.Store(true)
				return s.engine.HoldDefaultNetwork(ctx)
			}
		}
	}
	return func() {}, nil
}
