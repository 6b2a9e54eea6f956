package container

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/stack-run/stack/cmd/stack/internal/cli"
	"github.com/stack-run/stack/compose"
	"github.com/stack-run/stack/engine"
)

type containerTopOptions struct {
	Name   string   // argument
	PSArgs []string // arguments
}

func newContainerTopCmd(a *cli.App, runF func(context.Context, *cli.App, *containerTopOptions) error) *cobra.Command {
	if runF == nil {
		runF = runContainerTop
	}
	cmd := &cobra.Command{
		Use:   "top CONTAINER [ps OPTIONS]",
		Short: "Display the running processes of a container",
		Args:  cli.RequireArgs(1),
		RunE: a.Run(func(ctx context.Context, _ *cobra.Command, args []string) error {
			return runF(ctx, a, &containerTopOptions{Name: args[0], PSArgs: args[1:]})
		}),
		ValidArgsFunction: cli.CompleteFirst(a.CompleteContainersThat(cli.Live)),
	}
	cmd.Flags().SetInterspersed(false)
	return cmd
}

func runContainerTop(ctx context.Context, a *cli.App, o *containerTopOptions) error {
	v, err := a.API(ctx)
	if err != nil {
		return err
	}
	titles, rows, err := v.Top(ctx, o.Name, o.PSArgs)
	if err != nil {
		return err
	}
	tw := tabwriter.NewWriter(a.Out, 20, 1, 3, ' ', 0)
	fmt.Fprintln(tw, strings.Join(titles, "\t"))
	for _, row := range rows {
		fmt.Fprintln(tw, strings.Join(row, "\t"))
	}
	return tw.Flush()
}

type topOptions struct {
	Services []string // arguments
}

func NewTopCmd(a *cli.App, runF func(context.Context, *cli.App, *topOptions) error) *cobra.Command {
	if runF == nil {
		runF = runTop
	}
	return &cobra.Command{
		Use:   "top [SERVICES...]",
		Short: "Display the running processes",
		RunE: a.Run(func(ctx context.Context, _ *cobra.Command, args []string) error {
			return runF(ctx, a, &topOptions{Services: args})
		}),
		ValidArgsFunction: a.CompleteServices,
	}
}

func runTop(ctx context.Context, a *cli.App, o *topOptions) error {
	v, err := a.API(ctx)
	if err != nil {
		return err
	}
	sel, err := a.Choose(ctx, v, "top", o.Services)
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
	return table.write(a.Out)
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

func NewWaitCmd(a *cli.App, runF func(context.Context, *cli.App, *waitOptions) error) *cobra.Command {
	if runF == nil {
		runF = runWait
	}
	o := &waitOptions{}
	cmd := &cobra.Command{
		Use:   "wait SERVICE [SERVICE...] [OPTIONS]",
		Short: "Block until containers of all (or specified) services stop.",
		Args:  cli.RequireArgs(1),
		RunE: a.Run(func(ctx context.Context, _ *cobra.Command, args []string) error {
			o.Services = args
			return runF(ctx, a, o)
		}),
		ValidArgsFunction: a.CompleteServices,
	}
	cmd.Flags().BoolVar(&o.DownProject, "down-project", false, "Drops project when the first container stops")
	return cmd
}

// runWait waits for all containers and exits with the code of the last one to
// end that failed, or with --down-project of the first to end.
func runWait(ctx context.Context, a *cli.App, o *waitOptions) error {
	v, err := a.API(ctx)
	if err != nil {
		return err
	}
	sel, err := a.Choose(ctx, v, "wait", o.Services)
	if err != nil {
		return err
	}
	sel.All = true
	cs, err := v.Containers(ctx, sel.Selector)
	if err != nil {
		return err
	}
	if len(cs) == 0 {
		return fmt.Errorf("no containers for project %q", sel.Scope.Name)
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
		fmt.Fprintf(a.Out, "container %q exited with status code %d\n", e.c.ID, e.code)
		if o.DownProject && sel.Project != "" {
			err := a.Watch("Running", func(p compose.Progress) error {
				return v.Down(ctx, sel.Project, compose.DownOptions{}, p)
			})
			if err != nil {
				return err
			}
			return cli.Status(e.code, nil)
		}
		if e.code != 0 {
			code = e.code
		}
	}
	return cli.Status(code, nil)
}
