// Package schedule decides when jobs are due and what becomes of a due time. It knows
// no clock: what time it is, it is told. What it must not forget is in a Record, which
// whoever acts on a decision saves before.
package schedule

import (
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/stack-run/stack/compose/desired"
)

// Version is the schema version of Record.
const Version = 1

// Record is what is remembered of the jobs of a project.
type Record struct {
	Version int             `json:"version"` // of this schema, now 1
	Jobs    map[string]*Job `json:"jobs,omitempty"`
}

// Job is a job that has a schedule, or had one.
type Job struct {
	// Timers are its schedules while they are armed.
	Timers []Timer `json:"timers,omitempty"`
	// Queued is a due time that waits for the run before it to end, zero for none.
	Queued time.Time `json:"queued,omitzero"`
	// Runs are the last ones, the newest behind.
	Runs []Run `json:"runs,omitempty"`
}

// Timer is a schedule with the time up to which all that was due has been dealt with.
type Timer struct {
	desired.Schedule
	Seen time.Time `json:"seen"`
}

// Outcome is what became of a due time.
type Outcome string

const (
	Running Outcome = "running" // or about to
	Exited  Outcome = "exited"
	Failed  Outcome = "failed" // it could not be started
	// Skipped: the run before it had not ended. Missed: nobody was there.
	Skipped Outcome = "skipped"
	Missed  Outcome = "missed"
)

// Run is one due time, or several in a row that were skipped or missed.
type Run struct {
	Due     time.Time `json:"due"`
	Outcome Outcome   `json:"outcome"`
	// Times is how many due times it stands for where it is more than one.
	Times int `json:"times,omitempty"`
	// Started is set before the container is started, and Boot to the machine's boot:
	// what a machine did when it went down may have left no other trace.
	Started   time.Time `json:"started,omitzero"`
	Boot      string    `json:"boot,omitempty"`
	Finished  time.Time `json:"finished,omitzero"`
	ExitCode  int       `json:"exitCode"`
	Container string    `json:"container,omitempty"` // its name
	Error     string    `json:"error,omitempty"`
}

// Kept is how many runs of a job are remembered.
const Kept = 20

// late is how long after its time a job still counts as on time: cron's smallest step.
// What is later was missed.
const late = time.Minute

// ahead is how far a timer may be before the clock until the clock counts as having
// been wrong: by less it may have been set back, and nothing is to run twice.
const ahead = 24 * time.Hour

// Start is a run to begin.
type Start struct {
	Job string
	Due time.Time
}

// Armed are the schedules that are armed, by job.
func (r Record) Armed() map[string][]desired.Schedule {
	out := map[string][]desired.Schedule{}
	for name, j := range r.Jobs {
		for _, t := range j.Timers {
			out[name] = append(out[name], t.Schedule)
		}
	}
	return out
}

// Next is when a job is due next, zero where nothing is armed.
func (j *Job) Next(now time.Time) time.Time {
	var next time.Time
	for _, t := range j.Timers {
		table, err := Parse(t.Schedule)
		if err != nil {
			continue
		}
		at := table.Next(t.Seen)
		if !at.After(now) && !t.Every() {
			at = table.Next(now)
		}
		next = earlier(next, at)
	}
	return next
}

func earlier(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}

// Check tells what keeps a record that was decoded from being used.
func (r Record) Check() error {
	for _, name := range slices.Sorted(maps.Keys(r.Jobs)) {
		if r.Jobs[name] == nil {
			return fmt.Errorf("job %q is empty", name)
		}
	}
	return nil
}

func (r Record) clone() Record {
	jobs := make(map[string]*Job, len(r.Jobs))
	for name, j := range r.Jobs {
		own := *j
		own.Timers, own.Runs = slices.Clone(j.Timers), slices.Clone(j.Runs)
		jobs[name] = &own
	}
	return Record{Version: Version, Jobs: jobs}
}

// job returns the job of a name, which is made where there is none.
func (r *Record) job(name string) *Job {
	if r.Jobs[name] == nil {
		r.Jobs[name] = &Job{}
	}
	return r.Jobs[name]
}

// Arm has a job run by its schedules from now on. One that is armed already goes on.
func (r Record) Arm(name string, schedules []desired.Schedule, now time.Time) Record {
	out := r.clone()
	j := out.job(name)
	var timers []Timer
	for _, s := range schedules {
		t := Timer{Schedule: s, Seen: now}
		for _, had := range j.Timers {
			if had.Cron == s.Cron && had.Timezone == s.Timezone {
				t.Seen = had.Seen
			}
		}
		timers = append(timers, t)
	}
	j.Timers = timers
	return out
}

// Disarm ends the schedules of a job. What it did stays known.
func (r Record) Disarm(name string) Record {
	out := r.clone()
	if j := out.Jobs[name]; j != nil {
		j.Timers, j.Queued = nil, time.Time{}
		if len(j.Runs) == 0 {
			delete(out.Jobs, name)
		}
	}
	return out
}

// Decide says which runs begin now, and when to decide again at the latest, zero for
// not by itself. busy tells of a job whether another run of it, such as one by hand,
// is under way.
func (r Record) Decide(busy func(job string) bool, now time.Time) (_ Record, starts []Start, next time.Time) {
	out := r.clone()
	for _, name := range slices.Sorted(maps.Keys(out.Jobs)) {
		j := out.Jobs[name]
		under := busy(name) || slices.ContainsFunc(j.Runs, func(run Run) bool { return run.Outcome == Running })
		due, queue := j.due(now)
		begin := func(due time.Time) {
			j.add(Run{Due: due, Outcome: Running})
			starts = append(starts, Start{name, due})
			under = true
		}
		if !j.Queued.IsZero() && !under {
			begin(j.Queued)
			j.Queued = time.Time{}
		}
		switch {
		case due.IsZero():
		case !under:
			begin(due)
		case queue:
			j.Queued = due
		default:
			j.note(Skipped, due)
		}
		for _, t := range j.Timers {
			if table, err := Parse(t.Schedule); err == nil {
				next = earlier(next, table.Next(t.Seen))
			}
		}
	}
	return out, starts, next
}

// due deals with all times up to now and returns the one that counts, zero for none:
// whatever was due meanwhile, the job runs once.
func (j *Job) due(now time.Time) (due time.Time, queue bool) {
	var missed time.Time
	for i := range j.Timers {
		t := &j.Timers[i]
		if t.Seen.Sub(now) > ahead {
			t.Seen = now
		}
		table, err := Parse(t.Schedule)
		if err != nil {
			continue // of a version that could read it
		}
		last := table.Last(t.Seen, now)
		if last.IsZero() {
			continue
		}
		t.Seen = last
		switch {
		case j.ran(last):
		case now.Sub(last) >= late && t.Missed == desired.MissedSkip:
			if last.After(missed) {
				missed = last
			}
		case due.IsZero() || last.After(due):
			due, queue = last, t.Concurrency == desired.ConcurrencyQueue
		}
	}
	if due.IsZero() && !missed.IsZero() {
		j.note(Missed, missed)
	}
	return due, queue
}

// ran says that a due time has been dealt with.
func (j *Job) ran(due time.Time) bool {
	return j.Queued.Equal(due) || slices.ContainsFunc(j.Runs, func(r Run) bool { return r.Due.Equal(due) })
}

// note remembers a due time at which nothing ran, those in a row as one.
func (j *Job) note(o Outcome, due time.Time) {
	if n := len(j.Runs); n > 0 && j.Runs[n-1].Outcome == o {
		last := &j.Runs[n-1]
		last.Due, last.Times = due, max(last.Times, 1)+1
		return
	}
	j.add(Run{Due: due, Outcome: o})
}

func (j *Job) add(run Run) {
	j.Runs = append(j.Runs, run)
	for len(j.Runs) > Kept {
		oldest := slices.IndexFunc(j.Runs, func(r Run) bool { return r.Outcome != Running })
		if oldest < 0 {
			return
		}
		j.Runs = slices.Delete(j.Runs, oldest, oldest+1)
	}
}

// Underway are the runs that were to begin and are not known to have ended: those of
// an earlier supervisor, which were begun or not.
func (r Record) Underway() []Start {
	var out []Start
	for _, name := range slices.Sorted(maps.Keys(r.Jobs)) {
		for _, run := range r.Jobs[name].Runs {
			if run.Outcome == Running {
				out = append(out, Start{name, run.Due})
			}
		}
	}
	return out
}

// Found is what there is of a run.
type Found struct {
	Container bool
	Started   bool // the container was seen to start
}

// Resume says which runs of an earlier supervisor go on. None is begun twice, whatever
// came in between, and one that was not begun is missed once its time is long over.
func (r Record) Resume(found func(Start) Found, boot string, now time.Time) (_ Record, starts []Start) {
	out := r.clone()
	for _, s := range r.Underway() {
		j := out.Jobs[s.Job]
		run := j.run(s.Due)
		has := found(s)
		skip := func(t Timer) bool { return t.Missed == desired.MissedSkip }
		begun := !run.Started.IsZero()
		switch {
		case has.Started:
			starts = append(starts, s)
		case begun && !has.Container:
			run.Outcome, run.Error = Failed, "its container was removed"
		case begun && run.Boot != boot:
			run.Outcome, run.Error = Failed, "the machine went down while it ran"
		case len(j.Timers) == 0, now.Sub(s.Due) >= late && slices.ContainsFunc(j.Timers, skip):
			run.Outcome = Missed
		default:
			starts = append(starts, s)
		}
	}
	return out, starts
}

// Begin notes that a run's container is about to start.
func (r Record) Begin(s Start, container, boot string, now time.Time) Record {
	out := r.clone()
	if j := out.Jobs[s.Job]; j != nil {
		if run := j.run(s.Due); run != nil {
			run.Started, run.Container, run.Boot = now, container, boot
		}
	}
	return out
}

func (j *Job) run(due time.Time) *Run {
	for i := range j.Runs {
		if j.Runs[i].Due.Equal(due) {
			return &j.Runs[i]
		}
	}
	return nil
}

// Ended notes how a run ended.
func (r Record) Ended(s Start, ended Run) Record {
	out := r.clone()
	if j := out.Jobs[s.Job]; j != nil {
		if run := j.run(s.Due); run != nil {
			ended.Due = s.Due
			*run = ended
		}
	}
	return out
}
