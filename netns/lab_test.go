package netns

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stack-run/stack/netns/internal/kerneltest"
	"github.com/stack-run/stack/netns/link"
)

// lab is a manager with roots of its own.
type lab struct {
	*Manager
	t    testing.TB
	root string
}

func newLab(t testing.TB) *lab {
	t.Helper()
	kerneltest.NeedRoot(t)
	root := t.TempDir()
	m := openLab(t, root)
	l := &lab{m, t, root}
	t.Cleanup(l.checkNothingLeft)
	return l
}

func openLab(t testing.TB, root string) *Manager {
	t.Helper()
	conf := filepath.Join(root, "resolv.conf")
	if _, err := os.Stat(conf); err != nil {
		if err := os.WriteFile(conf, []byte("search example.test\noptions edns0\n"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	m, err := Open(Options{DataRoot: filepath.Join(root, "data"), RunRoot: filepath.Join(root, "run"), ResolvConf: conf,
		Logf: logger(t)})
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// logger logs while the test runs. A manager's watches end a moment after it.
func logger(t testing.TB) func(format string, args ...any) {
	var mu sync.Mutex
	over := false
	t.Cleanup(func() {
		mu.Lock()
		defer mu.Unlock()
		over = true
	})
	return func(format string, args ...any) {
		mu.Lock()
		defer mu.Unlock()
		if !over {
			t.Logf("log: "+format, args...)
		}
	}
}

// checkNothingLeft removes all networks and looks for leftovers.
func (l *lab) checkNothingLeft() {
	l.t.Helper()
	ctx := context.Background()
	networks, err := l.List()
	if err != nil {
		l.t.Error(err)
	}
	var names []string
	for _, n := range networks {
		names = append(names, n.Name)
	}
	start := time.Now()
	if err := l.Remove(ctx, names...); err != nil {
		l.t.Error(err)
	}
	l.t.Logf("removing %d networks: %s", len(names), time.Since(start).Round(100*time.Microsecond))
	left, err := net.Interfaces()
	if err != nil {
		l.t.Error(err)
	}
	for _, i := range left {
		if strings.HasPrefix(i.Name, "st"+l.o.Instance) || strings.HasPrefix(i.Name, l.hostLinkPrefix()) {
			l.t.Errorf("link %s is left", i.Name)
		}
	}
	if b, err := l.table.Elements(); err != nil || len(b) > 0 {
		l.t.Errorf("firewall elements %v are left, %v", b, err)
	}
	_ = filepath.WalkDir(l.root, func(path string, d os.DirEntry, err error) error {
		if err == nil && !d.IsDir() && d.Name() != "resolv.conf" && path != l.lockPath() {
			l.t.Errorf("file %s is left", path)
		}
		return err
	})
	if mounts, _ := os.ReadFile("/proc/thread-self/mountinfo"); strings.Contains(string(mounts), l.root) {
		l.t.Errorf("mounts are left:\n%s", mounts)
	}
}

func (l *lab) network(spec NetworkSpec) Network {
	l.t.Helper()
	n, err := l.Create(context.Background(), spec)
	if err != nil {
		l.t.Fatal(err)
	}
	return n
}

func (l *lab) attach(spec EndpointSpec) *Endpoint {
	l.t.Helper()
	if spec.ID == "" {
		spec.ID = fmt.Sprintf("%x", time.Now().UnixNano())
	}
	e, err := l.Attach(context.Background(), spec)
	if err != nil {
		l.t.Fatal(err)
	}
	l.t.Cleanup(func() {
		if err := l.Detach(context.Background(), e); err != nil {
			l.t.Error(err)
		}
	})
	return e
}

func on(networks ...string) []Attachment {
	var out []Attachment
	for _, n := range networks {
		out = append(out, Attachment{Network: n})
	}
	return out
}

// inside runs fn in an endpoint's namespace.
func (l *lab) inside(e *Endpoint, fn func() error) {
	l.t.Helper()
	kerneltest.Inside(l.t, e.NetNS, fn)
}

// serveTCP answers connections inside an endpoint with the client's address.
func (l *lab) serveTCP(e *Endpoint, address string) {
	l.t.Helper()
	l.accept(e, address, func(c net.Conn) {
		_, _ = io.WriteString(c, c.RemoteAddr().(*net.TCPAddr).AddrPort().Addr().Unmap().String())
	})
}

// accept has connections to an endpoint answered, and closes them.
func (l *lab) accept(e *Endpoint, address string, answer func(net.Conn)) {
	l.t.Helper()
	var ln net.Listener
	l.inside(e, func() (err error) { ln, err = net.Listen("tcp", address); return err })
	l.t.Cleanup(func() { _ = ln.Close() })
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				answer(c)
				_ = c.Close()
			}()
		}
	}()
}

// serveUDP answers datagrams inside an endpoint with the client's address.
func (l *lab) serveUDP(e *Endpoint, address string) {
	l.t.Helper()
	l.receive(e, address, func(from net.Addr) string { return from.(*net.UDPAddr).AddrPort().Addr().Unmap().String() })
}

// receive has datagrams to an endpoint answered.
func (l *lab) receive(e *Endpoint, address string, answer func(from net.Addr) string) {
	l.t.Helper()
	var c net.PacketConn
	l.inside(e, func() (err error) { c, err = net.ListenPacket("udp", address); return err })
	l.t.Cleanup(func() { _ = c.Close() })
	go func() {
		b := make([]byte, 100)
		for {
			_, from, err := c.ReadFrom(b)
			if err != nil {
				return
			}
			_, _ = c.WriteTo([]byte(answer(from)), from)
		}
	}()
}

// ask connects from where it runs and returns the answer.
func ask(network, address string) (string, error) {
	// A first packet that is lost on a busy machine is sent again after a second.
	c, err := net.DialTimeout(network, address, 2500*time.Millisecond)
	if err != nil {
		return "", err
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(time.Second))
	if strings.HasPrefix(network, "udp") {
		if _, err := c.Write([]byte("?")); err != nil {
			return "", err
		}
		b := make([]byte, 100)
		n, err := c.Read(b)
		return string(b[:n]), err
	}
	b, err := io.ReadAll(c)
	return string(b), err
}

func (l *lab) askFrom(e *Endpoint, network, address string) (answer string, err error) {
	l.t.Helper()
	kerneltest.Inside(l.t, e.NetNS, func() error { answer, err = ask(network, address); return nil })
	return answer, err
}

func hostPort(a netip.Addr, port int) string { return net.JoinHostPort(a.String(), fmt.Sprint(port)) }

// outside is another machine: 192.0.2.100 and fd0f::100 on the host's LAN, where
// the host is 192.0.2.1 and fd0f::1. It knows no way to containers but the host.
func (l *lab) outside() *Endpoint {
	l.t.Helper()
	pin := filepath.Join(l.t.TempDir(), "outside")
	e := &Endpoint{NetNS: pin, Spec: EndpointSpec{ID: "outside"}}
	err := link.Create(pin, nil, func(hostNS int) error {
		if err := namespaceSysctls(true, true); err != nil {
			return err
		}
		s, err := link.Open()
		if err != nil {
			return err
		}
		defer s.Close()
		var b link.Batch
		b.Up("lo")
		b.AddVeth(link.Veth{Name: "eth0", Index: firstIndex, Host: "lan0"}, hostNS)
		b.Up("eth0")
		b.AddAddress(firstIndex, netip.MustParsePrefix("192.0.2.100/24"))
		b.AddAddress(firstIndex, netip.MustParsePrefix("fd0f::100/64"))
		b.DefaultRoute(firstIndex, netip.MustParseAddr("192.0.2.1"))
		b.DefaultRoute(firstIndex, netip.MustParseAddr("fd0f::1"))
		return s.Do(&b)
	})
	if err != nil {
		l.t.Fatal(err)
	}
	l.t.Cleanup(func() {
		if err := errors.Join(link.Unpin(pin), l.unplug(&Endpoint{}, Link{HostLink: "lan0"})); err != nil {
			l.t.Error(err)
		}
	})
	s, err := link.Open()
	if err != nil {
		l.t.Fatal(err)
	}
	defer s.Close()
	info, err := s.Find("lan0")
	if err != nil {
		l.t.Fatal(err)
	}
	var b link.Batch
	b.Up("lan0")
	b.AddAddress(info.Index, netip.MustParsePrefix("192.0.2.1/24"))
	b.AddAddress(info.Index, netip.MustParsePrefix("fd0f::1/64"))
	if err := s.Do(&b); err != nil {
		l.t.Fatal(err)
	}
	return e
}
