package image

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/stack-run/stack/cmd/stack/internal/cli"
)

func newInspectCmd(a *cli.App) *cobra.Command {
	o := &cli.InspectOptions{}
	cmd := cli.Inspecting(a, o, "inspect [OPTIONS] IMAGE [IMAGE...]", "Display detailed information on one or more images", Inspector())
	cmd.Flags().StringVar(&o.Platform, "platform", "", "Inspect a specific platform of the multi-platform image.")
	cmd.ValidArgsFunction = a.CompleteImages
	return cmd
}

// Inspector inspects images.
func Inspector() cli.Inspector {
	return cli.Inspector{Kind: "image", Look: func(ctx context.Context, a *cli.App, name string, o *cli.InspectOptions) (any, error) {
		v, err := a.API(ctx)
		if err != nil {
			return nil, err
		}
		return v.InspectImage(ctx, name, o.Platform)
	}}
}
