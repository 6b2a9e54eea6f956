package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/stack-run/stack/cmd/stack/internal/format"
	"github.com/stack-run/stack/cmd/stack/internal/runspec"
	"github.com/stack-run/stack/cmd/stack/internal/summary"
	"github.com/stack-run/stack/cmd/stack/internal/when"
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

func (a *app) networks() (*netns.Manager, error) {
	e, err := a.stores()
	if err != nil {
		return nil, err
	}
	return e.Networks()
}

type networkConnectOptions struct {
	Network, Container string // arguments
	Alias              []string
	DriverOpt          []string
	GatewayPriority    int
	IP, IP6            string
	Link               []string
	LinkLocalIP        []string
}

func newNetworkConnectCmd(a *app, runF func(context.Context, *app, *networkConnectOptions) error) *cobra.Command {
	if runF == nil {
		runF = runNetworkConnect
	}
	o := &networkConnectOptions{}
	cmd := &cobra.Command{
		Use:   "connect [OPTIONS] NETWORK CONTAINER",
		Short: "Connect a container to a network",
		Args:  exactArgs(2),
		RunE: a.run(func(ctx context.Context, _ *cobra.Command, args []string) error {
			o.Network, o.Container = args[0], args[1]
			return runF(ctx, a, o)
		}),
		ValidArgsFunction: a.completeNetworks,
	}
	f := cmd.Flags()
	f.StringSliceVar(&o.Alias, "alias", nil, "Add network-scoped alias for the container")
	f.StringSliceVar(&o.DriverOpt, "driver-opt", nil, "driver options for the network")
	f.IntVar(&o.GatewayPriority, "gw-priority", 0, "Highest gw-priority provides the default gateway. Accepts positive and negative values.")
	f.StringVar(&o.IP, "ip", "", `IPv4 address (e.g., "172.30.100.104")`)
	f.StringVar(&o.IP6, "ip6", "", `IPv6 address (e.g., "2001:db8::33")`)
	f.StringArrayVar(&o.Link, "link", nil, "Add link to another container")
	f.StringSliceVar(&o.LinkLocalIP, "link-local-ip", nil, "Add a link-local address for the container")
	ignore(f, "link")
	return cmd
}

// connector is an engine that can change the networks of a container.
type connector interface {
	Connect(ctx context.Context, container string, a netns.Attachment) error
	Disconnect(ctx context.Context, container, network string, force bool) error
}

func (o *networkConnectOptions) attachment() (netns.Attachment, error) {
	opts, err := keyValues("--driver-opt", o.DriverOpt, true)
	if err != nil {
		return netns.Attachment{}, err
	}
	at := netns.Attachment{Network: o.Network, Aliases: o.Alias, DriverOpts: opts, GatewayPrio: o.GatewayPriority}
	if at.IPv4, err = address("--ip", o.IP); err != nil {
		return at, err
	}
	if at.IPv6, err = address("--ip6", o.IP6); err != nil {
		return at, err
	}
	for _, text := range o.LinkLocalIP {
		ip, err := address("--link-local-ip", text)
		if err != nil {
			return at, err
		}
		at.LinkLocal = append(at.LinkLocal, ip)
	}
	return at, nil
}

func address(flag, text string) (netip.Addr, error) {
	if text == "" {
		return netip.Addr{}, nil
	}
	ip, err := netip.ParseAddr(strings.Trim(text, "[]"))
	if err != nil {
		return ip, fmt.Errorf("invalid %s %q: it is no IP address", flag, text)
	}
	return ip, nil
}

func runNetworkConnect(ctx context.Context, a *app, o *networkConnectOptions) error {
	at, err := o.attachment()
	if err != nil {
		return err
	}
	v, err := a.engine(ctx)
	if err != nil {
		return err
	}
	c, ok := v.(connector)
	if !ok {
		return notSupported("connect a container to a network")
	}
	return c.Connect(ctx, o.Container, at)
}

type networkDisconnectOptions struct {
	Network, Container string // arguments
	Force              bool
}

func newNetworkDisconnectCmd(a *app, runF func(context.Context, *app, *networkDisconnectOptions) error) *cobra.Command {
	if runF == nil {
		runF = runNetworkDisconnect
	}
	o := &networkDisconnectOptions{}
	cmd := &cobra.Command{
		Use:   "disconnect [OPTIONS] NETWORK CONTAINER",
		Short: "Disconnect a container from a network",
		Args:  exactArgs(2),
		RunE: a.run(func(ctx context.Context, _ *cobra.Command, args []string) error {
			o.Network, o.Container = args[0], args[1]
			return runF(ctx, a, o)
		}),
		ValidArgsFunction: a.completeNetworks,
	}
	cmd.Flags().BoolVarP(&o.Force, "force", "f", false, "Force the container to disconnect from a network")
	return cmd
}

func runNetworkDisconnect(ctx context.Context, a *app, o *networkDisconnectOptions) error {
	v, err := a.engine(ctx)
	if err != nil {
		return err
	}
	c, ok := v.(connector)
	if !ok {
		return notSupported("disconnect a container from a network")
	}
	return c.Disconnect(ctx, o.Container, o.Network, o.Force)
}

type networkCreateOptions struct {
	Name       string // argument
	Attachable bool
	AuxAddress []string
	Driver     string
	Gateway    []string
	Internal   bool
	IPRange    []string
	IPAMDriver string
	IPAMOpt    []string
	IPv4, IPv6 bool
	Label      []string
	Opt        []string
	Subnet     []string
}

func newNetworkCreateCmd(a *app, runF func(context.Context, *app, *networkCreateOptions) error) *cobra.Command {
	if runF == nil {
		runF = runNetworkCreate
	}
	o := &networkCreateOptions{}
	cmd := &cobra.Command{
		Use:   "create [OPTIONS] NETWORK",
		Short: "Create a network",
		Args:  exactArgs(1),
		RunE: a.run(func(ctx context.Context, _ *cobra.Command, args []string) error {
			o.Name = args[0]
			return runF(ctx, a, o)
		}),
	}
	f := cmd.Flags()
	f.BoolVar(&o.Attachable, "attachable", false, "Enable manual container attachment")
	f.StringArrayVar(&o.AuxAddress, "aux-address", nil, "Auxiliary IPv4 or IPv6 addresses used by Network driver")
	f.String("config-from", "", "The network from which to copy the configuration")
	f.Bool("config-only", false, "Create a configuration only network")
	f.StringVarP(&o.Driver, "driver", "d", "bridge", "Driver to manage the Network")
	f.StringSliceVar(&o.Gateway, "gateway", nil, "IPv4 or IPv6 Gateway for the master subnet")
	f.Bool("ingress", false, "Create swarm routing-mesh network")
	f.BoolVar(&o.Internal, "internal", false, "Restrict external access to the network")
	f.StringSliceVar(&o.IPRange, "ip-range", nil, "Allocate container ip from a sub-range")
	f.StringVar(&o.IPAMDriver, "ipam-driver", "default", "IP Address Management Driver")
	f.StringArrayVar(&o.IPAMOpt, "ipam-opt", nil, "Set IPAM driver specific options")
	f.BoolVar(&o.IPv4, "ipv4", true, "Enable or disable IPv4 address assignment")
	f.BoolVar(&o.IPv6, "ipv6", true, "Enable or disable IPv6 address assignment")
	f.StringArrayVar(&o.Label, "label", nil, "Set metadata on a network")
	f.StringArrayVarP(&o.Opt, "opt", "o", nil, "Set driver specific options")
	f.String("scope", "", "Control the network's scope")
	f.StringSliceVar(&o.Subnet, "subnet", nil, "Subnet in CIDR format that represents a network segment")
	ignore(f, "config-from", "config-only", "ingress", "scope", "ipam-opt")
	return cmd
}

func runNetworkCreate(ctx context.Context, a *app, o *networkCreateOptions) error {
	s, err := o.spec()
	if err != nil {
		return err
	}
	m, err := a.networks()
	if err != nil {
		return err
	}
	if _, err := m.Get(s.Name); err == nil {
		return fmt.Errorf("cannot create network: network with name %s already exists", s.Name)
	}
	n, err := m.Create(ctx, s)
	if err != nil {
		return err
	}
	fmt.Fprintln(a.out, n.ID)
	return nil
}

func (o *networkCreateOptions) spec() (netns.NetworkSpec, error) {
	var s netns.NetworkSpec
	if o.IPAMDriver != "" && o.IPAMDriver != "default" {
		return s, fmt.Errorf("cannot use --ipam-driver %q; there is only default", o.IPAMDriver)
	}
	switch o.Name {
	case "host", "none", "":
		return s, fmt.Errorf("cannot create network %q: the name is taken by the system", o.Name)
	}
	opts, err := keyValues("--opt", o.Opt, true)
	if err != nil {
		return s, err
	}
	labels, err := keyValues("--label", o.Label, false)
	if err != nil {
		return s, err
	}
	pools, err := o.pools()
	return netns.NetworkSpec{
		Name: o.Name, Driver: o.Driver, DriverOpts: opts, Internal: o.Internal, Attachable: o.Attachable,
		DisableIPv4: !o.IPv4, DisableIPv6: !o.IPv6, Pools: pools, Labels: labels,
	}, err
}

// pools assigns ranges, gateways and reserved addresses to their subnets.
func (o *networkCreateOptions) pools() ([]netns.Pool, error) {
	var pools []netns.Pool
	for _, text := range o.Subnet {
		p, err := netip.ParsePrefix(text)
		if err != nil {
			return nil, fmt.Errorf("invalid --subnet %q: write it like 10.5.0.0/24", text)
		}
		pools = append(pools, netns.Pool{Subnet: p.Masked()})
	}
	find := func(flag, text string, ip netip.Addr) (*netns.Pool, error) {
		for i := range pools {
			if pools[i].Subnet.Contains(ip) {
				return &pools[i], nil
			}
		}
		return nil, fmt.Errorf("invalid %s %q: no matching subnet; give it with --subnet", flag, text)
	}
	for _, text := range o.IPRange {
		r, err := netip.ParsePrefix(text)
		if err != nil {
			return nil, fmt.Errorf("invalid --ip-range %q: write it like 10.5.0.0/28", text)
		}
		pool, err := find("--ip-range", text, r.Addr())
		if err != nil {
			return nil, err
		}
		if pool.Range.IsValid() {
			return nil, fmt.Errorf("invalid --ip-range %q: subnet %s has another one", text, pool.Subnet)
		}
		pool.Range = r.Masked()
	}
	for _, text := range o.Gateway {
		ip, err := address("--gateway", text)
		if err != nil {
			return nil, err
		}
		pool, err := find("--gateway", text, ip)
		if err != nil {
			return nil, err
		}
		if pool.Gateway.IsValid() {
			return nil, fmt.Errorf("invalid --gateway %q: subnet %s has another one", text, pool.Subnet)
		}
		pool.Gateway = ip
	}
	for _, text := range o.AuxAddress {
		name, value, ok := strings.Cut(text, "=")
		if !ok {
			return nil, fmt.Errorf("invalid --aux-address %q; write NAME=ADDRESS", text)
		}
		ip, err := address("--aux-address", value)
		if err != nil {
			return nil, err
		}
		pool, err := find("--aux-address", text, ip)
		if err != nil {
			return nil, err
		}
		if pool.Aux == nil {
			pool.Aux = map[string]netip.Addr{}
		}
		pool.Aux[name] = ip
	}
	return pools, nil
}

type networkLsOptions struct {
	Filter  []string
	Format  string
	NoTrunc bool
	Quiet   bool
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
	f.StringArrayVarP(&o.Filter, "filter", "f", nil, `Provide filter values (e.g. "driver=bridge")`)
	f.StringVar(&o.Format, "format", "", formatHelp)
	f.BoolVar(&o.NoTrunc, "no-trunc", false, "Do not truncate the output")
	f.BoolVarP(&o.Quiet, "quiet", "q", false, "Only display network IDs")
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
	m, err := a.networks()
	if err != nil {
		return err
	}
	all, err := m.List()
	if err != nil {
		return err
	}
	used, err := a.networkUsers(ctx)
	if err != nil {
		return err
	}
	slices.SortFunc(all, func(x, y netns.Network) int { return strings.Compare(x.Name, y.Name) })
	var rows []networkRow
	for _, n := range all {
		if restricted && dangling != (len(used[n.Name]) == 0) || !f.has("driver", networkDriver(n)) ||
			!f.any("id", func(id string) bool { return strings.HasPrefix(n.ID, id) }) || !f.labels("label", n.Labels) ||
			!f.any("name", func(s string) bool { return strings.Contains(n.Name, s) }) || !f.has("scope", "local") ||
			!f.any("type", func(t string) bool {
				return t == "custom" && n.Name != runspec.DefaultNetwork || t == "builtin" && n.Name == runspec.DefaultNetwork
			}) {
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
	v, err := a.engine(ctx)
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
	}
	return used, nil
}

// findNetwork finds a network by name, ID or the beginning of an ID.
func (a *app) findNetwork(ref string) (netns.Network, error) {
	m, err := a.networks()
	if err != nil {
		return netns.Network{}, err
	}
	all, err := m.List()
	if err != nil {
		return netns.Network{}, err
	}
	var found []netns.Network
	for _, n := range all {
		if n.Name == ref || n.ID == ref {
			return n, nil
		}
		if strings.HasPrefix(n.ID, ref) {
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
	n, err := a.findNetwork(ref)
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
	m, err := a.networks()
	if err != nil {
		return err
	}
	return m.Remove(ctx, n.Name)
}

type networkPruneOptions struct {
	Filter []string
	Force  bool
}

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
	f := cmd.Flags()
	f.StringArrayVar(&o.Filter, "filter", nil, `Provide filter values (e.g. "until=<timestamp>")`)
	f.BoolVarP(&o.Force, "force", "f", false, "Do not prompt for confirmation")
	return cmd
}

func runNetworkPrune(ctx context.Context, a *app, o *networkPruneOptions) error {
	if !o.Force {
		ok, err := a.confirm("WARNING! This will remove all custom networks not used by at least one container.\nAre you sure you want to continue? [y/N] ")
		if err != nil || !ok {
			return err
		}
	}
	deleted, err := a.pruneNetworks(ctx, o.Filter)
	if len(deleted) > 0 {
		fmt.Fprintln(a.out, "Deleted Networks:")
		for _, name := range deleted {
			fmt.Fprintln(a.out, name)
		}
		fmt.Fprintln(a.out)
	}
	return err
}

func (a *app) pruneNetworks(ctx context.Context, filter []string) (deleted []string, err error) {
	f, err := parseFilters(filter, "until", "label", "label!")
	if err != nil {
		return nil, err
	}
	limit := a.now()
	for _, u := range f["until"] {
		if limit, err = when.Parse(u, a.now()); err != nil {
			return nil, err
		}
	}
	m, err := a.networks()
	if err != nil {
		return nil, err
	}
	all, err := m.List()
	if err != nil {
		return nil, err
	}
	used, err := a.networkUsers(ctx)
	if err != nil {
		return nil, err
	}
	var errs []error
	for _, n := range all {
		if len(used[n.Name]) > 0 || n.Created.After(limit) || !f.labels("label", n.Labels) || !f.none("label!") && f.labels("label!", n.Labels) {
			continue
		}
		if err := m.Remove(ctx, n.Name); err != nil {
			errs = append(errs, err)
			continue
		}
		deleted = append(deleted, n.Name)
	}
	return deleted, errors.Join(errs...)
}

func (a *app) completeNetworks(cmd *cobra.Command, args []string, word string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 && (cmd.Name() == "connect" || cmd.Name() == "disconnect") {
		return a.completeContainers(cmd, args, word)
	}
	m, err := a.networks()
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	all, err := m.List()
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	var names []string
	for _, n := range all {
		if !slices.Contains(args, n.Name) {
			names = append(names, n.Name)
		}
	}
	return names, cobra.ShellCompDirectiveNoFileComp
}

// networkInspection is what "docker network inspect" prints (Engine API,
// NetworkInspect).
type networkInspection struct {
	Name       string
	ID         string `json:"Id"`
	Created    string
	Scope      string
	Driver     string
	EnableIPv4 bool
	EnableIPv6 bool
	IPAM       ipamInspection
	Internal   bool
	Attachable bool
	Ingress    bool
	ConfigFrom struct{ Network string }
	ConfigOnly bool
	Containers map[string]endpointInspection
	Options    map[string]string
	Labels     map[string]string
}

type ipamInspection struct {
	Driver  string
	Options map[string]string
	Config  []poolInspection
}

type poolInspection struct {
	Subnet             string
	IPRange            string            `json:",omitempty"`
	Gateway            string            `json:",omitempty"`
	AuxiliaryAddresses map[string]string `json:",omitempty"`
}

type endpointInspection struct {
	Name        string
	EndpointID  string
	MacAddress  string
	IPv4Address string
	IPv6Address string
}

func inspectNetwork(n netns.Network, users []engine.Container) networkInspection {
	v := networkInspection{
		Name: n.Name, ID: n.ID, Created: n.Created.Format(time.RFC3339Nano), Scope: "local", Driver: networkDriver(n),
		EnableIPv4: !n.DisableIPv4, EnableIPv6: !n.DisableIPv6, Internal: n.Internal, Attachable: n.Attachable,
		IPAM: ipamInspection{Driver: "default", Config: []poolInspection{}}, Containers: map[string]endpointInspection{},
		Options: orEmpty(n.DriverOpts), Labels: orEmpty(n.Labels),
	}
	for _, family := range []struct {
		subnet  netip.Prefix
		gateway netip.Addr
	}{{n.IPv4, n.Gateway4}, {n.IPv6, n.Gateway6}} {
		if !family.subnet.IsValid() {
			continue
		}
		p := poolInspection{Subnet: family.subnet.String()}
		if family.gateway.IsValid() {
			p.Gateway = family.gateway.String()
		}
		for _, pool := range n.Pools {
			if pool.Subnet != family.subnet {
				continue
			}
			if pool.Range.IsValid() {
				p.IPRange = pool.Range.String()
			}
			for name, ip := range pool.Aux {
				if p.AuxiliaryAddresses == nil {
					p.AuxiliaryAddresses = map[string]string{}
				}
				p.AuxiliaryAddresses[name] = ip.String()
			}
		}
		v.IPAM.Config = append(v.IPAM.Config, p)
	}
	for _, c := range users {
		if !summary.Alive(c.State.Phase) || c.State.Endpoint == nil {
			continue
		}
		for _, l := range c.State.Endpoint.Links {
			if l.Network == n.Name {
				v.Containers[c.ID] = endpointInspection{
					Name: c.Spec.Name, EndpointID: c.ID, MacAddress: l.MAC,
					IPv4Address: withBits(l.IPv4, l.Bits4), IPv6Address: withBits(l.IPv6, l.Bits6),
				}
			}
		}
	}
	return v
}

func withBits(ip netip.Addr, bits int) string {
	if !ip.IsValid() {
		return ""
	}
	return netip.PrefixFrom(ip, bits).String()
}

func orEmpty(m map[string]string) map[string]string {
	if m == nil {
		return map[string]string{}
	}
	return m
}
