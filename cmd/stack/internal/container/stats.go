package container

import (
	"bytes"
	"context"
	"io"
	"strconv"

	"github.com/docker/go-units"
	"github.com/spf13/cobra"

	"github.com/stack-run/stack/cmd/stack/internal/cli"
	"github.com/stack-run/stack/cmd/stack/internal/format"
	"github.com/stack-run/stack/cmd/stack/internal/summary"
	"github.com/stack-run/stack/cmd/stack/internal/terminal"
	"github.com/stack-run/stack/compose"
	"github.com/stack-run/stack/engine"
)

func newContainerStatsCmd(a *cli.App) *cobra.Command {
	o := &statsOptions{container: true}
	cmd := &cobra.Command{
		Use:   "stats [OPTIONS] [CONTAINER...]",
		Short: "Display a live stream of container(s) resource usage statistics",
		RunE: a.Run(func(ctx context.Context, _ *cobra.Command, args []string) error {
			o.Names = args
			return runStats(ctx, a, o)
		}),
		ValidArgsFunction: a.CompleteContainers,
	}
	f := cmd.Flags()
	cli.AllContainersFlag(f, &o.All)
	cli.FormatFlag(f, &o.Format)
	cli.NoStreamFlag(f, &o.NoStream)
	f.BoolVar(&o.NoTrunc, "no-trunc", false, "Do not truncate output")
	return cmd
}

type statsOptions struct {
	Names     []string // arguments: services or containers
	All       bool
	Format    string
	NoStream  bool
	NoTrunc   bool
	container bool // the names are containers'
}

func NewStatsCmd(a *cli.App, runF func(context.Context, *cli.App, *statsOptions) error) *cobra.Command {
	if runF == nil {
		runF = runStats
	}
	o := &statsOptions{}
	cmd := &cobra.Command{
		Use:   "stats [OPTIONS] [SERVICE]",
		Short: "Display a live stream of container(s) resource usage statistics",
		RunE: a.Run(func(ctx context.Context, _ *cobra.Command, args []string) error {
			o.Names = args
			return runF(ctx, a, o)
		}),
		ValidArgsFunction: a.CompleteServices,
	}
	f := cmd.Flags()
	cli.AllContainersFlag(f, &o.All)
	cli.FormatFlag(f, &o.Format)
	cli.NoStreamFlag(f, &o.NoStream)
	f.BoolVar(&o.NoTrunc, "no-trunc", false, "Do not truncate output")
	return cmd
}

func runStats(ctx context.Context, a *cli.App, o *statsOptions) error {
	v, err := a.API(ctx)
	if err != nil {
		return err
	}
	sel := compose.Selector{IDs: o.Names, OneOff: true}
	if !o.container {
		chosen, err := a.Choose(ctx, v, "stats", o.Names)
		if err != nil {
			return err
		}
		sel = chosen.Selector
	}
	sel.All = o.All || len(sel.IDs) > 0
	live := !o.NoStream && terminal.Is(a.Out)
	if live {
		io.WriteString(a.Out, "\x1b[2J")
	}
	return v.Stats(ctx, sel, !o.NoStream, func(samples []compose.Stats) error {
		rows := make([]statsRow, len(samples))
		for i, s := range samples {
			rows[i] = newStatsRow(s, o.NoTrunc)
		}
		if !live {
			return format.Write(a.Out, statsLayout(), format.Options{Format: o.Format}, rows)
		}
		var table bytes.Buffer
		if err := format.Write(&table, statsLayout(), format.Options{Format: o.Format}, rows); err != nil {
			return err
		}
		// Over the former table, each line cleared to its end, the rest below.
		frame := append([]byte("\x1b[H"), bytes.ReplaceAll(table.Bytes(), []byte("\n"), []byte("\x1b[K\n"))...)
		_, err := a.Out.Write(append(frame, "\x1b[J"...))
		return err
	})
}

func statsLayout() format.Layout {
	return format.Layout{
		Table: "{{.ID}}\t{{.Name}}\t{{.CPUPerc}}\t{{.MemUsage}}\t{{.MemPerc}}\t{{.NetIO}}\t{{.BlockIO}}\t{{.PIDs}}",
		Headers: map[string]string{
			"Container": "CONTAINER", "ID": "CONTAINER ID", "Name": "NAME", "CPUPerc": "CPU %", "MemUsage": "MEM USAGE / LIMIT",
			"MemPerc": "MEM %", "NetIO": "NET I/O", "BlockIO": "BLOCK I/O", "PIDs": "PIDS",
		},
	}
}

// statsRow is a row of stats in docker's shape.
type statsRow struct {
	BlockIO   string
	CPUPerc   string
	Container string
	ID        string
	MemPerc   string
	MemUsage  string
	Name      string
	NetIO     string
	PIDs      string
}

func newStatsRow(s compose.Stats, noTrunc bool) statsRow {
	id := summary.ID(s.Container.ID, noTrunc)
	r := statsRow{
		BlockIO: "--", CPUPerc: "--", Container: id, ID: id, MemPerc: "--", MemUsage: "-- / --",
		Name: s.Container.Spec.Name, NetIO: "--", PIDs: "--",
	}
	if p := s.Container.State.Phase; p != engine.Running && p != engine.Paused {
		return r
	}
	percent := func(v float64) string { return strconv.FormatFloat(v, 'f', 2, 64) + "%" }
	pair := func(x, y uint64) string {
		return units.HumanSizeWithPrecision(float64(x), 3) + " / " + units.HumanSizeWithPrecision(float64(y), 3)
	}
	r.CPUPerc = percent(s.CPUPercent)
	r.MemUsage = units.BytesSize(float64(s.Memory)) + " / " + units.BytesSize(float64(s.MemoryLimit))
	r.MemPerc = percent(0)
	if s.MemoryLimit > 0 {
		r.MemPerc = percent(float64(s.Memory) / float64(s.MemoryLimit) * 100)
	}
	r.NetIO, r.BlockIO = pair(s.NetRx, s.NetTx), pair(s.BlockRead, s.BlockWrite)
	r.PIDs = strconv.FormatUint(s.PIDs, 10)
	return r
}
