package dns

import (
	"encoding/binary"
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
	if !ok {
		return nil
	}
	b := slices.Clone(a.packed)
	if !growOld(b, uint32(age/time.Second)) {
		return nil
	}
	copy(b, q.Packed[:2])
	return b
}

// growOld takes seconds off what the records of the authority section of an answer without
// others have to live. All else stays as the server sent it: what is read and written
// anew may be longer, and not be what it was.
func growOld(packed []byte, seconds uint32) bool {
	off, ok := 12, true
	skipName := func() {
		var err error
		if _, off, err = dns.UnpackDomainName(packed, off); err != nil {
			ok = false
		}
	}
	for range binary.BigEndian.Uint16(packed[4:]) {
		if skipName(); !ok {
			return false
		}
		off += 4 // type and class
	}
	for range binary.BigEndian.Uint16(packed[8:]) {
		const header = 10 // type, class, time to live, length
		if skipName(); !ok || off+header > len(packed) {
			return false
		}
		ttl := binary.BigEndian.Uint32(packed[off+4:])
		binary.BigEndian.PutUint32(packed[off+4:], ttl-min(ttl, seconds))
		off += header + int(binary.BigEndian.Uint16(packed[off+8:]))
	}
	return off <= len(packed)
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
