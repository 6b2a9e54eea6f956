package project

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/stack-run/stack/cmd/stack/internal/cli"
	"github.com/stack-run/stack/compose"
	"github.com/stack-run/stack/compose/provider"
)

type downOptions struct {
	Services      []string // arguments
	RemoveOrphans bool
	RMI           string
	Timeout       *time.Duration
	Volumes       bool
}

func NewDownCmd(a *cli.App, runF func(context.Context, *cli.App, *downOptions) error) *cobra.Command {
	if runF == nil {
		runF = runDown
	}
	o := &downOptions{}
	var timeout int
	cmd := &cobra.Command{
		Use:   "down [OPTIONS] [SERVICES]",
		Short: "Stop and remove containers, networks",
		RunE: a.Run(func(ctx context.Context, cmd *cobra.Command, args []string) error {
			o.Services, o.Timeout = args, cli.Seconds(cmd, "timeout", timeout)
			if o.RMI != "" && o.RMI != "all" && o.RMI != "local" {
				return fmt.Errorf("invalid value for --rmi: %q; use all or local", o.RMI)
			}
			return runF(ctx, a, o)
		}),
		ValidArgsFunction: a.CompleteServices,
	}
	f := cmd.Flags()
	f.BoolVar(&o.RemoveOrphans, "remove-orphans", a.Flagged("COMPOSE_REMOVE_ORPHANS"), "Remove containers for services not defined in the Compose file")
	f.StringVar(&o.RMI, "rmi", "", `Remove images used by services. "local" remove only images that don't have a custom tag ("local"|"all")`)
	f.IntVarP(&timeout, "timeout", "t", 0, "Specify a shutdown timeout in seconds")
	f.BoolVarP(&o.Volumes, "volumes", "v", false, `Remove named volumes declared in the "volumes" section of the Compose file and anonymous volumes attached to containers`)
	f.SetNormalizeFunc(func(_ *pflag.FlagSet, name string) pflag.NormalizedName {
		if name == "volume" {
			name = "volumes"
		}
		return pflag.NormalizedName(name)
	})
	return cmd
}

func runDown(ctx context.Context, a *cli.App, o *downOptions) error {
	v, s, err := a.OfProject(ctx, "down", o.Services)
	if err != nil {
		return err
	}
	d, err := a.Declared(ctx, v, s.Name)
	if err != nil {
		return err
	}
	down := compose.DownOptions{Desired: d, Services: o.Services, Volumes: o.Volumes, Images: o.RMI, Orphans: o.RemoveOrphans, Timeout: o.Timeout}
	if d != nil {
		down.Declared, down.ImageNames = d.VolumeNames(), d.Images(o.RMI, o.Services...)
	}
	was, _ := v.Definition(ctx, s.Name) // without one there is no provider either
	return a.Watch("Running", func(p compose.Progress) error {
		return errors.Join(v.Down(ctx, s.Name, down, p), endProviders(ctx, a, was, o.Services, provider.Down, p))
	})
}
