package netns

import (
	"cmp"
	"errors"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/stack-run/stack/netns/nft"
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
		{key: OptHost4, value: "192.0.2.1"},
		{key: OptHost4, value: "fd00::1", want: "use an IPv4 address", refused: true},
		{key: OptHost6, value: "fd00::1"},
		{key: OptHost6, value: "::ffff:192.0.2.1", want: "use an IPv6 address", refused: true},
		{key: OptHost6, value: "", want: "use an IPv6 address", refused: true},
		{key: OptTrusted, value: "eth0:wg0:"},
		{key: OptTrusted, value: "eth0,wg0:much-too-long-name", want: "names of links, separated by colons", refused: true},
		{key: OptTrusted, value: "eth0", driver: "macvlan", want: "not acted on"},
		{key: "com.docker.network.bridge.default_bridge", value: "true", want: "not acted on: every network"},
		{key: "com.docker.network.bridge.nmae", value: "x", want: "not acted on"},
		{key: OptMTU, value: "1400", driver: "host", want: "not acted on"},
	} {
		opts := map[string]string{c.key: c.value}
		if c.driver == "macvlan" {
			opts[OptParent] = "eth0"
		}
		got := CheckOptions(NetworkSpec{Name: "n", Driver: c.driver, Internal: c.internal, DriverOpts: opts})
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

// echo asks an address for an answer of ICMP, over and over for as long as patience is:
// a packet may be lost before the neighbours know each other.
func (l *lab) echo(e *Endpoint, to netip.Addr, patience time.Duration) (err error) {
	l.t.Helper()
	network, kind := "ip4:icmp", byte(8)
	if to.Is6() {
		network, kind = "ip6:ipv6-icmp", 128
	}
	l.inside(e, func() error {
		var c net.Conn
		if c, err = net.Dial(network, to.String()); err != nil {
			return nil
		}
		defer c.Close()
		ask := []byte{kind, 0, 0, 0, 0, 7, 0, 1}
		copy(ask[2:], checksum(ask)) // the kernel does that of IPv6
		for end := time.Now().Add(patience); time.Now().Before(end); {
			if _, err = c.Write(ask); err != nil {
				return nil
			}
			_ = c.SetReadDeadline(time.Now().Add(250 * time.Millisecond))
			if _, err = c.Read(make([]byte, 100)); !errors.Is(err, os.ErrDeadlineExceeded) {
				return nil
			}
		}
		return nil
	})
	return err
}

// As in Docker, containers of a routed network may be found by who has a route.
func TestRoutedContainersAnswerPing(t *testing.T) {
	l := newLab(t)
	outside := l.outside()
	l.network(NetworkSpec{Name: "routed", DriverOpts: map[string]string{OptGatewayMode: modeRouted, OptGatewayMode6: modeRouted}})
	l.network(NetworkSpec{Name: "nat"})
	for network, answers := range map[string]bool{"routed": true, "nat": false} {
		e := l.attach(EndpointSpec{ID: network, Key: "p/" + network + "/1", Networks: on(network)})
		for _, a := range []netip.Addr{e.Links[0].IPv4, e.Links[0].IPv6} {
			patience := time.Second
			if answers {
				patience = 10 * time.Second
			}
			if err := l.echo(outside, a, patience); (err == nil) != answers {
				t.Errorf("%s, %s: %v", network, a, err)
			}
		}
	}
}

func TestAddressThatPacketsLeaveWith(t *testing.T) {
	l := newLab(t)
	outside := l.outside()
	l.serveTCP(outside, ":80")
	l.serveUDP(outside, ":80")
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		t.Fatal(err)
	}
	l.address(lo, "203.0.113.9/32", "fd52::9/128")
	opts := map[string]string{OptHost4: "203.0.113.9", OptHost6: "fd52::9"}
	four := map[string]string{OptHost4: "203.0.113.9"}
	none := map[string]string{OptHost4: "203.0.113.9", OptHost6: "fd52::9", OptMasquerade: "false"}
	for _, c := range []struct {
		name   string
		opts   map[string]string
		v4, v6 string // "" for the container's own
	}{
		{"both", opts, "203.0.113.9", "fd52::9"},
		{"four", four, "203.0.113.9", "fd0f::1"},
		{"none", nil, "192.0.2.1", "fd0f::1"},
		{"untranslated", none, "", ""},
	} {
		l.network(NetworkSpec{Name: c.name, DriverOpts: c.opts})
		e := l.attach(EndpointSpec{ID: c.name, Key: "p/" + c.name + "/1", Networks: on(c.name)})
		for _, network := range []string{"tcp", "udp"} {
			for address, want := range map[string]string{"192.0.2.100:80": cmp.Or(c.v4, e.Links[0].IPv4.String()), "[fd0f::100]:80": cmp.Or(c.v6, e.Links[0].IPv6.String())} {
				if got, err := l.askFrom(e, network, address); err != nil || got != want {
					t.Errorf("%s: %s to %s leaves as %q, want %q; %v", c.name, network, address, got, want, err)
				}
			}
		}
	}
	t.Run("to another network containers go as themselves", func(t *testing.T) {
		// Through a port that is published: directly they do not reach each other.
		web := l.attach(EndpointSpec{ID: "web", Key: "p/web/1", Networks: on("none"), Ports: []Port{{HostPort: 8080, ContainerPort: 80}}})
		l.serveTCP(web, ":80")
		client := l.attach(EndpointSpec{ID: "client", Key: "p/client/1", Networks: on("both")})
		if got, err := l.askFrom(client, "tcp", "192.0.2.1:8080"); err != nil || got != client.Links[0].IPv4.String() {
			t.Errorf("%q, %v", got, err)
		}
	})
	if out, err := exec.Command("nft", "flush", "ruleset").CombinedOutput(); err != nil {
		t.Skipf("%v: %s", err, out)
	}
	if err := l.restoreFirewall(t.Context()); err != nil {
		t.Fatal(err)
	}
	e := l.attach(EndpointSpec{ID: "later", Key: "p/later/1", Networks: on("both")})
	if got, err := l.askFrom(e, "tcp", "192.0.2.100:80"); err != nil || got != "203.0.113.9" {
		t.Errorf("after a flush it leaves as %q, %v", got, err)
	}
}

func TestTrustedLinks(t *testing.T) {
	l := newLab(t)
	outside := l.outside()
	ports := []Port{{HostPort: 8080, ContainerPort: 80}, {HostPort: 8081, ContainerPort: 80, Protocol: "udp"}, {HostIP: netip.MustParseAddr("127.0.0.1"), HostPort: 8082, ContainerPort: 82}}
	for i := range uint16(shortestRange) { // a range is published in its own way
		ports = append(ports, Port{HostPort: 9000 + i, ContainerPort: 9000 + i})
	}
	l.network(NetworkSpec{Name: "trusting", DriverOpts: map[string]string{OptTrusted: "nothere0:lan0"}})
	l.network(NetworkSpec{Name: "other", DriverOpts: map[string]string{OptTrusted: "lan1"}})
	for network, trusted := range map[string]bool{"trusting": true, "other": false} {
		e := l.attach(EndpointSpec{ID: network, Key: "p/" + network + "/1", Networks: on(network), Ports: ports})
		for _, port := range []string{":80", ":81", ":82", ":9001"} {
			l.serveTCP(e, port)
		}
		l.serveUDP(e, ":80")
		for _, a := range []netip.Addr{e.Links[0].IPv4, e.Links[0].IPv6} {
			for _, c := range []struct {
				network string
				port    int
				open    bool
			}{{"tcp", 80, true}, {"udp", 80, true}, {"tcp", 81, false}, {"tcp", 82, a.Is4()}, {"tcp", 9001, true}} {
				got, err := l.askFrom(outside, c.network, hostPort(a, c.port))
				if (err == nil && got != "") != (trusted && c.open) {
					t.Errorf("%s: %s %s:%d: %q, %v", network, c.network, a, c.port, got, err)
				}
			}
		}
		if err := l.Detach(t.Context(), e); err != nil {
			t.Fatal(err)
		}
	}
	all, err := l.table.Elements()
	for _, e := range all {
		if e.Set == nft.SetDirect4 || e.Set == nft.SetDirect6 {
			t.Errorf("%s is left", e)
		}
	}
	if err != nil {
		t.Error(err)
	}
}
