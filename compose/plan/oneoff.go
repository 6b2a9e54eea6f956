package plan

import (
	"fmt"
	"maps"
	"slices"
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
	service := r.Desired.Services[r.OneOff.Service]
	if service == nil {
		return nil, checkServices(r.Desired, []string{r.OneOff.Service})
	}
	options := r.options()
	options.NoStart, options.IgnoreOrphans, options.Wait = false, true, false
	options.ForceRecreate, options.RecreateDeps, options.NoRecreate = false, false, false
	options.Services = nil
	if !r.NoDeps {
		options.Services = slices.Sorted(maps.Keys(service.DependsOn))
	}
	options.only = true
	c, err := newComputer(r.Desired, o, options)
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
	return c.plan, c.plan.finish()
}

func startOneOff(p *Plan, r Request, made *Op) {
	if !r.CreateOnly {
		p.add(&Op{Kind: StartContainer, Service: made.Service, Name: made.Name, OneOff: true, Cause: "run", makes: made}, made)
	}
}
