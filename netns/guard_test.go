package netns

import (
	"os/exec"
	"testing"

	"github.com/stack-run/stack/netns/nft"
)

// ports counts the elements of the table of bridge ports.
func (l *lab) ports() (n int) {
	l.t.Helper()
	all, err := l.table.Elements()
	if err != nil {
		l.t.Fatal(err)
	}
	for _, e := range all {
		if _, ok := e.Port(); ok {
			n++
		}
	}
	return n
}

func TestGuardedPorts(t *testing.T) {
	l := newLab(t)
	l.network(NetworkSpec{Name: "front"})
	l.network(NetworkSpec{Name: "back"})
	a := l.attach(EndpointSpec{ID: "a", Networks: []Attachment{{Network: "front"}}})
	const each = 4 // of a link with both families
	if !l.table.Complete(guards(a)) || len(guards(a)) != each {
		t.Errorf("the kernel lacks some of %v", guards(a))
	}
	free := EndpointSpec{ID: "free", AnyAddress: true, Networks: []Attachment{{Network: "front"}}}
	f, err := l.Attach(t.Context(), free)
	if err != nil {
		t.Fatal(err)
	}
	if n := l.ports(); n != each {
		t.Errorf("%d elements with one that may use any address, want %d", n, each)
	}
	if _, err := l.Connect(t.Context(), a, Attachment{Network: "back"}); err != nil {
		t.Fatal(err)
	}
	if n := l.ports(); n != 2*each || !l.table.Complete(guards(a)) {
		t.Errorf("%d elements after a second network, want %d", n, 2*each)
	}
	if out, err := exec.Command("nft", "flush", "ruleset").CombinedOutput(); err != nil {
		t.Skipf("%v: %s", err, out)
	}
	if err := l.restoreFirewall(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n := l.ports(); n != 2*each || !l.table.Complete(guards(a)) {
		t.Errorf("%d elements after a flush, want %d", n, 2*each)
	}
	if err := l.Disconnect(t.Context(), a, "back"); err != nil {
		t.Fatal(err)
	}
	if n := l.ports(); n != each {
		t.Errorf("%d elements after it was disconnected, want %d", n, each)
	}
	// One that shares the namespace may change addresses there.
	if _, err := l.Attach(t.Context(), EndpointSpec{ID: "beside", Mode: "container:a", AnyAddress: true}); err != nil {
		t.Fatal(err)
	}
	if n := l.ports(); n != 0 {
		t.Errorf("%d elements with a guest that may use any address", n)
	}
	b := l.attach(EndpointSpec{ID: "b", Networks: []Attachment{{Network: "front"}}})
	left := guards(b)
	// Of an endpoint that is gone without a word.
	stale := nft.Guard("sv-stale", []byte{2, 0, 0, 0, 0, 1})
	if err := l.table.Add(stale); err != nil {
		t.Fatal(err)
	}
	if err := l.Sweep(t.Context(), func(string) bool { return true }); err != nil {
		t.Fatal(err)
	}
	if n := l.ports(); n != len(left) {
		t.Errorf("%d elements after a sweep, want %d", n, len(left))
	}
	if err := l.DetachAll(t.Context(), []*Endpoint{a, b, f}); err != nil {
		t.Fatal(err)
	}
	if n := l.ports(); n != 0 {
		t.Errorf("%d elements are left", n)
	}
}
