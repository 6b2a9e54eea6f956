// Package startup says what the last start of a project's services waited for, as
// "systemd-analyze critical-chain" does of a boot: a pure function of the dependencies
// and of what records say of when each container was created, started, healthy and
// done. Nobody notes that a start begins or ends. It is told from other starts by its
// times: what happened one after the other without a long pause is one start.
package startup

import (
	"cmp"
	"maps"
	"slices"
	"time"

	"github.com/stack-run/stack/compose/desired"
	"github.com/stack-run/stack/compose/machine"
	"github.com/stack-run/stack/engine/container"
	"github.com/stack-run/stack/healthcheck/health"
)

// pause is how long nothing happens between two starts, at least. Within one, who is
// ready has those that waited for it start at once.
const pause = 5 * time.Second

// Readiness is what a service was once it was ready.
type Readiness string

const (
	Started   Readiness = "started" // it has no health check
	Healthy   Readiness = "healthy"
	Completed Readiness = "completed" // others wait for its end
)

// Start is what happened from the creation of the first container to the readiness of
// the last service.
type Start struct {
	Begin time.Time
	// Services are those that were started, in that order, and those that were created
	// and have yet to start.
	Services []Service
	// Chain leads from the service that was ready last to the first one: each was
	// started when the next one was ready.
	Chain []Link
}

// Service is what is known of a service's start. What has not happened, or is not
// known, is zero.
type Service struct {
	Name string
	// Created is zero where the containers had been there before.
	Created, Started, Ready time.Time
	// Readiness is what it must be to be ready.
	Readiness Readiness
	// Waits are the dependencies that it waited for, the longest first.
	Waits []Wait
	// Restarts is how often its restart policy has started it since: then the times of
	// its first start are not known.
	Restarts int
}

// Wait is how long a service waited until a dependency was as it had to be.
type Wait struct {
	Service, Condition string
	For                time.Duration
}

// Link is a service of the chain, with how long it took from its start until it was
// what the one before it in the chain waited for.
type Link struct {
	Service string
	Started time.Time
	Took    time.Duration
}

// Analyze finds the last start of a project. With services named it is that of these,
// and the chain is of the one among them that was ready last.
func Analyze(d *desired.Project, records []container.Record, services ...string) Start {
	a := analyzer{project: d, wanted: map[string]bool{}, containers: map[string][]*container.Record{}}
	for _, s := range d.Services {
		for name, dep := range s.DependsOn {
			a.wanted[name] = a.wanted[name] || dep.Condition == machine.ConditionCompleted
		}
	}
	asked := func(name string) bool { return len(services) == 0 || slices.Contains(services, name) }
	begin, end, ok := a.last(records, asked)
	if !ok {
		return Start{}
	}
	for i := range records {
		if c := &records[i]; counts(c) && (within(c.Created, begin, end) || within(c.State.StartedAt, begin, end)) {
			a.containers[c.Service] = append(a.containers[c.Service], c)
		}
	}
	a.begin = begin
	out := Start{Begin: begin}
	for _, name := range slices.Sorted(maps.Keys(a.containers)) {
		if asked(name) {
			out.Services = append(out.Services, a.service(name))
		}
	}
	slices.SortStableFunc(out.Services, func(x, y Service) int {
		if x.Started.IsZero() != y.Started.IsZero() {
			return cmp.Compare(y.Started.Unix(), x.Started.Unix())
		}
		return x.Started.Compare(y.Started)
	})
	out.Chain = a.chain(out.Services)
	return out
}

type analyzer struct {
	project *desired.Project
	// wanted are the services whose end others wait for.
	wanted map[string]bool
	begin  time.Time
	// containers are those of the start, by service.
	containers map[string][]*container.Record
}

// counts says that a container is a service's own.
func counts(c *container.Record) bool { return c.Service != "" && !c.OneOff }

// known says that the times of its run are those of its start.
func known(c *container.Record) bool { return c.State.RestartCount == 0 && !c.State.StartedAt.IsZero() }

func within(t, begin, end time.Time) bool { return !t.Before(begin) && !t.After(end) }

// last is the time of the last start in which one of the services that are asked for
// was started.
func (a *analyzer) last(records []container.Record, asked func(string) bool) (begin, end time.Time, ok bool) {
	type interval struct {
		from, to time.Time
		asked    bool
	}
	var all []interval
	for i := range records {
		c := &records[i]
		if !counts(c) {
			continue
		}
		all = append(all, interval{c.Created, c.Created, false})
		if known(c) {
			from := c.State.StartedAt
			all = append(all, interval{from, later(from, a.ready(c)), asked(c.Service)})
		}
	}
	slices.SortFunc(all, func(x, y interval) int { return x.from.Compare(y.from) })
	var current interval
	for _, x := range all {
		if current.from.IsZero() || x.from.Sub(current.to) > pause {
			current = x
		} else {
			current.to, current.asked = later(current.to, x.to), current.asked || x.asked
		}
		if current.asked {
			begin, end, ok = current.from, current.to, true
		}
	}
	return begin, end, ok
}

func later(a, b time.Time) time.Time {
	if a.Before(b) {
		return b
	}
	return a
}

// readiness is what a container's service must be.
func (a *analyzer) readiness(c *container.Record) Readiness {
	switch {
	case a.wanted[c.Service]:
		return Completed
	case c.State.Health != health.None || !c.State.HealthyAt.IsZero():
		return Healthy
	}
	return Started
}

// ready is when a container was what it must be, zero if it was not or if that is not
// known.
func (a *analyzer) ready(c *container.Record) time.Time { return reached(c, a.readiness(c)) }

func reached(c *container.Record, r Readiness) time.Time {
	switch {
	case !known(c):
		return time.Time{}
	case r == Started:
		return c.State.StartedAt
	case r == Healthy:
		return c.State.HealthyAt
	case c.State.Phase == container.Exited && c.State.ExitCode == 0:
		return c.State.FinishedAt
	}
	return time.Time{}
}

// all is when all containers of a service were something, zero if one was not.
func (a *analyzer) all(name string, when func(*container.Record) time.Time) time.Time {
	var out time.Time
	for _, c := range a.containers[name] {
		t := when(c)
		if t.IsZero() {
			return t
		}
		out = later(out, t)
	}
	return out
}

// started is when the first container of a service was.
func (a *analyzer) started(name string) time.Time {
	var out time.Time
	for _, c := range a.containers[name] {
		if t := c.State.StartedAt; known(c) && (out.IsZero() || t.Before(out)) {
			out = t
		}
	}
	return out
}

func (a *analyzer) service(name string) Service {
	s := Service{Name: name, Started: a.started(name), Ready: a.all(name, a.ready)}
	for _, c := range a.containers[name] {
		s.Readiness = a.readiness(c)
		s.Restarts = max(s.Restarts, c.State.RestartCount)
		if !c.Created.Before(a.begin) && (s.Created.IsZero() || c.Created.Before(s.Created)) {
			s.Created = c.Created
		}
	}
	for _, m := range a.met(name) {
		if wait := m.at.Sub(later(a.begin, s.Created)); wait > 0 {
			s.Waits = append(s.Waits, Wait{m.service, m.condition, wait})
		}
	}
	return s
}

// met is a dependency that was as it had to be before who needs it was started.
type met struct {
	service, condition string
	at                 time.Time
}

// met are the dependencies of a service that this start has made, the last first.
func (a *analyzer) met(name string) []met {
	s, started := a.project.Services[name], a.started(name)
	if s == nil || started.IsZero() {
		return nil
	}
	var out []met
	for _, other := range slices.Sorted(maps.Keys(s.DependsOn)) {
		condition := s.DependsOn[other].Condition
		r := Started
		switch condition {
		case machine.ConditionHealthy:
			r = Healthy
		case machine.ConditionCompleted:
			r = Completed
		}
		at := a.all(other, func(c *container.Record) time.Time { return reached(c, r) })
		if at.IsZero() || at.After(started) || at.Before(a.begin) {
			continue
		}
		out = append(out, met{other, condition, at})
	}
	slices.SortStableFunc(out, func(x, y met) int { return y.at.Compare(x.at) })
	return out
}

// chain begins with the service that was ready last and goes on with what each waited
// for longest.
func (a *analyzer) chain(services []Service) []Link {
	var last *Service
	for i := range services {
		if s := &services[i]; !s.Ready.IsZero() && (last == nil || s.Ready.After(last.Ready)) {
			last = s
		}
	}
	if last == nil {
		return nil
	}
	var out []Link
	for name, until := last.Name, last.Ready; ; {
		started := a.started(name)
		out = append(out, Link{name, started, until.Sub(started)})
		before := a.met(name)
		if len(before) == 0 || len(out) > len(a.containers) { // or a circle in a damaged definition
			return out
		}
		name, until = before[0].service, before[0].at
	}
}
