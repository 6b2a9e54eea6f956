// Package supervise is a project's supervisor: the one long-lived process that
// is parent to the project's containers and owns what outlives a command line
// (exit codes, restart policies, health checks, names, log pumps).
//
// It decides nothing. What a verb does is decided by package plan and carried out
// by package apply, for which the supervisor is the host; what becomes of one
// container by package machine. Each container has one goroutine (actor), which
// alone holds its record and performs what the machine says through package
// engine; everybody else reads views, which do not change.
//
// Nothing here is precious: a supervisor that is killed is followed by one that
// adopts what runs, from records and kernel facts. The process chain around it is
// in package guard.
package supervise

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/signal"
	"path/filepath"
	"runtime/debug"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/stack-run/stack/compose/machine"
	"github.com/stack-run/stack/compose/spec"
	"github.com/stack-run/stack/compose/supervise/guard"
	"github.com/stack-run/stack/engine"
	"github.com/stack-run/stack/internal/glob"
	"github.com/stack-run/stack/internal/lock"
	"github.com/stack-run/stack/netns"
)

// Options make a supervisor.
type Options struct {
	Realm  string // whose containers it owns, see [RealmOf]
	Dir    string // the realm's run directory
	Engine *engine.Engine
	Keeper *Keeper
}

// Supervisor owns the containers of one realm.
type Supervisor struct {
	realm    string
	dir      string
	engine   *engine.Engine
	runner   runner
	keeper   *Keeper
	resolver *netns.Resolver
	ctx      context.Context
	events   *eventLog
	store    *ProjectStore
	// schedules has jobs run.
	schedules *scheduler

	applying chan struct{} // 1 slot: one plan of the whole project at a time
	leaving  *atomic.Bool
	// interrupt ends the up or run that is under way, nil for none.
	interrupt atomic.Pointer[context.CancelCauseFunc]
	goingDown bell // rings while a down goes on
	// handing is set while a hand-over is decided on, handedOver when it was.
	handing, handedOver atomic.Bool
	desired             atomic.Pointer[spec.Desired] // nil while the project is not up
	// adopted is closed when all that ran before has been taken over.
	adopted chan struct{}
	// usesDefault says that the default network was held once, and perhaps nobody
	// is on it any more.
	usesDefault atomic.Bool

	naming sync.Mutex // one goroutine at a time publishes names

	mu       sync.Mutex
	actors   map[string]*actor // by container ID
	changed  chan struct{}     // closed and replaced whenever a view or something below changes
	busy     int               // requests and background work under way
	jobs     int               // background work alone
	expected []func()          // see expectRequest
	held     map[string]func() // see holdForStart
	trimmer  *time.Timer       // see trim
	replies  map[*reply]bool   // those under way
	warned   map[string]bool
}

// Run is the supervisor process: it adopts what runs, serves requests and
// returns when nothing is left to own, with the run directory removed. Where it
// cannot, those who wait for it are told.
func Run(ctx context.Context, o Options) error {
	var leaving atomic.Bool
	err := run(ctx, o, &leaving)
	// Where the run directory is gone, the guards make it again and the next
	// supervisor answers.
	_, missing := os.Lstat(filepath.Join(o.Dir, socketName))
	if err != nil && missing == nil && ctx.Err() == nil && !leaving.Load() {
		refuse(o.Keeper, fmt.Errorf("the supervisor of project %s cannot work: %w", o.Realm, err))
	}
	return err
}

func run(ctx context.Context, o Options, leaving *atomic.Bool) error {
	go func() {
		o.Keeper.lost()
		leaving.Store(true)
		o.Keeper.succeed(o.Realm)
	}()
	held, err := lock.Exclusive(ctx, filepath.Join(o.Dir, "supervisor.lock"), lock.Of("the containers of "+o.Realm))
	if err != nil {
		return err
	}
	defer held.Unlock()
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
		realm: o.Realm, dir: o.Dir, engine: o.Engine, keeper: o.Keeper, ctx: ctx,
		applying: make(chan struct{}, 1), actors: map[string]*actor{}, changed: make(chan struct{}), held: map[string]func(){}, warned: map[string]bool{}, replies: map[*reply]bool{},
		store: NewProjectStore(o.Engine), leaving: leaving, adopted: make(chan struct{}),
	}
	s.runner = engineRunner{s}
	o.Engine.OnWarn(s.tell)
	nets, err := o.Engine.Networks()
	if err != nil {
		return err
	}
	s.resolver = nets.NewResolver(netns.ResolverOptions{Owner: o.Realm})
	if s.events, err = openEventLog(filepath.Join(o.Dir, eventLogName)); err != nil {
		return err
	}
	s.expectRequest() // whoever started us has one
	d, err := s.store.Definition(o.Realm)
	switch {
	case err == nil:
		s.desired.Store(d)
	case !errors.Is(err, os.ErrNotExist):
		s.warn(err)
	}
	schedules, err := s.store.Schedules(o.Realm)
	if err != nil {
		s.warn(err)
	}
	s.schedules = newScheduler(s, schedules)
	if err := s.adopt(ctx); err != nil {
		return err
	}
	go s.schedules.run()
	// What killed processes left goes with the next command on any project.
	s.background(s.sweep)
	failed := make(chan error, 1)
	go func() {
		if err := s.serve(ctx); err != nil {
			failed <- err
			cancel()
		}
	}()
	asked := make(chan os.Signal, 1)
	signal.Notify(asked, unix.SIGTERM)
	for {
		if err := s.await(ctx, func([]*view) (bool, time.Time, error) { return s.idle(), time.Time{}, nil }); err != nil {
			select {
			case err = <-failed:
			default:
			}
			return err
		}
		if !s.stayIdle(ctx, asked) {
			continue
		}
		left, err := s.leave()
		if err != nil || left {
			return err
		}
	}
}

// leaves says that the process is about to end.
func (s *Supervisor) leaves() bool { return s.leaving.Load() || s.ctx.Err() != nil }

func (s *Supervisor) exitsDir() string { return filepath.Join(s.dir, "exits") }

func (s *Supervisor) now() time.Time { return time.Now().UTC() }

// changedView wakes all who await, and with names has the resolver know.
func (s *Supervisor) changedView(names bool) {
	if names {
		s.refreshNames()
	}
	s.wake()
}

// wake has all who await look again.
func (s *Supervisor) wake() {
	s.mu.Lock()
	s.wakeLocked()
	s.mu.Unlock()
}

// wakeLocked wakes all who await. Callers hold mu.
func (s *Supervisor) wakeLocked() {
	close(s.changed)
	s.changed = make(chan struct{})
}

// views are all containers as they are now, ordered by project, service and number.
func (s *Supervisor) views() []*view {
	actors := s.all()
	out := make([]*view, len(actors))
	for i, a := range actors {
		out[i] = a.view.Load()
	}
	slices.SortFunc(out, func(a, b *view) int {
		return cmp.Or(cmp.Compare(a.Project, b.Project), cmp.Compare(a.Service, b.Service), a.Index-b.Index, a.Created.Compare(b.Created))
	})
	return out
}

// await returns when cond, called after each change, says so. The time that cond
// returns, if it is not zero, is when it wants to look again at the latest.
func (s *Supervisor) await(ctx context.Context, cond func([]*view) (bool, time.Time, error)) error {
	for {
		s.mu.Lock()
		changed := s.changed
		s.mu.Unlock()
		ok, again, err := cond(s.views())
		if ok || err != nil {
			return err
		}
		var due <-chan time.Time
		if !again.IsZero() {
			timer := time.NewTimer(time.Until(again))
			defer timer.Stop()
			due = timer.C
		}
		select {
		case <-changed:
		case <-due:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// done ends what keeps the supervisor alive.
func (s *Supervisor) done() {
	s.mu.Lock()
	s.busy--
	s.wakeLocked()
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

// holdForStart keeps what is held for a container that was just made until it has
// started, or a moment: a sweep beside it would take the network away that nobody is
// on yet.
func (s *Supervisor) holdForStart(id string, release func()) {
	s.mu.Lock()
	s.held[id] = release
	s.mu.Unlock()
	time.AfterFunc(expectBound, func() { s.letGo(id) })
}

// letGo ends the hold for a container.
func (s *Supervisor) letGo(id string) {
	s.mu.Lock()
	defer s.mu.Unlock() // whoever finds none finds it released
	if release := s.held[id]; release != nil {
		release()
	}
	delete(s.held, id)
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
			s.wakeLocked()
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

// idle tells whether there is no reason to stay.
func (s *Supervisor) idle() bool { return s.idleBut(0) }

// idleBut is idle but for some requests that are about to end.
func (s *Supervisor) idleBut(requests int) bool {
	s.mu.Lock()
	busy := s.busy
	s.mu.Unlock()
	return busy == requests && !s.owns() && !s.working()
}

// owns tells whether a container runs or is about to.
func (s *Supervisor) owns() bool {
	return s.schedules.owns() || slices.ContainsFunc(s.all(), func(a *actor) bool { return a.view.Load().busy })
}

// working tells whether a container has been told something that is not done.
func (s *Supervisor) working() bool {
	return s.schedules.box.pending() || slices.ContainsFunc(s.all(), func(a *actor) bool { return a.box.pending() })
}

func (s *Supervisor) all() []*actor {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Collect(maps.Values(s.actors))
}

// lingerSingles is how long the supervisor of single containers stays when the last
// one is gone: whoever runs one is likely to run another, and starting a chain of
// processes is a third of what that takes.
const lingerSingles = 3 * time.Second

// stayIdle is the time between idleness and leaving. It tells whether the supervisor
// is to leave: nobody came meanwhile. SIGTERM makes it short.
func (s *Supervisor) stayIdle(ctx context.Context, asked <-chan os.Signal) bool {
	if s.realm != Singles {
		return true
	}
	timer := time.NewTimer(lingerSingles)
	defer timer.Stop()
	for {
		s.mu.Lock()
		changed := s.changed
		s.mu.Unlock()
		if !s.idle() {
			return false
		}
		select {
		case <-timer.C:
			return true
		case <-asked:
			return true
		case <-changed:
		case <-ctx.Done():
			return false
		}
	}
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
			dropText()
		})
		return
	}
	s.trimmer.Reset(idleAfter)
}

// cleanupBound is how long an answer waits for what goes on behind it.
const cleanupBound = 5 * time.Second

// awaitCleanup waits, when nothing is left to own, for the background work that
// cleans up, so that the caller finds nothing left behind.
func (s *Supervisor) awaitCleanup(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, cleanupBound)
	defer cancel()
	// An error is the bound's: the answer goes out without.
	_ = s.await(ctx, func([]*view) (bool, time.Time, error) {
		s.mu.Lock()
		jobs := s.jobs
		s.mu.Unlock()
		return s.owns() || jobs == 0 && !s.working(), time.Time{}, nil
	})
}

// leave takes the run directory away, unless a request arrived. The spawn lock
// keeps a client from starting a second chain meanwhile. The directory is moved
// aside before it is deleted: whoever comes next makes a new one, and nothing in
// that is touched.
func (s *Supervisor) leave() (bool, error) {
	held, err := lock.Exclusive(s.ctx, filepath.Join(s.dir, guard.SpawnLock), lock.Of("the start of the supervisor"))
	if err != nil {
		return false, err
	}
	defer held.Unlock()
	socket := filepath.Join(s.dir, socketName)
	aside := filepath.Join(s.dir, guard.Leaving)
	moved := os.Rename(socket, aside) == nil
	if !s.idle() || s.pendingConnection() {
		if !moved {
			return false, nil
		}
		return false, os.Rename(aside, socket)
	}
	s.leaving.Store(true)
	s.resolver.Close()
	s.mu.Lock()
	for _, release := range s.held {
		release()
	}
	clear(s.held)
	s.mu.Unlock()
	if s.usesDefault.Load() || s.realm == Singles {
		if err := s.engine.DropDefaultNetwork(s.ctx); err != nil {
			s.warn(err) // it is tried again with the next container
		}
	}
	if err := s.sweep(s.ctx); err != nil {
		s.warn(err)
	}
	if err := s.engine.Tidy(); err != nil {
		s.warn(err)
	}
	gone := filepath.Join(filepath.Dir(s.dir), fmt.Sprintf("%s%d", movedAside, os.Getpid()))
	if err := os.Rename(s.dir, gone); err != nil {
		return false, err
	}
	return true, os.RemoveAll(gone)
}

// movedAside begins the names of run directories that are being deleted.
const movedAside = ".gone-"

// sweep removes what killed processes left behind.
func (s *Supervisor) sweep(ctx context.Context) error {
	_, err := s.engine.Sweep(ctx)
	// Whoever moved them aside was killed before they were deleted, or deletes them now.
	left, globErr := glob.In(filepath.Dir(s.dir), movedAside+"*")
	errs := []error{err, globErr}
	for _, dir := range left {
		errs = append(errs, os.RemoveAll(dir))
	}
	return errors.Join(append(errs, s.sweepUnstarted())...)
}

// sweepUnstarted removes run directories in which a client was killed before it had
// started a chain.
func (s *Supervisor) sweepUnstarted() error {
	projects := filepath.Dir(s.dir)
	entries, err := os.ReadDir(projects)
	errs := []error{err}
	for _, e := range entries {
		dir := filepath.Join(projects, e.Name())
		if dir == s.dir || !holdsOnly(dir, guard.SpawnLock) {
			continue
		}
		held, _, err := lock.TryExclusive(filepath.Join(dir, guard.SpawnLock))
		if err != nil || held == nil {
			continue // one is being started just now, or it is gone
		}
		if gone := filepath.Join(projects, fmt.Sprintf("%s%d-%s", movedAside, os.Getpid(), e.Name())); holdsOnly(dir, guard.SpawnLock) {
			errs = append(errs, os.Rename(dir, gone), os.RemoveAll(gone))
		}
		held.Unlock()
	}
	return errors.Join(errs...)
}

// holdsOnly tells whether a directory has one entry, of that name.
func holdsOnly(dir, name string) bool {
	entries, err := os.ReadDir(dir)
	return err == nil && len(entries) == 1 && entries[0].Name() == name
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

// warn reports what no request is there to hear, once per sentence: to the
// supervisor's own log.
func (s *Supervisor) warn(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.warned[err.Error()] {
		return
	}
	s.warned[err.Error()] = true
	fmt.Fprintf(os.Stderr, "%s %s: %v\n", s.now().Format(time.RFC3339Nano), s.realm, err)
}

// tell passes on what the engine has to say about the host to all who wait for an
// answer now.
func (s *Supervisor) tell(text string) {
	fmt.Fprintf(os.Stderr, "%s %s: %s\n", s.now().Format(time.RFC3339Nano), s.realm, text)
	s.mu.Lock()
	replies := slices.Collect(maps.Keys(s.replies))
	s.mu.Unlock()
	for _, r := range replies {
		r.event("Project", s.realm, "Warning", text, false)
	}
}

// adopt gives each container of the realm its goroutine, from the records and the
// kernel.
func (s *Supervisor) adopt(ctx context.Context) error {
	all, err := s.engine.Records.List()
	if err != nil {
		return err
	}
	live := map[string]bool{}
	var ours []*actor
	for _, c := range all {
		if RealmOf(c.Project) == s.realm {
			c, changed, err := keyDigests(s.engine, c)
			if err == nil && changed {
				err = s.engine.Records.SaveConfig(c)
			}
			if err != nil {
				s.warn(err)
			}
			a := newActor(s, c)
			ours = append(ours, a)
			live[c.ID] = true
			s.mu.Lock()
			s.actors[c.ID] = a
			s.mu.Unlock()
		}
	}
	if err := s.keyStored(); err != nil {
		s.warn(err)
	}
	s.dropStale(live)
	// First know all names, then answer.
	s.refreshNames()
	var pending sync.WaitGroup
	pending.Add(len(ours))
	go func() {
		pending.Wait()
		close(s.adopted)
	}()
	for _, a := range ours {
		a.box.post(func() {
			defer pending.Done()
			a.adopt(ctx)
			if ep := a.record.State.Endpoint; a.task != nil && ep != nil {
				if err := s.serveNames(ep); err != nil {
					s.warn(err)
				}
			}
		})
		go a.run()
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

// insert makes a created container one of ours.
func (s *Supervisor) insert(c *engine.Container) *actor {
	a := newActor(s, c)
	s.mu.Lock()
	s.actors[c.ID] = a
	s.wakeLocked()
	s.mu.Unlock()
	s.emit(c, "create", nil)
	if by := c.State.StartBy; !by.IsZero() {
		a.box.post(func() { a.arm(machine.Expired, by) })
	}
	go a.run()
	return a
}

// forget lets go of a container that is gone.
func (s *Supervisor) forget(a *actor) {
	s.mu.Lock()
	delete(s.actors, a.id)
	s.mu.Unlock()
	s.changedView(true)
}

// lookup finds a container by its ID.
func (s *Supervisor) lookup(id string) (*actor, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if a := s.actors[id]; a != nil {
		return a, nil
	}
	return nil, fmt.Errorf("%w: %s", engine.ErrNotFound, id)
}
