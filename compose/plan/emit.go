package plan

import (
	"slices"

	"github.com/stack-run/stack/compose/desired"
	"github.com/stack-run/stack/engine/container"
	"github.com/stack-run/stack/netns/endpoint"
)

// early finds old containers that a new one of another service needs out of the
// way because of a host port.
func (c *computer) early() {
	for _, name := range c.order {
		for _, d := range c.decisions[name] {
			if d.action == recreate && c.wantsPortOf(d) != nil {
				d.early = true
			}
		}
	}
}

// wantsPortOf finds a starting replica, other than d's own, that publishes a
// port of d's old container.
func (c *computer) wantsPortOf(d *decision) *decision {
	if d.old == nil || d.old.Spec == nil {
		return nil
	}
	for _, name := range c.order {
		for _, other := range c.decisions[name] {
			if other != d && other.starts() && !(other.service == d.service && sharePorts(d.old.Spec, &other.replica.Spec)) && portsClash(d.old.Spec.Network.Ports, other.replica.Spec.Network.Ports) {
				return other
			}
		}
	}
	return nil
}

func (d *decision) starts() bool {
	switch d.action {
	case create, recreate, replace, start, restart:
		return true
	}
	return false
}

// portsClash says whether two containers want the same fixed host port.
func portsClash(a, b []endpoint.Port) bool {
	for _, x := range a {
		for _, y := range b {
			if portClash(x, y) {
				return true
			}
		}
	}
	return false
}

func portClash(x, y endpoint.Port) bool {
	if x.HostPort == 0 || y.HostPort == 0 || x.Protocol != y.Protocol {
		return false
	}
	if max(x.HostPort, x.HostPortEnd) < y.HostPort || max(y.HostPort, y.HostPortEnd) < x.HostPort {
		return false
	}
	return onAllAddresses(x) || onAllAddresses(y) || x.HostIP == y.HostIP
}

func onAllAddresses(p endpoint.Port) bool { return !p.HostIP.IsValid() || p.HostIP.IsUnspecified() }

// sharePorts says that two replicas may run side by side: of ranges of ports each has
// its own, and a port is shared only on the same addresses.
func sharePorts(a, b *container.Spec) bool {
	if a == nil || takesFromRange(a) || takesFromRange(b) {
		return false
	}
	for _, x := range a.Network.Ports {
		for _, y := range b.Network.Ports {
			if portClash(x, y) && onAllAddresses(x) != onAllAddresses(y) {
				return false
			}
		}
	}
	return true
}

// emit turns decisions into operations.
func (c *computer) emit() {
	c.emitRemovals()
	for _, name := range c.order {
		c.emitPreStart(c.desired.Services[name])
		var rolling []*decision
		for _, d := range c.decisions[name] {
			if c.rolls(d) {
				rolling = append(rolling, d)
			} else {
				c.emitReplica(d)
			}
		}
		if len(rolling) > 0 {
			c.emitRolling(c.desired.Services[name], rolling)
		}
		c.stopBeforeDependencies(name)
	}
	c.restartOthersOnNetworks()
	// A port must be free before it is taken.
	for _, name := range c.order {
		for _, d := range c.decisions[name] {
			if d.starts() {
				c.afterPortsAreFree(d)
			}
		}
	}
	c.portsInOrder()
}

// portsInOrder has the replicas of a service that share a range of host ports
// start one after the other: each takes the first port that is free, and so the
// same one each time.
func (c *computer) portsInOrder() {
	for _, name := range c.order {
		if s := c.desired.Services[name]; len(s.Replicas) == 0 || !takesFromRange(&s.Replicas[0].Spec) {
			continue
		}
		var before *Op
		for _, op := range c.starts[name] {
			if op.Kind != StartContainer {
				continue
			}
			if before != nil {
				op.after = append(op.after, before)
			}
			before = op
		}
	}
}

func takesFromRange(s *container.Spec) bool {
	return slices.ContainsFunc(s.Network.Ports, func(p endpoint.Port) bool { return p.HostPortEnd > p.HostPort })
}

// emitRemovals stops and removes what has to go: at once, since nothing waits
// for it but a port or name that it holds.
func (c *computer) emitRemovals() {
	for _, r := range c.removals {
		op := c.op(RemoveContainer, r.container, r.service, r.cause)
		op.Volumes = true // nobody is left who knows of its anonymous ones
		r.done = c.plan.add(op, c.stop(r.container, r.service, r.cause))
		c.freeVolumes(r.container, r.done)
	}
}

func (c *computer) op(kind OpKind, x *Container, service, cause string) *Op {
	return &Op{Kind: kind, Service: service, Index: x.Index, Name: x.Name, ContainerID: x.ID, OneOff: x.OneOff, Cause: cause}
}

// stop stops a container once, or is nil if it does not run.
func (c *computer) stop(x *Container, service, cause string, after ...*Op) *Op {
	if !x.live() {
		return nil
	}
	if op := c.stops[x.ID]; op != nil {
		op.after = append(op.after, after...)
		return op
	}
	op := c.op(StopContainer, x, service, cause)
	op.Timeout = c.opts.StopTimeout
	c.stops[x.ID] = c.plan.add(op, after...)
	for _, remove := range c.onNetwork[x.ID] {
		remove.after = append(remove.after, op)
	}
	return op
}

// freeVolumes has volumes that are made anew wait for a container's removal.
func (c *computer) freeVolumes(x *Container, removed *Op) {
	if x.Spec == nil {
		return
	}
	for _, m := range x.Spec.Mounts {
		if remove := c.onVolume[m.Source]; remove != nil {
			remove.after = append(remove.after, removed)
		}
	}
	if len(x.Spec.VolumesFrom) > 0 {
		for _, remove := range c.onVolume {
			remove.after = append(remove.after, removed)
		}
	}
}

func (c *computer) emitReplica(d *decision) {
	switch d.action {
	case create:
		made := c.emitCreate(d, "")
		c.emitStart(d, made, made)
	case recreate:
		c.emitRecreate(d)
	case replace:
		stopped := c.stop(d.old, d.service, joinDiffs(d.diffs))
		remove := c.op(RemoveContainer, d.old, d.service, joinDiffs(d.diffs))
		remove.Volumes = true
		removed := c.plan.add(remove, stopped)
		c.freeVolumes(d.old, removed)
		made := c.emitCreate(d, "", removed)
		made.Replaces, made.Diffs, made.Cause = d.old.ID, d.diffs, joinDiffs(d.diffs)
		c.emitStart(d, made, made)
	case restart:
		var after []*Op
		if !c.sharesRolling(d.service) {
			after = c.rolled(d.service) // it need not be down while they are updated
		}
		stopped := c.stop(d.old, d.service, d.cause, after...)
		stopped.KeepNetwork = len(c.onNetwork[d.old.ID]) == 0
		c.emitStart(d, nil, stopped)
	case start:
		c.emitStart(d, nil, c.emitRename(d))
	case unpause:
		c.emitRename(d)
		if !c.opts.NoStart {
			op := c.plan.add(c.op(UnpauseContainer, d.old, d.service, d.cause))
			op.ToRun = true
			c.starts[d.service] = append(c.starts[d.service], op)
		}
	case keep:
		if d.old != nil {
			c.emitRename(d)
			c.emitAdmission(d)
		}
	}
}

// emitAdmission ends a rolling update that was cut off after the new container had
// started: it is let in once it has proven itself, and the old one goes only then.
func (c *computer) emitAdmission(d *decision) {
	var stop *Op
	for _, x := range d.leftovers {
		if s := c.stops[x.ID]; s != nil {
			stop = s
		}
	}
	s := c.desired.Services[d.service]
	if !c.inScope[d.service] || c.opts.NoStart || !d.old.Aside && (s.Update == nil || stop == nil) {
		return
	}
	const cause = "an interrupted update left it beside its predecessor"
	proven := c.op(WaitFor, d.old, d.service, cause)
	proven.Condition = Proven
	if s.Update != nil {
		proven.Monitor = s.Update.Monitor
	}
	hand := c.op(HandOver, d.old, d.service, cause)
	c.plan.add(hand, c.plan.add(proven))
	if stop != nil {
		hand.Replaces, stop.Drain = stop.ContainerID, true
		stop.after = append(stop.after, hand)
	}
}

// emitRename ends a recreate that was interrupted before its last step.
func (c *computer) emitRename(d *decision) *Op {
	if !d.rename || !c.inScope[d.service] {
		return nil
	}
	op := c.op(RenameContainer, d.old, d.service, "an interrupted recreate left it as "+d.old.Name)
	op.Name, op.TempName = d.replica.Spec.Name, d.old.Name
	return c.plan.add(op, c.leftoversGone(d)...)
}

func (c *computer) leftoversGone(d *decision) []*Op {
	var ops []*Op
	for _, r := range c.removals {
		if slices.Contains(d.leftovers, r.container) {
			ops = append(ops, r.done)
		}
	}
	return ops
}

func (c *computer) emitCreate(d *decision, temp string, after ...*Op) *Op {
	s := &d.replica.Spec
	after = append(after, c.resources(s)...)
	for _, service := range sharedServices(c.desired.Services[d.service]) {
		after = append(after, c.made[service]...)
	}
	after = append(after, c.leftoversGone(d)...)
	after = append(after, c.nameHolders(s.Name, d.old)...)
	op := &Op{Kind: CreateContainer, Service: d.service, Index: d.replica.Index, Name: s.Name, TempName: temp, Cause: "no container yet"}
	made := c.plan.add(op, after...)
	c.made[d.service] = append(c.made[d.service], made)
	return made
}

// nameHolders are removals of other containers that have the name.
func (c *computer) nameHolders(name string, old *Container) []*Op {
	var ops []*Op
	for _, r := range c.removals {
		if r.container.Name == name && r.container != old {
			ops = append(ops, r.done)
		}
	}
	return ops
}

// emitRecreate: create under a temporary name, stop, remove, rename, start.
func (c *computer) emitRecreate(d *decision) {
	old := d.old
	made := c.emitSuccessor(d)
	var after []*Op
	switch {
	case len(c.onNetwork[old.ID]) > 0:
		// The new one cannot be created before its network is, and the network
		// not before the old one has left it.
	case d.early && (len(c.onVolume) > 0 || len(c.onNetwork) > 0):
	case d.early:
		after = []*Op{made}
	default:
		after = append(c.ready(d.service), made)
	}
	stopped := c.stop(old, d.service, "replaced", after...)
	// If an update of those it depends on fails, it is what goes on.
	c.emitStart(d, made, c.emitSuccession(d, made, append(c.rolled(d.service), stopped, made)...))
}

// emitSuccessor creates the container that replaces another one, which still has the
// name.
func (c *computer) emitSuccessor(d *decision) *Op {
	made := c.emitCreate(d, tempName(d.old, d.replica.Spec.Name))
	made.Cause, made.Diffs = joinDiffs(d.diffs), d.diffs
	made.Replaces, made.KeepVolumes = d.old.ID, !c.opts.RenewAnonymous
	c.abandoned(d)
	return made
}

// emitSuccession removes the old container and gives its name to the one that was made.
func (c *computer) emitSuccession(d *decision, made *Op, after ...*Op) *Op {
	remove := c.op(RemoveContainer, d.old, d.service, "replaced")
	remove.Volumes = c.opts.RenewAnonymous
	removed := c.plan.add(remove, after...)
	c.freeVolumes(d.old, removed)
	rename := &Op{Kind: RenameContainer, Service: d.service, Index: d.replica.Index, Name: d.replica.Spec.Name, TempName: made.TempName, makes: made, Cause: "replaces " + short(d.old.ID)}
	return c.plan.add(rename, removed)
}

// emitStart starts a container when its own steps are done and its dependencies
// are as depends_on says.
func (c *computer) emitStart(d *decision, made *Op, after *Op) {
	if c.opts.NoStart && d.action != restart {
		return
	}
	op := &Op{Kind: StartContainer, Service: d.service, Index: d.replica.Index, Name: d.replica.Spec.Name, Cause: d.cause, Again: d.again, makes: made}
	if made == nil {
		op.ContainerID = d.old.ID
	}
	deps := append(c.ready(d.service), after)
	for _, a := range d.replica.Spec.Network.Networks {
		deps = append(deps, c.networkOps[a.Network])
	}
	for _, x := range d.leftovers {
		if _, ok := runBeside(x.Spec, &d.replica.Spec); !ok {
			deps = append(deps, c.stops[x.ID])
		}
	}
	c.starts[d.service] = append(c.starts[d.service], c.plan.add(op, deps...))
}

// ready are the operations after which a service may start.
func (c *computer) ready(service string) []*Op {
	if done := c.prepared[service]; done != nil {
		return slices.Clone(done)
	}
	var ops []*Op
	s := c.desired.Services[service]
	for _, name := range dependencyNames(c.desired, service) {
		dep := s.DependsOn[name]
		other := c.desired.Services[name]
		if other == nil || len(other.Replicas) == 0 || c.opts.NoStart {
			continue
		}
		if c.opts.NoDeps && !c.inScope[name] {
			continue
		}
		if dep.Condition == "" || dep.Condition == "service_started" {
			ops = append(ops, c.starts[name]...)
			continue
		}
		ops = append(ops, c.wait(name, dep))
	}
	return ops
}

// wait is the one operation that waits for a condition of a service.
func (c *computer) wait(name string, dep desired.Dependency) *Op {
	key := name + " " + dep.Condition
	op := c.waits[key]
	if op == nil {
		op = c.plan.add(&Op{Kind: WaitFor, Service: name, Name: name, Condition: dep.Condition, Optional: true, Cause: "depends_on"}, c.starts[name]...)
		for _, r := range c.removals {
			if r.service == name {
				op.after = append(op.after, r.done) // what is going away is not waited for
			}
		}
		c.waits[key] = op
	}
	op.Optional = op.Optional && !dep.Required
	return op
}

// stopBeforeDependencies has the early stops of a service come before the stops
// of those dependencies that made them early.
func (c *computer) stopBeforeDependencies(name string) {
	s := c.desired.Services[name]
	shared := sharedServices(s)
	for dep, how := range s.DependsOn {
		sharing := false
		for _, other := range shared {
			sharing = sharing || other == dep
		}
		if !how.Restart && !sharing {
			continue
		}
		for _, d := range c.decisions[dep] {
			if d.old == nil || c.stops[d.old.ID] == nil {
				continue
			}
			for _, mine := range c.decisions[name] {
				if mine.action == restart && len(c.rolled(name)) > 0 && !c.sharesRolling(name) {
					continue
				}
				if mine.early && mine.old != nil && c.stops[mine.old.ID] != nil {
					stop := c.stops[d.old.ID]
					stop.after = append(stop.after, c.stops[mine.old.ID])
				}
			}
		}
	}
}

// restartOthersOnNetworks restarts orphans and one-offs whose network is made
// anew.
func (c *computer) restartOthersOnNetworks() {
	for i := range c.observed.Containers {
		x := &c.observed.Containers[i]
		if len(c.onNetwork[x.ID]) == 0 || c.stops[x.ID] != nil {
			continue
		}
		const cause = "its network is made anew"
		stopped := c.stop(x, x.Service, cause)
		deps := []*Op{stopped}
		for _, a := range x.Spec.Network.Networks {
			deps = append(deps, c.networkOps[a.Network])
		}
		c.plan.add(c.op(StartContainer, x, x.Service, cause), deps...)
	}
}

func (c *computer) afterPortsAreFree(d *decision) {
	var startOp *Op
	for _, op := range c.starts[d.service] {
		if op.Index == d.replica.Index {
			startOp = op
		}
	}
	if d.started != nil {
		startOp = d.started
	}
	if startOp == nil {
		return
	}
	for i := range c.observed.Containers {
		x := &c.observed.Containers[i]
		if x == d.old || x.Service == d.service && sharePorts(x.Spec, &d.replica.Spec) || c.stops[x.ID] == nil || x.Spec == nil || c.startsAgain(x) {
			continue
		}
		if portsClash(x.Spec.Network.Ports, d.replica.Spec.Network.Ports) {
			startOp.after = append(startOp.after, c.stops[x.ID])
		}
	}
}

// startsAgain says that the same container is only restarted, and so keeps its
// ports.
func (c *computer) startsAgain(x *Container) bool {
	return slices.ContainsFunc(c.decisions[x.Service], func(d *decision) bool { return d.old == x && d.action == restart })
}
