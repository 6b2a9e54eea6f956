package system

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/stack-run/stack/cmd/stack/internal/cli"
	"github.com/stack-run/stack/cmd/stack/internal/container"
	"github.com/stack-run/stack/cmd/stack/internal/image"
	"github.com/stack-run/stack/cmd/stack/internal/network"
	"github.com/stack-run/stack/cmd/stack/internal/volume"
	"github.com/stack-run/stack/engine/build/request"
)

type pruneOptions struct {
	cli.PruneFlags
	All     bool
	Volumes bool
}

func newPruneCmd(a *cli.App, runF func(context.Context, *cli.App, *pruneOptions) error) *cobra.Command {
	if runF == nil {
		runF = runPrune
	}
	o := &pruneOptions{}
	cmd := &cobra.Command{
		Use:   "prune [OPTIONS]",
		Short: "Remove unused data",
		Args:  cli.ExactArgs(0),
		RunE: a.Run(func(ctx context.Context, _ *cobra.Command, _ []string) error {
			return runF(ctx, a, o)
		}),
	}
	f := cmd.Flags()
	f.BoolVarP(&o.All, "all", "a", false, "Remove all unused images not just dangling ones")
	o.Add(f, "label=<key>=<value>")
	f.BoolVar(&o.Volumes, "volumes", false, "Prune anonymous volumes")
	return cmd
}

// removes says what will be removed, for the question.
func (o *pruneOptions) removes() string {
	what := []string{"all stopped containers", "all networks not used by at least one container"}
	if o.Volumes {
		what = append(what, "all anonymous volumes not used by at least one container")
	}
	if o.All {
		what = append(what, "all images without at least one container associated to them", "all build cache")
	} else {
		what = append(what, "all dangling images", "unused build cache")
	}
	text := ":\n"
	for _, w := range what {
		text += "  - " + w + "\n"
	}
	if len(o.Filter) > 0 {
		text += "\n  Items to be pruned will be filtered with:\n"
		for _, f := range slices.Sorted(slices.Values(o.Filter)) {
			text += "  - " + f + "\n"
		}
	}
	return text + "\n"
}

func runPrune(ctx context.Context, a *cli.App, o *pruneOptions) error {
	if o.Volumes && slices.ContainsFunc(o.Filter, func(f string) bool { return strings.HasPrefix(f, "until=") }) {
		return fmt.Errorf(`the "until" filter is not supported with "--volumes"`)
	}
	if ok, err := a.Agreed(o.PruneFlags, o.removes()); err != nil || !ok {
		return err
	}
	var gone image.Pruned
	var err error
	var total int64
	gone.Containers, total, err = container.PruneContainers(ctx, a, o.Filter)
	a.PrintPruned("Containers", gone.Containers)
	if err != nil {
		return err
	}
	if err := container.Sweep(ctx, a, gone.Containers); err != nil {
		return err
	}
	networks, err := network.PruneNetworks(ctx, a, o.Filter, gone.Containers)
	a.PrintPruned("Networks", networks)
	if err != nil {
		return err
	}
	if o.Volumes {
		report, err := volume.PruneVolumes(ctx, a, false, o.Filter, gone.Containers)
		a.PrintPruned("Volumes", report.Deleted)
		if err != nil {
			return err
		}
		total += report.Reclaimed
	}
	// Before the images, which then have alone what they shared with it.
	cache, err := pruneBuildCache(ctx, a, o)
	var ids []string
	for _, r := range cache.Records {
		ids = append(ids, r.ID)
	}
	slices.Sort(ids)
	a.PrintPruned("build cache objects", ids)
	if err != nil {
		return err
	}
	gone.Cache = cache.Empties
	images, err := image.PruneImages(ctx, a, o.All, o.Filter, gone)
	a.PrintPruned("Images", image.Lines(images))
	if err != nil {
		return err
	}
	a.PrintReclaimed(total + cache.Size() + images.Bytes)
	return nil
}

// pruneBuildCache prunes the build cache. What is in it has no labels, so none of
// it has one that is asked for.
func pruneBuildCache(ctx context.Context, a *cli.App, o *pruneOptions) (request.Records, error) {
	f, err := cli.ParseFilters(o.Filter, "until", "label", "label!")
	if err != nil {
		return request.Records{}, err
	}
	if !f.None("label") {
		return request.Records{}, nil
	}
	var until []string
	for _, u := range f["until"] {
		until = append(until, "until="+u)
	}
	q, err := image.CacheQuery(a, until)
	if err != nil {
		return request.Records{}, err
	}
	q.All = o.All
	v, err := a.API(ctx)
	if err != nil {
		return request.Records{}, err
	}
	return v.PruneBuildCache(ctx, q, a.Streams())
}
