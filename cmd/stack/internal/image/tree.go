package image

import (
	"fmt"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/docker/go-units"

	"github.com/stack-run/stack/cmd/stack/internal/cli"
	"github.com/stack-run/stack/cmd/stack/internal/summary"
	"github.com/stack-run/stack/compose"
)

// tree is what a name leads to.
type tree struct {
	name   string
	id     string // of the index or manifest
	images []compose.Image
}

// printImageTree prints images as docker's "image ls --tree" does: by name, and
// below each the platforms it is here for.
func printImageTree(a *cli.App, images []compose.Image, o *lsOptions, references []string) error {
	for flag, set := range map[string]bool{"quiet": o.Quiet, "no-trunc": o.NoTrunc, "digests": o.Digests, "format": o.Format != ""} {
		if set {
			return fmt.Errorf("--%s is not supported with --tree", flag)
		}
	}
	w := tabwriter.NewWriter(a.Out, 10, 1, 3, ' ', 0)
	defer w.Flush()
	fmt.Fprintln(w, "IMAGE\tID\tDISK USAGE\tCONTENT SIZE\tUSED")
	for _, line := range treeLines(trees(images, references)) {
		fmt.Fprintln(w, line)
	}
	return nil
}

// trees sorts images by the names that lead to them. Those without a name
// come last, each by itself.
func trees(images []compose.Image, references []string) []tree {
	var named, untagged []tree
	for _, img := range images {
		if len(img.Names) == 0 {
			untagged = append(untagged, tree{name: "<untagged>", id: img.Manifest, images: []compose.Image{img}})
		}
		for n, name := range img.Names {
			if len(references) > 0 && !slices.ContainsFunc(references, func(p string) bool { return matchesReference(p, name) }) {
				continue
			}
			i := slices.IndexFunc(named, func(t tree) bool { return t.name == name })
			if i < 0 {
				i = len(named)
				named = append(named, tree{name: name, id: img.Targets[n]})
			}
			named[i].images = append(named[i].images, img)
		}
	}
	slices.SortFunc(named, func(x, y tree) int { return strings.Compare(x.name, y.name) })
	for _, t := range named {
		slices.SortFunc(t.images, func(x, y compose.Image) int { return strings.Compare(x.Platform, y.Platform) })
	}
	return append(named, untagged...)
}

// treeLines are the rows of the tree, their columns separated by tabs.
func treeLines(trees []tree) []string {
	size := func(n int64) string { return units.HumanSizeWithPrecision(float64(n), 3) }
	mark := map[bool]string{true: "✔"}
	used := func(img compose.Image) bool { return len(img.Users) > 0 }
	line := func(name, id string, disk, content int64, used bool) string {
		return strings.Join([]string{name, summary.ID(id, false), size(disk), size(content), mark[used]}, "\t")
	}
	var lines []string
	for i, t := range trees {
		if i > 0 {
			lines = append(lines, "\t\t\t\t") // with its columns, so that all trees have the same
		}
		var disk, content int64
		for _, img := range t.images {
			disk, content = disk+img.Disk, content+img.Content
		}
		lines = append(lines, line(t.name, t.id, disk, content, slices.ContainsFunc(t.images, used)))
		for i, img := range t.images {
			branch := "├─ "
			if i == len(t.images)-1 {
				branch = "└─ "
			}
			lines = append(lines, line(branch+img.Platform, img.Manifest, img.Disk, img.Content, used(img)))
		}
	}
	return lines
}
