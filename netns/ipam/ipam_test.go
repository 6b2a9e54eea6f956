package ipam

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func prefixes(ss ...string) []netip.Prefix {
	var ps []netip.Prefix
	for _, s := range ss {
		ps = append(ps, netip.MustParsePrefix(s))
	}
	return ps
}

func TestSubnetsNeverOverlap(t *testing.T) {
	// A VPN that claims 10/8, Docker's bridge, a LAN, Tailscale.
	used := prefixes("10.0.0.0/8", "172.17.0.0/16", "192.168.1.0/24", "100.64.0.0/10")
	for i := range 2000 {
		p, err := Subnet(DefaultPools(), used, fmt.Sprintf("project%d_default", i), 0)
		if err != nil {
			t.Fatalf("network %d: %v", i, err)
		}
		if o, ok := Overlapping(p, used); ok {
			t.Fatalf("network %d: %s overlaps %s", i, p, o)
		}
		used = append(used, p)
	}
}

func TestSubnetIsStable(t *testing.T) {
	a, err := Subnet(DefaultPools(), nil, "shop_default", 0)
	if err != nil {
		t.Fatal(err)
	}
	b, _ := Subnet(DefaultPools(), prefixes("10.0.0.0/8"), "shop_default", 0)
	if a != b {
		t.Errorf("subnet changed from %s to %s", a, b)
	}
}

func TestSubnetGrowsWithHosts(t *testing.T) {
	for hosts, want := range map[int]int{0: 24, 50: 24, 126: 24, 127: 23, 1000: 21} {
		if p, err := Subnet(DefaultPools(), nil, "x", hosts); err != nil || p.Bits() != want {
			t.Errorf("%d hosts: %s, %v, want /%d", hosts, p, err, want)
		}
	}
}

func TestSubnetFull(t *testing.T) {
	pools := []Pool{{Base: netip.MustParsePrefix("10.1.0.0/23"), Bits: 24}}
	_, err := Subnet(pools, prefixes("10.1.0.0/24", "10.1.1.128/25"), "x", 0)
	if !errors.Is(err, ErrFull) {
		t.Fatalf("error %v, want ErrFull", err)
	}
}

func TestUniqueLocal(t *testing.T) {
	pool := UniqueLocal("seed")
	p, err := Subnet([]Pool{pool}, nil, "shop_default", 0)
	if err != nil || p.Bits() != 64 || !pool.Base.Contains(p.Addr()) || !p.Addr().IsPrivate() {
		t.Fatalf("subnet %s, %v of %s", p, err, pool.Base)
	}
}

func TestAddressesAreTheLowest(t *testing.T) {
	for _, c := range []struct {
		subnet, pool string
		taken        string
		want         string
	}{
		{"10.0.0.0/24", "", "10.0.0.1", "10.0.0.2 10.0.0.3 10.0.0.4"},
		{"10.0.0.0/24", "", "10.0.0.1 10.0.0.3 10.0.0.4", "10.0.0.2 10.0.0.5 10.0.0.6"},
		{"10.0.0.0/16", "10.0.5.0/30", "10.0.0.1", "10.0.5.0 10.0.5.1 10.0.5.2 10.0.5.3 -"},
		{"10.0.0.0/30", "", "10.0.0.1", "10.0.0.2 -"},
		{"10.0.0.0/31", "", "", "10.0.0.0 10.0.0.1 -"},
		{"10.0.0.248/29", "10.0.0.254/31", "", "10.0.0.254 -"},
		{"fd00:1::/64", "", "fd00:1::1", "fd00:1::2 fd00:1::3"},
		{"fd00:1::/64", "fd00:1::ff00/120", "", "fd00:1::ff00 fd00:1::ff01"},
	} {
		taken := map[netip.Addr]bool{}
		for _, a := range strings.Fields(c.taken) {
			taken[netip.MustParseAddr(a)] = true
		}
		var pool netip.Prefix
		if c.pool != "" {
			pool = netip.MustParsePrefix(c.pool)
		}
		var got []string
		for range strings.Fields(c.want) {
			a, ok := Address(netip.MustParsePrefix(c.subnet), pool, func(a netip.Addr) bool { return taken[a] })
			if !ok {
				got = append(got, "-")
				continue
			}
			taken[a] = true
			got = append(got, a.String())
		}
		if strings.Join(got, " ") != c.want {
			t.Errorf("subnet %s, range %q, taken %q: %s, want %s", c.subnet, c.pool, c.taken, got, c.want)
		}
	}
}

// Whatever is taken, what is given is free, assignable and the lowest such, and a
// subnet is full only when nothing is left.
func TestAddressProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		bits := rapid.IntRange(24, 31).Draw(t, "bits")
		subnet := netip.PrefixFrom(netip.MustParseAddr("10.1.2.0"), bits)
		pool := netip.PrefixFrom(subnet.Addr(), rapid.IntRange(bits, 32).Draw(t, "range"))
		taken := map[netip.Addr]bool{}
		for _, n := range rapid.SliceOf(rapid.Uint64Range(0, 255)).Draw(t, "taken") {
			taken[offset(subnet.Addr(), n, 32)] = true
		}
		a, ok := Address(subnet, pool, func(a netip.Addr) bool { return taken[a] })
		if ok && (taken[a] || !Assignable(subnet, a) || !pool.Contains(a)) {
			t.Fatalf("%s is not to be had", a)
		}
		for lower := pool.Addr(); pool.Contains(lower) && lower != a; lower = lower.Next() {
			if Assignable(subnet, lower) && !taken[lower] {
				t.Fatalf("got %s %v, but %s is free", a, ok, lower)
			}
		}
	})
}

func TestAssignable(t *testing.T) {
	for _, c := range []struct {
		subnet, addr string
		want         bool
	}{
		{"10.0.0.0/24", "10.0.0.0", false}, {"10.0.0.0/24", "10.0.0.255", false}, {"10.0.0.0/24", "10.0.0.7", true},
		{"10.0.0.0/24", "10.0.1.7", false}, {"10.0.0.0/31", "10.0.0.0", true}, {"fd00::/64", "fd00::", false},
		{"fd00::/64", "fd00::ffff:ffff:ffff:ffff", true},
	} {
		if got := Assignable(netip.MustParsePrefix(c.subnet), netip.MustParseAddr(c.addr)); got != c.want {
			t.Errorf("Assignable(%s, %s) = %v", c.subnet, c.addr, got)
		}
	}
}
