package netns

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"

	"github.com/stack-run/stack/netns/nft"
)

func (p Port) validate() error {
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

func (p Port) protocol() string {
	if p.Protocol == "" {
		return "tcp"
	}
	return p.Protocol
}

// String is the port as docker prints it: 127.0.0.1:8080->80/tcp.
func (p Port) String() string {
	return fmt.Sprintf("%s->%d/%s", p.host(), p.ContainerPort, p.protocol())
}

func (p Port) host() string {
	port := strconv.Itoa(int(p.HostPort))
	if p.HostPortEnd > p.HostPort {
		port += "-" + strconv.Itoa(int(p.HostPortEnd))
	}
	switch {
	case !p.HostIP.IsValid():
		return port
	case p.HostIP.Is6():
		return "[" + p.HostIP.String() + "]:" + port
	}
	return p.HostIP.String() + ":" + port
}

// last is the end of the range of host ports.
func (p Port) last() uint16 { return max(p.HostPort, p.HostPortEnd) }

// bindings are the host addresses a port listens on: both families when the user
// named no address.
func (p Port) bindings() []netip.Addr {
	if p.HostIP.IsValid() {
		return []netip.Addr{p.HostIP.Unmap()}
	}
	return []netip.Addr{netip.IPv4Unspecified(), netip.IPv6Unspecified()}
}

// clashes reports whether two ports, resolved or not, need the same host port.
// Ranges clash only where both are a single port.
func (p Port) clashes(o Port) bool {
	if p.protocol() != o.protocol() || p.HostPort == 0 || p.HostPort != o.HostPort ||
		p.last() != p.HostPort || o.last() != o.HostPort {
		return false
	}
	for _, a := range p.bindings() {
		for _, b := range o.bindings() {
			if a.Is4() == b.Is4() && (a == b || a.IsUnspecified() || b.IsUnspecified()) {
				return true
			}
		}
	}
	return false
}

// elements are the firewall's map elements for one resolved port of an endpoint.
func (e *Endpoint) elements(p Port) []nft.Element {
	var out []nft.Element
	proto := nft.Protocol(p.Protocol)
	for _, host := range p.bindings() {
		outlet := e.outlet(host.Is6())
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
		out = append(out, nft.Publish(host, p.HostPort, proto, target))
		out = append(out, e.wayBack(host, addr)...)
	}
	return out
}

// wayBack are the elements that bring answers of a published address back through
// the host, which has to translate them.
func (e *Endpoint) wayBack(host, addr netip.Addr) []nft.Element {
	out := []nft.Element{nft.Self(addr)}
	for _, l := range e.Links {
		// From a network of the container's own answers would go there directly.
		if !l.Internal && (host.Is4() && l.IPv4.IsValid() || host.Is6() && l.IPv6.IsValid()) {
			out = append(out, nft.Hairpin(l.Bridge, addr))
		}
	}
	return out
}

// allElements are those of all ports, each once.
func (e *Endpoint) allElements() []nft.Element {
	long, single := ranges(e.Ports)
	var out []nft.Element
	for _, r := range long {
		out = append(out, e.rangeElements(r)...)
	}
	for _, p := range single {
		out = append(out, e.elements(p)...)
	}
	return distinct(out)
}

// everyElement are those that any version of this program may have added.
func (e *Endpoint) everyElement() []nft.Element {
	out := e.allElements()
	for _, p := range e.Ports {
		out = append(out, e.elements(p)...)
	}
	return distinct(out)
}

func distinct(elements []nft.Element) []nft.Element {
	type place struct{ set, key, end string }
	seen := map[place]bool{}
	return slices.DeleteFunc(elements, func(e nft.Element) bool {
		p := place{e.Set, string(e.Key), string(e.KeyEnd)}
		again := seen[p]
		seen[p] = true
		return again
	})
}
