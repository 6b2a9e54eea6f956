package project

import (
	"context"
	"maps"
	"slices"

	"github.com/spf13/cobra"

	"github.com/stack-run/stack/cmd/stack/internal/cli"
)

type createCmdOptions struct {
	createOptions
	Services []string // arguments
}

func NewCreateCmd(a *cli.App, runF func(context.Context, *cli.App, *createCmdOptions) error) *cobra.Command {
	if runF == nil {
		runF = runCreate
	}
	o := &createCmdOptions{}
	cmd := &cobra.Command{
		Use:   "create [OPTIONS] [SERVICE...]",
		Short: "Creates containers for a service",
		RunE: a.Run(func(ctx context.Context, cmd *cobra.Command, args []string) error {
			o.Services = args
			if err := o.check(a, cmd.Flags()); err != nil {
				return err
			}
			return runF(ctx, a, o)
		}),
		ValidArgsFunction: a.CompleteServices,
	}
	f := cmd.Flags()
	f.BoolVar(&o.Build, "build", false, "Build images before starting containers")
	f.BoolVar(&o.NoBuild, "no-build", false, "Don't build an image, even if it's policy")
	f.StringVar(&o.Pull, "pull", "policy", `Pull image before running ("always"|"missing"|"never"|"build")`)
	cli.QuietPullFlag(f, &o.QuietPull)
	cli.ForceRecreateFlag(f, &o.ForceRecreate)
	cli.NoRecreateFlag(f, &o.NoRecreate)
	cli.RemoveOrphansFlag(f, &o.RemoveOrphans)
	cli.ScaleFlag(f, &o.Scale)
	f.BoolVarP(&o.Yes, "yes", "y", false, `Assume "yes" as answer to all prompts and run non-interactively`)
	f.SetNormalizeFunc(assumeYes)
	return cmd
}

func runCreate(ctx context.Context, a *cli.App, o *createCmdOptions) error {
	return runUpDetached(ctx, a, &UpOptions{createOptions: o.createOptions, Services: o.Services, NoStart: true})
}

type scaleOptions struct {
	NoDeps bool
	Scale  []string // arguments, SERVICE=NUM
}

func NewScaleCmd(a *cli.App, runF func(context.Context, *cli.App, *scaleOptions) error) *cobra.Command {
	if runF == nil {
		runF = runScale
	}
	o := &scaleOptions{}
	cmd := &cobra.Command{
		Use:   "scale [SERVICE=REPLICAS...]",
		Short: "Scale services",
		Args:  cobra.MinimumNArgs(1),
		RunE: a.Run(func(ctx context.Context, _ *cobra.Command, args []string) error {
			o.Scale = args
			return runF(ctx, a, o)
		}),
		ValidArgsFunction: a.CompleteServices,
	}
	cli.NoDepsFlag(cmd.Flags(), &o.NoDeps)
	return cmd
}

func runScale(ctx context.Context, a *cli.App, o *scaleOptions) error {
	scale, err := parseScale(o.Scale)
	if err != nil {
		return err
	}
	services := slices.Sorted(maps.Keys(scale))
	return runUpDetached(ctx, a, &UpOptions{
		createOptions: createOptions{Scale: o.Scale}, Services: services, NoDeps: o.NoDeps, Detach: true,
	})
}
