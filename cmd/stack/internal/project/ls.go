package project

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/stack-run/stack/cmd/stack/internal/cli"
	"github.com/stack-run/stack/cmd/stack/internal/format"
	"github.com/stack-run/stack/compose"
	"github.com/stack-run/stack/engine"
)

type lsOptions struct {
	All    bool
	Filter []string
	Format string
	Quiet  bool
}

func NewLsCmd(a *cli.App, runF func(context.Context, *cli.App, *lsOptions) error) *cobra.Command {
	if runF == nil {
		runF = runLs
	}
	o := &lsOptions{}
	cmd := &cobra.Command{
		Use:   "ls [OPTIONS]",
		Short: "List running compose projects",
		Args:  cobra.NoArgs,
		RunE: a.Run(func(ctx context.Context, _ *cobra.Command, _ []string) error {
			return runF(ctx, a, o)
		}),
	}
	f := cmd.Flags()
	f.BoolVarP(&o.All, "all", "a", false, "Show all stopped Compose projects")
	f.StringArrayVar(&o.Filter, "filter", nil, "Filter output based on conditions provided")
	f.StringVar(&o.Format, "format", "table", "Format the output. Values: [table | json]")
	f.BoolVarP(&o.Quiet, "quiet", "q", false, "Only display project names")
	return cmd
}

// projectRow is a row of ls in docker compose's shape.
type projectRow struct {
	Name        string
	Status      string
	ConfigFiles string
}

func runLs(ctx context.Context, a *cli.App, o *lsOptions) error {
	filters, err := cli.ParseFilters(o.Filter, "name")
	if err != nil {
		return err
	}
	v, err := a.API(ctx)
	if err != nil {
		return err
	}
	all, err := v.Projects(ctx)
	if err != nil {
		return err
	}
	rows := []projectRow{}
	for _, p := range all {
		// A network or volume by itself is no project, as for docker.
		if !o.All && !projectRuns(p) || len(p.Status) == 0 && p.Scheduled == 0 || !filters.Named(p.Name) {
			continue
		}
		rows = append(rows, projectRow{Name: p.Name, Status: combinedStatus(p), ConfigFiles: strings.Join(p.ConfigFiles, ",")})
	}
	switch {
	case o.Quiet:
		for _, r := range rows {
			fmt.Fprintln(a.Out, r.Name)
		}
		return nil
	case o.Format == "json":
		line, err := json.Marshal(rows)
		if err != nil {
			return err
		}
		_, err = fmt.Fprintln(a.Out, string(line))
		return err
	case o.Format != "" && o.Format != "table" && o.Format != "pretty":
		return fmt.Errorf("cannot use --format %q; use table or json", o.Format)
	}
	cells := make([][]string, len(rows))
	for i, r := range rows {
		cells[i] = []string{r.Name, r.Status, r.ConfigFiles}
	}
	return format.Columns(a.Out, cells, "NAME", "STATUS", "CONFIG FILES")
}

func projectRuns(p compose.ProjectSummary) bool {
	return p.Status[engine.Running]+p.Status[engine.Paused]+p.Status[engine.Restarting]+p.Scheduled > 0
}

// combinedStatus is docker compose's "exited(1), running(2)".
func combinedStatus(p compose.ProjectSummary) string {
	count := p.Status
	var parts []string
	for _, phase := range slices.Sorted(maps.Keys(count)) {
		if count[phase] > 0 {
			parts = append(parts, fmt.Sprintf("%s(%d)", phase, count[phase]))
		}
	}
	if p.Scheduled > 0 {
		parts = append(parts, fmt.Sprintf("scheduled(%d)", p.Scheduled))
	}
	return strings.Join(parts, ", ")
}
