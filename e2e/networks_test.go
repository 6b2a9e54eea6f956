package e2e

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
)

func TestSubnets(t *testing.T) {
	newLAN(t)
	b := newBox(t, "probe")
	// A VPN that has taken much of the private address space.
	var taken []netip.Prefix
	for _, p := range []string{"172.16.0.0/12", "192.168.0.0/16", "10.0.0.0/9"} {
		dst, err := netlink.ParseIPNet(p)
		must(t, err)
		route := &netlink.Route{Dst: dst, Gw: netip.MustParseAddr(lanV4).AsSlice()}
		must(t, netlink.RouteAdd(route))
		t.Cleanup(func() { netlink.RouteDel(route) })
		taken = append(taken, netip.MustParsePrefix(p))
	}
	b.before = snap(t, b)

	subnet := func(t *testing.T, network string) netip.Prefix {
		t.Helper()
		out := b.ok(t, "network", "inspect", "--format", "{{(index .IPAM.Config 0).Subnet}}", network)
		p, err := netip.ParsePrefix(strings.TrimSpace(out))
		must(t, err)
		return p
	}
	t.Run("two hundred networks have subnets of their own, apart from the host's routes", func(t *testing.T) {
		for i := range 200 {
			name := fmt.Sprintf("net%d", i)
			b.ok(t, "network", "create", name)
			p := subnet(t, name)
			for _, other := range taken {
				if p.Overlaps(other) {
					t.Fatalf("%s has %v, which overlaps %v", name, p, other)
				}
			}
			taken = append(taken, p)
		}
	})
	t.Run("the last works like the first", func(t *testing.T) {
		b.ok(t, "container", "run", "--detach", "--network", "net199", "--name", "web", "probe", "serve", "80")
		if r := b.stack(t, "container", "run", "--rm", "--network", "net199", "probe", "get", "http://web/host"); r.code != 0 {
			t.Error(r)
		}
		if r := b.stack(t, "container", "run", "--rm", "--network", "net199", "probe", "get", "http://"+lanV4+"/"); r.stdout != hostV4 {
			t.Error(r)
		}
	})
	t.Run("prune removes those that nobody uses", func(t *testing.T) {
		b.ok(t, "network", "prune", "--force")
		if n := len(strings.Fields(b.ok(t, "network", "ls", "--quiet", "--filter", "type=custom"))); n != 1 {
			t.Errorf("%d networks are left", n)
		}
		b.ok(t, "container", "rm", "--force", "web")
		b.ok(t, "network", "rm", "net199")
		b.nothingLeft(t, b.before)
	})
}
