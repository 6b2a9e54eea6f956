package image

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/stack-run/stack/cmd/stack/internal/cli"
	"github.com/stack-run/stack/compose"
	"github.com/stack-run/stack/engine/registry"
)

type pullOptions struct {
	Name     string // argument
	AllTags  bool
	Platform string
	Quiet    bool
}

func newPullCmd(a *cli.App, runF func(context.Context, *cli.App, *pullOptions) error) *cobra.Command {
	if runF == nil {
		runF = runPull
	}
	o := &pullOptions{}
	cmd := &cobra.Command{
		Use:   "pull [OPTIONS] NAME[:TAG|@DIGEST]",
		Short: "Download an image from a registry",
		Args:  cli.ExactArgs(1),
		RunE: a.Run(func(ctx context.Context, _ *cobra.Command, args []string) error {
			o.Name = args[0]
			return runF(ctx, a, o)
		}),
	}
	f := cmd.Flags()
	f.BoolVarP(&o.AllTags, "all-tags", "a", false, "Download all tagged images in the repository")
	f.StringVar(&o.Platform, "platform", "", "Set platform if server is multi-platform capable")
	f.BoolVarP(&o.Quiet, "quiet", "q", false, "Suppress verbose output")
	return cmd
}

func runPull(ctx context.Context, a *cli.App, o *pullOptions) error {
	client, err := registryClient(a)
	if err != nil {
		return err
	}
	if !o.AllTags {
		return pullAndTell(ctx, a, client, o, o.Name)
	}
	name, err := repository(o.Name, true)
	if err != nil {
		return err
	}
	tags, err := client.Tags(ctx, o.Name)
	if err != nil {
		return err
	}
	for _, tag := range tags {
		if err := pullAndTell(ctx, a, client, o, name.Name()+":"+tag); err != nil {
			return err
		}
	}
	return nil
}

// pullAndTell pulls one image and says what has become of it.
func pullAndTell(ctx context.Context, a *cli.App, client *registry.Client, o *pullOptions, ref string) error {
	got, err := pull(ctx, a, client, ref, o.Platform, o.Quiet)
	if err != nil {
		return err
	}
	if !o.Quiet {
		state := "Image is up to date for "
		if got.New {
			state = "Downloaded newer image for "
		}
		fmt.Fprintf(a.Out, "Digest: %s\nStatus: %s%s\n", got.Digest, state, got.Name)
	}
	name, err := registry.ParseName(ref)
	if err != nil {
		return err
	}
	fmt.Fprintln(a.Out, name)
	return nil
}

// pull pulls one image and shows its layers on stderr.
func pull(ctx context.Context, a *cli.App, client *registry.Client, name, platform string, quiet bool) (registry.Pulled, error) {
	e, err := a.Engine()
	if err != nil {
		return registry.Pulled{}, err
	}
	to, err := compose.RegistryTarget(e)
	if err != nil {
		return registry.Pulled{}, err
	}
	show := a.ImageDisplay(quiet)
	defer show.Done()
	return client.Pull(ctx, to, name, registry.PullOptions{
		Platform: platform,
		Event:    func(event registry.Event) { show.Event(compose.LayerEvent(event)) },
	})
}
