package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/stack-run/stack/compose"
	"github.com/stack-run/stack/engine"
)

// seconds makes the engine's time limit of a --timeout flag: nil when it was
// not given, no limit when it is negative.
func seconds(cmd *cobra.Command, name string, n int) *time.Duration {
	if !cmd.Flags().Changed(name) {
		return nil
	}
	d := time.Duration(n) * time.Second
	return &d
}

// act runs one lifecycle verb on what the names mean, with a progress display.
func (a *app) act(ctx context.Context, verb string, names []string, work func(compose.API, compose.Selector, compose.Progress) error) error {
	v, err := a.api(ctx)
	if err != nil {
		return err
	}
	sel, err := a.choose(ctx, v, verb, names)
	if err != nil {
		return err
	}
	if err := a.declare(ctx, v, &sel); err != nil {
		return err
	}
	return a.watch("Running", func(p compose.Progress) error { return work(v, sel.Selector, p) })
}

type startOptions struct {
	Services    []string // arguments
	Wait        bool
	WaitTimeout time.Duration
}

func newStartCmd(a *app, runF func(context.Context, *app, *startOptions) error) *cobra.Command {
	if runF == nil {
		runF = runStart
	}
	o := &startOptions{}
	var timeout int
	cmd := &cobra.Command{
		Use:   "start [SERVICE...]",
		Short: "Start services",
		RunE: a.run(func(ctx context.Context, _ *cobra.Command, args []string) error {
			o.Services, o.WaitTimeout = args, time.Duration(timeout)*time.Second
			return runF(ctx, a, o)
		}),
		ValidArgsFunction: a.completeServices,
	}
	cmd.Flags().BoolVar(&o.Wait, "wait", false, "Wait for services to be running|healthy. Implies detached mode.")
	cmd.Flags().IntVar(&timeout, "wait-timeout", 0, "Maximum duration in seconds to wait for the project to be running|healthy")
	return cmd
}

func runStart(ctx context.Context, a *app, o *startOptions) error {
	return a.act(ctx, "start", o.Services, func(v compose.API, s compose.Selector, p compose.Progress) error {
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
		if len(cs) == 0 {
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

func newStopCmd(a *app, runF func(context.Context, *app, *stopOptions) error) *cobra.Command {
	if runF == nil {
		runF = runStop
	}
	o := &stopOptions{}
	var timeout int
	cmd := &cobra.Command{
		Use:   "stop [OPTIONS] [SERVICE...]",
		Short: "Stop services",
		RunE: a.run(func(ctx context.Context, cmd *cobra.Command, args []string) error {
			o.Services, o.Timeout = args, seconds(cmd, "timeout", timeout)
			return runF(ctx, a, o)
		}),
		ValidArgsFunction: a.completeServices,
	}
	cmd.Flags().IntVarP(&timeout, "timeout", "t", 0, "Specify a shutdown timeout in seconds")
	return cmd
}

func runStop(ctx context.Context, a *app, o *stopOptions) error {
	return a.act(ctx, "stop", o.Services, func(v compose.API, s compose.Selector, p compose.Progress) error {
		return v.Stop(ctx, s, compose.StopOptions{Timeout: o.Timeout}, p)
	})
}

func newRestartCmd(a *app, runF func(context.Context, *app, *stopOptions) error) *cobra.Command {
	if runF == nil {
		runF = runRestart
	}
	o := &stopOptions{}
	var timeout int
	cmd := &cobra.Command{
		Use:   "restart [OPTIONS] [SERVICE...]",
		Short: "Restart service containers",
		RunE: a.run(func(ctx context.Context, cmd *cobra.Command, args []string) error {
			o.Services, o.Timeout = args, seconds(cmd, "timeout", timeout)
			return runF(ctx, a, o)
		}),
		ValidArgsFunction: a.completeServices,
	}
	cmd.Flags().BoolVar(&o.NoDeps, "no-deps", false, "Don't restart dependent services")
	cmd.Flags().IntVarP(&timeout, "timeout", "t", 0, "Specify a shutdown timeout in seconds")
	return cmd
}

func runRestart(ctx context.Context, a *app, o *stopOptions) error {
	return a.act(ctx, "restart", o.Services, func(v compose.API, s compose.Selector, p compose.Progress) error {
		s.All = true
		return v.Restart(ctx, s, compose.StopOptions{Timeout: o.Timeout, NoDeps: o.NoDeps}, p)
	})
}

type killOptions struct {
	Services      []string // arguments
	Signal        string
	RemoveOrphans bool
}

func newKillCmd(a *app, runF func(context.Context, *app, *killOptions) error) *cobra.Command {
	if runF == nil {
		runF = runKill
	}
	o := &killOptions{}
	cmd := &cobra.Command{
		Use:   "kill [OPTIONS] [SERVICE...]",
		Short: "Force stop service containers",
		RunE: a.run(func(ctx context.Context, _ *cobra.Command, args []string) error {
			o.Services = args
			return runF(ctx, a, o)
		}),
		ValidArgsFunction: a.completeServices,
	}
	cmd.Flags().BoolVar(&o.RemoveOrphans, "remove-orphans", a.flagged("COMPOSE_REMOVE_ORPHANS"), "Remove containers for services not defined in the Compose file")
	cmd.Flags().StringVarP(&o.Signal, "signal", "s", "SIGKILL", "SIGNAL to send to the container")
	return cmd
}

func runKill(ctx context.Context, a *app, o *killOptions) error {
	if err := checkSignal(o.Signal); err != nil {
		return err
	}
	return a.act(ctx, "kill", o.Services, func(v compose.API, s compose.Selector, p compose.Progress) error {
		if err := v.Kill(ctx, s, compose.StopOptions{Signal: o.Signal}, p); err != nil || !o.RemoveOrphans || s.Project == "" {
			return err
		}
		return removeOrphans(ctx, a, v, s.Project, p)
	})
}

type pauseOptions struct {
	Services []string // arguments
}

func newPauseCmd(a *app, runF func(context.Context, *app, *pauseOptions) error) *cobra.Command {
	if runF == nil {
		runF = runPause
	}
	return newPausing(a, "pause", "Pause services", runF)
}

func newUnpauseCmd(a *app, runF func(context.Context, *app, *pauseOptions) error) *cobra.Command {
	if runF == nil {
		runF = runUnpause
	}
	return newPausing(a, "unpause", "Unpause services", runF)
}

func newPausing(a *app, name, short string, runF func(context.Context, *app, *pauseOptions) error) *cobra.Command {
	return &cobra.Command{
		Use:   name + " [SERVICE...]",
		Short: short,
		RunE: a.run(func(ctx context.Context, _ *cobra.Command, args []string) error {
			return runF(ctx, a, &pauseOptions{Services: args})
		}),
		ValidArgsFunction: a.completeServices,
	}
}

func runPause(ctx context.Context, a *app, o *pauseOptions) error {
	return a.act(ctx, "pause", o.Services, func(v compose.API, s compose.Selector, p compose.Progress) error {
		return v.Pause(ctx, s, p)
	})
}

func runUnpause(ctx context.Context, a *app, o *pauseOptions) error {
	return a.act(ctx, "unpause", o.Services, func(v compose.API, s compose.Selector, p compose.Progress) error {
		return v.Unpause(ctx, s, p)
	})
}
