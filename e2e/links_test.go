package e2e

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"github.com/stack-run/stack/e2e/conformance"
)

// Names that links give are each container's own.
func TestLinks(t *testing.T) {
	b := newBox(t, "probe")
	b.ok(t, "network", "create", "shared")
	b.ok(t, "container", "run", "--detach", "--name", "outsider", "--network", "shared", "probe", "serve", "80")
	b.compose(t, `
		name: app
		services:
			one: {image: probe, command: ["on-term", "0"], links: ["pg1:db", "pg1"]}
			two:
				image: probe
				command: ["on-term", "0"]
				links: ["pg2:DB"]
				external_links: ["outsider:ext"]
				networks: [default, shared]
			apart:
				image: probe
				command: ["on-term", "0"]
				networks: [other]
				links: ["pg1:db"]
			pg1: {image: probe, command: ["serve", "80"], deploy: {replicas: 2}}
			pg2: {image: probe, command: ["serve", "80"]}
		networks:
			default: {enable_ipv6: true}
			other:
			shared: {external: true}
	`)
	b.ok(t, "up", "--detach", "--wait")
	ip := func(name, network string) string { return b.look(t, name).ip(t, network) }
	expect := func(t *testing.T, service string, want []string, question ...string) {
		t.Helper()
		a := b.lookup(t, service, question...)
		slices.Sort(a.Answers)
		slices.Sort(want)
		if !slices.Equal(a.Answers, want) || (len(want) == 0) != (a.Rcode == "NXDOMAIN") {
			t.Errorf("%s asks for %v: %+v, must be %v", service, question, a, want)
		}
	}
	both := []string{ip("app-pg1-1", "app_default"), ip("app-pg1-2", "app_default")}
	second := []string{ip("app-pg2-1", "app_default")}
	t.Run("one name stands for another service in each container", func(t *testing.T) {
		expect(t, "one", both, "db")
		expect(t, "one", both, "db", "A", "tcp")
		expect(t, "two", second, "db")
		expect(t, "one", both, "pg1")
		if a := b.lookup(t, "two", "db", "AAAA"); len(a.Answers) != 1 {
			t.Errorf("AAAA: %+v", a)
		}
	})
	t.Run("nobody else knows the name", func(t *testing.T) {
		expect(t, "pg1", nil, "db")
		expect(t, "one", nil, "ext")
	})
	t.Run("it stands for nobody where no network is shared", func(t *testing.T) { expect(t, "apart", nil, "db") })
	t.Run("a container of another owner", func(t *testing.T) {
		expect(t, "two", []string{ip("outsider", "shared")}, "ext")
	})
	t.Run("the name follows a container that is made again", func(t *testing.T) {
		b.ok(t, "up", "--detach", "--force-recreate", "--no-deps", "pg2")
		expect(t, "two", []string{ip("app-pg2-1", "app_default")}, "db")
		b.ok(t, "stop", "pg2")
		expect(t, "two", nil, "db")
	})
	t.Run("run --link", func(t *testing.T) {
		id := b.look(t, "outsider").ID
		for target, alias := range map[string]string{"outsider": "postgres", id: "byid", id[:6]: "short"} {
			var a lookedUp
			out := b.ok(t, "container", "run", "--rm", "--network", "shared", "--link", target+":"+alias, "probe", "lookup", alias)
			must(t, json.Unmarshal([]byte(out), &a))
			if !slices.Equal(a.Answers, []string{ip("outsider", "shared")}) {
				t.Errorf("%s: %+v", alias, a)
			}
		}
		if r := b.fails(t, "container", "run", "--rm", "--link", "nobody:x", "probe", "true"); !strings.Contains(r.stderr, "nobody") {
			t.Errorf("%q", r.stderr)
		}
	})
	t.Run("network connect --link", func(t *testing.T) {
		b.ok(t, "network", "create", "more")
		b.ok(t, "container", "run", "--detach", "--name", "asker", "--network", "shared", "probe", "on-term", "0")
		b.ok(t, "network", "connect", "more", "outsider")
		ask := func(name string, want ...string) {
			t.Helper()
			var a lookedUp
			must(t, json.Unmarshal([]byte(b.ok(t, "container", "exec", "asker", "/probe", "lookup", name)), &a))
			if !slices.Equal(a.Answers, want) {
				t.Errorf("%s: %+v, must be %v", name, a, want)
			}
		}
		if r := b.fails(t, "network", "connect", "--link", "nobody:x", "more", "asker"); !strings.Contains(r.stderr, "nobody") {
			t.Errorf("%q", r.stderr)
		}
		if r := b.fails(t, "network", "connect", "--link", ":x", "more", "asker"); !strings.Contains(r.stderr, "CONTAINER:ALIAS") {
			t.Errorf("%q", r.stderr)
		}
		id := b.look(t, "outsider").ID
		b.ok(t, "network", "connect", "--link", id[:10]+":Db.Internal", "--link", "outsider", "--link", "app-pg1-1:far", "more", "asker")
		// Of the network of the link, though both are on another one, too.
		ask("db.internal", ip("outsider", "more"))
		ask("far") // is not on it
		ask("outsider", ip("outsider", "more"))
		if out := b.ok(t, "inspect", "--format", `{{json (index .NetworkSettings.Networks "more").Links}} {{json (index .NetworkSettings.Networks "shared").Links}}`, "asker"); out != `["outsider:Db.Internal","outsider:outsider","app-pg1-1:far"] null`+"\n" {
			t.Errorf("inspect says %s", out)
		}
		b.ok(t, "container", "restart", "--time", "0", "asker")
		ask("db.internal", ip("outsider", "more"))
		b.ok(t, "network", "disconnect", "more", "asker")
		ask("db.internal")
		ask("outsider", ip("outsider", "shared"))
		t.Run("before it is started", func(t *testing.T) {
			b.ok(t, "container", "create", "--name", "later", "--network", "shared", "probe", "on-term", "0")
			b.ok(t, "network", "connect", "--link", "outsider:db", "more", "later")
			b.ok(t, "container", "start", "later")
			var a lookedUp
			must(t, json.Unmarshal([]byte(b.ok(t, "container", "exec", "later", "/probe", "lookup", "db")), &a))
			if !slices.Equal(a.Answers, []string{ip("outsider", "more")}) {
				t.Errorf("%+v", a)
			}
		})
		b.ok(t, "container", "rm", "--force", "asker", "later")
		b.ok(t, "network", "disconnect", "more", "outsider")
		b.ok(t, "network", "rm", "more")
	})
	t.Run("a name for two within one service is refused", func(t *testing.T) {
		b.compose(t, "name: app\nservices:\n  a: {image: probe, links: ['b:x', 'c:x']}\n  b: {image: probe}\n  c: {image: probe}\n")
		if r := b.fails(t, "up", "--detach"); !strings.Contains(r.stderr, "services.a.links[1]") {
			t.Errorf("%q", r.stderr)
		}
	})
	b.compose(t, "name: app\nservices: {}\n")
	b.ok(t, "down", "--remove-orphans")
	b.ok(t, "container", "rm", "--force", "outsider")
	b.ok(t, "network", "rm", "shared")
	conformance.Works(t, "services.*.links", "services.*.external_links")
}
