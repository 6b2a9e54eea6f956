package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"
)

func newContainerCpCmd(a *app) *cobra.Command {
	o := &cpOptions{container: true}
	cmd := &cobra.Command{
		Use:   "cp [OPTIONS] CONTAINER:SRC_PATH DEST_PATH|-\n  stack container cp [OPTIONS] SRC_PATH|- CONTAINER:DEST_PATH",
		Short: "Copy files/folders between a container and the local filesystem",
		Args:  exactArgs(2),
		RunE: a.run(func(ctx context.Context, _ *cobra.Command, args []string) error {
			o.Source, o.Destination = args[0], args[1]
			return runCp(ctx, a, o)
		}),
	}
	f := cmd.Flags()
	f.BoolVarP(&o.Archive, "archive", "a", false, "Archive mode (copy all uid/gid information)")
	f.BoolVarP(&o.FollowLink, "follow-link", "L", false, "Always follow symbol link in SRC_PATH")
	f.BoolVarP(&o.Quiet, "quiet", "q", false, "Suppress progress output during copy. Progress output is automatically suppressed if no terminal is attached")
	return cmd
}

type containerDiffOptions struct {
	Name   string // argument
	Format string
}

func newContainerDiffCmd(a *app, runF func(context.Context, *app, *containerDiffOptions) error) *cobra.Command {
	if runF == nil {
		runF = runContainerDiff
	}
	return &cobra.Command{
		Use:   "diff CONTAINER",
		Short: "Inspect changes to files or directories on a container's filesystem",
		Args:  exactArgs(1),
		RunE: a.run(func(ctx context.Context, _ *cobra.Command, args []string) error {
			return runF(ctx, a, &containerDiffOptions{Name: args[0]})
		}),
		ValidArgsFunction: a.completeContainers,
	}
}

func runContainerDiff(ctx context.Context, a *app, o *containerDiffOptions) error {
	v, err := a.api(ctx)
	if err != nil {
		return err
	}
	return v.Diff(ctx, o.Name, func(kind byte, path string) error {
		_, err := fmt.Fprintf(a.out, "%c %s\n", kind, path)
		return err
	})
}
