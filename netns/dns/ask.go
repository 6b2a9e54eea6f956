package dns

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/miekg/dns"
)

// ask asks one server until ctx ends. A question that came over TCP goes on over
// TCP, and over UDP to servers that have none; an answer that was cut for UDP is
// fetched over TCP, and given whole if the client takes it.
func (f *Forwarder) ask(ctx context.Context, r Route, server netip.AddrPort, q Query) ([]byte, error) {
	dial := r.Dial
	if dial == nil {
		dial = (&net.Dialer{}).DialContext
	}
	answer, err := roundTrip(ctx, dial, server, q, q.TCP)
	if err != nil && q.TCP && ctx.Err() == nil {
		answer, err = roundTrip(ctx, dial, server, q, false)
	}
	if err != nil {
		return nil, fmt.Errorf("server %s: %w", server, err)
	}
	f.answered(r, server)
	if cut := answer[2]&2 != 0; cut && !q.TCP {
		if whole, err := roundTrip(ctx, dial, server, q, true); err == nil && len(whole) <= q.Size {
			answer = whole
		}
	}
	copy(answer, q.Packed[:2])
	return answer, nil
}

// roundTrip asks one server. The question gets a fresh random ID and, with UDP, a
// socket and so a source port of its own, which makes forged answers unlikely
// (RFC 5452).
func roundTrip(ctx context.Context, dial func(context.Context, string, string) (net.Conn, error), server netip.AddrPort, q Query, tcp bool) ([]byte, error) {
	network := "udp"
	if tcp {
		network = "tcp"
	}
	conn, err := dial(ctx, network, server.String())
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()

	out := append([]byte(nil), q.Packed...)
	_, _ = rand.Read(out[:2])
	if tcp {
		if err := writeFramed(conn, out); err != nil {
			return nil, err
		}
		in, err := readFramed(conn)
		if err != nil {
			return nil, err
		}
		if !matches(in, out, q.Question) {
			return nil, errors.New("the answer is not to the question")
		}
		return in, nil
	}
	if _, err := conn.Write(out); err != nil {
		return nil, err
	}
	again := sendAgain(conn, out, resend)
	defer again()
	buffer, _ := datagrams.Get().(*[maxDatagram]byte)
	defer datagrams.Put(buffer)
	for {
		n, err := conn.Read(buffer[:])
		if err != nil {
			return nil, err
		}
		if matches(buffer[:n], out, q.Question) {
			return append([]byte(nil), buffer[:n]...), nil
		}
	}
}

const maxDatagram = 65535

// datagrams are buffers, of which few are used at a time.
var datagrams = sync.Pool{New: func() any { return new([maxDatagram]byte) }}

// sendAgain sends a datagram after a time, then after twice that time, until it is
// stopped.
func sendAgain(conn net.Conn, packed []byte, after time.Duration) (stop func()) {
	var mu sync.Mutex
	var timer *time.Timer
	var send func()
	stopped := false
	wait := after
	send = func() {
		mu.Lock()
		defer mu.Unlock()
		if stopped {
			return
		}
		_, _ = conn.Write(packed) // what is wrong, reading tells
		wait *= 2
		timer = time.AfterFunc(wait, send)
	}
	mu.Lock()
	defer mu.Unlock()
	timer = time.AfterFunc(wait, send)
	return func() {
		mu.Lock()
		defer mu.Unlock()
		stopped = true
		timer.Stop()
	}
}

// matches reports whether in is an answer to the question sent as out.
func matches(in, out []byte, question dns.Question) bool {
	if len(in) < 12 || in[0] != out[0] || in[1] != out[1] || in[2]&0x80 == 0 {
		return false
	}
	if binary.BigEndian.Uint16(in[4:]) == 0 {
		// Servers may leave the question out of an error.
		return in[3]&0xf != dns.RcodeSuccess
	}
	name, off, err := dns.UnpackDomainName(in, 12)
	if err != nil || off+4 > len(in) {
		return false
	}
	return Canonical(name) == Canonical(question.Name) &&
		binary.BigEndian.Uint16(in[off:]) == question.Qtype && binary.BigEndian.Uint16(in[off+2:]) == question.Qclass
}
