package e2e

import (
	"slices"
	"strings"
	"testing"

	"github.com/stack-run/stack/e2e/conformance"
)

// A service on a macvlan network is a machine of its own on the LAN.
func TestMacvlan(t *testing.T) {
	newLAN(t)
	b := newBox(t, "probe")
	b.compose(t, `
		name: app
		services:
			cam:
				image: probe
				command: ["serve", "80"]
				networks: {lan: {ipv4_address: 192.0.2.200, aliases: [camera]}}
			asker:
				image: probe
				command: ["on-term", "0"]
				networks: [lan, inside]
			db:
				image: probe
				command: ["serve", "5432"]
				networks: [inside]
		networks:
			inside: {internal: true}
			lan:
				driver: macvlan
				driver_opts: {parent: lan0}
				ipam: {config: [{subnet: 192.0.2.0/24, ip_range: 192.0.2.192/26, gateway: `+lanV4+`, aux_addresses: {host: `+hostV4+`}}]}
	`)
	b.ok(t, "up", "--detach", "--wait")
	own := b.look(t, "app-asker-1").ip(t, "app_lan")
	if !strings.HasPrefix(own, "192.0.2.") {
		t.Errorf("the address is %s", own)
	}
	t.Run("it leaves with its own address", func(t *testing.T) {
		if out := b.ok(t, "exec", "-T", "asker", "/probe", "get", "http://"+lanV4+"/"); out != own {
			t.Errorf("another machine sees %q, must see %s", out, own)
		}
	})
	t.Run("names of both of its networks, and those outside", func(t *testing.T) {
		for name, want := range map[string]string{
			"cam": "192.0.2.200", "camera": "192.0.2.200", "db": b.look(t, "app-db-1").ip(t, ""), "example.test": lanV4,
		} {
			if a := b.lookup(t, "asker", name); !slices.Equal(a.Answers, []string{want}) {
				t.Errorf("%s: %+v, must be %s", name, a, want)
			}
		}
		if out := b.ok(t, "exec", "-T", "asker", "/probe", "dial", "tcp", "camera:80"); strings.TrimSpace(out) != "open" {
			t.Errorf("camera: %s", out)
		}
	})
	t.Run("it has the same address when it is made again", func(t *testing.T) {
		b.ok(t, "up", "--detach", "--force-recreate")
		if again := b.look(t, "app-asker-1").ip(t, "app_lan"); again != own {
			t.Errorf("%s, was %s", again, own)
		}
	})
	t.Run("a parent that is missing is named before anything starts", func(t *testing.T) {
		if r := b.fails(t, "network", "create", "--driver", "macvlan", "m"); !strings.Contains(r.stderr, "parent is missing") {
			t.Errorf("%s", r.stderr)
		}
		b.ok(t, "network", "create", "--driver", "macvlan", "--opt", "parent=nolink0", "m")
		if r := b.fails(t, "container", "run", "--rm", "--network", "m", "probe", "true"); !strings.Contains(r.stderr, "no link nolink0") {
			t.Errorf("%s", r.stderr)
		}
		b.ok(t, "network", "rm", "m")
	})
	b.ok(t, "down")
	conformance.Works(t, "networks.*.driver", "networks.*.driver_opts")
}
