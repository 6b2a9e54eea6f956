package project

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/stack-run/stack/cmd/stack/internal/cli"
	"github.com/stack-run/stack/cmd/stack/internal/format"
	"github.com/stack-run/stack/compose/schedule"
	"github.com/stack-run/stack/compose/spec"
)

type jobsOptions struct {
	Jobs    []string // arguments
	Format  string
	History bool
	Quiet   bool
}

// NewJobsCmd makes "stack jobs", which docker compose does not have.
func NewJobsCmd(a *cli.App, runF func(context.Context, *cli.App, *jobsOptions) error) *cobra.Command {
	if runF == nil {
		runF = runJobs
	}
	o := &jobsOptions{}
	cmd := &cobra.Command{
		Use:   "jobs [OPTIONS] [JOB...]",
		Short: "List jobs, when they are due and what became of their last runs",
		Long: fmt.Sprintf(`List jobs, when they are due and what became of their last runs

"stack up" has jobs run by their schedules, "stack stop" and "stack down" end that. The
containers of a job's last runs stay, for "stack logs JOB"; the last %d runs are remembered.`, schedule.Kept),
		RunE: a.Run(func(ctx context.Context, _ *cobra.Command, args []string) error {
			o.Jobs = args
			return runF(ctx, a, o)
		}),
		ValidArgsFunction: a.CompleteJobs,
	}
	f := cmd.Flags()
	cli.FormatFlag(f, &o.Format)
	f.BoolVar(&o.History, "history", false, "List the last runs by schedules, the newest first")
	f.BoolVarP(&o.Quiet, "quiet", "q", false, "Only display names")
	return cmd
}

// jobRow is a job.
type jobRow struct {
	Job, Schedule, Next, Last, Status string
}

// runRow is a run of a job, or a time at which it was due and did not run.
type runRow struct {
	Job, Due, Started, Duration, Status, Container string
}

func runJobs(ctx context.Context, a *cli.App, o *jobsOptions) error {
	v, err := a.API(ctx)
	if err != nil {
		return err
	}
	s, err := a.Scope(ctx, v)
	if err != nil {
		return err
	}
	d, err := a.Declared(ctx, v, s.Name)
	if err == nil && d == nil {
		d, err = v.Definition(ctx, s.Name)
	}
	if err != nil {
		return err
	}
	known, err := v.Schedules(ctx, s.Name)
	if err != nil {
		return err
	}
	names := jobNames(d, known)
	for _, name := range o.Jobs {
		if !slices.Contains(names, name) {
			return noSuchJob(name, names)
		}
	}
	if len(o.Jobs) > 0 {
		names = o.Jobs
	}
	if o.History {
		var rows []runRow
		for _, name := range names {
			if j := known.Jobs[name]; j != nil {
				rows = append(rows, runRows(name, j.Runs, a.Now())...)
			}
		}
		return format.Write(a.Out, format.Layout{
			Table: "{{.Job}}\t{{.Due}}\t{{.Started}}\t{{.Duration}}\t{{.Status}}\t{{.Container}}", Quiet: "{{.Container}}",
			Headers: map[string]string{"Job": "JOB", "Due": "DUE", "Started": "STARTED", "Duration": "DURATION", "Status": "STATUS", "Container": "CONTAINER"},
		}, format.Options{Format: o.Format, Quiet: o.Quiet}, rows)
	}
	var rows []jobRow
	for _, name := range names {
		rows = append(rows, newJobRow(name, d.Jobs[name], known.Jobs[name], a.Now()))
	}
	return format.Write(a.Out, format.Layout{
		Table: "{{.Job}}\t{{.Schedule}}\t{{.Next}}\t{{.Last}}\t{{.Status}}", Quiet: "{{.Job}}",
		Headers: map[string]string{"Job": "JOB", "Schedule": "SCHEDULE", "Next": "NEXT RUN", "Last": "LAST RUN", "Status": "STATUS"},
	}, format.Options{Format: o.Format, Quiet: o.Quiet}, rows)
}

func jobNames(d *spec.Desired, known schedule.Record) []string {
	var names []string
	for name := range d.Jobs {
		names = append(names, name)
	}
	for name := range known.Jobs {
		if d.Jobs[name] == nil {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

func noSuchJob(name string, known []string) error {
	if near := spec.Nearest(name, known); near != "" {
		return fmt.Errorf("no such job: %s; did you mean %q?", name, near)
	}
	return fmt.Errorf("no such job: %s; the project's jobs are: %s", name, strings.Join(known, ", "))
}

func newJobRow(name string, declared *spec.Job, known *schedule.Job, now time.Time) jobRow {
	row := jobRow{Job: name, Schedule: "by hand"}
	if declared != nil && len(declared.Schedules) > 0 {
		parts := make([]string, len(declared.Schedules))
		for i, s := range declared.Schedules {
			parts[i] = s.String()
		}
		row.Schedule, row.Next = strings.Join(parts, "; "), "not scheduled"
	}
	if known == nil {
		return row
	}
	if next := known.Next(now); !next.IsZero() {
		row.Next = timeOfDay(next)
	}
	if len(known.Runs) > 0 {
		last := known.Runs[len(known.Runs)-1]
		row.Last, row.Status = timeOfDay(last.Due), runStatus(last)
	}
	return row
}

func runRows(name string, runs []schedule.Run, now time.Time) []runRow {
	var rows []runRow
	for _, r := range slices.Backward(runs) {
		row := runRow{Job: name, Due: timeOfDay(r.Due), Status: runStatus(r), Container: r.Container}
		if !r.Started.IsZero() {
			end := r.Finished
			if r.Outcome == schedule.Running {
				end = now
			}
			row.Started = timeOfDay(r.Started)
			if !end.IsZero() {
				row.Duration = end.Sub(r.Started).Round(time.Second / 10).String()
			}
		}
		rows = append(rows, row)
	}
	return rows
}

func timeOfDay(t time.Time) string { return t.Local().Format("2006-01-02 15:04:05 MST") }

// runStatus says what became of a run.
func runStatus(r schedule.Run) string {
	times := ""
	if r.Times > 1 {
		times = fmt.Sprintf(" %d times", r.Times)
	}
	switch r.Outcome {
	case schedule.Running:
		return "running"
	case schedule.Exited:
		return fmt.Sprintf("exited (%d)", r.ExitCode)
	case schedule.Failed:
		why, _, _ := strings.Cut(r.Error, "\n")
		return "failed: " + why
	case schedule.Skipped:
		return "skipped" + times + ": the run before it had not ended"
	}
	return "missed" + times
}
