package project

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/stack-run/stack/cmd/stack/internal/cli"
	"github.com/stack-run/stack/cmd/stack/internal/image"
	"github.com/stack-run/stack/compose"
	"github.com/stack-run/stack/compose/spec"
	"github.com/stack-run/stack/engine/build/request"
)

type pushOptions struct {
	Services           []string // arguments
	IgnorePushFailures bool
	IncludeDeps        bool
	Quiet              bool
}

func NewPushCmd(a *cli.App, runF func(context.Context, *cli.App, *pushOptions) error) *cobra.Command {
	if runF == nil {
		runF = runPush
	}
	o := &pushOptions{}
	cmd := &cobra.Command{
		Use:   "push [OPTIONS] [SERVICE...]",
		Short: "Push service images",
		RunE: a.Run(func(ctx context.Context, _ *cobra.Command, args []string) error {
			o.Services = args
			return runF(ctx, a, o)
		}),
		ValidArgsFunction: a.CompleteServices,
	}
	f := cmd.Flags()
	f.BoolVar(&o.IgnorePushFailures, "ignore-push-failures", false, "Push what it can and ignores images with push failures")
	f.BoolVar(&o.IncludeDeps, "include-deps", false, "Also push images of services declared as dependencies")
	f.BoolVarP(&o.Quiet, "quiet", "q", false, "Push without printing progress information")
	return cmd
}

func runPush(ctx context.Context, a *cli.App, o *pushOptions) error {
	p, err := a.LoadProject(ctx, cli.LoadRequest{Services: o.Services, NoDeps: !o.IncludeDeps, Verb: "push"})
	if err != nil {
		return err
	}
	services := o.Services
	if o.IncludeDeps {
		services = withDependencies(p.Desired, services)
	}
	targets, _, err := spec.Targets(p.Project, spec.HostFacts{Locate: p.Locate, Separator: a.Separator(), Stored: spec.Unread}, spec.TargetOptions{Services: services})
	if err != nil {
		return err
	}
	err = image.PushImages(ctx, a, namesToPush(a, p.Desired, targets), compose.PushOptions{KeepGoing: o.IgnorePushFailures, Parallel: a.Parallel()}, o.Quiet)
	if err != nil && o.IgnorePushFailures {
		a.Warn("%v", err)
		return nil
	}
	return err
}

// namesToPush are the images that services with a build section name. The one
// that is called after a service, for want of a name, belongs to no registry.
func namesToPush(a *cli.App, d *spec.Desired, targets []request.Target) []string {
	var names []string
	for _, t := range targets {
		of := t.Names
		if s := d.Services[t.Name]; s != nil && s.OnlyBuilt {
			of = of[1:]
			if len(of) == 0 {
				a.Warn("service %s is not pushed: it names no image; add \"image\" to it", t.Name)
			}
		}
		names = append(names, of...)
	}
	return names
}
