package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/stack-run/stack/cmd/stack/internal/format"
	"github.com/stack-run/stack/cmd/stack/internal/summary"
	"github.com/stack-run/stack/compose"
	"github.com/stack-run/stack/engine"
	"github.com/stack-run/stack/netns"
)

func newNetworkCmd(a *app) *cobra.Command {
	return group("network", "Manage networks",
		newNetworkConnectCmd(a, nil),
		newNetworkCreateCmd(a, nil),
		newNetworkDisconnectCmd(a, nil),
		newNetworkInspectCmd(a),
		newNetworkLsCmd(a, nil),
		newNetworkPruneCmd(a, nil),
		newNetworkRmCmd(a, nil),
	)
}

func (a *app) networks(ctx context.Context) ([]netns.Network, error) {
	v, err := a.api(ctx)
	if err != nil {
		return nil, err
	}
	return v.Networks(ctx)
}

type networkLsOptions struct {
	listFlags
	NoTrunc bool
}

func newNetworkLsCmd(a *app, runF func(context.Context, *app, *networkLsOptions) error) *cobra.Command {
	if runF == nil {
		runF = runNetworkLs
	}
	o := &networkLsOptions{}
	cmd := &cobra.Command{
		Use:     "ls [OPTIONS]",
		Aliases: []string{"list"},
		Short:   "List networks",
		Args:    exactArgs(0),
		RunE: a.run(func(ctx context.Context, _ *cobra.Command, _ []string) error {
			return runF(ctx, a, o)
		}),
	}
	f := cmd.Flags()
	o.add(f, `Provide filter values (e.g. "driver=bridge")`, "Only display network IDs")
	f.BoolVar(&o.NoTrunc, "no-trunc", false, "Do not truncate the output")
	return cmd
}

// networkRow is a row of "network ls" in docker's shape.
type networkRow struct {
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
func (r networkRow) Label(key string) string { return r.labels[key] }

func runNetworkLs(ctx context.Context, a *app, o *networkLsOptions) error {
	f, err := parseFilters(o.Filter, "driver", "id", "label", "name", "scope", "type", "dangling")
	if err != nil {
		return err
	}
	dangling, restricted, err := f.flag("dangling")
	if err != nil {
		return err
	}
	all, err := a.networks(ctx)
	if err != nil {
		return err
	}
	used, err := a.networkUsers(ctx)
	if err != nil {
		return err
	}
	all = withBuiltin(all)
	slices.SortFunc(all, func(x, y netns.Network) int { return strings.Compare(x.Name, y.Name) })
	var rows []networkRow
	for _, n := range all {
		if restricted && dangling != (len(used[n.Name]) == 0) || !f.has("driver", networkDriver(n)) ||
			!f.any("id", func(id string) bool { return strings.HasPrefix(n.ID, id) }) || !f.labels("label", n.Labels) ||
			!f.named(n.Name) || !f.has("scope", "local") ||
			!f.any("type", func(t string) bool { return t == map[bool]string{true: "builtin", false: "custom"}[isBuiltin(n.Name)] }) {
			continue
		}
		rows = append(rows, networkRow{
			labels: n.Labels, CreatedAt: n.Created.Local().String(), Driver: networkDriver(n), ID: summary.ID(n.ID, o.NoTrunc),
			IPv4: strconv.FormatBool(!n.DisableIPv4), IPv6: strconv.FormatBool(!n.DisableIPv6),
			Internal: strconv.FormatBool(n.Internal), Labels: joinLabels(n.Labels), Name: n.Name, Scope: "local",
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
	return format.Write(a.out, l, format.Options{Format: o.Format, Quiet: o.Quiet}, rows)
}

func networkDriver(n netns.Network) string {
	if n.Driver == "" {
		return "bridge"
	}
	return n.Driver
}

// networkUsers are the containers of each network, stopped ones too.
func (a *app) networkUsers(ctx context.Context) (map[string][]engine.Container, error) {
	v, err := a.api(ctx)
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

// networkName is the name of the network that an argument means. One that is not
// there is left to whoever wants to use it.
func (a *app) networkName(ctx context.Context, ref string) (string, error) {
	if isBuiltin(ref) {
		return ref, nil
	}
	n, err := a.findNetwork(ctx, ref)
	if errors.Is(err, errNoNetwork) {
		return ref, nil
	}
	return n.Name, err
}

// findNetwork finds a network by name, ID or the beginning of an ID.
func (a *app) findNetwork(ctx context.Context, ref string) (netns.Network, error) {
	all, err := a.networks(ctx)
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

type networkRmOptions struct {
	Names []string // arguments
	Force bool
}

func newNetworkRmCmd(a *app, runF func(context.Context, *app, *networkRmOptions) error) *cobra.Command {
	if runF == nil {
		runF = runNetworkRm
	}
	o := &networkRmOptions{}
	cmd := &cobra.Command{
		Use:     "rm NETWORK [NETWORK...]",
		Aliases: []string{"remove"},
		Short:   "Remove one or more networks",
		Args:    requireArgs(1),
		RunE: a.run(func(ctx context.Context, _ *cobra.Command, args []string) error {
			o.Names = args
			return runF(ctx, a, o)
		}),
		ValidArgsFunction: a.completeNetworks,
	}
	cmd.Flags().BoolVarP(&o.Force, "force", "f", false, "Do not error if the network does not exist")
	return cmd
}

func runNetworkRm(ctx context.Context, a *app, o *networkRmOptions) error {
	used, err := a.networkUsers(ctx)
	if err != nil {
		return err
	}
	failed := false
	for _, ref := range o.Names {
		err := a.removeNetwork(ctx, ref, used)
		if errors.Is(err, errNoNetwork) && o.Force {
			continue
		}
		if err != nil {
			failed = true
			fmt.Fprintln(a.err, err)
			continue
		}
		fmt.Fprintln(a.out, ref)
	}
	if failed {
		return exitError{code: exitGeneral}
	}
	return nil
}

func (a *app) removeNetwork(ctx context.Context, ref string, used map[string][]engine.Container) error {
	n, err := a.findNetwork(ctx, ref)
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
		return fmt.Errorf("cannot remove network %s: it is used by %s; remove what uses it first", n.Name, strings.Join(names, ", "))
	}
	v, err := a.api(ctx)
	if err != nil {
		return err
	}
	return v.RemoveNetwork(ctx, n.Name)
}

type networkPruneOptions struct{ pruneFlags }

func newNetworkPruneCmd(a *app, runF func(context.Context, *app, *networkPruneOptions) error) *cobra.Command {
	if runF == nil {
		runF = runNetworkPrune
	}
	o := &networkPruneOptions{}
	cmd := &cobra.Command{
		Use:   "prune [OPTIONS]",
		Short: "Remove all unused networks",
		Args:  exactArgs(0),
		RunE: a.run(func(ctx context.Context, _ *cobra.Command, _ []string) error {
			return runF(ctx, a, o)
		}),
	}
	o.add(cmd.Flags(), "until=<timestamp>")
	return cmd
}

func runNetworkPrune(ctx context.Context, a *app, o *networkPruneOptions) error {
	if ok, err := a.agreed(o.pruneFlags, " all custom networks not used by at least one container.\n"); err != nil || !ok {
		return err
	}
	names, err := a.pruneNetworks(ctx, o.Filter, nil)
	a.printPruned("Networks", names)
	return err
}

// pruneNetworks removes unused networks. A dry run takes the containers without
// as removed already.
func (a *app) pruneNetworks(ctx context.Context, filter, without []string) (names []string, err error) {
	f, err := a.pruneFilters(filter)
	if err != nil {
		return nil, err
	}
	v, err := a.api(ctx)
	if err != nil {
		return nil, err
	}
	all, err := v.Networks(ctx)
	if err != nil {
		return nil, err
	}
	used, err := a.networkUsers(ctx)
	if err != nil {
		return nil, err
	}
	var errs []error
	for _, n := range all {
		if isBuiltin(n.Name) {
			continue // it goes by itself
		}
		isUsed := slices.ContainsFunc(used[n.Name], func(c engine.Container) bool { return !slices.Contains(without, c.ID) })
		if isUsed || !f.match(n.Created, n.Labels) {
			continue
		}
		if !a.global.DryRun {
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

func (a *app) completeNetworks(cmd *cobra.Command, args []string, word string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 && (cmd.Name() == "connect" || cmd.Name() == "disconnect") {
		return a.completeContainers(cmd, args, word)
	}
	all, err := a.networks(context.Background())
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
