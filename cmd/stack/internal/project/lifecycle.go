package project

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/stack-run/stack/cmd/stack/internal/cli"
	"github.com/stack-run/stack/compose"
	"github.com/stack-run/stack/compose/load"
	"github.com/stack-run/stack/compose/provider"
	"github.com/stack-run/stack/engine"
)

// act runs one lifecycle verb on what the names mean, with a progress display.
func act(ctx context.Context, a *cli.App, verb string, names []string, work func(compose.API, compose.Selector, compose.Progress) error) error {
	v, err := a.API(ctx)
	if err != nil {
		return err
	}
	sel, err := a.Choose(ctx, v, verb, names)
	if err != nil {
		return err
	}
	if err := a.Declare(ctx, v, &sel); err != nil {
		return err
	}
	return a.Watch("Running", func(p compose.Progress) error { return work(v, sel.Selector, p) })
}

type startOptions struct {
	Services    []string // arguments
	Wait        bool
	WaitTimeout time.Duration
}

func NewStartCmd(a *cli.App, runF func(context.Context, *cli.App, *startOptions) error) *cobra.Command {
	if runF == nil {
		runF = runStart
	}
	o := &startOptions{}
	var timeout int
	cmd := &cobra.Command{
		Use:   "start [SERVICE...]",
		Short: "Start services",
		RunE: a.Run(func(ctx context.Context, _ *cobra.Command, args []string) error {
			o.Services, o.WaitTimeout = args, time.Duration(timeout)*time.Second
			return runF(ctx, a, o)
		}),
		ValidArgsFunction: a.CompleteServices,
	}
	cmd.Flags().BoolVar(&o.Wait, "wait", false, "Wait for services to be running|healthy. Implies detached mode.")
	cmd.Flags().IntVar(&timeout, "wait-timeout", 0, "Maximum duration in seconds to wait for the project to be running|healthy")
	return cmd
}

func runStart(ctx context.Context, a *cli.App, o *startOptions) error {
	return act(ctx, a, "start", o.Services, func(v compose.API, s compose.Selector, p compose.Progress) error {
		s.All = true
		cs, err := v.Containers(ctx, s)
		if err != nil {
			return err
		}
		for _, name := range o.Services {
			if len(s.IDs) == 0 && !slices.ContainsFunc(cs, func(c engine.Container) bool { return c.Service == name }) {
				return fmt.Errorf("service %q has no container to start; create it with: stack up -d %s", name, name)
			}
		}
		d, _ := v.Definition(ctx, s.Project) // without one there is no schedule either
		if len(cs) == 0 && (len(o.Services) > 0 || d == nil || len(d.Scheduled()) == 0) {
			return errors.New("there is no container to start; create some with: stack up -d")
		}
		return v.Start(ctx, s, compose.StartOptions{Wait: o.Wait, WaitTimeout: o.WaitTimeout}, p)
	})
}

type stopOptions struct {
	Services []string       // arguments
	Timeout  *time.Duration // nil: each container's own
	NoDeps   bool           // restart
}

func NewStopCmd(a *cli.App, runF func(context.Context, *cli.App, *stopOptions) error) *cobra.Command {
	if runF == nil {
		runF = runStop
	}
	o := &stopOptions{}
	var timeout int
	cmd := &cobra.Command{
		Use:   "stop [OPTIONS] [SERVICE...]",
		Short: "Stop services",
		RunE: a.Run(func(ctx context.Context, cmd *cobra.Command, args []string) error {
			o.Services, o.Timeout = args, cli.Seconds(cmd, "timeout", timeout)
			return runF(ctx, a, o)
		}),
		ValidArgsFunction: a.CompleteServices,
	}
	cmd.Flags().IntVarP(&timeout, "timeout", "t", 0, "Specify a shutdown timeout in seconds")
	return cmd
}

func runStop(ctx context.Context, a *cli.App, o *stopOptions) error {
	return act(ctx, a, "stop", o.Services, func(v compose.API, s compose.Selector, p compose.Progress) error {
		err := v.Stop(ctx, s, compose.StopOptions{Timeout: o.Timeout}, p)
		if s.Project == "" {
			return err
		}
		d, _ := v.Definition(ctx, s.Project) // without one there is no provider either
		return errors.Join(err, endProviders(ctx, a, d, o.Services, provider.Stop, p))
	})
}

func NewRestartCmd(a *cli.App, runF func(context.Context, *cli.App, *stopOptions) error) *cobra.Command {
	if runF == nil {
		runF = runRestart
	}
	o := &stopOptions{}
	var timeout int
	cmd := &cobra.Command{
		Use:   "restart [OPTIONS] [SERVICE...]",
		Short: "Restart service containers",
		RunE: a.Run(func(ctx context.Context, cmd *cobra.Command, args []string) error {
			o.Services, o.Timeout = args, cli.Seconds(cmd, "timeout", timeout)
			return runF(ctx, a, o)
		}),
		ValidArgsFunction: a.CompleteServices,
	}
	cmd.Flags().BoolVar(&o.NoDeps, "no-deps", false, "Don't restart dependent services")
	cmd.Flags().IntVarP(&timeout, "timeout", "t", 0, "Specify a shutdown timeout in seconds")
	return cmd
}

func runRestart(ctx context.Context, a *cli.App, o *stopOptions) error {
	project := ""
	err := act(ctx, a, "restart", o.Services, func(v compose.API, s compose.Selector, p compose.Progress) error {
		s.All = true
		project = s.Project
		return v.Restart(ctx, s, compose.StopOptions{Timeout: o.Timeout, NoDeps: o.NoDeps}, p)
	})
	if err == nil && project != "" && !a.Global.DryRun {
		tellOutdated(ctx, a, project, o.Services)
	}
	return err
}

// tellOutdated says which services were restarted as they had been made though the
// Compose file has changed since. One that cannot be read is no reason against a
// restart.
func tellOutdated(ctx context.Context, a *cli.App, project string, services []string) {
	o, err := a.LoadOptions()
	if err != nil || slices.Contains(o.Files, "-") {
		return
	}
	o.Services, o.NoDeps = services, true
	l, err := load.Load(ctx, o)
	if err != nil || l.Project.Name != project {
		return
	}
	host, err := a.HostFacts(ctx, l)
	if err != nil {
		return
	}
	d, _, err := a.Desired(l, host, nil)
	if err != nil {
		return
	}
	v, err := a.API(ctx)
	if err != nil {
		return
	}
	p, err := v.Plan(ctx, d, compose.UpOptions{Services: services, NoDeps: true})
	if err != nil {
		return
	}
	for _, line := range p.Outdated() {
		service, differs, _ := strings.Cut(line, ": ")
		a.Warn("%s was restarted as it was made, but the Compose file has changed (%s); to apply it: stack up -d %s", service, differs, service)
	}
}

type killOptions struct {
	Services      []string // arguments
	Signal        string
	RemoveOrphans bool
}

func NewKillCmd(a *cli.App, runF func(context.Context, *cli.App, *killOptions) error) *cobra.Command {
	if runF == nil {
		runF = runKill
	}
	o := &killOptions{}
	cmd := &cobra.Command{
		Use:   "kill [OPTIONS] [SERVICE...]",
		Short: "Force stop service containers",
		RunE: a.Run(func(ctx context.Context, _ *cobra.Command, args []string) error {
			o.Services = args
			return runF(ctx, a, o)
		}),
		ValidArgsFunction: a.CompleteServices,
	}
	cmd.Flags().BoolVar(&o.RemoveOrphans, "remove-orphans", a.Flagged("COMPOSE_REMOVE_ORPHANS"), "Remove containers for services not defined in the Compose file")
	cmd.Flags().StringVarP(&o.Signal, "signal", "s", "SIGKILL", "SIGNAL to send to the container")
	return cmd
}

func runKill(ctx context.Context, a *cli.App, o *killOptions) error {
	if err := cli.CheckSignal(o.Signal); err != nil {
		return err
	}
	return act(ctx, a, "kill", o.Services, func(v compose.API, s compose.Selector, p compose.Progress) error {
		if err := v.Kill(ctx, s, compose.StopOptions{Signal: o.Signal}, p); err != nil || !o.RemoveOrphans || s.Project == "" {
			return err
		}
		return removeOrphans(ctx, a, v, s.Project, p)
	})
}

type pauseOptions struct {
	Services []string // arguments
}

func NewPauseCmd(a *cli.App, runF func(context.Context, *cli.App, *pauseOptions) error) *cobra.Command {
	if runF == nil {
		runF = runPause
	}
	return newPausing(a, "pause", "Pause services", runF)
}

func NewUnpauseCmd(a *cli.App, runF func(context.Context, *cli.App, *pauseOptions) error) *cobra.Command {
	if runF == nil {
		runF = runUnpause
	}
	return newPausing(a, "unpause", "Unpause services", runF)
}

func newPausing(a *cli.App, name, short string, runF func(context.Context, *cli.App, *pauseOptions) error) *cobra.Command {
	return &cobra.Command{
		Use:   name + " [SERVICE...]",
		Short: short,
		RunE: a.Run(func(ctx context.Context, _ *cobra.Command, args []string) error {
			return runF(ctx, a, &pauseOptions{Services: args})
		}),
		ValidArgsFunction: a.CompleteServices,
	}
}

func runPause(ctx context.Context, a *cli.App, o *pauseOptions) error {
	return act(ctx, a, "pause", o.Services, func(v compose.API, s compose.Selector, p compose.Progress) error {
		return v.Pause(ctx, s, p)
	})
}

func runUnpause(ctx context.Context, a *cli.App, o *pauseOptions) error {
	return act(ctx, a, "unpause", o.Services, func(v compose.API, s compose.Selector, p compose.Progress) error {
		return v.Unpause(ctx, s, p)
	})
}
