package image

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/stack-run/stack/cmd/stack/internal/cli"
)

// oneBuilder is the name of the builder, as docker buildx calls its default one.
const oneBuilder = "default"

// NewBuildxCmd is "docker buildx". There is one builder, which starts when it is needed.
func NewBuildxCmd(a *cli.App) *cobra.Command {
	prints := func(use, short, text string, takes cobra.PositionalArgs) *cobra.Command {
		return &cobra.Command{
			Use: use, Short: short, Args: takes,
			RunE: func(*cobra.Command, []string) error {
				_, err := fmt.Fprint(a.Out, text)
				return err
			},
		}
	}
	create := prints("create [OPTIONS] [CONTEXT|ENDPOINT]", "Use the builder that there is", oneBuilder+"\n", cobra.MaximumNArgs(1))
	f := create.Flags()
	f.Bool("append", false, "Append a node to builder instead of changing it")
	f.Bool("bootstrap", false, "Boot builder after creation")
	f.StringArray("buildkitd-flags", nil, "BuildKit daemon flags")
	f.String("buildkitd-config", "", "BuildKit daemon config file")
	f.String("driver", "", "Driver to use")
	f.StringArray("driver-opt", nil, "Options for the driver")
	f.String("name", "", "Builder instance name")
	f.String("node", "", "Create/modify node with given name")
	f.StringSlice("platform", nil, "Fixed platforms for current node")
	f.Bool("use", false, "Set the current builder instance")
	cli.Ignore(f, "append", "bootstrap", "buildkitd-flags", "buildkitd-config", "driver", "driver-opt", "name", "node", "platform", "use")
	use := prints("use [OPTIONS] NAME", "Use the builder that there is", "", cli.ExactArgs(1))
	use.Flags().Bool("default", false, "Set builder as default for current context")
	use.Flags().Bool("global", false, "Builder persists context changes")
	cli.Ignore(use.Flags(), "default", "global")
	inspect := prints("inspect [NAME]", "Inspect the builder", "Name:   "+oneBuilder+"\nDriver: stack\n\nNodes:\nName:     "+oneBuilder+"\nStatus:   running\n", cobra.MaximumNArgs(1))
	inspect.Flags().Bool("bootstrap", false, "Ensure builder has booted before inspecting")
	cli.Ignore(inspect.Flags(), "bootstrap")
	return cli.Group("buildx", "Extended build capabilities with BuildKit",
		newBuildCmd(a, nil),
		create,
		newBuilderDuCmd(a, nil),
		inspect,
		prints("ls", "List builder instances", "NAME/NODE   DRIVER/ENDPOINT   STATUS\n"+oneBuilder+"*    stack             running\n", cobra.NoArgs),
		newBuilderPruneCmd(a, nil),
		use,
		prints("version", "Show buildx version information", "github.com/docker/buildx stack "+cli.Version+"\n", cobra.NoArgs),
	)
}
