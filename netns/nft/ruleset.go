package nft

import (
	"fmt"
	"strings"

	"github.com/google/nftables"
	"golang.org/x/sys/unix"
)

// Ruleset is a table as data.
type Ruleset struct {
	Family nftables.TableFamily
	Table  string
	Sets   []Set
	Chains []Chain
}

// Set is a named set, or a map when Data is not empty.
type Set struct {
	Name string
	Key  []nftables.SetDatatype
	Data []nftables.SetDatatype
	// Ranges says that the last field of a key is a range.
	Ranges bool
}

// Chain is a base chain when Hook is not empty.
type Chain struct {
	Name     string
	Type     nftables.ChainType
	Hook     string // prerouting, forward, output, postrouting
	Priority nftables.ChainPriority
	Rules    []Rule
}

// Names of the sets and maps of the instance's table.
const (
	// Bridges of the instance.
	SetBridges = "bridges"
	// Bridges of networks that have no way out and none in.
	SetInternal = "internal"
	// Bridges whose leaving traffic gets the host's address.
	SetMasquerade = "masquerade"
	// Pairs (bridge, same bridge) where containers may reach each other; it
	// matters for routed packets and where bridged packets pass through netfilter.
	SetPeers = "peers"
	// Published ports: (protocol, port) or (address, protocol, port) to (address, port).
	MapAny4, MapAny6   = "any4", "any6"
	MapHost4, MapHost6 = "host4", "host6"
	// Ports that several containers publish: (protocol, port, slot) or (address,
	// protocol, port, slot) to (address, port). Each new connection takes the next of
	// [Slots].
	MapShare4, MapShare6         = "share4", "share6"
	MapHostShare4, MapHostShare6 = "hostshare4", "hostshare6"
	// Ranges of published ports that keep their numbers: (protocol, ports) or
	// (address, protocol, ports) to address.
	MapRange4, MapRange6         = "range4", "range6"
	MapHostRange4, MapHostRange6 = "hostrange4", "hostrange6"
	// (bridge, container address) where answers would not come back through the
	// host, so that the client must look like the host.
	SetHairpin4, SetHairpin6 = "hairpin4", "hairpin6"
	// (container address, same address): a container that reaches itself. Where
	// bridged packets pass through netfilter its packets have no input link.
	SetSelf4, SetSelf6 = "self4", "self6"
	// (address, protocol, port) open to everybody, of networks that are routed.
	SetOpen4, SetOpen6 = "open4", "open6"
	// Addresses of the host that clients reach over any link, because the link that
	// has them is none that clients arrive on (lo, a dummy).
	SetAnywhere4, SetAnywhere6 = "anywhere4", "anywhere6"
	// Bridges whose traffic of a family is not translated, though that of the other
	// may be.
	SetRouted4, SetRouted6 = "routed4", "routed6"
	// Bridges of networks whose containers are open to everybody but other networks.
	SetUnprotected4, SetUnprotected6 = "unprotected4", "unprotected6"
	// Bridge to the address of the host that its leaving traffic gets.
	MapLeave4, MapLeave6 = "leave4", "leave6"
	// Pairs (link of the host, bridge) where published ports are open at the container's
	// own address, and these: (address, protocol, port).
	SetTrusted             = "trusted"
	SetDirect4, SetDirect6 = "direct4", "direct6"
)

// Instance returns the table of an instance. It is the same for every instance
// but for its name.
func Instance(table string) Ruleset {
	ifname, proto, port := nftables.TypeIFName, nftables.TypeInetProto, nftables.TypeInetService
	slot := nftables.TypeMark // nft(8) cannot show plain numbers as part of a key
	a4, a6 := nftables.TypeIPAddr, nftables.TypeIP6Addr
	types := func(t ...nftables.SetDatatype) []nftables.SetDatatype { return t }
	return Ruleset{
		Family: nftables.TableFamilyINet,
		Table:  table,
		Sets: []Set{
			{SetBridges, types(ifname), nil, false},
			{SetInternal, types(ifname), nil, false},
			{SetMasquerade, types(ifname), nil, false},
			{SetPeers, types(ifname, ifname), nil, false},
			{MapAny4, types(proto, port), types(a4, port), false},
			{MapAny6, types(proto, port), types(a6, port), false},
			{MapHost4, types(a4, proto, port), types(a4, port), false},
			{MapHost6, types(a6, proto, port), types(a6, port), false},
			{MapShare4, types(proto, port, slot), types(a4, port), false},
			{MapShare6, types(proto, port, slot), types(a6, port), false},
			{MapHostShare4, types(a4, proto, port, slot), types(a4, port), false},
			{MapHostShare6, types(a6, proto, port, slot), types(a6, port), false},
			{MapRange4, types(proto, port), types(a4), true},
			{MapRange6, types(proto, port), types(a6), true},
			{MapHostRange4, types(a4, proto, port), types(a4), true},
			{MapHostRange6, types(a6, proto, port), types(a6), true},
			{SetHairpin4, types(ifname, a4), nil, false},
			{SetHairpin6, types(ifname, a6), nil, false},
			{SetSelf4, types(a4, a4), nil, false},
			{SetSelf6, types(a6, a6), nil, false},
			{SetOpen4, types(a4, proto, port), nil, false},
			{SetOpen6, types(a6, proto, port), nil, false},
			{SetAnywhere4, types(a4), nil, false},
			{SetAnywhere6, types(a6), nil, false},
			{SetRouted4, types(ifname), nil, false},
			{SetRouted6, types(ifname), nil, false},
			{SetUnprotected4, types(ifname), nil, false},
			{SetUnprotected6, types(ifname), nil, false},
			{MapLeave4, types(ifname), types(a4), false},
			{MapLeave6, types(ifname), types(a6), false},
			{SetTrusted, types(ifname, ifname), nil, false},
			{SetDirect4, types(a4, proto, port), nil, false},
			{SetDirect6, types(a6, proto, port), nil, false},
		},
		Chains: []Chain{
			// Destinations are rewritten before the kernel decides where a packet goes, and
			// so before it would throw away one for 127.0.0.1 that a neighbour sent. What
			// may not arrive therefore ends here, before connection tracking.
			// route_localnet on the bridges, which makes 127.0.0.1:PORT work on the host,
			// would also let containers pretend to be the host's loopback; an answer to
			// 127.0.0.1 still carries the bridge's address here. The link loopback0 is the
			// way of Windows to the loopback of its Linux (WSL, mirrored mode).
			{Name: "guard", Type: nftables.ChainTypeFilter, Hook: "prerouting", Priority: *nftables.ChainPriorityRaw, Rules: []Rule{
				{linkIs(false, "lo"), linkIs(false, "loopback0"), ipv4(), loopback4(true), drop()},
				{in(SetBridges, iifname), ipv4(), loopback4(false), drop()},
				{in(SetBridges, iifname), isUDP(), toThisHost(), jump("pose")},
				{ipv4(), inMap(MapHost4, ip4Daddr, l4proto, thDport), jump("elsewhere")},
				{ipv4(), inMap(MapHostRange4, ip4Daddr, l4proto, thDport), jump("elsewhere")},
				{ipv6(), inMap(MapHost6, ip6Daddr, l4proto, thDport), jump("elsewhere")},
				{ipv6(), inMap(MapHostRange6, ip6Daddr, l4proto, thDport), jump("elsewhere")},
			}},
			// What comes from a container to this host must have a source that containers
			// can have. Else it could pass for the answer of a server of the world, to
			// the host or to another container whose question the host translated: for
			// connection tracking an answer may come on any link.
			{Name: "pose", Rules: []Rule{
				{ipv6(), fromLinkLocal6(), leave()},
				{in(SetBridges, wayBack), leave()},
				{drop()},
			}},
			// A port published on one address is for those who reach the host on the link
			// that has it: a neighbour on another network gets no answer by sending
			// there all the same. Guests of this host behind a bridge, and who comes out of
			// a tunnel (which is no Ethernet), are let in.
			{Name: "elsewhere", Rules: []Rule{
				{in(SetBridges, iifname), leave()},
				{linkKind("bridge"), leave()},
				{ipv4(), in(SetAnywhere4, ip4Daddr), leave()},
				{ipv6(), in(SetAnywhere6, ip6Daddr), leave()},
				{fromEthernet(), notOnThisLink(), drop()},
			}},
			{Name: "prerouting", Type: nftables.ChainTypeNAT, Hook: "prerouting", Priority: *nftables.ChainPriorityNATDest, Rules: []Rule{
				{in(SetInternal, iifname), leave()},
				{toThisHost(), jump("publish")},
			}},
			{Name: "output", Type: nftables.ChainTypeNAT, Hook: "output", Priority: *nftables.ChainPriorityNATDest, Rules: []Rule{
				{toThisHost(), jump("publish")},
			}},
			// Its rules come when a port is shared first, see [Table.Balance].
			{Name: shareChain},
			// ::1 cannot be routed to a container: a listener on the host serves it.
			{Name: "publish", Rules: []Rule{
				{ipv4(), jump(shareChain)},
				{ipv4(), dnat(false, MapHost4, ip4Daddr, l4proto, thDport)},
				{ipv4(), dnat(false, MapAny4, l4proto, thDport)},
				{ipv4(), dnatHost(false, MapHostRange4, ip4Daddr, l4proto, thDport)},
				{ipv4(), dnatHost(false, MapRange4, l4proto, thDport)},
				{ipv6(), toLoopback6(), leave()},
				{ipv6(), jump(shareChain)},
				{ipv6(), dnat(true, MapHost6, ip6Daddr, l4proto, thDport)},
				{ipv6(), dnat(true, MapAny6, l4proto, thDport)},
				{ipv6(), dnatHost(true, MapHostRange6, ip6Daddr, l4proto, thDport)},
				{ipv6(), dnatHost(true, MapRange6, l4proto, thDport)},
			}},
			{Name: "forward", Type: nftables.ChainTypeFilter, Hook: "forward", Priority: *nftables.ChainPriorityFilter, Rules: []Rule{
				{in(SetBridges, oifname), jump("inbound")},
				{in(SetInternal, iifname), gotoChain("refuse")},
			}},
			{Name: "inbound", Rules: []Rule{
				{in(SetPeers, iifname, oifname), accept()},
				{in(SetInternal, iifname), gotoChain("refuse")},
				{in(SetInternal, oifname), gotoChain("refuse")},
				{established(), accept()},
				{translated(), accept()},
				{ipv4(), in(SetOpen4, ip4Daddr, l4proto, thDport), accept()},
				{ipv6(), in(SetOpen6, ip6Daddr, l4proto, thDport), accept()},
				// As in Docker: who has a route to a container may find out that it is there.
				{ipv4(), in(SetRouted4, oifname), transport(unix.IPPROTO_ICMP), accept()},
				{ipv6(), in(SetRouted6, oifname), transport(unix.IPPROTO_ICMPV6), accept()},
				{ipv4(), in(SetTrusted, iifname, oifname), in(SetDirect4, ip4Daddr, l4proto, thDport), accept()},
				{ipv6(), in(SetTrusted, iifname, oifname), in(SetDirect6, ip6Daddr, l4proto, thDport), accept()},
				{ipv4(), in(SetUnprotected4, oifname), notIn(SetBridges, iifname), accept()},
				{ipv6(), in(SetUnprotected6, oifname), notIn(SetBridges, iifname), accept()},
				{gotoChain("refuse")},
			}},
			// A container learns at once that it may not; the world learns nothing. A
			// connecting socket may miss an ICMP error, but not a reset.
			{Name: "refuse", Rules: []Rule{
				{in(SetBridges, iifname), isTCP(), reset()},
				{in(SetBridges, iifname), reject()},
				{drop()},
			}},
			{Name: "postrouting", Type: nftables.ChainTypeNAT, Hook: "postrouting", Priority: *nftables.ChainPriorityNATSource, Rules: []Rule{
				{in(SetBridges, oifname), ipv4(), loopback4(false), masquerade()},
				{ipv4(), translated(), in(SetHairpin4, iifname, ip4Daddr), masquerade()},
				{ipv6(), translated(), in(SetHairpin6, iifname, ip6Daddr), masquerade()},
				{ipv4(), translated(), in(SetSelf4, ip4Saddr, ip4Daddr), masquerade()},
				{ipv6(), translated(), in(SetSelf6, ip6Saddr, ip6Daddr), masquerade()},
				{ipv4(), in(SetRouted4, iifname), notIn(SetBridges, oifname), accept()},
				{ipv6(), in(SetRouted6, iifname), notIn(SetBridges, oifname), accept()},
				{ipv4(), in(SetMasquerade, iifname), notIn(SetBridges, oifname), snat(false, MapLeave4, iifname)},
				{ipv6(), in(SetMasquerade, iifname), notIn(SetBridges, oifname), snat(true, MapLeave6, iifname)},
				{in(SetMasquerade, iifname), notIn(SetBridges, oifname), masquerade()},
			}},
		},
	}
}

// shareChain sends the connections of shared ports to their containers in turn.
const shareChain = "share"

func shareRules() []Rule {
	return []Rule{
		{ipv4(), dnat(false, MapHostShare4, ip4Daddr, l4proto, thDport, nextSlot)},
		{ipv4(), dnat(false, MapShare4, l4proto, thDport, nextSlot)},
		{ipv6(), dnat(true, MapHostShare6, ip6Daddr, l4proto, thDport, nextSlot)},
		{ipv6(), dnat(true, MapShare6, l4proto, thDport, nextSlot)},
	}
}

// Names of the sets of the table of bridge ports.
const (
	// Ports, which are host ends of links of containers, that may send only as
	// themselves.
	SetGuarded = "guarded"
	// (port, Ethernet address) of a guarded port.
	SetEthers = "ethers"
	// (port, address) of a guarded port.
	SetOwn4, SetOwn6 = "own4", "own6"
	// (port, addresses) of the network that a guarded port is in.
	SetNear4, SetNear6 = "near4", "near6"
)

// Ports returns the table of an instance that keeps containers from taking each
// other's place on a bridge, which they could with CAP_NET_RAW alone: with a foreign
// Ethernet address, which the bridge would learn, by saying that an address is
// theirs (ARP, RFC 826; neighbour discovery, RFC 4861) or that they are a router, or
// with another's address as the source of a packet. Sources from elsewhere pass, for a
// container may be a router.
func Ports(table string) Ruleset {
	ifname := nftables.TypeIFName
	return Ruleset{
		Family: nftables.TableFamilyBridge,
		Table:  table,
		Sets: []Set{
			{SetGuarded, []nftables.SetDatatype{ifname}, nil, false},
			{SetEthers, []nftables.SetDatatype{ifname, nftables.TypeEtherAddr}, nil, false},
			{SetOwn4, []nftables.SetDatatype{ifname, nftables.TypeIPAddr}, nil, false},
			{SetOwn6, []nftables.SetDatatype{ifname, nftables.TypeIP6Addr}, nil, false},
			{SetNear4, []nftables.SetDatatype{ifname, nftables.TypeIPAddr}, nil, true},
			{SetNear6, []nftables.SetDatatype{ifname, nftables.TypeIP6Addr}, nil, true},
		},
		Chains: []Chain{
			{Name: "prerouting", Type: nftables.ChainTypeFilter, Hook: "prerouting", Priority: *nftables.ChainPriorityFilter, Rules: []Rule{
				{in(SetEthers, iifname, etherSaddr), gotoChain("claims")},
				{in(SetGuarded, iifname), drop()},
			}},
			{Name: "claims", Rules: []Rule{
				{protocol("ip", unix.ETH_P_IP), in(SetOwn4, iifname, ip4Saddr), leave()},
				{protocol("ip", unix.ETH_P_IP), in(SetNear4, iifname, ip4Saddr), drop()},
				{protocol("ip", unix.ETH_P_IP), loopback4(false), drop()},
				{protocol("ip", unix.ETH_P_IP), leave()},
				{protocol("arp", unix.ETH_P_ARP), in(SetOwn4, iifname, arpSaddr), leave()},
				{protocol("arp", unix.ETH_P_ARP), probe4(), leave()}, // RFC 5227
				{protocol("arp", unix.ETH_P_ARP), drop()},
				{protocol("ip6", unix.ETH_P_IPV6), gotoChain("claims6")},
				// Not so a tag of a VLAN, or two, that somebody takes off again.
				{drop()},
			}},
			{Name: "claims6", Rules: []Rule{
				{icmp6(icmp6RouterAdvert), drop()},
				{icmp6(icmp6Redirect), drop()},
				{icmp6(icmp6NeighbourAdvert), notIn(SetOwn6, iifname, target6), drop()},
				// Who asks says where it is, too.
				{fromNobody6(), leave()}, // RFC 4862, "Duplicate Address Detection"
				{icmp6(icmp6NeighbourSolicit), notIn(SetOwn6, iifname, ip6Saddr), drop()},
				{icmp6(icmp6RouterSolicit), notIn(SetOwn6, iifname, ip6Saddr), drop()},
				{in(SetOwn6, iifname, ip6Saddr), leave()},
				{in(SetNear6, iifname, ip6Saddr), drop()},
				{fromLinkLocal6(), drop()},
			}},
		},
	}
}

// Resolver returns the table inside a container's namespace which brings
// queries for addr:53 to the port where the resolver really listens, so that the
// container may have a server of its own on 0.0.0.0:53. It rewrites packets one by
// one, both ways, and so needs no connection tracking in the container.
func Resolver(table string, addr [4]byte, udp, tcp uint16) Ruleset {
	const domain = 53
	rules := func(proto byte, port uint16) []Rule {
		return []Rule{
			{toAddrPort4(addr, proto, domain), setPort(proto, false, port)},
			{fromAddrPort4(addr, proto, port), setPort(proto, true, domain)},
		}
	}
	return Ruleset{
		Family: nftables.TableFamilyIPv4,
		Table:  table,
		Chains: []Chain{{
			Name: "output", Type: nftables.ChainTypeFilter, Hook: "output", Priority: *nftables.ChainPriorityRaw,
			Rules: append(rules(17, udp), rules(6, tcp)...),
		}},
	}
}

// String returns the ruleset in nft(8) syntax.
func (r Ruleset) String() string {
	var b strings.Builder
	family := "inet"
	switch r.Family {
	case nftables.TableFamilyIPv4:
		family = "ip"
	case nftables.TableFamilyBridge:
		family = "bridge"
	}
	fmt.Fprintf(&b, "table %s %s {\n", family, r.Table)
	for _, s := range r.Sets {
		flags := ""
		if s.Ranges {
			flags = "\t\tflags interval\n"
		}
		if len(s.Data) == 0 {
			fmt.Fprintf(&b, "\tset %s {\n\t\ttype %s\n%s\t}\n", s.Name, typeNames(s.Key), flags)
		} else {
			fmt.Fprintf(&b, "\tmap %s {\n\t\ttype %s : %s\n%s\t}\n", s.Name, typeNames(s.Key), typeNames(s.Data), flags)
		}
	}
	for _, c := range r.Chains {
		fmt.Fprintf(&b, "\tchain %s {\n", c.Name)
		if c.Hook != "" {
			fmt.Fprintf(&b, "\t\ttype %s hook %s priority %d; policy accept;\n", c.Type, c.Hook, c.Priority)
		}
		for _, rule := range c.Rules {
			fmt.Fprintf(&b, "\t\t%s\n", rule)
		}
		b.WriteString("\t}\n")
	}
	b.WriteString("}\n")
	return b.String()
}

func typeNames(types []nftables.SetDatatype) string {
	var names []string
	for _, t := range types {
		names = append(names, t.Name)
	}
	return strings.Join(names, " . ")
}
