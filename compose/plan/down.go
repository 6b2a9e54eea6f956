package plan

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/stack-run/stack/compose/desired"
	"github.com/stack-run/stack/engine/container"
	"github.com/stack-run/stack/netns/endpoint"
	"github.com/stack-run/stack/volumes/volume"
)

// Down plans to take a project away: containers in reverse order of
// dependencies, as parallel as that allows, then networks and, if asked for,
// volumes. It goes by what exists and is tagged with the project, so nothing is
// left of a service, profile or network that the file no longer has. wanted
// gives the order; it may be nil, then the containers' labels do.
//
// With services named, those and what depends on them go, and a network or
// volume only if nothing else uses it.
func Down(wanted *desired.Project, observed Observed, o DownOptions) (*Plan, error) {
	wanted = knownProject(wanted, observed)
	plan := &Plan{replicas: map[string]int{}}
	for name, s := range wanted.Services {
		plan.replicas[name] = len(s.Replicas)
	}
	all := len(o.Services) == 0
	selected := map[string]bool{}
	if !all {
		if err := checkServices(wanted, o.Services); err != nil {
			return nil, err
		}
		for _, name := range withDependents(wanted, o.Services, func(desired.Dependency) bool { return true }) {
			selected[name] = true
		}
	}
	var going, staying []*Container
	for i := range observed.Containers {
		x := &observed.Containers[i]
		if all || selected[x.Service] {
			going = append(going, x)
		} else {
			staying = append(staying, x)
		}
	}
	stopped, removed := removeInReverse(plan, wanted, going, o)
	// In the order of names, so that one state has one plan.
	for _, n := range slices.SortedFunc(slices.Values(observed.Networks), func(a, b endpoint.Network) int { return strings.Compare(a.Name, b.Name) }) {
		if n.Project != observed.Project || n.Project == "" || slices.ContainsFunc(staying, func(x *Container) bool { return x.Spec == nil || attached(x.Spec, n.Name) }) {
			continue
		}
		if !all && !usesNetwork(going, n.Name) {
			continue
		}
		plan.add(&Op{Kind: RemoveNetwork, Name: n.Name, Key: n.Key, Cause: "down"}, usersOf(stopped, func(x *Container) bool { return x.Spec == nil || attached(x.Spec, n.Name) })...)
	}
	if o.Volumes {
		for _, v := range slices.SortedFunc(slices.Values(observed.Volumes), func(a, b volume.Volume) int { return strings.Compare(a.Name, b.Name) }) {
			mounts := func(x *Container) bool { return x.Spec == nil || mountsVolume(x.Spec, v.Name) }
			if v.Project != observed.Project || v.Project == "" || v.Anonymous || slices.ContainsFunc(staying, mounts) {
				continue
			}
			if !all && !slices.ContainsFunc(going, mounts) {
				continue
			}
			if o.Declared != nil && !slices.Contains(o.Declared, v.Name) {
				plan.Warnings = append(plan.Warnings, fmt.Sprintf("volume %s is kept: the Compose file does not declare it; \"stack volume rm %s\" removes it", v.Name, v.Name))
				continue
			}
			plan.add(&Op{Kind: RemoveVolume, Name: v.Name, Key: v.Key, Cause: "down --volumes"}, usersOf(removed, mounts)...)
		}
	}
	return plan, plan.finish()
}

func usesNetwork(containers []*Container, name string) bool {
	return slices.ContainsFunc(containers, func(x *Container) bool { return x.Spec != nil && attached(x.Spec, name) })
}

func mountsVolume(s *container.Spec, name string) bool {
	return len(s.VolumesFrom) > 0 || slices.ContainsFunc(s.Mounts, func(m volume.Mount) bool { return m.Source == name })
}

func usersOf(removed map[*Container]*Op, uses func(*Container) bool) []*Op {
	var ops []*Op
	for x, op := range removed {
		if uses(x) {
			ops = append(ops, op)
		}
	}
	return ops
}

// removeInReverse stops and removes containers; a dependency is stopped when
// all that depend on it are gone. It returns the operations after which a
// container uses its networks no more, and those after which it is gone.
func removeInReverse(plan *Plan, wanted *desired.Project, going []*Container, o DownOptions) (stopped, removed map[*Container]*Op) {
	byService := map[string][]*Container{}
	for _, x := range going {
		byService[x.Service] = append(byService[x.Service], x)
	}
	order, err := dependencyOrder(slices.Collect(maps.Keys(byService)), func(name string) []string { return dependencyNames(wanted, name) })
	if err != nil {
		// The labels of containers from different definitions may add up to a
		// cycle. Taking a project away must not fail because of it.
		order = slices.Sorted(maps.Keys(byService))
	}
	slices.Reverse(order)
	done := map[string][]*Op{}
	stopped, removed = map[*Container]*Op{}, map[*Container]*Op{}
	for _, name := range order {
		var before []*Op
		for other, s := range wanted.Services {
			if _, ok := s.DependsOn[name]; ok {
				before = append(before, done[other]...)
			}
		}
		slices.SortFunc(byService[name], func(a, b *Container) int { return b.Index - a.Index })
		for _, x := range byService[name] {
			after := before
			if x.live() {
				stop := &Op{Kind: StopContainer, Service: name, Index: x.Index, Name: x.Name, ContainerID: x.ID, Timeout: o.Timeout, Cause: "down"}
				after = []*Op{plan.add(stop, before...)}
				stopped[x] = stop
			}
			op := plan.add(&Op{Kind: RemoveContainer, Service: name, Index: x.Index, Name: x.Name, ContainerID: x.ID, Volumes: o.Volumes, Cause: "down"}, after...)
			removed[x] = op
			if stopped[x] == nil {
				stopped[x] = op
			}
			done[name] = append(done[name], op)
		}
	}
	return stopped, removed
}

// knownProject fills in, from the labels of containers, the services that
// desired does not have.
func knownProject(wanted *desired.Project, observed Observed) *desired.Project {
	out := desired.Project{Project: observed.Project}
	if wanted != nil {
		out = *wanted
	}
	services := maps.Clone(out.Services)
	if services == nil {
		services = map[string]*desired.Service{}
	}
	for i := range observed.Containers {
		x := &observed.Containers[i]
		if _, ok := services[x.Service]; ok || x.Spec == nil {
			continue
		}
		s := &desired.Service{Name: x.Service, DependsOn: map[string]desired.Dependency{}}
		for part := range strings.SplitSeq(x.Spec.Labels[desired.LabelDependsOn], ",") {
			if f := strings.Split(part, ":"); len(f) == 3 {
				s.DependsOn[f[0]] = desired.Dependency{Condition: f[1], Restart: f[2] == "true"}
			}
		}
		services[x.Service] = s
	}
	out.Services = services
	return &out
}

// Stop plans to stop services in reverse order of dependencies.
func Stop(wanted *desired.Project, observed Observed, o StopOptions) (*Plan, error) {
	wanted = knownProject(wanted, observed)
	if err := checkServices(wanted, o.Services); err != nil {
		return nil, err
	}
	plan := &Plan{replicas: replicaCounts(wanted)}
	_, err := planStops(plan, wanted, observed, o.Services, o, "stop")
	if err != nil {
		return nil, err
	}
	return plan, plan.finish()
}

func replicaCounts(d *desired.Project) map[string]int {
	counts := map[string]int{}
	for name, s := range d.Services {
		counts[name] = len(s.Replicas)
	}
	return counts
}

// planStops stops the containers of services (empty: all), dependents first.
func planStops(plan *Plan, wanted *desired.Project, observed Observed, services []string, o StopOptions, cause string) (map[string][]*Op, error) {
	if len(services) == 0 {
		services = slices.Sorted(maps.Keys(wanted.Services))
	}
	order, err := dependencyOrder(services, func(name string) []string { return dependencyNames(wanted, name) })
	if err != nil {
		return nil, err
	}
	slices.Reverse(order)
	stops := map[string][]*Op{}
	for _, name := range order {
		var before []*Op
		for other, s := range wanted.Services {
			if _, ok := s.DependsOn[name]; ok {
				before = append(before, stops[other]...)
			}
		}
		for i := range observed.Containers {
			x := &observed.Containers[i]
			if x.Service != name || x.OneOff || !x.live() {
				continue
			}
			op := &Op{Kind: StopContainer, Service: name, Index: x.Index, Name: x.Name, ContainerID: x.ID, Timeout: o.Timeout, Cause: cause}
			stops[name] = append(stops[name], plan.add(op, before...))
		}
	}
	return stops, nil
}

// Start plans to start the existing containers of services and, unless NoDeps
// is set, of what they depend on, in the order of depends_on and with its
// conditions.
func Start(wanted *desired.Project, observed Observed, o StopOptions) (*Plan, error) {
	wanted = knownProject(wanted, observed)
	if err := checkServices(wanted, o.Services); err != nil {
		return nil, err
	}
	services := o.Services
	if len(services) == 0 {
		services = slices.Sorted(maps.Keys(wanted.Services))
	} else if !o.NoDeps {
		services = withDependencies(wanted, services)
	}
	plan := &Plan{replicas: replicaCounts(wanted)}
	err := planStarts(plan, wanted, observed, services, nil)
	if err != nil {
		return nil, err
	}
	return plan, plan.finish()
}

// planStarts starts what does not run, or, with stops, what is stopped by them.
func planStarts(plan *Plan, wanted *desired.Project, observed Observed, services []string, stops map[string][]*Op) error {
	order, err := dependencyOrder(services, func(name string) []string { return dependencyNames(wanted, name) })
	if err != nil {
		return err
	}
	c := &computer{desired: wanted, plan: plan, inScope: map[string]bool{}, starts: map[string][]*Op{}, waits: map[string]*Op{}}
	c.opts.NoDeps = true // what is outside of services is not waited for
	for _, name := range order {
		c.inScope[name] = true
	}
	for _, name := range order {
		found := false
		for i := range observed.Containers {
			x := &observed.Containers[i]
			if x.Service != name || x.OneOff {
				continue
			}
			found = true
			at := slices.IndexFunc(stops[name], func(op *Op) bool { return op.ContainerID == x.ID })
			cause := "restart"
			switch {
			case at >= 0:
			case x.Phase == container.Paused:
				plan.add(c.op(UnpauseContainer, x, name, "is paused"))
				continue
			case x.live():
				continue
			default:
				cause = whyStart(x)
			}
			var after []*Op
			if at >= 0 {
				after = append(after, stops[name][at])
			}
			op := plan.add(c.op(StartContainer, x, name, cause), append(c.ready(name), after...)...)
			c.starts[name] = append(c.starts[name], op)
		}
		if !found && stops == nil && len(wanted.Services[name].Replicas) > 0 {
			return fmt.Errorf("cannot start service %q: it has no container; create it with \"stack up %s\"", name, name)
		}
	}
	return nil
}

// Restart plans to stop and start services and, unless NoDeps is set, those
// that depend on them with restart: true.
func Restart(wanted *desired.Project, observed Observed, o StopOptions) (*Plan, error) {
	wanted = knownProject(wanted, observed)
	if err := checkServices(wanted, o.Services); err != nil {
		return nil, err
	}
	services := o.Services
	if len(services) == 0 {
		services = slices.Sorted(maps.Keys(wanted.Services))
	} else if !o.NoDeps {
		services = withDependents(wanted, services, func(d desired.Dependency) bool { return d.Restart })
	}
	plan := &Plan{replicas: replicaCounts(wanted)}
	stops, err := planStops(plan, wanted, observed, services, o, "restart")
	if err != nil {
		return nil, err
	}
	if err := planStarts(plan, wanted, observed, services, stops); err != nil {
		return nil, err
	}
	return plan, plan.finish()
}
