package image

import (
	"context"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/stack-run/stack/cmd/stack/internal/cli"
	"github.com/stack-run/stack/compose"
)

type importOptions struct {
	Source   string // argument: a file or "-"
	Name     string // argument, may be empty
	Change   []string
	Message  string
	Platform string
}

func newImportCmd(a *cli.App, runF func(context.Context, *cli.App, *importOptions) error) *cobra.Command {
	if runF == nil {
		runF = runImport
	}
	o := &importOptions{}
	cmd := &cobra.Command{
		Use:   "import [OPTIONS] file|- [REPOSITORY[:TAG]]",
		Short: "Import the contents from a tarball to create a filesystem image",
		Args:  cobra.RangeArgs(1, 2),
		RunE: a.Run(func(ctx context.Context, _ *cobra.Command, args []string) error {
			o.Source = args[0]
			if len(args) > 1 {
				o.Name = args[1]
			}
			return runF(ctx, a, o)
		}),
	}
	f := cmd.Flags()
	f.StringArrayVarP(&o.Change, "change", "c", nil, "Apply Dockerfile instruction to the created image")
	f.StringVarP(&o.Message, "message", "m", "", "Set commit message for imported image")
	f.StringVar(&o.Platform, "platform", "", "Set platform if server is multi-platform capable")
	return cmd
}

func runImport(ctx context.Context, a *cli.App, o *importOptions) error {
	r, err := a.ReadInput(o.Source, "the archive")
	if err != nil {
		return err
	}
	defer r.Close()
	v, err := a.API(ctx)
	if err != nil {
		return err
	}
	id, err := v.ImportImage(ctx, r, o.Name, compose.ImportOptions{Changes: o.Change, Message: o.Message, Platform: o.Platform})
	if err != nil {
		return err
	}
	fmt.Fprintln(a.Out, id)
	return nil
}

type loadOptions struct {
	Input    string
	Platform []string
	Quiet    bool
}

func newLoadCmd(a *cli.App, runF func(context.Context, *cli.App, *loadOptions) error) *cobra.Command {
	if runF == nil {
		runF = runLoad
	}
	o := &loadOptions{}
	cmd := &cobra.Command{
		Use:   "load [OPTIONS]",
		Short: "Load an image from a tar archive or STDIN",
		Args:  cli.ExactArgs(0),
		RunE: a.Run(func(ctx context.Context, _ *cobra.Command, _ []string) error {
			return runF(ctx, a, o)
		}),
	}
	f := cmd.Flags()
	f.StringVarP(&o.Input, "input", "i", "", "Read from tar archive file, instead of STDIN")
	f.StringSliceVar(&o.Platform, "platform", nil, "Load only the given platform(s).")
	f.BoolVarP(&o.Quiet, "quiet", "q", false, "Suppress the load output")
	return cmd
}

func runLoad(ctx context.Context, a *cli.App, o *loadOptions) error {
	r, err := a.ReadInput(o.Input, "the archive")
	if err != nil {
		return err
	}
	defer r.Close()
	v, err := a.API(ctx)
	if err != nil {
		return err
	}
	loaded, err := v.LoadImages(ctx, r, o.Platform)
	for _, l := range loaded {
		for _, name := range l.Names {
			fmt.Fprintln(a.Out, "Loaded image:", name)
		}
		if len(l.Names) == 0 {
			fmt.Fprintln(a.Out, "Loaded image ID:", l.ID)
		}
	}
	return err
}

type saveOptions struct {
	Names    []string // arguments
	Output   string
	Platform []string
}

func newSaveCmd(a *cli.App, runF func(context.Context, *cli.App, *saveOptions) error) *cobra.Command {
	if runF == nil {
		runF = runSave
	}
	o := &saveOptions{}
	cmd := &cobra.Command{
		Use:   "save [OPTIONS] IMAGE [IMAGE...]",
		Short: "Save one or more images to a tar archive (streamed to STDOUT by default)",
		Args:  cli.RequireArgs(1),
		RunE: a.Run(func(ctx context.Context, _ *cobra.Command, args []string) error {
			o.Names = args
			return runF(ctx, a, o)
		}),
		ValidArgsFunction: a.CompleteImages,
	}
	f := cmd.Flags()
	f.StringVarP(&o.Output, "output", "o", "", "Write to a file, instead of STDOUT")
	f.StringSliceVar(&o.Platform, "platform", nil, "Save only the given platform(s).")
	return cmd
}

func runSave(ctx context.Context, a *cli.App, o *saveOptions) error {
	v, err := a.API(ctx)
	if err != nil {
		return err
	}
	return a.WriteOutput(o.Output, "images", func(w io.Writer) error { return v.SaveImages(ctx, w, o.Platform, o.Names...) })
}
