package main

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/stack-run/stack/cmd/stack/internal/format"
	"github.com/stack-run/stack/cmd/stack/internal/summary"
	"github.com/stack-run/stack/compose"
	"github.com/stack-run/stack/engine"
	"github.com/stack-run/stack/healthcheck"
	"github.com/stack-run/stack/netns"
	"github.com/stack-run/stack/volumes"
)

type containerLsOptions struct {
	listFlags
	All     bool
	Last    int
	Latest  bool
	NoTrunc bool
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
	o.add(f, "Filter output based on conditions provided", "Only display container IDs")
	f.IntVarP(&o.Last, "last", "n", -1, "Show n last created containers (includes all states)")
	f.BoolVarP(&o.Latest, "latest", "l", false, "Show the latest created container (includes all states)")
	f.BoolVar(&o.NoTrunc, "no-trunc", false, "Don't truncate output")
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
	v, err := a.api(ctx)
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
	so := summary.Options{Now: a.now(), NoTrunc: o.NoTrunc}
	if o.Size {
		if so.Size, err = a.containerSizes(ctx); err != nil {
			return err
		}
	}
	rows := make([]summary.Container, len(cs))
	for i, c := range cs {
		rows[i] = summary.OfContainer(c, so)
	}
	return format.Write(a.out, containerLayout(o.Size), format.Options{Format: a.listFormat(o.Format, o.Quiet, "psFormat"), Quiet: o.Quiet}, rows)
}

// containers makes a predicate of docker's ps filters.
func (f filters) containers(ctx context.Context, v compose.API) (func(engine.Container) bool, error) {
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
			f.named(c.Spec.Name) &&
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
				return slices.ContainsFunc(summary.Publishers(c), func(x summary.Publisher) bool { return x.URL != "" && matchesPort(p, x.PublishedPort, x.Protocol) })
			}) &&
			f.any("expose", func(p string) bool {
				return slices.ContainsFunc(c.Exposed(), func(e string) bool { return e == p || strings.TrimSuffix(e, "/tcp") == p })
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
