package system

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/moby/moby/api/types/events"
	"github.com/spf13/cobra"

	"github.com/stack-run/stack/cmd/stack/internal/cli"
	"github.com/stack-run/stack/cmd/stack/internal/format"
	"github.com/stack-run/stack/cmd/stack/internal/when"
	"github.com/stack-run/stack/compose"
)

type eventsOptions struct {
	Services []string // arguments
	JSON     bool
	Since    string
	Until    string
	Format   string   // system events
	Filter   []string // system events
}

func NewEventsCmd(a *cli.App, runF func(context.Context, *cli.App, *eventsOptions) error) *cobra.Command {
	if runF == nil {
		runF = runEvents
	}
	o := &eventsOptions{}
	cmd := &cobra.Command{
		Use:   "events [OPTIONS] [SERVICE...]",
		Short: "Receive real time events from containers",
		RunE: a.Run(func(ctx context.Context, _ *cobra.Command, args []string) error {
			o.Services = args
			return runF(ctx, a, o)
		}),
		ValidArgsFunction: a.CompleteServices,
	}
	f := cmd.Flags()
	f.BoolVar(&o.JSON, "json", false, "Output events as a stream of json objects")
	cli.SinceEventFlag(f, &o.Since)
	cli.UntilEventFlag(f, &o.Until)
	return cmd
}

func (o *eventsOptions) times(now time.Time) (since, until time.Time, err error) {
	if since, err = when.Parse(o.Since, now); err != nil {
		return since, until, fmt.Errorf("invalid --since: %w", err)
	}
	if until, err = when.Parse(o.Until, now); err != nil {
		return since, until, fmt.Errorf("invalid --until: %w", err)
	}
	return since, until, nil
}

func runEvents(ctx context.Context, a *cli.App, o *eventsOptions) error {
	since, until, err := o.times(a.Now())
	if err != nil {
		return err
	}
	v, s, err := a.OfProject(ctx, "events", o.Services)
	if err != nil {
		return err
	}
	return v.Events(ctx, compose.Selector{Project: s.Name, Services: o.Services, All: true}, since, until, func(e compose.EngineEvent) error {
		if e.Type != "" && e.Type != "container" {
			return nil
		}
		attributes := maps.Clone(e.Attributes)
		maps.DeleteFunc(attributes, func(k, _ string) bool { return strings.HasPrefix(k, "com.docker.compose.") })
		if o.JSON {
			line, err := json.Marshal(map[string]any{
				"time": e.Time, "type": "container", "service": e.Service, "id": e.ID, "action": e.Action, "attributes": attributes,
			})
			if err != nil {
				return err
			}
			_, err = fmt.Fprintln(a.Out, string(line))
			return err
		}
		_, err := fmt.Fprintf(a.Out, "%s container %s %s (%s)\n", e.Time.Local().Format("2006-01-02 15:04:05.000000"), e.Action, e.ID, attributeText(attributes))
		return err
	})
}

func attributeText(all map[string]string) string {
	var parts []string
	for _, k := range slices.Sorted(maps.Keys(all)) {
		parts = append(parts, k+"="+all[k])
	}
	return strings.Join(parts, ", ")
}

func newSystemEventsCmd(a *cli.App, runF func(context.Context, *cli.App, *eventsOptions) error) *cobra.Command {
	if runF == nil {
		runF = runSystemEvents
	}
	o := &eventsOptions{}
	cmd := &cobra.Command{
		Use:   "events [OPTIONS]",
		Short: "Get real time events from the engine",
		Args:  cli.ExactArgs(0),
		RunE: a.Run(func(ctx context.Context, _ *cobra.Command, _ []string) error {
			return runF(ctx, a, o)
		}),
	}
	f := cmd.Flags()
	f.StringArrayVarP(&o.Filter, "filter", "f", nil, "Filter output based on conditions provided")
	cli.FormatFlag(f, &o.Format)
	cli.SinceEventFlag(f, &o.Since)
	cli.UntilEventFlag(f, &o.Until)
	return cmd
}

// engineEvent is docker's JSON of an event, with the fields that it had before
// version 29: templates still use them.
type engineEvent struct {
	Status string `json:"status,omitempty"`
	ID     string `json:"id,omitempty"`
	From   string `json:"from,omitempty"`
	events.Message
}

func runSystemEvents(ctx context.Context, a *cli.App, o *eventsOptions) error {
	since, until, err := o.times(a.Now())
	if err != nil {
		return err
	}
	filters, err := cli.ParseFilters(o.Filter, "container", "event", "image", "label", "network", "type", "volume", "daemon", "scope")
	if err != nil {
		return err
	}
	v, err := a.API(ctx)
	if err != nil {
		return err
	}
	return v.Events(ctx, compose.Selector{All: true}, since, until, func(e compose.EngineEvent) error {
		if !event(filters, e) {
			return nil
		}
		if o.Format != "" {
			d := engineEvent{Status: e.Action, ID: e.ID, From: e.Attributes["image"], Message: events.Message{
				Type: events.Type(e.Type), Action: events.Action(e.Action), Actor: events.Actor{ID: e.ID, Attributes: e.Attributes},
				Scope: "local", Time: e.Time.Unix(), TimeNano: e.Time.UnixNano(),
			}}
			return format.Object(a.Out, o.Format, d)
		}
		_, err := fmt.Fprintf(a.Out, "%s %s %s %s (%s)\n", e.Time.Local().Format("2006-01-02T15:04:05.000000000Z07:00"), e.Type, e.Action, e.ID, attributeText(e.Attributes))
		return err
	})
}

// event reports whether an event passes.
func event(f cli.Filters, e compose.EngineEvent) bool {
	action, _, _ := strings.Cut(e.Action, ":")
	object := func(kind string) bool {
		return f.None(kind) || e.Type == kind && f.Any(kind, func(v string) bool {
			return strings.HasPrefix(e.ID, v) || e.Attributes["name"] == v
		})
	}
	return f.Has("type", e.Type) && (f.None("event") || f.Has("event", e.Action) || f.Has("event", action)) &&
		object("container") && object("network") && object("volume") &&
		f.Labels("label", e.Attributes) &&
		(f.None("image") || f.Has("image", e.Attributes["image"]))
}
