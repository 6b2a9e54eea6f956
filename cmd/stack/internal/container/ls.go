package container

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/stack-run/stack/cmd/stack/internal/cli"
	"github.com/stack-run/stack/cmd/stack/internal/format"
	"github.com/stack-run/stack/cmd/stack/internal/summary"
	"github.com/stack-run/stack/compose"
	"github.com/stack-run/stack/engine"
	"github.com/stack-run/stack/healthcheck"
	"github.com/stack-run/stack/netns"
	"github.com/stack-run/stack/volumes"
)

type lsOptions struct {
	cli.ListFlags
	All     bool
	Last    int
	Latest  bool
	NoTrunc bool
	Size    bool
}

func newLsCmd(a *cli.App, runF func(context.Context, *cli.App, *lsOptions) error) *cobra.Command {
	if runF == nil {
		runF = runLs
	}
	o := &lsOptions{}
	cmd := &cobra.Command{
		Use:     "ls [OPTIONS]",
		Aliases: []string{"ps", "list"},
		Short:   "List containers",
		Args:    cli.ExactArgs(0),
		RunE: a.Run(func(ctx context.Context, _ *cobra.Command, _ []string) error {
			return runF(ctx, a, o)
		}),
	}
	f := cmd.Flags()
	cli.AllContainersFlag(f, &o.All)
	o.Add(f, "Filter output based on conditions provided", "Only display container IDs")
	f.IntVarP(&o.Last, "last", "n", -1, "Show n last created containers (includes all states)")
	f.BoolVarP(&o.Latest, "latest", "l", false, "Show the latest created container (includes all states)")
	cli.NoTruncFlag(f, &o.NoTrunc)
	f.BoolVarP(&o.Size, "size", "s", false, "Display total file sizes")
	return cmd
}

func Layout(size bool) format.Layout {
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

func runLs(ctx context.Context, a *cli.App, o *lsOptions) error {
	f, err := cli.ParseFilters(o.Filter, "id", "name", "label", "exited", "status", "ancestor", "before", "since", "volume", "network", "publish", "expose", "health", "isolation", "is-task", "project", "service")
	if err != nil {
		return err
	}
	v, err := a.API(ctx)
	if err != nil {
		return err
	}
	last := o.Last
	if o.Latest {
		last = 1
	}
	all := o.All || last > 0 || !f.None("status") || !f.None("exited") || !f.None("since") || !f.None("before")
	cs, err := v.Containers(ctx, compose.Selector{All: all, OneOff: true})
	if err != nil {
		return err
	}
	keep, err := containers(ctx, f, v)
	if err != nil {
		return err
	}
	cs = slices.DeleteFunc(cs, func(c engine.Container) bool { return !keep(c) })
	slices.SortStableFunc(cs, func(x, y engine.Container) int { return y.Created.Compare(x.Created) })
	if last > 0 {
		cs = cs[:min(last, len(cs))]
	}
	so := summary.Options{Now: a.Now(), NoTrunc: o.NoTrunc}
	if o.Size {
		if so.Size, err = Sizes(ctx, v, cs); err != nil {
			return err
		}
	}
	rows := make([]summary.Container, len(cs))
	for i, c := range cs {
		rows[i] = summary.OfContainer(c, so)
	}
	return format.Write(a.Out, Layout(o.Size), format.Options{Format: a.ListFormat(o.Format, o.Quiet, "psFormat"), Quiet: o.Quiet}, rows)
}

// containers makes a predicate of docker's ps filters.
func containers(ctx context.Context, f cli.Filters, v compose.API) (func(engine.Container) bool, error) {
	for _, s := range f["status"] {
		if !slices.Contains(cli.Phases(), engine.Phase(s)) {
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
		return f.Any("id", func(id string) bool { return strings.HasPrefix(c.ID, id) }) &&
			f.Named(c.Spec.Name) &&
			f.Labels("label", c.Spec.Labels) &&
			f.Has("status", string(c.State.Phase)) &&
			f.Has("project", c.Project) && f.Has("service", c.Service) &&
			(len(codes) == 0 || c.State.Phase == engine.Exited && slices.Contains(codes, c.State.ExitCode)) &&
			f.Any("ancestor", func(ref string) bool {
				return c.Spec.Image == ref || c.Spec.Image == ref+":latest" || strings.TrimSuffix(c.Spec.Image, ":latest") == ref ||
					len(ref) >= 4 && strings.HasPrefix(strings.TrimPrefix(c.Spec.ImageID, "sha256:"), strings.TrimPrefix(ref, "sha256:"))
			}) &&
			f.Any("volume", func(name string) bool {
				return slices.Contains(summary.MountSources(c), name) || slices.ContainsFunc(c.Spec.Mounts, func(m volumes.Mount) bool { return m.Target == name })
			}) &&
			f.Any("network", func(name string) bool {
				return c.Spec.Network.Mode == name || slices.ContainsFunc(c.Spec.Network.Networks, func(n netns.Attachment) bool { return n.Network == name })
			}) &&
			f.Any("publish", func(p string) bool {
				return slices.ContainsFunc(summary.Publishers(c), func(x summary.Publisher) bool { return x.URL != "" && matchesPort(p, x.PublishedPort, x.Protocol) })
			}) &&
			f.Any("expose", func(p string) bool {
				return slices.ContainsFunc(c.Exposed(), func(e string) bool { return e == p || strings.TrimSuffix(e, "/tcp") == p })
			}) &&
			f.Any("health", func(h string) bool {
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
