package e2e

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stack-run/stack/e2e/conformance"
	"github.com/stack-run/stack/e2e/machine"
)

func TestHealth(t *testing.T) {
	b := newBox(t, "busybox:latest")
	b.loadAs(t, "busybox:latest", "checked", `HEALTHCHECK --interval=1s CMD test -f /well`)
	b.compose(t, `
		name: app
		services:
			quick:
				image: busybox
				command: [sleep, infinity]
				healthcheck: {test: ["CMD", "true"], interval: 1h}
			shell:
				image: busybox
				command: [sleep, infinity]
				healthcheck: {test: "echo fine; exit 0", interval: 1h}
			image:
				image: checked
				command: [sh, -c, "touch /well; exec sleep infinity"]
			off:
				image: checked
				command: [sleep, infinity]
				healthcheck: {disable: true}
			turns:
				image: busybox
				command: [sh, -c, "touch /well; exec sleep infinity"]
				healthcheck: {test: ["CMD", "test", "-f", "/well"], interval: 100ms, retries: 2}
			hangs:
				image: busybox
				command: [sleep, infinity]
				healthcheck: {test: "sleep 54321 & setsid sleep 54321 & (sleep 54321 &); sleep 54321", interval: 100ms, timeout: 300ms, retries: 2}
			patient:
				image: busybox
				command: [sleep, infinity]
				healthcheck: {test: ["CMD", "false"], interval: 100ms, retries: 1, start_period: 1h}
	`)
	b.ok(t, "up", "--detach")
	t.Run("a service that is well at once is healthy at once, whatever the interval", func(t *testing.T) {
		b.eventuallyHealth(t, "app-quick-1", "healthy")
	})
	t.Run("a shell's output is kept", func(t *testing.T) {
		i := b.eventuallyHealth(t, "app-shell-1", "healthy")
		if log := i.State.Health.Log; len(log) == 0 || log[0].Output != "fine\n" {
			t.Errorf("%+v", i.State.Health)
		}
	})
	t.Run("the image's check holds unless it is disabled", func(t *testing.T) {
		b.eventuallyHealth(t, "app-image-1", "healthy")
		if i := b.look(t, "app-off-1"); i.health() != "" && i.health() != "none" {
			t.Errorf("%+v", i.State.Health)
		}
	})
	t.Run("it turns unhealthy after the retries, and healthy again", func(t *testing.T) {
		b.eventuallyHealth(t, "app-turns-1", "healthy")
		b.ok(t, "exec", "-T", "turns", "rm", "/well")
		if i := b.eventuallyHealth(t, "app-turns-1", "unhealthy"); i.State.Health.FailingStreak < 2 {
			t.Errorf("%+v", i.State.Health)
		}
		b.ok(t, "exec", "-T", "turns", "touch", "/well")
		b.eventuallyHealth(t, "app-turns-1", "healthy")
	})
	t.Run("a check that hangs is killed with its children", func(t *testing.T) {
		b.eventuallyHealth(t, "app-hangs-1", "unhealthy")
		eventually(t, 20*time.Second, func() error {
			if n := b.look(t, "app-hangs-1").State.Health.FailingStreak; n < 5 {
				return fmt.Errorf("%d probes were made", n)
			}
			return nil
		})
		// One probe at a time: its shell and four sleeps. Processes are listed one after
		// the other, meanwhile one probe may follow another.
		one := func() error {
			n := 0
			for _, l := range now(t, machine.Processes) {
				if strings.Contains(l, "sleep 54321") {
					n++
				}
			}
			if n > 5 {
				return fmt.Errorf("%d processes of probes run", n)
			}
			return nil
		}
		eventually(t, 10*time.Second, one)
		b.ok(t, "stop", "--timeout", "0", "hangs")
		b.ok(t, "start", "hangs")
		eventually(t, 10*time.Second, one)
	})
	t.Run("failures in the start period do not count", func(t *testing.T) {
		eventually(t, 10*time.Second, func() error {
			i := b.look(t, "app-patient-1")
			if i.health() != "starting" {
				t.Fatalf("it is %s", i.health())
			}
			if n := len(i.State.Health.Log); n < 3 {
				return fmt.Errorf("%d probes", n)
			}
			return nil
		})
	})
	t.Run("up --wait fails when a service turns unhealthy", func(t *testing.T) {
		r := b.fails(t, "up", "--detach", "--wait", "hangs")
		if !strings.Contains(r.stderr, "hangs") {
			t.Error(r)
		}
	})
	b.ok(t, "down", "--timeout", "0")
	b.nothingLeft(t, b.before)
	conformance.Works(t, "services.*.healthcheck.test", "services.*.healthcheck.interval", "services.*.healthcheck.retries", "services.*.healthcheck.timeout", "services.*.healthcheck.start_period", "services.*.healthcheck.disable")
}

// A job is done when it has succeeded; what fails at once has not come up.
func TestUpWaitsForJobs(t *testing.T) {
	b := newBox(t, "busybox:latest")
	b.compose(t, `
	services:
	  job: {image: busybox, command: sh -c "echo did it"}
	  server: {image: busybox, command: sleep 1000, init: true}
	`)
	b.ok(t, "up", "--detach", "--wait")
	b.compose(t, `
	services:
	  job: {image: busybox, command: sh -c "sleep 0.1; echo no database >&2; exit 3"}
	  server: {image: busybox, command: sleep 1000, init: true}
	`)
	r := b.fails(t, "up", "--detach", "--wait")
	for _, want := range []string{"container app-job-1 exited (3)", "no database"} {
		if !strings.Contains(r.stderr, want) {
			t.Errorf("no %q: %v", want, r)
		}
	}
	b.ok(t, "down", "--timeout", "0")
	b.nothingLeft(t, b.before)
}

func TestStartWaits(t *testing.T) {
	b := newBox(t, "busybox:latest")
	b.compose(t, `
		name: app
		services:
			sick:
				image: busybox
				command: [sleep, infinity]
				init: true
				healthcheck: {test: [CMD, test, -e, /fine], interval: 100ms, retries: 2}
			fails: {image: busybox, command: [sh, -c, "sleep 0.1; exit 3"]}
			plain: {image: busybox, command: [sleep, infinity], init: true}
	`)
	if r := b.fails(t, "start", "plain"); !strings.Contains(r.stderr, "no container to start") {
		t.Error(r)
	}
	b.ok(t, "up", "--no-start")
	b.ok(t, "start", "--wait", "plain")
	if r := b.fails(t, "start", "--wait", "fails"); !strings.Contains(r.stderr, "app-fails-1 exited (3)") {
		t.Error(r)
	}
	if r := b.fails(t, "start", "--wait", "sick"); !strings.Contains(r.stderr, "app-sick-1 is unhealthy") {
		t.Error(r)
	}
	b.ok(t, "exec", "-T", "sick", "touch", "/fine")
	b.ok(t, "stop", "sick")
	b.ok(t, "start", "--wait", "sick")
	if i := b.look(t, "app-sick-1"); i.health() != "healthy" {
		t.Errorf("%+v", i.State)
	}
	b.ok(t, "down")
	b.nothingLeft(t, b.before)
}

// What one client changes holds, and is what inspect says at once, while another one
// restarts the container and its health is probed all the time.
func TestChangesDuringRestarts(t *testing.T) {
	b := newBox(t, "busybox:latest")
	b.compose(t, `
		name: app
		services:
			web:
				image: busybox
				command: [sleep, infinity]
				init: true
				healthcheck: {test: ["CMD", "true"], interval: 1ms}
	`)
	b.ok(t, "up", "--detach", "--wait")
	b.ok(t, "network", "create", "extra")
	before := b.look(t, "app-web-1")

	const restarts = 12
	restarting, over := context.WithCancel(t.Context())
	var changing sync.WaitGroup
	// again makes changes, one after the other, until all restarts are over. Each is
	// a command, and what must be seen from when it has succeeded.
	again := func(change func(round int) (command []string, seen func(info) error)) {
		changing.Go(func() {
			for round := 0; round < 2 || restarting.Err() == nil; round++ {
				command, seen := change(round)
				if r := b.stack(t, command...); r.code != 0 {
					t.Error(r)
					return
				}
				i, err := b.tryLook(t, before.ID)
				if err == nil {
					err = seen(i)
				}
				if err != nil {
					t.Errorf("after %v: %v", command, err)
					return
				}
			}
		})
	}
	again(func(round int) ([]string, func(info) error) {
		verb := []string{"connect", "disconnect"}[round%2]
		return []string{"network", verb, "extra", before.ID}, func(i info) error {
			if _, on := i.NetworkSettings.Networks["extra"]; on != (verb == "connect") {
				return fmt.Errorf("its networks are %v", i.NetworkSettings.Networks)
			}
			return nil
		}
	})
	again(func(round int) ([]string, func(info) error) {
		name := fmt.Sprint("web-", round)
		return []string{"container", "rename", before.ID, name}, func(i info) error {
			if i.Name != "/"+name {
				return fmt.Errorf("its name is %s", i.Name)
			}
			return nil
		}
	})
	again(func(round int) ([]string, func(info) error) {
		megabytes := 64 + round
		return []string{"container", "update", "--memory", fmt.Sprintf("%dm", megabytes), before.ID}, func(i info) error {
			if got := i.HostConfig["Memory"]; got != float64(megabytes<<20) {
				return fmt.Errorf("its memory is limited to %v", got)
			}
			return nil
		}
	})
	for range restarts {
		if r := b.stack(t, "restart", "--timeout", "0", "web"); r.code != 0 {
			t.Error(r)
			break
		}
	}
	over()
	changing.Wait()

	i := b.eventuallyHealth(t, before.ID, "healthy")
	if i.State.Pid == before.State.Pid || !i.State.StartedAt.After(before.State.StartedAt) {
		t.Errorf("it was not restarted: %+v", i.State)
	}
	// The kernel has what the record says.
	links := b.ok(t, "exec", "-T", "web", "ls", "/sys/class/net")
	if n := strings.Count(links, "eth"); n != len(i.NetworkSettings.Networks) {
		t.Errorf("it has links %q on networks %v", links, i.NetworkSettings.Networks)
	}
	b.ok(t, "down", "--timeout", "0")
	b.ok(t, "network", "rm", "extra")
	b.nothingLeft(t, b.before)
}
