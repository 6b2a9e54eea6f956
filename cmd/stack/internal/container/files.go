package container

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/stack-run/stack/cmd/stack/internal/cli"
)

type diffOptions struct {
	Name   string // argument
	Format string
}

func newDiffCmd(a *cli.App, runF func(context.Context, *cli.App, *diffOptions) error) *cobra.Command {
	if runF == nil {
		runF = runDiff
	}
	return &cobra.Command{
		Use:   "diff CONTAINER",
		Short: "Inspect changes to files or directories on a container's filesystem",
		Args:  cli.ExactArgs(1),
		RunE: a.Run(func(ctx context.Context, _ *cobra.Command, args []string) error {
			return runF(ctx, a, &diffOptions{Name: args[0]})
		}),
		ValidArgsFunction: a.CompleteContainers,
	}
}

func runDiff(ctx context.Context, a *cli.App, o *diffOptions) error {
	v, err := a.API(ctx)
	if err != nil {
		return err
	}
	return v.Diff(ctx, o.Name, func(kind byte, path string) error {
		_, err := fmt.Fprintf(a.Out, "%c %s\n", kind, path)
		return err
	})
}
