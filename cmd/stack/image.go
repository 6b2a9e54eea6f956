package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/docker/go-units"
	"github.com/spf13/cobra"

	"github.com/stack-run/stack/cmd/stack/internal/format"
	"github.com/stack-run/stack/cmd/stack/internal/summary"
	"github.com/stack-run/stack/cmd/stack/internal/terminal"
	"github.com/stack-run/stack/cmd/stack/internal/when"
	"github.com/stack-run/stack/engine"
	"github.com/stack-run/stack/engine/image"
)

func newImageCmd(a *app) *cobra.Command {
	return group("image", "Manage images",
		newImageHistoryCmd(a, nil),
		newImageImportCmd(a, nil),
		newImageInspectCmd(a),
		newImageLoadCmd(a, nil),
		newImageLsCmd(a, nil),
		newImagePruneCmd(a, nil),
		newImageRmCmd(a, nil),
		newImageSaveCmd(a, nil),
		newImageTagCmd(a),
	)
}

// images opens the image store.
func (a *app) images() (*engine.Engine, *image.Store, error) {
	e, err := a.stores()
	if err != nil {
		return nil, nil, err
	}
	s, err := e.Images()
	return e, s, err
}

// imageCommands looks up what images run. Containers of an image that is gone
// show what they ask for themselves.
func (a *app) imageCommands(ctx context.Context) func(engine.Container) (entrypoint, command []string) {
	type process struct{ entrypoint, command []string }
	known := map[string]process{}
	return func(c engine.Container) ([]string, []string) {
		p, ok := known[c.Spec.ImageID]
		if !ok {
			if _, store, err := a.images(); err == nil {
				if img, err := store.Resolve(ctx, c.Spec.ImageID); err == nil {
					p = process{img.Config.Config.Entrypoint, img.Config.Config.Cmd}
				}
			}
			known[c.Spec.ImageID] = p
		}
		return p.entrypoint, p.command
	}
}

type imageLsOptions struct {
	Reference string // argument
	All       bool
	Digests   bool
	Filter    []string
	Format    string
	NoTrunc   bool
	Quiet     bool
}

func newImageLsCmd(a *app, runF func(context.Context, *app, *imageLsOptions) error) *cobra.Command {
	if runF == nil {
		runF = runImageLs
	}
	o := &imageLsOptions{}
	cmd := &cobra.Command{
		Use:     "ls [OPTIONS] [REPOSITORY[:TAG]]",
		Aliases: []string{"list"},
		Short:   "List images",
		Args:    cobra.MaximumNArgs(1),
		RunE: a.run(func(ctx context.Context, _ *cobra.Command, args []string) error {
			if len(args) > 0 {
				o.Reference = args[0]
			}
			return runF(ctx, a, o)
		}),
	}
	f := cmd.Flags()
	f.BoolVarP(&o.All, "all", "a", false, "Show all images (default hides intermediate and dangling images)")
	f.BoolVar(&o.Digests, "digests", false, "Show digests")
	f.StringArrayVarP(&o.Filter, "filter", "f", nil, "Filter output based on conditions provided")
	f.StringVar(&o.Format, "format", "", formatHelp)
	f.BoolVar(&o.NoTrunc, "no-trunc", false, "Don't truncate output")
	f.BoolVarP(&o.Quiet, "quiet", "q", false, "Only show image IDs")
	f.Bool("tree", false, "List multi-platform images as a tree (EXPERIMENTAL)")
	ignore(f, "tree")
	return cmd
}

// imageRow is a row of "image ls" in docker's shape.
type imageRow struct {
	Containers   string
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

func imageLayout(digests bool) format.Layout {
	l := format.Layout{
		Table: "{{.Repository}}\t{{.Tag}}\t{{.ID}}\t{{.CreatedSince}}\t{{.Size}}",
		Quiet: "{{.ID}}",
		Headers: map[string]string{
			"ID": "IMAGE ID", "Repository": "REPOSITORY", "Tag": "TAG", "Digest": "DIGEST", "CreatedSince": "CREATED",
			"CreatedAt": "CREATED AT", "Size": "SIZE", "Containers": "CONTAINERS", "VirtualSize": "SIZE",
			"SharedSize": "SHARED SIZE", "UniqueSize": "UNIQUE SIZE",
		},
	}
	if digests {
		l.Table = "{{.Repository}}\t{{.Tag}}\t{{.Digest}}\t{{.ID}}\t{{.CreatedSince}}\t{{.Size}}"
	}
	return l
}

func runImageLs(ctx context.Context, a *app, o *imageLsOptions) error {
	f, err := parseFilters(o.Filter, "dangling", "label", "before", "since", "until", "reference")
	if err != nil {
		return err
	}
	if o.Reference != "" {
		f["reference"] = append(f["reference"], o.Reference)
	}
	dangling, restricted, err := f.flag("dangling")
	if err != nil {
		return err
	}
	e, store, err := a.images()
	if err != nil {
		return err
	}
	all, err := store.List(ctx)
	if err != nil {
		return err
	}
	keep, err := f.images(ctx, store, a.now())
	if err != nil {
		return err
	}
	var rows []imageRow
	seen := map[string]bool{}
	for _, img := range all {
		if !keep(img) || restricted && dangling != (len(img.Names) == 0) {
			continue
		}
		for _, r := range imageRows(img, e, a.now(), o, f["reference"]) {
			if o.Quiet && seen[r.ID] {
				continue
			}
			seen[r.ID] = true
			rows = append(rows, r)
		}
	}
	return format.Write(a.out, imageLayout(o.Digests), format.Options{Format: o.Format, Quiet: o.Quiet}, rows)
}

// imageRows are an image's rows: one for each name, or one without a name.
func imageRows(img image.Image, e *engine.Engine, now time.Time, o *imageLsOptions, references []string) []imageRow {
	r := imageRow{
		Containers: strconv.Itoa(len(e.ImageUsers(img.ID))), CreatedAt: img.Created.Local().Format("2006-01-02 15:04:05 -0700 MST"),
		CreatedSince: created(img.Created, now), Digest: "<none>", ID: summary.ID(img.ID.String(), o.NoTrunc),
		Repository: "<none>", Tag: "<none>", SharedSize: "N/A", UniqueSize: "N/A",
		Size: units.HumanSizeWithPrecision(float64(img.Size), 3),
	}
	r.VirtualSize = r.Size
	digests := map[string]string{}
	for _, d := range img.RepoDigests {
		repo, digest, _ := strings.Cut(d, "@")
		digests[repo] = digest
	}
	var rows []imageRow
	for _, name := range img.Names {
		if len(references) > 0 && !slices.ContainsFunc(references, func(p string) bool { return matchesReference(p, name) }) {
			continue
		}
		row := r
		row.Repository, row.Tag = splitName(name)
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

func created(t, now time.Time) string {
	if t.Unix() <= 0 {
		return "N/A"
	}
	return summary.Ago(t, now)
}

// splitName splits a name such as "registry:5000/nginx:1.27" before the tag.
func splitName(name string) (repository, tag string) {
	if i := strings.LastIndexByte(name, ':'); i > strings.LastIndexByte(name, '/') {
		return name[:i], name[i+1:]
	}
	return name, "<none>"
}

// matchesReference compares a name with a pattern of path.Match, with or
// without a tag.
func matchesReference(pattern, name string) bool {
	repository, _ := splitName(name)
	for _, s := range []string{name, repository, path.Base(name), path.Base(repository)} {
		if ok, err := path.Match(pattern, s); ok && err == nil || s == pattern {
			return true
		}
	}
	return false
}

// images makes a predicate of docker's image filters.
func (f filters) images(ctx context.Context, store *image.Store, now time.Time) (func(image.Image) bool, error) {
	var after, before time.Time
	for key, t := range map[string]*time.Time{"before": &before, "since": &after} {
		for _, ref := range f[key] {
			img, err := store.Resolve(ctx, ref)
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
	return func(img image.Image) bool {
		return (before.IsZero() || img.Created.Before(before)) && (after.IsZero() || img.Created.After(after)) &&
			f.labels("label", img.Config.Config.Labels) &&
			f.any("reference", func(p string) bool {
				return slices.ContainsFunc(img.Names, func(n string) bool { return matchesReference(p, n) })
			})
	}, nil
}

type imageImportOptions struct {
	Source   string // argument: a file or "-"
	Name     string // argument, may be empty
	Change   []string
	Message  string
	Platform string
}

func newImageImportCmd(a *app, runF func(context.Context, *app, *imageImportOptions) error) *cobra.Command {
	if runF == nil {
		runF = runImageImport
	}
	o := &imageImportOptions{}
	cmd := &cobra.Command{
		Use:   "import [OPTIONS] file|- [REPOSITORY[:TAG]]",
		Short: "Import the contents from a tarball to create a filesystem image",
		Args:  cobra.RangeArgs(1, 2),
		RunE: a.run(func(ctx context.Context, _ *cobra.Command, args []string) error {
			o.Source = args[0]
			if len(args) > 1 {
				o.Name = args[1]
			}
			return runF(ctx, a, o)
		}),
	}
	f := cmd.Flags()
	f.StringArrayVarP(&o.Change, "change", "c", nil, "Apply Dockerfile instruction to the created image")
	f.StringVarP(&o.Message, "message", "m", "", "Set commit message for imported image")
	f.StringVar(&o.Platform, "platform", "", "Set platform if server is multi-platform capable")
	return cmd
}

func runImageImport(ctx context.Context, a *app, o *imageImportOptions) error {
	r, err := a.input(o.Source)
	if err != nil {
		return err
	}
	defer r.Close()
	_, store, err := a.images()
	if err != nil {
		return err
	}
	img, err := store.Import(ctx, r, o.Name, image.ImportOptions{Changes: o.Change, Message: o.Message, Platform: o.Platform})
	if err != nil {
		return err
	}
	fmt.Fprintln(a.out, img.ID)
	return nil
}

// input opens a file, or stdin for "-" and "", if that is no terminal.
func (a *app) input(name string) (io.ReadCloser, error) {
	if name != "" && name != "-" {
		f, err := os.Open(name)
		if err != nil {
			return nil, fmt.Errorf("cannot read the archive: %w", err)
		}
		return f, nil
	}
	if terminal.Is(a.in) {
		return nil, errors.New("cannot read the archive: stdin is a terminal; name a file or redirect stdin")
	}
	return io.NopCloser(a.in), nil
}

// writeOutput writes to a file, which appears complete or not at all, or to
// stdout if that is no terminal.
func (a *app) writeOutput(name, what string, write func(io.Writer) error) error {
	if name == "" || name == "-" {
		if terminal.Is(a.out) {
			return fmt.Errorf("cannot write %s to a terminal; use -o FILE or redirect stdout", what)
		}
		return write(a.out)
	}
	f, err := os.CreateTemp(path.Dir(name), "."+path.Base(name)+".*")
	if err != nil {
		return fmt.Errorf("cannot write %s: %w", what, err)
	}
	defer os.Remove(f.Name())
	if err := errors.Join(write(f), f.Chmod(0o644), f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), name)
}

type imageLoadOptions struct {
	Input    string
	Platform []string
	Quiet    bool
}

func newImageLoadCmd(a *app, runF func(context.Context, *app, *imageLoadOptions) error) *cobra.Command {
	if runF == nil {
		runF = runImageLoad
	}
	o := &imageLoadOptions{}
	cmd := &cobra.Command{
		Use:   "load [OPTIONS]",
		Short: "Load an image from a tar archive or STDIN",
		Args:  exactArgs(0),
		RunE: a.run(func(ctx context.Context, _ *cobra.Command, _ []string) error {
			return runF(ctx, a, o)
		}),
	}
	f := cmd.Flags()
	f.StringVarP(&o.Input, "input", "i", "", "Read from tar archive file, instead of STDIN")
	f.StringSliceVar(&o.Platform, "platform", nil, "Load only the given platform(s).")
	f.BoolVarP(&o.Quiet, "quiet", "q", false, "Suppress the load output")
	ignore(f, "platform")
	return cmd
}

func runImageLoad(ctx context.Context, a *app, o *imageLoadOptions) error {
	r, err := a.input(o.Input)
	if err != nil {
		return err
	}
	defer r.Close()
	_, store, err := a.images()
	if err != nil {
		return err
	}
	loaded, err := store.Load(ctx, r, image.LoadOptions{})
	for _, l := range loaded {
		for _, name := range l.Names {
			fmt.Fprintln(a.out, "Loaded image:", name)
		}
		if len(l.Names) == 0 {
			fmt.Fprintln(a.out, "Loaded image ID:", l.Image.ID)
		}
	}
	return err
}

type imageSaveOptions struct {
	Names    []string // arguments
	Output   string
	Platform []string
}

func newImageSaveCmd(a *app, runF func(context.Context, *app, *imageSaveOptions) error) *cobra.Command {
	if runF == nil {
		runF = runImageSave
	}
	o := &imageSaveOptions{}
	cmd := &cobra.Command{
		Use:   "save [OPTIONS] IMAGE [IMAGE...]",
		Short: "Save one or more images to a tar archive (streamed to STDOUT by default)",
		Args:  requireArgs(1),
		RunE: a.run(func(ctx context.Context, _ *cobra.Command, args []string) error {
			o.Names = args
			return runF(ctx, a, o)
		}),
		ValidArgsFunction: a.completeImages,
	}
	f := cmd.Flags()
	f.StringVarP(&o.Output, "output", "o", "", "Write to a file, instead of STDOUT")
	f.StringSliceVar(&o.Platform, "platform", nil, "Save only the given platform(s).")
	ignore(f, "platform")
	return cmd
}

func runImageSave(ctx context.Context, a *app, o *imageSaveOptions) error {
	_, store, err := a.images()
	if err != nil {
		return err
	}
	return a.writeOutput(o.Output, "images", func(w io.Writer) error { return store.Save(ctx, w, o.Names...) })
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
	ignore(f, "no-prune", "platform")
	return cmd
}

func runImageRm(ctx context.Context, a *app, o *imageRmOptions) error {
	e, store, err := a.images()
	if err != nil {
		return err
	}
	failed := false
	for _, name := range o.Names {
		removed, err := store.Remove(ctx, name, image.RemoveOptions{Force: o.Force, InUse: e.ImageUsers})
		a.printRemoved(removed)
		if err != nil && !(o.Force && image.IsNotFound(err)) {
			failed = true
			fmt.Fprintln(a.err, err)
		}
	}
	if _, err := e.CollectLayers(ctx, false); err != nil {
		return err
	}
	if failed {
		return exitError{code: exitGeneral}
	}
	return nil
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
	All    bool
	Filter []string
	Force  bool
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
	f := cmd.Flags()
	f.BoolVarP(&o.All, "all", "a", false, "Remove all unused images, not just dangling ones")
	f.StringArrayVar(&o.Filter, "filter", nil, `Provide filter values (e.g. "until=<timestamp>")`)
	f.BoolVarP(&o.Force, "force", "f", false, "Do not prompt for confirmation")
	return cmd
}

func runImagePrune(ctx context.Context, a *app, o *imagePruneOptions) error {
	if !o.Force {
		what := "all dangling images"
		if o.All {
			what = "all images without at least one container associated to them"
		}
		ok, err := a.confirm("WARNING! This will remove " + what + ".\nAre you sure you want to continue? [y/N] ")
		if err != nil || !ok {
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
	fmt.Fprintln(a.out, "Total reclaimed space:", units.HumanSize(float64(removed.Bytes)))
	return nil
}

// printRemovedLower is printRemoved in the words of prune.
func (a *app) printRemovedLower(r image.Removed) {
	var b bytes.Buffer
	for _, name := range r.Untagged {
		fmt.Fprintln(&b, "untagged:", name)
	}
	for _, id := range r.Deleted {
		fmt.Fprintln(&b, "deleted:", id)
	}
	b.WriteTo(a.out)
}

func (a *app) pruneImages(ctx context.Context, all bool, filter []string) (image.Removed, error) {
	f, err := parseFilters(filter, "until", "label", "label!")
	if err != nil {
		return image.Removed{}, err
	}
	po := image.PruneOptions{All: all, Labels: f["label"], NotLabels: f["label!"], DryRun: a.global.DryRun}
	for _, u := range f["until"] {
		if po.Until, err = when.Parse(u, a.now()); err != nil {
			return image.Removed{}, err
		}
	}
	e, store, err := a.images()
	if err != nil {
		return image.Removed{}, err
	}
	po.InUse = e.ImageUsers
	removed, err := store.Prune(ctx, po)
	freed, collectErr := e.CollectLayers(ctx, po.DryRun)
	removed.Bytes += freed
	return removed, errors.Join(err, collectErr)
}

type imageHistoryOptions struct {
	Name     string // argument
	Format   string
	Human    bool
	NoTrunc  bool
	Platform string
	Quiet    bool
}

func newImageHistoryCmd(a *app, runF func(context.Context, *app, *imageHistoryOptions) error) *cobra.Command {
	if runF == nil {
		runF = runImageHistory
	}
	o := &imageHistoryOptions{}
	cmd := &cobra.Command{
		Use:   "history [OPTIONS] IMAGE",
		Short: "Show the history of an image",
		Args:  exactArgs(1),
		RunE: a.run(func(ctx context.Context, _ *cobra.Command, args []string) error {
			o.Name = args[0]
			return runF(ctx, a, o)
		}),
		ValidArgsFunction: a.completeImages,
	}
	f := cmd.Flags()
	f.StringVar(&o.Format, "format", "", formatHelp)
	f.BoolVarP(&o.Human, "human", "H", true, "Print sizes and dates in human readable format")
	f.BoolVar(&o.NoTrunc, "no-trunc", false, "Don't truncate output")
	f.StringVar(&o.Platform, "platform", "", "Show history for the given platform.")
	f.BoolVarP(&o.Quiet, "quiet", "q", false, "Only show image IDs")
	return cmd
}

// historyRow is a row of "image history" in docker's shape.
type historyRow struct {
	Comment      string
	CreatedAt    string
	CreatedBy    string
	CreatedSince string
	ID           string
	Size         string
}

func runImageHistory(ctx context.Context, a *app, o *imageHistoryOptions) error {
	_, store, err := a.images()
	if err != nil {
		return err
	}
	img, err := store.ResolvePlatform(ctx, o.Name, o.Platform)
	if err != nil {
		return err
	}
	var rows []historyRow
	for _, h := range image.DockerHistory(img) {
		t := time.Unix(h.Created, 0)
		r := historyRow{
			Comment: h.Comment, CreatedAt: t.Local().Format(time.RFC3339), CreatedBy: strings.ReplaceAll(h.CreatedBy, "\t", " "),
			CreatedSince: created(t, a.now()), ID: h.ID, Size: strconv.FormatInt(h.Size, 10),
		}
		if o.Human {
			r.Size = units.HumanSizeWithPrecision(float64(h.Size), 3)
		}
		if !o.NoTrunc {
			r.ID, r.CreatedBy = summary.ID(h.ID, strings.HasPrefix(h.ID, "<")), summary.Ellipsis(r.CreatedBy, 45)
		}
		rows = append(rows, r)
	}
	l := format.Layout{
		Table: "{{.ID}}\t{{.CreatedSince}}\t{{.CreatedBy}}\t{{.Size}}\t{{.Comment}}",
		Quiet: "{{.ID}}",
		Headers: map[string]string{
			"ID": "IMAGE", "CreatedSince": "CREATED", "CreatedAt": "CREATED AT", "CreatedBy": "CREATED BY", "Size": "SIZE", "Comment": "COMMENT",
		},
	}
	if !o.Human {
		l.Table = "{{.ID}}\t{{.CreatedAt}}\t{{.CreatedBy}}\t{{.Size}}\t{{.Comment}}"
	}
	return format.Write(a.out, l, format.Options{Format: o.Format, Quiet: o.Quiet}, rows)
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
