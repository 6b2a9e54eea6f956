package e2e

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/miekg/dns"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/stack-run/stack/internal/thread"
)

// The machine's addresses on the local network, and those of the computer at
// its other end, which is also the way to everywhere else (RFC 5737, RFC 3849).
const (
	hostV4 = "192.0.2.1"
	hostV6 = "2001:db8::1"
	lanV4  = "192.0.2.254"
	lanV6  = "2001:db8::254"
)

// A lan is the network around the machine: one computer in a network namespace
// of its own. Functions run on its thread open their sockets there.
type lan struct{ work chan func() }

// newLAN connects the machine to a local network that has a DNS server (which
// knows example.test) and a web server that answers with the client's address.
func newLAN(t *testing.T) *lan {
	t.Helper()
	l := &lan{work: make(chan func())}
	ready := make(chan error)
	go thread.Own(func() { // whose namespace ends with it
		ready <- unix.Unshare(unix.CLONE_NEWNET)
		for f := range l.work {
			f()
		}
	})
	if err := <-ready; err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { close(l.work) })

	var ns int
	l.do(func() { ns = unix.Gettid() })
	host := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "lan0"}, PeerName: "eth0", PeerNamespace: netlink.NsPid(ns)}
	must(t, netlink.LinkAdd(host))
	t.Cleanup(func() { netlink.LinkDel(host) }) // gone with the namespace otherwise
	must(t, plug("lan0", hostV4+"/24", hostV6+"/64", lanV4, lanV6))
	var err error
	l.do(func() {
		err = errors.Join(plug("lo", "", "", "", ""), plug("eth0", lanV4+"/24", lanV6+"/64", hostV4, hostV6))
	})
	must(t, err)
	awaitLinkLocal(t, "lan0")
	l.serveDNS(t)
	l.serveHTTP(t)

	resolv := filepath.Join(t.TempDir(), "resolv.conf")
	must(t, os.WriteFile(resolv, []byte("nameserver "+lanV4+"\n"), 0o644))
	target, err := filepath.EvalSymlinks("/etc/resolv.conf")
	must(t, err)
	must(t, unix.Mount(resolv, target, "", unix.MS_BIND, ""))
	t.Cleanup(func() { unix.Unmount(target, unix.MNT_DETACH) })
	return l
}

// awaitLinkLocal waits for the address, and so the route, that the kernel gives a
// link some time after it carries packets: a snapshot of the machine is taken next.
func awaitLinkLocal(t *testing.T, name string) {
	t.Helper()
	eventually(t, 5*time.Second, func() error {
		link, err := netlink.LinkByName(name)
		if err != nil {
			return err
		}
		addrs, err := netlink.AddrList(link, netlink.FAMILY_V6)
		if err != nil {
			return err
		}
		for _, a := range addrs {
			if a.IP.IsLinkLocalUnicast() {
				return nil
			}
		}
		return fmt.Errorf("%s has no link-local address", name)
	})
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// plug gives a link of the thread's namespace its addresses and default routes.
func plug(name, v4, v6, gw4, gw6 string) error {
	link, err := netlink.LinkByName(name)
	if err != nil {
		return err
	}
	for _, a := range []string{v4, v6} {
		if a == "" {
			continue
		}
		addr, err := netlink.ParseAddr(a)
		if err != nil {
			return err
		}
		addr.Flags = unix.IFA_F_NODAD // usable at once
		if err := netlink.AddrAdd(link, addr); err != nil {
			return err
		}
	}
	if err := netlink.LinkSetUp(link); err != nil {
		return err
	}
	for _, gw := range []string{gw4, gw6} {
		if gw == "" {
			continue
		}
		if err := netlink.RouteAdd(&netlink.Route{LinkIndex: link.Attrs().Index, Gw: net.ParseIP(gw)}); err != nil {
			return fmt.Errorf("cannot add the default route by %s: %w", gw, err)
		}
	}
	return nil
}

// do runs f on the lan's thread.
func (l *lan) do(f func()) {
	done := make(chan struct{})
	l.work <- func() { defer close(done); f() }
	<-done
}

func (l *lan) serveDNS(t *testing.T) {
	t.Helper()
	mux := dns.NewServeMux()
	mux.HandleFunc(".", func(w dns.ResponseWriter, q *dns.Msg) {
		a := new(dns.Msg)
		a.SetReply(q)
		switch q.Question[0].Name {
		case "silent.test.":
			return
		case "half.test.":
			time.Sleep(500 * time.Millisecond)
		case "late.test.":
			time.Sleep(2500 * time.Millisecond)
		}
		switch {
		case (q.Question[0].Name == "half.test." || q.Question[0].Name == "late.test.") && q.Question[0].Qtype == dns.TypeA:
			rr, _ := dns.NewRR(q.Question[0].Name + " 60 IN A " + lanV4)
			a.Answer = append(a.Answer, rr)
		case q.Question[0].Name == "example.test." && q.Question[0].Qtype == dns.TypeA:
			rr, _ := dns.NewRR("example.test. 60 IN A " + lanV4)
			a.Answer = append(a.Answer, rr)
		case q.Question[0].Name == "big.test." && q.Question[0].Qtype == dns.TypeTXT:
			// Too large for a datagram: the resolver must ask again over TCP.
			for i := range 40 {
				rr, _ := dns.NewRR(fmt.Sprintf("big.test. 60 IN TXT \"%02d %060d\"", i, i))
				a.Answer = append(a.Answer, rr)
			}
			if w.RemoteAddr().Network() == "udp" {
				a.Truncate(512)
			}
		case q.Question[0].Name != "example.test." && q.Question[0].Name != "big.test.":
			a.Rcode = dns.RcodeNameError
		}
		w.WriteMsg(a)
	})
	var udp net.PacketConn
	var tcp net.Listener
	var err error
	l.do(func() {
		if udp, err = net.ListenPacket("udp", lanV4+":53"); err == nil {
			tcp, err = net.Listen("tcp", lanV4+":53")
		}
	})
	must(t, err)
	for _, s := range []*dns.Server{{PacketConn: udp, Handler: mux}, {Listener: tcp, Handler: mux}} {
		go s.ActivateAndServe()
		t.Cleanup(func() { s.Shutdown() })
	}
}

func (l *lan) serveHTTP(t *testing.T) {
	t.Helper()
	for _, addr := range []string{lanV4 + ":80", "[" + lanV6 + "]:80"} {
		var ln net.Listener
		var err error
		l.do(func() { ln, err = net.Listen("tcp", addr) })
		must(t, err)
		s := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			fmt.Fprint(w, netip.MustParseAddrPort(r.RemoteAddr).Addr())
		}), ReadHeaderTimeout: time.Second}
		go s.Serve(ln)
		t.Cleanup(func() { s.Close() })
	}
}

// get fetches a page from the lan.
func (l *lan) get(url string) (body string, err error) {
	l.do(func() { body, err = get(url) })
	return body, err
}

// get fetches a page over a new connection. The address must be a literal, so
// that the dial stays on the caller's thread.
func get(url string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return "", err
	}
	host := req.URL.Host
	if req.URL.Port() == "" {
		host += ":80"
	}
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", host)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	if d, ok := ctx.Deadline(); ok {
		conn.SetDeadline(d)
	}
	req.Close = true
	if err := req.Write(conn); err != nil {
		return "", err
	}
	return readResponse(conn, req)
}
