package machine

import (
	"fmt"
	"strconv"
	"time"

	"github.com/stack-run/stack/engine/container"
	"github.com/stack-run/stack/healthcheck/health"
)

// sigKill is SIGKILL, signal(7).
const sigKill = 9

// setUpFailed is the exit status of a process that could not be set up to run its
// container's command, package runtime.
const setUpFailed = 255

// RefusedError says that a wish cannot be granted where the container is. The
// sentence goes after "cannot pause container NAME: ".
type RefusedError struct{ Text string }

func (e *RefusedError) Error() string { return e.Text }

func refused(format string, args ...any) error {
	return &RefusedError{Text: fmt.Sprintf(format, args...)}
}

// step is one transition on its way.
type step struct {
	Record
	event   Event
	effects []Effect
	err     error
}

// Step is the machine. The record is returned as it is after the event, with the
// effects in the order in which they are performed. An error is for who asked, and
// then nothing has changed; one that begins with "internal error" is a fault of
// the program.
func Step(r Record, e Event) (Record, []Effect, error) {
	s := &step{Record: r, event: e}
	handle := table[e.Kind]
	if handle == nil {
		return r, nil, fmt.Errorf("internal error: event %q is not known", e.Kind)
	}
	handle(s)
	if s.err != nil {
		return r, nil, s.err
	}
	return s.Record, s.effects, nil
}

var table = map[EventKind]func(*step){
	StartAsked:     (*step).startAsked,
	Started:        (*step).started,
	StartFailed:    (*step).startFailed,
	ProcessExited:  (*step).exited,
	StopAsked:      (*step).stopAsked,
	GraceElapsed:   (*step).graceElapsed,
	KillAsked:      (*step).killAsked,
	BackoffElapsed: (*step).backoffElapsed,
	Probed:         (*step).probed,
	UnhealthyEnded: (*step).unhealthyEnded,

	DependentsRestarted: (*step).dependentsRestarted,

	PauseAsked:   (*step).pauseAsked,
	UnpauseAsked: (*step).unpauseAsked,
	Frozen:       (*step).frozen,
	Thawed:       (*step).thawed,
	RemoveAsked:  (*step).removeAsked,
	Removed:      (*step).removed,
	RemoveFailed: (*step).removeFailed,
	Expired:      (*step).expired,
	Adopted:      (*step).adopted,
}

func (s *step) do(effects ...Effect) { s.effects = append(s.effects, effects...) }

func (s *step) save(d Durability) { s.do(Effect{Kind: Save, Durability: d}) }

// saveEnd stores that nothing runs any more, where the next boot finds it unless
// nobody will look.
func (s *step) saveEnd() {
	if s.Transient || s.AutoRemove {
		s.save(UntilBoot)
		return
	}
	s.save(OverPowerFailure)
}

func (s *step) emit(action string) { s.do(Effect{Kind: Emit, Action: action}) }

func (s *step) emitSignal(n int) {
	s.do(Effect{Kind: Emit, Action: "kill", Attribute: "signal=" + strconv.Itoa(n)})
}

func (s *step) refuse(format string, args ...any) { s.err = refused(format, args...) }

// impossible is an event that cannot happen where the container is.
func (s *step) impossible() {
	s.err = fmt.Errorf("internal error: %q cannot happen to a container that is %s", s.event.Kind, s.Phase())
}

func (s *step) startAsked() {
	switch s.Phase() {
	case Created, Exited, Restarting:
		s.begin(false)
	case Starting, Running, Paused:
	case Stopping:
		if !s.State.StartAgain {
			s.State.StartAgain = true
			s.save(UntilBoot)
		}
	case Removing:
		s.refuse("it is being removed")
	case Dead:
		s.refuse("its removal failed, and only removing it is left")
	case Gone:
		s.refuse("it has been removed")
	}
}

// begin starts the container. What was pending is over.
func (s *step) begin(automatic bool) {
	if s.Phase() == Restarting {
		s.do(Effect{Kind: DisarmTimer})
	}
	if !s.State.StartBy.IsZero() {
		s.State.StartBy = time.Time{}
		s.do(Effect{Kind: DisarmTimer})
	}
	if automatic {
		s.State.RestartCount++
	} else {
		s.State.RestartCount, s.State.RestartDelay = 0, 0
		s.State.StoppedByUser, s.State.Unwell = false, false
		s.State.Aside = s.event.Aside
	}
	s.State.RestartAt, s.State.StartAgain = time.Time{}, false
	s.Under, s.Automatic = Starting, automatic
	s.KeepNetwork, s.Transient = false, false
	s.do(Effect{Kind: Start})
}

func (s *step) started() {
	if s.Phase() != Starting {
		s.impossible()
		return
	}
	s.Under = ""
	kept := s.State
	s.State = s.event.State
	s.State.RestartCount, s.State.RestartDelay, s.State.StoppedByUser = kept.RestartCount, kept.RestartDelay, kept.StoppedByUser
	s.State.Unwell, s.State.Recovered = false, kept.Unwell || kept.Recovered
	s.Starts++
	s.watch()
	s.save(OverBoot)
	s.emit("start")
	s.recover()
}

// recover has those that restart with the container do so, after one that was due to
// its health.
func (s *step) recover() {
	if s.State.Recovered {
		s.do(Effect{Kind: RestartDependents})
	}
}

func (s *step) dependentsRestarted() {
	if s.State.Recovered {
		s.State.Recovered = false
		s.save(UntilBoot)
	}
}

// watch begins with the health checks.
func (s *step) watch() {
	if !s.Checked {
		s.State.Health = health.None
		return
	}
	if s.State.Health == health.None {
		s.State.Health = health.Starting
	}
	s.do(Effect{Kind: Probe})
}

func (s *step) startFailed() {
	if s.Phase() != Starting {
		s.impossible()
		return
	}
	s.Under = ""
	s.State.Phase = container.Exited
	if s.State.StartedAt.IsZero() {
		s.State.Phase = container.Created
	}
	s.State.Error, s.State.ExitCode, s.State.FinishedAt = s.event.Error, s.event.ExitCode, s.event.At
	switch {
	case s.Automatic && s.restarts(0): // a start that fails counts as a run that failed
		s.saveEnd()
		s.armBackoff()
	case s.AutoRemove:
		s.remove(true)
	default:
		s.saveEnd()
	}
}

// restarts has the restart policy decide after a run.
func (s *step) restarts(ranFor time.Duration) bool {
	policy := s.Restart
	if s.State.Unwell && s.OnUnhealthy == container.UnhealthyRestart {
		policy.Policy = "always"
	}
	again, delay := restartAfter(policy, ended{
		ExitCode: s.State.ExitCode, RanFor: ranFor, StoppedByUser: s.State.StoppedByUser,
		Restarts: s.State.RestartCount, LastDelay: s.State.RestartDelay,
	})
	if !again {
		s.State.Unwell = false
		return false
	}
	s.State.Phase = container.Restarting
	s.State.RestartDelay, s.State.RestartAt = delay, s.event.At.Add(delay)
	return true
}

func (s *step) armBackoff() {
	s.do(Effect{Kind: ArmTimer, Event: BackoffElapsed, At: s.State.RestartAt})
}

func (s *step) exited() {
	if !s.Live() {
		s.impossible()
		return
	}
	asked := s.State.Stopping
	stopped := asked && s.State.StopSignal != sigKill // a kill is no stop
	ran := s.event.At.Sub(s.State.StartedAt)
	s.State.Phase = container.Exited
	s.State.Pid, s.State.StartTicks = 0, 0
	s.State.ExitCode, s.State.OOMKilled, s.State.Error = s.event.ExitCode, s.event.OOMKilled, s.event.Error
	if s.State.SetUp && s.State.ExitCode == setUpFailed {
		s.State.Error = "its start was cut off: the supervisor was killed before the command ran"
	}
	s.State.SetUp = false
	s.State.FinishedAt = s.event.At
	s.State.Stopping, s.State.StopBy, s.State.StopSignal = false, time.Time{}, 0
	s.Ends++
	if s.Checked {
		s.do(Effect{Kind: StopProbe})
	}
	if s.State.Health != health.None {
		s.State.Health = health.Unhealthy
	}
	if asked {
		s.do(Effect{Kind: DisarmTimer})
	}
	// First it is written down, then told, then acted on.
	switch {
	case s.State.Doomed:
		s.save(UntilBoot)
		s.tellEnd(stopped)
		s.remove(s.State.DoomedVolumes)
	case s.State.StartAgain:
		s.saveEnd() // its exit code is a fact, whatever comes of the start
		s.tellEnd(stopped)
		s.begin(false)
	case s.restarts(ran):
		s.saveEnd()
		s.tellEnd(stopped)
		s.armBackoff()
	case s.AutoRemove:
		s.save(UntilBoot)
		s.tellEnd(stopped)
		s.remove(true)
	default:
		s.saveEnd()
		s.tellEnd(stopped)
		if !s.KeepNetwork {
			// Nobody answers on the published ports any more: free them.
			s.do(Effect{Kind: Unplug})
		}
	}
}

func (s *step) tellEnd(stopped bool) {
	s.do(Effect{Kind: Emit, Action: "die", Attribute: "exitCode=" + strconv.Itoa(s.State.ExitCode)})
	if s.State.OOMKilled {
		s.emit("oom")
	}
	if stopped {
		s.emit("stop")
	}
}

// remove takes the container away. It has no process.
func (s *step) remove(volumes bool) {
	s.Under = Removing
	s.State.Phase = container.Removing
	s.State.DoomedVolumes = s.State.DoomedVolumes || volumes
	s.State.RestartAt, s.State.StartAgain = time.Time{}, false
	s.save(UntilBoot)
	s.do(Effect{Kind: Remove, Volumes: s.State.DoomedVolumes})
}

func (s *step) stopAsked() {
	e := s.event
	switch s.Phase() {
	case Created, Exited, Dead:
		if e.Again {
			s.startAsked()
		}
	case Restarting:
		s.State.Phase, s.State.RestartAt, s.State.StoppedByUser = container.Exited, time.Time{}, true
		s.State.Unwell = false
		s.do(Effect{Kind: DisarmTimer})
		s.Transient = e.Transient
		s.saveEnd()
		switch {
		case e.Again:
			s.begin(false)
		case s.AutoRemove:
			s.remove(true)
		case !e.KeepNetwork:
			s.do(Effect{Kind: Unplug})
		}
	case Running, Stopping, Paused:
		s.stop()
	case Removing, Gone: // it ends anyway
		if e.Again {
			s.startAsked()
		}
	default:
		s.impossible() // a wish waits for the start's end
	}
}

// stop asks the process to end. A second wish replaces the first, but never gives
// more time.
func (s *step) stop() {
	e := s.event
	again := s.Phase() == Stopping
	s.State.StoppedByUser, s.State.Unwell, s.State.StartAgain = true, false, e.Again
	s.KeepNetwork, s.Transient = e.KeepNetwork || e.Again, e.Transient
	s.State.StopSignal = e.Signal
	if e.Grace >= 0 {
		by := e.At.Add(e.Grace)
		if !again || s.State.StopBy.IsZero() || by.Before(s.State.StopBy) {
			s.State.StopBy = by
		}
	}
	s.State.Stopping = true
	s.end()
}

// end saves that the process is asked to end, and asks.
func (s *step) end() {
	e := s.event
	paused := s.State.Phase == container.Paused
	s.State.Phase = container.Running
	s.save(UntilBoot)
	if paused {
		s.do(Effect{Kind: Thaw})
	}
	if e.Deaf {
		s.kill()
		return
	}
	s.emitSignal(e.Signal)
	s.do(Effect{Kind: Signal, Signal: e.Signal})
	s.armGrace()
}

func (s *step) armGrace() {
	if !s.State.StopBy.IsZero() {
		s.do(Effect{Kind: ArmTimer, Event: GraceElapsed, At: s.State.StopBy})
	}
}

func (s *step) kill() {
	s.emitSignal(sigKill)
	s.do(Effect{Kind: Kill})
}

func (s *step) graceElapsed() {
	// A timer that was stopped may have gone off just before.
	if s.Phase() == Stopping && !s.State.StopBy.IsZero() && !s.event.At.Before(s.State.StopBy) {
		s.kill()
	}
}

// killAsked sends a signal. The restart policy stays in force, except for SIGKILL:
// that counts as a stop, as in Docker.
func (s *step) killAsked() {
	fatal := s.event.Signal == sigKill
	switch s.Phase() {
	case Running, Stopping, Paused:
		if !fatal {
			s.emitSignal(s.event.Signal)
			s.do(Effect{Kind: Signal, Signal: s.event.Signal})
			return
		}
		// From here on it is about to end, whoever is killed meanwhile.
		s.State.StoppedByUser, s.State.Unwell, s.State.StartAgain = true, false, false
		s.State.Stopping, s.State.StopSignal, s.State.StopBy = true, sigKill, s.event.At
		paused := s.State.Phase == container.Paused
		s.State.Phase = container.Running
		s.save(UntilBoot)
		if paused {
			s.do(Effect{Kind: Thaw})
		}
		s.kill()
	case Restarting:
		if !fatal {
			s.refuse("it is not running")
			return
		}
		s.event.KeepNetwork, s.event.Again, s.event.Transient = false, false, false
		s.stopAsked()
	case Starting:
		s.impossible()
	default:
		s.refuse("it is not running")
	}
}

func (s *step) backoffElapsed() {
	// A timer that was stopped may have gone off just before.
	if s.Phase() == Restarting {
		s.begin(true)
	}
}

func (s *step) probed() {
	if !s.Live() {
		return // it ended while the probe was on its way
	}
	before := s.State.Health
	s.State.Health, s.State.FailingStreak, s.State.HealthLog = s.event.Health.Status, s.event.Health.FailingStreak, s.event.Health.Log
	if s.State.Health == health.Healthy && before != health.Healthy && s.State.HealthyAt.IsZero() {
		s.State.HealthyAt = s.event.At
	}
	s.save(UntilBoot)
	if before != s.State.Health {
		s.emit("health_status: " + string(s.State.Health))
	}
	// Not only when it turns unhealthy: an end that could not be asked for, or was not
	// because the supervisor was killed, is asked for after the next probe.
	if s.State.Health == health.Unhealthy && s.OnUnhealthy != "" && s.Phase() == Running {
		s.do(Effect{Kind: End})
	}
}

// unhealthyEnded is a stop that nobody asked for.
func (s *step) unhealthyEnded() {
	if s.Phase() != Running || s.State.Health != health.Unhealthy || s.OnUnhealthy == "" {
		return // something else came first
	}
	e := s.event
	s.State.StoppedByUser, s.State.StartAgain = s.OnUnhealthy == container.UnhealthyStop, false
	s.State.Unwell = true
	s.KeepNetwork, s.Transient = false, false
	s.State.Stopping, s.State.StopSignal, s.State.StopBy = true, e.Signal, time.Time{}
	if e.Grace >= 0 {
		s.State.StopBy = e.At.Add(e.Grace)
	}
	s.end()
}

func (s *step) pauseAsked() {
	switch s.Phase() {
	case Running:
		s.do(Effect{Kind: Freeze})
	case Paused:
		s.refuse("it is already paused")
	case Stopping:
		s.refuse("it is being stopped")
	case Starting:
		s.impossible()
	default:
		s.refuse("it is not running")
	}
}

func (s *step) frozen() {
	if s.Phase() != Running {
		s.impossible()
		return
	}
	s.State.Phase = container.Paused
	s.save(UntilBoot)
	if s.Checked { // nobody in it can answer
		s.do(Effect{Kind: StopProbe})
	}
	s.emit("pause")
}

func (s *step) unpauseAsked() {
	switch s.Phase() {
	case Paused:
		s.do(Effect{Kind: Thaw})
	case Starting:
		s.impossible()
	default:
		s.refuse("it is not paused")
	}
}

func (s *step) thawed() {
	switch s.Phase() {
	case Paused:
		s.State.Phase = container.Running
		s.save(UntilBoot)
		s.watch()
	case Running, Stopping: // for a stop or a kill
	default:
		s.impossible()
		return
	}
	s.emit("unpause")
}

func (s *step) removeAsked() {
	e := s.event
	switch s.Phase() {
	case Created, Exited, Dead:
		s.remove(e.Volumes)
	case Restarting:
		if !e.Force {
			s.refuse("it is restarting; stop it first or use --force")
			return
		}
		s.do(Effect{Kind: DisarmTimer})
		s.remove(e.Volumes)
	case Running, Stopping, Paused:
		if !e.Force {
			s.refuse("it is running; stop it first or use --force")
			return
		}
		s.State.StoppedByUser, s.State.Doomed = true, true
		s.State.DoomedVolumes = s.State.DoomedVolumes || e.Volumes
		paused := s.State.Phase == container.Paused
		s.State.Phase = container.Running
		s.save(UntilBoot)
		if paused {
			s.do(Effect{Kind: Thaw})
		}
		s.kill()
	case Removing, Gone:
	default:
		s.impossible()
	}
}

func (s *step) removed() {
	if s.Phase() != Removing {
		s.impossible()
		return
	}
	s.Under = Gone
	s.emit("destroy")
}

func (s *step) removeFailed() {
	if s.Phase() != Removing {
		s.impossible()
		return
	}
	s.Under = ""
	s.State.Phase, s.State.Error = container.Dead, s.event.Error
	s.save(OverPowerFailure)
}

func (s *step) expired() {
	if s.Phase() == Created && !s.State.StartBy.IsZero() {
		s.remove(true)
	}
}

// adopted goes on where the last supervisor was.
func (s *step) adopted() {
	switch s.Phase() {
	case Created:
		switch {
		case s.State.Doomed:
			s.remove(s.State.DoomedVolumes)
		case !s.State.StartBy.IsZero():
			s.do(Effect{Kind: ArmTimer, Event: Expired, At: s.State.StartBy})
		}
	case Running, Paused, Stopping:
		if s.Phase() != Paused {
			s.watch()
		}
		s.recover()
		if s.State.Doomed {
			s.State.Phase = container.Running
			s.do(Effect{Kind: Thaw}, Effect{Kind: Kill})
			return
		}
		if s.State.Stopping {
			// It may have been sent already: who asked for an end twice gets one.
			s.do(Effect{Kind: Signal, Signal: s.State.StopSignal})
			s.armGrace()
		}
	case Restarting:
		s.armBackoff()
	case Exited:
		switch {
		case s.State.Doomed, s.AutoRemove:
			s.remove(s.State.DoomedVolumes || s.AutoRemove)
		case s.State.StartAgain:
			s.begin(false)
		}
	case Removing:
		s.remove(s.State.DoomedVolumes)
	case Dead:
	default:
		s.impossible()
	}
}
