package main

import (
	"context"
	"fmt"
	"runtime"
	"strings"

	"github.com/spf13/cobra"

	"github.com/stack-run/stack/cmd/stack/internal/cli"
	"github.com/stack-run/stack/cmd/stack/internal/early"
	"github.com/stack-run/stack/cmd/stack/internal/format"
)

type versionOptions struct {
	Format string
	Short  bool
}

func newVersionCmd(a *cli.App, runF func(context.Context, *cli.App, *versionOptions) error) *cobra.Command {
	if runF == nil {
		runF = func(_ context.Context, a *cli.App, o *versionOptions) error { return printVersion(a, o) }
	}
	o := &versionOptions{}
	cmd := &cobra.Command{
		Use:   "version [OPTIONS]",
		Short: "Show the version information",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return runF(cmd.Context(), a, o)
		},
	}
	cmd.Flags().StringVarP(&o.Format, "format", "f", "", "Format the output. Values: [pretty | json]. (Default: pretty)")
	cmd.Flags().BoolVar(&o.Short, "short", false, "Shows only the version number")
	return cmd
}

func printVersion(a *cli.App, o *versionOptions) error {
	switch {
	case o.Short:
		fmt.Fprintln(a.Out, strings.TrimPrefix(cli.Version, "v"))
	case o.Format == "json":
		fmt.Fprintf(a.Out, "{\"version\":%q}\n", cli.Version)
	case o.Format == "" || o.Format == "pretty":
		fmt.Fprint(a.Out, early.Line())
	default:
		return format.Object(a.Out, o.Format, map[string]string{
			"Version": cli.Version, "GoVersion": runtime.Version(), "Os": runtime.GOOS, "Arch": runtime.GOARCH,
		})
	}
	return nil
}
