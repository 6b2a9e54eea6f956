package plan

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/stack-run/stack/compose/desired"
	"github.com/stack-run/stack/engine/container"
)

// lifecycle plans the verbs that act on containers that exist.
type lifecycle struct {
	request  Request
	wanted   *desired.Project // with what labels alone tell of
	observed *Observed
	plan     *Plan

	order []string // all services, dependencies first
	// done are, by service, the operations after which its containers are as the
	// verb wants them.
	done  map[string][]*Op
	waits map[string]*Op
	// restarted are those that were just before, by service.
	restarted map[string][]*Container
}

func newLifecycle(r Request, o *Observed) (*lifecycle, error) {
	wanted := knownProject(r.Desired, *o)
	for _, name := range r.Services {
		if wanted.Jobs[name] != nil {
			return nil, desired.RunOnly(name)
		}
	}
	wanted.Services = wanted.All() // they stop before what they depend on
	l := &lifecycle{
		request: r, wanted: wanted, observed: o,
		plan: &Plan{replicas: map[string]int{}}, done: map[string][]*Op{}, waits: map[string]*Op{}, restarted: map[string][]*Container{},
	}
	for name, s := range l.wanted.Services {
		l.plan.replicas[name] = len(s.Replicas)
	}
	all := slices.Sorted(maps.Keys(l.wanted.Services))
	order, err := dependencyOrder(all, func(name string) []string { return dependencyNames(l.wanted, name) })
	if err != nil {
		// The labels of containers from different definitions may add up to a
		// cycle. That must not keep anything from being stopped.
		order = all
	}
	l.order = order
	return l, nil
}

func makeLifecycle(r Request, o Observed) (*Plan, error) {
	l, err := newLifecycle(r, &o)
	if err != nil {
		return nil, err
	}
	var chosen []*Container
	if r.Verb != VerbResume {
		if chosen, err = l.selected(); err != nil {
			return nil, err
		}
	}
	if len(r.Containers) == 0 && (r.Verb == VerbStart || r.Verb == VerbRestart) {
		chosen = l.current(chosen)
	}
	switch {
	case r.Schedules && (r.Verb == VerbStart || r.Verb == VerbRestart):
		chosen = slices.DeleteFunc(chosen, func(x *Container) bool { return l.wanted.Jobs[x.Service] != nil })
	case r.Schedules && r.Verb == VerbStop:
		for i := range o.Containers {
			if x := &o.Containers[i]; x.due() != "" && !slices.Contains(chosen, x) {
				chosen = append(chosen, x)
			}
		}
	}
	switch r.Verb {
	case VerbStart:
		err = l.start(chosen)
	case VerbRestart:
		if r.Dependents {
			l.restartDependents(chosen)
		} else {
			l.restart(chosen)
		}
	case VerbResume:
		l.resume()
	case VerbUnpause:
		l.unpause(chosen)
	default:
		l.takeDown(chosen)
	}
	if err != nil {
		return nil, err
	}
	if r.Schedules {
		switch r.Verb {
		case VerbStart, VerbRestart:
			l.plan.arm(l.wanted, o)
		case VerbStop:
			l.plan.disarmFirst(o, "stop")
		}
	}
	return l.plan, l.plan.finish()
}

// selected are the containers that the request means.
func (l *lifecycle) selected() ([]*Container, error) {
	r := l.request
	var out []*Container
	if len(r.Containers) > 0 || r.Schedules {
		for _, id := range r.Containers {
			x := l.container(id)
			if x == nil && r.Verb == VerbRemove {
				continue // gone since it was chosen, for example by a supervisor that finished a removal
			}
			if x == nil {
				return nil, fmt.Errorf("no such container: %s", id)
			}
			out = append(out, x)
		}
		return out, nil
	}
	whole := r.Whole || r.Desired == nil
	known := r.Desired
	if whole {
		known = l.wanted
	}
	if err := checkServices(known, r.Services); err != nil {
		return nil, err
	}
	var others []*Container
	for i := range l.observed.Containers {
		x := &l.observed.Containers[i]
		switch {
		case x.OneOff && r.Verb != VerbKill:
		case len(r.Services) > 0:
			if slices.Contains(r.Services, x.Service) {
				out = append(out, x)
			}
		case whole || declares(known, x.Service):
			out = append(out, x)
		case !x.from(known):
			others = append(others, x)
		}
	}
	l.plan.tellOthers(others)
	return out, nil
}

func (l *lifecycle) container(id string) *Container {
	for i := range l.observed.Containers {
		if x := &l.observed.Containers[i]; x.ID == id {
			return x
		}
	}
	return nil
}

// numbered are the containers of a service, one-offs left out. Where a machine went
// down, or all of ours were killed, while a container was replaced, there are two of
// one number: that which ran last is the service, and the next up removes the other.
func (l *lifecycle) numbered(service string) []*Container {
	var out []*Container
	for i := range l.observed.Containers {
		if x := &l.observed.Containers[i]; x.Service == service && !x.OneOff {
			out = append(out, x)
		}
	}
	all := slices.Clone(out)
	return slices.DeleteFunc(out, func(x *Container) bool {
		return !x.live() && x.Index > 0 && slices.ContainsFunc(all, func(y *Container) bool {
			return y.ID != x.ID && y.Index == x.Index && y.supersedes(x)
		})
	})
}

// superseded are the IDs of a service's containers whose place another one has.
func (l *lifecycle) superseded(service string) []string {
	var out []string
	numbered := l.numbered(service)
	for i := range l.observed.Containers {
		if x := &l.observed.Containers[i]; x.Service == service && !x.OneOff && !slices.Contains(numbered, x) {
			out = append(out, x.ID)
		}
	}
	return out
}

// current leaves out the containers whose place another one has.
func (l *lifecycle) current(chosen []*Container) []*Container {
	return slices.DeleteFunc(chosen, func(x *Container) bool {
		return !x.OneOff && !slices.Contains(l.numbered(x.Service), x)
	})
}

// supersedes tells which of two containers of one service and number has its place.
func (c *Container) supersedes(o *Container) bool {
	if c.live() != o.live() {
		return c.live()
	}
	return cmp.Or(c.StartedAt.Compare(o.StartedAt), c.Created.Compare(o.Created), strings.Compare(c.ID, o.ID)) > 0
}

// byService groups containers; within a service they are in the order of
// numbers and names.
func byService(containers []*Container) map[string][]*Container {
	out := map[string][]*Container{}
	for _, x := range containers {
		out[x.Service] = append(out[x.Service], x)
	}
	for _, list := range out {
		slices.SortStableFunc(list, func(a, b *Container) int {
			if a.Index != b.Index {
				return a.Index - b.Index
			}
			return strings.Compare(a.Name, b.Name)
		})
	}
	return out
}

// orderOf is the order of services, and then those that no project has.
func (l *lifecycle) orderOf(groups map[string][]*Container) []string {
	order := slices.Clone(l.order)
	for _, name := range slices.Sorted(maps.Keys(groups)) {
		if !slices.Contains(order, name) {
			order = append(order, name)
		}
	}
	return order
}

// nearest are the operations of those services that follow leads to, past the
// ones that have none: an order holds through services that are left alone.
func (l *lifecycle) nearest(service string, follow func(string) []string) []*Op {
	var ops []*Op
	seen := map[string]bool{service: true}
	var visit func(string)
	visit = func(name string) {
		for _, next := range follow(name) {
			if seen[next] {
				continue
			}
			seen[next] = true
			if len(l.done[next]) > 0 {
				ops = append(ops, l.done[next]...)
			} else {
				visit(next)
			}
		}
	}
	visit(service)
	return ops
}

func (l *lifecycle) dependents(service string) []string {
	var out []string
	for _, name := range l.order {
		if _, ok := l.wanted.Services[name].DependsOn[service]; ok {
			out = append(out, name)
		}
	}
	return out
}

// inReverse has each container acted on after those of the services that depend
// on its own. act returns the operation after which it is done with, or nil.
func (l *lifecycle) inReverse(chosen []*Container, act func(x *Container, after []*Op) *Op) {
	groups := byService(chosen)
	order := l.orderOf(groups)
	slices.Reverse(order)
	for _, name := range order {
		after := l.nearest(name, l.dependents)
		list := groups[name]
		slices.Reverse(list)
		var done []*Op
		for _, x := range list {
			if op := act(x, after); op != nil {
				done = append(done, op)
			}
		}
		l.done[name] = done
	}
}

// takeDown plans stop, kill, pause and remove. Each goes on after errors: what
// can be taken down is.
func (l *lifecycle) takeDown(chosen []*Container) {
	l.plan.KeepGoing = true
	r := l.request
	named := len(r.Containers) > 0
	l.inReverse(chosen, func(x *Container, after []*Op) *Op {
		switch r.Verb {
		case VerbStop:
			if x.live() {
				return l.stop(x, "stop", after...)
			}
		case VerbKill:
			// What was named and does not run is for the executor to refuse: others
			// are killed all the same.
			if x.live() || named {
				op := l.op(KillContainer, x, "kill")
				op.Signal = r.Signal
				return l.plan.add(op, after...)
			}
		case VerbPause:
			if x.Phase == container.Running || x.Phase == container.Paused || named {
				return l.plan.add(l.op(PauseContainer, x, "pause"), after...)
			}
		case VerbRemove:
			return l.remove(x, named, after)
		}
		return nil
	})
	for _, op := range l.plan.Ops {
		op.Anyway = true
	}
}

func (l *lifecycle) remove(x *Container, named bool, after []*Op) *Op {
	r := l.request
	if x.live() {
		switch {
		case r.Force:
			op := l.stop(x, "remove --force", after...)
			op.Signal, op.Timeout = "SIGKILL", new(time.Duration)
			after = []*Op{op}
		case r.Stop:
			after = []*Op{l.stop(x, "remove --stop", after...)}
		case !named:
			return nil
		}
	}
	op := l.op(RemoveContainer, x, "remove")
	op.Volumes = r.Volumes
	return l.plan.add(op, after...)
}

func (l *lifecycle) op(kind OpKind, x *Container, cause string) *Op {
	op := &Op{Kind: kind, Service: x.Service, Index: x.Index, Name: x.Name, ContainerID: x.ID, OneOff: x.OneOff, Cause: cause}
	// What an interrupted update left aside stays there while another one serves.
	op.Aside = kind == StartContainer && x.Aside && slices.ContainsFunc(l.observed.Containers, func(y Container) bool {
		return y.Service == x.Service && y.Index == x.Index && y.ID != x.ID && y.live()
	})
	return op
}

func (l *lifecycle) stop(x *Container, cause string, after ...*Op) *Op {
	op := l.op(StopContainer, x, cause)
	op.Timeout, op.Signal = l.request.Timeout, l.request.Signal
	return l.plan.add(op, after...)
}

// unpause thaws, dependencies first.
func (l *lifecycle) unpause(chosen []*Container) {
	l.plan.KeepGoing = true
	named := len(l.request.Containers) > 0
	groups := byService(chosen)
	for _, name := range l.orderOf(groups) {
		after := l.nearest(name, func(s string) []string { return dependencyNames(l.wanted, s) })
		var done []*Op
		for _, x := range groups[name] {
			if x.Phase != container.Paused && !named {
				continue
			}
			op := l.plan.add(l.op(UnpauseContainer, x, "unpause"), after...)
			op.Anyway = true
			done = append(done, op)
		}
		l.done[name] = done
	}
}

// start plans to start what does not run, and what that depends on.
func (l *lifecycle) start(chosen []*Container) error {
	if len(l.request.Containers) == 0 && !l.request.Schedules {
		for _, name := range l.request.Services {
			if !slices.ContainsFunc(chosen, func(x *Container) bool { return x.Service == name }) {
				return fmt.Errorf("service %q has no container to start; create it with: stack up -d %s", name, name)
			}
		}
		if len(chosen) == 0 {
			return fmt.Errorf("there is no container to start; create some with: stack up -d")
		}
	}
	all := chosen
	if !l.request.NoDeps {
		all = l.withDependencies(chosen)
	}
	l.startInOrder(all)
	l.waitUp(chosen)
	return nil
}

// withDependencies adds the containers of the services that those of chosen
// depend on and that do not run. A job that has succeeded is done, where nobody
// asks for more than its completion.
func (l *lifecycle) withDependencies(chosen []*Container) []*Container {
	out := slices.Clone(chosen)
	var services []string
	for _, x := range chosen {
		if !x.OneOff {
			services = append(services, x.Service)
		}
	}
	all := withDependencies(l.wanted, services)
	for _, name := range all {
		job := !slices.ContainsFunc(all, func(other string) bool {
			how, ok := l.wanted.Services[other].DependsOn[name]
			return ok && condition(how) != Completed
		})
		for _, x := range l.numbered(name) {
			if !slices.Contains(out, x) && !(job && x.succeeded()) {
				out = append(out, x)
			}
		}
	}
	return out
}

func (l *lifecycle) startInOrder(containers []*Container) {
	groups := byService(containers)
	for _, name := range l.orderOf(groups) {
		var ready []*Op
		asked := false // what nothing waits for needs no waiting
		var done []*Op
		for _, x := range groups[name] {
			if x.live() && !x.Stopping && !x.waits() && x.Phase != container.Paused {
				continue
			}
			if !asked && !x.OneOff {
				ready, asked = l.ready(name), true
			}
			after := ready
			if x.OneOff {
				after = nil
			}
			switch {
			case x.Stopping:
				stop := l.plan.add(l.op(StopContainer, x, "is being stopped"))
				stop.KeepNetwork = true
				done = append(done, l.plan.add(l.op(StartContainer, x, "is being stopped"), append(slices.Clone(after), stop)...))
			case x.Phase == container.Paused:
				thaw := l.plan.add(l.op(UnpauseContainer, x, "is paused"), after...)
				thaw.ToRun = true
				done = append(done, thaw)
			default:
				done = append(done, l.plan.add(l.op(StartContainer, x, whyStart(x)), after...))
			}
		}
		l.done[name] = done
	}
}

// ready are the operations after which a container of a service may start. Of
// what the service depends on only that counts which has containers: the rest was
// left out on purpose.
func (l *lifecycle) ready(service string) []*Op {
	s := l.wanted.Services[service]
	if s == nil {
		return nil
	}
	var ops []*Op
	for _, name := range dependencyNames(l.wanted, service) {
		how := s.DependsOn[name]
		starting := l.done[name]
		started := condition(how) == Started
		switch {
		case !slices.ContainsFunc(l.numbered(name), func(x *Container) bool { return x.Phase != container.Created || len(starting) > 0 }):
			// It has no container, or none that ever ran or is about to.
		case l.request.NoDeps && len(starting) == 0:
		case started && (how.Required || !l.plan.KeepGoing):
			ops = append(ops, starting...)
		case started && len(starting) == 0:
		default:
			ops = append(ops, l.wait(name, how, starting))
		}
	}
	return ops
}

// wait is the one operation that waits for a condition of a service for those
// that need it, and another one for those that can do without.
func (l *lifecycle) wait(name string, how desired.Dependency, after []*Op) *Op {
	key := fmt.Sprint(name, condition(how), how.Required)
	if l.waits[key] == nil {
		l.waits[key] = l.plan.add(&Op{
			Kind: WaitFor, Service: name, Name: name, Condition: condition(how), Except: l.superseded(name),
			Optional: !how.Required, Anyway: !how.Required, Cause: "depends_on",
		}, after...)
	}
	return l.waits[key]
}

// waitFor waits for one container that is started, after start if that is not nil.
func (l *lifecycle) waitFor(service string, index int, id string, how desired.Dependency, start *Op) *Op {
	key := fmt.Sprint(id, condition(how), how.Required)
	if l.waits[key] == nil {
		l.waits[key] = l.plan.add(&Op{
			Kind: WaitFor, Service: service, Index: index, Name: service, ContainerID: id,
			Condition: condition(how), Optional: !how.Required, Anyway: !how.Required, Cause: "depends_on",
		}, start)
	}
	return l.waits[key]
}

// waitUp ends the plan with waiting for containers to be up.
func (l *lifecycle) waitUp(chosen []*Container) {
	if !l.request.Wait {
		return
	}
	after := l.plan.starting()
	groups := byService(chosen)
	for _, name := range l.orderOf(groups) {
		for _, x := range groups[name] {
			op := l.op(WaitFor, x, "--wait")
			op.Condition, op.Timeout = Up, waitLimit(l.request.WaitTimeout)
			l.plan.add(op, after...)
		}
	}
}

// restart plans to stop and start containers and, unless NoDeps is set, the
// running ones of services that depend on theirs with restart: true. A service is
// stopped only when what it depends on is ready again: if that fails, it runs on.
func (l *lifecycle) restart(chosen []*Container) {
	cause := map[*Container]string{}
	all := slices.Clone(chosen)
	for _, x := range chosen {
		cause[x] = "restart"
	}
	if !l.request.NoDeps {
		for _, x := range l.restartWith(chosen) {
			all, cause[x] = append(all, x), "depends on what is restarted"
		}
	}
	l.restartAll(all, cause)
}

// restartDependents is restart of those alone that restart with the chosen ones, which
// have been restarted, when these are as they need them.
func (l *lifecycle) restartDependents(chosen []*Container) {
	cause := map[*Container]string{}
	all := l.restartWith(chosen)
	for _, x := range all {
		cause[x] = "depends on what was unhealthy"
	}
	for _, x := range chosen {
		if !x.OneOff {
			l.restarted[x.Service] = append(l.restarted[x.Service], x)
		}
	}
	l.restartAll(all, cause)
}

// restartWith are the running containers of services that depend on those of the chosen
// ones with restart: true.
func (l *lifecycle) restartWith(chosen []*Container) (out []*Container) {
	var services []string
	for _, x := range chosen {
		if !x.OneOff {
			services = append(services, x.Service)
		}
	}
	for _, name := range withDependents(l.wanted, services, func(d desired.Dependency) bool { return d.Restart }) {
		if slices.Contains(services, name) {
			continue
		}
		for _, x := range l.numbered(name) {
			if x.live() && !slices.Contains(chosen, x) {
				out = append(out, x)
			}
		}
	}
	return out
}

// restartAll restarts containers, each for its cause.
func (l *lifecycle) restartAll(all []*Container, cause map[*Container]string) {
	groups := byService(all)
	for _, name := range l.orderOf(groups) {
		var ready []*Op
		if slices.ContainsFunc(groups[name], func(x *Container) bool { return !x.OneOff }) {
			ready = l.readyAgain(name)
		}
		var done []*Op
		for _, x := range groups[name] {
			after := ready
			if x.OneOff {
				after = nil
			}
			why := cause[x]
			if !x.live() {
				why = whyStart(x)
			} else {
				stop := l.stop(x, why, after...)
				stop.KeepNetwork = true
				after = []*Op{stop}
			}
			done = append(done, l.plan.add(l.op(StartContainer, x, why), after...))
		}
		l.done[name] = done
	}
}

// readyAgain is ready for a service of whose dependencies only those matter that
// are restarted.
func (l *lifecycle) readyAgain(service string) []*Op {
	s := l.wanted.Services[service]
	if s == nil {
		return nil
	}
	var ops []*Op
	for _, name := range dependencyNames(l.wanted, service) {
		how := s.DependsOn[name]
		if condition(how) != Started {
			for _, x := range l.restarted[name] {
				ops = append(ops, l.waitFor(x.Service, x.Index, x.ID, how, nil))
			}
		}
		switch starting := l.done[name]; {
		case len(starting) == 0:
		case condition(how) == Started:
			ops = append(ops, starting...)
		default:
			// Another container of the service may be down, and is not waited for.
			for _, start := range starting {
				ops = append(ops, l.waitFor(start.Service, start.Index, start.ContainerID, how, start))
			}
		}
	}
	return ops
}

// resume plans to start what ran before the machine went down and is to run
// again, each when what it depends on is as it needs it. What is broken keeps
// only those down that need it.
func (l *lifecycle) resume() {
	l.plan.KeepGoing = true
	var chosen []*Container
	for i := range l.observed.Containers {
		if x := &l.observed.Containers[i]; !x.live() && !x.OneOff && x.startsAtBoot() {
			chosen = append(chosen, x)
		}
	}
	var services []string
	for _, x := range chosen {
		services = append(services, x.Service)
	}
	for _, name := range withDependencies(l.wanted, services) {
		for _, x := range l.numbered(name) {
			if !x.live() && !x.StoppedByUser && x.wasRunning() && !slices.Contains(chosen, x) {
				chosen = append(chosen, x)
			}
		}
	}
	l.startInOrder(l.current(chosen))
	for _, op := range l.plan.Ops {
		if op.Kind == StartContainer {
			if x := l.container(op.ContainerID); x.startsAtBoot() {
				op.Cause = "restart: " + x.restartPolicy()
			} else {
				op.Cause = "ran before, and is depended on"
			}
		}
	}
}

// wasRunning says that the container has never been seen to end since it was
// started.
func (c *Container) wasRunning() bool {
	return !c.StartedAt.IsZero() && c.FinishedAt.Before(c.StartedAt)
}

func (c *Container) restartPolicy() string {
	if c.Spec == nil {
		return ""
	}
	return c.Spec.Restart.Policy
}

// startsAtBoot says that its restart policy wants the container to start with
// the machine.
func (c *Container) startsAtBoot() bool {
	switch c.restartPolicy() {
	case "always":
		return true
	case "unless-stopped":
		return !c.StoppedByUser
	case "on-failure":
		return c.wasRunning() && !c.StoppedByUser
	}
	return false
}

// succeeded says that the container ended by itself and with success.
func (c *Container) succeeded() bool {
	return c.Phase == container.Exited && c.ExitCode == 0 && !c.StoppedByUser && !c.live()
}
