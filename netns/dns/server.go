package dns

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"strings"
	"sync/atomic"
	"time"

	"github.com/miekg/dns"
)

const (
	// A TCP client that asks nothing for this long is left (RFC 7766 section 6.2.3
	// speaks of seconds).
	tcpIdle = 10 * time.Second
	// Questions under way to upstream servers; more are answered SERVFAIL.
	maxForwards = 1024
	// TCP connections of one listener at a time; more are closed at once. A container
	// must not take the descriptors that its supervisor needs.
	maxConversations = 128
)

// Server answers the questions of many clients.
type Server struct {
	Zones   Zones
	Forward *Forwarder

	turn     atomic.Uint32 // of round robin
	forwards atomic.Int32
}

// Answer answers a question out of the zones, or returns nil for one that has
// to be forwarded.
func (s *Server) Answer(v *View, q *dns.Msg) *dns.Msg {
	m := new(dns.Msg)
	m.SetReply(q)
	m.RecursionAvailable = true
	m.Compress = true
	if opt := q.IsEdns0(); opt != nil {
		m.SetEdns0(max(opt.UDPSize(), dns.MinMsgSize), false)
	}
	if q.Opcode != dns.OpcodeQuery || len(q.Question) != 1 {
		m.Rcode = dns.RcodeNotImplemented
		return m
	}
	question := q.Question[0]
	name := Canonical(question.Name)
	if question.Qclass != dns.ClassINET {
		return nil
	}
	if question.Qtype == dns.TypePTR {
		if a, ok := arpaAddr(name); ok {
			if host, own := v.pointer(s.Zones, a); host != "" {
				m.Answer = []dns.RR{&dns.PTR{Hdr: header(question.Name, dns.TypePTR), Ptr: dns.Fqdn(host)}}
				return m
			} else if own {
				m.Rcode = dns.RcodeNameError
				return m
			}
		}
		return nil
	}
	found, known, inside := v.lookup(s.Zones, name)
	if !known {
		if inside {
			m.Rcode = dns.RcodeNameError
			return m
		}
		return nil
	}
	// A name of ours without an address of the asked kind exists all the same.
	for _, r := range found {
		switch {
		case question.Qtype == dns.TypeA && r.IPv4.IsValid():
			m.Answer = append(m.Answer, &dns.A{Hdr: header(question.Name, dns.TypeA), A: r.IPv4.AsSlice()})
		case question.Qtype == dns.TypeAAAA && r.IPv6.IsValid():
			m.Answer = append(m.Answer, &dns.AAAA{Hdr: header(question.Name, dns.TypeAAAA), AAAA: r.IPv6.AsSlice()})
		}
	}
	if n := len(m.Answer); n > 1 {
		first := int(s.turn.Add(1) % uint32(n))
		m.Answer = append(append(make([]dns.RR, 0, n), m.Answer[first:]...), m.Answer[:first]...)
	}
	return m
}

func header(name string, kind uint16) dns.RR_Header {
	return dns.RR_Header{Name: name, Rrtype: kind, Class: dns.ClassINET, Ttl: TTL}
}

// respond answers one packed question, forwarding it if need be.
func (s *Server) respond(ctx context.Context, v *View, packed []byte, tcp bool) []byte {
	q := new(dns.Msg)
	if err := q.Unpack(packed); err != nil {
		if len(packed) < 12 || packed[2]&0x80 != 0 {
			return nil // not even a header, or an answer: nobody waits
		}
		return failure(packed, dns.RcodeFormatError)
	}
	if q.Response {
		return nil
	}
	if m := s.Answer(v, q); m != nil {
		return pack(m, q, tcp)
	}
	single := !strings.Contains(Canonical(q.Question[0].Name), ".")
	var route Route
	if v.Upstreams != nil {
		route = v.Upstreams()
	}
	if len(route.Servers) == 0 {
		return refuse(q, dns.RcodeNameError, tcp)
	}
	if s.forwards.Add(1) > maxForwards {
		s.forwards.Add(-1)
		return refuse(q, dns.RcodeServerFailure, tcp)
	}
	defer s.forwards.Add(-1)
	answer, err := s.Forward.Exchange(ctx, route, Query{packed, q.Question[0], tcp, clientSize(q), single})
	if err != nil {
		// Names of one label are those of containers; that no server of the world
		// could be asked does not make one exist.
		if single {
			return refuse(q, dns.RcodeNameError, tcp)
		}
		return refuse(q, dns.RcodeServerFailure, tcp)
	}
	return fit(answer, q, tcp)
}

// fit returns an answer that the client takes. A server that sends more over UDP than
// it was told is not to make us do so; the client asks again over TCP.
func fit(answer []byte, q *dns.Msg, tcp bool) []byte {
	if tcp || len(answer) <= clientSize(q) {
		return answer
	}
	m := new(dns.Msg)
	m.SetRcode(q, int(answer[3]&0xf))
	m.RecursionAvailable = true
	m.Truncated = true
	if opt := q.IsEdns0(); opt != nil {
		m.SetEdns0(max(opt.UDPSize(), dns.MinMsgSize), false)
	}
	return pack(m, q, tcp)
}

func refuse(q *dns.Msg, rcode int, tcp bool) []byte {
	m := new(dns.Msg)
	m.SetRcode(q, rcode)
	m.RecursionAvailable = true
	if opt := q.IsEdns0(); opt != nil {
		m.SetEdns0(max(opt.UDPSize(), dns.MinMsgSize), false)
	}
	return pack(m, q, tcp)
}

// maxPayload is how much fits into a datagram over IPv4, beside the headers.
const maxPayload = 65535 - 20 - 8

// clientSize is the largest answer that the client takes over UDP.
func clientSize(q *dns.Msg) int {
	if opt := q.IsEdns0(); opt != nil {
		return min(max(dns.MinMsgSize, int(opt.UDPSize())), maxPayload)
	}
	return dns.MinMsgSize
}

func pack(m, q *dns.Msg, tcp bool) []byte {
	size := clientSize(q)
	if tcp {
		size = dns.MaxMsgSize
	}
	m.Truncate(size)
	b, err := m.Pack()
	if err != nil {
		return nil
	}
	return b
}

// failure answers a question of which only the header could be read.
func failure(packed []byte, rcode byte) []byte {
	b := make([]byte, 12)
	copy(b, packed[:4])
	b[2] = b[2]&0x79 | 0x80 // an answer, with the opcode and RD of the question
	b[3] = 0x80 | rcode
	return b
}

// ServeUDP answers what comes in on the socket until it is closed.
func (s *Server) ServeUDP(conn *net.UDPConn, view func() *View) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	buffer := make([]byte, 4096) // questions are short
	for {
		n, client, err := conn.ReadFromUDPAddrPort(buffer)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil || n == 0 {
			continue // an ICMP error of an answer sent before
		}
		q := new(dns.Msg)
		if q.Unpack(buffer[:n]) == nil && !q.Response {
			if m := s.Answer(view(), q); m != nil {
				_, _ = conn.WriteToUDPAddrPort(pack(m, q, false), client)
				continue
			}
		}
		packed := append([]byte(nil), buffer[:n]...)
		go func() {
			if answer := s.respond(ctx, view(), packed, false); answer != nil {
				_, _ = conn.WriteToUDPAddrPort(answer, client)
			}
		}()
	}
}

// ServeTCP answers connections to the listener until it is closed.
func (s *Server) ServeTCP(l net.Listener, view func() *View) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	slots := make(chan struct{}, maxConversations)
	for {
		conn, err := l.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			continue // the client is gone already
		}
		select {
		case slots <- struct{}{}:
			go func() {
				defer func() { <-slots }()
				s.converse(ctx, conn, view)
			}()
		default:
			conn.Close()
		}
	}
}

func (s *Server) converse(ctx context.Context, conn net.Conn, view func() *View) {
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	defer conn.Close()
	for {
		_ = conn.SetDeadline(time.Now().Add(tcpIdle))
		packed, err := readFramed(conn)
		if err != nil {
			return
		}
		answer := s.respond(ctx, view(), packed, true)
		if answer == nil || writeFramed(conn, answer) != nil {
			return
		}
	}
}

// Messages over TCP have a length of two bytes before them (RFC 1035 section 4.2.2).
func readFramed(r io.Reader) ([]byte, error) {
	var size [2]byte
	if _, err := io.ReadFull(r, size[:]); err != nil {
		return nil, err
	}
	b := make([]byte, binary.BigEndian.Uint16(size[:]))
	_, err := io.ReadFull(r, b)
	return b, err
}

func writeFramed(w io.Writer, b []byte) error {
	_, err := w.Write(append(binary.BigEndian.AppendUint16(make([]byte, 0, len(b)+2), uint16(len(b))), b...))
	return err
}
