// Package diagnosis says why each service of a project runs, or does not: a pure
// function of what the files ask for, what is recorded of the containers, and what
// was looked up besides. A service that waits is explained by what it waits for, down
// to the one that is the cause.
package diagnosis

import (
	"maps"
	"slices"
	"time"

	"github.com/stack-run/stack/compose/desired"
	"github.com/stack-run/stack/engine/container"
)

// Facts are what a diagnosis is made from.
type Facts struct {
	Now time.Time
	// Project is what the files say, Last what the project was last asked to be, as
	// by "up --scale"; nil where it never was.
	Project, Last *desired.Project
	// Profiles are those of the services that no active profile has.
	Profiles map[string][]string
	// Containers are all records of the project.
	Containers []container.Record
	// LastLines are the last lines of logs, by container ID: of those that WantLog.
	LastLines map[string]string
	// NoImage are the services of Unmade whose image is not on this machine, PortTaken
	// those of Idle whose host port somebody else has, and who.
	NoImage   map[string]bool
	PortTaken map[string]string
}

// Services are all that there is something to say of.
func (f *Facts) Services() []string {
	names := map[string]bool{}
	for _, d := range []*desired.Project{f.Project, f.Last} {
		if d == nil {
			continue
		}
		for name := range d.Services {
			names[name] = true
		}
		for name := range d.Providers {
			names[name] = true
		}
	}
	for name := range f.Profiles {
		names[name] = true
	}
	for i := range f.Containers {
		if c := &f.Containers[i]; c.Service != "" && (!c.OneOff || isStep(c)) {
			names[c.Service] = true
		}
	}
	if f.Project != nil { // what was dropped from the files, and left nothing
		maps.DeleteFunc(names, func(name string, _ bool) bool {
			return !f.declared(name) && len(f.of(name)) == 0
		})
	}
	return slices.Sorted(maps.Keys(names))
}

func (f *Facts) declared(name string) bool {
	if f.Project == nil {
		return true
	}
	_, off := f.Profiles[name]
	_, provided := f.Project.Providers[name]
	return off || provided || f.Project.Services[name] != nil || slices.Contains(f.Project.Disabled, name)
}

// Unmade are the services that are to have containers and have none.
func (f *Facts) Unmade() []*desired.Service {
	return f.which(func(c *container.Record) bool { return true })
}

// Idle are the services that are to have containers none of which has a process.
func (f *Facts) Idle() []*desired.Service {
	return f.which(func(c *container.Record) bool {
		switch c.State.Phase {
		case container.Running, container.Paused, container.Restarting:
			return true
		}
		return false
	})
}

// which are the services without a container of that kind.
func (f *Facts) which(kind func(*container.Record) bool) []*desired.Service {
	var out []*desired.Service
	for _, name := range f.Services() {
		s := f.service(name)
		if s == nil || len(s.Replicas) == 0 || slices.ContainsFunc(f.of(name), kind) {
			continue
		}
		out = append(out, s)
	}
	return out
}

// WantLog are the containers whose last line tells something: they ended, or begin
// again and again.
func (f *Facts) WantLog() []string {
	var ids []string
	for i := range f.Containers {
		c := &f.Containers[i]
		if c.OneOff && !isStep(c) {
			continue
		}
		st := &c.State
		if st.Phase == container.Restarting || st.Phase == container.Exited && st.ExitCode != 0 && !st.StoppedByUser || f.unsteady(st) {
			ids = append(ids, c.ID)
		}
	}
	return ids
}

// steady is how long a run that a restart policy began must last to be no part of a
// crash loop: what resets the policy's delay.
const steady = 10 * time.Second

// unsteady says that a container runs again after it has ended, and not for long.
func (f *Facts) unsteady(st *container.State) bool {
	ran := f.Now.Sub(st.StartedAt)
	return st.Phase == container.Running && st.RestartCount > 0 && ran >= 0 && ran < steady
}

// service is a service as the files have it or, where they turn it off or are gone, as
// it was last brought up.
func (f *Facts) service(name string) *desired.Service {
	if f.Project != nil && f.Project.Services[name] != nil {
		return f.Project.Services[name]
	}
	if f.Last != nil && (f.Project == nil || len(f.of(name)) > 0) {
		return f.Last.Services[name]
	}
	return nil
}

// of are the containers of a service that are there to stay.
func (f *Facts) of(service string) []*container.Record {
	var out []*container.Record
	for i := range f.Containers {
		if c := &f.Containers[i]; c.Service == service && !c.OneOff {
			out = append(out, c)
		}
	}
	slices.SortStableFunc(out, func(a, b *container.Record) int { return a.Index - b.Index })
	return out
}

// steps are the containers of a service's pre_start that are there: one that runs, or
// the one that failed.
func (f *Facts) steps(service string) []*container.Record {
	var out []*container.Record
	for i := range f.Containers {
		if c := &f.Containers[i]; c.Service == service && isStep(c) {
			out = append(out, c)
		}
	}
	return out
}

func isStep(c *container.Record) bool {
	return c.OneOff && c.Spec.Labels[desired.LabelHook] != ""
}
