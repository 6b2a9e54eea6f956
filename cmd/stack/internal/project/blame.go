package project

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/stack-run/stack/cmd/stack/internal/cli"
	"github.com/stack-run/stack/cmd/stack/internal/format"
	"github.com/stack-run/stack/compose"
	"github.com/stack-run/stack/compose/startup"
)

type blameOptions struct {
	Services []string // arguments
	Format   string
}

// NewBlameCmd makes "stack blame", which docker compose does not have.
func NewBlameCmd(a *cli.App, runF func(context.Context, *cli.App, *blameOptions) error) *cobra.Command {
	if runF == nil {
		runF = runBlame
	}
	o := &blameOptions{}
	cmd := &cobra.Command{
		Use:     "blame [OPTIONS] [SERVICE...]",
		Aliases: []string{"critical-chain"},
		Short:   "Say what the last start of the services waited for",
		Long: `Say what the last start of the services waited for

A service is ready when it is healthy or, without a health check, started; one whose
completion others wait for, when it has completed. The critical chain leads from the service
that was ready last, or of those named was, to the one that the start began with: "@" is
when a service was started, "+" how long after that the one above it could start. Making it
shorter makes the start shorter.

The times are those of the containers' records. Pulling and building images comes before,
and is not recorded.`,
		RunE: a.Run(func(ctx context.Context, _ *cobra.Command, args []string) error {
			o.Services = args
			return runF(ctx, a, o)
		}),
		ValidArgsFunction: a.CompleteServices,
	}
	cli.FormatFlag(cmd.Flags(), &o.Format)
	return cmd
}

// blameRow is the start of a service. Its times count from when the whole start began,
// and are empty for what has not happened or is not known.
type blameRow struct {
	Service, Created, Started, Ready string
	// Readiness is what it is once it is ready.
	Readiness string
	// Waited says for what and how long.
	Waited    string
	CreatedAt time.Time `json:",omitzero"`
	StartedAt time.Time `json:",omitzero"`
	ReadyAt   time.Time `json:",omitzero"`
	Restarts  int       `json:",omitzero"`
	// Critical is its place in the critical chain, from the one that was ready last, 1, on.
	Critical int `json:",omitzero"`
}

func runBlame(ctx context.Context, a *cli.App, o *blameOptions) error {
	v, s, err := a.OfProject(ctx, "blame", o.Services)
	if err != nil {
		return err
	}
	d, err := v.Definition(ctx, s.Name)
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("project %s was never up; \"stack up\" starts it", s.Name)
	}
	if err != nil {
		return err
	}
	cs, err := v.Containers(ctx, compose.Selector{Project: s.Name, All: true})
	if err != nil {
		return err
	}
	start := startup.Analyze(d, cs, o.Services...)
	if o.Format == "" && len(start.Services) == 0 {
		return fmt.Errorf("nothing of project %s was started; \"stack why\" says why", s.Name)
	}
	var rows []blameRow
	for _, x := range start.Services {
		rows = append(rows, newBlameRow(start, x))
	}
	err = format.Write(a.Out, format.Layout{
		Table: "{{.Service}}\t{{.Created}}\t{{.Started}}\t{{.Ready}}\t{{.Waited}}",
		Headers: map[string]string{
			"Service": "SERVICE", "Created": "CREATED", "Started": "STARTED", "Ready": "READY", "Readiness": "READINESS", "Waited": "WAITED FOR",
			"CreatedAt": "CREATED AT", "StartedAt": "STARTED AT", "ReadyAt": "READY AT", "Restarts": "RESTARTS", "Critical": "CRITICAL",
		},
	}, format.Options{Format: o.Format}, rows)
	if err != nil || o.Format != "" || len(start.Chain) == 0 {
		return err
	}
	return writeChain(a.Out, start)
}

func newBlameRow(start startup.Start, x startup.Service) blameRow {
	since := func(t time.Time) string {
		if t.IsZero() {
			return ""
		}
		return "+" + brief(t.Sub(start.Begin))
	}
	row := blameRow{
		Service: x.Name, Created: since(x.Created), Started: since(x.Started), Ready: since(x.Ready), Readiness: string(x.Readiness),
		CreatedAt: x.Created, StartedAt: x.Started, ReadyAt: x.Ready, Restarts: x.Restarts,
		Critical: 1 + slices.IndexFunc(start.Chain, func(l startup.Link) bool { return l.Service == x.Name }),
	}
	if row.Ready != "" {
		row.Ready += " " + row.Readiness
	}
	var waits []string
	for _, w := range x.Waits {
		waits = append(waits, w.Service+" "+brief(w.For))
	}
	if x.Restarts > 0 {
		waits = append(waits, fmt.Sprintf("not known: restarted %d times since", x.Restarts))
	}
	row.Waited = strings.Join(waits, ", ")
	return row
}

// writeChain draws the critical chain as systemd-analyze does.
func writeChain(w io.Writer, start startup.Start) error {
	first := start.Chain[0]
	ready := first.Started.Add(first.Took).Sub(start.Begin)
	text := fmt.Sprintf("\n%s was ready last, after %s. The critical chain:\n", first.Service, brief(ready))
	for i, l := range start.Chain {
		if i > 0 {
			text += strings.Repeat("  ", i-1) + "└─"
		}
		text += fmt.Sprintf("%s @%s +%s\n", l.Service, brief(l.Started.Sub(start.Begin)), brief(l.Took))
	}
	_, err := io.WriteString(w, text)
	return err
}

func brief(d time.Duration) string { return max(d, 0).Round(time.Millisecond).String() }
