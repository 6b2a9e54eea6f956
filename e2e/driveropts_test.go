package e2e

import (
	"strings"
	"testing"
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
}
