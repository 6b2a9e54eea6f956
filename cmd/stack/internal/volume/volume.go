// Package volume is "stack volume".
package volume

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	docker "github.com/moby/moby/api/types/volume"
	"github.com/spf13/cobra"

	"github.com/stack-run/stack/cmd/stack/internal/cli"
	"github.com/stack-run/stack/cmd/stack/internal/format"
	"github.com/stack-run/stack/cmd/stack/internal/summary"
	"github.com/stack-run/stack/compose"
	"github.com/stack-run/stack/engine"
	"github.com/stack-run/stack/volumes"
)

func NewCmd(a *cli.App) *cobra.Command {
	return cli.Group("volume", "Manage volumes",
		newCpCmd(a, nil),
		newCreateCmd(a, nil),
		newExportCmd(a, nil),
		newImportCmd(a, nil),
		newInspectCmd(a),
		newLsCmd(a, nil),
		newPruneCmd(a, nil),
		newRenameCmd(a, nil),
		newRmCmd(a, nil),
	)
}

type createOptions struct {
	Name   string // argument, empty: an anonymous one
	Driver string
	Label  []string
	Opt    []string
}

func newCreateCmd(a *cli.App, runF func(context.Context, *cli.App, *createOptions) error) *cobra.Command {
	if runF == nil {
		runF = runCreate
	}
	o := &createOptions{}
	cmd := &cobra.Command{
		Use:   "create [OPTIONS] [VOLUME]",
		Short: "Create a volume",
		Args:  cobra.MaximumNArgs(1),
		RunE: a.Run(func(ctx context.Context, cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				if o.Name != "" {
					return errors.New("conflicting options: cannot specify a volume-name through both --name and as a positional arg")
				}
				o.Name = args[0]
			}
			return runF(ctx, a, o)
		}),
	}
	f := cmd.Flags()
	f.StringVarP(&o.Driver, "driver", "d", "local", "Specify volume driver name")
	f.StringArrayVar(&o.Label, "label", nil, "Set metadata for a volume")
	f.StringVar(&o.Name, "name", "", "Specify volume name")
	f.Lookup("name").Hidden = true
	f.StringArrayVarP(&o.Opt, "opt", "o", nil, "Set driver specific options")
	for _, cluster := range []string{"availability", "group", "limit-bytes", "required-bytes", "scope", "secret", "sharing", "topology-preferred", "topology-required", "type"} {
		f.String(cluster, "", "Cluster volumes only")
		f.Lookup(cluster).Hidden = true
		cli.Ignore(f, cluster)
	}
	return cmd
}

func runCreate(ctx context.Context, a *cli.App, o *createOptions) error {
	opts, err := cli.KeyValues("--opt", o.Opt, true)
	if err != nil {
		return err
	}
	labels, err := cli.KeyValues("--label", o.Label, false)
	if err != nil {
		return err
	}
	s := volumes.Spec{Name: o.Name, Driver: o.Driver, DriverOpts: opts, Labels: labels}
	if s.Name == "" {
		s.Name, s.Anonymous = engine.NewID(), true
	}
	api, err := a.API(ctx)
	if err != nil {
		return err
	}
	v, err := api.CreateVolume(ctx, s)
	var differs *volumes.DifferError
	if errors.As(err, &differs) && (len(opts) == 0 || maps.Equal(opts, differs.Have.DriverOpts)) {
		a.Warn("volume %s exists already; it keeps its labels", v.Name) // docker says nothing
		err = nil
	}
	if err != nil {
		return err
	}
	fmt.Fprintln(a.Out, v.Name)
	return nil
}

type lsOptions struct {
	cli.ListFlags
}

func newLsCmd(a *cli.App, runF func(context.Context, *cli.App, *lsOptions) error) *cobra.Command {
	if runF == nil {
		runF = runLs
	}
	o := &lsOptions{}
	cmd := &cobra.Command{
		Use:     "ls [OPTIONS]",
		Aliases: []string{"list"},
		Short:   "List volumes",
		Args:    cli.ExactArgs(0),
		RunE: a.Run(func(ctx context.Context, _ *cobra.Command, _ []string) error {
			return runF(ctx, a, o)
		}),
	}
	f := cmd.Flags()
	o.Add(f, `Provide filter values (e.g. "dangling=true")`, "Only display volume names")
	f.Bool("cluster", false, "Display only cluster volumes, and use cluster volume list formatting")
	f.Lookup("cluster").Hidden = true
	cli.Ignore(f, "cluster")
	return cmd
}

// row is a row of "volume ls" in docker's shape.
type row struct {
	labels       map[string]string
	Availability string
	Driver       string
	Group        string
	Labels       string
	Links        string
	Mountpoint   string
	Name         string
	Scope        string
	Size         string
	Status       string
}

// Label gives templates {{.Label "key"}}.
func (r row) Label(key string) string { return r.labels[key] }

func layout() format.Layout {
	return format.Layout{
		Table: "{{.Driver}}\t{{.Name}}",
		Quiet: "{{.Name}}",
		Headers: map[string]string{
			"Availability": "AVAILABILITY", "Driver": "DRIVER", "Group": "GROUP", "Labels": "LABELS", "Links": "LINKS",
			"Mountpoint": "MOUNTPOINT", "Name": "VOLUME NAME", "Scope": "SCOPE", "Size": "SIZE", "Status": "STATUS",
		},
	}
}

func runLs(ctx context.Context, a *cli.App, o *lsOptions) error {
	f, err := cli.ParseFilters(o.Filter, "dangling", "driver", "label", "name")
	if err != nil {
		return err
	}
	dangling, restricted, err := f.Flag("dangling")
	if err != nil {
		return err
	}
	v, err := a.API(ctx)
	if err != nil {
		return err
	}
	all, err := v.Volumes(ctx)
	if err != nil {
		return err
	}
	cs, err := v.Containers(ctx, compose.Selector{All: true, OneOff: true})
	if err != nil {
		return err
	}
	all = slices.DeleteFunc(all, func(x volumes.Volume) bool {
		return restricted && dangling != (len(Users(x.Name, cs)) == 0) || !f.Has("driver", driver(x.Driver)) ||
			!f.Labels("label", x.Labels) || !f.Named(x.Name)
	})
	return PrintVolumes(a, all, cs, o.Format, o.Quiet)
}

func driver(name string) string {
	if name == "" {
		return "local"
	}
	return name
}

func Users(name string, cs []engine.Container) []string {
	var users []string
	for _, c := range cs {
		if slices.Contains(summary.MountSources(c), name) {
			users = append(users, c.Spec.Name)
		}
	}
	return users
}

func PrintVolumes(a *cli.App, all []volumes.Volume, cs []engine.Container, as string, quiet bool) error {
	slices.SortFunc(all, func(x, y volumes.Volume) int { return strings.Compare(x.Name, y.Name) })
	rows := make([]row, len(all))
	for i, v := range all {
		rows[i] = row{
			labels: v.Labels, Availability: "N/A", Driver: driver(v.Driver), Group: "N/A", Labels: cli.JoinLabels(v.Labels),
			Links: strconv.Itoa(len(Users(v.Name, cs))), Mountpoint: v.Mountpoint, Name: v.Name, Scope: "local", Size: "N/A", Status: "N/A",
		}
	}
	return format.Write(a.Out, layout(), format.Options{Format: as, Quiet: quiet}, rows)
}

type rmOptions struct {
	Names []string // arguments
	Force bool
}

func newRmCmd(a *cli.App, runF func(context.Context, *cli.App, *rmOptions) error) *cobra.Command {
	if runF == nil {
		runF = runRm
	}
	o := &rmOptions{}
	cmd := &cobra.Command{
		Use:     "rm [OPTIONS] VOLUME [VOLUME...]",
		Aliases: []string{"remove"},
		Short:   "Remove one or more volumes",
		Args:    cli.RequireArgs(1),
		RunE: a.Run(func(ctx context.Context, _ *cobra.Command, args []string) error {
			o.Names = args
			return runF(ctx, a, o)
		}),
		ValidArgsFunction: completeVolumes(a),
	}
	cmd.Flags().BoolVarP(&o.Force, "force", "f", false, "Force the removal of one or more volumes")
	return cmd
}

func runRm(ctx context.Context, a *cli.App, o *rmOptions) error {
	v, err := a.API(ctx)
	if err != nil {
		return err
	}
	return a.Each(o.Names, func(name string) (string, error) {
		err := v.RemoveVolume(ctx, name)
		var missing *volumes.NotFoundError
		switch {
		case !errors.As(err, &missing):
			return name, err
		case o.Force:
			return name, nil
		}
		return "", fmt.Errorf("no such volume: %s", name)
	})
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
		Short: "Remove unused local volumes",
		Args:  cli.ExactArgs(0),
		RunE: a.Run(func(ctx context.Context, _ *cobra.Command, _ []string) error {
			return runF(ctx, a, o)
		}),
	}
	cmd.Flags().BoolVarP(&o.All, "all", "a", false, "Remove all unused volumes, not just anonymous ones")
	o.Add(cmd.Flags(), "label=<label>")
	return cmd
}

func runPrune(ctx context.Context, a *cli.App, o *pruneOptions) error {
	what := "anonymous local volumes"
	if o.All {
		what = "all local volumes"
	}
	if ok, err := a.Agreed(o.PruneFlags, " "+what+" not used by at least one container.\n"); err != nil || !ok {
		return err
	}
	report, err := PruneVolumes(ctx, a, o.All, o.Filter, nil)
	a.PrintPruned("Volumes", report.Deleted)
	if err != nil {
		return err
	}
	a.PrintReclaimed(report.Reclaimed)
	return nil
}

// PruneVolumes removes unused volumes. A dry run takes the containers without as
// removed already.
func PruneVolumes(ctx context.Context, a *cli.App, all bool, filter, without []string) (volumes.PruneReport, error) {
	f, err := volumes.ParsePruneFilter(filter)
	if err != nil {
		return volumes.PruneReport{}, err
	}
	f.All = f.All || all
	v, err := a.API(ctx)
	if err != nil {
		return volumes.PruneReport{}, err
	}
	return v.PruneVolumes(ctx, f, compose.PruneOptions{DryRun: a.Global.DryRun, Without: without})
}

func completeVolumes(a *cli.App) cobra.CompletionFunc {
	return func(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
		v, err := a.API(context.Background())
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		all, err := v.Volumes(context.Background())
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		var names []string
		for _, v := range all {
			if !slices.Contains(args, v.Name) {
				names = append(names, v.Name)
			}
		}
		return names, cobra.ShellCompDirectiveNoFileComp
	}
}

func inspectVolume(v volumes.Volume) docker.Volume {
	return docker.Volume{
		CreatedAt: v.Created.Format(time.RFC3339), Driver: driver(v.Driver), Labels: v.Labels, Mountpoint: v.Mountpoint,
		Name: v.Name, Options: v.DriverOpts, Scope: "local",
	}
}
