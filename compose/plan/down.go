package plan

import (
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/stack-run/stack/compose/desired"
	"github.com/stack-run/stack/engine/container"
	"github.com/stack-run/stack/netns/endpoint"
	"github.com/stack-run/stack/volumes/volume"
)

// makeDown plans to take containers away in reverse order of dependencies, as
// parallel as that allows, then networks and, if asked for, volumes.
//
// The whole project is what exists and is tagged with it, so nothing is left of a
// service, profile or network that the file no longer has. Where files say what
// is meant, it is what they declare; services that are named go alone. A network
// or volume goes only if nothing else uses it.
func makeDown(r Request, o Observed) (*Plan, error) {
	l, err := newLifecycle(r, &o)
	if err != nil {
		return nil, err
	}
	l.plan.KeepGoing = true
	d := &down{lifecycle: l, last: map[*Container]*Op{}, gone: map[*Container]*Op{}}
	if err := d.choose(); err != nil {
		return nil, err
	}
	d.containers()
	d.networks()
	d.volumes()
	if len(r.Services) == 0 {
		l.plan.disarmFirst(o, "down")
	}
	for _, op := range l.plan.Ops {
		op.Anyway = true
	}
	return l.plan, l.plan.finish()
}

type down struct {
	*lifecycle
	going, staying []*Container
	// last are the operations after which a container uses its networks no more,
	// gone those after which it is no more.
	last, gone map[*Container]*Op
}

func (d *down) choose() error {
	r := d.request
	whole := r.Whole || r.Desired == nil
	known := r.Desired
	if whole {
		known = d.wanted
	}
	if err := checkServices(known, r.Services); err != nil {
		return err
	}
	var orphans, others []*Container
	for i := range d.observed.Containers {
		x := &d.observed.Containers[i]
		going := false
		switch {
		case len(r.Services) > 0:
			going = slices.Contains(r.Services, x.Service)
		case whole || declares(known, x.Service):
			going = true
		case !x.from(known):
			others = append(others, x)
		case r.RemoveOrphans:
			going = true
		default:
			orphans = append(orphans, x)
		}
		if going {
			d.going = append(d.going, x)
		} else {
			d.staying = append(d.staying, x)
		}
	}
	d.plan.tellOthers(others)
	if !r.IgnoreOrphans {
		d.plan.tellOrphans(orphans)
	}
	return nil
}

func (d *down) containers() {
	d.inReverse(d.going, func(x *Container, after []*Op) *Op {
		if x.live() {
			d.last[x] = d.stop(x, "down", after...)
			after = []*Op{d.last[x]}
		}
		op := d.op(RemoveContainer, x, "down")
		op.Volumes = true // an anonymous volume has nobody left who could know of it
		d.gone[x] = d.plan.add(op, after...)
		if d.last[x] == nil {
			d.last[x] = op
		}
		return op
	})
}

// networks are in the order of names, so that one state has one plan.
func (d *down) networks() {
	all := len(d.request.Services) == 0
	for _, n := range slices.SortedFunc(slices.Values(d.observed.Networks), func(a, b endpoint.Network) int { return strings.Compare(a.Name, b.Name) }) {
		uses := func(x *Container) bool { return x.Spec == nil || attached(x.Spec, n.Name) }
		if n.Project != d.observed.Project || n.Project == "" || !all && !usesNetwork(d.going, n.Name) {
			continue
		}
		users := slices.Clone(d.observed.NetworkUsers[n.Name])
		for _, x := range d.staying {
			if uses(x) {
				users = append(users, "container "+x.Name)
			}
		}
		if len(users) > 0 {
			if all {
				d.plan.warn("network %s is in use by %s; it stays", n.Name, strings.Join(users, ", "))
			}
			continue
		}
		d.plan.add(&Op{Kind: RemoveNetwork, Name: n.Name, Key: n.Key, Cause: "down"}, usersOf(d.last, uses)...)
	}
}

func (d *down) volumes() {
	r := d.request
	all := len(r.Services) == 0
	declared := r.Declared
	if declared == nil && r.Desired != nil {
		declared = r.Desired.VolumeNames()
	}
	for _, v := range slices.SortedFunc(slices.Values(d.observed.Volumes), func(a, b volume.Volume) int { return strings.Compare(a.Name, b.Name) }) {
		mounts := func(x *Container) bool { return x.Spec == nil || x.mounts(v.Name) }
		if v.Project != d.observed.Project || v.Project == "" || slices.ContainsFunc(d.staying, mounts) {
			continue
		}
		users := d.observed.VolumeUsers[v.Name]
		switch {
		case v.Anonymous:
			// Those of containers go with them; this one lost its own.
			if all && len(users) == 0 && !slices.ContainsFunc(d.going, mounts) {
				d.plan.add(&Op{Kind: RemoveVolume, Name: v.Name, Key: v.Key, Cause: "down: no container uses it"})
			}
		case !r.Volumes, !all && !slices.ContainsFunc(d.going, mounts):
		case declared != nil && !slices.Contains(declared, v.Name):
			d.plan.warn("volume %s is kept: the Compose file does not declare it; \"stack volume rm %s\" removes it", v.Name, v.Name)
		case len(users) > 0:
			d.plan.warn("volume %s is in use by %s; it stays", v.Name, strings.Join(users, ", "))
		default:
			d.plan.add(&Op{Kind: RemoveVolume, Name: v.Name, Key: v.Key, Cause: "down --volumes"}, usersOf(d.gone, mounts)...)
		}
	}
}

func usesNetwork(containers []*Container, name string) bool {
	return slices.ContainsFunc(containers, func(x *Container) bool { return x.Spec != nil && attached(x.Spec, name) })
}

// mounts says that the container uses a volume, or may, through another one.
func (c *Container) mounts(name string) bool {
	for _, anonymous := range c.Anonymous {
		if anonymous == name {
			return true
		}
	}
	return mountsVolume(c.Spec, name)
}

func mountsVolume(s *container.Spec, name string) bool {
	return len(s.VolumesFrom) > 0 || slices.ContainsFunc(s.Mounts, func(m volume.Mount) bool { return m.Source == name })
}

func usersOf(ops map[*Container]*Op, uses func(*Container) bool) []*Op {
	var out []*Op
	for x, op := range ops {
		if uses(x) {
			out = append(out, op)
		}
	}
	return out
}

// waitLimit is the time of an operation, nil for none.
func waitLimit(d time.Duration) *time.Duration {
	if d <= 0 {
		return nil
	}
	return &d
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
