package network

import (
	"net/netip"
	"reflect"
	"testing"

	"github.com/stack-run/stack/netns"
)

func TestNetworkSpec(t *testing.T) {
	o := createOptions{
		Name: "back", Driver: "bridge", IPv4: true, Internal: true, Label: []string{"a=b"}, Opt: []string{"com.docker.network.driver.mtu=1400"},
		Subnet: []string{"10.9.0.0/16", "fd00:9::/64"}, IPRange: []string{"10.9.1.0/24"}, Gateway: []string{"10.9.0.254", "fd00:9::1"},
		AuxAddress: []string{"router=10.9.0.5"},
	}
	got, err := o.spec()
	want := netns.NetworkSpec{
		Name: "back", Driver: "bridge", Internal: true, Labels: map[string]string{"a": "b"},
		DriverOpts: map[string]string{"com.docker.network.driver.mtu": "1400"},
		Pools: []netns.Pool{
			{Subnet: netip.MustParsePrefix("10.9.0.0/16"), Range: netip.MustParsePrefix("10.9.1.0/24"), Gateway: netip.MustParseAddr("10.9.0.254"),
				Aux: map[string]netip.Addr{"router": netip.MustParseAddr("10.9.0.5")}},
			{Subnet: netip.MustParsePrefix("fd00:9::/64"), Gateway: netip.MustParseAddr("fd00:9::1")},
		},
	}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, %v\nwant %+v", got, err, want)
	}
	for _, bad := range []createOptions{
		{Name: "host"}, {Name: "x", Subnet: []string{"10.0.0.1"}}, {Name: "x", Gateway: []string{"10.0.0.1"}},
		{Name: "x", IPAMDriver: "dhcp"}, {Name: "x", Opt: []string{"novalue"}},
	} {
		if _, err := bad.spec(); err == nil {
			t.Errorf("no error for %+v", bad)
		}
	}
}
