package main

import (
	"context"
	"os/exec"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/stack-run/stack/e2e/peer"
)

// result is one measurement.
type result struct {
	took time.Duration
	err  error
}

// measure is something that can be measured again and again.
type measure struct {
	who    string
	before func() error // what must be so, and is not measured; may be nil
	do     func() result
}

func (m measure) once() result {
	unix.Sync() // what is still to be written is not this one's
	if m.before != nil {
		if err := m.before(); err != nil {
			return result{err: err}
		}
	}
	return m.do()
}

func newCommand(ctx context.Context, path string, args ...string) *exec.Cmd {
	return exec.CommandContext(ctx, path, args...)
}

func command(make func() *exec.Cmd) func() result {
	return func() result { return timed(make()) }
}

// timed runs a command and takes the time from before its fork to its end.
func timed(cmd *exec.Cmd) result {
	r, _ := timedOutput(cmd)
	return r
}

func timedOutput(cmd *exec.Cmd) (result, []byte) {
	start := time.Now()
	out, err := peer.Run(cmd)
	return result{time.Since(start), err}, out
}

// alternate measures all in turn n times, each time beginning with another, so
// that none has the warmer caches. One round before that is not counted. Who
// fails is not asked again.
func alternate(ctx context.Context, n int, what []measure) map[string][]result {
	results := map[string][]result{}
	for round := range n + 1 {
		for _, m := range inTurn(what, round) {
			if ctx.Err() != nil {
				return results
			}
			if had := results[m.who]; len(had) > 0 && had[len(had)-1].err != nil {
				continue
			}
			r := m.once()
			if round > 0 || r.err != nil {
				results[m.who] = append(results[m.who], r)
			}
		}
	}
	return results
}

// inTurn rotates a list.
func inTurn[T any](list []T, round int) []T {
	if len(list) == 0 {
		return nil
	}
	k := round % len(list)
	return slices.Concat(list[k:], list[:k])
}

// summary of some measurements.
type summary struct {
	n                int
	median, min, max time.Duration
	err              error // of the first that failed
}

func summarize(results []result) summary {
	var s summary
	var times []time.Duration
	for _, r := range results {
		if r.err != nil {
			if s.err == nil {
				s.err = r.err
			}
			continue
		}
		times = append(times, r.took)
	}
	if s.n = len(times); s.n == 0 {
		return s
	}
	slices.Sort(times)
	s.min, s.max = times[0], times[s.n-1]
	s.median = times[s.n/2]
	if s.n%2 == 0 {
		s.median = (times[s.n/2-1] + times[s.n/2]) / 2
	}
	return s
}
