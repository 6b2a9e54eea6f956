package supervise

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
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
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/stack-run/stack/compose/apply"
	"github.com/stack-run/stack/compose/supervise/guard"
	"github.com/stack-run/stack/engine/cgroup"
	"github.com/stack-run/stack/internal/lock"
	"github.com/stack-run/stack/internal/sock"
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
	// Starting, if set, is called when one is started: its requests wait a while.
	Starting func()
}

// supervisorLock is held by the supervisor that runs.
const supervisorLock = "supervisor.lock"

// ErrLost says that a supervisor ended before it gave its answer.
var ErrLost = errors.New("lost the supervisor")

// errNotBegun says that the connection ended before the request was begun.
var errNotBegun = errors.New("the supervisor left before it began")

// Call sends a request and reads its answer: events go to progress, the result,
// if wanted, is decoded into result.
func (c *Client) Call(ctx context.Context, verb string, body any, result any, progress func(apply.Event)) error {
	// A project takes its time to encode; a supervisor can be started meanwhile.
	payload := sync.OnceValues(func() ([]byte, error) { return json.Marshal(body) })
	go func() { _, _ = payload() }()
	defer func() { _, _ = payload() }() // the body is the caller's again
	c.replaceOld(ctx)
	for began := time.Now(); ; {
		err := c.call(ctx, verb, payload, result, progress)
		if !errors.Is(err, errNotBegun) || ctx.Err() != nil {
			return err
		}
		if time.Since(began) > answerBound {
			return c.silent()
		}
	}
}

func (c *Client) call(ctx context.Context, verb string, payload func() ([]byte, error), result any, progress func(apply.Event)) error {
	conn, warnings, err := c.connect(ctx)
	if err != nil {
		return err
	}
	defer conn.Close()
	for _, text := range warnings {
		if progress != nil {
			progress(apply.Event{Time: time.Now().UTC(), Kind: "Project", Name: c.Project, Status: "Warning", Text: text})
		}
	}
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	encoded, err := payload()
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://stack/v1/"+verb, bytes.NewReader(encoded))
	if err != nil {
		return err
	}
	req.Close = true
	if err := req.Write(conn); err != nil {
		return errNotBegun
	}
	if err := conn.SetReadDeadline(time.Now().Add(answerBound)); err != nil {
		return err
	}
	resp, err := http.ReadResponse(bufio.NewReader(conn), req)
	if err != nil {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return c.silent()
		}
		return errNotBegun
	}
	if err := conn.SetReadDeadline(time.Time{}); err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(io.LimitReader(resp.Body, 4096))
		return fmt.Errorf("internal error: the supervisor of project %s answered %s: %s", c.Project, resp.Status, strings.TrimSpace(string(text)))
	}
	// The supervisor runs, so the warden's pid file is there; it will not be
	// once the supervisor leaves.
	chain := c.openChain()
	defer chain.close(ctx)
	final, err := readAnswer(resp.Body, progress)
	if err != nil {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		return fmt.Errorf("%w of project %s while it worked (%w); run the command again, it goes on where it was", ErrLost, c.Project, err)
	}
	// Whoever sees this command end must find nothing left behind.
	chain.leave(ctx, final.Leaving)
	if final.Error != "" {
		return &RemoteError{Message: final.Error, ExitCode: final.ExitCode}
	}
	if result != nil && final.Result != nil {
		return json.Unmarshal(final.Result, result)
	}
	return nil
}

// answerBound is how long a supervisor may take until it begins with a request: it
// may have to wait for its predecessor's end, and is started again and again where
// something keeps it from running.
const answerBound = lock.DefaultWait + 15*time.Second

// silent is the error of a supervisor that does not begin, with what it last said.
func (c *Client) silent() error {
	said, err := os.ReadFile(filepath.Join(c.Dir, "supervisor.log"))
	lines := strings.Split(strings.TrimSpace(string(said)), "\n")
	last := lines[len(lines)-1]
	if err != nil || last == "" {
		last = "it said nothing"
	}
	return fmt.Errorf("the supervisor of project %s does not answer: %s", c.Project, last)
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

// Alive tells, without asking it, whether the project has a supervisor, or one is
// on its way: somebody of its process chain lives.
func (c *Client) Alive() bool {
	// The supervisor's lock tells it without waking anybody.
	fd, err := unix.Open(filepath.Join(c.Dir, supervisorLock), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err == nil {
		err = unix.Flock(fd, unix.LOCK_SH|unix.LOCK_NB)
		unix.Close(fd)
		if err == unix.EWOULDBLOCK {
			return true
		}
	}
	// A guard that is about to start the next one holds the socket.
	conn, err := sock.Dial(context.Background(), c.socket())
	if err != nil {
		return false
	}
	conn.Close()
	return true
}

func (c *Client) socket() string { return filepath.Join(c.Dir, socketName) }

// connect reaches the supervisor, starting the process chain when nobody listens.
// Warnings are about a chain that it has started.
func (c *Client) connect(ctx context.Context) (conn *net.UnixConn, warnings []string, err error) {
	if conn, err = sock.Dial(ctx, c.socket()); err == nil {
		return conn, nil, nil
	}
	if !isAbsent(err) {
		return nil, nil, fmt.Errorf("cannot reach the supervisor of project %s: %w", c.Project, err)
	}
	defer func() {
		if err != nil {
			err = fmt.Errorf("cannot start the supervisor of project %s: %w", c.Project, err)
		}
	}()
	held, err := c.spawnLock(ctx)
	if err != nil {
		return nil, nil, err
	}
	defer held.Unlock()
	if conn, err = sock.Dial(ctx, c.socket()); !isAbsent(err) {
		return conn, nil, err
	}
	if warnings, err = c.spawn(); err != nil {
		return nil, nil, err
	}
	if c.Starting != nil {
		c.Starting()
	}
	conn, err = sock.Dial(ctx, c.socket())
	return conn, warnings, err
}

// isAbsent tells whether err says that nobody listens.
func isAbsent(err error) bool {
	return errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ECONNREFUSED)
}

func (c *Client) spawnLock(ctx context.Context) (*lock.Held, error) {
	for {
		if err := os.MkdirAll(c.Dir, 0o700); err != nil {
			return nil, err
		}
		held, err := lock.Exclusive(ctx, filepath.Join(c.Dir, guard.SpawnLock), lock.Of("the start of the supervisor"))
		if errors.Is(err, os.ErrNotExist) {
			continue // the last supervisor removed the directory just now
		}
		return held, err
	}
}

// chainThreads is how many threads a chain needs room for: a Go program of one
// goroutine has five or six, and a supervisor more while it is busy.
const chainThreads = 32

// minDescriptors is what a supervisor needs for itself and to start some containers at
// a time; each that runs needs a few more.
const minDescriptors = 64

// enoughDescriptors is an error where the caller's limit, which a chain has from who
// starts it, is too low for any work: others would find that chain after the caller.
func enoughDescriptors() error {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return fmt.Errorf("cannot read the limit of descriptors: %w", err)
	}
	if limit.Cur < minDescriptors {
		return fmt.Errorf("cannot start a supervisor: %w: a process may have %d here, and it needs %d; raise the limit (ulimit -n)", unix.EMFILE, limit.Cur, minDescriptors)
	}
	return nil
}

// spawn starts the warden with the listening socket. The socket is there before
// the supervisor is, so the caller connects at once and waits for the answer.
func (c *Client) spawn() (warnings []string, err error) {
	if err := enoughDescriptors(); err != nil {
		return nil, err
	}
	// The directory of another project may have the same name.
	sum := sha256.Sum256([]byte(c.Dir))
	name := filepath.Base(c.Dir)
	shelter, err := cgroup.NewShelter(fmt.Sprintf("stack-keepers-%s-%x", name[:min(len(name), 100)], sum[:3]))
	if shelter != nil { // what could be made of it
		defer shelter.Close()
	}
	if err != nil {
		warnings = append(warnings, fmt.Sprintf("%v: what ends that (a systemd unit, a CI runner, a logout) ends the supervisor of project %s too", err, c.Project))
	}
	defer func() {
		if err != nil {
			cgroup.RemoveGroups(shelter.Groups())
		}
	}()
	if err := shelter.Room(chainThreads); err != nil {
		return nil, err
	}
	if err := os.Remove(c.socket()); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	l, err := sock.Listen(c.socket())
	if err != nil {
		return nil, err
	}
	defer l.Close()
	listener, err := l.File()
	if err != nil {
		return nil, err
	}
	defer listener.Close()
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	defer null.Close()
	logFile, err := os.OpenFile(filepath.Join(c.Dir, "supervisor.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	defer logFile.Close()
	if groups := shelter.Groups(); len(groups) > 0 {
		if err := os.WriteFile(filepath.Join(c.Dir, guard.Shelter), []byte(strings.Join(groups, "\n")), 0o600); err != nil {
			return nil, err
		}
	}
	env := append([]string{}, c.Env...)
	env = append(env, guard.EnvRole+"="+guard.Warden, guard.EnvDir+"="+c.Dir, guard.EnvName+"="+c.Project, guard.EnvFDs+"=4 "+listenerName)
	_, err = shelter.Start("/proc/self/exe", []string{"stack: warden " + c.Project}, &syscall.ProcAttr{
		Dir:   "/",
		Env:   env,
		Files: []uintptr{null.Fd(), null.Fd(), logFile.Fd(), null.Fd(), listener.Fd()},
		Sys:   &syscall.SysProcAttr{Setsid: true},
	})
	if err != nil {
		return nil, errors.Join(err, os.Remove(c.socket()))
	}
	return warnings, nil
}

// A chain is what a client has open of the process chain that it talks to, so as to
// see the last of it go.
type chain struct {
	dir     string
	warden  int      // pidfd, -1 for none
	shelter *os.File // nil for none
	groups  []string // in the shelter file
}

func (c *Client) openChain() *chain {
	ch := &chain{dir: c.Dir, warden: c.wardenPidfd()}
	f, err := os.Open(filepath.Join(c.Dir, guard.Shelter))
	if err != nil {
		return ch
	}
	// A warden that finds it locked leaves the groups to us: it would have to leave
	// them first, which takes much longer.
	if unix.Flock(int(f.Fd()), unix.LOCK_SH|unix.LOCK_NB) != nil {
		f.Close() // it goes just now
		return ch
	}
	list, _ := io.ReadAll(f)
	ch.shelter, ch.groups = f, strings.Split(string(list), "\n")
	return ch
}

// leave waits for the chain's end where it leaves, and removes its control groups.
func (ch *chain) leave(ctx context.Context, leaving bool) {
	if ch.shelter != nil {
		ch.shelter.Close()
		ch.shelter = nil
		// The warden looks for the lock after its directory is gone.
		if _, err := os.Lstat(ch.dir); errors.Is(err, os.ErrNotExist) {
			leaving = true
		}
	}
	if leaving && ch.warden >= 0 {
		waitGone(ctx, ch.warden)
		cgroup.RemoveGroups(ch.groups)
	}
}

func (ch *chain) close(ctx context.Context) {
	ch.leave(ctx, false)
	if ch.warden >= 0 {
		unix.Close(ch.warden)
	}
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
