package project

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/stack-run/stack/cmd/stack/internal/cli"
	"github.com/stack-run/stack/cmd/stack/internal/progress"
	"github.com/stack-run/stack/compose"
	"github.com/stack-run/stack/compose/apply"
	"github.com/stack-run/stack/compose/plan"
)

type pullOptions struct {
	Services           []string // arguments
	IgnoreBuildable    bool
	IgnorePullFailures bool
	IncludeDeps        bool
	Policy             string
	Quiet              bool
}

func NewPullCmd(a *cli.App, runF func(context.Context, *cli.App, *pullOptions) error) *cobra.Command {
	if runF == nil {
		runF = runPull
	}
	o := &pullOptions{}
	cmd := &cobra.Command{
		Use:   "pull [OPTIONS] [SERVICE...]",
		Short: "Pull service images",
		RunE: a.Run(func(ctx context.Context, _ *cobra.Command, args []string) error {
			o.Services = args
			switch o.Policy {
			case "", "missing", "always":
			default:
				return fmt.Errorf("invalid --policy %q; use missing or always", o.Policy)
			}
			return runF(ctx, a, o)
		}),
		ValidArgsFunction: a.CompleteServices,
	}
	f := cmd.Flags()
	f.BoolVar(&o.IgnoreBuildable, "ignore-buildable", false, "Ignore images that can be built")
	f.BoolVar(&o.IgnorePullFailures, "ignore-pull-failures", false, "Pull what it can and ignores images with pull failures")
	f.BoolVar(&o.IncludeDeps, "include-deps", false, "Also pull services declared as dependencies")
	f.StringVar(&o.Policy, "policy", "", `Apply pull policy ("missing"|"always")`)
	f.BoolVarP(&o.Quiet, "quiet", "q", false, "Pull without printing progress information")
	f.Bool("parallel", true, "DEPRECATED pull multiple images in parallel")
	f.Bool("no-parallel", true, "DEPRECATED disable parallel pulling")
	f.Lookup("parallel").Hidden, f.Lookup("no-parallel").Hidden = true, true
	cli.Ignore(f, "parallel", "no-parallel")
	return cmd
}

func runPull(ctx context.Context, a *cli.App, o *pullOptions) error {
	p, err := a.LoadProject(ctx, cli.LoadRequest{Services: o.Services, Jobs: true, NoDeps: !o.IncludeDeps, Verb: "pull"})
	if err != nil {
		return err
	}
	v, err := a.API(ctx)
	if err != nil {
		return err
	}
	ops, err := v.PlanPulls(ctx, p.Desired, plan.PullOptions{
		Services: o.Services, NoDeps: !o.IncludeDeps, Policy: o.Policy, IgnoreBuildable: o.IgnoreBuildable,
	})
	if err != nil {
		return err
	}
	show := a.ImageDisplay(false)
	defer show.Done()
	if a.Global.DryRun {
		for _, op := range ops {
			if op.Kind == plan.PullImage {
				fmt.Fprintf(a.Err, " DRY-RUN MODE -  Image %s  would be pulled\n", op.Image)
			}
		}
		return nil
	}
	toBuild, err := v.Pull(ctx, ops, compose.PullOptions{KeepGoing: o.IgnorePullFailures, Parallel: a.Parallel()}, pullEvents(show, o.Quiet))
	var services []string
	for _, op := range toBuild {
		services = append(services, op.Services...)
	}
	if len(services) > 0 {
		a.Warn("Some service image(s) must be built from source by running:\n    stack build %s", strings.Join(services, " "))
	}
	if err != nil && o.IgnorePullFailures {
		a.Warn("%v", err)
		return nil
	}
	return err
}

// pullEvents shows what becomes of images and, unless it is to be quiet, of their
// layers.
func pullEvents(show progress.Display, quiet bool) compose.Progress {
	return func(e apply.Event) {
		if !quiet || e.Kind != "" {
			show.Event(e)
		}
	}
}
