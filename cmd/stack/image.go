package main

import (
	"context"
	"fmt"
	"slices"

	"github.com/spf13/cobra"

	"github.com/stack-run/stack/cmd/stack/internal/when"
	"github.com/stack-run/stack/engine"
	"github.com/stack-run/stack/engine/image"
)

func newImageCmd(a *app) *cobra.Command {
	return group("image", "Manage images",
		newImageBuildCmd(a, nil),
		newImageHistoryCmd(a, nil),
		newImageImportCmd(a, nil),
		newImageInspectCmd(a),
		newImageLoadCmd(a, nil),
		newImageLsCmd(a, nil),
		newImagePruneCmd(a, nil),
		newImagePullCmd(a, nil),
		newImagePushCmd(a, nil),
		newImageRmCmd(a, nil),
		newImageSaveCmd(a, nil),
		newImageTagCmd(a),
	)
}

// images opens the image store.
func (a *app) images() (*engine.Engine, *image.Store, error) {
	e, err := a.engine()
	if err != nil {
		return nil, nil, err
	}
	s, err := e.Images()
	return e, s, err
}

type imageRmOptions struct {
	Names    []string // arguments
	Force    bool
	NoPrune  bool
	Platform []string
}

func newImageRmCmd(a *app, runF func(context.Context, *app, *imageRmOptions) error) *cobra.Command {
	if runF == nil {
		runF = runImageRm
	}
	o := &imageRmOptions{}
	cmd := &cobra.Command{
		Use:     "rm [OPTIONS] IMAGE [IMAGE...]",
		Aliases: []string{"remove"},
		Short:   "Remove one or more images",
		Args:    requireArgs(1),
		RunE: a.run(func(ctx context.Context, _ *cobra.Command, args []string) error {
			o.Names = args
			return runF(ctx, a, o)
		}),
		ValidArgsFunction: a.completeImages,
	}
	f := cmd.Flags()
	f.BoolVarP(&o.Force, "force", "f", false, "Force removal of the image")
	f.BoolVar(&o.NoPrune, "no-prune", false, "Do not delete untagged parents")
	f.StringSliceVar(&o.Platform, "platform", nil, "Remove only the given platform variant.")
	ignore(f, "no-prune")
	return cmd
}

func runImageRm(ctx context.Context, a *app, o *imageRmOptions) error {
	e, store, err := a.images()
	if err != nil {
		return err
	}
	failed := false
	for _, name := range o.Names {
		removed, err := removeImage(ctx, store, name, o.Platform, image.RemoveOptions{Force: o.Force, InUse: e.ImageUsers})
		a.printRemoved(removed)
		if err != nil && !(o.Force && image.IsNotFound(err)) {
			failed = true
			fmt.Fprintln(a.err, err)
		}
	}
	if err := e.CollectLayers(ctx); err != nil {
		return err
	}
	if failed {
		return exitError{code: exitGeneral}
	}
	return nil
}

// removeImage removes an image, or of it what is for some platforms.
func removeImage(ctx context.Context, store *image.Store, name string, platforms []string, o image.RemoveOptions) (image.Removed, error) {
	if len(platforms) == 0 {
		return store.Remove(ctx, name, o)
	}
	var all image.Removed
	for _, p := range platforms {
		removed, err := store.RemovePlatform(ctx, name, p, o)
		all.Untagged, all.Deleted = append(all.Untagged, removed.Untagged...), append(all.Deleted, removed.Deleted...)
		if err != nil {
			return all, err
		}
	}
	return all, nil
}

func (a *app) printRemoved(r image.Removed) {
	for _, name := range r.Untagged {
		fmt.Fprintln(a.out, "Untagged:", name)
	}
	for _, id := range r.Deleted {
		fmt.Fprintln(a.out, "Deleted:", id)
	}
}

func newImageTagCmd(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "tag SOURCE_IMAGE[:TAG] TARGET_IMAGE[:TAG]",
		Short: "Create a tag TARGET_IMAGE that refers to SOURCE_IMAGE",
		Args:  exactArgs(2),
		RunE: a.run(func(ctx context.Context, _ *cobra.Command, args []string) error {
			_, store, err := a.images()
			if err != nil {
				return err
			}
			return store.Tag(ctx, args[0], args[1])
		}),
		ValidArgsFunction: a.completeImages,
	}
}

type imagePruneOptions struct {
	pruneFlags
	All bool
}

func newImagePruneCmd(a *app, runF func(context.Context, *app, *imagePruneOptions) error) *cobra.Command {
	if runF == nil {
		runF = runImagePrune
	}
	o := &imagePruneOptions{}
	cmd := &cobra.Command{
		Use:   "prune [OPTIONS]",
		Short: "Remove unused images",
		Args:  exactArgs(0),
		RunE: a.run(func(ctx context.Context, _ *cobra.Command, _ []string) error {
			return runF(ctx, a, o)
		}),
	}
	cmd.Flags().BoolVarP(&o.All, "all", "a", false, "Remove all unused images, not just dangling ones")
	o.add(cmd.Flags(), "until=<timestamp>")
	return cmd
}

func runImagePrune(ctx context.Context, a *app, o *imagePruneOptions) error {
	what := " all dangling images.\n"
	if o.All {
		what = " all images without at least one container associated to them.\n"
	}
	if ok, err := a.agreed(o.pruneFlags, what); err != nil || !ok {
		return err
	}
	removed, err := a.pruneImages(ctx, o.All, o.Filter, pruned{})
	a.printPruned("Images", imageLines(removed))
	if err != nil {
		return err
	}
	a.printReclaimed(removed.Bytes)
	return nil
}

// imageLines are the lines of a prune verb about images.
func imageLines(r image.Removed) []string {
	var lines []string
	for _, name := range r.Untagged {
		lines = append(lines, "untagged: "+name)
	}
	for _, id := range r.Deleted {
		lines = append(lines, "deleted: "+id.String())
	}
	return lines
}

// pruneImages removes unused images. A dry run takes what is in without as removed
// already.
func (a *app) pruneImages(ctx context.Context, all bool, filter []string, without pruned) (image.Removed, error) {
	f, err := parseFilters(filter, "until", "label", "label!", "dangling")
	if err != nil {
		return image.Removed{}, err
	}
	if dangling, set, err := f.flag("dangling"); err != nil {
		return image.Removed{}, err
	} else if set {
		all = !dangling
	}
	o := engine.PruneImagesOptions{
		PruneOptions: image.PruneOptions{All: all, Labels: f["label"], NotLabels: f["label!"], DryRun: a.global.DryRun},
		Without:      without.containers, WithoutCache: without.cache,
	}
	for _, u := range f["until"] {
		if o.Until, err = when.Parse(u, a.now()); err != nil {
			return image.Removed{}, err
		}
	}
	e, err := a.engine()
	if err != nil {
		return image.Removed{}, err
	}
	return e.PruneImages(ctx, o)
}

func (a *app) completeImages(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	_, store, err := a.images()
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	all, err := store.List(context.Background())
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	var names []string
	for _, img := range all {
		names = append(names, img.Names...)
	}
	return slices.DeleteFunc(names, func(n string) bool { return slices.Contains(args, n) }), cobra.ShellCompDirectiveNoFileComp
}
