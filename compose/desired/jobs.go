package desired

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// Job is a container that runs to its end when it is told to, by hand or by a
// schedule. As a service it has one replica.
type Job struct {
	Service
	// NotByHand (triggers.manual: false) forbids an explicit run.
	NotByHand bool       `json:"notByHand,omitempty"`
	Schedules []Schedule `json:"schedules,omitempty"`
}

// Schedule is one entry of triggers.schedule.
type Schedule struct {
	Cron string `json:"cron"`
	// Timezone is that of the cron expression; "": this machine's.
	Timezone    string `json:"timezone,omitempty"`
	Concurrency string `json:"concurrency,omitempty"` // "" is ConcurrencyForbid
	Missed      string `json:"missed,omitempty"`      // "" is MissedOne
}

// What becomes of a due time while the run before it goes on: it is skipped, or waits.
const (
	ConcurrencyForbid = "forbid"
	ConcurrencyQueue  = "queue"
)

// What becomes of the due times at which nobody was there: one run makes up for all of
// them, or none does.
const (
	MissedOne  = "one"
	MissedSkip = "skip"
)

// Every says that the schedule is an interval, which counts from the run before.
func (s Schedule) Every() bool { return strings.HasPrefix(s.Cron, "@every ") }

func (s Schedule) String() string {
	parts := []string{s.Cron}
	if s.Timezone != "" {
		parts = append(parts, s.Timezone)
	}
	if s.Concurrency == ConcurrencyQueue {
		parts = append(parts, "queued")
	}
	if s.Missed == MissedSkip {
		parts = append(parts, "missed ones skipped")
	}
	return strings.Join(parts, ", ")
}

// WithJobs is the project where jobs are services, as they are while one of them runs.
func (d *Project) WithJobs(names ...string) *Project {
	if len(names) == 0 {
		return d
	}
	out := *d
	out.Services = maps.Clone(d.Services)
	if out.Services == nil {
		out.Services = map[string]*Service{}
	}
	for _, name := range names {
		if j := d.Jobs[name]; j != nil {
			out.Services[name] = &j.Service
		}
	}
	return &out
}

// All are the services and the jobs.
func (d *Project) All() map[string]*Service {
	return d.WithJobs(slices.Collect(maps.Keys(d.Jobs))...).Services
}

// ForRun is the project in which a service or job can be run: with the jobs that it
// needs. By hand it is refused where one of them forbids that.
func (d *Project) ForRun(name string, byHand bool) (*Project, error) {
	job := d.Jobs[name]
	if job == nil {
		return d, nil
	}
	if byHand && job.NotByHand {
		return nil, fmt.Errorf("job %q is declared with manual: false, it cannot be run manually", name)
	}
	names := d.needed(name)
	for _, other := range names[1:] {
		if byHand && d.Jobs[other].NotByHand {
			return nil, fmt.Errorf("job %q is declared with manual: false, it cannot be triggered even as a dependency of another job", other)
		}
	}
	return d.WithJobs(names...), nil
}

// needed adds the jobs that jobs depend on, directly or not.
func (d *Project) needed(names ...string) []string {
	for i := 0; i < len(names); i++ {
		for _, dep := range slices.Sorted(maps.Keys(d.Jobs[names[i]].DependsOn)) {
			if d.Jobs[dep] != nil && !slices.Contains(names, dep) {
				names = append(names, dep)
			}
		}
	}
	return names
}

// WithDue is the project with the jobs that will be due, and those that they need, as
// services.
func (d *Project) WithDue() *Project { return d.WithJobs(d.needed(d.Scheduled()...)...) }

// Scheduled are the jobs that have a schedule.
func (d *Project) Scheduled() []string {
	var names []string
	for name, j := range d.Jobs {
		if len(j.Schedules) > 0 {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// RunOnly is the refusal of a verb that is not for jobs, in docker compose's words.
func RunOnly(job string) error {
	return fmt.Errorf("job %q can only be triggered with \"docker compose run\": stack run %s", job, job)
}
