package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/stack-run/stack/e2e/machine"
)

// A callerGroup is a control group in each hierarchy, as systemd and CI runners
// make them for what they start.
type callerGroup struct {
	dirs []string
}

func newCallerGroup(t *testing.T, name string) *callerGroup {
	t.Helper()
	mountinfo, err := os.ReadFile("/proc/self/mountinfo")
	must(t, err)
	g := &callerGroup{}
	for line := range strings.Lines(string(mountinfo)) {
		before, after, _ := strings.Cut(line, " - ")
		kind := strings.Fields(after)[0]
		if kind != "cgroup" && kind != "cgroup2" {
			continue
		}
		root := strings.Fields(before)[4]
		dir := filepath.Join(root, name)
		if slices.Contains(g.dirs, dir) {
			continue // the mount hides the one before
		}
		must(t, os.Mkdir(dir, 0o755))
		for _, f := range []string{"cpuset.cpus", "cpuset.mems"} {
			v, err := os.ReadFile(filepath.Join(root, f))
			if errors.Is(err, fs.ErrNotExist) || kind == "cgroup2" {
				continue
			}
			must(t, err)
			must(t, os.WriteFile(filepath.Join(dir, f), v, 0o644))
		}
		g.dirs = append(g.dirs, dir)
	}
	t.Cleanup(func() {
		g.end(t)
		for _, dir := range g.dirs {
			if err := os.Remove(dir); err != nil {
				t.Error(err)
			}
		}
	})
	return g
}

// limit writes a file of a controller where there is one.
func (g *callerGroup) limit(t *testing.T, file, value string) {
	t.Helper()
	found := false
	for _, dir := range g.dirs {
		err := os.WriteFile(filepath.Join(dir, file), []byte(value), 0o644)
		found = found || err == nil
	}
	if !found {
		t.Skipf("no control group here has %s", file)
	}
}

// sh runs a shell script in the group, where $STACK is the program under test.
func (g *callerGroup) sh(b *box, script string) (string, error) {
	enter := ""
	for _, dir := range g.dirs {
		enter += "echo $$ >" + dir + "/cgroup.procs && "
	}
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	cmd := exec.CommandContext(ctx, "/bin/sh", "-c", enter+"{\n"+script+"\n}")
	cmd.Dir, cmd.Env = b.dir, append(append(b.installation().Environ(), b.env...), "STACK="+shared.Stack)
	cmd.WaitDelay = 2 * time.Second
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err := cmd.Run()
	return out.String(), err
}

// pids lists who is in the group, in any hierarchy.
func (g *callerGroup) pids(t *testing.T) []int {
	t.Helper()
	seen := map[int]bool{}
	var out []int
	for _, dir := range g.dirs {
		text, err := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
		must(t, err)
		for _, f := range strings.Fields(string(text)) {
			pid, err := strconv.Atoi(f)
			must(t, err)
			if !seen[pid] {
				seen[pid] = true
				out = append(out, pid)
			}
		}
	}
	return out
}

// end kills all in the group, as systemd does with KillMode=control-group.
func (g *callerGroup) end(t *testing.T) {
	t.Helper()
	eventually(t, 5*time.Second, func() error {
		pids := g.pids(t)
		for _, pid := range pids {
			unix.Kill(pid, unix.SIGKILL)
		}
		if len(pids) > 0 {
			return fmt.Errorf("still there: %v", pids)
		}
		return nil
	})
}

func TestKeepersOutliveTheirCaller(t *testing.T) {
	b := newBox(t, "probe")
	b.compose(t, `
		name: app
		services:
			web: {image: probe, command: ["on-term", "7"], restart: on-failure}
			talker: {image: probe, command: ["numbers", "0", "1000"], logging: {options: {max-size: 4g}}}
	`)
	g := newCallerGroup(t, "unit.service")
	if out, err := g.sh(b, `"$STACK" up --detach`); err != nil {
		t.Fatal(err, out)
	}
	t.Run("nobody of the project is in a group of the caller", func(t *testing.T) {
		for _, pid := range g.pids(t) {
			p, err := machine.ReadProc(pid)
			t.Errorf("%+v, %v", p, err)
		}
	})
	keeper := func(which string) int {
		pid, err := b.keeper("app", which)
		must(t, err)
		return pid
	}
	before := []int{keeper("warden"), keeper("guardian"), keeper("supervisor")}
	g.end(t)
	t.Run("the end of the caller's groups is nobody else's", func(t *testing.T) {
		b.eventuallyKept(t, "app")
		if now := []int{keeper("warden"), keeper("guardian"), keeper("supervisor")}; fmt.Sprint(now) != fmt.Sprint(before) {
			t.Errorf("the keepers are %v, were %v", now, before)
		}
	})
	t.Run("the restart policy and the log go on", func(t *testing.T) {
		first := b.look(t, "app-web-1").State.Pid
		b.eventuallyLog(t, "web", "ready")
		kill(t, first, unix.SIGTERM)
		eventually(t, 10*time.Second, func() error {
			if i := b.look(t, "app-web-1"); !i.State.Running || i.RestartCount != 1 {
				return fmt.Errorf("web is %+v after %d restarts", i.State, i.RestartCount)
			}
			return nil
		})
		b.ok(t, "stop", "talker")
		checkNumbers(t, b.logLines(t, "talker"))
	})
	b.ok(t, "down")
	t.Run("their groups go with them", func(t *testing.T) {
		for _, dir := range g.dirs {
			left, err := filepath.Glob(filepath.Join(filepath.Dir(dir), "stack-*"))
			must(t, err)
			if len(left) > 0 {
				t.Errorf("left: %v", left)
			}
		}
	})
}

func TestKeeperGroupsGoWithoutAClient(t *testing.T) {
	b := newBox(t, "probe")
	g := newCallerGroup(t, "session.scope")
	if out, err := g.sh(b, `"$STACK" container run --detach --rm --name short probe on-term 0`); err != nil {
		t.Fatal(err, out)
	}
	b.ok(t, "container", "kill", "--signal", "TERM", "short")
	eventually(t, 10*time.Second, func() error {
		for _, dir := range g.dirs {
			if left, _ := filepath.Glob(filepath.Join(filepath.Dir(dir), "stack-*")); len(left) > 0 {
				return fmt.Errorf("left: %v", left)
			}
		}
		return nil
	})
}

func TestKeepersHoldNothingOfTheirCaller(t *testing.T) {
	b := newBox(t, "probe")
	b.compose(t, `
		name: app
		services:
			web: {image: probe, command: ["numbers", "1", "10"]}
	`)
	lock := filepath.Join(b.root, "lock")
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	// The pipe to the reader ends when nobody has its descriptor any more.
	cmd := exec.CommandContext(ctx, "/bin/sh", "-c", `exec 9>"$LOCK" && flock -n 9 && "$STACK" up --detach 8>&1 9>&9 >/dev/null 2>&1`)
	cmd.Dir, cmd.Env = b.dir, append(b.installation().Environ(), "STACK="+shared.Stack, "LOCK="+lock)
	if out, err := cmd.Output(); err != nil || ctx.Err() != nil {
		t.Fatal(err, ctx.Err(), string(out))
	}
	f, err := os.Open(lock)
	must(t, err)
	defer f.Close()
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		t.Errorf("the script's lock is taken after its end: %v", err)
	}
	b.ok(t, "down")
	b.nothingLeft(t, b.before)
}

// What a shell has set for itself is no container's: its priority, its processors, its
// limits and its umask.
func TestContainersHaveNothingOfTheirCaller(t *testing.T) {
	b := newBox(t, "probe")
	b.compose(t, `
		name: app
		services:
			web: {image: probe, command: ["on-term", "0"]}
	`)
	shell := *b
	shell.program = b.write(t, "shell", "#!/bin/sh\numask 077\nulimit -S -f 1000\nexec nice -n 7 taskset -c 0 "+shared.Stack+` "$@"`+"\n")
	must(t, os.Chmod(shell.program, 0o755))
	b.before = snap(t, b)
	shell.ok(t, "up", "--detach", "--wait")
	look := func(pid int) string {
		t.Helper()
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		must(t, err)
		_, fields, _ := strings.Cut(string(stat), ") ")
		limits, err := os.ReadFile(fmt.Sprintf("/proc/%d/limits", pid))
		must(t, err)
		var files string
		for line := range strings.Lines(string(limits)) {
			if strings.HasPrefix(line, "Max file size") {
				files = strings.Fields(line)[3]
			}
		}
		status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
		must(t, err)
		var allowed string
		for line := range strings.Lines(string(status)) {
			if rest, ok := strings.CutPrefix(line, "Cpus_allowed_list:"); ok {
				allowed = strings.TrimSpace(rest)
			}
		}
		return fmt.Sprintf("nice %s, files of %s, processors %s", strings.Fields(fields)[16], files, allowed)
	}
	want := look(os.Getpid())
	if got := look(b.look(t, "app-web-1").State.Pid); got != want {
		t.Errorf("the container has %s, and the test %s", got, want)
	}
	for _, role := range []string{"warden", "guardian", "supervisor"} {
		pid, err := b.keeper("app", role)
		must(t, err)
		if got := look(pid); got != want {
			t.Errorf("the %s has %s, and the test %s", role, got, want)
		}
	}
	b.ok(t, "down")
	b.nothingLeft(t, b.before)
}

func TestLongNames(t *testing.T) {
	b := newBox(t, "probe")
	project := strings.Repeat("long-name-", 8)[:79] + "x"
	long := *b
	long.root = filepath.Join(b.root, strings.Repeat("a", 100), strings.Repeat("b", 100))
	long.dir = filepath.Join(long.root, "app")
	must(t, os.MkdirAll(long.dir, 0o755))
	for name, b := range map[string]*box{"project": b, "project and run root": b.with("STACK_RUN_ROOT=" + long.runRoot())} {
		t.Run(name, func(t *testing.T) {
			b.compose(t, `
				services:
					web: {image: probe, command: ["on-term", "0"]}
			`)
			b.ok(t, "-p", project, "up", "--detach", "--wait")
			b.ok(t, "-p", project, "exec", "web", "/probe", "dial", "tcp", "127.0.0.1:1")
			b.ok(t, "-p", project, "down")
			b.nothingLeft(t, b.before)
		})
	}
}

func TestKeepersUnderALimitOnProcesses(t *testing.T) {
	b := newBox(t, "probe")
	b.compose(t, `
		name: app
		services:
			web: {image: probe, command: ["on-term", "0"]}
	`)
	g := newCallerGroup(t, "limited")
	g.limit(t, "pids.max", "20")
	out, err := g.sh(b, `"$STACK" up --detach --wait && "$STACK" exec web /probe dial tcp 127.0.0.1:1 && "$STACK" ps && "$STACK" down`)
	if err != nil || strings.Contains(out, "goroutine") {
		t.Error(err, out)
	}
	b.nothingLeft(t, b.before, "cgroup ")
}

func TestDeletedRunRoot(t *testing.T) {
	b := newBox(t, "probe")
	b.compose(t, `
		name: app
		services:
			web: {image: probe, command: ["on-term", "7"], restart: on-failure}
	`)
	b.ok(t, "up", "--detach")
	b.eventuallyLog(t, "web", "ready")
	// What is mounted there stays; everything else goes.
	must(t, os.RemoveAll(filepath.Join(b.runRoot(), "projects")))
	b.eventuallyKept(t, "app")
	t.Run("one chain keeps the project", func(t *testing.T) {
		eventually(t, 5*time.Second, func() error {
			n := 0
			pids, err := machine.PIDs()
			must(t, err)
			for _, pid := range pids {
				if p, err := machine.ReadProc(pid); err == nil && strings.HasPrefix(p.Cmdline, "stack: ") {
					n++
				}
			}
			if n != 3 {
				return fmt.Errorf("%d keepers", n)
			}
			return nil
		})
	})
	t.Run("the policy holds", func(t *testing.T) {
		kill(t, b.look(t, "app-web-1").State.Pid, unix.SIGTERM)
		eventually(t, 10*time.Second, func() error {
			if i := b.look(t, "app-web-1"); !i.State.Running || i.RestartCount != 1 {
				return fmt.Errorf("web is %+v after %d restarts", i.State, i.RestartCount)
			}
			return nil
		})
	})
	b.ok(t, "down")
	b.nothingLeft(t, b.before)
}

// A run root that is deleted under a running project takes names, states and pipes
// along. What runs is taken over all the same, its output too, and can be ended.
func TestRunRootIsDeletedUnderAProject(t *testing.T) {
	b := newBox(t, "busybox:latest")
	before := snap(t, b)
	b.compose(t, `
		name: app
		services:
			web: {image: busybox, command: [sh, -c, "i=0; while true; do i=$$((i+1)); echo line $$i; sleep 0.05; done"], init: true, ports: ["80"]}
	`)
	b.ok(t, "up", "--detach")
	b.eventuallyLog(t, "web", "line 3")
	pid := b.look(t, "app-web-1").State.Pid
	removeAll(b.runRoot())
	eventually(t, 20*time.Second, func() error {
		if s := b.look(t, "app-web-1").State; !s.Running || s.Pid != pid {
			return fmt.Errorf("%+v", s)
		}
		return nil
	})
	lines := strings.Count(b.ok(t, "logs", "web"), "\n")
	eventually(t, 10*time.Second, func() error {
		if n := strings.Count(b.ok(t, "logs", "web"), "\n"); n < lines+5 {
			return fmt.Errorf("%d lines, before %d", n, lines)
		}
		return nil
	})
	b.ok(t, "up", "--detach")
	if s := b.look(t, "app-web-1").State; s.Pid != pid {
		t.Errorf("up made it anew: %+v", s)
	}
	b.ok(t, "down")
	b.nothingLeft(t, before)
}

// removeAll is rm -rf, which goes on past what is mounted.
func removeAll(dir string) {
	filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			os.Remove(path)
		}
		return nil
	})
	os.RemoveAll(dir)
}
