package supervise

import (
	"context"
	"errors"
	"os"
	"strings"
	"time"

	"github.com/stack-run/stack/engine"
	"github.com/stack-run/stack/netns"
)

// keepDefaultNetwork is how long it stays when the last container is gone.
const keepDefaultNetwork = 500 * time.Millisecond

// createSingle creates a container outside the graph: a project of its own, or a
// one-off of a service, whose dependencies come up first.
func (s *Supervisor) createSingle(ctx context.Context, req CreateRequest, r *reply) (any, error) {
	if req.Desired != nil {
		if err := s.bringUpFor(ctx, req, r); err != nil {
			return nil, err
		}
	}
	sp := req.Spec
	if sp.Network.Mode == "" && len(sp.Network.Networks) == 0 {
		sp.Network.Networks = []netns.Attachment{{Network: engine.DefaultNetwork}}
	}
	release, err := s.holdDefaultNetwork(ctx, &sp)
	if err != nil {
		return nil, err
	}
	defer release()
	if errs := s.checkNetwork(ctx, []engine.Spec{sp}, nil); len(errs) > 0 {
		return nil, errors.Join(errs...)
	}
	c, err := s.engine.Create(ctx, engine.CreateOptions{
		Spec: sp, Hash: req.Hash, Project: s.project, Service: req.Service, OneOff: req.Service != "",
	})
	if err != nil {
		return nil, err
	}
	s.insert(c)
	if req.Follows {
		s.expectRequest()
	}
	return CreateResult{ID: c.ID}, nil
}

// insert makes a created container one of ours.
func (s *Supervisor) insert(c *engine.Container) *unit {
	u := newUnit(c)
	s.mu.Lock()
	s.units[c.ID] = u
	s.changedLocked()
	s.mu.Unlock()
	s.emit(c, "create", nil)
	return u
}

// onDefaultNetwork tells whether a container is to be on the default network.
func onDefaultNetwork(sp *engine.Spec) bool {
	for _, a := range sp.Network.Networks {
		if a.Network == engine.DefaultNetwork {
			return true
		}
	}
	return false
}

// holdDefaultNetwork makes the default network if sp is on it, and keeps others
// from removing it until release.
func (s *Supervisor) holdDefaultNetwork(ctx context.Context, sp *engine.Spec) (release func(), err error) {
	if !onDefaultNetwork(sp) {
		return func() {}, nil
	}
	return s.engine.HoldDefaultNetwork(ctx)
}

// run starts a created container and, if asked, waits for its end.
func (s *Supervisor) run(ctx context.Context, req RunRequest, r *reply) (any, error) {
	u, err := s.lookup(req.ID)
	if err != nil {
		return nil, err
	}
	c := s.view(u)
	if !req.Attached {
		s.mu.Lock()
		u.c.ConsoleSize = [2]uint16{req.Rows, req.Columns}
		s.mu.Unlock()
		if err := s.start(ctx, u); err != nil {
			if c.Spec.AutoRemove {
				err = errors.Join(err, s.remove(context.WithoutCancel(ctx), u, removeOptions{volumes: true}))
			}
			return nil, err
		}
	}
	r.event("Container", c.Spec.Name, StatusRunning, "", false)
	if !req.Wait {
		return nil, nil
	}
	return s.waitFor(ctx, VerbRequest{IDs: []string{req.ID}}, r)
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

// checkNetwork asks whether the network side of specs can be made, before
// anything starts. own are containers that will be replaced or are the same.
func (s *Supervisor) checkNetwork(ctx context.Context, specs []engine.Spec, own []engine.Container) []error {
	nets, err := s.engine.Networks()
	if err != nil {
		return []error{err}
	}
	var want []netns.EndpointSpec
	for _, sp := range specs {
		if strings.HasPrefix(sp.Network.Mode, "service:") {
			continue // it lives in that service's network
		}
		sp.Network.ID = engine.NewID() // it has none yet
		if sp.Network.Owner == "" {
			sp.Network.Owner = "container " + sp.Name
		}
		want = append(want, sp.Network)
	}
	var have []netns.Endpoint
	for _, c := range own {
		if c.State.Endpoint != nil {
			have = append(have, *c.State.Endpoint)
		}
	}
	return nets.Check(ctx, want, have)
}

// checkPorts is checkNetwork for containers that are about to start again.
func (s *Supervisor) checkPorts(ctx context.Context, units []*unit) error {
	var specs []engine.Spec
	var own []engine.Container
	for _, u := range units {
		s.mu.Lock()
		c, running := *u.c, u.task != nil
		s.mu.Unlock()
		if running {
			continue
		}
		specs, own = append(specs, c.Spec), append(own, c)
	}
	if len(specs) == 0 {
		return nil
	}
	return errors.Join(s.checkNetwork(ctx, specs, own)...)
}
