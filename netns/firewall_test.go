package netns

import (
	"context"
	"fmt"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// On hosts whose firewall drops what it does not know.
func TestForeignFirewalls(t *testing.T) {
	for _, c := range []struct {
		name  string
		load  string // a command, which is run again to reload
		flush string // what an administrator does before, "" when load replaces all
		list  string
		gone  string
		by    string // named in the hint; "": published ports are admitted
		admit string // in place of the hint's command
	}{
		{"policy", `nft 'add table ip filter; add chain ip filter FORWARD { type filter hook forward priority 0; policy drop; }'`,
			"nft flush table ip filter", "nft list table ip filter", "nft delete table ip filter", "iptables", ""},
		{"inet", `nft 'table inet mine { chain forward { type filter hook forward priority -5; policy drop; meta l4proto tcp ct original proto-dst 9999 drop; }; }'`,
			"nft flush ruleset", "nft list table inet mine", "nft delete table inet mine", "nft", ""},
		{"last rule", `nft 'table inet mine { chain forward { type filter hook forward priority 5; ct state invalid drop; counter drop; }; }'`,
			"nft delete table inet mine", "nft list table inet mine", "nft delete table inet mine", "nft", ""},
		{"iptables", "iptables -P FORWARD DROP; ip6tables -P FORWARD DROP", "iptables -F FORWARD; ip6tables -F FORWARD", "iptables -S 2>&1; ip6tables -S 2>&1",
			"nft delete table ip filter; nft delete table ip6 filter", "iptables", ""},
		{"legacy", "iptables-legacy -P FORWARD DROP && ip6tables-legacy -P FORWARD DROP", "iptables-legacy -F FORWARD; ip6tables-legacy -F FORWARD",
			"iptables-legacy -S; ip6tables-legacy -S", "iptables-legacy -P FORWARD ACCEPT; ip6tables-legacy -P FORWARD ACCEPT", "iptables", ""},
		{"ufw", "iptables-restore testdata/ufw.rules", "", "iptables -S 2>&1", "nft delete table ip filter", "ufw", "iptables -A ufw-user-forward -p tcp -d ADDRESS --dport 80 -j ACCEPT"},
		{"firewalld", "nft -f testdata/firewalld.nft", "", "nft list table inet firewalld", "nft delete table inet firewalld", "", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			l := newLab(t)
			outside := l.outside()
			run(t, c.load)
			t.Cleanup(func() { // runs before the lab's own
				if out := run(t, c.list); strings.Contains(out, "stack: ") || strings.Contains(out, m4(l)) {
					t.Errorf("rules of ours are left:\n%s", out)
				}
				run(t, c.gone)
			})
			ctx := context.Background()
			l.network(NetworkSpec{Name: "a"})
			l.network(NetworkSpec{Name: "open", DriverOpts: map[string]string{OptOpen: "true"}})
			spec := func(id, network string, port uint16) EndpointSpec {
				return EndpointSpec{ID: id, Key: "p/" + id + "/1", Owner: "service " + id, Networks: on(network),
					Ports: []Port{{HostPort: port, ContainerPort: 80}}}
			}
			web, open := l.attach(spec("web", "a", 8080)), l.attach(spec("open", "open", 8081))
			peer := l.attach(EndpointSpec{ID: "peer", Key: "p/peer/1", Networks: on("a")})
			t.Cleanup(func() {
				_ = l.DetachAll(ctx, []*Endpoint{web, open, peer})
				if err := l.Remove(ctx, "a", "open"); err != nil {
					t.Error(err)
				}
			})
			r := l.resolver("p")
			l.serve(r, web)
			l.serveTCP(web, ":80")
			l.serveTCP(open, ":80")
			l.serveTCP(outside, ":80")
			out := func() error {
				for _, to := range []string{"192.0.2.100:80", "[fd0f::100]:80", hostPort(web.Links[0].IPv4, 80), "192.0.2.1:8081"} {
					if got, err := l.askFrom(peer, "tcp", to); err != nil || got == "" {
						return fmt.Errorf("%s: %q, %v", to, got, err)
					}
				}
				return nil
			}
			ready := time.Now().Add(10 * time.Second)
			for err := out(); err != nil; err = out() { // the neighbour's IPv6 may take a moment
				if time.Now().After(ready) {
					t.Fatalf("a container asks %v\n%s", err, run(t, c.list))
				}
			}
			published := func(port string) bool {
				got, err := l.askFrom(outside, "tcp", "192.0.2.1:"+port)
				return err == nil && got == "192.0.2.100"
			}
			if published("8080") != (c.by == "") {
				t.Errorf("a published port from outside: %v\n%s", published("8080"), run(t, c.list))
			}
			if !published("8081") {
				t.Errorf("an open network's port is not reached\n%s", run(t, c.list))
			}
			if _, err := ask("tcp", "127.0.0.1:8080"); err != nil {
				t.Errorf("a published port from the host: %v", err)
			}
			hint := strings.Join(web.Warnings, "\n")
			if c.by == "" && hint != "" || c.by != "" && c.name != "legacy" && !strings.Contains(hint, "("+c.by+", chain ") {
				t.Errorf("warnings %q", hint)
			}
			if len(open.Warnings) > 0 {
				t.Errorf("warnings of an open network: %q", open.Warnings)
			}
			// Reloads and flushes.
			for range 2 {
				if c.flush != "" {
					run(t, c.flush)
				}
				run(t, c.load)
				deadline := time.Now().Add(10 * time.Second) // a second and the machine's other work
				for err := out(); err != nil; err = out() {
					if time.Now().After(deadline) {
						t.Fatalf("after a reload a container asks %v\n%s", err, run(t, c.list))
					}
				}
				for !published("8081") {
					if time.Now().After(deadline) {
						t.Fatalf("after a reload an open port is not reached\n%s", run(t, c.list))
					}
				}
			}
			if c.by == "" || c.name == "legacy" {
				return
			}
			if strings.Contains(run(t, c.list), "incompatible") {
				t.Errorf("iptables cannot read its table any more:\n%s", run(t, c.list))
			}
			// What the hint says admits the port.
			_, command, _ := strings.Cut(hint, "to admit them: ")
			command, _, _ = strings.Cut(command, ";")
			if c.admit != "" {
				command = strings.ReplaceAll(c.admit, "ADDRESS", web.Links[0].IPv4.String())
			}
			if b, err := exec.Command("sh", "-c", quoteNft(command)).CombinedOutput(); err != nil {
				t.Fatalf("%s: %v %s", command, err, b)
			}
			if !published("8080") {
				t.Errorf("%s does not admit the port\n%s", command, run(t, c.list))
			}
			if err := l.Unpublish(ctx, web); err != nil {
				t.Fatal(err)
			}
			web.Warnings = nil
			if err := l.Publish(ctx, web); err != nil {
				t.Fatal(err)
			}
			if hint := strings.Join(web.Warnings, "\n"); c.name != "inet" && strings.Contains(hint, web.Links[0].IPv4.String()) {
				t.Errorf("the hint comes again: %q", hint)
			}
		})
	}
}

func m4(l *lab) string { return "-i " + l.linkPrefix() }

// quoteNft keeps the shell from the quotes of an nft command.
func quoteNft(command string) string {
	if rest, ok := strings.CutPrefix(command, "nft "); ok {
		return "nft '" + rest + "'"
	}
	return command
}

// What the administrator refuses stays refused.
func TestForeignRulesComeFirst(t *testing.T) {
	l := newLab(t)
	outside := l.outside()
	run(t, `nft 'table inet mine { chain forward { type filter hook forward priority 0; policy drop; ip daddr 192.0.2.100 tcp dport 81 drop; }; }'`)
	t.Cleanup(func() { run(t, "nft delete table inet mine") })
	l.network(NetworkSpec{Name: "a"})
	e := l.attach(EndpointSpec{ID: "e", Key: "p/e/1", Networks: on("a")})
	l.serveTCP(outside, ":80")
	l.serveTCP(outside, ":81")
	if got, err := l.askFrom(e, "tcp", "192.0.2.100:80"); err != nil || got == "" {
		t.Errorf("%q, %v", got, err)
	}
	if got, err := l.askFrom(e, "tcp", "192.0.2.100:81"); err == nil {
		t.Errorf("a refused port answers %q", got)
	}
}

// What others changed between two starts is right again with the next one.
func TestChangedBetweenTwoStarts(t *testing.T) {
	for what, change := range map[string]string{
		"flushed firewall": "nft flush ruleset", "bridge down": "ip link set BRIDGE down", "no address": "ip addr flush dev BRIDGE",
		"no forwarding": "sysctl -qw net.ipv4.ip_forward=0", "no bridge": "ip link delete BRIDGE",
	} {
		t.Run(what, func(t *testing.T) {
			l := newLab(t)
			outside := l.outside()
			l.serveTCP(outside, ":80")
			r := l.NewResolver(ResolverOptions{Owner: "p"})
			defer r.Close()
			n := l.network(NetworkSpec{Name: "a"})
			l.attach(EndpointSpec{ID: "one", Key: "p/one/1", Networks: on("a")})
			for i := range 4 {
				run(t, strings.ReplaceAll(change, "BRIDGE", n.Bridge))
				id := fmt.Sprint("two-", i)
				e := l.attach(EndpointSpec{ID: id, Key: "p/two/" + fmt.Sprint(i+1), Networks: on("a"), Ports: []Port{{ContainerPort: 80}}})
				if got, err := l.askFrom(e, "tcp", "192.0.2.100:80"); err != nil || got == "" {
					t.Errorf("%s reaches nobody: %q, %v", id, got, err)
				}
				if !l.table.Current() {
					t.Errorf("%s has no firewall", id)
				}
			}
		})
	}
}
