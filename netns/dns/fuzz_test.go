package dns

import (
	"bytes"
	"context"
	"io"
	"net"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// question packs a question for a test.
func question(tb testing.TB, name string, kind uint16, change ...func(*dns.Msg)) []byte {
	tb.Helper()
	q := new(dns.Msg)
	q.SetQuestion(name, kind)
	for _, c := range change {
		c(q)
	}
	b, err := q.Pack()
	if err != nil {
		tb.Fatal(err)
	}
	return b
}

// checkReply tells what no reply to a question may be.
func checkReply(t *testing.T, packed, out []byte, tcp bool) (q, m *dns.Msg) {
	t.Helper()
	q, m = new(dns.Msg), new(dns.Msg)
	readable := q.Unpack(packed) == nil
	if len(packed) < 12 || packed[2]&0x80 != 0 {
		if out != nil {
			t.Fatalf("% x is no question, and answered % x", packed, out)
		}
		return nil, nil
	}
	if len(out) < 12 || out[0] != packed[0] || out[1] != packed[1] || out[2]&0x80 == 0 {
		t.Fatalf("% x is answered % x", packed, out)
	}
	limit := dns.MinMsgSize
	switch {
	case tcp:
		limit = dns.MaxMsgSize
	case readable:
		limit = clientSize(q)
	}
	if len(out) > limit {
		t.Fatalf("% x is answered with %d bytes, more than %d", packed, len(out), limit)
	}
	if !readable {
		if len(out) != 12 || out[3]&0xf != dns.RcodeFormatError {
			t.Fatalf("% x cannot be read, and is answered % x", packed, out)
		}
		return nil, nil
	}
	return q, m
}

// FuzzRespond sends any question: it has one answer, which is to it and no longer
// than the client takes.
func FuzzRespond(f *testing.F) {
	records := []Record{
		{Names: []string{"web", "x"}, IPv4: addr("10.0.0.1"), IPv6: addr("fd00::1"), Service: "app/web"},
		{Names: []string{"web"}, IPv4: addr("10.0.0.2"), Service: "app/web", NotReady: true},
	}
	for i := range 60 {
		records = append(records, Record{Names: []string{"many"}, IPv4: netip.AddrFrom4([4]byte{10, 0, 1, byte(i)})})
	}
	known := map[string]bool{}
	for _, r := range records {
		known[r.IPv4.String()], known[r.IPv6.String()] = true, true
	}
	s := &Server{Zones: oneZone{NewZone(records)}, Forward: NewForwarder()}
	v := &View{
		Networks: []Network{{"net", "n"}}, Synonyms: map[string][]Synonym{"db": {{Service: "app/web"}}, "gone": {{Name: "nobody"}}},
		Subnets: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}, Gateway4: addr("10.0.0.254"), Gateway6: addr("fd00::fe"),
	}
	known[v.Gateway4.String()], known[v.Gateway6.String()] = true, true
	for _, name := range []string{"web.", "WEB.net.", "db.", "gone.", "many.", "example.test.", "host.docker.internal.", "1.0.0.10.in-addr.arpa.", "9.0.0.10.in-addr.arpa.", "."} {
		for _, kind := range []uint16{dns.TypeA, dns.TypeAAAA, dns.TypePTR, dns.TypeANY} {
			f.Add(question(f, name, kind), kind == dns.TypeAAAA)
		}
	}
	f.Add(question(f, "many.", dns.TypeA, func(q *dns.Msg) { q.SetEdns0(65535, true) }), false)
	f.Add(question(f, "many.", dns.TypeA, func(q *dns.Msg) { q.SetEdns0(0, false) }), false)
	f.Add(question(f, "web.", dns.TypeA, func(q *dns.Msg) { q.Question = append(q.Question, q.Question[0]) }), false)
	f.Add(question(f, "web.", dns.TypeA, func(q *dns.Msg) { q.Opcode = dns.OpcodeUpdate }), true)
	f.Fuzz(func(t *testing.T, packed []byte, tcp bool) {
		given := slices.Clone(packed)
		out := s.respond(context.Background(), v, packed, tcp)
		if !bytes.Equal(packed, given) {
			t.Fatal("the question was written to")
		}
		q, m := checkReply(t, packed, out, tcp)
		if m == nil {
			return
		}
		if err := m.Unpack(out); err != nil {
			t.Fatalf("the answer % x cannot be read: %v", out, err)
		}
		if m.Opcode != q.Opcode || len(q.Question) > 0 && (len(m.Question) != 1 || m.Question[0] != q.Question[0]) {
			t.Fatalf("the question is\n%v\nand the answer\n%v", q, m)
		}
		if (m.IsEdns0() != nil) != (q.IsEdns0() != nil) {
			t.Errorf("the question is\n%v\nand the answer\n%v", q, m)
		}
		for _, rr := range m.Answer {
			h, ok := rr.Header(), true
			switch rr := rr.(type) {
			case *dns.A:
				ok = known[rr.A.String()]
			case *dns.AAAA:
				ok = known[rr.AAAA.String()]
			case *dns.PTR:
			default:
				ok = false
			}
			if !ok || h.Name != q.Question[0].Name || h.Rrtype != q.Question[0].Qtype || h.Ttl > TTL {
				t.Errorf("an answer to\n%v\nis %v", q, rr)
			}
		}
	})
}

// sending is a connection to a server that sends these bytes, whatever it is asked. The
// ID of what it sends is right, so that the rest is looked at.
type sending struct {
	net.Conn
	tcp  bool
	data []byte
	id   []byte
}

func (c *sending) Write(b []byte) (int, error) {
	at := 0
	if c.tcp {
		at = 2
	}
	c.id = slices.Clone(b[at : at+2])
	if len(c.data) >= at+12 {
		c.data = slices.Clone(c.data)
		copy(c.data[at:], c.id)
	}
	return len(b), nil
}

func (c *sending) Read(b []byte) (int, error) {
	if len(c.data) == 0 {
		return 0, io.EOF
	}
	n := copy(b, c.data)
	c.data = c.data[n:]
	if !c.tcp {
		c.data = nil // what does not fit a buffer is lost
	}
	return n, nil
}

func (c *sending) Close() error                { return nil }
func (c *sending) SetDeadline(time.Time) error { return nil }

// FuzzUpstream has a server send anything over UDP and TCP: a client gets one answer
// all the same, to its question and no longer than it takes. So does the next client,
// who may get one that was remembered.
func FuzzUpstream(f *testing.F) {
	framed := func(b []byte) []byte { return append([]byte{byte(len(b) >> 8), byte(len(b))}, b...) }
	answer := func(change func(m *dns.Msg)) []byte {
		q := new(dns.Msg)
		q.SetQuestion("www.example.", dns.TypeA)
		m := new(dns.Msg)
		m.SetReply(q)
		change(m)
		b, err := m.Pack()
		if err != nil {
			f.Fatal(err)
		}
		return b
	}
	record := func(text string) dns.RR {
		rr, err := dns.NewRR(text)
		if err != nil {
			f.Fatal(err)
		}
		return rr
	}
	positive := answer(func(m *dns.Msg) { m.Answer = []dns.RR{record("www.example. 60 IN A 192.0.2.1")} })
	negative := answer(func(m *dns.Msg) {
		m.Rcode, m.Compress = dns.RcodeNameError, true
		m.Ns = []dns.RR{record("example. 60 IN SOA ns.example. x.example. 1 2 3 4 60")}
	})
	long := answer(func(m *dns.Msg) {
		m.Rcode, m.Compress = dns.RcodeNameError, true
		m.Ns = []dns.RR{record("example. 60 IN SOA ns.example. x.example. 1 2 3 4 60")}
		for range 30 {
			m.Ns = append(m.Ns, record("a.long.name.of.many.labels.that.is.compressed.example. 60 IN NS ns.example."))
		}
	})
	cut := answer(func(m *dns.Msg) { m.Truncated = true })
	failed := answer(func(m *dns.Msg) { m.Rcode, m.Question = dns.RcodeServerFailure, nil })
	for _, b := range [][]byte{positive, negative, long, cut, failed, positive[:20], bytes.Repeat(positive, 100)} {
		f.Add(b, framed(positive), false, uint16(0))
		f.Add(b, framed(long), false, uint16(1232))
		f.Add(cut, framed(b), true, uint16(65535))
		f.Add(cut, framed(b), false, uint16(65535))
	}
	server := netip.MustParseAddrPort("192.0.2.53:53")
	f.Fuzz(func(t *testing.T, datagram, stream []byte, tcp bool, edns uint16) {
		if len(datagram) > maxPayload {
			return
		}
		s := &Server{Zones: oneZone{NewZone(nil)}, Forward: NewForwarder()}
		asked := 0
		v := &View{Upstreams: func() Route {
			return Route{Servers: []netip.AddrPort{server}, Dial: func(_ context.Context, network, _ string) (net.Conn, error) {
				asked++
				if network == "tcp" {
					return &sending{tcp: true, data: stream}, nil
				}
				return &sending{data: datagram}, nil
			}}
		}}
		var first *dns.Msg
		var sent []byte
		for range 2 {
			before := asked
			packed := question(t, "www.example.", dns.TypeA, func(q *dns.Msg) {
				if edns > 0 {
					q.SetEdns0(edns, true)
				}
			})
			given := slices.Clone(packed)
			out := s.respond(context.Background(), v, packed, tcp)
			if !bytes.Equal(packed, given) {
				t.Fatal("the question was written to")
			}
			q, m := checkReply(t, packed, out, tcp)
			if n := int(out[4])<<8 | int(out[5]); n > 0 {
				name, off, err := dns.UnpackDomainName(out, 12)
				if err != nil || Canonical(name) != "www.example" || off+4 > len(out) {
					t.Fatalf("the answer % x is to another question than %v", out, q)
				}
			}
			readable := m.Unpack(out) == nil
			if asked == before { // it was remembered
				// A name may point to the ID or a time to live, and cannot be read then.
				if first == nil || len(first.Answer) > 0 || len(out) != len(sent) || !bytes.Equal(out[2:12], sent[2:12]) {
					t.Fatalf("% x is remembered as % x", sent, out)
				}
				for i, rr := range m.Ns {
					if readable && i < len(first.Ns) && rr.Header().Ttl > first.Ns[i].Header().Ttl {
						t.Errorf("%v was %v", rr, first.Ns[i])
					}
				}
			}
			if readable {
				first, sent = m, out
			}
		}
		s.Forward.negatives.mu.Lock()
		defer s.Forward.negatives.mu.Unlock()
		for _, a := range s.Forward.negatives.answers {
			if a.lifetime <= 0 || a.lifetime > maxNegativeTTL || len(a.packed) > maxNegativeSize {
				t.Errorf("%d bytes are remembered for %v", len(a.packed), a.lifetime)
			}
		}
	})
}
