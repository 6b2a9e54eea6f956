package container

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/stack-run/stack/cmd/stack/internal/cli"
	"github.com/stack-run/stack/cmd/stack/internal/logview"
	"github.com/stack-run/stack/cmd/stack/internal/when"
	"github.com/stack-run/stack/compose"
)

func newContainerLogsCmd(a *cli.App, runF func(context.Context, *cli.App, *logsOptions) error) *cobra.Command {
	if runF == nil {
		runF = runContainerLogs
	}
	o := &logsOptions{}
	cmd := &cobra.Command{
		Use:   "logs [OPTIONS] CONTAINER",
		Short: "Fetch the logs of a container",
		Args:  cli.ExactArgs(1),
		RunE: a.Run(func(ctx context.Context, _ *cobra.Command, args []string) error {
			o.Services = args
			return runF(ctx, a, o)
		}),
		ValidArgsFunction: a.CompleteContainers,
	}
	f := cmd.Flags()
	f.BoolVar(&o.Details, "details", false, "Show extra details provided to logs")
	cli.FollowFlag(f, &o.Follow)
	f.StringVar(&o.Since, "since", "", `Show logs since timestamp (e.g. "2013-01-02T13:23:37Z") or relative (e.g. "42m" for 42 minutes)`)
	f.StringVarP(&o.Tail, "tail", "n", "all", "Number of lines to show from the end of the logs")
	cli.TimestampsFlag(f, &o.Timestamps)
	f.StringVar(&o.Until, "until", "", `Show logs before a timestamp (e.g. "2013-01-02T13:23:37Z") or relative (e.g. "42m" for 42 minutes)`)
	return cmd
}

func runContainerLogs(ctx context.Context, a *cli.App, o *logsOptions) error {
	lo, err := o.engineOptions(a.Now())
	if err != nil {
		return err
	}
	v, err := a.API(ctx)
	if err != nil {
		return err
	}
	lo.Details = o.Details
	return plainLogs(ctx, a, v, compose.Selector{IDs: o.Services, All: true}, lo, o)
}

type logsOptions struct {
	Services    []string // arguments
	Follow      bool
	Index       int
	Since       string
	Until       string
	Tail        string
	Timestamps  bool
	NoColor     bool
	NoLogPrefix bool
	Details     bool // container logs
}

func NewLogsCmd(a *cli.App, runF func(context.Context, *cli.App, *logsOptions) error) *cobra.Command {
	if runF == nil {
		runF = runLogs
	}
	o := &logsOptions{}
	cmd := &cobra.Command{
		Use:   "logs [OPTIONS] [SERVICE...]",
		Short: "View output from containers",
		RunE: a.Run(func(ctx context.Context, _ *cobra.Command, args []string) error {
			o.Services = args
			if o.Index > 0 && len(args) != 1 {
				return errors.New("--index requires one service to be selected")
			}
			return runF(ctx, a, o)
		}),
		ValidArgsFunction: a.CompleteServices,
	}
	f := cmd.Flags()
	cli.FollowFlag(f, &o.Follow)
	f.IntVar(&o.Index, "index", 0, "index of the container if service has multiple replicas")
	f.StringVar(&o.Since, "since", "", "Show logs since timestamp (e.g. 2013-01-02T13:23:37Z) or relative (e.g. 42m for 42 minutes)")
	f.StringVar(&o.Until, "until", "", "Show logs before a timestamp (e.g. 2013-01-02T13:23:37Z) or relative (e.g. 42m for 42 minutes)")
	f.BoolVar(&o.NoColor, "no-color", false, "Produce monochrome output")
	f.BoolVar(&o.NoLogPrefix, "no-log-prefix", false, "Don't print prefix in logs")
	cli.TimestampsFlag(f, &o.Timestamps)
	f.StringVarP(&o.Tail, "tail", "n", "all", "Number of lines to show from the end of the logs for each container")
	return cmd
}

// engineOptions reads the times and the number of lines.
func (o *logsOptions) engineOptions(now time.Time) (compose.LogOptions, error) {
	out := compose.LogOptions{Follow: o.Follow, NewContainers: o.Follow, Tail: -1}
	var err error
	if out.Since, err = when.Parse(o.Since, now); err != nil {
		return out, fmt.Errorf("invalid --since: %w", err)
	}
	if out.Until, err = when.Parse(o.Until, now); err != nil {
		return out, fmt.Errorf("invalid --until: %w", err)
	}
	if o.Tail != "" && o.Tail != "all" {
		n, err := strconv.Atoi(o.Tail)
		if err != nil {
			return out, fmt.Errorf(`invalid --tail %q: use a number of lines or "all"`, o.Tail)
		}
		out.Tail = max(n, -1)
	}
	return out, nil
}

func runLogs(ctx context.Context, a *cli.App, o *logsOptions) error {
	lo, err := o.engineOptions(a.Now())
	if err != nil {
		return err
	}
	v, err := a.API(ctx)
	if err != nil {
		return err
	}
	sel, err := a.Choose(ctx, v, "logs", o.Services)
	if err != nil {
		return err
	}
	if len(sel.IDs) > 0 {
		return plainLogs(ctx, a, v, sel.Selector, lo, o)
	}
	sel.Index = o.Index
	sel.All = true
	if len(o.Services) == 0 && len(sel.Scope.Quiet) > 0 {
		for _, s := range sel.Scope.Services {
			if !slices.Contains(sel.Scope.Quiet, s) {
				sel.Services = append(sel.Services, s)
			}
		}
	}
	// As docker compose does, and unlike up, both streams to stdout: people search
	// them with grep.
	p := logview.New(a.Out, a.Out, logview.Options{
		Colour: a.Paints(a.Out) && !o.NoColor, NoPrefix: o.NoLogPrefix, Timestamps: o.Timestamps, Services: sel.Scope.Services,
	})
	cs, err := v.Containers(ctx, sel.Selector)
	if err != nil {
		return err
	}
	for _, c := range cs {
		p.Widen(logview.Name(c))
		if c.Spec.Log.Driver == "none" {
			a.Warn("container %s keeps no logs: its logging driver is none", c.Spec.Name)
		}
	}
	return v.Logs(ctx, sel.Selector, lo, func(l compose.LogLine) error {
		if l.Container.Spec.Log.Driver == "none" {
			return nil
		}
		p.Line(l)
		return nil
	})
}

// plainLogs prints a container's lines as it wrote them, as docker logs does.
func plainLogs(ctx context.Context, a *cli.App, v compose.API, sel compose.Selector, lo compose.LogOptions, o *logsOptions) error {
	sel.All = true
	cs, err := v.Containers(ctx, sel)
	if err != nil {
		return err
	}
	for _, c := range cs {
		if c.Spec.Log.Driver == "none" {
			return fmt.Errorf("container %s keeps no logs: its logging driver is none", c.Spec.Name)
		}
	}
	lo.NewContainers = false
	middle := map[string]bool{} // streams that are inside a line
	return v.Logs(ctx, sel, lo, func(l compose.LogLine) error {
		w := a.Out
		if l.Stream == "stderr" {
			w = a.Err
		}
		var line []byte
		if o.Timestamps && !middle[l.Stream] {
			line = append(l.Time.UTC().AppendFormat(line, logview.TimeFormat), ' ')
		}
		if o.Details && !middle[l.Stream] { // as Docker, with a space where there are none
			line = append(append(line, l.Details...), ' ')
		}
		line = append(line, l.Text...)
		if !l.Partial {
			line = append(line, '\n')
		}
		middle[l.Stream] = l.Partial
		_, err := w.Write(line)
		return err
	})
}
