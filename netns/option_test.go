package netns

import (
	"net"
	"slices"
	"strings"
	"testing"
)

func TestCheckOptions(t *testing.T) {
	for _, c := range []struct {
		key, value string
		internal   bool
		driver     string
		want       string // of the problem, "" for none
		refused    bool
	}{
		{key: OptMTU, value: "1400"},
		{key: OptMTU, value: "huge", want: "use a number", refused: true},
		{key: OptInhibit4, value: "yes", want: "use true or false", refused: true},
		{key: OptPrefix, value: "lan"},
		{key: OptPrefix, value: "much-too-long", want: "up to 11 characters", refused: true},
		{key: OptGatewayMode, value: "nat-unprotected"},
		{key: OptGatewayMode6, value: "bridged", want: "nat, routed, nat-unprotected, isolated", refused: true},
		{key: OptGatewayMode, value: "isolated", internal: true},
		{key: OptGatewayMode, value: "isolated", want: "internal", refused: true},
		{key: "com.docker.network.host_ipv4", value: "192.0.2.1", want: "not acted on: packets leave"},
		{key: "com.docker.network.bridge.nmae", value: "x", want: "not acted on"},
		{key: OptMTU, value: "1400", driver: "host", want: "not acted on"},
	} {
		got := CheckOptions(NetworkSpec{Name: "n", Driver: c.driver, Internal: c.internal, DriverOpts: map[string]string{c.key: c.value}})
		switch {
		case c.want == "" && len(got) > 0, c.want != "" && (len(got) != 1 || !strings.Contains(got[0].Text, c.want) || got[0].Refused != c.refused):
			t.Errorf("%s=%s: %+v", c.key, c.value, got)
		}
	}
	for value, want := range map[string]bool{
		"net.ipv4.conf.IFNAME.log_martians=1": false, "net.ipv4.conf.IFNAME.a=1,net.ipv6.conf.IFNAME.b=2": false,
		"net.ipv4.ip_forward=1": true, "kernel.x.IFNAME.y=1": true, "net.ipv4.conf.IFNAME.a": true,
	} {
		if got := CheckAttachmentOptions(map[string]string{OptSysctls: value}); (len(got) > 0) != want {
			t.Errorf("%s: %+v", value, got)
		}
	}
}

func addressesOf(t *testing.T, name string) (v4, v6 []string) {
	i, err := net.InterfaceByName(name)
	if err != nil {
		t.Fatal(err)
	}
	addrs, err := i.Addrs()
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range addrs {
		ip := a.(*net.IPNet).IP
		switch {
		case ip.To4() != nil:
			v4 = append(v4, ip.String())
		case !ip.IsLinkLocalUnicast():
			v6 = append(v6, ip.String())
		}
	}
	return v4, v6
}

func TestGatewayModes(t *testing.T) {
	l := newLab(t)
	outside := l.outside()
	l.serveTCP(outside, ":80")
	opts := func(pairs ...string) map[string]string {
		out := map[string]string{}
		for pair := range slices.Chunk(pairs, 2) {
			out[pair[0]] = pair[1]
		}
		return out
	}
	l.network(NetworkSpec{Name: "neighbour"})
	neighbour := l.attach(EndpointSpec{ID: "neighbour", Key: "p/n/1", Networks: on("neighbour")})

	t.Run("nat-unprotected opens all ports, but not to other networks", func(t *testing.T) {
		l.network(NetworkSpec{Name: "open", DriverOpts: opts(OptGatewayMode, "nat-unprotected", OptGatewayMode6, "nat-unprotected")})
		web := l.attach(EndpointSpec{ID: "web", Key: "p/web/1", Networks: on("open")})
		l.serveTCP(web, ":81")
		l.serveUDP(web, ":81")
		for _, a := range []string{hostPort(web.Links[0].IPv4, 81), hostPort(web.Links[0].IPv6, 81)} {
			for _, network := range []string{"tcp", "udp"} {
				if got, err := l.askFrom(outside, network, a); err != nil || got == "" {
					t.Errorf("%s %s from outside: %q, %v", network, a, got, err)
				}
			}
			if got, err := l.askFrom(neighbour, "tcp", a); err == nil {
				t.Errorf("%s from another network: %q", a, got)
			}
		}
		if got, err := l.askFrom(web, "tcp", "192.0.2.100:80"); err != nil || got != "192.0.2.1" {
			t.Errorf("it leaves as %q, %v", got, err)
		}
	})
	t.Run("each family has a mode of its own", func(t *testing.T) {
		l.network(NetworkSpec{Name: "six", DriverOpts: opts(OptGatewayMode6, "routed")})
		e := l.attach(EndpointSpec{ID: "six", Key: "p/six/1", Networks: on("six")})
		if got, err := l.askFrom(e, "tcp", "192.0.2.100:80"); err != nil || got != "192.0.2.1" {
			t.Errorf("IPv4 is translated, but leaves as %q, %v", got, err)
		}
		if got, err := l.askFrom(e, "tcp", "[fd0f::100]:80"); err != nil || got != e.Links[0].IPv6.String() {
			t.Errorf("IPv6 is routed, but leaves as %q, %v", got, err)
		}
	})
	t.Run("isolated and inhibit_ipv4 leave the bridge without an address", func(t *testing.T) {
		isolated := l.network(NetworkSpec{Name: "isolated", Internal: true, DriverOpts: opts(OptGatewayMode, "isolated", OptGatewayMode6, "isolated")})
		inhibited := l.network(NetworkSpec{Name: "inhibited", DriverOpts: opts(OptInhibit4, "true")})
		a := l.attach(EndpointSpec{ID: "a", Key: "p/a/1", Networks: on("isolated", "inhibited")})
		b := l.attach(EndpointSpec{ID: "b", Key: "p/b/1", Networks: on("isolated")})
		if v4, v6 := addressesOf(t, isolated.Bridge); len(v4)+len(v6) > 0 {
			t.Errorf("isolated: %v %v", v4, v6)
		}
		if v4, v6 := addressesOf(t, inhibited.Bridge); len(v4) > 0 || len(v6) == 0 {
			t.Errorf("inhibit_ipv4: %v %v", v4, v6)
		}
		l.serveTCP(a, ":80")
		i := slices.IndexFunc(a.Links, func(l Link) bool { return l.Network == "isolated" })
		if got, err := l.askFrom(b, "tcp", hostPort(a.Links[i].IPv4, 80)); err != nil || got == "" {
			t.Errorf("within the network: %q, %v", got, err)
		}
	})
	t.Run("names of interfaces", func(t *testing.T) {
		l.network(NetworkSpec{Name: "prefix", DriverOpts: opts(OptPrefix, "lan")})
		e := l.attach(EndpointSpec{ID: "names", Key: "p/names/1", Networks: []Attachment{
			{Network: "prefix"}, {Network: "six"}, {Network: "open", DriverOpts: opts(OptInterface, "eth0")}}})
		got := map[string]string{}
		for _, l := range e.Links {
			got[l.Network] = l.Name
		}
		if got["prefix"] != "lan0" || got["six"] != "eth1" || got["open"] != "eth0" {
			t.Errorf("%v", got)
		}
		l.inside(e, func() error { _, err := net.InterfaceByName("lan0"); return err })
	})
}
