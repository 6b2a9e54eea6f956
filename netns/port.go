package netns

import (
	"fmt"
	"net/netip"

	"github.com/stack-run/stack/netns/nft"
)

// checkPort checks what needs no knowledge of the host.
func checkPort(p Port) error {
	if nft.Protocol(p.Protocol) == 0 {
		return fmt.Errorf("port %s: protocol %q is not known; use tcp, udp or sctp", p, p.Protocol)
	}
	if p.ContainerPort == 0 {
		return fmt.Errorf("port %s: the container's port is missing", p)
	}
	if p.HostPortEnd != 0 && (p.HostPort == 0 || p.HostPortEnd < p.HostPort) {
		return fmt.Errorf("port %s: the range of host ports ends before it starts", p)
	}
	return nil
}

// elements are the firewall's map elements for one resolved port of an endpoint.
func elements(e *Endpoint, p Port) []nft.Element {
	var out []nft.Element
	proto := nft.Protocol(p.Protocol)
	for _, host := range p.Bindings() {
		outlet := e.Outlet(host.Is6())
		if outlet == nil || host.IsLoopback() && host.Is6() {
			continue // a listener serves these
		}
		addr := outlet.IPv4
		if host.Is6() {
			addr = outlet.IPv6
		}
		target := netip.AddrPortFrom(addr, p.ContainerPort)
		if outlet.Routed {
			out = append(out, nft.Open(target, proto))
			continue
		}
		out = append(out, nft.Publish(host, p.HostPort, proto, target), nft.Self(addr))
		for _, l := range e.Links {
			// From a network of the container's own answers would go there directly,
			// past the host that has to translate them back.
			if !l.Internal && (host.Is4() && l.IPv4.IsValid() || host.Is6() && l.IPv6.IsValid()) {
				out = append(out, nft.Hairpin(l.Bridge, addr))
			}
		}
	}
	return out
}

// allElements are those of all ports, each once.
func allElements(e *Endpoint) []nft.Element {
	var out []nft.Element
	for _, p := range e.Ports {
	next:
		for _, el := range elements(e, p) {
			for _, o := range out {
				if o.Same(el) {
					continue next
				}
			}
			out = append(out, el)
		}
	}
	return out
}
