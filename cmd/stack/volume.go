package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/stack-run/stack/cmd/stack/internal/format"
	"github.com/stack-run/stack/cmd/stack/internal/summary"
	"github.com/stack-run/stack/compose"
	"github.com/stack-run/stack/engine"
	"github.com/stack-run/stack/volumes"
)

func newVolumeCmd(a *app) *cobra.Command {
	return group("volume", "Manage volumes",
		newVolumeCreateCmd(a, nil),
		newVolumeInspectCmd(a),
		newVolumeLsCmd(a, nil),
		newVolumePruneCmd(a, nil),
		newVolumeRmCmd(a, nil),
	)
}

type volumeCreateOptions struct {
	Name   string // argument, empty: an anonymous one
	Driver string
	Label  []string
	Opt    []string
}

func newVolumeCreateCmd(a *app, runF func(context.Context, *app, *volumeCreateOptions) error) *cobra.Command {
	if runF == nil {
		runF = runVolumeCreate
	}
	o := &volumeCreateOptions{}
	cmd := &cobra.Command{
		Use:   "create [OPTIONS] [VOLUME]",
		Short: "Create a volume",
		Args:  cobra.MaximumNArgs(1),
		RunE: a.run(func(ctx context.Context, cmd *cobra.Command, args []string) error {
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
		ignore(f, cluster)
	}
	return cmd
}

func runVolumeCreate(ctx context.Context, a *app, o *volumeCreateOptions) error {
	opts, err := keyValues("--opt", o.Opt, true)
	if err != nil {
		return err
	}
	labels, err := keyValues("--label", o.Label, false)
	if err != nil {
		return err
	}
	s := volumes.Spec{Name: o.Name, Driver: o.Driver, DriverOpts: opts, Labels: labels}
	if s.Name == "" {
		s.Name, s.Anonymous = engine.NewID(), true
	}
	api, err := a.api(ctx)
	if err != nil {
		return err
	}
	v, err := api.CreateVolume(ctx, s)
	var differs *volumes.DifferError
	if errors.As(err, &differs) && (len(opts) == 0 || maps.Equal(opts, differs.Have.DriverOpts)) {
		a.warn("volume %s exists already; it keeps its labels", v.Name) // docker says nothing
		err = nil
	}
	if err != nil {
		return err
	}
	fmt.Fprintln(a.out, v.Name)
	return nil
}

// keyValues reads KEY=VALUE options; where a value is not needed KEY will do.
func keyValues(flag string, list []string, value bool) (map[string]string, error) {
	var out map[string]string
	for _, item := range list {
		key, v, ok := strings.Cut(item, "=")
		if key == "" || value && !ok {
			return nil, fmt.Errorf("invalid %s %q; write KEY=VALUE", flag, item)
		}
		if out == nil {
			out = map[string]string{}
		}
		out[key] = v
	}
	return out, nil
}

type volumeLsOptions struct {
	listFlags
}

func newVolumeLsCmd(a *app, runF func(context.Context, *app, *volumeLsOptions) error) *cobra.Command {
	if runF == nil {
		runF = runVolumeLs
	}
	o := &volumeLsOptions{}
	cmd := &cobra.Command{
		Use:     "ls [OPTIONS]",
		Aliases: []string{"list"},
		Short:   "List volumes",
		Args:    exactArgs(0),
		RunE: a.run(func(ctx context.Context, _ *cobra.Command, _ []string) error {
			return runF(ctx, a, o)
		}),
	}
	f := cmd.Flags()
	o.add(f, `Provide filter values (e.g. "dangling=true")`, "Only display volume names")
	f.Bool("cluster", false, "Display only cluster volumes, and use cluster volume list formatting")
	f.Lookup("cluster").Hidden = true
	ignore(f, "cluster")
	return cmd
}

// volumeRow is a row of "volume ls" in docker's shape.
type volumeRow struct {
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
func (r volumeRow) Label(key string) string { return r.labels[key] }

func volumeLayout() format.Layout {
	return format.Layout{
		Table: "{{.Driver}}\t{{.Name}}",
		Quiet: "{{.Name}}",
		Headers: map[string]string{
			"Availability": "AVAILABILITY", "Driver": "DRIVER", "Group": "GROUP", "Labels": "LABELS", "Links": "LINKS",
			"Mountpoint": "MOUNTPOINT", "Name": "VOLUME NAME", "Scope": "SCOPE", "Size": "SIZE", "Status": "STATUS",
		},
	}
}

func runVolumeLs(ctx context.Context, a *app, o *volumeLsOptions) error {
	f, err := parseFilters(o.Filter, "dangling", "driver", "label", "name")
	if err != nil {
		return err
	}
	dangling, restricted, err := f.flag("dangling")
	if err != nil {
		return err
	}
	v, err := a.api(ctx)
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
		return restricted && dangling != (len(volumeUsers(x.Name, cs)) == 0) || !f.has("driver", driver(x.Driver)) ||
			!f.labels("label", x.Labels) || !f.named(x.Name)
	})
	return a.printVolumes(all, cs, o.Format, o.Quiet)
}

func driver(name string) string {
	if name == "" {
		return "local"
	}
	return name
}

func volumeUsers(name string, cs []engine.Container) []string {
	var users []string
	for _, c := range cs {
		if slices.Contains(summary.MountSources(c), name) {
			users = append(users, c.Spec.Name)
		}
	}
	return users
}

func (a *app) printVolumes(all []volumes.Volume, cs []engine.Container, as string, quiet bool) error {
	slices.SortFunc(all, func(x, y volumes.Volume) int { return strings.Compare(x.Name, y.Name) })
	rows := make([]volumeRow, len(all))
	for i, v := range all {
		rows[i] = volumeRow{
			labels: v.Labels, Availability: "N/A", Driver: driver(v.Driver), Group: "N/A", Labels: joinLabels(v.Labels),
			Links: strconv.Itoa(len(volumeUsers(v.Name, cs))), Mountpoint: v.Mountpoint, Name: v.Name, Scope: "local", Size: "N/A", Status: "N/A",
		}
	}
	return format.Write(a.out, volumeLayout(), format.Options{Format: as, Quiet: quiet}, rows)
}

func joinLabels(labels map[string]string) string {
	var out []string
	for _, k := range slices.Sorted(maps.Keys(labels)) {
		out = append(out, k+"="+labels[k])
	}
	return strings.Join(out, ",")
}

type volumeRmOptions struct {
	Names []string // arguments
	Force bool
}

func newVolumeRmCmd(a *app, runF func(context.Context, *app, *volumeRmOptions) error) *cobra.Command {
	if runF == nil {
		runF = runVolumeRm
	}
	o := &volumeRmOptions{}
	cmd := &cobra.Command{
		Use:     "rm [OPTIONS] VOLUME [VOLUME...]",
		Aliases: []string{"remove"},
		Short:   "Remove one or more volumes",
		Args:    requireArgs(1),
		RunE: a.run(func(ctx context.Context, _ *cobra.Command, args []string) error {
			o.Names = args
			return runF(ctx, a, o)
		}),
		ValidArgsFunction: a.completeVolumes,
	}
	cmd.Flags().BoolVarP(&o.Force, "force", "f", false, "Force the removal of one or more volumes")
	return cmd
}

func runVolumeRm(ctx context.Context, a *app, o *volumeRmOptions) error {
	v, err := a.api(ctx)
	if err != nil {
		return err
	}
	failed := false
	for _, name := range o.Names {
		err := v.RemoveVolume(ctx, name)
		var missing *volumes.NotFoundError
		if err != nil && !(errors.As(err, &missing) && o.Force) {
			failed = true
			if missing != nil {
				err = fmt.Errorf("no such volume: %s", name)
			}
			fmt.Fprintln(a.err, err)
			continue
		}
		fmt.Fprintln(a.out, name)
	}
	if failed {
		return exitError{code: exitGeneral}
	}
	return nil
}

type volumePruneOptions struct {
	pruneFlags
	All bool
}

func newVolumePruneCmd(a *app, runF func(context.Context, *app, *volumePruneOptions) error) *cobra.Command {
	if runF == nil {
		runF = runVolumePrune
	}
	o := &volumePruneOptions{}
	cmd := &cobra.Command{
		Use:   "prune [OPTIONS]",
		Short: "Remove unused local volumes",
		Args:  exactArgs(0),
		RunE: a.run(func(ctx context.Context, _ *cobra.Command, _ []string) error {
			return runF(ctx, a, o)
		}),
	}
	cmd.Flags().BoolVarP(&o.All, "all", "a", false, "Remove all unused volumes, not just anonymous ones")
	o.add(cmd.Flags(), "label=<label>")
	return cmd
}

func runVolumePrune(ctx context.Context, a *app, o *volumePruneOptions) error {
	what := "anonymous local volumes"
	if o.All {
		what = "all local volumes"
	}
	if ok, err := a.agreed(o.pruneFlags, " "+what+" not used by at least one container.\n"); err != nil || !ok {
		return err
	}
	report, err := a.pruneVolumes(ctx, o.All, o.Filter, nil)
	a.printPruned("Volumes", report.Deleted)
	if err != nil {
		return err
	}
	a.printReclaimed(report.Reclaimed)
	return nil
}

// pruneVolumes removes unused volumes. A dry run takes the containers without as
// removed already.
func (a *app) pruneVolumes(ctx context.Context, all bool, filter, without []string) (volumes.PruneReport, error) {
	f, err := volumes.ParsePruneFilter(filter)
	if err != nil {
		return volumes.PruneReport{}, err
	}
	f.All = f.All || all
	v, err := a.api(ctx)
	if err != nil {
		return volumes.PruneReport{}, err
	}
	return v.PruneVolumes(ctx, f, compose.PruneOptions{DryRun: a.global.DryRun, Without: without})
}

func (a *app) completeVolumes(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	v, err := a.api(context.Background())
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

// volumeInspection is what "docker volume inspect" prints (Engine API, Volume).
type volumeInspection struct {
	CreatedAt  string
	Driver     string
	Labels     map[string]string
	Mountpoint string
	Name       string
	Options    map[string]string
	Scope      string
}

func inspectVolume(v volumes.Volume) volumeInspection {
	return volumeInspection{
		CreatedAt: v.Created.Format(time.RFC3339), Driver: driver(v.Driver), Labels: v.Labels, Mountpoint: v.Mountpoint,
		Name: v.Name, Options: v.DriverOpts, Scope: "local",
	}
}
