package dns

import (
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// upstream is a server whose answers a function decides, over UDP and, if it says
// so, TCP. A nil answer is silence.
type upstream struct {
	addr  netip.AddrPort
	asked atomic.Int32
}

func newUpstream(t *testing.T, tcp bool, answer func(w dns.ResponseWriter, q *dns.Msg) *dns.Msg) *upstream {
	t.Helper()
	c, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	u := &upstream{addr: netip.MustParseAddrPort(c.LocalAddr().String())}
	handler := dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) {
		u.asked.Add(1)
		go func() {
			if m := answer(w, q); m != nil {
				_ = w.WriteMsg(m)
			}
		}()
	})
	servers := []*dns.Server{{PacketConn: c, Handler: handler}}
	if tcp {
		l, err := net.Listen("tcp", u.addr.String())
		if err != nil {
			t.Fatal(err)
		}
		servers = append(servers, &dns.Server{Listener: l, Handler: handler})
	}
	for _, s := range servers {
		ready := make(chan struct{})
		s.NotifyStartedFunc = func() { close(ready) }
		go func() { _ = s.ActivateAndServe() }()
		<-ready
		t.Cleanup(func() { _ = s.Shutdown() })
	}
	return u
}

// says answers with an address, or with a code.
func says(q *dns.Msg, text string, rcode int) *dns.Msg {
	m := new(dns.Msg)
	m.SetRcode(q, rcode)
	if text != "" {
		rr, _ := dns.NewRR(q.Question[0].Name + " 60 IN A " + text)
		m.Answer = []dns.RR{rr}
	}
	return m
}

func soa(q *dns.Msg, rcode int, ttl, minimum string) *dns.Msg {
	m := says(q, "", rcode)
	rr, _ := dns.NewRR("test. " + ttl + " IN SOA ns.test. x.test. 1 2 3 4 " + minimum)
	m.Ns = []dns.RR{rr}
	return m
}

type asker struct {
	t *testing.T
	s *Server
	v *View
}

func newAsker(t *testing.T, servers ...*upstream) *asker {
	var r Route
	for _, u := range servers {
		r.Servers = append(r.Servers, u.addr)
	}
	return &asker{t, &Server{Zones: oneZone{NewZone(nil)}, Forward: NewForwarder()}, &View{Upstreams: func() Route { return r }}}
}

func (a *asker) ask(name string, change ...func(*dns.Msg)) (*dns.Msg, time.Duration) {
	return a.over(false, name, change...)
}

func (a *asker) over(tcp bool, name string, change ...func(*dns.Msg)) (*dns.Msg, time.Duration) {
	a.t.Helper()
	q := new(dns.Msg)
	q.SetQuestion(dns.Fqdn(name), dns.TypeA)
	for _, c := range change {
		c(q)
	}
	packed, err := q.Pack()
	if err != nil {
		a.t.Fatal(err)
	}
	start := time.Now()
	out := a.s.respond(a.t.Context(), a.v, packed, tcp)
	m := new(dns.Msg)
	if err := m.Unpack(out); err != nil || m.Id != q.Id {
		a.t.Errorf("%s: answer %v, %v", name, m, err)
	}
	return m, time.Since(start)
}

// A name that takes long is answered all the same, and one that is never answered
// takes no time from others.
func TestSlowAndSilentNames(t *testing.T) {
	t.Parallel()
	u := newUpstream(t, false, func(_ dns.ResponseWriter, q *dns.Msg) *dns.Msg {
		switch name := q.Question[0].Name; {
		case strings.HasPrefix(name, "silent"):
			return nil
		case strings.HasPrefix(name, "slow"):
			time.Sleep(2500 * time.Millisecond)
		case strings.HasPrefix(name, "half"):
			time.Sleep(500 * time.Millisecond)
		}
		return says(q, "192.0.2.1", dns.RcodeSuccess)
	})
	a := newAsker(t, u)
	if m, took := a.ask("silent1.test"); m.Rcode != dns.RcodeServerFailure || took < budget || took > budget+2*time.Second {
		t.Errorf("silence is %s after %s", dns.RcodeToString[m.Rcode], took)
	}
	var all sync.WaitGroup
	for _, name := range []string{"silent2.test", "silent3.test", "slow.test", "half.test", "slow"} {
		all.Go(func() {
			m, took := a.ask(name)
			if silent := strings.HasPrefix(name, "silent"); silent != (m.Rcode == dns.RcodeServerFailure) || !silent && len(m.Answer) != 1 {
				if name == "slow" && m.Rcode == dns.RcodeNameError {
					return // nothing was answered so far: it may be a train
				}
				t.Errorf("%s: %s %v after %s", name, dns.RcodeToString[m.Rcode], m.Answer, took)
			}
		})
	}
	all.Wait()
	if m, took := a.ask("slow"); len(m.Answer) != 1 {
		t.Errorf("a single label that takes long: %s after %s", dns.RcodeToString[m.Rcode], took)
	}
}

func TestSeveralServers(t *testing.T) {
	t.Parallel()
	silent := func() *upstream {
		return newUpstream(t, false, func(dns.ResponseWriter, *dns.Msg) *dns.Msg { return nil })
	}
	after := func(d time.Duration, text string, rcode int) *upstream {
		return newUpstream(t, false, func(_ dns.ResponseWriter, q *dns.Msg) *dns.Msg {
			time.Sleep(d)
			return says(q, text, rcode)
		})
	}
	for _, c := range []struct {
		name    string
		servers []*upstream
		want    string // address or code
		most    time.Duration
	}{
		{"the second answers", []*upstream{silent(), after(0, "192.0.2.2", 0)}, "192.0.2.2", time.Second},
		{"the first fails", []*upstream{after(0, "", dns.RcodeServerFailure), after(0, "192.0.2.2", 0)}, "192.0.2.2", 250 * time.Millisecond},
		{"all fail", []*upstream{after(0, "", dns.RcodeRefused), after(0, "", dns.RcodeServerFailure)}, "REFUSED", 250 * time.Millisecond},
		{"the first knows, though it is slow", []*upstream{after(time.Second, "192.0.2.1", 0), after(0, "", dns.RcodeNameError)}, "192.0.2.1", 2 * time.Second},
		{"the first is silent, no name", []*upstream{silent(), after(0, "", dns.RcodeNameError)}, "NXDOMAIN", patience + time.Second},
		{"the third answers", []*upstream{silent(), silent(), after(0, "192.0.2.3", 0)}, "192.0.2.3", 1500 * time.Millisecond},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			m, took := newAsker(t, c.servers...).ask("name.test")
			got := dns.RcodeToString[m.Rcode]
			if len(m.Answer) == 1 {
				got = m.Answer[0].(*dns.A).A.String()
			}
			if got != c.want || took > c.most {
				t.Errorf("%s after %s, want %s", got, took, c.want)
			}
		})
	}
	t.Run("a dead first one costs time now and then, not always", func(t *testing.T) {
		t.Parallel()
		a := newAsker(t, silent(), after(0, "192.0.2.2", 0))
		a.ask("one.test")
		if m, took := a.ask("two.test"); len(m.Answer) != 1 || took > 250*time.Millisecond {
			t.Errorf("%v after %s", m.Answer, took)
		}
	})
	t.Run("nobody answers anything: a container's name is soon unknown", func(t *testing.T) {
		t.Parallel()
		a := newAsker(t, silent())
		a.ask("web")
		if m, took := a.ask("db"); m.Rcode != dns.RcodeNameError || took > budgetMute+time.Second {
			t.Errorf("%s after %s", dns.RcodeToString[m.Rcode], took)
		}
	})
}

// What was cut for UDP is fetched over TCP.
func TestTruncation(t *testing.T) {
	t.Parallel()
	u := newUpstream(t, true, func(w dns.ResponseWriter, q *dns.Msg) *dns.Msg {
		m := says(q, "", dns.RcodeSuccess)
		for range 40 {
			m.Answer = append(m.Answer, says(q, "192.0.2.1", 0).Answer...)
		}
		if w.LocalAddr().Network() == "udp" {
			m.Answer, m.Truncated = nil, true
		}
		return m
	})
	large := func(q *dns.Msg) { q.SetEdns0(4096, false) }
	a := newAsker(t, u)
	if m, _ := a.ask("big.test", large); m.Truncated || len(m.Answer) != 40 {
		t.Errorf("truncated %v, %d answers", m.Truncated, len(m.Answer))
	}
	if m, _ := a.ask("big.test"); !m.Truncated {
		t.Errorf("%d answers for a client that takes 512 bytes", len(m.Answer))
	}
	if m, _ := a.over(true, "big.test"); m.Truncated || len(m.Answer) != 40 {
		t.Errorf("TCP: truncated %v, %d answers", m.Truncated, len(m.Answer))
	}
	// A server without TCP.
	only := newAsker(t, newUpstream(t, false, func(_ dns.ResponseWriter, q *dns.Msg) *dns.Msg { return says(q, "192.0.2.1", 0) }))
	if m, _ := only.over(true, "small.test"); len(m.Answer) != 1 {
		t.Errorf("TCP by UDP: %v", m)
	}
}

func TestNegativeAnswersAreKept(t *testing.T) {
	t.Parallel()
	u := newUpstream(t, false, func(_ dns.ResponseWriter, q *dns.Msg) *dns.Msg {
		switch name := strings.ToLower(q.Question[0].Name); {
		case strings.HasPrefix(name, "none"):
			return soa(q, dns.RcodeNameError, "60", "7")
		case strings.HasPrefix(name, "empty"):
			return soa(q, dns.RcodeSuccess, "5", "60")
		case strings.HasPrefix(name, "nosoa"):
			return says(q, "", dns.RcodeNameError)
		case strings.HasPrefix(name, "zero"):
			return soa(q, dns.RcodeNameError, "0", "60")
		case strings.HasPrefix(name, "fail"):
			return soa(q, dns.RcodeServerFailure, "60", "60")
		}
		return says(q, "192.0.2.1", 0)
	})
	a := newAsker(t, u)
	secure := func(q *dns.Msg) { q.SetEdns0(1232, true) }
	for name, want := range map[string]int32{"none.test": 1, "empty.test": 1, "nosoa.test": 3, "zero.test": 3, "fail.test": 3, "there.test": 3} {
		before := u.asked.Load()
		var codes []int
		for range 3 {
			m, _ := a.ask(name)
			codes = append(codes, m.Rcode)
			for _, rr := range m.Ns {
				if rr.Header().Ttl > 60 {
					t.Errorf("%s: %v", name, rr)
				}
			}
		}
		if got := u.asked.Load() - before; got != want || codes[0] != codes[2] {
			t.Errorf("%s was asked %d times upstream, want %d; codes %v", name, got, want, codes)
		}
	}
	before := u.asked.Load()
	a.ask("none.test", secure) // other words: it has to have its proof
	if u.asked.Load() == before {
		t.Error("an answer without DNSSEC went to who asked for it")
	}
	m := soa(&dns.Msg{Question: []dns.Question{{Name: "x.", Qtype: 1, Qclass: 1}}}, dns.RcodeNameError, "864000", "864000")
	if d, ok := negativeLifetime(m); !ok || d != maxNegativeTTL {
		t.Errorf("lifetime %s", d)
	}
	for i := range 2 * maxNegatives {
		packed, _ := m.Pack()
		a.s.Forward.negatives.note(flightKey{scope: string(rune(i))}, packed)
	}
	if n := len(a.s.Forward.negatives.answers); n > maxNegatives {
		t.Errorf("%d answers are kept", n)
	}
}

// What EDNS and DNSSEC add goes through both ways.
func TestExtensionsPass(t *testing.T) {
	t.Parallel()
	u := newUpstream(t, false, func(_ dns.ResponseWriter, q *dns.Msg) *dns.Msg {
		m := says(q, "192.0.2.1", 0)
		opt := q.IsEdns0()
		if opt == nil || !opt.Do() || opt.UDPSize() != 1400 || !q.CheckingDisabled || len(opt.Option) != 1 {
			m.Rcode = dns.RcodeRefused
		}
		m.AuthenticatedData = true
		m.SetEdns0(1232, true)
		sig, _ := dns.NewRR("name.test. 60 IN RRSIG A 13 2 60 20300101000000 20200101000000 1 test. AAAA")
		m.Answer = append(m.Answer, sig)
		return m
	})
	m, _ := newAsker(t, u).ask("name.test", func(q *dns.Msg) {
		q.SetEdns0(1400, true)
		q.CheckingDisabled = true
		opt := q.IsEdns0()
		opt.Option = append(opt.Option, &dns.EDNS0_COOKIE{Code: dns.EDNS0COOKIE, Cookie: "0011223344556677"})
	})
	if opt := m.IsEdns0(); m.Rcode != dns.RcodeSuccess || !m.AuthenticatedData || opt == nil || !opt.Do() || len(m.Answer) != 2 {
		t.Errorf("%v", m)
	}
}

// Questions that are the same at the same time are asked once.
func TestSameQuestions(t *testing.T) {
	t.Parallel()
	release := make(chan struct{})
	var ids sync.Map // a question that is sent again has its ID
	u := newUpstream(t, false, func(_ dns.ResponseWriter, q *dns.Msg) *dns.Msg {
		ids.Store(q.Id, true)
		<-release
		return says(q, "192.0.2.1", 0)
	})
	a := newAsker(t, u)
	var all sync.WaitGroup
	for range 50 {
		all.Go(func() {
			if m, _ := a.ask("one.test"); len(m.Answer) != 1 {
				t.Errorf("%v", m)
			}
		})
	}
	// All 50 wait for one flight.
	for u.asked.Load() == 0 || a.s.forwards.Load() < 50 {
		time.Sleep(time.Millisecond)
	}
	close(release)
	all.Wait()
	n := 0
	ids.Range(func(any, any) bool { n++; return true })
	if n != 1 {
		t.Errorf("asked %d times", n)
	}
}

// TestLongAnswers is about servers that send more over UDP than the client takes, and
// about answers that are long once their names are written out.
func TestLongAnswers(t *testing.T) {
	t.Parallel()
	u := newUpstream(t, false, func(w dns.ResponseWriter, q *dns.Msg) *dns.Msg {
		m := soa(q, dns.RcodeNameError, "60", "60")
		m.Compress = true
		for range 15 {
			rr, _ := dns.NewRR("a.long.name.of.many.labels." + q.Question[0].Name + " 60 IN NS ns." + q.Question[0].Name)
			m.Ns = append(m.Ns, rr)
		}
		if strings.HasPrefix(q.Question[0].Name, "longer") {
			m.Ns = append(m.Ns, m.Ns...)
			m.Ns = append(m.Ns, m.Ns...)
		}
		return m
	})
	a := newAsker(t, u)
	for range 2 {
		if m, _ := a.ask("long.example.test"); m.Truncated || m.Rcode != dns.RcodeNameError || len(m.Ns) != 16 {
			t.Errorf("the answer is %v", m)
		}
		if n := u.asked.Load(); n != 1 {
			t.Errorf("the server was asked %d times", n)
		}
	}
	q := question(t, "longer.example.test.", dns.TypeA)
	for range 2 {
		out := a.s.respond(t.Context(), a.v, q, false)
		m := new(dns.Msg)
		if err := m.Unpack(out); err != nil || len(out) > 512 || !m.Truncated || m.Rcode != dns.RcodeNameError || len(m.Question) != 1 {
			t.Errorf("%d bytes, %v: %v", len(out), err, m)
		}
	}
}

// Containers with servers of their own come and go, and leave nothing behind.
func TestHealthIsBounded(t *testing.T) {
	f := NewForwarder()
	server := netip.MustParseAddrPort("192.0.2.1:53")
	for i := range 3 * maxHealth {
		r := Route{Scope: fmt.Sprint(i), Servers: []netip.AddrPort{server}}
		f.answered(r, server)
		f.silence(r, r.Servers, time.Now())
		f.passed(r, r.Servers, []bool{false}, time.Now().Add(-time.Minute))
	}
	if n := len(f.health); n > maxHealth {
		t.Errorf("%d servers are known", n)
	}
}
