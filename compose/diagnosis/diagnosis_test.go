package diagnosis

import (
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/stack-run/stack/compose/desired"
	"github.com/stack-run/stack/engine/container"
	"github.com/stack-run/stack/healthcheck/health"
)

var update = flag.Bool("update", false, "write testdata/reasons.txt anew")

var noon = time.Date(2026, 1, 2, 12, 0, 0, 0, time.UTC)

func ago(d time.Duration) time.Time { return noon.Add(-d) }

// shop is a project of web, which needs api to be healthy, which needs db to be
// healthy and migrate to complete.
func shop() *desired.Project {
	d := &desired.Project{Project: "shop", Services: map[string]*desired.Service{}}
	needs := func(conditions ...string) map[string]desired.Dependency {
		out := map[string]desired.Dependency{}
		for _, c := range conditions {
			name, condition, _ := strings.Cut(c, ":")
			out[name] = desired.Dependency{Condition: condition, Required: true}
		}
		return out
	}
	for name, deps := range map[string]map[string]desired.Dependency{
		"web": needs("api:service_healthy"), "api": needs("db:service_healthy", "migrate:service_completed_successfully"),
		"db": nil, "migrate": needs("db:service_started"),
	} {
		d.Services[name] = &desired.Service{
			Name: name, DependsOn: deps,
			Replicas: []desired.Replica{{Index: 1, Spec: container.Spec{Name: "shop-" + name + "-1", Image: "shop/" + name}}},
		}
	}
	return d
}

// is makes a container of a service that is in a state.
func is(service string, st container.State) container.Record {
	return container.Record{
		ID: service + "1", Project: "shop", Service: service, Index: 1, State: st,
		Spec: container.Spec{Name: "shop-" + service + "-1", Limits: container.Limits{Memory: 64 << 20}},
	}
}

// checked has the engine itself probe a container.
func checked(c container.Record, on container.OnUnhealthy) container.Record {
	c.Spec.Health, c.Spec.OnUnhealthy = &health.Spec{Test: []string{health.HTTP, "/"}, Retries: 2}, on
	return c
}

func runs(d time.Duration) container.State {
	return container.State{Phase: container.Running, Pid: 7, StartedAt: ago(d)}
}

func healthy(d time.Duration) container.State {
	st := runs(d)
	st.Health, st.HealthyAt = health.Healthy, st.StartedAt.Add(1200*time.Millisecond)
	return st
}

func probed(status health.Status, streak, code int, output string) container.State {
	st := runs(40 * time.Second)
	st.Health, st.FailingStreak = status, streak
	st.HealthLog = []health.Result{{Start: ago(3 * time.Second), End: ago(2 * time.Second), ExitCode: code, Output: output}}
	return st
}

func exited(code int, d time.Duration) container.State {
	return container.State{Phase: container.Exited, ExitCode: code, StartedAt: ago(d + time.Minute), FinishedAt: ago(d)}
}

func with(st container.State, change func(*container.State)) container.State {
	change(&st)
	return st
}

var (
	created = container.State{Phase: container.Created}
	loops   = with(exited(1, time.Second), func(st *container.State) {
		st.Phase, st.RestartCount, st.RestartAt = container.Restarting, 4, noon.Add(12*time.Second)
	})
)

func failedStart(text string, code int) container.State {
	return container.State{Phase: container.Created, ExitCode: code, Error: "cannot start container shop-db-1: " + text, FinishedAt: ago(time.Minute)}
}

// TestReasons is one reason for each cause, of the service that is asked for. No two
// are the same.
func TestReasons(t *testing.T) {
	step := is("web", exited(3, time.Minute))
	step.OneOff, step.ID, step.Spec.Name = true, "step", "shop-web-pre_start-0"
	step.Spec.Labels = map[string]string{desired.LabelHook: "pre_start", desired.LabelHookIndex: "0"}
	running := step
	running.State = runs(3 * time.Second)
	replica := func(service string, n int, st container.State) container.Record {
		c := is(service, st)
		c.Index, c.ID, c.Spec.Name = n, fmt.Sprint(service, n), fmt.Sprintf("shop-%s-%d", service, n)
		return c
	}
	var b strings.Builder
	seen, causes := map[string]string{}, map[Cause]bool{}
	for _, c := range []struct {
		name, service string
		containers    []container.Record
		facts         func(*Facts)
	}{
		{"a service without a check", "db", []container.Record{is("db", runs(3*time.Minute))}, nil},
		{"healthy", "db", []container.Record{is("db", healthy(3*time.Hour))}, nil},
		{"healthy, of an earlier release", "db", []container.Record{is("db", with(healthy(50*time.Hour), func(st *container.State) { st.HealthyAt = time.Time{} }))}, nil},
		{"healthy, a probe failed", "db", []container.Record{is("db", with(healthy(time.Hour), func(st *container.State) { st.FailingStreak = 1 }))}, nil},
		{"healthy after restarts", "db", []container.Record{is("db", with(healthy(time.Hour), func(st *container.State) { st.RestartCount = 2 }))}, nil},
		{"not healthy yet", "db", []container.Record{is("db", probed(health.Starting, 0, 2, "\x1b[31mno response\x1b[0m\n\n"))}, nil},
		{"not probed yet", "db", []container.Record{is("db", with(runs(20*time.Millisecond), func(st *container.State) { st.Health = health.Starting }))}, nil},
		{"unhealthy", "db", []container.Record{is("db", probed(health.Unhealthy, 3, 2, "connecting\nno response\n"))}, nil},
		{"a probe takes too long", "db", []container.Record{is("db", probed(health.Unhealthy, 1, -1, "took longer than 3s"))}, nil},
		{"unhealthy, by a probe of the engine's", "db", []container.Record{checked(is("db", probed(health.Unhealthy, 3, 1, "connection refused")), "")}, nil},
		{"unhealthy, and being ended", "db", []container.Record{checked(is("db", with(probed(health.Unhealthy, 3, 1, "503"), func(st *container.State) { st.Stopping, st.Unwell = true, true })), container.UnhealthyRestart)}, nil},
		{"unhealthy, and to be restarted", "db", []container.Record{checked(is("db", with(probed(health.Unhealthy, 3, 1, "503"), func(st *container.State) {
			st.Phase, st.ExitCode, st.RestartCount, st.RestartAt, st.Unwell = container.Restarting, 143, 2, noon.Add(time.Second), true
		})), container.UnhealthyRestart)}, nil},
		{"unhealthy, and stopped", "db", []container.Record{checked(is("db", with(probed(health.Unhealthy, 3, 1, "503"), func(st *container.State) {
			st.Phase, st.ExitCode, st.FinishedAt, st.StoppedByUser = container.Exited, 143, ago(time.Minute), true
		})), container.UnhealthyStop)}, nil},
		{"unhealthy, and killed during a probe", "db", []container.Record{checked(is("db", with(probed(health.Unhealthy, 3, 1, "no answer"), func(st *container.State) {
			st.Phase, st.ExitCode, st.FinishedAt = container.Exited, 137, ago(time.Minute)
			st.HealthLog = append(st.HealthLog, health.Result{ExitCode: -1, Output: "no such process"})
		})), container.UnhealthyKill)}, nil},
		{"stopped, and to be stopped when unhealthy", "db", []container.Record{checked(is("db", with(probed(health.Unhealthy, 1, 1, "503"), func(st *container.State) {
			st.Phase, st.ExitCode, st.FinishedAt, st.StoppedByUser = container.Exited, 9, ago(time.Minute), true
		})), container.UnhealthyStop)}, nil},
		{"waiting for health", "migrate", []container.Record{is("db", probed(health.Starting, 0, 2, "no response")), is("migrate", created)}, func(f *Facts) {
			f.Project.Services["migrate"].DependsOn["db"] = desired.Dependency{Condition: "service_healthy", Required: true}
		}},
		{"waiting for a job", "api", []container.Record{is("db", healthy(time.Minute)), is("migrate", runs(5*time.Second)), is("api", created)}, nil},
		{"waiting for two", "api", []container.Record{is("db", probed(health.Starting, 0, 2, "no response")), is("migrate", runs(5*time.Second)), is("api", created)}, nil},
		{"waiting for a crash loop", "api", []container.Record{is("db", with(loops, func(st *container.State) { st.Health = health.Unhealthy })), is("migrate", exited(0, time.Minute)), is("api", created)}, nil},
		{"a chain: what is unhealthy", "web", []container.Record{is("db", probed(health.Unhealthy, 3, 2, "no response")), is("migrate", exited(0, time.Minute)), is("api", created), is("web", created)}, nil},
		{"a chain: what failed", "web", []container.Record{is("db", healthy(time.Minute)), is("migrate", exited(3, time.Minute)), is("api", created), is("web", created)}, nil},
		{"what failed before what may come", "api", []container.Record{is("db", probed(health.Starting, 0, 2, "no response")), is("migrate", exited(3, time.Minute)), is("api", created)}, nil},
		{"a dependency without a check", "api", []container.Record{is("db", runs(time.Minute)), is("migrate", exited(0, time.Minute)), is("api", created)}, nil},
		{"a dependency that is not required", "api", []container.Record{is("db", exited(3, time.Minute)), is("migrate", exited(0, time.Minute)), is("api", created)}, func(f *Facts) {
			f.Project.Services["api"].DependsOn["db"] = desired.Dependency{Condition: "service_healthy"}
		}},
		{"a circle", "db", []container.Record{is("db", created), is("migrate", created)}, func(f *Facts) {
			f.Project.Services["db"].DependsOn = map[string]desired.Dependency{"migrate": {Condition: "service_completed_successfully", Required: true}}
		}},
		{"crash loop", "db", []container.Record{is("db", loops)}, nil},
		{"crash loop, the first time", "db", []container.Record{is("db", with(loops, func(st *container.State) { st.RestartCount, st.RestartAt = 0, ago(time.Millisecond) }))}, nil},
		{"crash loop, running just now", "db", []container.Record{is("db", with(runs(2*time.Second), func(st *container.State) { st.RestartCount = 5 }))}, nil},
		{"out of memory", "db", []container.Record{is("db", with(exited(137, time.Minute), func(st *container.State) { st.OOMKilled = true }))}, nil},
		{"out of memory, in a loop", "db", []container.Record{is("db", with(loops, func(st *container.State) { st.OOMKilled = true }))}, nil},
		{"stopped", "db", []container.Record{is("db", with(exited(0, 3*time.Minute), func(st *container.State) { st.StoppedByUser = true }))}, nil},
		{"stopped, SIGTERM", "db", []container.Record{is("db", with(exited(143, 3*time.Minute), func(st *container.State) { st.StoppedByUser = true }))}, nil},
		{"stopped, and killed", "db", []container.Record{is("db", with(exited(137, 3*time.Minute), func(st *container.State) { st.StoppedByUser = true }))}, nil},
		{"stopped, its port is taken", "db", []container.Record{is("db", with(exited(0, 3*time.Minute), func(st *container.State) { st.StoppedByUser = true }))}, func(f *Facts) {
			f.PortTaken = map[string]string{"db": "port 8080/tcp is used by project blog, service web"}
		}},
		{"killed", "db", []container.Record{is("db", exited(137, 3*time.Minute))}, nil},
		{"failed", "db", []container.Record{is("db", exited(1, 26*time.Hour))}, nil},
		{"failed by a signal", "db", []container.Record{is("db", exited(139, time.Minute))}, nil},
		{"failed, for good", "db", []container.Record{is("db", with(exited(1, time.Minute), func(st *container.State) { st.RestartCount = 3 }))}, nil},
		{"ended unseen", "db", []container.Record{is("db", with(exited(255, time.Minute), func(st *container.State) { st.Error = "it ended while no supervisor was there" }))}, nil},
		{"the host stopped", "db", []container.Record{is("db", with(exited(255, time.Minute), func(st *container.State) { st.Error = "the host stopped while the container ran" }))}, nil},
		{"done", "migrate", []container.Record{is("migrate", exited(0, 3*time.Minute))}, nil},
		{"done, at last", "migrate", []container.Record{is("migrate", with(exited(0, 3*time.Minute), func(st *container.State) { st.RestartCount = 1 }))}, nil},
		{"no such command", "db", []container.Record{is("db", failedStart(`exec: "postgress": not found in the image`, 127))}, nil},
		{"port in use at its start", "db", []container.Record{is("db", failedStart("8080/tcp is used by project blog, service web", 125))}, nil},
		{"start failed", "db", []container.Record{is("db", failedStart("no space left on device\nreally", 125))}, nil},
		{"start failed, again and again", "db", []container.Record{is("db", with(loops, func(st *container.State) { st.Error, st.ExitCode = "cannot start container shop-db-1: no room", 125 }))}, nil},
		{"never started", "db", []container.Record{is("db", created)}, nil},
		{"port in use", "db", []container.Record{is("db", created)}, func(f *Facts) {
			f.PortTaken = map[string]string{"db": `port 8080/tcp is used by PID 812 "node server.js" (user anna)`}
		}},
		{"pre_start failed", "web", []container.Record{is("db", healthy(time.Minute)), is("migrate", exited(0, time.Minute)), is("api", healthy(time.Minute)), is("web", created), step}, nil},
		{"pre_start runs", "web", []container.Record{is("db", healthy(time.Minute)), is("migrate", exited(0, time.Minute)), is("api", healthy(time.Minute)), is("web", created), running}, nil},
		{"paused", "db", []container.Record{is("db", with(healthy(time.Minute), func(st *container.State) { st.Phase = container.Paused }))}, nil},
		{"being stopped", "db", []container.Record{is("db", with(healthy(time.Minute), func(st *container.State) { st.Stopping, st.StopBy = true, noon.Add(7*time.Second) }))}, nil},
		{"being removed", "db", []container.Record{is("db", with(runs(time.Minute), func(st *container.State) { st.Doomed = true }))}, nil},
		{"removal failed", "db", []container.Record{is("db", container.State{Phase: container.Dead, Error: "device or resource busy"})}, nil},
		{"one of three", "db", []container.Record{is("db", runs(time.Minute)), replica("db", 2, exited(1, time.Minute)), replica("db", 3, runs(time.Minute))}, nil},
		{"all of three", "db", []container.Record{is("db", runs(time.Minute)), replica("db", 2, runs(time.Minute)), replica("db", 3, runs(time.Minute))}, nil},
		{"not created", "db", nil, nil},
		{"not created: no image", "db", nil, func(f *Facts) { f.NoImage = map[string]bool{"db": true} }},
		{"not created: not built", "db", nil, func(f *Facts) { f.NoImage, f.Project.Services["db"].HasBuild = map[string]bool{"db": true}, true }},
		{"not created: port in use", "db", nil, func(f *Facts) {
			f.PortTaken = map[string]string{"db": "port 8080/tcp is used by project blog, service web"}
		}},
		{"not created: a dependency has no image", "web", nil, func(f *Facts) { f.NoImage = map[string]bool{"db": true} }},
		{"profile", "debug", nil, func(f *Facts) { f.Profiles = map[string][]string{"debug": {"debug"}} }},
		{"profiles", "debug", nil, func(f *Facts) { f.Profiles = map[string][]string{"debug": {"debug", "dev"}} }},
		{"of a profile, and there", "debug", []container.Record{is("debug", runs(time.Minute))}, func(f *Facts) { f.Profiles = map[string][]string{"debug": {"dev"}} }},
		{"disabled", "odd", nil, func(f *Facts) { f.Project.Disabled = []string{"odd"} }},
		{"scaled to 0", "db", nil, func(f *Facts) { f.Project.Services["db"].Replicas = nil }},
		{"scaled to 0 by up", "web", nil, func(f *Facts) { f.Last = shop(); f.Last.Services["web"].Replicas = nil }},
		{"provided", "cloud", nil, func(f *Facts) { f.Project.Providers = map[string]desired.Provider{"cloud": {Type: "awesomecloud"}} }},
		{"a job", "backup", nil, func(f *Facts) { f.Project.Jobs = map[string]*desired.Job{"backup": {}} }},
		{"dropped from the files", "old", []container.Record{is("old", exited(1, time.Minute))}, nil},
		{"without files", "db", []container.Record{is("db", probed(health.Unhealthy, 3, 2, "gone"))}, func(f *Facts) { f.Last, f.Project = f.Project, nil }},
	} {
		f := Facts{Now: noon, Project: shop(), Containers: c.containers, LastLines: map[string]string{}}
		for _, r := range c.containers {
			f.LastLines[r.ID] = "panic: no database"
		}
		if c.facts != nil {
			c.facts(&f)
		}
		r := Explain(f, c.service)[0]
		if other := seen[r.String()]; other != "" {
			t.Errorf("%s: %q is also said for: %s", c.name, r, other)
		}
		seen[r.String()] = c.name
		causes[r.Cause] = true
		if strings.Contains(r.String(), "\n") || r.Service != c.service {
			t.Errorf("%s: %+v", c.name, r)
		}
		fmt.Fprintf(&b, "%s\n\t%s: %s\n\t%s %s\n", c.name, strings.Join(r.Chain, " ← "), r.Cause, r.Service, r)
	}
	for _, cause := range append(order(), Provided, ProfileOff, ScaledOff, Disabled, Job) {
		if !causes[cause] {
			t.Errorf("nothing is %q", cause)
		}
	}
	const golden = "testdata/reasons.txt"
	if *update {
		if err := os.MkdirAll("testdata", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(golden, []byte(b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), b.String()); diff != "" {
		t.Errorf("the reasons are not those of %s:\n%s", golden, diff)
	}
}

// A service that waits is told of with what it waits for, in whatever order they are
// asked for, and only once.
func TestServices(t *testing.T) {
	f := Facts{Now: noon, Project: shop(), Last: shop(), Profiles: map[string][]string{"debug": {"debug"}}, Containers: []container.Record{
		is("db", probed(health.Unhealthy, 3, 1, "no")), is("api", created), is("old", runs(time.Minute)),
	}}
	f.Last.Services["gone"] = &desired.Service{Name: "gone"} // dropped, and nothing is left of it
	run := is("migrate", exited(1, time.Minute))
	run.OneOff = true // of "stack run"
	f.Containers = append(f.Containers, run)
	var got []string
	for _, r := range Explain(f) {
		got = append(got, r.Service+" "+string(r.Cause))
	}
	if diff := cmp.Diff([]string{"api blocked", "db unhealthy", "debug profile off", "migrate not created", "old running", "web blocked"}, got); diff != "" {
		t.Error(diff)
	}
	var unmade, idle []string
	for _, s := range f.Unmade() {
		unmade = append(unmade, s.Name)
	}
	for _, s := range f.Idle() {
		idle = append(idle, s.Name)
	}
	if fmt.Sprint(unmade, idle, f.WantLog()) != "[migrate web] [api migrate web] []" {
		t.Errorf("unmade %v, idle %v, logs of %v", unmade, idle, f.WantLog())
	}
}

func TestLastLine(t *testing.T) {
	for text, want := range map[string]string{
		"":                                   "",
		" \n\t\r\n":                          "",
		"one\ntwo\n\n":                       "two",
		"50%\r100%\r":                        "100%",
		"\x1b[1;31mred\x1b[0m \a\tblack\xff": "red  black�",
		"\x1b[":                              "",
		"\x1b[31":                            "",
		"\x1b]0;title\a":                     "]0;title",
		strings.Repeat("ä", 200):             strings.Repeat("ä", longest-1) + "…",
	} {
		if got := LastLine(text); got != want {
			t.Errorf("%q: %q, not %q", text, got, want)
		}
	}
}

func TestSpan(t *testing.T) {
	for d, want := range map[time.Duration]string{
		-time.Second: "0 ms", 12 * time.Millisecond: "12 ms", 1234 * time.Millisecond: "1.2 s", 59 * time.Second: "59 s", 61 * time.Second: "1 min",
		time.Hour: "1 h", 125 * time.Minute: "2 h 5 min", 15 * time.Hour: "15 h", 30 * time.Hour: "a day", 75 * time.Hour: "3 days",
	} {
		if got := span(d); got != want {
			t.Errorf("%v: %q, not %q", d, got, want)
		}
	}
}
