package e2e

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/stack-run/stack/e2e/conformance"
	"github.com/stack-run/stack/e2e/machine"
)

func TestLifecycle(t *testing.T) {
	b := newBox(t, "probe", "busybox:latest")
	b.compose(t, `
		name: app
		services:
			polite: {image: probe, command: [on-term, "7"]}
			deaf: {image: probe, command: [deaf], stop_grace_period: 1s}
			shell: {image: busybox, command: [sleep, infinity]}
			wrapped: {image: busybox, command: [sleep, infinity], init: true}
			usr1:
				image: busybox
				command: [sh, -c, "trap 'exit 9' USR1; while :; do sleep 1 & wait; done"]
				stop_signal: SIGUSR1
	`)
	b.ok(t, "up", "--detach")

	t.Run("stop gives the exit code of the program's own end", func(t *testing.T) {
		b.eventuallyLog(t, "polite", "ready")
		b.ok(t, "stop", "polite")
		if s := b.look(t, "app-polite-1").State; s.Status != "exited" || s.ExitCode != 7 {
			t.Errorf("%+v", s)
		}
	})
	t.Run("a program that goes on is killed after the grace period: 137", func(t *testing.T) {
		b.eventuallyLog(t, "deaf", "ready")
		start := time.Now()
		b.ok(t, "stop", "deaf")
		if took := time.Since(start); took < time.Second || took > 5*time.Second {
			t.Errorf("it took %v, must be a little more than the second it was given", took)
		}
		if s := b.look(t, "app-deaf-1").State; s.ExitCode != 137 {
			t.Errorf("%+v", s)
		}
	})
	t.Run("a first process that cannot take the signal is not waited for, and it is said", func(t *testing.T) {
		r := b.stack(t, "stop", "shell")
		if r.code != 0 || r.took > 3*time.Second {
			t.Errorf("%v", r)
		}
		if !strings.Contains(r.stdout+r.stderr, "SIGTERM") {
			t.Errorf("nothing is said about it: %v", r)
		}
	})
	t.Run("init: true passes the signal on: 143", func(t *testing.T) {
		b.ok(t, "stop", "wrapped")
		if s := b.look(t, "app-wrapped-1").State; s.ExitCode != 143 {
			t.Errorf("%+v", s)
		}
	})
	t.Run("stop_signal is the signal that is sent", func(t *testing.T) {
		b.ok(t, "stop", "usr1")
		if s := b.look(t, "app-usr1-1").State; s.ExitCode != 9 {
			t.Errorf("%+v", s)
		}
	})
	t.Run("start runs the same container again", func(t *testing.T) {
		before := b.look(t, "app-polite-1")
		b.ok(t, "start", "polite")
		after := b.look(t, "app-polite-1")
		if after.ID != before.ID || !after.State.Running || after.State.Pid == before.State.Pid {
			t.Errorf("%+v", after.State)
		}
	})
	t.Run("restart gives a new process in the same container", func(t *testing.T) {
		before := b.look(t, "app-polite-1")
		b.eventuallyLog(t, "polite", "ready")
		b.ok(t, "restart", "polite")
		after := b.look(t, "app-polite-1")
		if after.ID != before.ID || after.State.Pid == before.State.Pid || after.RestartCount != 0 {
			t.Errorf("%+v", after)
		}
	})
	t.Run("pause stops every process, unpause lets them go on", func(t *testing.T) {
		b.ok(t, "start", "shell")
		b.ok(t, "pause", "shell")
		i := b.look(t, "app-shell-1")
		if i.State.Status != "paused" || !i.State.Paused {
			t.Errorf("%+v", i.State)
		}
		if r := b.stack(t, "exec", "-T", "shell", "true"); r.code != 1 || !strings.Contains(r.stderr, "paused") {
			t.Errorf("exec in a paused container: %v", r)
		}
		b.ok(t, "unpause", "shell")
		b.ok(t, "exec", "-T", "shell", "true")
	})
	t.Run("kill sends the signal that is named", func(t *testing.T) {
		b.ok(t, "start", "usr1", "shell")
		b.eventuallyCaught(t, "app-usr1-1", unix.SIGUSR1)
		b.ok(t, "kill", "--signal", "SIGUSR1", "usr1")
		if s := b.eventuallyState(t, "app-usr1-1", "exited").State; s.ExitCode != 9 {
			t.Errorf("%+v", s)
		}
		b.ok(t, "kill", "shell")
		if s := b.eventuallyState(t, "app-shell-1", "exited").State; s.ExitCode != 137 {
			t.Errorf("%+v", s)
		}
	})
	t.Run("wait prints the exit code when the container ends", func(t *testing.T) {
		b.eventuallyLog(t, "polite", "ready")
		j := b.start(t, "wait", "polite")
		b.ok(t, "stop", "polite")
		j.wait(t, 5*time.Second)
		if !strings.Contains(j.out.String(), "7") {
			t.Errorf("wait wrote %q", j.out)
		}
	})
	t.Run("down stops dependents before their dependencies", func(t *testing.T) {
		b.ok(t, "down", "--timeout", "1")
		b.compose(t, `
			name: app
			services:
				db: {image: probe, command: [on-term, "0"]}
				web: {image: probe, command: [on-term, "0"], depends_on: [db]}
		`)
		b.ok(t, "up", "--detach")
		b.eventuallyLog(t, "web", "ready")
		b.eventuallyLog(t, "db", "ready")
		b.ok(t, "stop")
		web, db := b.look(t, "app-web-1").State, b.look(t, "app-db-1").State
		if !web.FinishedAt.Before(db.FinishedAt) {
			t.Errorf("web ended at %v, db at %v", web.FinishedAt, db.FinishedAt)
		}
		b.ok(t, "start")
		web, db = b.look(t, "app-web-1").State, b.look(t, "app-db-1").State
		if !db.StartedAt.Before(web.StartedAt) {
			t.Errorf("db began at %v, web at %v", db.StartedAt, web.StartedAt)
		}
	})
	b.ok(t, "down")
	b.nothingLeft(t, b.before)
	conformance.Works(t, "services.*.stop_signal", "services.*.stop_grace_period")
}

// eventuallyCaught waits until a container's first process has a handler for a
// signal (SigCgt of proc_pid_status(5)).
func (b *box) eventuallyCaught(t *testing.T, name string, s unix.Signal) {
	t.Helper()
	pid := b.look(t, name).State.Pid
	eventually(t, 5*time.Second, func() error {
		var caught uint64
		if err := statusField(pid, "SigCgt", &caught); err != nil {
			return err
		}
		if caught&(1<<(uint(s)-1)) == 0 {
			return fmt.Errorf("%s does not catch %v yet", name, s)
		}
		return nil
	})
}

func TestRestartPolicies(t *testing.T) {
	b := newBox(t, "busybox:latest", "probe")
	b.compose(t, `
		name: app
		services:
			never: {image: busybox, command: ["false"]}
			thrice: {image: busybox, command: [sh, -c, "exit 3"], restart: "on-failure:3"}
			fine: {image: busybox, command: ["true"], restart: on-failure}
			always: {image: probe, command: [on-term, "0"], restart: always}
			unless: {image: probe, command: [on-term, "0"], restart: unless-stopped}
	`)
	b.ok(t, "up", "--detach")
	t.Run("no leaves the container as it ended", func(t *testing.T) {
		if i := b.eventuallyState(t, "app-never-1", "exited"); i.State.ExitCode != 1 || i.RestartCount != 0 {
			t.Errorf("%+v", i)
		}
	})
	t.Run("on-failure:3 tries three times more", func(t *testing.T) {
		eventually(t, 20*time.Second, func() error {
			if i := b.look(t, "app-thrice-1"); i.State.Status != "exited" || i.State.ExitCode != 3 || i.RestartCount != 3 {
				return fmt.Errorf("%s, exit code %d after %d restarts", i.State.Status, i.State.ExitCode, i.RestartCount)
			}
			return nil
		})
	})
	t.Run("on-failure leaves success alone", func(t *testing.T) {
		if i := b.eventuallyState(t, "app-fine-1", "exited"); i.RestartCount != 0 {
			t.Errorf("%+v", i)
		}
	})
	for _, s := range []string{"always", "unless"} {
		t.Run(s+" starts it again, but not when the user has stopped it", func(t *testing.T) {
			name := "app-" + s + "-1"
			pid := b.look(t, name).State.Pid
			kill(t, pid, unix.SIGKILL)
			eventually(t, 10*time.Second, func() error {
				if i := b.look(t, name); !i.State.Running || i.State.Pid == pid || i.RestartCount != 1 {
					return fmt.Errorf("%+v after %d restarts", i.State, i.RestartCount)
				}
				return nil
			})
			b.ok(t, "stop", s)
			if i := b.look(t, name); i.State.Running {
				t.Errorf("%+v", i.State)
			}
		})
	}
	t.Run("a container that fails at once is not started in a tight loop", func(t *testing.T) {
		b.compose(t, `
			name: loop
			services:
				web: {image: busybox, command: ["false"], restart: always}
		`)
		b.ok(t, "up", "--detach")
		eventually(t, 10*time.Second, func() error {
			if n := b.look(t, "loop-web-1").RestartCount; n < 3 {
				return fmt.Errorf("%d restarts", n)
			}
			return nil
		})
		if n := b.look(t, "loop-web-1").RestartCount; n > 10 {
			t.Errorf("%d restarts already", n)
		}
		b.ok(t, "down")
	})
	conformance.Works(t, "services.*.restart")
}

func TestDependencies(t *testing.T) {
	b := newBox(t, "busybox:latest", "probe")
	b.compose(t, `
		name: app
		services:
			db:
				image: busybox
				command: [sh, -c, "sleep 0.2; touch /ready; exec sleep infinity"]
				healthcheck: {test: ["CMD", "test", "-f", "/ready"], interval: 30s}
			migrate: {image: busybox, command: ["true"], depends_on: {db: {condition: service_healthy}}}
			web:
				image: probe
				command: [on-term, "0"]
				depends_on:
					migrate: {condition: service_completed_successfully}
					db: {condition: service_healthy, restart: true}
	`)
	start := time.Now()
	b.ok(t, "up", "--detach", "--wait")
	t.Run("dependents begin soon after the dependency is ready, whatever the interval", func(t *testing.T) {
		db, migrate, web := b.look(t, "app-db-1").State, b.look(t, "app-migrate-1").State, b.look(t, "app-web-1").State
		soon := 500 * time.Millisecond
		if machine.Racing() {
			soon *= 10
		}
		if d := migrate.StartedAt.Sub(db.StartedAt); d < 200*time.Millisecond || d > soon {
			t.Errorf("migrate began %v after db, which was ready at 200ms", d)
		}
		if !migrate.FinishedAt.Before(web.StartedAt) {
			t.Errorf("migrate ended %v, web began %v", migrate.FinishedAt, web.StartedAt)
		}
		t.Logf("up took %v", time.Since(start))
	})
	t.Run("restart: true restarts the dependent with its dependency", func(t *testing.T) {
		before := b.look(t, "app-web-1").State
		b.ok(t, "restart", "--timeout", "0", "db")
		if after := b.look(t, "app-web-1").State; after.Pid == before.Pid || !after.Running {
			t.Errorf("web was %+v, is %+v", before, after)
		}
	})
	t.Run("up of one service brings its dependencies, --no-deps does not", func(t *testing.T) {
		b.ok(t, "down", "--timeout", "0")
		b.ok(t, "up", "--detach", "--no-deps", "web")
		if n := len(b.ps(t)); n != 1 {
			t.Errorf("%d containers", n)
		}
		b.ok(t, "up", "--detach", "web")
		if n := len(b.ps(t)); n != 3 {
			t.Errorf("%d containers", n)
		}
	})
	b.ok(t, "down", "--timeout", "0")
	b.nothingLeft(t, b.before)
	conformance.Works(t, "services.*.depends_on", "services.*.depends_on.*.condition", "services.*.depends_on.*.restart")
}

func TestResumeAfterABoot(t *testing.T) {
	b := newBox(t, "busybox:latest", "probe")
	b.compose(t, `
		name: app
		services:
			db:
				image: busybox
				command: [sh, -c, "sleep 0.2; touch /fresh/ready; exec sleep infinity"]
				healthcheck: {test: ["CMD", "test", "-f", "/fresh/ready"], interval: 1s}
				tmpfs: [/fresh]
				restart: always
			web:
				image: probe
				command: [serve, "80"]
				ports: ["8080:80"]
				restart: unless-stopped
				depends_on: {db: {condition: service_healthy}}
			stopped: {image: probe, command: [on-term, "0"], restart: unless-stopped}
			never: {image: probe, command: [on-term, "0"]}
	`)
	b.ok(t, "up", "--detach", "--wait")
	b.ok(t, "stop", "stopped")
	b.crash(t)
	b.ok(t, "system", "resume")
	t.Run("what ran is started again in the graph's order", func(t *testing.T) {
		b.eventuallyState(t, "app-web-1", "running")
		db, web := b.look(t, "app-db-1").State, b.look(t, "app-web-1").State
		if db.Status != "running" || !db.StartedAt.Add(200*time.Millisecond).Before(web.StartedAt) {
			t.Errorf("db began %v, web %v", db.StartedAt, web.StartedAt)
		}
		fetch(t, "http://127.0.0.1:8080/host")
	})
	t.Run("what the user had stopped stays so", func(t *testing.T) {
		if s := b.look(t, "app-stopped-1").State; s.Running {
			t.Errorf("%+v", s)
		}
	})
	t.Run("without a restart policy a container is not started, but known to have ended", func(t *testing.T) {
		if s := b.look(t, "app-never-1").State; s.Running || s.Status != "exited" {
			t.Errorf("%+v", s)
		}
	})
	b.ok(t, "down")
	b.nothingLeft(t, b.before)
}
