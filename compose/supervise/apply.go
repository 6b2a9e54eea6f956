package supervise

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/stack-run/stack/compose/apply"
	"github.com/stack-run/stack/compose/plan"
	"github.com/stack-run/stack/engine"
	"github.com/stack-run/stack/engine/image"
	"github.com/stack-run/stack/netns"
)

// Plan makes the plan of a request from what exists now. It only reads: what is
// rehearsed is made here, and so is what is carried out.
func Plan(e *engine.Engine, req *ApplyRequest) (*plan.Plan, error) {
	if err := complete(e, req); err != nil {
		return nil, err
	}
	observed, err := Observe(e, req.Project)
	if err != nil {
		return nil, err
	}
	return plan.Make(req.Request, observed)
}

// complete fills in what a request leaves to who carries it out: the project's
// definition, which has the order of its services, and the IDs of images.
func complete(e *engine.Engine, req *ApplyRequest) error {
	if req.Desired == nil {
		d, err := NewProjectStore(e).Definition(req.Project)
		if err != nil {
			return nil //nolint:nilerr // the containers' labels tell as much as is needed
		}
		req.Desired = d
		return nil
	}
	if !makes(req.Verb) {
		return nil
	}
	services := req.Services
	if req.OneOff != nil { // what it does not depend on may lack its image
		services = []string{req.OneOff.Service}
		var err error
		if req.Desired, err = req.Desired.ForRun(req.OneOff.Service, req.OneOff.Due.IsZero()); err != nil {
			return err
		}
	}
	return PinImages(e, req.Desired, services, req.NoDeps)
}

// makes tells whether a verb makes containers.
func makes(v plan.Verb) bool {
	switch v {
	case plan.VerbUp, plan.VerbCreate, plan.VerbScale, plan.VerbRun:
		return true
	}
	return false
}

// whole tells whether a verb is about a project as a whole, of which there is one
// at a time. The others may come while one of these waits for the health of a
// service; what they do to one container is in the order in which it is asked.
func whole(v plan.Verb) bool {
	return makes(v) || v == plan.VerbDown || v == plan.VerbResume
}

// exclusive lets one plan of the whole project be made and carried out at a time,
// and says so to who waits.
func (s *Supervisor) exclusive(ctx context.Context, r *reply) (release func(), err error) {
	release = func() { <-s.applying }
	select {
	case s.applying <- struct{}{}:
		return release, nil
	default:
	}
	r.event("Project", s.realm, "Waiting", "for another command on this project to end", false)
	select {
	case s.applying <- struct{}{}:
		return release, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// interruptible lets a down end what is done with the project as a whole.
func (s *Supervisor) interruptible(ctx context.Context) (_ context.Context, end func()) {
	ctx, interrupt := context.WithCancelCause(ctx)
	s.interrupt.Store(&interrupt)
	return ctx, func() {
		s.interrupt.CompareAndSwap(&interrupt, nil)
		interrupt(nil)
	}
}

// errInterrupted ends an up, or a run.
var errInterrupted = errors.New("a down was asked for meanwhile")

// apply carries out a verb.
func (s *Supervisor) apply(ctx context.Context, req ApplyRequest, r *reply) (any, error) {
	if req.Verb == plan.VerbDown {
		// An up may wait for minutes, for the health of what is to go.
		if interrupt := s.interrupt.Load(); interrupt != nil {
			(*interrupt)(errInterrupted)
		}
		defer s.goingDown.ring()()
	}
	// Single containers share a realm and nothing else.
	release := func() {}
	if whole(req.Verb) && s.realm != Singles {
		var err error
		if release, err = s.exclusive(ctx, r); err != nil {
			return nil, err
		}
		if req.Verb != plan.VerbDown {
			var end func()
			ctx, end = s.interruptible(ctx)
			defer end()
		}
	}
	created, waits, err := s.carryOut(ctx, &req, nil, r)
	release()
	if err != nil || waits.Empty() {
		return created, err
	}
	return created, apply.Execute(ctx, waits, newHost(s, req.Desired, r, waits), r.pass, 0)
}

// carryOut plans, checks all that can be checked, and only then begins. It returns
// the container that was made for a one-off, and the operations that wait for
// services to be up, which come last.
func (s *Supervisor) carryOut(ctx context.Context, req *ApplyRequest, oneOff *CreateRequest, r *reply) (created CreateResult, waits *plan.Plan, err error) {
	if req.Verb == plan.VerbDown {
		if err := s.engine.SweepNetworks(ctx); err != nil {
			s.warn(err)
		}
	}
	select { // what has ended unseen is noted by then
	case <-s.adopted:
	case <-ctx.Done():
		return created, nil, context.Cause(ctx)
	}
	if err := s.removeLost(ctx, req); err != nil {
		return created, nil, err
	}
	project := req.Desired // without what is made of it for a run
	all, err := Plan(s.engine, req)
	if err != nil {
		return created, nil, err
	}
	for _, w := range all.Warnings {
		r.event("Project", s.realm, "Warning", w, false)
	}
	for _, q := range all.Confirm {
		r.event("Volume", q.Volume, "Warning", q.Text+"; it stays as it is, unless --yes has it made anew, without its data", false)
	}
	work, waits := apply.Split(all)
	if err := s.precheck(ctx, work, req, oneOff); err != nil {
		return created, nil, err
	}
	former := s.desired.Load()
	if makes(req.Verb) && project != nil {
		if req.Verb != plan.VerbRun || s.desired.Load() == nil {
			s.desired.Store(project)
			if err := s.store.Save(project); err != nil {
				return created, nil, err
			}
		}
	}
	if req.Verb == plan.VerbUp {
		s.reportUnchanged(work, req, r)
	}
	h := newHost(s, req.Desired, r, work)
	h.oneOff, h.former = oneOff, former
	h.created = func(id string) { created.ID = id }
	h.down = req.Verb == plan.VerbDown
	h.force = makes(req.Verb) || h.down
	err = apply.Execute(ctx, work, h, r.pass, req.Parallel)
	after := context.WithoutCancel(ctx)
	err = errors.Join(err, h.finish(after, work))
	switch {
	case err != nil && makes(req.Verb):
		return created, nil, s.afterFailure(err)
	case err != nil:
		return created, nil, err
	case h.down:
		return created, &plan.Plan{}, s.afterDown(after, req, r)
	}
	return created, waits, nil
}

// precheck looks for what would keep the containers that a plan starts from
// starting, before anything is touched: what the host does not have, ports in use,
// addresses that are taken, networks that are missing.
func (s *Supervisor) precheck(ctx context.Context, p *plan.Plan, req *ApplyRequest, oneOff *CreateRequest) error {
	var starting []engine.Spec
	var errs []error
	wanted := map[string]string{} // services by network and fixed address
	made, touched := map[string]bool{}, map[string]bool{}
	for _, op := range p.Ops {
		touched[op.ContainerID], touched[op.Replaces] = true, true
		switch op.Kind {
		case plan.CreateNetwork:
			made[op.Name] = true
		case plan.CreateContainer:
			var sp engine.Spec
			if step := stepOf(req.Desired, op); step != nil {
				sp = step.Spec
				sp.Network.Owner = "service " + op.Service
			} else if op.OneOff && oneOff != nil {
				sp = oneOff.Spec
			} else if rep := replica(req.Desired, op.Service, op.Index); rep != nil {
				sp = rep.Spec
				sp.Network.Owner = "service " + op.Service
				for _, a := range sp.Network.Networks {
					for _, ip := range []netip.Addr{a.IPv4, a.IPv6} {
						key := a.Network + " " + ip.String()
						if other := wanted[key]; ip.IsValid() && made[a.Network] && other != "" {
							errs = append(errs, fmt.Errorf("service %s: address %s of network %s is also asked for by service %s", op.Service, ip, a.Network, other))
						}
						wanted[key] = op.Service
					}
				}
			}
			starting = append(starting, sp)
		case plan.StartContainer:
			if a, err := s.lookup(op.ContainerID); err == nil {
				if v := a.view.Load(); !v.live() {
					starting = append(starting, v.Spec)
				}
			}
		}
	}
	if len(starting) == 0 {
		return errors.Join(errs...)
	}
	for i := range starting { // a network that the plan makes is not there yet
		on := &starting[i].Network.Networks
		*on = slices.DeleteFunc(slices.Clone(*on), func(a netns.Attachment) bool { return made[a.Network] })
	}
	var own []engine.Container
	for _, v := range s.views() {
		if touched[v.ID] {
			own = append(own, v.Container)
		}
	}
	// While they were stopped, it may have gone with the last who used it.
	release, err := s.holdDefaultNetwork(ctx, starting...)
	if err != nil {
		return err
	}
	defer release()
	return errors.Join(append(errs, s.checkStart(ctx, starting, own)...)...)
}

// checkStart looks for what would keep containers from starting. own are containers
// that will be replaced or are the same.
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
		ep := c.State.Endpoint
		if ep == nil {
			// A start that is under way, for a command that was given up, has one
			// that is not in the record yet.
			ep, err = s.runner.Endpoint(c.ID)
			errs = append(errs, err)
		}
		if ep != nil {
			have = append(have, *ep)
		}
	}
	return append(slices.DeleteFunc(errs, func(err error) bool { return err == nil }), nets.Check(ctx, want, have)...)
}

// reportUnchanged tells of the containers that run and stay as they are.
func (s *Supervisor) reportUnchanged(p *plan.Plan, req *ApplyRequest, r *reply) {
	touched := map[string]bool{}
	for _, op := range p.Ops {
		touched[op.ContainerID], touched[op.Replaces] = true, true
	}
	for _, v := range s.views() {
		if !v.OneOff && v.live() && !touched[v.ID] && req.Desired.Services[v.Service] != nil &&
			(len(req.Services) == 0 || slices.Contains(req.Services, v.Service)) {
			r.event("Container", v.Spec.Name, "Running", "", true)
		}
	}
}

// removeLost removes the containers whose record was deleted while they were this
// supervisor's: they exist for nobody else. Those whose record was damaged go when
// they are to be removed. A plan, which is made of records, can name neither.
func (s *Supervisor) removeLost(ctx context.Context, req *ApplyRequest) error {
	broken := func(id string) bool {
		var b *engine.Broken
		_, err := s.engine.Records.Read(id)
		return errors.As(err, &b) && !b.Newer
	}
	var errs []error
	for _, a := range s.all() {
		named := req.Verb == plan.VerbRemove && req.Force && slices.Contains(req.Containers, a.id)
		if !s.engine.Records.Exists(a.id) || named && broken(a.id) {
			errs = append(errs, a.removeIt(ctx, removeOptions{force: true}))
		}
	}
	return errors.Join(errs...)
}

// afterFailure forgets a project of which nothing has come to be, and says what
// still runs.
func (s *Supervisor) afterFailure(cause error) error {
	var running []string
	views := s.views()
	for _, v := range views {
		if v.live() && !v.OneOff {
			running = append(running, v.Spec.Name)
		}
	}
	if len(running) > 0 {
		return fmt.Errorf("%w\nstill running: %s", cause, strings.Join(running, ", "))
	}
	if len(views) == 0 && s.realm != Singles && !s.schedules.owns() {
		s.desired.Store(nil)
		return errors.Join(cause, s.store.Delete(s.realm))
	}
	return cause
}

// afterDown forgets the project and removes what else was asked for.
func (s *Supervisor) afterDown(ctx context.Context, req *ApplyRequest, r *reply) error {
	if len(req.Services) == 0 && len(s.views()) == 0 {
		if err := s.schedules.forget(ctx); err != nil {
			return err
		}
		if err := s.store.Delete(s.realm); err != nil {
			return err
		}
		s.desired.Store(nil)
	}
	refs := slices.Clone(req.Images)
	if req.Desired != nil {
		refs = append(refs, req.Desired.Images(req.RemoveImages, req.Services...)...)
	}
	slices.Sort(refs)
	return s.removeImages(ctx, slices.Compact(refs), r)
}

func (s *Supervisor) removeImages(ctx context.Context, refs []string, r *reply) error {
	if len(refs) == 0 {
		return nil
	}
	images, err := s.engine.Images()
	if err != nil {
		return err
	}
	for _, ref := range refs {
		r.event("Image", ref, "Removing", "", false)
		if _, err := images.Remove(ctx, ref, image.RemoveOptions{InUse: s.engine.ImageUsers}); err != nil {
			r.event("Image", ref, "Warning", err.Error(), true)
			continue
		}
		r.event("Image", ref, "Removed", "", true)
	}
	return s.engine.CollectLayers(ctx)
}

// Apply is the verb that makes the container.
func (r *CreateRequest) Apply() ApplyRequest {
	return ApplyRequest{Project: r.Project, Request: plan.Request{
		Verb: plan.VerbRun, Desired: r.Desired, NoDeps: r.NoDeps, CreateOnly: true,
		OneOff: &plan.OneOff{Service: r.Service, Due: r.Due, Hash: r.Hash, Spec: r.Spec},
	}}
}

// create makes a container outside the graph: a project of its own, or a one-off
// of a service, whose networks, volumes and dependencies come up first.
func (s *Supervisor) create(ctx context.Context, req CreateRequest, r *reply) (any, error) {
	if sp := &req.Spec; sp.Network.Mode == "" && len(sp.Network.Networks) == 0 {
		sp.Network.Networks = []netns.Attachment{{Network: engine.DefaultNetwork}}
	}
	whole := req.Apply()
	if req.Desired != nil && s.realm != Singles {
		release, err := s.exclusive(ctx, r)
		if err != nil {
			return nil, err
		}
		defer release()
		var end func()
		ctx, end = s.interruptible(ctx)
		defer end()
	}
	release, err := s.holdDefaultNetwork(ctx, req.Spec)
	if err != nil {
		return nil, err
	}
	defer func() { release() }()
	if req.Follows {
		// While the container is made, what its start needs next takes shape. The
		// start looks again, and tells of errors.
		s.linger(func(ctx context.Context) error { s.engine.PrepareNetworks(ctx, req.Spec.Network); return nil })
	}
	created := CreateResult{ID: req.ID}
	if _, err := s.lookup(req.ID); err != nil { // else one that is lost has made it
		if created, _, err = s.carryOut(ctx, &whole, &req, r); err != nil {
			return nil, err
		}
	}
	if req.Follows {
		s.expectRequest()
		s.holdForStart(created.ID, release)
		release = func() {}
	}
	return created, nil
}

// bounded limits a wait for the services to be up, 0 not at all.
func bounded(ctx context.Context, d time.Duration) (context.Context, context.CancelFunc) {
	if d <= 0 {
		return context.WithCancel(ctx)
	}
	return context.WithTimeoutCause(ctx, d, fmt.Errorf("application not healthy after %v", d))
}
