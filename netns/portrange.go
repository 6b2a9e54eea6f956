package netns

import (
	"cmp"
	"context"
	"net/netip"
	"slices"

	"github.com/stack-run/stack/netns/nft"
)

const (
	// shortestRange is how many ports in a row are one element of the firewall's
	// maps instead of many.
	shortestRange = 16
	// mostHeld is how many ports of an endpoint are held by sockets of ours, of which
	// each costs a descriptor here and one where they are kept.
	mostHeld = 256
)

// portRange is published ports in a row that keep their numbers.
type portRange struct {
	Port        // the first
	last uint16 // the last
}

// ranges finds the long rows among resolved ports. The others are single.
func ranges(ports []Port) (long []portRange, single []Port) {
	sorted := slices.Clone(ports)
	slices.SortStableFunc(sorted, func(a, b Port) int {
		return cmp.Or(cmp.Compare(a.Transport(), b.Transport()), a.HostIP.Compare(b.HostIP), cmp.Compare(a.HostPort, b.HostPort))
	})
	for i := 0; i < len(sorted); {
		first := sorted[i]
		n := 1
		for i+n < len(sorted) && continues(first, sorted[i+n], n) {
			n++
		}
		if n >= shortestRange && first.HostPort == first.ContainerPort {
			long = append(long, portRange{first, first.HostPort + uint16(n-1)})
		} else {
			single = append(single, sorted[i:i+n]...)
		}
		i += n
	}
	return long, single
}

// continues reports whether o is the n-th port after p of one row.
func continues(p Port, o Port, n int) bool {
	return o.Transport() == p.Transport() && o.HostIP == p.HostIP && o.HostPortEnd == 0 && p.HostPortEnd == 0 &&
		int(o.HostPort) == int(p.HostPort)+n && o.HostPort == o.ContainerPort && p.HostPort == p.ContainerPort
}

// elements are the firewall's map elements for a range of an endpoint.
func rangeElements(e *Endpoint, r portRange) []nft.Element {
	var out []nft.Element
	for _, host := range r.Bindings() {
		outlet, addr := served(e, host)
		if outlet == nil {
			continue
		}
		each := func(element func(netip.AddrPort, byte) nft.Element) {
			for port := int(r.HostPort); port <= int(r.last); port++ {
				out = append(out, element(netip.AddrPortFrom(addr, uint16(port)), nft.Protocol(r.Protocol)))
			}
		}
		if outlet.Routed(host.Is6()) {
			each(nft.Open)
			continue
		}
		if outlet.Trusted {
			each(nft.Direct)
		}
		out = append(out, nft.PublishRange(host, r.HostPort, r.last, nft.Protocol(r.Protocol), addr))
		out = append(out, wayBack(e, host, addr)...)
	}
	return out
}

// unheld reports for which of the ports, as the user asked for them, no socket is
// held: long rows, and all when they are very many.
func unheld(ports []Port) func(Port) bool {
	if len(ports) > mostHeld {
		long, single := ranges(ports)
		many := len(single) > mostHeld
		return func(p Port) bool {
			return many || slices.ContainsFunc(long, func(r portRange) bool {
				return p.Transport() == r.Transport() && p.HostIP == r.HostIP && p.HostPort >= r.HostPort && p.HostPort <= r.last
			})
		}
	}
	return func(Port) bool { return false }
}

// portIndex finds ports that clash, however many there are.
type portIndex map[portKey][]portUser

type portKey struct {
	protocol string
	port     uint16
}

type portUser struct {
	port Port
	by   EndpointSpec
}

func (x portIndex) add(p Port, by EndpointSpec) {
	k := portKey{p.Transport(), p.HostPort}
	x[k] = append(x[k], portUser{p, by})
}

func (x portIndex) clashing(p Port) (EndpointSpec, bool) {
	for _, u := range x[portKey{p.Transport(), p.HostPort}] {
		if u.port.Clashes(p) {
			return u.by, true
		}
	}
	return EndpointSpec{}, false
}

// publishedPorts are those of all endpoints but some.
func publishedPorts(all []endpointRecord, except []string) portIndex {
	x := portIndex{}
	for _, e := range all {
		if e.Published && !slices.Contains(except, e.Spec.ID) {
			for _, p := range e.Ports {
				x.add(p, e.Spec)
			}
		}
	}
	return x
}

// freePorts tells whether ports can be had now, of which there may be thousands.
type freePorts struct {
	busy  map[string]map[uint16]bool // by protocol
	tried map[netip.Addr]bool        // host addresses that ports can be had on
}

// check tells why a port cannot be had, if so. The socket is really opened unless
// the address is known to be good and nobody is on the port.
func (f *freePorts) check(ctx context.Context, p Port) error {
	if f.busy == nil {
		f.busy, f.tried = map[string]map[uint16]bool{}, map[netip.Addr]bool{}
	}
	busy, known := f.busy[p.Transport()]
	if !known && p.Transport() != "sctp" {
		var err error
		if busy, err = busyPorts(p.Transport()); err == nil {
			f.busy[p.Transport()] = busy
		}
	}
	if busy != nil && !busy[p.HostPort] && f.tried[p.HostIP] {
		return nil
	}
	err := bindable(ctx, p)
	if err == nil {
		f.tried[p.HostIP] = true
	}
	return err
}
