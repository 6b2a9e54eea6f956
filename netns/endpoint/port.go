package endpoint

import (
	"fmt"
	"net/netip"
	"strconv"
)

// Transport is Protocol, with its default.
func (p Port) Transport() string {
	if p.Protocol == "" {
		return "tcp"
	}
	return p.Protocol
}

// String is the port as docker prints it: 127.0.0.1:8080->80/tcp.
func (p Port) String() string {
	return fmt.Sprintf("%s->%d/%s", p.Host(), p.ContainerPort, p.Transport())
}

// Host is the port's side of the host: 127.0.0.1:8080-8090.
func (p Port) Host() string {
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

// Last is the end of the range of host ports.
func (p Port) Last() uint16 { return max(p.HostPort, p.HostPortEnd) }

// Bindings are the host addresses a port listens on: both families when the user
// named no address.
func (p Port) Bindings() []netip.Addr {
	if p.HostIP.IsValid() {
		return []netip.Addr{p.HostIP.Unmap()}
	}
	return []netip.Addr{netip.IPv4Unspecified(), netip.IPv6Unspecified()}
}

// Clashes reports whether two ports, resolved or not, need the same host port.
// Ranges clash only where both are a single port.
func (p Port) Clashes(o Port) bool {
	if p.Transport() != o.Transport() || p.HostPort == 0 || p.HostPort != o.HostPort ||
		p.Last() != p.HostPort || o.Last() != o.HostPort {
		return false
	}
	for _, a := range p.Bindings() {
		for _, b := range o.Bindings() {
			if a.Is4() == b.Is4() && (a == b || a.IsUnspecified() || b.IsUnspecified()) {
				return true
			}
		}
	}
	return false
}
