package netns

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestRanges(t *testing.T) {
	row := func(host string, proto string, first, n, offset int) (out []Port) {
		for i := range n {
			p := Port{HostPort: uint16(first + i), ContainerPort: uint16(first + i + offset), Protocol: proto}
			if host != "" {
				p.HostIP = netip.MustParseAddr(host)
			}
			out = append(out, p)
		}
		return out
	}
	for _, c := range []struct {
		name   string
		ports  []Port
		long   string
		single int
	}{
		{"few", row("", "tcp", 80, 15, 0), "", 15},
		{"a row", row("", "tcp", 80, 16, 0), "80-95/tcp", 0},
		{"a row with other numbers", row("", "tcp", 80, 30, 1), "", 30},
		{"to the last port", row("", "udp", 65500, 36, 0), "65500-65535/udp", 0},
		{"protocols apart", append(row("", "udp", 100, 20, 0), row("", "tcp", 100, 20, 0)...), "100-119/tcp 100-119/udp", 0},
		{"addresses apart", append(row("127.0.0.1", "udp", 100, 20, 0), row("::1", "udp", 120, 20, 0)...), "100-119/udp 120-139/udp", 0},
		{"a gap", append(row("", "tcp", 100, 20, 0), row("", "tcp", 121, 17, 0)...), "100-119/tcp 121-137/tcp", 0},
		{"a stranger within", append(row("", "tcp", 100, 20, 0), row("", "tcp", 120, 3, 5)...), "100-119/tcp", 3},
	} {
		long, single := ranges(c.ports)
		var got []string
		for _, r := range long {
			got = append(got, fmt.Sprintf("%d-%d/%s", r.HostPort, r.last, r.Transport()))
		}
		if strings.Join(got, " ") != c.long || len(single) != c.single {
			t.Errorf("%s: %s and %d single", c.name, got, len(single))
		}
	}
}

// Thousands of ports take one element, or many, but few descriptors and no time.
func TestThousandsOfPorts(t *testing.T) {
	l := newLab(t)
	outside := l.outside()
	ctx := context.Background()
	l.network(NetworkSpec{Name: "a"})
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	few := unix.Rlimit{Cur: 2000, Max: limit.Max}
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &few); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Setrlimit(unix.RLIMIT_NOFILE, &limit) })
	var row, scattered []Port
	for i := range 10001 {
		row = append(row, Port{HostPort: uint16(10000 + i), ContainerPort: uint16(10000 + i), Protocol: "udp"})
		scattered = append(scattered, Port{HostPort: uint16(30000 + i), ContainerPort: uint16(1 + i)})
	}
	row = append(row, Port{HostPort: 5060, ContainerPort: 5060})
	for _, c := range []struct {
		ports    []Port
		elements int
		network  string
		address  string // of the last port
		inside   string
		held     string // one that is held by a socket
	}{
		{row, 1000, "udp", "20000", ":20000", "5060"},
		{scattered, 100000, "tcp", "40000", ":10001", ""},
	} {
		start := time.Now()
		spec := EndpointSpec{ID: "many", Key: "p/many/1", Owner: "service many", Networks: on("a"), Ports: c.ports}
		if errs := l.Check(ctx, []EndpointSpec{spec}, nil); errs != nil {
			t.Fatal(errs[0])
		}
		checked := time.Since(start)
		e, err := l.Attach(ctx, spec)
		if err != nil {
			t.Fatal(err)
		}
		kept, err := l.Hold(e, nil)
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range kept {
			_ = f.Close()
		}
		attached := time.Since(start)
		t.Logf("%d ports: checked after %s, attached after %s, %d elements, %d sockets", len(c.ports), checked, attached, len(allElements(e)), len(kept))
		if attached > 10*time.Second || len(allElements(e)) > c.elements || len(kept) > 2 {
			t.Error("that is too much")
		}
		if len(e.Warnings) != 1 || !strings.Contains(e.Warnings[0], "have no listener on the host") {
			t.Errorf("warnings %q", e.Warnings)
		}
		if c.network == "udp" {
			l.serveUDP(e, c.inside)
		} else {
			l.serveTCP(e, c.inside)
		}
		for _, host := range []string{"192.0.2.1", "fd0f::1"} {
			if got, err := l.askFrom(outside, c.network, net.JoinHostPort(host, c.address)); err != nil || !strings.HasSuffix(got, "::100") && got != "192.0.2.100" {
				t.Errorf("the last port on %s: %q, %v", host, got, err)
			}
		}
		if got, err := ask(c.network, "127.0.0.1:"+c.address); err != nil || got == "" {
			t.Errorf("the last port from the host: %q, %v", got, err)
		}
		if c.held != "" {
			if ln, err := net.Listen("tcp", ":"+c.held); err == nil {
				t.Error("a single port beside a range is not held")
				_ = ln.Close()
			}
		}
		// A port of many is as taken as any.
		other := EndpointSpec{ID: "other", Key: "p/other/1", Owner: "service other", Networks: on("a"), Ports: c.ports[len(c.ports)/2:][:1]}
		if errs := l.Check(ctx, []EndpointSpec{other}, nil); len(errs) != 1 || !strings.Contains(errs[0].Error(), "service many") {
			t.Errorf("a taken port: %v", errs)
		}
		start = time.Now()
		if err := l.Detach(ctx, e); err != nil {
			t.Error(err)
		}
		if took := time.Since(start); took > 10*time.Second {
			t.Errorf("detached after %s", took)
		}
		if left, _ := l.table.Elements(); len(left) > 10 {
			t.Errorf("%d elements are left", len(left))
		}
	}
	// Somebody else's listener in the middle of a range is found and named.
	c, err := net.ListenPacket("udp", "127.0.0.1:15000")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	spec := EndpointSpec{ID: "many", Key: "p/many/1", Owner: "service many", Networks: on("a"), Ports: row}
	if _, err := l.Attach(ctx, spec); err == nil || !strings.Contains(err.Error(), fmt.Sprintf("15000/udp is used by PID %d", os.Getpid())) {
		t.Errorf("a listener in the range: %v", err)
	}
}
