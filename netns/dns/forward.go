package dns

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/miekg/dns"
)

// How long a client waits for upstream servers. One that has answered before
// gets time; one that is silent gets little, until it answers again: a late
// answer is still listened for and counts.
const (
	budgetGood    = 2 * time.Second
	budgetUnknown = time.Second
	budgetSilent  = 200 * time.Millisecond
	budgetSingle  = 500 * time.Millisecond // for names of one label
	// The next server is asked as well when the one before is silent this long.
	stagger = 300 * time.Millisecond
)

// Forwarder asks upstream servers, from the network namespace of the process.
type Forwarder struct {
	mu    sync.Mutex
	state map[netip.AddrPort]health
}

type health int

const (
	unknown health = iota
	good
	silent
)

// NewForwarder returns a forwarder that knows nothing of its servers yet.
func NewForwarder() *Forwarder { return &Forwarder{state: map[netip.AddrPort]health{}} }

var errNoAnswer = errors.New("no upstream server answers")

type reply struct {
	packed []byte
	rcode  int
	err    error
}

// Exchange sends a packed question to the servers as it is, but for its ID, and
// returns the first good answer, with the question's ID. Servers that fail or are
// silent are passed over; when all answers are SERVFAIL or REFUSED the first of
// these is returned.
func (f *Forwarder) Exchange(ctx context.Context, servers []netip.AddrPort, packed []byte, question dns.Question, tcp, single bool) ([]byte, error) {
	budget := f.budget(servers)
	if single {
		budget = min(budget, budgetSingle)
	}
	deadline := time.NewTimer(budget)
	defer deadline.Stop()
	if !tcp {
		// Datagrams get lost: a second round, within the same time.
		servers = append(slices.Clone(servers), servers...)
	}
	replies := make(chan reply, len(servers))
	next, left := 0, 0
	ask := func() {
		server := servers[next]
		next++
		left++
		// It may outlive this call: a late answer shows that the server lives.
		go func() { replies <- f.ask(context.WithoutCancel(ctx), server, packed, question, tcp) }()
	}
	ask()
	tick := time.NewTicker(stagger)
	defer tick.Stop()
	var poor []byte
	for left > 0 {
		select {
		case r := <-replies:
			left--
			if r.err == nil && r.rcode != dns.RcodeServerFailure && r.rcode != dns.RcodeRefused {
				return r.packed, nil
			}
			if r.err == nil && poor == nil {
				poor = r.packed
			}
			if next < len(servers) {
				ask()
			}
		case <-tick.C:
			if next < len(servers) {
				ask()
			}
		case <-deadline.C:
			left = 0
			f.silence(servers[:next])
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	if poor != nil {
		return poor, nil
	}
	return nil, errNoAnswer
}

// budget is how long it is worth to wait for these servers.
func (f *Forwarder) budget(servers []netip.AddrPort) time.Duration {
	f.mu.Lock()
	defer f.mu.Unlock()
	best := budgetSilent
	for _, s := range servers {
		switch f.state[s] {
		case good:
			return budgetGood
		case unknown:
			best = budgetUnknown
		}
	}
	return best
}

func (f *Forwarder) note(server netip.AddrPort, h health) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.state[server] = h
}

// silence marks servers that did not answer in time; a late answer unmarks them.
func (f *Forwarder) silence(servers []netip.AddrPort) {
	for _, s := range servers {
		f.note(s, silent)
	}
}

func (f *Forwarder) ask(ctx context.Context, server netip.AddrPort, packed []byte, question dns.Question, tcp bool) reply {
	ctx, cancel := context.WithTimeout(ctx, budgetGood)
	defer cancel()
	answer, rcode, err := roundTrip(ctx, server, packed, question, tcp)
	if err != nil {
		f.note(server, silent)
		return reply{err: fmt.Errorf("server %s: %w", server, err)}
	}
	f.note(server, good)
	return reply{packed: answer, rcode: rcode}
}

// roundTrip asks one server. The question gets a fresh random ID and, with UDP, a
// socket and so a source port of its own, which makes forged answers unlikely
// (RFC 5452).
func roundTrip(ctx context.Context, server netip.AddrPort, packed []byte, question dns.Question, tcp bool) ([]byte, int, error) {
	network := "udp"
	if tcp {
		network = "tcp"
	}
	var d net.Dialer
	conn, err := d.DialContext(ctx, network, server.String())
	if err != nil {
		return nil, 0, err
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()

	out := append([]byte(nil), packed...)
	_, _ = rand.Read(out[:2])
	if tcp {
		if err := writeFramed(conn, out); err != nil {
			return nil, 0, err
		}
		in, err := readFramed(conn)
		if err != nil {
			return nil, 0, err
		}
		rcode, ok := matches(in, out, question)
		if !ok {
			return nil, 0, errors.New("the answer is not to the question")
		}
		copy(in, packed[:2])
		return in, rcode, nil
	}
	if _, err := conn.Write(out); err != nil {
		return nil, 0, err
	}
	buffer := make([]byte, 8192)
	for {
		n, err := conn.Read(buffer)
		if err != nil {
			return nil, 0, err
		}
		if n == len(buffer) {
			return nil, 0, errors.New("the answer is too large")
		}
		if rcode, ok := matches(buffer[:n], out, question); ok {
			in := append([]byte(nil), buffer[:n]...)
			copy(in, packed[:2])
			return in, rcode, nil
		}
	}
}

// matches reports whether in is an answer to the question sent as out.
func matches(in, out []byte, question dns.Question) (rcode int, ok bool) {
	if len(in) < 12 || in[0] != out[0] || in[1] != out[1] || in[2]&0x80 == 0 {
		return 0, false
	}
	rcode = int(in[3] & 0xf)
	if binary.BigEndian.Uint16(in[4:]) == 0 {
		// Servers may leave the question out of an error.
		return rcode, rcode != dns.RcodeSuccess
	}
	name, off, err := dns.UnpackDomainName(in, 12)
	if err != nil || off+4 > len(in) {
		return 0, false
	}
	return rcode, canonical(name) == canonical(question.Name) &&
		binary.BigEndian.Uint16(in[off:]) == question.Qtype && binary.BigEndian.Uint16(in[off+2:]) == question.Qclass
}
