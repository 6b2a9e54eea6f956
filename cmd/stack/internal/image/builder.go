package image

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/docker/go-units"
	"github.com/spf13/cobra"

	"github.com/stack-run/stack/cmd/stack/internal/builder"
	"github.com/stack-run/stack/cmd/stack/internal/cli"
	"github.com/stack-run/stack/cmd/stack/internal/when"
	"github.com/stack-run/stack/compose"
	"github.com/stack-run/stack/engine/build/request"
)

func NewBuilderCmd(a *cli.App) *cobra.Command {
	return cli.Group("builder", "Manage builds",
		newBuildCmd(a, nil),
		newBuilderDuCmd(a, nil),
		newBuilderPruneCmd(a, nil),
	)
}

// Builder finds the builder program and has it do something.
func Builder(a *cli.App) compose.Builder {
	return func(ctx context.Context, verb string, ask, result any, s compose.Streams) error {
		self, err := os.Executable()
		if err != nil {
			return fmt.Errorf("cannot find the builder: %w", err)
		}
		program, err := builder.Locate(ctx, a.Getenv(builder.Variable), self, a.Roots().Data)
		if err != nil {
			return err
		}
		err = builder.Run(ctx, program, verb, a.Environ, builder.Streams(s), ask, result)
		var exit builder.ExitError
		if errors.As(err, &exit) {
			return cli.ExitError{Code: exit.Code, Cause: spaceError(a, result)} // it has said why
		}
		return err
	}
}

// spaceError says which disk is full, if that may be why a builder failed.
func spaceError(a *cli.App, result any) error {
	disks := a.Disks()
	failed := slices.ContainsFunc(disks, cli.Disk.Full)
	if r, ok := result.(*request.Result); ok {
		failed = failed || slices.ContainsFunc(r.Targets, func(b request.Built) bool { return cli.SpeaksOfSpace(b.Error) })
	}
	if hint := cli.SpaceHint(disks); failed && hint != "" {
		return errors.New(hint)
	}
	return nil
}

type builderDuOptions struct {
	Filter  []string
	Verbose bool
}

func newBuilderDuCmd(a *cli.App, runF func(context.Context, *cli.App, *builderDuOptions) error) *cobra.Command {
	if runF == nil {
		runF = runBuilderDu
	}
	o := &builderDuOptions{}
	cmd := &cobra.Command{
		Use:   "du",
		Short: "Disk usage",
		Args:  cli.ExactArgs(0),
		RunE: a.Run(func(ctx context.Context, _ *cobra.Command, _ []string) error {
			return runF(ctx, a, o)
		}),
	}
	f := cmd.Flags()
	f.StringArrayVar(&o.Filter, "filter", nil, "Provide filter values")
	f.BoolVar(&o.Verbose, "verbose", false, "Provide a more verbose output")
	return cmd
}

func runBuilderDu(ctx context.Context, a *cli.App, o *builderDuOptions) error {
	q, err := CacheQuery(a, o.Filter)
	if err != nil {
		return err
	}
	v, err := a.API(ctx)
	if err != nil {
		return err
	}
	r, err := v.BuildCache(ctx, q, a.Streams())
	if err != nil {
		return err
	}
	printRecords(a.Out, r.Records, o.Verbose)
	var total, reclaimable int64
	for _, x := range r.Records {
		total += x.Size
		if !x.InUse {
			reclaimable += x.Size
		}
	}
	fmt.Fprintf(a.Out, "Reclaimable:\t%s\nTotal:\t\t%s\n", units.HumanSize(float64(reclaimable)), units.HumanSize(float64(total)))
	return nil
}

// printRecords prints entries of the cache.
func printRecords(out io.Writer, records []request.Record, verbose bool) {
	if len(records) == 0 {
		return
	}
	slices.SortStableFunc(records, func(a, b request.Record) int { return strings.Compare(a.ID, b.ID) })
	w := tabwriter.NewWriter(out, 0, 8, 1, '\t', 0)
	defer w.Flush()
	fmt.Fprint(w, "ID\tRECLAIMABLE\tSIZE\tLAST ACCESSED")
	if verbose {
		fmt.Fprint(w, "\tTYPE\tDESCRIPTION")
	}
	fmt.Fprintln(w)
	for _, x := range records {
		id, last := x.ID, ""
		if x.Mutable {
			id += "*"
		}
		if x.LastUsedAt != nil {
			last = x.LastUsedAt.Format("2006-01-02 15:04:05")
		}
		fmt.Fprintf(w, "%s\t%t\t%s\t%s", id, !x.InUse, units.HumanSize(float64(x.Size)), last)
		if verbose {
			fmt.Fprintf(w, "\t%s\t%s", x.Type, x.Description)
		}
		fmt.Fprintln(w)
	}
}

type builderPruneOptions struct {
	cli.PruneFlags
	All bool
	// Sizes as the user wrote them.
	KeepStorage, Reserved, MaxUsed, MinFree string
	Verbose                                 bool
}

func newBuilderPruneCmd(a *cli.App, runF func(context.Context, *cli.App, *builderPruneOptions) error) *cobra.Command {
	if runF == nil {
		runF = runBuilderPrune
	}
	o := &builderPruneOptions{}
	cmd := &cobra.Command{
		Use:   "prune [OPTIONS]",
		Short: "Remove build cache",
		Args:  cli.ExactArgs(0),
		RunE: a.Run(func(ctx context.Context, _ *cobra.Command, _ []string) error {
			return runF(ctx, a, o)
		}),
	}
	f := cmd.Flags()
	f.BoolVarP(&o.All, "all", "a", false, "Remove all unused build cache, not just dangling ones")
	o.Add(f, "until=24h")
	f.StringVar(&o.KeepStorage, "keep-storage", "", "Amount of disk space to keep for cache")
	f.StringVar(&o.Reserved, "reserved-space", "", "Amount of disk space always allowed to keep for cache")
	f.StringVar(&o.MaxUsed, "max-used-space", "", "Maximum amount of disk space allowed to keep for cache")
	f.StringVar(&o.MinFree, "min-free-space", "", "Target amount of free disk space after pruning")
	f.BoolVar(&o.Verbose, "verbose", false, "Provide a more verbose output")
	return cmd
}

func runBuilderPrune(ctx context.Context, a *cli.App, o *builderPruneOptions) error {
	q, err := CacheQuery(a, o.Filter)
	if err != nil {
		return err
	}
	q.All = o.All
	reserved := o.Reserved
	if reserved == "" {
		reserved = o.KeepStorage
	}
	for _, size := range []struct {
		flag, text string
		to         *int64
	}{{"reserved-space", reserved, &q.Reserved}, {"max-used-space", o.MaxUsed, &q.MaxUsed}, {"min-free-space", o.MinFree, &q.MinFree}} {
		if size.text == "" {
			continue
		}
		if *size.to, err = units.RAMInBytes(size.text); err != nil {
			return fmt.Errorf("cannot use --%s %q: %w", size.flag, size.text, err)
		}
	}
	what := " all dangling build cache. "
	if o.All {
		what = " all build cache. "
	}
	if ok, err := a.Agreed(o.PruneFlags, what); err != nil || !ok {
		return err
	}
	v, err := a.API(ctx)
	if err != nil {
		return err
	}
	r, err := v.PruneBuildCache(ctx, q, a.Streams())
	if err != nil {
		return err
	}
	printRecords(a.Out, r.Records, o.Verbose)
	title := "Total:"
	if a.Global.DryRun {
		title = "Would be freed:"
	}
	fmt.Fprintf(a.Out, "%s\t%s\n", title, units.HumanSize(float64(r.Size())))
	if a.Global.DryRun {
		return nil
	}
	// Layers that were lent to the cache may have been nobody else's any more.
	return v.CollectLayers(ctx)
}

// CacheQuery translates filters into BuildKit's: those of one query hold together.
func CacheQuery(a *cli.App, filters []string) (*request.Cache, error) {
	q := &request.Cache{DryRun: a.Global.DryRun}
	var parts []string
	for _, f := range filters {
		key, value, ok := strings.Cut(f, "=")
		value = strings.TrimPrefix(value, "=")
		switch {
		case !ok || value == "":
			return nil, fmt.Errorf("cannot read the filter %q; write KEY=VALUE", f)
		case key == "until" || key == "unused-for":
			since, err := when.Parse(value, a.Now())
			if err != nil {
				return nil, fmt.Errorf("cannot read the filter %q: %w", f, err)
			}
			q.Keep = a.Now().Sub(since)
		case key == "id" || key == "parent" || key == "type" || key == "description" || key == "inuse" || key == "mutable" || key == "shared" || key == "private":
			parts = append(parts, key+"=="+value)
		default:
			return nil, fmt.Errorf("cannot use the filter %q; there are until, id, parent, type, description, inuse, mutable, shared and private", f)
		}
	}
	if len(parts) > 0 {
		q.Filters = []string{strings.Join(parts, ",")}
	}
	return q, nil
}
