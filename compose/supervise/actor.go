package supervise

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/stack-run/stack/compose/machine"
	"github.com/stack-run/stack/engine"
	"github.com/stack-run/stack/engine/container"
	"github.com/stack-run/stack/healthcheck"
	"github.com/stack-run/stack/netns"
)

// process is a container's process as an actor sees it, an [engine.Task].
type process interface {
	Done() <-chan struct{}
	// Finish cleans up once the process has ended, Release lets go of what tells
	// how it ended, once that is saved.
	Finish() engine.Exit
	Release()
	Signal(name string) error
	Kill() error
	Deaf(signal string) (bool, error)
	Freeze(ctx context.Context) error
	Thaw() error
}

// runner is what actors have done by the engine.
type runner interface {
	Start(ctx context.Context, c *engine.Container) (process, error)
	Adopt(ctx context.Context, c *engine.Container) (process, error)
	// Ended tells how a container ended that nobody saw end.
	Ended(c *engine.Container) (code int, ended bool)
	Unplug(ctx context.Context, c *engine.Container) error
	// Endpoint is what there is of a container in the networks, nil for nothing.
	Endpoint(id string) (*netns.Endpoint, error)
	// Remove removes a container, but for what Forget sees to.
	Remove(ctx context.Context, c *engine.Container, anonymousVolumes, rest bool) error
	// Forget sees to what may take long once a container is gone: its log, which
	// somebody may read, an endpoint that it left, and the rest of its files.
	Forget(id string, left *netns.Endpoint, rest bool)
	Save(c *engine.Container, d machine.Durability) error
	Health(c *engine.Container) *healthcheck.Spec
	// Prober returns what makes a probe, and what tells that the next one is worth making.
	Prober(ctx context.Context, c *engine.Container, check *healthcheck.Spec) (healthcheck.Probe, <-chan struct{})
	StopSignal(c *engine.Container) string
	// Describe says what a process does that should have ended.
	Describe(pid int) string
	// Deliver has the rest of the log of a container that does not run sent to where its
	// logging driver says, Linger stays for that.
	Deliver(c *engine.Container) error
	Linger(id string)
	// Publish has the names of what runs answered.
	Publish(table []netns.Entry) error
}

// actor is one container of the project. Its goroutine alone holds the record,
// feeds events into package machine and performs the effects through the engine,
// one after the other; what happens meanwhile waits in the mailbox. Everybody else
// gets a view.
type actor struct {
	s      *Supervisor
	engine runner
	id     string
	box    *mailbox
	view   atomic.Pointer[view]

	// Of the goroutine alone:
	c       *engine.Container // its State is the record's
	record  machine.Record
	task    process // nil unless one runs
	spent   process // has ended, and is released once its end is saved
	timer   *time.Timer
	armed   int // counts timers, so that one that is late is known
	probing context.CancelFunc
	asks    []*ask   // those that wait for what they asked for
	later   []func() // messages that wait for the end of a process that has ended
	failure error    // of the last start
	failed  int      // counts failed starts
	leave   func(*netns.Endpoint)
}

// view is a container at one moment. Nothing in it changes.
type view struct {
	engine.Container
	phase   machine.Phase
	busy    bool // something goes on or is to come by itself
	checked bool // it has a health check
	starts  int
	ends    int
}

// live says that it has a process.
func (v *view) live() bool {
	switch v.phase {
	case machine.Running, machine.Stopping, machine.Paused:
		return true
	}
	return false
}

// ask is a wish that somebody waits for.
type ask struct {
	verb string // for the error: "cannot VERB container NAME"
	// granted tells whether it has come true, or why it never will.
	granted func(a *actor) (bool, error)
	result  chan error
}

func newActor(s *Supervisor, c *engine.Container) *actor {
	a := &actor{s: s, engine: s.runner, id: c.ID, box: newMailbox(), c: c}
	a.record = machine.Record{
		State: c.State, Restart: c.Spec.Restart, AutoRemove: c.Spec.AutoRemove,
		OnUnhealthy: c.Spec.OnUnhealthy, Checked: s.runner.Health(c) != nil,
	}
	a.publish()
	return a
}

// run reads the mailbox until the container is gone.
func (a *actor) run() {
	for a.record.Phase() != machine.Gone {
		a.box.next(a.s.wake)()
		a.answer()
	}
	for _, message := range a.box.close() {
		message()
		a.answer()
	}
}

// publish makes the view what the record is, and wakes who waits for it.
func (a *actor) publish() {
	c := *a.c
	c.State = a.record.State
	a.c = &c
	v := &view{
		Container: c, phase: a.record.Phase(), busy: a.record.Busy(), checked: a.record.Checked,
		starts: a.record.Starts, ends: a.record.Ends,
	}
	before := a.view.Swap(v)
	names := before != nil && (before.live() != v.live() || before.State.Endpoint != v.State.Endpoint ||
		before.State.Health != v.State.Health || before.State.Aside != v.State.Aside || before.Spec.Name != v.Spec.Name)
	a.s.changedView(names)
}

// feed is one event: the machine decides, and what it wants is done. The error is
// for who asked: a wish that is refused, or an effect that failed.
func (a *actor) feed(ctx context.Context, e machine.Event) error {
	if e.At.IsZero() {
		e.At = a.s.now()
	}
	record, effects, err := machine.Step(a.record, e)
	if err != nil {
		var refused *machine.RefusedError
		if !errors.As(err, &refused) {
			a.s.warn(fmt.Errorf("container %s: %w", a.c.Spec.Name, err))
		}
		return err
	}
	a.record = record
	a.publish()
	var errs []error
	for _, effect := range effects {
		if err := a.perform(ctx, effect); err != nil {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// perform carries out one effect.
func (a *actor) perform(ctx context.Context, x machine.Effect) error {
	switch x.Kind {
	case machine.Start:
		return a.start(ctx)
	case machine.Signal:
		if a.task == nil {
			return nil // it has ended, which is not told yet
		}
		return a.task.Signal(fmt.Sprint(x.Signal))
	case machine.Kill:
		if a.task == nil {
			return nil
		}
		return a.task.Kill()
	case machine.ArmTimer:
		a.arm(x.Event, x.At)
	case machine.DisarmTimer:
		a.disarm()
	case machine.Probe:
		a.probe()
	case machine.StopProbe:
		if a.probing != nil {
			a.probing()
			a.probing = nil
		}
	case machine.Freeze:
		if a.task == nil {
			return &machine.RefusedError{Text: "it is not running"}
		}
		if err := a.task.Freeze(ctx); err != nil {
			select {
			case <-a.task.Done():
				err = &machine.RefusedError{Text: "it ended at that moment"}
			default:
			}
			return err
		}
		return a.feed(ctx, machine.Event{Kind: machine.Frozen})
	case machine.Thaw:
		if a.task == nil {
			return nil
		}
		if err := a.task.Thaw(); err != nil {
			return err
		}
		return a.feed(ctx, machine.Event{Kind: machine.Thawed})
	case machine.End:
		return a.endUnhealthy(ctx)
	case machine.RestartDependents:
		a.restartDependents()
	case machine.Unplug:
		return a.unplug()
	case machine.Save:
		a.save(x.Durability)
	case machine.Emit:
		a.emit(x.Action, x.Attribute)
	case machine.Remove:
		return a.remove(x.Volumes)
	default:
		return fmt.Errorf("internal error: effect %q is not known", x.Kind)
	}
	return nil
}

// errLeaves ends what a supervisor that leaves does not begin any more, or gives up. It
// is no outcome: nothing of it is saved, and whoever asked asks the next one.
var errLeaves = errors.New("the supervisor leaves")

func (a *actor) start(ctx context.Context) error {
	if a.s.leaves() {
		return errLeaves
	}
	a.release() // the new process has the same cgroup
	c := *a.c
	// Whoever asked may go away meanwhile; others may have come to count on it.
	task, err := a.engine.Start(a.s.ctx, &c)
	if err != nil && a.s.leaves() {
		return errors.Join(errLeaves, err)
	}
	if err != nil {
		a.failure = err
		a.failed++
		return errors.Join(err, a.feed(ctx, machine.Event{Kind: machine.StartFailed, Error: err.Error(), ExitCode: engine.StartExitCode(err)}))
	}
	a.task, a.c = task, &c // its volumes and files are known now
	err = a.feed(ctx, machine.Event{Kind: machine.Started, State: c.State})
	go a.watch(a.task)
	return err
}

// watch waits for the process' end, cleans up behind it and tells of it.
func (a *actor) watch(task process) {
	<-task.Done()
	if a.s.leaving.Load() {
		return // the next supervisor sees it, too
	}
	exit := task.Finish()
	a.box.post(func() { a.ended(task, exit) })
}

// ended tells of the process' end.
func (a *actor) ended(task process, exit engine.Exit) {
	if a.task != task {
		return
	}
	a.task, a.spent = nil, task
	err := a.feed(a.s.ctx, machine.Event{Kind: machine.ProcessExited, ExitCode: exit.Code, OOMKilled: exit.OOMKilled, Error: exit.Note})
	a.release()
	if err != nil && !a.s.leaves() {
		a.s.warn(err)
	}
	a.engine.Linger(a.id)
	for _, message := range a.later {
		a.box.post(message)
	}
	a.later = nil
}

// release lets go of a process whose end is in the record.
func (a *actor) release() {
	if a.spent != nil {
		a.spent.Release()
		a.spent = nil
	}
}

// arm has an event happen at a time.
func (a *actor) arm(kind machine.EventKind, at time.Time) {
	a.disarm()
	armed := a.armed
	a.timer = time.AfterFunc(time.Until(at), func() {
		a.box.post(func() {
			if a.armed != armed {
				return
			}
			now := a.s.now()
			if now.Before(at) { // the clock was set back; the time has passed all the same
				now = at
			}
			if err := a.feed(a.s.ctx, machine.Event{Kind: kind, At: now}); err != nil && !a.s.leaves() {
				a.s.warn(err)
			}
		})
	})
}

func (a *actor) disarm() {
	a.armed++
	if a.timer != nil {
		a.timer.Stop()
		a.timer = nil
	}
}

// probe begins with the health checks.
func (a *actor) probe() {
	check := a.engine.Health(a.c)
	if check == nil || a.probing != nil {
		return
	}
	ctx, cancel := context.WithCancel(a.s.ctx)
	a.probing = cancel
	task, c := a.task, *a.c
	st := c.State
	probe, wake := a.engine.Prober(ctx, &c, check)
	go healthcheck.Run(ctx, healthcheck.Target{
		Spec: *check, Started: st.StartedAt, Wake: wake,
		Resume: healthcheck.State{Status: st.Health, FailingStreak: st.FailingStreak, Log: st.HealthLog},
	}, probe, func(health healthcheck.State, _ bool) {
		a.box.post(func() {
			if a.task == task && task != nil {
				a.feed(a.s.ctx, machine.Event{Kind: machine.Probed, Health: health})
			}
		})
	})
}

func (a *actor) save(d machine.Durability) {
	c := *a.c
	c.State = a.record.State
	if err := a.engine.Save(&c, d); err != nil {
		a.s.warn(fmt.Errorf("cannot save the state of container %s: %w", c.Spec.Name, err))
	}
	a.release()
}

func (a *actor) emit(action, attribute string) {
	var extra map[string]string
	if key, value, ok := strings.Cut(attribute, "="); ok {
		extra = map[string]string{key: value}
	}
	a.s.emit(a.c, action, extra)
}

// unplug frees what an ended container holds in its networks.
func (a *actor) unplug() error {
	c := *a.c
	err := a.engine.Unplug(a.s.ctx, &c)
	if a.record.State.Endpoint != c.State.Endpoint {
		a.record.State.Endpoint = c.State.Endpoint
		a.publish()
		a.save(machine.UntilBoot)
	}
	return err
}

// takeEndpoint takes a container's endpoint from it, nil if it has none of its own.
func takeEndpoint(st *engine.State) *netns.Endpoint {
	ep := st.Endpoint
	if ep == nil || ep.Spec.Mode != "" {
		return nil
	}
	st.Endpoint = nil
	return ep
}

// leavesAlone says that nobody will want what an endpoint takes with it: ports, or a
// network to remove.
func leavesAlone(ep *netns.Endpoint) bool {
	return ep != nil && len(ep.Ports) == 0 && len(ep.Spec.Networks) == 1 && ep.Spec.Networks[0].Network == engine.DefaultNetwork
}

// remove takes the container away with all that is its own.
func (a *actor) remove(withVolumes bool) error {
	c := *a.c
	// The kernel takes its time to delete links, and so does a file system. Whoever
	// ran a container with --rm has got what he came for, and does not wait for that;
	// who asked for its end does.
	rest := c.Spec.AutoRemove && !c.State.StoppedByUser
	var later *netns.Endpoint
	if a.leave != nil {
		if ep := takeEndpoint(&c.State); ep != nil {
			a.leave(ep)
		}
	} else if rest && leavesAlone(c.State.Endpoint) {
		later = takeEndpoint(&c.State)
	}
	if err := a.engine.Remove(a.s.ctx, &c, withVolumes, rest); err != nil {
		return errors.Join(err, a.feed(a.s.ctx, machine.Event{Kind: machine.RemoveFailed, Error: err.Error()}))
	}
	a.engine.Forget(c.ID, later, rest)
	err := a.feed(a.s.ctx, machine.Event{Kind: machine.Removed})
	a.s.forget(a)
	return err
}

// answer gives those who asked what they wait for, as far as it has come.
func (a *actor) answer() {
	waiting := a.asks
	a.asks = nil
	for _, k := range waiting {
		if done, err := k.granted(a); done || err != nil {
			k.result <- a.because(k.verb, err)
		} else {
			a.asks = append(a.asks, k)
		}
	}
}

// because names the verb and the container in a refusal.
func (a *actor) because(verb string, err error) error {
	var refused *machine.RefusedError
	if errors.As(err, &refused) {
		return fmt.Errorf("cannot %s container %s: %w", verb, a.c.Spec.Name, refused)
	}
	return err
}

// wish is how something is asked of a container.
type wish struct {
	verb  string
	event machine.Event
	// prepare completes the event with what is known only when its turn comes, and
	// may refuse.
	prepare func(a *actor, e *machine.Event) error
	// granted tells whether it has come true. It is made when the wish's turn comes.
	granted func(a *actor) func(a *actor) (bool, error)
	// limit is how long the process may take to end once all has been done for it;
	// 0 for a wish that does not end it.
	limit time.Duration
	// atOnce is a wish that is granted or refused at once, or a wish whose outcome
	// is nobody's concern.
	atOnce bool
	// afterEnd has it wait for the exit of a process that has ended already.
	afterEnd bool
}

// want asks for something and waits until it is so. If ctx ends first, a wish whose
// turn has come goes on all the same.
func (a *actor) want(ctx context.Context, w wish) error {
	k := &ask{verb: w.verb, result: make(chan error, 1)}
	if w.limit > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, w.limit, errStuck)
		defer cancel()
	}
	var message func()
	message = func() {
		if ctx.Err() != nil {
			return
		}
		if w.afterEnd && a.putOff(message) {
			return
		}
		e := w.event
		if w.prepare != nil {
			if err := w.prepare(a, &e); err != nil {
				k.result <- err
				return
			}
		}
		if w.granted != nil {
			k.granted = w.granted(a)
		}
		if err := a.feed(ctx, e); err != nil {
			k.result <- a.because(w.verb, err)
			return
		}
		if w.atOnce {
			k.result <- nil
			return
		}
		a.asks = append(a.asks, k)
	}
	if !a.box.post(message) {
		return fmt.Errorf("%w: %s", engine.ErrNotFound, a.view.Load().Spec.Name)
	}
	select {
	case err := <-k.result:
		return err
	case <-ctx.Done():
	}
	if cause := context.Cause(ctx); !errors.Is(cause, errStuck) {
		return cause
	}
	v := a.view.Load()
	return fmt.Errorf("cannot %s container %s: its process %d does not end, %v after it was killed (%s); it goes on being waited for",
		w.verb, v.Spec.Name, v.State.Pid, killBound, a.engine.Describe(v.State.Pid))
}

// putOff has a message wait for the exit of a process that has ended already, and
// tells whether there is one.
func (a *actor) putOff(message func()) bool {
	if a.task == nil {
		return false
	}
	select {
	case <-a.task.Done():
		a.later = append(a.later, message)
		return true
	default:
		return false
	}
}

// errStuck says that a process that was killed does not end.
var errStuck = errors.New("the process does not end")

// killBound is how long a killed process may take to end: only what waits in the
// kernel, such as for a file server that does not answer, takes longer.
const killBound = 30 * time.Second

// endBound is the longest that a process takes that is asked to end within a grace
// period, 0 for one that has no end.
func endBound(grace time.Duration) time.Duration {
	if grace < 0 {
		return 0
	}
	return grace + killBound
}

// change has the goroutine change the container itself: name, limits, networks.
func (a *actor) change(ctx context.Context, do func(c *engine.Container) error) error {
	result := make(chan error, 1)
	var message func()
	message = func() {
		if ctx.Err() != nil || a.putOff(message) {
			return
		}
		c := *a.c
		if a.record.Phase() == machine.Gone {
			result <- fmt.Errorf("%w: %s", engine.ErrNotFound, c.Spec.Name)
			return
		}
		if err := do(&c); err != nil {
			result <- err
			return
		}
		a.c, a.record.State = &c, c.State
		a.record.Restart, a.record.AutoRemove = c.Spec.Restart, c.Spec.AutoRemove
		a.publish()
		a.save(machine.UntilBoot)
		result <- nil
	}
	if !a.box.post(message) {
		return fmt.Errorf("%w: %s", engine.ErrNotFound, a.view.Load().Spec.Name)
	}
	select {
	case err := <-result:
		return err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// adopt takes over a container that ran under an earlier supervisor, or is at rest.
// A process that has ended since is told as if it were seen now.
func (a *actor) adopt(ctx context.Context) {
	switch a.record.State.Phase {
	case engine.Running, engine.Paused:
		c := *a.c
		task, err := a.engine.Adopt(ctx, &c)
		if err != nil {
			a.s.warn(fmt.Errorf("cannot adopt container %s: %w", c.Spec.Name, err))
			if _, ended := a.engine.Ended(&c); !ended {
				return // it runs on, and nobody sees to it
			}
		} else {
			a.task, a.c = task, &c
			a.record.State = c.State
		}
	}
	if a.task == nil && a.record.State.Endpoint == nil {
		// A start that was cut off may have left one that is not in the record.
		ep, err := a.engine.Endpoint(a.id)
		if err != nil {
			a.s.warn(err)
		}
		a.record.State.Endpoint = ep
	}
	if err := a.feed(ctx, machine.Event{Kind: machine.Adopted}); err != nil && ctx.Err() == nil {
		a.s.warn(err)
	}
	if task := a.task; task != nil {
		select {
		case <-task.Done():
			a.ended(task, task.Finish())
		default:
			go a.watch(task)
		}
		return
	}
	if err := a.engine.Deliver(a.c); err != nil {
		a.s.warn(fmt.Errorf("container %s: %w", a.c.Spec.Name, err))
	}
	a.engine.Linger(a.id)
	// An end that was cut off may have left one, or half of it.
	if a.record.State.Endpoint != nil && !a.record.Busy() && a.record.Phase() != machine.Gone {
		if err := a.unplug(); err != nil {
			a.s.warn(err)
		}
	}
	if a.record.Live() {
		code, _ := a.engine.Ended(a.c)
		a.feed(ctx, machine.Event{Kind: machine.ProcessExited, ExitCode: code, Error: "it ended while no supervisor was there"})
	}
}

// The wishes.

// start starts a container that does not run. One that runs is left alone. With aside
// it has neither names nor published ports until it is let in.
func (a *actor) startIt(ctx context.Context, aside bool, before func(c *engine.Container)) error {
	return a.want(ctx, wish{
		verb: "start", event: machine.Event{Kind: machine.StartAsked, Aside: aside}, afterEnd: true,
		prepare: func(a *actor, _ *machine.Event) error {
			if before != nil {
				c := *a.c
				before(&c)
				a.c = &c
			}
			return nil
		},
		granted: untilStarted,
	})
}

// untilStarted is granted by the next start, or because it runs.
func untilStarted(a *actor) func(*actor) (bool, error) {
	starts, failed := a.record.Starts, a.failed
	return func(a *actor) (bool, error) {
		switch phase := a.record.Phase(); {
		case a.record.Starts > starts, phase == machine.Running, phase == machine.Paused:
			return true, nil
		case a.failed > failed:
			return true, a.failure
		case phase == machine.Gone:
			return true, &machine.RefusedError{Text: "it was removed meanwhile"}
		case phase == machine.Exited, phase == machine.Created, phase == machine.Dead:
			return true, &machine.RefusedError{Text: "it was stopped meanwhile"}
		}
		return false, nil
	}
}

type stopOptions struct {
	signal string         // "": the container's own
	grace  *time.Duration // nil: the container's own
	// again starts it once it has ended.
	again bool
	// keepNet leaves the network as it is, for a start that follows at once.
	keepNet bool
	// leave, if any, is given the endpoint once the container has ended, to be taken
	// away with its network. The container is about to be removed.
	leave func(*netns.Endpoint)
	doom  bool
	// notice gets a sentence worth telling, such as why the grace period was not waited out.
	notice func(string)
}

// stopIt ends a container's process: signal, grace period, kill.
func (a *actor) stopIt(ctx context.Context, o stopOptions) error {
	verb := "stop"
	granted := untilEnded
	if o.again {
		verb, granted = "restart", untilStartedAnew
	}
	grace := a.grace(o)
	err := a.want(ctx, wish{
		verb: verb, granted: granted, limit: endBound(grace),
		event: machine.Event{Kind: machine.StopAsked, Again: o.again, KeepNetwork: o.keepNet, Transient: o.doom},
		prepare: func(a *actor, e *machine.Event) error {
			signal := a.askToEnd(e, o.signal, grace)
			if e.Deaf && o.notice != nil && e.Grace != 0 {
				o.notice(fmt.Sprintf("PID 1 does not catch %s, killed at once; set \"init: true\", or start the program with exec", signal))
			}
			return nil
		},
	})
	if err != nil || o.leave == nil {
		return err
	}
	// Not saved: after a crash it is the container's again.
	a.box.post(func() {
		if a.task != nil {
			return // somebody started it again
		}
		if ep := takeEndpoint(&a.record.State); ep != nil {
			a.publish()
			o.leave(ep)
		}
	})
	return a.settled(ctx)
}

// askToEnd completes an event that asks the process to end, by a signal or, for "", the
// container's own, which it returns.
func (a *actor) askToEnd(e *machine.Event, signal string, grace time.Duration) string {
	if signal == "" {
		signal = a.engine.StopSignal(a.c)
	}
	e.Signal, e.Grace = int(engine.SignalNumber(signal)), grace
	if a.task != nil {
		// When the process cannot react to the signal, waiting is pointless.
		deaf, err := a.task.Deaf(signal)
		e.Deaf = err == nil && deaf
	}
	return signal
}

// endUnhealthy has the process end because the container is unhealthy.
func (a *actor) endUnhealthy(ctx context.Context) error {
	e := machine.Event{Kind: machine.UnhealthyEnded}
	if a.c.Spec.OnUnhealthy == container.UnhealthyKill {
		e.Signal, e.Deaf = int(unix.SIGKILL), true
	} else {
		a.askToEnd(&e, "", a.grace(stopOptions{}))
	}
	return a.feed(ctx, e)
}

// grace is the time between a stop's signal and SIGKILL, below 0 for ever.
func (a *actor) grace(o stopOptions) time.Duration {
	if o.grace != nil {
		return *o.grace
	}
	// An explicit 0s is 1 ns, package spec.
	return cmp.Or(a.view.Load().Spec.StopGrace, engine.DefaultStopGrace)
}

// settled returns when all that was posted before has been read.
func (a *actor) settled(ctx context.Context) error {
	done := make(chan struct{})
	if !a.box.post(func() { close(done) }) {
		return nil
	}
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// untilEnded is granted by the next end, or because it does not run. What removes
// itself is waited for until it is gone.
func untilEnded(a *actor) func(*actor) (bool, error) {
	ends := a.record.Ends
	return func(a *actor) (bool, error) {
		phase := a.record.Phase()
		if a.record.AutoRemove && a.record.Ends == ends+1 {
			return phase == machine.Gone || phase == machine.Dead, nil
		}
		switch phase {
		case machine.Starting, machine.Running, machine.Stopping, machine.Paused, machine.Restarting:
			return a.record.Ends > ends, nil
		}
		return true, nil
	}
}

// untilStartedAnew is untilStarted for what runs already.
func untilStartedAnew(a *actor) func(*actor) (bool, error) {
	starts := a.record.Starts
	started := untilStarted(a)
	return func(a *actor) (bool, error) {
		if a.record.Live() && a.record.Starts == starts {
			return false, nil
		}
		return started(a)
	}
}

// killIt sends a signal to the container's first process.
func (a *actor) killIt(ctx context.Context, signal string) error {
	if signal == "" {
		signal = "SIGKILL"
	}
	number := engine.SignalNumber(signal)
	w := wish{verb: "kill", event: machine.Event{Kind: machine.KillAsked, Signal: int(number)}, afterEnd: true, atOnce: true}
	if number == unix.SIGKILL {
		w.atOnce, w.granted, w.limit = false, untilEnded, killBound
	}
	return a.want(ctx, w)
}

func (a *actor) pauseIt(ctx context.Context) error {
	return a.want(ctx, wish{verb: "pause", event: machine.Event{Kind: machine.PauseAsked}, atOnce: true, afterEnd: true})
}

func (a *actor) unpauseIt(ctx context.Context) error {
	return a.want(ctx, wish{verb: "unpause", event: machine.Event{Kind: machine.UnpauseAsked}, atOnce: true, afterEnd: true})
}

type removeOptions struct {
	force   bool // kill first
	volumes bool // anonymous volumes too
	// leave, if any, is given the endpoint, to be taken away with the network.
	leave func(*netns.Endpoint)
}

// removeIt takes a container away with all that is its own.
func (a *actor) removeIt(ctx context.Context, o removeOptions) error {
	err := a.want(ctx, wish{
		verb: "remove", event: machine.Event{Kind: machine.RemoveAsked, Force: o.force, Volumes: o.volumes}, afterEnd: true, limit: killBound,
		prepare: func(a *actor, _ *machine.Event) error {
			a.leave = o.leave
			return nil
		},
		granted: func(*actor) func(*actor) (bool, error) {
			return func(a *actor) (bool, error) {
				switch a.record.Phase() {
				case machine.Gone:
					return true, nil
				case machine.Dead:
					return true, errors.New(a.record.State.Error)
				}
				return false, nil
			}
		},
	})
	if err == nil || errors.Is(err, engine.ErrNotFound) { // or somebody else removed it
		return nil
	}
	a.box.post(func() { a.leave = nil })
	return err
}

// unplugIt frees the network of what does not run after all.
func (a *actor) unplugIt() {
	a.box.post(func() {
		a.record.Transient = false
		if a.record.Busy() || a.record.Phase() == machine.Gone {
			return
		}
		if err := a.unplug(); err != nil {
			a.s.warn(err)
		}
	})
}
