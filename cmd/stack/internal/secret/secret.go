// Package secret is "stack secret" and "stack configs": the store that external
// secrets and configs come from.
package secret

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/stack-run/stack/cmd/stack/internal/cli"
	"github.com/stack-run/stack/cmd/stack/internal/format"
	"github.com/stack-run/stack/cmd/stack/internal/summary"
	"github.com/stack-run/stack/engine/sealed"
)

// NewCmd makes "stack secret".
func NewCmd(a *cli.App) *cobra.Command {
	return cli.Group("secret", "Manage secrets", verbs(a, sealed.Secret)...)
}

// NewConfigsCmd makes "stack configs", whose verbs docker has below "config".
func NewConfigsCmd(a *cli.App) *cobra.Command {
	return cli.Group("configs", "Manage configs", verbs(a, sealed.Config)...)
}

func verbs(a *cli.App, k sealed.Kind) []*cobra.Command {
	return []*cobra.Command{newCreateCmd(a, k, nil), newInspectCmd(a, k, nil), newLsCmd(a, k, nil), newRmCmd(a, k, nil)}
}

type createOptions struct {
	Kind    sealed.Kind
	Name    string // argument
	File    string // argument, "-": the standard input
	Label   []string
	Replace bool
}

func newCreateCmd(a *cli.App, k sealed.Kind, runF func(context.Context, *cli.App, *createOptions) error) *cobra.Command {
	if runF == nil {
		runF = runCreate
	}
	o := &createOptions{Kind: k}
	cmd := &cobra.Command{
		Use:   fmt.Sprintf("create [OPTIONS] %s FILE|-", strings.ToUpper(string(k))),
		Short: fmt.Sprintf("Create a %s from a file or STDIN as content", k),
		Args:  cli.ExactArgs(2),
		RunE: a.Run(func(ctx context.Context, _ *cobra.Command, args []string) error {
			o.Name, o.File = args[0], args[1]
			return runF(ctx, a, o)
		}),
	}
	cmd.Flags().StringArrayVarP(&o.Label, "label", "l", nil, capital(k)+" labels")
	cmd.Flags().BoolVar(&o.Replace, "replace", false, fmt.Sprintf("Give a %s of that name, if there is one, the new content and labels", k))
	return cmd
}

func runCreate(ctx context.Context, a *cli.App, o *createOptions) error {
	labels, err := cli.KeyValues("--label", o.Label, false)
	if err != nil {
		return err
	}
	if err := sealed.CheckName(o.Kind, o.Name); err != nil {
		return err // before anybody types the content
	}
	content, err := read(a, o.File, o.Kind.MaxSize())
	if err != nil {
		return fmt.Errorf("cannot create %s %q: cannot read its content: %w", o.Kind, o.Name, err)
	}
	api, err := a.API(ctx)
	if err != nil {
		return err
	}
	object, err := api.CreateStored(ctx, o.Kind, o.Name, content, sealed.CreateOptions{Labels: labels, Replace: o.Replace, DryRun: a.Global.DryRun})
	if err != nil {
		return err
	}
	if a.Global.DryRun {
		fmt.Fprintln(a.Out, "Would create", o.Kind, o.Name)
		return nil
	}
	fmt.Fprintln(a.Out, object.ID)
	return nil
}

// read reads a file, and no more of it than is needed to see that it is too large.
func read(a *cli.App, name string, most int) ([]byte, error) {
	in := a.In
	if name != "-" {
		f, err := os.Open(name)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		in = f
	}
	return io.ReadAll(io.LimitReader(in, int64(most)+1))
}

type lsOptions struct {
	cli.ListFlags
	Kind sealed.Kind
}

func newLsCmd(a *cli.App, k sealed.Kind, runF func(context.Context, *cli.App, *lsOptions) error) *cobra.Command {
	if runF == nil {
		runF = runLs
	}
	o := &lsOptions{Kind: k}
	cmd := &cobra.Command{
		Use:     "ls [OPTIONS]",
		Aliases: []string{"list"},
		Short:   fmt.Sprintf("List %ss", k),
		Args:    cli.ExactArgs(0),
		RunE: a.Run(func(ctx context.Context, _ *cobra.Command, _ []string) error {
			return runF(ctx, a, o)
		}),
	}
	o.Add(cmd.Flags(), `Provide filter values (e.g. "label=tier")`, "Only display IDs")
	return cmd
}

// row is a row of "secret ls" and "config ls" in docker's shape.
type row struct {
	labels    map[string]string
	CreatedAt string
	Driver    string
	ID        string
	Labels    string
	Name      string
	UpdatedAt string
}

// Label gives templates {{.Label "key"}}.
func (r row) Label(key string) string { return r.labels[key] }

func layout(k sealed.Kind) format.Layout {
	l := format.Layout{
		Table: "{{.ID}}\t{{.Name}}\t{{.Driver}}\t{{.CreatedAt}}\t{{.UpdatedAt}}",
		Quiet: "{{.ID}}",
		Headers: map[string]string{
			"CreatedAt": "CREATED", "Driver": "DRIVER", "ID": "ID", "Labels": "LABELS", "Name": "NAME", "UpdatedAt": "UPDATED",
		},
	}
	if k == sealed.Config {
		l.Table = "{{.ID}}\t{{.Name}}\t{{.CreatedAt}}\t{{.UpdatedAt}}"
	}
	return l
}

func runLs(ctx context.Context, a *cli.App, o *lsOptions) error {
	f, err := cli.ParseFilters(o.Filter, "id", "label", "name")
	if err != nil {
		return err
	}
	api, err := a.API(ctx)
	if err != nil {
		return err
	}
	all, broken := api.StoredObjects(ctx, o.Kind)
	all = slices.DeleteFunc(all, func(x sealed.Object) bool {
		return !f.Any("id", func(id string) bool { return strings.HasPrefix(x.ID, id) }) || !f.Labels("label", x.Labels) || !f.Named(x.Name)
	})
	rows := make([]row, len(all))
	for i, x := range all {
		rows[i] = row{
			labels: x.Labels, ID: x.ID, Name: x.Name, Labels: cli.JoinLabels(x.Labels),
			CreatedAt: summary.Ago(x.Created, a.Now()), UpdatedAt: summary.Ago(x.Updated, a.Now()),
		}
	}
	return errors.Join(format.Write(a.Out, layout(o.Kind), format.Options{Format: o.Format, Quiet: o.Quiet}, rows), broken)
}

type rmOptions struct {
	Kind  sealed.Kind
	Names []string // arguments
}

func newRmCmd(a *cli.App, k sealed.Kind, runF func(context.Context, *cli.App, *rmOptions) error) *cobra.Command {
	if runF == nil {
		runF = runRm
	}
	o := &rmOptions{Kind: k}
	word := strings.ToUpper(string(k))
	return &cobra.Command{
		Use:     fmt.Sprintf("rm %s [%s...]", word, word),
		Aliases: []string{"remove"},
		Short:   fmt.Sprintf("Remove one or more %ss", k),
		Args:    cli.RequireArgs(1),
		RunE: a.Run(func(ctx context.Context, _ *cobra.Command, args []string) error {
			o.Names = args
			return runF(ctx, a, o)
		}),
		ValidArgsFunction: complete(a, k),
	}
}

func runRm(ctx context.Context, a *cli.App, o *rmOptions) error {
	api, err := a.API(ctx)
	if err != nil {
		return err
	}
	return a.Each(o.Names, func(ref string) (string, error) {
		name, err := api.RemoveStored(ctx, o.Kind, ref, a.Global.DryRun)
		if err == nil && a.Global.DryRun {
			name = fmt.Sprintf("Would remove %s %s", o.Kind, name)
		}
		return name, err
	})
}

func complete(a *cli.App, k sealed.Kind) cobra.CompletionFunc {
	return func(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
		api, err := a.API(context.Background())
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		all, _ := api.StoredObjects(context.Background(), k)
		var names []string
		for _, o := range all {
			if !slices.Contains(args, o.Name) {
				names = append(names, o.Name)
			}
		}
		return names, cobra.ShellCompDirectiveNoFileComp
	}
}

func capital(k sealed.Kind) string { return strings.ToUpper(string(k[:1])) + string(k[1:]) }

// labelLines are labels as --pretty shows them.
func labelLines(labels map[string]string) string {
	var b strings.Builder
	for _, key := range slices.Sorted(maps.Keys(labels)) {
		fmt.Fprintf(&b, " - %s=%s\n", key, labels[key])
	}
	return b.String()
}
