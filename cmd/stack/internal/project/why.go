package project

import (
	"context"
	"errors"
	"strings"

	"github.com/spf13/cobra"

	"github.com/stack-run/stack/cmd/stack/internal/cli"
	"github.com/stack-run/stack/cmd/stack/internal/format"
	"github.com/stack-run/stack/compose"
	"github.com/stack-run/stack/compose/diagnosis"
	"github.com/stack-run/stack/compose/load"
	"github.com/stack-run/stack/compose/spec"
)

type whyOptions struct {
	Services []string // arguments
	Format   string
}

// NewWhyCmd makes "stack why", which docker compose does not have.
func NewWhyCmd(a *cli.App, runF func(context.Context, *cli.App, *whyOptions) error) *cobra.Command {
	if runF == nil {
		runF = runWhy
	}
	o := &whyOptions{}
	cmd := &cobra.Command{
		Use:   "why [OPTIONS] [SERVICE...]",
		Short: "Say why services run or do not, and what to do about it",
		Long: `Say why services run or do not, and what to do about it

There is one reason for each service. One that waits for others, or was not started because
of them, is explained by the service at the end of that chain. What is said is taken from
the Compose files, the containers' records and logs, the images and the host's ports, and
nothing is changed.`,
		RunE: a.Run(func(ctx context.Context, _ *cobra.Command, args []string) error {
			o.Services = args
			return runF(ctx, a, o)
		}),
		ValidArgsFunction: a.CompleteServices,
	}
	cli.FormatFlag(cmd.Flags(), &o.Format)
	return cmd
}

// whyRow is what is said of a service.
type whyRow struct {
	Service, State, Reason string
	// Output and Todo are also in Reason, which has all.
	Output, Todo string
	Container    string
	Chain        []string
}

func runWhy(ctx context.Context, a *cli.App, o *whyOptions) error {
	v, s, err := a.OfProject(ctx, "why", o.Services)
	if err != nil {
		return err
	}
	f, err := facts(ctx, a, v, s.Name)
	if err != nil {
		return err
	}
	var rows []whyRow
	for _, r := range diagnosis.Explain(f, o.Services...) {
		rows = append(rows, whyRow{
			Service: r.Service, State: string(r.Cause), Reason: r.String(), Output: r.Output, Todo: r.Todo, Container: r.Container, Chain: r.Chain,
		})
	}
	return format.Write(a.Out, format.Layout{
		Table: "{{.Service}}\t{{.State}}\t{{.Reason}}",
		Headers: map[string]string{
			"Service": "SERVICE", "State": "STATE", "Reason": "REASON", "Output": "OUTPUT", "Todo": "TODO", "Container": "CONTAINER", "Chain": "CHAIN",
		},
	}, format.Options{Format: o.Format}, rows)
}

// facts collects what a diagnosis of a project is made from.
func facts(ctx context.Context, a *cli.App, v compose.API, project string) (diagnosis.Facts, error) {
	f := diagnosis.Facts{Profiles: map[string][]string{}, LastLines: map[string]string{}, NoImage: map[string]bool{}, PortTaken: map[string]string{}}
	var err error
	if f.Project, f.Last, err = models(ctx, a, v, project, f.Profiles); err != nil {
		return f, err
	}
	if f.Containers, err = v.Containers(ctx, compose.Selector{Project: project, All: true, OneOff: true}); err != nil {
		return f, err
	}
	f.Now = a.Now() // and not before the records were read
	if ids := f.WantLog(); len(ids) > 0 {
		const enough = 5 // the last of all may be empty
		err := v.Logs(ctx, compose.Selector{IDs: ids, Listed: true}, compose.LogOptions{Tail: enough}, func(l compose.LogLine) error {
			if line := diagnosis.LastLine(string(l.Text)); line != "" {
				f.LastLines[l.Container.ID] = line
			}
			return nil
		})
		if err != nil {
			a.Warn("cannot read all logs: %v", err)
		}
	}
	for _, s := range f.Unmade() {
		sp := &s.Replicas[0].Spec
		if _, err := v.Image(ctx, sp.Image, sp.Platform); compose.IsNoImage(err) {
			f.NoImage[s.Name] = true
		} else if err != nil {
			a.Warn("cannot look for the image of service %s: %v", s.Name, err)
		}
	}
	for _, s := range f.Idle() {
		taken, err := v.PortsTaken(ctx, s.Replicas[0].Spec.Network)
		if err != nil {
			return f, err
		}
		if len(taken) > 0 {
			f.PortTaken[s.Name] = strings.Join(taken, ", ")
		}
	}
	return f, nil
}

// models are what the files say of a project and what it was last asked to be, of which
// one is enough. profiles gets those of the services that are turned off.
func models(ctx context.Context, a *cli.App, v compose.API, project string, profiles map[string][]string) (declared, last *spec.Desired, err error) {
	last, lastErr := v.Definition(ctx, project)
	o, err := a.LoadOptions()
	if err != nil {
		return nil, nil, err
	}
	o.NoServices = true
	l, err := load.Load(ctx, o)
	if err == nil && l.Project.Name == project {
		for name, s := range l.Project.DisabledServices {
			if len(s.Profiles) > 0 {
				profiles[name] = s.Profiles
			}
		}
		var host spec.HostFacts
		if host, err = a.HostFacts(ctx, l); err == nil {
			declared, _, err = a.Desired(l, host, nil)
		}
	}
	switch {
	case declared != nil && err == nil:
		return declared, last, nil
	case lastErr == nil:
		if err != nil && !errors.Is(err, load.ErrNoFile) {
			a.Warn("what the Compose files say is not known: %v", err)
		}
		return nil, last, nil
	case err == nil:
		err = lastErr
	}
	return nil, nil, err
}
