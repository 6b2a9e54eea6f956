package plan

import (
	"fmt"
	"time"

	"github.com/stack-run/stack/compose/desired"
	"github.com/stack-run/stack/engine/container"
)

// Verb is what is asked for.
type Verb string

const (
	VerbUp      Verb = "up"
	VerbCreate  Verb = "create" // up without a start
	VerbScale   Verb = "scale"  // up of services that have another number of replicas in Desired
	VerbDown    Verb = "down"
	VerbStart   Verb = "start"
	VerbStop    Verb = "stop"
	VerbRestart Verb = "restart"
	VerbKill    Verb = "kill"
	VerbPause   Verb = "pause"
	VerbUnpause Verb = "unpause"
	VerbRemove  Verb = "remove" // of containers
	VerbRun     Verb = "run"    // of a container outside the graph
	VerbResume  Verb = "resume" // after a boot or crash of the machine
)

// Converges tells whether the same request, made once more after it was cut off, does what
// is left of it and nothing twice.
func (r *Request) Converges() bool {
	switch r.Verb {
	case VerbUp, VerbCreate, VerbScale:
		return !r.ForceRecreate && !r.RecreateDeps && !r.RenewAnonymous
	case VerbDown, VerbStart, VerbStop, VerbResume:
		return true
	}
	return false
}

// Request is all that a verb that changes something was given. It is plain
// data: what it is answered with depends on it and on what is observed alone, so
// that a plan that is shown and one that is carried out are the same.
type Request struct {
	Verb Verb `json:"verb"`
	// Desired is what the project must be. Verbs that make nothing take from it
	// the order and which services are meant; without it, the containers' labels
	// say so.
	Desired *desired.Project `json:"desired,omitempty"`
	// Whole has all that carries the project's name be meant, as where no file was
	// given: Desired is then only what is remembered of it. Else what Desired does
	// not declare is an orphan or another application's.
	Whole bool `json:"whole,omitempty"`
	// Services and Containers, by ID, are those that are acted on; where there are
	// neither, all are.
	Services   []string `json:"services,omitempty"`
	Containers []string `json:"containers,omitempty"`
	// Dependents has restart act on what restarts with Containers, and not on themselves.
	Dependents bool `json:"dependents,omitempty"`
	// Schedules says of start, stop and restart that all of the project is meant, with
	// its schedules; of containers, those of Containers. A job is not started by it.
	Schedules bool `json:"schedules,omitempty"`

	// NoDeps leaves dependencies, and with restart dependents, alone.
	NoDeps         bool `json:"noDeps,omitempty"`
	RemoveOrphans  bool `json:"removeOrphans,omitempty"`
	IgnoreOrphans  bool `json:"ignoreOrphans,omitempty"` // no warning
	ForceRecreate  bool `json:"forceRecreate,omitempty"`
	NoRecreate     bool `json:"noRecreate,omitempty"`
	RecreateDeps   bool `json:"recreateDeps,omitempty"`
	NoStart        bool `json:"noStart,omitempty"`
	RenewAnonymous bool `json:"renewAnonymous,omitempty"`
	// AssumeYes stands for all keys of volumes in RecreateVolumes.
	AssumeYes       bool     `json:"assumeYes,omitempty"`
	RecreateVolumes []string `json:"recreateVolumes,omitempty"`

	// Timeout is the grace period of stops; nil: each container's own.
	Timeout *time.Duration `json:"timeout,omitempty"`
	// Signal is kill's, or a stop's first one.
	Signal string `json:"signal,omitempty"`
	// Stop has remove stop containers, Force kill them, before.
	Stop  bool `json:"stop,omitempty"`
	Force bool `json:"force,omitempty"`
	// Volumes has remove take anonymous volumes and down named ones, too.
	Volumes bool `json:"volumes,omitempty"`
	// Declared are the names of the volumes that down may remove; nil: Desired's.
	Declared []string `json:"declared,omitempty"`

	// Wait has the plan end with waiting for what was started to be up, at most
	// for WaitTimeout, if that is not 0.
	Wait        bool          `json:"wait,omitempty"`
	WaitTimeout time.Duration `json:"waitTimeout,omitempty"`

	// OneOff is the container that run makes, and starts unless CreateOnly is set.
	OneOff     *OneOff `json:"oneOff,omitempty"`
	CreateOnly bool    `json:"createOnly,omitempty"`
}

// OneOff is a container outside the graph: of a service or job, or of none.
type OneOff struct {
	Service string `json:"service,omitempty"`
	// Due is the time for which a schedule runs the job, zero for a run by hand.
	Due  time.Time      `json:"due,omitzero"`
	Hash string         `json:"hash,omitempty"`
	Spec container.Spec `json:"spec"`
}

// Make decides what a request means where things are as observed. It is the only
// place that does. An error is what keeps the request from being carried out,
// found before anything is touched.
func Make(r Request, o Observed) (*Plan, error) {
	switch r.Verb {
	case VerbUp, VerbCreate, VerbScale:
		return makeUp(r, o)
	case VerbDown:
		return makeDown(r, o)
	case VerbRun:
		return makeRun(r, o)
	case VerbStart, VerbStop, VerbRestart, VerbKill, VerbPause, VerbUnpause, VerbRemove, VerbResume:
		return makeLifecycle(r, o)
	}
	return nil, fmt.Errorf("internal error: there is no verb %q", r.Verb)
}

func makeUp(r Request, o Observed) (*Plan, error) {
	if r.Desired == nil {
		return nil, fmt.Errorf("internal error: %s without a project", r.Verb)
	}
	if r.Verb == VerbScale && len(r.Services) == 0 {
		return nil, fmt.Errorf("cannot scale: name a service and its number of containers: SERVICE=NUM")
	}
	return Compute(r.Desired, o, r.options())
}

func (r Request) options() Options {
	return Options{
		Services: r.Services, NoDeps: r.NoDeps, ForceRecreate: r.ForceRecreate, NoRecreate: r.NoRecreate,
		RecreateDeps: r.RecreateDeps, NoStart: r.NoStart || r.Verb == VerbCreate, RemoveOrphans: r.RemoveOrphans,
		IgnoreOrphans: r.IgnoreOrphans, RenewAnonymous: r.RenewAnonymous, StopTimeout: r.Timeout,
		RecreateVolumes: r.RecreateVolumes, AssumeYes: r.AssumeYes, Wait: r.Wait, WaitTimeout: r.WaitTimeout,
	}
}
