package e2e

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// What was asked for comes true, whoever is killed or gives up meanwhile.
func TestWishesComeTrue(t *testing.T) {
	b := newBox(t, "busybox:latest")
	running := func(t *testing.T, names ...string) {
		t.Helper()
		for _, name := range names {
			if s := b.look(t, name).State; !s.Running {
				t.Errorf("%s is %s", name, s.Status)
			}
		}
	}
	const slow = `
		name: app
		services:
			one: {image: busybox, command: [sh, -c, "trap 'sleep 2; exit 0' TERM; while true; do sleep 0.05; done"], stop_grace_period: 20s}
			two: {image: busybox, command: [sh, -c, "trap 'sleep 2; exit 0' TERM; while true; do sleep 0.05; done"], stop_grace_period: 20s}
	`
	stopping := func() error {
		for _, name := range []string{"app-one-1", "app-two-1"} {
			state, err := os.ReadFile(filepath.Join(b.runRoot(), "containers", b.look(t, name).ID, "state.json"))
			if err != nil || !strings.Contains(string(state), `"stopping":true`) {
				return fmt.Errorf("%s is not being stopped: %s, %v", name, state, err)
			}
		}
		return nil
	}
	t.Run("an up after a stop that was given up has all run", func(t *testing.T) {
		b.compose(t, slow)
		b.ok(t, "up", "--detach")
		j := b.start(t, "stop")
		eventually(t, 10*time.Second, stopping)
		j.signal(t, syscall.SIGINT)
		j.wait(t, 10*time.Second)
		b.ok(t, "up", "--detach")
		running(t, "app-one-1", "app-two-1")
		b.ok(t, "down", "--timeout", "0")
	})
	for _, which := range [][]string{{"supervisor"}, {"warden", "guardian", "supervisor"}} {
		t.Run("a stop goes on after kill -9 of "+strings.Join(which, ", "), func(t *testing.T) {
			b.ok(t, "up", "--detach")
			j := b.start(t, "stop")
			eventually(t, 10*time.Second, stopping)
			b.killKeepers(t, "app", which...)
			j.wait(t, 30*time.Second)
			b.ok(t, "ps") // whoever looks brings the keepers back
			b.eventuallyState(t, "app-one-1", "exited")
			b.eventuallyState(t, "app-two-1", "exited")
			b.ok(t, "up", "--detach")
			running(t, "app-one-1", "app-two-1")
			b.ok(t, "down", "--timeout", "0")
		})
	}
	t.Run("a restart is one wish: who asked for it need not stay", func(t *testing.T) {
		b.ok(t, "up", "--detach")
		before := b.look(t, "app-one-1").State.Pid
		j := b.start(t, "restart", "one")
		eventually(t, 10*time.Second, func() error {
			state, _ := os.ReadFile(filepath.Join(b.runRoot(), "containers", b.look(t, "app-one-1").ID, "state.json"))
			if !strings.Contains(string(state), `"startAgain":true`) {
				return errors.New("it is not being restarted")
			}
			return nil
		})
		j.signal(t, syscall.SIGKILL)
		j.wait(t, 10*time.Second)
		eventually(t, 20*time.Second, func() error {
			if s := b.look(t, "app-one-1").State; !s.Running || s.Pid == before {
				return fmt.Errorf("%+v", s)
			}
			return nil
		})
		b.ok(t, "down", "--timeout", "0")
		b.nothingLeft(t, b.before, "file data/layers", "file data/images", "file data/content")
	})
	t.Run("a restart loop ends with kill", func(t *testing.T) {
		b.compose(t, `
			name: app
			services:
				loop: {image: busybox, command: [sh, -c, "exit 3"], restart: always}
		`)
		b.ok(t, "up", "--detach")
		b.eventuallyState(t, "app-loop-1", "restarting")
		b.ok(t, "kill")
		b.eventuallyState(t, "app-loop-1", "exited")
		b.ok(t, "down")
	})
}

func TestManyContainersAtOnce(t *testing.T) {
	b := newBox(t, "busybox:latest")
	before := snap(t, b)
	t.Run("containers that remove themselves leave nothing", func(t *testing.T) {
		for i := range 20 {
			b.ok(t, "container", "run", "--rm", "--detach", "--name", fmt.Sprint("p", i), "busybox", "true")
		}
		b.nothingLeft(t, before)
	})
	t.Run("one supervisor has them all", func(t *testing.T) {
		for i := range 10 {
			b.ok(t, "container", "run", "--detach", "--name", fmt.Sprint("p", i), "busybox", "sleep", "1000")
		}
		entries, err := os.ReadDir(filepath.Join(b.runRoot(), "projects"))
		if err != nil || len(entries) != 1 {
			t.Errorf("%d supervisors, %v", len(entries), err)
		}
		for i := range 10 {
			b.ok(t, "container", "rm", "--force", fmt.Sprint("p", i))
		}
		b.nothingLeft(t, before)
	})
	t.Run("a network is free once its container was stopped", func(t *testing.T) {
		b.ok(t, "network", "create", "n")
		for range 5 {
			b.ok(t, "container", "run", "--rm", "--detach", "--network", "n", "--name", "x", "busybox", "sleep", "1000")
			b.ok(t, "container", "stop", "--time", "0", "x")
			b.ok(t, "network", "rm", "n")
			b.ok(t, "network", "create", "n")
		}
		for range 5 {
			b.ok(t, "container", "run", "--rm", "--network", "n", "busybox", "true")
			b.ok(t, "network", "rm", "n")
			b.ok(t, "network", "create", "n")
		}
		b.ok(t, "network", "rm", "n")
		b.nothingLeft(t, before)
	})
	t.Run("a client that is killed before its container runs leaves nothing", func(t *testing.T) {
		for i := range 10 {
			j := b.start(t, "container", "run", "--rm", "busybox", "true")
			time.Sleep(time.Duration(i) * 3 * time.Millisecond) // another moment each time
			j.signal(t, syscall.SIGKILL)
			j.wait(t, 5*time.Second)
		}
		eventually(t, 40*time.Second, func() error {
			// The keepers that a client began with may be yet to come, and stay for some
			// seconds after that.
			if left := snap(t, b).Since(before); len(left) > 0 {
				return fmt.Errorf("left behind:\n  %s", strings.Join(left, "\n  "))
			}
			return nil
		})
		if out := b.ok(t, "container", "ls", "--all", "--quiet"); out != "" {
			t.Errorf("there are %s", out)
		}
		b.nothingLeft(t, before)
	})
	t.Run("down, stop and restart without any grace", func(t *testing.T) {
		var yaml strings.Builder
		yaml.WriteString("name: many\nservices:\n")
		for i := range 40 {
			fmt.Fprintf(&yaml, "  s%d: {image: busybox, command: [sleep, '1000'], init: true}\n", i)
		}
		b.write(t, "compose.yaml", yaml.String())
		b.ok(t, "up", "--detach")
		b.ok(t, "restart", "--timeout", "0")
		b.ok(t, "stop", "--timeout", "0")
		b.ok(t, "start")
		b.ok(t, "down", "--timeout", "0")
		b.nothingLeft(t, before)
	})
}

func TestDryRunsPrintTheirPlan(t *testing.T) {
	b := newBox(t, "busybox:latest")
	b.compose(t, `
		name: app
		services:
			db: {image: busybox, command: [sleep, "1000"], init: true}
			web: {image: busybox, command: [sleep, "1000"], init: true, depends_on: {db: {condition: service_started, restart: true}}}
	`)
	b.ok(t, "up", "--detach")
	pids := [2]int{b.look(t, "app-db-1").State.Pid, b.look(t, "app-web-1").State.Pid}
	for _, tt := range []struct {
		verb []string
		want []string
	}{
		{[]string{"restart", "db"}, []string{"db", "web"}},
		{[]string{"stop"}, []string{"db", "web"}},
		{[]string{"kill", "web"}, []string{"web"}},
		{[]string{"pause"}, []string{"db", "web"}},
		{[]string{"down"}, []string{"db", "web", "network"}},
		{[]string{"rm", "--force", "--stop"}, []string{"db", "web"}},
		{[]string{"run", "--rm", "web", "true"}, []string{"web"}},
	} {
		out := b.ok(t, append([]string{"--dry-run"}, tt.verb...)...)
		for _, word := range tt.want {
			if !strings.Contains(out, word) {
				t.Errorf("--dry-run %s says nothing of %s:\n%s", strings.Join(tt.verb, " "), word, out)
			}
		}
	}
	if now := [2]int{b.look(t, "app-db-1").State.Pid, b.look(t, "app-web-1").State.Pid}; now != pids {
		t.Errorf("something happened: pids were %v, are %v", pids, now)
	}
	b.ok(t, "stop")
	if out := b.ok(t, "--dry-run", "start", "web"); !strings.Contains(out, "db") {
		t.Errorf("start web starts db too, but its dry run says:\n%s", out)
	}
	b.ok(t, "down")
}
