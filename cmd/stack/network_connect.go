package main

import (
	"context"
	"fmt"
	"net/netip"
	"strings"

	"github.com/spf13/cobra"

	"github.com/stack-run/stack/netns"
)

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
	v, err := a.api(ctx)
	if err != nil {
		return err
	}
	if at.Network, err = a.networkName(ctx, o.Network); err != nil {
		return err
	}
	if at.Network == "host" || at.Network == "none" {
		return fmt.Errorf("cannot connect container %s to network %s: it has another network of its own; run it with --network %s", o.Container, at.Network, at.Network)
	}
	return v.Connect(ctx, o.Container, at)
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
	v, err := a.api(ctx)
	if err != nil {
		return err
	}
	name, err := a.networkName(ctx, o.Network)
	if err != nil {
		return err
	}
	return v.Disconnect(ctx, o.Container, name, o.Force)
}
