package main

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/stack-run/stack/compose"
	"github.com/stack-run/stack/engine"
)

type topOptions struct {
	Services []string // arguments
}

func newTopCmd(a *app, runF func(context.Context, *app, *topOptions) error) *cobra.Command {
	if runF == nil {
		runF = runTop
	}
	return &cobra.Command{
		Use:   "top [SERVICES...]",
		Short: "Display the running processes",
		RunE: a.run(func(ctx context.Context, _ *cobra.Command, args []string) error {
			return runF(ctx, a, &topOptions{Services: args})
		}),
		ValidArgsFunction: a.completeServices,
	}
}

func runTop(ctx context.Context, a *app, o *topOptions) error {
	v, err := a.api(ctx)
	if err != nil {
		return err
	}
	sel, err := a.choose(ctx, v, "top", o.Services)
	if err != nil {
		return err
	}
	cs, err := v.Containers(ctx, sel.Selector)
	if err != nil {
		return err
	}
	slices.SortStableFunc(cs, func(x, y engine.Container) int { return strings.Compare(x.Spec.Name, y.Spec.Name) })
	var table processTable
	for _, c := range cs {
		titles, rows, err := v.Top(ctx, c.ID, nil)
		if err != nil {
			return err
		}
		table.add(c, titles, rows)
	}
	return table.write(a.out)
}

// processTable merges the processes of containers whose ps may have different
// columns. CMD comes last.
type processTable struct {
	titles []string
	rows   []map[string]string
}

func (t *processTable) add(c engine.Container, titles []string, rows [][]string) {
	if len(t.titles) == 0 {
		t.titles = []string{"SERVICE", "#"}
	}
	for _, title := range titles {
		if !slices.Contains(t.titles, title) {
			t.titles = append(t.titles, title)
		}
	}
	service := c.Service
	if service == "" {
		service = c.Spec.Name
	}
	for _, row := range rows {
		cells := map[string]string{"SERVICE": service, "#": strconv.Itoa(c.Index)}
		for i, cell := range row {
			cells[titles[min(i, len(titles)-1)]] = cell
		}
		t.rows = append(t.rows, cells)
	}
}

func (t *processTable) write(w io.Writer) error {
	if len(t.rows) == 0 {
		return nil
	}
	titles := t.titles
	if i := slices.Index(titles, "CMD"); i >= 0 {
		titles = append(slices.Delete(slices.Clone(titles), i, i+1), "CMD")
	}
	tw := tabwriter.NewWriter(w, 4, 1, 2, ' ', 0)
	fmt.Fprintln(tw, strings.Join(titles, "\t"))
	for _, row := range t.rows {
		cells := make([]string, len(titles))
		for i, title := range titles {
			if cells[i] = row[title]; cells[i] == "" {
				cells[i] = "-"
			}
		}
		fmt.Fprintln(tw, strings.Join(cells, "\t"))
	}
	return tw.Flush()
}

type waitOptions struct {
	Services    []string // arguments
	DownProject bool
}

func newWaitCmd(a *app, runF func(context.Context, *app, *waitOptions) error) *cobra.Command {
	if runF == nil {
		runF = runWait
	}
	o := &waitOptions{}
	cmd := &cobra.Command{
		Use:   "wait SERVICE [SERVICE...] [OPTIONS]",
		Short: "Block until containers of all (or specified) services stop.",
		Args:  requireArgs(1),
		RunE: a.run(func(ctx context.Context, _ *cobra.Command, args []string) error {
			o.Services = args
			return runF(ctx, a, o)
		}),
		ValidArgsFunction: a.completeServices,
	}
	cmd.Flags().BoolVar(&o.DownProject, "down-project", false, "Drops project when the first container stops")
	return cmd
}

// runWait waits for all containers and exits with the code of the last one to
// end that failed, or with --down-project of the first to end.
func runWait(ctx context.Context, a *app, o *waitOptions) error {
	v, err := a.api(ctx)
	if err != nil {
		return err
	}
	sel, err := a.choose(ctx, v, "wait", o.Services)
	if err != nil {
		return err
	}
	sel.All = true
	cs, err := v.Containers(ctx, sel.Selector)
	if err != nil {
		return err
	}
	if len(cs) == 0 {
		return fmt.Errorf("no containers for project %q", sel.scope.name)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	type end struct {
		c    engine.Container
		code int
		err  error
	}
	ends := make(chan end, len(cs))
	for _, c := range cs {
		go func() {
			code, err := v.Wait(ctx, c.ID)
			ends <- end{c, code, err}
		}()
	}
	code := 0
	for range cs {
		e := <-ends
		if e.err != nil {
			return e.err
		}
		fmt.Fprintf(a.out, "container %q exited with status code %d\n", e.c.ID, e.code)
		if o.DownProject && sel.Project != "" {
			err := a.watch("Running", func(p compose.Progress) error {
				return v.Down(ctx, sel.Project, compose.DownOptions{}, p)
			})
			if err != nil {
				return err
			}
			return status(e.code, nil)
		}
		if e.code != 0 {
			code = e.code
		}
	}
	return status(code, nil)
}
