package e2e

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stack-run/stack/e2e/conformance"
)

const names = `
	name: app
	services:
		asker:
			image: probe
			command: ["on-term", "0"]
			networks: [front]
			extra_hosts: ["host.docker.internal:host-gateway", "fixed.test:203.0.113.9"]
		web:
			image: probe
			command: ["serve", "80"]
			hostname: webhost
			networks:
				front: {aliases: [www, shop.example]}
				back:
			deploy: {replicas: 3}
		db:
			image: probe
			command: ["serve", "5432"]
			networks: [back]
		locked:
			image: probe
			command: ["on-term", "0"]
			networks: [locked]
		own-dns:
			image: probe
			command: ["listen", "udp", "0.0.0.0:53"]
			networks: [front]
	networks:
		front: {enable_ipv6: true}
		back:
		locked: {internal: true}
`

func TestDNS(t *testing.T) {
	newLAN(t)
	b := newBox(t, "probe")
	b.compose(t, names)
	b.ok(t, "up", "--detach", "--wait")
	var webs []string
	for i := range 3 {
		webs = append(webs, b.look(t, fmt.Sprintf("app-web-%d", i+1)).ip(t, "app_front"))
	}
	slices.Sort(webs)

	t.Run("a service's name gives all its replicas", func(t *testing.T) {
		a := b.lookup(t, "asker", "web")
		got := slices.Sorted(slices.Values(a.Answers))
		if !slices.Equal(got, webs) {
			t.Errorf("web is %v, must be %v", got, webs)
		}
		if a.TTL > 600 {
			t.Errorf("the answer may be kept %d seconds", a.TTL)
		}
	})
	t.Run("replicas come first in turn", func(t *testing.T) {
		first := map[string]bool{}
		for range 20 {
			first[b.lookup(t, "asker", "web").Answers[0]] = true
		}
		if len(first) != 3 {
			t.Errorf("only %v came first in 20 answers", first)
		}
	})
	t.Run("aliases, container names and short IDs are known", func(t *testing.T) {
		for _, name := range []string{"www", "shop.example", "WWW"} {
			if a := b.lookup(t, "asker", name); len(a.Answers) != 3 {
				t.Errorf("%s: %+v", name, a)
			}
		}
		one := b.look(t, "app-web-1")
		for _, name := range []string{"app-web-1", one.ID[:12]} {
			if a := b.lookup(t, "asker", name); !slices.Equal(a.Answers, []string{one.ip(t, "app_front")}) {
				t.Errorf("%s: %+v", name, a)
			}
		}
	})
	t.Run("IPv6 addresses are answered where the network has them", func(t *testing.T) {
		if a := b.lookup(t, "asker", "web", "AAAA"); len(a.Answers) != 3 || !strings.Contains(a.Answers[0], ":") {
			t.Errorf("%+v", a)
		}
	})
	t.Run("an address has its container's name", func(t *testing.T) {
		a := b.lookup(t, "asker", b.look(t, "app-web-1").ip(t, "app_front"), "PTR")
		if len(a.Answers) == 0 || !strings.HasPrefix(a.Answers[0], "app-web-1.") {
			t.Errorf("%+v", a)
		}
	})
	t.Run("other names are asked for outside, over UDP and TCP", func(t *testing.T) {
		if a := b.lookup(t, "asker", "example.test"); !slices.Equal(a.Answers, []string{lanV4}) {
			t.Errorf("UDP: %+v", a)
		}
		if a := b.lookup(t, "asker", "example.test", "A", "tcp"); !slices.Equal(a.Answers, []string{lanV4}) {
			t.Errorf("TCP: %+v", a)
		}
		if a := b.lookup(t, "asker", "big.test", "TXT"); len(a.Answers) != 40 {
			t.Errorf("a large answer has %d of 40 records", len(a.Answers))
		}
	})
	t.Run("a name that does not exist is NXDOMAIN, and quickly so", func(t *testing.T) {
		if a := b.lookup(t, "asker", "nowhere.test"); a.Rcode != "NXDOMAIN" || a.Took > 500*time.Millisecond {
			t.Errorf("%+v", a)
		}
		if a := b.lookup(t, "asker", "wbe"); a.Rcode != "NXDOMAIN" || a.Took > 500*time.Millisecond {
			t.Errorf("%+v", a)
		}
	})
	t.Run("a known name without an address of that family is an empty answer", func(t *testing.T) {
		if a := b.lookup(t, "asker", "example.test", "AAAA"); a.Rcode != "NOERROR" || len(a.Answers) != 0 {
			t.Errorf("%+v", a)
		}
	})
	t.Run("host.docker.internal reaches the host", func(t *testing.T) {
		out := b.ok(t, "exec", "-T", "asker", "/probe", "dial", "tcp", "host.docker.internal:1")
		if strings.TrimSpace(out) != "refused" {
			t.Errorf("a closed port of the host must refuse: %s", out)
		}
	})
	t.Run("names of networks that a container is not on are unknown", func(t *testing.T) {
		if a := b.lookup(t, "asker", "db"); a.Rcode != "NXDOMAIN" {
			t.Errorf("%+v", a)
		}
		if a := b.lookup(t, "web", "db"); len(a.Answers) != 1 {
			t.Errorf("web is on db's network: %+v", a)
		}
	})
	t.Run("networks do not reach each other", func(t *testing.T) {
		db := b.look(t, "app-db-1").ip(t, "")
		if out := b.ok(t, "exec", "-T", "asker", "/probe", "dial", "tcp", db+":5432"); strings.TrimSpace(out) == "open" {
			t.Error("front reaches db")
		}
		if out := b.ok(t, "exec", "-T", "web", "/probe", "dial", "tcp", db+":5432"); strings.TrimSpace(out) != "open" {
			t.Errorf("web does not reach db: %s", out)
		}
	})
	t.Run("a network goes out unless it is internal", func(t *testing.T) {
		if out := b.ok(t, "exec", "-T", "asker", "/probe", "get", "http://"+lanV4+"/"); out != hostV4 {
			t.Errorf("the outside sees %q, must see the host's address", out)
		}
		if out := b.ok(t, "exec", "-T", "locked", "/probe", "dial", "tcp", lanV4+":80"); strings.TrimSpace(out) == "open" {
			t.Error("internal has a way out")
		}
		if a := b.lookup(t, "locked", "locked"); len(a.Answers) != 1 {
			t.Errorf("names work on an internal network: %+v", a)
		}
	})
	t.Run("DNS works beside a container's own server on port 53", func(t *testing.T) {
		if s := b.look(t, "app-own-dns-1").State.Status; s != "running" {
			t.Fatalf("own-dns is %s", s)
		}
		if a := b.lookup(t, "own-dns", "asker"); len(a.Answers) != 1 {
			t.Errorf("%+v", a)
		}
	})
	t.Run("a stopped replica is no longer answered", func(t *testing.T) {
		gone := b.look(t, "app-web-2").ip(t, "app_front")
		b.ok(t, "container", "stop", "app-web-2")
		a := b.lookup(t, "asker", "web")
		if len(a.Answers) != 2 || slices.Contains(a.Answers, gone) {
			t.Errorf("%+v", a)
		}
		b.ok(t, "container", "start", "app-web-2")
		if a := b.lookup(t, "asker", "web"); len(a.Answers) != 3 {
			t.Errorf("after start: %+v", a)
		}
	})
	t.Run("addresses stay the same over a recreate", func(t *testing.T) {
		before := b.look(t, "app-db-1").ip(t, "")
		b.ok(t, "up", "--detach", "--force-recreate", "db")
		if now := b.look(t, "app-db-1").ip(t, ""); now != before {
			t.Errorf("db has %s, had %s", now, before)
		}
	})
	b.ok(t, "down")
	b.nothingLeft(t, b.before)
	conformance.Works(t, "services.*.networks.*.aliases", "networks.*.internal", "networks.*.enable_ipv6")
}
