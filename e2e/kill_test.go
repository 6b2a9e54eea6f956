package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/stack-run/stack/e2e/machine"
)

// keeper returns the pid of one of a project's own processes: "supervisor",
// "guardian" or "warden".
func (b *box) keeper(project, which string) (int, error) {
	text, err := os.ReadFile(filepath.Join(b.runRoot(), "projects", project, which+".pid"))
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(strings.TrimSpace(string(text)))
}

// keepers describes processes of a project, for the test's log.
func (b *box) keepers(t *testing.T, project string, killed ...string) string {
	t.Helper()
	var out []string
	for _, w := range []string{"warden", "guardian", "supervisor"} {
		pid, err := b.keeper(project, w)
		if err != nil {
			out = append(out, w+": "+err.Error())
			continue
		}
		p, err := machine.ReadProc(pid)
		out = append(out, fmt.Sprintf("%s %d %q of %d (killed: %v, %v)", w, pid, p.Cmdline, p.Parent, slices.Contains(killed, w), err))
	}
	return strings.Join(out, "; ")
}

// killKeepers kills processes of a project with SIGKILL, all at the same moment,
// and waits until they are dead.
func (b *box) killKeepers(t *testing.T, project string, which ...string) {
	t.Helper()
	var fds []int
	for _, w := range which {
		pid, err := b.keeper(project, w)
		must(t, err)
		fd, err := unix.PidfdOpen(pid, 0)
		if err != nil {
			t.Fatalf("cannot open %s, pid %d: %v", w, pid, err)
		}
		defer unix.Close(fd)
		fds = append(fds, fd)
	}
	// Stopped first, none of them sees another die.
	for _, s := range []unix.Signal{unix.SIGSTOP, unix.SIGKILL} {
		for i, fd := range fds {
			if err := unix.PidfdSendSignal(fd, s, nil, 0); err != nil {
				t.Fatalf("cannot send %v to the %s: %v", s, which[i], err)
			}
		}
	}
	for _, fd := range fds { // a pidfd is readable once its process has ended
		if _, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 5000); err != nil && err != unix.EINTR {
			t.Fatal(err)
		}
	}
}

// eventuallyKept waits until all keepers of a project run again, each in a
// process of its own: while one turns into another, two files name the same.
func (b *box) eventuallyKept(t *testing.T, project string) {
	t.Helper()
	eventually(t, 5*time.Second, func() error {
		roles := map[int]string{}
		for _, w := range []string{"supervisor", "guardian", "warden"} {
			pid, err := b.keeper(project, w)
			if err != nil {
				return err
			}
			if p, err := machine.ReadProc(pid); err != nil || p.State == "Z" {
				return fmt.Errorf("the %s (pid %d) does not run", w, pid)
			}
			if other, ok := roles[pid]; ok {
				return fmt.Errorf("pid %d is the %s and the %s", pid, other, w)
			}
			roles[pid] = w
		}
		return nil
	})
}

// kill sends a signal to a container's process. A pid of 0 is that of a stopped
// container, and would mean the tests themselves.
func kill(t *testing.T, pid int, s unix.Signal) {
	t.Helper()
	if pid <= 1 {
		t.Fatalf("the container does not run: its pid is %d", pid)
	}
	must(t, unix.Kill(pid, s))
}

// deaths are the keepers that die together. Whoever is left starts the others again.
var deaths = [][]string{
	{"supervisor"}, {"guardian"}, {"warden"},
	{"supervisor", "guardian"}, {"guardian", "supervisor"},
	{"guardian", "warden"}, {"warden", "supervisor"},
}

// keptProject serves on a port of the host, prints without end, asks for names, and
// has a container that ends with 7 when it is told to.
func keptProject(port string) string {
	return `
		name: app
		services:
			web:
				image: probe
				command: ["serve", "8080"]
				ports: ["` + port + `:8080"]
				restart: on-failure
			talker:
				image: probe
				command: ["numbers", "0", "1000"]
				logging: {options: {max-size: 4g}}
			once:
				image: probe
				command: ["on-term", "7"]
			asker:
				image: probe
				command: ["on-term", "0"]
				healthcheck: {test: ["CMD", "/probe", "dial", "tcp", "web:8080"], interval: 1s}
	`
}

func TestKilledKeepers(t *testing.T) {
	b := newBox(t, "probe")
	port := freePort(t)
	b.compose(t, keptProject(port))
	for _, which := range deaths {
		name := strings.Join(which, ", ")
		t.Run("kill -9 of "+name, func(t *testing.T) {
			b.ok(t, "up", "--detach", "--wait")
			before := b.pids(t)
			b.killKeepers(t, "app", which...)

			// In the gap: one container ends for good, and the ports must answer.
			kill(t, before["app-once-1"].PID, unix.SIGTERM)
			if _, err := get("http://127.0.0.1:" + port + "/host"); err != nil {
				t.Errorf("the port does not answer during the gap: %v", err)
			}
			b.eventuallyKept(t, "app")

			once := b.eventuallyState(t, "app-once-1", "exited")
			if once.State.ExitCode != 7 {
				t.Errorf("the exit code in the gap is %d, must be 7", once.State.ExitCode)
			}
			delete(before, "app-once-1")
			for name, p := range before {
				if !p.Alive() {
					t.Errorf("%s has died: %+v", name, p)
				}
			}
			if got := b.lookup(t, "asker", "web"); got.Rcode != "NOERROR" || len(got.Answers) != 1 {
				t.Errorf("DNS does not answer: %+v", got)
			}
			fetch(t, "http://127.0.0.1:"+port+"/host")

			// The restart policy works under the new supervisor.
			get("http://127.0.0.1:" + port + "/exit?3") // it exits before it answers
			eventually(t, 10*time.Second, func() error {
				if i := b.look(t, "app-web-1"); i.State.Status != "running" || i.RestartCount != 1 {
					return fmt.Errorf("web is %s after %d restarts", i.State.Status, i.RestartCount)
				}
				return nil
			})

			b.ok(t, "stop", "talker")
			checkNumbers(t, b.logLines(t, "talker"))
			b.ok(t, "down", "--timeout", "2")
			b.nothingLeft(t, b.before)
		})
	}
}

func TestAllKeepersKilled(t *testing.T) {
	b := newBox(t, "probe")
	port := freePort(t)
	b.compose(t, `
		name: app
		services:
			web:
				image: probe
				command: ["serve", "8080"]
				ports: ["`+port+`:8080"]
				restart: always
			talker:
				image: probe
				command: ["numbers", "0", "1000"]
				logging: {options: {max-size: 4g}}
	`)
	b.ok(t, "up", "--detach", "--wait")
	before := b.pids(t)
	b.killKeepers(t, "app", "supervisor", "guardian", "warden")
	t.Run("containers and published ports go on with nobody left", func(t *testing.T) {
		fetch(t, "http://127.0.0.1:"+port+"/host")
		for name, p := range before {
			if !p.Alive() {
				t.Errorf("%s has died: %+v", name, p)
			}
		}
	})
	t.Run("the next up takes the containers over as they are", func(t *testing.T) {
		b.ok(t, "up", "--detach")
		b.eventuallyKept(t, "app")
		for name, p := range b.pids(t) {
			if p.PID != before[name].PID || p.Start != before[name].Start {
				t.Errorf("%s was %+v, is %+v", name, before[name], p)
			}
		}
	})
	t.Run("and keeps them", func(t *testing.T) {
		kill(t, before["app-web-1"].PID, unix.SIGKILL)
		eventually(t, 10*time.Second, func() error {
			if i := b.look(t, "app-web-1"); !i.State.Running || i.State.Pid == before["app-web-1"].PID {
				return fmt.Errorf("web is %+v", i.State)
			}
			return nil
		})
	})
	t.Run("no line of the log is lost or doubled", func(t *testing.T) {
		b.ok(t, "stop", "talker")
		checkNumbers(t, b.logLines(t, "talker"))
	})
	b.ok(t, "down", "--timeout", "2")
	b.nothingLeft(t, b.before)
}

func TestExitWhileNobodyWatches(t *testing.T) {
	b := newBox(t, "probe")
	b.compose(t, `
		name: app
		services:
			web:
				image: probe
				command: ["on-term", "7"]
				restart: on-failure
	`)
	for _, which := range deaths {
		t.Run("with "+strings.Join(which, ", ")+" killed at the same moment, the code is kept and the policy holds", func(t *testing.T) {
			b.ok(t, "up", "--detach")
			b.eventuallyLog(t, "web", "ready")
			pid := b.look(t, "app-web-1").State.Pid
			b.killKeepers(t, "app", which...)
			kill(t, pid, unix.SIGTERM)
			eventually(t, 10*time.Second, func() error {
				i := b.look(t, "app-web-1")
				if i.State.Status != "running" || i.RestartCount != 1 || i.State.Pid == pid {
					return fmt.Errorf("web is %s with pid %d (was %d) after %d restarts", i.State.Status, i.State.Pid, pid, i.RestartCount)
				}
				if i.State.ExitCode != 7 && i.State.ExitCode != 0 { // Docker shows 0 again while it runs
					return fmt.Errorf("the exit code is %d", i.State.ExitCode)
				}
				return nil
			})
			b.ok(t, "down")
			b.nothingLeft(t, b.before)
		})
	}
}

func TestKilledAgainAndAgain(t *testing.T) {
	b := newBox(t, "probe")
	b.compose(t, `
		name: app
		services:
			talker:
				image: probe
				command: ["numbers"]
				logging: {options: {max-size: 4g}}
	`)
	b.ok(t, "up", "--detach")
	talker := b.pids(t)["app-talker-1"]
	for i := range 10 {
		which := deaths[i%len(deaths)]
		t.Logf("step %d: kill -9 of %s", i, b.keepers(t, "app", which...))
		b.killKeepers(t, "app", which...)
		b.eventuallyKept(t, "app")
	}
	if !talker.Alive() {
		t.Error("the container has died")
	}
	b.ok(t, "stop")
	checkNumbers(t, b.logLines(t, "talker"))
	b.ok(t, "down")
	b.nothingLeft(t, b.before)
}

func TestKilledUnderAFollower(t *testing.T) {
	b := newBox(t, "probe")
	b.compose(t, `
		name: app
		services:
			talker: {image: probe, command: ["numbers"], logging: {options: {max-size: 4g}}}
	`)
	b.ok(t, "up", "--detach")
	follower := b.start(t, "logs", "--follow", "--no-log-prefix", "talker")
	follower.out.until(t, 5*time.Second, "\n1000\n")
	b.killKeepers(t, "app", "supervisor")
	b.eventuallyKept(t, "app")
	b.ok(t, "stop")
	if code := follower.wait(t, 20*time.Second); code != 0 {
		t.Errorf("logs --follow exited %d: …%s", code, tail(follower.out.String()))
	}
	checkNumbers(t, strings.Split(strings.TrimSpace(follower.out.String()), "\n"))
}

// pids returns the running containers' first processes.
func (b *box) pids(t *testing.T) map[string]machine.Proc {
	t.Helper()
	m := map[string]machine.Proc{}
	for _, c := range b.ps(t) {
		if c.State != "running" {
			continue
		}
		p, err := machine.ReadProc(b.look(t, c.Name).State.Pid)
		must(t, err)
		m[c.Name] = p
	}
	return m
}

// logLines returns a service's log, without prefixes.
func (b *box) logLines(t *testing.T, service string) []string {
	t.Helper()
	return strings.Split(strings.TrimSpace(b.ok(t, "logs", "--no-log-prefix", "--no-color", service)), "\n")
}

// eventuallyLog waits until a service has written a line.
func (b *box) eventuallyLog(t *testing.T, service, line string) {
	t.Helper()
	eventually(t, 10*time.Second, func() error {
		if lines := b.logLines(t, service); !slices.Contains(lines, line) {
			return fmt.Errorf("%s has not written %q but %q", service, line, tail(strings.Join(lines, "\n")))
		}
		return nil
	})
}

// checkNumbers fails unless the lines are 1, 2, … N, "end N".
func checkNumbers(t *testing.T, lines []string) {
	t.Helper()
	if len(lines) < 2 {
		t.Fatalf("there are no numbers: %q", lines)
	}
	for i, l := range lines[:len(lines)-1] {
		if l != strconv.Itoa(i+1) {
			t.Fatalf("line %d is %q: lines are lost or doubled", i+1, l)
		}
	}
	if last := lines[len(lines)-1]; last != fmt.Sprintf("end %d", len(lines)-1) {
		t.Fatalf("the last line is %q after %d numbers", last, len(lines)-1)
	}
}

func noProcess(t *testing.T, before *machine.Snapshot) error {
	t.Helper()
	for _, l := range now(t, machine.Processes) {
		if !before.Has(l) {
			return errors.New("still there: " + l)
		}
	}
	return nil
}

// lookedUp is what the probe's lookup prints.
type lookedUp struct {
	Rcode   string
	Answers []string
	TTL     uint32
	Took    time.Duration
}

// lookup asks the resolver of a container that has the probe.
func (b *box) lookup(t *testing.T, service string, args ...string) lookedUp {
	t.Helper()
	var a lookedUp
	out := b.ok(t, append([]string{"exec", "-T", service, "/probe", "lookup"}, args...)...)
	if err := json.Unmarshal([]byte(out), &a); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return a
}

func TestRunOutlivesItsKeepers(t *testing.T) {
	b := newBox(t, "busybox:latest")
	for _, which := range [][]string{{"supervisor"}, {"guardian"}, {"warden"}, {"warden", "guardian", "supervisor"}} {
		t.Run("a foreground run sees the end after kill -9 of "+strings.Join(which, ", "), func(t *testing.T) {
			j := b.start(t, "container", "run", "--name", "fg", "busybox", "sh", "-c", "echo one; sleep 1; echo two; exit 6")
			j.out.until(t, 5*time.Second, "one\n")
			b.killKeepers(t, "single.", which...)
			if code := j.wait(t, 10*time.Second); code != 6 || j.out.String() != "one\ntwo\n" {
				t.Errorf("exit %d: %q", code, j.out)
			}
			b.ok(t, "container", "rm", "fg")
			b.nothingLeft(t, b.before)
		})
	}
	t.Run("what ended while nobody was there has ended, and can be removed", func(t *testing.T) {
		for range 3 {
			b.ok(t, "container", "run", "--detach", "--name", "gone", "busybox", "sh", "-c", "sleep 0.3; exit 4")
			pid := b.look(t, "gone").State.Pid
			b.killKeepers(t, "single.", "warden", "guardian", "supervisor")
			eventually(t, 5*time.Second, func() error {
				if exists(fmt.Sprintf("/proc/%d", pid)) {
					return errors.New("it runs")
				}
				return nil
			})
			if s := b.look(t, "gone").State; s.Running || s.ExitCode != 4 && s.ExitCode != 255 { // before Linux 6.15 nobody knows
				t.Errorf("%+v", s)
			}
			if out := b.ok(t, "container", "ls", "--quiet"); out != "" {
				t.Errorf("ls shows %s", out)
			}
			if r := b.fails(t, "container", "exec", "gone", "true"); !strings.Contains(r.stderr, "not running") {
				t.Error(r)
			}
			b.ok(t, "container", "rm", "gone")
			b.nothingLeft(t, b.before)
		}
	})
}

// A command whose supervisor is killed while it works is brought to its end by the next
// one, and does nothing twice.
func TestCommandsOutliveTheirSupervisor(t *testing.T) {
	b := newBox(t, "busybox:latest")
	b.compose(t, `
		services:
			db:
				image: busybox
				command: ["sh", "-c", "trap 'sleep 0.4; exit 0' TERM; rm -f /ready; (sleep 0.4; touch /ready) & while :; do sleep 0.1; done"]
				healthcheck: {test: [CMD, test, -e, /ready], interval: 100ms, retries: 100}
			web:
				image: busybox
				command: ["sleep", "1000"]
				init: true
				volumes: [data:/data]
				depends_on: {db: {condition: service_healthy}}
		volumes: {data: {}}
	`)
	run := []string{"run", "-d", "web", "sh", "-c", "echo once >>/data/log; sleep 1000"}
	for _, which := range [][]string{{"supervisor"}, {"warden"}, {"warden", "guardian", "supervisor"}} {
		t.Run("kill -9 of "+strings.Join(which, ", "), func(t *testing.T) {
			for _, step := range []struct {
				args    []string
				at      string // what it says when they are killed
				running int
			}{
				{[]string{"up", "-d"}, "Container app-db-1 Started", 2},
				{[]string{"stop"}, "Container app-db-1 Stopping", 0},
				{[]string{"start"}, "Container app-db-1 Started", 2},
				{[]string{"down", "-v"}, "Container app-db-1 Stopping", 0},
				{run, "Container app-db-1 Started", 2},
				{[]string{"down", "-v"}, "Container app-db-1 Stopping", 0},
			} {
				j := b.start(t, step.args...)
				j.out.until(t, limit, step.at)
				b.killKeepers(t, "app", which...)
				if code := j.wait(t, limit); code != 0 {
					t.Errorf("%v ends with %d: %s", step.args, code, j.out)
				}
				running := 0
				for name := range b.ids(t) {
					if b.look(t, name).State.Status == "running" {
						running++
					}
				}
				if running != step.running {
					t.Errorf("after %v %d containers run, not %d: %s", step.args, running, step.running, j.out)
				}
				if step.args[0] == "run" {
					out := b.ok(t, "container", "run", "--rm", "-v", "app_data:/data", "busybox", "cat", "/data/log")
					if out != "once\n" {
						t.Errorf("it ran like this: %q", out)
					}
				}
			}
		})
	}
}

// What a command left that was killed at its very end goes with the same one again, which
// finds nothing to do.
func TestNothingToDoSweeps(t *testing.T) {
	b := newBox(t, "busybox:latest")
	b.compose(t, `services: {web: {image: busybox, command: [sleep, "1000"]}}`)
	left := filepath.Join(b.dataRoot(), "logs", strings.Repeat("0a", 32))
	for _, args := range [][]string{{"rm", "-fs"}, {"down"}, {"down", "--remove-orphans", "-v"}} {
		must(t, os.MkdirAll(left, 0o700))
		b.ok(t, args...)
		if _, err := os.Stat(left); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("after %v it is still there: %v", args, err)
		}
	}
}
