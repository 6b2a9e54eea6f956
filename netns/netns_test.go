package netns

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stack-run/stack/netns/internal/kerneltest"
	"github.com/stack-run/stack/netns/link"
	"github.com/stack-run/stack/netns/nft"
)

func TestMain(m *testing.M) { kerneltest.Main(m) }

func TestTwoNetworks(t *testing.T) {
	l := newLab(t)
	l.network(NetworkSpec{Name: "a"})
	l.network(NetworkSpec{Name: "b"})
	web := l.attach(EndpointSpec{ID: "web", Key: "p/web/1", Networks: on("a")})
	peer := l.attach(EndpointSpec{ID: "peer", Key: "p/peer/1", Networks: on("a")})
	other := l.attach(EndpointSpec{ID: "other", Key: "p/other/1", Networks: on("b")})
	both := l.attach(EndpointSpec{ID: "both", Key: "p/both/1", Networks: on("a", "b")})
	l.serveTCP(web, ":80")
	for _, addr := range []netip.Addr{web.Links[0].IPv4, web.Links[0].IPv6} {
		for _, from := range []*Endpoint{peer, both} {
			if got, err := l.askFrom(from, "tcp", hostPort(addr, 80)); err != nil || got != from.Links[0].IPv4.String() && got != from.Links[0].IPv6.String() {
				t.Errorf("%s asks %s: %q, %v", from.Spec.ID, addr, got, err)
			}
		}
		if got, err := ask("tcp", hostPort(addr, 80)); err != nil || got == "" {
			t.Errorf("host asks %s: %q, %v", addr, got, err)
		}
		start := time.Now()
		if got, err := l.askFrom(other, "tcp", hostPort(addr, 80)); err == nil {
			t.Errorf("other network asks %s: %q", addr, got)
		} else if took := time.Since(start); took > 500*time.Millisecond {
			t.Errorf("other network learns after %s that it may not: %v", took, err)
		}
	}
	if users, err := l.Users("a"); err != nil || strings.Join(users, "|") != "project p, container both|project p, container peer|project p, container web" {
		t.Errorf("users %q, %v", users, err)
	}
	if err := l.Remove(context.Background(), "a"); !errors.Is(err, ErrInUse) {
		t.Errorf("removing a network in use: %v", err)
	}
}

func TestInternalNetwork(t *testing.T) {
	l := newLab(t)
	outside := l.outside()
	l.network(NetworkSpec{Name: "in", Internal: true})
	l.network(NetworkSpec{Name: "out"})
	db := l.attach(EndpointSpec{ID: "db", Key: "p/db/1", Networks: on("in"), Ports: []Port{{HostPort: 5432, ContainerPort: 5432}}})
	web := l.attach(EndpointSpec{ID: "web", Key: "p/web/1", Networks: on("in", "out"), Ports: []Port{{HostPort: 8080, ContainerPort: 80}}})
	if len(db.Ports) != 0 || len(db.Warnings) == 0 {
		t.Errorf("ports %v, warnings %q of a container with internal networks only", db.Ports, db.Warnings)
	}
	l.serveTCP(db, ":5432")
	l.serveTCP(web, ":80")
	l.serveTCP(outside, ":80")
	if _, err := l.askFrom(web, "tcp", hostPort(db.Links[0].IPv4, 5432)); err != nil {
		t.Errorf("inside: %v", err)
	}
	if got, err := l.askFrom(web, "tcp", "192.0.2.100:80"); err != nil || got != "192.0.2.1" {
		t.Errorf("web asks the world: %q, %v", got, err)
	}
	for _, to := range []string{"192.0.2.100:80", "[fd0f::100]:80", hostPort(web.Links[1].IPv4, 80)} {
		if got, err := l.askFrom(db, "tcp", to); err == nil {
			t.Errorf("internal asks %s: %q", to, got)
		}
	}
	// With routes of its own making it gets no further, nor through published ports.
	l.inside(db, func() error {
		s, err := link.Open()
		if err != nil {
			return err
		}
		defer s.Close()
		var b link.Batch
		b.DefaultRoute(firstIndex, db.Links[0].Gateway4)
		b.DefaultRoute(firstIndex, db.Links[0].Gateway6)
		return s.Do(&b)
	})
	for _, to := range []string{"192.0.2.100:80", "[fd0f::100]:80", hostPort(web.Links[1].IPv4, 80),
		hostPort(db.Links[0].Gateway4, 8080), hostPort(db.Links[0].Gateway6, 8080), "192.0.2.1:8080", "127.0.0.1:8080"} {
		if got, err := l.askFrom(db, "tcp", to); err == nil && got != "" {
			t.Errorf("internal with a default route asks %s: %q", to, got)
		}
	}
}

func TestPublishedPorts(t *testing.T) {
	l := newLab(t)
	outside := l.outside()
	l.network(NetworkSpec{Name: "a"})
	l.network(NetworkSpec{Name: "b"})
	web := l.attach(EndpointSpec{ID: "web", Key: "p/web/1", Networks: on("a", "b"), Ports: []Port{
		{HostPort: 8080, ContainerPort: 80}, {HostPort: 8053, ContainerPort: 53, Protocol: "udp"},
		{HostIP: netip.MustParseAddr("127.0.0.1"), HostPort: 8081, ContainerPort: 80},
		{ContainerPort: 80}, {HostPort: 9000, HostPortEnd: 9002, ContainerPort: 80},
		{HostPort: 8090, ContainerPort: 90},
	}})
	peer := l.attach(EndpointSpec{ID: "peer", Key: "p/peer/1", Networks: on("a")})
	peerB := l.attach(EndpointSpec{ID: "peerb", Key: "p/peerb/1", Networks: on("b")})
	l.network(NetworkSpec{Name: "c"})
	stranger := l.attach(EndpointSpec{ID: "stranger", Key: "p/stranger/1", Networks: on("c")})
	second := l.attach(EndpointSpec{ID: "second", Key: "p/web/2", Networks: on("a"), Ports: []Port{{HostPort: 9000, HostPortEnd: 9002, ContainerPort: 80}}})
	l.serveTCP(web, ":80")
	l.serveTCP(web, "0.0.0.0:90") // a server without IPv6
	l.serveUDP(web, ":53")
	l.serveTCP(second, ":80")
	if web.Ports[3].HostPort == 0 || web.Ports[4].HostPort != 9000 || second.Ports[0].HostPort != 9001 {
		t.Fatalf("ports %v and %v", web.Ports, second.Ports)
	}
	ephemeral := fmt.Sprint(web.Ports[3].HostPort)
	gw := web.Links[0].Gateway4.String()
	for _, c := range []struct {
		from             *Endpoint // nil: the host
		network, address string
		want             string // the client that the container sees; "-": fails; "": any
	}{
		{nil, "tcp", "127.0.0.1:8080", gw}, {nil, "tcp", "[::1]:8080", ""}, {nil, "tcp", "192.0.2.1:8080", "192.0.2.1"},
		{nil, "tcp", "[fd0f::1]:8080", "fd0f::1"}, {nil, "tcp", "127.0.0.1:" + ephemeral, gw}, {nil, "tcp", "[::1]:" + ephemeral, ""},
		{nil, "tcp", "127.0.0.1:9000", gw}, {nil, "tcp", "127.0.0.1:9001", second.Links[0].Gateway4.String()}, {nil, "tcp", "127.0.0.1:9002", "-"},
		{nil, "tcp", "127.0.0.1:8081", gw}, {nil, "tcp", "192.0.2.1:8081", "-"}, {nil, "tcp", "[::1]:8081", "-"},
		{nil, "udp", "127.0.0.1:8053", gw}, {nil, "udp", "[::1]:8053", ""}, {nil, "udp", "192.0.2.1:8053", "192.0.2.1"},
		{nil, "tcp", "[::1]:8090", ""}, {nil, "tcp", "127.0.0.1:8090", gw},
		{outside, "tcp", "192.0.2.1:8080", "192.0.2.100"}, {outside, "tcp", "[fd0f::1]:8080", "fd0f::100"},
		{outside, "udp", "192.0.2.1:8053", "192.0.2.100"}, {outside, "udp", "[fd0f::1]:8053", "fd0f::100"},
		{outside, "tcp", "192.0.2.1:8081", "-"},
		// Past the published ports there is no way in.
		{outside, "tcp", hostPort(web.Links[0].IPv4, 80), "-"}, {outside, "tcp", hostPort(web.Links[0].IPv6, 80), "-"},
		// From containers of the same network, the other network, another network, itself.
		{peer, "tcp", "192.0.2.1:8080", ""}, {peer, "tcp", "[fd0f::1]:8080", ""}, {peer, "udp", "192.0.2.1:8053", ""},
		{peerB, "tcp", "192.0.2.1:8080", ""}, {peerB, "tcp", "[fd0f::1]:8080", ""},
		{stranger, "tcp", "192.0.2.1:8080", stranger.Links[0].IPv4.String()}, {stranger, "tcp", "[fd0f::1]:8080", stranger.Links[0].IPv6.String()},
		{web, "tcp", "192.0.2.1:8080", ""}, {web, "tcp", "[fd0f::1]:8080", ""}, {peer, "tcp", gw + ":8080", ""},
		{stranger, "tcp", "192.0.2.1:8081", "-"}, {stranger, "tcp", "127.0.0.1:8080", "-"},
	} {
		from, got := "host", ""
		var err error
		if c.from == nil {
			got, err = ask(c.network, c.address)
		} else {
			from = c.from.Spec.ID
			got, err = l.askFrom(c.from, c.network, c.address)
		}
		switch {
		case c.want == "-" && err == nil && got != "":
			t.Errorf("%s asks %s/%s: %q, want a failure", from, c.address, c.network, got)
		case c.want != "-" && (err != nil || got == "" || c.want != "" && got != c.want):
			t.Errorf("%s asks %s/%s: %q, %v; want %q", from, c.address, c.network, got, err, c.want)
		}
	}
	// Others on the host cannot take the port, nor what the kernel forwards for us.
	for _, a := range []string{"0.0.0.0:8080", "[::1]:8080", "127.0.0.1:8081"} {
		if ln, err := net.Listen("tcp", a); err == nil {
			t.Errorf("a published port can be listened on: %s", a)
			_ = ln.Close()
		}
	}

	ctx := context.Background()
	for range 2 {
		if err := l.Unpublish(ctx, web); err != nil {
			t.Error(err)
		}
	}
	if got, err := ask("tcp", "127.0.0.1:8080"); err == nil {
		t.Errorf("an unpublished port answers %q", got)
	}
	before := web.Ports[3].HostPort
	for range 2 {
		if err := l.Publish(ctx, web); err != nil {
			t.Fatal(err)
		}
	}
	if web.Ports[3].HostPort != before {
		t.Errorf("ephemeral port changed from %d to %d", before, web.Ports[3].HostPort)
	}
	if got, err := ask("tcp", "127.0.0.1:8080"); err != nil || got != gw {
		t.Errorf("published again: %q, %v", got, err)
	}
}

// Without any process of ours the kernel goes on; a new one adopts the sockets.
func TestHoldAdopts(t *testing.T) {
	l := newLab(t)
	l.network(NetworkSpec{Name: "a"})
	web := l.attach(EndpointSpec{ID: "web", Key: "p/web/1", Networks: on("a"), Ports: []Port{{HostPort: 8080, ContainerPort: 80}, {HostPort: 8053, ContainerPort: 53, Protocol: "udp"}}})
	l.serveTCP(web, ":80")
	kept, err := l.Hold(web, nil)
	if err != nil || len(kept) != 4 {
		t.Fatalf("held %v, %v", kept, err)
	}
	l.release("web") // as if this process died
	if got, err := ask("tcp", "127.0.0.1:8080"); err != nil || got == "" {
		t.Errorf("IPv4 without a process: %q, %v", got, err)
	}
	answer := make(chan string, 1)
	go func() { got, _ := ask("tcp", "[::1]:8080"); answer <- got }() // waits in the backlog
	next := openLab(t, l.root)
	more, err := next.Hold(web, kept)
	if err != nil || len(more) != 0 {
		t.Errorf("adoption opened %v, %v", more, err)
	}
	for _, f := range kept {
		_ = f.Close()
	}
	if got := <-answer; got == "" {
		t.Error("the connection of the time between was lost")
	}
	if got, err := ask("tcp", "[::1]:8080"); err != nil || got == "" {
		t.Errorf("after adoption: %q, %v", got, err)
	}
	if err := next.Unpublish(context.Background(), web); err != nil {
		t.Error(err)
	}
	if ln, err := net.Listen("tcp", ":8080"); err != nil {
		t.Errorf("the port is not free: %v", err)
	} else {
		_ = ln.Close()
	}
}

func TestModes(t *testing.T) {
	l := newLab(t)
	l.network(NetworkSpec{Name: "a"})
	none := l.attach(EndpointSpec{ID: "none", Mode: "none"})
	l.inside(none, func() error {
		ifs, err := net.Interfaces()
		if err != nil || ifs[0].Name != "lo" || ifs[0].Flags&net.FlagUp == 0 {
			t.Errorf("interfaces %v, %v", ifs, err)
		}
		return nil
	})
	host := l.attach(EndpointSpec{ID: "host", Mode: "host", Ports: []Port{{HostPort: 1, ContainerPort: 1}}})
	if host.NetNS != "" || len(host.Warnings) != 1 {
		t.Errorf("host mode: %+v", host)
	}
	web := l.attach(EndpointSpec{ID: "web", Networks: on("a")})
	share := l.attach(EndpointSpec{ID: "share", Mode: "container:web"})
	if share.NetNS != web.NetNS || !share.Shared {
		t.Errorf("shared: %+v", share)
	}
	if err := l.Detach(context.Background(), share); err != nil || !link.Pinned(web.NetNS) {
		t.Errorf("detaching a sharer: %v, pinned %v", err, link.Pinned(web.NetNS))
	}
	if _, err := l.Attach(context.Background(), EndpointSpec{ID: "x", Mode: "container:nobody"}); err == nil {
		t.Error("sharing with nobody works")
	}
}

func TestSettingsInside(t *testing.T) {
	l := newLab(t)
	l.network(NetworkSpec{Name: "v4", DisableIPv6: true, DriverOpts: map[string]string{OptMTU: "1400"}})
	l.network(NetworkSpec{Name: "dual"})
	read := func(key string) string { v, _ := link.ReadSysctl(key); return v }
	e := l.attach(EndpointSpec{ID: "e", Key: "p/e/1", Networks: []Attachment{
		{Network: "v4", Interface: "wan0", MAC: "02:00:00:00:00:07"}, {Network: "dual", Priority: 10, DriverOpts: map[string]string{OptSysctls: "net.ipv4.conf.IFNAME.log_martians=1"}}},
		Sysctls: map[string]string{"net.core.somaxconn": "77"}})
	if e.Links[0].Name != "eth0" || e.Links[0].Network != "dual" || e.Links[1].Name != "wan0" {
		t.Errorf("links %+v", e.Links)
	}
	l.inside(e, func() error {
		i, err := net.InterfaceByName("wan0")
		if err != nil || i.HardwareAddr.String() != "02:00:00:00:00:07" || i.MTU != 1400 {
			t.Errorf("wan0: %+v, %v", i, err)
		}
		for key, want := range map[string]string{
			"net.core.somaxconn": "77", "net.ipv4.conf.eth0.log_martians": "1", "net.ipv4.ping_group_range": "0\t2147483647",
			"net.ipv4.ip_unprivileged_port_start": "0", "net.ipv6.conf.wan0.disable_ipv6": "1", "net.ipv6.conf.eth0.disable_ipv6": "0",
		} {
			if got := read(key); got != want {
				t.Errorf("%s is %q, want %q", key, got, want)
			}
		}
		return nil
	})
	only4 := l.attach(EndpointSpec{ID: "only4", Key: "p/o/1", Networks: on("v4")})
	l.inside(only4, func() error {
		for conf, want := range map[string]string{"eth0": "1", "default": "1", "lo": "0"} {
			if got := read("net.ipv6.conf." + conf + ".disable_ipv6"); got != want {
				t.Errorf("disable_ipv6 of %s is %q, want %q", conf, got, want)
			}
		}
		return nil
	})
}

func TestStableAddresses(t *testing.T) {
	l := newLab(t)
	ctx := context.Background()
	l.network(NetworkSpec{Name: "a"})
	first := l.attach(EndpointSpec{ID: "one", Key: "p/web/1", Networks: on("a")})
	beside := l.attach(EndpointSpec{ID: "two", Key: "p/web/1", Networks: on("a")})
	if beside.Links[0].IPv4 == first.Links[0].IPv4 || beside.Links[0].IPv6 == first.Links[0].IPv6 {
		t.Error("two live endpoints of a key have one address")
	}
	if err := l.DetachAll(ctx, []*Endpoint{first, beside}); err != nil {
		t.Fatal(err)
	}
	again := l.attach(EndpointSpec{ID: "three", Key: "p/web/1", Networks: on("a")})
	if again.Links[0].IPv4 != first.Links[0].IPv4 || again.Links[0].IPv6 != first.Links[0].IPv6 || again.Links[0].MAC != first.Links[0].MAC {
		t.Errorf("recreated from %+v to %+v", first.Links[0], again.Links[0])
	}
	// The same ID again, as after a crash between two steps.
	e, err := l.Attach(ctx, again.Spec)
	if err != nil || e.Links[0].IPv4 != first.Links[0].IPv4 {
		t.Errorf("attached again: %+v, %v", e, err)
	}
}

func TestStaticAddresses(t *testing.T) {
	l := newLab(t)
	ctx := context.Background()
	subnet := netip.MustParsePrefix("10.99.0.0/28")
	l.network(NetworkSpec{Name: "a", Pools: []Pool{{Subnet: subnet, Gateway: netip.MustParseAddr("10.99.0.14"),
		Aux: map[string]netip.Addr{"printer": netip.MustParseAddr("10.99.0.2")}}}, DisableIPv6: true})
	at := func(a string) []Attachment { return []Attachment{{Network: "a", IPv4: netip.MustParseAddr(a)}} }
	fixed := EndpointSpec{ID: "fixed", Key: "p/fixed/1", Owner: "service fixed", Networks: at("10.99.0.5")}
	if errs := l.Check(ctx, []EndpointSpec{fixed}, nil); errs != nil {
		t.Fatal(errs)
	}
	// Those without a wish do not get it by chance: 14 addresses less gateway, aux and fixed.
	for i := range 11 {
		e := l.attach(EndpointSpec{ID: fmt.Sprint("e", i), Key: fmt.Sprint("p/e/", i), Networks: on("a")})
		if a := e.Links[0].IPv4; a == netip.MustParseAddr("10.99.0.5") || a == netip.MustParseAddr("10.99.0.2") || a == netip.MustParseAddr("10.99.0.14") {
			t.Errorf("endpoint got %s", a)
		}
	}
	e := l.attach(fixed)
	if e.Links[0].IPv4 != netip.MustParseAddr("10.99.0.5") {
		t.Errorf("address %s", e.Links[0].IPv4)
	}
	for a, want := range map[string]string{
		"10.99.0.5":  "taken by project p, service fixed",
		"10.98.0.5":  "is not one of network a, whose subnet is 10.99.0.0/28",
		"10.99.0.15": "is not one of network a",
		"10.99.0.14": "is the gateway",
		"10.99.0.2":  "set aside for printer",
	} {
		spec := EndpointSpec{ID: "x", Key: "p/x/1", Owner: "service x", Networks: at(a)}
		errs := l.Check(ctx, []EndpointSpec{spec}, nil)
		if len(errs) != 1 || !strings.Contains(errs[0].Error(), want) {
			t.Errorf("checking %s: %v, want %q", a, errs, want)
		}
		if _, err := l.Attach(ctx, spec); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("attaching %s: %v, want %q", a, err, want)
		}
	}
	if errs := l.Check(ctx, []EndpointSpec{{ID: "new", Key: "p/fixed/1", Networks: at("10.99.0.5")}}, []Endpoint{*e}); errs != nil {
		t.Errorf("replacing the holder: %v", errs)
	}
	if errs := l.Check(ctx, []EndpointSpec{{ID: "y", Networks: on("nowhere")}}, nil); len(errs) != 1 || !strings.Contains(errs[0].Error(), "network nowhere does not exist") {
		t.Errorf("missing network: %v", errs)
	}
	if _, err := l.Attach(ctx, EndpointSpec{ID: "z", Key: "p/z/1", Networks: on("a")}); err == nil || !strings.Contains(err.Error(), "no free address") {
		t.Errorf("a full network: %v", err)
	}
}

func TestPortOwner(t *testing.T) {
	l := newLab(t)
	ctx := context.Background()
	l.network(NetworkSpec{Name: "a"})
	ln, err := net.Listen("tcp", "127.0.0.1:8085")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	blog := l.attach(EndpointSpec{ID: "blog", Key: "blog/web/1", Owner: "service web", Networks: on("a"), Ports: []Port{{HostPort: 8080, ContainerPort: 80}}})
	spec := func(ports ...Port) EndpointSpec {
		return EndpointSpec{ID: "new", Key: "shop/web/1", Owner: "service shop", Networks: on("a"), Ports: ports}
	}
	for _, c := range []struct {
		specs []EndpointSpec
		own   []Endpoint
		want  string
	}{
		{[]EndpointSpec{spec(Port{HostPort: 8080, ContainerPort: 80})}, nil, "port 8080/tcp is used by project blog, service web"},
		{[]EndpointSpec{spec(Port{HostPort: 8080, ContainerPort: 80})}, []Endpoint{*blog}, ""},
		{[]EndpointSpec{spec(Port{HostPort: 8085, ContainerPort: 80})}, nil, fmt.Sprintf("port 8085/tcp is used by PID %d %q", os.Getpid(), os.Args[0])[:40]},
		{[]EndpointSpec{spec(Port{HostPort: 8086, ContainerPort: 80})}, nil, ""},
		{[]EndpointSpec{spec(Port{HostPort: 8085, ContainerPort: 80, Protocol: "udp"})}, nil, ""},
		{[]EndpointSpec{spec(Port{HostPort: 8085, HostPortEnd: 8086, ContainerPort: 80})}, nil, ""},
		{[]EndpointSpec{spec(Port{HostPort: 8087, ContainerPort: 80}, Port{HostIP: netip.MustParseAddr("127.0.0.1"), HostPort: 8087, ContainerPort: 81})}, nil, "is also published by service shop"},
		{[]EndpointSpec{spec(Port{HostIP: netip.MustParseAddr("198.51.100.7"), HostPort: 8088, ContainerPort: 80})}, nil, "the host has no address 198.51.100.7"},
		{[]EndpointSpec{spec(Port{HostPort: 8088, ContainerPort: 80, Protocol: "icmp"})}, nil, "protocol \"icmp\" is not known"},
	} {
		errs := l.Check(ctx, c.specs, c.own)
		if c.want == "" && len(errs) != 0 || c.want != "" && (len(errs) != 1 || !strings.Contains(errs[0].Error(), c.want)) {
			t.Errorf("%v: %v, want %q", c.specs[0].Ports, errs, c.want)
		}
		taken, err := l.PortsTaken(c.specs[0])
		if strings.Contains(c.want, "is used by") != (len(taken) == 1) && c.own == nil || err != nil || len(taken) == 1 && c.own == nil && !strings.HasPrefix(taken[0], c.want) {
			t.Errorf("%v: %q are taken, %v, want %q", c.specs[0].Ports, taken, err, c.want)
		}
	}
	blogs := blog.Spec
	blogs.ID, blogs.Key = "new", "blog/web/2"
	if taken, err := l.PortsTaken(blogs); len(taken) != 0 || err != nil {
		t.Errorf("what the service itself publishes is taken: %q, %v", taken, err)
	}
	if _, err := l.Attach(ctx, spec(Port{HostPort: 8080, ContainerPort: 80})); err == nil || !strings.Contains(err.Error(), "used by project blog, service web") {
		t.Errorf("attaching: %v", err)
	}
	// Even with nobody's socket in the way.
	l.release("blog")
	if _, err := l.Attach(ctx, spec(Port{HostPort: 8080, ContainerPort: 80})); err == nil || !strings.Contains(err.Error(), "used by project blog, service web") {
		t.Errorf("attaching while the holder is dead: %v", err)
	}
	if l.live("new") {
		t.Error("a failed attachment left its record")
	}
	if !l.table.Complete(allElements(blog)) {
		t.Error("the failed attachments took the port away")
	}
}

func TestManyNetworks(t *testing.T) {
	if testing.Short() {
		t.Skip("many networks")
	}
	l := newLab(t)
	start := time.Now()
	var all []netip.Prefix
	for i := range 200 {
		n := l.network(NetworkSpec{Name: fmt.Sprintf("net%d", i)})
		for _, p := range n.Subnets() {
			if slices.ContainsFunc(all, p.Overlaps) {
				t.Fatalf("network %d: %s overlaps", i, p)
			}
			all = append(all, p)
		}
	}
	t.Logf("200 records: %s", time.Since(start))
	start = time.Now()
	for i := range 200 {
		if _, err := l.Ensure(context.Background(), fmt.Sprintf("net%d", i)); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("200 bridges: %s", time.Since(start))
	a := l.attach(EndpointSpec{ID: "a", Networks: on("net199"), Ports: []Port{{HostPort: 8080, ContainerPort: 80}}})
	l.serveTCP(a, ":80")
	if got, err := ask("tcp", "127.0.0.1:8080"); err != nil || got == "" {
		t.Errorf("the 200th network: %q, %v", got, err)
	}
}

func TestHalfMadeAndSwept(t *testing.T) {
	l := newLab(t)
	ctx := context.Background()
	l.network(NetworkSpec{Name: "a"})
	// A failure at the last step undoes all.
	if _, err := l.Attach(ctx, EndpointSpec{ID: "bad", Networks: on("a"), Sysctls: map[string]string{"net.ipv4.no_such": "1"}}); err == nil {
		t.Error("an unknown sysctl works")
	}
	if l.live("bad") || link.Pinned(l.pin("bad")) {
		t.Error("a failed attachment left something")
	}
	// Leftovers of a killed process.
	keep := l.attach(EndpointSpec{ID: "keep", Key: "k", Networks: on("a"), Ports: []Port{{HostPort: 8080, ContainerPort: 80}}})
	lost, err := l.Attach(ctx, EndpointSpec{ID: "lost", Key: "l", Networks: on("a"), Ports: []Port{{HostPort: 8081, ContainerPort: 80}}})
	if err != nil {
		t.Fatal(err)
	}
	worse, err := l.Attach(ctx, EndpointSpec{ID: "worse", Key: "w", Networks: on("a"), Ports: []Port{{HostPort: 8082, ContainerPort: 80}}})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(l.endpointPath("worse")); err != nil {
		t.Fatal(err)
	}
	r := l.NewResolver(ResolverOptions{Owner: "p"})
	if err := r.SetTable([]Entry{{Endpoint: lost}, {Endpoint: worse}}); err != nil {
		t.Fatal(err)
	}
	if err := l.Sweep(ctx, func(id string) bool { return id == "keep" }); err != nil {
		t.Fatal(err)
	}
	l.release("worse")
	if els, err := l.table.Elements(); err != nil || slices.ContainsFunc(append(allElements(lost), allElements(worse)...), func(e nft.Element) bool {
		return slices.ContainsFunc(els, func(o nft.Element) bool { return o.Place() == e.Place() })
	}) {
		t.Errorf("elements of swept endpoints are left: %v", err)
	}
	if !l.table.Complete(allElements(keep)) || !link.Pinned(keep.NetNS) {
		t.Error("the sweep took a live endpoint's things")
	}
	for _, e := range []*Endpoint{lost, worse} {
		if _, err := net.InterfaceByName(e.Links[0].HostLink); err == nil || link.Pinned(e.NetNS) {
			t.Errorf("%s is not swept", e.Spec.ID)
		}
		if err := l.Detach(ctx, e); err != nil {
			t.Errorf("detaching what is gone: %v", err)
		}
	}
}

// A process that was killed while it wrote a record left a temporary file, which
// must not pass for an endpoint in the making, nor stay.
func TestHalfWrittenRecord(t *testing.T) {
	l := newLab(t)
	l.network(NetworkSpec{Name: "a"})
	half, network := filepath.Join(l.endpointDir(), ".tmp-1"), filepath.Join(l.networkDir(), ".tmp-2")
	for _, name := range []string{half, network} {
		if err := os.WriteFile(name, []byte("{"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	e, err := l.Attach(t.Context(), EndpointSpec{ID: "x", Key: "x", Networks: on("a")})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(half); err != nil {
		t.Errorf("while there are endpoints, it may be somebody's: %v", err)
	}
	if err := l.Detach(t.Context(), e); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{half, network} {
		if _, err := os.Stat(name); err == nil {
			t.Errorf("%s is still there", name)
		}
	}
	if _, err := os.Stat(l.pinDir()); err == nil {
		t.Error("the directory of pins is still there")
	}
}

// The same where nothing was ever attached, as after "create".
func TestHalfWrittenNetwork(t *testing.T) {
	l := newLab(t)
	n := l.network(NetworkSpec{Name: "a"})
	halves := []string{filepath.Join(l.networkDir(), ".tmp-1"), filepath.Join(filepath.Dir(l.copyPath("")), ".tmp-2")}
	for _, name := range halves {
		if err := errors.Join(os.MkdirAll(filepath.Dir(name), 0o700), os.WriteFile(name, []byte("{"), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	if err := l.Remove(t.Context(), n.ID); err != nil {
		t.Fatal(err)
	}
	for _, name := range halves {
		if _, err := os.Stat(name); err == nil {
			t.Errorf("%s is still there", name)
		}
	}
}

func TestConnectDisconnect(t *testing.T) {
	l := newLab(t)
	ctx := context.Background()
	outside := l.outside()
	l.network(NetworkSpec{Name: "in", Internal: true})
	l.network(NetworkSpec{Name: "out"})
	l.network(NetworkSpec{Name: "aaa"})
	l.serveTCP(outside, ":80")
	e := l.attach(EndpointSpec{ID: "e", Key: "p/e/1", Networks: on("in"), Ports: []Port{{HostPort: 8080, ContainerPort: 80}}})
	l.serveTCP(e, ":80")
	if _, err := l.askFrom(e, "tcp", "192.0.2.100:80"); err == nil {
		t.Error("internal reaches the world")
	}
	for _, n := range []string{"out", "aaa"} {
		if _, err := l.Connect(ctx, e, Attachment{Network: n}); err != nil {
			t.Fatal(err)
		}
		if got, err := l.askFrom(e, "tcp", "192.0.2.100:80"); err != nil || got != "192.0.2.1" {
			t.Errorf("connected to %s: %q, %v", n, got, err)
		}
		if err := l.Publish(ctx, e); err != nil {
			t.Fatal(err)
		}
		if got, err := l.askFrom(outside, "tcp", "192.0.2.1:8080"); err != nil || got != "192.0.2.100" {
			t.Errorf("published by way of %s: %q, %v", n, got, err)
		}
	}
	if out := e.Outlet(false); out.Network != "aaa" || e.Links[2].Name != "eth2" {
		t.Errorf("way out %+v", out)
	}
	if _, err := l.Connect(ctx, e, Attachment{Network: "aaa"}); err == nil {
		t.Error("connecting twice works")
	}
	for range 2 {
		if err := l.Disconnect(ctx, e, "aaa"); err != nil {
			t.Fatal(err)
		}
	}
	if got, err := l.askFrom(outside, "tcp", "192.0.2.1:8080"); err != nil || got != "192.0.2.100" {
		t.Errorf("published after disconnecting: %q, %v", got, err)
	}
	if got, err := l.askFrom(e, "tcp", "[fd0f::100]:80"); err != nil || got != "fd0f::1" {
		t.Errorf("IPv6 after disconnecting: %q, %v", got, err)
	}
	if users, _ := l.Users("aaa"); len(users) != 0 {
		t.Errorf("users %q", users)
	}
}

func TestIsolatedContainers(t *testing.T) {
	l := newLab(t)
	l.network(NetworkSpec{Name: "a", DriverOpts: map[string]string{OptICC: "false"}})
	web := l.attach(EndpointSpec{ID: "web", Key: "w", Networks: on("a"), Ports: []Port{{HostPort: 8080, ContainerPort: 80}}})
	peer := l.attach(EndpointSpec{ID: "peer", Key: "p", Networks: on("a")})
	l.serveTCP(web, ":80")
	if got, err := l.askFrom(peer, "tcp", hostPort(web.Links[0].IPv4, 80)); err == nil {
		t.Errorf("icc=false: %q", got)
	}
	if got, err := l.askFrom(peer, "tcp", hostPort(web.Links[0].Gateway4, 8080)); err != nil || got == "" {
		t.Errorf("icc=false, published: %q, %v", got, err)
	}
}

// Many attachments at once, as in the start of a large project.
func TestParallelAttach(t *testing.T) {
	l := newLab(t)
	ctx := context.Background()
	l.network(NetworkSpec{Name: "a"})
	l.network(NetworkSpec{Name: "b"})
	spec := func(i int) EndpointSpec {
		s := EndpointSpec{ID: fmt.Sprintf("%064d", i), Key: fmt.Sprint("p/s/", i), Networks: on("a")}
		if i%5 == 0 {
			s.Ports = []Port{{HostPort: uint16(20000 + i), ContainerPort: 80}}
		}
		return s
	}
	for i := range 5 {
		start := time.Now()
		e, err := l.Attach(ctx, spec(i))
		if err != nil {
			t.Fatal(err)
		}
		up := time.Since(start)
		start = time.Now()
		if err := l.Detach(ctx, e); err != nil {
			t.Fatal(err)
		}
		t.Logf("alone, ports %d: attach %s, detach %s", len(e.Ports), up.Round(10*time.Microsecond), time.Since(start).Round(10*time.Microsecond))
	}
	all := make([]*Endpoint, 50)
	var wg sync.WaitGroup
	start := time.Now()
	for i := range all {
		wg.Go(func() {
			var err error
			if all[i], err = l.Attach(ctx, spec(i)); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	t.Logf("50 in parallel: attach %s", time.Since(start).Round(100*time.Microsecond))
	seen := map[netip.Addr]bool{}
	for _, e := range all {
		if e == nil {
			t.FailNow()
		}
		if seen[e.Links[0].IPv4] || seen[e.Links[0].IPv6] {
			t.Errorf("address of %v twice", e.Links[0])
		}
		seen[e.Links[0].IPv4], seen[e.Links[0].IPv6] = true, true
	}
	r := l.NewResolver(ResolverOptions{Owner: "p"})
	defer r.Close()
	start = time.Now()
	for _, e := range all {
		wg.Go(func() {
			files, err := r.Serve(ctx, e, nil)
			if err != nil {
				t.Error(err)
			}
			for _, f := range files {
				_ = f.Close()
			}
		})
	}
	wg.Wait()
	t.Logf("50 in parallel: serve names %s", time.Since(start).Round(100*time.Microsecond))
	start = time.Now()
	if err := l.DetachAll(ctx, all); err != nil {
		t.Error(err)
	}
	t.Logf("50 together: detach %s", time.Since(start).Round(100*time.Microsecond))
}

func TestRemoveNetworkWithItsEndpoints(t *testing.T) {
	l := newLab(t)
	going, staying := l.network(NetworkSpec{Name: "going"}), l.network(NetworkSpec{Name: "staying"})
	both := l.attach(EndpointSpec{Networks: []Attachment{{Network: going.Name}, {Network: staying.Name}}})
	user := l.attach(EndpointSpec{Owner: "service user", Networks: []Attachment{{Network: staying.Name}}})

	err := l.RemoveWith(t.Context(), []*Endpoint{both}, going.Name, staying.Name)
	if !errors.Is(err, ErrInUse) || !strings.Contains(err.Error(), "staying") || strings.Contains(err.Error(), "going") {
		t.Errorf("got %v, want that network staying is in use", err)
	}
	if _, err := l.Get(going.Name); !errors.Is(err, ErrNotFound) {
		t.Errorf("network going: %v, want it gone", err)
	}
	left := []string{going.Bridge}
	for _, gone := range both.Links {
		left = append(left, gone.HostLink)
	}
	for _, name := range left {
		if _, err := net.InterfaceByName(name); err == nil {
			t.Errorf("link %s is left", name)
		}
	}
	if _, err := net.InterfaceByName(user.Links[0].HostLink); err != nil {
		t.Errorf("the link of the network's user: %v", err)
	}
	if l.live(both.Spec.ID) {
		t.Error("the record of an endpoint that left is there")
	}
	if err := l.DetachAll(t.Context(), []*Endpoint{user}); err != nil {
		t.Fatal(err)
	}
}
