package netns

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"slices"

	"github.com/stack-run/stack/netns/nft"
	"golang.org/x/sys/unix"
)

// guards are the elements that keep an endpoint from sending as another one by links. A
// container that may change its own addresses sends as it likes: it may be a router, or
// the next owner of an address that moves.
func guards(e *Endpoint, links []Link) []nft.Element {
	if !e.Spec.OwnAddresses {
		return nil
	}
	var out []nft.Element
	for _, l := range links {
		mac, err := net.ParseMAC(l.MAC)
		if l.HostLink == "" || err != nil || len(mac) != 6 {
			continue
		}
		own := []netip.Prefix{netip.PrefixFrom(l.IPv4, l.Bits4), netip.PrefixFrom(l.IPv6, l.Bits6)}
		more := e.Attachment(l.Network).LinkLocal
		if l.IPv6.IsValid() {
			more = append(slices.Clone(more), linkLocal6(mac))
		}
		for _, a := range more {
			own = append(own, netip.PrefixFrom(a, a.BitLen()))
		}
		seen := map[netip.Addr]bool{}
		own = slices.DeleteFunc(own, func(p netip.Prefix) bool {
			doubled := seen[p.Addr()]
			seen[p.Addr()] = true
			return !p.IsValid() || doubled
		})
		out = append(out, nft.Guard(l.HostLink, mac, own...)...)
	}
	return out
}

// guard adds elements of guards. Where somebody deleted the firewall's tables since, the
// networks are made sure of first.
func (m *Manager) guard(elements []nft.Element, ensure func() error) error {
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
func (m *Manager) unguard(ctx context.Context, id string) error {
	return m.locked(ctx, func() error {
		r, err := m.loadEndpoint(id)
		if err != nil || !r.Spec.OwnAddresses {
			return err
		}
		elements := guards(&r.Endpoint, r.Links)
		r.Spec.OwnAddresses = false
		if err := m.saveEndpoint(&r.Endpoint, r.Published); err != nil {
			return err
		}
		return m.table.Forget(elements)
	})
}

// freed takes over that an endpoint is guarded no more, which only its record says.
func (m *Manager) freed(e *Endpoint) {
	if r, err := m.loadEndpoint(e.Spec.ID); err == nil && !r.Spec.OwnAddresses {
		e.Spec.OwnAddresses = false
	}
}

// linkLocal6 is the address that the kernel gives a link, RFC 4291, appendix A.
func linkLocal6(mac net.HardwareAddr) netip.Addr {
	return netip.AddrFrom16([16]byte{0: 0xfe, 1: 0x80, 8: mac[0] ^ 2, 9: mac[1], 10: mac[2], 11: 0xff, 12: 0xfe, 13: mac[3], 14: mac[4], 15: mac[5]})
}
