package main

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/docker/go-units"
	"github.com/spf13/cobra"

	"github.com/stack-run/stack/cmd/stack/internal/progress"
	"github.com/stack-run/stack/engine"
)

type systemCheckOptions struct {
	Format string
	Quiet  bool
	Repair bool
}

func newSystemCheckCmd(a *app, runF func(context.Context, *app, *systemCheckOptions) error) *cobra.Command {
	if runF == nil {
		runF = runSystemCheck
	}
	o := &systemCheckOptions{}
	cmd := &cobra.Command{
		Use:   "check [OPTIONS]",
		Short: "Verify every record, image, unpacked layer and blob",
		Long: `Verify every record of a container, network, volume and project, and every image,
unpacked layer and blob; list what killed processes left behind. The exit code is
1 if something is wrong, and stays 1 with --repair as long as something could not
be repaired. A volume whose record is broken keeps its data.`,
		Args: exactArgs(0),
		RunE: a.run(func(ctx context.Context, _ *cobra.Command, _ []string) error {
			return runF(ctx, a, o)
		}),
	}
	f := cmd.Flags()
	f.StringVar(&o.Format, "format", "text", "Format the output. Values: [text | json]")
	f.BoolVarP(&o.Quiet, "quiet", "q", false, "Only set the exit code")
	f.BoolVar(&o.Repair, "repair", false, "Remove what is corrupt or left behind, untag images that are not whole, unpack wrong layers again")
	return cmd
}

func runSystemCheck(ctx context.Context, a *app, o *systemCheckOptions) error {
	if o.Format != "text" && o.Format != "json" {
		return fmt.Errorf("cannot use --format %q; use text or json", o.Format)
	}
	v, err := a.api(ctx)
	if err != nil {
		return err
	}
	read, done := a.showBytes(o.Quiet)
	report, err := v.Check(ctx, engine.CheckOptions{Repair: o.Repair && !a.global.DryRun, Read: read})
	done()
	if err != nil {
		return err
	}
	switch {
	case o.Quiet:
	case o.Format == "json":
		line, err := json.Marshal(report)
		if err != nil {
			return err
		}
		fmt.Fprintln(a.out, string(line))
	default:
		a.printCheck(report)
	}
	for _, p := range report.Problems {
		if p.Repaired == "" {
			return exitError{code: exitGeneral}
		}
	}
	return nil
}

func (a *app) printCheck(r engine.CheckReport) {
	for _, p := range r.Problems {
		fmt.Fprintf(a.out, "%s %s: %s\n", p.Kind, p.Subject, p.Error)
		if len(p.Images) > 0 {
			fmt.Fprintln(a.out, "  images:", strings.Join(p.Images, ", "))
		}
		if len(p.Containers) > 0 {
			fmt.Fprintln(a.out, "  containers:", strings.Join(p.Containers, ", "))
		}
		if p.Repaired != "" {
			fmt.Fprintln(a.out, "  repaired:", p.Repaired)
		}
	}
	fmt.Fprintf(a.out, "%d blobs (%s), %d unpacked layers: ", r.Blobs, units.HumanSize(float64(r.Bytes)), r.Layers)
	switch n := len(r.Problems); n {
	case 0:
		fmt.Fprintln(a.out, "no problems")
	case 1:
		fmt.Fprintln(a.out, "1 problem")
	default:
		fmt.Fprintln(a.out, n, "problems")
	}
	for _, l := range r.Left {
		fmt.Fprintf(a.out, "left by a killed process: %s %s\n", l.Kind, l.Subject)
	}
	if r.Leftovers > 0 {
		fmt.Fprintf(a.out, "%d leftovers of killed processes (%s), which do no harm\n", r.Leftovers, units.HumanSize(float64(r.LeftoverBytes)))
	}
}

// showBytes shows on a terminal how many bytes were read so far.
func (a *app) showBytes(quiet bool) (read func(int64), done func()) {
	if mode, _ := a.progressMode(); quiet || mode != progress.TTY {
		return nil, func() {}
	}
	var mu sync.Mutex
	var total int64
	var shown time.Time
	read = func(n int64) {
		mu.Lock()
		defer mu.Unlock()
		total += n
		if now := a.now(); now.Sub(shown) > 100*time.Millisecond {
			shown = now
			fmt.Fprintf(a.err, "\r\x1b[KChecking: %s", units.HumanSize(float64(total)))
		}
	}
	return read, func() { fmt.Fprint(a.err, "\r\x1b[K") }
}
