package e2e

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/stack-run/stack/e2e/conformance"
)

func TestPreStart(t *testing.T) {
	b := newBox(t, "busybox:latest", "probe")
	file := func(step, version string) {
		b.compose(t, fmt.Sprintf(`
			services:
				db:
					image: busybox
					command: sleep 1000
					init: true
					stop_signal: SIGKILL
					healthcheck: {test: [CMD, "true"], interval: 100ms}
				web:
					image: busybox
					command: sh -c 'sleep 1000; true'
					init: true
					stop_signal: SIGKILL
					user: "7"
					environment: {V: "%s", A: service}
					volumes: [data:/data]
					deploy: {replicas: 2}
					depends_on: {db: {condition: service_healthy}}
					pre_start:
						- command: ["sh", "-c", "echo first $$V $$A $$(id -u) $$(pwd) >>/data/log; nslookup db >/dev/null && echo found >>/data/log"]
							user: "0"
							working_dir: /tmp
							environment: {A: step}
						- command: ["sh", "-c", "echo each $$HOSTNAME | sed 's/ .*//' >>/data/log"]
							user: "0"
							per_replica: true
						- command: ["sh", "-c", %q]
							user: "0"
			volumes: {data: {}}
		`, version, step))
	}
	log := func() string {
		return b.ok(t, "exec", "-T", "--user", "0", "web", "sh", "-c", "cat /data/log; : >/data/log")
	}
	file("echo last >>/data/log", "1")
	b.ok(t, "up", "-d")
	if got, want := log(), "first 1 step 0 /tmp\nfound\neach\neach\nlast\n"; got != want {
		t.Errorf("it ran %q, not %q", got, want)
	}
	if ids := b.ids(t); len(ids) != 3 {
		t.Errorf("there are %v", ids)
	}
	// Whoever runs is left alone; a replica more is no reason, nor is a restart.
	b.ok(t, "up", "-d")
	b.ok(t, "up", "-d", "--scale", "web=3")
	b.ok(t, "restart", "web")
	b.ok(t, "up", "-d")
	if got := log(); got != "" {
		t.Errorf("it ran again: %q", got)
	}
	// All stopped, and started by up: it runs; another version: it runs.
	b.ok(t, "stop", "web")
	b.ok(t, "up", "-d", "web")
	if got := log(); !strings.HasSuffix(got, "each\neach\nlast\n") {
		t.Errorf("after a stop it ran %q", got)
	}
	if out := b.ok(t, "plan"); !strings.Contains(out, "Nothing to do") {
		t.Errorf("then: %s", out)
	}
	// A step that fails keeps the old containers running, and says why. It stays to be
	// looked at until the next attempt.
	before := b.ids(t)
	file("echo cannot migrate >&2; exit 3", "2")
	if r := b.stack(t, "plan"); r.code != 2 || !strings.Contains(r.stdout, "run pre_start[2] of service web\n") {
		t.Errorf("the plan: %v", r)
	}
	for range 2 {
		r := b.fails(t, "up", "-d")
		for _, want := range []string{"cannot start service web: its pre_start[2], container app-web-pre_start-2, didn't complete successfully: exit 3", "cannot migrate"} {
			if !strings.Contains(r.stderr, want) {
				t.Errorf("it does not say %q: %v", want, r)
			}
		}
		for name, id := range before {
			if c := b.look(t, name); c.ID != id && !strings.HasPrefix(c.ID, id) || !c.State.Running {
				t.Errorf("%s is %s, and was %s: %+v", name, c.ID, id, c.State)
			}
		}
		if c := b.look(t, "app-web-pre_start-2"); c.State.Status != "exited" || c.State.ExitCode != 3 {
			t.Errorf("the failed step: %+v", c.State)
		}
	}
	file("echo last >>/data/log", "3")
	b.ok(t, "up", "-d", "--force-recreate", "--no-deps", "web")
	if got := log(); !strings.Contains(got, "first 3 step") {
		t.Errorf("it ran %q", got)
	}
	b.fails(t, "container", "inspect", "app-web-pre_start-2")

	// Interrupted, nothing of it is left behind; with its supervisor killed it goes on.
	file("sleep 1000; true", "4")
	up := b.start(t, "up", "-d")
	up.out.until(t, limit, "Container app-web-pre_start-2 Started")
	up.signal(t, syscall.SIGINT)
	up.wait(t, limit)
	eventually(t, soon, func() error {
		if r := b.stack(t, "container", "inspect", "app-web-pre_start-2"); r.code == 0 {
			return errors.New("the step that was interrupted is there")
		}
		return nil
	})
	up = b.start(t, "up", "-d")
	up.out.until(t, limit, "Container app-web-pre_start-2 Started")
	b.killKeepers(t, "app", "supervisor")
	eventually(t, limit, func() error {
		if n := strings.Count(up.out.String(), "Container app-web-pre_start-2 Started"); n != 2 {
			return fmt.Errorf("the step was started %d times", n)
		}
		return nil
	})
	b.killKeepers(t, "app", "supervisor", "guardian", "warden")
	up.signal(t, syscall.SIGINT)
	up.wait(t, limit)
	file("true", "5")
	b.ok(t, "up", "-d")
	b.fails(t, "container", "inspect", "app-web-pre_start-2")

	// An image of its own, without a shell in the service's.
	b.compose(t, `
		services:
			tool:
				image: probe
				command: serve 8080
				volumes: ["./out:/out"]
				pre_start:
					- {image: busybox, command: [sh, -c, "echo $$0 >/out/made"], entrypoint: []}
	`)
	must(t, os.Mkdir(filepath.Join(b.dir, "out"), 0o777))
	b.ok(t, "up", "-d", "--remove-orphans")
	if text, err := os.ReadFile(filepath.Join(b.dir, "out/made")); err != nil || string(text) != "sh\n" {
		t.Errorf("%q, %v", text, err)
	}
	b.ok(t, "down", "-v")
	conformance.Works(t, "services.*.pre_start.[].command", "services.*.pre_start.[].user", "services.*.pre_start.[].working_dir", "services.*.pre_start.[].environment", "services.*.pre_start.[].per_replica", "services.*.pre_start.[].image")
}
