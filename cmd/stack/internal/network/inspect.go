package network

import (
	"context"
	"net"
	"net/netip"

	docker "github.com/moby/moby/api/types/network"
	"github.com/spf13/cobra"

	"github.com/stack-run/stack/cmd/stack/internal/cli"
	"github.com/stack-run/stack/cmd/stack/internal/summary"
	"github.com/stack-run/stack/engine"
	"github.com/stack-run/stack/netns"
)

func newInspectCmd(a *cli.App) *cobra.Command {
	o := &cli.InspectOptions{}
	cmd := cli.Inspecting(a, o, "inspect [OPTIONS] NETWORK [NETWORK...]", "Display detailed information on one or more networks", Inspector())
	cmd.Flags().BoolP("verbose", "v", false, "Verbose output for diagnostics")
	cmd.ValidArgsFunction = completeNetworks(a)
	return cmd
}

// Inspector inspects networks.
func Inspector() cli.Inspector {
	return cli.Inspector{Kind: "network", Look: func(ctx context.Context, a *cli.App, name string, _ *cli.InspectOptions) (any, error) {
		n, err := findNetwork(ctx, a, name)
		if err != nil {
			return nil, err
		}
		used, err := networkUsers(ctx, a)
		if err != nil {
			return nil, err
		}
		return inspectNetwork(n, used[n.Name]), nil
	}}
}

func inspectNetwork(n netns.Network, users []engine.Container) docker.Inspect {
	v := docker.Inspect{Containers: map[string]docker.EndpointResource{}, Network: docker.Network{
		Name: n.Name, ID: n.ID, Created: n.Created, Scope: "local", Driver: driver(n),
		EnableIPv4: !n.DisableIPv4, EnableIPv6: !n.DisableIPv6, Internal: n.Internal, Attachable: n.Attachable,
		IPAM: docker.IPAM{Driver: "default", Config: []docker.IPAMConfig{}}, Options: orEmpty(n.DriverOpts), Labels: orEmpty(n.Labels),
	}}
	for _, p := range []docker.IPAMConfig{{Subnet: n.IPv4, Gateway: n.Gateway4}, {Subnet: n.IPv6, Gateway: n.Gateway6}} {
		if !p.Subnet.IsValid() {
			continue
		}
		for _, pool := range n.Pools {
			if pool.Subnet == p.Subnet {
				p.IPRange, p.AuxAddress = pool.Range, pool.Aux
			}
		}
		v.IPAM.Config = append(v.IPAM.Config, p)
	}
	for _, c := range users {
		if !summary.Alive(c.State.Phase) || c.State.Endpoint == nil {
			continue
		}
		if c.Spec.Network.Mode == n.Name {
			v.Containers[c.ID] = docker.EndpointResource{Name: c.Spec.Name, EndpointID: c.ID}
		}
		for _, l := range c.State.Endpoint.Links {
			if l.Network == n.Name {
				mac, _ := net.ParseMAC(l.MAC) // a link without one has none to show
				v.Containers[c.ID] = docker.EndpointResource{
					Name: c.Spec.Name, EndpointID: c.ID, MacAddress: docker.HardwareAddr(mac),
					IPv4Address: netip.PrefixFrom(l.IPv4, l.Bits4), IPv6Address: netip.PrefixFrom(l.IPv6, l.Bits6),
				}
			}
		}
	}
	return v
}

func orEmpty(m map[string]string) map[string]string {
	if m == nil {
		return map[string]string{}
	}
	return m
}
