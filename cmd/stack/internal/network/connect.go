package network

import (
	"context"
	"fmt"
	"net/netip"
	"strings"

	"github.com/spf13/cobra"

	"github.com/stack-run/stack/cmd/stack/internal/cli"
	"github.com/stack-run/stack/cmd/stack/internal/runspec"
	"github.com/stack-run/stack/netns"
)

type connectOptions struct {
	Network, Container string // arguments
	Alias              []string
	DriverOpt          []string
	GatewayPriority    int
	IP, IP6            string
	Link               []string
	LinkLocalIP        []string
}

func newConnectCmd(a *cli.App, runF func(context.Context, *cli.App, *connectOptions) error) *cobra.Command {
	if runF == nil {
		runF = runConnect
	}
	o := &connectOptions{}
	cmd := &cobra.Command{
		Use:   "connect [OPTIONS] NETWORK CONTAINER",
		Short: "Connect a container to a network",
		Args:  cli.ExactArgs(2),
		RunE: a.Run(func(ctx context.Context, _ *cobra.Command, args []string) error {
			o.Network, o.Container = args[0], args[1]
			return runF(ctx, a, o)
		}),
		ValidArgsFunction: completeNetworks(a),
	}
	f := cmd.Flags()
	f.StringSliceVar(&o.Alias, "alias", nil, "Add network-scoped alias for the container")
	f.StringSliceVar(&o.DriverOpt, "driver-opt", nil, "driver options for the network")
	f.IntVar(&o.GatewayPriority, "gw-priority", 0, "Highest gw-priority provides the default gateway. Accepts positive and negative values.")
	f.StringVar(&o.IP, "ip", "", `IPv4 address (e.g., "172.30.100.104")`)
	f.StringVar(&o.IP6, "ip6", "", `IPv6 address (e.g., "2001:db8::33")`)
	f.StringArrayVar(&o.Link, "link", nil, "Add link to another container")
	f.StringSliceVar(&o.LinkLocalIP, "link-local-ip", nil, "Add a link-local address for the container")
	return cmd
}

func (o *connectOptions) attachment() (netns.Attachment, error) {
	opts, err := cli.KeyValues("--driver-opt", o.DriverOpt, true)
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
	for _, text := range o.Link {
		link, err := runspec.Link(text)
		if err != nil {
			return at, fmt.Errorf("invalid --link %q: %w", text, err)
		}
		at.Links = append(at.Links, link)
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

func runConnect(ctx context.Context, a *cli.App, o *connectOptions) error {
	at, err := o.attachment()
	if err != nil {
		return err
	}
	WarnOptions(a, at)
	v, err := a.API(ctx)
	if err != nil {
		return err
	}
	if at.Network, err = NetworkName(ctx, a, o.Network); err != nil {
		return err
	}
	if at.Network == "host" || at.Network == "none" {
		return fmt.Errorf("cannot connect container %s to network %s: it has another network of its own; run it with --network %s", o.Container, at.Network, at.Network)
	}
	return v.Connect(ctx, o.Container, at)
}

type disconnectOptions struct {
	Network, Container string // arguments
	Force              bool
}

func newDisconnectCmd(a *cli.App, runF func(context.Context, *cli.App, *disconnectOptions) error) *cobra.Command {
	if runF == nil {
		runF = runDisconnect
	}
	o := &disconnectOptions{}
	cmd := &cobra.Command{
		Use:   "disconnect [OPTIONS] NETWORK CONTAINER",
		Short: "Disconnect a container from a network",
		Args:  cli.ExactArgs(2),
		RunE: a.Run(func(ctx context.Context, _ *cobra.Command, args []string) error {
			o.Network, o.Container = args[0], args[1]
			return runF(ctx, a, o)
		}),
		ValidArgsFunction: completeNetworks(a),
	}
	cmd.Flags().BoolVarP(&o.Force, "force", "f", false, "Force the container to disconnect from a network")
	return cmd
}

func runDisconnect(ctx context.Context, a *cli.App, o *disconnectOptions) error {
	v, err := a.API(ctx)
	if err != nil {
		return err
	}
	name, err := NetworkName(ctx, a, o.Network)
	if err != nil {
		return err
	}
	return v.Disconnect(ctx, o.Container, name, o.Force)
}
