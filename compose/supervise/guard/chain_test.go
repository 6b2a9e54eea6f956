package guard_test

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/stack-run/stack/compose/supervise/guard"
)

// TestMain lets the test binary play the supervisor: it is what warden and
// guardian start again from /proc/self/exe.
func TestMain(m *testing.M) {
	if os.Getenv(guard.EnvRole) == guard.Supervisor {
		supervise()
	}
	os.Exit(m.Run())
}

// supervise answers each connection with its pid, after having done what the
// line sent to it asks for.
func supervise() {
	l, err := net.FileListener(os.NewFile(listenerFD(), "listener"))
	if err != nil {
		os.Exit(4)
	}
	go func() {
		var b [1]byte
		for {
			if n, err := unix.Read(guard.ControlFD, b[:]); n <= 0 && err != unix.EINTR {
				break
			}
		}
		l.Close() // the next one answers
		warden, _ := strconv.Atoi(os.Getenv(guard.EnvWarden))
		if guard.Deserted(warden) {
			guard.BecomeWarden("test", []string{"listener"}, []int{int(listenerFD())})
		}
		os.Exit(3)
	}()
	for {
		conn, err := l.Accept()
		if err != nil {
			select {} // it makes way
		}
		buf := make([]byte, 100)
		n, _ := conn.Read(buf)
		switch command := string(buf[:n]); {
		case command == "leave":
			os.RemoveAll(os.Getenv(guard.EnvDir)) // as a project's last supervisor does
			os.Exit(0)
		case strings.HasPrefix(command, "child "):
			cmd := exec.Command("/bin/sh", "-c", strings.TrimPrefix(command, "child "))
			if err := cmd.Start(); err != nil {
				os.Exit(6)
			}
			fmt.Fprint(conn, cmd.Process.Pid)
		case strings.HasPrefix(command, "program "):
			fd, err := unix.Open(strings.TrimPrefix(command, "program "), unix.O_PATH|unix.O_CLOEXEC, 0)
			if err != nil || unix.Sendmsg(guard.ControlFD, []byte("hold "+guard.HeldProgram), unix.UnixRights(fd), nil, 0) != nil {
				os.Exit(7)
			}
			fmt.Fprint(conn, os.Getpid())
		default:
			fmt.Fprint(conn, os.Getpid())
		}
		conn.Close()
	}
}

// listenerFD is the number in the only line of the list.
func listenerFD() uintptr {
	number, _, _ := strings.Cut(os.Getenv(guard.EnvFDs), " ")
	n, _ := strconv.Atoi(number)
	return uintptr(n)
}

type chain struct {
	t   *testing.T
	dir string
}

func start(t *testing.T) *chain {
	dir := t.TempDir()
	c := &chain{t, dir}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Net: "unix", Name: filepath.Join(dir, "s")})
	if err != nil {
		t.Fatal(err)
	}
	f, err := l.File()
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	null, err := os.OpenFile("/dev/null", os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	_, err = syscall.ForkExec("/proc/self/exe", []string{"stack: warden test"}, &syscall.ProcAttr{
		Env:   append(os.Environ(), guard.EnvRole+"=warden", guard.EnvDir+"="+dir, guard.EnvName+"=test", guard.EnvFDs+"=4 listener"),
		Files: []uintptr{null.Fd(), 1, 2, null.Fd(), f.Fd()},
		Sys:   &syscall.SysProcAttr{Setsid: true},
	})
	if err != nil {
		t.Fatal(err)
	}
	f.Close()
	l.Close()
	null.Close()
	return c
}

// ask sends a line and returns the number answered. It needs no retry: the
// socket outlives whoever listens on it. An answer that breaks off is asked again.
func (c *chain) ask(line string) int {
	c.t.Helper()
	for range 100 {
		conn, err := net.Dial("unix", filepath.Join(c.dir, "s"))
		if err != nil {
			c.t.Fatal(err)
		}
		conn.SetDeadline(time.Now().Add(10 * time.Second))
		fmt.Fprint(conn, line)
		buf := make([]byte, 100)
		n, _ := conn.Read(buf)
		conn.Close()
		if pid, err := strconv.Atoi(string(buf[:n])); err == nil {
			return pid
		}
	}
	c.t.Fatalf("no answer to %q", line)
	return 0
}

func (c *chain) pid(role string) int {
	b, err := os.ReadFile(filepath.Join(c.dir, role+".pid"))
	if err != nil {
		c.t.Fatal(err)
	}
	pid, _ := strconv.Atoi(strings.TrimSpace(string(b)))
	return pid
}

func (c *chain) kill(pids ...int) {
	var fds []unix.PollFd
	for _, pid := range pids {
		fd, err := unix.PidfdOpen(pid, 0)
		if err != nil {
			c.t.Fatal(err)
		}
		defer unix.Close(fd)
		fds = append(fds, unix.PollFd{Fd: int32(fd), Events: unix.POLLIN})
	}
	for _, pid := range pids {
		unix.Kill(pid, unix.SIGKILL)
	}
	for _, fd := range fds {
		unix.Poll([]unix.PollFd{fd}, 5000)
	}
}

// leave ends the chain and checks that all of it is gone.
func (c *chain) leave() {
	c.t.Helper()
	c.ask("pid")
	warden, err := unix.PidfdOpen(c.pid(guard.Warden), 0)
	if err != nil {
		c.t.Fatal(err)
	}
	defer unix.Close(warden)
	// One that makes way just now may get the word, and does not pass it on.
	for range 50 {
		if conn, err := net.Dial("unix", filepath.Join(c.dir, "s")); err == nil {
			fmt.Fprint(conn, "leave")
			conn.Close()
		}
		if n, _ := unix.Poll([]unix.PollFd{{Fd: int32(warden), Events: unix.POLLIN}}, 100); n == 1 {
			return
		}
	}
	c.t.Error("the warden is still there")
}

// supervises tells whether a process is a supervisor still: not gone, and not
// turned warden.
func supervises(pid int) bool {
	cmdline, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	return strings.Contains(string(cmdline), "supervisor")
}

func TestWhoeverIsKilledIsFollowed(t *testing.T) {
	tests := []struct {
		name  string
		roles []string // "" is the supervisor
	}{
		{"supervisor", []string{""}},
		{"guardian", []string{guard.Guardian}},
		{"supervisor and guardian", []string{"", guard.Guardian}},
		{"warden", []string{guard.Warden}},
		{"guardian and warden", []string{guard.Warden, guard.Guardian}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c := start(t)
			first := c.ask("pid")
			var pids []int
			for _, role := range tt.roles {
				if role == "" {
					pids = append(pids, first)
				} else {
					pids = append(pids, c.pid(role))
				}
			}
			c.kill(pids...)
			// Until then both answer.
			for deadline := time.Now().Add(5 * time.Second); supervises(first) && time.Now().Before(deadline); {
				time.Sleep(time.Millisecond)
			}
			if again := c.ask("pid"); again == first {
				t.Errorf("supervisor %d did not make way", first)
			}
			c.leave()
		})
	}
}

func TestExitStatusOfAnOrphanIsKept(t *testing.T) {
	c := start(t)
	child := c.ask("child read x </proc/self/fd/0; sleep 0.3; exit 42")
	ticks := ""
	if b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", child)); err == nil {
		ticks = strings.Fields(string(b))[21]
	}
	fd, err := unix.PidfdOpen(child, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	c.kill(c.ask("pid"), c.pid(guard.Guardian))
	unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 5000)
	path := filepath.Join(c.dir, "exits", fmt.Sprintf("%d.%s", child, ticks))
	var got []byte
	for range 500 {
		if got, err = os.ReadFile(path); err == nil {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	if string(got) != "42 0\n" {
		t.Errorf("%s holds %q, %v", path, got, err)
	}
	c.leave()
}

func TestNewChildrenRunTheHeldProgram(t *testing.T) {
	c := start(t)
	other := filepath.Join(t.TempDir(), "other")
	program, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(other, program, 0o755); err != nil {
		t.Fatal(err)
	}
	exe := func(pid int) string {
		name, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", pid))
		if err != nil {
			t.Fatal(err)
		}
		return name
	}
	own := exe(c.ask("pid"))
	for path, want := range map[string]string{other: other, "/dev/null": own} {
		old := c.ask("program " + path)
		c.kill(old)
		now := c.ask("pid")
		if got := exe(now); got != want || now == old {
			t.Errorf("with %s, %d follows %d and runs %s, want %s", path, now, old, got, want)
		}
	}
	got := ""
	for range 20 { // until the warden has heard of it before its guardian dies
		c.ask("program " + other)
		c.kill(c.ask("pid"), c.pid(guard.Guardian))
		c.ask("pid")
		if got = exe(c.pid(guard.Guardian)); got == other {
			break
		}
	}
	if got != other {
		t.Errorf("the guardian runs %s", got)
	}
	c.leave()
}
