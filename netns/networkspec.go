package netns

import (
	"errors"
	"fmt"
	"net/netip"
	"strconv"

	"github.com/stack-run/stack/netns/endpoint"
	"github.com/stack-run/stack/netns/ipam"
	"github.com/stack-run/stack/netns/nft"
)

// Driver options of a network, with Docker's names.
const (
	OptBridgeName  = "com.docker.network.bridge.name"
	OptMTU         = "com.docker.network.driver.mtu"
	OptICC         = "com.docker.network.bridge.enable_icc"           // "false": containers do not reach each other
	OptMasquerade  = "com.docker.network.bridge.enable_ip_masquerade" // "false": containers leave with their own addresses
	OptHostBinding = "com.docker.network.bridge.host_binding_ipv4"    // host address of ports that name none
	// OptGatewayMode is "nat" or "routed": no translation, published ports are open
	// at the container's own address for those who have a route to it.
	OptGatewayMode  = "com.docker.network.bridge.gateway_mode_ipv4"
	OptGatewayMode6 = "com.docker.network.bridge.gateway_mode_ipv6"
)

func mtuOf(s NetworkSpec) int {
	n, _ := strconv.Atoi(s.DriverOpts[OptMTU])
	return n
}

func routed(s NetworkSpec) bool {
	return s.DriverOpts[OptGatewayMode] == "routed" || s.DriverOpts[OptGatewayMode6] == "routed"
}

func option(s NetworkSpec, name string, otherwise bool) bool {
	if v, err := strconv.ParseBool(s.DriverOpts[name]); err == nil {
		return v
	}
	return otherwise
}

func firewallOf(n Network) nft.Network {
	return nft.Network{
		Bridge: n.Bridge, Internal: n.Internal,
		Masquerade: option(n.NetworkSpec, OptMasquerade, true) && !routed(n.NetworkSpec),
		Isolated:   !option(n.NetworkSpec, OptICC, true),
	}
}

func checkNetwork(s NetworkSpec) error {
	if s.Name == "" {
		return errors.New("it has no name")
	}
	if !s.IsBridge() && s.Driver != "host" && s.Driver != "none" && s.Driver != "null" {
		return fmt.Errorf("driver %q is not supported; use bridge", s.Driver)
	}
	for _, opt := range []string{OptICC, OptMasquerade, OptOpen} {
		if v, ok := s.DriverOpts[opt]; ok {
			if _, err := strconv.ParseBool(v); err != nil {
				return fmt.Errorf("driver option %s is %q; use true or false", opt, v)
			}
		}
	}
	if v, ok := s.DriverOpts[OptMTU]; ok {
		if n, err := strconv.Atoi(v); err != nil || n < 68 || n > 65535 {
			return fmt.Errorf("driver option %s is %q; use a number from 68 to 65535", OptMTU, v)
		}
	}
	if v, ok := s.DriverOpts[OptHostBinding]; ok {
		if a, err := netip.ParseAddr(v); err != nil || !a.Is4() {
			return fmt.Errorf("driver option %s is %q; use an IPv4 address", OptHostBinding, v)
		}
	}
	for _, opt := range []string{OptGatewayMode, OptGatewayMode6} {
		if v := s.DriverOpts[opt]; v != "" && v != "nat" && v != "routed" {
			return fmt.Errorf("driver option %s is %q; use nat or routed", opt, v)
		}
	}
	if v, ok := s.DriverOpts[OptBridgeName]; ok && !endpoint.LinkName(v) {
		return fmt.Errorf("driver option %s is %q; a link's name has up to 15 characters without space, slash and colon", OptBridgeName, v)
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
