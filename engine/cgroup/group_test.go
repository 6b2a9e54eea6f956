package cgroup

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// testHierarchy is this machine's, with a parent path of this test's own.
func testHierarchy(t testing.TB) (*Hierarchy, string) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("making control groups needs root")
	}
	h, err := Detect()
	if err != nil {
		t.Fatal(err)
	}
	base := fmt.Sprintf("stack-test-%d-%x", os.Getpid(), time.Now().UnixNano()&0xfffff)
	t.Cleanup(func() {
		for _, path := range []string{base + "/project", base} {
			if err := h.RemoveEmpty(path); err != nil {
				t.Error(err)
			}
		}
		for _, root := range h.roots() {
			if _, err := os.Stat(filepath.Join(root, base)); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("left in %s: %v", root, err)
			}
		}
	})
	return h, base
}

func create(t testing.TB, h *Hierarchy, path string, r *specs.LinuxResources) *Group {
	t.Helper()
	g, warnings, err := h.Create(path, r)
	if err != nil {
		t.Fatal(err)
	}
	if len(warnings) > 0 {
		t.Log(warnings)
	}
	t.Cleanup(func() {
		if err := errors.Join(g.Kill(context.Background()), g.WaitEmpty(context.Background()), g.Delete(context.Background())); err != nil {
			t.Error(err)
		}
	})
	return g
}

// start runs a shell script in the group. It is in all hierarchies before the
// script's first line.
func start(t testing.TB, g *Group, script string) *exec.Cmd {
	t.Helper()
	e, err := g.Entry()
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	cmd := exec.Command("/bin/sh", "-c", `for f in "$@"; do echo 0 >"$f" || exit 99; done; echo in; `+script, "sh")
	for _, f := range e.Tasks {
		cmd.Args = append(cmd.Args, f.Name())
	}
	if e.Dir != nil {
		// UseCgroupFD wants a descriptor that is not O_PATH only on old kernels.
		cmd.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(e.Dir.Fd())}
	}
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 3)
	if _, err := out.Read(b); err != nil || string(b) != "in\n" {
		t.Fatalf("%q, %v", b, err)
	}
	return cmd
}

func TestLifecycle(t *testing.T) {
	h, base := testHierarchy(t)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	limit, pids := int64(64<<20), int64(50)
	g := create(t, h, base+"/project/one", &specs.LinuxResources{
		Memory: &specs.LinuxMemory{Limit: &limit}, Pids: &specs.LinuxPids{Limit: &pids},
	})
	cmd := start(t, g, "sleep 1000 & sleep 1000")
	list, err := g.Processes()
	if err != nil || !slices.Contains(list, cmd.Process.Pid) {
		t.Fatal(list, err)
	}
	for _, c := range []string{"memory", "pids"} {
		in, err := os.ReadFile(filepath.Join(g.ControllerDir(c), "cgroup.procs"))
		if err != nil || !strings.Contains(string(in), fmt.Sprint(cmd.Process.Pid)) {
			t.Errorf("%s: %q, %v", c, in, err)
		}
	}

	again, err := h.Open(base + "/project/one")
	if err != nil {
		t.Fatal(err)
	}
	if err := again.Freeze(ctx); err != nil {
		t.Fatal(err)
	}
	if frozen, err := g.Frozen(); !frozen || err != nil {
		t.Error("not frozen", err)
	}
	if err := g.Thaw(ctx); err != nil {
		t.Fatal(err)
	}
	if frozen, err := g.Frozen(); frozen || err != nil {
		t.Error("not thawed", err)
	}

	s, err := again.Stats()
	if err != nil {
		t.Fatal(err)
	}
	if s.Memory.Limit != uint64(limit) || s.Memory.Usage == 0 || s.PIDs.Limit != 50 || s.PIDs.Current < 1 || s.CPU.Total == 0 {
		t.Errorf("%+v", s)
	}

	if names, err := h.Groups(base + "/project"); err != nil || !slices.Equal(names, []string{"one"}) {
		t.Error(names, err)
	}
	if _, _, err := h.Create(base+"/project/one", nil); err == nil || !strings.Contains(err.Error(), "a process lives in it") {
		t.Error(err)
	}
	soon, stop := context.WithTimeout(ctx, 30*time.Millisecond)
	defer stop()
	if err := g.Delete(soon); err == nil || !strings.Contains(err.Error(), "cannot delete cgroup") {
		t.Error(err)
	}

	if err := g.Freeze(ctx); err != nil { // a frozen group dies too
		t.Fatal(err)
	}
	empty := make(chan error, 1)
	go func() { empty <- again.WaitEmpty(ctx) }()
	if err := g.Kill(ctx); err != nil {
		t.Fatal(err)
	}
	cmd.Wait()
	if err := <-empty; err != nil {
		t.Error(err)
	}
	if err := g.Delete(ctx); err != nil {
		t.Error(err)
	}
	if err := again.Delete(ctx); err != nil {
		t.Error("deleting twice:", err)
	}
	if _, err := h.Open(base + "/project/one"); !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
	if _, err := g.Stats(); !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
	if pids, err := g.Processes(); len(pids) > 0 || err != nil {
		t.Error(pids, err)
	}
}

// The v1 ways, without the help of a v2 hierarchy.
func TestLifecycleV1(t *testing.T) {
	h, base := testHierarchy(t)
	if len(h.V1) == 0 {
		t.Skip("this host has no v1 hierarchies")
	}
	h.Unified, h.UnifiedControllers, h.Mode = "", nil, V1
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	five := int64(5)
	one := int64(1)
	g := create(t, h, base+"/project/v1", &specs.LinuxResources{Devices: []specs.LinuxDeviceCgroup{
		{Allow: false, Access: "rwm"},
		{Allow: true, Type: "c", Major: &one, Minor: &five, Access: "rwm"},
	}})
	cmd := start(t, g, "while :; do /bin/true; done")
	if err := g.Freeze(ctx); err != nil {
		t.Fatal(err)
	}
	if frozen, err := g.Frozen(); !frozen || err != nil {
		t.Error("not frozen", err)
	}
	if err := g.Thaw(ctx); err != nil {
		t.Fatal(err)
	}
	list, err := os.ReadFile(filepath.Join(g.v1["devices"], "devices.list"))
	if string(list) != "c 1:5 rwm\n" || err != nil {
		t.Errorf("%q, %v", list, err)
	}
	empty := make(chan error, 1)
	go func() { empty <- g.WaitEmpty(ctx) }()
	if err := g.Kill(ctx); err != nil {
		t.Fatal(err)
	}
	cmd.Wait()
	if err := <-empty; err != nil {
		t.Error(err)
	}
	if err := g.Delete(ctx); err != nil {
		t.Error(err)
	}
}

// A wait that is in vain ends, and says for whom it waited.
func TestWaitsEnd(t *testing.T) {
	for name, prepare := range map[string]func(*Hierarchy){
		"as mounted": func(*Hierarchy) {},
		"v1":         func(h *Hierarchy) { h.Unified, h.UnifiedControllers, h.Mode = "", nil, V1 },
	} {
		t.Run(name, func(t *testing.T) {
			h, base := testHierarchy(t)
			if prepare(h); len(h.V1) == 0 && h.Unified == "" {
				t.Skip("this host has no v1 hierarchies")
			}
			g := create(t, h, base+"/project/stays", nil)
			cmd := start(t, g, "exec sleep 1000")
			defer cmd.Wait()
			defer cmd.Process.Kill()
			for verb, wait := range map[string]func(context.Context) error{"WaitEmpty": g.WaitEmpty, "Delete": g.Delete} {
				ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
				err := wait(ctx)
				cancel()
				want := fmt.Sprintf("process %d (sleep, sleeping)", cmd.Process.Pid)
				if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), want) {
					t.Errorf("%s: %v, want a deadline and %q", verb, err, want)
				}
			}
			// Who asks without a deadline of his own gets one.
			ctx, cancel := bounded(t.Context(), time.Millisecond)
			defer cancel()
			<-ctx.Done()
			if err := g.WaitEmpty(ctx); !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "after 1ms") {
				t.Error(err)
			}
		})
	}
}

// Nothing in here takes one of the user's inotify instances.
func TestWaitsTakeNoInotify(t *testing.T) {
	h, base := testHierarchy(t)
	g := create(t, h, base+"/project/poll", nil)
	cmd := start(t, g, "exec sleep 1000")
	done := make(chan error, 1)
	go func() { done <- g.WaitEmpty(t.Context()) }()
	if err := g.Freeze(t.Context()); err != nil {
		t.Fatal(err)
	}
	fds, _ := filepath.Glob("/proc/self/fd/*")
	for _, fd := range fds {
		if to, _ := os.Readlink(fd); strings.Contains(to, "inotify") {
			t.Errorf("%s is %s", fd, to)
		}
	}
	if err := g.Kill(t.Context()); err != nil {
		t.Fatal(err)
	}
	cmd.Wait()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// A group that is gone is nothing to kill, to thaw or to wait for.
func TestGoneGroup(t *testing.T) {
	h, base := testHierarchy(t)
	g, _, err := h.Create(base+"/project/gone", nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := g.Delete(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(g.Kill(t.Context()), g.Thaw(t.Context()), g.WaitEmpty(t.Context()), g.Delete(t.Context())); err != nil {
		t.Error(err)
	}
}

// A fork bomb dies as a whole.
func TestKillForks(t *testing.T) {
	h, base := testHierarchy(t)
	pids := int64(40)
	g := create(t, h, base+"/project/bomb", &specs.LinuxResources{Pids: &specs.LinuxPids{Limit: &pids}})
	cmd := start(t, g, "bomb() { bomb | bomb & }; bomb 2>/dev/null; sleep 1000")
	if err := g.Kill(t.Context()); err != nil {
		t.Fatal(err)
	}
	cmd.Wait()
	if err := g.WaitEmpty(t.Context()); err != nil {
		t.Fatal(err)
	}
	if list, _ := g.Processes(); len(list) > 0 {
		t.Error(list)
	}
}

func TestOOM(t *testing.T) {
	h, base := testHierarchy(t)
	if !h.Has("memory") {
		t.Skip("no memory controller")
	}
	limit := int64(16 << 20)
	g := create(t, h, base+"/project/oom", &specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: &limit, Swap: &limit}})
	if n, err := g.OOMKills(); n != 0 || err != nil {
		t.Fatal(n, err)
	}
	events := make(chan struct{})
	ctx, cancel := context.WithCancel(t.Context())
	watch := make(chan error, 1)
	go func() { watch <- g.WatchOOM(ctx, sync.OnceFunc(func() { close(events) })) }()
	cmd := start(t, g, `head -c 100m /dev/zero | tail >/dev/null`)
	select {
	case <-events:
	case <-time.After(20 * time.Second):
		t.Fatal("no event")
	}
	cmd.Wait()
	if n, err := g.OOMKills(); n != 1 || err != nil {
		t.Error(n, err)
	}
	cancel()
	if err := <-watch; err != nil {
		t.Error(err)
	}
}

// Update may need controllers that the group has not joined yet.
func TestUpdate(t *testing.T) {
	h, base := testHierarchy(t)
	limit := int64(64 << 20)
	g := create(t, h, base+"/project/update", &specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: &limit, Swap: &limit}})
	cmd := start(t, g, "sleep 1000")
	larger, quota, period := int64(128<<20), int64(50_000), uint64(100_000)
	for range 2 { // raising both memory limits, and lowering them
		warnings, err := g.Update(&specs.LinuxResources{
			Memory: &specs.LinuxMemory{Limit: &larger, Swap: &larger},
			CPU:    &specs.LinuxCPU{Quota: &quota, Period: &period, Cpus: "0"},
		})
		if err != nil || len(warnings) > 0 {
			t.Fatal(warnings, err)
		}
		s, err := g.Stats()
		if err != nil || s.Memory.Limit != uint64(larger) {
			t.Errorf("%+v, %v", s, err)
		}
		larger /= 4
	}
	procs, err := processes(g.ControllerDir("cpuset"))
	if err != nil || !slices.Contains(procs, cmd.Process.Pid) {
		t.Error(procs, err)
	}
	if _, err := g.Update(&specs.LinuxResources{CPU: &specs.LinuxCPU{Cpus: "4711"}}); err == nil || !strings.Contains(err.Error(), "the set of CPUs") {
		t.Error(err)
	}
}

// A failed creation leaves nothing; what a killed process left is replaced.
func TestCreateAgain(t *testing.T) {
	h, base := testHierarchy(t)
	if _, _, err := h.Create(base+"/project/bad", &specs.LinuxResources{CPU: &specs.LinuxCPU{Cpus: "4711"}}); err == nil {
		t.Error("no error")
	}
	if names, err := h.Groups(base + "/project"); len(names) > 0 || err != nil {
		t.Error(names, err)
	}
	g := create(t, h, base+"/project/x", nil)
	if err := os.Mkdir(filepath.Join(g.listDir(), "inner"), 0o755); err != nil {
		t.Fatal(err)
	}
	if _, _, err := h.Create(base+"/project/x", nil); err != nil {
		t.Error(err)
	}
	for _, path := range []string{"", "/", "..", "a/../.."} {
		if _, _, err := h.Create(path, nil); err == nil {
			t.Errorf("%q was created", path)
		}
	}
}

// Two projects' groups come and go under one parent.
func TestConcurrentCreate(t *testing.T) {
	h, base := testHierarchy(t)
	done := make(chan error)
	for i := range 4 {
		go func() {
			var err error
			for k := 0; k < 25 && err == nil; k++ {
				path := fmt.Sprintf("%s/project/%d-%d", base, i, k)
				var g *Group
				if g, _, err = h.Create(path, nil); err == nil {
					err = errors.Join(g.Delete(t.Context()), h.RemoveEmpty(path))
				}
			}
			done <- err
		}()
	}
	for range 4 {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}

// defaultDevices is the shape of Docker's list.
func defaultDevices() []specs.LinuxDeviceCgroup {
	n := func(v int64) *int64 { return &v }
	rules := []specs.LinuxDeviceCgroup{{Allow: false, Access: "rwm"}, {Allow: true, Type: "c", Access: "m"}, {Allow: true, Type: "b", Access: "m"}}
	for _, d := range [][2]int64{{1, 3}, {1, 5}, {1, 8}, {1, 9}, {5, 0}, {5, 1}, {5, 2}} {
		rules = append(rules, specs.LinuxDeviceCgroup{Allow: true, Type: "c", Major: n(d[0]), Minor: n(d[1]), Access: "rwm"})
	}
	return append(rules, specs.LinuxDeviceCgroup{Allow: true, Type: "c", Major: n(136), Access: "rwm"})
}

// The kernel enforces the rules: /dev/zero may be opened, /dev/full not.
func TestDevices(t *testing.T) {
	h, base := testHierarchy(t)
	for _, mode := range []string{"program", "v1"} {
		if mode == "v1" {
			if h.V1["devices"] == "" {
				continue
			}
			var err error
			if h, err = Detect(); err != nil {
				t.Fatal(err)
			}
			h.Unified = ""
		} else if h.Unified == "" {
			continue
		}
		g := create(t, h, base+"/project/devices-"+mode, &specs.LinuxResources{Devices: defaultDevices()})
		cmd := start(t, g, "true </dev/zero || exit 3; (true </dev/full) 2>/dev/null && exit 4; exit 0")
		if err := cmd.Wait(); err != nil {
			t.Errorf("%s: %v", mode, err)
		}
		if err := g.Delete(t.Context()); err != nil {
			t.Error(err)
		}
	}
}

func BenchmarkCreateJoinDelete(b *testing.B) {
	h, base := testHierarchy(b)
	limit := int64(64 << 20)
	r := &specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: &limit}, Devices: defaultDevices()}
	keep, _, err := h.Create(base+"/project/keep", r)
	if err != nil {
		b.Fatal(err)
	}
	defer keep.Delete(b.Context())
	var made, deleted, opened time.Duration
	for b.Loop() {
		t0 := time.Now()
		g, _, err := h.Create(base+"/project/x", r)
		if err != nil {
			b.Fatal(err)
		}
		t1 := time.Now()
		e, err := g.Entry()
		if err != nil {
			b.Fatal(err)
		}
		e.Close()
		t2 := time.Now()
		if err := g.Delete(b.Context()); err != nil {
			b.Fatal(err)
		}
		made, opened, deleted = made+t1.Sub(t0), opened+t2.Sub(t1), deleted+time.Since(t2)
	}
	n := float64(b.N)
	b.ReportMetric(float64(made.Microseconds())/n, "µs-create")
	b.ReportMetric(float64(opened.Microseconds())/n, "µs-open")
	b.ReportMetric(float64(deleted.Microseconds())/n, "µs-delete")
}

// BenchmarkJoin moves a thread back and forth through "tasks" of one v1
// controller and through "cgroup.procs".
func BenchmarkJoin(b *testing.B) {
	h, base := testHierarchy(b)
	g, _, err := h.Create(base+"/project/join", nil)
	if err != nil {
		b.Fatal(err)
	}
	root := h.V1["pids"]
	if root == "" {
		b.Skip("no v1 pids controller")
	}
	cmd := exec.Command("sleep", "1000")
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	pid := fmt.Sprint(cmd.Process.Pid)
	for _, file := range []string{"tasks", "cgroup.procs"} {
		b.Run(file, func(b *testing.B) {
			for b.Loop() {
				for _, dir := range []string{g.v1["pids"], root} {
					if err := writeFile(filepath.Join(dir, file), pid); err != nil {
						b.Fatal(err)
					}
				}
			}
		})
	}
	cmd.Process.Kill()
	cmd.Wait()
	g.Delete(b.Context())
}

func BenchmarkDetect(b *testing.B) {
	for b.Loop() {
		if _, err := Detect(); err != nil {
			b.Fatal(err)
		}
	}
}
