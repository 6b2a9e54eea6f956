package e2e

import (
	"fmt"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stack-run/stack/e2e/conformance"
)

// hostPort returns the host's port of a published one.
func (b *box) hostPort(t *testing.T, service, port string) string {
	t.Helper()
	_, p, err := net.SplitHostPort(strings.TrimSpace(strings.Split(b.ok(t, "port", service, port), "\n")[0]))
	must(t, err)
	return p
}

func TestPublishedPorts(t *testing.T) {
	lan := newLAN(t)
	b := newBox(t, "probe")
	b.compose(t, `
		name: app
		services:
			web:
				image: probe
				command: ["serve", "80", "81"]
				ports: ["8080:80", "127.0.0.1:8081:80", "[::1]:8082:80", "9000-9001:80-81", "80"]
				networks: [front]
			udp:
				image: probe
				command: ["echo", "53"]
				ports: ["8053:53/udp"]
			plain:
				image: probe
				command: ["serve", "80"]
				ports: ["8088:80"]
				networks: [v4]
			client:
				image: probe
				command: ["on-term", "0"]
				networks: [other]
		networks:
			front: {enable_ipv6: true}
			other: {enable_ipv6: true}
			v4:
	`)
	b.ok(t, "up", "--detach", "--wait")

	t.Run("every address of the host answers", func(t *testing.T) {
		for _, host := range []string{"127.0.0.1", "[::1]", hostV4, "[" + hostV6 + "]"} {
			fetch(t, "http://"+host+":8080/host")
		}
	})
	t.Run("over IPv6, too, where the container has none", func(t *testing.T) {
		for _, host := range []string{"127.0.0.1", "[::1]", hostV4, "[" + hostV6 + "]"} {
			fetch(t, "http://"+host+":8088/host")
		}
		if _, err := lan.get("http://[" + hostV6 + "]:8088/host"); err != nil {
			t.Error(err)
		}
	})
	t.Run("a port on 127.0.0.1 or ::1 answers there only", func(t *testing.T) {
		fetch(t, "http://127.0.0.1:8081/host")
		fetch(t, "http://[::1]:8082/host")
		for _, url := range []string{"http://" + hostV4 + ":8081/host", "http://[" + hostV6 + "]:8082/host"} {
			if _, err := lan.get(url); err == nil {
				t.Errorf("%s answers on the local network", url)
			}
		}
	})
	t.Run("a range maps each port to its own", func(t *testing.T) {
		fetch(t, "http://127.0.0.1:9000/host")
		fetch(t, "http://127.0.0.1:9001/host")
	})
	t.Run("a port without a host port gets a free one that port names", func(t *testing.T) {
		out := b.stack(t, "port", "web", "80")
		if out.code != 0 {
			t.Fatal(out)
		}
		fetch(t, "http://127.0.0.1:"+b.ephemeral(t)+"/host")
	})
	t.Run("the container sees the client's own address", func(t *testing.T) {
		for url, want := range map[string]string{
			"http://" + hostV4 + ":8080/addr":   lanV4,
			"http://[" + hostV6 + "]:8080/addr": lanV6,
			"http://" + hostV4 + ":9000/addr":   lanV4,
			"http://[" + hostV6 + "]:9001/addr": lanV6,
		} {
			got, err := lan.get(url)
			if err != nil || strings.TrimPrefix(got, "::ffff:") != want {
				t.Errorf("%s: the container sees %q (%v), must see %s", url, got, err, want)
			}
		}
	})
	t.Run("another network's container reaches it by the host's address", func(t *testing.T) {
		for _, host := range []string{hostV4, "[" + hostV6 + "]"} {
			if out := b.stack(t, "exec", "-T", "client", "/probe", "get", "http://"+host+":8080/host"); out.code != 0 {
				t.Errorf("%s: %v", host, out)
			}
		}
	})
	t.Run("a container reaches its own published port", func(t *testing.T) {
		if out := b.stack(t, "exec", "-T", "web", "/probe", "get", "http://"+hostV4+":8080/host"); out.code != 0 {
			t.Error(out)
		}
	})
	t.Run("UDP goes there and back", func(t *testing.T) {
		for _, host := range []string{"127.0.0.1", "::1", hostV4} {
			c, err := net.Dial("udp", net.JoinHostPort(host, "8053"))
			must(t, err)
			defer c.Close()
			c.SetDeadline(time.Now().Add(3 * time.Second))
			if _, err := fmt.Fprint(c, "ping"); err != nil {
				t.Errorf("%s: %v", host, err)
				continue
			}
			reply := make([]byte, 100)
			n, err := c.Read(reply)
			if err != nil || !strings.HasSuffix(string(reply[:n]), " ping") {
				t.Errorf("%s: %q %v", host, reply[:n], err)
			}
		}
	})
	t.Run("a recreated container has its ports at once", func(t *testing.T) {
		b.ok(t, "up", "--detach", "--force-recreate", "web")
		fetch(t, "http://127.0.0.1:8080/host")
	})
	t.Run("a port is free again after down", func(t *testing.T) {
		b.ok(t, "down")
		l, err := net.Listen("tcp", ":8080")
		must(t, err)
		l.Close()
		b.nothingLeft(t, b.before)
	})
	conformance.Works(t, "services.*.ports")
}

// ephemeral returns the host port of web that the Compose file does not name.
func (b *box) ephemeral(t *testing.T) string {
	t.Helper()
	type publisher struct{ TargetPort, PublishedPort int }
	rows := jsonLines[struct {
		Service    string
		Publishers []publisher
	}](t, b.ok(t, "ps", "--format", "json", "web"))
	for _, p := range rows[0].Publishers {
		if !slices.Contains([]int{0, 8080, 8081, 8082, 9000, 9001}, p.PublishedPort) {
			return fmt.Sprint(p.PublishedPort)
		}
	}
	t.Fatalf("no ephemeral port: %+v", rows)
	return ""
}

func TestNetworkModes(t *testing.T) {
	newLAN(t)
	b := newBox(t, "probe", "busybox:latest")
	b.ok(t, "network", "create", "outer")
	b.compose(t, `
		name: app
		services:
			host:
				image: busybox
				command: ["sleep", "infinity"]
				network_mode: host
			none:
				image: busybox
				command: ["sleep", "infinity"]
				network_mode: none
			main:
				image: probe
				command: ["serve", "80"]
			sidecar:
				image: busybox
				command: ["sleep", "infinity"]
				network_mode: service:main
			static:
				image: busybox
				command: ["sleep", "infinity"]
				mac_address: 02:42:ac:11:65:43
				networks: {fixed: {ipv4_address: 10.77.0.9, ipv6_address: "fd77::9"}, outer: {}}
		networks:
			fixed:
				enable_ipv6: true
				ipam: {config: [{subnet: 10.77.0.0/24}, {subnet: "fd77::/64"}]}
			outer: {external: true}
	`)
	b.ok(t, "up", "--detach", "--wait")
	sh := func(t *testing.T, service, script string) string {
		t.Helper()
		return strings.TrimSpace(b.ok(t, "exec", "-T", service, "sh", "-c", script))
	}
	t.Run("host has the host's links", func(t *testing.T) {
		if out := sh(t, "host", "ls /sys/class/net"); !strings.Contains(out, "lan0") {
			t.Error(out)
		}
	})
	t.Run("none has the loopback only", func(t *testing.T) {
		if out := sh(t, "none", "ls /sys/class/net"); out != "lo" {
			t.Error(out)
		}
	})
	t.Run("a service's namespace is shared, and outlives a restart of its owner", func(t *testing.T) {
		sh(t, "sidecar", "wget -q -O - http://127.0.0.1/host")
		b.ok(t, "restart", "--no-deps", "--timeout", "0", "main")
		eventually(t, 5*time.Second, func() error {
			if r := b.stack(t, "exec", "-T", "sidecar", "wget", "-q", "-O", "-", "http://127.0.0.1/host"); r.code != 0 {
				return fmt.Errorf("%v", r)
			}
			return nil
		})
	})
	t.Run("it is that of the owner's new container, where that alone is made anew", func(t *testing.T) {
		for _, flags := range [][]string{nil, {"--no-deps"}} {
			b.ok(t, append([]string{"up", "--detach", "--force-recreate", "--timeout", "0", "main"}, flags...)...)
			if flags != nil { // nobody has restarted it
				b.ok(t, "restart", "--no-deps", "--timeout", "0", "sidecar")
			}
			eventually(t, 5*time.Second, func() error {
				if r := b.stack(t, "exec", "-T", "sidecar", "wget", "-q", "-O", "-", "http://127.0.0.1/host"); r.code != 0 {
					return fmt.Errorf("%v", r)
				}
				return nil
			})
		}
	})
	t.Run("static addresses are kept", func(t *testing.T) {
		out := sh(t, "static", "ip addr")
		for _, want := range []string{"10.77.0.9/24", "fd77::9/64"} {
			if !strings.Contains(out, want) {
				t.Errorf("no %s in: %s", want, out)
			}
		}
	})
	t.Run("an external network stays after down", func(t *testing.T) {
		b.ok(t, "down")
		if out := b.ok(t, "network", "ls", "--quiet", "--filter", "name=outer"); strings.TrimSpace(out) == "" {
			t.Error("outer is gone")
		}
		b.ok(t, "network", "rm", "outer")
		b.nothingLeft(t, b.before)
	})
}
