package e2e

import (
	"errors"
	"fmt"
	"net"
	"os"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/stack-run/stack/internal/thread"
)

// The machine's second local network, and the neighbour on it.
const (
	sideV4     = "198.51.100.1"
	sideV6     = "2001:db8:51::1"
	sidePeerV4 = "198.51.100.254"
	sidePeerV6 = "2001:db8:51::254"
)

// newSide connects the machine to a second local network, with nothing on it but
// a neighbour.
func newSide(t *testing.T) *lan {
	t.Helper()
	l := &lan{work: make(chan func())}
	ready := make(chan error)
	go thread.Own(func() { // as in newLAN
		ready <- unix.Unshare(unix.CLONE_NEWNET)
		for f := range l.work {
			f()
		}
	})
	must(t, <-ready)
	t.Cleanup(func() { close(l.work) })
	var ns int
	l.do(func() { ns = unix.Gettid() })
	must(t, netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "side0"}, PeerName: "eth0", PeerNamespace: netlink.NsPid(ns)}))
	t.Cleanup(func() {
		if host, err := netlink.LinkByName("side0"); err == nil {
			netlink.LinkDel(host)
		}
	})
	must(t, plug("side0", sideV4+"/24", sideV6+"/64", "", ""))
	var err error
	l.do(func() {
		err = errors.Join(plug("lo", "", "", "", ""), plug("eth0", sidePeerV4+"/24", sidePeerV6+"/64", sideV4, sideV6))
	})
	must(t, err)
	awaitLinkLocal(t, "side0")
	return l
}

// steal makes the lan's computer send packets for the machine's loopback to the machine,
// from an address of its own.
func (l *lan) steal(t *testing.T, gw4, gw6, src4, src6 string) {
	t.Helper()
	var err error
	l.do(func() {
		// /proc/sys/net is that of the thread that opens it.
		if err = os.WriteFile("/proc/sys/net/ipv4/conf/all/route_localnet", []byte("1"), 0); err != nil {
			return
		}
		var lo netlink.Link
		var own []netlink.Addr
		if lo, err = netlink.LinkByName("lo"); err == nil {
			own, err = netlink.AddrList(lo, netlink.FAMILY_ALL)
		}
		for _, a := range own { // it would answer itself, or take the answer for a forged one
			err = errors.Join(err, netlink.AddrDel(lo, &a))
		}
		if err != nil {
			return
		}
		var eth netlink.Link
		if eth, err = netlink.LinkByName("eth0"); err != nil {
			return
		}
		for _, r := range [][3]string{{"127.0.0.1/32", gw4, src4}, {"::1/128", gw6, src6}} {
			dst, perr := netlink.ParseIPNet(r[0])
			err = errors.Join(err, perr, netlink.RouteReplace(&netlink.Route{
				LinkIndex: eth.Attrs().Index, Dst: dst, Gw: net.ParseIP(r[1]), Src: net.ParseIP(r[2])}))
		}
	})
	must(t, err)
}

// knock tells whether somebody answers at an address.
func (l *lan) knock(network, addr string) (answer string, err error) {
	l.do(func() {
		d := net.Dialer{Timeout: 700 * time.Millisecond}
		var c net.Conn
		if c, err = d.Dial(network, addr); err != nil {
			return
		}
		defer c.Close()
		c.SetDeadline(time.Now().Add(700 * time.Millisecond))
		if _, err = fmt.Fprint(c, "GET /addr HTTP/1.0\r\n\r\n"); err != nil {
			return
		}
		b := make([]byte, 500)
		n := 0
		n, err = c.Read(b)
		answer = string(b[:n])
	})
	return answer, err
}

// What is published on an address of the host is not reached by other ways.
func TestNeighboursDoNotReachOtherAddresses(t *testing.T) {
	near := newLAN(t)
	side := newSide(t)
	b := newBox(t, "probe")
	b.compose(t, `
		name: app
		services:
			web:
				image: probe
				command: ["serve", "80"]
				ports: ["127.0.0.1:8081:80", "[::1]:8082:80", "`+hostV4+`:8083:80", "[`+hostV6+`]:8084:80", "8085:80", "203.0.113.1:8086:80"]
			udp:
				image: probe
				command: ["echo", "53"]
				ports: ["127.0.0.1:8081:53/udp", "[::1]:8082:53/udp", "`+hostV4+`:8083:53/udp", "[`+hostV6+`]:8084:53/udp", "8085:53/udp"]
			guest:
				image: probe
				command: ["on-term", "0"]
				networks: [other]
		networks:
			default: {enable_ipv6: true}
			other: {enable_ipv6: true}
	`)
	// An address that is routed to the host, as that of a load balancer.
	lo, err := netlink.LinkByName("lo")
	must(t, err)
	vip, err := netlink.ParseAddr("203.0.113.1/32")
	must(t, err)
	must(t, netlink.AddrAdd(lo, vip))
	t.Cleanup(func() { netlink.AddrDel(lo, vip) })
	must(t, os.WriteFile("/proc/sys/net/ipv4/conf/side0/rp_filter", []byte("0"), 0))
	b.ok(t, "up", "--detach", "--wait")
	near.steal(t, hostV4, hostV6, lanV4, lanV6)
	side.steal(t, sideV4, sideV6, sidePeerV4, sidePeerV6)

	ways := []struct {
		from *lan
		name string
	}{{near, "a neighbour"}, {side, "a neighbour on the other network"}}
	for _, network := range []string{"tcp", "udp"} {
		for _, w := range ways {
			t.Run(w.name+" does not reach the host's loopback over "+network, func(t *testing.T) {
				for _, addr := range []string{"127.0.0.1:8081", "[::1]:8082", "127.0.0.1:8085", "[::1]:8085"} {
					if got, err := w.from.knock(network, addr); err == nil {
						t.Errorf("%s answers %q", addr, got)
					}
				}
			})
		}
		t.Run("a neighbour reaches what is published on its own link's address over "+network, func(t *testing.T) {
			for _, addr := range []string{hostV4 + ":8083", "[" + hostV6 + "]:8084", hostV4 + ":8085", "[" + hostV6 + "]:8085", sideV4 + ":8085"} {
				if _, err := near.knock(network, addr); err != nil {
					t.Errorf("%s: %v", addr, err)
				}
			}
		})
		t.Run("one on the other link does not, over "+network, func(t *testing.T) {
			for _, addr := range []string{hostV4 + ":8083", "[" + hostV6 + "]:8084"} {
				if got, err := side.knock(network, addr); err == nil {
					t.Errorf("%s answers %q", addr, got)
				}
			}
			for _, addr := range []string{sideV4 + ":8085", hostV4 + ":8085", "[" + sideV6 + "]:8085"} {
				if _, err := side.knock(network, addr); err != nil {
					t.Errorf("%s: %v", addr, err)
				}
			}
		})
	}
	t.Run("an address that is routed to the host answers on each link", func(t *testing.T) {
		for _, w := range ways {
			if _, err := w.from.knock("tcp", "203.0.113.1:8086"); err != nil {
				t.Errorf("%s: %v", w.name, err)
			}
		}
	})
	t.Run("the host itself and containers reach all of them", func(t *testing.T) {
		for _, a := range []string{"127.0.0.1:8081", "[::1]:8082", hostV4 + ":8083", "[" + hostV6 + "]:8084", "127.0.0.1:8085"} {
			fetch(t, "http://"+a+"/host")
		}
		for _, a := range []string{hostV4 + ":8083", "[" + hostV6 + "]:8084"} {
			b.ok(t, "exec", "-T", "guest", "/probe", "get", "http://"+a+"/host")
		}
	})
	b.ok(t, "down")
	b.nothingLeft(t, b.before)
}
