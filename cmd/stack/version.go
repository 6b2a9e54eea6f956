package main

import (
	"context"
	"fmt"
	"runtime"
	"strings"

	"github.com/spf13/cobra"

	"github.com/stack-run/stack/cmd/stack/internal/early"
	"github.com/stack-run/stack/cmd/stack/internal/format"
)

// version is this program's, with a leading "v".
var version = early.Version

type versionOptions struct {
	Format string
	Short  bool
}

func newVersionCmd(a *app, runF func(context.Context, *app, *versionOptions) error) *cobra.Command {
	if runF == nil {
		runF = func(_ context.Context, a *app, o *versionOptions) error { return printVersion(a, o) }
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

func printVersion(a *app, o *versionOptions) error {
	switch {
	case o.Short:
		fmt.Fprintln(a.out, strings.TrimPrefix(version, "v"))
	case o.Format == "json":
		fmt.Fprintf(a.out, "{\"version\":%q}\n", version)
	case o.Format == "" || o.Format == "pretty":
		fmt.Fprint(a.out, early.Line())
	default:
		return format.Object(a.out, o.Format, map[string]string{
			"Version": version, "GoVersion": runtime.Version(), "Os": runtime.GOOS, "Arch": runtime.GOARCH,
		})
	}
	return nil
}
