package healthcheck

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode/utf8"
)

// Probe asks a container once. It returns soon after ctx is done, whatever
// becomes of the process it may have started.
type Probe func(ctx context.Context) Result

// Target is what Run watches.
type Target struct {
	Spec    Spec
	Started time.Time // when the container's process started
	// Resume is the state that an earlier Run reported, when the container has
	// been running on. The zero State begins anew.
	Resume State
	// Wake, if set, has the next probe made at once whenever something is in it: what
	// is probed for has happened.
	Wake <-chan struct{}
}

// Run probes a container until ctx is done. report gets the state at the start
// of a new container and after each probe; changed says that the status is
// another one than before. Run returns at once if there is nothing to probe.
func Run(ctx context.Context, target Target, probe Probe, report func(s State, changed bool)) {
	if !target.Spec.Enabled() {
		return
	}
	spec := target.Spec.WithDefaults()
	state := State{Log: slices.Clone(target.Resume.Log)}
	var tracker *Tracker
	if target.Resume.Status == None {
		tracker = NewTracker(spec, target.Started)
		state.Status = tracker.Status()
		report(state, true)
	} else {
		var last time.Time
		if n := len(state.Log); n > 0 {
			last = state.Log[n-1].End
		}
		tracker = ResumeTracker(spec, target.Started, target.Resume.Status, target.Resume.FailingStreak, last)
	}
	timer := time.NewTimer(time.Until(tracker.Next()))
	defer timer.Stop()
	for {
		select {
		case <-timer.C:
		case <-target.Wake:
		case <-ctx.Done():
			return
		}
		result := once(ctx, spec.Timeout, probe)
		if ctx.Err() != nil {
			return // the container is stopping; this says nothing about it
		}
		changed := tracker.Observe(result)
		state.Status, state.FailingStreak = tracker.Status(), tracker.FailingStreak()
		state.Log = append(slices.Clone(state.Log[max(0, len(state.Log)-MaxResults+1):]), result)
		report(state, changed)
		timer.Reset(time.Until(tracker.Next()))
	}
}

// once runs one probe within its time.
func once(ctx context.Context, timeout time.Duration, probe Probe) Result {
	limited, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	start := time.Now()
	r := probe(limited)
	if r.Start.IsZero() {
		r.Start = start
	}
	if errors.Is(limited.Err(), context.DeadlineExceeded) && ctx.Err() == nil {
		text := fmt.Sprintf("Health check exceeded timeout (%v)", timeout)
		if r.Output != "" {
			text += ": " + r.Output
		}
		r.ExitCode, r.Output = -1, text
		r.End = time.Time{}
	}
	if r.End.IsZero() {
		r.End = time.Now()
	}
	r.Output = shorten(r.Output)
	return r
}

// shorten cuts output to what is kept, at a character, and makes it valid UTF-8
// for JSON.
func shorten(s string) string {
	if len(s) > MaxOutput {
		cut := MaxOutput
		for cut > MaxOutput-utf8.UTFMax && !utf8.RuneStart(s[cut]) {
			cut--
		}
		s = s[:cut]
	}
	if s = strings.ToValidUTF8(s, "?"); len(s) > MaxOutput {
		s = s[:MaxOutput]
	}
	return s
}
