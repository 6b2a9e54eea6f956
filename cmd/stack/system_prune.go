package main

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/docker/go-units"
	"github.com/spf13/cobra"
)

type systemPruneOptions struct {
	All     bool
	Filter  []string
	Force   bool
	Volumes bool
}

func newSystemPruneCmd(a *app, runF func(context.Context, *app, *systemPruneOptions) error) *cobra.Command {
	if runF == nil {
		runF = runSystemPrune
	}
	o := &systemPruneOptions{}
	cmd := &cobra.Command{
		Use:   "prune [OPTIONS]",
		Short: "Remove unused data",
		Args:  exactArgs(0),
		RunE: a.run(func(ctx context.Context, _ *cobra.Command, _ []string) error {
			return runF(ctx, a, o)
		}),
	}
	f := cmd.Flags()
	f.BoolVarP(&o.All, "all", "a", false, "Remove all unused images not just dangling ones")
	f.StringArrayVar(&o.Filter, "filter", nil, `Provide filter values (e.g. "label=<key>=<value>")`)
	f.BoolVarP(&o.Force, "force", "f", false, "Do not prompt for confirmation")
	f.BoolVar(&o.Volumes, "volumes", false, "Prune anonymous volumes")
	return cmd
}

func (o *systemPruneOptions) question() string {
	what := []string{"all stopped containers", "all networks not used by at least one container"}
	if o.Volumes {
		what = append(what, "all anonymous volumes not used by at least one container")
	}
	if o.All {
		what = append(what, "all images without at least one container associated to them")
	} else {
		what = append(what, "all dangling images")
	}
	text := "WARNING! This will remove:\n"
	for _, w := range what {
		text += "  - " + w + "\n"
	}
	if len(o.Filter) > 0 {
		text += "\n  Items to be pruned will be filtered with:\n"
		for _, f := range slices.Sorted(slices.Values(o.Filter)) {
			text += "  - " + f + "\n"
		}
	}
	return text + "\nAre you sure you want to continue? [y/N] "
}

func runSystemPrune(ctx context.Context, a *app, o *systemPruneOptions) error {
	if o.Volumes && slices.ContainsFunc(o.Filter, func(f string) bool { return strings.HasPrefix(f, "until=") }) {
		return fmt.Errorf(`the "until" filter is not supported with "--volumes"`)
	}
	if !o.Force {
		ok, err := a.confirm(o.question())
		if err != nil || !ok {
			return err
		}
	}
	list := func(title string, names []string) {
		if len(names) == 0 {
			return
		}
		fmt.Fprintf(a.out, "Deleted %s:\n%s\n\n", title, strings.Join(names, "\n"))
	}
	deleted, err := a.pruneContainers(ctx, o.Filter)
	list("Containers", deleted)
	if err != nil {
		return err
	}
	deleted, err = a.pruneNetworks(ctx, o.Filter)
	list("Networks", deleted)
	if err != nil {
		return err
	}
	var reclaimed int64
	if o.Volumes {
		report, err := a.pruneVolumes(ctx, false, o.Filter)
		list("Volumes", report.Deleted)
		reclaimed += report.Reclaimed
		if err != nil {
			return err
		}
	}
	removed, err := a.pruneImages(ctx, o.All, o.Filter)
	if len(removed.Untagged)+len(removed.Deleted) > 0 {
		fmt.Fprintln(a.out, "Deleted Images:")
		a.printRemovedLower(removed)
		fmt.Fprintln(a.out)
	}
	if err != nil {
		return err
	}
	fmt.Fprintln(a.out, "Total reclaimed space:", units.HumanSize(float64(reclaimed+removed.Bytes)))
	return nil
}
