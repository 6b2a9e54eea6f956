package healthcheck

import (
	"context"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// A service that is ready after 200 ms is healthy before 400 ms.
func TestRunIsQuick(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		ctx, cancel := context.WithCancel(t.Context())
		var seen []string
		Run(ctx, Target{Spec: Spec{Test: []string{"CMD", "x"}}, Started: start}, func(context.Context) Result {
			time.Sleep(4 * time.Millisecond)
			if time.Since(start) < 200*time.Millisecond {
				return Result{ExitCode: 1, Output: "not yet"}
			}
			return Result{Output: "ok"}
		}, func(s State, changed bool) {
			if changed {
				seen = append(seen, string(s.Status))
			}
			if len(s.Log) > MaxResults || s.FailingStreak != 0 {
				t.Errorf("%+v", s)
			}
			if s.Status == Healthy {
				if after := time.Since(start); after >= 400*time.Millisecond {
					t.Errorf("healthy after %v", after)
				}
				cancel()
			}
		})
		if fmt.Sprint(seen) != "[starting healthy]" {
			t.Error(seen)
		}
	})
}

func TestRunTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		spec := Spec{Test: []string{"CMD", "x"}, Timeout: 2 * time.Second, Retries: 1, Interval: time.Second}
		Run(ctx, Target{Spec: spec, Started: time.Now()}, func(ctx context.Context) Result {
			<-ctx.Done()
			return Result{ExitCode: 137, Output: "half an answer"}
		}, func(s State, _ bool) {
			if s.Status != Unhealthy {
				return
			}
			r := s.Log[len(s.Log)-1]
			if r.ExitCode != -1 || r.Output != "Health check exceeded timeout (2s): half an answer" || r.End.Sub(r.Start) != 2*time.Second {
				t.Errorf("%+v", r)
			}
			cancel()
		})
	})
}

// Five results are kept, a stop in the middle of a probe is no result, and a
// resumed run goes on with status, streak, history and rhythm.
func TestRunResume(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		started := time.Now()
		spec := Spec{Test: []string{"CMD", "x"}, Interval: 10 * time.Second}
		var last State
		ctx, cancel := context.WithTimeout(t.Context(), 75*time.Second)
		defer cancel()
		n := 0
		Run(ctx, Target{Spec: spec, Started: started}, func(ctx context.Context) Result {
			if n++; n == 8 { // in this one the supervisor goes
				<-ctx.Done()
				return Result{ExitCode: 1}
			}
			if n > 6 {
				return Result{ExitCode: 1, Output: fmt.Sprint(n)}
			}
			return Result{Output: fmt.Sprint(n)}
		}, func(s State, _ bool) { last = s })
		if last.Status != Healthy || last.FailingStreak != 1 || len(last.Log) != MaxResults || last.Log[4].Output != "7" {
			t.Fatalf("%+v", last)
		}
		again, stop := context.WithCancel(t.Context())
		var when []time.Duration
		Run(again, Target{Spec: spec, Started: started, Resume: last}, func(context.Context) Result {
			when = append(when, time.Since(started))
			return Result{ExitCode: 1}
		}, func(s State, changed bool) {
			if s.Status == Unhealthy {
				if s.FailingStreak != 3 || !changed || s.Log[2].Output != "7" {
					t.Errorf("%+v", s)
				}
				stop()
			}
		})
		if fmt.Sprint(when) != "[1m15s 1m25s]" {
			t.Error(when)
		}
	})
}

// What is waited for is seen when it happens, and not when the next probe is due.
func TestRunWakes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		ctx, cancel := context.WithCancel(t.Context())
		wake := make(chan struct{}, 1)
		var ready atomic.Bool
		time.AfterFunc(time.Hour+time.Millisecond, func() {
			ready.Store(true)
			wake <- struct{}{}
		})
		Run(ctx, Target{Spec: Spec{Test: []string{"LOG", "x"}, StartPeriod: 2 * time.Hour}, Started: start, Wake: wake}, func(context.Context) Result {
			if ready.Load() {
				return Result{}
			}
			return Result{ExitCode: 1}
		}, func(s State, _ bool) {
			if s.Status != Healthy {
				return
			}
			if after := time.Since(start); after != time.Hour+time.Millisecond {
				t.Errorf("healthy after %v", after)
			}
			cancel()
		})
	})
}

func TestRunNothing(t *testing.T) {
	for _, test := range [][]string{nil, {"NONE"}} {
		Run(t.Context(), Target{Spec: Spec{Test: test}}, nil, nil)
	}
}

func TestShorten(t *testing.T) {
	for _, c := range []struct{ in, want string }{
		{"ok\n", "ok\n"},
		{strings.Repeat("x", 5000), strings.Repeat("x", 4096)},
		{strings.Repeat("x", 4095) + "é", strings.Repeat("x", 4095)},
		{"\xff\xfe", "?"},
	} {
		if got := shorten(c.in); got != c.want {
			t.Errorf("%d bytes: %.20q (%d)", len(c.in), got, len(got))
		}
	}
}
