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
	"sync/atomic"
	"testing"
	"time"

	mdns "github.com/miekg/dns"
	"github.com/vishvananda/netlink"
)

// upstream is a DNS server that knows world.test.
func upstream(t *testing.T, addr string) *atomic.Int32 {
	t.Helper()
	var asked atomic.Int32
	handler := mdns.HandlerFunc(func(w mdns.ResponseWriter, q *mdns.Msg) {
		asked.Add(1)
		m := new(mdns.Msg)
		m.SetReply(q)
		switch name := q.Question[0].Name; {
		case name == "world.test." && q.Question[0].Qtype == mdns.TypeA:
			m.Answer = append(m.Answer, &mdns.A{Hdr: mdns.RR_Header{Name: name, Rrtype: mdns.TypeA, Class: mdns.ClassINET, Ttl: 300}, A: net.IPv4(203, 0, 113, 5)})
		case name == "large.test.":
			for i := range 100 {
				m.Answer = append(m.Answer, &mdns.TXT{Hdr: mdns.RR_Header{Name: name, Rrtype: mdns.TypeTXT, Class: mdns.ClassINET, Ttl: 300}, Txt: []string{strings.Repeat("x", 100), fmt.Sprint(i)}})
			}
			if w.LocalAddr().Network() == "udp" {
				size := 512
				if o := q.IsEdns0(); o != nil {
					size = int(o.UDPSize())
				}
				m.Truncate(size)
			}
		case name == "world.test.":
		default:
			m.Rcode = mdns.RcodeNameError
		}
		_ = w.WriteMsg(m)
	})
	// The sockets are opened on the caller's thread, which may be in a namespace.
	udp, err := net.ListenPacket("udp", addr)
	if err != nil {
		t.Fatal(err)
	}
	tcp, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range []*mdns.Server{{PacketConn: udp, Handler: handler}, {Listener: tcp, Handler: handler}} {
		started := make(chan struct{})
		s.NotifyStartedFunc = func() { close(started) }
		go func() { _ = s.ActivateAndServe() }()
		<-started
		t.Cleanup(func() { _ = s.Shutdown() })
	}
	return &asked
}

type answer struct {
	rcode string
	data  []string
	msg   *mdns.Msg
	took  time.Duration
}

// query asks 127.0.0.11:53 from inside an endpoint.
func (l *lab) query(e *Endpoint, network, name string, kind uint16) answer {
	l.t.Helper()
	q := new(mdns.Msg)
	q.SetQuestion(mdns.Fqdn(name), kind)
	var conn net.Conn
	l.inside(e, func() (err error) { conn, err = net.Dial(network, "127.0.0.11:53"); return err })
	defer conn.Close()
	return exchange(l.t, conn, q)
}

func exchange(t testing.TB, conn net.Conn, q *mdns.Msg) answer {
	t.Helper()
	_ = conn.SetDeadline(time.Now().Add(3 * time.Second))
	c := &mdns.Conn{Conn: conn, UDPSize: 4096}
	start := time.Now()
	if err := c.WriteMsg(q); err != nil {
		t.Fatalf("asking %s: %v", q.Question[0].Name, err)
	}
	m, err := c.ReadMsg()
	if err != nil {
		t.Fatalf("asking %s: %v", q.Question[0].Name, err)
	}
	a := answer{rcode: mdns.RcodeToString[m.Rcode], msg: m, took: time.Since(start)}
	if m.Id != q.Id {
		t.Errorf("asking %s: answer has ID %d, not %d", q.Question[0].Name, m.Id, q.Id)
	}
	for _, rr := range m.Answer {
		a.data = append(a.data, strings.TrimPrefix(rr.String(), rr.Header().String()))
	}
	return a
}

func (l *lab) serve(r *Resolver, endpoints ...*Endpoint) {
	l.t.Helper()
	for _, e := range endpoints {
		files, err := r.Serve(context.Background(), e, nil)
		if err != nil {
			l.t.Fatal(err)
		}
		for _, f := range files {
			_ = f.Close()
		}
	}
}

func (l *lab) resolver(owner string) *Resolver {
	l.t.Helper()
	r := l.NewResolver(ResolverOptions{Owner: owner})
	l.t.Cleanup(func() {
		r.Close()
		if err := r.SetTable(nil); err != nil {
			l.t.Error(err)
		}
	})
	return r
}

func TestNames(t *testing.T) {
	l := newLab(t)
	asked := upstream(t, "127.0.0.1:53")
	if err := os.WriteFile(l.o.ResolvConf, []byte("nameserver 127.0.0.1\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	l.network(NetworkSpec{Name: "p_default"})
	l.network(NetworkSpec{Name: "p_other"})
	l.network(NetworkSpec{Name: "p_v4", DisableIPv6: true})
	l.network(NetworkSpec{Name: "p_internal", Internal: true})
	var entries []Entry
	add := func(id, service string, networks ...string) *Endpoint {
		s := EndpointSpec{ID: id + strings.Repeat("0", 60), Key: "p/" + id, Names: []string{"p-" + id, service}}
		for _, n := range networks {
			s.Networks = append(s.Networks, Attachment{Network: n, Aliases: []string{service + "-on-" + n}})
		}
		e := l.attach(s)
		entries = append(entries, Entry{Endpoint: e})
		return e
	}
	web1, web2, web3 := add("web1", "web", "p_default"), add("web2", "web", "p_default"), add("web3", "web", "p_default")
	db, v4, hidden := add("db01", "db", "p_other"), add("v401", "v4", "p_v4", "p_default"), add("in01", "in", "p_internal")
	own := add("dns1", "dns", "p_default")
	entries[2].NotReady = true
	r := l.resolver("p")
	if err := r.SetTable(entries); err != nil {
		t.Fatal(err)
	}
	// A server of the container's own on 0.0.0.0:53 must be possible, before and after.
	l.serveUDP(own, "0.0.0.0:53")
	l.serve(r, web1, web2, web3, db, v4, hidden, own)
	l.serveTCP(web1, "0.0.0.0:53")

	a4 := func(es ...*Endpoint) (out []string) {
		for _, e := range es {
			out = append(out, e.Links[0].IPv4.String())
		}
		slices.Sort(out)
		return out
	}
	v4Default := v4.Links[1]
	arpa := func(a netip.Addr) string { s, _ := mdns.ReverseAddr(a.String()); return s }
	for _, c := range []struct {
		from  *Endpoint
		name  string
		kind  uint16
		rcode string
		want  []string
	}{
		{web1, "web", mdns.TypeA, "NOERROR", a4(web1, web2)}, // the third is not ready
		{web1, "WEB", mdns.TypeA, "NOERROR", a4(web1, web2)},
		{web1, "p-web3", mdns.TypeA, "NOERROR", a4(web3)}, // the only one of its name
		{web1, "p-web2.p_default", mdns.TypeA, "NOERROR", a4(web2)},
		{web1, "web-on-p_default", mdns.TypeA, "NOERROR", a4(web1, web2)},
		{web1, "web10000000000"[:12], mdns.TypeA, "NOERROR", a4(web1)},
		{web1, "p-web2", mdns.TypeAAAA, "NOERROR", []string{web2.Links[0].IPv6.String()}},
		{web1, "p-web2", mdns.TypeMX, "NOERROR", nil},
		{own, "web", mdns.TypeA, "NOERROR", a4(web1, web2)},
		{v4, "v4", mdns.TypeAAAA, "NOERROR", nil}, // its first network has IPv4 only
		{web1, "v4", mdns.TypeA, "NOERROR", []string{v4Default.IPv4.String()}},
		{web1, arpa(web2.Links[0].IPv4), mdns.TypePTR, "NOERROR", []string{"p-web2.p_default."}},
		{web1, arpa(web2.Links[0].IPv6), mdns.TypePTR, "NOERROR", []string{"p-web2.p_default."}},
		{web1, arpa(web1.Links[0].Gateway4), mdns.TypePTR, "NOERROR", []string{"host.docker.internal."}},
		{web1, "host.docker.internal", mdns.TypeA, "NOERROR", []string{web1.Links[0].Gateway4.String()}},
		{web1, "gateway.docker.internal", mdns.TypeAAAA, "NOERROR", []string{web1.Links[0].Gateway6.String()}},
		{hidden, "host.docker.internal", mdns.TypeA, "NOERROR", []string{hidden.Links[0].Gateway4.String()}},
		{web1, "db", mdns.TypeA, "NXDOMAIN", nil}, // not on its networks
		{web1, "nobody.p_default", mdns.TypeA, "NXDOMAIN", nil},
		{web1, "world.test", mdns.TypeA, "NOERROR", []string{"203.0.113.5"}},
		{web1, "world.test", mdns.TypeAAAA, "NOERROR", nil},
		{web1, "nowhere.test", mdns.TypeA, "NXDOMAIN", nil},
		{hidden, "world.test", mdns.TypeA, "NXDOMAIN", nil},
	} {
		for _, network := range []string{"udp", "tcp"} {
			got := l.query(c.from, network, c.name, c.kind)
			slices.Sort(got.data)
			if got.rcode != c.rcode || !slices.Equal(got.data, c.want) {
				t.Errorf("%s asks %s %s/%s: %s %q, want %s %q", c.from.Spec.Names[0], c.name, mdns.TypeToString[c.kind], network, got.rcode, got.data, c.rcode, c.want)
			}
			if got.took > 200*time.Millisecond {
				t.Errorf("%s/%s took %s", c.name, network, got.took)
			}
			if c.name != "world.test" {
				for _, rr := range got.msg.Answer {
					if rr.Header().Ttl > 5 {
						t.Errorf("%s has a TTL of %d s", c.name, rr.Header().Ttl)
					}
				}
			}
		}
	}
	first := map[string]bool{}
	for range 4 {
		first[l.query(web1, "udp", "web", mdns.TypeA).data[0]] = true
	}
	if len(first) != 2 {
		t.Errorf("round robin begins with %v", first)
	}
	// Nobody ready: all.
	for i := range 3 {
		entries[i].NotReady = true
	}
	if err := r.SetTable(entries); err != nil {
		t.Fatal(err)
	}
	if got := l.query(web1, "udp", "web", mdns.TypeA); len(got.data) != 3 {
		t.Errorf("none ready: %q", got.data)
	}
	// Truncation goes through, and the answer by TCP is whole.
	if got := l.query(web1, "udp", "large.test", mdns.TypeTXT); !got.msg.Truncated {
		t.Error("a large answer by UDP is not truncated")
	}
	if got := l.query(web1, "tcp", "large.test", mdns.TypeTXT); got.msg.Truncated || len(got.data) != 100 {
		t.Errorf("a large answer by TCP has %d records", len(got.data))
	}
	// The host's file is read again.
	before := asked.Load()
	if err := os.WriteFile(l.o.ResolvConf, []byte("nameserver 127.0.0.9\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	if got := l.query(web1, "udp", "world.test", mdns.TypeA); got.rcode != "SERVFAIL" || asked.Load() != before {
		t.Errorf("a server that refuses: %s %q", got.rcode, got.data)
	}
	if got := l.query(web1, "udp", "single", mdns.TypeA); got.rcode != "NXDOMAIN" {
		t.Errorf("a single label: %s", got.rcode)
	}
	if took := time.Since(start); took > 100*time.Millisecond {
		t.Errorf("refused servers took %s", took)
	}
}

// The user's own servers are asked from where the container is, the host's from
// the host.
func TestServersInside(t *testing.T) {
	l := newLab(t)
	outside := l.outside()
	upstream(t, "127.0.0.3:53")
	if err := os.WriteFile(l.o.ResolvConf, []byte("nameserver 127.0.0.3\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	l.network(NetworkSpec{Name: "a", DisableIPv6: true})
	l.network(NetworkSpec{Name: "in", Internal: true})
	r := l.resolver("p")
	addr := netip.MustParseAddr
	for _, c := range []struct {
		id      string
		network string
		servers []netip.Addr
		listen  string // where a server listens inside
		want    string
	}{
		{"host", "a", nil, "", "203.0.113.5"},
		{"loopback", "a", []netip.Addr{addr("127.0.0.1")}, "127.0.0.1:53", "203.0.113.5"},
		{"any", "a", []netip.Addr{addr("127.0.0.1")}, "0.0.0.0:53", "203.0.113.5"},
		{"loopback6", "a", []netip.Addr{addr("::1")}, "[::1]:53", "203.0.113.5"},
		{"hosts-loopback", "a", []netip.Addr{addr("127.0.0.3")}, "", "SERVFAIL"}, // is not the container's
		{"tunnel", "a", []netip.Addr{addr("10.200.0.1")}, "10.200.0.1:53", "203.0.113.5"},
		{"internal", "in", []netip.Addr{addr("127.0.0.1")}, "127.0.0.1:53", "203.0.113.5"},
		{"internal-out", "in", []netip.Addr{addr("192.0.2.100")}, "", "NXDOMAIN"},
		{"lan", "a", []netip.Addr{addr("192.0.2.100")}, "", "203.0.113.5"},
		{"no-route", "a", []netip.Addr{addr("fd0f::100")}, "", "203.0.113.5"}, // the host has one
		{"ourselves", "a", []netip.Addr{addr("127.0.0.11")}, "", "203.0.113.5"},
	} {
		e := l.attach(EndpointSpec{ID: c.id, Networks: on(c.network), DNS: c.servers})
		if c.listen != "" {
			l.inside(e, func() error {
				if strings.HasPrefix(c.listen, "10.") || strings.Contains(c.listen, "::1") {
					lo, err := netlink.LinkByName("lo")
					if err != nil {
						return err
					}
					own, _ := netlink.ParseAddr("10.200.0.1/32")
					if strings.Contains(c.listen, "::1") {
						if err := os.WriteFile("/proc/sys/net/ipv6/conf/lo/disable_ipv6", []byte("0"), 0); err != nil {
							return err
						}
						own, _ = netlink.ParseAddr("::1/128")
					}
					if err := netlink.AddrAdd(lo, own); err != nil && !errors.Is(err, os.ErrExist) {
						return err
					}
				}
				upstream(t, c.listen)
				return nil
			})
		}
		l.serve(r, e)
		got := l.query(e, "udp", "world.test", mdns.TypeA)
		if answer := strings.Join(append(got.data, got.rcode), " "); !strings.HasPrefix(answer, c.want) {
			t.Errorf("%s: %s after %s, want %s", c.id, answer, got.took, c.want)
		}
		if got := l.query(e, "tcp", "world.test", mdns.TypeA); c.listen != "" && got.rcode != "NOERROR" {
			t.Errorf("%s over TCP: %s", c.id, got.rcode)
		}
		if c.id == "internal-out" { // what follows asks a neighbour
			l.inside(outside, func() error { upstream(t, "192.0.2.100:53"); upstream(t, "[fd0f::100]:53"); return nil })
		}
	}
}

// Sockets that another process kept: no question is lost while nobody serves.
func TestResolverAdoption(t *testing.T) {
	l := newLab(t)
	l.network(NetworkSpec{Name: "a"})
	e := l.attach(EndpointSpec{ID: "e", Key: "p/e/1", Names: []string{"p-e-1", "e"}, Networks: on("a")})
	// The usual port may be taken inside.
	l.serveUDP(e, "0.0.0.0:40053")
	first := l.NewResolver(ResolverOptions{Owner: "p"})
	if err := first.SetTable([]Entry{{Endpoint: e}}); err != nil {
		t.Fatal(err)
	}
	kept, err := first.Serve(context.Background(), e, nil)
	if err != nil || len(kept) != 2 {
		t.Fatalf("opened %d sockets, %v", len(kept), err)
	}
	if got := l.query(e, "udp", "e", mdns.TypeA); len(got.data) != 1 {
		t.Errorf("answer %+v", got)
	}
	first.Close() // as if the process died
	done := make(chan answer, 2)
	for _, network := range []string{"udp", "tcp"} {
		go func() { done <- l.query(e, network, "e", mdns.TypeA) }()
	}
	next := &lab{openLab(t, l.root), t, l.root}
	r := next.resolver("p")
	if err := r.SetTable([]Entry{{Endpoint: e}}); err != nil {
		t.Fatal(err)
	}
	more, err := r.Serve(context.Background(), e, kept)
	if err != nil || len(more) != 0 {
		t.Errorf("adoption opened %d sockets, %v", len(more), err)
	}
	for _, f := range kept {
		_ = f.Close()
	}
	for range 2 {
		if got := <-done; len(got.data) != 1 {
			t.Errorf("a question of the time between: %+v", got)
		}
	}
}

// Two projects on one network know each other's names.
func TestSharedNetworkNames(t *testing.T) {
	l := newLab(t)
	l.network(NetworkSpec{Name: "shared"})
	a := l.attach(EndpointSpec{ID: "a", Key: "a/x/1", Names: []string{"alpha"}, Networks: on("shared")})
	b := l.attach(EndpointSpec{ID: "b", Key: "b/x/1", Names: []string{"beta"}, Networks: on("shared")})
	other := &lab{openLab(t, l.root), t, l.root}
	ra, rb := l.resolver("a"), other.resolver("b")
	if err := ra.SetTable([]Entry{{Endpoint: a}}); err != nil {
		t.Fatal(err)
	}
	l.serve(ra, a)
	l.serve(rb, b)
	if got := l.query(a, "udp", "beta", mdns.TypeA); got.rcode != "NXDOMAIN" {
		t.Errorf("before: %+v", got)
	}
	if err := rb.SetTable([]Entry{{Endpoint: b}}); err != nil {
		t.Fatal(err)
	}
	if got := l.query(a, "udp", "beta", mdns.TypeA); len(got.data) != 1 || got.data[0] != b.Links[0].IPv4.String() {
		t.Errorf("a asks beta: %+v", got)
	}
	if got := l.query(b, "udp", "alpha", mdns.TypeA); len(got.data) != 1 {
		t.Errorf("b asks alpha: %+v", got)
	}
	if err := rb.SetTable(nil); err != nil {
		t.Fatal(err)
	}
	if got := l.query(a, "udp", "beta", mdns.TypeA); got.rcode != "NXDOMAIN" {
		t.Errorf("after: %+v", got)
	}
	if _, err := os.Stat(filepath.Join(l.nameDir(a.Links[0].NetworkID), "b.json")); err == nil {
		t.Error("names of nobody are left")
	}
}

func TestFiles(t *testing.T) {
	nets := []Network{{Gateway4: netip.MustParseAddr("10.0.0.1")}}
	e := &Endpoint{Links: []Link{{Network: "a", IPv4: netip.MustParseAddr("10.0.0.2"), IPv6: netip.MustParseAddr("fd00::2"),
		Gateway4: netip.MustParseAddr("10.0.0.1"), Gateway6: netip.MustParseAddr("fd00::1")}}}
	e.Spec.ExtraHosts = []ExtraHost{{Name: "printer", Addr: "192.0.2.9"}, {Name: "me", Addr: "host-gateway"}}
	host := HostFiles{Hosts: []byte("127.0.0.1 localhost\n10.9.9.9 box"), ResolvConf: []byte("nameserver 127.0.0.53\nnameserver 192.0.2.53\nsearch corp.example\noptions edns0 trust-ad ndots:2\n")}
	o := FileOptions{Hostname: "web", Domain: "corp", Host: host}
	for _, c := range []struct {
		name              string
		change            func(*Endpoint)
		hosts, resolvConf string
	}{
		{"network", func(*Endpoint) {},
			localNames + "192.0.2.9\tprinter\n10.0.0.1\tme\nfd00::1\tme\n10.0.0.2\tweb.corp web\nfd00::2\tweb.corp web\n",
			"nameserver 127.0.0.11\nsearch corp.example\noptions edns0 trust-ad ndots:0\n"},
		{"user's DNS", func(e *Endpoint) {
			e.Spec.DNS, e.Spec.DNSSearch, e.Spec.DNSOptions = []netip.Addr{netip.MustParseAddr("9.9.9.9")}, []string{"a.example", "b.example"}, []string{"timeout:1", "ndots:3"}
		}, "", "nameserver 127.0.0.11\nsearch a.example b.example\noptions timeout:1 ndots:3\n"},
		{"no search", func(e *Endpoint) { e.Spec.DNSSearch = []string{"."} }, "", "nameserver 127.0.0.11\noptions edns0 trust-ad ndots:0\n"},
		{"none", func(e *Endpoint) { e.Links, e.Spec.Mode, e.Spec.ExtraHosts = nil, "none", nil }, localNames,
			"nameserver 192.0.2.53\nsearch corp.example\noptions edns0 trust-ad ndots:2\n"},
		{"host", func(e *Endpoint) { e.Links, e.Spec.Mode = nil, "host" },
			"127.0.0.1 localhost\n10.9.9.9 box\n192.0.2.9\tprinter\n127.0.0.1\tme\n", string(host.ResolvConf)},
	} {
		changed := *e
		c.change(&changed)
		hosts, conf := Files(&changed, nets, o)
		if c.hosts != "" && string(hosts) != c.hosts {
			t.Errorf("%s: hosts\n%swant\n%s", c.name, hosts, c.hosts)
		}
		if string(conf) != c.resolvConf {
			t.Errorf("%s: resolv.conf\n%swant\n%s", c.name, conf, c.resolvConf)
		}
	}
}
