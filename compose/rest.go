package compose

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"

	"github.com/stack-run/stack/compose/apply"
	"github.com/stack-run/stack/compose/supervise"
	"github.com/stack-run/stack/engine"
)

// rest freezes containers that run until thaw is called, whose error tells which have
// not rested all the time. If this process is killed, their supervisors thaw them.
func (c *Client) rest(ctx context.Context, containers []engine.Container) (thaw func() error, err error) {
	byRealm := map[string][]string{}
	for _, r := range containers {
		realm := supervise.RealmOf(r.Project)
		byRealm[realm] = append(byRealm[realm], r.ID)
	}
	// What the caller gives up is thawed first.
	calls, hangUp := context.WithCancel(context.WithoutCancel(ctx))
	var ended sync.WaitGroup
	frozen := make(chan error, 2*len(byRealm))
	for realm, ids := range byRealm {
		ended.Go(func() {
			err := c.call(calls, realm, "rest", supervise.RestRequest{IDs: ids}, nil, func(e apply.Event) {
				if e.Status == supervise.StatusResting {
					frozen <- nil
				}
			})
			if err != nil {
				frozen <- err
			}
		})
	}
	thaw = func() error {
		defer ended.Wait()
		defer hangUp()
		return c.unrest(context.WithoutCancel(ctx), containers)
	}
	for range byRealm {
		select {
		case err = <-frozen:
		case <-ctx.Done():
			err = context.Cause(ctx)
		}
		if err != nil {
			_ = thaw() // of those that were frozen by then; hanging up thaws the others
			return nil, err
		}
	}
	return thaw, nil
}

// unrest unpauses the containers that rest. The others have not rested all the time.
func (c *Client) unrest(ctx context.Context, containers []engine.Container) error {
	var resting, others []string
	for _, r := range containers {
		now, err := c.Engine.Records.Find(r.ID)
		if err == nil && now.State.Phase == engine.Paused {
			resting = append(resting, r.ID)
		} else {
			others = append(others, r.Spec.Name)
		}
	}
	var errs []error
	if len(others) > 0 {
		errs = append(errs, fmt.Errorf("%s was to be paused all the time and was not: somebody unpaused, stopped or killed it; do it again", strings.Join(others, ", ")))
	}
	if len(resting) > 0 {
		errs = append(errs, c.Unpause(ctx, Selector{IDs: resting}, nil))
	}
	return errors.Join(errs...)
}
