package apply

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/stack-run/stack/compose/plan"
)

// Host carries out single operations on what exists. Each method returns when its
// operation is done, or has failed. They are called from several goroutines.
//
// id is the container that an operation is about: the observed one, or the one that
// an operation before has made.
type Host interface {
	CreateNetwork(ctx context.Context, op *plan.Op) error
	RemoveNetwork(ctx context.Context, op *plan.Op) error
	CreateVolume(ctx context.Context, op *plan.Op) error
	RemoveVolume(ctx context.Context, op *plan.Op) error
	// CreateContainer makes a container under op.TempName, or op.Name if that is
	// empty, and returns its ID.
	CreateContainer(ctx context.Context, op *plan.Op) (id string, err error)
	StartContainer(ctx context.Context, id string, op *plan.Op) error
	// StopContainer, with again, has the container start again by itself once it has
	// ended, whatever becomes of who asked.
	StopContainer(ctx context.Context, id string, op *plan.Op, again bool) error
	KillContainer(ctx context.Context, id string, op *plan.Op) error
	PauseContainer(ctx context.Context, id string, op *plan.Op) error
	UnpauseContainer(ctx context.Context, id string, op *plan.Op) error
	RemoveContainer(ctx context.Context, id string, op *plan.Op) error
	RenameContainer(ctx context.Context, id string, op *plan.Op) error
	// HandOver lets a container in that stands aside.
	HandOver(ctx context.Context, id string, op *plan.Op) error
	// ScheduleJob has a job run by the schedules that the project says, UnscheduleJob
	// has it run by none.
	ScheduleJob(ctx context.Context, op *plan.Op) error
	UnscheduleJob(ctx context.Context, op *plan.Op) error
	// Await returns when a condition is met, or cannot be met any more.
	Await(ctx context.Context, op *plan.Op) error
}

// words are what docker compose shows while an operation goes on and when it is
// done. An operation without any is not shown.
type words struct{ kind, doing, done string }

var shown = map[plan.OpKind]words{
	plan.CreateNetwork:    {"Network", "Creating", "Created"},
	plan.RemoveNetwork:    {"Network", "Removing", "Removed"},
	plan.CreateVolume:     {"Volume", "Creating", "Created"},
	plan.RemoveVolume:     {"Volume", "Removing", "Removed"},
	plan.CreateContainer:  {"Container", "Creating", "Created"},
	plan.StartContainer:   {"Container", "Starting", "Started"},
	plan.StopContainer:    {"Container", "Stopping", "Stopped"},
	plan.KillContainer:    {"Container", "Killing", "Killed"},
	plan.PauseContainer:   {"Container", "Pausing", "Paused"},
	plan.UnpauseContainer: {"Container", "Unpausing", "Unpaused"},
	plan.RemoveContainer:  {"Container", "Removing", "Removed"},
	plan.ScheduleJob:      {"Job", "Scheduling", "Scheduled"},
	plan.UnscheduleJob:    {"Job", "Unscheduling", "Unscheduled"},
}

// Execute carries out a plan. tell gets an event at the beginning and the end of
// each operation, one at a time.
//
// If an operation fails, what [plan.Plan.Recover] says is done for the containers that
// were to replace others. All else stays as far as it has come, for the same command to
// go on from.
// parallel bounds the operations under way at once; 0 does not.
func Execute(ctx context.Context, p *plan.Plan, h Host, tell func(Event), parallel int) error {
	return execute(ctx, ctx, p, h, tell, parallel)
}

// execute is Execute where what only waits ends with patience.
func execute(ctx, patience context.Context, p *plan.Plan, h Host, tell func(Event), parallel int) error {
	o := Options{Parallel: parallel, KeepGoing: p.KeepGoing, Anyway: func(i int) bool { return p.Ops[i].Anyway }}
	x := &execution{plan: p, host: h, tell: tell, made: map[int]string{}, failed: map[string]map[int]bool{}, again: restarts(p)}
	err := Run(ctx, len(p.Ops), func(i int) []int {
		deps := make([]int, len(p.Ops[i].Deps))
		for j, id := range p.Ops[i].Deps {
			deps[j] = id - 1
		}
		return deps
	}, o, func(ctx context.Context, i int) error {
		if op := p.Ops[i]; op.Kind == plan.WaitFor || op.Kind == plan.Pause {
			var cancel context.CancelCauseFunc
			ctx, cancel = context.WithCancelCause(ctx)
			defer cancel(nil)
			defer context.AfterFunc(patience, func() { cancel(context.Cause(patience)) })()
		}
		return x.do(ctx, p.Ops[i])
	})
	if err == nil {
		return nil
	}
	back := p.Recover(func(op int) bool { return slices.Contains(x.done, op) }, x.made, ctx.Err() != nil)
	if len(back.Ops) > 0 {
		// What was begun is brought to its end, but a rollback may wait for hours.
		if undone := execute(context.WithoutCancel(ctx), ctx, back, h, tell, parallel); undone != nil {
			return errors.Join(err, fmt.Errorf("it was not undone entirely: %w", undone))
		}
	}
	for _, text := range back.Outcome {
		err = fmt.Errorf("%w\n%s", err, text)
	}
	return err
}

// restarts are the stops after which nothing but the start of the same container is
// waited for, by the stop's number with the start's, and the other way round.
func restarts(p *plan.Plan) map[int]int {
	out := map[int]int{}
	for _, start := range p.Ops {
		if start.Kind != plan.StartContainer || start.Creates != 0 || len(start.Deps) != 1 {
			continue
		}
		if stop := p.Ops[start.Deps[0]-1]; stop.KeepNetwork && stop.ContainerID == start.ContainerID {
			out[stop.ID], out[start.ID] = start.ID, stop.ID
		}
	}
	return out
}

type execution struct {
	plan  *plan.Plan
	host  Host
	tell  func(Event)
	again map[int]int

	mu     sync.Mutex
	made   map[int]string // containers, by the operation that made them
	done   []int
	failed map[string]map[int]bool // by service and number: what has not proven itself
}

// do carries out one operation and tells of it.
func (x *execution) do(ctx context.Context, op *plan.Op) error {
	w, show := shown[op.Kind]
	text := ""
	switch {
	case op.Kind == plan.CreateContainer && op.Replaces != "":
		w.doing, w.done, text = "Recreate", "Recreated", op.Cause
	case op.Kind == plan.StopContainer && x.again[op.ID] != 0:
		w.doing, w.done = "Restarting", ""
	case op.Kind == plan.StartContainer && x.again[op.ID] != 0:
		w.doing = ""
	}
	if show && w.doing != "" {
		x.event(Event{Kind: w.kind, Name: op.Name, Status: w.doing, Text: text})
	}
	err := x.carryOut(ctx, op)
	if err != nil {
		if show {
			x.event(Event{Kind: w.kind, Name: op.Name, Status: "Error", Text: err.Error(), Done: true})
		}
		return err
	}
	x.mu.Lock()
	x.done = append(x.done, op.ID)
	x.mu.Unlock()
	if show && w.done != "" {
		x.event(Event{Kind: w.kind, Name: op.Name, Status: w.done, Done: true})
	}
	return nil
}

func (x *execution) event(e Event) {
	if x.tell != nil {
		e.Time = time.Now()
		x.tell(e)
	}
}

func (x *execution) carryOut(ctx context.Context, op *plan.Op) error {
	switch op.Kind {
	case plan.CreateNetwork:
		return x.host.CreateNetwork(ctx, op)
	case plan.RemoveNetwork:
		return x.host.RemoveNetwork(ctx, op)
	case plan.CreateVolume:
		return x.host.CreateVolume(ctx, op)
	case plan.RemoveVolume:
		return x.host.RemoveVolume(ctx, op)
	case plan.ScheduleJob:
		return x.host.ScheduleJob(ctx, op)
	case plan.UnscheduleJob:
		return x.host.UnscheduleJob(ctx, op)
	case plan.WaitFor:
		return x.await(ctx, op)
	case plan.Pause:
		select {
		case <-time.After(*op.Timeout):
			return nil
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	case plan.CreateContainer:
		id, err := x.host.CreateContainer(ctx, op)
		if err == nil {
			x.mu.Lock()
			x.made[op.ID] = id
			x.mu.Unlock()
		}
		return err
	}
	id, err := x.container(op)
	if err != nil {
		return err
	}
	switch op.Kind {
	case plan.StartContainer:
		err := x.host.StartContainer(ctx, id, op)
		if err != nil && ctx.Err() == nil && x.tolerates(op) {
			x.goesOn(op, err)
			return nil
		}
		return err
	case plan.StopContainer:
		return x.host.StopContainer(ctx, id, op, x.again[op.ID] != 0)
	case plan.KillContainer:
		return x.host.KillContainer(ctx, id, op)
	case plan.PauseContainer:
		return x.host.PauseContainer(ctx, id, op)
	case plan.UnpauseContainer:
		return x.host.UnpauseContainer(ctx, id, op)
	case plan.RemoveContainer:
		return x.host.RemoveContainer(ctx, id, op)
	case plan.RenameContainer:
		return x.host.RenameContainer(ctx, id, op)
	case plan.HandOver:
		return x.host.HandOver(ctx, id, op)
	}
	return fmt.Errorf("internal error: unknown operation %q", op.Kind)
}

func (x *execution) await(ctx context.Context, op *plan.Op) error {
	if op.Creates != 0 {
		id, err := x.container(op)
		if err != nil {
			return err
		}
		about := *op
		about.ContainerID = id
		op = &about
	}
	err := x.host.Await(ctx, op)
	if err != nil && ctx.Err() == nil && x.tolerates(op) {
		x.goesOn(op, err)
		return nil
	}
	if err != nil && op.Optional && ctx.Err() == nil {
		x.event(Event{Kind: "Service", Name: op.Name, Status: "Warning", Text: fmt.Sprintf("optional dependency %q failed to start: %v", op.Name, err), Done: true})
		return nil
	}
	return err
}

// container is the container that an operation is about.
func (x *execution) container(op *plan.Op) (string, error) {
	if op.Creates == 0 {
		return op.ContainerID, nil
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	if id := x.made[op.Creates]; id != "" {
		return id, nil
	}
	return "", fmt.Errorf("internal error: operation %d has made no container", op.Creates)
}

func (x *execution) goesOn(op *plan.Op, err error) {
	x.event(Event{Kind: "Container", Name: op.Name, Status: "Warning", Text: fmt.Sprintf("the update goes on: %v", err), Done: true})
}

// tolerates counts a container that has not proven itself.
func (x *execution) tolerates(op *plan.Op) bool {
	if op.Tolerate == 0 {
		return false
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.failed[op.Service] == nil {
		x.failed[op.Service] = map[int]bool{}
	}
	x.failed[op.Service][op.Index] = true
	return len(x.failed[op.Service]) <= op.Tolerate
}

// Split parts a plan into what is done and the waits for services to be up, which
// come after all of it.
func Split(p *plan.Plan) (work, waits *plan.Plan) {
	done, after := *p, plan.Plan{}
	done.Ops = nil
	for _, op := range p.Ops {
		if op.Kind != plan.WaitFor || op.Condition != plan.Up {
			done.Ops = append(done.Ops, op)
			continue
		}
		alone := *op
		alone.ID, alone.Deps = len(after.Ops)+1, nil
		after.Ops = append(after.Ops, &alone)
	}
	return &done, &after
}
