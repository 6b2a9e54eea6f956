package netns

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// holding is the sockets that reserve an endpoint's host ports.
type holding struct {
	m  *Manager
	id string

	mu      sync.Mutex
	sockets map[string]*heldSocket // by key, such as "tcp/0.0.0.0:8080"
}

// heldSocket is one of: listener, packet, raw (sctp).
type heldSocket struct {
	listener *net.TCPListener
	packet   *net.UDPConn
	raw      *os.File
	stop     context.CancelFunc
}

func (s *heldSocket) close() {
	if s.stop != nil {
		s.stop()
	}
	switch {
	case s.listener != nil:
		_ = s.listener.Close()
	case s.packet != nil:
		_ = s.packet.Close()
	case s.raw != nil:
		_ = s.raw.Close()
	}
}

func (s *heldSocket) file() (*os.File, error) {
	switch {
	case s.listener != nil:
		return s.listener.File()
	case s.packet != nil:
		return s.packet.File()
	}
	fd, err := unix.FcntlInt(s.raw.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	return os.NewFile(uintptr(fd), s.raw.Name()), err
}

// holder returns the endpoint's holding, made on demand.
func (m *Manager) holder(e *Endpoint) *holding {
	m.mu.Lock()
	defer m.mu.Unlock()
	h := m.held[e.Spec.ID]
	if h == nil {
		h = &holding{m: m, id: e.Spec.ID, sockets: map[string]*heldSocket{}}
		m.held[e.Spec.ID] = h
	}
	return h
}

// release closes an endpoint's sockets.
func (m *Manager) release(id string) {
	m.mu.Lock()
	h := m.held[id]
	delete(m.held, id)
	m.mu.Unlock()
	if h == nil {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	for key, s := range h.sockets {
		s.close()
		delete(h.sockets, key)
	}
}

func socketKey(proto string, a netip.AddrPort) string { return proto + "/" + a.String() }

// reserve opens the sockets of a port and returns it with its host port
// resolved. had is the port it had before, tried first where the host port is
// open. Routed ports need no host port. One port that the user has named may be one of
// lenders', see open.
func (h *holding) reserve(ctx context.Context, p Port, had uint16, routed bool, lenders []string) (Port, error) {
	first, last := p.HostPort, p.Last()
	if first == 0 || first != last {
		lenders = nil
	}
	p.HostPortEnd = 0
	if routed {
		if p.HostPort == 0 {
			p.HostPort = p.ContainerPort
		}
		return p, nil
	}
	if had != 0 && (first == 0 || had >= first && had <= last) {
		p.HostPort = had
		if err := h.open(ctx, p, lenders); err == nil {
			return p, nil
		}
	}
	if first == 0 {
		// The kernel chooses for the first address out of ip_local_port_range; the
		// other one may have it taken.
		var err error
		for range 64 {
			p.HostPort = 0
			if p.HostPort, err = h.openAny(ctx, p); err == nil {
				return p, nil
			}
			if !errors.Is(err, unix.EADDRINUSE) {
				break
			}
		}
		return p, err
	}
	var err error
	for port := int(first); port <= int(last); port++ {
		p.HostPort = uint16(port)
		if err = h.open(ctx, p, lenders); err == nil || !errors.Is(err, unix.EADDRINUSE) {
			return p, err
		}
	}
	return p, err
}

// choose is reserve for a port that no socket is held for: it must be free now, for
// us and for everybody else. own are the ports chosen before it.
func choose(ctx context.Context, p Port, had uint16, own, others portIndex, free *freePorts) (Port, error) {
	first, last := p.HostPort, p.Last()
	p.HostPortEnd = 0
	try := func(port uint16) error {
		p.HostPort = port
		if _, taken := others.clashing(p); taken {
			return unix.EADDRINUSE
		}
		if _, taken := own.clashing(p); taken {
			return unix.EADDRINUSE
		}
		return free.check(ctx, p)
	}
	if had != 0 && (first == 0 || had >= first && had <= last) && try(had) == nil {
		return p, nil
	}
	var err error
	if first == 0 {
		for range 64 {
			s, port, lerr := listen(ctx, p.Transport(), netip.AddrPortFrom(p.Bindings()[0], 0))
			if lerr != nil {
				return p, lerr
			}
			s.close()
			if err = try(port); err == nil || !errors.Is(err, unix.EADDRINUSE) {
				return p, err
			}
		}
		return p, err
	}
	for port := int(first); port <= int(last); port++ {
		if err = try(uint16(port)); err == nil || !errors.Is(err, unix.EADDRINUSE) {
			return p, err
		}
	}
	return p, err
}

// bindable tells why a port cannot be had now, if so.
func bindable(ctx context.Context, p Port) error {
	var err error
	for _, a := range p.Bindings() {
		s, _, lerr := listen(ctx, p.Transport(), netip.AddrPortFrom(a, p.HostPort))
		if lerr == nil {
			s.close()
		} else if !optional(p, a, lerr) {
			err = lerr
		}
	}
	return err
}

// openAny opens a socket on a port of the kernel's choice and the others on the same.
func (h *holding) openAny(ctx context.Context, p Port) (uint16, error) {
	a := p.Bindings()[0]
	s, port, err := listen(ctx, p.Transport(), netip.AddrPortFrom(a, 0))
	if err != nil {
		return 0, err
	}
	key := socketKey(p.Transport(), netip.AddrPortFrom(a, port))
	h.put(key, s)
	p.HostPort = port
	if err := h.open(ctx, p, nil); err != nil {
		h.drop(key)
		return 0, err
	}
	return port, nil
}

// lent is a duplicate of the socket that one of several endpoints has for a key, nil
// if none has.
func (m *Manager) lent(key string, ids []string) *os.File {
	for _, id := range ids {
		m.mu.Lock()
		h := m.held[id]
		m.mu.Unlock()
		if h == nil {
			continue
		}
		h.mu.Lock()
		s := h.sockets[key]
		h.mu.Unlock()
		if s == nil {
			continue
		}
		if f, err := s.file(); err == nil {
			return f
		}
	}
	return nil
}

// open opens the sockets of a resolved port that are not open yet, all or none. Where
// one of lenders, which are endpoints, has the same port, its socket is shared.
func (h *holding) open(ctx context.Context, p Port, lenders []string) error {
	var made []string
	for _, a := range p.Bindings() {
		key := socketKey(p.Transport(), netip.AddrPortFrom(a, p.HostPort))
		h.mu.Lock()
		_, have := h.sockets[key]
		h.mu.Unlock()
		if have {
			continue
		}
		s, _, err := listen(ctx, p.Transport(), netip.AddrPortFrom(a, p.HostPort))
		if err != nil && optional(p, a, err) {
			continue
		}
		if errors.Is(err, unix.EADDRINUSE) {
			if f := h.m.lent(key, lenders); f != nil {
				if err = h.adopt(key, f); err == nil {
					err = f.Close()
				}
				if err == nil {
					made = append(made, key)
					continue
				}
			}
		}
		if err != nil {
			for _, key := range made {
				h.drop(key)
			}
			return err
		}
		h.put(key, s)
		made = append(made, key)
	}
	return nil
}

// optional reports whether a port can do without a socket: on a host without
// IPv6 when no address was named, and for SCTP, which many kernels lack.
func optional(p Port, a netip.Addr, err error) bool {
	return !p.HostIP.IsValid() && a.Is6() && (errors.Is(err, unix.EAFNOSUPPORT) || errors.Is(err, unix.EADDRNOTAVAIL)) ||
		p.Transport() == "sctp" && (errors.Is(err, unix.EPROTONOSUPPORT) || errors.Is(err, unix.ESOCKTNOSUPPORT))
}

func (h *holding) put(key string, s *heldSocket) {
	h.m.serve(h.id, s)
	h.mu.Lock()
	h.sockets[key] = s
	h.mu.Unlock()
}

func (h *holding) drop(key string) {
	h.mu.Lock()
	s := h.sockets[key]
	delete(h.sockets, key)
	h.mu.Unlock()
	if s != nil {
		s.close()
	}
}

// adopt takes a duplicate of an open socket.
func (h *holding) adopt(key string, f *os.File) error {
	h.mu.Lock()
	_, have := h.sockets[key]
	h.mu.Unlock()
	if have {
		return nil
	}
	proto, _, _ := strings.Cut(key, "/")
	s := &heldSocket{}
	switch proto {
	case "tcp":
		l, err := net.FileListener(f)
		if err != nil {
			return err
		}
		tcp, ok := l.(*net.TCPListener)
		if !ok {
			return errors.Join(fmt.Errorf("it is a %T", l), l.Close())
		}
		s.listener = tcp
	case "udp":
		c, err := net.FilePacketConn(f)
		if err != nil {
			return err
		}
		udp, ok := c.(*net.UDPConn)
		if !ok {
			return errors.Join(fmt.Errorf("it is a %T", c), c.Close())
		}
		s.packet = udp
	default:
		fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0)
		if err != nil {
			return err
		}
		s.raw = os.NewFile(uintptr(fd), key)
	}
	h.put(key, s)
	return nil
}

// files duplicates the sockets that are not in known.
func (h *holding) files(known map[string]*os.File) (map[string]*os.File, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	out := map[string]*os.File{}
	for key, s := range h.sockets {
		if _, ok := known[key]; ok {
			continue
		}
		f, err := s.file()
		if err != nil {
			for _, f := range out {
				_ = f.Close()
			}
			return nil, fmt.Errorf("cannot duplicate socket of port %s: %w", key, err)
		}
		out[key] = f
	}
	return out, nil
}

// listen opens a socket that keeps others from the port. A TCP socket has to
// listen for that: one that is only bound lets others with SO_REUSEADDR in.
func listen(ctx context.Context, proto string, a netip.AddrPort) (*heldSocket, uint16, error) {
	family := "6"
	if a.Addr().Is4() {
		family = "4"
	}
	var config net.ListenConfig
	config.SetMultipathTCP(false)
	config.KeepAliveConfig.Enable = false
	switch proto {
	case "tcp":
		l, err := config.Listen(ctx, "tcp"+family, a.String())
		if err != nil {
			return nil, 0, err
		}
		tcp := l.(*net.TCPListener)
		return &heldSocket{listener: tcp}, uint16(tcp.Addr().(*net.TCPAddr).Port), nil
	case "udp":
		c, err := config.ListenPacket(ctx, "udp"+family, a.String())
		if err != nil {
			return nil, 0, err
		}
		udp := c.(*net.UDPConn)
		return &heldSocket{packet: udp}, uint16(udp.LocalAddr().(*net.UDPAddr).Port), nil
	}
	return listenSCTP(a)
}

func listenSCTP(a netip.AddrPort) (*heldSocket, uint16, error) {
	var sa unix.Sockaddr
	domain := unix.AF_INET
	if a.Addr().Is4() {
		sa = &unix.SockaddrInet4{Port: int(a.Port()), Addr: a.Addr().As4()}
	} else {
		domain, sa = unix.AF_INET6, &unix.SockaddrInet6{Port: int(a.Port()), Addr: a.Addr().As16()}
	}
	fd, err := unix.Socket(domain, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, unix.IPPROTO_SCTP)
	if err != nil {
		return nil, 0, os.NewSyscallError("socket", err)
	}
	if domain == unix.AF_INET6 {
		_ = unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 1)
	}
	port := a.Port()
	err = unix.Bind(fd, sa)
	if err == nil {
		switch sa, _ := unix.Getsockname(fd); sa := sa.(type) {
		case *unix.SockaddrInet4:
			port = uint16(sa.Port)
		case *unix.SockaddrInet6:
			port = uint16(sa.Port)
		}
	}
	if err != nil {
		_ = unix.Close(fd)
		return nil, 0, os.NewSyscallError("bind", err)
	}
	return &heldSocket{raw: os.NewFile(uintptr(fd), socketKey("sctp", a))}, port, nil
}

// hidden reports whether a client lies in an internal network, from which
// nothing leads out, not even through a listener of ours.
func (m *Manager) hidden(client netip.Addr) bool {
	networks, err := m.List()
	return err != nil || slices.ContainsFunc(networks, func(n Network) bool {
		return n.Internal && (n.IPv4.IsValid() && n.IPv4.Contains(client) || n.IPv6.IsValid() && n.IPv6.Contains(client))
	})
}
