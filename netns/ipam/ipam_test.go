package ipam

import (
	"errors"
	"fmt"
	"net/netip"
	"testing"
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

func TestAddressesFillTheSubnet(t *testing.T) {
	subnet := netip.MustParsePrefix("10.0.0.0/26")
	taken := map[netip.Addr]bool{Gateway(subnet): true}
	for i := range 61 {
		a, ok := Address(subnet, netip.Prefix{}, fmt.Sprint("shop/web/", i), func(a netip.Addr) bool { return taken[a] })
		if !ok || taken[a] || !Assignable(subnet, a) {
			t.Fatalf("address %d: %s %v", i, a, ok)
		}
		taken[a] = true
	}
	if a, ok := Address(subnet, netip.Prefix{}, "more", func(a netip.Addr) bool { return taken[a] }); ok {
		t.Errorf("a full subnet gave %s", a)
	}
}

func TestAddressInRange(t *testing.T) {
	subnet, pool := netip.MustParsePrefix("10.0.0.0/16"), netip.MustParsePrefix("10.0.5.0/30")
	for i := range 20 {
		a, ok := Address(subnet, pool, fmt.Sprint(i), func(netip.Addr) bool { return false })
		if !ok || !pool.Contains(a) {
			t.Errorf("address %s %v is outside %s", a, ok, pool)
		}
	}
	v6 := netip.MustParsePrefix("fd00:1::/64")
	a, ok := Address(v6, netip.Prefix{}, "k", func(netip.Addr) bool { return false })
	b, _ := Address(v6, netip.Prefix{}, "k", func(x netip.Addr) bool { return x == a })
	if !ok || !v6.Contains(a) || b != a.Next() {
		t.Errorf("addresses %s, %s", a, b)
	}
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
