package main

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/stack-run/stack/cmd/stack/internal/format"
	"github.com/stack-run/stack/cmd/stack/internal/summary"
	"github.com/stack-run/stack/cmd/stack/internal/when"
	"github.com/stack-run/stack/compose"
	"github.com/stack-run/stack/engine"
	"github.com/stack-run/stack/healthcheck"
	"github.com/stack-run/stack/netns"
	"github.com/stack-run/stack/volumes"
)

// formerTime accepts the former name of --timeout.
func formerTime(_ *pflag.FlagSet, name string) pflag.NormalizedName {
	if name == "time" {
		name = "timeout"
	}
	return pflag.NormalizedName(name)
}

type containerLsOptions struct {
	All     bool
	Filter  []string
	Format  string
	Last    int
	Latest  bool
	NoTrunc bool
	Quiet   bool
	Size    bool
}

func newContainerLsCmd(a *app, runF func(context.Context, *app, *containerLsOptions) error) *cobra.Command {
	if runF == nil {
		runF = runContainerLs
	}
	o := &containerLsOptions{}
	cmd := &cobra.Command{
		Use:     "ls [OPTIONS]",
		Aliases: []string{"ps", "list"},
		Short:   "List containers",
		Args:    exactArgs(0),
		RunE: a.run(func(ctx context.Context, _ *cobra.Command, _ []string) error {
			return runF(ctx, a, o)
		}),
	}
	f := cmd.Flags()
	f.BoolVarP(&o.All, "all", "a", false, "Show all containers (default shows just running)")
	f.StringArrayVarP(&o.Filter, "filter", "f", nil, "Filter output based on conditions provided")
	f.StringVar(&o.Format, "format", "", formatHelp)
	f.IntVarP(&o.Last, "last", "n", -1, "Show n last created containers (includes all states)")
	f.BoolVarP(&o.Latest, "latest", "l", false, "Show the latest created container (includes all states)")
	f.BoolVar(&o.NoTrunc, "no-trunc", false, "Don't truncate output")
	f.BoolVarP(&o.Quiet, "quiet", "q", false, "Only display container IDs")
	f.BoolVarP(&o.Size, "size", "s", false, "Display total file sizes")
	return cmd
}

func containerLayout(size bool) format.Layout {
	table := "{{.ID}}\t{{.Image}}\t{{.Command}}\t{{.RunningFor}}\t{{.Status}}\t{{.Ports}}\t{{.Names}}"
	if size {
		table += "\t{{.Size}}"
	}
	return format.Layout{
		Table: table,
		Quiet: "{{.ID}}",
		Headers: map[string]string{
			"ID": "CONTAINER ID", "Names": "NAMES", "Image": "IMAGE", "Command": "COMMAND", "CreatedAt": "CREATED AT",
			"RunningFor": "CREATED", "Ports": "PORTS", "State": "STATE", "Status": "STATUS", "Size": "SIZE", "Labels": "LABELS",
			"Mounts": "MOUNTS", "LocalVolumes": "LOCAL VOLUMES", "Networks": "NETWORKS", "Platform": "PLATFORM",
			"HealthStatus": "HEALTH STATUS",
		},
	}
}

func runContainerLs(ctx context.Context, a *app, o *containerLsOptions) error {
	f, err := parseFilters(o.Filter, "id", "name", "label", "exited", "status", "ancestor", "before", "since", "volume", "network", "publish", "expose", "health", "isolation", "is-task", "project", "service")
	if err != nil {
		return err
	}
	v, err := a.engine(ctx)
	if err != nil {
		return err
	}
	last := o.Last
	if o.Latest {
		last = 1
	}
	all := o.All || last > 0 || !f.none("status") || !f.none("exited") || !f.none("since") || !f.none("before")
	cs, err := v.Containers(ctx, compose.Selector{All: all, OneOff: true})
	if err != nil {
		return err
	}
	keep, err := f.containers(ctx, v)
	if err != nil {
		return err
	}
	cs = slices.DeleteFunc(cs, func(c engine.Container) bool { return !keep(c) })
	slices.SortStableFunc(cs, func(x, y engine.Container) int { return y.Created.Compare(x.Created) })
	if last > 0 {
		cs = cs[:min(last, len(cs))]
	}
	so := summary.Options{Now: a.now(), NoTrunc: o.NoTrunc, Image: a.imageCommands(ctx)}
	if o.Size {
		if so.Size, err = a.containerSizes(ctx); err != nil {
			return err
		}
	}
	rows := make([]summary.Container, len(cs))
	for i, c := range cs {
		rows[i] = summary.OfContainer(c, so)
	}
	return format.Write(a.out, containerLayout(o.Size), format.Options{Format: o.Format, Quiet: o.Quiet}, rows)
}

// containers makes a predicate of docker's ps filters.
func (f filters) containers(ctx context.Context, v compose.Verbs) (func(engine.Container) bool, error) {
	for _, s := range f["status"] {
		if !slices.Contains(phases(), engine.Phase(s)) {
			return nil, fmt.Errorf("invalid filter status=%s; use created, restarting, running, removing, paused, exited or dead", s)
		}
	}
	var codes []int
	for _, s := range f["exited"] {
		n, err := strconv.Atoi(s)
		if err != nil {
			return nil, fmt.Errorf("invalid filter exited=%s; use an exit code", s)
		}
		codes = append(codes, n)
	}
	var before, since []engine.Container
	for key, list := range map[string]*[]engine.Container{"before": &before, "since": &since} {
		for _, name := range f[key] {
			cs, err := v.Containers(ctx, compose.Selector{IDs: []string{name}, All: true})
			if err != nil {
				return nil, err
			}
			*list = append(*list, cs...)
		}
	}
	return func(c engine.Container) bool {
		return f.any("id", func(id string) bool { return strings.HasPrefix(c.ID, id) }) &&
			f.any("name", func(n string) bool { return strings.Contains(c.Spec.Name, strings.TrimPrefix(n, "/")) }) &&
			f.labels("label", c.Spec.Labels) &&
			f.has("status", string(c.State.Phase)) &&
			f.has("project", c.Project) && f.has("service", c.Service) &&
			(len(codes) == 0 || c.State.Phase == engine.Exited && slices.Contains(codes, c.State.ExitCode)) &&
			f.any("ancestor", func(ref string) bool {
				return c.Spec.Image == ref || c.Spec.Image == ref+":latest" || strings.TrimSuffix(c.Spec.Image, ":latest") == ref ||
					len(ref) >= 4 && strings.HasPrefix(strings.TrimPrefix(c.Spec.ImageID, "sha256:"), strings.TrimPrefix(ref, "sha256:"))
			}) &&
			f.any("volume", func(name string) bool {
				return slices.Contains(summary.MountSources(c), name) || slices.ContainsFunc(c.Spec.Mounts, func(m volumes.Mount) bool { return m.Target == name })
			}) &&
			f.any("network", func(name string) bool {
				return c.Spec.Network.Mode == name || slices.ContainsFunc(c.Spec.Network.Networks, func(n netns.Attachment) bool { return n.Network == name })
			}) &&
			f.any("publish", func(p string) bool {
				return slices.ContainsFunc(summary.Publishers(c), func(x summary.Publisher) bool { return matchesPort(p, x.PublishedPort, x.Protocol) })
			}) &&
			f.any("expose", func(p string) bool {
				return slices.ContainsFunc(c.Spec.Expose, func(e string) bool { return e == p || strings.TrimSuffix(e, "/tcp") == p })
			}) &&
			f.any("health", func(h string) bool {
				return h == string(c.State.Health) || h == "none" && c.State.Health == healthcheck.None
			}) &&
			!slices.ContainsFunc(before, func(b engine.Container) bool { return !c.Created.Before(b.Created) }) &&
			!slices.ContainsFunc(since, func(s engine.Container) bool { return !c.Created.After(s.Created) })
	}, nil
}

// matchesPort compares PORT[-PORT][/PROTOCOL] with a port.
func matchesPort(want string, port int, protocol string) bool {
	numbers, proto, ok := strings.Cut(want, "/")
	if !ok {
		proto = "tcp"
	}
	low, high, ok := strings.Cut(numbers, "-")
	if !ok {
		high = low
	}
	first, err1 := strconv.Atoi(low)
	last, err2 := strconv.Atoi(high)
	return err1 == nil && err2 == nil && proto == protocol && first <= port && port <= last
}

func newContainerLogsCmd(a *app, runF func(context.Context, *app, *logsOptions) error) *cobra.Command {
	if runF == nil {
		runF = runContainerLogs
	}
	o := &logsOptions{}
	cmd := &cobra.Command{
		Use:   "logs [OPTIONS] CONTAINER",
		Short: "Fetch the logs of a container",
		Args:  exactArgs(1),
		RunE: a.run(func(ctx context.Context, _ *cobra.Command, args []string) error {
			o.Services = args
			return runF(ctx, a, o)
		}),
		ValidArgsFunction: a.completeContainers,
	}
	f := cmd.Flags()
	f.BoolVar(&o.Details, "details", false, "Show extra details provided to logs")
	f.BoolVarP(&o.Follow, "follow", "f", false, "Follow log output")
	f.StringVar(&o.Since, "since", "", `Show logs since timestamp (e.g. "2013-01-02T13:23:37Z") or relative (e.g. "42m" for 42 minutes)`)
	f.StringVarP(&o.Tail, "tail", "n", "all", "Number of lines to show from the end of the logs")
	f.BoolVarP(&o.Timestamps, "timestamps", "t", false, "Show timestamps")
	f.StringVar(&o.Until, "until", "", `Show logs before a timestamp (e.g. "2013-01-02T13:23:37Z") or relative (e.g. "42m" for 42 minutes)`)
	ignore(f, "details")
	return cmd
}

func runContainerLogs(ctx context.Context, a *app, o *logsOptions) error {
	lo, err := o.engineOptions(a.now())
	if err != nil {
		return err
	}
	v, err := a.engine(ctx)
	if err != nil {
		return err
	}
	return plainLogs(ctx, a, v, compose.Selector{IDs: o.Services, All: true}, lo, o)
}

func newContainerPortCmd(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "port CONTAINER [PRIVATE_PORT[/PROTO]]",
		Short: "List port mappings or a specific mapping for the container",
		Args:  cobra.RangeArgs(1, 2),
		RunE: a.run(func(ctx context.Context, _ *cobra.Command, args []string) error {
			o := &portOptions{Name: args[0], container: true}
			if len(args) > 1 {
				o.Protocol = "tcp"
				if err := o.parse(args[1]); err != nil {
					return err
				}
			}
			return runPort(ctx, a, o)
		}),
		ValidArgsFunction: a.completeContainers,
	}
}

func newContainerStatsCmd(a *app) *cobra.Command {
	o := &statsOptions{container: true}
	cmd := &cobra.Command{
		Use:   "stats [OPTIONS] [CONTAINER...]",
		Short: "Display a live stream of container(s) resource usage statistics",
		RunE: a.run(func(ctx context.Context, _ *cobra.Command, args []string) error {
			o.Names = args
			return runStats(ctx, a, o)
		}),
		ValidArgsFunction: a.completeContainers,
	}
	f := cmd.Flags()
	f.BoolVarP(&o.All, "all", "a", false, "Show all containers (default shows just running)")
	f.StringVar(&o.Format, "format", "", formatHelp)
	f.BoolVar(&o.NoStream, "no-stream", false, "Disable streaming stats and only pull the first result")
	f.BoolVar(&o.NoTrunc, "no-trunc", false, "Do not truncate output")
	return cmd
}

type containerTopOptions struct {
	Name   string   // argument
	PSArgs []string // arguments
}

func newContainerTopCmd(a *app, runF func(context.Context, *app, *containerTopOptions) error) *cobra.Command {
	if runF == nil {
		runF = runContainerTop
	}
	cmd := &cobra.Command{
		Use:   "top CONTAINER [ps OPTIONS]",
		Short: "Display the running processes of a container",
		Args:  requireArgs(1),
		RunE: a.run(func(ctx context.Context, _ *cobra.Command, args []string) error {
			return runF(ctx, a, &containerTopOptions{Name: args[0], PSArgs: args[1:]})
		}),
		ValidArgsFunction: a.completeContainers,
	}
	cmd.Flags().SetInterspersed(false)
	return cmd
}

func runContainerTop(ctx context.Context, a *app, o *containerTopOptions) error {
	v, err := a.engine(ctx)
	if err != nil {
		return err
	}
	titles, rows, err := v.Top(ctx, o.Name, o.PSArgs)
	if err != nil {
		return err
	}
	tw := tabwriter.NewWriter(a.out, 20, 1, 3, ' ', 0)
	fmt.Fprintln(tw, strings.Join(titles, "\t"))
	for _, row := range rows {
		fmt.Fprintln(tw, strings.Join(row, "\t"))
	}
	return tw.Flush()
}

func newContainerCpCmd(a *app) *cobra.Command {
	o := &cpOptions{container: true}
	cmd := &cobra.Command{
		Use:   "cp [OPTIONS] CONTAINER:SRC_PATH DEST_PATH|-\n  stack container cp [OPTIONS] SRC_PATH|- CONTAINER:DEST_PATH",
		Short: "Copy files/folders between a container and the local filesystem",
		Args:  exactArgs(2),
		RunE: a.run(func(ctx context.Context, _ *cobra.Command, args []string) error {
			o.Source, o.Destination = args[0], args[1]
			return runCp(ctx, a, o)
		}),
	}
	f := cmd.Flags()
	f.BoolVarP(&o.Archive, "archive", "a", false, "Archive mode (copy all uid/gid information)")
	f.BoolVarP(&o.FollowLink, "follow-link", "L", false, "Always follow symbol link in SRC_PATH")
	f.BoolVarP(&o.Quiet, "quiet", "q", false, "Suppress progress output during copy. Progress output is automatically suppressed if no terminal is attached")
	return cmd
}

type containerExportOptions struct {
	Name   string // argument
	Output string
}

func newContainerExportCmd(a *app, runF func(context.Context, *app, *containerExportOptions) error) *cobra.Command {
	if runF == nil {
		runF = runContainerExport
	}
	o := &containerExportOptions{}
	cmd := &cobra.Command{
		Use:   "export [OPTIONS] CONTAINER",
		Short: "Export a container's filesystem as a tar archive",
		Args:  exactArgs(1),
		RunE: a.run(func(ctx context.Context, _ *cobra.Command, args []string) error {
			o.Name = args[0]
			return runF(ctx, a, o)
		}),
		ValidArgsFunction: a.completeContainers,
	}
	cmd.Flags().StringVarP(&o.Output, "output", "o", "", "Write to a file, instead of STDOUT")
	return cmd
}

// exporter is an engine that can archive a container's layers without what is
// mounted over them.
type exporter interface {
	Export(ctx context.Context, container string, w io.Writer) error
}

func runContainerExport(ctx context.Context, a *app, o *containerExportOptions) error {
	v, err := a.engine(ctx)
	if err != nil {
		return err
	}
	e, ok := v.(exporter)
	if !ok {
		return notSupported("export a container")
	}
	return a.writeOutput(o.Output, "the container's files", func(w io.Writer) error { return e.Export(ctx, o.Name, w) })
}

type containerDiffOptions struct {
	Name   string // argument
	Format string
}

func newContainerDiffCmd(a *app, runF func(context.Context, *app, *containerDiffOptions) error) *cobra.Command {
	if runF == nil {
		runF = runContainerDiff
	}
	return &cobra.Command{
		Use:   "diff CONTAINER",
		Short: "Inspect changes to files or directories on a container's filesystem",
		Args:  exactArgs(1),
		RunE: a.run(func(ctx context.Context, _ *cobra.Command, args []string) error {
			return runF(ctx, a, &containerDiffOptions{Name: args[0]})
		}),
		ValidArgsFunction: a.completeContainers,
	}
}

// differ is an engine that can compare a container with its image. A change is
// 'A' (added), 'C' (changed) or 'D' (deleted).
type differ interface {
	Diff(ctx context.Context, container string, change func(kind byte, path string) error) error
}

func runContainerDiff(ctx context.Context, a *app, o *containerDiffOptions) error {
	v, err := a.engine(ctx)
	if err != nil {
		return err
	}
	d, ok := v.(differ)
	if !ok {
		return notSupported("compare a container with its image")
	}
	return d.Diff(ctx, o.Name, func(kind byte, path string) error {
		_, err := fmt.Fprintf(a.out, "%c %s\n", kind, path)
		return err
	})
}

type containerPruneOptions struct {
	Filter []string
	Force  bool
}

func newContainerPruneCmd(a *app, runF func(context.Context, *app, *containerPruneOptions) error) *cobra.Command {
	if runF == nil {
		runF = runContainerPrune
	}
	o := &containerPruneOptions{}
	cmd := &cobra.Command{
		Use:   "prune [OPTIONS]",
		Short: "Remove all stopped containers",
		Args:  exactArgs(0),
		RunE: a.run(func(ctx context.Context, _ *cobra.Command, _ []string) error {
			return runF(ctx, a, o)
		}),
	}
	f := cmd.Flags()
	f.StringArrayVar(&o.Filter, "filter", nil, "Provide filter values (e.g. \"until=<timestamp>\")")
	f.BoolVarP(&o.Force, "force", "f", false, "Do not prompt for confirmation")
	return cmd
}

func runContainerPrune(ctx context.Context, a *app, o *containerPruneOptions) error {
	if !o.Force {
		ok, err := a.confirm("WARNING! This will remove all stopped containers.\nAre you sure you want to continue? [y/N] ")
		if err != nil || !ok {
			return err
		}
	}
	deleted, err := a.pruneContainers(ctx, o.Filter)
	if len(deleted) > 0 {
		fmt.Fprintln(a.out, "Deleted Containers:")
		for _, id := range deleted {
			fmt.Fprintln(a.out, id)
		}
		fmt.Fprintln(a.out)
	}
	if err != nil {
		return err
	}
	fmt.Fprintln(a.out, "Total reclaimed space: 0B")
	return nil
}

// pruneContainers removes stopped containers. Those of a Compose project are
// stopped, not forgotten: they count as well, as with docker.
func (a *app) pruneContainers(ctx context.Context, filter []string) (deleted []string, err error) {
	f, err := parseFilters(filter, "until", "label", "label!")
	if err != nil {
		return nil, err
	}
	limit := a.now()
	for _, u := range f["until"] {
		if limit, err = when.Parse(u, a.now()); err != nil {
			return nil, err
		}
	}
	v, err := a.engine(ctx)
	if err != nil {
		return nil, err
	}
	cs, err := v.Containers(ctx, compose.Selector{All: true, OneOff: true})
	if err != nil {
		return nil, err
	}
	for _, c := range cs {
		stopped := c.State.Phase == engine.Exited || c.State.Phase == engine.Created || c.State.Phase == engine.Dead
		if !stopped || !c.Created.Before(limit) || !f.labels("label", c.Spec.Labels) || !f.none("label!") && f.labels("label!", c.Spec.Labels) {
			continue
		}
		if err := v.Remove(ctx, idSelector(c), compose.StopOptions{Volumes: true}, nil); err != nil {
			return deleted, err
		}
		deleted = append(deleted, c.ID)
	}
	return deleted, nil
}
