package network

import (
	"context"
	"net/netip"
	"time"

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

// inspection is what "docker network inspect" prints (Engine API,
// NetworkInspect).
type inspection struct {
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

func inspectNetwork(n netns.Network, users []engine.Container) inspection {
	v := inspection{
		Name: n.Name, ID: n.ID, Created: n.Created.Format(time.RFC3339Nano), Scope: "local", Driver: driver(n),
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
		if c.Spec.Network.Mode == n.Name {
			v.Containers[c.ID] = endpointInspection{Name: c.Spec.Name, EndpointID: c.ID}
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
