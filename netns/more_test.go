package netns

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stack-run/stack/netns/link"
)

func run(t *testing.T, command string) string {
	t.Helper()
	out, err := exec.Command("sh", "-c", command).CombinedOutput()
	if err != nil {
		t.Skipf("%s: %v %s", command, err, out)
	}
	return string(out)
}

func setSysctl(t *testing.T, key, value string) {
	t.Helper()
	old, err := link.ReadSysctl(key)
	if err != nil {
		t.Skip(err)
	}
	if err := link.WriteSysctl(key, value); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = link.WriteSysctl(key, old) })
}

// Where bridged packets pass through netfilter some paths differ.
func TestHairpinWithAndWithoutBridgeFilter(t *testing.T) {
	for _, filter := range []string{"0", "1"} {
		t.Run("bridge-nf-call-iptables="+filter, func(t *testing.T) {
			l := newLab(t)
			setSysctl(t, "net.bridge.bridge-nf-call-iptables", filter)
			setSysctl(t, "net.bridge.bridge-nf-call-ip6tables", filter)
			l.outside()
			l.network(NetworkSpec{Name: "a"})
			l.network(NetworkSpec{Name: "b"})
			l.network(NetworkSpec{Name: "quiet", DriverOpts: map[string]string{OptICC: "false"}})
			web := l.attach(EndpointSpec{ID: "web", Key: "w", Networks: on("a", "b"), Ports: []Port{{HostPort: 8080, ContainerPort: 80}, {HostPort: 8053, ContainerPort: 53, Protocol: "udp"}}})
			peer := l.attach(EndpointSpec{ID: "peer", Key: "p", Networks: on("a")})
			peerB := l.attach(EndpointSpec{ID: "peerb", Key: "pb", Networks: on("b")})
			quiet := l.attach(EndpointSpec{ID: "quiet", Key: "q", Networks: on("quiet"), Ports: []Port{{HostPort: 8081, ContainerPort: 80}}})
			quiet2 := l.attach(EndpointSpec{ID: "quiet2", Key: "q2", Networks: on("quiet")})
			l.serveTCP(web, ":80")
			l.serveUDP(web, ":53")
			l.serveTCP(quiet, ":80")
			for _, c := range []struct {
				from             *Endpoint
				network, address string
				fails            bool
			}{
				{web, "tcp", "192.0.2.1:8080", false}, {web, "tcp", "[fd0f::1]:8080", false}, {web, "udp", "192.0.2.1:8053", false},
				{peer, "tcp", "192.0.2.1:8080", false}, {peer, "tcp", "[fd0f::1]:8080", false}, {peer, "udp", "[fd0f::1]:8053", false},
				{peerB, "tcp", "192.0.2.1:8080", false}, {peerB, "tcp", "[fd0f::1]:8080", false}, {peerB, "udp", "192.0.2.1:8053", false},
				{quiet2, "tcp", "192.0.2.1:8080", false}, {quiet2, "tcp", "192.0.2.1:8081", false}, {quiet, "tcp", "192.0.2.1:8081", false},
				{quiet2, "tcp", hostPort(quiet.Links[0].IPv4, 80), true}, {quiet2, "tcp", hostPort(quiet.Links[0].IPv6, 80), true},
				{peer, "tcp", hostPort(web.Links[0].IPv4, 80), false}, {peer, "tcp", hostPort(web.Links[0].IPv6, 80), false},
				{nil, "tcp", "127.0.0.1:8081", false}, {nil, "tcp", "[::1]:8081", false},
			} {
				from, got := "host", ""
				var err error
				if c.from == nil {
					got, err = ask(c.network, c.address)
				} else {
					from = c.from.Spec.ID
					got, err = l.askFrom(c.from, c.network, c.address)
				}
				if ok := err == nil && got != ""; ok == c.fails {
					t.Errorf("%s asks %s/%s: %q, %v", from, c.address, c.network, got, err)
				}
			}
		})
	}
}

// The kernel forgets everything, the data root does not.
func TestAfterReboot(t *testing.T) {
	l := newLab(t)
	ctx := context.Background()
	l.network(NetworkSpec{Name: "a"})
	spec := EndpointSpec{ID: "web", Key: "p/web/1", Networks: on("a"), Ports: []Port{{HostPort: 8080, ContainerPort: 80}}}
	before, err := l.Attach(ctx, spec)
	if err != nil {
		t.Fatal(err)
	}
	// What a reboot does: run root, links and firewall are gone.
	l.release("web")
	if err := errors.Join(link.Unpin(before.NetNS), l.unplug(before, before.Links[0]), l.unplug(&Endpoint{}, Link{HostLink: before.Links[0].Bridge}), l.table.Remove()); err != nil {
		t.Fatal(err)
	}
	link.RemovePins(l.pinDir())
	if err := os.RemoveAll(l.o.RunRoot); err != nil {
		t.Fatal(err)
	}
	next := &lab{openLab(t, l.root), t, l.root}
	after := next.attach(spec)
	if after.Links[0].IPv4 != before.Links[0].IPv4 || after.Links[0].IPv6 != before.Links[0].IPv6 {
		t.Errorf("address was %s, is %s", before.Links[0].IPv4, after.Links[0].IPv4)
	}
	next.serveTCP(after, ":80")
	if got, err := ask("tcp", "127.0.0.1:8080"); err != nil || got == "" {
		t.Errorf("published: %q, %v", got, err)
	}
}

// Another program flushes the whole ruleset, as nftables.service does on restart.
func TestFlushedFirewall(t *testing.T) {
	l := newLab(t)
	ctx := context.Background()
	l.network(NetworkSpec{Name: "a"})
	e := l.attach(EndpointSpec{ID: "web", Key: "p/web/1", Networks: on("a"), Ports: []Port{{HostPort: 8080, ContainerPort: 80}}})
	l.serveTCP(e, ":80")
	if err := l.table.Remove(); err != nil {
		t.Fatal(err)
	}
	if got, err := ask("tcp", "127.0.0.1:8080"); err != nil || got == "" {
		t.Errorf("by way of the held socket: %q, %v", got, err)
	}
	if _, err := l.Ensure(ctx, "a"); err != nil {
		t.Fatal(err)
	}
	if err := l.Publish(ctx, e); err != nil {
		t.Fatal(err)
	}
	if !l.table.Complete(allElements(e)) {
		t.Error("the ports are not back")
	}
}

// A bridge that somebody deleted comes back with the next endpoint.
func TestBridgeDeleted(t *testing.T) {
	l := newLab(t)
	n := l.network(NetworkSpec{Name: "a"})
	first := l.attach(EndpointSpec{ID: "first", Key: "1", Networks: on("a")})
	if err := l.unplug(&Endpoint{}, Link{HostLink: n.Bridge}); err != nil {
		t.Fatal(err)
	}
	second := l.attach(EndpointSpec{ID: "second", Key: "2", Networks: on("a")})
	l.serveTCP(second, ":80")
	if got, err := ask("tcp", hostPort(second.Links[0].IPv4, 80)); err != nil || got == "" {
		t.Errorf("%q, %v", got, err)
	}
	_ = first
}

// Beside Docker, whose iptables rules drop forwarded packets of others.
func TestBesideDocker(t *testing.T) {
	l := newLab(t)
	if v := run(t, "iptables -V"); !strings.Contains(v, "nf_tables") {
		t.Skip(v)
	}
	outside := l.outside()
	run(t, "iptables -N DOCKER-USER && iptables -A DOCKER-USER -j RETURN && iptables -A FORWARD -j DOCKER-USER && iptables -P FORWARD DROP")
	t.Cleanup(func() {
		if out := run(t, "iptables -S DOCKER-USER 2>/dev/null"); strings.Count(out, "\n") != 2 {
			t.Errorf("rules of ours are left:\n%s", out)
		}
		run(t, "iptables -P FORWARD ACCEPT; iptables -F; iptables -X; nft delete table ip filter")
	})
	l.network(NetworkSpec{Name: "a"})
	l.network(NetworkSpec{Name: "own", DriverOpts: map[string]string{OptBridgeName: "mybridge"}})
	e := l.attach(EndpointSpec{ID: "web", Key: "p/web/1", Networks: on("a"), Ports: []Port{{HostPort: 8080, ContainerPort: 80}}})
	own := l.attach(EndpointSpec{ID: "own", Key: "p/own/1", Networks: on("own")})
	l.serveTCP(e, ":80")
	l.serveTCP(outside, ":80")
	for _, from := range []*Endpoint{e, own} {
		if got, err := l.askFrom(from, "tcp", "192.0.2.100:80"); err != nil || got != "192.0.2.1" {
			t.Errorf("%s to the world: %q, %v\n%s", from.Spec.ID, got, err, run(t, "iptables -S"))
		}
	}
	if got, err := l.askFrom(outside, "tcp", "192.0.2.1:8080"); err != nil || got != "192.0.2.100" {
		t.Errorf("from the world: %q, %v", got, err)
	}
	t.Cleanup(func() { // before the network goes
		_ = l.Detach(context.Background(), e)
		_ = l.Detach(context.Background(), own)
		if err := l.Remove(context.Background(), "a", "own"); err != nil {
			t.Error(err)
		}
	})
}

func TestSubnetsAvoidTheHost(t *testing.T) {
	l := newLab(t)
	// A VPN's routes in a table of its own, and a rule.
	run(t, "ip route add unreachable 172.16.0.0/12 table 77; ip rule add to 10.128.0.0/9 table 77")
	t.Cleanup(func() {
		run(t, "ip route del unreachable 172.16.0.0/12 table 77; ip rule del to 10.128.0.0/9 table 77")
	})
	for i := range 5 {
		n := l.network(NetworkSpec{Name: fmt.Sprint("n", i)})
		if !netip.MustParsePrefix("100.64.0.0/10").Overlaps(n.IPv4) {
			t.Errorf("subnet %s", n.IPv4)
		}
	}
}

func TestCreate(t *testing.T) {
	l := newLab(t)
	ctx := context.Background()
	first := l.network(NetworkSpec{Name: "own", Hosts: 500})
	if first.IPv4.Bits() > 22 || len(first.Bridge) > 15 || len(first.ID) != 64 {
		t.Errorf("network %+v", first)
	}
	if again, err := l.Create(ctx, NetworkSpec{Name: "own"}); err != nil || again.ID != first.ID {
		t.Errorf("the same again: %+v, %v", again, err)
	}
	if got, err := l.Get(first.ID); err != nil || got.Name != "own" {
		t.Errorf("by ID: %+v, %v", got, err)
	}
	// A name may look like the start of another network's ID; "own" cannot.
	for _, name := range []string{"none", first.ID[:1], first.ID[:12]} {
		if _, err := l.Get(name); !errors.Is(err, ErrNotFound) {
			t.Errorf("no such network as %s: %v", name, err)
		}
		if err := l.Remove(ctx, name); !errors.Is(err, ErrNotFound) {
			t.Errorf("removing no such network as %s: %v", name, err)
		}
	}
	pool := func(s string) []Pool { return []Pool{{Subnet: netip.MustParsePrefix(s)}} }
	l.network(NetworkSpec{Name: "fixed", Pools: pool("10.77.0.0/24")})
	for want, spec := range map[string]NetworkSpec{
		"exists already":                         {Name: "own", Internal: true},
		"overlaps 10.77.0.0/24 of network fixed": {Name: "x", Pools: pool("10.77.0.128/25")},
		`driver "overlay" is not supported`:      {Name: "x", Driver: "overlay"},
		"it has no name":                         {},
		"no room for containers":                 {Name: "x", Pools: pool("10.78.0.0/31")},
		"is not one of subnet":                   {Name: "x", Pools: []Pool{{Subnet: netip.MustParsePrefix("10.78.0.0/24"), Gateway: netip.MustParseAddr("10.79.0.1")}}},
		"is outside subnet":                      {Name: "x", Pools: []Pool{{Subnet: netip.MustParsePrefix("10.78.0.0/24"), Range: netip.MustParsePrefix("10.79.0.0/25")}}},
		"second of its family":                   {Name: "x", Pools: append(pool("10.78.0.0/24"), pool("10.79.0.0/24")...)},
		"neither IPv4 nor IPv6":                  {Name: "x", DisableIPv4: true, DisableIPv6: true},
		"use a number from 68":                   {Name: "x", DriverOpts: map[string]string{OptMTU: "huge"}},
		"a link's name has up to 15":             {Name: "x", DriverOpts: map[string]string{OptBridgeName: "much-too-long-name"}},
		"needs a subnet":                         {Name: "x", Pools: []Pool{{Gateway: netip.MustParseAddr("10.79.0.1")}}},
	} {
		if _, err := l.Create(ctx, spec); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: %v, want %q", spec, err, want)
		}
	}
	n := l.network(NetworkSpec{Name: "taken", DriverOpts: map[string]string{OptBridgeName: "lo"}})
	if _, err := l.Ensure(ctx, n.Name); err == nil || !strings.Contains(err.Error(), "belongs to somebody else") {
		t.Errorf("a foreign link as bridge: %v", err)
	}
	if _, err := os.Stat(filepath.Join("/proc/sys/net/ipv4/conf/lo")); err != nil {
		t.Error(err)
	}
}

// With links of IPv4 only a container still has ::1, and no other address of IPv6, until
// it is connected to a network that has them.
func TestLoopbackWithoutIPv6(t *testing.T) {
	l := newLab(t)
	l.network(NetworkSpec{Name: "four", DisableIPv6: true})
	l.network(NetworkSpec{Name: "six"})
	web := l.attach(EndpointSpec{ID: "web", Key: "p/web/1", Networks: on("four")})
	addresses := func() (out []string) {
		t.Helper()
		if err := link.Enter(web.NetNS, func(int) error {
			text, err := os.ReadFile("/proc/thread-self/net/if_inet6")
			for line := range strings.Lines(string(text)) {
				f := strings.Fields(line)
				out = append(out, f[5]+" "+f[0][:4])
			}
			return err
		}); err != nil {
			t.Fatal(err)
		}
		slices.Sort(out)
		return out
	}
	if got := strings.Join(addresses(), ", "); got != "lo 0000" {
		t.Errorf("before: %s", got)
	}
	if _, err := l.Connect(t.Context(), web, Attachment{Network: "six"}); err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(addresses(), ", "); !strings.Contains(got, "eth1 fd") || strings.Contains(got, "eth0") {
		t.Errorf("afterwards: %s", got)
	}
}

func TestRoutedNetwork(t *testing.T) {
	l := newLab(t)
	outside := l.outside()
	l.network(NetworkSpec{Name: "a", DriverOpts: map[string]string{OptGatewayMode: "routed"}})
	web := l.attach(EndpointSpec{ID: "web", Key: "p/web/1", Networks: on("a"), Ports: []Port{{ContainerPort: 80}}})
	l.serveTCP(web, ":80")
	l.serveTCP(web, ":81")
	l.serveTCP(outside, ":80")
	if got, err := l.askFrom(outside, "tcp", hostPort(web.Links[0].IPv4, 80)); err != nil || got != "192.0.2.100" {
		t.Errorf("an open port: %q, %v", got, err)
	}
	if got, err := l.askFrom(outside, "tcp", hostPort(web.Links[0].IPv4, 81)); err == nil {
		t.Errorf("a closed port: %q", got)
	}
	if got, err := l.askFrom(web, "tcp", "192.0.2.100:80"); err != nil || got != web.Links[0].IPv4.String() {
		t.Errorf("to the world: %q, %v", got, err)
	}
}

// What a killed process left does not keep a network, what lives does.
func TestRemoveSweepsVanishedEndpoints(t *testing.T) {
	l := newLab(t)
	ctx := context.Background()
	there := map[string]bool{"here": true}
	l.o.Live = func(id string) bool { return there[id] }
	l.network(NetworkSpec{Name: "a"})
	l.network(NetworkSpec{Name: "b"})
	gone, err := l.Manager.Attach(ctx, EndpointSpec{ID: "gone", Key: "gone", Networks: on("a", "b"), Ports: []Port{{HostPort: 8080, ContainerPort: 80}}})
	if err != nil {
		t.Fatal(err)
	}
	here := l.attach(EndpointSpec{ID: "here", Key: "here", Networks: on("b"), Ports: []Port{{HostPort: 8081, ContainerPort: 80}}})
	l.serveTCP(here, ":80")
	if err := l.Remove(ctx, "b"); !errors.Is(err, ErrInUse) || !strings.Contains(err.Error(), "container here") || strings.Contains(err.Error(), "gone") {
		t.Errorf("removing a network with a live container: %v", err)
	}
	if got, err := ask("tcp", "127.0.0.1:8081"); err != nil || got == "" {
		t.Errorf("the live one does not answer any more: %v", err)
	}
	if users, err := l.Users("a"); err != nil || len(users) > 0 {
		t.Errorf("users %q, %v", users, err)
	}
	if err := l.Remove(ctx, "a"); err != nil {
		t.Error(err)
	}
	if _, err := l.Endpoint(gone.Spec.ID); err == nil {
		t.Error("the record of the vanished one is left")
	}
	if ln, err := net.Listen("tcp", ":8080"); err != nil {
		t.Errorf("its port is still taken: %v", err)
	} else {
		_ = ln.Close()
	}
}

// Who asks for no address gets the lowest that nobody else has, had or is to
// have, and the same again.
func TestDynamicAddresses(t *testing.T) {
	l := newLab(t)
	ctx := context.Background()
	addr := netip.MustParseAddr
	l.network(NetworkSpec{Name: "a", Pools: []Pool{{Subnet: netip.MustParsePrefix("10.99.0.0/27")}}, DisableIPv6: true})
	reserved := map[string][]netip.Addr{"a": {addr("10.99.0.3"), addr("10.99.0.6")}}
	dynamic := func(key string) EndpointSpec {
		return EndpointSpec{ID: strings.ReplaceAll(key, "/", "-"), Key: key, Networks: on("a"), Reserved: reserved}
	}
	want := func(e *Endpoint, a string) {
		t.Helper()
		if e.Links[0].IPv4 != addr(a) {
			t.Errorf("%s has %s, want %s", e.Spec.Key, e.Links[0].IPv4, a)
		}
	}
	// The order of starting says nothing: services are in order before.
	if errs := l.Check(ctx, []EndpointSpec{dynamic("p/web/10"), dynamic("p/web/2"), dynamic("p/app/1"), dynamic("p/web/1")}, nil); errs != nil {
		t.Fatal(errs)
	}
	web2 := l.attach(dynamic("p/web/2"))
	want(web2, "10.99.0.5")
	want(l.attach(dynamic("p/app/1")), "10.99.0.2")
	web1 := l.attach(dynamic("p/web/1"))
	want(web1, "10.99.0.4")
	want(l.attach(dynamic("p/web/10")), "10.99.0.7")
	// A fixed one of a file that came later is kept free, and so is that of a stopped container.
	kept := map[string]bool{"static": true}
	l.o.Live = func(id string) bool { return kept[id] || l.live(id) }
	static := EndpointSpec{ID: "static", Key: "static", Networks: []Attachment{{Network: "a", IPv4: addr("10.99.0.8")}}}
	if err := l.Detach(ctx, l.attach(static)); err != nil {
		t.Fatal(err)
	}
	want(l.attach(dynamic("one-off")), "10.99.0.9")
	if err := l.DetachAll(ctx, []*Endpoint{web1, web2}); err != nil {
		t.Fatal(err)
	}
	want(l.attach(dynamic("another")), "10.99.0.10")
	again := dynamic("p/web/1")
	again.ID = "recreated"
	want(l.attach(again), "10.99.0.4")
	moved := dynamic("p/web/2")
	moved.Reserved = map[string][]netip.Addr{"a": {addr("10.99.0.5")}}
	want(l.attach(moved), "10.99.0.3") // its own is now another's
	// When all are taken, those of who is gone are given, but for fixed ones.
	for i := range 30 {
		e, err := l.Attach(ctx, dynamic(fmt.Sprint("fill", i)))
		if err != nil {
			if i != 21 || !strings.Contains(err.Error(), "no free address") {
				t.Errorf("after %d more: %v", i, err)
			}
			break
		}
		defer l.Detach(ctx, e)
		if a := e.Links[0].IPv4; a == addr("10.99.0.8") || a == addr("10.99.0.6") {
			t.Errorf("endpoint got %s, which is another's", a)
		}
	}
	want(l.attach(static), "10.99.0.8")
	// One-offs that are gone leave nothing behind.
	leases, err := l.loadLeases(web1.Links[0].NetworkID)
	if err != nil {
		t.Fatal(err)
	}
	for _, le := range leases.leases {
		if le.Key != "static" && !l.live(le.Endpoint) {
			t.Errorf("lease %+v is left", le)
		}
	}
}
