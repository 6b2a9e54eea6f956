package e2e

import (
	"fmt"
	"net"
	"strings"
	"syscall"
	"testing"
	"time"
)

// whyLine is what "why --format json" says of a service.
type whyLine struct {
	Service, State, Reason, Output, Todo, Container string
	Chain                                           []string
}

// why asks for one service.
func (b *box) why(t *testing.T, service string) whyLine {
	t.Helper()
	lines := jsonLines[whyLine](t, b.ok(t, "why", "--format", "json", service))
	if len(lines) != 1 || lines[0].Service != service {
		t.Fatalf("why %s: %+v", service, lines)
	}
	return lines[0]
}

func TestWhy(t *testing.T) {
	b := newBox(t, "busybox:latest", "probe")
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	defer func() { _ = taken.Close() }()
	port := taken.Addr().(*net.TCPAddr).Port
	b.compose(t, fmt.Sprintf(`
		name: app
		services:
			db:
				image: busybox
				command: [sleep, infinity]
				init: true
				healthcheck: {test: "echo connecting; echo no response; test -e /well", interval: 100ms, retries: 2}
			api: {image: busybox, command: [sleep, infinity], init: true, depends_on: {db: {condition: service_healthy}}}
			web: {image: busybox, command: [sleep, infinity], init: true, depends_on: [api]}
			slow:
				image: busybox
				command: [sleep, infinity]
				init: true
				healthcheck: {test: "echo not yet; test -e /well", interval: 100ms, start_period: 1h}
			patient: {image: busybox, command: [sleep, infinity], init: true, depends_on: {slow: {condition: service_healthy}}}
			sick:
				image: busybox
				command: [sleep, infinity]
				init: true
				healthcheck: {test: "echo it is over; false", interval: 100ms, retries: 2}
				x-on-unhealthy: stop
			loop: {image: busybox, command: [sh, -c, "echo no database >&2; echo; exit 3"], restart: always}
			fails: {image: busybox, command: [sh, -c, "echo no disk; exit 4"]}
			job: {image: busybox, command: ["true"]}
			hungry: {image: probe, command: [eat, "200"], mem_limit: 32m, memswap_limit: 32m}
			typo: {image: busybox, command: [slep, infinity]}
			server: {image: probe, command: [serve, "80"], ports: ["%d:80"]}
			absent: {image: nowhere.invalid/none, pull_policy: never}
			debug: {image: busybox, command: [sleep, infinity], profiles: [debug]}
			none: {image: busybox, command: [sleep, infinity], scale: 0}
			prepared:
				image: busybox
				command: [sleep, infinity]
				pre_start: [{command: [sh, -c, "echo cannot migrate; exit 5"]}]
	`, port))
	for _, c := range []struct{ service, state, reason string }{
		{"absent", "no image", `is not created: its image nowhere.invalid/none is not on this machine; "stack pull absent"`},
		{"web", "not created", `is not created; "stack up --detach web"`},
		{"server", "port in use", fmt.Sprintf("is not created: port %d/tcp is used by PID ", port)},
		{"debug", "profile off", `profile debug is not active; "stack --profile debug up --detach debug"`},
		{"none", "scaled to 0", "is scaled to 0"},
	} {
		if got := b.why(t, c.service); got.State != c.state || !strings.Contains(got.Reason, c.reason) {
			t.Errorf("before it is up: %+v, not %s: %s", got, c.state, c.reason)
		}
	}

	b.ok(t, "up", "--detach", "loop", "fails", "job", "hungry", "sick", "slow")
	b.eventuallyState(t, "app-fails-1", "exited")
	b.eventuallyState(t, "app-job-1", "exited")
	b.eventuallyState(t, "app-hungry-1", "exited")
	for _, service := range []string{"web", "typo", "server", "prepared"} {
		b.fails(t, "up", "--detach", service)
	}
	waiting := b.start(t, "up", "--detach", "patient")
	for _, c := range []struct{ service, state, reason string }{
		{"db", "unhealthy", "is unhealthy: "},
		{"db", "unhealthy", "the last probe exited with 1: no response; see \"stack logs db\""},
		{"api", "blocked", "was not started, as it needs db to be healthy; db is unhealthy"},
		{"web", "blocked", "was not started, as it needs api to be started (web ← api ← db); db is unhealthy"},
		{"loop", "crash loop", "no database; see \"stack logs loop\""},
		{"fails", "exited", "ago: no disk; see \"stack logs fails\""},
		{"job", "done", "exited with 0, "},
		{"sick", "unhealthy", "was ended for being unhealthy, "},
		{"sick", "unhealthy", " failed, the last probe exited with 1: it is over; "},
		{"hungry", "out of memory", "it needed more memory than its limit of 32 MiB; "},
		{"typo", "no command", "slep"},
		{"server", "port in use", fmt.Sprintf("port %d/tcp is used by PID ", port)},
		{"prepared", "blocked", "its pre_start[0], container app-prepared-pre_start-0, exited with 5, "},
		{"prepared", "blocked", "ago: cannot migrate; see"},
		{"slow", "starting", "is not healthy yet, the last probe exited with 1: not yet"},
		{"patient", "waiting", "waits for slow to be healthy; slow has been running for "},
	} {
		eventually(t, 20*time.Second, func() error {
			if got := b.why(t, c.service); got.State != c.state || !strings.Contains(got.Reason, c.reason) {
				return fmt.Errorf("%+v, not %s: %s", got, c.state, c.reason)
			}
			return nil
		})
	}
	out := b.ok(t, "why")
	t.Log(out)
	if strings.Count(out, "\n") != 17 || !strings.HasPrefix(out, "SERVICE ") {
		t.Errorf("of all: %s", out)
	}
	b.ok(t, "exec", "-T", "slow", "touch", "/well")
	if code := waiting.wait(t, 20*time.Second); code != 0 {
		t.Errorf("exit %d", code)
	}
	b.ok(t, "pause", "patient")
	b.ok(t, "stop", "loop")
	b.killContainer(t, "app-slow-1")
	for _, c := range []struct{ service, state, reason string }{
		{"patient", "paused", "is paused; \"stack unpause patient\""},
		{"loop", "stopped", "was stopped "},
		{"slow", "killed", "was ended by SIGKILL "},
	} {
		if got := b.why(t, c.service); got.State != c.state || !strings.Contains(got.Reason, c.reason) {
			t.Errorf("at the end: %+v, not %s: %s", got, c.state, c.reason)
		}
	}
	t.Run("without files, and without a supervisor", func(t *testing.T) {
		b.killKeepers(t, "app", "warden", "guardian", "supervisor")
		elsewhere := b.in(t, "elsewhere")
		lines := jsonLines[whyLine](t, elsewhere.ok(t, "-p", "app", "why", "--format", "json", "web", "loop"))
		if len(lines) != 2 || lines[0].State != "blocked" || strings.Join(lines[0].Chain, " ") != "web api db" || lines[1].State != "stopped" {
			t.Errorf("%+v", lines)
		}
	})
	if r := b.stack(t, "why", "wep"); r.code != 1 || !strings.Contains(r.stderr, `did you mean "web"?`) {
		t.Errorf("%v", r)
	}
	b.ok(t, "down", "--timeout", "0")
	must(t, taken.Close())
	b.nothingLeft(t, b.before)
}

// killContainer kills a container's first process from outside.
func (b *box) killContainer(t *testing.T, name string) {
	t.Helper()
	must(t, syscall.Kill(b.look(t, name).State.Pid, syscall.SIGKILL))
	b.eventuallyState(t, name, "exited")
}

// blameLine is what "blame --format json" says of a service.
type blameLine struct {
	Service, Readiness, Waited    string
	CreatedAt, StartedAt, ReadyAt time.Time
	Critical                      int
}

// Of a known graph the chain that is printed is the one that sleeps longest, and the
// times are in the order in which things must have happened.
func TestBlame(t *testing.T) {
	b := newBox(t, "busybox:latest")
	b.compose(t, `
		name: app
		services:
			db:
				image: busybox
				command: [sh, -c, "sleep 3; touch /well; exec sleep infinity"]
				init: true
				healthcheck: {test: [CMD, test, -e, /well], interval: 100ms, start_period: 1m}
			migrate: {image: busybox, command: [sleep, "2"], depends_on: {db: {condition: service_healthy}}}
			cache:
				image: busybox
				command: [sleep, infinity]
				init: true
				healthcheck: {test: [CMD, "true"], interval: 100ms}
			api: {image: busybox, command: [sleep, infinity], init: true, depends_on: {cache: {condition: service_healthy}}}
			web:
				image: busybox
				command: [sleep, infinity]
				init: true
				depends_on:
					migrate: {condition: service_completed_successfully}
					cache: {condition: service_healthy}
					api: {condition: service_started}
	`)
	before := time.Now()
	b.ok(t, "up", "--detach", "--wait")
	took := time.Since(before)

	out := b.ok(t, "blame")
	t.Log(out)
	table, chain, _ := strings.Cut(out, "The critical chain:\n")
	var names []string
	for line := range strings.Lines(chain) {
		name, times, _ := strings.Cut(strings.TrimLeft(line, " └─"), " ")
		if !strings.HasPrefix(times, "@") || !strings.Contains(times, "s +") {
			t.Errorf("the chain has %q", line)
		}
		names = append(names, name)
	}
	if got := strings.Join(names, " "); got != "web migrate db" || !strings.Contains(table, "web was ready last, after ") {
		t.Errorf("the chain is %q", got)
	}

	lines := map[string]blameLine{}
	for _, l := range jsonLines[blameLine](t, b.ok(t, "blame", "--format", "json")) {
		lines[l.Service] = l
	}
	for service, want := range map[string]blameLine{
		"db": {Readiness: "healthy", Critical: 3}, "migrate": {Readiness: "completed", Critical: 2}, "web": {Readiness: "started", Critical: 1},
		"cache": {Readiness: "healthy"}, "api": {Readiness: "started"},
	} {
		got := lines[service]
		if got.Readiness != want.Readiness || got.Critical != want.Critical {
			t.Errorf("%s: %+v", service, got)
		}
		if got.CreatedAt.Before(before) || got.StartedAt.Before(got.CreatedAt) || got.ReadyAt.Before(got.StartedAt) || got.ReadyAt.After(before.Add(took)) {
			t.Errorf("%s: the times are not in order, or not of this start: %+v", service, got)
		}
	}
	for _, edge := range [][2]string{{"db", "migrate"}, {"cache", "api"}, {"migrate", "web"}, {"cache", "web"}, {"api", "web"}} {
		if on, x := lines[edge[0]], lines[edge[1]]; x.StartedAt.Before(on.ReadyAt) || !strings.Contains(x.Waited, edge[0]+" ") {
			t.Errorf("%s was started before %s was ready, or did not wait: %+v, %+v", edge[1], edge[0], x, on)
		}
	}
	for service, sleeps := range map[string]time.Duration{"db": 3 * time.Second, "migrate": 2 * time.Second} {
		// The clock may be corrected meanwhile.
		if l := lines[service]; l.ReadyAt.Sub(l.StartedAt) < sleeps-100*time.Millisecond {
			t.Errorf("%s was ready after %v", service, l.ReadyAt.Sub(l.StartedAt))
		}
	}
	b.killKeepers(t, "app", "warden", "guardian", "supervisor")
	if again := b.ok(t, "blame"); again != out {
		t.Errorf("after the keepers were killed: %s", again)
	}
	b.ok(t, "down", "--timeout", "0")
	b.nothingLeft(t, b.before)
}
