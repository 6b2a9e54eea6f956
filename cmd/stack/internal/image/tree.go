package image

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/docker/go-units"
	"github.com/opencontainers/go-digest"

	"github.com/stack-run/stack/cmd/stack/internal/cli"
	"github.com/stack-run/stack/cmd/stack/internal/summary"
	"github.com/stack-run/stack/engine"
	"github.com/stack-run/stack/engine/image"
)

// tree is what a name leads to.
type tree struct {
	name   string
	id     digest.Digest // of the index or manifest
	images []engine.ImageDisk
}

// printImageTree prints images as docker's "image ls --tree" does: by name, and
// below each the platforms it is here for.
func printImageTree(ctx context.Context, a *cli.App, e *engine.Engine, shown []image.Image, o *lsOptions, references []string) error {
	for flag, set := range map[string]bool{"quiet": o.Quiet, "no-trunc": o.NoTrunc, "digests": o.Digests, "format": o.Format != ""} {
		if set {
			return fmt.Errorf("--%s is not supported with --tree", flag)
		}
	}
	store, err := e.Images()
	if err != nil {
		return err
	}
	disk, err := e.ImagesDisk(ctx)
	if err != nil {
		return err
	}
	measured := slices.DeleteFunc(disk.Images, func(d engine.ImageDisk) bool {
		return !slices.ContainsFunc(shown, func(img image.Image) bool { return img.Manifest.Digest == d.Manifest.Digest })
	})
	used := func(d engine.ImageDisk) bool { return len(e.ImageUsers(d.ID)) > 0 }
	trees := trees(measured, references)
	for i, t := range trees {
		if named, err := store.Target(ctx, t.name); err == nil {
			trees[i].id = named.Target.Digest
		}
	}
	w := tabwriter.NewWriter(a.Out, 10, 1, 3, ' ', 0)
	defer w.Flush()
	fmt.Fprintln(w, "IMAGE\tID\tDISK USAGE\tCONTENT SIZE\tUSED")
	for _, line := range treeLines(trees, used) {
		fmt.Fprintln(w, line)
	}
	return nil
}

// trees sorts images by the names that lead to them. Those without a name
// come last, each by itself.
func trees(images []engine.ImageDisk, references []string) []tree {
	var named, untagged []tree
	for _, img := range images {
		if len(img.Names) == 0 {
			untagged = append(untagged, tree{name: "<untagged>", id: img.Manifest.Digest, images: []engine.ImageDisk{img}})
		}
		for _, name := range img.Names {
			if len(references) > 0 && !slices.ContainsFunc(references, func(p string) bool { return matchesReference(p, name) }) {
				continue
			}
			i := slices.IndexFunc(named, func(t tree) bool { return t.name == name })
			if i < 0 {
				i = len(named)
				named = append(named, tree{name: name, id: img.Manifest.Digest})
			}
			named[i].images = append(named[i].images, img)
		}
	}
	slices.SortFunc(named, func(x, y tree) int { return strings.Compare(x.name, y.name) })
	for _, t := range named {
		slices.SortFunc(t.images, func(x, y engine.ImageDisk) int {
			return strings.Compare(image.FormatPlatform(x.Platform), image.FormatPlatform(y.Platform))
		})
	}
	return append(named, untagged...)
}

// treeLines are the rows of the tree, their columns separated by tabs.
func treeLines(trees []tree, used func(engine.ImageDisk) bool) []string {
	size := func(n int64) string { return units.HumanSizeWithPrecision(float64(n), 3) }
	mark := map[bool]string{true: "✔"}
	line := func(name string, id digest.Digest, disk, content int64, used bool) string {
		return strings.Join([]string{name, summary.ID(id.String(), false), size(disk), size(content), mark[used]}, "\t")
	}
	var lines []string
	for i, t := range trees {
		if i > 0 {
			lines = append(lines, "\t\t\t\t") // with its columns, so that all trees have the same
		}
		var disk, content int64
		for _, img := range t.images {
			disk, content = disk+img.Size, content+img.Image.Size
		}
		lines = append(lines, line(t.name, t.id, disk, content, slices.ContainsFunc(t.images, used)))
		for i, img := range t.images {
			branch := "├─ "
			if i == len(t.images)-1 {
				branch = "└─ "
			}
			lines = append(lines, line(branch+image.FormatPlatform(img.Platform), img.Manifest.Digest, img.Size, img.Image.Size, used(img)))
		}
	}
	return lines
}
