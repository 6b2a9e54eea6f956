package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// upgraded is the same installation after an upgrade: its program is another file.
func (b *box) upgraded(t *testing.T, name string) *box {
	t.Helper()
	c := *b
	c.program = filepath.Join(b.root, name)
	program, err := os.ReadFile(shared.Stack)
	must(t, err)
	must(t, os.WriteFile(c.program, program, 0o755))
	return &c
}

// runs tells which program one of a project's own processes runs.
func (b *box) runs(t *testing.T, project, which string) string {
	t.Helper()
	pid, err := b.keeper(project, which)
	must(t, err)
	exe, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", pid))
	must(t, err)
	return exe
}

func TestUpgrade(t *testing.T) {
	old := newBox(t, "probe")
	port := freePort(t)
	old.compose(t, keptProject(port))
	old.ok(t, "up", "--detach", "--wait")
	before := old.pids(t)

	var asked, failed atomic.Int64
	stop := make(chan struct{})
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case <-stop:
				return
			default:
			}
			if _, err := get("http://127.0.0.1:" + port + "/host"); err != nil {
				failed.Add(1)
				t.Logf("request %d: %v", asked.Load(), err)
			}
			asked.Add(1)
		}
	}()

	t.Run("a busy supervisor goes on", func(t *testing.T) {
		j := old.start(t, "wait", "web")
		eventually(t, 5*time.Second, func() error { // until it has been heard
			sockets, err := os.ReadFile("/proc/thread-self/net/unix")
			must(t, err)
			if n := strings.Count(string(sockets), filepath.Join(old.runRoot(), "projects/app/supervisor.sock")); n < 2 {
				return fmt.Errorf("%d sockets of the supervisor", n)
			}
			return nil
		})
		supervisor, err := old.keeper("app", "supervisor")
		must(t, err)
		other := old.upgraded(t, "early")
		other.ok(t, "pause", "asker")
		other.ok(t, "unpause", "asker")
		if now, err := old.keeper("app", "supervisor"); err != nil || now != supervisor {
			t.Errorf("the supervisor is %d, %v; was %d", now, err, supervisor)
		}
		j.signal(t, interruptSignal)
		j.wait(t, 5*time.Second)
	})

	b := old.upgraded(t, "later")
	t.Run("the next command of the new program replaces it", func(t *testing.T) {
		eventually(t, 5*time.Second, func() error {
			b.ok(t, "up", "--detach", "--wait")
			if got := b.runs(t, "app", "supervisor"); got != b.program {
				return fmt.Errorf("the supervisor runs %s", got)
			}
			return nil
		})
	})
	t.Run("who is killed is started as the new program", func(t *testing.T) {
		b.killKeepers(t, "app", "supervisor")
		b.eventuallyKept(t, "app")
		if got := b.runs(t, "app", "supervisor"); got != b.program {
			t.Errorf("the supervisor runs %s", got)
		}
		b.killKeepers(t, "app", "guardian")
		b.eventuallyKept(t, "app")
		if got := b.runs(t, "app", "guardian"); got != b.program {
			t.Errorf("the guardian runs %s", got)
		}
	})
	t.Run("no container ended, no connection was dropped, no line lost", func(t *testing.T) {
		close(stop)
		<-done
		if failed.Load() > 0 || asked.Load() == 0 {
			t.Errorf("%d of %d requests failed", failed.Load(), asked.Load())
		}
		for name, p := range before {
			if !p.Alive() {
				t.Errorf("%s has died: %+v", name, p)
			}
		}
		if got := b.lookup(t, "asker", "web"); got.Rcode != "NOERROR" || len(got.Answers) != 1 {
			t.Errorf("DNS does not answer: %+v", got)
		}
		b.ok(t, "stop", "talker")
		checkNumbers(t, b.logLines(t, "talker"))
	})
	t.Run("restart policies and exit codes are kept", func(t *testing.T) {
		get("http://127.0.0.1:" + port + "/exit?3") // it exits before it answers
		eventually(t, 10*time.Second, func() error {
			if i := b.look(t, "app-web-1"); i.State.Status != "running" || i.RestartCount != 1 {
				return fmt.Errorf("web is %s after %d restarts", i.State.Status, i.RestartCount)
			}
			return nil
		})
		kill(t, b.look(t, "app-asker-1").State.Pid, unix.SIGTERM)
		if i := b.eventuallyState(t, "app-asker-1", "exited"); i.State.ExitCode != 0 {
			t.Errorf("%+v", i.State)
		}
	})
	b.ok(t, "down", "--timeout", "2")
	b.nothingLeft(t, old.before, "file early", "file later")
}
