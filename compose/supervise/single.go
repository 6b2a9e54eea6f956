package supervise

import (
	"context"
	"errors"
	"fmt"
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
	release, err := s.holdDefaultNetwork(ctx, sp)
	if err != nil {
		return nil, err
	}
	defer release()
	if errs := s.checkStart(ctx, []engine.Spec{sp}, nil); len(errs) > 0 {
		s.linger(s.dropDefaultNetwork)
		return nil, errors.Join(errs...)
	}
	c, err := s.engine.Create(ctx, engine.CreateOptions{
		Spec: sp, Hash: req.Hash, Project: s.project, Service: req.Service, OneOff: req.Service != "",
	})
	if err != nil {
		s.linger(s.dropDefaultNetwork)
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

// holdDefaultNetwork makes the default network if one of specs is to be on it,
// and keeps others from removing it until release.
func (s *Supervisor) holdDefaultNetwork(ctx context.Context, specs ...engine.Spec) (release func(), err error) {
	for _, sp := range specs {
		for _, a := range sp.Network.Networks {
			if a.Network == engine.DefaultNetwork {
				return s.engine.HoldDefaultNetwork(ctx)
			}
		}
	}
	return func() {}, nil
}

// dropDefaultNetwork removes the default network unless somebody comes to use
// it meanwhile: the next container is likely to want it, too.
func (s *Supervisor) dropDefaultNetwork(ctx context.Context) error {
	select {
	case <-time.After(keepDefaultNetwork):
	case <-ctx.Done():
	}
	s.engine.DropDefaultNetwork(ctx, true) // it is tried again with the next container
	return nil
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

// checkStart looks for what would keep containers from starting, before anything
// is touched: what the host does not have, ports in use, addresses that are taken,
// networks that are missing. own are containers that will be replaced or are the
// same.
func (s *Supervisor) checkStart(ctx context.Context, specs []engine.Spec, own []engine.Container) []error {
	nets, err := s.engine.Networks()
	if err != nil {
		return []error{err}
	}
	var errs []error
	var want []netns.EndpointSpec
	for _, sp := range specs {
		if sp.Network.Owner == "" {
			sp.Network.Owner = "container " + sp.Name
		}
		for _, err := range s.engine.Feasible(sp) {
			errs = append(errs, fmt.Errorf("%s: %w", sp.Network.Owner, err))
		}
		if strings.HasPrefix(sp.Network.Mode, "service:") {
			continue // it lives in that service's network
		}
		sp.Network.ID = engine.NewID() // it has none yet
		want = append(want, sp.Network)
	}
	var have []netns.Endpoint
	for _, c := range own {
		if c.State.Endpoint != nil {
			have = append(have, *c.State.Endpoint)
		}
	}
	return append(errs, nets.Check(ctx, want, have)...)
}

// checkStarting is checkStart for containers that are about to start again.
func (s *Supervisor) checkStarting(ctx context.Context, units []*unit) error {
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
	// While they were stopped, it may have gone with the last who used it.
	release, err := s.holdDefaultNetwork(ctx, specs...)
	if err != nil {
		return err
	}
	defer release()
	return errors.Join(s.checkStart(ctx, specs, own)...)
}
