package runtime

import (
	"bytes"
	"context"
	"debug/elf"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/stack-run/stack/engine/seccomp"
)

// hostBinary is what this test's binary prints when it runs where it should not.
const hostBinary = "the host's binary runs"

// noStep forbids what the step needs.
var noStep = &seccomp.Filter{Program: []unix.SockFilter{
	{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: 0},
	{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: unix.SYS_EXECVEAT, Jf: 1},
	{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ERRNO | uint32(unix.EPERM)},
	{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ALLOW},
}}

// init stands for the program of ours: run by a container, it gives itself away.
func init() {
	if len(os.Args) > 1 && os.Args[len(os.Args)-1] == "run-me" {
		os.Stdout.WriteString(hostBinary + "\n")
		os.Exit(0)
	}
}

// Whatever way a command leads to /proc/self/exe, that is not this program.
func TestCommandsDoNotReachThisBinary(t *testing.T) {
	r := newRootfs(t)
	script := func(name, content string) {
		check(t, os.WriteFile(filepath.Join(r.lower, name), []byte(content), 0o755))
	}
	script("script", "#!/proc/self/exe\n")
	script("twice", "#!/script\n")
	script("thread", "#!/proc/thread-self/exe run-me\n")
	script("one", "#!/proc/1/exe\n")
	check(t, os.Symlink("/proc/self/exe", filepath.Join(r.lower, "link")))
	check(t, os.Symlink("/proc/self/exe", filepath.Join(r.lower, "bin/self")))
	c := r.start(t, testSpec("sleep", "1000"))
	for _, command := range []string{"/script", "/twice", "/thread", "/link", "self", "/proc/self/exe"} {
		for name, change := range map[string]func(*Config){
			"first process": func(*Config) {}, "under init": func(c *Config) { c.Init = true },
		} {
			s := testSpec(command, "run-me")
			if out, st := r.output(t, s, change); st.Code == 0 || out != "" {
				t.Errorf("%s as %s: %q, %+v", command, name, out, st)
			}
		}
		if out, st := execOutput(t, execConfig(c, command, "run-me")); st.Code == 0 || out != "" {
			t.Errorf("%s executed: %q, %+v", command, out, st)
		}
	}
	// The attack works where the step cannot be used: this test would see it. With a
	// race detector this binary needs a loader, which the container does not have.
	static := true
	own, err := elf.Open("/proc/self/exe")
	check(t, err)
	defer own.Close()
	for _, p := range own.Progs {
		static = static && p.Type != elf.PT_INTERP
	}
	if !static {
		t.Log("this binary is not static: the attack could not be tried without the step")
	} else if out, _ := r.output(t, testSpec("/script", "run-me"), func(c *Config) { c.Seccomp, c.Warn = noStep, nil }); !strings.Contains(out, hostBinary) {
		t.Errorf("without the step: %q", out)
	}
	// As a user, with the default filter.
	for _, command := range []string{"/script", "/link"} {
		cfg := execConfig(c, command, "run-me")
		cfg.Process.User.UID, cfg.Process.User.GID = 1000, 1000
		var err error
		cfg.Profile, err = seccomp.Default(dockerCaps)
		check(t, err)
		if out, st := execOutput(t, cfg); st.Code == 0 || out != "" {
			t.Errorf("%s executed as a user: %q, %+v", command, out, st)
		}
	}
}

// The programs in memory can be read from inside, and not changed.
func TestStepIsSealed(t *testing.T) {
	f, err := stepFile()
	check(t, err)
	if _, err := f.WriteAt([]byte("x"), 100); !errors.Is(err, unix.EPERM) {
		t.Errorf("writing: %v", err)
	}
	if w, err := os.OpenFile("/proc/self/fd/"+strconv.Itoa(int(f.Fd())), os.O_RDWR, 0); err == nil {
		if _, err := w.WriteAt([]byte("x"), 100); !errors.Is(err, unix.EPERM) {
			t.Errorf("writing through another descriptor: %v", err)
		}
		w.Close()
	}
	if err := f.Truncate(0); !errors.Is(err, unix.EPERM) {
		t.Errorf("truncating: %v", err)
	}
}

// The step finds, refuses and explains as execution in the child does.
func TestStepReportsAsADirectExecution(t *testing.T) {
	r := newRootfs(t)
	for name, mode := range map[string]os.FileMode{"notexec": 0o644, "noent": 0o755, "garbage": 0o755} {
		content := map[string]string{"noent": "#!/no/such/interpreter\n", "garbage": "\x01\x02\x03"}[name]
		check(t, os.WriteFile(filepath.Join(r.lower, name), []byte(content), mode))
	}
	for _, command := range []string{"/notexec", "notexec", "/noent", "/garbage", "/nowhere", "nowhere", "/etc", "/etc/passwd/x"} {
		s := testSpec(command)
		s.Process.Env = []string{"PATH=/nowhere:/:/bin"}
		with := r.fails(t, s)
		var warnings []string
		direct := r.fails(t, s, func(c *Config) {
			c.Seccomp = noStep
			c.Warn = func(w string) { warnings = append(warnings, w) }
		})
		var a, b *CommandError
		if !errors.As(with, &a) || !errors.As(direct, &b) || a.ExitCode != b.ExitCode || a.Error() != b.Error() {
			t.Errorf("%s: %v with the step, %v without", command, with, direct)
		}
		if len(warnings) != 1 || !strings.Contains(warnings[0], "execveat") {
			t.Errorf("%s: warnings %q", command, warnings)
		}
	}
	// Arguments pass through unchanged, empty ones too.
	s := testSpec("sh", "-c", `for a; do printf '<%s>' "$a"; done; ls /proc/self/fd | wc -l`, "", "", "a b", "-- STEP=3", "")
	if out, _ := r.output(t, s); !strings.HasPrefix(out, "<><a b><-- STEP=3><>") {
		t.Errorf("%q", out)
	}
}

// A process that does not get as far as its command is asked about, and ends.
func TestStalledExec(t *testing.T) {
	r := newRootfs(t)
	c := r.start(t, testSpec("sleep", "1000"))
	cfg := execConfig(c, "sleep", "1000")
	blocked := errors.New("not now")
	var pid int
	loosened := false
	cfg.Created = func(p *Process) error {
		pid = p.PID
		return unix.Kill(p.PID, unix.SIGSTOP)
	}
	cfg.Stalled = func(*Process) error { return blocked }
	cfg.Loosen = func(*Process) { loosened = true }
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if _, err := Exec(ctx, cfg); !errors.Is(err, blocked) {
		t.Fatal(err)
	}
	if _, err := ReadStat(pid); !errors.Is(err, ErrGone) || !loosened {
		t.Errorf("process %d: %v; loosened: %v", pid, err, loosened)
	}
}

// After Close nothing of a process can be reached, and nothing goes wrong.
func TestUseAfterClose(t *testing.T) {
	r := newRootfs(t)
	p := r.start(t, testSpec("sleep", "1000"))
	other, err := Adopt(p.PID, p.StartTicks)
	check(t, err)
	waited := make(chan error, 1)
	go func() { _, err := other.Wait(); waited <- err }()
	done := make(chan error, 8)
	for range cap(done) {
		go func() { done <- errors.Join(ignoreGone(other.Signal(0)), other.Close()) }()
	}
	for range cap(done) {
		check(t, <-done)
	}
	if err := <-waited; !errors.Is(err, os.ErrClosed) {
		t.Errorf("Wait: %v", err)
	}
	if err := other.Signal(unix.SIGKILL); !errors.Is(err, ErrGone) {
		t.Errorf("Signal: %v", err)
	}
	if _, err := other.Wait(); !errors.Is(err, os.ErrClosed) {
		t.Errorf("Wait: %v", err)
	}
	gone := &Process{PID: p.PID}
	if err := gone.Close(); err != nil {
		t.Error(err)
	}
	if _, err := gone.Wait(); !errors.Is(err, os.ErrClosed) {
		t.Error(err)
	}
	if err := gone.Signal(unix.SIGKILL); !errors.Is(err, ErrGone) {
		t.Error(err)
	}
}

func ignoreGone(err error) error {
	if errors.Is(err, ErrGone) {
		return nil
	}
	return err
}

func TestStepOps(t *testing.T) {
	for op, want := range map[int32][2]any{stepFailed: {0, false}, stepPresent: {0, true}, stepFailed - 2: {1, false}, stepPresent - 2: {1, true}, stepFailed - 40: {20, false}} {
		if i, present, ok := stepOp(op); !ok || i != want[0] || present != want[1] {
			t.Errorf("%d: %d, %v, %v", op, i, present, ok)
		}
	}
	for _, op := range []int32{recordReady, stepNone, 0, 5} {
		if _, _, ok := stepOp(op); ok {
			t.Errorf("%d is a step's", op)
		}
	}
	if b := program64(stepText()); !bytes.HasPrefix(b, []byte("\x7fELF")) || len(b) > 1024 {
		t.Errorf("a program of %d bytes", len(b))
	}
}
