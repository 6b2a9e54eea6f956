package runtime

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	goruntime "runtime"
	"strings"
	"sync"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/stack-run/stack/engine/seccomp"
)

func execConfig(target *Process, args ...string) *ExecConfig {
	return &ExecConfig{Target: target.PID, StartTicks: target.StartTicks, Process: testSpec(args...).Process}
}

// execOutput runs a process in a container to its end.
func execOutput(t testing.TB, cfg *ExecConfig) (string, ExitStatus) {
	t.Helper()
	out, w := pipe(t)
	defer out.Close()
	defer w.Close()
	cfg.Stdout, cfg.Stderr = w, w
	p, err := Exec(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	w.Close()
	b, err := io.ReadAll(out)
	check(t, err)
	st, err := p.Wait()
	check(t, err)
	return string(b), st
}

func TestExec(t *testing.T) {
	r := newRootfs(t)
	s := testSpec("sleep", "1000")
	s.Mounts = append(s.Mounts, specs.Mount{Destination: "/only/inside", Type: "tmpfs", Source: "tmpfs"})
	c := r.start(t, s)

	cfg := execConfig(c, "sh", "-c", `hostname; cat /proc/1/comm; ls -d /only/inside; pwd; ls /proc/self/fd | wc -l; readlink /proc/self/fd/0
for n in mnt pid ipc uts net cgroup; do [ $(readlink /proc/1/ns/$n) = $(readlink /proc/self/ns/$n) ] || echo $n differs; done
cat /proc/self/oom_score_adj
`+status("Uid", "CapEff", "CapBnd", "NoNewPrivs", "Seccomp")+"exit 3")
	cfg.Process.Cwd = "/tmp"
	cfg.Process.NoNewPrivileges = true
	var err error
	cfg.Profile, err = seccomp.Default(dockerCaps)
	check(t, err)
	out, st := execOutput(t, cfg)
	expect(t, out, "testbox\nsleep\n/only/inside\n/tmp\n4\n/dev/null\n0\nUid: 0 0 0 0\nCapEff: 00000000a80425fb\nCapBnd: 00000000a80425fb\nNoNewPrivs: 1\nSeccomp: 2\n")
	if st.Code != 3 {
		t.Error(st)
	}

	cfg = execConfig(c, "sh", "-c", "id -u; id -g; echo $HOME; tty || echo no tty")
	cfg.Process.User = specs.User{UID: 1000, GID: 5}
	cfg.Process.Env = append(cfg.Process.Env, "HOME=/home/x")
	out, _ = execOutput(t, cfg)
	expect(t, out, "1000\n5\n/home/x\nnot a tty\nno tty\n")

	for want, change := range map[string]func(*ExecConfig){
		`exec: "nonsense": executable file not found in $PATH`:                       func(c *ExecConfig) { c.Process.Args = []string{"nonsense"} },
		`cannot change to the working directory /nowhere: no such file or directory`: func(c *ExecConfig) { c.Process.Cwd = "/nowhere" },
		`the process is gone: pid `:                                                  func(c *ExecConfig) { c.StartTicks++ },
		`the process is gone: pid 0`:                                                 func(c *ExecConfig) { c.Target = 0 },
	} {
		cfg := execConfig(c, "true")
		change(cfg)
		if _, err := Exec(t.Context(), cfg); err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("got %v, want %s", err, want)
		}
	}

	c.Signal(unix.SIGKILL)
	c.Wait()
	if _, err := Exec(t.Context(), execConfig(c, "true")); !errors.Is(err, ErrGone) {
		t.Error(err)
	}
	noZombies(t)
}

func TestExecInATerminal(t *testing.T) {
	r := newRootfs(t)
	c := r.start(t, testSpec("sleep", "1000"))
	cfg := execConfig(c, "sh", "-c", "tty; stty size; ls -ln /dev/pts/0 | cut -c1-10; read x; echo got $x > /dev/tty; exit 4")
	cfg.Process.Terminal = true
	cfg.Process.ConsoleSize = &specs.Box{Height: 40, Width: 100}
	cfg.Process.User.UID = 1000
	p, err := Exec(t.Context(), cfg)
	check(t, err)
	defer p.Close()
	defer p.Console.Close()
	io.WriteString(p.Console, "hello\n")
	b, err := io.ReadAll(p.Console)
	if !errors.Is(err, unix.EIO) { // what a master reads after the last slave is closed
		t.Error(err)
	}
	out := strings.ReplaceAll(string(b), "\r", "")
	out = strings.Replace(out, "hello\n", "", 1) // the echo comes whenever
	expect(t, out, "/dev/pts/0\n40 100\ncrw--w----\ngot hello\n")
	if st, _ := p.Wait(); st.Code != 4 {
		t.Error(st)
	}
}

func TestExecDoesNotTrustTheContainersDevices(t *testing.T) {
	r := newRootfs(t)
	ready, w := pipe(t)
	c := r.start(t, testSpec("sh", "-c", "rm /dev/null; mkfifo /dev/null; echo; exec sleep 1000"), func(c *Config) { c.Stdout = w })
	ready.Read(make([]byte, 1))
	_, err := Exec(t.Context(), execConfig(c, "true"))
	if err == nil || err.Error() != "cannot use /dev/null of the container: it is not the device 1:3" {
		t.Error(err)
	}
}

// The container's processes must not be able to look into a process on its way
// into the container, nor see descriptors of the host in it.
func TestWorkingDirectoryCannotBeAnInheritedDescriptor(t *testing.T) {
	r := newRootfs(t)
	dir, err := os.Open("/")
	check(t, err)
	defer dir.Close()
	for fd := 3; fd < 40; fd++ {
		s := testSpec("ls")
		s.Process.Cwd = fmt.Sprintf("/proc/self/fd/%d", fd)
		root := r.mount(t)
		p, err := Start(t.Context(), &Config{Spec: s, RootFS: root})
		root.Close()
		if err == nil {
			p.Wait()
			p.Close()
			t.Errorf("working directory %s works", s.Process.Cwd)
		}
	}
}

func TestWaitHoldsNoThread(t *testing.T) {
	r := newRootfs(t)
	const n = 50
	var done sync.WaitGroup
	procs := make([]*Process, n)
	codes := make([]int, n)
	rd, w := pipe(t)
	for i := range procs {
		s := testSpec("sh", "-c", fmt.Sprintf("read x; exit %d", i))
		s.Linux.Namespaces = s.Linux.Namespaces[:4]
		procs[i] = r.start(t, s, func(c *Config) { c.Stdin = rd })
		done.Go(func() {
			st, err := procs[i].Wait()
			if err != nil {
				t.Error(err)
			}
			codes[i] = st.Code
		})
	}
	if threads := len(tasks(t)); threads > 25 {
		t.Errorf("%d threads wait for %d processes", threads, n)
	}
	rd.Close()
	w.Close()
	done.Wait()
	for i, code := range codes {
		if code != i && code != 1 {
			t.Errorf("process %d: code %d", i, code)
		}
	}
	noZombies(t)
}

func TestWaitDecodes(t *testing.T) {
	r := newRootfs(t)
	for script, want := range map[string]ExitStatus{
		"exit 0": {}, "exit 255": {Code: 255}, "exit 137": {Code: 137},
	} {
		if _, st := r.output(t, testSpec("sh", "-c", script)); st != want {
			t.Errorf("%s: %+v", script, st)
		}
	}
	p := r.start(t, testSpec("sleep", "1000"))
	check(t, p.Signal(unix.SIGKILL))
	if st, err := p.Wait(); err != nil || st != (ExitStatus{Code: 137, Signal: unix.SIGKILL}) {
		t.Error(st, err)
	}
	if err := p.Signal(unix.SIGTERM); !errors.Is(err, ErrGone) {
		t.Error(err)
	}
	// A closed process ends a wait.
	p = r.start(t, testSpec("sleep", "1000"))
	q, err := Adopt(p.PID, p.StartTicks)
	check(t, err)
	ended := make(chan error)
	go func() { _, err := q.Wait(); ended <- err }()
	goruntime.Gosched()
	q.Close()
	if err := <-ended; !errors.Is(err, os.ErrClosed) {
		t.Error(err)
	}
}

// foreignChild starts a process whose parent is a shell; closing stop ends it.
func foreignChild(t *testing.T, script string) (pid int, stop io.Closer, parent *exec.Cmd) {
	t.Helper()
	cmd := exec.Command("sh", "-c", "sh -c '"+script+"' & echo $!; wait; read x")
	in, err := cmd.StdinPipe()
	check(t, err)
	out, err := cmd.StdoutPipe()
	check(t, err)
	check(t, cmd.Start())
	t.Cleanup(func() { in.Close(); cmd.Wait() })
	_, err = fmt.Fscan(out, &pid)
	check(t, err)
	return pid, in, cmd
}

func TestAdoptedProcess(t *testing.T) {
	fifo := filepath.Join(t.TempDir(), "fifo")
	check(t, unix.Mkfifo(fifo, 0o600))
	pid, _, _ := foreignChild(t, "read x < "+fifo+"; exit 42")
	p, err := Adopt(pid, 0)
	check(t, err)
	defer p.Close()
	if _, err := Adopt(pid, p.StartTicks+1); !errors.Is(err, ErrGone) {
		t.Error(err)
	}
	if _, err := Adopt(1<<22+5, 0); !errors.Is(err, ErrGone) {
		t.Error(err)
	}
	pin := filepath.Join(t.TempDir(), "pin")
	pinned := os.Getuid() == 0 && pinSupported(t.TempDir())
	if pinned {
		check(t, p.Pin(pin))
		defer Unpin(pin)
		if _, exited, err := ReadPin(pin); exited || err != nil {
			t.Error(exited, err)
		}
	}
	check(t, os.WriteFile(fifo, []byte("\n"), 0))
	st, err := p.Wait()
	switch {
	case err == nil && st.Code != 42:
		t.Error(st)
	case err != nil && (pinned || !errors.Is(err, ErrStatusUnknown)):
		t.Error(err)
	}
	if !pinned {
		t.Skip("this kernel cannot pin exit statuses")
	}
	st, exited, err := ReadPin(pin)
	if err != nil || !exited || st.Code != 42 {
		t.Error(st, exited, err)
	}
	check(t, Unpin(pin))
	check(t, Unpin(pin))
	if _, _, err := ReadPin(pin); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
}

func TestPinOutlivesEverybody(t *testing.T) {
	r := newRootfs(t)
	if !pinSupported(r.dir) {
		t.Skip("this kernel cannot pin exit statuses")
	}
	pin := filepath.Join(r.dir, "pin")
	p := r.start(t, testSpec("sh", "-c", "kill -9 $$; exit 3"), func(c *Config) {
		c.Created = func(p *Process) error { return p.Pin(pin) }
		c.Init = true
	})
	p.Wait()
	p.Close()
	st, exited, err := ReadPin(pin)
	if err != nil || !exited || st.Code != 137 {
		t.Error(st, exited, err)
	}
	check(t, Unpin(pin))
}

func TestCatchesSignal(t *testing.T) {
	r := newRootfs(t)
	for script, want := range map[string][2]bool{
		"trap 'exit' TERM; echo; read x": {true, false},
		"trap '' TERM; echo; read x":     {false, true},
		"echo; read x":                   {false, false},
	} {
		in, keep := pipe(t)
		out, w := pipe(t)
		p := r.start(t, testSpec("sh", "-c", script), func(c *Config) { c.Stdin, c.Stdout = in, w })
		out.Read(make([]byte, 1))
		caught, ignored, err := CatchesSignal(p.PID, unix.SIGTERM)
		if err != nil || caught != want[0] || ignored != want[1] {
			t.Errorf("%q: caught %v, ignored %v, %v", script, caught, ignored, err)
		}
		_ = keep
	}
	if _, _, err := CatchesSignal(1<<22+5, unix.SIGTERM); !errors.Is(err, ErrGone) {
		t.Error(err)
	}
}

// A wrong fork shows here: many at once, from several threads, while the garbage
// collector runs all the time and memory is dirty.
func TestParallelStarts(t *testing.T) {
	r := newRootfs(t)
	before, mounts := fdCount(t), r.mountCount(t)
	stop := make(chan struct{})
	var churn sync.WaitGroup
	for range 2 {
		churn.Go(func() {
			var keep [64][]byte
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				default:
				}
				keep[i%64] = make([]byte, 1<<(i%17))
				if i%1000 == 0 {
					goruntime.GC()
				}
			}
		})
	}
	filter, err := seccomp.Default(dockerCaps)
	check(t, err)
	target := r.start(t, testSpec("sleep", "1000"))
	var wg sync.WaitGroup
	for worker := range 8 {
		wg.Go(func() {
			for i := range 13 {
				s := testSpec("sh", "-c", "cat /proc/self/cmdline | wc -c; exit 7")
				s.Linux.Namespaces = s.Linux.Namespaces[:4] // a network namespace is slow to go
				s.Linux.Seccomp = filter
				out, st := r.output(t, s, func(c *Config) { c.Init = i%2 == 0 })
				if st.Code != 7 || !strings.HasPrefix(out, "23\n") {
					t.Errorf("worker %d: %q %v", worker, out, st)
				}
				out, st = execOutput(t, execConfig(target, "sh", "-c", "echo $0; exit 9"))
				if st.Code != 9 || out != "sh\n" {
					t.Errorf("worker %d: exec %q %v", worker, out, st)
				}
			}
		})
	}
	wg.Wait()
	close(stop)
	churn.Wait()
	target.Signal(unix.SIGKILL)
	target.Wait()
	target.Close()
	noZombies(t)
	if after := r.mountCount(t); after != mounts {
		t.Errorf("%d mounts before, %d after", mounts, after)
	}
	goruntime.GC()
	if after := fdCount(t); after > before+2 {
		t.Errorf("%d descriptors before, %d after", before, after)
	}
	for _, task := range tasks(t) {
		blocked, err := os.ReadFile("/proc/self/task/" + task + "/status")
		if err != nil {
			continue
		}
		// All but SIGKILL and SIGSTOP; Go itself has a thread that blocks most.
		if m, err := statusMask(blocked, "SigBlk"); err != nil || m == ^uint64(1<<(unix.SIGKILL-1)|1<<(unix.SIGSTOP-1)) {
			t.Errorf("thread %s blocks signals %x", task, m)
		}
	}
}

// mountCount counts the mounts of this root file system: other tests of the
// machine mount and unmount meanwhile.
func (r *rootfs) mountCount(t testing.TB) (n int) {
	b, err := os.ReadFile("/proc/self/mountinfo")
	check(t, err)
	for line := range strings.Lines(string(b)) {
		if strings.Contains(line, r.dir+"/") {
			n++
		}
	}
	return n
}

// pinSupported reports whether the kernel can keep exit statuses at a path.
func pinSupported(dir string) bool {
	f, err := os.CreateTemp(dir, ".pin-")
	if err != nil {
		return false
	}
	f.Close()
	path := f.Name()
	defer os.Remove(path)
	self, err := unix.PidfdOpen(os.Getpid(), 0)
	if err != nil {
		return false
	}
	defer unix.Close(self)
	if _, _, err := pidfdExit(self); err != nil {
		return false
	}
	if err := bindPidfd(self, path); err != nil {
		return false
	}
	unix.Unmount(path, unix.MNT_DETACH)
	return true
}
