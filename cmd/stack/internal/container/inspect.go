package container

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/stack-run/stack/cmd/stack/internal/cli"
	"github.com/stack-run/stack/compose"
)

func newInspectCmd(a *cli.App) *cobra.Command {
	o := &cli.InspectOptions{}
	cmd := cli.Inspecting(a, o, "inspect [OPTIONS] CONTAINER [CONTAINER...]", "Display detailed information on one or more containers", Inspector())
	cmd.Flags().BoolVarP(&o.Size, "size", "s", false, "Display total file sizes")
	cmd.ValidArgsFunction = a.CompleteContainers
	return cmd
}

// Inspector inspects containers.
func Inspector() cli.Inspector {
	return cli.Inspector{Kind: "container", Look: func(ctx context.Context, a *cli.App, name string, o *cli.InspectOptions) (any, error) {
		return inspectContainer(ctx, a, name, o.Size)
	}}
}

func inspectContainer(ctx context.Context, a *cli.App, name string, size bool) (any, error) {
	v, err := a.API(ctx)
	if err != nil {
		return nil, err
	}
	got, err := v.Inspect(ctx, name)
	if err != nil {
		return nil, err
	}
	if !size {
		return got, nil
	}
	cs, err := v.Containers(ctx, compose.Selector{IDs: []string{name}, All: true})
	if err != nil || len(cs) == 0 {
		return got, err
	}
	sizes, err := Sizes(ctx, v, cs)
	if err != nil {
		return nil, err
	}
	own, virtual := sizes(cs[0])
	got.SizeRw, got.SizeRootFs = &own, &virtual
	return got, nil
}
