package dns

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/miekg/dns"
)

// How long a question waits for upstream servers. A name may need many servers of
// the world to be found, so the time is what clients have: the resolvers of glibc,
// musl and Go ask again, or give up, after five seconds.
const (
	budget = 4800 * time.Millisecond
	// Names of one label are mostly those of containers that are not there, and
	// answered NXDOMAIN in the end.
	budgetSingle = 3 * time.Second
	// The same while the servers answer nothing at all, as on a train.
	budgetMute = 500 * time.Millisecond
	// The next server is asked as well when the one before is silent this long.
	stagger = 300 * time.Millisecond
	// That a name does not exist is believed of a later server only when the ones
	// before had this long to know better: an office's server is mostly the first.
	patience = 1500 * time.Millisecond
	// Datagrams get lost: a question is sent again after this time, then after
	// twice the time.
	resend = time.Second
	// A server that was silent to everything is asked last for this long.
	demotion = 15 * time.Second
)

// Route is the way to upstream servers.
type Route struct {
	Servers []netip.AddrPort // best first
	// Dial opens a connection to a server; nil: from the network namespace of this
	// process. Scope tells apart routes on which one address is not one server.
	Dial  func(ctx context.Context, network, address string) (net.Conn, error)
	Scope string
}

// way is a server as seen on a route.
type way struct {
	scope  string
	server netip.AddrPort
}

// health is what is known of a server. It decides in which order servers are
// asked, never how long a question may wait: one name's silence says nothing
// about another's.
type health struct {
	answered time.Time // the last time
	demoted  time.Time // until
	mute     bool      // nothing was answered since a question ran out of time
}

// Forwarder asks upstream servers. Questions that are the same at the same time
// are asked once; that a name does not exist is remembered (see negatives).
type Forwarder struct {
	negatives negatives

	mu      sync.Mutex
	health  map[way]health
	flights map[flightKey]*flight
}

type flightKey struct {
	scope, servers, question string // the question without its ID
	tcp                      bool
}

type flight struct {
	done   chan struct{}
	packed []byte
	err    error
}

// NewForwarder returns a forwarder that knows nothing of its servers yet.
func NewForwarder() *Forwarder {
	return &Forwarder{health: map[way]health{}, flights: map[flightKey]*flight{}}
}

var errNoAnswer = errors.New("no upstream server answers")

// Query is a question as a client sent it.
type Query struct {
	Packed   []byte
	Question dns.Question
	TCP      bool
	Size     int  // the largest answer the client takes over UDP
	Single   bool // the name has one label
}

// Exchange sends a packed question to the servers as it is, but for its ID, with
// all that EDNS and DNSSEC put into it, and returns the first good answer, with the
// question's ID. Servers that fail or are silent are passed over; when all answers
// are SERVFAIL or REFUSED the first of these is returned.
func (f *Forwarder) Exchange(ctx context.Context, r Route, q Query) ([]byte, error) {
	servers := ""
	for _, s := range r.Servers {
		servers += s.String() + " "
	}
	key := flightKey{r.Scope, servers, string(q.Packed[2:]), q.TCP}
	if answer := f.negatives.find(key, q); answer != nil {
		return answer, nil
	}
	f.mu.Lock()
	fl := f.flights[key]
	if fl == nil {
		fl = &flight{done: make(chan struct{})}
		f.flights[key] = fl
		go func() {
			// It goes on without the client who asked first: others may have joined.
			fl.packed, fl.err = f.exchange(context.WithoutCancel(ctx), r, q)
			if fl.err == nil {
				f.negatives.note(key, fl.packed)
			}
			f.mu.Lock()
			delete(f.flights, key)
			f.mu.Unlock()
			close(fl.done)
		}()
	}
	f.mu.Unlock()
	select {
	case <-fl.done:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	if fl.err != nil {
		return nil, fl.err
	}
	answer := slices.Clone(fl.packed)
	copy(answer, q.Packed[:2])
	return answer, nil
}

// reply is what became of asking one server.
type reply struct {
	from   int // index of the server
	packed []byte
	err    error
}

// quality of an answer, from the header.
type quality int

const (
	poor     quality = iota // SERVFAIL, REFUSED
	negative                // no such name, or no such record
	positive
)

func (r reply) quality() quality {
	switch rcode := r.packed[3] & 0xf; {
	case rcode == dns.RcodeServerFailure || rcode == dns.RcodeRefused:
		return poor
	case rcode == dns.RcodeNameError || r.packed[6] == 0 && r.packed[7] == 0 && r.packed[2]&2 == 0:
		return negative
	}
	return positive
}

func (f *Forwarder) exchange(ctx context.Context, r Route, q Query) ([]byte, error) {
	start := time.Now()
	servers := f.order(r, start)
	limit := budget
	if q.Single {
		limit = budgetSingle
		if f.mute(r) {
			limit = budgetMute
		}
	}
	// A server that is asked may answer after this call, which shows that it lives.
	asking, cancel := context.WithTimeout(ctx, budget)
	time.AfterFunc(budget, cancel)
	deadline := time.NewTimer(limit)
	defer deadline.Stop()

	replies := make(chan reply, len(servers))
	done := make([]bool, len(servers)) // failed, or answered
	next := 0
	ask := func() {
		if next < len(servers) {
			i := next
			next++
			go func() {
				packed, err := f.ask(asking, r, servers[i], q)
				replies <- reply{i, packed, err}
			}()
		}
	}
	ask()
	tick := time.NewTicker(stagger)
	defer tick.Stop()
	patient := time.NewTimer(patience)
	defer patient.Stop()
	var bad, none *reply // the best poor and negative answers so far
	for slices.Contains(done, false) {
		impatient := false
		select {
		case a := <-replies:
			done[a.from] = true
			switch {
			case a.err != nil:
			case a.quality() == positive:
				f.passed(r, servers[:next], done, start)
				return a.packed, nil
			case a.quality() == negative:
				if none == nil || a.from < none.from {
					none = &a
				}
			case bad == nil:
				bad = &a
			}
			if none == nil {
				ask()
			}
		case <-tick.C:
			ask()
		case <-patient.C:
			impatient = true
		case <-deadline.C:
			if none == nil && bad == nil {
				f.silence(r, servers, start)
			}
			done = nil // enough
		}
		if none != nil && (impatient || time.Since(start) >= patience || !slices.Contains(done[:min(none.from, len(done))], false)) {
			f.passed(r, servers[:next], done, start)
			return none.packed, nil
		}
	}
	switch {
	case none != nil:
		return none.packed, nil
	case bad != nil:
		return bad.packed, nil
	}
	return nil, errNoAnswer
}

// order puts servers last that were silent to everything.
func (f *Forwarder) order(r Route, now time.Time) []netip.AddrPort {
	f.mu.Lock()
	defer f.mu.Unlock()
	var first, last []netip.AddrPort
	for _, s := range r.Servers {
		if f.health[way{r.Scope, s}].demoted.After(now) {
			last = append(last, s)
		} else {
			first = append(first, s)
		}
	}
	return append(first, last...)
}

// mute says that none of the servers answers anything.
func (f *Forwarder) mute(r Route) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return !slices.ContainsFunc(r.Servers, func(s netip.AddrPort) bool { return !f.health[way{r.Scope, s}].mute })
}

// answered notes that a server lives.
func (f *Forwarder) answered(r Route, server netip.AddrPort) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.know(way{r.Scope, server}, health{answered: time.Now()})
}

// maxHealth is of how many servers something is known. A container that has servers of
// its own is a scope, and more come and go than ever run together.
const maxHealth = 4096

// know keeps what is known of a server. Callers hold mu.
func (f *Forwarder) know(w way, h health) {
	if _, known := f.health[w]; !known && len(f.health) >= maxHealth {
		clear(f.health) // it only decides who is asked first
	}
	f.health[w] = h
}

// passed demotes servers that have said nothing, to this question or any other,
// since the question was asked a while ago and another server answered it.
func (f *Forwarder) passed(r Route, asked []netip.AddrPort, done []bool, start time.Time) {
	now := time.Now()
	if now.Sub(start) < stagger {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for i, s := range asked {
		w := way{r.Scope, s}
		if h := f.health[w]; i < len(done) && !done[i] && h.answered.Before(start) {
			h.demoted = now.Add(demotion)
			f.know(w, h)
		}
	}
}

// silence notes that a question ran out of time.
func (f *Forwarder) silence(r Route, servers []netip.AddrPort, start time.Time) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, s := range servers {
		w := way{r.Scope, s}
		if h := f.health[w]; h.answered.Before(start) {
			h.mute = true
			f.know(w, h)
		}
	}
}
