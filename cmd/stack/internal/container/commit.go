package container

import (
	"context"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/stack-run/stack/cmd/stack/internal/cli"
	"github.com/stack-run/stack/engine"
)

type commitOptions struct {
	engine.CommitOptions
	Name      string // argument: a service, or with container a container
	Index     int
	Pause     bool
	NoPause   bool
	container bool
}

func NewCommitCmd(a *cli.App, runF func(context.Context, *cli.App, *commitOptions) error) *cobra.Command {
	o := &commitOptions{}
	cmd := commitCmd(a, o, runF)
	cmd.Use = "commit [OPTIONS] SERVICE [REPOSITORY[:TAG]]"
	cmd.Short = "Create a new image from a service container's changes"
	cmd.ValidArgsFunction = a.CompleteServices
	cli.IndexFlag(cmd.Flags(), &o.Index)
	cmd.Flags().BoolVarP(&o.Pause, "pause", "p", true, "Pause container during commit")
	return cmd
}

func newContainerCommitCmd(a *cli.App, runF func(context.Context, *cli.App, *commitOptions) error) *cobra.Command {
	o := &commitOptions{container: true}
	cmd := commitCmd(a, o, runF)
	cmd.Use = "commit [OPTIONS] CONTAINER [REPOSITORY[:TAG]]"
	cmd.Short = "Create a new image from a container's changes"
	cmd.ValidArgsFunction = a.CompleteContainers
	cmd.Flags().BoolVar(&o.NoPause, "no-pause", false, "Disable pausing container during commit")
	cmd.Flags().BoolVarP(&o.Pause, "pause", "p", true, "Pause container during commit")
	cmd.Flags().MarkDeprecated("pause", "and enabled by default; use --no-pause to disable pausing")
	return cmd
}

// commitCmd is what both verbs have in common.
func commitCmd(a *cli.App, o *commitOptions, runF func(context.Context, *cli.App, *commitOptions) error) *cobra.Command {
	if runF == nil {
		runF = runCommit
	}
	cmd := &cobra.Command{
		Args: cobra.RangeArgs(1, 2),
		RunE: a.Run(func(ctx context.Context, _ *cobra.Command, args []string) error {
			o.Name = args[0]
			if len(args) > 1 {
				o.Ref = args[1]
			}
			return runF(ctx, a, o)
		}),
	}
	f := cmd.Flags()
	f.StringVarP(&o.Author, "author", "a", "", `Author (e.g., "John Hannibal Smith <hannibal@a-team.com>")`)
	f.StringArrayVarP(&o.Changes, "change", "c", nil, "Apply Dockerfile instruction to the created image")
	f.StringVarP(&o.Message, "message", "m", "", "Commit message")
	return cmd
}

func runCommit(ctx context.Context, a *cli.App, o *commitOptions) error {
	v, err := a.API(ctx)
	if err != nil {
		return err
	}
	c, err := a.Target(ctx, v, "commit", o.Name, o.Index, o.container)
	if err != nil {
		return err
	}
	if a.Global.DryRun {
		fmt.Fprintln(a.Out, "Would commit", c.Spec.Name)
		return nil
	}
	id, err := v.Commit(ctx, c.ID, o.CommitOptions, o.Pause && !o.NoPause)
	if err != nil {
		return err
	}
	fmt.Fprintln(a.Out, id)
	return nil
}

type exportOptions struct {
	Name      string // argument: a service, or with container a container
	Index     int
	Output    string
	container bool
}

func NewExportCmd(a *cli.App, runF func(context.Context, *cli.App, *exportOptions) error) *cobra.Command {
	o := &exportOptions{}
	cmd := exportCmd(a, o, runF)
	cmd.Use = "export [OPTIONS] SERVICE"
	cmd.Short = "Export a service container's filesystem as a tar archive"
	cmd.ValidArgsFunction = a.CompleteServices
	cli.IndexFlag(cmd.Flags(), &o.Index)
	return cmd
}

func newContainerExportCmd(a *cli.App, runF func(context.Context, *cli.App, *exportOptions) error) *cobra.Command {
	o := &exportOptions{container: true}
	cmd := exportCmd(a, o, runF)
	cmd.Use = "export [OPTIONS] CONTAINER"
	cmd.Short = "Export a container's filesystem as a tar archive"
	cmd.ValidArgsFunction = a.CompleteContainers
	return cmd
}

// exportCmd is what both verbs have in common.
func exportCmd(a *cli.App, o *exportOptions, runF func(context.Context, *cli.App, *exportOptions) error) *cobra.Command {
	if runF == nil {
		runF = runExport
	}
	cmd := &cobra.Command{
		Args: cli.ExactArgs(1),
		RunE: a.Run(func(ctx context.Context, _ *cobra.Command, args []string) error {
			o.Name = args[0]
			return runF(ctx, a, o)
		}),
	}
	cmd.Flags().StringVarP(&o.Output, "output", "o", "", "Write to a file, instead of STDOUT")
	return cmd
}

func runExport(ctx context.Context, a *cli.App, o *exportOptions) error {
	v, err := a.API(ctx)
	if err != nil {
		return err
	}
	c, err := a.Target(ctx, v, "export", o.Name, o.Index, o.container)
	if err != nil {
		return err
	}
	return a.WriteOutput(o.Output, "the container's files", func(w io.Writer) error { return v.Export(ctx, c.ID, w) })
}
