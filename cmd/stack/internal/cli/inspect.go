package cli

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/stack-run/stack/cmd/stack/internal/format"
	"github.com/stack-run/stack/compose"
)

type InspectOptions struct {
	Names  []string // arguments
	Format string
	Size   bool
	Type   string // "" tries all
	// Platform is that of an image, "" for this machine's.
	Platform string
}

// Inspector looks one object of a kind up and describes it in docker's shape.
type Inspector struct {
	Kind string
	Look func(ctx context.Context, a *App, name string, o *InspectOptions) (any, error)
}

// Inspecting makes a command that inspects objects of some kinds.
func Inspecting(a *App, o *InspectOptions, use, short string, kinds ...Inspector) *cobra.Command {
	cmd := &cobra.Command{
		Use:   use,
		Short: short,
		Args:  RequireArgs(1),
		RunE: a.Run(func(ctx context.Context, _ *cobra.Command, args []string) error {
			o.Names = args
			return inspect(ctx, a, o, kinds)
		}),
	}
	cmd.Flags().StringVarP(&o.Format, "format", "f", "", `Format output using a custom template:
'json':             Print in JSON format
'TEMPLATE':         Print output using the given Go template.`)
	return cmd
}

// inspect prints an array of all objects found, or with a format each on a
// line of its own, and then what was not found.
func inspect(ctx context.Context, a *App, o *InspectOptions, kinds []Inspector) error {
	if o.Type != "" {
		kinds = slices.DeleteFunc(slices.Clone(kinds), func(k Inspector) bool { return k.Kind != o.Type })
		if len(kinds) == 0 {
			return fmt.Errorf("cannot inspect objects of type %q; use container, image, network or volume", o.Type)
		}
	}
	found := []any{}
	var errs []error
	for _, name := range o.Names {
		v, err := lookUp(ctx, a, name, kinds, o)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		found = append(found, v)
	}
	if err := printInspected(a, o.Format, found); err != nil {
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

func printInspected(a *App, as string, found []any) error {
	if as == "" {
		return format.JSON(a.Out, found, "    ")
	}
	if as == "json" {
		return format.JSON(a.Out, found, "")
	}
	for _, v := range found {
		if err := format.Inspected(a.Out, as, v); err != nil {
			return err
		}
	}
	return nil
}

// lookUp inspects the first object of that name among the kinds.
func lookUp(ctx context.Context, a *App, name string, kinds []Inspector, o *InspectOptions) (any, error) {
	var first error
	for _, k := range kinds {
		v, err := k.Look(ctx, a, name, o)
		if err == nil {
			return v, nil
		}
		if first == nil || !missing(err) {
			first = err
		}
	}
	if len(kinds) > 1 && missing(first) {
		return nil, fmt.Errorf("no such object: %s", name)
	}
	return nil, first
}

// missing reports whether an error says that there is no such object.
func missing(err error) bool {
	return err != nil && (compose.IsNoImage(err) ||
		strings.Contains(err.Error(), "no such") || strings.Contains(err.Error(), "does not exist"))
}
