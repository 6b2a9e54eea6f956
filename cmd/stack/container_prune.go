package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/stack-run/stack/cmd/stack/internal/when"
	"github.com/stack-run/stack/compose"
	"github.com/stack-run/stack/engine"
)

type containerPruneOptions struct {
	Filter []string
	Force  bool
}

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
	f := cmd.Flags()
	f.StringArrayVar(&o.Filter, "filter", nil, "Provide filter values (e.g. \"until=<timestamp>\")")
	f.BoolVarP(&o.Force, "force", "f", false, "Do not prompt for confirmation")
	return cmd
}

func runContainerPrune(ctx context.Context, a *app, o *containerPruneOptions) error {
	if !o.Force {
		ok, err := a.confirm("WARNING! This will remove all stopped containers.\nAre you sure you want to continue? [y/N] ")
		if err != nil || !ok {
			return err
		}
	}
	deleted, err := a.pruneContainers(ctx, o.Filter)
	if len(deleted) > 0 {
		fmt.Fprintln(a.out, "Deleted Containers:")
		for _, id := range deleted {
			fmt.Fprintln(a.out, id)
		}
		fmt.Fprintln(a.out)
	}
	if err != nil {
		return err
	}
	fmt.Fprintln(a.out, "Total reclaimed space: 0B")
	return nil
}

// pruneContainers removes stopped containers. Those of a Compose project are
// stopped, not forgotten: they count as well, as with docker.
func (a *app) pruneContainers(ctx context.Context, filter []string) (deleted []string, err error) {
	f, err := parseFilters(filter, "until", "label", "label!")
	if err != nil {
		return nil, err
	}
	limit := a.now()
	for _, u := range f["until"] {
		if limit, err = when.Parse(u, a.now()); err != nil {
			return nil, err
		}
	}
	v, err := a.engine(ctx)
	if err != nil {
		return nil, err
	}
	cs, err := v.Containers(ctx, compose.Selector{All: true, OneOff: true})
	if err != nil {
		return nil, err
	}
	for _, c := range cs {
		stopped := c.State.Phase == engine.Exited || c.State.Phase == engine.Created || c.State.Phase == engine.Dead
		if !stopped || !c.Created.Before(limit) || !f.labels("label", c.Spec.Labels) || !f.none("label!") && f.labels("label!", c.Spec.Labels) {
			continue
		}
		if err := v.Remove(ctx, idSelector(c), compose.StopOptions{Volumes: true}, nil); err != nil {
			return deleted, err
		}
		deleted = append(deleted, c.ID)
	}
	return deleted, nil
}
