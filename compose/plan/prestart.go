package plan

import (
	"fmt"
	"slices"

	"github.com/stack-run/stack/compose/desired"
	"github.com/stack-run/stack/engine/container"
)

// emitPreStart plans what runs before a service's containers start: where none of
// them runs on as it is, each step of pre_start in a container of its own, to its
// end, one after the other. What is replaced meanwhile runs on until all have
// succeeded.
func (c *computer) emitPreStart(s *desired.Service) {
	if len(s.PreStart) == 0 || c.opts.NoStart || !c.inScope[s.Name] || !c.startsAnew(s.Name) {
		return
	}
	var before []*Op
	for i := range c.observed.Containers {
		if x := &c.observed.Containers[i]; x.Service == s.Name && x.isStep() {
			before = append(before, c.removeStep(x))
		}
	}
	ready := append(c.ready(s.Name), before...)
	for i, step := range s.PreStart {
		if !slices.ContainsFunc(c.decisions[s.Name], func(d *decision) bool { return step.Replica == 0 || d.replica.Index == step.Replica }) {
			continue
		}
		cause := fmt.Sprintf("pre_start[%d] of service %s", step.Hook, s.Name)
		made := &Op{Kind: CreateContainer, Service: s.Name, Index: step.Replica, Name: step.Spec.Name, OneOff: true, Step: i + 1, Cause: cause}
		c.plan.add(made, append(c.resources(&step.Spec), before...)...)
		op := func(kind OpKind, after ...*Op) *Op {
			o := *made
			o.Kind, o.makes = kind, made
			return c.plan.add(&o, after...)
		}
		done := op(WaitFor, op(StartContainer, append(slices.Clone(ready), made)...))
		done.Condition = Completed
		gone := op(RemoveContainer, done)
		gone.Volumes = true
		ready = []*Op{gone}
	}
	c.prepared[s.Name] = ready
}

// startsAnew says that containers of a service start, and that none runs on.
func (c *computer) startsAnew(service string) bool {
	starts := false
	for _, d := range c.decisions[service] {
		switch d.action {
		case create, recreate, replace, start:
			starts = true
		case restart, unpause:
			return false
		case keep:
			if d.old != nil && d.old.live() {
				return false
			}
		}
	}
	return starts
}

// resources are the operations that make what a container needs.
func (c *computer) resources(s *container.Spec) []*Op {
	var ops []*Op
	for _, a := range s.Network.Networks {
		ops = append(ops, c.networkOps[a.Network])
	}
	for _, m := range s.Mounts {
		ops = append(ops, c.volumeOps[m.Source])
	}
	return ops
}

// isStep says that a container was made to run before others.
func (c *Container) isStep() bool {
	return c.OneOff && c.Spec != nil && c.Spec.Labels[desired.LabelHook] != ""
}

// removeStep takes away what an earlier run of a step has left.
func (c *computer) removeStep(x *Container) *Op {
	for _, r := range c.removals {
		if r.container == x {
			return r.done
		}
	}
	const cause = "left over from an earlier run of pre_start"
	op := c.op(RemoveContainer, x, x.Service, cause)
	op.Volumes = true
	return c.plan.add(op, c.stop(x, x.Service, cause))
}
