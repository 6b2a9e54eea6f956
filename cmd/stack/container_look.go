package main

import (
	"context"
	"fmt"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/stack-run/stack/compose"
)

// formerTime accepts the former name of --timeout.
func formerTime(_ *pflag.FlagSet, name string) pflag.NormalizedName {
	if name == "time" {
		name = "timeout"
	}
	return pflag.NormalizedName(name)
}

func newContainerLogsCmd(a *app, runF func(context.Context, *app, *logsOptions) error) *cobra.Command {
	if runF == nil {
		runF = runContainerLogs
	}
	o := &logsOptions{}
	cmd := &cobra.Command{
		Use:   "logs [OPTIONS] CONTAINER",
		Short: "Fetch the logs of a container",
		Args:  exactArgs(1),
		RunE: a.run(func(ctx context.Context, _ *cobra.Command, args []string) error {
			o.Services = args
			return runF(ctx, a, o)
		}),
		ValidArgsFunction: a.completeContainers,
	}
	f := cmd.Flags()
	f.BoolVar(&o.Details, "details", false, "Show extra details provided to logs")
	f.BoolVarP(&o.Follow, "follow", "f", false, "Follow log output")
	f.StringVar(&o.Since, "since", "", `Show logs since timestamp (e.g. "2013-01-02T13:23:37Z") or relative (e.g. "42m" for 42 minutes)`)
	f.StringVarP(&o.Tail, "tail", "n", "all", "Number of lines to show from the end of the logs")
	f.BoolVarP(&o.Timestamps, "timestamps", "t", false, "Show timestamps")
	f.StringVar(&o.Until, "until", "", `Show logs before a timestamp (e.g. "2013-01-02T13:23:37Z") or relative (e.g. "42m" for 42 minutes)`)
	ignore(f, "details")
	return cmd
}

func runContainerLogs(ctx context.Context, a *app, o *logsOptions) error {
	lo, err := o.engineOptions(a.now())
	if err != nil {
		return err
	}
	v, err := a.api(ctx)
	if err != nil {
		return err
	}
	return plainLogs(ctx, a, v, compose.Selector{IDs: o.Services, All: true}, lo, o)
}

func newContainerPortCmd(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "port CONTAINER [PRIVATE_PORT[/PROTO]]",
		Short: "List port mappings or a specific mapping for the container",
		Args:  cobra.RangeArgs(1, 2),
		RunE: a.run(func(ctx context.Context, _ *cobra.Command, args []string) error {
			o := &portOptions{Name: args[0], container: true}
			if len(args) > 1 {
				o.Protocol = "tcp"
				if err := o.parse(args[1]); err != nil {
					return err
				}
			}
			return runPort(ctx, a, o)
		}),
		ValidArgsFunction: a.completeContainers,
	}
}

func newContainerStatsCmd(a *app) *cobra.Command {
	o := &statsOptions{container: true}
	cmd := &cobra.Command{
		Use:   "stats [OPTIONS] [CONTAINER...]",
		Short: "Display a live stream of container(s) resource usage statistics",
		RunE: a.run(func(ctx context.Context, _ *cobra.Command, args []string) error {
			o.Names = args
			return runStats(ctx, a, o)
		}),
		ValidArgsFunction: a.completeContainers,
	}
	f := cmd.Flags()
	f.BoolVarP(&o.All, "all", "a", false, "Show all containers (default shows just running)")
	f.StringVar(&o.Format, "format", "", formatHelp)
	f.BoolVar(&o.NoStream, "no-stream", false, "Disable streaming stats and only pull the first result")
	f.BoolVar(&o.NoTrunc, "no-trunc", false, "Do not truncate output")
	return cmd
}

type containerTopOptions struct {
	Name   string   // argument
	PSArgs []string // arguments
}

func newContainerTopCmd(a *app, runF func(context.Context, *app, *containerTopOptions) error) *cobra.Command {
	if runF == nil {
		runF = runContainerTop
	}
	cmd := &cobra.Command{
		Use:   "top CONTAINER [ps OPTIONS]",
		Short: "Display the running processes of a container",
		Args:  requireArgs(1),
		RunE: a.run(func(ctx context.Context, _ *cobra.Command, args []string) error {
			return runF(ctx, a, &containerTopOptions{Name: args[0], PSArgs: args[1:]})
		}),
		ValidArgsFunction: a.completeContainers,
	}
	cmd.Flags().SetInterspersed(false)
	return cmd
}

func runContainerTop(ctx context.Context, a *app, o *containerTopOptions) error {
	v, err := a.api(ctx)
	if err != nil {
		return err
	}
	titles, rows, err := v.Top(ctx, o.Name, o.PSArgs)
	if err != nil {
		return err
	}
	tw := tabwriter.NewWriter(a.out, 20, 1, 3, ' ', 0)
	fmt.Fprintln(tw, strings.Join(titles, "\t"))
	for _, row := range rows {
		fmt.Fprintln(tw, strings.Join(row, "\t"))
	}
	return tw.Flush()
}
