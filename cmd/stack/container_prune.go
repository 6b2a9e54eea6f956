package main

import (
	"context"
	"errors"

	"github.com/spf13/cobra"

	"github.com/stack-run/stack/compose"
	"github.com/stack-run/stack/engine"
)

type containerPruneOptions struct{ pruneFlags }

func newContainerPruneCmd(a *app, runF func(context.Context, *app, *containerPruneOptions) error) *cobra.Command {
	if runF == nil {
		runF = runContainerPrune
	}
	o := &containerPruneOptions{}
	cmd := &cobra.Command{
		Use:   "prune [OPTIONS]",
		Short: "Remove all stopped containers",
		Args:  exactArgs(0),
		RunE: a.run(func(ctx context.Context, _ *cobra.Command, _ []string) error {
			return runF(ctx, a, o)
		}),
	}
	o.add(cmd.Flags(), "until=<timestamp>")
	return cmd
}

func runContainerPrune(ctx context.Context, a *app, o *containerPruneOptions) error {
	if ok, err := a.agreed(o.pruneFlags, " all stopped containers.\n"); err != nil || !ok {
		return err
	}
	ids, reclaimed, err := a.pruneContainers(ctx, o.Filter)
	a.printPruned("Containers", ids)
	if err != nil {
		return err
	}
	if err := a.sweep(ctx, ids); err != nil {
		return err
	}
	a.printReclaimed(reclaimed)
	return nil
}

// pruneContainers removes stopped containers and returns their IDs and the bytes
// of their files. Those of a Compose project are stopped, not forgotten: they
// count as well, as with docker. Volumes stay; "volume prune" takes them.
func (a *app) pruneContainers(ctx context.Context, filter []string) (ids []string, reclaimed int64, err error) {
	f, err := a.pruneFilters(filter)
	if err != nil {
		return nil, 0, err
	}
	v, err := a.api(ctx)
	if err != nil {
		return nil, 0, err
	}
	cs, err := v.Containers(ctx, compose.Selector{All: true, OneOff: true})
	if err != nil {
		return nil, 0, err
	}
	size, err := a.containerSizes(ctx)
	if err != nil {
		return nil, 0, err
	}
	var errs []error
	for _, c := range cs {
		stopped := c.State.Phase == engine.Exited || c.State.Phase == engine.Created || c.State.Phase == engine.Dead
		if !stopped || !f.match(c.Created, c.Spec.Labels) {
			continue
		}
		own, _ := size(c)
		if !a.global.DryRun {
			if err := v.Remove(ctx, idSelector(c), compose.StopOptions{}, nil); err != nil {
				errs = append(errs, err)
				continue
			}
		}
		ids, reclaimed = append(ids, c.ID), reclaimed+own
	}
	return ids, reclaimed, errors.Join(errs...)
}
