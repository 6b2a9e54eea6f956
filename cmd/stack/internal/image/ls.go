package image

import (
	"context"
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/docker/go-units"
	"github.com/spf13/cobra"

	"github.com/stack-run/stack/cmd/stack/internal/cli"
	"github.com/stack-run/stack/cmd/stack/internal/format"
	"github.com/stack-run/stack/cmd/stack/internal/summary"
	"github.com/stack-run/stack/cmd/stack/internal/when"
	"github.com/stack-run/stack/compose"
)

type lsOptions struct {
	cli.ListFlags
	Reference string // argument
	All       bool
	Digests   bool
	NoTrunc   bool
	Tree      bool
}

func newLsCmd(a *cli.App, runF func(context.Context, *cli.App, *lsOptions) error) *cobra.Command {
	if runF == nil {
		runF = runLs
	}
	o := &lsOptions{}
	cmd := &cobra.Command{
		Use:     "ls [OPTIONS] [REPOSITORY[:TAG]]",
		Aliases: []string{"list"},
		Short:   "List images",
		Args:    cobra.MaximumNArgs(1),
		RunE: a.Run(func(ctx context.Context, _ *cobra.Command, args []string) error {
			if len(args) > 0 {
				o.Reference = args[0]
			}
			return runF(ctx, a, o)
		}),
	}
	f := cmd.Flags()
	f.BoolVarP(&o.All, "all", "a", false, "Show all images (default hides intermediate and dangling images)")
	f.BoolVar(&o.Digests, "digests", false, "Show digests")
	o.Add(f, "Filter output based on conditions provided", "Only show image IDs")
	cli.NoTruncFlag(f, &o.NoTrunc)
	f.BoolVar(&o.Tree, "tree", false, "List multi-platform images as a tree (EXPERIMENTAL)")
	return cmd
}

// row is a row of "image ls" in docker's shape.
type row struct {
	Containers   string
	ContentSize  string
	CreatedAt    string
	CreatedSince string
	Digest       string
	ID           string
	Repository   string
	SharedSize   string
	Size         string
	Tag          string
	UniqueSize   string
	VirtualSize  string
}

func layout(digests bool) format.Layout {
	l := format.Layout{
		Table: "{{.Repository}}\t{{.Tag}}\t{{.ID}}\t{{.CreatedSince}}\t{{.Size}}",
		Quiet: "{{.ID}}",
		Headers: map[string]string{
			"ID": "IMAGE ID", "Repository": "REPOSITORY", "Tag": "TAG", "Digest": "DIGEST", "CreatedSince": "CREATED",
			"CreatedAt": "CREATED AT", "Size": "SIZE", "ContentSize": "CONTENT SIZE", "Containers": "CONTAINERS", "VirtualSize": "SIZE",
			"SharedSize": "SHARED SIZE", "UniqueSize": "UNIQUE SIZE",
		},
	}
	if digests {
		l.Table = "{{.Repository}}\t{{.Tag}}\t{{.Digest}}\t{{.ID}}\t{{.CreatedSince}}\t{{.Size}}"
	}
	return l
}

func runLs(ctx context.Context, a *cli.App, o *lsOptions) error {
	f, err := cli.ParseFilters(o.Filter, "dangling", "label", "label!", "before", "since", "until", "reference")
	if err != nil {
		return err
	}
	if o.Reference != "" {
		f["reference"] = append(f["reference"], o.Reference)
	}
	dangling, restricted, err := f.Flag("dangling")
	if err != nil {
		return err
	}
	as := a.ListFormat(o.Format, o.Quiet || o.Tree, "imagesFormat")
	drawn, err := o.drawn(as)
	if err != nil {
		return err
	}
	v, err := a.API(ctx)
	if err != nil {
		return err
	}
	all, err := v.Images(ctx)
	if err != nil {
		return err
	}
	keep, err := images(ctx, f, v, a.Now())
	if err != nil {
		return err
	}
	hidden := func(untagged bool) bool {
		if restricted {
			return untagged != dangling
		}
		return untagged && !o.All
	}
	all = slices.DeleteFunc(all, func(img compose.Image) bool { return !keep(img) || hidden(len(img.Names) == 0) })
	if drawn {
		return drawImages(ctx, a, v, all, o.Tree, f["reference"])
	}
	var rows []row
	seen := map[string]bool{}
	for _, img := range all {
		for _, r := range imageRows(img, a.Now(), o, f["reference"]) {
			if o.Quiet && seen[r.ID] {
				continue
			}
			seen[r.ID] = true
			rows = append(rows, r)
		}
	}
	return format.Write(a.Out, layout(o.Digests), format.Options{Format: as, Quiet: o.Quiet}, rows)
}

// drawn tells whether the list is one for people, whose columns are what images take,
// and not one that docker's options and formats have always had.
func (o *lsOptions) drawn(as string) (bool, error) {
	for _, plain := range []struct {
		flag string
		set  bool
	}{{"quiet", o.Quiet}, {"no-trunc", o.NoTrunc}, {"digests", o.Digests}, {"format", as != ""}} {
		if plain.set && o.Tree {
			return false, fmt.Errorf("cannot use --%s with --tree; leave one of them out", plain.flag)
		}
		if plain.set {
			return false, nil
		}
	}
	return true, nil
}

// imageRows are an image's rows: one for each name, or one without a name.
func imageRows(img compose.Image, now time.Time, o *lsOptions, references []string) []row {
	r := row{
		Containers: strconv.Itoa(len(img.Users)), CreatedAt: img.Created.Local().Format("2006-01-02 15:04:05 -0700 MST"),
		CreatedSince: Created(img.Created, now), Digest: "<none>", ID: summary.ID(img.ID, o.NoTrunc),
		Repository: "<none>", Tag: "<none>", SharedSize: "N/A", UniqueSize: "N/A",
		Size:        units.HumanSizeWithPrecision(float64(img.Disk), 3),
		ContentSize: units.HumanSizeWithPrecision(float64(img.Content), 3),
	}
	r.VirtualSize = r.Size
	digests := map[string]string{}
	for _, d := range img.RepoDigests {
		repo, digest, _ := strings.Cut(d, "@")
		digests[repo] = digest
	}
	var rows []row
	for _, name := range img.Names {
		if len(references) > 0 && !slices.ContainsFunc(references, func(p string) bool { return matchesReference(p, name) }) {
			continue
		}
		row := r
		row.Repository, row.Tag = cli.SplitName(name)
		if d := digests[row.Repository]; d != "" {
			row.Digest = d
		}
		rows = append(rows, row)
	}
	if len(img.Names) == 0 {
		for repo, d := range digests {
			r.Repository, r.Digest = repo, d
		}
		rows = append(rows, r)
	}
	return rows
}

func Created(t, now time.Time) string {
	if t.Unix() <= 0 {
		return "N/A"
	}
	return summary.Ago(t, now)
}

// matchesReference compares a name with a pattern of path.Match, with or
// without a tag.
func matchesReference(pattern, name string) bool {
	repository, _ := cli.SplitName(name)
	for _, s := range []string{name, repository, path.Base(name), path.Base(repository)} {
		if ok, err := path.Match(pattern, s); ok && err == nil || s == pattern {
			return true
		}
	}
	return false
}

// images makes a predicate of docker's image filters.
func images(ctx context.Context, f cli.Filters, v compose.API, now time.Time) (func(compose.Image) bool, error) {
	var after, before time.Time
	for key, t := range map[string]*time.Time{"before": &before, "since": &after} {
		for _, ref := range f[key] {
			img, err := v.Image(ctx, ref, "")
			if err != nil {
				return nil, err
			}
			*t = img.Created
		}
	}
	for _, u := range f["until"] {
		t, err := when.Parse(u, now)
		if err != nil {
			return nil, err
		}
		before = t
	}
	return func(img compose.Image) bool {
		return (before.IsZero() || img.Created.Before(before)) && (after.IsZero() || img.Created.After(after)) &&
			f.Labels("label", img.Labels) && f.NotLabels("label!", img.Labels) &&
			f.Any("reference", func(p string) bool {
				return slices.ContainsFunc(img.Names, func(n string) bool { return matchesReference(p, n) })
			})
	}, nil
}
