// Package supervise is a project's supervisor: the one long-lived process that
// is parent to the project's containers and owns what outlives a command line
// (exit codes, restart policies, health checks, names, log pumps).
//
// Events come in (a process ended, a probe reported, a request arrived), are
// decided by pure functions (restartAfter, package plan) and applied through
// package engine. Nothing here is precious: a supervisor that is killed is
// followed by one that adopts what runs, from records and kernel facts. The
// process chain around it is in package guard.
package supervise

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/stack-run/stack/compose/spec"
	"github.com/stack-run/stack/engine"
	"github.com/stack-run/stack/netns"
)

// Options make a supervisor.
type Options struct {
	Project string
	Dir     string // the project's run directory
	Engine  *engine.Engine
	Keeper  *Keeper
}

// Supervisor owns the containers of one project.
type Supervisor struct {
	project  string
	dir      string
	engine   *engine.Engine
	keeper   *Keeper
	resolver *netns.Resolver
	ctx      context.Context
	events   *eventLog
	store    *ProjectStore

	applying chan struct{} // 1 slot: one plan at a time
	leaving  *atomic.Bool
	// interrupt ends the up that is under way, nil for none.
	interrupt context.CancelCauseFunc
	// handing is set while a hand-over is decided on, handedOver when it was.
	handing, handedOver atomic.Bool

	mu       sync.Mutex
	units    map[string]*unit // by container ID
	desired  *spec.Desired
	changed  chan struct{}   // closed and replaced whenever something above changes
	busy     int             // requests and background work under way
	jobs     int             // background work alone
	expected []func()        // see expectRequest
	trimmer  *time.Timer     // see trim
	replies  map[*reply]bool // those under way
	warned   map[string]bool
}

// Run is the supervisor process: it adopts what runs, serves requests and
// returns when nothing is left to own, with the run directory removed.
func Run(ctx context.Context, o Options) error {
	var leaving atomic.Bool
	go func() {
		o.Keeper.lost()
		leaving.Store(true)
		o.Keeper.succeed(o.Project)
	}()
	lock, err := lockFile(filepath.Join(o.Dir, "supervisor.lock"))
	if err != nil {
		return err
	}
	defer lock.Close()
	pid := filepath.Join(o.Dir, "supervisor.pid")
	err = os.WriteFile(pid+".tmp", fmt.Appendf(nil, "%d\n", os.Getpid()), 0o600)
	if err == nil {
		err = os.Rename(pid+".tmp", pid) // at once: somebody may read it just now
	}
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	s := &Supervisor{
		project: o.Project, dir: o.Dir, engine: o.Engine, keeper: o.Keeper, ctx: ctx,
		applying: make(chan struct{}, 1), units: map[string]*unit{}, changed: make(chan struct{}), warned: map[string]bool{}, replies: map[*reply]bool{},
		store: NewProjectStore(o.Engine), leaving: &leaving,
	}
	o.Engine.OnWarn(s.tell)
	nets, err := o.Engine.Networks()
	if err != nil {
		return err
	}
	s.resolver = nets.NewResolver(netns.ResolverOptions{Owner: o.Project})
	if s.events, err = openEventLog(filepath.Join(o.Dir, eventLogName)); err != nil {
		return err
	}
	s.expectRequest() // whoever started us has one
	if s.desired, err = s.store.Definition(o.Project); err != nil && !errors.Is(err, os.ErrNotExist) {
		s.warn(err)
	}
	if err := s.adopt(ctx); err != nil {
		return err
	}
	failed := make(chan error, 1)
	go func() {
		if err := s.serve(ctx); err != nil {
			failed <- err
			cancel()
		}
	}()
	for {
		if err := s.await(ctx, func() (bool, error) { return s.idleLocked(), nil }); err != nil {
			select {
			case err = <-failed:
			default:
			}
			return err
		}
		left, err := s.leave()
		if err != nil || left {
			return err
		}
	}
}

func (s *Supervisor) now() time.Time { return time.Now().UTC() }

// changedLocked wakes all who await. Callers hold mu.
func (s *Supervisor) changedLocked() {
	close(s.changed)
	s.changed = make(chan struct{})
}

// await returns when cond, called with mu held after each change, says so.
func (s *Supervisor) await(ctx context.Context, cond func() (bool, error)) error {
	for {
		s.mu.Lock()
		ok, err := cond()
		changed := s.changed
		s.mu.Unlock()
		if ok || err != nil {
			return err
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// done ends what keeps the supervisor alive.
func (s *Supervisor) done() {
	s.mu.Lock()
	s.busy--
	s.changedLocked()
	s.mu.Unlock()
}

// expectBound is how long a supervisor with nothing to own stays for a request
// that is about to come.
const expectBound = 2 * time.Second

// expectRequest keeps the supervisor until the next connection, or a moment.
func (s *Supervisor) expectRequest() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.busy++
	once := sync.OnceFunc(s.done)
	s.expected = append(s.expected, once)
	time.AfterFunc(expectBound, once)
}

// connected counts a connection, which is what was expected.
func (s *Supervisor) connected() {
	s.mu.Lock()
	s.busy++
	expected := s.expected
	s.expected = nil
	s.mu.Unlock()
	debug.SetGCPercent(busyGC)
	for _, done := range expected {
		done()
	}
}

// background runs work that nobody asked for, but whose end is waited for before
// an answer says that nothing is left.
func (s *Supervisor) background(work func(context.Context) error) {
	s.mu.Lock()
	s.jobs++
	s.mu.Unlock()
	s.linger(func(ctx context.Context) error {
		defer func() {
			s.mu.Lock()
			s.jobs--
			s.changedLocked()
			s.mu.Unlock()
		}()
		return work(ctx)
	})
}

// linger runs work that keeps the supervisor, but nobody waiting.
func (s *Supervisor) linger(work func(context.Context) error) {
	s.mu.Lock()
	s.busy++
	s.mu.Unlock()
	go func() {
		defer s.done()
		if err := work(s.ctx); err != nil && s.ctx.Err() == nil {
			s.warn(err)
		}
	}()
}

// idleLocked tells whether there is no reason to stay. Callers hold mu.
func (s *Supervisor) idleLocked() bool { return s.busy == 0 && !s.ownsLocked() }

// ownsLocked tells whether a container runs or is about to. Callers hold mu.
func (s *Supervisor) ownsLocked() bool {
	for _, u := range s.units {
		if u.task != nil || u.restart != nil {
			return true
		}
	}
	return false
}

// idleAfter is how long after the last request memory is given back.
const idleAfter = 250 * time.Millisecond

// Garbage collection by how much the heap has grown, in per cent: rarely while
// there is work, so that it is quick, and often while there is none.
const (
	busyGC = 400
	idleGC = 30
)

// trim gives memory back to the system once no request has come for a while. A
// supervisor idles nearly always, and there may be many on a machine.
func (s *Supervisor) trim() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.trimmer == nil {
		s.trimmer = time.AfterFunc(idleAfter, func() {
			debug.SetGCPercent(idleGC)
			debug.FreeOSMemory()
		})
		return
	}
	s.trimmer.Reset(idleAfter)
}

// settleBound is how long an answer waits for what goes on behind it.
const settleBound = 5 * time.Second

// settle waits, when nothing is left to own, for the background work that cleans
// up, so that the caller finds nothing left behind.
func (s *Supervisor) settle(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, settleBound)
	defer cancel()
	// An error is the bound's: the answer goes out without.
	_ = s.await(ctx, func() (bool, error) { return s.jobs == 0 || s.ownsLocked(), nil })
}

// leave takes the run directory away, unless a request arrived. The spawn lock
// keeps a client from starting a second chain meanwhile. The directory is moved
// aside before it is deleted: whoever comes next makes a new one, and nothing in
// that is touched.
func (s *Supervisor) leave() (bool, error) {
	lock, err := lockFile(filepath.Join(s.dir, "spawn.lock"))
	if err != nil {
		return false, err
	}
	defer lock.Close()
	socket := filepath.Join(s.dir, socketName)
	aside := socket + ".leaving"
	moved := os.Rename(socket, aside) == nil
	s.mu.Lock()
	idle := s.idleLocked()
	s.mu.Unlock()
	if !idle || s.pendingConnection() {
		if !moved {
			return false, nil
		}
		return false, os.Rename(aside, socket)
	}
	s.leaving.Store(true)
	s.resolver.Close()
	if err := s.engine.Tidy(); err != nil {
		s.warn(err)
	}
	gone := filepath.Join(filepath.Dir(s.dir), fmt.Sprintf(".gone-%d", os.Getpid()))
	if err := os.Rename(s.dir, gone); err != nil {
		return false, err
	}
	return true, os.RemoveAll(gone)
}

// pendingConnection tells whether a client waits to be accepted.
func (s *Supervisor) pendingConnection() bool {
	l := s.keeper.Get(listenerName)
	if l == nil {
		return false
	}
	pending := false
	if conn, err := l.SyscallConn(); err == nil {
		conn.Control(func(fd uintptr) {
			n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0)
			pending = err == nil && n > 0
		})
	}
	return pending
}

// lockFile takes an exclusive flock(2) on a file, made if missing. A lock on a
// file that was removed meanwhile locks nothing, so it is taken again.
func lockFile(path string) (*os.File, error) {
	for {
		f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
		if err != nil {
			return nil, err
		}
		if err := flock(f, unix.LOCK_EX); err != nil {
			return nil, errors.Join(err, f.Close())
		}
		held, err1 := f.Stat()
		now, err2 := os.Stat(path)
		if err1 == nil && err2 == nil && os.SameFile(held, now) {
			return f, nil
		}
		f.Close()
		if errors.Is(err2, os.ErrNotExist) {
			if _, err := os.Stat(filepath.Dir(path)); err != nil {
				return nil, err
			}
		}
	}
}

// flock is flock(2) that does not mind signals.
func flock(f *os.File, how int) error {
	for {
		err := unix.Flock(int(f.Fd()), how)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			err = fmt.Errorf("cannot lock %s: %w", f.Name(), err)
		}
		return err
	}
}

// warn reports what no request is there to hear, once per sentence: to the
// supervisor's own log and as an event.
func (s *Supervisor) warn(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.warnLocked(err)
}

// tell passes on what the engine has to say about the host to all who wait for an
// answer now.
func (s *Supervisor) tell(text string) {
	fmt.Fprintf(os.Stderr, "%s %s: %s\n", s.now().Format(time.RFC3339Nano), s.project, text)
	s.mu.Lock()
	replies := slices.Collect(maps.Keys(s.replies))
	s.mu.Unlock()
	for _, r := range replies {
		r.event("Project", s.project, "Warning", text, false)
	}
}

// warnLocked is warn for callers that hold mu.
func (s *Supervisor) warnLocked(err error) {
	if s.warned[err.Error()] {
		return
	}
	s.warned[err.Error()] = true
	fmt.Fprintf(os.Stderr, "%s %s: %v\n", s.now().Format(time.RFC3339Nano), s.project, err)
}

// adopt rebuilds the units from the records and the kernel.
func (s *Supervisor) adopt(ctx context.Context) error {
	all, err := s.engine.Records.List()
	if err != nil {
		return err
	}
	live := map[string]bool{}
	var running []*unit
	for _, c := range all {
		if c.Project != s.project {
			continue
		}
		u := newUnit(c)
		s.mu.Lock()
		s.units[c.ID] = u
		s.mu.Unlock()
		switch c.State.Phase {
		case engine.Running, engine.Paused:
			if err := s.adoptRunning(ctx, u); err != nil {
				s.warn(err)
				continue
			}
			running = append(running, u)
		case engine.Restarting:
			s.mu.Lock()
			u.lastDelay = firstDelay
			u.restart = time.AfterFunc(firstDelay, func() { s.restartDue(u) })
			s.mu.Unlock()
		case engine.Removing:
			s.background(func(ctx context.Context) error { return s.remove(ctx, u, removeOptions{force: true}) })
		}
		live[c.ID] = true
	}
	s.dropStale(live)
	// First know all names, then answer.
	s.mu.Lock()
	s.refreshNames()
	s.mu.Unlock()
	for _, u := range running {
		s.mu.Lock()
		ep, task := u.c.State.Endpoint, u.task
		s.mu.Unlock()
		if ep != nil {
			if err := s.serveNames(ep); err != nil {
				s.warn(err)
			}
		}
		go s.watch(u, task)
	}
	return nil
}

// dropStale forgets held descriptors of containers that are no more.
func (s *Supervisor) dropStale(live map[string]bool) {
	for _, name := range s.keeper.Names("") {
		if id := engine.HeldBy(name); id != "" && !live[id] {
			s.keeper.Drop(name)
		}
	}
}

// adoptRunning takes over a container that ran under an earlier supervisor. It
// may have ended since: then its exit is handled as if it were seen now.
func (s *Supervisor) adoptRunning(ctx context.Context, u *unit) error {
	c := *u.c
	task, err := s.engine.Adopt(ctx, &c, s.keeper, filepath.Join(s.dir, "exits"))
	if err != nil {
		return fmt.Errorf("cannot adopt container %s: %w", c.Spec.Name, err)
	}
	s.mu.Lock()
	u.c, u.task = &c, task
	s.startHealth(u)
	s.mu.Unlock()
	return nil
}

// claim finds a unit by container ID and takes its operation slot.
func (s *Supervisor) claim(ctx context.Context, id string) (u *unit, end func(), err error) {
	if u, err = s.lookup(id); err == nil {
		end, err = u.begin(ctx)
	}
	return u, end, err
}

// lookup finds a unit by container ID.
func (s *Supervisor) lookup(id string) (*unit, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if u := s.units[id]; u != nil {
		return u, nil
	}
	return nil, fmt.Errorf("%w: %s", engine.ErrNotFound, id)
}
