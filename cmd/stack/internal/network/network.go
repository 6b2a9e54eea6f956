// Package network is "stack network".
package network

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/stack-run/stack/cmd/stack/internal/cli"
	"github.com/stack-run/stack/cmd/stack/internal/format"
	"github.com/stack-run/stack/cmd/stack/internal/summary"
	"github.com/stack-run/stack/compose"
	"github.com/stack-run/stack/engine"
	"github.com/stack-run/stack/netns"
)

func NewCmd(a *cli.App) *cobra.Command {
	return cli.Group("network", "Manage networks",
		newConnectCmd(a, nil),
		newCreateCmd(a, nil),
		newDisconnectCmd(a, nil),
		newInspectCmd(a),
		newLsCmd(a, nil),
		newPruneCmd(a, nil),
		newRmCmd(a, nil),
	)
}

func networks(ctx context.Context, a *cli.App) ([]netns.Network, error) {
	v, err := a.API(ctx)
	if err != nil {
		return nil, err
	}
	return v.Networks(ctx)
}

type lsOptions struct {
	cli.ListFlags
	NoTrunc bool
}

func newLsCmd(a *cli.App, runF func(context.Context, *cli.App, *lsOptions) error) *cobra.Command {
	if runF == nil {
		runF = runLs
	}
	o := &lsOptions{}
	cmd := &cobra.Command{
		Use:     "ls [OPTIONS]",
		Aliases: []string{"list"},
		Short:   "List networks",
		Args:    cli.ExactArgs(0),
		RunE: a.Run(func(ctx context.Context, _ *cobra.Command, _ []string) error {
			return runF(ctx, a, o)
		}),
	}
	f := cmd.Flags()
	o.Add(f, `Provide filter values (e.g. "driver=bridge")`, "Only display network IDs")
	f.BoolVar(&o.NoTrunc, "no-trunc", false, "Do not truncate the output")
	return cmd
}

// row is a row of "network ls" in docker's shape.
type row struct {
	labels    map[string]string
	CreatedAt string
	Driver    string
	ID        string
	IPv4      string
	IPv6      string
	Internal  string
	Labels    string
	Name      string
	Scope     string
}

// Label gives templates {{.Label "key"}}.
func (r row) Label(key string) string { return r.labels[key] }

func runLs(ctx context.Context, a *cli.App, o *lsOptions) error {
	f, err := cli.ParseFilters(o.Filter, "driver", "id", "label", "name", "scope", "type", "dangling")
	if err != nil {
		return err
	}
	dangling, restricted, err := f.Flag("dangling")
	if err != nil {
		return err
	}
	all, err := networks(ctx, a)
	if err != nil {
		return err
	}
	used, err := networkUsers(ctx, a)
	if err != nil {
		return err
	}
	all = withBuiltin(all)
	slices.SortFunc(all, func(x, y netns.Network) int { return strings.Compare(x.Name, y.Name) })
	var rows []row
	for _, n := range all {
		if restricted && dangling != (len(used[n.Name]) == 0) || !f.Has("driver", driver(n)) ||
			!f.Any("id", func(id string) bool { return strings.HasPrefix(n.ID, id) }) || !f.Labels("label", n.Labels) ||
			!f.Named(n.Name) || !f.Has("scope", "local") ||
			!f.Any("type", func(t string) bool { return t == map[bool]string{true: "builtin", false: "custom"}[isBuiltin(n.Name)] }) {
			continue
		}
		rows = append(rows, row{
			labels: n.Labels, CreatedAt: n.Created.Local().String(), Driver: driver(n), ID: summary.ID(n.ID, o.NoTrunc),
			IPv4: strconv.FormatBool(!n.DisableIPv4), IPv6: strconv.FormatBool(!n.DisableIPv6),
			Internal: strconv.FormatBool(n.Internal), Labels: cli.JoinLabels(n.Labels), Name: n.Name, Scope: "local",
		})
	}
	l := format.Layout{
		Table: "{{.ID}}\t{{.Name}}\t{{.Driver}}\t{{.Scope}}",
		Quiet: "{{.ID}}",
		Headers: map[string]string{
			"ID": "NETWORK ID", "Name": "NAME", "Driver": "DRIVER", "Scope": "SCOPE", "IPv4": "IPV4", "IPv6": "IPV6",
			"Internal": "INTERNAL", "Labels": "LABELS", "CreatedAt": "CREATED AT",
		},
	}
	return format.Write(a.Out, l, format.Options{Format: o.Format, Quiet: o.Quiet}, rows)
}

func driver(n netns.Network) string {
	if n.Driver == "" {
		return "bridge"
	}
	return n.Driver
}

// networkUsers are the containers of each network, stopped ones too.
func networkUsers(ctx context.Context, a *cli.App) (map[string][]engine.Container, error) {
	v, err := a.API(ctx)
	if err != nil {
		return nil, err
	}
	cs, err := v.Containers(ctx, compose.Selector{All: true, OneOff: true})
	if err != nil {
		return nil, err
	}
	used := map[string][]engine.Container{}
	for _, c := range cs {
		for _, at := range c.Spec.Network.Networks {
			used[at.Network] = append(used[at.Network], c)
		}
		if mode := c.Spec.Network.Mode; isBuiltin(mode) {
			used[mode] = append(used[mode], c)
		}
	}
	return used, nil
}

// NetworkName is the name of the network that an argument means. One that is not
// there is left to whoever wants to use it.
func NetworkName(ctx context.Context, a *cli.App, ref string) (string, error) {
	if isBuiltin(ref) {
		return ref, nil
	}
	n, err := findNetwork(ctx, a, ref)
	if errors.Is(err, errNoNetwork) {
		return ref, nil
	}
	return n.Name, err
}

// findNetwork finds a network by name, ID or the beginning of an ID.
func findNetwork(ctx context.Context, a *cli.App, ref string) (netns.Network, error) {
	all, err := networks(ctx, a)
	if err != nil {
		return netns.Network{}, err
	}
	var found []netns.Network
	for _, n := range withBuiltin(all) {
		if n.Name == ref || n.ID == ref {
			return n, nil
		}
		if ref != "" && strings.HasPrefix(n.ID, ref) {
			found = append(found, n)
		}
	}
	switch len(found) {
	case 1:
		return found[0], nil
	case 0:
		return netns.Network{}, fmt.Errorf("%w: %s", errNoNetwork, ref)
	}
	return netns.Network{}, fmt.Errorf("cannot choose network %q: it is the beginning of %d network IDs; give more digits", ref, len(found))
}

var errNoNetwork = errors.New("no such network")

type rmOptions struct {
	Names []string // arguments
	Force bool
}

func newRmCmd(a *cli.App, runF func(context.Context, *cli.App, *rmOptions) error) *cobra.Command {
	if runF == nil {
		runF = runRm
	}
	o := &rmOptions{}
	cmd := &cobra.Command{
		Use:     "rm NETWORK [NETWORK...]",
		Aliases: []string{"remove"},
		Short:   "Remove one or more networks",
		Args:    cli.RequireArgs(1),
		RunE: a.Run(func(ctx context.Context, _ *cobra.Command, args []string) error {
			o.Names = args
			return runF(ctx, a, o)
		}),
		ValidArgsFunction: completeNetworks(a),
	}
	cmd.Flags().BoolVarP(&o.Force, "force", "f", false, "Do not error if the network does not exist")
	return cmd
}

func runRm(ctx context.Context, a *cli.App, o *rmOptions) error {
	used, err := networkUsers(ctx, a)
	if err != nil {
		return err
	}
	return a.Each(o.Names, func(ref string) (string, error) {
		err := removeNetwork(ctx, a, ref, used)
		if errors.Is(err, errNoNetwork) && o.Force {
			return "", nil
		}
		return ref, err
	})
}

func removeNetwork(ctx context.Context, a *cli.App, ref string, used map[string][]engine.Container) error {
	n, err := findNetwork(ctx, a, ref)
	if err == nil {
		err = refuseBuiltin("remove", n.Name)
	}
	if err != nil {
		return err
	}
	if users := used[n.Name]; len(users) > 0 {
		var names []string
		for _, c := range users {
			names = append(names, c.Spec.Name)
		}
		return fmt.Errorf("cannot remove network %s: it has active endpoints: %s; remove or disconnect them first", n.Name, strings.Join(names, ", "))
	}
	v, err := a.API(ctx)
	if err != nil {
		return err
	}
	return v.RemoveNetwork(ctx, n.Name)
}

type pruneOptions struct{ cli.PruneFlags }

func newPruneCmd(a *cli.App, runF func(context.Context, *cli.App, *pruneOptions) error) *cobra.Command {
	if runF == nil {
		runF = runPrune
	}
	o := &pruneOptions{}
	cmd := &cobra.Command{
		Use:   "prune [OPTIONS]",
		Short: "Remove all unused networks",
		Args:  cli.ExactArgs(0),
		RunE: a.Run(func(ctx context.Context, _ *cobra.Command, _ []string) error {
			return runF(ctx, a, o)
		}),
	}
	o.Add(cmd.Flags(), "until=<timestamp>")
	return cmd
}

func runPrune(ctx context.Context, a *cli.App, o *pruneOptions) error {
	if ok, err := a.Agreed(o.PruneFlags, " all custom networks not used by at least one container.\n"); err != nil || !ok {
		return err
	}
	names, err := PruneNetworks(ctx, a, o.Filter, nil)
	a.PrintPruned("Networks", names)
	return err
}

// PruneNetworks removes unused networks. A dry run takes the containers without
// as removed already.
func PruneNetworks(ctx context.Context, a *cli.App, filter, without []string) (names []string, err error) {
	f, err := a.PruneFilters(filter)
	if err != nil {
		return nil, err
	}
	v, err := a.API(ctx)
	if err != nil {
		return nil, err
	}
	all, err := v.Networks(ctx)
	if err != nil {
		return nil, err
	}
	used, err := networkUsers(ctx, a)
	if err != nil {
		return nil, err
	}
	var errs []error
	for _, n := range all {
		if isBuiltin(n.Name) {
			continue // it goes by itself
		}
		isUsed := slices.ContainsFunc(used[n.Name], func(c engine.Container) bool { return !slices.Contains(without, c.ID) })
		if isUsed || !f.Match(n.Created, n.Labels) {
			continue
		}
		if !a.Global.DryRun {
			err := v.RemoveNetwork(ctx, n.Name)
			if errors.Is(err, netns.ErrInUse) {
				continue // since just now, or by one that leaves just now
			}
			if err != nil {
				errs = append(errs, err)
				continue
			}
		}
		names = append(names, n.Name)
	}
	return names, errors.Join(errs...)
}

func completeNetworks(a *cli.App) cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, word string) ([]string, cobra.ShellCompDirective) {
		if len(args) > 0 && (cmd.Name() == "connect" || cmd.Name() == "disconnect") {
			return a.CompleteContainers(cmd, args, word)
		}
		all, err := networks(context.Background(), a)
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		var names []string
		for _, n := range withBuiltin(all) {
			if !slices.Contains(args, n.Name) {
				names = append(names, n.Name)
			}
		}
		return names, cobra.ShellCompDirectiveNoFileComp
	}
}
