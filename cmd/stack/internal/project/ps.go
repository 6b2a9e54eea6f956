package project

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/stack-run/stack/cmd/stack/internal/cli"
	"github.com/stack-run/stack/cmd/stack/internal/format"
	"github.com/stack-run/stack/cmd/stack/internal/summary"
	"github.com/stack-run/stack/compose"
	"github.com/stack-run/stack/engine"
)

type psOptions struct {
	Services     []string // arguments
	Format       string
	All          bool
	Quiet        bool
	ServicesOnly bool
	Filter       string
	Status       []string
	NoTrunc      bool
	Orphans      bool
}

func NewPsCmd(a *cli.App, runF func(context.Context, *cli.App, *psOptions) error) *cobra.Command {
	if runF == nil {
		runF = runPs
	}
	o := &psOptions{}
	cmd := &cobra.Command{
		Use:   "ps [OPTIONS] [SERVICE...]",
		Short: "List containers",
		RunE: a.Run(func(ctx context.Context, _ *cobra.Command, args []string) error {
			o.Services = args
			return runF(ctx, a, o)
		}),
		ValidArgsFunction: a.CompleteServices,
	}
	f := cmd.Flags()
	cli.FormatFlag(f, &o.Format)
	f.StringVar(&o.Filter, "filter", "", "Filter services by a property (supported filters: status)")
	f.StringArrayVar(&o.Status, "status", nil, "Filter services by status. Values: [paused | restarting | removing | running | dead | created | exited]")
	f.BoolVarP(&o.Quiet, "quiet", "q", false, "Only display IDs")
	f.BoolVar(&o.ServicesOnly, "services", false, "Display services")
	f.BoolVar(&o.Orphans, "orphans", true, "Include orphaned services (not declared by project)")
	f.BoolVarP(&o.All, "all", "a", false, "Show all stopped containers (including those created by the run command)")
	cli.NoTruncFlag(f, &o.NoTrunc)
	return cmd
}

func psLayout() format.Layout {
	return format.Layout{
		Table: "{{.Name}}\t{{.Image}}\t{{.Command}}\t{{.Service}}\t{{.RunningFor}}\t{{.Status}}\t{{.Ports}}",
		Quiet: "{{.ID}}",
		Headers: map[string]string{
			"ID": "CONTAINER ID", "Name": "NAME", "Names": "NAMES", "Project": "PROJECT", "Service": "SERVICE",
			"Image": "IMAGE", "Command": "COMMAND", "CreatedAt": "CREATED AT", "RunningFor": "CREATED",
			"Ports": "PORTS", "State": "STATE", "Status": "STATUS", "Size": "SIZE", "Labels": "LABELS",
			"Health": "HEALTH", "ExitCode": "EXIT CODE", "Mounts": "MOUNTS", "LocalVolumes": "LOCAL VOLUMES",
			"Networks": "NETWORKS", "Publishers": "PUBLISHERS",
		},
	}
}

func runPs(ctx context.Context, a *cli.App, o *psOptions) error {
	if o.Filter != "" {
		key, value, ok := strings.Cut(o.Filter, "=")
		switch {
		case !ok:
			return fmt.Errorf("cannot read --filter %q; write KEY=VALUE", o.Filter)
		case key != "status":
			return fmt.Errorf("unknown filter %s; the one filter of ps is status", key)
		}
		o.Status = append(o.Status, value)
	}
	for _, s := range o.Status {
		if !slices.Contains(cli.Phases(), engine.Phase(s)) {
			return fmt.Errorf("unknown status %q; use paused, restarting, removing, running, dead, created or exited", s)
		}
	}
	v, s, err := a.OfProject(ctx, "ps", o.Services)
	if err != nil {
		return err
	}
	services := o.Services
	if len(services) == 0 && !o.Orphans {
		services = s.Services
	}
	all := o.All || len(o.Status) > 0
	cs, err := v.Containers(ctx, compose.Selector{Project: s.Name, Services: services, All: all, OneOff: true})
	if err != nil {
		return err
	}
	cs = slices.DeleteFunc(cs, func(c engine.Container) bool {
		return len(o.Status) > 0 && !slices.Contains(o.Status, string(c.State.Phase))
	})
	slices.SortStableFunc(cs, func(x, y engine.Container) int { return strings.Compare(x.Spec.Name, y.Spec.Name) })

	switch {
	case o.Quiet && o.Format != "json":
		for _, c := range cs {
			fmt.Fprintln(a.Out, c.ID)
		}
		return nil
	case o.ServicesOnly:
		seen := map[string]bool{}
		for _, c := range cs {
			if !seen[c.Service] {
				seen[c.Service] = true
				fmt.Fprintln(a.Out, c.Service)
			}
		}
		return nil
	}
	so := summary.Options{Now: a.Now(), NoTrunc: o.NoTrunc}
	var rows []summary.Service
	for _, c := range cs {
		rows = append(rows, summary.OfService(c, so))
	}
	return format.Write(a.Out, psLayout(), format.Options{Format: cmp.Or(o.Format, a.UsualFormat("psFormat"))}, rows)
}
