package plan

import (
	"fmt"
	"math/rand/v2"
	"slices"

	"github.com/stack-run/stack/compose/desired"
	"github.com/stack-run/stack/engine/container"
	"github.com/stack-run/stack/healthcheck/health"
	"github.com/stack-run/stack/netns/endpoint"
	"github.com/stack-run/stack/volumes/volume"
)

// world is a machine that obeys a plan and refuses what a real one would.
type world struct {
	Observed
	serial int
	oneOff map[string]bool // services that end with 0 as soon as they start
	// lax starts containers whatever their dependencies are: it was asked to.
	lax bool
	// broken lets a wait fail, and what comes after it be left out.
	broken bool
	single *container.Spec // what a run makes
	fails  int             // an operation that fails, by number
	failed int
}

func newWorld() *world {
	return &world{Observed: Observed{Project: "shop", Schedules: map[string][]desired.Schedule{}}, oneOff: map[string]bool{}}
}

func (w *world) container(id string) *Container {
	for i := range w.Containers {
		if w.Containers[i].ID == id {
			return &w.Containers[i]
		}
	}
	return nil
}

// apply runs the first n operations of a plan (all with n < 0) in an order that
// the graph allows and order picks: an executor that runs them in parallel may
// come by any.
func (w *world) apply(d *desired.Project, p *Plan, n int, order *rand.Rand) error {
	_, _, err := w.carryOut(d, p, n, order)
	return err
}

// carryOut also tells what was done, where an operation fails.
func (w *world) carryOut(d *desired.Project, p *Plan, n int, order *rand.Rand) (done map[int]bool, made map[int]string, err error) {
	made = map[int]string{}
	done = map[int]bool{}
	failed := map[int]bool{}
	left := slices.Clone(p.Ops)
	for n != 0 && len(left) > 0 {
		n--
		var ready []int
		for i, op := range left {
			if !slices.ContainsFunc(op.Deps, func(dep int) bool { return !done[dep] }) {
				ready = append(ready, i)
			}
		}
		i := ready[order.IntN(len(ready))]
		op := left[i]
		left = slices.Delete(left, i, i+1)
		id := op.ContainerID
		if op.Creates != 0 {
			id = made[op.Creates]
		}
		if op.ID == w.fails {
			w.failed = op.ID
			if op.Tolerate == 0 {
				return done, made, fmt.Errorf("[%d] fails", op.ID)
			}
		}
		done[op.ID] = true
		if !op.Anyway && slices.ContainsFunc(op.Deps, func(dep int) bool { return failed[dep] }) {
			failed[op.ID] = true
			continue
		}
		err := w.run(d, op, id, made)
		if err != nil && op.Kind == WaitFor && (w.broken || op.Optional) {
			failed[op.ID] = !op.Optional
			continue
		}
		if err != nil {
			return done, made, fmt.Errorf("[%d] %s: %w\n%s", op.ID, op.line(), err, p.Graph())
		}
	}
	return done, made, nil
}

func (w *world) run(d *desired.Project, op *Op, id string, made map[int]string) error {
	x := w.container(id)
	switch op.Kind {
	case CreateNetwork:
		if w.hasNetwork(op.Name) {
			return fmt.Errorf("exists")
		}
		w.Networks = append(w.Networks, endpoint.Network{NetworkSpec: d.Networks[op.Key].Spec, ID: op.Name})
	case RemoveNetwork:
		for _, c := range w.Containers {
			if c.live() && attached(c.Spec, op.Name) {
				return fmt.Errorf("in use by %s", c.Name)
			}
		}
		w.Networks = slices.DeleteFunc(w.Networks, func(n endpoint.Network) bool { return n.Name == op.Name })
	case CreateVolume:
		w.Volumes = append(w.Volumes, volume.Volume{Spec: d.Volumes[op.Key].Spec})
	case RemoveVolume:
		for _, c := range w.Containers {
			if slices.ContainsFunc(c.Spec.Mounts, func(m volume.Mount) bool { return m.Source == op.Name }) {
				return fmt.Errorf("in use by %s", c.Name)
			}
		}
		w.Volumes = slices.DeleteFunc(w.Volumes, func(v volume.Volume) bool { return v.Name == op.Name })
	case CreateContainer:
		return w.create(d, op, made)
	case StartContainer:
		return w.start(d, x, op)
	case UnpauseContainer:
		if x.Phase != container.Paused {
			return fmt.Errorf("is not paused")
		}
		x.Phase = container.Running
	case PauseContainer:
		if x.Phase != container.Running {
			return fmt.Errorf("does not run")
		}
		x.Phase = container.Paused
	case StopContainer, KillContainer:
		if !x.live() && !op.kept {
			return fmt.Errorf("does not run")
		}
		x.Phase, x.ExitCode, x.Stopping, x.RestartPending = container.Exited, 143, false, false
	case HandOver:
		if !x.live() {
			return fmt.Errorf("does not run")
		}
		x.Aside = false
		if from := w.container(op.Replaces); from != nil {
			from.Aside = true
		}
		return w.room(x)
	case RemoveContainer:
		if x.live() {
			return fmt.Errorf("still runs")
		}
		w.Containers = slices.DeleteFunc(w.Containers, func(c Container) bool { return c.ID == id })
	case RenameContainer:
		if slices.ContainsFunc(w.Containers, func(c Container) bool { return c.Name == op.Name }) {
			return fmt.Errorf("name in use")
		}
		x.Name = op.Name
	case ScheduleJob:
		if slices.Equal(w.Schedules[op.Name], d.Jobs[op.Name].Schedules) {
			return fmt.Errorf("is armed so")
		}
		w.Schedules[op.Name] = d.Jobs[op.Name].Schedules
	case UnscheduleJob:
		if w.Schedules[op.Name] == nil {
			return fmt.Errorf("is not armed")
		}
		delete(w.Schedules, op.Name)
	case WaitFor:
		about := *op
		about.ContainerID = id
		return w.wait(&about)
	}
	return nil
}

func (w *world) hasNetwork(name string) bool {
	return slices.ContainsFunc(w.Networks, func(n endpoint.Network) bool { return n.Name == name })
}

func (w *world) create(d *desired.Project, op *Op, made map[int]string) error {
	if op.OneOff {
		d = &desired.Project{Services: map[string]*desired.Service{op.Service: {Replicas: []desired.Replica{{Spec: *w.single}}}}}
		op = &Op{ID: op.ID, Service: op.Service, Index: 1, Name: op.Name, OneOff: true}
	}
	replica := d.Services[op.Service].Replicas[op.Index-1]
	name := op.Name
	if op.TempName != "" {
		name = op.TempName
	}
	if slices.ContainsFunc(w.Containers, func(c Container) bool { return c.Name == name }) {
		return fmt.Errorf("name %s in use", name)
	}
	for _, a := range replica.Spec.Network.Networks {
		if !w.hasNetwork(a.Network) {
			return fmt.Errorf("no network %s", a.Network)
		}
	}
	for _, m := range replica.Spec.Mounts {
		if m.Type == volume.TypeVolume && !slices.ContainsFunc(w.Volumes, func(v volume.Volume) bool { return v.Name == m.Source }) {
			return fmt.Errorf("no volume %s", m.Source)
		}
	}
	w.serial++
	id := fmt.Sprintf("%012x%052d", w.serial, 0)
	made[op.ID] = id
	s := replica.Spec
	w.Containers = append(w.Containers, Container{ID: id, Name: name, Service: op.Service, Index: op.Index, OneOff: op.OneOff, Hash: replica.Hash, ImageID: s.ImageID, Phase: container.Created, Spec: &s})
	return nil
}

func (w *world) start(d *desired.Project, x *Container, op *Op) error {
	if x == nil {
		return fmt.Errorf("no such container")
	}
	if x.live() && !x.waits() {
		if w.lax {
			return nil // as the executor does
		}
		return fmt.Errorf("runs already")
	}
	x.RestartPending, x.Aside = false, op.Aside
	if err := w.room(x); err != nil {
		return err
	}
	for _, a := range x.Spec.Network.Networks {
		if !w.hasNetwork(a.Network) {
			return fmt.Errorf("no network %s", a.Network)
		}
	}
	if s := d.Services[op.Service]; s != nil && !w.lax {
		for dep, how := range s.DependsOn {
			for _, c := range w.Containers {
				if w.broken && c.Phase == container.Created {
					continue // a boot starts nothing that was never started
				}
				if c.Service == dep && !c.OneOff && how.Required && !met(how.Condition, &c) && !isTempName(c.Name, c.Spec.Name) && len(d.Services[dep].Replicas) >= c.Index {
					return fmt.Errorf("%s is %s", c.Name, c.Phase)
				}
			}
		}
	}
	x.Phase, x.Health = container.Running, health.Healthy
	if w.oneOff[x.Service] {
		x.Phase, x.Health, x.ExitCode = container.Exited, "", 0
	}
	return nil
}

// room says what another container has that x needs for itself.
func (w *world) room(x *Container) error {
	for _, c := range w.Containers {
		if !c.live() || c.ID == x.ID {
			continue
		}
		for _, a := range c.Spec.Network.Ports {
			for _, b := range x.Spec.Network.Ports {
				if a.HostPort == b.HostPort && (c.Service != x.Service || a.HostIP != b.HostIP && !c.Aside && !x.Aside) {
					return fmt.Errorf("port %d in use by %s", a.HostPort, c.Name)
				}
			}
		}
		for _, a := range c.Spec.Network.Networks {
			for _, b := range x.Spec.Network.Networks {
				if a.IPv4.IsValid() && a.IPv4 == b.IPv4 {
					return fmt.Errorf("address %s in use by %s", a.IPv4, c.Name)
				}
			}
		}
	}
	return nil
}

func (w *world) wait(op *Op) error {
	for i := range w.Containers {
		c := &w.Containers[i]
		if c.Service != op.Service || c.OneOff != op.OneOff || op.ContainerID != "" && op.ContainerID != c.ID {
			continue
		}
		if c.RestartPending { // so does a restart
			c.Phase, c.Health, c.RestartPending = container.Running, health.Healthy, false
		}
		if w.oneOff[c.Service] && c.live() {
			c.Phase, c.ExitCode = container.Exited, 0 // it ends while it is waited for
		}
		if !met(op.Condition, c) {
			return fmt.Errorf("%s is %s", c.Name, c.Phase)
		}
	}
	return nil
}

func met(condition string, c *Container) bool {
	switch condition {
	case "service_healthy":
		return c.Phase == container.Running && c.Health == health.Healthy
	case Completed:
		return c.Phase == container.Exited && c.ExitCode == 0
	case Up, Proven:
		return c.Phase == container.Running || c.Phase == container.Exited && c.ExitCode == 0
	}
	return c.live() || c.Phase == container.Exited
}
