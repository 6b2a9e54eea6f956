package startup

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/stack-run/stack/compose/desired"
	"github.com/stack-run/stack/engine/container"
	"github.com/stack-run/stack/healthcheck/health"
)

var noon = time.Date(2026, 1, 2, 12, 0, 0, 0, time.UTC)

func at(ms int) time.Time { return noon.Add(time.Duration(ms) * time.Millisecond) }

// project makes one of "web: api healthy, migrate completed; api: …".
func project(text string) *desired.Project {
	d := &desired.Project{Services: map[string]*desired.Service{}}
	conditions := map[string]string{"started": "service_started", "healthy": "service_healthy", "completed": "service_completed_successfully"}
	for _, part := range strings.Split(text, ";") {
		name, needs, _ := strings.Cut(strings.TrimSpace(part), ":")
		s := &desired.Service{Name: name, DependsOn: map[string]desired.Dependency{}}
		for _, need := range strings.Split(needs, ",") {
			if f := strings.Fields(need); len(f) == 2 {
				s.DependsOn[f[0]] = desired.Dependency{Condition: conditions[f[1]], Required: true}
			}
		}
		d.Services[name] = s
	}
	return d
}

func ran(service string, created, started int, more ...func(*container.Record)) container.Record {
	c := container.Record{Service: service, Index: 1, Created: at(created), State: container.State{Phase: container.Running, StartedAt: at(started)}}
	for _, change := range more {
		change(&c)
	}
	return c
}

func healthy(ms int) func(*container.Record) {
	return func(c *container.Record) { c.State.Health, c.State.HealthyAt = health.Healthy, at(ms) }
}

func ended(ms, code int) func(*container.Record) {
	return func(c *container.Record) {
		c.State.Phase, c.State.FinishedAt, c.State.ExitCode = container.Exited, at(ms), code
	}
}

func never(c *container.Record) { c.State = container.State{Phase: container.Created} }

func restarted(c *container.Record) { c.State.RestartCount = 4 }

// sketch writes a start in a few lines.
func sketch(s Start) string {
	var b strings.Builder
	since := func(t time.Time) string {
		if t.IsZero() {
			return "-"
		}
		return t.Sub(s.Begin).String()
	}
	for _, x := range s.Services {
		fmt.Fprintf(&b, "%s %s %s %s %s", x.Name, since(x.Created), since(x.Started), since(x.Ready), x.Readiness)
		for _, w := range x.Waits {
			fmt.Fprintf(&b, ", %s %s", w.Service, w.For)
		}
		if x.Restarts > 0 {
			fmt.Fprintf(&b, ", restarted %d", x.Restarts)
		}
		b.WriteByte('\n')
	}
	for i, l := range s.Chain {
		fmt.Fprintf(&b, "%s%s @%s +%s", map[bool]string{true: " ← "}[i > 0], l.Service, since(l.Started), l.Took)
	}
	return b.String()
}

func TestAnalyze(t *testing.T) {
	const shop = "web: api healthy, cache started; api: db healthy, migrate completed; migrate: db healthy; db; cache"
	day := 24 * 3600 * 1000
	for _, c := range []struct {
		name, project string
		records       []container.Record
		services      []string
		want          string
	}{
		{"nothing was ever started", shop, nil, nil, ""},
		{"one service", "db", []container.Record{ran("db", 0, 40)}, nil, `
			db 0s 40ms 40ms started
			db @40ms +0s`},
		{"the slow one of two", "web: a healthy, b healthy; a; b", []container.Record{
			ran("a", 0, 50, healthy(300)), ran("b", 0, 60, healthy(2060)), ran("web", 10, 2100),
		}, nil, `
			a 0s 50ms 300ms healthy
			b 0s 60ms 2.06s healthy
			web 10ms 2.1s 2.1s started, b 2.05s, a 290ms
			web @2.1s +0s ← b @60ms +2s`},
		{"all conditions", shop, []container.Record{
			ran("db", 0, 50, healthy(1050)), ran("migrate", 1, 1100, ended(1600, 0)), ran("api", 2, 1650, healthy(1950)), ran("cache", 3, 70), ran("web", 4, 2000),
		}, nil, `
			db 0s 50ms 1.05s healthy
			cache 3ms 70ms 70ms started
			migrate 1ms 1.1s 1.6s completed, db 1.049s
			api 2ms 1.65s 1.95s healthy, migrate 1.598s, db 1.048s
			web 4ms 2s 2s started, api 1.946s, cache 66ms
			web @2s +0s ← api @1.65s +300ms ← migrate @1.1s +500ms ← db @50ms +1s`},
		{"of one that is asked for", shop, []container.Record{
			ran("db", 0, 50, healthy(1050)), ran("migrate", 1, 1100, ended(1600, 0)), ran("api", 2, 1650, healthy(1950)), ran("cache", 3, 70), ran("web", 4, 2000),
		}, []string{"migrate", "cache"}, `
			cache 3ms 70ms 70ms started
			migrate 1ms 1.1s 1.6s completed, db 1.049s
			migrate @1.1s +500ms ← db @50ms +1s`},
		{"the last one waits for nobody", "web: db healthy; db; slow", []container.Record{
			ran("db", 0, 50, healthy(100)), ran("web", 0, 150), ran("slow", 0, 60, healthy(4000)),
		}, nil, `
			db 0s 50ms 100ms healthy
			slow 0s 60ms 4s healthy
			web 0s 150ms 150ms started, db 100ms
			slow @60ms +3.94s`},
		{"started again the next day", "web: db healthy; db", []container.Record{
			ran("db", 0, day, healthy(day+700)), ran("web", 1, day+750),
		}, nil, `
			db - 0s 700ms healthy
			web - 750ms 750ms started, db 700ms
			web @750ms +0s ← db @0s +700ms`},
		{"one restarted later is a start of its own", "web: db healthy; db", []container.Record{
			ran("db", 0, 50, healthy(700)), ran("web", 1, 60_000),
		}, nil, `
			web - 0s 0s started
			web @0s +0s`},
		{"the start before, of what is asked for", "web: db healthy; db", []container.Record{
			ran("db", 0, 50, healthy(700)), ran("web", 1, 60_000),
		}, []string{"db"}, `
			db 0s 50ms 700ms healthy
			db @50ms +650ms`},
		{"a wait is no pause", "web: db healthy; db", []container.Record{
			ran("db", 0, 50, healthy(90_000)), ran("web", 1, 90_100),
		}, nil, `
			db 0s 50ms 1m30s healthy
			web 1ms 1m30.1s 1m30.1s started, db 1m29.999s
			web @1m30.1s +0s ← db @50ms +1m29.95s`},
		{"not ready yet", "web: db healthy; db", []container.Record{
			ran("db", 0, 50, func(c *container.Record) { c.State.Health = health.Starting }), ran("web", 1, 0, never),
		}, nil, `
			db 0s 50ms - healthy
			web 1ms - - started
			`},
		{"a job that failed", "web: job completed; job", []container.Record{
			ran("job", 0, 50, ended(100, 3)), ran("web", 1, 0, never),
		}, nil, `
			job 0s 50ms - completed
			web 1ms - - started
			`},
		{"what restarts has no known start", "web: db started; db; cache", []container.Record{
			ran("db", 0, 3600_000, restarted), ran("cache", 1, 40), ran("web", 1, 90),
		}, nil, `
			cache 1ms 40ms 40ms started
			web 1ms 90ms 90ms started
			db 0s - - started, restarted 4
			web @90ms +0s`},
		{"all replicas must be ready", "web: db healthy; db", []container.Record{
			ran("db", 0, 50, healthy(500)), ran("db", 0, 60, healthy(900)), ran("web", 1, 950), ran("web", 1, 990),
		}, nil, `
			db 0s 50ms 900ms healthy
			web 1ms 950ms 990ms started, db 899ms
			web @950ms +40ms ← db @50ms +850ms`},
		{"a replica more", "web: db healthy; db", []container.Record{
			ran("db", 0, 50, healthy(500)), ran("web", 1, 550), ran("web", 60_000, 60_040),
		}, nil, `
			web 0s 40ms 40ms started
			web @40ms +0s`},
		{"it was healthy, and is not now", "web: db healthy; db", []container.Record{
			ran("db", 0, 50, healthy(500), func(c *container.Record) { c.State.Health = health.Unhealthy }), ran("web", 1, 550),
		}, nil, `
			db 0s 50ms 500ms healthy
			web 1ms 550ms 550ms started, db 499ms
			web @550ms +0s ← db @50ms +450ms`},
		{"what was up before costs nothing", "web: db healthy; db", []container.Record{
			ran("db", -day, -day+50, healthy(-day+500)), ran("web", 1, 50),
		}, nil, `
			web 0s 49ms 49ms started
			web @49ms +0s`},
		{"one-offs do not count", "web", []container.Record{
			ran("web", 0, 50), ran("web", 60_000, 60_040, func(c *container.Record) { c.OneOff = true }),
		}, nil, `
			web 0s 50ms 50ms started
			web @50ms +0s`},
	} {
		var want []string
		for _, line := range strings.Split(strings.TrimPrefix(c.want, "\n"), "\n") {
			want = append(want, strings.TrimSpace(line))
		}
		if diff := cmp.Diff(strings.Join(want, "\n"), sketch(Analyze(project(c.project), c.records, c.services...))); diff != "" {
			t.Errorf("%s:\n%s", c.name, diff)
		}
	}
}
