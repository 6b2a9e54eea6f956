package nft

import (
	"errors"
	"flag"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/nftables"
	"github.com/stack-run/stack/netns/internal/kerneltest"
)

var update = flag.Bool("update", false, "write golden files")

func TestMain(m *testing.M) { kerneltest.Main(m) }

func golden(t *testing.T, file, got string) {
	t.Helper()
	if *update {
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(string(want), got); d != "" {
		t.Errorf("%s (-want +got):\n%s", file, d)
	}
}

func TestRulesetText(t *testing.T) {
	golden(t, "testdata/instance.nft", Instance("stack_test").String())
	golden(t, "testdata/ports.nft", Ports("stack_test").String())
	golden(t, "testdata/resolver.nft", Resolver("stack", [4]byte{127, 0, 0, 11}, 40053, 40054).String())
}

func TestElementText(t *testing.T) {
	web4 := netip.MustParseAddrPort("172.16.5.2:80")
	web6 := netip.MustParseAddrPort("[fd00::2]:80")
	var lines []string
	for _, e := range slices.Concat(Network{Bridge: "br-a", Masquerade: true}.Elements(),
		Network{Bridge: "br-b", Internal: true, Masquerade: true, Isolated: true}.Elements(),
		Network{Bridge: "br-c", Masquerade: true, Leave: [2]netip.Addr{netip.MustParseAddr("192.0.2.9"), netip.MustParseAddr("fd01::9")}, Trusted: []string{"eth1", "wg0"}}.Elements(),
		[]Element{
			Direct(web4, 6), Direct(web6, 17),
			Publish(netip.Addr{}, 8080, 6, web4), Publish(netip.MustParseAddr("127.0.0.1"), 8080, 17, web4),
			Publish(netip.IPv6Unspecified(), 8080, 132, web6), Publish(netip.MustParseAddr("fd01::1"), 8080, 6, web6),
			Hairpin("br-a", web4.Addr()), Hairpin("br-a", web6.Addr()), Self(web4.Addr()), Self(web6.Addr()), Open(web4, 6), Open(web6, 17),
			PublishRange(netip.Addr{}, 10000, 20000, 17, web4.Addr()), PublishRange(netip.MustParseAddr("fd01::1"), 10, 20, 6, web6.Addr()),
			Anywhere(netip.MustParseAddr("192.0.2.1")), Anywhere(netip.MustParseAddr("fd01::1")),
		},
		Share(netip.Addr{}, 8080, 6, []netip.AddrPort{web4, netip.MustParseAddrPort("172.16.5.3:80")})[:2],
		Share(netip.MustParseAddr("fd01::1"), 8080, 6, []netip.AddrPort{web6})[23:],
		Guard("sv-1", net.HardwareAddr{2, 0x42, 172, 16, 5, 2}, netip.PrefixFrom(web4.Addr(), 20), netip.PrefixFrom(web6.Addr(), 64), netip.MustParsePrefix("fe80::2/128"))) {
		lines = append(lines, e.String())
	}
	golden(t, "testdata/elements.nft", strings.Join(lines, "\n")+"\n")
}

func TestTableInKernel(t *testing.T) {
	kerneltest.NeedRoot(t)
	table := NewTable("stack_test")
	web := netip.MustParseAddrPort("172.16.5.2:80")
	networks := append(Network{Bridge: "br-a", Masquerade: true}.Elements(), Network{Bridge: "br-b", Internal: true}.Elements()...)
	networks = append(networks, Network{Bridge: "br-c", Masquerade: true, Leave: [2]netip.Addr{netip.MustParseAddr("192.0.2.9"), netip.MustParseAddr("fd01::9")}, Trusted: []string{"eth1"}}.Elements()...)
	ports := []Element{Publish(netip.Addr{}, 8080, 6, web), Publish(netip.MustParseAddr("127.0.0.1"), 53, 17, web),
		Hairpin("br-a", web.Addr()), Open(web, 6), Direct(web, 6), Publish(netip.Addr{}, 8080, 6, netip.MustParseAddrPort("[fd00::2]:80")),
		PublishRange(netip.Addr{}, 10000, 20000, 17, web.Addr()), PublishRange(netip.MustParseAddr("fd01::1"), 10, 20, 6, netip.MustParseAddr("fd00::2"))}
	ports = append(ports, Guard("sv-1", net.HardwareAddr{2, 0x42, 172, 16, 5, 2}, netip.PrefixFrom(web.Addr(), 24), netip.MustParsePrefix("fd00::2/64"))...)

	if err := table.Delete(ports); err != nil {
		t.Errorf("deleting from a table that is not there: %v", err)
	}
	for range 2 { // idempotent
		if err := table.Ensure(networks); err != nil {
			t.Fatal(err)
		}
		if err := table.Add(ports); err != nil {
			t.Fatal(err)
		}
	}
	if !table.Complete(append(networks, ports...)) {
		t.Error("the table is not complete")
	}
	taken := Publish(netip.Addr{}, 8080, 6, netip.MustParseAddrPort("172.16.5.3:80"))
	if err := table.Add([]Element{taken}); !errors.Is(err, ErrTaken) {
		t.Errorf("publishing a taken port: %v", err)
	}
	all, err := table.Elements()
	if err != nil || len(all) != len(networks)+len(ports) {
		t.Errorf("%d elements, want %d; %v", len(all), len(networks)+len(ports), err)
	}
	if b, err := table.Bridges(); err != nil || len(b) != 3 {
		t.Errorf("bridges %q, %v", b, err)
	}
	compareWithNft(t, table.rules)
	compareWithNft(t, table.ports)

	// Sharing a port takes the place of having it alone, in one step.
	two := Share(netip.Addr{}, 8080, 6, []netip.AddrPort{web, netip.MustParseAddrPort("172.16.5.3:80")})
	for range 2 {
		if err := errors.Join(table.Balance(), table.Replace(nil, two)); err != nil {
			t.Fatal(err)
		}
	}
	sharing := table.rules
	sharing.Chains = slices.Clone(sharing.Chains)
	i := slices.IndexFunc(sharing.Chains, func(c Chain) bool { return c.Name == shareChain })
	sharing.Chains[i].Rules = shareRules()
	compareWithNft(t, sharing)
	one := Share(netip.Addr{}, 8080, 6, []netip.AddrPort{web})
	// What is there counts, not what should be.
	for _, before := range [][]Element{two, nil, two[:5]} {
		if err := table.Replace(before, one); err != nil || !table.Complete(one) {
			t.Errorf("from two containers to one: %v", err)
		}
	}
	for range 2 {
		if err := table.Replace(two, nil); err != nil {
			t.Error(err)
		}
	}

	// Another version of the rules is replaced, elements stay.
	old := NewTable("stack_test")
	old.rules.Chains = old.rules.Chains[:3]
	old.rules.Chains[1].Rules, old.rules.Chains[2].Rules = nil, nil
	if err := old.Ensure(nil); err != nil {
		t.Fatal(err)
	}
	if table.Complete(nil) {
		t.Error("another version counts as complete")
	}
	if err := table.Ensure(nil); err != nil || !table.Complete(ports) {
		t.Errorf("after the upgrade: %v, complete %v", err, table.Complete(ports))
	}
	compareWithNft(t, table.rules)
	compareWithNft(t, table.ports)

	if err := table.Delete(append(ports[:2:2], taken, Hairpin("br-z", web.Addr()))); err != nil {
		t.Errorf("deleting some that are not there: %v", err)
	}
	if table.Complete(ports[:1]) || !table.Complete(ports[2:]) {
		t.Error("the wrong elements are gone")
	}
	for range 2 {
		if err := table.Remove(); err != nil {
			t.Error(err)
		}
	}
	if all, err := table.Elements(); err != nil || len(all) != 0 {
		t.Errorf("a removed table has elements %v, %v", all, err)
	}
}

// compareWithNft checks that the kernel's rules, printed by nft(8), read as ours.
func compareWithNft(t *testing.T, r Ruleset) {
	t.Helper()
	out, err := exec.Command("nft", "-ny", "list", "table", map[nftables.TableFamily]string{nftables.TableFamilyINet: "inet", nftables.TableFamilyBridge: "bridge"}[r.Family], r.Table).Output()
	if err != nil {
		t.Logf("not compared with nft(8): %v", err)
		return
	}
	var got, want []string
	chain := false
	for _, line := range strings.Split(string(out), "\n") {
		line = strings.TrimSpace(line)
		switch {
		case strings.HasPrefix(line, "chain version_"):
			chain = false
		case strings.HasPrefix(line, "chain "):
			chain = true
		}
		if chain && line != "" && line != "}" && !strings.HasPrefix(line, "type ") {
			got = append(got, line)
		}
	}
	for _, c := range r.Chains {
		want = append(want, "chain "+c.Name+" {")
		for _, r := range c.Rules {
			want = append(want, r.String())
		}
	}
	norm := func(lines []string) []string {
		// nft(8) prints some things in its own words.
		r := strings.NewReplacer("meta nfproto ipv4 ", "", "meta nfproto ipv6 ", "",
			"meta l4proto tcp", "meta l4proto 6", "meta l4proto udp", "meta l4proto 17", "meta l4proto icmp", "meta l4proto 1", "meta l4proto ipv6-icmp", "meta l4proto 58", "meta nfproto 2 ", "", "meta nfproto 10 ", "", "ct status dnat", "ct status 0x20",
			"ct state established,related", "ct state 0x2,0x4", "admin-prohibited", "3",
			"fib daddr type local", "fib daddr type 2", "iif type != local", "iif type != 2", "iiftype ether", "iiftype 1",
			"meta protocol 0x0800 ", "", "meta protocol 0x0806 ", "", "meta protocol ip ", "", "meta protocol arp ", "", "meta protocol ip6 ", "", "meta protocol 0x86dd ", "",
			"ip6 saddr fe80::/10", "@nh,64,128 & 0xffc00000000000000000000000000000 == 0xfe800000000000000000000000000000",
			"ip6 saddr ::", "@nh,64,128 0x0", "iifname . ip6 saddr", "iifname . @nh,64,128",
			"icmpv6 taddr", "@th,64,128",
			" [invalid type]", "") // of what is only a beginning
		var out []string
		for _, l := range lines {
			out = append(out, r.Replace(l))
		}
		return out
	}
	if d := cmp.Diff(norm(want), norm(got)); d != "" {
		t.Errorf("nft(8) reads the table differently (-ours +nft):\n%s", d)
	}
}

func TestResolverTableInKernel(t *testing.T) {
	kerneltest.NeedRoot(t)
	for range 2 {
		if err := Apply(Resolver("stack", [4]byte{127, 0, 0, 11}, 40053, 40054)); err != nil {
			t.Fatal(err)
		}
	}
	rules, err := (&nftables.Conn{}).GetRules(&nftables.Table{Name: "stack", Family: nftables.TableFamilyIPv4}, &nftables.Chain{Name: "output"})
	if err != nil || len(rules) != 4 {
		t.Errorf("%d rules, %v", len(rules), err)
	}
}
