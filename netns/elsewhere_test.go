package netns

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// sendHere makes a neighbour send packets for addresses, its own loopback among
// them, to the host at the gateways.
func (l *lab) sendHere(neighbour *Endpoint, gateways []string, addrs ...string) {
	l.t.Helper()
	l.inside(neighbour, func() error {
		for _, link := range []string{"all", "eth0"} {
			if err := os.WriteFile("/proc/sys/net/ipv4/conf/"+link+"/route_localnet", []byte("1"), 0); err != nil {
				return err
			}
		}
		lo, err := netlink.LinkByName("lo")
		if err != nil {
			return err
		}
		own, err := netlink.AddrList(lo, netlink.FAMILY_ALL)
		if err != nil {
			return err
		}
		for _, a := range own { // it would answer itself, or take the answer for a forged one
			if err := netlink.AddrDel(lo, &a); err != nil {
				return err
			}
		}
		var errs []error
		for _, a := range addrs {
			ip := netip.MustParseAddr(a)
			gw := gateways[familyOf(ip)]
			dst := &net.IPNet{IP: ip.AsSlice(), Mask: net.CIDRMask(ip.BitLen(), ip.BitLen())}
			errs = append(errs, netlink.RouteReplace(&netlink.Route{LinkIndex: firstIndex, Dst: dst, Gw: net.ParseIP(gw),
				Src: net.ParseIP([]string{"192.0.2.100", "fd0f::100"}[familyOf(ip)])})) // not the destination, which was its own
		}
		return errors.Join(errs...)
	})
}

// address gives a link of the host addresses, and makes the link if it is a new one.
func (l *lab) address(kind netlink.Link, addrs ...string) {
	l.t.Helper()
	if kind.Attrs().Index == 0 {
		if err := netlink.LinkAdd(kind); err != nil {
			l.t.Fatal(err)
		}
		l.t.Cleanup(func() { _ = netlink.LinkDel(kind) })
	}
	for _, a := range addrs {
		addr, err := netlink.ParseAddr(a)
		if err != nil {
			l.t.Fatal(err)
		}
		addr.Flags = unix.IFA_F_NODAD
		if err := netlink.AddrAdd(kind, addr); err != nil {
			l.t.Fatal(err)
		}
		l.t.Cleanup(func() { _ = netlink.AddrDel(kind, addr) })
	}
	if err := netlink.LinkSetUp(kind); err != nil {
		l.t.Fatal(err)
	}
}

func TestPublishedAddressesAreNotReachedElsewhere(t *testing.T) {
	l := newLab(t)
	outside := l.outside()
	l.address(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "side0"}, PeerName: "side1"}, "198.51.100.1/24", "fd51::1/64")
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		t.Fatal(err)
	}
	l.address(lo, "203.0.113.1/32", "fd52::1/128")
	l.network(NetworkSpec{Name: "a"})
	l.network(NetworkSpec{Name: "b"})
	var ports []Port
	for i, a := range []string{"127.0.0.1", "::1", "192.0.2.1", "fd0f::1", "198.51.100.1", "fd51::1", "203.0.113.1", "fd52::1"} {
		for _, proto := range []string{"tcp", "udp"} {
			ports = append(ports, Port{HostIP: netip.MustParseAddr(a), HostPort: uint16(9001 + i), ContainerPort: 80, Protocol: proto})
		}
	}
	web := l.attach(EndpointSpec{ID: "web", Key: "p/web/1", Networks: on("a"), Ports: ports})
	guest := l.attach(EndpointSpec{ID: "guest", Key: "p/guest/1", Networks: on("b")})
	l.serveTCP(web, ":80")
	l.serveUDP(web, ":80")
	l.sendHere(outside, []string{"192.0.2.1", "fd0f::1"}, "127.0.0.1", "::1", "198.51.100.1", "fd51::1", "203.0.113.1", "fd52::1")
	for _, network := range []string{"tcp", "udp"} {
		for _, c := range []struct {
			who     *Endpoint
			address string
			answers bool
		}{
			{outside, "127.0.0.1:9001", false}, {outside, "[::1]:9002", false},
			{outside, "192.0.2.1:9003", true}, {outside, "[fd0f::1]:9004", true},
			{outside, "198.51.100.1:9005", false}, {outside, "[fd51::1]:9006", false},
			{outside, "203.0.113.1:9007", true}, {outside, "[fd52::1]:9008", true},
			{guest, "192.0.2.1:9003", true}, {guest, "[fd51::1]:9006", true}, {guest, "127.0.0.1:9001", false},
			{nil, "127.0.0.1:9001", true}, {nil, "[::1]:9002", true}, {nil, "198.51.100.1:9005", true}, {nil, "203.0.113.1:9007", true},
		} {
			who, got := "host", ""
			var err error
			if c.who == nil {
				got, err = ask(network, c.address)
			} else {
				who = c.who.Spec.ID
				got, err = l.askFrom(c.who, network, c.address)
			}
			if answers := err == nil && got != ""; answers != c.answers {
				t.Errorf("%s asks %s/%s: %q, %v", who, c.address, network, got, err)
			}
		}
	}
}
