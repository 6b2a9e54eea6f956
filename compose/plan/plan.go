package plan

import (
	"cmp"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/stack-run/stack/compose/desired"
)

// OpKind is what an operation does.
type OpKind string

const (
	CreateNetwork    OpKind = "create network"
	RemoveNetwork    OpKind = "remove network"
	CreateVolume     OpKind = "create volume"
	RemoveVolume     OpKind = "remove volume"
	CreateContainer  OpKind = "create container"
	StartContainer   OpKind = "start container"
	PauseContainer   OpKind = "pause container"
	UnpauseContainer OpKind = "unpause container"
	KillContainer    OpKind = "kill container"
	StopContainer    OpKind = "stop container"
	RemoveContainer  OpKind = "remove container"
	RenameContainer  OpKind = "rename container"
	// HandOver lets a container in that stood aside: it gets the service's names and
	// published ports, and the one that it replaces loses them in the same moment.
	HandOver OpKind = "hand over to container"
	// Pause lets Timeout pass.
	Pause OpKind = "pause"
	// ScheduleJob has a job run by its schedules from now on, UnscheduleJob no more.
	ScheduleJob   OpKind = "schedule job"
	UnscheduleJob OpKind = "unschedule job"
	// WaitFor waits until a service, or a container, meets a condition.
	WaitFor OpKind = "wait for"
)

// Conditions that are waited for: those of depends_on, and Up, which a container
// is that is healthy, that runs and stays up, or whose job ended with 0. Proven is one
// that is up, and has been for Op.Monitor, and never ended.
const (
	Started   = "service_started"
	Healthy   = "service_healthy"
	Completed = "service_completed_successfully"
	Up        = "up"
	Proven    = "proven"
)

func condition(d desired.Dependency) string { return cmp.Or(d.Condition, Started) }

// Plan is a graph of operations, ordered so that each stands after those that
// it depends on.
type Plan struct {
	Ops []*Op `json:"ops"`
	// Images are what has to come before, where that is part of the question.
	Images []ImageOp `json:"images,omitempty"`
	// Warnings are for a person: orphans, resources of others.
	Warnings []string `json:"warnings,omitempty"`
	// Confirm are volumes whose definition changed. They stay as they are unless
	// the plan is made again with their keys in Options.RecreateVolumes.
	Confirm []Question `json:"confirm,omitempty"`
	// KeepGoing has what does not depend on a failed operation go on, and the
	// errors joined; else the first error ends all that is under way.
	KeepGoing bool `json:"keepGoing,omitempty"`
	// Rollouts are the rules of the services that are updated some replicas at a time.
	Rollouts map[string]Rollouts `json:"rollouts,omitempty"`
	// Outcome is what Recover has come to, for a person.
	Outcome []string `json:"-"`

	replicas map[string]int // wanted replicas per service, for the print
}

// Question asks before data is lost.
type Question struct {
	Volume string      `json:"volume"` // key
	Text   string      `json:"text"`
	Diffs  []FieldDiff `json:"diffs"`
}

// Op is one operation. Which fields are set depends on Kind.
type Op struct {
	ID   int    `json:"id"` // from 1
	Kind OpKind `json:"kind"`
	// Deps are the operations that must have succeeded before, or, with Anyway,
	// have ended.
	Deps   []int `json:"deps,omitempty"`
	Anyway bool  `json:"anyway,omitempty"`

	// Service and Index say which container; Name is its name, or the network's
	// or volume's, or, with WaitFor, the service's, or a job's. Key is the Compose key of a
	// network or volume.
	Service string `json:"service,omitempty"`
	Index   int    `json:"index,omitempty"`
	Name    string `json:"name"`
	Key     string `json:"key,omitempty"`
	// Step says that the operation is about a container that runs before those of
	// Service: Step-1 in its PreStart.
	Step int `json:"step,omitempty"`
	// OneOff says that CreateContainer makes Request.OneOff and no replica.
	OneOff bool `json:"oneOff,omitempty"`
	// ContainerID is the observed container that is acted on. With 0 in Creates
	// it is set; otherwise the container is the one that operation Creates makes.
	ContainerID string `json:"containerID,omitempty"`
	Creates     int    `json:"creates,omitempty"`
	// TempName is the name of a container that is created while the one that it
	// replaces still has Name; RenameContainer gives it Name.
	TempName string `json:"tempName,omitempty"`
	// Replaces is the ID of the container that CreateContainer replaces. Its
	// anonymous volumes are kept if KeepVolumes is set.
	Replaces    string `json:"replaces,omitempty"`
	KeepVolumes bool   `json:"keepVolumes,omitempty"`
	// Volumes has RemoveContainer take anonymous volumes away too.
	Volumes bool `json:"volumes,omitempty"`
	// Condition is WaitFor's, for the numbered containers of Service, or for
	// ContainerID alone where that is set. If Optional is set, failing stops nothing.
	Condition string `json:"condition,omitempty"`
	Optional  bool   `json:"optional,omitempty"`
	// Except are the IDs of containers of Service that WaitFor does not wait for: others
	// have their places.
	Except []string `json:"except,omitempty"`
	// Timeout is StopContainer's grace period (nil: the container's own), or the
	// longest that WaitFor waits (nil: as long as it takes).
	Timeout *time.Duration `json:"timeout,omitempty"`
	// Signal is KillContainer's, or StopContainer's first one; "" for the usual.
	Signal string `json:"signal,omitempty"`
	// Rolls says that CreateContainer is part of an update of some replicas at a time.
	// What it replaces stays until all of them are Proven.
	Rolls bool `json:"rolls,omitempty"`
	// Aside has StartContainer start it without the service's names and published
	// ports, until HandOver. Drain has StopContainer wait, within the grace period, for
	// the connections that the container serves to end.
	Aside bool `json:"aside,omitempty"`
	Drain bool `json:"drain,omitempty"`
	// Monitor is how long a container must have run to be Proven. Tolerate is how many
	// of the service's may fail to be.
	Monitor  time.Duration `json:"monitor,omitempty"`
	Tolerate int           `json:"tolerate,omitempty"`
	// KeepNetwork says that a start of the same container follows its stop, Final
	// that its removal does.
	KeepNetwork bool `json:"keepNetwork,omitempty"`
	Final       bool `json:"final,omitempty"`
	// Again says that StartContainer starts a job that is done: nothing differs from
	// what is wanted, but up runs jobs again.
	Again bool `json:"again,omitempty"`
	// ToRun says that UnpauseContainer is on the way to what runs, and not asked for:
	// it is done where somebody else was first.
	ToRun bool `json:"-"`

	// Cause is why; Diffs are the differences behind it.
	Cause string      `json:"cause,omitempty"`
	Diffs []FieldDiff `json:"diffs,omitempty"`

	after []*Op
	makes *Op  // the CreateContainer behind Creates
	kept  bool // what is stopped may be started again if the plan fails
}

// Rollouts are how a service is updated, and brought back.
type Rollouts struct {
	Update   desired.Rollout `json:"update"`
	Rollback desired.Rollout `json:"rollback"`
}

// FieldDiff is one difference between what is and what is wanted. Old and New
// are printed as they are.
type FieldDiff struct {
	Path string `json:"path"`
	Old  string `json:"old,omitempty"`
	New  string `json:"new,omitempty"`
}

func (d FieldDiff) String() string {
	switch {
	case d.Old == "" && d.New == "":
		return d.Path
	case d.Old == "":
		return fmt.Sprintf("%s added: %s", d.Path, d.New)
	case d.New == "":
		return fmt.Sprintf("%s removed: %s", d.Path, d.Old)
	}
	return fmt.Sprintf("%s %s → %s", d.Path, d.Old, d.New)
}

func joinDiffs(diffs []FieldDiff) string {
	parts := make([]string, len(diffs))
	for i, d := range diffs {
		parts[i] = d.String()
	}
	return strings.Join(parts, ", ")
}

// Empty says that there is nothing to do.
func (p *Plan) Empty() bool { return len(p.Ops) == 0 && len(p.Images) == 0 }

// Converged says that all is as it is wanted: at most, jobs run again.
func (p *Plan) Converged() bool {
	return !slices.ContainsFunc(p.Ops, func(op *Op) bool { return op.Kind != WaitFor && !op.Again })
}

func (p *Plan) warn(format string, args ...any) {
	p.Warnings = append(p.Warnings, fmt.Sprintf(format, args...))
}

// starting are the operations that bring containers to run.
func (p *Plan) starting() []*Op {
	var ops []*Op
	for _, op := range p.Ops {
		if op.Kind == StartContainer || op.Kind == UnpauseContainer {
			ops = append(ops, op)
		}
	}
	return ops
}

// JSON is the plan for programs.
func (p *Plan) JSON() ([]byte, error) {
	out := *p
	if out.Ops == nil {
		out.Ops = []*Op{}
	}
	return json.MarshalIndent(&out, "", "  ")
}

func (p *Plan) add(op *Op, after ...*Op) *Op {
	op.after = slices.DeleteFunc(after, func(o *Op) bool { return o == nil })
	p.Ops = append(p.Ops, op)
	return op
}

// finish orders the operations, numbers them and removes doubled edges. A cycle
// is a fault of this package.
func (p *Plan) finish() error {
	state := map[*Op]int{} // 1 on the way, 2 done
	var ordered []*Op
	var visit func(*Op) error
	visit = func(op *Op) error {
		switch state[op] {
		case 1:
			return fmt.Errorf("internal error: the plan has a cycle at %q", op.line())
		case 2:
			return nil
		}
		state[op] = 1
		for _, before := range op.after {
			if err := visit(before); err != nil {
				return err
			}
		}
		state[op] = 2
		ordered = append(ordered, op)
		return nil
	}
	for _, op := range p.Ops {
		if err := visit(op); err != nil {
			return err
		}
	}
	p.Ops = ordered
	for i, op := range ordered {
		op.ID = i + 1
	}
	for _, op := range ordered {
		op.Deps = nil
		for _, before := range op.after {
			op.Deps = append(op.Deps, before.ID)
		}
		slices.Sort(op.Deps)
		op.Deps = slices.Compact(op.Deps)
		if op.makes != nil {
			op.Creates = op.makes.ID
		}
		if op.Kind == StopContainer && !op.kept {
			op.Final = slices.ContainsFunc(ordered, func(o *Op) bool { return o.Kind == RemoveContainer && o.ContainerID == op.ContainerID })
		}
	}
	return nil
}
