package e2e

import (
	"fmt"
	"maps"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// What a file fixes is nobody else's, and the rest comes from the low end.
func TestFixedAndFreeAddresses(t *testing.T) {
	b := newBox(t, "probe")
	var text strings.Builder
	text.WriteString("name: bc34\nservices:\n  free:\n    image: probe\n    command: [on-term, \"0\"]\n    deploy: {replicas: 20}\n    networks: [n]\n")
	want := map[string]string{}
	for i := range 10 {
		addr := fmt.Sprintf("10.55.0.%d", 101+i)
		fmt.Fprintf(&text, "  fixed%d:\n    image: probe\n    command: [on-term, \"0\"]\n    networks: {n: {ipv4_address: %s}}\n", i, addr)
		want[fmt.Sprintf("bc34-fixed%d-1", i)] = addr
	}
	// One that never runs has its address all the same.
	text.WriteString("  off:\n    image: probe\n    profiles: [off]\n    networks: {n: {ipv4_address: 10.55.0.2}}\n")
	text.WriteString("networks: {n: {ipam: {config: [{subnet: 10.55.0.0/24}]}}}\n")
	b.compose(t, text.String())
	addresses := func() map[string]string {
		all := map[string]string{}
		for _, c := range b.ps(t) {
			if c.State != "running" {
				continue
			}
			all[c.Name] = b.look(t, c.Name).ip(t, "bc34_n")
		}
		return all
	}
	check := func(t *testing.T, all map[string]string) {
		t.Helper()
		seen := map[string]string{}
		for name, a := range all {
			if other := seen[a]; other != "" || a == "10.55.0.2" {
				t.Errorf("%s has %s, as has %q", name, a, other)
			}
			seen[a] = name
			fixed, isFixed := want[name]
			if isFixed && fixed != a {
				t.Errorf("%s has %s, want %s", name, a, fixed)
			}
			if ip := netip.MustParseAddr(a).As4(); !isFixed && ip[3] > 60 {
				t.Errorf("%s has %s, which is not of the low end", name, a)
			}
		}
	}
	b.ok(t, "up", "--detach", "--wait")
	first := addresses()
	if len(first) != 30 {
		t.Fatalf("%d containers", len(first))
	}
	check(t, first)
	b.ok(t, "stop", "fixed3")
	b.ok(t, "up", "--detach", "--wait", "--scale", "free=40", "--no-recreate", "free")
	check(t, addresses())
	b.ok(t, "run", "--detach", "--name", "once", "free")
	if a := b.look(t, "once").ip(t, "bc34_n"); slices.Contains(slices.Collect(maps.Values(want)), a) || a == "10.55.0.2" {
		t.Errorf("a run has %s, which is fixed", a)
	}
	b.ok(t, "container", "rm", "--force", "once")
	b.ok(t, "start", "fixed3")
	b.ok(t, "up", "--detach", "--wait", "--force-recreate", "--scale", "free=20")
	again := addresses()
	check(t, again)
	for name, a := range first {
		if again[name] != a {
			t.Errorf("%s had %s and has %s when it was made again", name, a, again[name])
		}
	}
}

// A name server that takes its time, or does not answer for some names.
func TestSlowNames(t *testing.T) {
	newLAN(t)
	b := newBox(t, "probe")
	b.compose(t, `
		name: app
		services:
			asker: {image: probe, command: [on-term, "0"]}
			own:
				image: probe
				command: [names, "127.0.0.1:53", inside.test, 203.0.113.9]
				dns: [127.0.0.1]
			vpn: {image: probe, command: [names, "127.0.0.1:53", tunnel.test, 203.0.113.10], dns: [127.0.0.1]}
			client: {image: probe, command: [on-term, "0"], network_mode: "service:vpn"}
	`)
	b.ok(t, "up", "--detach", "--wait")
	t.Run("an answer after two and a half seconds is one", func(t *testing.T) {
		if a := b.lookup(t, "asker", "late.test"); a.Rcode != "NOERROR" || len(a.Answers) != 1 {
			t.Errorf("%+v", a)
		}
	})
	t.Run("a name without an answer does not hurt another one", func(t *testing.T) {
		silent := b.start(t, "exec", "-T", "asker", "/probe", "lookup", "silent.test")
		for range 3 {
			a := b.lookup(t, "asker", "half.test")
			if a.Rcode != "NOERROR" || a.Took > 2*time.Second {
				t.Errorf("%+v", a)
			}
		}
		silent.wait(t, 20*time.Second)
		if a := b.lookup(t, "asker", "example.test"); a.Rcode != "NOERROR" || a.Took > time.Second {
			t.Errorf("after it: %+v", a)
		}
	})
	t.Run("a name server of the container's own is asked there", func(t *testing.T) {
		if a := b.lookup(t, "own", "inside.test"); !slices.Equal(a.Answers, []string{"203.0.113.9"}) {
			t.Errorf("%+v", a)
		}
		if a := b.lookup(t, "asker", "inside.test"); a.Rcode != "NXDOMAIN" {
			t.Errorf("another container is told: %+v", a)
		}
		if a := b.lookup(t, "client", "tunnel.test"); !slices.Equal(a.Answers, []string{"203.0.113.10"}) {
			t.Errorf("who shares the namespace: %+v", a)
		}
	})
}

// Ten thousand ports are one rule, and fit into few descriptors.
func TestTenThousandPorts(t *testing.T) {
	var limit unix.Rlimit
	must(t, unix.Getrlimit(unix.RLIMIT_NOFILE, &limit))
	b := newBox(t, "probe")
	b.compose(t, `
		name: app
		services:
			voice:
				image: probe
				command: [echo, "15000"]
				ports: ["10000-20000:10000-20000/udp"]
	`)
	start := time.Now()
	b.ok(t, "up", "--detach", "--wait")
	if took := time.Since(start); took > 10*time.Second {
		t.Errorf("it took %v", took)
	}
	if out := b.ok(t, "port", "voice", "15000/udp"); !strings.Contains(out, ":15000") {
		t.Errorf("%q", out)
	}
	pid, err := b.keeper("app", "supervisor")
	must(t, err)
	entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	if must(t, err); len(entries) > 1000 {
		t.Errorf("the supervisor has %d descriptors", len(entries))
	}
	b.ok(t, "down")
}

// A container that was run and removed itself leaves its network free.
func TestNetworkOfAnEndedRun(t *testing.T) {
	b := newBox(t, "probe", "busybox:latest")
	b.ok(t, "network", "create", "n")
	for i, end := range [][]string{{"stop", "gone"}, {"kill", "gone"}, {"rm", "-f", "gone"}} {
		b.ok(t, "container", "run", "--rm", "--detach", "--name", "gone", "--network", "n", "probe", "on-term", "0")
		b.ok(t, append([]string{"container"}, end...)...)
		if i < 2 {
			eventually(t, 5*time.Second, func() error {
				if out := b.ok(t, "container", "ls", "--all", "--quiet"); out != "" {
					return fmt.Errorf("%q is still there", out)
				}
				return nil
			})
		}
	}
	b.ok(t, "network", "rm", "n")
}
