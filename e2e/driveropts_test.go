package e2e

import (
	"strings"
	"testing"

	"github.com/vishvananda/netlink"

	"github.com/stack-run/stack/e2e/conformance"
)

// A driver option acts, is told of, or is an error before anything is made.
func TestDriverOptions(t *testing.T) {
	b := newBox(t, "busybox:latest")
	b.compose(t, `
		name: app
		services:
			web:
				image: busybox
				command: sleep 1000
				stop_signal: KILL
				networks:
					front: {driver_opts: {com.docker.network.endpoint.ifname: lan7, com.docker.network.endpoint.sysctls: net.ipv4.conf.IFNAME.log_martians=1, made.up: "1"}}
					back:
		networks:
			front: {driver_opts: {com.docker.network.bridge.nmae: br9}}
			back: {driver_opts: {com.docker.network.container_iface_prefix: wan}}
	`)
	r := b.stack(t, "up", "--detach")
	if r.code != 0 {
		t.Fatal(r.stderr)
	}
	for _, want := range []string{
		"networks.front.driver_opts.com.docker.network.bridge.nmae", "services.web.networks.front.driver_opts.made.up",
	} {
		if !strings.Contains(r.stderr, want) {
			t.Errorf("nothing is said of %s: %s", want, r.stderr)
		}
	}
	if out := b.ok(t, "exec", "-T", "web", "sh", "-c", "ls /sys/class/net; cat /proc/sys/net/ipv4/conf/lan7/log_martians"); strings.Join(strings.Fields(out), " ") != "lan7 lo wan0 1" {
		t.Errorf("%q", out)
	}
	b.ok(t, "down")
	t.Run("a wrong value is an error with its path, and nothing is made", func(t *testing.T) {
		b.compose(t, `
			name: app
			services:
				web: {image: busybox, networks: {n: {driver_opts: {com.docker.network.endpoint.sysctls: kernel.x=1}}}}
			networks: {n: {driver_opts: {com.docker.network.bridge.gateway_mode_ipv4: isolated}}}
		`)
		r := b.fails(t, "up", "--detach")
		for _, want := range []string{"networks.n.driver_opts.com.docker.network.bridge.gateway_mode_ipv4", "services.web.networks.n.driver_opts.com.docker.network.endpoint.sysctls"} {
			if !strings.Contains(r.stderr, want) {
				t.Errorf("%s is not named: %s", want, r.stderr)
			}
		}
		if out := b.ok(t, "network", "ls", "--quiet", "--filter", "label=com.docker.compose.project=app"); out != "" {
			t.Errorf("networks are left: %s", out)
		}
	})
	t.Run("flags", func(t *testing.T) {
		if r := b.stack(t, "network", "create", "--opt", "made.up=1", "n"); r.code != 0 || !strings.Contains(r.stderr, "made.up") {
			t.Errorf("%d %s", r.code, r.stderr)
		}
		r := b.stack(t, "container", "run", "--rm", "--network", `name=n,"driver-opt=com.docker.network.endpoint.ifname=lan3",driver-opt=other=1`, "busybox", "ls", "/sys/class/net")
		if r.code != 0 || !strings.Contains(r.stdout, "lan3") || !strings.Contains(r.stderr, "other") {
			t.Errorf("%d %q %q", r.code, r.stdout, r.stderr)
		}
		if r := b.fails(t, "network", "create", "--opt", "com.docker.network.driver.mtu=big", "m"); !strings.Contains(r.stderr, "use a number") {
			t.Errorf("%s", r.stderr)
		}
		b.ok(t, "network", "rm", "n")
	})
	conformance.Works(t, "services.*.networks.*.driver_opts", "networks.*.driver_opts")
}

// Driver options of Docker's bridge that other machines can tell.
func TestDriverOptionsTowardsOthers(t *testing.T) {
	lan := newLAN(t)
	lo, err := netlink.LinkByName("lo")
	must(t, err)
	for _, a := range []string{"203.0.113.9/32", "2001:db8:9::9/128"} {
		addr, err := netlink.ParseAddr(a)
		must(t, err)
		must(t, netlink.AddrAdd(lo, addr))
		t.Cleanup(func() { must(t, netlink.AddrDel(lo, addr)) })
	}
	b := newBox(t, "probe")
	b.compose(t, `
		name: app
		x-web: &web {image: probe, command: ["serve", "80", "81"]}
		services:
			named: {<<: *web, networks: [named]}
			plain: {<<: *web, ports: ["8080:80"], networks: [plain]}
			trusting: {<<: *web, ports: ["8081:80"], networks: [trusting]}
			routed: {<<: *web, ports: ["80"], networks: [routed]}
		networks:
			named: {enable_ipv6: true, driver_opts: {com.docker.network.host_ipv4: 203.0.113.9, com.docker.network.host_ipv6: "2001:db8:9::9"}}
			plain: {enable_ipv6: true}
			trusting: {enable_ipv6: true, driver_opts: {com.docker.network.bridge.trusted_host_interfaces: "lan0:other0"}}
			routed: {enable_ipv6: true, driver_opts: {com.docker.network.bridge.gateway_mode_ipv4: routed, com.docker.network.bridge.gateway_mode_ipv6: routed}}
	`)
	if r := b.stack(t, "up", "--detach", "--wait"); r.code != 0 || strings.Contains(r.stderr, "not acted on") {
		t.Fatal(r)
	}
	six := func(service string) string {
		t.Helper()
		return strings.TrimSpace(b.ok(t, "inspect", "--format", "{{range .NetworkSettings.Networks}}{{.GlobalIPv6Address}}{{end}}", "app-"+service+"-1"))
	}
	address := func(service string) []string {
		return []string{b.look(t, "app-"+service+"-1").ip(t, ""), "[" + six(service) + "]"}
	}
	t.Run("packets leave with the address that was chosen", func(t *testing.T) {
		for service, want := range map[string][2]string{"named": {"203.0.113.9", "2001:db8:9::9"}, "plain": {hostV4, hostV6}, "routed": {address("routed")[0], six("routed")}} {
			for i, to := range []string{lanV4, "[" + lanV6 + "]"} {
				if out := b.ok(t, "exec", "-T", service, "/probe", "get", "http://"+to+"/"); out != want[i] {
					t.Errorf("%s reaches %s as %q, want %s", service, to, out, want[i])
				}
			}
		}
	})
	t.Run("links that are trusted reach what is published, and nothing else", func(t *testing.T) {
		for service, open := range map[string]bool{"trusting": true, "plain": false, "routed": true} {
			for _, at := range address(service) {
				if _, err := lan.get("http://" + at + ":80/host"); (err == nil) != open {
					t.Errorf("%s at %s: %v", service, at, err)
				}
			}
		}
		for _, at := range []string{address("trusting")[0], address("routed")[1]} {
			if body, err := lan.get("http://" + at + ":81/host"); err == nil {
				t.Errorf("%s answers at a port that is not published: %s", at, body)
			}
		}
		if _, err := lan.get("http://" + hostV4 + ":8081/host"); err != nil {
			t.Error(err)
		}
	})
	t.Run("a wrong value is an error", func(t *testing.T) {
		for _, opt := range []string{"com.docker.network.host_ipv4=here", "com.docker.network.host_ipv6=192.0.2.1", "com.docker.network.bridge.trusted_host_interfaces=eth0/1"} {
			if r := b.fails(t, "network", "create", "--opt", opt, "m"); !strings.Contains(r.stderr, strings.Split(opt, "=")[0]) {
				t.Errorf("%s: %s", opt, r.stderr)
			}
		}
	})
	b.ok(t, "down")
	b.nothingLeft(t, b.before)
}
