package supervise

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"sync/atomic"
	"time"

	"github.com/stack-run/stack/compose/desired"
	"github.com/stack-run/stack/compose/plan"
	"github.com/stack-run/stack/compose/schedule"
	"github.com/stack-run/stack/compose/spec"
	"github.com/stack-run/stack/engine"
)

// scheduler has the jobs of a project run when they are due. Its goroutine alone holds
// their record: package schedule decides, the record is stored, and then it is done.
// After a kill or a boot the next supervisor goes on from the record.
type scheduler struct {
	s    *Supervisor
	box  *mailbox
	view atomic.Pointer[schedule.Record] // never changes

	// Of the goroutine alone:
	record   schedule.Record
	alarm    *alarm
	starting map[schedule.Start]context.CancelCauseFunc
	watching bool // somebody waits for a run by hand to end
}

func newScheduler(s *Supervisor, record schedule.Record) *scheduler {
	x := &scheduler{s: s, box: newMailbox(), record: record, starting: map[schedule.Start]context.CancelCauseFunc{}}
	x.publish()
	return x
}

func (x *scheduler) publish() {
	r := x.record
	x.view.Store(&r)
}

// owns tells whether a job is or will be run by a schedule.
func (x *scheduler) owns() bool {
	r := x.view.Load()
	for _, j := range r.Jobs {
		if len(j.Timers) > 0 {
			return true
		}
	}
	return len(r.Underway()) > 0
}

// run goes on with what an earlier supervisor has begun, and reads the mailbox.
func (x *scheduler) run() {
	<-x.s.adopted
	record, starts := x.record.Resume(x.found, engine.BootID(), x.s.now())
	x.note(record)
	for _, start := range starts {
		x.begin(start)
	}
	x.decide()
	for {
		x.box.next(x.s.wake)()
	}
}

// keep makes record the one that holds, once it is stored.
func (x *scheduler) keep(record schedule.Record) error {
	if reflect.DeepEqual(record, x.record) || len(record.Jobs)+len(x.record.Jobs) == 0 {
		return nil
	}
	if err := x.s.store.SaveSchedules(x.s.realm, record); err != nil {
		return err
	}
	x.record = record
	x.publish()
	return nil
}

// note is keep for what has happened, whether it can be stored or not.
func (x *scheduler) note(record schedule.Record) {
	if err := x.keep(record); err != nil {
		x.s.warn(err)
		x.record = record
		x.publish()
	}
}

// retryAfter is how long after a decision that could not be stored the next one comes.
const retryAfter = 10 * time.Second

// decide begins what is due, and sets the alarm for what comes next.
func (x *scheduler) decide() {
	if x.s.leaves() {
		return
	}
	record, starts, next := x.record.Decide(x.byHand, x.s.now())
	if err := x.keep(record); err != nil {
		x.s.warn(fmt.Errorf("no job is started by its schedule: %w", err))
		starts, next = nil, x.s.now().Add(retryAfter)
	}
	for _, start := range starts {
		x.begin(start)
	}
	if err := x.wakeAt(next); err != nil {
		x.s.warn(err)
	}
	x.awaitByHand()
}

func (x *scheduler) wakeAt(next time.Time) error {
	if x.alarm == nil {
		if next.IsZero() {
			return nil
		}
		var err error
		if x.alarm, err = newAlarm(func() { x.box.post(x.decide) }); err != nil {
			return err
		}
	}
	return x.alarm.set(next)
}

// byHand tells whether somebody runs a job by hand just now.
func (x *scheduler) byHand(job string) bool {
	for _, v := range x.s.views() {
		if v.OneOff && v.Service == job && v.busy && v.Spec.Labels[spec.LabelDue] == "" {
			return true
		}
	}
	return false
}

// awaitByHand decides again when a run by hand has ended that something due waits for.
func (x *scheduler) awaitByHand() {
	if x.watching {
		return
	}
	for name, j := range x.record.Jobs {
		if j.Queued.IsZero() || !x.byHand(name) {
			continue
		}
		x.watching = true
		go func() {
			// An error is the supervisor's end.
			_ = x.s.await(x.s.ctx, func([]*view) (bool, time.Time, error) { return !x.byHand(name), time.Time{}, nil })
			x.box.post(func() {
				x.watching = false
				x.decide()
			})
		}()
		return
	}
}

// found looks for the container of a run.
func (x *scheduler) found(start schedule.Start) schedule.Found {
	a := x.container(start)
	if a == nil {
		return schedule.Found{}
	}
	return schedule.Found{Container: true, Started: !a.view.Load().State.StartedAt.IsZero()}
}

func (x *scheduler) container(start schedule.Start) *actor {
	for _, a := range x.s.all() {
		v := a.view.Load()
		if v.OneOff && v.Service == start.Job && v.Spec.Labels[spec.LabelDue] == dueLabel(start) {
			return a
		}
	}
	return nil
}

func dueLabel(start schedule.Start) string { return start.Due.UTC().Format(time.RFC3339) }

// begin has a run come to its end beside the goroutine, and notes how it ended.
func (x *scheduler) begin(start schedule.Start) {
	ctx, cancel := context.WithCancelCause(x.s.ctx)
	x.starting[start] = cancel
	go func() {
		ended := x.carryOut(ctx, start)
		cancel(nil)
		if x.s.leaves() {
			return // the next supervisor sees it, too
		}
		x.box.post(func() {
			delete(x.starting, start)
			x.note(x.record.Ended(start, ended))
			x.decide()
		})
	}()
}

// carryOut makes a run's container, unless there is one, starts it, unless it has been,
// and waits for its end. ctx is for what comes before the start.
func (x *scheduler) carryOut(ctx context.Context, start schedule.Start) schedule.Run {
	a, err := x.prepared(ctx, start)
	if err != nil {
		x.s.warn(err)
		return schedule.Run{Outcome: schedule.Failed, Finished: x.s.now(), ExitCode: engine.StartExitCode(err), Error: err.Error()}
	}
	res, err := x.s.awaitEnd(x.s.ctx, a)
	v := a.view.Load()
	run := schedule.Run{
		Outcome: schedule.Exited, Started: v.State.StartedAt, Finished: v.State.FinishedAt,
		ExitCode: res.ExitCode, Container: v.Spec.Name, Error: res.Error,
	}
	if err != nil {
		run.Error = err.Error()
	}
	return run
}

// prepared returns the container of a run, which has started.
func (x *scheduler) prepared(ctx context.Context, start schedule.Start) (*actor, error) {
	a := x.container(start)
	if a == nil {
		req, err := x.s.dueRequest(start)
		if err != nil {
			return nil, err
		}
		created, err := x.s.create(ctx, req, &reply{s: x.s})
		if err != nil {
			return nil, err
		}
		made, _ := created.(CreateResult)
		if a, err = x.s.lookup(made.ID); err != nil {
			return nil, err
		}
	}
	v := a.view.Load()
	if !v.State.StartedAt.IsZero() {
		return a, nil
	}
	err := x.do(ctx, func() error {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		return x.keep(x.record.Begin(start, v.Spec.Name, engine.BootID(), x.s.now()))
	})
	if err != nil {
		return nil, err
	}
	// From here on it counts as begun.
	if err := a.startIt(x.s.ctx, false, nil); err != nil || ctx.Err() == nil {
		return a, err
	}
	return a, a.stopIt(x.s.ctx, stopOptions{}) // its schedule was ended at that moment
}

// dueRequest is what run asks for, for a job that is due.
func (s *Supervisor) dueRequest(start schedule.Start) (CreateRequest, error) {
	d := &spec.Desired{Project: s.realm}
	if known := s.desired.Load(); known != nil {
		// What is planned is changed, and others read this one.
		text, err := json.Marshal(known)
		if err == nil {
			err = json.Unmarshal(text, d)
		}
		if err != nil {
			return CreateRequest{}, fmt.Errorf("internal error: cannot copy the project: %w", err)
		}
	}
	whole, err := d.ForRun(start.Job, false)
	if err != nil {
		return CreateRequest{}, err
	}
	overrides := spec.Overrides{
		Slug:   start.Due.UTC().Format("20060102-150405"),
		Labels: map[string]string{spec.LabelDue: dueLabel(start)},
	}
	if j := d.Jobs[start.Job]; j != nil && len(j.Replicas) > 0 {
		overrides.TTY, overrides.Interactive = j.Replicas[0].Spec.Process.TTY, j.Replicas[0].Spec.Process.Stdin
	}
	one, err := spec.OneOff(whole, start.Job, overrides)
	return CreateRequest{Project: s.realm, Spec: one, Service: start.Job, Desired: d, Due: start.Due}, err
}

// do has something done by the goroutine.
func (x *scheduler) do(ctx context.Context, what func() error) error {
	result := make(chan error, 1)
	x.box.post(func() { result <- what() })
	select {
	case err := <-result:
		return err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// change stores what a verb wants of the schedules.
func (x *scheduler) change(ctx context.Context, to func(schedule.Record) schedule.Record) error {
	return x.do(ctx, func() error {
		err := x.keep(to(x.record))
		x.decide()
		return err
	})
}

func (x *scheduler) arm(ctx context.Context, job string, schedules []desired.Schedule) error {
	return x.change(ctx, func(r schedule.Record) schedule.Record { return r.Arm(job, schedules, x.s.now()) })
}

var errDisarmed = errors.New("its schedule was ended meanwhile")

// disarm also gives up runs that have not started yet.
func (x *scheduler) disarm(ctx context.Context, job string) error {
	return x.change(ctx, func(r schedule.Record) schedule.Record {
		for start, cancel := range x.starting {
			if start.Job == job {
				cancel(errDisarmed)
			}
		}
		return r.Disarm(job)
	})
}

// forget forgets all that was, with the project.
func (x *scheduler) forget(ctx context.Context) error {
	return x.do(ctx, func() error {
		x.record = schedule.Record{}
		x.publish()
		return nil
	})
}

func (h *host) ScheduleJob(ctx context.Context, op *plan.Op) error {
	j := h.d.Jobs[op.Service]
	if j == nil {
		return fmt.Errorf("internal error: no job %q in the project", op.Service)
	}
	return h.s.schedules.arm(ctx, op.Service, j.Schedules)
}

func (h *host) UnscheduleJob(ctx context.Context, op *plan.Op) error {
	return h.s.schedules.disarm(ctx, op.Service)
}
