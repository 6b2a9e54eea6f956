package supervise

import (
	"context"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/stack-run/stack/compose/apply"
	"github.com/stack-run/stack/engine"
	"github.com/stack-run/stack/netns"
)

// selected returns the units a request names, in the order given.
func (s *Supervisor) selected(ids []string) ([]*unit, error) {
	units := make([]*unit, 0, len(ids))
	for _, id := range ids {
		u, err := s.lookup(id)
		if err != nil {
			return nil, err
		}
		units = append(units, u)
	}
	return units, nil
}

// view is a copy of a unit's record, safe to read.
func (s *Supervisor) view(u *unit) engine.Container {
	s.mu.Lock()
	defer s.mu.Unlock()
	return *u.c
}

// ordered runs do on units in parallel, a service after those it depends on, or
// with reverse after those that depend on it.
func (s *Supervisor) ordered(ctx context.Context, units []*unit, reverse bool, o apply.Options, do func(context.Context, *unit) error) error {
	byService := map[string][]int{}
	for i, u := range units {
		byService[s.view(u).Service] = append(byService[s.view(u).Service], i)
	}
	before := s.dependencies()
	deps := make([][]int, len(units))
	for i, u := range units {
		for name := range before[s.view(u).Service] {
			for _, j := range byService[name] {
				if reverse {
					deps[j] = append(deps[j], i)
				} else {
					deps[i] = append(deps[i], j)
				}
			}
		}
	}
	return apply.Run(ctx, len(units), func(i int) []int { return deps[i] }, o, func(ctx context.Context, i int) error {
		return do(ctx, units[i])
	})
}

// dependencies is, for each service, all it depends on, also through others.
func (s *Supervisor) dependencies() map[string]map[string]bool {
	s.mu.Lock()
	d := s.desired
	s.mu.Unlock()
	out := map[string]map[string]bool{}
	if d == nil {
		return out
	}
	var visit func(root, name string)
	visit = func(root, name string) {
		svc := d.Services[name]
		if svc == nil {
			return
		}
		for dep := range svc.DependsOn {
			if !out[root][dep] {
				out[root][dep] = true
				visit(root, dep)
			}
		}
	}
	for name := range d.Services {
		out[name] = map[string]bool{}
		visit(name, name)
	}
	return out
}

// step reports a verb's beginning and end on one container around do.
func (s *Supervisor) step(r *reply, u *unit, doing, done string, do func() error) error {
	name := s.view(u).Spec.Name
	r.event("Container", name, doing, "", false)
	if err := do(); err != nil {
		r.event("Container", name, "Error", err.Error(), true)
		return err
	}
	r.event("Container", name, done, "", true)
	return nil
}

func (s *Supervisor) verbStart(ctx context.Context, req VerbRequest, r *reply) (any, error) {
	units, err := s.selected(req.IDs)
	if err != nil {
		return nil, err
	}
	asked := units
	if !req.NoDeps {
		units = s.withDependencies(units)
	}
	if err := s.checkStarting(ctx, units); err != nil {
		return nil, err
	}
	err = s.ordered(ctx, units, false, apply.Options{}, func(ctx context.Context, u *unit) error {
		if err := s.awaitDependencies(ctx, u, r); err != nil {
			return err
		}
		return s.step(r, u, "Starting", "Started", func() error { return s.start(ctx, u) })
	})
	if err != nil || !req.Wait {
		return nil, err
	}
	return nil, s.awaitSettled(ctx, req.WaitTimeout, func(u *unit) bool { return slices.Contains(asked, u) }, r)
}

// withDependencies adds the containers of the services that those of units depend
// on and that do not run. A job that has succeeded is done.
func (s *Supervisor) withDependencies(units []*unit) []*unit {
	dependencies := s.dependencies()
	out := slices.Clone(units)
	for _, u := range units {
		for name := range dependencies[s.view(u).Service] {
			s.mu.Lock()
			for _, other := range s.containersOf(name) {
				st := other.c.State
				done := st.Phase == engine.Exited && st.ExitCode == 0 && !st.StoppedByUser
				if other.task == nil && !done && !slices.Contains(out, other) {
					out = append(out, other)
				}
			}
			s.mu.Unlock()
		}
	}
	return out
}

func (s *Supervisor) verbStop(ctx context.Context, req VerbRequest, r *reply) (any, error) {
	units, err := s.selected(req.IDs)
	if err != nil {
		return nil, err
	}
	return nil, s.ordered(ctx, units, true, teardown, func(ctx context.Context, u *unit) error {
		return s.step(r, u, "Stopping", "Stopped", func() error { return s.stop(ctx, u, s.stopOptions(req, r, u)) })
	})
}

// teardown goes on after errors: what can be taken down is.
var teardown = apply.Options{KeepGoing: true, TolerateFailed: true}

func (s *Supervisor) stopOptions(req VerbRequest, r *reply, u *unit) stopOptions {
	return stopOptions{signal: req.Signal, grace: req.Timeout, notice: s.notice(r, u)}
}

func (s *Supervisor) notice(r *reply, u *unit) func(string) {
	return func(text string) { r.event("Container", s.view(u).Spec.Name, "Warning", text, false) }
}

func (s *Supervisor) verbRestart(ctx context.Context, req VerbRequest, r *reply) (any, error) {
	units, err := s.selected(req.IDs)
	if err != nil {
		return nil, err
	}
	if !req.NoDeps {
		units = s.withRestartDependents(units)
	}
	return nil, s.ordered(ctx, units, false, apply.Options{}, func(ctx context.Context, u *unit) error {
		return s.step(r, u, "Restarting", "Started", func() error {
			return s.restartUnit(ctx, u, s.stopOptions(req, r, u))
		})
	})
}

// withRestartDependents adds the running containers of services that ask, by
// depends_on with restart: true, to be restarted with one of units.
func (s *Supervisor) withRestartDependents(units []*unit) []*unit {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.desired == nil {
		return units
	}
	in := map[*unit]bool{}
	services := map[string]bool{}
	for _, u := range units {
		in[u], services[u.c.Service] = true, true
	}
	for grown := true; grown; {
		grown = false
		for name, svc := range s.desired.Services {
			if services[name] {
				continue
			}
			for dep, d := range svc.DependsOn {
				if d.Restart && services[dep] {
					services[name], grown = true, true
				}
			}
		}
	}
	for _, u := range s.units {
		if !in[u] && u.task != nil && !u.c.OneOff && services[u.c.Service] {
			asked := false
			for dep, d := range s.desired.Services[u.c.Service].DependsOn {
				asked = asked || d.Restart && services[dep]
			}
			if asked {
				units, in[u] = append(units, u), true
			}
		}
	}
	return units
}

func (s *Supervisor) verbKill(ctx context.Context, req VerbRequest, r *reply) (any, error) {
	units, err := s.selected(req.IDs)
	if err != nil {
		return nil, err
	}
	return nil, s.ordered(ctx, units, true, teardown, func(ctx context.Context, u *unit) error {
		return s.step(r, u, "Killing", "Killed", func() error { return s.kill(ctx, u, req.Signal) })
	})
}

func (s *Supervisor) verbPause(ctx context.Context, req VerbRequest, r *reply) (any, error) {
	units, err := s.selected(req.IDs)
	if err != nil {
		return nil, err
	}
	return nil, s.ordered(ctx, units, true, teardown, func(ctx context.Context, u *unit) error {
		return s.step(r, u, "Pausing", "Paused", func() error { return s.pause(ctx, u) })
	})
}

func (s *Supervisor) verbUnpause(ctx context.Context, req VerbRequest, r *reply) (any, error) {
	units, err := s.selected(req.IDs)
	if err != nil {
		return nil, err
	}
	return nil, s.ordered(ctx, units, false, teardown, func(ctx context.Context, u *unit) error {
		return s.step(r, u, "Unpausing", "Unpaused", func() error { return s.unpause(ctx, u) })
	})
}

func (s *Supervisor) verbRemove(ctx context.Context, req VerbRequest, r *reply) (any, error) {
	units, err := s.selected(req.IDs)
	if err != nil {
		return nil, err
	}
	return nil, s.ordered(ctx, units, true, teardown, func(ctx context.Context, u *unit) error {
		return s.step(r, u, "Removing", "Removed", func() error {
			return s.remove(ctx, u, removeOptions{force: req.Force, volumes: req.Volumes})
		})
	})
}

// verbWait is waitFor for a container that may never have been started, for which
// docker has nothing to wait.
func (s *Supervisor) verbWait(ctx context.Context, req VerbRequest, r *reply) (any, error) {
	units, err := s.selected(req.IDs)
	if err != nil {
		return nil, err
	}
	if s.view(units[0]).State.Phase == engine.Created {
		return WaitResult{}, nil
	}
	return s.waitFor(ctx, req, r)
}

// waitFor answers when the container has ended for good: exited and not about
// to be started again, or removed.
func (s *Supervisor) waitFor(ctx context.Context, req VerbRequest, _ *reply) (any, error) {
	units, err := s.selected(req.IDs)
	if err != nil {
		return nil, err
	}
	u := units[0]
	var c engine.Container
	err = s.await(ctx, func() (bool, error) {
		c = *u.c
		ended := u.task == nil && u.restart == nil && !c.State.StartedAt.IsZero()
		return u.removed || ended && !c.Spec.AutoRemove, nil
	})
	return WaitResult{ExitCode: c.State.ExitCode, Error: c.State.Error}, err
}

// exec starts a command and answers; when it ends is told by an event.
func (s *Supervisor) exec(ctx context.Context, req ExecRequest, _ *reply) (any, error) {
	u, err := s.lookup(req.ID)
	if err != nil {
		return nil, err
	}
	c := s.view(u)
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
		if err == nil && !s.leaving.Load() {
			s.emit(&c, "exec_die", map[string]string{"execID": req.ExecID, "exitCode": fmt.Sprint(code)})
		}
	}()
	return nil, nil
}

// rename gives a container a new name.
func (s *Supervisor) rename(ctx context.Context, req RenameRequest, _ *reply) (any, error) {
	u, end, err := s.claim(ctx, req.ID)
	if err != nil {
		return nil, err
	}
	defer end()
	c := s.view(u)
	if err := s.engine.Records.Rename(&c, req.Name); err != nil {
		return nil, err
	}
	s.mu.Lock()
	now := *u.c // it may have ended meanwhile
	now.Spec.Name, now.Spec.Network = c.Spec.Name, c.Spec.Network
	if now.State.Endpoint != nil {
		now.State.Endpoint = c.State.Endpoint
	}
	u.c = &now
	s.save(u)
	s.refreshNames()
	s.mu.Unlock()
	s.emit(&now, "rename", nil)
	return nil, nil
}

// update changes limits and restart policy.
func (s *Supervisor) update(ctx context.Context, req UpdateRequest, r *reply) (any, error) {
	u, end, err := s.claim(ctx, req.ID)
	if err != nil {
		return nil, err
	}
	defer end()
	c := s.view(u)
	c.Spec.Limits, c.Spec.Restart = req.Limits, req.Restart
	warnings, err := s.engine.UpdateLimits(&c)
	if err != nil {
		return nil, err
	}
	for _, w := range warnings {
		r.event("Container", c.Spec.Name, "Warning", w, false)
	}
	s.mu.Lock()
	u.c.Spec.Limits, u.c.Spec.Restart = req.Limits, req.Restart
	s.mu.Unlock()
	s.emit(&c, "update", nil)
	return nil, nil
}

// connect attaches a container to a network, or with Disconnect takes it off.
func (s *Supervisor) connect(ctx context.Context, req ConnectRequest, _ *reply) (any, error) {
	u, end, err := s.claim(ctx, req.ID)
	if err != nil {
		return nil, err
	}
	defer end()
	c := s.view(u)
	joined := engine.Spec{Network: netns.EndpointSpec{Networks: []netns.Attachment{req.Attachment}}}
	release, err := s.holdDefaultNetwork(ctx, joined)
	if err != nil {
		return nil, err
	}
	defer release()
	if req.Disconnect {
		err = s.engine.Disconnect(ctx, &c, req.Attachment.Network, req.Force)
	} else {
		err = s.engine.Connect(ctx, &c, req.Attachment)
	}
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	u.c = &c
	s.save(u)
	s.refreshNames()
	s.changedLocked()
	s.mu.Unlock()
	if c.State.Endpoint == nil {
		return nil, nil
	}
	s.resolver.Update(c.State.Endpoint)
	return nil, s.serveNames(c.State.Endpoint)
}

// descriptor tells a client where it finds a terminal or an input pipe.
func (s *Supervisor) descriptor(_ context.Context, req FDRequest, _ *reply) (any, error) {
	u, err := s.lookup(req.ID)
	if err != nil {
		return nil, err
	}
	name := engine.HeldName(u.c.ID, req.Name)
	if req.Close {
		return nil, s.keeper.Drop(name)
	}
	f := s.keeper.Get(name)
	if f == nil {
		return nil, fmt.Errorf("container %s has no open %s", s.view(u).Spec.Name, req.Name)
	}
	return fdResult(f)
}

// bounded limits a wait, 0 not at all.
func bounded(ctx context.Context, d time.Duration, what string) (context.Context, context.CancelFunc) {
	if d <= 0 {
		return context.WithCancel(ctx)
	}
	return context.WithTimeoutCause(ctx, d, fmt.Errorf("timed out after %v waiting for %s", d, what))
}
