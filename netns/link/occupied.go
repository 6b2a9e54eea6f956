package link

import (
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// A route shorter than this is a default route in disguise, such as the
// 0.0.0.0/1 and 128.0.0.0/1 of VPN clients. It claims no subnet for itself.
const shortestClaim = 8

// Occupied returns the prefixes that the host knows: destinations of all routes
// in all tables (which include its addresses) and selectors of routing rules.
// Multicast, loopback and link-local ones are left out.
func Occupied() ([]netip.Prefix, error) {
	var found []netip.Prefix
	take := func(n *net.IPNet) {
		if n == nil {
			return
		}
		addr, ok := netip.AddrFromSlice(n.IP)
		bits, _ := n.Mask.Size()
		p := netip.PrefixFrom(addr.Unmap(), bits)
		if ok && p.IsValid() && bits >= shortestClaim && !addr.IsMulticast() &&
			!addr.IsLoopback() && !addr.IsLinkLocalUnicast() {
			found = append(found, p.Masked())
		}
	}
	for _, family := range []int{unix.AF_INET, unix.AF_INET6} {
		// Table 0 asks for all tables. An interrupted dump may lack a route that
		// changed meanwhile, which a second try shows.
		routes, err := netlink.RouteListFiltered(family, &netlink.Route{}, netlink.RT_FILTER_TABLE)
		if errors.Is(err, netlink.ErrDumpInterrupted) {
			routes, err = netlink.RouteListFiltered(family, &netlink.Route{}, netlink.RT_FILTER_TABLE)
		}
		if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
			if family == unix.AF_INET6 && errors.Is(err, unix.EOPNOTSUPP) {
				continue // no IPv6 in this kernel
			}
			return nil, fmt.Errorf("cannot list routes: %w", err)
		}
		for _, r := range routes {
			take(r.Dst)
		}
		rules, err := netlink.RuleList(family)
		if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
			if errors.Is(err, unix.EOPNOTSUPP) {
				continue
			}
			return nil, fmt.Errorf("cannot list routing rules: %w", err)
		}
		for _, r := range rules {
			take(r.Src)
			take(r.Dst)
		}
	}
	return found, nil
}

// Arrives reports whether packets for an address of this host arrive on the link
// that has it. They do not where the address is on the loopback or a dummy, which
// hold addresses that are routed to the host, or where the link belongs to a
// VRF (https://docs.kernel.org/networking/vrf.html), which is then the link that
// packets seem to come from.
func Arrives(a netip.Addr) (bool, error) {
	found, err := netlink.AddrList(nil, netlink.FAMILY_ALL)
	if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
		return false, fmt.Errorf("cannot list addresses: %w", err)
	}
	for _, f := range found {
		if have, ok := netip.AddrFromSlice(f.IP); !ok || have.Unmap() != a {
			continue
		}
		l, err := netlink.LinkByIndex(f.LinkIndex)
		if err != nil {
			return false, fmt.Errorf("cannot find the link of address %s: %w", a, err)
		}
		if l.Type() == "dummy" || l.Attrs().Flags&net.FlagLoopback != 0 {
			return false, nil
		}
		if i := l.Attrs().MasterIndex; i != 0 {
			master, err := netlink.LinkByIndex(i)
			return err != nil || master.Type() != "vrf", nil //nolint:nilerr // it has just left its master
		}
		return true, nil
	}
	return false, nil
}

// ForgetUDP drops the connection tracking entries of UDP flows to the given host
// ports: a client that kept sending before (or after) a port was published would
// otherwise go on to its old destination.
func ForgetUDP(ports []uint16) error {
	if len(ports) == 0 {
		return nil
	}
	to := udpFlows{}
	for _, p := range ports {
		to[p] = true
	}
	for _, family := range []netlink.InetFamily{unix.AF_INET, unix.AF_INET6} {
		if _, err := netlink.ConntrackDeleteFilters(netlink.ConntrackTable, family, to); err != nil {
			return fmt.Errorf("cannot forget UDP flows: %w", err)
		}
	}
	return nil
}

// udpFlows matches UDP flows by the port they were sent to.
type udpFlows map[uint16]bool

func (to udpFlows) MatchConntrackFlow(f *netlink.ConntrackFlow) bool {
	return f.Forward.Protocol == unix.IPPROTO_UDP && to[f.Forward.DstPort]
}
