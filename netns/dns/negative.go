package dns

import (
	"slices"
	"sync"
	"time"

	"github.com/miekg/dns"
)

const (
	// maxNegatives is how many answers are remembered.
	maxNegatives = 1000
	// maxNegativeTTL keeps what RFC 2308 section 5 lets live for hours from outliving
	// somebody's patience who has just made the name.
	maxNegativeTTL = 5 * time.Minute
	// maxNegativeSize is how many bytes an answer and its question may have to be
	// remembered. Few have as many as 1000, and a server could send 64 KiB.
	maxNegativeSize = 4096
)

// negatives remembers answers that say there is no such name or no such record
// (RFC 2308), as long as the zone's SOA record in them allows; without one they are
// not to be kept (section 5). Positive answers are the client's to keep.
type negatives struct {
	mu      sync.Mutex
	answers map[flightKey]negativeAnswer
}

type negativeAnswer struct {
	packed   []byte // an unpacked one can be many times as large
	got      time.Time
	lifetime time.Duration
}

// note remembers an answer if it is one to be remembered.
func (n *negatives) note(key flightKey, packed []byte) {
	m := new(dns.Msg)
	if len(key.question)+len(packed) > maxNegativeSize || m.Unpack(packed) != nil {
		return
	}
	lifetime, ok := negativeLifetime(m)
	if !ok {
		return
	}
	now := time.Now()
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.answers == nil {
		n.answers = map[flightKey]negativeAnswer{}
	}
	for k, a := range n.answers {
		if len(n.answers) < maxNegatives {
			break
		}
		if now.Sub(a.got) >= a.lifetime || len(n.answers) >= maxNegatives {
			delete(n.answers, k)
		}
	}
	n.answers[key] = negativeAnswer{slices.Clone(packed), now, lifetime}
}

// find returns the packed answer to a question that was asked before in the same
// words, with what is left of the time to live.
func (n *negatives) find(key flightKey, q Query) []byte {
	n.mu.Lock()
	a, ok := n.answers[key]
	age := time.Since(a.got)
	if ok && age >= a.lifetime {
		delete(n.answers, key)
		ok = false
	}
	n.mu.Unlock()
	m := new(dns.Msg)
	if !ok || m.Unpack(a.packed) != nil {
		return nil
	}
	m.Id = uint16(q.Packed[0])<<8 | uint16(q.Packed[1])
	m.Compress = true // else it may be longer than it was, and than the client takes
	for _, rr := range m.Ns {
		h := rr.Header()
		h.Ttl -= min(h.Ttl, uint32(age/time.Second))
	}
	b, err := m.Pack()
	if err != nil || !q.TCP && len(b) > q.Size {
		return nil
	}
	return b
}

// negativeLifetime is how long an answer may be kept, for one that says that there
// is nothing: the smaller of the SOA record's own time to live and its minimum
// field (RFC 2308 sections 3 and 5).
func negativeLifetime(m *dns.Msg) (time.Duration, bool) {
	if m.Truncated || len(m.Answer) > 0 || m.Rcode != dns.RcodeSuccess && m.Rcode != dns.RcodeNameError {
		return 0, false
	}
	for _, rr := range m.Ns {
		if soa, ok := rr.(*dns.SOA); ok {
			ttl := time.Duration(min(soa.Hdr.Ttl, soa.Minttl)) * time.Second
			return min(ttl, maxNegativeTTL), ttl > 0
		}
	}
	return 0, false
}
