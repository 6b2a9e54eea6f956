package driver

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// link is one connection to a receiver.
type link struct {
	t       *Target
	conn    net.Conn // with TLS, if there is any
	raw     net.Conn
	since   time.Time
	written atomic.Int64  // bytes of raw
	ended   chan error    // has a value once the other side is gone
	acks    chan struct{} // has a value when there are new acknowledgements
	release func() bool

	mu    sync.Mutex
	acked []string

	confirmed int64 // bytes of raw that the other side had when that was looked at last
	holds     int64 // bytes that a unix stream socket holds at most
	datagrams int   // that a unix datagram socket holds at most
}

// open connects to a target. When ctx is done, what is being written fails.
func open(ctx context.Context, t *Target) (*link, error) {
	raw, err := t.dial(ctx)
	if err != nil {
		return nil, err
	}
	l := &link{t: t, raw: raw, since: time.Now(), ended: make(chan error, 1), acks: make(chan struct{}, 1)}
	l.conn = counted{raw, &l.written}
	if t.tls != nil {
		if l.conn, err = t.secure(ctx, l.conn); err != nil {
			return nil, errors.Join(err, raw.Close())
		}
	}
	l.release = context.AfterFunc(ctx, func() { raw.SetDeadline(time.Now().Add(lastWrite)) })
	switch t.network {
	case "unix":
		l.holds = int64(l.option(unix.SO_SNDBUF))
	case "unixgram":
		l.datagrams = queueLength() + 1
	}
	if t.write == nil {
		go l.listen()
	}
	return l, nil
}

// lastWrite is how long a write may take that was begun when there is to be an end.
const lastWrite = 200 * time.Millisecond

// counted counts what is written.
type counted struct {
	net.Conn
	n *atomic.Int64
}

func (c counted) Write(b []byte) (int, error) {
	n, err := c.Conn.Write(b)
	c.n.Add(int64(n))
	return n, err
}

// queueLength is how many datagrams a unix socket takes that nobody has read, unix(7).
func queueLength() int {
	text, err := os.ReadFile("/proc/sys/net/unix/max_dgram_qlen")
	n, convErr := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil || convErr != nil {
		return 512
	}
	return n
}

// listen reads what a receiver says: acknowledgements, or only that it is gone.
func (l *link) listen() {
	read := l.t.acks
	if read == nil {
		read = func(conn net.Conn, _ func(string)) error {
			_, err := io.Copy(io.Discard, conn)
			if err == nil {
				err = errors.New("it has closed the connection")
			}
			return err
		}
	}
	// Never waiting for who writes: the other side may take nothing before it is rid of
	// its acknowledgements.
	l.ended <- read(l.conn, func(id string) {
		l.mu.Lock()
		l.acked = append(l.acked, id)
		l.mu.Unlock()
		select {
		case l.acks <- struct{}{}:
		default:
		}
	})
}

// acknowledged are the acknowledgements that have come since it was asked last.
func (l *link) acknowledged() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	ids := l.acked
	l.acked = nil
	return ids
}

func (l *link) close() {
	l.release()
	l.conn.Close()
}

// send writes bytes of a stream and tells how many. A receiver that takes some of them in
// time is slow, and waited for; with TLS a write that was cut off cannot be continued.
func (l *link) send(b []byte) (done int, err error) {
	for {
		if l.t.timeout > 0 {
			l.raw.SetWriteDeadline(time.Now().Add(l.t.timeout))
		}
		n, err := l.conn.Write(b[done:])
		done += n
		if err == nil || n == 0 || l.t.tls != nil || !errors.Is(err, os.ErrDeadlineExceeded) {
			return done, err
		}
	}
}

// settled is how many of the oldest messages the other side is known to have.
func (l *link) settled(sent []queued, ended bool) int {
	switch {
	case l.t.acks != nil:
		for i, q := range sent {
			if q.ack != "" && !q.acked {
				return i
			}
		}
		return len(sent)
	case l.t.network == "tcp":
		l.confirmed = l.written.Load() - l.unread()
	case l.t.network == "udp":
		// A closed port is told by the answer to the datagram before.
		return allBut(sent, 1)
	case !ended && l.unread() == 0: // at its end a unix socket has nothing unread either
		return len(sent)
	case l.t.network == "unixgram":
		return allBut(sent, l.datagrams)
	default:
		l.confirmed = l.written.Load() - l.holds
	}
	for i, q := range sent {
		if q.mark > l.confirmed {
			return i
		}
	}
	return len(sent)
}

// allBut is how many messages are before the last n that say anything.
func allBut(sent []queued, n int) int {
	for i := len(sent); i > 0; i-- {
		if len(sent[i-1].data) == 0 {
			continue
		}
		if n--; n == 0 {
			return i - 1
		}
	}
	return 0
}

// unread is what of all that was written is on its way: bytes for TCP, and for unix
// sockets the memory of what the other program has not read, tcp(7), unix(7).
func (l *link) unread() (n int64) {
	l.control(func(fd int) {
		if v, err := unix.IoctlGetInt(fd, unix.SIOCOUTQ); err == nil {
			n = int64(v)
		}
	})
	return n
}

func (l *link) option(name int) (n int) {
	l.control(func(fd int) { n, _ = unix.GetsockoptInt(fd, unix.SOL_SOCKET, name) })
	return n
}

func (l *link) control(f func(fd int)) {
	c, ok := l.raw.(syscall.Conn)
	if !ok {
		return
	}
	if rc, err := c.SyscallConn(); err == nil {
		rc.Control(func(fd uintptr) { f(int(fd)) })
	}
}
