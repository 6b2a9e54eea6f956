package main

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/stack-run/stack/engine"
	"github.com/stack-run/stack/engine/build/request"
)

type systemPruneOptions struct {
	pruneFlags
	All     bool
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
	o.add(f, "label=<key>=<value>")
	f.BoolVar(&o.Volumes, "volumes", false, "Prune anonymous volumes")
	return cmd
}

// removes says what will be removed, for the question.
func (o *systemPruneOptions) removes() string {
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

// pruned is what is gone already, or in a dry run would be.
type pruned struct {
	containers []string // IDs
	cache      bool     // all of the build cache
}

func runSystemPrune(ctx context.Context, a *app, o *systemPruneOptions) error {
	if o.Volumes && slices.ContainsFunc(o.Filter, func(f string) bool { return strings.HasPrefix(f, "until=") }) {
		return fmt.Errorf(`the "until" filter is not supported with "--volumes"`)
	}
	if ok, err := a.agreed(o.pruneFlags, o.removes()); err != nil || !ok {
		return err
	}
	var gone pruned
	var err error
	var total int64
	gone.containers, total, err = a.pruneContainers(ctx, o.Filter)
	a.printPruned("Containers", gone.containers)
	if err != nil {
		return err
	}
	if err := a.sweep(ctx, gone.containers); err != nil {
		return err
	}
	networks, err := a.pruneNetworks(ctx, o.Filter, gone.containers)
	a.printPruned("Networks", networks)
	if err != nil {
		return err
	}
	if o.Volumes {
		report, err := a.pruneVolumes(ctx, false, o.Filter, gone.containers)
		a.printPruned("Volumes", report.Deleted)
		if err != nil {
			return err
		}
		total += report.Reclaimed
	}
	// Before the images, which then have alone what they shared with it.
	cache, err := a.pruneBuildCache(ctx, o)
	var ids []string
	for _, r := range cache.Records {
		ids = append(ids, r.ID)
	}
	slices.Sort(ids)
	a.printPruned("build cache objects", ids)
	if err != nil {
		return err
	}
	gone.cache = cache.Empties
	images, err := a.pruneImages(ctx, o.All, o.Filter, gone)
	a.printPruned("Images", imageLines(images))
	if err != nil {
		return err
	}
	a.printReclaimed(total + cache.Size() + images.Bytes)
	return nil
}

// sweep removes what killed processes left behind. The logs of containers that were
// removed just now are still being removed, and are told of already.
func (a *app) sweep(ctx context.Context, removed []string) error {
	e, err := a.engine()
	if err != nil {
		return err
	}
	var left []engine.Leftover
	if a.global.DryRun {
		left, err = e.Leftovers()
	} else {
		left, err = e.Sweep(ctx)
	}
	var lines []string
	for _, l := range left {
		if !slices.Contains(removed, l.Subject) {
			lines = append(lines, l.Kind+" "+l.Subject)
		}
	}
	a.printPruned("leftovers of killed processes", lines)
	return err
}

// pruneBuildCache prunes the build cache. What is in it has no labels, so none of
// it has one that is asked for.
func (a *app) pruneBuildCache(ctx context.Context, o *systemPruneOptions) (request.Records, error) {
	f, err := parseFilters(o.Filter, "until", "label", "label!")
	if err != nil {
		return request.Records{}, err
	}
	if _, err := os.Stat(request.StateDir(a.roots().Data)); err != nil || !f.none("label") {
		return request.Records{}, nil // nothing was ever built
	}
	var until []string
	for _, u := range f["until"] {
		until = append(until, "until="+u)
	}
	q, err := a.cacheQuery(until)
	if err != nil {
		return request.Records{}, err
	}
	q.All = o.All
	var r request.Records
	err = a.builder(ctx, a, "prune", q, &r)
	return r, err
}
