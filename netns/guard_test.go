package netns

import (
	"fmt"
	"net"
	"net/netip"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/stack-run/stack/netns/link"
	"github.com/stack-run/stack/netns/nft"
)

// ports counts the elements of the table of bridge ports.
func (l *lab) ports() (n int) {
	l.t.Helper()
	all, err := l.table.Elements()
	if err != nil {
		l.t.Fatal(err)
	}
	for _, e := range all {
		if _, ok := e.Port(); ok {
			n++
		}
	}
	return n
}

func TestGuardedPorts(t *testing.T) {
	l := newLab(t)
	l.network(NetworkSpec{Name: "front"})
	l.network(NetworkSpec{Name: "back"})
	a := l.attach(EndpointSpec{ID: "a", OwnAddresses: true, Networks: []Attachment{{Network: "front"}}})
	const each = 7 // of a link with both families
	if !l.table.Complete(guards(a, a.Links)) || len(guards(a, a.Links)) != each {
		t.Errorf("the kernel lacks some of %v", guards(a, a.Links))
	}
	free := EndpointSpec{ID: "free", Networks: []Attachment{{Network: "front"}}}
	f, err := l.Attach(t.Context(), free)
	if err != nil {
		t.Fatal(err)
	}
	if n := l.ports(); n != each {
		t.Errorf("%d elements with one that may use any address, want %d", n, each)
	}
	if _, err := l.Connect(t.Context(), a, Attachment{Network: "back"}); err != nil {
		t.Fatal(err)
	}
	if n := l.ports(); n != 2*each || !l.table.Complete(guards(a, a.Links)) {
		t.Errorf("%d elements after a second network, want %d", n, 2*each)
	}
	if out, err := exec.Command("nft", "flush", "ruleset").CombinedOutput(); err != nil {
		t.Skipf("%v: %s", err, out)
	}
	if err := l.restoreFirewall(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n := l.ports(); n != 2*each || !l.table.Complete(guards(a, a.Links)) {
		t.Errorf("%d elements after a flush, want %d", n, 2*each)
	}
	if err := l.Disconnect(t.Context(), a, "back"); err != nil {
		t.Fatal(err)
	}
	if n := l.ports(); n != each {
		t.Errorf("%d elements after it was disconnected, want %d", n, each)
	}
	// One that shares the namespace may change addresses there.
	if _, err := l.Attach(t.Context(), EndpointSpec{ID: "beside", Mode: "container:a"}); err != nil {
		t.Fatal(err)
	}
	if n := l.ports(); n != 0 {
		t.Errorf("%d elements with a guest that may use any address", n)
	}
	// One that goes with its network, while another network stays.
	l.network(NetworkSpec{Name: "third"})
	last, err := l.Attach(t.Context(), EndpointSpec{ID: "last", OwnAddresses: true, Networks: on("third")})
	if err != nil {
		t.Fatal(err)
	}
	if err := l.RemoveWith(t.Context(), []*Endpoint{last}, "third"); err != nil {
		t.Fatal(err)
	}
	if n := l.ports(); n != 0 {
		t.Errorf("%d elements of an endpoint that went with its network", n)
	}
	b := l.attach(EndpointSpec{ID: "b", OwnAddresses: true, Networks: []Attachment{{Network: "front"}}})
	left := guards(b, b.Links)
	// Of an endpoint that is gone without a word.
	stale := nft.Guard("sv-stale", []byte{2, 0, 0, 0, 0, 1})
	if err := l.table.Add(stale); err != nil {
		t.Fatal(err)
	}
	if err := l.Sweep(t.Context(), func(string) bool { return true }); err != nil {
		t.Fatal(err)
	}
	if n := l.ports(); n != len(left) {
		t.Errorf("%d elements after a sweep, want %d", n, len(left))
	}
	if err := l.DetachAll(t.Context(), []*Endpoint{a, b, f}); err != nil {
		t.Fatal(err)
	}
	if n := l.ports(); n != 0 {
		t.Errorf("%d elements are left", n)
	}
}

// send sends a frame from inside an endpoint, as whoever has CAP_NET_RAW can.
func (l *lab) send(e *Endpoint, frame []byte) {
	l.t.Helper()
	l.inside(e, func() error {
		dev, err := net.InterfaceByName("eth0")
		if err != nil {
			return err
		}
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		return unix.Sendto(fd, frame, 0, &unix.SockaddrLinklayer{Ifindex: dev.Index, Halen: 6})
	})
}

// neighbour is the Ethernet address that an endpoint knows of an address.
func (l *lab) neighbour(e *Endpoint, addr netip.Addr) (mac string) {
	l.t.Helper()
	l.inside(e, func() error {
		family := unix.AF_INET
		if addr.Is6() {
			family = unix.AF_INET6
		}
		all, err := netlink.NeighList(0, family)
		for _, n := range all {
			if n.IP.Equal(addr.AsSlice()) && len(n.HardwareAddr) > 0 {
				mac = n.HardwareAddr.String()
			}
		}
		return err
	})
	return mac
}

// Nobody believes that an address of the victim's is the attacker's.
func TestClaims(t *testing.T) {
	l := newLab(t)
	l.network(NetworkSpec{Name: "n"})
	spec := func(id string) EndpointSpec {
		return EndpointSpec{ID: id, Key: "p/" + id + "/1", OwnAddresses: true, Networks: on("n")}
	}
	victim, client, attacker := l.attach(spec("victim")), l.attach(spec("client")), l.attach(spec("attacker"))
	l.serveTCP(victim, ":80")
	// What was heard a moment ago is else not unlearnt, arp(7).
	l.inside(client, func() error { return link.WriteSysctl("net/ipv4/neigh/eth0/locktime", "0") })
	v, c := victim.Links[0], client.Links[0]
	mac := func(s string) net.HardwareAddr { m, _ := net.ParseMAC(s); return m }
	own := mac(attacker.Links[0].MAC)
	arp := slices.Concat([]byte{8, 6, 0, 1, 8, 0, 6, 4, 0, 2}, own, v.IPv4.AsSlice(), mac(c.MAC), c.IPv4.AsSlice())
	// A neighbour solicitation whose source is the victim's address, and link-layer address
	// the attacker's, RFC 4861, section 4.3.
	solicit := func(source netip.Addr) []byte {
		body := slices.Concat([]byte{135, 0, 0, 0, 0, 0, 0, 0}, c.IPv6.AsSlice(), []byte{1, 1}, own)
		pseudo := slices.Concat(source.AsSlice(), c.IPv6.AsSlice(), []byte{0, 0, 0, byte(len(body)), 0, 0, 0, 58}, body)
		sum := uint32(0)
		for i := 0; i < len(pseudo); i += 2 {
			sum += uint32(pseudo[i])<<8 | uint32(pseudo[i+1])
		}
		for sum > 0xffff {
			sum = sum>>16 + sum&0xffff
		}
		body[2], body[3] = byte(^sum>>8), byte(^sum)
		return slices.Concat([]byte{0x86, 0xdd, 0x60, 0, 0, 0, 0, byte(len(body)), 58, 255}, source.AsSlice(), c.IPv6.AsSlice(), body)
	}
	tag := []byte{0x81, 0, 0, 0}
	for name, payload := range map[string][]byte{
		"ARP": arp, "ARP in a VLAN": slices.Concat(tag, arp), "ARP in two VLANs": slices.Concat(tag, tag, arp),
		"neighbour discovery": solicit(v.IPv6), "neighbour discovery of a link's address": solicit(linkLocal6(mac(v.MAC))),
		"neighbour discovery in two VLANs": slices.Concat(tag, tag, solicit(v.IPv6)),
	} {
		t.Run(name, func(t *testing.T) {
			for _, a := range []netip.Addr{v.IPv4, v.IPv6} {
				if got, err := l.askFrom(client, "tcp", hostPort(a, 80)); err != nil || got == "" {
					t.Fatalf("%s: %q, %v", a, got, err)
				}
			}
			l.send(attacker, slices.Concat(mac(c.MAC), own, payload))
			for _, a := range []netip.Addr{v.IPv4, v.IPv6, linkLocal6(mac(v.MAC))} {
				if got := l.neighbour(client, a); got == own.String() {
					t.Errorf("the client takes the attacker for %s", a)
				}
			}
		})
	}
	// The same frames do their work where nobody is guarded.
	if err := l.table.Forget(guards(attacker, attacker.Links)); err != nil {
		t.Fatal(err)
	}
	l.send(attacker, slices.Concat(mac(c.MAC), own, arp))
	l.send(attacker, slices.Concat(mac(c.MAC), own, solicit(v.IPv6)))
	for _, a := range []netip.Addr{v.IPv4, v.IPv6} {
		if got := l.neighbour(client, a); got != own.String() {
			t.Errorf("unguarded, the client takes %s for %s: the frame is no good", got, a)
		}
	}
}

// Either table may be lost alone.
func TestLostTable(t *testing.T) {
	l := newLab(t)
	l.network(NetworkSpec{Name: "n"})
	for i, family := range []string{"bridge", "inet"} {
		if out, err := exec.Command("nft", "flush", "ruleset", family).CombinedOutput(); err != nil {
			t.Skipf("%v: %s", err, out)
		}
		e := l.attach(EndpointSpec{ID: family, Key: fmt.Sprint(i), OwnAddresses: true, Networks: on("n")})
		if !l.table.Complete(guards(e, e.Links)) {
			t.Errorf("after a loss of the %s table the endpoint is not guarded", family)
		}
	}
}

// datagram is a packet of UDP, with its ethertype before it.
func datagram(from, to netip.AddrPort, text string) []byte {
	length := []byte{0, byte(8 + len(text))}
	udp := slices.Concat([]byte{byte(from.Port() >> 8), byte(from.Port()), byte(to.Port() >> 8), byte(to.Port())}, length, []byte{0, 0}, []byte(text))
	source, dest := from.Addr().AsSlice(), to.Addr().AsSlice()
	if from.Addr().Is4() {
		head := slices.Concat([]byte{0x45, 0, 0, byte(20 + len(udp)), 0, 0, 0, 0, 64, unix.IPPROTO_UDP, 0, 0}, source, dest)
		copy(head[10:], checksum(head))
		return slices.Concat([]byte{8, 0}, head, udp) // without a checksum, RFC 768
	}
	copy(udp[6:], checksum(slices.Concat(source, dest, []byte{0, 0}, length, []byte{0, 0, 0, unix.IPPROTO_UDP}, udp)))
	return slices.Concat([]byte{0x86, 0xdd, 0x60, 0, 0, 0}, length, []byte{unix.IPPROTO_UDP, 64}, source, dest, udp)
}

// checksum is that of RFC 1071.
func checksum(b []byte) []byte {
	sum := uint32(0)
	for i, v := range b {
		sum += uint32(v) << (8 * uint(1-i%2))
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return []byte{byte(^sum >> 8), byte(^sum)}
}

// Nobody gets a packet whose source is a neighbour's address, or one of the world that
// came from a container; what a router passes on arrives.
func TestForgedSources(t *testing.T) {
	l := newLab(t)
	l.outside()
	n := l.network(NetworkSpec{Name: "n"})
	spec := func(id string) EndpointSpec {
		return EndpointSpec{ID: id, Key: "p/" + id + "/1", OwnAddresses: true, Networks: on("n")}
	}
	victim, client, attacker := l.attach(spec("victim")), l.attach(spec("client")), l.attach(spec("attacker"))
	listen := func(address string) net.PacketConn {
		c, err := net.ListenPacket("udp", address)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Close() })
		return c
	}
	var atClient net.PacketConn
	l.inside(client, func() error { atClient = listen(":5353"); return nil })
	atHost := listen(":5353")
	v, c, a := victim.Links[0], client.Links[0], attacker.Links[0]
	mac := func(s string) net.HardwareAddr { m, _ := net.ParseMAC(s); return m }
	bridge, err := net.InterfaceByName(n.Bridge)
	if err != nil {
		t.Fatal(err)
	}
	type try struct {
		name    string
		from    string
		to      netip.Addr
		arrives bool
	}
	tries := []try{
		{"the attacker's own", a.IPv4.String(), c.IPv4, true},
		{"the attacker's own, IPv6", a.IPv6.String(), c.IPv6, true},
		{"the victim's", v.IPv4.String(), c.IPv4, false},
		{"the victim's, IPv6", v.IPv6.String(), c.IPv6, false},
		{"the victim's of its link", linkLocal6(mac(v.MAC)).String(), linkLocal6(mac(c.MAC)), false},
		{"the client's resolver's", "127.0.0.11", c.IPv4, false},
		{"that of nobody near", v.IPv4.Next().Next().Next().String(), c.IPv4, false},
		{"the gateway's", n.Gateway4.String(), c.IPv4, false},
		{"the world's", "198.51.100.7", c.IPv4, true},
		{"the world's, IPv6", "2001:db8::7", c.IPv6, true},
		{"the attacker's own, to the host", a.IPv4.String(), n.Gateway4, true},
		{"the attacker's own, to the host over IPv6", a.IPv6.String(), n.Gateway6, true},
		{"a neighbour's of the host", "192.0.2.100", n.Gateway4, false},
		{"a neighbour's of the host, to another address", "192.0.2.100", netip.MustParseAddr("192.0.2.1"), false},
		{"a neighbour's of the host, IPv6", "fd0f::100", netip.MustParseAddr("fd0f::1"), false},
		{"the host's own", "192.0.2.1", n.Gateway4, false},
		{"the host's loopback", "127.0.0.1", n.Gateway4, false},
		{"one to which no route leads", "198.51.100.7", n.Gateway4, false},
	}
	send := func(x try, text string) {
		at, conn := mac(c.MAC), atClient
		if !slices.Contains([]netip.Addr{c.IPv4, c.IPv6, linkLocal6(mac(c.MAC))}, x.to) {
			at, conn = bridge.HardwareAddr, atHost
		}
		own := a.IPv4
		if x.to.Is6() {
			own = a.IPv6
		}
		to := netip.AddrPortFrom(x.to, 5353)
		l.send(attacker, slices.Concat(at, mac(a.MAC), datagram(netip.AddrPortFrom(netip.MustParseAddr(x.from), 53), to, text)))
		// What is sent after it on the same way arrives after it.
		l.send(attacker, slices.Concat(at, mac(a.MAC), datagram(netip.AddrPortFrom(own, 54), to, "end")))
		var got []string
		b := make([]byte, 100)
		for !slices.Contains(got, "end") {
			_ = conn.SetReadDeadline(time.Now().Add(5 * time.Second))
			n, _, err := conn.ReadFrom(b)
			if err != nil {
				t.Fatalf("%s: %v", x.name, err)
			}
			got = append(got, string(b[:n]))
		}
		if slices.Contains(got, text) != x.arrives {
			t.Errorf("%s: arrived: %q, want it to arrive: %t", x.name, got, x.arrives)
		}
	}
	for i, x := range tries {
		send(x, fmt.Sprint("try ", i))
	}
	// The same frames arrive where nobody is guarded.
	if err := l.table.Forget(append(guards(attacker, attacker.Links), nft.Network{Bridge: n.Bridge}.Elements()...)); err != nil {
		t.Fatal(err)
	}
	for i, x := range tries {
		if !strings.Contains(x.name, "victim") && !strings.HasSuffix(x.name, "to another address") {
			continue
		}
		x.arrives = true
		send(x, fmt.Sprint("unguarded ", i))
	}
}
