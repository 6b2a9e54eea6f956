// Package apply carries out a graph of operations in parallel. It decides
// nothing: the graph, from package plan, says what waits for what.
package apply

import (
	"context"
	"errors"
	"fmt"
	"sync"
)

// Options tell how a graph is run.
type Options struct {
	// Parallel bounds the operations under way at once; 0 does not.
	Parallel int
	// KeepGoing runs what does not depend on a failed operation and joins the
	// errors, as a teardown must. Else the first error cancels all others.
	KeepGoing bool
	// Anyway tells of an operation that it runs although one it waits for failed.
	// nil: none does.
	Anyway func(i int) bool
}

// stopped is the cause of the cancelled context of operations that were under way
// when another failed. It reads like that one's error and is none of its kind: a
// removal that is cut off because some other container does not exist has not found
// that its own does not.
type stopped struct{ by error }

func (s *stopped) Error() string { return s.by.Error() }

// errSkipped marks operations that did not run because one before them failed.
var errSkipped = errors.New("skipped")

// Run calls do(ctx, i) for each i in [0, n), each after all of deps(i) are done.
// An operation's completion is signalled together with its error, so that
// nothing that depends on a failed operation ever starts. A cycle is an error
// before anything starts.
func Run(ctx context.Context, n int, deps func(i int) []int, o Options, do func(ctx context.Context, i int) error) error {
	if err := acyclic(n, deps); err != nil {
		return err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var once sync.Once
	own := &stopped{}
	var slots chan struct{}
	if o.Parallel > 0 {
		slots = make(chan struct{}, o.Parallel)
	}
	results := make([]error, n) // results[i] is valid once finished[i] is closed
	finished := make([]chan struct{}, n)
	for i := range finished {
		finished[i] = make(chan struct{})
	}
	one := func(i int) error {
		for _, d := range deps(i) {
			<-finished[d]
			if results[d] != nil && (o.Anyway == nil || !o.Anyway(i)) {
				return errSkipped
			}
		}
		if slots != nil {
			slots <- struct{}{}
			defer func() { <-slots }()
		}
		if ctx.Err() != nil {
			return errSkipped
		}
		return do(ctx, i)
	}
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			defer close(finished[i])
			results[i] = one(i)
			if results[i] != nil && !errors.Is(results[i], errSkipped) && !o.KeepGoing {
				once.Do(func() { own.by = results[i]; cancel(own) })
			}
		})
	}
	wg.Wait()
	if !o.KeepGoing {
		// The error that cancelled the rest is the cause of all others.
		cause := context.Cause(ctx)
		if cause == error(own) {
			return own.by
		}
		if cause != nil {
			return cause
		}
	}
	var errs []error
	for _, err := range results {
		if err != nil && !errors.Is(err, errSkipped) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

func acyclic(n int, deps func(int) []int) error {
	const (
		unseen = iota
		open
		closed
	)
	state := make([]int, n)
	var visit func(i int) error
	visit = func(i int) error {
		switch state[i] {
		case open:
			return fmt.Errorf("internal error: operation %d waits for itself", i)
		case closed:
			return nil
		}
		state[i] = open
		for _, d := range deps(i) {
			if d < 0 || d >= n {
				return fmt.Errorf("internal error: operation %d waits for %d, which does not exist", i, d)
			}
			if err := visit(d); err != nil {
				return err
			}
		}
		state[i] = closed
		return nil
	}
	for i := range n {
		if err := visit(i); err != nil {
			return err
		}
	}
	return nil
}
