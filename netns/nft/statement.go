package nft

import (
	"encoding/binary"
	"fmt"
	"strings"

	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// Registers of four bytes each (NFT_REG32_00 …). A key made of several fields
// lies in registers that follow each other.
const reg = unix.NFT_REG32_00

// Statement is one part of a rule: its nft(8) text and its expressions.
type Statement struct {
	Text  string
	Exprs []expr.Any
}

// Rule is a list of statements. All but the last are matches.
type Rule []Statement

// String returns the rule in nft(8) syntax.
func (r Rule) String() string {
	words := make([]string, len(r))
	for i, s := range r {
		words[i] = s.Text
	}
	return strings.Join(words, " ")
}

func (r Rule) exprs() []expr.Any {
	var all []expr.Any
	for _, s := range r {
		all = append(all, s.Exprs...)
	}
	return all
}

// field is something loaded from a packet into registers.
type field struct {
	text  string
	slots uint32 // number of four-byte registers
	load  func(register uint32) expr.Any
}

var (
	// These are values, never changed.
	iifname  = metaField("iifname", expr.MetaKeyIIFNAME, 4)
	oifname  = metaField("oifname", expr.MetaKeyOIFNAME, 4)
	l4proto  = metaField("meta l4proto", expr.MetaKeyL4PROTO, 1)
	thDport  = payloadField("th dport", expr.PayloadBaseTransportHeader, 2, 2)
	ip4Saddr = payloadField("ip saddr", expr.PayloadBaseNetworkHeader, 12, 4)
	ip6Saddr = payloadField("ip6 saddr", expr.PayloadBaseNetworkHeader, 8, 16)
	ip4Daddr = payloadField("ip daddr", expr.PayloadBaseNetworkHeader, 16, 4)
	ip6Daddr = payloadField("ip6 daddr", expr.PayloadBaseNetworkHeader, 24, 16)

	// The link that an answer would leave by.
	wayBack = field{"fib saddr oifname", 4, func(r uint32) expr.Any { return &expr.Fib{Register: r, ResultOIFNAME: true, FlagSADDR: true} }}

	etherSaddr = payloadField("ether saddr", expr.PayloadBaseLLHeader, 6, 6)
	arpSaddr   = payloadField("arp saddr ip", expr.PayloadBaseNetworkHeader, 14, 4)
	target6    = payloadField("icmpv6 taddr", expr.PayloadBaseTransportHeader, 8, 16)
)

// nextSlot counts connections.
var nextSlot = field{fmt.Sprintf("numgen inc mod %d", Slots), 1, func(r uint32) expr.Any {
	return &expr.Numgen{Register: r, Modulus: Slots, Type: unix.NFT_NG_INCREMENTAL}
}}

func metaField(text string, key expr.MetaKey, slots uint32) field {
	return field{text, slots, func(r uint32) expr.Any { return &expr.Meta{Key: key, Register: r} }}
}

func payloadField(text string, base expr.PayloadBase, offset, size uint32) field {
	return field{text, (size + 3) / 4, func(r uint32) expr.Any {
		return &expr.Payload{OperationType: expr.PayloadLoad, DestRegister: r, Base: base, Offset: offset, Len: size}
	}}
}

// load puts fields next to each other and returns their text.
func load(fields []field) (string, []expr.Any) {
	var texts []string
	var exprs []expr.Any
	next := uint32(reg)
	for _, f := range fields {
		texts = append(texts, f.text)
		exprs = append(exprs, f.load(next))
		next += f.slots
	}
	return strings.Join(texts, " . "), exprs
}

// in matches packets whose fields are an element of a set.
func in(set string, fields ...field) Statement {
	text, exprs := load(fields)
	return Statement{text + " @" + set, append(exprs, &expr.Lookup{SourceRegister: reg, SetName: set})}
}

// inMap matches packets whose fields are a key of a map, whose values are addresses,
// or addresses and ports. Kernels before 6.10 refuse to look into a map without taking
// the value, and nft(8) does not show a look at which nothing is compared: so the
// beginning of the value is compared with zeroes.
func inMap(table string, fields ...field) Statement {
	text, exprs := load(fields)
	return Statement{text + " map @" + table + " != 0x0", append(exprs,
		&expr.Lookup{SourceRegister: reg, DestRegister: reg, IsDestRegSet: true, SetName: table},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: reg, Data: make([]byte, 4)})}
}

// notIn matches packets whose fields are no element of a set.
func notIn(set string, fields ...field) Statement {
	text, exprs := load(fields)
	return Statement{text + " != @" + set, append(exprs, &expr.Lookup{SourceRegister: reg, SetName: set, Invert: true})}
}

// ipv4 and ipv6 match the family in an inet table. nft(8) leaves them out where
// the rest of a rule implies them.
func ipv4() Statement { return nfproto("ipv4", unix.NFPROTO_IPV4) }
func ipv6() Statement { return nfproto("ipv6", unix.NFPROTO_IPV6) }

func nfproto(name string, family byte) Statement {
	return Statement{"meta nfproto " + name, []expr.Any{
		&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: reg},
		&expr.Cmp{Op: expr.CmpOpEq, Register: reg, Data: []byte{family}},
	}}
}

// loopback4 matches an address of 127.0.0.0/8, the destination or the source.
func loopback4(daddr bool) Statement {
	text, offset := "ip saddr 127.0.0.0/8", uint32(12)
	if daddr {
		text, offset = "ip daddr 127.0.0.0/8", 16
	}
	return Statement{text, []expr.Any{
		&expr.Payload{OperationType: expr.PayloadLoad, DestRegister: reg, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: reg, Data: []byte{127}},
	}}
}

// toLoopback6 matches the destination ::1.
func toLoopback6() Statement {
	return Statement{"ip6 daddr ::1", []expr.Any{
		ip6Daddr.load(reg),
		&expr.Cmp{Op: expr.CmpOpEq, Register: reg, Data: append(make([]byte, 15), 1)},
	}}
}

// toThisHost matches destinations that are addresses of the host.
func toThisHost() Statement {
	return Statement{"fib daddr type local", []expr.Any{
		&expr.Fib{Register: reg, ResultADDRTYPE: true, FlagDADDR: true},
		&expr.Cmp{Op: expr.CmpOpEq, Register: reg, Data: binaryutil.NativeEndian.PutUint32(unix.RTN_LOCAL)},
	}}
}

// notOnThisLink matches destinations that are no address of the link on which the
// packet came.
func notOnThisLink() Statement {
	return Statement{"fib daddr . iif type != local", []expr.Any{
		&expr.Fib{Register: reg, ResultADDRTYPE: true, FlagDADDR: true, FlagIIF: true},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: reg, Data: binaryutil.NativeEndian.PutUint32(unix.RTN_LOCAL)},
	}}
}

// fromLinkLocal6 matches a source of fe80::/10.
func fromLinkLocal6() Statement {
	return Statement{"ip6 saddr fe80::/10", []expr.Any{
		&expr.Payload{OperationType: expr.PayloadLoad, DestRegister: reg, Base: expr.PayloadBaseNetworkHeader, Offset: 8, Len: 16},
		&expr.Bitwise{SourceRegister: reg, DestRegister: reg, Len: 16, Mask: append([]byte{0xff, 0xc0}, make([]byte, 14)...), Xor: make([]byte, 16)},
		&expr.Cmp{Op: expr.CmpOpEq, Register: reg, Data: append([]byte{0xfe, 0x80}, make([]byte, 14)...)},
	}}
}

// fromEthernet matches packets that came on a link with Ethernet addresses.
func fromEthernet() Statement {
	return Statement{"meta iiftype ether", []expr.Any{
		&expr.Meta{Key: expr.MetaKeyIIFTYPE, Register: reg},
		&expr.Cmp{Op: expr.CmpOpEq, Register: reg, Data: binaryutil.NativeEndian.PutUint16(unix.ARPHRD_ETHER)},
	}}
}

// metaIIFKind is NFT_META_IIFKIND of linux/netfilter/nf_tables.h (Linux 5.6). The
// load fails, and the rule does not match, for links without a kind.
const metaIIFKind = expr.MetaKey(26)

// linkKind matches packets that came on a link of the kind, see ip-link(8).
func linkKind(kind string) Statement {
	return Statement{fmt.Sprintf("meta iifkind %q", kind), []expr.Any{
		&expr.Meta{Key: metaIIFKind, Register: reg},
		&expr.Cmp{Op: expr.CmpOpEq, Register: reg, Data: ifname(kind)},
	}}
}

// linkIs matches packets that came on the link, or on any other.
func linkIs(is bool, name string) Statement {
	op, text := expr.CmpOpEq, ""
	if !is {
		op, text = expr.CmpOpNeq, "!= "
	}
	return Statement{fmt.Sprintf("iifname %s%q", text, name), []expr.Any{
		iifname.load(reg),
		&expr.Cmp{Op: op, Register: reg, Data: ifname(name)},
	}}
}

// established matches packets of connections that were let through before.
func established() Statement {
	return ctBits("ct state established,related", expr.CtKeySTATE, expr.CtStateBitESTABLISHED|expr.CtStateBitRELATED)
}

// ipsDstNAT is IPS_DST_NAT of linux/netfilter/nf_conntrack_common.h.
const ipsDstNAT = 1 << 5

// translated matches packets whose destination was rewritten.
func translated() Statement { return ctBits("ct status dnat", expr.CtKeySTATUS, ipsDstNAT) }

func ctBits(text string, key expr.CtKey, bits uint32) Statement {
	return Statement{text, []expr.Any{
		&expr.Ct{Key: key, Register: reg},
		&expr.Bitwise{SourceRegister: reg, DestRegister: reg, Len: 4, Mask: binaryutil.NativeEndian.PutUint32(bits), Xor: make([]byte, 4)},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: reg, Data: make([]byte, 4)},
	}}
}

// dnat rewrites the destination to the value of a map, whose data is address and
// port. Packets that are not in the map go on with the next rule.
func dnat(v6 bool, table string, fields ...field) Statement {
	text, exprs := load(fields)
	family, name, portSlot := uint32(unix.NFPROTO_IPV4), "ip", uint32(1)
	if v6 {
		family, name, portSlot = unix.NFPROTO_IPV6, "ip6", 4
	}
	exprs = append(exprs,
		&expr.Lookup{SourceRegister: reg, DestRegister: reg, IsDestRegSet: true, SetName: table},
		&expr.NAT{Type: expr.NATTypeDestNAT, Family: family, RegAddrMin: reg, RegProtoMin: reg + portSlot, Specified: true})
	return Statement{fmt.Sprintf("dnat %s to %s map @%s", name, text, table), exprs}
}

// dnatHost rewrites the destination address to the value of a map; the port stays.
func dnatHost(v6 bool, table string, fields ...field) Statement {
	s := dnat(v6, table, fields...)
	nat, _ := s.Exprs[len(s.Exprs)-1].(*expr.NAT)
	nat.RegProtoMin, nat.Specified = 0, false
	return s
}

// snat rewrites the source address to the value of a map. Packets that are not in the
// map go on with the next rule.
func snat(v6 bool, table string, fields ...field) Statement {
	s := dnatHost(v6, table, fields...)
	nat, _ := s.Exprs[len(s.Exprs)-1].(*expr.NAT)
	nat.Type = expr.NATTypeSourceNAT
	s.Text = "s" + strings.TrimPrefix(s.Text, "d")
	return s
}

func masquerade() Statement { return Statement{"masquerade", []expr.Any{&expr.Masq{}}} }

func accept() Statement { return verdict("accept", expr.VerdictAccept, "") }
func drop() Statement   { return verdict("drop", expr.VerdictDrop, "") }
func leave() Statement  { return verdict("return", expr.VerdictReturn, "") }
func jump(chain string) Statement {
	return verdict("jump "+chain, expr.VerdictJump, chain)
}
func gotoChain(chain string) Statement {
	return verdict("goto "+chain, expr.VerdictGoto, chain)
}

func verdict(text string, kind expr.VerdictKind, chain string) Statement {
	return Statement{text, []expr.Any{&expr.Verdict{Kind: kind, Chain: chain}}}
}

func isTCP() Statement { return transport(unix.IPPROTO_TCP) }
func isUDP() Statement { return transport(unix.IPPROTO_UDP) }

func transport(proto byte) Statement {
	return Statement{"meta l4proto " + protoName(proto), []expr.Any{
		l4proto.load(reg),
		&expr.Cmp{Op: expr.CmpOpEq, Register: reg, Data: []byte{proto}},
	}}
}

// Reject types and codes of linux/netfilter/nf_tables.h.
const (
	rejectTCPReset       = 1 // NFT_REJECT_TCP_RST
	rejectICMPX          = 2 // NFT_REJECT_ICMPX_UNREACH
	icmpxAdminProhibited = 3 // NFT_REJECT_ICMPX_ADMIN_PROHIBITED
)

func reject() Statement {
	return Statement{"reject with icmpx admin-prohibited", []expr.Any{
		&expr.Reject{Type: rejectICMPX, Code: icmpxAdminProhibited},
	}}
}

func reset() Statement {
	return Statement{"reject with tcp reset", []expr.Any{&expr.Reject{Type: rejectTCPReset}}}
}

// toAddrPort4 matches an IPv4 destination address, protocol and port.
func toAddrPort4(addr [4]byte, proto byte, port uint16) Statement {
	return Statement{fmt.Sprintf("ip daddr %d.%d.%d.%d %s dport %d", addr[0], addr[1], addr[2], addr[3], protoName(proto), port), []expr.Any{
		ip4Daddr.load(reg),
		&expr.Cmp{Op: expr.CmpOpEq, Register: reg, Data: addr[:]},
		l4proto.load(reg),
		&expr.Cmp{Op: expr.CmpOpEq, Register: reg, Data: []byte{proto}},
		thDport.load(reg),
		&expr.Cmp{Op: expr.CmpOpEq, Register: reg, Data: be16(port)},
	}}
}

// fromAddrPort4 matches an IPv4 source address, protocol and port.
func fromAddrPort4(addr [4]byte, proto byte, port uint16) Statement {
	return Statement{fmt.Sprintf("ip saddr %d.%d.%d.%d %s sport %d", addr[0], addr[1], addr[2], addr[3], protoName(proto), port), []expr.Any{
		&expr.Payload{OperationType: expr.PayloadLoad, DestRegister: reg, Base: expr.PayloadBaseNetworkHeader, Offset: 12, Len: 4},
		&expr.Cmp{Op: expr.CmpOpEq, Register: reg, Data: addr[:]},
		l4proto.load(reg),
		&expr.Cmp{Op: expr.CmpOpEq, Register: reg, Data: []byte{proto}},
		&expr.Payload{OperationType: expr.PayloadLoad, DestRegister: reg, Base: expr.PayloadBaseTransportHeader, Offset: 0, Len: 2},
		&expr.Cmp{Op: expr.CmpOpEq, Register: reg, Data: be16(port)},
	}}
}

// setPort writes the source or destination port of a packet, without
// connection tracking.
func setPort(proto byte, source bool, port uint16) Statement {
	which, offset, sum := "dport", uint32(2), uint32(6)
	if source {
		which, offset = "sport", 0
	}
	if proto == unix.IPPROTO_TCP {
		sum = 16
	}
	return Statement{fmt.Sprintf("%s %s set %d", protoName(proto), which, port), []expr.Any{
		&expr.Immediate{Register: reg, Data: be16(port)},
		&expr.Payload{OperationType: expr.PayloadWrite, SourceRegister: reg, Base: expr.PayloadBaseTransportHeader,
			Offset: offset, Len: 2, CsumType: expr.CsumTypeInet, CsumOffset: sum},
	}}
}

func protoName(p byte) string {
	switch p {
	case unix.IPPROTO_TCP:
		return "tcp"
	case unix.IPPROTO_UDP:
		return "udp"
	case unix.IPPROTO_SCTP:
		return "sctp"
	case unix.IPPROTO_ICMP:
		return "icmp"
	case unix.IPPROTO_ICMPV6:
		return "ipv6-icmp"
	}
	return fmt.Sprint(p)
}

func be16(v uint16) []byte { return binary.BigEndian.AppendUint16(nil, v) }

// linkPrefix matches links whose name starts with prefix.
func linkPrefix(in bool, prefix string) Statement {
	f := oifname
	if in {
		f = iifname
	}
	return Statement{fmt.Sprintf("%s %q", f.text, prefix+"*"), []expr.Any{
		f.load(reg),
		&expr.Cmp{Op: expr.CmpOpEq, Register: reg, Data: []byte(prefix)},
	}}
}

// Types of ICMPv6 by which neighbours are found, RFC 4861.
const (
	icmp6RouterSolicit    = 133
	icmp6RouterAdvert     = 134
	icmp6NeighbourSolicit = 135
	icmp6NeighbourAdvert  = 136
	icmp6Redirect         = 137
)

// protocol matches what a frame has in it.
func protocol(name string, ethertype uint16) Statement {
	return Statement{"meta protocol " + name, []expr.Any{
		&expr.Meta{Key: expr.MetaKeyPROTOCOL, Register: reg},
		&expr.Cmp{Op: expr.CmpOpEq, Register: reg, Data: be16(ethertype)},
	}}
}

// probe4 matches an ARP that asks whether an address is free: it comes from 0.0.0.0.
func probe4() Statement {
	return Statement{"arp saddr ip 0.0.0.0", []expr.Any{
		arpSaddr.load(reg),
		&expr.Cmp{Op: expr.CmpOpEq, Register: reg, Data: make([]byte, 4)},
	}}
}

// icmp6 matches a type of ICMPv6.
func icmp6(kind byte) Statement {
	return Statement{fmt.Sprintf("icmpv6 type %d", kind), []expr.Any{
		l4proto.load(reg),
		&expr.Cmp{Op: expr.CmpOpEq, Register: reg, Data: []byte{unix.IPPROTO_ICMPV6}},
		&expr.Payload{OperationType: expr.PayloadLoad, DestRegister: reg, Base: expr.PayloadBaseTransportHeader, Offset: 0, Len: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: reg, Data: []byte{kind}},
	}}
}

// fromNobody6 matches the source ::.
func fromNobody6() Statement {
	return Statement{"ip6 saddr ::", []expr.Any{
		ip6Saddr.load(reg),
		&expr.Cmp{Op: expr.CmpOpEq, Register: reg, Data: make([]byte, 16)},
	}}
}
