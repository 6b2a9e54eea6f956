package supervise

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"github.com/stack-run/stack/engine"
	"github.com/stack-run/stack/healthcheck"
	"github.com/stack-run/stack/netns"
)

// unit is one container of the project, as its supervisor sees it.
//
// Two locks: operations (start, stop, remove …) on one unit take turns by its op
// slot, held for as long as the operation takes; the fields are guarded by
// Supervisor.mu, held for moments. What happens by itself (exited, restartDue,
// probed) takes only the latter, so that an operation can wait for it.
type unit struct {
	c    *engine.Container
	task *engine.Task // nil unless a process runs
	op   chan struct{}

	restart   *time.Timer // pending restart
	lastDelay time.Duration
	health    context.CancelFunc
	removed   bool
	// doomed says that it is about to be removed: its end need not survive a power
	// failure, and its network goes with it.
	doomed bool
}

func newUnit(c *engine.Container) *unit {
	return &unit{c: c, op: make(chan struct{}, 1)}
}

// begin takes the unit's operation slot.
func (u *unit) begin(ctx context.Context) (end func(), err error) {
	select {
	case u.op <- struct{}{}:
		return func() { <-u.op }, nil
	case <-ctx.Done():
		return nil, fmt.Errorf("another operation on container %s did not end: %w", u.c.Spec.Name, context.Cause(ctx))
	}
}

// start starts a container that does not run. One that runs is left alone.
func (s *Supervisor) start(ctx context.Context, u *unit) error {
	end, err := u.begin(ctx)
	if err != nil {
		return err
	}
	defer end()
	return s.startLocked(ctx, u, false)
}

// startLocked is start for callers that hold the operation slot.
func (s *Supervisor) startLocked(ctx context.Context, u *unit, isRestart bool) error {
	s.mu.Lock()
	if u.removed {
		s.mu.Unlock()
		return fmt.Errorf("%w: %s", engine.ErrNotFound, u.c.Spec.Name)
	}
	if u.task != nil {
		s.mu.Unlock()
		return nil
	}
	u.cancelRestart()
	c := *u.c
	s.mu.Unlock()

	release, err := s.holdDefaultNetwork(ctx, c.Spec)
	if err != nil {
		return err
	}
	task, err := s.engine.Start(ctx, &c, engine.StartOptions{Keep: s.keeper, Attached: s.serveNames})
	release()
	s.mu.Lock()
	if err != nil {
		c.State.Phase = engine.Exited
		if c.State.StartedAt.IsZero() {
			c.State.Phase = engine.Created
		}
		c.State.Error = err.Error()
		c.State.ExitCode = engine.StartExitCode(err)
		c.State.FinishedAt = s.now()
		u.c = &c
		s.saveFinal(u)
		s.changedLocked()
		s.mu.Unlock()
		return err
	}
	if !isRestart {
		c.State.RestartCount, u.lastDelay = 0, 0
	}
	c.State.StoppedByUser = false
	u.c, u.task = &c, task
	s.startHealth(u)
	if err := s.engine.Records.SaveStarted(u.c); err != nil {
		s.warnLocked(fmt.Errorf("cannot save the state of container %s: %w", u.c.Spec.Name, err))
	}
	s.refreshNames()
	s.changedLocked()
	s.mu.Unlock()

	s.emit(u.c, "start", nil)
	go s.watch(u, task)
	if !isRestart {
		return s.runPostStart(ctx, u)
	}
	return nil
}

func (u *unit) cancelRestart() {
	if u.restart != nil {
		u.restart.Stop()
		u.restart = nil
	}
}

// watch waits for the process' end, cleans up behind it and tells exited.
func (s *Supervisor) watch(u *unit, task *engine.Task) {
	<-task.Done()
	if s.leaving.Load() {
		return
	}
	exit := task.Finish()
	s.exited(u, task, exit)
}

// exited is the past tense of running: state, restart policy, auto-remove.
func (s *Supervisor) exited(u *unit, task *engine.Task, exit engine.Exit) {
	s.mu.Lock()
	if u.task != task {
		s.mu.Unlock()
		return
	}
	c := *u.c
	now := s.now()
	ran := now.Sub(c.State.StartedAt)
	c.State.Pid, c.State.StartTicks = 0, 0
	c.State.ExitCode, c.State.OOMKilled, c.State.Error = exit.Code, exit.OOMKilled, exit.Note
	c.State.FinishedAt = now
	if c.State.Health != healthcheck.None {
		c.State.Health = healthcheck.Unhealthy
	}
	if u.health != nil {
		u.health()
		u.health = nil
	}
	u.task = nil
	again, delay := restartAfter(c.Spec.Restart, ended{
		ExitCode: exit.Code, RanFor: ran, StoppedByUser: c.State.StoppedByUser,
		Restarts: c.State.RestartCount, LastDelay: u.lastDelay,
	})
	c.State.Phase = engine.Exited
	if again {
		c.State.Phase = engine.Restarting
		u.lastDelay = delay
		u.restart = time.AfterFunc(delay, func() { s.restartDue(u) })
	}
	u.c = &c
	s.saveFinal(u)
	s.refreshNames()
	s.changedLocked()
	s.mu.Unlock()

	s.emit(&c, "die", map[string]string{"exitCode": fmt.Sprint(exit.Code)})
	if exit.OOMKilled {
		s.emit(&c, "oom", nil)
	}
	switch {
	case again:
	case c.Spec.AutoRemove:
		s.background(func(ctx context.Context) error { return s.remove(ctx, u, removeOptions{volumes: true}) })
	default:
		// Nobody answers on the published ports any more: free them.
		s.background(func(ctx context.Context) error { return s.unplug(ctx, u) })
	}
}

// restartDue starts a container whose back-off has passed.
func (s *Supervisor) restartDue(u *unit) {
	s.background(func(ctx context.Context) error {
		end, err := u.begin(ctx)
		if err != nil {
			return err
		}
		defer end()
		s.mu.Lock()
		if u.removed || u.c.State.Phase != engine.Restarting {
			s.mu.Unlock()
			return nil
		}
		u.c.State.RestartCount++
		s.mu.Unlock()
		err = s.startLocked(ctx, u, true)
		if err == nil {
			return nil
		}
		// A start that fails counts as a run that failed.
		s.mu.Lock()
		defer s.mu.Unlock()
		again, delay := restartAfter(u.c.Spec.Restart, ended{ExitCode: u.c.State.ExitCode, Restarts: u.c.State.RestartCount, LastDelay: u.lastDelay})
		if again && !u.removed {
			u.c.State.Phase, u.lastDelay = engine.Restarting, delay
			u.restart = time.AfterFunc(delay, func() { s.restartDue(u) })
			s.save(u)
			s.changedLocked()
		}
		return err
	})
}

// unplug frees what an ended container holds in the network, unless it was
// started again meanwhile.
func (s *Supervisor) unplug(ctx context.Context, u *unit) error {
	end, err := u.begin(ctx)
	if err != nil {
		return err
	}
	defer end()
	s.mu.Lock()
	c, idle := *u.c, u.task == nil && u.restart == nil && !u.removed
	doomed := u.doomed
	s.mu.Unlock()
	if !idle || doomed {
		return nil
	}
	if err := s.engine.Unplug(ctx, &c, s.keeper); err != nil {
		return err
	}
	s.mu.Lock()
	u.c = &c
	s.save(u)
	s.changedLocked()
	s.mu.Unlock()
	return s.engine.ReleaseVolumes(ctx)
}

type stopOptions struct {
	signal string         // "": the container's own
	grace  *time.Duration // nil: the container's own
	// keepNet leaves the network as it is, for a start that follows at once.
	keepNet bool
	// leave, if any, is given the endpoint, see [removeOptions].
	leave func(*netns.Endpoint)
	// notice gets a sentence worth telling, such as why the grace period was not waited out.
	notice func(string)
}

// stop ends a container's process: hooks, signal, grace period, kill.
func (s *Supervisor) stop(ctx context.Context, u *unit, o stopOptions) error {
	end, err := u.begin(ctx)
	if err != nil {
		return err
	}
	defer end()
	if err := s.stopLocked(ctx, u, o); err != nil || o.leave == nil {
		return err
	}
	// Not saved: after a crash it is the container's again.
	s.mu.Lock()
	c := *u.c
	ep := takeEndpoint(&c)
	u.c = &c
	s.mu.Unlock()
	if ep != nil {
		o.leave(ep)
	}
	return nil
}

// takeEndpoint takes a container's endpoint from it, nil if it has none of its own.
func takeEndpoint(c *engine.Container) *netns.Endpoint {
	ep := c.State.Endpoint
	if ep == nil || ep.Spec.Mode != "" {
		return nil
	}
	c.State.Endpoint = nil
	return ep
}

func (s *Supervisor) stopLocked(ctx context.Context, u *unit, o stopOptions) error {
	s.mu.Lock()
	u.cancelRestart()
	u.c.State.StoppedByUser = true
	task, c := u.task, *u.c
	if task == nil {
		if u.c.State.Phase == engine.Restarting {
			u.c.State.Phase = engine.Exited
		}
		s.saveFinal(u)
		s.changedLocked()
		s.mu.Unlock()
		if o.keepNet || u.removed {
			return nil
		}
		return s.unplugLocked(ctx, u)
	}
	s.save(u)
	s.mu.Unlock()

	if c.State.Phase == engine.Paused {
		if err := s.thaw(u); err != nil {
			return err
		}
	}
	s.runPreStop(ctx, u, o.notice)
	grace := c.Spec.StopGrace
	if o.grace != nil {
		grace = *o.grace
	} else if grace == 0 {
		grace = engine.DefaultStopGrace // an explicit 0s is 1 ns, package spec
	}
	if err := s.terminate(ctx, u, task, o, grace); err != nil {
		return err
	}
	if err := s.await(ctx, func() (bool, error) { return u.task != task, nil }); err != nil {
		return err
	}
	s.emit(&c, "stop", nil)
	if o.keepNet || c.Spec.AutoRemove {
		return nil
	}
	return s.unplugLocked(ctx, u)
}

// terminate signals and, when the grace period has passed, kills. A grace period
// below zero waits for ever. When the process cannot react to the signal at
// all, waiting is pointless and is left out.
func (s *Supervisor) terminate(ctx context.Context, u *unit, task *engine.Task, o stopOptions, grace time.Duration) error {
	signal := o.signal
	if signal == "" {
		signal = s.engine.StopSignal(u.c)
	}
	deaf, err := task.Deaf(signal)
	if err == nil && deaf {
		if o.notice != nil {
			o.notice(fmt.Sprintf("PID 1 does not catch %s, killed at once; set \"init: true\", or start the program with exec", signal))
		}
		s.emitKill(u, unix.SIGKILL)
		return task.Kill()
	}
	s.emitKill(u, engine.SignalNumber(signal))
	if err := task.Signal(signal); err != nil {
		return err
	}
	var timeout <-chan time.Time
	if grace >= 0 {
		t := time.NewTimer(grace)
		defer t.Stop()
		timeout = t.C
	}
	select {
	case <-task.Done():
		return nil
	case <-timeout:
		s.emitKill(u, unix.SIGKILL)
		return task.Kill()
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// emitKill tells of a signal, by number as docker does.
func (s *Supervisor) emitKill(u *unit, sig unix.Signal) {
	c := s.view(u)
	s.emit(&c, "kill", map[string]string{"signal": strconv.Itoa(int(sig))})
}

func (s *Supervisor) unplugLocked(ctx context.Context, u *unit) error {
	s.mu.Lock()
	c := *u.c
	s.mu.Unlock()
	if err := s.engine.Unplug(ctx, &c, s.keeper); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if u.task == nil {
		u.c = &c
		s.save(u)
	}
	return nil
}

// restartUnit is stop and start in one operation; the network stays.
func (s *Supervisor) restartUnit(ctx context.Context, u *unit, o stopOptions) error {
	end, err := u.begin(ctx)
	if err != nil {
		return err
	}
	defer end()
	c := s.view(u)
	if err := errors.Join(append(s.engine.Feasible(c.Spec), s.engine.CheckRoom())...); err != nil && c.State.Pid != 0 {
		return fmt.Errorf("cannot restart container %s: %w; it is left running", c.Spec.Name, err)
	}
	o.keepNet = true
	if err := s.stopLocked(ctx, u, o); err != nil {
		return err
	}
	if err := s.startLocked(ctx, u, false); err != nil {
		return err
	}
	s.emit(u.c, "restart", nil)
	return nil
}

// kill sends a signal to the container's first process. Unlike stop it leaves
// the restart policy in force, except for SIGKILL and the like, as Docker does:
// a kill counts as asked for by the user.
func (s *Supervisor) kill(ctx context.Context, u *unit, signal string) error {
	s.mu.Lock()
	task := u.task
	if task == nil {
		name := u.c.Spec.Name
		s.mu.Unlock()
		return fmt.Errorf("cannot kill container %s: it is not running", name)
	}
	s.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return err
	}
	if signal == "" {
		signal = "SIGKILL"
	}
	fatal := engine.SignalNumber(signal) == unix.SIGKILL
	if fatal {
		s.mu.Lock()
		u.c.State.StoppedByUser = true
		s.save(u)
		paused := u.c.State.Phase == engine.Paused
		s.mu.Unlock()
		if paused {
			if err := s.thaw(u); err != nil {
				return err
			}
		}
	}
	if err := task.Signal(signal); err != nil {
		return err
	}
	s.emitKill(u, engine.SignalNumber(signal))
	if !fatal {
		return nil
	}
	return s.await(ctx, func() (bool, error) { return u.task != task, nil })
}

func (s *Supervisor) pause(ctx context.Context, u *unit) error {
	end, err := u.begin(ctx)
	if err != nil {
		return err
	}
	defer end()
	s.mu.Lock()
	task, phase := u.task, u.c.State.Phase
	s.mu.Unlock()
	if task == nil || phase != engine.Running {
		return fmt.Errorf("cannot pause container %s: it is %s", u.c.Spec.Name, phase)
	}
	if err := task.Freeze(ctx); err != nil {
		return err
	}
	s.setPhase(u, engine.Paused)
	s.emit(u.c, "pause", nil)
	return nil
}

func (s *Supervisor) unpause(ctx context.Context, u *unit) error {
	end, err := u.begin(ctx)
	if err != nil {
		return err
	}
	defer end()
	s.mu.Lock()
	phase := u.c.State.Phase
	s.mu.Unlock()
	if phase != engine.Paused {
		return fmt.Errorf("cannot unpause container %s: it is %s", u.c.Spec.Name, phase)
	}
	return s.thaw(u)
}

func (s *Supervisor) thaw(u *unit) error {
	s.mu.Lock()
	task := u.task
	s.mu.Unlock()
	if task == nil {
		return nil
	}
	if err := task.Thaw(); err != nil {
		return err
	}
	s.setPhase(u, engine.Running)
	s.emit(u.c, "unpause", nil)
	return nil
}

func (s *Supervisor) setPhase(u *unit, p engine.Phase) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if u.task == nil {
		return
	}
	c := *u.c
	c.State.Phase = p
	u.c = &c
	s.save(u)
	s.changedLocked()
}

type removeOptions struct {
	force   bool // kill first
	volumes bool // anonymous volumes too
	// leave, if any, is given the endpoint, to be taken away with the network.
	leave func(*netns.Endpoint)
}

// remove takes a container away with all that is its own.
func (s *Supervisor) remove(ctx context.Context, u *unit, o removeOptions) error {
	end, err := u.begin(ctx)
	if err != nil {
		return err
	}
	defer end()
	s.mu.Lock()
	if u.removed {
		s.mu.Unlock()
		return nil
	}
	task, phase := u.task, u.c.State.Phase
	u.cancelRestart()
	u.c.State.StoppedByUser = true
	s.mu.Unlock()
	if task != nil {
		ended := false
		select {
		case <-task.Done():
			ended = true
		default:
		}
		if !ended && !o.force {
			return fmt.Errorf("cannot remove container %s: it is running; stop it first or use --force", u.c.Spec.Name)
		}
		if phase == engine.Paused {
			if err := s.thaw(u); err != nil {
				return err
			}
		}
		if !ended {
			s.emitKill(u, unix.SIGKILL)
			if err := task.Kill(); err != nil {
				return err
			}
		}
		if err := s.await(ctx, func() (bool, error) { return u.task != task, nil }); err != nil {
			return err
		}
	}
	s.mu.Lock()
	c := *u.c
	s.mu.Unlock()
	// The kernel takes its time to delete links. Whoever ran a container with
	// --rm has got what he came for, and does not wait for that.
	var later *netns.Endpoint
	if o.leave != nil {
		if ep := takeEndpoint(&c); ep != nil {
			o.leave(ep)
		}
	} else if ep := c.State.Endpoint; c.Spec.AutoRemove && ep != nil && len(ep.Ports) == 0 {
		later = takeEndpoint(&c)
	}
	if err := s.engine.Remove(ctx, &c, s.keeper, o.volumes); err != nil {
		return err
	}
	s.resolver.Stop(c.ID)
	s.background(func(ctx context.Context) error { return s.engine.RemoveLog(ctx, c.ID) })
	s.linger(func(ctx context.Context) (err error) {
		if later != nil {
			err = s.engine.Detach(ctx, later)
		}
		if c.Service == "" {
			err = errors.Join(err, s.dropDefaultNetwork(ctx))
		}
		return err
	})
	s.mu.Lock()
	u.removed = true
	delete(s.units, c.ID)
	s.refreshNames()
	s.changedLocked()
	s.mu.Unlock()
	s.emit(&c, "destroy", nil)
	return nil
}

// startHealth begins to probe, where the container has a health check.
// Callers hold mu.
func (s *Supervisor) startHealth(u *unit) {
	check := s.engine.Health(u.c)
	if check == nil {
		u.c.State.Health = healthcheck.None
		return
	}
	st := u.c.State
	if st.Health == healthcheck.None {
		u.c.State.Health = healthcheck.Starting
	}
	ctx, cancel := context.WithCancel(s.ctx)
	u.health = cancel
	task, c := u.task, *u.c
	go healthcheck.Run(ctx, healthcheck.Target{
		Spec: *check, Started: st.StartedAt,
		Resume: healthcheck.State{Status: st.Health, FailingStreak: st.FailingStreak, Log: st.HealthLog},
	}, func(ctx context.Context) healthcheck.Result {
		return s.engine.Probe(ctx, &c, check)
	}, func(st healthcheck.State, _ bool) { s.probed(u, task, st) })
}

// probed takes a probe's outcome.
func (s *Supervisor) probed(u *unit, task *engine.Task, r healthcheck.State) {
	s.mu.Lock()
	if u.task != task {
		s.mu.Unlock()
		return
	}
	c := *u.c
	before := c.State.Health
	c.State.Health, c.State.FailingStreak = r.Status, r.FailingStreak
	c.State.HealthLog = r.Log
	u.c = &c
	s.save(u)
	if before != r.Status {
		s.refreshNames()
		s.changedLocked()
	}
	s.mu.Unlock()
	if before != r.Status {
		s.emit(&c, "health_status: "+string(r.Status), nil)
	}
}

func (s *Supervisor) save(u *unit) {
	if err := s.engine.Records.SaveState(u.c); err != nil {
		s.warnLocked(fmt.Errorf("cannot save the state of container %s: %w", u.c.Spec.Name, err))
	}
}

func (s *Supervisor) saveFinal(u *unit) {
	if u.doomed {
		s.save(u)
		return
	}
	if err := s.engine.Records.SaveFinal(u.c); err != nil && !errors.Is(err, context.Canceled) {
		s.warnLocked(fmt.Errorf("cannot save the state of container %s: %w", u.c.Spec.Name, err))
	}
}
