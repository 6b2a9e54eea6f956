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
	for i := range 1000 {
		id := fmt.Sprint("id-", i)
		living[id] = true
		lend(fmt.Sprint("run-", i), id)
		living[id] = false
	}
	if len(f.leases) != 2 { // the service's, and the last one, until somebody comes
		t.Errorf("%d leases: %v", len(f.leases), f.leases)
	}
	if again := lend("shop/web/1", "web-2"); again.IPv4 != web.IPv4 {
		t.Errorf("the service had %v, has %v", web.IPv4, again.IPv4)
	}
}
