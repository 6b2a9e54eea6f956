package supervise

import (
	"context"
	"errors"
	"fmt"

	"github.com/stack-run/stack/compose/machine"
	"github.com/stack-run/stack/compose/plan"
	"github.com/stack-run/stack/engine"
)

// restartDependents restarts what is to restart with a container that was restarted
// because it was unhealthy: the same plan as for a restart by hand, but for the container
// itself. Nobody waits for it; what fails is a warning.
func (a *actor) restartDependents() {
	run := a.record.Starts
	a.s.linger(func(ctx context.Context) error {
		_, err := a.s.apply(ctx, ApplyRequest{Project: a.s.realm, Request: plan.Request{
			Verb: plan.VerbRestart, Whole: true, Containers: []string{a.id}, Dependents: true,
		}}, &reply{s: a.s})
		if ctx.Err() != nil {
			return nil // the next supervisor begins with it again
		}
		a.box.post(func() {
			if a.record.Starts != run {
				return // it has recovered once more, from then on it counts
			}
			if err := a.feed(ctx, machine.Event{Kind: machine.DependentsRestarted}); err != nil {
				a.s.warn(err)
			}
		})
		if err != nil && !errors.Is(err, engine.ErrNotFound) {
			return fmt.Errorf("cannot restart what depends on %s: %w", a.view.Load().Spec.Name, err)
		}
		return nil
	})
}
