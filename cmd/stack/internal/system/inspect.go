package system

import (
	"github.com/spf13/cobra"

	"github.com/stack-run/stack/cmd/stack/internal/cli"
	"github.com/stack-run/stack/cmd/stack/internal/container"
	"github.com/stack-run/stack/cmd/stack/internal/image"
	"github.com/stack-run/stack/cmd/stack/internal/network"
	"github.com/stack-run/stack/cmd/stack/internal/volume"
)

func NewInspectCmd(a *cli.App) *cobra.Command {
	o := &cli.InspectOptions{}
	cmd := cli.Inspecting(a, o, "inspect [OPTIONS] NAME|ID [NAME|ID...]", "Return low-level information on containers, images, networks and volumes",
		container.Inspector(), image.Inspector(), network.Inspector(), volume.Inspector())
	cmd.Flags().BoolVarP(&o.Size, "size", "s", false, "Display total file sizes if the type is container")
	cmd.Flags().StringVar(&o.Type, "type", "", "Only inspect objects of the given type")
	cmd.ValidArgsFunction = a.CompleteContainers
	return cmd
}
