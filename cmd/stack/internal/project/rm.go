package project

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/stack-run/stack/cmd/stack/internal/cli"
	"github.com/stack-run/stack/compose"
	"github.com/stack-run/stack/engine"
)

type rmOptions struct {
	Services []string // arguments
	Force    bool
	Stop     bool
	Volumes  bool
}

func NewRmCmd(a *cli.App, runF func(context.Context, *cli.App, *rmOptions) error) *cobra.Command {
	if runF == nil {
		runF = runRm
	}
	o := &rmOptions{}
	cmd := &cobra.Command{
		Use:   "rm [OPTIONS] [SERVICE...]",
		Short: "Removes stopped service containers",
		Long: `Removes stopped service containers

By default, anonymous volumes attached to containers will not be removed. You
can override this with -v. To list all volumes, use "stack volume ls".

Any data which is not in a volume will be lost.`,
		RunE: a.Run(func(ctx context.Context, _ *cobra.Command, args []string) error {
			o.Services = args
			return runF(ctx, a, o)
		}),
		ValidArgsFunction: a.CompleteServices,
	}
	f := cmd.Flags()
	f.BoolVarP(&o.Force, "force", "f", false, "Don't ask to confirm removal")
	f.BoolVarP(&o.Stop, "stop", "s", false, "Stop the containers, if required, before removing")
	f.BoolVarP(&o.Volumes, "volumes", "v", false, "Remove any anonymous volumes attached to containers")
	f.BoolP("all", "a", false, "Deprecated - no effect")
	f.Lookup("all").Hidden = true
	return cmd
}

func runRm(ctx context.Context, a *cli.App, o *rmOptions) error {
	v, err := a.API(ctx)
	if err != nil {
		return err
	}
	sel, err := a.Choose(ctx, v, "rm", o.Services)
	if err != nil {
		return err
	}
	if err := a.Declare(ctx, v, &sel); err != nil {
		return err
	}
	sel.All = true
	cs, err := v.Containers(ctx, sel.Selector)
	if err != nil {
		return err
	}
	if !o.Stop {
		cs = slices.DeleteFunc(cs, func(c engine.Container) bool {
			return c.State.Phase == engine.Running || c.State.Phase == engine.Paused || c.State.Phase == engine.Restarting
		})
	}
	if len(cs) == 0 {
		fmt.Fprintln(a.Err, "No stopped containers")
		_, err := v.Sweep(ctx, a.Global.DryRun) // an rm that was killed may have left something of them
		return err
	}
	var ids, names []string
	for _, c := range cs {
		ids, names = append(ids, c.ID), append(names, c.Spec.Name)
	}
	fmt.Fprintf(a.Err, "Going to remove %s\n", strings.Join(names, ", "))
	if !o.Force && !a.Global.DryRun {
		ok, err := a.Confirm("Are you sure? [yN] ")
		if err != nil || !ok {
			return err
		}
	}
	return a.Watch("Running", func(p compose.Progress) error {
		return v.Remove(ctx, compose.Selector{IDs: ids, Listed: true, All: true}, compose.StopOptions{Stop: o.Stop, Volumes: o.Volumes}, p)
	})
}

// removeOrphans removes the containers of services that the project's
// definition does not have.
func removeOrphans(ctx context.Context, a *cli.App, v compose.API, project string, p compose.Progress) error {
	d, err := v.Definition(ctx, project)
	if err != nil {
		return err
	}
	cs, err := v.Containers(ctx, compose.Selector{Project: project, All: true})
	if err != nil {
		return err
	}
	var ids []string
	for _, c := range cs {
		if d.All()[c.Service] == nil && !slices.Contains(d.Disabled, c.Service) && !c.OneOff {
			ids = append(ids, c.ID)
		}
	}
	if len(ids) == 0 {
		return nil
	}
	return v.Remove(ctx, compose.Selector{IDs: ids, Listed: true, All: true}, compose.StopOptions{Force: true}, p)
}
