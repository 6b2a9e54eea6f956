package plan

import (
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/stack-run/stack/compose/desired"
	"github.com/stack-run/stack/engine/container"
)

// A service with deploy.update_config is updated some replicas at a time. The
// containers that are replaced stay, stopped, until all new ones have proven
// themselves, so that going back is starting them again; what comes of a failure is
// in recover.go.

// rolls says that a replica is updated as update_config says. There is nothing to
// keep where the old one does not run; where it has to make room first, that is told.
func (c *computer) rolls(d *decision) bool {
	if c.desired.Services[d.service].Update == nil || d.action != recreate && d.action != replace || c.opts.NoStart || !d.old.live() {
		return false
	}
	why := ""
	switch {
	case d.action == replace || len(c.onVolume) > 0:
		why = "a volume is made anew"
	case len(c.onNetwork[d.old.ID]) > 0:
		why = "its network is made anew"
	case d.early:
		why = "what it shares with others, or a port that another service wants, has to be free first"
	default:
		return true
	}
	text := fmt.Sprintf("service %s is not updated as its update_config says, but all at once: %s", d.service, why)
	if !slices.Contains(c.plan.Warnings, text) {
		c.plan.Warnings = append(c.plan.Warnings, text)
	}
	return false
}

// runBeside tells whether a container can run beside another one of its service, old,
// and if not, why.
func runBeside(old, s *container.Spec) (reason string, ok bool) {
	for _, a := range s.Network.Networks {
		if a.IPv4.IsValid() || a.IPv6.IsValid() || a.MAC != "" {
			return "two containers cannot have its fixed address on network " + a.Network, false
		}
	}
	if mode := s.Network.Mode; mode != "" && mode != "none" {
		return "two containers cannot listen on the same port of a network that they share (network_mode: " + mode + ")", false
	}
	for _, p := range s.Network.Ports {
		if p.HostPortEnd > p.HostPort {
			return "its ports are out of a range, of which each container has its own", false
		}
	}
	if old != nil && !sharePorts(old, s) && portsClash(old.Network.Ports, s.Network.Ports) {
		return "its ports are published on other addresses than before", false
	}
	return "", true
}

// emitRolling updates replicas of a service.
func (c *computer) emitRolling(s *desired.Service, list []*decision) {
	r := &roller{plan: c.plan, service: s.Name, how: *s.Update, total: len(list), timeout: c.opts.StopTimeout}
	if reason, ok := runBeside(list[0].old.Spec, &list[0].replica.Spec); r.how.StartFirst && !ok {
		c.plan.warn("service %s is updated stop-first, though its update_config says start-first: %s", s.Name, reason)
		r.how.StartFirst = false
	}
	ready := c.ready(s.Name)
	var turns []turn
	for _, d := range list {
		made := c.emitSuccessor(d)
		made.Rolls = true
		after := append(slices.Clone(ready), made) // its networks are there before it is made
		turns = append(turns, turn{index: d.replica.Index, name: d.replica.Spec.Name, made: made, old: d.old.ID, oldName: d.old.Name, after: after})
	}
	ended := r.roll(turns)
	c.plan.Rollouts[s.Name] = Rollouts{Update: *s.Update, Rollback: *s.Rollback}
	for i, d := range list {
		c.stops[d.old.ID] = turns[i].stop
		// Who waits for the service waits for its new containers alone.
		c.starts[s.Name] = append(c.starts[s.Name], c.emitSuccession(d, turns[i].made, ended...))
		d.started = turns[i].start
	}
}

// rolled are the operations after which those that a service depends on are updated.
func (c *computer) rolled(service string) []*Op {
	var ops []*Op
	for _, name := range dependencyNames(c.desired, service) {
		if _, ok := c.plan.Rollouts[name]; ok {
			ops = append(ops, c.starts[name]...)
		}
	}
	return ops
}

// sharesRolling says that a service has the network or the volumes of one that is updated.
func (c *computer) sharesRolling(service string) bool {
	return slices.ContainsFunc(slices.Collect(maps.Values(sharedServices(c.desired.Services[service]))), func(name string) bool {
		_, ok := c.plan.Rollouts[name]
		return ok
	})
}

// roller plans that containers take the place of others, some at a time.
type roller struct {
	plan    *Plan
	service string
	how     desired.Rollout
	total   int
	timeout *time.Duration
}

// turn is one container that takes another one's place: one that is made, or one
// that exists.
type turn struct {
	index   int
	name    string
	made    *Op
	next    string // its ID, without made
	old     string // the ID of the one that goes
	oldName string
	after   []*Op

	start, stop *Op
}

func (r *roller) op(kind OpKind, t *turn, cause string) *Op {
	return &Op{Kind: kind, Service: r.service, Index: t.index, Name: t.name, ContainerID: t.next, makes: t.made, Cause: cause}
}

// roll returns the operations after which all have their places.
func (r *roller) roll(turns []turn) []*Op {
	size := r.how.Parallelism
	if size <= 0 {
		size = max(1, len(turns))
	}
	var ended, before []*Op
	for first := 0; first < len(turns); first += size {
		batch := turns[first:min(first+size, len(turns))]
		if before != nil && r.how.Delay > 0 {
			delay := r.how.Delay
			before = []*Op{r.plan.add(&Op{Kind: Pause, Service: r.service, Name: r.service, Timeout: &delay, Cause: "update_config.delay"}, before...)}
		}
		var done []*Op
		for i := range batch {
			batch[i].after = append(batch[i].after, before...)
			done = append(done, r.take(&batch[i]))
		}
		ended, before = append(ended, done...), done
	}
	return ended
}

// take has one container take another one's place.
func (r *roller) take(t *turn) *Op {
	cause := "takes the place of " + short(t.old)
	t.start = r.op(StartContainer, t, cause)
	t.start.Tolerate = r.tolerated()
	t.stop = &Op{Kind: StopContainer, Service: r.service, Index: t.index, Name: t.oldName, ContainerID: t.old, Cause: "replaced", Timeout: r.timeout, kept: true}
	proven := r.op(WaitFor, t, cause)
	proven.Condition, proven.Monitor, proven.Tolerate = Proven, r.how.Monitor, r.tolerated()
	if !r.how.StartFirst {
		r.plan.add(t.stop, t.after...)
		r.plan.add(t.start, t.stop)
		if t.made != nil {
			return r.plan.add(proven, t.start)
		}
		// It may run, and stand aside.
		return r.plan.add(proven, r.plan.add(r.op(HandOver, t, cause), t.start))
	}
	t.start.Aside = true
	r.plan.add(t.start, t.after...)
	r.plan.add(proven, t.start)
	hand := r.op(HandOver, t, cause)
	hand.Replaces = t.old
	r.plan.add(hand, proven)
	t.stop.Drain = true
	return r.plan.add(t.stop, hand)
}

// tolerated is how many containers may fail.
func (r *roller) tolerated() int {
	if r.how.FailureAction == desired.Continue {
		return r.total
	}
	return int(r.how.MaxFailureRatio * float64(r.total))
}
