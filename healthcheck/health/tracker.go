package health

import (
	"time"
)

// The pace of probes until a container is healthy for the first time.
const (
	firstDelay = 30 * time.Millisecond
	growth     = 3 // halves: each pause is 3/2 of the one before
)

// Tracker holds the state of one container's health. It is a pure state machine:
// the times come in with the events. It is not safe for concurrent use.
//
//	          success                 retries counted failures
//	starting ────────► healthy ◄────────────► unhealthy
//	    └───────────────────────────────────────►┘
//	          retries counted failures
type Tracker struct {
	spec    Spec // with defaults
	started time.Time

	status Status
	streak int // counted failures in a row

	delay   time.Duration // the last pause of the fast phase
	counted time.Time     // from when on a failure counts while starting
	next    time.Time
}

// NewTracker returns the tracker of a container that started at a time. Its
// first probe is due then.
func NewTracker(spec Spec, started time.Time) *Tracker {
	t := &Tracker{spec: spec.WithDefaults(), started: started, status: Starting, next: started}
	t.counted = started.Add(t.dockerFirst(0))
	return t
}

// ResumeTracker returns the tracker of a container that was probed already, last
// at a time (zero: never).
func ResumeTracker(spec Spec, started time.Time, status Status, streak int, last time.Time) *Tracker {
	t := NewTracker(spec, started)
	if status != None {
		t.status = status
	}
	t.streak = streak
	if last.IsZero() {
		return t
	}
	if t.status == Starting {
		if t.streak > 0 {
			t.counted = later(t.counted, last.Add(t.spec.Interval))
		}
		t.next = last.Add(firstDelay)
	} else {
		t.next = last.Add(t.spec.Interval)
	}
	return t
}

// dockerFirst is how long after the start Docker would begin the first probe whose
// failure counts, if each probe takes so long: its probes come every
// start_interval while start_period lasts, else every interval, always after a
// pause of that length.
func (t *Tracker) dockerFirst(takes time.Duration) time.Duration {
	period, pause := t.spec.StartPeriod, t.spec.StartInterval
	if period <= 0 {
		return t.spec.Interval
	}
	// Probe k, from 0 on, begins pause after k cycles.
	cycle := pause + takes
	k := max(0, (period-pause+cycle-1)/cycle)
	if k*cycle >= period {
		return k*cycle + t.spec.Interval // the probe before lasted beyond the period
	}
	return k*cycle + pause
}

// Status is the container's health.
func (t *Tracker) Status() Status { return t.status }

// FailingStreak is the number of counted failures in a row.
func (t *Tracker) FailingStreak() int { return t.streak }

// Next is when the next probe is due.
func (t *Tracker) Next() time.Time { return t.next }

// Observe takes the result of a probe and tells whether the status changed.
func (t *Tracker) Observe(r Result) (changed bool) {
	before := t.status
	if t.streak == 0 {
		t.counted = t.started.Add(t.dockerFirst(r.End.Sub(r.Start)))
	}
	switch {
	case r.ExitCode == 0:
		t.status, t.streak = Healthy, 0
	case t.status != Starting:
		t.streak++
	case !r.Start.Before(t.counted):
		t.streak++
		t.counted = r.End.Add(t.spec.Interval)
	}
	if t.streak >= t.spec.Retries {
		t.status = Unhealthy
	}
	if t.status == Starting {
		t.next = t.soon(r)
	} else {
		t.next = r.End.Add(t.spec.Interval)
	}
	return t.status != before
}

// soon is when to probe a container again that has never been healthy. A probe
// that takes long itself is given as long a pause, so that probes never take
// more than half of the time.
func (t *Tracker) soon(r Result) time.Time {
	longest := min(t.spec.StartInterval, t.spec.Interval)
	if t.delay == 0 {
		t.delay = min(firstDelay, longest)
	} else {
		t.delay = min(t.delay*growth/2, longest)
	}
	next := r.End.Add(max(t.delay, min(r.End.Sub(r.Start), longest)))
	if r.End.Before(t.counted) && t.counted.Before(next) {
		return t.counted // Docker would probe here
	}
	return next
}

func later(a, b time.Time) time.Time {
	if a.Before(b) {
		return b
	}
	return a
}
