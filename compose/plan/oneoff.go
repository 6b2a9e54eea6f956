package plan

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/stack-run/stack/compose/desired"
)

// makeRun plans a container outside the graph. One of a service has its networks
// and volumes made and, unless NoDeps is set, what the service depends on brought
// up first; it is created when all that is so, so that a dependency that fails
// leaves nothing behind.
func makeRun(r Request, o Observed) (*Plan, error) {
	if r.OneOff == nil {
		return nil, fmt.Errorf("internal error: run without a container")
	}
	s := &r.OneOff.Spec
	op := &Op{Kind: CreateContainer, Service: r.OneOff.Service, Name: s.Name, OneOff: true, Cause: "run"}
	if r.Desired == nil || r.OneOff.Service == "" {
		p := &Plan{}
		p.add(op)
		startOneOff(p, r, op)
		return p, p.finish()
	}
	wanted, err := r.Desired.ForRun(r.OneOff.Service, r.OneOff.Due.IsZero())
	if err != nil {
		return nil, err
	}
	service := wanted.Services[r.OneOff.Service]
	if service == nil {
		return nil, checkServices(r.Desired, []string{r.OneOff.Service})
	}
	options := r.options()
	options.NoStart, options.IgnoreOrphans, options.Wait = false, true, false
	options.ForceRecreate, options.RecreateDeps, options.NoRecreate = false, false, false
	if due := r.OneOff.Due; !due.IsZero() {
		op.Cause = "due at " + due.Format(time.RFC3339)
		options.NoRecreate = true // nobody is there who has changed anything
	}
	options.Services = nil
	if !r.NoDeps {
		options.Services = slices.Sorted(maps.Keys(service.DependsOn))
	}
	options.only = true
	c, err := newComputer(wanted, o, options)
	if err != nil {
		return nil, err
	}
	c.oneOff = s
	if err := c.decideAll(); err != nil {
		return nil, err
	}
	if err := c.checkShared(r.OneOff.Service, s, true); err != nil {
		return nil, err
	}
	c.emit()
	var after []*Op
	for _, a := range s.Network.Networks {
		after = append(after, c.networkOps[a.Network])
	}
	for _, m := range s.Mounts {
		after = append(after, c.volumeOps[m.Source])
	}
	for _, shared := range sharedBy(s) {
		after = append(after, c.made[shared]...)
	}
	c.plan.add(op, append(after, c.ready(r.OneOff.Service)...)...)
	startOneOff(c.plan, r, op)
	if !r.OneOff.Due.IsZero() {
		c.removeOldRuns(r.OneOff.Service, op)
	}
	return c.plan, c.plan.finish()
}

// keptRuns is of how many runs by a schedule the containers stay, with their output.
const keptRuns = 3

// removeOldRuns takes away what earlier runs of a job by its schedule have left.
func (c *computer) removeOldRuns(job string, made *Op) {
	var old []*Container
	for i := range c.observed.Containers {
		if x := &c.observed.Containers[i]; x.OneOff && x.Service == job && x.due() != "" && !x.live() {
			old = append(old, x)
		}
	}
	slices.SortFunc(old, func(a, b *Container) int { return strings.Compare(b.due(), a.due()) })
	for _, x := range old[min(len(old), keptRuns-1):] {
		op := c.op(RemoveContainer, x, job, fmt.Sprintf("the last %d runs of job %s are kept", keptRuns, job))
		op.Volumes = true
		c.plan.add(op, made)
	}
}

// due is the time for which a schedule ran the container, "" for none.
func (c *Container) due() string {
	if c.Spec == nil {
		return ""
	}
	return c.Spec.Labels[desired.LabelDue]
}

func startOneOff(p *Plan, r Request, made *Op) {
	if !r.CreateOnly {
		p.add(&Op{Kind: StartContainer, Service: made.Service, Name: made.Name, OneOff: true, Cause: made.Cause, makes: made}, made)
	}
}
