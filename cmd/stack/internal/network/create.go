package network

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/stack-run/stack/cmd/stack/internal/cli"
	"github.com/stack-run/stack/netns"
)

type createOptions struct {
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

func newCreateCmd(a *cli.App, runF func(context.Context, *cli.App, *createOptions) error) *cobra.Command {
	if runF == nil {
		runF = runCreate
	}
	o := &createOptions{}
	cmd := &cobra.Command{
		Use:   "create [OPTIONS] NETWORK",
		Short: "Create a network",
		Args:  cli.ExactArgs(1),
		RunE: a.Run(func(ctx context.Context, _ *cobra.Command, args []string) error {
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
	f.BoolVar(&o.IPv6, "ipv6", false, "Enable or disable IPv6 address assignment")
	f.StringArrayVar(&o.Label, "label", nil, "Set metadata on a network")
	f.StringArrayVarP(&o.Opt, "opt", "o", nil, "Set driver specific options")
	f.String("scope", "", "Control the network's scope")
	f.StringSliceVar(&o.Subnet, "subnet", nil, "Subnet in CIDR format that represents a network segment")
	cli.Ignore(f, "config-from", "config-only", "ingress", "scope", "ipam-opt")
	return cmd
}

func runCreate(ctx context.Context, a *cli.App, o *createOptions) error {
	s, err := o.spec()
	if err != nil {
		return err
	}
	warnOptions(a, netns.CheckOptions(s))
	v, err := a.API(ctx)
	if err != nil {
		return err
	}
	if err := refuseBuiltin("create", s.Name); err != nil {
		return err
	}
	n, err := v.CreateNetwork(ctx, s)
	if err != nil {
		return err
	}
	fmt.Fprintln(a.Out, n.ID)
	return nil
}

// WarnOptions tells of driver options of an attachment that have no effect.
func WarnOptions(a *cli.App, at netns.Attachment) {
	warnOptions(a, netns.CheckAttachmentOptions(at.DriverOpts))
}

// warnOptions tells of driver options that have no effect; wrong ones are errors of
// what is made with them.
func warnOptions(a *cli.App, problems []netns.OptionProblem) {
	for _, p := range problems {
		if !p.Refused {
			a.Warn("%v", p)
		}
	}
}

func (o *createOptions) spec() (netns.NetworkSpec, error) {
	var s netns.NetworkSpec
	if o.IPAMDriver != "" && o.IPAMDriver != "default" {
		return s, fmt.Errorf("cannot use --ipam-driver %q; there is only default", o.IPAMDriver)
	}
	switch o.Name {
	case "host", "none", "":
		return s, fmt.Errorf("cannot create network %q: the name is taken by the system", o.Name)
	}
	opts, err := cli.KeyValues("--opt", o.Opt, true)
	if err != nil {
		return s, err
	}
	labels, err := cli.KeyValues("--label", o.Label, false)
	if err != nil {
		return s, err
	}
	pools, err := o.pools()
	return netns.NetworkSpec{
		Name: o.Name, Driver: o.Driver, DriverOpts: opts, Internal: o.Internal, Attachable: o.Attachable,
		DisableIPv4: !o.IPv4, DisableIPv6: !o.IPv6 && !slices.ContainsFunc(pools, func(p netns.Pool) bool { return p.Subnet.Addr().Is6() }), Pools: pools, Labels: labels,
	}, err
}

// pools assigns ranges, gateways and reserved addresses to their subnets.
func (o *createOptions) pools() ([]netns.Pool, error) {
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
