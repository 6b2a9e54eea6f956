package machine

import (
	"time"

	"github.com/stack-run/stack/engine/container"
	"github.com/stack-run/stack/healthcheck/health"
)

// Phase is where a container is in its life. Docker's words, which a record is
// stored with, know no Starting, Stopping and Gone.
type Phase string

const (
	Created    Phase = "created"
	Starting   Phase = "starting" // its start is being carried out
	Running    Phase = "running"
	Stopping   Phase = "stopping" // it runs, and has been asked to end
	Paused     Phase = "paused"
	Restarting Phase = "restarting" // it ended, and starts again after a delay
	Exited     Phase = "exited"
	Removing   Phase = "removing"
	Dead       Phase = "dead" // its removal failed
	Gone       Phase = "gone"
)

// Phases are all of them.
var Phases = []Phase{Created, Starting, Running, Stopping, Paused, Restarting, Exited, Removing, Dead, Gone}

// Record is what is known of a container's life. State is what is stored; the rest
// is of this supervisor's time only.
type Record struct {
	State container.State
	// Restart and AutoRemove are the container's own, from its specification.
	Restart    container.Restart
	AutoRemove bool
	// OnUnhealthy is the container's own, too.
	OnUnhealthy container.OnUnhealthy
	// Checked says that it has a health check.
	Checked bool

	// Under says what is being carried out: Starting, Removing or, for nothing, "".
	// Gone is the end.
	Under Phase
	// Automatic says that the start under way is the restart policy's.
	Automatic bool
	// Transient says that the container is about to be removed, so that its end
	// need not be found after a power failure.
	Transient bool
	// KeepNetwork has the container's network stay as it is when it ends, for a
	// start that follows or because the whole network goes.
	KeepNetwork bool
	// Starts and Ends count what has happened since this record is held.
	Starts, Ends int
}

// Phase is where the record's container is.
func (r *Record) Phase() Phase {
	switch {
	case r.Under != "":
		return r.Under
	case r.State.Phase == container.Running && r.State.Stopping:
		return Stopping
	}
	return Phase(r.State.Phase)
}

// Live says that the container has a process.
func (r *Record) Live() bool {
	switch r.Phase() {
	case Running, Stopping, Paused:
		return true
	}
	return false
}

// Busy says that something goes on or is to come by itself, so that somebody must
// stay to see to it.
func (r *Record) Busy() bool {
	switch r.Phase() {
	case Created:
		return !r.State.StartBy.IsZero()
	case Exited, Dead, Gone:
		return false
	}
	return true
}

// EventKind says what happened. All are in the past tense, also the wishes.
type EventKind string

const (
	StartAsked EventKind = "start asked"
	// Started and StartFailed are the outcomes of the effect Start.
	Started     EventKind = "started"
	StartFailed EventKind = "start failed"
	// ProcessExited: the first process ended and its output is written.
	ProcessExited EventKind = "exited"
	StopAsked     EventKind = "stop asked"
	GraceElapsed  EventKind = "grace elapsed"
	KillAsked     EventKind = "kill asked"
	// BackoffElapsed: the delay before a restart is over.
	BackoffElapsed EventKind = "backoff elapsed"
	Probed         EventKind = "probed"
	// UnhealthyEnded: the effect End has asked for the process' end.
	UnhealthyEnded EventKind = "unhealthy: end"
	// DependentsRestarted is the outcome of the effect RestartDependents.
	DependentsRestarted EventKind = "dependents restarted"
	PauseAsked          EventKind = "pause asked"
	UnpauseAsked        EventKind = "unpause asked"
	// Frozen and Thawed are the outcomes of Freeze and Thaw.
	Frozen EventKind = "paused"
	Thawed EventKind = "thawed"

	RemoveAsked EventKind = "remove asked"
	// Removed and RemoveFailed are the outcomes of Remove.
	Removed      EventKind = "removed"
	RemoveFailed EventKind = "remove failed"
	// Expired: a container that was made to be run at once was not.
	Expired EventKind = "expired"
	// Adopted: a new supervisor read the record. A process that ended meanwhile
	// is told by ProcessExited, afterwards.
	Adopted EventKind = "adopted"
)

// EventKinds are all of them.
var EventKinds = []EventKind{
	StartAsked, Started, StartFailed, ProcessExited, StopAsked, GraceElapsed, KillAsked, BackoffElapsed, Probed,
	UnhealthyEnded, DependentsRestarted,
	PauseAsked, UnpauseAsked, Frozen, Thawed, RemoveAsked, Removed, RemoveFailed, Expired, Adopted,
}

// Event is something that happened at a time. Which fields are set depends on Kind.
type Event struct {
	Kind EventKind
	At   time.Time

	// Started: what the engine filled in.
	State container.State
	// StartFailed, RemoveFailed: why. ProcessExited: a remark on the end.
	Error string
	// ProcessExited, StartFailed.
	ExitCode  int
	OOMKilled bool

	// StopAsked, KillAsked, UnhealthyEnded: the signal, by number.
	Signal int
	// StopAsked, UnhealthyEnded: how long it may take to end, below zero for ever.
	Grace time.Duration
	// StopAsked, UnhealthyEnded: the process does not react to the signal, so waiting is
	// pointless.
	Deaf bool
	// StopAsked: start it again once it has ended.
	Again bool
	// StartAsked: it stands aside, see [container.State].
	Aside bool
	// StopAsked: see Record.
	KeepNetwork, Transient bool

	// Probed.
	Health health.State

	// RemoveAsked: Force kills first, Volumes takes anonymous volumes along.
	Force, Volumes bool
}

// EffectKind says what must be done.
type EffectKind string

const (
	// Start starts the process; its outcome is Started or StartFailed.
	Start EffectKind = "start"
	// Signal sends Effect.Signal to the first process.
	Signal EffectKind = "signal"
	// Kill ends all processes.
	Kill EffectKind = "kill"
	// ArmTimer has Effect.Event happen at Effect.At, instead of what was armed
	// before. DisarmTimer has nothing happen.
	ArmTimer    EffectKind = "arm timer"
	DisarmTimer EffectKind = "disarm timer"
	// Probe begins with the health checks, StopProbe ends them.
	Probe     EffectKind = "probe"
	StopProbe EffectKind = "stop probe"
	// End is about a container that is unhealthy: with the signal and grace period of a
	// stop it has UnhealthyEnded happen.
	End EffectKind = "end"
	// RestartDependents restarts what is to restart with the container, which was
	// restarted because it was unhealthy. Its outcome is DependentsRestarted.
	RestartDependents EffectKind = "restart dependents"
	// Freeze and Thaw have the outcomes Frozen and Thawed.
	Freeze EffectKind = "freeze"
	Thaw   EffectKind = "thaw"
	// Unplug frees what an ended container holds in its networks.
	Unplug EffectKind = "unplug"
	// Save stores the record, see Durability.
	Save EffectKind = "save"
	// Emit tells of Effect.Action to who listens to events.
	Emit EffectKind = "emit"
	// Remove takes away all that is the container's own; its outcome is Removed or
	// RemoveFailed.
	Remove EffectKind = "remove"
)

// Durability is what a saved record survives.
type Durability string

const (
	// UntilBoot survives all processes of ours.
	UntilBoot Durability = "until boot"
	// OverBoot survives a reboot, but perhaps not a power failure.
	OverBoot Durability = "over boot"
	// OverPowerFailure survives that as well.
	OverPowerFailure Durability = "over power failure"
)

// Effect is one thing to do. Which fields are set depends on Kind.
type Effect struct {
	Kind       EffectKind
	Signal     int
	Event      EventKind // ArmTimer
	At         time.Time // ArmTimer
	Durability Durability
	Action     string // Emit, in Docker's words
	// Attribute is Emit's further one, "key=value".
	Attribute string
	Volumes   bool // Remove
}
