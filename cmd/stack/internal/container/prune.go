package container

import (
	"context"
	"errors"
	"slices"

	"github.com/spf13/cobra"

	"github.com/stack-run/stack/cmd/stack/internal/cli"
	"github.com/stack-run/stack/compose"
	"github.com/stack-run/stack/engine"
)

type pruneOptions struct{ cli.PruneFlags }

func newPruneCmd(a *cli.App, runF func(context.Context, *cli.App, *pruneOptions) error) *cobra.Command {
	if runF == nil {
		runF = runPrune
	}
	o := &pruneOptions{}
	cmd := &cobra.Command{
		Use:   "prune [OPTIONS]",
		Short: "Remove all stopped containers",
		Args:  cli.ExactArgs(0),
		RunE: a.Run(func(ctx context.Context, _ *cobra.Command, _ []string) error {
			return runF(ctx, a, o)
		}),
	}
	o.Add(cmd.Flags(), "until=<timestamp>")
	return cmd
}

func runPrune(ctx context.Context, a *cli.App, o *pruneOptions) error {
	if ok, err := a.Agreed(o.PruneFlags, " all stopped containers.\n"); err != nil || !ok {
		return err
	}
	ids, reclaimed, err := PruneContainers(ctx, a, o.Filter)
	a.PrintPruned("Containers", ids)
	if err != nil {
		return err
	}
	if err := Sweep(ctx, a, ids); err != nil {
		return err
	}
	a.PrintReclaimed(reclaimed)
	return nil
}

// PruneContainers removes stopped containers and returns their IDs and the bytes
// of their files. Those of a Compose project are stopped, not forgotten: they
// count as well, as with docker. Volumes stay; "volume prune" takes them.
func PruneContainers(ctx context.Context, a *cli.App, filter []string) (ids []string, reclaimed int64, err error) {
	f, err := a.PruneFilters(filter)
	if err != nil {
		return nil, 0, err
	}
	v, err := a.API(ctx)
	if err != nil {
		return nil, 0, err
	}
	cs, err := v.Containers(ctx, compose.Selector{All: true, OneOff: true})
	if err != nil {
		return nil, 0, err
	}
	cs = slices.DeleteFunc(cs, func(c engine.Container) bool {
		stopped := c.State.Phase == engine.Exited || c.State.Phase == engine.Created || c.State.Phase == engine.Dead
		return !stopped || !f.Match(c.Created, c.Spec.Labels)
	})
	size, err := Sizes(ctx, v, cs)
	if err != nil {
		return nil, 0, err
	}
	var errs []error
	for _, c := range cs {
		own, _ := size(c)
		if !a.Global.DryRun {
			if err := v.Remove(ctx, idSelector(c), compose.StopOptions{}, nil); err != nil {
				errs = append(errs, err)
				continue
			}
		}
		ids, reclaimed = append(ids, c.ID), reclaimed+own
	}
	return ids, reclaimed, errors.Join(errs...)
}
