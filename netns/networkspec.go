package netns

import (
	"errors"
	"fmt"

	"github.com/stack-run/stack/netns/ipam"
	"github.com/stack-run/stack/netns/nft"
)

// bothFamilies says for IPv4 and IPv6 whether the gateway has a mode.
func bothFamilies(s NetworkSpec, mode string) [2]bool {
	return [2]bool{gatewayMode(s, false) == mode, gatewayMode(s, true) == mode}
}

func firewallOf(n Network) nft.Network {
	return nft.Network{
		Bridge: n.Bridge, Internal: n.Internal,
		Masquerade:  option(n.NetworkSpec, OptMasquerade, true),
		Isolated:    !option(n.NetworkSpec, OptICC, true),
		Routed:      bothFamilies(n.NetworkSpec, modeRouted),
		Unprotected: bothFamilies(n.NetworkSpec, modeUnprotected),
		Leave:       leaving(n.NetworkSpec),
		Trusted:     trusted(n.NetworkSpec),
	}
}

func checkNetwork(s NetworkSpec) error {
	if s.Name == "" {
		return errors.New("it has no name")
	}
	if !s.Attaches() && s.Driver != "host" && s.Driver != "none" && s.Driver != "null" {
		return fmt.Errorf("driver %q is not supported; use bridge, macvlan or ipvlan", s.Driver)
	}
	for _, p := range CheckOptions(s) {
		if p.Refused {
			return p
		}
	}
	var have [2]bool
	for _, p := range s.Pools {
		if !p.Subnet.IsValid() {
			if p.Gateway.IsValid() || p.Range.IsValid() || len(p.Aux) > 0 {
				return errors.New("a gateway, range or auxiliary address needs a subnet; add ipam.config.subnet")
			}
			continue
		}
		f := familyOf(p.Subnet.Addr())
		if have[f] {
			return fmt.Errorf("subnet %s is the second of its family; a bridge has one", p.Subnet)
		}
		have[f] = true
		if p.Subnet.Bits() > p.Subnet.Addr().BitLen()-2 {
			return fmt.Errorf("subnet %s has no room for containers; use a shorter prefix", p.Subnet)
		}
		if f == 0 && s.DisableIPv4 || f == 1 && s.DisableIPv6 {
			return fmt.Errorf("subnet %s is of a family that the network disables", p.Subnet)
		}
		if p.Range.IsValid() && (p.Range.Bits() < p.Subnet.Bits() || !p.Subnet.Contains(p.Range.Addr())) {
			return fmt.Errorf("range %s is outside subnet %s", p.Range, p.Subnet)
		}
		for _, a := range append(auxOf(p), p.Gateway) {
			if a.IsValid() && !ipam.Assignable(p.Subnet, a) {
				return fmt.Errorf("address %s is not one of subnet %s", a, p.Subnet)
			}
		}
	}
	return nil
}
