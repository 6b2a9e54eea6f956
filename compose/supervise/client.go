package supervise

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/stack-run/stack/compose/apply"
	"github.com/stack-run/stack/compose/supervise/guard"
)

// RemoteError is what a supervisor answered.
type RemoteError struct {
	Message  string
	ExitCode int
}

func (e *RemoteError) Error() string { return e.Message }

// Client talks to the supervisor of one project and starts it when needed.
type Client struct {
	Project string
	// Dir is the project's run directory.
	Dir string
	// Env is the environment of a supervisor that has to be started.
	Env []string
}

// ErrLost says that a supervisor ended before it gave its answer.
var ErrLost = errors.New("lost the supervisor")

// errNotBegun says that the connection ended before the request was begun.
var errNotBegun = errors.New("the supervisor left before it began")

// Call sends a request and reads its answer: events go to progress, the result,
// if wanted, is decoded into result.
func (c *Client) Call(ctx context.Context, verb string, body any, result any, progress func(apply.Event)) error {
	payload, err := json.Marshal(body)
	if err != nil {
		return err
	}
	c.replaceOld(ctx)
	for {
		err := c.call(ctx, verb, payload, result, progress)
		if !errors.Is(err, errNotBegun) || ctx.Err() != nil {
			return err
		}
	}
}

func (c *Client) call(ctx context.Context, verb string, payload []byte, result any, progress func(apply.Event)) error {
	conn, err := c.connect(ctx)
	if err != nil {
		return err
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://stack/v1/"+verb, bytes.NewReader(payload))
	if err != nil {
		return err
	}
	req.Close = true
	if err := req.Write(conn); err != nil {
		return errNotBegun
	}
	resp, err := http.ReadResponse(bufio.NewReader(conn), req)
	if err != nil {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		return errNotBegun
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(io.LimitReader(resp.Body, 4096))
		return fmt.Errorf("internal error: the supervisor of project %s answered %s: %s", c.Project, resp.Status, strings.TrimSpace(string(text)))
	}
	// The supervisor runs, so the warden's pid file is there; it will not be
	// once the supervisor leaves.
	warden := c.wardenPidfd()
	if warden >= 0 {
		defer unix.Close(warden)
	}
	final, err := readAnswer(resp.Body, progress)
	if err != nil {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		return fmt.Errorf("%w of project %s while it worked (%w); run the command again, it goes on where it was", ErrLost, c.Project, err)
	}
	if final.Leaving && warden >= 0 {
		// Whoever sees this command end must find nothing left behind.
		waitGone(ctx, warden)
	}
	if final.Error != "" {
		return &RemoteError{Message: final.Error, ExitCode: final.ExitCode}
	}
	if result != nil && final.Result != nil {
		return json.Unmarshal(final.Result, result)
	}
	return nil
}

func readAnswer(r io.Reader, progress func(apply.Event)) (*Final, error) {
	dec := json.NewDecoder(r)
	for {
		var m Message
		if err := dec.Decode(&m); err != nil {
			return nil, err
		}
		if m.Event != nil && progress != nil {
			progress(*m.Event)
		}
		if m.Final != nil {
			return m.Final, nil
		}
	}
}

// Alive tells, without asking it, whether the project has a supervisor process.
func (c *Client) Alive() bool {
	pid, err := os.ReadFile(filepath.Join(c.Dir, "supervisor.pid"))
	if err != nil {
		return false
	}
	name, err := os.ReadFile("/proc/" + strings.TrimSpace(string(pid)) + "/comm")
	return err == nil && strings.HasPrefix(string(name), "stack-supervise")
}

func (c *Client) addr() *net.UnixAddr {
	return &net.UnixAddr{Net: "unix", Name: filepath.Join(c.Dir, socketName)}
}

// connect reaches the supervisor, starting the process chain when nobody listens.
func (c *Client) connect(ctx context.Context) (*net.UnixConn, error) {
	if conn, err := net.DialUnix("unix", nil, c.addr()); err == nil {
		return conn, nil
	}
	lock, err := c.spawnLock()
	if err != nil {
		return nil, fmt.Errorf("cannot start the supervisor of project %s: %w", c.Project, err)
	}
	defer lock.Close()
	if conn, err := net.DialUnix("unix", nil, c.addr()); err == nil {
		return conn, nil
	}
	if err := c.spawn(); err != nil {
		return nil, fmt.Errorf("cannot start the supervisor of project %s: %w", c.Project, err)
	}
	return net.DialUnix("unix", nil, c.addr())
}

func (c *Client) spawnLock() (*os.File, error) {
	for {
		if err := os.MkdirAll(c.Dir, 0o700); err != nil {
			return nil, err
		}
		f, err := lockFile(filepath.Join(c.Dir, "spawn.lock"))
		if errors.Is(err, os.ErrNotExist) {
			continue // the last supervisor removed the directory just now
		}
		return f, err
	}
}

// spawn starts the warden with the listening socket. The socket is there before
// the supervisor is, so the caller connects at once and waits for the answer.
func (c *Client) spawn() error {
	path := filepath.Join(c.Dir, socketName)
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Net: "unix", Name: path})
	if err != nil {
		return err
	}
	l.SetUnlinkOnClose(false)
	defer l.Close()
	if err := os.Chmod(path, 0o600); err != nil {
		return err
	}
	listener, err := l.File()
	if err != nil {
		return err
	}
	defer listener.Close()
	null, err := os.OpenFile("/dev/null", os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer null.Close()
	logFile, err := os.OpenFile(filepath.Join(c.Dir, "supervisor.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer logFile.Close()
	env := append([]string{}, c.Env...)
	env = append(env, guard.EnvRole+"="+guard.Warden, guard.EnvDir+"="+c.Dir, guard.EnvName+"="+c.Project, guard.EnvFDs+"=4 "+listenerName)
	_, err = syscall.ForkExec("/proc/self/exe", []string{"stack: warden " + c.Project}, &syscall.ProcAttr{
		Dir:   "/",
		Env:   env,
		Files: []uintptr{null.Fd(), null.Fd(), logFile.Fd(), null.Fd(), listener.Fd()},
		Sys:   &syscall.SysProcAttr{Setsid: true},
	})
	return err
}

// wardenPidfd opens the outermost process of the chain, -1 when there is none.
func (c *Client) wardenPidfd() int {
	b, err := os.ReadFile(filepath.Join(c.Dir, guard.Warden+".pid"))
	if err != nil {
		return -1
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil {
		return -1
	}
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return -1
	}
	return fd
}

// waitGone blocks until the process ends. The chain may have been taken over by
// a new request, so the wait is bounded.
func waitGone(ctx context.Context, pidfd int) {
	const bound = 2000 // ms
	for ctx.Err() == nil {
		_, err := unix.Poll([]unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}, bound)
		if err != unix.EINTR {
			return
		}
	}
}
