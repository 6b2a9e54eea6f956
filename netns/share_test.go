package netns

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stack-run/stack/netns/nft"
	"golang.org/x/sys/unix"
)

// serveName answers connections inside an endpoint with its ID, and leaves them open
// until the client has had enough.
func (l *lab) serveName(e *Endpoint, address string) {
	l.t.Helper()
	l.accept(e, address, func(c net.Conn) {
		_, _ = io.WriteString(c, e.Spec.ID)
		_, _ = io.Copy(io.Discard, c)
	})
}

// whoAnswers counts, by ID, who answers many connections.
func whoAnswers(t *testing.T, address string) map[string]int {
	t.Helper()
	return whoAnswersOn(t, "tcp", address)
}

func whoAnswersOn(t *testing.T, network, address string) map[string]int {
	t.Helper()
	got := map[string]int{}
	for range 24 {
		c, err := net.DialTimeout(network, address, 2*time.Second)
		if err != nil {
			t.Fatal(err)
		}
		_ = c.SetDeadline(time.Now().Add(2 * time.Second))
		if network == "udp" {
			if _, err := c.Write([]byte("?")); err != nil {
				t.Fatal(err)
			}
		}
		b := make([]byte, 100)
		n, err := c.Read(b)
		if err != nil {
			t.Fatal(err)
		}
		got[string(b[:n])]++
		_ = c.Close()
	}
	return got
}

// A start of the old container may meet that of the new one: both are one replica. Who
// comes first and who goes first must not matter.
func TestOldAndNewShareAPort(t *testing.T) {
	l := newLab(t)
	l.network(NetworkSpec{Name: "a"})
	for _, ids := range [][2]string{{"b", "a"}, {"a", "b"}} {
		for _, first := range []int{0, 1} {
			var both [2]*Endpoint
			for i, id := range ids {
				both[i] = l.attach(EndpointSpec{ID: id, Key: "p/web/1", Networks: on("a"), Ports: []Port{{HostPort: 8080, ContainerPort: 80, Protocol: "tcp"}}})
				l.serveName(both[i], ":80")
			}
			if got := whoAnswers(t, "127.0.0.1:8080"); got["a"] != 12 || got["b"] != 12 {
				t.Errorf("%v", got)
			}
			if err := l.Unpublish(context.Background(), both[first]); err != nil {
				t.Fatal(err)
			}
			if got := whoAnswers(t, "127.0.0.1:8080"); got[ids[1-first]] != 24 {
				t.Errorf("%v without %s: %v", ids, ids[first], got)
			}
			if err := l.Publish(context.Background(), both[first]); err != nil {
				t.Errorf("%v: %s again: %v", ids, ids[first], err)
			}
			for _, e := range both {
				if err := l.Detach(context.Background(), e); err != nil {
					t.Fatal(err)
				}
			}
			if all, err := l.table.Elements(); err != nil || slices.ContainsFunc(all, func(e nft.Element) bool { _, ok := e.Target(); return ok }) {
				t.Errorf("left: %v, %v", all, err)
			}
		}
	}
}

// A successor learns of its endpoints one by one, and one that it does not know yet may
// have to share with one that it publishes.
func TestSharedPortsOfASuccessor(t *testing.T) {
	l := newLab(t)
	l.network(NetworkSpec{Name: "a"})
	spec := func(id, key string) EndpointSpec {
		return EndpointSpec{ID: id, Key: key, Networks: on("a"), Ports: []Port{{HostPort: 8080, ContainerPort: 80, Protocol: "tcp"}}}
	}
	var all []*Endpoint
	for i := range 3 {
		e := l.attach(spec(fmt.Sprintf("e%d", i), fmt.Sprintf("p/web/%d", i+1)))
		l.serveName(e, ":80")
		all = append(all, e)
	}
	if err := l.Unpublish(context.Background(), all[2]); err != nil {
		t.Fatal(err)
	}
	for _, e := range all { // its process is gone
		l.release(e.Spec.ID)
	}
	next := &lab{openLab(t, l.root), t, l.root}
	if err := next.Publish(context.Background(), all[2]); err != nil {
		t.Fatal(err)
	}
	for _, e := range all[:2] {
		if _, err := next.Hold(e, nil); err != nil {
			t.Fatal(err)
		}
	}
	if got := whoAnswers(t, "127.0.0.1:8080"); got["e0"] != 8 || got["e1"] != 8 || got["e2"] != 8 {
		t.Errorf("%v", got)
	}
	if err := next.Detach(context.Background(), all[0]); err != nil {
		t.Fatal(err)
	}
	if got := whoAnswers(t, "127.0.0.1:8080"); got["e1"] != 12 || got["e2"] != 12 {
		t.Errorf("%v", got)
	}
	for _, e := range all[1:] {
		if err := next.Detach(context.Background(), e); err != nil {
			t.Fatal(err)
		}
	}
}

func TestReplicasShareAPort(t *testing.T) {
	l := newLab(t)
	gateway := l.network(NetworkSpec{Name: "a"}).Gateway6
	spec := func(id, key string) EndpointSpec {
		return EndpointSpec{ID: id, Key: key, Networks: on("a"), Ports: []Port{
			{HostPort: 8080, ContainerPort: 80, Protocol: "tcp"},
			{HostPort: 8053, ContainerPort: 53, Protocol: "udp"},
			{HostPort: 8443, ContainerPort: 80, Protocol: "tcp", HostIP: netip.MustParseAddr("127.0.0.1")},
			{HostPort: 9000, HostPortEnd: 9003, ContainerPort: 90, Protocol: "tcp"},
		}}
	}
	one := l.attach(spec("one", "p/web/1"))
	l.serveName(one, ":80")
	l.receive(one, ":53", func(net.Addr) string { return one.Spec.ID })
	two := l.attach(spec("two", "p/web/2"))
	l.serveName(two, ":80")
	l.receive(two, ":53", func(net.Addr) string { return two.Spec.ID })
	if one.Ports[3].HostPort != 9000 || two.Ports[3].HostPort != 9001 {
		t.Errorf("of a range each has its own: %v, %v", one.Ports[3], two.Ports[3])
	}
	if _, err := l.Attach(context.Background(), spec("foreign", "p/other/1")); err == nil {
		t.Error("another service may have the port, too")
	}
	check := func(what string, want map[string]int) {
		t.Helper()
		for _, address := range []string{"127.0.0.1:8080", "127.0.0.1:8443", hostPort(gateway, 8080)} {
			if got := whoAnswers(t, address); fmt.Sprint(got) != fmt.Sprint(want) {
				t.Errorf("%s: %s is answered by %v, not %v", what, address, got, want)
			}
		}
		for _, address := range []string{"127.0.0.1:8053", hostPort(gateway, 8053)} {
			if got := whoAnswersOn(t, "udp", address); fmt.Sprint(got) != fmt.Sprint(want) {
				t.Errorf("%s: UDP %s is answered by %v, not %v", what, address, got, want)
			}
		}
		n := 0
		for _, c := range whoAnswers(t, "[::1]:8080") { // by a listener of ours
			n += c
		}
		if n != 24 {
			t.Errorf("%s: %d answers on [::1]", what, n)
		}
	}
	check("two replicas", map[string]int{"one": 12, "two": 12})
	if err := l.restoreTable(nil); err != nil {
		t.Error(err)
	}
	check("after the firewall was restored", map[string]int{"one": 12, "two": 12})
	stays, err := net.Dial("tcp", "127.0.0.1:8080")
	if err != nil {
		t.Fatal(err)
	}
	defer stays.Close()

	// The next of the first one stands aside until it is let in; nobody sees a change
	// but new connections.
	aside := spec("next", "p/web/1")
	aside.Aside = true
	next := l.attach(aside)
	l.serveName(next, ":80")
	l.receive(next, ":53", func(net.Addr) string { return next.Spec.ID })
	check("one stands aside", map[string]int{"one": 12, "two": 12})
	if err := l.HandOver(context.Background(), next, one); err != nil {
		t.Fatal(err)
	}
	check("handed over", map[string]int{"next": 12, "two": 12})
	b := make([]byte, 10)
	if n, err := stays.Read(b); err != nil || !slices.Contains([]string{"one", "two"}, string(b[:n])) {
		t.Errorf("a connection from before: %q, %v", b[:n], err)
	}
	if err := l.Detach(context.Background(), one); err != nil {
		t.Fatal(err)
	}
	check("its predecessor is gone", map[string]int{"next": 12, "two": 12})
	if err := l.Detach(context.Background(), two); err != nil {
		t.Fatal(err)
	}
	check("alone", map[string]int{"next": 24})
	// The port is still ours on the host.
	if ln, err := net.Listen("tcp", "0.0.0.0:8080"); err == nil {
		_ = ln.Close()
		t.Error("another program can take the port")
	}
	if err := l.Detach(context.Background(), next); err != nil {
		t.Fatal(err)
	}
	if _, err := net.DialTimeout("tcp", "127.0.0.1:8080", time.Second); !errors.Is(err, unix.ECONNREFUSED) {
		t.Errorf("when all are gone: %v", err)
	}
}

// An update that failed hands back to a predecessor that may never have left.
func TestHandOverToWhoNeverLeft(t *testing.T) {
	l := newLab(t)
	l.network(NetworkSpec{Name: "a"})
	spec := EndpointSpec{ID: "one", Key: "p/web/1", Networks: on("a"), Ports: []Port{
		{ContainerPort: 80, Protocol: "tcp"},
		{HostPort: 9000, HostPortEnd: 9003, ContainerPort: 90, Protocol: "tcp"},
	}}
	one := l.attach(spec)
	spec.ID, spec.Aside = "next", true
	next := l.attach(spec)
	ports, elements := fmt.Sprint(one.Ports), l.publishedElements()
	if err := l.HandOver(context.Background(), one, next); err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprint(one.Ports); got != ports {
		t.Errorf("its ports are %v, and were %v", got, ports)
	}
	if got := l.publishedElements(); got != elements {
		t.Errorf("the firewall has %s, not %s", got, elements)
	}
}

// publishedElements are the elements of published ports that the kernel has.
func (l *lab) publishedElements() string {
	l.t.Helper()
	all, err := l.table.Elements()
	if err != nil {
		l.t.Fatal(err)
	}
	var out []string
	for _, e := range all {
		if e.Set == nft.MapAny4 || e.Set == nft.MapAny6 {
			out = append(out, fmt.Sprintf("%s %x:%x", e.Set, e.Key, e.Value))
		}
	}
	slices.Sort(out)
	return strings.Join(out, ", ")
}
