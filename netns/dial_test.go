package netns

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/stack-run/stack/netns/internal/kerneltest"
	"github.com/stack-run/stack/netns/link"
)

func TestDial(t *testing.T) {
	kerneltest.NeedRoot(t)
	pin := filepath.Join(t.TempDir(), "ns")
	err := link.Create(pin, nil, func(int) error {
		lo, err := netlink.LinkByName("lo")
		if err != nil {
			return err
		}
		return netlink.LinkSetUp(lo)
	})
	if err != nil {
		t.Fatal(err)
	}
	defer link.Unpin(pin)
	ns, err := os.Open(pin)
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Close()
	for _, address := range []string{"127.0.0.1:0", "[::1]:0"} {
		var l net.Listener
		kerneltest.Inside(t, pin, func() (err error) {
			l, err = net.Listen("tcp", address)
			return err
		})
		to := netip.MustParseAddrPort(l.Addr().String())
		go func() {
			if c, err := l.Accept(); err == nil {
				io.WriteString(c, "inside")
				c.Close()
			}
		}()
		c, err := Dial(t.Context(), ns, to)
		if err != nil {
			t.Fatal(err)
		}
		if text, err := io.ReadAll(c); string(text) != "inside" {
			t.Errorf("%s: %q, %v", to, text, err)
		}
		c.Close()
		l.Close()
		if _, err := Dial(t.Context(), ns, to); !errors.Is(err, unix.ECONNREFUSED) {
			t.Errorf("%s, where nobody listens: %v", to, err)
		}
	}
	// Nobody answers: a full backlog, whose SYNs are dropped.
	var full int
	kerneltest.Inside(t, pin, func() (err error) {
		if full, err = unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0); err != nil {
			return err
		}
		return errors.Join(unix.Bind(full, &unix.SockaddrInet4{Port: 7, Addr: [4]byte{127, 0, 0, 1}}), unix.Listen(full, 0))
	})
	defer unix.Close(full)
	to := netip.MustParseAddrPort("127.0.0.1:7")
	held, err := Dial(t.Context(), ns, to)
	if err != nil {
		t.Fatal(err)
	}
	defer held.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := Dial(ctx, ns, to); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("nobody accepts: %v", err)
	}
}
