package supervise

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/stack-run/stack/compose/apply"
	"github.com/stack-run/stack/compose/plan"
	"github.com/stack-run/stack/compose/spec"
	"github.com/stack-run/stack/engine"
	"github.com/stack-run/stack/engine/image"
	"github.com/stack-run/stack/netns"
	"github.com/stack-run/stack/volumes"
)

// exclusive lets one plan be made and applied at a time, and says so to who waits.
func (s *Supervisor) exclusive(ctx context.Context, r *reply) (release func(), err error) {
	release = func() { <-s.applying }
	select {
	case s.applying <- struct{}{}:
		return release, nil
	default:
	}
	r.event("Project", s.project, "Waiting", "for another command on this project to end", false)
	select {
	case s.applying <- struct{}{}:
		return release, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// up makes the project what the request says.
func (s *Supervisor) up(ctx context.Context, req UpRequest, r *reply) (any, error) {
	release, err := s.exclusive(ctx, r)
	if err != nil {
		return nil, err
	}
	ctx, interrupt := context.WithCancelCause(ctx)
	defer interrupt(nil)
	s.mu.Lock()
	s.interrupt = interrupt
	s.mu.Unlock()
	err = s.bringUp(ctx, req.Desired, req.Options, r)
	s.mu.Lock()
	s.interrupt = nil
	s.mu.Unlock()
	release()
	if err != nil {
		return nil, err
	}
	if req.Options.Wait {
		return nil, s.awaitSettled(ctx, req.Options.WaitTimeout, func(u *unit) bool {
			return !u.c.OneOff && req.Desired.Services[u.c.Service] != nil &&
				(len(req.Options.Services) == 0 || slices.Contains(req.Options.Services, u.c.Service))
		}, r)
	}
	return nil, nil
}

// bringUp plans, checks all that can be checked, and only then begins.
func (s *Supervisor) bringUp(ctx context.Context, d *spec.Desired, o UpOptions, r *reply) error {
	if err := PinImages(s.engine, d, o); err != nil {
		return err
	}
	observed, err := Observe(s.engine, s.project)
	if err != nil {
		return err
	}
	p, err := ComputePlan(d, observed, o)
	if err != nil {
		return err
	}
	for _, w := range p.Warnings {
		r.event("Project", s.project, "Warning", w, false)
	}
	for _, q := range p.Confirm {
		r.event("Volume", q.Volume, "Warning", q.Text+"; it stays as it is, unless --yes has it made anew, without its data", false)
	}
	if err := s.precheck(ctx, p, d); err != nil {
		return err
	}
	s.setDesired(d)
	if err := s.store.Save(d); err != nil {
		return err
	}
	s.reportUnchanged(p, d, o, r)
	x := &execution{s: s, d: d, r: r, created: map[int]*unit{}, options: o}
	err = x.run(ctx, p, apply.Options{Parallel: o.Parallel})
	if err != nil {
		return x.undo(context.WithoutCancel(ctx), err)
	}
	return nil
}

func (s *Supervisor) setDesired(d *spec.Desired) {
	s.mu.Lock()
	s.desired = d
	s.mu.Unlock()
}

// precheck is checkStart for what a plan starts.
func (s *Supervisor) precheck(ctx context.Context, p *plan.Plan, d *spec.Desired) error {
	var starting []engine.Spec
	var own []engine.Container
	var errs []error
	wanted := map[string]string{} // services by network and fixed address
	made, touched := map[string]bool{}, map[string]bool{}
	for _, op := range p.Ops {
		touched[op.ContainerID], touched[op.Replaces] = true, true
		switch op.Kind {
		case plan.CreateNetwork:
			made[op.Name] = true
		case plan.CreateContainer:
			if rep := replica(d, op.Service, op.Index); rep != nil {
				sp := rep.Spec
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
				// A network that the plan makes is not there yet.
				sp.Network.Networks = slices.DeleteFunc(slices.Clone(sp.Network.Networks), func(a netns.Attachment) bool { return made[a.Network] })
				starting = append(starting, sp)
			}
		case plan.StartContainer:
			if u, err := s.lookup(op.ContainerID); err == nil {
				starting = append(starting, s.view(u).Spec)
			}
		}
	}
	s.mu.Lock()
	for _, u := range s.units {
		if touched[u.c.ID] {
			own = append(own, *u.c)
		}
	}
	s.mu.Unlock()
	if len(starting) == 0 {
		return nil
	}
	return errors.Join(append(errs, s.checkStart(ctx, starting, own)...)...)
}

func replica(d *spec.Desired, service string, index int) *spec.Replica {
	svc := d.Services[service]
	if svc == nil {
		return nil
	}
	for i := range svc.Replicas {
		if svc.Replicas[i].Index == index {
			return &svc.Replicas[i]
		}
	}
	return nil
}

// reportUnchanged tells of the containers that run and stay as they are.
func (s *Supervisor) reportUnchanged(p *plan.Plan, d *spec.Desired, o UpOptions, r *reply) {
	touched := map[string]bool{}
	for _, op := range p.Ops {
		touched[op.ContainerID], touched[op.Replaces] = true, true
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, u := range s.units {
		if !u.c.OneOff && u.task != nil && !touched[u.c.ID] && d.Services[u.c.Service] != nil &&
			(len(o.Services) == 0 || slices.Contains(o.Services, u.c.Service)) {
			r.event("Container", u.c.Spec.Name, "Running", "", true)
		}
	}
}

// execution carries out one plan.
type execution struct {
	s       *Supervisor
	d       *spec.Desired
	r       *reply
	options UpOptions
	down    bool // all goes: a stop need not wait for the network's end
	// withNetwork has the operations after which a network goes, and the
	// container's endpoint with it.
	withNetwork map[int]bool

	mu       sync.Mutex
	created  map[int]*unit // by operation ID
	networks []string      // made by this execution
	vols     []string
	leaving  []*netns.Endpoint // they go with the next network
}

func (x *execution) run(ctx context.Context, p *plan.Plan, o apply.Options) error {
	deps := func(i int) []int {
		out := make([]int, len(p.Ops[i].Deps))
		for j, id := range p.Ops[i].Deps {
			out[j] = id - 1
		}
		return out
	}
	x.withNetwork = map[int]bool{}
	for _, op := range p.Ops {
		if op.Kind == plan.RemoveNetwork {
			for _, id := range op.Deps {
				x.withNetwork[id] = true
			}
		}
	}
	err := apply.Run(ctx, len(p.Ops), deps, o, func(ctx context.Context, i int) error {
		return x.do(ctx, p.Ops[i])
	})
	if x.down {
		x.spare(p)
	}
	// Where the network had to stay.
	return errors.Join(err, x.s.engine.Detach(context.WithoutCancel(ctx), x.left()...))
}

// spare takes back the sentence on containers that could not be removed: they
// are just stopped.
func (x *execution) spare(p *plan.Plan) {
	for _, op := range p.Ops {
		if op.Kind != plan.StopContainer {
			continue
		}
		u, err := x.unit(op)
		if err != nil {
			continue // it is removed
		}
		x.s.mu.Lock()
		u.doomed = false
		x.s.mu.Unlock()
		x.s.background(func(ctx context.Context) error { return x.s.unplug(ctx, u) })
	}
}

// left returns the endpoints that were left behind, and forgets them.
func (x *execution) left() []*netns.Endpoint {
	x.mu.Lock()
	defer x.mu.Unlock()
	all := x.leaving
	x.leaving = nil
	return all
}

// leaves returns what takes an endpoint to be taken away with its network, nil
// if no network goes after the operation.
func (x *execution) leaves(op *plan.Op) func(*netns.Endpoint) {
	if !x.withNetwork[op.ID] {
		return nil
	}
	return func(ep *netns.Endpoint) {
		x.mu.Lock()
		defer x.mu.Unlock()
		x.leaving = append(x.leaving, ep)
	}
}

// do carries out one operation.
func (x *execution) do(ctx context.Context, op *plan.Op) error {
	switch op.Kind {
	case plan.CreateNetwork:
		return x.createNetwork(ctx, op)
	case plan.RemoveNetwork:
		return x.removeNetwork(ctx, op)
	case plan.CreateVolume:
		return x.createVolume(ctx, op)
	case plan.RemoveVolume:
		return x.removeVolume(ctx, op)
	case plan.CreateContainer:
		return x.createContainer(ctx, op)
	case plan.WaitFor:
		return x.waitFor(ctx, op)
	}
	u, err := x.unit(op)
	if err != nil {
		return err
	}
	switch op.Kind {
	case plan.StartContainer:
		return x.s.step(x.r, u, "Starting", "Started", func() error { return x.s.start(ctx, u) })
	case plan.UnpauseContainer:
		return x.s.step(x.r, u, "Unpausing", "Unpaused", func() error { return x.s.unpause(ctx, u) })
	case plan.StopContainer:
		if x.down {
			x.s.mu.Lock()
			u.doomed = true
			x.s.mu.Unlock()
		}
		stop := func() error {
			return x.s.stop(ctx, u, stopOptions{grace: op.Timeout, keepNet: x.down, leave: x.leaves(op), notice: x.s.notice(x.r, u)})
		}
		return x.s.step(x.r, u, "Stopping", "Stopped", stop)
	case plan.RemoveContainer:
		return x.s.step(x.r, u, "Removing", "Removed", func() error {
			// Anonymous volumes go with their container, unless the one that
			// replaces it took them over.
			return x.s.remove(ctx, u, removeOptions{force: true, volumes: true, leave: x.leaves(op)})
		})
	case plan.RenameContainer:
		_, err := x.s.rename(ctx, RenameRequest{ID: x.s.view(u).ID, Name: op.Name}, x.r)
		return err
	}
	return fmt.Errorf("internal error: unknown operation %q", op.Kind)
}

// unit is the container an operation is about.
func (x *execution) unit(op *plan.Op) (*unit, error) {
	if op.Creates != 0 {
		x.mu.Lock()
		defer x.mu.Unlock()
		if u := x.created[op.Creates]; u != nil {
			return u, nil
		}
		return nil, fmt.Errorf("internal error: operation %d has made no container", op.Creates)
	}
	return x.s.lookup(op.ContainerID)
}

func (x *execution) createNetwork(ctx context.Context, op *plan.Op) error {
	nets, err := x.s.engine.Networks()
	if err != nil {
		return err
	}
	want := x.d.Networks[op.Key]
	if want == nil {
		return fmt.Errorf("internal error: no network %q in the project", op.Key)
	}
	x.r.event("Network", op.Name, "Creating", "", false)
	if _, err := nets.Create(ctx, want.Spec); err != nil {
		x.r.event("Network", op.Name, "Error", err.Error(), true)
		return err
	}
	x.mu.Lock()
	x.networks = append(x.networks, op.Name)
	x.mu.Unlock()
	x.r.event("Network", op.Name, "Created", "", true)
	return nil
}

func (x *execution) removeNetwork(ctx context.Context, op *plan.Op) error {
	x.r.event("Network", op.Name, "Removing", "", false)
	if err := x.s.engine.RemoveNetwork(ctx, op.Name, x.left); err != nil {
		x.r.event("Network", op.Name, "Error", err.Error(), true)
		return err
	}
	x.r.event("Network", op.Name, "Removed", "", true)
	return nil
}

func (x *execution) createVolume(ctx context.Context, op *plan.Op) error {
	vols, err := x.s.engine.Volumes()
	if err != nil {
		return err
	}
	want := x.d.Volumes[op.Key]
	if want == nil {
		return fmt.Errorf("internal error: no volume %q in the project", op.Key)
	}
	x.r.event("Volume", op.Name, "Creating", "", false)
	if _, err := vols.Create(ctx, want.Spec); err != nil {
		x.r.event("Volume", op.Name, "Error", err.Error(), true)
		return err
	}
	x.mu.Lock()
	x.vols = append(x.vols, op.Name)
	x.mu.Unlock()
	x.r.event("Volume", op.Name, "Created", "", true)
	return nil
}

func (x *execution) removeVolume(ctx context.Context, op *plan.Op) error {
	vols, err := x.s.engine.Volumes()
	if err != nil {
		return err
	}
	x.r.event("Volume", op.Name, "Removing", "", false)
	var missing *volumes.NotFoundError
	if err := vols.Remove(ctx, op.Name, x.s.engine.VolumeUsers()); err != nil && !errors.As(err, &missing) {
		x.r.event("Volume", op.Name, "Error", err.Error(), true)
		return err
	}
	x.r.event("Volume", op.Name, "Removed", "", true)
	return nil
}

func (x *execution) createContainer(ctx context.Context, op *plan.Op) error {
	rep := replica(x.d, op.Service, op.Index)
	if rep == nil {
		return fmt.Errorf("internal error: no container %d of service %q in the project", op.Index, op.Service)
	}
	doing, done, cause := "Creating", "Created", ""
	sp := rep.Spec
	o := engine.CreateOptions{Hash: rep.Hash, Project: x.s.project, Service: op.Service, Index: op.Index}
	if op.Replaces != "" {
		doing, done, cause = "Recreate", "Recreated", op.Cause
		if old, err := x.s.lookup(op.Replaces); err == nil && op.KeepVolumes {
			o.Volumes = maps.Clone(x.s.view(old).Volumes)
		}
	}
	if op.TempName != "" {
		sp.Name = op.TempName
	}
	o.Spec = sp
	x.r.event("Container", op.Name, doing, cause, false)
	c, err := x.s.engine.Create(ctx, o)
	if err != nil {
		x.r.event("Container", op.Name, "Error", err.Error(), true)
		return err
	}
	u := x.s.insert(c)
	x.mu.Lock()
	x.created[op.ID] = u
	x.mu.Unlock()
	x.r.event("Container", op.Name, done, "", true)
	return nil
}

func (x *execution) waitFor(ctx context.Context, op *plan.Op) error {
	err := x.s.awaitCondition(ctx, op.Name, op.Condition, x.r)
	if err != nil && op.Optional && ctx.Err() == nil {
		x.r.event("Service", op.Name, "Warning", "optional dependency failed: "+err.Error(), true)
		return nil
	}
	return err
}

// undo takes away what a failed execution made and never got to run, and says
// what still runs.
func (x *execution) undo(ctx context.Context, cause error) error {
	errs := []error{cause}
	for _, u := range x.created {
		c := x.s.view(u)
		if c.State.StartedAt.IsZero() && c.State.Pid == 0 && !x.options.NoStart {
			errs = append(errs, x.s.remove(ctx, u, removeOptions{volumes: true}))
		}
	}
	if nets, err := x.s.engine.Networks(); err == nil {
		for _, name := range x.networks {
			if users, err := nets.Users(name); err == nil && len(users) == 0 && !x.s.usesNetwork(name) {
				errs = append(errs, nets.Remove(ctx, name))
			}
		}
	}
	x.s.mu.Lock()
	left := len(x.s.units)
	var running []string
	for _, u := range x.s.units {
		if u.task != nil && !u.c.OneOff {
			running = append(running, u.c.Spec.Name)
		}
	}
	x.s.mu.Unlock()
	if left == 0 {
		x.s.setDesired(nil)
		errs = append(errs, x.s.store.Delete(x.s.project))
		if vols, err := x.s.engine.Volumes(); err == nil {
			for _, name := range x.vols { // empty: nothing ran that could have written
				errs = append(errs, vols.Remove(ctx, name, x.s.engine.VolumeUsers()))
			}
		}
	}
	if len(running) > 0 {
		slices.Sort(running)
		errs[0] = fmt.Errorf("%w\nstill running: %s", cause, strings.Join(running, ", "))
	}
	return errors.Join(errs...)
}

// usesNetwork tells whether a container of ours is to be on a network.
func (s *Supervisor) usesNetwork(name string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, u := range s.units {
		for _, a := range u.c.Spec.Network.Networks {
			if a.Network == name {
				return true
			}
		}
	}
	return false
}

// stay is the time that a container must run to count as up.
type stay struct {
	since time.Time // when it started
	until time.Time
	wake  *time.Timer
}

// newStay wakes those that await something when the time of a container is over
// that started at since. It trusts the clock for less than stayUp only.
func (s *Supervisor) newStay(since time.Time) *stay {
	now := time.Now()
	left := min(max(stayUp-now.Sub(since), 0), stayUp)
	return &stay{since: since, until: now.Add(left), wake: time.AfterFunc(left, func() {
		s.mu.Lock()
		s.changedLocked()
		s.mu.Unlock()
	})}
}

func (x *stay) over() bool { return x != nil && !time.Now().Before(x.until) }

// awaitSettled is "up --wait" and "start --wait": those that are meant are all
// running, healthy or done.
func (s *Supervisor) awaitSettled(ctx context.Context, limit time.Duration, meant func(*unit) bool, r *reply) error {
	ctx, cancel := bounded(ctx, limit, "the services to be up")
	defer cancel()
	var culprit engine.Container
	var why string
	checks := map[string]bool{}
	told := map[string]bool{}
	stays := map[string]*stay{}
	defer func() {
		for _, x := range stays {
			x.wake.Stop()
		}
	}()
	err := s.await(ctx, func() (bool, error) {
		all := true
		for _, u := range s.units {
			if u.removed || !meant(u) {
				continue
			}
			check, known := checks[u.c.ID]
			if !known {
				check = s.engine.Health(u.c) != nil
				checks[u.c.ID] = check
			}
			x := stays[u.c.ID]
			if !check && u.c.State.Phase == engine.Running && (x == nil || !x.since.Equal(u.c.State.StartedAt)) {
				if x != nil {
					x.wake.Stop()
				}
				x = s.newStay(u.c.State.StartedAt)
				stays[u.c.ID] = x
			}
			v, reason := settled(u.c.State, check, x.over())
			switch v {
			case failed:
				culprit, why = *u.c, reason
				return false, errCondition
			case pending:
				all = false
				if !told[u.c.ID] {
					told[u.c.ID] = true
					r.event("Container", u.c.Spec.Name, "Waiting", reason, false)
				}
			case met:
				if told[u.c.ID] {
					delete(told, u.c.ID)
					r.event("Container", u.c.Spec.Name, "Healthy", "", true)
				}
			}
		}
		return all, nil
	})
	if err == errCondition {
		tail := s.lastLines(culprit.ID, 20)
		if tail != "" {
			tail = "; its last output was:\n" + tail
		}
		return fmt.Errorf("container %s %s%s", culprit.Spec.Name, why, tail)
	}
	return err
}

// errInterrupted ends an up.
var errInterrupted = errors.New("a down was asked for meanwhile")

// down takes the project away: containers, then networks, then volumes if asked.
func (s *Supervisor) down(ctx context.Context, req DownRequest, r *reply) (any, error) {
	// An up may wait for minutes, for the health of what is to go.
	s.mu.Lock()
	if s.interrupt != nil {
		s.interrupt(errInterrupted)
	}
	s.mu.Unlock()
	release, err := s.exclusive(ctx, r)
	if err != nil {
		return nil, err
	}
	defer release()
	observed, err := Observe(s.engine, s.project)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	d := s.desired
	s.mu.Unlock()
	if d == nil {
		d = &spec.Desired{Version: spec.Version, Project: s.project}
	} else if req.Declared == nil {
		req.Declared = d.VolumeNames()
	}
	p, err := plan.Down(d, observed, plan.DownOptions{Services: req.Services, Volumes: req.Volumes, Declared: req.Declared, Timeout: req.Timeout})
	if err != nil {
		return nil, err
	}
	for _, w := range p.Warnings {
		r.event("Project", s.project, "Warning", w, false)
	}
	images := d.Images(req.Images)
	for _, ref := range req.ImageNames {
		if !slices.Contains(images, ref) {
			images = append(images, ref)
		}
	}
	if err := s.engine.SweepNetworks(ctx); err != nil {
		s.warn(err)
	}
	x := &execution{s: s, d: d, r: r, created: map[int]*unit{}, down: true}
	if err := x.run(ctx, p, teardown); err != nil {
		return nil, err
	}
	if len(req.Services) == 0 {
		if err := s.store.Delete(s.project); err != nil {
			return nil, err
		}
		s.setDesired(nil)
	}
	return nil, s.removeImages(ctx, images, r)
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
	err = s.engine.CollectLayers(ctx)
	return err
}

// resume starts again, after a crash of the machine or a boot, what its restart
// policy wants, in the order and under the conditions of the graph.
func (s *Supervisor) resume(ctx context.Context, r *reply) error {
	release, err := s.exclusive(ctx, r)
	if err != nil {
		return err
	}
	defer release()
	units := s.resumable()
	return s.ordered(ctx, units, false, apply.Options{KeepGoing: true}, func(ctx context.Context, u *unit) error {
		if err := s.awaitDependencies(ctx, u, r); err != nil {
			return err
		}
		return s.step(r, u, "Starting", "Started", func() error { return s.start(ctx, u) })
	})
}

// resumable are the containers to start at boot: those whose restart policy
// says so, and what they depend on that ran before and was not stopped.
func (s *Supervisor) resumable() []*unit {
	needs := s.dependencies()
	s.mu.Lock()
	defer s.mu.Unlock()
	chosen := map[*unit]bool{}
	wanted := map[string]bool{}
	wasRunning := func(u *unit) bool {
		st := u.c.State
		return !st.StartedAt.IsZero() && st.FinishedAt.Before(st.StartedAt)
	}
	for _, u := range s.units {
		if u.task == nil && u.restart == nil && !u.c.OneOff && startsAtBoot(u.c.Spec.Restart, u.c.State.StoppedByUser, wasRunning(u)) {
			chosen[u] = true
			for dep := range needs[u.c.Service] {
				wanted[dep] = true
			}
		}
	}
	for _, u := range s.units {
		if wanted[u.c.Service] && u.task == nil && !u.c.OneOff && !u.c.State.StoppedByUser && wasRunning(u) {
			chosen[u] = true
		}
	}
	return slices.Collect(maps.Keys(chosen))
}

// bringUpFor brings up what a one-off of a service needs.
func (s *Supervisor) bringUpFor(ctx context.Context, req CreateRequest, r *reply) error {
	release, err := s.exclusive(ctx, r)
	if err != nil {
		return err
	}
	defer release()
	svc := req.Desired.Services[req.Service]
	if svc == nil {
		return fmt.Errorf("no such service: %s", req.Service)
	}
	deps := slices.Sorted(maps.Keys(svc.DependsOn))
	o := UpOptions{Services: deps}
	if req.NoDeps || len(deps) == 0 {
		// Networks and volumes only.
		return s.bringUpResources(ctx, req.Desired, req.Service, r)
	}
	if err := s.bringUp(ctx, req.Desired, o, r); err != nil {
		return err
	}
	if err := s.bringUpResources(ctx, req.Desired, req.Service, r); err != nil {
		return err
	}
	for _, name := range deps {
		if err := s.awaitCondition(ctx, name, svc.DependsOn[name].Condition, r); err != nil && svc.DependsOn[name].Required {
			return err
		}
	}
	return nil
}

// bringUpResources makes the networks and volumes that a service uses.
func (s *Supervisor) bringUpResources(ctx context.Context, d *spec.Desired, service string, r *reply) error {
	observed, err := Observe(s.engine, s.project)
	if err != nil {
		return err
	}
	x := &execution{s: s, d: d, r: r, created: map[int]*unit{}}
	rep := d.Services[service].Replicas
	if len(rep) == 0 {
		return nil
	}
	for key, n := range d.Networks {
		used := slices.ContainsFunc(rep[0].Spec.Network.Networks, func(a netns.Attachment) bool { return a.Network == n.Spec.Name })
		exists := slices.ContainsFunc(observed.Networks, func(o netns.Network) bool { return o.Name == n.Spec.Name })
		if used && !exists {
			if n.External {
				return fmt.Errorf("network %s declared as external, but could not be found; create it with \"stack network create %s\"", n.Spec.Name, n.Spec.Name)
			}
			if err := x.createNetwork(ctx, &plan.Op{Kind: plan.CreateNetwork, Key: key, Name: n.Spec.Name}); err != nil {
				return err
			}
		}
	}
	for key, v := range d.Volumes {
		used := slices.ContainsFunc(rep[0].Spec.Mounts, func(m volumes.Mount) bool { return m.Type == volumes.TypeVolume && m.Source == v.Spec.Name })
		exists := slices.ContainsFunc(observed.Volumes, func(o volumes.Volume) bool { return o.Name == v.Spec.Name })
		if used && !exists {
			if v.External {
				return fmt.Errorf("volume %s declared as external, but could not be found; create it with \"stack volume create %s\"", v.Spec.Name, v.Spec.Name)
			}
			if err := x.createVolume(ctx, &plan.Op{Kind: plan.CreateVolume, Key: key, Name: v.Spec.Name}); err != nil {
				return err
			}
		}
	}
	if s.desired == nil {
		s.setDesired(d)
		return s.store.Save(d)
	}
	return nil
}
