package volume

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/stack-run/stack/cmd/stack/internal/cli"
)

func newInspectCmd(a *cli.App) *cobra.Command {
	o := &cli.InspectOptions{}
	cmd := cli.Inspecting(a, o, "inspect [OPTIONS] VOLUME [VOLUME...]", "Display detailed information on one or more volumes", Inspector())
	cmd.ValidArgsFunction = completeVolumes(a)
	return cmd
}

// Inspector inspects volumes.
func Inspector() cli.Inspector {
	return cli.Inspector{Kind: "volume", Look: func(ctx context.Context, a *cli.App, name string, _ *cli.InspectOptions) (any, error) {
		v, err := a.API(ctx)
		if err != nil {
			return nil, err
		}
		volume, err := v.Volume(ctx, name)
		if err != nil {
			return nil, err
		}
		return inspectVolume(volume), nil
	}}
}
