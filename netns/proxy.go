package netns

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"strconv"
	"sync"
	"time"
)

const (
	proxyDial = 5 * time.Second
	// A UDP client that is silent this long has a new flow next time; twice what
	// connection tracking keeps an answered flow (nf_conntrack_udp_timeout_stream).
	udpIdle = 240 * time.Second
	// maxDatagram is the largest UDP payload over IPv4 and IPv6.
	maxDatagram = 65535
)

// serve forwards what reaches a held socket: clients of [::1], IPv6 clients of a
// container that has none, and everybody while the firewall is flushed.
func (m *Manager) serve(id string, s *heldSocket) {
	ctx, cancel := context.WithCancel(context.Background())
	s.stop = cancel
	switch {
	case s.listener != nil:
		go m.serveTCP(ctx, id, s.listener)
	case s.packet != nil:
		go m.serveUDP(ctx, id, s.packet)
	}
}

// targets are the container's addresses for a held socket's port, of the
// client's family first.
func (m *Manager) targets(id, proto string, port uint16, v6 bool) []string {
	e, err := m.loadEndpoint(id)
	if err != nil {
		return nil
	}
	for _, p := range e.Ports {
		if p.Transport() != proto || p.HostPort != port {
			continue
		}
		var out []string
		for _, six := range []bool{v6, !v6} {
			if l := e.Publisher(six); l != nil {
				a := l.IPv4
				if six {
					a = l.IPv6
				}
				out = append(out, net.JoinHostPort(a.String(), strconv.Itoa(int(p.ContainerPort))))
			}
		}
		return out
	}
	return nil
}

func (m *Manager) serveTCP(ctx context.Context, id string, l *net.TCPListener) {
	port := l.Addr().(*net.TCPAddr).AddrPort().Port()
	for {
		client, err := l.AcceptTCP()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			// Out of descriptors, or the client is gone. The listener's own backlog
			// holds the rest; there is nobody else to tell.
			m.o.Logf("port %d: cannot accept a connection: %v", port, err)
			select {
			case <-ctx.Done():
				return
			case <-time.After(50 * time.Millisecond):
			}
			continue
		}
		go m.relay(ctx, id, port, client)
	}
}

func (m *Manager) relay(ctx context.Context, id string, port uint16, client *net.TCPConn) {
	defer client.Close()
	from := client.RemoteAddr().(*net.TCPAddr).AddrPort().Addr().Unmap()
	if m.hidden(from) {
		return
	}
	d := net.Dialer{Timeout: proxyDial}
	var server net.Conn
	for _, target := range m.targets(id, "tcp", port, from.Is6()) {
		c, err := d.DialContext(ctx, "tcp", target)
		if err == nil {
			server = c
			break
		}
	}
	if server == nil {
		_ = client.SetLinger(0) // refused, as a container without a listener does
		return
	}
	defer server.Close()
	stop := context.AfterFunc(ctx, func() { _ = client.Close(); _ = server.Close() })
	defer stop()
	var both sync.WaitGroup
	both.Go(func() {
		_, _ = io.Copy(server, client) // splice(2) between sockets
		_ = server.(*net.TCPConn).CloseWrite()
	})
	_, _ = io.Copy(client, server)
	_ = client.CloseWrite()
	both.Wait()
}

// flow is one UDP client's socket towards the container.
type flow struct{ server *net.UDPConn }

func (m *Manager) serveUDP(ctx context.Context, id string, l *net.UDPConn) {
	port := l.LocalAddr().(*net.UDPAddr).AddrPort().Port()
	var mu sync.Mutex
	flows := map[netip.AddrPort]*flow{}
	defer func() {
		mu.Lock()
		defer mu.Unlock()
		for _, f := range flows {
			_ = f.server.Close()
		}
	}()
	var buffer []byte
	for {
		if buffer == nil {
			// Most of these sockets never get a packet: wait without a buffer.
			if raw, err := l.SyscallConn(); err == nil {
				waited := false
				if raw.Read(func(uintptr) bool { defer func() { waited = true }(); return waited }) != nil {
					return
				}
			}
			buffer = make([]byte, maxDatagram)
		}
		n, client, err := l.ReadFromUDPAddrPort(buffer)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			continue // an ICMP error of an answer
		}
		mu.Lock()
		f := flows[client]
		mu.Unlock()
		if f == nil {
			if f = m.openFlow(id, port, client); f == nil {
				continue
			}
			mu.Lock()
			flows[client] = f
			mu.Unlock()
			go func() {
				f.answers(l, client)
				mu.Lock()
				delete(flows, client)
				mu.Unlock()
			}()
		}
		_ = f.server.SetReadDeadline(time.Now().Add(udpIdle))
		_, _ = f.server.Write(buffer[:n])
	}
}

func (m *Manager) openFlow(id string, port uint16, client netip.AddrPort) *flow {
	from := client.Addr().Unmap()
	if m.hidden(from) {
		return nil
	}
	for _, target := range m.targets(id, "udp", port, from.Is6()) {
		if c, err := net.Dial("udp", target); err == nil {
			return &flow{c.(*net.UDPConn)}
		}
	}
	return nil
}

// answers carries the container's packets back until the flow is idle.
func (f *flow) answers(l *net.UDPConn, client netip.AddrPort) {
	defer f.server.Close()
	buffer := make([]byte, maxDatagram)
	for {
		n, err := f.server.Read(buffer)
		var timeout net.Error
		if errors.Is(err, net.ErrClosed) || errors.As(err, &timeout) && timeout.Timeout() {
			return
		}
		if err != nil {
			continue // refused: the container does not listen now
		}
		_ = f.server.SetReadDeadline(time.Now().Add(udpIdle))
		if _, err := l.WriteToUDPAddrPort(buffer[:n], client); errors.Is(err, net.ErrClosed) {
			return
		}
	}
}
