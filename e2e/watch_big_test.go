package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// A tree of 5,000 files beside a thousand directories that are ignored.
func TestWatchBigTree(t *testing.T) {
	b := newBox(t, "probe")
	b.compose(t, `
		services:
			web:
				image: probe
				command: serve 8080
				develop:
					watch:
						- {path: src, action: sync, target: /app, ignore: [node_modules]}
	`)
	grow := func(dir string, dirs, files int, suffix string) {
		for d := range dirs {
			p := filepath.Join(b.dir, dir, fmt.Sprintf("p%d/d%d", d/25, d))
			must(t, os.MkdirAll(p, 0o755))
			for f := range files {
				must(t, os.WriteFile(filepath.Join(p, fmt.Sprint("f", f, suffix)), []byte(fmt.Sprint(d, f)), 0o644))
			}
		}
	}
	grow("src", 100, 50, ".py")
	grow("src/node_modules", 1000, 2, ".js")
	b.ok(t, "up", "-d")
	began := time.Now()
	watch := b.startWatch(t, "--no-up")
	t.Logf("ready after %v", time.Since(began))
	pid := watch.cmd.Process.Pid
	if n := watchesOf(t, pid); n > 150 {
		t.Errorf("%d watches", n)
	} else {
		t.Logf("%d watches", n)
	}
	root := b.rootOf(t, "app-web-1")
	var took []time.Duration
	for i := range 100 {
		name := fmt.Sprintf("p%d/d%d/f%d.py", (i*7%100)/25, i*7%100, i%50)
		text := fmt.Sprint("this is edit ", i)
		start := time.Now()
		must(t, os.WriteFile(filepath.Join(b.dir, "src", name), []byte(text), 0o644))
		for deadline := start.Add(soon); ; time.Sleep(100 * time.Microsecond) {
			if got, _ := os.ReadFile(filepath.Join(root, "app", name)); string(got) == text {
				break
			}
			if time.Now().After(deadline) {
				t.Fatalf("%s has not come", name)
			}
		}
		took = append(took, time.Since(start))
	}
	slices.Sort(took)
	t.Logf("from a write here to the byte there: median %v, 99 of 100 within %v", took[50], took[98])
	if took[50] > 50*time.Millisecond {
		t.Errorf("median %v", took[50])
	}

	// What is measured is that nothing happens, but for the end of the last
	// edit and what the runtime may do once.
	before := cpuOf(t, pid)
	time.Sleep(3 * time.Second)
	if used := cpuOf(t, pid) - before; used > 5*time.Millisecond {
		t.Errorf("an idle watch has used %v of a processor in three seconds", used)
	}

	// A switch of branches: git holds its lock while it writes.
	must(t, os.Mkdir(filepath.Join(b.dir, ".git"), 0o755))
	watch.end(t)
	watch = b.startWatch(t, "--no-up")
	lock := b.write(t, ".git/index.lock", "")
	for d := range 100 {
		for f := range 50 {
			b.write(t, fmt.Sprintf("src/p%d/d%d/f%d.py", d/25, d, f), "another branch")
		}
	}
	must(t, os.Remove(lock))
	watch.out.until(t, limit, "after 5000 changes")
	if out := watch.out.String(); strings.Count(out, "Syncing") != 1 {
		t.Errorf("more than one batch: %s", tail(out))
	}
	comes(t, root+"/app/p3/d99/f49.py", "another branch")
	watch.end(t)
	b.ok(t, "down")
}

// watchesOf counts a process' inotify watches, proc_pid_fdinfo(5).
func watchesOf(t *testing.T, pid int) int {
	t.Helper()
	files, err := filepath.Glob(fmt.Sprintf("/proc/%d/fdinfo/*", pid))
	must(t, err)
	n := 0
	for _, f := range files {
		text, err := os.ReadFile(f)
		if err == nil {
			n += strings.Count(string(text), "inotify wd:")
		}
	}
	return n
}

// cpuOf is the time that a process' threads were on a CPU,
// Documentation/scheduler/sched-stats.rst: in nanoseconds, where a tick of
// proc_pid_stat(5) is ten milliseconds that may have begun long before.
func cpuOf(t *testing.T, pid int) time.Duration {
	t.Helper()
	files, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", pid))
	must(t, err)
	var sum time.Duration
	for _, f := range files {
		text, err := os.ReadFile(f)
		must(t, err)
		run, err := strconv.ParseInt(strings.Fields(string(text))[0], 10, 64)
		must(t, err)
		sum += time.Duration(run)
	}
	return sum
}
