package link

import (
	"context"
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
}

func netns(path string) string { s, _ := os.Readlink(path); return s }

func TestNamespacesLeaveNoThreadBehind(t *testing.T) {
	needRoot(t)
	dir := filepath.Join(t.TempDir(), "pins")
	if err := PreparePins(dir); err != nil {
		t.Fatal(err)
	}
	if err := PreparePins(dir); err != nil {
		t.Fatal(err)
	}
	host := netns("/proc/self/ns/net")
	var all sync.WaitGroup
	for _, name := range []string{"a", "b", "c", "d", "e", "f"} {
		all.Go(func() {
			pin := filepath.Join(dir, name)
			var inside string
			err := Create(pin, nil, func(int) error {
				inside = netns(threadNS)
				if netns("/proc/self/ns/net") != host {
					t.Error("the main thread left the host's namespace")
				}
				return nil
			})
			if err != nil || inside == host || !Pinned(pin) {
				t.Errorf("create: %v, inside %s, pinned %v", err, inside, Pinned(pin))
			}
			err = Enter(pin, func(int) error {
				if got := netns(threadNS); got != inside {
					t.Errorf("entered %s, want %s", got, inside)
				}
				return os.ErrInvalid
			})
			if !errors.Is(err, os.ErrInvalid) {
				t.Errorf("the error inside is lost: %v", err)
			}
		})
	}
	all.Wait()
	tasks, err := os.ReadDir("/proc/self/task")
	if err != nil {
		t.Fatal(err)
	}
	for _, task := range tasks {
		if got := netns("/proc/self/task/" + task.Name() + "/ns/net"); got != "" && got != host {
			t.Errorf("thread %s is in %s", task.Name(), got)
		}
	}
	if RemovePins(dir) {
		t.Error("pins in use are removed")
	}
	for _, name := range []string{"a", "b", "c", "d", "e", "f", "a"} {
		if err := Unpin(filepath.Join(dir, name)); err != nil {
			t.Error(err)
		}
	}
	if !RemovePins(dir) {
		t.Error("the pins' directory stays")
	}
}

func TestFailedCreateLeavesNothing(t *testing.T) {
	needRoot(t)
	pin := filepath.Join(t.TempDir(), "pin")
	boom := errors.New("boom")
	if err := Create(pin, nil, func(int) error { return boom }); !errors.Is(err, boom) {
		t.Errorf("error %v", err)
	}
	if _, err := os.Stat(pin); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the pin stays: %v", err)
	}
	if err := os.WriteFile(pin, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := Create(pin, nil, func(int) error { return nil }); err == nil {
		t.Error("an existing file is taken as a pin")
	}
}

// The test works in a namespace of its own, with a second one as the container.
func TestBridgeAndVeth(t *testing.T) {
	needRoot(t)
	dir := t.TempDir()
	host, container := filepath.Join(dir, "host"), filepath.Join(dir, "container")
	t.Cleanup(func() { _ = Unpin(host); _ = Unpin(container) })
	if err := Create(container, nil, func(int) error { return nil }); err != nil {
		t.Fatal(err)
	}
	err := Create(host, nil, func(int) error {
		s, err := Open()
		if err != nil {
			return err
		}
		defer s.Close()
		var b Batch
		b.Up("lo")
		b.AddBridge("br0", []byte{2, 0, 0, 0, 0, 1}, 1400)
		b.SetAlias("br0", "mine")
		b.Up("br0")
		if err := s.Do(&b); err != nil {
			return err
		}
		info, err := s.Find("br0")
		if err != nil || info.Alias != "mine" || info.Name != "br0" {
			t.Errorf("bridge %+v, %v", info, err)
		}
		b.AddBridge("br0", []byte{2, 0, 0, 0, 0, 1}, 0)
		b.AddAddress(info.Index, netip.MustParsePrefix("10.0.0.1/24")) // done in spite of the failure before
		if err := s.Do(&b); !errors.Is(err, unix.EEXIST) || !strings.Contains(err.Error(), "cannot make bridge br0") {
			t.Errorf("making it twice: %v", err)
		}
		target, err := os.Open(container)
		if err != nil {
			return err
		}
		defer target.Close()
		// Here the roles of the two namespaces are swapped: the "host" end goes there.
		b.AddVeth(Veth{Name: "eth0", Index: 100, Host: "vh", MTU: 1400}, int(target.Fd()))
		b.Port("eth0", info.Index, PortMode{Isolated: true, Hairpin: true})
		if err := s.Do(&b); err != nil {
			return err
		}
		occupied, err := Occupied()
		if err != nil || !slices.Contains(occupied, netip.MustParsePrefix("10.0.0.0/24")) {
			t.Errorf("occupied %v, %v", occupied, err)
		}
		b.DeleteLink("nobody")
		b.SetGroup("nobody", 7)
		b.DeleteGroup(NewGroup())
		if err := s.Do(&b); err != nil {
			t.Errorf("removing what is not there: %v", err)
		}
		group := NewGroup()
		b.SetGroup("eth0", group)
		b.SetGroup("br0", group)
		b.DeleteGroup(group)
		if err := s.Do(&b); err != nil {
			t.Error(err)
		}
		if _, err := s.Find("br0"); !errors.Is(err, unix.ENODEV) {
			t.Errorf("a removed link is found: %v", err)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestWatchEndsWithItsContext(t *testing.T) {
	needRoot(t)
	var w Watch
	if err := w.Begin(); err != nil {
		t.Fatal(err)
	}
	defer w.End()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if err := w.Wait(ctx, []string{"nosuchlink0"}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("waiting for nobody: %v", err)
	}
}

func TestSysctlPath(t *testing.T) {
	for key, want := range map[string]string{
		"net.ipv4.ip_forward":            "/proc/sys/net/ipv4/ip_forward",
		"net/ipv4/conf/eth0.1/rp_filter": "/proc/sys/net/ipv4/conf/eth0.1/rp_filter",
		"net.ipv4.conf.eth0/1.rp_filter": "/proc/sys/net/ipv4/conf/eth0.1/rp_filter",
		"net/../../kernel/core_pattern":  "/proc/sys/kernel/core_pattern",
		"../../etc/passwd":               "/proc/sys/.etc.passwd",
	} {
		if got := SysctlPath(key); got != want {
			t.Errorf("%s: %s, want %s", key, got, want)
		}
	}
}
