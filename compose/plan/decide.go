package plan

import (
	"fmt"
	"slices"
	"strings"

	"github.com/stack-run/stack/compose/desired"
	"github.com/stack-run/stack/engine/container"
)

// decide says what happens to each replica of a service. Dependencies have been
// decided before.
func (c *computer) decide(name string) error {
	s := c.desired.Services[name]
	existing := c.containers(name)
	if !c.inScope[name] {
		c.decideOutside(s, existing)
		return nil
	}
	byIndex := map[int][]*Container{}
	for _, x := range existing {
		byIndex[x.Index] = append(byIndex[x.Index], x)
	}
	shared := c.sharedRecreated(s)
	for i := range s.Replicas {
		r := &s.Replicas[i]
		d := &decision{service: name, replica: r}
		c.choose(d, byIndex[r.Index])
		delete(byIndex, r.Index)
		c.decideReplica(d, shared)
		c.decisions[name] = append(c.decisions[name], d)
	}
	for _, x := range existing {
		if _, gone := byIndex[x.Index]; gone {
			cause := fmt.Sprintf("scaled down to %d", len(s.Replicas))
			c.removals = append(c.removals, &removal{container: x, cause: cause, service: name})
		}
	}
	c.bounce(s)
	for _, d := range c.decisions[name] {
		switch d.action {
		case recreate, replace:
			c.recreated[name] = true
			c.bounced[name] = true
		case restart:
			c.bounced[name] = true
		}
	}
	return nil
}

// decideOutside looks at a service that was not asked for: it is left alone,
// but for being restarted where what it uses is.
func (c *computer) decideOutside(s *desired.Service, existing []*Container) {
	for _, x := range existing {
		if !x.live() {
			continue
		}
		r := &desired.Replica{Index: x.Index, Spec: container.Spec{Name: x.Name}}
		if x.Spec != nil {
			r.Spec = *x.Spec
		}
		d := &decision{service: s.Name, replica: r, old: x}
		if len(c.onNetwork[x.ID]) > 0 {
			d.action, d.cause, d.early = restart, "its network is made anew", true
		}
		c.decisions[s.Name] = append(c.decisions[s.Name], d)
	}
	if !c.opts.NoDeps {
		c.bounce(s)
	}
	for _, d := range c.decisions[s.Name] {
		if d.action == restart {
			c.bounced[s.Name] = true
		}
	}
}

// choose picks which of several containers of one number is the replica. There
// are several only after a recreate that was interrupted.
func (c *computer) choose(d *decision, candidates []*Container) {
	slices.SortStableFunc(candidates, func(a, b *Container) int {
		rank := func(x *Container) int {
			n := 0
			if diffs := c.specDiffs(d.replica, x); len(diffs) > 0 {
				n += 4 // does not fit
			}
			if !x.live() {
				n += 2
			}
			if x.Name != d.replica.Spec.Name {
				n++
			}
			return n
		}
		if r := rank(a) - rank(b); r != 0 {
			return r
		}
		if r := b.Created.Compare(a.Created); r != 0 {
			return r
		}
		return strings.Compare(a.ID, b.ID)
	})
	if len(candidates) > 0 {
		d.old, d.leftovers = candidates[0], candidates[1:]
	}
	for _, x := range d.leftovers {
		c.removals = append(c.removals, &removal{container: x, cause: "left over from an interrupted recreate", service: d.service})
	}
}

func (c *computer) decideReplica(d *decision, shared []FieldDiff) {
	old := d.old
	if old == nil {
		d.action = create
		return
	}
	if old.Phase == container.Removing {
		d.action, d.cause = replace, "its removal was interrupted"
		d.diffs = []FieldDiff{{Path: "its removal was interrupted"}}
		return
	}
	if name := c.usesRecreatedVolume(d.replica, old); name != "" {
		d.action = replace
		d.diffs = []FieldDiff{{Path: "volume " + name + " is made anew"}}
		return
	}
	if d.diffs = c.recreateDiffs(d, shared); len(d.diffs) > 0 {
		d.action = recreate
		return
	}
	if service, ok := strings.CutPrefix(d.replica.Spec.Network.Mode, "service:"); ok && old.live() && c.lostNetwork(service, old) {
		d.action = recreate
		d.diffs = []FieldDiff{{Path: "network_mode: service " + service + " has another container now"}}
		return
	}
	d.rename = old.Name != d.replica.Spec.Name
	switch {
	case old.Phase == container.Paused:
		d.action, d.cause = unpause, "is paused"
	case old.live():
		if len(c.onNetwork[old.ID]) > 0 {
			d.action, d.cause, d.early = restart, "its network is made anew", true
		}
	case c.opts.KeepCompleted && c.completed(d):
	default:
		d.action, d.cause = start, whyStart(old)
	}
}

// lostNetwork says that a container uses the network of one that is no more: its
// service was made anew without it.
func (c *computer) lostNetwork(service string, x *Container) bool {
	if x.NetworkOf == "" {
		return false
	}
	for _, o := range c.observed.Containers {
		if o.Service == service && !o.OneOff && o.ID == x.NetworkOf {
			return false
		}
	}
	return true
}

func whyStart(x *Container) string {
	switch {
	case x.Phase == container.Created:
		return "was created but not started"
	case x.StoppedByUser:
		return "was stopped"
	}
	return fmt.Sprintf("exited with code %d", x.ExitCode)
}

// completed says that the replica is a job that is done: it ended with 0, is
// not restarted, and whoever depends on it waits for its completion only.
func (c *computer) completed(d *decision) bool {
	if d.old.Phase != container.Exited || d.old.ExitCode != 0 || d.old.StoppedByUser {
		return false
	}
	switch d.replica.Spec.Restart.Policy {
	case "", "no", "on-failure":
	default:
		return false
	}
	awaited := false
	for _, s := range c.desired.Services {
		if dep, ok := s.DependsOn[d.service]; ok {
			if dep.Condition != "service_completed_successfully" {
				return false
			}
			awaited = true
		}
	}
	return awaited
}

// recreateDiffs are the named reasons to make the container anew.
func (c *computer) recreateDiffs(d *decision, shared []FieldDiff) []FieldDiff {
	if d.old.Phase == container.Dead {
		return []FieldDiff{{Path: "the container is dead"}}
	}
	if c.opts.NoRecreate {
		return nil
	}
	diffs := c.specDiffs(d.replica, d.old)
	diffs = append(diffs, shared...)
	if len(diffs) > 0 {
		return diffs
	}
	force, flag := c.opts.ForceRecreate, "--force-recreate"
	if !c.targets[d.service] {
		force, flag = c.opts.RecreateDeps, "--always-recreate-deps"
	}
	if force {
		return []FieldDiff{{Path: flag}}
	}
	return nil
}

// specDiffs compares a container with the replica that it should be.
func (c *computer) specDiffs(r *desired.Replica, old *Container) []FieldDiff {
	var diffs []FieldDiff
	if old.Hash != r.Hash {
		comparable := strings.HasPrefix(old.Hash, desired.HashVersion)
		if old.Spec != nil {
			diffs = diffSpecs(old.Spec, &r.Spec)
		}
		if len(diffs) == 0 && (comparable || old.Spec == nil) {
			// Something changed that no field shows. Between hashes of different
			// versions that means nothing, the fields alone count.
			diffs = []FieldDiff{{Path: "config hash", Old: short(strings.TrimPrefix(old.Hash, desired.HashVersion)), New: short(strings.TrimPrefix(r.Hash, desired.HashVersion))}}
		}
	}
	if r.Spec.ImageID != "" && old.ImageID != "" && r.Spec.ImageID != old.ImageID {
		diffs = append(diffs, FieldDiff{Path: "image ID", Old: short(old.ImageID), New: short(r.Spec.ImageID)})
	}
	if len(diffs) == 0 && old.Name != r.Spec.Name && !isTempName(old.Name, r.Spec.Name) {
		diffs = append(diffs, FieldDiff{Path: "container_name", Old: old.Name, New: r.Spec.Name})
	}
	return diffs
}

// tempName is the name of a new container while the old one is there.
func tempName(old *Container, name string) string { return short(old.ID) + "_" + name }

func isTempName(name, final string) bool {
	prefix, ok := strings.CutSuffix(name, "_"+final)
	return ok && prefix != "" && strings.Trim(prefix, "0123456789abcdef") == ""
}

// sharedRecreated names what the service shares with services that are
// recreated: it would be left with what no longer exists.
func (c *computer) sharedRecreated(s *desired.Service) []FieldDiff {
	var diffs []FieldDiff
	for attribute, name := range sharedServices(s) {
		if c.newFirst(name) {
			diffs = append(diffs, FieldDiff{Path: fmt.Sprintf("%s of service %s, which is made anew", strings.TrimSuffix(attribute, " "+name), name)})
		}
	}
	slices.SortFunc(diffs, func(a, b FieldDiff) int { return strings.Compare(a.Path, b.Path) })
	return diffs
}

// newFirst says that the container which others of the project share, the one
// with the lowest number, will be a new one.
func (c *computer) newFirst(service string) bool {
	if len(c.decisions[service]) == 0 {
		return false
	}
	switch c.decisions[service][0].action {
	case create, recreate, replace:
		return true
	}
	return false
}

// usesRecreatedVolume is the name of a volume that is made anew and that the
// container, or what it takes volumes from, mounts.
func (c *computer) usesRecreatedVolume(r *desired.Replica, old *Container) string {
	if len(c.onVolume) == 0 {
		return ""
	}
	specs := []*container.Spec{&r.Spec}
	if old.Spec != nil {
		specs = append(specs, old.Spec)
	}
	for _, s := range specs {
		for _, m := range s.Mounts {
			if c.onVolume[m.Source] != nil {
				return m.Source
			}
		}
		for _, from := range s.VolumesFrom {
			rest, ok := strings.CutPrefix(from, "service:")
			name, _, _ := strings.Cut(rest, ":")
			if !ok {
				continue
			}
			for _, d := range c.decisions[name] {
				if d.old == nil || d.action != replace {
					continue
				}
				if v := c.usesRecreatedVolume(d.replica, d.old); v != "" {
					return v
				}
			}
		}
	}
	return ""
}

// bounce restarts the service's running containers where a dependency with
// restart: true is recreated or restarted, or where they share what a service has
// that is made anew.
func (c *computer) bounce(s *desired.Service) {
	cause := ""
	for _, dep := range dependencyNames(c.desired, s.Name) {
		if s.DependsOn[dep].Restart && c.bounced[dep] {
			how := "restarted"
			if c.recreated[dep] {
				how = "recreated"
			}
			cause = fmt.Sprintf("depends on %s, which is %s", dep, how)
			break
		}
	}
	shared := c.sharedRecreated(s)
	if cause == "" && len(shared) > 0 {
		cause = shared[0].Path
	}
	for _, d := range c.decisions[s.Name] {
		if cause == "" || d.old == nil || !d.old.live() {
			continue
		}
		d.early = true
		if d.action == keep {
			d.action, d.cause = restart, cause
		}
	}
	if len(shared) == 0 {
		return
	}
	for _, d := range c.decisions[s.Name] {
		d.early = d.early || d.action == recreate
	}
}
