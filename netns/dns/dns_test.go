package dns

import (
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"
)

type oneZone struct{ zone *Zone }

func (z oneZone) Zone(id string) *Zone {
	if id == "n" {
		return z.zone
	}
	return nil
}

func addr(s string) netip.Addr { return netip.MustParseAddr(s) }

func TestArpa(t *testing.T) {
	for name, want := range map[string]string{
		"2.0.16.172.in-addr.arpa": "172.16.0.2",
		"b.a.9.8.7.6.5.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2.ip6.arpa": "2001:db8::567:89ab",
		"16.172.in-addr.arpa": "", "x.0.16.172.in-addr.arpa": "", "example.test": "",
		strings.Repeat("x.", 32) + "ip6.arpa": "",
	} {
		got, ok := arpaAddr(name)
		if ok != (want != "") || ok && got != addr(want) {
			t.Errorf("%s: %s %v, want %s", name, got, ok, want)
		}
	}
}

func TestReadiness(t *testing.T) {
	z := NewZone([]Record{
		{Names: []string{"web", "Web", "web-1"}, IPv4: addr("10.0.0.1")},
		{Names: []string{"web", "web-2"}, IPv4: addr("10.0.0.2"), NotReady: true},
		{Names: []string{"web-3"}, NotReady: true},
	})
	for name, want := range map[string]int{"web": 1, "web-2": 1, "web-3": 1, "web-4": 0} {
		if got := z.find(name); len(got) != want {
			t.Errorf("%s: %d records, want %d", name, len(got), want)
		}
	}
}

func TestAnswerKeepsEDNSAndFits(t *testing.T) {
	var records []Record
	for i := range 200 {
		records = append(records, Record{Names: []string{"web"}, IPv4: netip.AddrFrom4([4]byte{10, 0, 0, byte(i)})})
	}
	s := &Server{Zones: oneZone{NewZone(records)}, Forward: NewForwarder()}
	v := &View{Networks: []Network{{"net", "n"}}}
	for _, size := range []uint16{0, 1232, 4096} {
		q := new(dns.Msg)
		q.SetQuestion("web.", dns.TypeA)
		if size > 0 {
			q.SetEdns0(size, false)
		}
		packed, err := q.Pack()
		if err != nil {
			t.Fatal(err)
		}
		udp, tcp := s.respond(t.Context(), v, packed, false), s.respond(t.Context(), v, packed, true)
		m := new(dns.Msg)
		if err := m.Unpack(udp); err != nil || len(udp) > max(512, int(size)) || (m.IsEdns0() != nil) != (size > 0) {
			t.Errorf("size %d: %d bytes, %v, OPT %v", size, len(udp), err, m.IsEdns0())
		}
		if !m.Truncated && len(m.Answer) < 200 {
			t.Errorf("size %d: %d answers, not truncated", size, len(m.Answer))
		}
		if err := m.Unpack(tcp); err != nil || len(m.Answer) != 200 {
			t.Errorf("TCP: %d answers, %v", len(m.Answer), err)
		}
	}
}

func TestNonsenseIsAnsweredOrIgnored(t *testing.T) {
	s := &Server{Zones: oneZone{NewZone(nil)}, Forward: NewForwarder()}
	v := &View{}
	q := new(dns.Msg)
	q.SetQuestion("a.b.", dns.TypeA)
	good, _ := q.Pack()
	response := slices.Clone(good)
	response[2] |= 0x80
	cut := slices.Clone(good[:len(good)-3])
	two := q.Copy()
	two.Question = append(two.Question, two.Question[0])
	twice, _ := two.Pack()
	notify := q.Copy()
	notify.Opcode = dns.OpcodeNotify
	notified, _ := notify.Pack()
	for _, c := range []struct {
		name   string
		packed []byte
		rcode  int // -1: no answer
	}{
		{"empty", nil, -1}, {"short", good[:5], -1}, {"an answer", response, -1}, {"cut", cut, dns.RcodeFormatError},
		{"two questions", twice, dns.RcodeNotImplemented}, {"notify", notified, dns.RcodeNotImplemented},
		{"no servers", good, dns.RcodeNameError},
	} {
		b := s.respond(t.Context(), v, c.packed, false)
		if c.rcode < 0 {
			if b != nil {
				t.Errorf("%s is answered", c.name)
			}
			continue
		}
		m := new(dns.Msg)
		if err := m.Unpack(b); err != nil || m.Rcode != c.rcode || m.Id != q.Id || !m.Response {
			t.Errorf("%s: %v, %v, want %s", c.name, m, err, dns.RcodeToString[c.rcode])
		}
	}
}

// A forged answer does not end the wait for the true one.
func TestForgedAnswers(t *testing.T) {
	c, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	go func() {
		b := make([]byte, 512)
		n, from, err := c.ReadFrom(b)
		if err != nil {
			return
		}
		q := new(dns.Msg)
		_ = q.Unpack(b[:n])
		for _, forge := range []func(*dns.Msg){
			func(m *dns.Msg) { m.Id++ }, func(m *dns.Msg) { m.Question[0].Name = "evil.test." }, func(m *dns.Msg) { m.Response = false }, func(*dns.Msg) {},
		} {
			m := new(dns.Msg)
			m.SetReply(q)
			m.Question = slices.Clone(m.Question)
			forge(m)
			out, _ := m.Pack()
			_, _ = c.WriteTo(out, from)
		}
	}()
	q := new(dns.Msg)
	q.SetQuestion("world.test.", dns.TypeA)
	packed, _ := q.Pack()
	server := netip.MustParseAddrPort(c.LocalAddr().String())
	f := NewForwarder()
	out, err := f.Exchange(t.Context(), Route{Servers: []netip.AddrPort{server}}, Query{Packed: packed, Question: q.Question[0], Size: 512})
	m := new(dns.Msg)
	if err != nil || m.Unpack(out) != nil || m.Id != q.Id || m.Question[0].Name != "world.test." || !m.Response {
		t.Errorf("%v, %v", m, err)
	}
}

// TestRememberedAnswersGrowOld has answers lose time to live, and nothing else.
func TestRememberedAnswersGrowOld(t *testing.T) {
	q := new(dns.Msg)
	q.SetQuestion("www.example.", dns.TypeA)
	m := soa(q, dns.RcodeNameError, "60", "60")
	m.SetEdns0(1232, true)
	m.Compress = true
	rr, _ := dns.NewRR("x.example. 5 IN NS ns.example.")
	m.Ns = append(m.Ns, rr)
	packed, err := m.Pack()
	if err != nil {
		t.Fatal(err)
	}
	old := slices.Clone(packed)
	if !growOld(old, 20) || len(old) != len(packed) {
		t.Fatalf("% x is % x", packed, old)
	}
	got := new(dns.Msg)
	if err := got.Unpack(old); err != nil || got.Ns[0].Header().Ttl != 40 || got.Ns[1].Header().Ttl != 0 || got.IsEdns0().String() != m.IsEdns0().String() {
		t.Errorf("%v, %v", got, err)
	}
	got.Ns[0].Header().Ttl, got.Ns[1].Header().Ttl, got.Compress = 60, 5, true
	if back, err := got.Pack(); err != nil || !slices.Equal(back, packed) {
		t.Errorf("% x is % x, %v", packed, back, err)
	}
	for n := range packed {
		growOld(slices.Concat(packed[:n], make([]byte, max(0, 12-n))), 1) // what is cut is no fault
	}
}

// TestManyConnections opens more connections than are served at a time.
func TestManyConnections(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	s := &Server{Zones: oneZone{NewZone([]Record{{Names: []string{"web"}, IPv4: addr("10.0.0.1")}})}, Forward: NewForwarder()}
	v := &View{Networks: []Network{{"net", "n"}}}
	go s.ServeTCP(l, func() *View { return v })
	ask := func() (net.Conn, error) {
		conn, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		if err := writeFramed(conn, question(t, "web.", dns.TypeA)); err == nil {
			_, err = readFramed(conn)
			return conn, err
		}
		return conn, err
	}
	var open []net.Conn
	refused := 0
	for range maxConversations + 20 {
		conn, err := ask()
		t.Cleanup(func() { conn.Close() })
		if open = append(open, conn); err != nil {
			refused++
		}
	}
	if refused != 20 {
		t.Errorf("%d connections of %d are refused", refused, len(open))
	}
	for _, conn := range open {
		conn.Close()
	}
	// The server sees them end one after the other.
	for deadline := time.Now().Add(10 * time.Second); ; {
		conn, err := ask()
		conn.Close()
		if err == nil {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("when all have ended: %v", err)
		}
	}
}

func TestParseConfig(t *testing.T) {
	c := ParseConfig([]byte("# comment\nnameserver 192.0.2.1 # one\nnameserver fe80::1%eth0\nnameserver nonsense\ndomain a\nsearch b c\noptions ndots:2 rotate\n;x\noptions edns0\n"))
	if len(c.Nameservers) != 2 || c.Nameservers[1].Zone() != "eth0" || !slices.Equal(c.Search, []string{"b", "c"}) || !slices.Equal(c.Options, []string{"ndots:2", "rotate", "edns0"}) {
		t.Errorf("%+v", c)
	}
}

func TestSynonyms(t *testing.T) {
	z := NewZone([]Record{
		{Names: []string{"pg1", "app-pg1-1"}, Service: "app/pg1", IPv4: addr("10.0.0.1")},
		{Names: []string{"pg1", "app-pg1-2"}, Service: "app/pg1", IPv4: addr("10.0.0.2"), NotReady: true},
		{Names: []string{"pg1"}, Service: "other/pg1", IPv4: addr("10.0.0.3")},
		{Names: []string{"box"}, IPv4: addr("10.0.0.4")},
		{Names: []string{"hidden"}, IPv4: addr("10.0.0.5")},
	})
	v := &View{Networks: []Network{{"net", "n"}, {"net2", "n2"}}, Synonyms: map[string][]Synonym{
		"db": {{Service: "app/pg1"}}, "ext": {{Name: "Box"}}, "gone": {{Name: "nobody"}}, "hidden": {{Name: "box"}}, "none": {{Service: "app/none"}},
		"here": {{Name: "box", Network: "n"}}, "there": {{Name: "box", Network: "elsewhere"}}, "second": {{Name: "nobody"}, {Name: "box", Network: "n"}},
	}}
	for name, want := range map[string]string{
		"db": "10.0.0.1", "ext": "10.0.0.4", "hidden": "10.0.0.4", "gone": "", "none": "", "app/pg1": "", "box": "10.0.0.4",
		"here": "10.0.0.4", "there": "", "second": "10.0.0.4",
	} {
		found, known, inside := v.lookup(oneZone{z}, name)
		switch {
		case want == "" && known, want != "" && (!known || len(found) != 1 || found[0].IPv4 != addr(want)):
			t.Errorf("%s: %v %v, want %q", name, found, known, want)
		case want == "" && inside != (name != "app/pg1"):
			t.Errorf("%s: inside is %v", name, inside)
		}
	}
}
