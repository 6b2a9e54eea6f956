package link

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"slices"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// Batch collects rtnetlink requests which are sent together and carried out in
// order. The kernel goes on after a request that fails.
type Batch struct {
	requests []request
}

type request struct {
	message *nl.NetlinkRequest
	what    string       // completes "cannot …"
	ignore  []unix.Errno // errors that mean "is so already"
	info    *Info        // where to put what a reply says
	seen    bool
}

func (b *Batch) add(what string, r *nl.NetlinkRequest, ignore ...unix.Errno) {
	b.requests = append(b.requests, request{message: r, what: what, ignore: ignore})
}

// Len returns the number of requests in the batch.
func (b *Batch) Len() int { return len(b.requests) }

// Socket is a route netlink socket. It stays in the network namespace of the
// thread that opened it. It is not safe for concurrent use.
type Socket struct {
	fd     int
	buffer []byte
}

// Open opens a route netlink socket in the calling thread's network namespace.
func Open() (*Socket, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("cannot open route netlink socket: %w", err)
	}
	// An acknowledgement without the request's echo is short (NETLINK_CAP_ACK),
	// one with the kernel's text says what was wrong (NETLINK_EXT_ACK).
	_ = unix.SetsockoptInt(fd, unix.SOL_NETLINK, unix.NETLINK_CAP_ACK, 1)
	_ = unix.SetsockoptInt(fd, unix.SOL_NETLINK, unix.NETLINK_EXT_ACK, 1)
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		_ = unix.Close(fd)
		return nil, fmt.Errorf("cannot bind route netlink socket: %w", err)
	}
	return &Socket{fd: fd, buffer: make([]byte, 32<<10)}, nil
}

// Close closes the socket.
func (s *Socket) Close() error {
	return os.NewSyscallError("close", unix.Close(s.fd))
}

// Do carries the batch out and returns the first error of a request that was
// not ignorable. The batch is empty afterwards.
func (s *Socket) Do(b *Batch) error {
	requests := b.requests
	b.requests = nil
	if len(requests) == 0 {
		return nil
	}
	var out []byte
	bySeq := make(map[uint32]*request, len(requests))
	for i := range requests {
		r := &requests[i]
		r.message.Flags |= unix.NLM_F_ACK
		bySeq[r.message.Seq] = r
		out = append(out, r.message.Serialize()...)
		for len(out)%unix.NLMSG_ALIGNTO != 0 {
			out = append(out, 0)
		}
	}
	if err := unix.Sendto(s.fd, out, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return fmt.Errorf("cannot send %d route netlink requests: %w", len(requests), err)
	}
	var first error
	for left := len(requests); left > 0; {
		n, _, err := unix.Recvfrom(s.fd, s.buffer, 0)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return fmt.Errorf("cannot receive route netlink answers: %w", err)
		}
		for in := s.buffer[:n]; len(in) >= unix.NLMSG_HDRLEN; {
			size := int(binary.NativeEndian.Uint32(in))
			if size < unix.NLMSG_HDRLEN || size > len(in) {
				break
			}
			kind, flags := binary.NativeEndian.Uint16(in[4:]), binary.NativeEndian.Uint16(in[6:])
			r := bySeq[binary.NativeEndian.Uint32(in[8:])]
			body := in[unix.NLMSG_HDRLEN:size]
			in = in[min(len(in), (size+3)&^3):]
			if r == nil || r.seen {
				continue
			}
			switch {
			case kind == unix.NLMSG_ERROR && len(body) >= 4:
				r.seen = true
				left--
				if err := r.failure(body, flags); err != nil && first == nil {
					first = err
				}
			case kind == unix.RTM_NEWLINK && len(body) >= unix.SizeofIfInfomsg && r.info != nil:
				*r.info = parseInfo(body)
			}
		}
	}
	return first
}

// failure makes an error out of an NLMSG_ERROR body, nil for success.
func (r *request) failure(body []byte, flags uint16) error {
	errno := unix.Errno(-int32(binary.NativeEndian.Uint32(body)))
	if errno == 0 || slices.Contains(r.ignore, errno) {
		return nil
	}
	// With NETLINK_CAP_ACK the attributes follow the echoed header.
	if flags&unix.NLM_F_ACK_TLVS != 0 && len(body) > 4+unix.NLMSG_HDRLEN {
		attrs, _ := nl.ParseRouteAttr(body[4+unix.NLMSG_HDRLEN:])
		for _, a := range attrs {
			if a.Attr.Type == unix.NLMSGERR_ATTR_MSG {
				return fmt.Errorf("cannot %s: %w (%s)", r.what, errno, nl.BytesToString(a.Value))
			}
		}
	}
	return fmt.Errorf("cannot %s: %w", r.what, errno)
}
