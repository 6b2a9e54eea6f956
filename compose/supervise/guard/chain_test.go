package guard_test

import (
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
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
		buf := make([]byte, 4096)
		n, _ := conn.Read(buf)
		switch command := string(buf[:n]); {
		case command == "leave":
			// One whose guardian is gone is about to make way, and the directory its successor's.
			if n, _ := unix.Poll([]unix.PollFd{{Fd: guard.ControlFD}}, 0); n == 0 {
				os.RemoveAll(os.Getenv(guard.EnvDir)) // as a project's last supervisor does
			}
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

func start(t *testing.T) *chain { return startIn(t, t.TempDir()) }

// startIn starts a chain as a client does. The directory may be another's.
func startIn(t *testing.T, dir string) *chain {
	t.Helper()
	c := &chain{t, dir}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	os.Remove(filepath.Join(dir, guard.Socket))
	l, err := net.ListenUnix("unix", &net.UnixAddr{Net: "unix", Name: filepath.Join(dir, guard.Socket)})
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
	t.Cleanup(func() {
		for pids := c.living(); t.Failed() && len(pids) > 0; pids = c.living() {
			for _, pid := range pids {
				unix.Kill(pid, unix.SIGKILL)
			}
		}
	})
	return c
}

// ask sends a line and returns the number answered. It needs no retry: the
// socket outlives whoever listens on it. An answer that breaks off is asked again.
func (c *chain) ask(line string) int {
	c.t.Helper()
	for range 100 {
		conn, err := net.Dial("unix", filepath.Join(c.dir, guard.Socket))
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

// pid returns the process of a role. After a kill the file can name the dead one
// for a moment, though the socket answers: a supervisor that a guardian started
// just before it was killed too takes a question before it makes way.
func (c *chain) pid(role string) int {
	c.t.Helper()
	for deadline := time.Now().Add(5 * time.Second); ; time.Sleep(time.Millisecond) {
		b, err := os.ReadFile(filepath.Join(c.dir, role+".pid"))
		if err != nil {
			c.t.Fatal(err)
		}
		pid, _ := strconv.Atoi(strings.TrimSpace(string(b)))
		if _, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", pid)); err == nil {
			return pid
		}
		if time.Now().After(deadline) {
			c.t.Fatalf("the %s, %d, is dead and has no successor", role, pid)
		}
	}
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
		if conn, err := net.Dial("unix", filepath.Join(c.dir, guard.Socket)); err == nil {
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
	exe := func(pid int) string { // empty for a process that has ended
		name, _ := os.Readlink(fmt.Sprintf("/proc/%d/exe", pid))
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

// living lists the processes of chains in the directory that have not ended.
func (c *chain) living() (pids []int) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		c.t.Fatal(err)
	}
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || pid == os.Getpid() {
			continue
		}
		env, _ := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid)) // empty for a zombie
		title, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		if strings.Contains(string(env), guard.EnvDir+"="+c.dir+"\x00") && strings.HasPrefix(string(title), "stack: ") {
			pids = append(pids, pid)
		}
	}
	return pids
}

// becomes waits until so many processes of chains are there.
func (c *chain) becomes(n int) {
	c.t.Helper()
	var pids []int
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		if pids = c.living(); len(pids) == n {
			return
		}
	}
	var titles []string
	for _, pid := range pids {
		title, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		titles = append(titles, fmt.Sprintf("%d %q", pid, title))
	}
	c.t.Errorf("%d processes are there, want %d: %s", len(pids), n, strings.Join(titles, ", "))
}

// recovers waits until the three processes of a chain are there. It is false where none
// is left for seconds: the one that was spared had seen, before the others died, that it
// should end. For a moment there may be none that can be seen, since one that was just
// executed has no title.
func (c *chain) recovers() bool {
	c.t.Helper()
	for start, seen := time.Now(), time.Now(); time.Since(seen) < 3*time.Second; {
		pids := c.living()
		if time.Since(start) > 15*time.Second {
			c.t.Fatalf("%d processes are there, want 3", len(pids))
		}
		if len(pids) == 3 {
			return true
		}
		if len(pids) > 0 {
			seen = time.Now()
		}
		time.Sleep(time.Millisecond)
	}
	return false
}

// exitFile is where the status of a child is written that lost its supervisor.
func (c *chain) exitFile(pid int) string {
	c.t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		c.t.Fatal(err)
	}
	return filepath.Join(c.dir, "exits", fmt.Sprintf("%d.%s", pid, strings.Fields(string(b))[21]))
}

// exitKept waits for the status of a child.
func (c *chain) exitKept(path string) {
	c.t.Helper()
	var got []byte
	var err error
	for range 1000 {
		if got, err = os.ReadFile(path); err == nil {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	if string(got) != "42 0\n" {
		c.t.Errorf("%s holds %q, %v", path, got, err)
	}
}

// A child of a supervisor that ends with 42 when it is told to. It waits in the
// kernel, so that one which a failed test leaves behind costs nobody anything.
func (c *chain) child() (pid int, end func()) {
	c.t.Helper()
	path := filepath.Join(c.t.TempDir(), "end")
	if err := unix.Mkfifo(path, 0o600); err != nil {
		c.t.Fatal(err)
	}
	fifo, err := os.OpenFile(path, os.O_RDWR, 0) // whoever comes first need not wait
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(func() { fifo.Close() })
	pid = c.ask("child read x <" + path + "; exit 42")
	return pid, func() { fifo.WriteString("\n") }
}

func TestKilledAtAnyMoment(t *testing.T) {
	for seed := range uint64(12) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			random := rand.New(rand.NewPCG(seed, 0))
			c := start(t)
			first := c.ask("pid")
			child, end := c.child()
			if c.ask("pid") != first {
				t.Fatal("another supervisor has the child")
			}
			exit := c.exitFile(child)
			c.kill(first) // from now on it is an orphan
			for range 6 {
				// Whatever is there just now, while the last kills are being mended, but
				// for one: from all there is no way back.
				pids := c.living()
				random.Shuffle(len(pids), func(i, j int) { pids[i], pids[j] = pids[j], pids[i] })
				if len(pids) > 1 {
					for _, pid := range pids[:1+random.IntN(len(pids)-1)] {
						unix.Kill(pid, unix.SIGKILL)
					}
				}
				time.Sleep(time.Duration(random.IntN(30_000)) * time.Microsecond)
			}
			if !c.recovers() {
				t.Skip("the last one was about to end by itself")
			}
			// A child of others has outlived all who could have been its parents.
			kept := slices.Contains(c.living(), parent(child))
			end()
			if kept {
				c.exitKept(exit)
			}
			c.leave()
			c.becomes(0)
		})
	}
}

func parent(pid int) int {
	b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	_, after, _ := strings.Cut(string(b), ") ")
	ppid, _ := strconv.Atoi(strings.Fields(after + " - -")[1])
	return ppid
}

// A supervisor that leaves moves the socket aside first. Killed then, it must not
// leave a chain that nobody can reach.
func TestKilledWhileItLeaves(t *testing.T) {
	for _, tt := range []struct {
		name  string
		roles []string // killed with the supervisor
		stale bool     // a client has made a socket since, and gone away
	}{
		{"supervisor", nil, false},
		{"supervisor and guardian", []string{guard.Guardian}, false},
		{"supervisor, and a client was there", nil, true},
		{"supervisor and guardian, and a client was there", []string{guard.Guardian}, true},
		{"all but the guardian", []string{guard.Warden}, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := start(t)
			pids := []int{c.ask("pid")}
			for _, role := range tt.roles {
				pids = append(pids, c.pid(role))
			}
			socket := filepath.Join(c.dir, guard.Socket)
			if err := os.Rename(socket, filepath.Join(c.dir, guard.Leaving)); err != nil {
				t.Fatal(err)
			}
			if tt.stale {
				l, err := net.ListenUnix("unix", &net.UnixAddr{Net: "unix", Name: socket})
				if err != nil {
					t.Fatal(err)
				}
				l.SetUnlinkOnClose(false)
				l.Close()
			}
			c.kill(pids...)
			for deadline := time.Now().Add(5 * time.Second); ; time.Sleep(time.Millisecond) {
				conn, err := net.Dial("unix", socket)
				if err == nil {
					conn.Close()
					break
				}
				if time.Now().After(deadline) {
					t.Fatal(err)
				}
			}
			c.leave()
		})
	}
}

// One that lost its guardian and looks around when the chain has left must not take
// that for the death of all guards, and begin again.
func TestNobodyFollowsAChainThatLeft(t *testing.T) {
	c := start(t)
	late := c.ask("pid")
	if err := unix.Kill(late, unix.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	for stopped := false; !stopped; { // all of its threads
		stopped = true
		threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", late))
		if err != nil || len(threads) == 0 {
			t.Fatal(threads, err)
		}
		for _, thread := range threads {
			text, _ := os.ReadFile(thread)
			stopped = stopped && strings.Contains(string(text), ") T ")
		}
	}
	c.kill(c.pid(guard.Guardian))
	if now := c.ask("pid"); now == late {
		t.Fatalf("%d answers, though it is stopped", now)
	}
	c.leave()
	c.becomes(1)
	if err := unix.Kill(late, unix.SIGCONT); err != nil {
		t.Fatal(err)
	}
	c.becomes(0)
	if _, err := os.Stat(c.dir); err == nil {
		t.Error("the run directory is there again")
	}
}

func TestDeletedDirectoryIsMadeAgain(t *testing.T) {
	for _, killed := range [][]string{{""}, {"", guard.Guardian}, {"", guard.Warden}, {guard.Warden}, {guard.Guardian, guard.Warden}} {
		t.Run(strings.Join(killed, ","), func(t *testing.T) {
			c := start(t)
			first := c.ask("pid")
			child, end := c.child()
			exit := c.exitFile(child)
			var pids []int
			for _, role := range killed {
				if role == "" {
					pids = append(pids, first)
				} else {
					pids = append(pids, c.pid(role))
				}
			}
			if err := os.RemoveAll(c.dir); err != nil {
				t.Fatal(err)
			}
			c.kill(pids...)
			for range 1000 {
				if _, err := os.Stat(filepath.Join(c.dir, guard.Socket)); err == nil {
					break
				}
				time.Sleep(10 * time.Millisecond)
			}
			if again := c.ask("pid"); again == first {
				t.Error("the first supervisor answers on the new socket")
			}
			end()
			c.exitKept(exit)
			c.becomes(3)
			c.leave()
			c.becomes(0)
		})
	}
}

func TestSecondChainTakesADeletedDirectoryOver(t *testing.T) {
	c := start(t)
	first := c.ask("pid")
	child, end := c.child()
	exit := c.exitFile(child)
	if err := os.RemoveAll(c.dir); err != nil {
		t.Fatal(err)
	}
	second := startIn(t, c.dir)
	now := second.ask("pid")
	c.kill(first) // as it ends by itself when it sees the directory go
	// The first warden is left, as the child's parent.
	c.becomes(4)
	if got := second.ask("pid"); got != now {
		t.Errorf("%d answers, must be %d", got, now)
	}
	end()
	c.exitKept(exit)
	c.becomes(3)
	second.leave()
	c.becomes(0)
}
