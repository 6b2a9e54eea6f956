package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// Health is probed without a program in the image: the probe image has nothing but its
// own program.
func TestDirectHealth(t *testing.T) {
	b := newBox(t, "probe", "busybox:latest")
	b.compose(t, `
		name: app
		x-often: &often {interval: 5ms, retries: 1000}
		services:
			http:
				image: probe
				command: serve 8080
				x-healthcheck: {http: ":8080/healthy"}
				healthcheck: *often
			ill:
				image: probe
				command: serve 8080
				environment: {HEALTHY: "no"}
				x-healthcheck: {http: "http://127.0.0.1:8080/healthy"}
				healthcheck: {interval: 50ms, retries: 2}
			tcp:
				image: probe
				command: serve 8080
				user: "1000"
				read_only: true
				cap_drop: [ALL]
				x-healthcheck: {tcp: 8080}
			closed:
				image: probe
				command: serve 8080
				x-healthcheck: {tcp: 8081}
				healthcheck: {interval: 50ms, retries: 2}
			six:
				image: probe
				command: listen tcp [::1]:7000
				x-healthcheck: {tcp: 7000}
			alone:
				image: probe
				command: serve 8080
				network_mode: none
				x-healthcheck: {http: "/healthy"}
				healthcheck: {interval: 50ms, retries: 2}
			guest:
				image: probe
				command: serve 9090
				network_mode: service:http
				x-healthcheck: {http: ":9090/healthy"}
			log:
				image: busybox
				command: [sh, -c, "test -e /was || { touch /was; sleep .2; echo not yet; printf 'rea'; sleep .2; echo 'dy to accept'; }; exec sleep infinity"]
				stop_signal: KILL
				x-healthcheck: {log: "^ready to"}
				healthcheck: {start_interval: 1h, start_period: 1h}
			file:
				image: busybox
				command: [sh, -c, "ln -s /var/ok /tmp/link; mkdir -p /var; sleep .2; touch /var/ok; exec sleep infinity"]
				x-healthcheck: {file: /tmp/link}
			nofile:
				image: busybox
				command: [sh, -c, "ln -s /proc/1/exe /link; exec sleep infinity"]
				x-healthcheck: {file: /tmp/none}
				healthcheck: {interval: 50ms, retries: 2}
	`)
	b.ok(t, "up", "--detach")
	said := func(t *testing.T, service, health, text string) {
		t.Helper()
		i := b.eventuallyHealth(t, "app-"+service+"-1", health)
		log := i.State.Health.Log
		if last := log[len(log)-1]; !strings.Contains(last.Output, text) || (last.ExitCode == 0) != (health == "healthy") {
			t.Errorf("%s: %+v", service, last)
		}
	}
	said(t, "http", "healthy", "GET http://localhost:8080/healthy: 200 OK")
	said(t, "ill", "unhealthy", "GET http://127.0.0.1:8080/healthy: 503 Service Unavailable: not healthy")
	said(t, "tcp", "healthy", "localhost:8080 accepts connections")
	said(t, "closed", "unhealthy", "cannot connect to localhost:8081: connect: connection refused")
	said(t, "six", "healthy", "localhost:7000 accepts connections")
	said(t, "alone", "unhealthy", "connection refused")
	said(t, "guest", "healthy", "200 OK")
	said(t, "log", "healthy", `the log has a line like "^ready to"`)
	said(t, "file", "healthy", "/tmp/link is there")
	said(t, "nofile", "unhealthy", "/tmp/none: no such file or directory")

	t.Run("a probe is no process in the container", func(t *testing.T) {
		i := b.look(t, "app-http-1")
		first := fmt.Sprint(i.State.Pid)
		groups, err := filepath.Glob("/sys/fs/cgroup/pids/stack*/" + i.ID)
		if err != nil || len(groups) != 1 {
			t.Skipf("its control group is not where cgroup v1 has it: %v, %v", groups, err)
		}
		// What has been made and is gone again has taken numbers of processes.
		for end := time.Now().Add(time.Second); time.Now().Before(end); {
			text, err := os.ReadFile(groups[0] + "/cgroup.procs")
			must(t, err)
			if got := strings.Fields(string(text)); len(got) != 1 || got[0] != first {
				t.Fatalf("in its control group are %v, and not only %s", got, first)
			}
			if nested, err := filepath.Glob(groups[0] + "/*/cgroup.procs"); err != nil || len(nested) > 0 {
				t.Fatalf("below its control group are %v, %v", nested, err)
			}
		}
	})
	t.Run("what an earlier run printed does not count", func(t *testing.T) {
		b.ok(t, "restart", "log")
		i := b.look(t, "app-log-1")
		if i.health() != "starting" {
			t.Errorf("it is %q", i.health())
		}
	})
	t.Run("a new supervisor knows who has been healthy", func(t *testing.T) {
		b.killKeepers(t, "app", "supervisor")
		b.eventuallyKept(t, "app")
		for _, service := range []string{"http", "file", "tcp"} {
			b.eventuallyHealth(t, "app-"+service+"-1", "healthy")
		}
		if h := b.look(t, "app-log-1").health(); h != "starting" {
			t.Errorf("the log's is %q", h)
		}
	})
	b.ok(t, "down", "--timeout", "0")
}

// What turns unhealthy is restarted, with what restarts with it, and nothing else.
func TestOnUnhealthy(t *testing.T) {
	b := newBox(t, "busybox:latest")
	b.compose(t, `
		name: app
		x-serve: &serve
			image: busybox
			stop_signal: KILL
			command: [sh, -c, "echo began; touch /tmp/well; exec sleep infinity"]
			healthcheck: {test: [CMD, test, -f, /tmp/well], interval: 50ms, retries: 2}
		services:
			db:
				<<: *serve
				x-on-unhealthy: restart
			web:
				<<: *serve
				depends_on: {db: {condition: service_healthy, restart: true}}
			api:
				<<: *serve
				depends_on: {web: {condition: service_healthy, restart: true}}
			other:
				<<: *serve
				depends_on: [db]
			stopped:
				<<: *serve
				restart: always
				x-on-unhealthy: stop
			killed:
				<<: *serve
				x-on-unhealthy: kill
			none:
				<<: *serve
				restart: always
			unchecked:
				image: busybox
				stop_signal: KILL
				command: [sleep, infinity]
				x-on-unhealthy: restart
	`)
	up := b.stack(t, "up", "--detach", "--wait")
	if up.code != 0 || !strings.Contains(up.stderr, "x-on-unhealthy: restart has no effect, as neither the service nor its image has a health check") {
		t.Errorf("%v", up)
	}
	names := []string{"db", "web", "api", "other", "stopped", "killed", "none"}
	started := func() map[string]time.Time {
		m := map[string]time.Time{}
		for _, s := range names {
			m[s] = b.look(t, "app-"+s+"-1").State.StartedAt
		}
		return m
	}
	// anew waits until a service runs again and is healthy.
	anew := func(service string, before time.Time) {
		t.Helper()
		eventually(t, 20*time.Second, func() error {
			i, err := b.tryLook(t, "app-"+service+"-1")
			if err != nil {
				return err
			}
			if !i.State.StartedAt.After(before) || i.health() != "healthy" {
				return fmt.Errorf("%s started at %v, and before at %v; it is %s", service, i.State.StartedAt, before, i.health())
			}
			return nil
		})
	}
	sicken := func(service string) { b.stack(t, "exec", service, "rm", "/tmp/well") }
	for round, kill := range [][]string{nil, {"supervisor"}, {"supervisor", "guardian", "warden"}} {
		was := started()
		sicken("db")
		if kill != nil {
			// At any moment of it: it is to go on from there.
			b.killKeepers(t, "app", kill...)
			b.ok(t, "ps")
		}
		for _, s := range []string{"db", "web", "api"} {
			anew(s, was[s])
		}
		now := started()
		if !now["web"].After(now["db"]) || !now["api"].After(now["web"]) {
			t.Errorf("round %d: they started in the order %v", round, now)
		}
		for _, s := range []string{"other", "none", "stopped", "killed"} {
			if now[s] != was[s] {
				t.Errorf("round %d: %s was restarted, too", round, s)
			}
		}
		if kill == nil {
			if n := b.look(t, "app-db-1").RestartCount; n != 1 {
				t.Errorf("db has been restarted %d times", n)
			}
			if n := b.look(t, "app-web-1").RestartCount; n != 0 {
				t.Errorf("web has been restarted by policy %d times", n)
			}
		}
	}
	for _, s := range []string{"stopped", "killed", "none"} {
		sicken(s)
	}
	stopped := b.eventuallyState(t, "app-stopped-1", "exited")
	killed := b.eventuallyState(t, "app-killed-1", "exited")
	if stopped.State.ExitCode != 137 || killed.State.ExitCode != 137 {
		t.Errorf("exit codes %d and %d", stopped.State.ExitCode, killed.State.ExitCode)
	}
	b.eventuallyHealth(t, "app-none-1", "unhealthy")
	if s := b.look(t, "app-none-1").State.Status; s != "running" {
		t.Errorf("what is to be left alone is %s", s)
	}
	// A stop by hand is not undone by anything.
	sicken("db")
	b.ok(t, "stop", "db")
	if i := b.look(t, "app-db-1"); i.State.Status != "exited" {
		t.Errorf("db is %s after stop", i.State.Status)
	}
	events := b.ok(t, "events", "--since", "10m", "--until", "0s")
	for _, want := range []string{"health_status: unhealthy", "die", "start"} {
		if !strings.Contains(events, want) {
			t.Errorf("no event tells of %q", want)
		}
	}
	b.ok(t, "down", "--timeout", "0")
}

// A check of a server that says nothing, or nonsense, or too much, costs nothing but its
// own result.
func TestDirectHealthOfHostileServers(t *testing.T) {
	b := newBox(t, "probe")
	b.compose(t, `
		name: app
		x-check: &check
			image: probe
			x-healthcheck: {http: ":80/"}
			healthcheck: {interval: 100ms, timeout: 300ms, retries: 1}
		services:
			silent:
				<<: *check
				command: [reply, "80", ""]
			endless:
				<<: *check
				command: [reply, "80", 'HTTP/1.1 500 No\r\n\r\n', 'y\n']
			header:
				<<: *check
				command: [reply, "80", 'HTTP/1.1 200 OK\r\nX: ', 'yyyyyyyyyyyyyyyy']
			garbage:
				<<: *check
				command: [reply, "80", 'nothing that anybody understands\n']
			moved:
				<<: *check
				command: [reply, "80", 'HTTP/1.1 302 Found\r\nLocation: http://169.254.169.254/\r\nContent-Length: 0\r\n\r\n']
	`)
	b.ok(t, "up", "--detach")
	for service, want := range map[string]string{
		"silent":  "Health check exceeded timeout (300ms)",
		"endless": "500 No: y\ny\n",
		"header":  "the header of the answer is longer than 64 KiB",
		"garbage": "GET http://localhost:80/: malformed HTTP",
	} {
		i := b.eventuallyHealth(t, "app-"+service+"-1", "unhealthy")
		log := i.State.Health.Log
		last := log[len(log)-1].Output
		if !strings.Contains(last, want) || len(last) > 4096 {
			t.Errorf("%s: %.200q", service, last)
		}
	}
	b.eventuallyHealth(t, "app-moved-1", "healthy")
	b.ok(t, "down", "--timeout", "0")
}
