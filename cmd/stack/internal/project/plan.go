package project

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/stack-run/stack/cmd/stack/internal/cli"
	"github.com/stack-run/stack/compose/plan"
)

type planOptions struct {
	UpOptions
	Format string
	Graph  bool
}

func NewPlanCmd(a *cli.App, runF func(context.Context, *cli.App, *planOptions) error) *cobra.Command {
	if runF == nil {
		runF = runPlan
	}
	o := &planOptions{}
	cmd := &cobra.Command{
		Use:   "plan [OPTIONS] [SERVICE...]",
		Short: "Show what up would do",
		Long:  "Show what up would do. The exit code is 0 when all is as the files say and 2 when there are changes.",
		RunE: a.Run(func(ctx context.Context, cmd *cobra.Command, args []string) error {
			o.Services = args
			if err := o.createOptions.check(a, cmd.Flags()); err != nil {
				return err
			}
			return runF(ctx, a, o)
		}),
		ValidArgsFunction: a.CompleteServices,
	}
	f := cmd.Flags()
	cli.ForceRecreateFlag(f, &o.ForceRecreate)
	cli.NoRecreateFlag(f, &o.NoRecreate)
	f.BoolVar(&o.AlwaysRecreateDeps, "always-recreate-deps", false, "Recreate dependent containers. Incompatible with --no-recreate.")
	cli.NoDepsFlag(f, &o.NoDeps)
	f.BoolVar(&o.NoStart, "no-start", false, "Don't start the services after creating them")
	cli.RemoveOrphansFlag(f, &o.RemoveOrphans)
	f.BoolVarP(&o.RenewAnonVolumes, "renew-anon-volumes", "V", false, "Recreate anonymous volumes instead of retrieving data from the previous containers")
	cli.ScaleFlag(f, &o.Scale)
	f.BoolVarP(&o.Yes, "yes", "y", false, `Assume "yes" as answer to all prompts, as up does with this flag`)
	f.StringVar(&o.Format, "format", "", "Format the output. Values: [text | json]")
	f.BoolVar(&o.Graph, "graph", false, "Show each operation with its number, its cause and what it waits for")
	return cmd
}

// exitChanges is plan's exit code when up would do something.
const exitChanges = 2

func runPlan(ctx context.Context, a *cli.App, o *planOptions) error {
	d, err := o.loadDesired(ctx, a, o.Services, o.NoDeps)
	if err != nil {
		return err
	}
	v, err := a.API(ctx)
	if err != nil {
		return err
	}
	p, err := o.plan(ctx, a, v, d)
	if err != nil {
		return err
	}
	switch o.Format {
	case "", "text":
		if o.Graph {
			_, err = fmt.Fprint(a.Out, p.Graph())
			break
		}
		err = cli.PrintPlan(a, p)
	case "json":
		err = cli.PrintPlanJSON(a, p)
	default:
		return fmt.Errorf("cannot use --format %q; use text or json", o.Format)
	}
	if err == nil && hasChanges(p) {
		return cli.ExitError{Code: exitChanges}
	}
	return err
}

// hasChanges reports whether anything is not as it is wanted. That up would run a
// finished job again is no difference.
func hasChanges(p *plan.Plan) bool { return !p.Converged() }
