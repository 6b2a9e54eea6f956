package netns

import (
	"fmt"
	"net/netip"
	"slices"

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

// served is where the container gets what reaches a host address of a published port:
// the link and its address there. There is none where a listener of ours serves it.
func served(e *Endpoint, host netip.Addr) (outlet *Link, addr netip.Addr) {
	outlet = e.Publisher(host.Is6())
	switch {
	case outlet == nil || host.IsLoopback() && host.Is6():
		return nil, addr
	case host.Is6():
		return outlet, outlet.IPv6
	}
	return outlet, outlet.IPv4
}

// elements are the firewall's map elements for one resolved port of an endpoint.
func elements(e *Endpoint, p Port) []nft.Element {
	var out []nft.Element
	proto := nft.Protocol(p.Protocol)
	for _, host := range p.Bindings() {
		outlet, addr := served(e, host)
		if outlet == nil {
			continue
		}
		target := netip.AddrPortFrom(addr, p.ContainerPort)
		if outlet.Routed(host.Is6()) {
			out = append(out, nft.Open(target, proto))
			continue
		}
		out = append(out, nft.Publish(host, p.HostPort, proto, target))
		if outlet.Trusted {
			out = append(out, nft.Direct(target, proto))
		}
		out = append(out, wayBack(e, host, addr)...)
	}
	return out
}

// wayBack are the elements that bring answers of a published address back through
// the host, which has to translate them.
func wayBack(e *Endpoint, host, addr netip.Addr) []nft.Element {
	out := []nft.Element{nft.Self(addr)}
	for _, l := range e.Links {
		// From a network of the container's own answers would go there directly.
		if !l.Internal && l.Parent == "" && (host.Is4() && l.IPv4.IsValid() || host.Is6() && l.IPv6.IsValid()) {
			out = append(out, nft.Hairpin(l.Bridge, addr))
		}
	}
	return out
}

// allElements are those of all ports, each once.
func allElements(e *Endpoint) []nft.Element {
	long, single := ranges(e.Ports)
	var out []nft.Element
	for _, r := range long {
		out = append(out, rangeElements(e, r)...)
	}
	for _, p := range single {
		out = append(out, elements(e, p)...)
	}
	return distinct(out)
}

// everyElement are those that any version of this program may have added.
func everyElement(e *Endpoint) []nft.Element {
	out := allElements(e)
	for _, p := range e.Ports {
		out = append(out, elements(e, p)...)
	}
	return distinct(out)
}

func distinct(elements []nft.Element) []nft.Element {
	seen := map[string]bool{}
	return slices.DeleteFunc(elements, func(e nft.Element) bool {
		again := seen[e.Place()]
		seen[e.Place()] = true
		return again
	})
}
