package secret

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	docker "github.com/moby/moby/api/types/swarm"
	"github.com/spf13/cobra"

	"github.com/stack-run/stack/cmd/stack/internal/cli"
	"github.com/stack-run/stack/engine/sealed"
)

type inspectOptions struct {
	cli.InspectOptions
	Kind   sealed.Kind
	Pretty bool
}

func newInspectCmd(a *cli.App, k sealed.Kind, runF func(context.Context, *cli.App, *inspectOptions) error) *cobra.Command {
	o := &inspectOptions{Kind: k}
	word := strings.ToUpper(string(k))
	cmd := cli.Inspecting(a, &o.InspectOptions, fmt.Sprintf("inspect [OPTIONS] %s [%s...]", word, word),
		fmt.Sprintf("Display detailed information on one or more %ss", k), inspector(k))
	raw := cmd.RunE
	if runF == nil {
		runF = runPretty
	}
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if !o.Pretty {
			return raw(cmd, args)
		}
		return a.Run(func(ctx context.Context, _ *cobra.Command, args []string) error {
			o.Names = args
			return runF(ctx, a, o)
		})(cmd, args)
	}
	cmd.Flags().BoolVar(&o.Pretty, "pretty", false, "Print the information in a human friendly format")
	cmd.MarkFlagsMutuallyExclusive("format", "pretty")
	cmd.ValidArgsFunction = complete(a, k)
	return cmd
}

// look returns an object and, of a config, the content. A secret's is shown to nobody.
func look(ctx context.Context, a *cli.App, k sealed.Kind, ref string) (sealed.Object, []byte, error) {
	api, err := a.API(ctx)
	if err != nil {
		return sealed.Object{}, nil, err
	}
	o, err := api.StoredObject(ctx, k, ref)
	if err != nil || k != sealed.Config {
		return o, nil, err
	}
	content, o, err := api.StoredContent(ctx, k, o.Name)
	return o, content, err
}

func inspector(k sealed.Kind) cli.Inspector {
	return cli.Inspector{Kind: string(k), Look: func(ctx context.Context, a *cli.App, ref string, _ *cli.InspectOptions) (any, error) {
		o, content, err := look(ctx, a, k, ref)
		if err != nil {
			return nil, err
		}
		meta := docker.Meta{CreatedAt: o.Created, UpdatedAt: o.Updated}
		name := docker.Annotations{Name: o.Name, Labels: o.Labels}
		if name.Labels == nil {
			name.Labels = map[string]string{}
		}
		if k == sealed.Config {
			return docker.Config{ID: o.ID, Meta: meta, Spec: docker.ConfigSpec{Annotations: name, Data: content}}, nil
		}
		return docker.Secret{ID: o.ID, Meta: meta, Spec: docker.SecretSpec{Annotations: name}}, nil
	}}
}

func runPretty(ctx context.Context, a *cli.App, o *inspectOptions) error {
	var errs []error
	for i, ref := range o.Names {
		object, content, err := look(ctx, a, o.Kind, ref)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		if i > 0 {
			fmt.Fprintln(a.Out)
		}
		pretty(a.Out, object, content)
	}
	return errors.Join(errs...)
}

// pretty prints what docker does.
func pretty(w io.Writer, o sealed.Object, content []byte) {
	const layout = "2006-01-02 15:04:05.999999999 -0700 MST"
	fmt.Fprintf(w, "ID:\t\t\t%s\nName:\t\t\t%s\n", o.ID, o.Name)
	if len(o.Labels) > 0 {
		fmt.Fprintf(w, "Labels:\n%s", labelLines(o.Labels))
	}
	if o.Kind == sealed.Secret {
		fmt.Fprintln(w, "Driver:")
	}
	fmt.Fprintf(w, "Created at:            \t%s\nUpdated at:            \t%s\n", o.Created.Format(layout), o.Updated.Format(layout))
	if o.Kind == sealed.Config {
		fmt.Fprintf(w, "Data:\n%s\n", content)
	}
}
