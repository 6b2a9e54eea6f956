package system

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/docker/go-units"
	"github.com/spf13/cobra"

	"github.com/stack-run/stack/cmd/stack/internal/cli"
	"github.com/stack-run/stack/cmd/stack/internal/progress"
	"github.com/stack-run/stack/engine"
)

type checkOptions struct {
	Format string
	Quiet  bool
	Repair bool
}

func newCheckCmd(a *cli.App, runF func(context.Context, *cli.App, *checkOptions) error) *cobra.Command {
	if runF == nil {
		runF = runCheck
	}
	o := &checkOptions{}
	cmd := &cobra.Command{
		Use:   "check [OPTIONS]",
		Short: "Verify every record, image, unpacked layer and blob",
		Long: `Verify every record of a container, network, volume and project, and every image,
unpacked layer and blob; list what killed processes left behind. The exit code is
1 if something is wrong, and stays 1 with --repair as long as something could not
be repaired. A volume whose record is broken keeps its data.`,
		Args: cli.ExactArgs(0),
		RunE: a.Run(func(ctx context.Context, _ *cobra.Command, _ []string) error {
			return runF(ctx, a, o)
		}),
	}
	f := cmd.Flags()
	f.StringVar(&o.Format, "format", "text", "Format the output. Values: [text | json]")
	f.BoolVarP(&o.Quiet, "quiet", "q", false, "Only set the exit code")
	f.BoolVar(&o.Repair, "repair", false, "Remove what is corrupt or left behind, untag images that are not whole, unpack wrong layers again")
	return cmd
}

func runCheck(ctx context.Context, a *cli.App, o *checkOptions) error {
	if o.Format != "text" && o.Format != "json" {
		return fmt.Errorf("cannot use --format %q; use text or json", o.Format)
	}
	v, err := a.API(ctx)
	if err != nil {
		return err
	}
	read, done := showBytes(a, o.Quiet)
	report, err := v.Check(ctx, engine.CheckOptions{Repair: o.Repair && !a.Global.DryRun, Read: read})
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
		fmt.Fprintln(a.Out, string(line))
	default:
		printCheck(a, report)
	}
	for _, p := range report.Problems {
		if p.Repaired == "" {
			return cli.ExitError{Code: cli.ExitGeneral}
		}
	}
	return nil
}

func printCheck(a *cli.App, r engine.CheckReport) {
	for _, p := range r.Problems {
		fmt.Fprintf(a.Out, "%s %s: %s\n", p.Kind, p.Subject, p.Error)
		if len(p.Images) > 0 {
			fmt.Fprintln(a.Out, "  images:", strings.Join(p.Images, ", "))
		}
		if len(p.Containers) > 0 {
			fmt.Fprintln(a.Out, "  containers:", strings.Join(p.Containers, ", "))
		}
		if p.Repaired != "" {
			fmt.Fprintln(a.Out, "  repaired:", p.Repaired)
		}
	}
	fmt.Fprintf(a.Out, "%d blobs (%s), %d unpacked layers: ", r.Blobs, units.HumanSize(float64(r.Bytes)), r.Layers)
	switch n := len(r.Problems); n {
	case 0:
		fmt.Fprintln(a.Out, "no problems")
	case 1:
		fmt.Fprintln(a.Out, "1 problem")
	default:
		fmt.Fprintln(a.Out, n, "problems")
	}
	for _, l := range r.Left {
		fmt.Fprintf(a.Out, "left by a killed process: %s %s\n", l.Kind, l.Subject)
	}
	if r.Leftovers > 0 {
		fmt.Fprintf(a.Out, "%d leftovers of killed processes (%s), which do no harm\n", r.Leftovers, units.HumanSize(float64(r.LeftoverBytes)))
	}
}

// showBytes shows on a terminal how many bytes were read so far.
func showBytes(a *cli.App, quiet bool) (read func(int64), done func()) {
	if mode, _ := a.ProgressMode(); quiet || mode != progress.TTY {
		return nil, func() {}
	}
	var mu sync.Mutex
	var total int64
	var shown time.Time
	read = func(n int64) {
		mu.Lock()
		defer mu.Unlock()
		total += n
		if now := a.Now(); now.Sub(shown) > 100*time.Millisecond {
			shown = now
			fmt.Fprintf(a.Err, "\r\x1b[KChecking: %s", units.HumanSize(float64(total)))
		}
	}
	return read, func() { fmt.Fprint(a.Err, "\r\x1b[K") }
}
