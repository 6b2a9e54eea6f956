package image

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/stack-run/stack/cmd/stack/internal/cli"
	"github.com/stack-run/stack/compose"
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
	cli.QuietTransferFlag(f, &o.Quiet)
	return cmd
}

func runPull(ctx context.Context, a *cli.App, o *pullOptions) error {
	v, err := a.API(ctx)
	if err != nil {
		return err
	}
	if !o.AllTags {
		return pull(ctx, a, v, o, o.Name)
	}
	name, err := repository(o.Name, true)
	if err != nil {
		return err
	}
	tags, err := v.Tags(ctx, o.Name)
	if err != nil {
		return err
	}
	for _, tag := range tags {
		if err := pull(ctx, a, v, o, name.Name()+":"+tag); err != nil {
			return err
		}
	}
	return nil
}

// pull pulls one image, shows its layers on stderr and says what has become of it.
func pull(ctx context.Context, a *cli.App, v compose.API, o *pullOptions, ref string) error {
	show := a.ImageDisplay(o.Quiet)
	got, err := v.PullImage(ctx, ref, o.Platform, show.Event)
	show.Done()
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
	fmt.Fprintln(a.Out, got.Ref)
	return nil
}
