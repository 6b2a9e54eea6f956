package spec

import (
	"maps"
	"slices"

	"github.com/compose-spec/compose-go/v2/types"

	"github.com/stack-run/stack/compose/desired"
)

// WithJobs is the project where jobs are services: what is said of the container of
// a job means what it means for that of a service.
func WithJobs(p *types.Project) *types.Project {
	out := *p
	out.Jobs, out.DisabledJobs = nil, nil
	add := func(services types.Services, jobs types.Jobs) types.Services {
		all := types.Services{}
		maps.Copy(all, services)
		for name, j := range jobs {
			all[name] = types.ServiceConfig{
				Name: name, Profiles: j.Profiles, Extensions: j.Extensions,
				ContainerSpec: j.ContainerSpec, WorkloadSpec: j.WorkloadSpec,
			}
		}
		return all
	}
	out.Services = add(p.Services, p.Jobs)
	out.DisabledServices = add(p.DisabledServices, p.DisabledJobs)
	return &out
}

// WithoutJobs takes the jobs out of the services again. jobs are all of the project.
func WithoutJobs(p *types.Project, jobs types.Jobs) *types.Project {
	out := *p
	take := func(services types.Services) (types.Services, types.Jobs) {
		own, taken := types.Services{}, types.Jobs{}
		for name, s := range services {
			j, ok := jobs[name]
			if !ok {
				own[name] = s
				continue
			}
			j.ContainerSpec, j.WorkloadSpec = s.ContainerSpec, s.WorkloadSpec
			taken[name] = j
		}
		return own, taken
	}
	out.Services, out.Jobs = take(p.Services)
	out.DisabledServices, out.DisabledJobs = take(p.DisabledServices)
	return &out
}

// jobs translates the jobs. One with a fault that does not count is what it was, or
// left out.
func (b *builder) jobs(d *Desired) {
	services := WithJobs(b.project).Services
	for _, name := range slices.Sorted(maps.Keys(b.project.Jobs)) {
		var job *desired.Job
		if !slices.Contains(b.host.Aside, name) {
			job = b.oneJob(d, name, services[name])
		}
		if job == nil && b.host.Earlier != nil && !b.touched(name) {
			job = b.host.Earlier.Jobs[name]
		}
		if job == nil {
			d.Disabled = append(d.Disabled, name)
			continue
		}
		if d.Jobs == nil {
			d.Jobs = map[string]*desired.Job{}
		}
		d.Jobs[name] = job
	}
}

// oneJob translates a job as a service of one container.
func (b *builder) oneJob(d *Desired, name string, s types.ServiceConfig) *desired.Job {
	faults, warnings := len(b.errs), len(b.warnings)
	b.job = name
	b.service(d, s)
	b.job = ""
	service := d.Services[name]
	delete(d.Services, name)
	if len(b.errs) > faults {
		if !b.touched(name) {
			b.errs, b.warnings = b.errs[:faults], b.warnings[:warnings]
		}
		return nil
	}
	job := &desired.Job{Service: *service}
	triggers := b.project.Jobs[name].Triggers
	if triggers == nil {
		return job
	}
	job.NotByHand = triggers.Manual != nil && !*triggers.Manual
	for _, t := range triggers.Schedule {
		job.Schedules = append(job.Schedules, desired.Schedule{
			Cron: t.Cron, Timezone: t.Timezone, Concurrency: t.Concurrency, Missed: t.MissedFires,
		})
	}
	return job
}
