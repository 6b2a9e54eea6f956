package plan

import (
	"maps"
	"slices"
	"strings"

	"github.com/stack-run/stack/compose/desired"
)

// schedules plans that the jobs run by their schedules, once all runs that up starts.
// Where only services are asked for, no other job is armed than was.
func (c *computer) schedules() {
	if c.opts.only {
		return
	}
	whole := len(c.opts.Services) == 0 && !c.opts.NoStart
	c.plan.disarm(c.observed, func(job string) string {
		switch {
		case slices.Contains(c.desired.Disabled, job):
			return "it is disabled"
		case c.desired.Jobs[job] == nil:
			return "the project no longer has it"
		case len(c.desired.Jobs[job].Schedules) == 0:
			return "it no longer has a schedule"
		}
		return ""
	})
	if !whole {
		return
	}
	c.plan.arm(c.desired, c.observed)
	var byHand []string
	for name, j := range c.desired.Jobs {
		if len(j.Schedules) == 0 {
			byHand = append(byHand, name)
		}
	}
	if slices.Sort(byHand); len(byHand) > 0 {
		c.plan.warn("jobs are not started by up; \"stack run JOB\" runs one: %s", strings.Join(byHand, ", "))
	}
}

// arm plans what has the jobs run by their schedules.
func (p *Plan) arm(d *desired.Project, o Observed) {
	if d == nil {
		return
	}
	after := p.starting()
	for _, name := range d.Scheduled() {
		have, want := o.Schedules[name], d.Jobs[name].Schedules
		if slices.Equal(have, want) {
			continue
		}
		cause := told(want)
		if len(have) > 0 {
			cause = told(have) + " → " + cause
		}
		p.add(&Op{Kind: ScheduleJob, Service: name, Name: name, Cause: cause}, after...)
	}
}

// disarm plans that the jobs of which why has a reason run by no schedule any more.
func (p *Plan) disarm(o Observed, why func(job string) string) []*Op {
	var ops []*Op
	for _, name := range slices.Sorted(maps.Keys(o.Schedules)) {
		if cause := why(name); cause != "" {
			ops = append(ops, p.add(&Op{Kind: UnscheduleJob, Service: name, Name: name, Cause: cause}))
		}
	}
	return ops
}

// disarmFirst disarms all schedules before anything that is planned so far is begun: no
// job that is due is to bring back what it needs.
func (p *Plan) disarmFirst(o Observed, cause string) {
	planned := slices.Clone(p.Ops)
	first := p.disarm(o, func(string) string { return cause })
	for _, op := range planned {
		if len(op.after) == 0 {
			op.after = slices.Clone(first)
		}
	}
}

func told(schedules []desired.Schedule) string {
	parts := make([]string, len(schedules))
	for i, s := range schedules {
		parts[i] = s.String()
	}
	return strings.Join(parts, "; ")
}
