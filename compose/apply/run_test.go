package apply

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

type recorder struct {
	mu   sync.Mutex
	done []int
}

func (r *recorder) add(i int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.done = append(r.done, i)
}

func chain(i int) []int {
	if i == 0 {
		return nil
	}
	return []int{i - 1}
}

func TestDependenciesComeFirst(t *testing.T) {
	var r recorder
	if err := Run(t.Context(), 5, chain, Options{}, func(_ context.Context, i int) error { r.add(i); return nil }); err != nil {
		t.Fatal(err)
	}
	if want := []int{0, 1, 2, 3, 4}; !slices.Equal(r.done, want) {
		t.Errorf("order %v, want %v", r.done, want)
	}
}

func TestNothingAfterAFailureStarts(t *testing.T) {
	var r recorder
	broken := errors.New("broken")
	err := Run(t.Context(), 4, chain, Options{}, func(_ context.Context, i int) error {
		r.add(i)
		if i == 1 {
			return broken
		}
		return nil
	})
	if !errors.Is(err, broken) {
		t.Errorf("error %v, want %v", err, broken)
	}
	if want := []int{0, 1}; !slices.Equal(r.done, want) {
		t.Errorf("ran %v, want %v", r.done, want)
	}
}

// Who is cut off must not take another's error for his own.
func TestTheErrorThatCancelsOthersIsNotTheirs(t *testing.T) {
	missing := errors.New("no such container")
	begun := make(chan struct{})
	var cause error
	err := Run(t.Context(), 2, func(int) []int { return nil }, Options{}, func(ctx context.Context, i int) error {
		if i == 0 {
			<-begun
			return missing
		}
		close(begun)
		<-ctx.Done()
		cause = context.Cause(ctx)
		return cause
	})
	if !errors.Is(err, missing) {
		t.Errorf("the caller is told %v", err)
	}
	if errors.Is(cause, missing) || cause.Error() != missing.Error() {
		t.Errorf("the other one is told %v", cause)
	}
}

func TestKeepGoingRunsTheIndependentAndJoinsErrors(t *testing.T) {
	var r recorder
	none := func(int) []int { return nil }
	one, two := errors.New("one"), errors.New("two")
	err := Run(t.Context(), 3, none, Options{KeepGoing: true}, func(_ context.Context, i int) error {
		r.add(i)
		return []error{one, two, nil}[i]
	})
	if !errors.Is(err, one) || !errors.Is(err, two) || len(r.done) != 3 {
		t.Errorf("error %v after %v", err, r.done)
	}
}

func TestParallelIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		none := func(int) []int { return nil }
		if err := Run(t.Context(), 6, none, Options{Parallel: 2}, func(context.Context, int) error {
			time.Sleep(time.Second)
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		if got := time.Since(start); got != 3*time.Second {
			t.Errorf("6 operations of 1 s, 2 at a time, took %v", got)
		}
	})
}

func TestACycleIsAnErrorBeforeAnythingStarts(t *testing.T) {
	err := Run(t.Context(), 2, func(i int) []int { return []int{1 - i} }, Options{}, func(context.Context, int) error {
		t.Error("an operation of a cycle ran")
		return nil
	})
	if err == nil {
		t.Error("no error")
	}
}
