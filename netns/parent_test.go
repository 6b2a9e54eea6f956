package netns

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
)

func macvlan(name string, pools []Pool, opts ...string) NetworkSpec {
	n := NetworkSpec{Name: name, Driver: "macvlan", DisableIPv6: true, Pools: pools, DriverOpts: map[string]string{}}
	for pair := range slices.Chunk(opts, 2) {
		n.DriverOpts[pair[0]] = pair[1]
	}
	return n
}

func lanPool() []Pool {
	return []Pool{{Subnet: netip.MustParsePrefix("192.0.2.0/24"), Range: netip.MustParsePrefix("192.0.2.192/26"), Gateway: netip.MustParseAddr("192.0.2.100")}}
}

// modes are the kind of a link in an endpoint and its mode, see ip-link(8).
func (l *lab) modes(e *Endpoint, name string) (kind, mode string) {
	l.t.Helper()
	l.inside(e, func() error {
		found, err := netlink.LinkByName(name)
		if err != nil {
			return err
		}
		kind = found.Type()
		if m, ok := found.(*netlink.Macvlan); ok {
			mode = map[netlink.MacvlanMode]string{
				netlink.MACVLAN_MODE_BRIDGE: "bridge", netlink.MACVLAN_MODE_PRIVATE: "private",
				netlink.MACVLAN_MODE_VEPA: "vepa", netlink.MACVLAN_MODE_PASSTHRU: "passthru"}[m.Mode]
		}
		return nil
	})
	return kind, mode
}

func TestMacvlan(t *testing.T) {
	l := newLab(t)
	outside := l.outside() // on lan0, which is a link of the host with another machine behind it
	l.serveTCP(outside, ":80")
	l.network(macvlan("lan", lanPool(), OptParent, "lan0"))
	web := l.attach(EndpointSpec{ID: "web", Key: "p/web/1", Networks: []Attachment{{Network: "lan", MAC: "02:00:00:00:00:99"}}, Ports: []Port{{HostPort: 8080, ContainerPort: 80}}})
	other := l.attach(EndpointSpec{ID: "other", Key: "p/other/1", Networks: on("lan")})
	l.serveTCP(web, ":80")
	l.serveUDP(web, ":80")

	t.Run("a container is a machine on the parent's network", func(t *testing.T) {
		if got, err := l.askFrom(web, "tcp", "192.0.2.100:80"); err != nil || got != web.Links[0].IPv4.String() {
			t.Errorf("to another machine: %q, %v", got, err)
		}
		for _, network := range []string{"tcp", "udp"} {
			if got, err := l.askFrom(outside, network, hostPort(web.Links[0].IPv4, 80)); err != nil || got != "192.0.2.100" {
				t.Errorf("%s from another machine: %q, %v", network, got, err)
			}
		}
		if got, err := l.askFrom(other, "tcp", hostPort(web.Links[0].IPv4, 80)); err != nil || got != other.Links[0].IPv4.String() {
			t.Errorf("from another container: %q, %v", got, err)
		}
	})
	t.Run("addresses are of the range, and the kernel has them, the MAC address and the mode", func(t *testing.T) {
		if !netip.MustParsePrefix("192.0.2.192/26").Contains(web.Links[0].IPv4) {
			t.Errorf("address %s", web.Links[0].IPv4)
		}
		l.inside(web, func() error {
			i, err := net.InterfaceByName("eth0")
			if err == nil && i.HardwareAddr.String() != "02:00:00:00:00:99" {
				t.Errorf("MAC address %s", i.HardwareAddr)
			}
			return err
		})
		if kind, mode := l.modes(web, "eth0"); kind != "macvlan" || mode != "bridge" {
			t.Errorf("kind %q, mode %q", kind, mode)
		}
		l.inside(web, func() error {
			routes, err := os.ReadFile("/proc/thread-self/net/route")
			if !strings.Contains(string(routes), "eth0\t00000000\t640200C0") {
				t.Errorf("the gateway is not the pool's:\n%s", routes)
			}
			return err
		})
	})
	t.Run("published ports are told of", func(t *testing.T) {
		if len(web.Ports) > 0 || !slices.ContainsFunc(web.Warnings, func(w string) bool { return strings.Contains(w, "at its own address") }) {
			t.Errorf("ports %v, warnings %q", web.Ports, web.Warnings)
		}
	})
	t.Run("a successor has the MAC address at once", func(t *testing.T) {
		for range 5 {
			if err := l.Detach(context.Background(), web); err != nil {
				t.Fatal(err)
			}
			again, err := l.Attach(context.Background(), web.Spec)
			if err != nil {
				t.Fatal(err)
			}
			*web = *again
		}
	})
	t.Run("connect and disconnect", func(t *testing.T) {
		l.network(NetworkSpec{Name: "b"})
		e := l.attach(EndpointSpec{ID: "e", Key: "p/e/1", Networks: on("b")})
		got, err := l.Connect(context.Background(), e, Attachment{Network: "lan"})
		if err != nil {
			t.Fatal(err)
		}
		if kind, _ := l.modes(e, got.Name); kind != "macvlan" {
			t.Errorf("kind %q", kind)
		}
		if err := l.Disconnect(context.Background(), e, "lan"); err != nil {
			t.Fatal(err)
		}
		l.inside(e, func() error {
			if _, err := net.InterfaceByName(got.Name); err == nil {
				t.Errorf("link %s is left", got.Name)
			}
			return nil
		})
	})
	for _, mode := range []string{"private", "vepa"} {
		t.Run("mode "+mode+" keeps containers apart", func(t *testing.T) {
			pools := []Pool{{Subnet: netip.MustParsePrefix("198.51.100.0/24")}}
			l.network(macvlan(mode, pools, OptParent, "lan0", OptMacvlanMode, mode))
			a := l.attach(EndpointSpec{ID: "a" + mode, Key: "p/a/1", Networks: on(mode)})
			b := l.attach(EndpointSpec{ID: "b" + mode, Key: "p/b/1", Networks: on(mode)})
			l.serveTCP(a, ":80")
			if _, got := l.modes(a, "eth0"); got != mode {
				t.Errorf("mode %q", got)
			}
			if got, err := l.askFrom(b, "tcp", hostPort(a.Links[0].IPv4, 80)); err == nil {
				t.Errorf("answers %q", got)
			}
			if err := errors.Join(l.Detach(context.Background(), a), l.Detach(context.Background(), b), l.Remove(context.Background(), mode)); err != nil {
				t.Error(err)
			}
		})
	}
	t.Run("an internal one has no way out", func(t *testing.T) {
		n := macvlan("inner", []Pool{{Subnet: netip.MustParsePrefix("203.0.113.0/24")}}, OptParent, "lan0")
		n.Internal = true
		l.network(n)
		e := l.attach(EndpointSpec{ID: "inner", Key: "p/inner/1", Networks: on("inner")})
		l.inside(e, func() error {
			routes, err := os.ReadFile("/proc/thread-self/net/route")
			if strings.Contains(string(routes), "\t00000000\t") && strings.Contains(string(routes), "eth0\t00000000") {
				t.Errorf("it has a default route:\n%s", routes)
			}
			return err
		})
	})
}

func TestMacvlanRefused(t *testing.T) {
	l := newLab(t)
	ctx := context.Background()
	for want, n := range map[string]NetworkSpec{
		"parent is missing":      macvlan("a", nil),
		"leads to other hosts":   macvlan("b", nil, OptParent, "lo"),
		"vepa, passthru":         macvlan("c", nil, OptParent, "lan0", OptMacvlanMode, "l2"),
		"is not supported; use ": {Name: "d", Driver: "overlay"},
	} {
		if _, err := l.Create(ctx, n); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", n.Name, err)
		}
	}
	if n := l.network(NetworkSpec{Name: "bridge", DriverOpts: map[string]string{OptParent: "lan0"}}); n.Bridge == "" {
		t.Error("a bridge with an option of macvlan has no bridge")
	}
	l.network(macvlan("gone", nil, OptParent, "nolink0"))
	if _, err := l.Attach(ctx, EndpointSpec{ID: "x", Key: "x", Networks: on("gone")}); err == nil || !strings.Contains(err.Error(), "the host has no link nolink0") {
		t.Errorf("%v", err)
	}
	// A parent of ours needs a kernel with dummy links.
	inner := macvlan("inner", nil)
	inner.Internal = true
	n := l.network(inner)
	_, err := l.Ensure(ctx, "inner")
	if err == nil {
		if _, err := net.InterfaceByName(n.Bridge); err != nil {
			t.Error(err)
		}
		a := l.attach(EndpointSpec{ID: "a", Key: "p/a/1", Networks: on("inner")})
		b := l.attach(EndpointSpec{ID: "b", Key: "p/b/1", Networks: on("inner")})
		l.serveTCP(a, ":80")
		if got, err := l.askFrom(b, "tcp", hostPort(a.Links[0].IPv4, 80)); err != nil || got == "" {
			t.Errorf("%q, %v", got, err)
		}
	} else if !strings.Contains(err.Error(), "the kernel has no dummy links") {
		t.Errorf("%v", err)
	}
}

func TestNamesOfVLANs(t *testing.T) {
	for name, want := range map[string]string{
		"eth0.50": "eth0 50", "eth0.1": "eth0 1", "eth0.4094": "eth0 4094", "bond0.10.20": "bond0.10 20",
		"eth0": "", "eth0.": "", ".50": "", "eth0.0": "", "eth0.4095": "", "eth0.x": "", "eth0.-1": "", "eth0.70000": "",
	} {
		got := ""
		if on, id, ok := vlanOf(name); ok {
			got = fmt.Sprint(on, " ", id)
		}
		if got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
}

// A VLAN that is a parent is made for its networks, and goes with the last of them.
func TestVLANParent(t *testing.T) {
	l := newLab(t)
	ctx := context.Background()
	outside := l.outside()
	l.network(macvlan("none", []Pool{{Subnet: netip.MustParsePrefix("203.0.113.0/24")}}, OptParent, "nolink0.7"))
	if _, err := l.Ensure(ctx, "none"); err == nil || !strings.Contains(err.Error(), "the host has no link nolink0.7, and none named nolink0") {
		t.Errorf("%v", err)
	}
	pool := func(subnet string) []Pool { return []Pool{{Subnet: netip.MustParsePrefix(subnet)}} }
	l.network(macvlan("one", pool("198.51.100.0/24"), OptParent, "lan0.50"))
	if _, err := l.Ensure(ctx, "one"); err != nil {
		if !strings.Contains(err.Error(), "8021q") {
			t.Fatal(err)
		}
		t.Skip(err)
	}
	there := func(name string) bool { _, err := net.InterfaceByName(name); return err == nil }
	// The other machine is in the VLAN, too.
	l.inside(outside, func() error {
		eth0, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		vlan := &netlink.Vlan{LinkAttrs: netlink.LinkAttrs{Name: "v50", ParentIndex: eth0.Attrs().Index}, VlanId: 50}
		addr, _ := netlink.ParseAddr("198.51.100.200/24")
		return errors.Join(netlink.LinkAdd(vlan), netlink.AddrAdd(vlan, addr), netlink.LinkSetUp(vlan))
	})
	l.serveTCP(outside, ":80")
	e := l.attach(EndpointSpec{ID: "e", Key: "p/e/1", Networks: on("one")})
	if got, err := l.askFrom(e, "tcp", "198.51.100.200:80"); err != nil || got != e.Links[0].IPv4.String() {
		t.Errorf("%q, %v", got, err)
	}
	// Of another driver, but in the same VLAN only by name: the kernel takes one kind on a link.
	l.network(macvlan("two", pool("198.18.0.0/24"), OptParent, "lan0.50"))
	f := l.attach(EndpointSpec{ID: "f", Key: "p/f/1", Networks: on("two")})
	if err := errors.Join(l.Detach(ctx, e), l.Remove(ctx, "one")); err != nil {
		t.Fatal(err)
	}
	if !there("lan0.50") {
		t.Error("the VLAN went while a network is on it")
	}
	if err := errors.Join(l.Detach(ctx, f), l.Remove(ctx, "two")); err != nil {
		t.Fatal(err)
	}
	if there("lan0.50") {
		t.Error("the VLAN is left")
	}
	t.Run("ipvlan", func(t *testing.T) {
		n := macvlan("ip", pool("198.51.100.0/24"), OptParent, "lan0.50")
		n.Driver = "ipvlan"
		l.network(n)
		e := l.attach(EndpointSpec{ID: "ip", Key: "p/ip/1", Networks: on("ip")})
		if got, err := l.askFrom(e, "tcp", "198.51.100.200:80"); err != nil || got != e.Links[0].IPv4.String() {
			t.Errorf("%q, %v", got, err)
		}
		// With a record that nobody can read.
		if err := l.Detach(ctx, e); err != nil {
			t.Fatal(err)
		}
		found, err := l.List()
		if err != nil {
			t.Fatal(err)
		}
		i := slices.IndexFunc(found, func(n Network) bool { return n.Name == "ip" })
		if err := os.WriteFile(l.recordPath(found[i]), []byte("{"), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := l.Remove(ctx, found[i].ID); err != nil {
			t.Fatal(err)
		}
		if there("lan0.50") {
			t.Error("the VLAN is left")
		}
	})
	t.Run("one that somebody else made stays", func(t *testing.T) {
		lan0, err := netlink.LinkByName("lan0")
		if err != nil {
			t.Fatal(err)
		}
		theirs := &netlink.Vlan{LinkAttrs: netlink.LinkAttrs{Name: "lan0.60", ParentIndex: lan0.Attrs().Index}, VlanId: 60}
		if err := errors.Join(netlink.LinkAdd(theirs), netlink.LinkSetUp(theirs)); err != nil {
			t.Fatal(err)
		}
		l.network(macvlan("theirs", pool("198.51.100.0/24"), OptParent, "lan0.60"))
		if _, err := l.Ensure(ctx, "theirs"); err != nil {
			t.Fatal(err)
		}
		if err := l.Remove(ctx, "theirs"); err != nil {
			t.Fatal(err)
		}
		if !there("lan0.60") {
			t.Error("it went")
		}
	})
	t.Run("on a link that is down", func(t *testing.T) {
		lan0, err := netlink.LinkByName("lan0")
		if err != nil {
			t.Fatal(err)
		}
		l.network(macvlan("down", pool("198.51.100.0/24"), OptParent, "lan0.70"))
		if err := netlink.LinkSetDown(lan0); err != nil {
			t.Fatal(err)
		}
		if _, err := l.Ensure(ctx, "down"); err == nil || !strings.Contains(err.Error(), "link lan0 is down") {
			t.Errorf("%v", err)
		}
		if there("lan0.70") {
			t.Error("half of it is left")
		}
	})
}
