package plan

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/stack-run/stack/compose/desired"
	"github.com/stack-run/stack/engine/container"
	"github.com/stack-run/stack/healthcheck/health"
	"github.com/stack-run/stack/volumes/volume"
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
	stale := c.outdone(s, byIndex, shared)
	for i := range s.Replicas {
		r := &s.Replicas[i]
		d := &decision{service: name, replica: r}
		if other := stale[r.Index]; other != nil {
			for _, x := range byIndex[r.Index] {
				c.removals = append(c.removals, &removal{container: x, cause: fmt.Sprintf("scaled down to %d, and %s is up to date", len(s.Replicas), other.Name), service: name})
			}
			delete(byIndex, r.Index)
			d.replica, d.old = numberedAs(r, other), other
			delete(byIndex, other.Index)
		} else {
			c.choose(d, byIndex[r.Index])
			delete(byIndex, r.Index)
		}
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

// outdone finds replicas whose containers, if they have any, are not up to date
// while one with a higher number than there will be is: that one takes the place,
// as in Docker Compose. The result is by the replica's number.
func (c *computer) outdone(s *desired.Service, byIndex map[int][]*Container, shared []FieldDiff) map[int]*Container {
	n := len(s.Replicas)
	if n == 0 || len(shared) > 0 || len(c.onVolume) > 0 {
		return nil
	}
	fits := func(r *desired.Replica, x *Container) bool {
		d := &decision{service: s.Name, replica: r, old: x}
		lender, shares := strings.CutPrefix(r.Spec.Network.Mode, "service:")
		return x.Phase != container.Removing && len(c.specDiffs(r, x)) == 0 && len(c.recreateDiffs(d, nil)) == 0 && !(shares && c.lostNetwork(lender, x))
	}
	var spare []*Container // up to date, with a number too high
	for _, index := range slices.Sorted(maps.Keys(byIndex)) {
		if list := byIndex[index]; index > n && len(list) == 1 && fits(numberedAs(&s.Replicas[0], list[0]), list[0]) {
			spare = append(spare, list[0])
		}
	}
	out := map[int]*Container{}
	for i := range s.Replicas {
		r := &s.Replicas[i]
		if len(spare) == 0 {
			break
		}
		if !slices.ContainsFunc(byIndex[r.Index], func(x *Container) bool { return fits(r, x) }) {
			out[r.Index], spare = spare[0], spare[1:]
		}
	}
	return out
}

// numberedAs is the replica with the name of a container that has another number.
func numberedAs(r *desired.Replica, x *Container) *desired.Replica {
	out := *r
	out.Index, out.Spec.Name = x.Index, x.Name
	return &out
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
			if c.failedBeside(d.replica, x, candidates) {
				n += 8
			}
			if diffs := c.specDiffs(d.replica, x); len(diffs) > 0 {
				n += 4 // does not fit
			}
			if !x.live() || x.Aside {
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

// failedBeside says that a container was to replace another one in a rolling update,
// and does not run, or has failed to prove itself, while that one still runs.
func (c *computer) failedBeside(r *desired.Replica, x *Container, all []*Container) bool {
	if s := c.desired.Services[x.Service]; s == nil || s.Update == nil || !isTempName(x.Name, r.Spec.Name) {
		return false
	}
	if x.live() && !(x.Aside && (x.Restarted || x.Health == health.Unhealthy)) {
		return false
	}
	return slices.ContainsFunc(all, func(o *Container) bool { return o != x && o.live() })
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
	case old.Stopping && c.opts.NoStart:
		// Whoever stops it has the last word.
	case old.Stopping:
		d.action, d.cause = restart, "is being stopped"
	case old.live():
		if len(c.onNetwork[old.ID]) > 0 {
			d.action, d.cause, d.early = restart, "its network is made anew", true
		}
	case c.completed(d):
		if s := c.desired.Services[d.service]; s == nil || !s.Once {
			d.action, d.again = start, true
			d.cause = "is done, exited with code 0; up runs it again, unless it says x-once: true"
		}
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
	case x.waits():
		return "waits to be restarted"
	case x.Phase == container.Created:
		return "was created but not started"
	case x.StoppedByUser:
		return "was stopped"
	}
	return fmt.Sprintf("exited with code %d", x.ExitCode)
}

// completed says that the replica is a job that is done: it ended by itself and
// with 0, and no policy starts it again.
func (c *computer) completed(d *decision) bool {
	switch d.replica.Spec.Restart.Policy {
	case "", "no", "on-failure":
		return d.old.succeeded()
	}
	return false
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
	if c.opts.RenewAnonymous && len(d.old.Anonymous) > 0 {
		return []FieldDiff{{Path: "--renew-anon-volumes"}}
	}
	return nil
}

// abandoned tells of the anonymous volumes that a new container does not take
// over, since the file no longer asks for them.
func (c *computer) abandoned(d *decision) {
	if d.old.Spec == nil || c.opts.RenewAnonymous {
		return
	}
	for _, m := range d.old.Spec.Mounts {
		name := d.old.Anonymous[m.Target]
		if name == "" || slices.ContainsFunc(d.replica.Spec.Mounts, func(w volume.Mount) bool {
			return w.Target == m.Target && w.Type == volume.TypeVolume && w.Source == ""
		}) {
			continue
		}
		c.plan.warn("%s no longer has its anonymous volume at %s: its data stays in volume %s until \"stack down\" or \"stack volume prune\"", d.old.Name, m.Target, name)
	}
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
	diffs = append(diffs, imageMountDiffs(old, r)...)
	if len(diffs) == 0 && old.Name != r.Spec.Name && !isTempName(old.Name, r.Spec.Name) {
		diffs = append(diffs, FieldDiff{Path: "container_name", Old: old.Name, New: r.Spec.Name})
	}
	return diffs
}

// imageMountDiffs are the mounted images that are others than when the container
// was made.
func imageMountDiffs(old *Container, r *desired.Replica) []FieldDiff {
	if old.Spec == nil {
		return nil
	}
	var diffs []FieldDiff
	for _, m := range r.Spec.Mounts {
		for _, had := range old.Spec.Mounts {
			if m.Type == volume.TypeImage && had.Type == volume.TypeImage && m.Target == had.Target && m.Source == had.Source &&
				m.ImageID != had.ImageID && m.ImageID != "" && had.ImageID != "" {
				diffs = append(diffs, FieldDiff{Path: "volumes." + m.Target + " (image ID)", Old: short(had.ImageID), New: short(m.ImageID)})
			}
		}
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
