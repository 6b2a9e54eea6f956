package build

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/moby/buildkit/client"
	"golang.org/x/sys/unix"

	"github.com/stack-run/stack/engine/build/request"
	"github.com/stack-run/stack/engine/cgroup"
	"github.com/stack-run/stack/internal/lock"
	"github.com/stack-run/stack/internal/sock"
)

// ReadyFD is the descriptor on which a daemon that Dial starts says that it is
// ready, or why it cannot be.
const ReadyFD = 3

// IsolatedFlag tells "stack-builder daemon" that it was started in namespaces of
// its own.
const IsolatedFlag = "--isolated"

// Dial connects to the builder's daemon and starts it if there is none. As long
// as the client is open the daemon stays.
func Dial(ctx context.Context, o Options) (*client.Client, error) {
	c, err := dial(ctx, o)
	if err != nil {
		return nil, fmt.Errorf("cannot reach the builder: %w", err)
	}
	return c, nil
}

func dial(ctx context.Context, o Options) (*client.Client, error) {
	dir := request.Dir(o.RunRoot)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	// While this is held the daemon does not leave.
	use, err := lock.Shared(ctx, filepath.Join(dir, "use"))
	if err != nil {
		return nil, err
	}
	defer use.Unlock()
	if c, err := connect(ctx, o.RunRoot); err == nil || !isAbsent(err) {
		return c, err
	}
	start, err := lock.Exclusive(ctx, filepath.Join(dir, "start"))
	if err != nil {
		return nil, err
	}
	defer start.Unlock()
	if c, err := connect(ctx, o.RunRoot); err == nil || !isAbsent(err) {
		return c, err // another process started it meanwhile
	}
	if err := startDaemon(ctx, o); err != nil {
		return nil, err
	}
	return connect(ctx, o.RunRoot)
}

// isAbsent tells whether err says that nobody serves the socket.
func isAbsent(err error) bool {
	return errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, os.ErrNotExist)
}

// connect connects to a living daemon. It returns once the daemon has answered,
// so that from then on the connection keeps it.
func connect(ctx context.Context, runRoot string) (*client.Client, error) {
	path := request.Socket(runRoot)
	probe, err := sock.Dial(ctx, path)
	if err != nil {
		return nil, err
	}
	defer probe.Close()
	// The address says what a message calls it, and the dialer where it is.
	c, err := client.New(ctx, "unix://"+path, client.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
		return sock.Dial(ctx, path)
	}))
	if err != nil {
		return nil, err
	}
	if _, err := c.Info(ctx); err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

// startDaemon starts a daemon and waits until it is ready. It is started in a
// pid and a mount namespace, so that its end is that of its containers and
// mounts, and in a session of its own, so that it outlives this one.
func startDaemon(ctx context.Context, o Options) error {
	log, err := openLog(filepath.Join(request.Dir(o.RunRoot), "log"))
	if err != nil {
		return err
	}
	defer log.Close()
	ready, tell, err := os.Pipe()
	if err != nil {
		return err
	}
	defer ready.Close()
	null, err := os.Open(os.DevNull)
	if err != nil {
		tell.Close()
		return err
	}
	defer null.Close()
	args := []string{programName, "daemon", IsolatedFlag}
	if o.Idle != 0 {
		args = append(args, "--idle", o.Idle.String())
	}
	pid, err := startApart(o, args, []uintptr{null.Fd(), log.Fd(), log.Fd(), tell.Fd()})
	tell.Close()
	if err != nil {
		return fmt.Errorf("cannot start %s: %w", o.Program, err)
	}
	p, err := os.FindProcess(pid)
	if err != nil {
		return err
	}
	exited := make(chan *os.ProcessState, 1)
	go func() {
		state, _ := p.Wait() // reaps it should it leave before this process does
		exited <- state
	}()
	return awaitReady(ctx, exited, ready, log.Name())
}

// GroupsVar names the control groups that the daemon removes at its end.
const GroupsVar = "STACK_BUILDER_GROUPS"

// daemonThreads is how many threads the daemon needs room for.
const daemonThreads = 64

// startApart starts the daemon in control groups of its own, see cgroup.Shelter.
func startApart(o Options, args []string, files []uintptr) (pid int, err error) {
	sum := sha256.Sum256([]byte(request.Dir(o.RunRoot)))
	// What cannot be left, the daemon stays in: the next build starts another.
	shelter, _ := cgroup.NewShelter(fmt.Sprintf("stack-builder-%x", sum[:3]))
	defer shelter.Close()
	if err = shelter.Room(daemonThreads); err == nil {
		pid, err = shelter.Start(o.Program, args, &syscall.ProcAttr{
			Dir: "/", Env: append(environ(o), GroupsVar+"="+strings.Join(shelter.Groups(), "\n")), Files: files, Sys: Isolation(),
		})
	}
	if err != nil {
		cgroup.RemoveGroups(shelter.Groups())
	}
	return pid, err
}

// Isolation is how the daemon's process is started.
func Isolation() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setsid: true, Cloneflags: unix.CLONE_NEWPID | unix.CLONE_NEWNS}
}

// environ is this process's environment with the roots meant.
func environ(o Options) []string {
	var env []string
	for _, kv := range os.Environ() {
		if !strings.HasPrefix(kv, "STACK_DATA_ROOT=") && !strings.HasPrefix(kv, "STACK_RUN_ROOT=") {
			env = append(env, kv)
		}
	}
	return append(env, "STACK_DATA_ROOT="+o.DataRoot, "STACK_RUN_ROOT="+o.RunRoot)
}

// awaitReady waits for the daemon's first words: "ready", or an error.
func awaitReady(ctx context.Context, exited <-chan *os.ProcessState, ready *os.File, log string) error {
	stop := context.AfterFunc(ctx, func() { ready.Close() })
	defer stop()
	said, err := io.ReadAll(io.LimitReader(ready, 64<<10))
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if err != nil {
		return err
	}
	words := strings.TrimSpace(string(said))
	if words == "ready" {
		return nil
	}
	if words == "" {
		words = fmt.Sprintf("it ended with %v; its last words were: %s", <-exited, lastWords(log))
	}
	return fmt.Errorf("the daemon did not start: %s", words)
}

// maxLog is the size in bytes from which a log is started anew.
const maxLog = 1 << 20

func openLog(path string) (*os.File, error) {
	flags := os.O_CREATE | os.O_WRONLY | os.O_APPEND
	if fi, err := os.Stat(path); err == nil && fi.Size() > maxLog {
		flags |= os.O_TRUNC
	}
	return os.OpenFile(path, flags, 0o600)
}

// lastWords returns the end of the log.
func lastWords(path string) string {
	data, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	lines := strings.Split(strings.TrimSpace(string(data)), "\n")
	return strings.Join(lines[max(0, len(lines)-5):], "\n")
}
