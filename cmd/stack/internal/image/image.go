// Package image is "stack image", "stack builder" and the registry's login and logout.
package image

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/stack-run/stack/cmd/stack/internal/cli"
	"github.com/stack-run/stack/cmd/stack/internal/when"
	"github.com/stack-run/stack/compose"
)

func NewCmd(a *cli.App) *cobra.Command {
	return cli.Group("image", "Manage images",
		newBuildCmd(a, nil),
		newHistoryCmd(a, nil),
		newImportCmd(a, nil),
		newInspectCmd(a),
		newLoadCmd(a, nil),
		newLsCmd(a, nil),
		newPruneCmd(a, nil),
		newPullCmd(a, nil),
		newPushCmd(a, nil),
		newRmCmd(a, nil),
		newSaveCmd(a, nil),
		newTagCmd(a),
	)
}

type rmOptions struct {
	Names    []string // arguments
	Force    bool
	NoPrune  bool
	Platform []string
}

func newRmCmd(a *cli.App, runF func(context.Context, *cli.App, *rmOptions) error) *cobra.Command {
	if runF == nil {
		runF = runRm
	}
	o := &rmOptions{}
	cmd := &cobra.Command{
		Use:     "rm [OPTIONS] IMAGE [IMAGE...]",
		Aliases: []string{"remove"},
		Short:   "Remove one or more images",
		Args:    cli.RequireArgs(1),
		RunE: a.Run(func(ctx context.Context, _ *cobra.Command, args []string) error {
			o.Names = args
			return runF(ctx, a, o)
		}),
		ValidArgsFunction: a.CompleteImages,
	}
	f := cmd.Flags()
	f.BoolVarP(&o.Force, "force", "f", false, "Force removal of the image")
	f.BoolVar(&o.NoPrune, "no-prune", false, "Do not delete untagged parents")
	f.StringSliceVar(&o.Platform, "platform", nil, "Remove only the given platform variant.")
	cli.Ignore(f, "no-prune")
	return cmd
}

func runRm(ctx context.Context, a *cli.App, o *rmOptions) error {
	v, err := a.API(ctx)
	if err != nil {
		return err
	}
	all, err := v.RemoveImages(ctx, o.Names, compose.RemoveImagesOptions{Force: o.Force, Platforms: o.Platform})
	failed := false
	for _, removed := range all {
		for _, name := range removed.Untagged {
			fmt.Fprintln(a.Out, "Untagged:", name)
		}
		for _, id := range removed.Deleted {
			fmt.Fprintln(a.Out, "Deleted:", id)
		}
		if removed.Err != nil && !(o.Force && compose.IsNoImage(removed.Err)) {
			failed = true
			fmt.Fprintln(a.Err, removed.Err)
		}
	}
	if err != nil {
		return err
	}
	if failed {
		return cli.ExitError{Code: cli.ExitGeneral}
	}
	return nil
}

func newTagCmd(a *cli.App) *cobra.Command {
	return &cobra.Command{
		Use:   "tag SOURCE_IMAGE[:TAG] TARGET_IMAGE[:TAG]",
		Short: "Create a tag TARGET_IMAGE that refers to SOURCE_IMAGE",
		Args:  cli.ExactArgs(2),
		RunE: a.Run(func(ctx context.Context, _ *cobra.Command, args []string) error {
			v, err := a.API(ctx)
			if err != nil {
				return err
			}
			return v.TagImage(ctx, args[0], args[1])
		}),
		ValidArgsFunction: a.CompleteImages,
	}
}

type pruneOptions struct {
	cli.PruneFlags
	All bool
}

func newPruneCmd(a *cli.App, runF func(context.Context, *cli.App, *pruneOptions) error) *cobra.Command {
	if runF == nil {
		runF = runPrune
	}
	o := &pruneOptions{}
	cmd := &cobra.Command{
		Use:   "prune [OPTIONS]",
		Short: "Remove unused images",
		Args:  cli.ExactArgs(0),
		RunE: a.Run(func(ctx context.Context, _ *cobra.Command, _ []string) error {
			return runF(ctx, a, o)
		}),
	}
	cmd.Flags().BoolVarP(&o.All, "all", "a", false, "Remove all unused images, not just dangling ones")
	o.Add(cmd.Flags(), "until=<timestamp>")
	return cmd
}

func runPrune(ctx context.Context, a *cli.App, o *pruneOptions) error {
	what := " all dangling images.\n"
	if o.All {
		what = " all images without at least one container associated to them.\n"
	}
	if ok, err := a.Agreed(o.PruneFlags, what); err != nil || !ok {
		return err
	}
	removed, err := PruneImages(ctx, a, o.All, o.Filter, Pruned{})
	a.PrintPruned("Images", Lines(removed))
	if err != nil {
		return err
	}
	a.PrintReclaimed(removed.Bytes)
	return nil
}

// Lines are the lines of a prune verb about images.
func Lines(r compose.RemovedImages) []string {
	var lines []string
	for _, name := range r.Untagged {
		lines = append(lines, "untagged: "+name)
	}
	for _, id := range r.Deleted {
		lines = append(lines, "deleted: "+id)
	}
	return lines
}

// PruneImages removes unused images. A dry run takes what is in without as removed
// already.
func PruneImages(ctx context.Context, a *cli.App, all bool, filter []string, without Pruned) (compose.RemovedImages, error) {
	f, err := cli.ParseFilters(filter, "until", "label", "label!", "dangling")
	if err != nil {
		return compose.RemovedImages{}, err
	}
	if dangling, set, err := f.Flag("dangling"); err != nil {
		return compose.RemovedImages{}, err
	} else if set {
		all = !dangling
	}
	o := compose.PruneImagesOptions{
		PruneOptions: compose.PruneOptions{DryRun: a.Global.DryRun, Without: without.Containers},
		All:          all, Labels: f["label"], NotLabels: f["label!"], WithoutCache: without.Cache,
	}
	for _, u := range f["until"] {
		if o.Until, err = when.Parse(u, a.Now()); err != nil {
			return compose.RemovedImages{}, err
		}
	}
	v, err := a.API(ctx)
	if err != nil {
		return compose.RemovedImages{}, err
	}
	return v.PruneImages(ctx, o)
}
