package netns

import (
	"errors"
	"net"
	"net/netip"
	"slices"

	"github.com/stack-run/stack/netns/nft"
	"golang.org/x/sys/unix"
)

// guards are the elements that keep an endpoint from sending as another one. A
// container that may change its own addresses sends as it likes: it may be a router, or
// the next owner of an address that moves.
func guards(e *Endpoint) []nft.Element {
	if e.Spec.AnyAddress {
		return nil
	}
	var out []nft.Element
	for _, l := range e.Links {
		mac, err := net.ParseMAC(l.MAC)
		if l.HostLink == "" || err != nil {
			continue
		}
		var own []netip.Addr
		for _, a := range append([]netip.Addr{l.IPv4, l.IPv6}, e.Attachment(l.Network).LinkLocal...) {
			if a.IsValid() && !slices.Contains(own, a) {
				own = append(own, a)
			}
		}
		out = append(out, nft.Guard(l.HostLink, mac, own...)...)
	}
	return out
}

// guard has an endpoint guarded. Where somebody deleted the firewall's tables since, the
// networks are made sure of first.
func (m *Manager) guard(e *Endpoint, ensure func() error) error {
	elements := guards(e)
	if len(elements) == 0 {
		return nil
	}
	err := m.table.Add(elements)
	if errors.Is(err, unix.ENOENT) {
		if err = ensure(); err == nil {
			err = m.table.Add(elements)
		}
	}
	return err
}

// unguard lets who shares an endpoint's namespace, and may, use any address there.
func (m *Manager) unguard(id string) error {
	r, err := m.loadEndpoint(id)
	if err != nil || r.Spec.AnyAddress {
		return err
	}
	elements := guards(&r.Endpoint)
	r.Spec.AnyAddress = true
	if err := m.saveEndpoint(&r.Endpoint, r.Published); err != nil {
		return err
	}
	return m.table.Delete(elements)
}

// leaveGuards forgets endpoints whose links are gone.
func (m *Manager) leaveGuards(endpoints []*Endpoint) error {
	var elements []nft.Element
	for _, e := range endpoints {
		all := *e
		all.Links = m.allLinks(e)
		elements = append(elements, guards(&all)...)
	}
	if len(elements) == 0 {
		return nil
	}
	return m.table.Delete(elements)
}
