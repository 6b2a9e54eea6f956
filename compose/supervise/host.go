package supervise

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/stack-run/stack/compose/desired"
	"github.com/stack-run/stack/compose/machine"
	"github.com/stack-run/stack/compose/plan"
	"github.com/stack-run/stack/compose/spec"
	"github.com/stack-run/stack/engine"
	"github.com/stack-run/stack/engine/logs"
	"github.com/stack-run/stack/netns"
	"github.com/stack-run/stack/volumes"
)

// host carries out the operations of one plan (apply.Host).
type host struct {
	s *Supervisor
	d *spec.Desired // what the plan was made for; never nil
	// former is what the project was before, nil if nobody knows: containers that come
	// back when an update fails are of it.
	former *spec.Desired
	r      *reply
	// oneOff is the container of a run, which no service describes.
	oneOff *CreateRequest
	// created is told of the container that was made for a run; what the run depends on
	// may be made at the same time.
	created func(id string)
	// before changes a container right before its start.
	before func(c *engine.Container)
	// down says that all goes: a stop need not wait for the network's end, nor a
	// container's end survive a power failure.
	down bool
	// force has containers that are to go killed where they run.
	force bool
	// withNetwork has the operations after which a network goes, and the
	// container's endpoint with it.
	withNetwork map[int]bool

	mu      sync.Mutex
	leaving []*netns.Endpoint // they go with the next network
}

func newHost(s *Supervisor, d *spec.Desired, r *reply, p *plan.Plan) *host {
	if d == nil {
		d = &spec.Desired{Version: spec.Version, Project: s.realm}
	}
	h := &host{s: s, d: d, r: r, withNetwork: map[int]bool{}}
	if p == nil {
		return h
	}
	for _, op := range p.Ops {
		if op.Kind == plan.RemoveNetwork {
			for _, id := range op.Deps {
				h.withNetwork[id] = true
			}
		}
	}
	return h
}

// left returns the endpoints that were left behind, and forgets them.
func (h *host) left() []*netns.Endpoint {
	h.mu.Lock()
	defer h.mu.Unlock()
	all := h.leaving
	h.leaving = nil
	return all
}

// leaves returns what takes an endpoint to be taken away with its network, nil
// if no network goes after the operation.
func (h *host) leaves(op *plan.Op) func(*netns.Endpoint) {
	if !h.withNetwork[op.ID] {
		return nil
	}
	return func(ep *netns.Endpoint) {
		h.mu.Lock()
		defer h.mu.Unlock()
		h.leaving = append(h.leaving, ep)
	}
}

// finish sees to what a plan that ended half-way left: endpoints whose network had
// to stay, and containers that were stopped to be removed and are still there.
func (h *host) finish(ctx context.Context, p *plan.Plan) error {
	if h.down {
		for _, op := range p.Ops {
			if op.Final {
				if a, err := h.s.lookup(op.ContainerID); err == nil {
					a.unplugIt()
				}
			}
		}
	}
	return h.s.engine.Detach(ctx, h.left()...)
}

func (h *host) CreateNetwork(ctx context.Context, op *plan.Op) error {
	nets, err := h.s.engine.Networks()
	if err != nil {
		return err
	}
	want := h.d.Networks[op.Key]
	if want == nil {
		return fmt.Errorf("internal error: no network %q in the project", op.Key)
	}
	_, err = nets.Create(ctx, want.Spec)
	return err
}

func (h *host) RemoveNetwork(ctx context.Context, op *plan.Op) error {
	return h.s.engine.RemoveNetwork(ctx, op.Name, h.left)
}

func (h *host) CreateVolume(ctx context.Context, op *plan.Op) error {
	vols, err := h.s.engine.Volumes()
	if err != nil {
		return err
	}
	want := h.d.Volumes[op.Key]
	if want == nil {
		return fmt.Errorf("internal error: no volume %q in the project", op.Key)
	}
	_, err = vols.Create(ctx, want.Spec)
	return err
}

func (h *host) RemoveVolume(ctx context.Context, op *plan.Op) error {
	vols, err := h.s.engine.Volumes()
	if err != nil {
		return err
	}
	var missing *volumes.NotFoundError
	if err := vols.Remove(ctx, op.Name, h.s.engine.VolumeUsers()); err != nil && !errors.As(err, &missing) {
		return err
	}
	return nil
}

func (h *host) CreateContainer(ctx context.Context, op *plan.Op) (string, error) {
	o, err := h.createOptions(op)
	if err != nil {
		return "", err
	}
	c, err := h.s.engine.Create(ctx, o)
	if err != nil {
		return "", err
	}
	h.s.insert(c)
	if op.OneOff && op.Step == 0 && h.created != nil {
		h.created(c.ID)
	}
	return c.ID, nil
}

func (h *host) createOptions(op *plan.Op) (engine.CreateOptions, error) {
	if step := stepOf(h.d, op); step != nil {
		return engine.CreateOptions{Spec: step.Spec, Project: h.d.Project, Service: op.Service, OneOff: true}, nil
	}
	if h.oneOff != nil && op.OneOff {
		o := engine.CreateOptions{
			ID: h.oneOff.ID, Spec: h.oneOff.Spec, Hash: h.oneOff.Hash, Project: h.oneOff.Project, Service: h.oneOff.Service, OneOff: h.oneOff.Service != "",
		}
		if h.oneOff.Follows && o.Spec.AutoRemove {
			o.StartWithin = startBound
		}
		return o, nil
	}
	rep := replica(h.d, op.Service, op.Index)
	if rep == nil {
		return engine.CreateOptions{}, fmt.Errorf("internal error: no container %d of service %q in the project", op.Index, op.Service)
	}
	o := engine.CreateOptions{Spec: rep.Spec, Hash: rep.Hash, Project: h.d.Project, Service: op.Service, Index: op.Index}
	if op.Replaces != "" && op.KeepVolumes {
		if old, err := h.s.lookup(op.Replaces); err == nil {
			o.Volumes = maps.Clone(old.view.Load().Volumes)
		}
	}
	if op.TempName != "" {
		o.Spec.Name = op.TempName
	}
	return o, nil
}

// startBound is how long a container that is to be run and then removed is kept for
// whoever made it to start it.
const startBound = 30 * time.Second

// stepOf is the step of pre_start that an operation is about, nil if it is about none.
func stepOf(d *spec.Desired, op *plan.Op) *desired.Step {
	if d == nil || op.Step == 0 {
		return nil
	}
	if svc := d.Services[op.Service]; svc != nil && op.Step <= len(svc.PreStart) {
		return &svc.PreStart[op.Step-1]
	}
	return nil
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

func (h *host) StartContainer(ctx context.Context, id string, op *plan.Op) error {
	a, err := h.s.lookup(id)
	if err != nil {
		return err
	}
	before := a.view.Load()
	if what := before.Spec.OnUnhealthy; what != "" && !before.checked {
		h.notice(a)(fmt.Sprintf("x-on-unhealthy: %s has no effect, as neither the service nor its image has a health check; add healthcheck or x-healthcheck", what))
	}
	if err := a.startIt(ctx, op.Aside, h.before); err != nil {
		return err
	}
	if before.live() && before.phase != machine.Stopping && a.view.Load().starts == before.starts {
		return nil // it ran already
	}
	return h.postStart(ctx, a)
}

func (h *host) StopContainer(ctx context.Context, id string, op *plan.Op, again bool) error {
	a, err := h.s.lookup(id)
	if err != nil {
		return err
	}
	c := a.view.Load()
	if (again || op.KeepNetwork) && c.live() {
		if err := errors.Join(append(h.s.engine.Feasible(c.Spec), h.s.engine.CheckRoom())...); err != nil {
			return fmt.Errorf("cannot restart container %s: %w; it is left running", c.Spec.Name, err)
		}
	}
	if op.Drain {
		h.drain(ctx, a, stopOptions{grace: op.Timeout})
	}
	h.preStop(ctx, a)
	err = a.stopIt(ctx, stopOptions{
		signal: op.Signal, grace: op.Timeout, again: again, keepNet: op.KeepNetwork || op.Final && h.down, doom: op.Final, leave: h.leaves(op), notice: h.notice(a),
	})
	if err == nil && again {
		h.s.emit(&a.view.Load().Container, "restart", nil)
	}
	return err
}

// drain waits for the connections that a container serves to end, within the time that
// it is given to end itself.
func (h *host) drain(ctx context.Context, a *actor, o stopOptions) {
	grace := a.grace(o)
	if grace < 0 {
		grace = engine.DefaultStopGrace
	}
	ctx, cancel := context.WithTimeout(ctx, grace)
	defer cancel()
	go func() { // whose connections they are goes, too
		select {
		case <-h.s.goingDown.rung():
			cancel()
		case <-ctx.Done():
		}
	}()
	c := a.view.Load().Container
	if err := h.s.engine.Drained(ctx, &c); err != nil && ctx.Err() == nil {
		h.notice(a)(fmt.Sprintf("its connections are not waited for: %v", err))
	}
}

// HandOver lets a container in that stood aside, in the place of another one.
func (h *host) HandOver(ctx context.Context, id string, op *plan.Op) error {
	to, err := h.s.lookup(id)
	if err != nil {
		return err
	}
	from, err := h.s.lookup(op.Replaces)
	if err != nil {
		from = nil // there is none, or it has gone
	}
	if from == nil && !to.view.Load().State.Aside {
		return nil
	}
	err = to.change(ctx, func(c *engine.Container) error {
		var leaving *netns.Endpoint
		if from != nil && from.view.Load().State.Endpoint != nil {
			ep := *from.view.Load().State.Endpoint
			leaving = &ep
		}
		return h.s.engine.HandOver(ctx, c, leaving, h.s.keeper)
	})
	if err != nil || from == nil {
		return err
	}
	err = from.change(ctx, func(c *engine.Container) error {
		h.s.engine.StepAside(c, h.s.keeper)
		return nil
	})
	if errors.Is(err, engine.ErrNotFound) {
		return nil
	}
	return err
}

func (h *host) KillContainer(ctx context.Context, id string, op *plan.Op) error {
	a, err := h.s.lookup(id)
	if err != nil {
		return err
	}
	return a.killIt(ctx, op.Signal)
}

func (h *host) PauseContainer(ctx context.Context, id string, _ *plan.Op) error {
	a, err := h.s.lookup(id)
	if err != nil {
		return err
	}
	return a.pauseIt(ctx)
}

func (h *host) UnpauseContainer(ctx context.Context, id string, op *plan.Op) error {
	a, err := h.s.lookup(id)
	if err != nil {
		return err
	}
	err = a.unpauseIt(ctx)
	var refused *machine.RefusedError
	if op.ToRun && errors.As(err, &refused) && a.view.Load().phase == machine.Running {
		return nil // somebody else was first
	}
	return err
}

func (h *host) RemoveContainer(ctx context.Context, id string, op *plan.Op) error {
	a, err := h.s.lookup(id)
	if err != nil {
		return nil //nolint:nilerr // somebody else removed it
	}
	return a.removeIt(ctx, removeOptions{force: h.force, volumes: op.Volumes || h.down, leave: h.leaves(op)})
}

func (h *host) RenameContainer(ctx context.Context, id string, op *plan.Op) error {
	a, err := h.s.lookup(id)
	if err != nil {
		return err
	}
	return h.s.renameIt(ctx, a, op.Name)
}

func (h *host) notice(a *actor) func(string) {
	return func(text string) { h.r.event("Container", a.view.Load().Spec.Name, "Warning", text, false) }
}

// Await waits until every container that the operation is about meets its condition.
func (h *host) Await(ctx context.Context, op *plan.Op) error {
	var culprit *view
	var why string
	told := map[string]bool{}
	waiting := ""
	if op.Timeout != nil {
		var cancel context.CancelFunc
		ctx, cancel = bounded(ctx, *op.Timeout)
		defer cancel()
	}
	err := h.s.await(ctx, func(views []*view) (bool, time.Time, error) {
		all := true
		var again time.Time
		for _, v := range views {
			if !h.isAbout(op, v) {
				continue
			}
			verdict, reason, look := judge(op, v, h.s.now())
			if !look.IsZero() && (again.IsZero() || look.Before(again)) {
				again = look
			}
			switch verdict {
			case machine.Failed:
				culprit, why = v, reason
				return false, again, errCondition
			case machine.Pending:
				all = false
				waiting = fmt.Sprintf("container %s %s", called(op, v), reason)
				if op.Condition != machine.ConditionStarted && !told[v.ID] {
					told[v.ID] = true
					text := ""
					if op.Condition == machine.ConditionUp {
						text = reason
					}
					h.r.event("Container", called(op, v), "Waiting", text, false)
				}
			case machine.Met:
				if told[v.ID] {
					delete(told, v.ID)
					status := "Healthy"
					if op.Condition == machine.ConditionCompleted {
						status = "Exited"
					}
					h.r.event("Container", called(op, v), status, "", true)
				}
			}
		}
		return all, again, nil
	})
	switch {
	case errors.Is(err, errCondition):
		return h.conditionFailed(op, culprit, why)
	case err != nil && waiting != "":
		return fmt.Errorf("%w: waiting for %s", err, waiting)
	}
	return err
}

func judge(op *plan.Op, v *view, now time.Time) (machine.Verdict, string, time.Time) {
	if op.Condition == plan.Proven {
		return machine.Proven(v.State, v.checked, !v.busy, op.Monitor, now)
	}
	return machine.Judge(op.Condition, v.State, v.checked, !v.busy, now)
}

var errCondition = errors.New("condition failed")

// called is the name of a container that is waited for: one that is to take another
// one's place is called as it will be.
func called(op *plan.Op, v *view) string {
	if op.Condition == plan.Proven {
		return op.Name
	}
	return v.Spec.Name
}

// isAbout tells whether a wait is for a container.
func (h *host) isAbout(op *plan.Op, v *view) bool {
	if v.phase == machine.Gone || v.phase == machine.Removing {
		return false
	}
	if op.ContainerID != "" {
		return v.ID == op.ContainerID
	}
	return op.Service != "" && v.Project == h.d.Project && v.Service == op.Service && !v.OneOff && !slices.Contains(op.Except, v.ID)
}

// conditionFailed builds the error of a container that failed, with the last lines
// of its log, which usually say why.
func (h *host) conditionFailed(op *plan.Op, v *view, why string) error {
	name := called(op, v)
	text, lines := fmt.Sprintf("container %s %s", name, why), 20
	switch {
	case op.Step > 0:
		text = fmt.Sprintf("cannot start service %s: its pre_start[%d], container %s, %s", op.Service, stepOf(h.d, op).Hook, name, why)
	case op.Condition == plan.Proven:
		text = fmt.Sprintf("cannot update service %s: %s", v.Service, text)
	case op.Condition != plan.Up:
		text, lines = "dependency failed to start: "+text, 10
	}
	if op.Condition != plan.Up {
		h.r.event("Container", name, "Error", why, true)
	}
	if tail := h.s.lastLines(v.ID, lines); tail != "" {
		text += "; its last output was:\n" + tail
	}
	return errors.New(text)
}

// lastLines returns the end of a container's log, indented.
func (s *Supervisor) lastLines(id string, n int) string {
	ctx, cancel := context.WithTimeout(s.ctx, 2*time.Second)
	defer cancel()
	var b strings.Builder
	reader, err := logs.Open(s.engine.LogDir(id))
	if err != nil {
		return ""
	}
	defer reader.Close()
	err = reader.Read(ctx, logs.ReadOptions{Tail: n}, func(e logs.Entry) error {
		b.WriteString("    ")
		b.Write(e.Data)
		b.WriteByte('\n')
		return nil
	})
	if err != nil {
		return ""
	}
	return strings.TrimSuffix(b.String(), "\n")
}

// postStart runs a service's post_start hooks in a container that started.
func (h *host) postStart(ctx context.Context, a *actor) error {
	for _, hook := range h.hooks(a, func(svc *spec.Service) []spec.Hook {
		v := a.view.Load()
		if h.former != nil && isOf(h.former, v) && !isOf(h.d, v) {
			svc = h.former.Services[v.Service]
		}
		return svc.PostStart
	}) {
		if err := h.s.runHook(ctx, a, hook); err != nil {
			return fmt.Errorf("post_start hook of container %s failed: %w", a.view.Load().Spec.Name, err)
		}
	}
	return nil
}

// preStop runs the pre_stop hooks; their failure does not keep a container.
func (h *host) preStop(ctx context.Context, a *actor) {
	if a.view.Load().phase != machine.Running {
		return
	}
	for _, hook := range h.hooks(a, func(svc *spec.Service) []spec.Hook { return svc.PreStop }) {
		if err := h.s.runHook(ctx, a, hook); err != nil {
			h.notice(a)(fmt.Sprintf("its pre_stop hook failed: %v", err))
		}
	}
}

// hooks are those of a container's service, as the project was brought up.
func (h *host) hooks(a *actor, pick func(*spec.Service) []spec.Hook) []spec.Hook {
	v := a.view.Load()
	d := h.d
	if d.Services[v.Service] == nil {
		if d = h.s.desired.Load(); d == nil {
			return nil
		}
	}
	if v.OneOff || d.Services[v.Service] == nil {
		return nil
	}
	return pick(d.Services[v.Service])
}

// isOf says that a container is as a project wants it.
func isOf(d *spec.Desired, v *view) bool {
	r := replica(d, v.Service, v.Index)
	return r != nil && r.Hash == v.Hash
}

func (s *Supervisor) runHook(ctx context.Context, a *actor, hook spec.Hook) error {
	v := a.view.Load()
	if !v.live() {
		return errors.New("the container is not running")
	}
	c := v.Container
	out, code, err := s.engine.ExecOutput(ctx, &c, engine.ExecRequest{
		Process:    engine.Process{Entrypoint: []string{}, Command: hook.Command, Env: hook.Env, User: hook.User, WorkingDir: hook.WorkingDir},
		Privileged: hook.Privileged,
	})
	if err != nil {
		return err
	}
	if code != 0 {
		text := strings.TrimSpace(string(out))
		if text == "" {
			text = "it printed nothing"
		}
		return fmt.Errorf("%s hook exited with status %d: %s", v.Service, code, text)
	}
	return nil
}
