package netns

import (
	"fmt"
	"net/netip"
	"testing"
)

func TestLeasesOfThoseWhoDoNotComeBack(t *testing.T) {
	n := Network{NetworkSpec: NetworkSpec{Name: "n"}, IPv4: netip.MustParsePrefix("10.0.0.0/24"), Gateway4: netip.MustParseAddr("10.0.0.1")}
	living := map[string]bool{}
	s := society{live: func(id string) bool { return living[id] }, kept: func(id string) bool { return living[id] }}
	var f leaseFile
	lend := func(key, endpoint string) lease {
		t.Helper()
		l, err := f.lend(n, applicant{key: key, endpoint: endpoint}, s)
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
	web := lend("shop/web/1", "web")
	for _, set := range []string{"alone", "container/old", "shop/web/run-0123"} {
		lend(set, "") // set aside, and then it was not made
	}
	chosen := netip.MustParseAddr("10.0.0.2")
	if chosen == web.IPv4 {
		chosen = chosen.Next()
	}
	fixed, err := f.lend(n, applicant{key: "fixed", endpoint: "fixed-1", Attachment: Attachment{IPv4: chosen}}, society{live: s.live, kept: func(string) bool { return true }})
	if err != nil {
		t.Fatal(err)
	}
	stopped := map[string]bool{"fixed-1": true} // but not removed
	s.kept = func(id string) bool { return living[id] || stopped[id] }
	// A start of it that fails for another reason.
	f.setAside(n, wish{EndpointSpec{Key: "fixed"}, Attachment{IPv4: chosen}}, s)
	for i := range 1000 {
		id := fmt.Sprint("id-", i)
		living[id] = true
		lend(fmt.Sprint("run-", i), id)
		living[id] = false
	}
	for _, l := range f.leases {
		if l.addr(0) == fixed.IPv4 && l != fixed {
			t.Errorf("%v has the address of %v", l, fixed)
		}
	}
	if len(f.leases) != 3 { // the service's, the fixed one, and the last one, until somebody comes
		t.Errorf("%d leases: %v", len(f.leases), f.leases)
	}
	if again := lend("shop/web/1", "web-2"); again.IPv4 != web.IPv4 {
		t.Errorf("the service had %v, has %v", web.IPv4, again.IPv4)
	}
}
