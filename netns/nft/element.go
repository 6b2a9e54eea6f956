package nft

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// Element is an element of a set or, with a Value, of a map.
type Element struct {
	Set string
	Key []byte
	// KeyEnd is the last key of a range, nil for a single key.
	KeyEnd []byte
	Value  []byte
	Text   string // nft(8) syntax, without the braces
}

// String returns what is added in nft(8) syntax.
func (e Element) String() string { return e.Set + " { " + e.Text + " }" }

// Place is where an element is: its set and key. Two that differ in value alone have
// one place.
func (e Element) Place() string { return e.Set + "\x00" + string(e.Key) + "\x00" + string(e.KeyEnd) }

// Difference is what has to be added and removed to get from one list of elements
// to another.
func Difference(before, after []Element) (add, remove []Element) {
	return without(after, before), without(before, after)
}

func without(all, known []Element) (out []Element) {
	there := map[string]bool{}
	for _, e := range known {
		there[e.identity()] = true
	}
	for _, e := range all {
		if !there[e.identity()] {
			out = append(out, e)
		}
	}
	return out
}

// Network is what the firewall must know of a bridge.
type Network struct {
	Bridge     string
	Internal   bool
	Masquerade bool
	Isolated   bool // containers of the network do not reach each other (icc off)
	// For IPv4 and IPv6: its traffic is never translated; all ports of containers are
	// open at their own addresses.
	Routed, Unprotected [2]bool
	// For IPv4 and IPv6: the address that leaving traffic gets, none for that of the link
	// that it leaves by.
	Leave [2]netip.Addr
	// Trusted are links of the host from which published ports are open at the containers'
	// own addresses, see [Direct].
	Trusted []string
}

// Elements returns the network's set elements.
func (n Network) Elements() []Element {
	link := func(set string) Element {
		return Element{Set: set, Key: ifname(n.Bridge), Text: quote(n.Bridge)}
	}
	out := []Element{link(SetBridges)}
	if n.Internal {
		out = append(out, link(SetInternal))
	} else {
		if n.Masquerade && n.Routed != [2]bool{true, true} {
			out = append(out, link(SetMasquerade))
		}
		for i, sets := range [2][3]string{{SetRouted4, SetUnprotected4, MapLeave4}, {SetRouted6, SetUnprotected6, MapLeave6}} {
			if n.Routed[i] {
				out = append(out, link(sets[0]))
			}
			if n.Unprotected[i] {
				out = append(out, link(sets[1]))
			}
			if a := n.Leave[i]; a.IsValid() {
				out = append(out, Element{Set: sets[2], Key: ifname(n.Bridge), Value: a.AsSlice(), Text: quote(n.Bridge) + " : " + a.String()})
			}
		}
		for _, name := range n.Trusted {
			out = append(out, Element{Set: SetTrusted, Key: append(ifname(name), ifname(n.Bridge)...), Text: quote(name) + " . " + quote(n.Bridge)})
		}
	}
	if !n.Isolated {
		out = append(out, Element{Set: SetPeers, Key: append(ifname(n.Bridge), ifname(n.Bridge)...),
			Text: quote(n.Bridge) + " . " + quote(n.Bridge)})
	}
	return out
}

// Protocol is the number of a transport protocol's name, 0 for an unknown one.
func Protocol(name string) byte {
	switch name {
	case "", "tcp":
		return unix.IPPROTO_TCP
	case "udp":
		return unix.IPPROTO_UDP
	case "sctp":
		return unix.IPPROTO_SCTP
	}
	return 0
}

// Publish returns the element that sends host:hostPort to target. A host that
// is not valid or unspecified stands for all addresses of the target's family.
func Publish(host netip.Addr, hostPort uint16, proto byte, target netip.AddrPort) Element {
	e := Element{Set: MapAny4, Value: append(target.Addr().AsSlice(), padded(be16(target.Port()))...)}
	if target.Addr().Is6() {
		e.Set = MapAny6
	}
	if host.IsValid() && !host.IsUnspecified() {
		e.Set = MapHost4
		if target.Addr().Is6() {
			e.Set = MapHost6
		}
		e.Key, e.Text = host.AsSlice(), host.String()+" . "
	}
	e.Key = append(append(e.Key, padded([]byte{proto})...), padded(be16(hostPort))...)
	e.Text += fmt.Sprintf("%s . %d : %s . %d", protoName(proto), hostPort, target.Addr(), target.Port())
	return e
}

// Slots are how many places those who share a port have: as many containers get
// exactly the same share as divide it.
const Slots = 24

// Share returns the elements that send the connections to host:hostPort to targets,
// of one family, in turn; see [Publish].
func Share(host netip.Addr, hostPort uint16, proto byte, targets []netip.AddrPort) []Element {
	sets := map[string]string{MapAny4: MapShare4, MapAny6: MapShare6, MapHost4: MapHostShare4, MapHost6: MapHostShare6}
	out := make([]Element, Slots)
	for i := range out {
		e := Publish(host, hostPort, proto, targets[i%len(targets)])
		e.Set = sets[e.Set]
		e.Key = binary.NativeEndian.AppendUint32(e.Key, uint32(i))
		key, value, _ := strings.Cut(e.Text, " : ")
		e.Text = fmt.Sprintf("%s . 0x%08x : %s", key, i, value)
		out[i] = e
	}
	return out
}

// shared reports whether an element is of a shared port.
func (e Element) shared() bool {
	switch e.Set {
	case MapShare4, MapShare6, MapHostShare4, MapHostShare6:
		return true
	}
	return false
}

// PublishRange returns the element that sends the ports of a host from first to
// last to the same ports of target, see [Publish].
func PublishRange(host netip.Addr, first, last uint16, proto byte, target netip.Addr) Element {
	e := Element{Set: MapRange4, Value: target.AsSlice()}
	if target.Is6() {
		e.Set = MapRange6
	}
	if host.IsValid() && !host.IsUnspecified() {
		e.Set = MapHostRange4
		if target.Is6() {
			e.Set = MapHostRange6
		}
		e.Key, e.Text = host.AsSlice(), host.String()+" . "
	}
	e.Key = append(e.Key, padded([]byte{proto})...)
	e.KeyEnd = append(append(e.KeyEnd, e.Key...), padded(be16(last))...)
	e.Key = append(e.Key, padded(be16(first))...)
	e.Text += fmt.Sprintf("%s . %d-%d : %s", protoName(proto), first, last, target)
	return e
}

// Hairpin returns the element that makes clients on the bridge look like the
// host when they reach target over a published port.
func Hairpin(bridge string, target netip.Addr) Element {
	set := SetHairpin4
	if target.Is6() {
		set = SetHairpin6
	}
	return Element{Set: set, Key: append(ifname(bridge), target.AsSlice()...), Text: quote(bridge) + " . " + target.String()}
}

// Self returns the element that makes a container look like the host to itself
// when it reaches itself over a published port.
func Self(target netip.Addr) Element {
	set := SetSelf4
	if target.Is6() {
		set = SetSelf6
	}
	return Element{Set: set, Key: append(target.AsSlice(), target.AsSlice()...), Text: target.String() + " . " + target.String()}
}

// Open returns the element that lets everybody reach target, for routed networks.
func Open(target netip.AddrPort, proto byte) Element {
	return reach(SetOpen4, SetOpen6, target, proto)
}

// Direct returns the element that lets the links that a network trusts reach target.
func Direct(target netip.AddrPort, proto byte) Element {
	return reach(SetDirect4, SetDirect6, target, proto)
}

func reach(set4, set6 string, target netip.AddrPort, proto byte) Element {
	set := set4
	if target.Addr().Is6() {
		set = set6
	}
	key := append(target.Addr().AsSlice(), padded([]byte{proto})...)
	return Element{Set: set, Key: append(key, padded(be16(target.Port()))...),
		Text: fmt.Sprintf("%s . %s . %d", target.Addr(), protoName(proto), target.Port())}
}

// Anywhere returns the element that lets clients reach a host address over any
// link.
func Anywhere(host netip.Addr) Element {
	set := SetAnywhere4
	if host.Is6() {
		set = SetAnywhere6
	}
	return Element{Set: set, Key: host.AsSlice(), Text: host.String()}
}

// Guard are the elements for a port of a bridge whose container may send only as the
// Ethernet address mac and, of the addresses near it, as those it has itself. Each of
// addrs is one of its own, with the length of its network's prefix.
func Guard(port string, mac net.HardwareAddr, addrs ...netip.Prefix) []Element {
	out := []Element{
		{Set: SetGuarded, Key: ifname(port), Text: quote(port)},
		{Set: SetEthers, Key: append(ifname(port), padded(slices.Clone(mac))...), Text: quote(port) + " . " + mac.String()},
	}
	for _, p := range addrs {
		set, near := SetOwn4, SetNear4
		if p.Addr().Is6() {
			set, near = SetOwn6, SetNear6
		}
		out = append(out, Element{Set: set, Key: append(ifname(port), p.Addr().AsSlice()...), Text: quote(port) + " . " + p.Addr().String()})
		if p.IsSingleIP() {
			continue
		}
		first := p.Masked().Addr().AsSlice()
		last := slices.Clone(first)
		for bit := p.Bits(); bit < 8*len(last); bit++ {
			last[bit/8] |= 0x80 >> (bit % 8)
		}
		out = append(out, Element{Set: near, Key: append(ifname(port), first...), KeyEnd: append(ifname(port), last...), Text: quote(port) + " . " + p.Masked().String()})
	}
	return out
}

// Port returns the port of a bridge that an element speaks of, if it does.
func (e Element) Port() (string, bool) {
	switch e.Set {
	case SetGuarded, SetEthers, SetOwn4, SetOwn6, SetNear4, SetNear6:
		return string(bytes.TrimRight(e.Key[:min(len(e.Key), unix.IFNAMSIZ)], "\x00")), true
	}
	return "", false
}

// Target returns where a map element leads.
func (e Element) Target() (netip.AddrPort, bool) {
	if n := len(e.Value); n == 8 || n == 20 {
		a, _ := netip.AddrFromSlice(e.Value[:n-4])
		return netip.AddrPortFrom(a, binary.BigEndian.Uint16(e.Value[n-4:])), true
	}
	return netip.AddrPort{}, false
}

// Container returns the container address an element speaks of, if it does.
func (e Element) Container() (netip.Addr, bool) {
	if t, ok := e.Target(); ok {
		return t.Addr(), true
	}
	var raw []byte
	switch e.Set {
	case MapRange4, MapRange6, MapHostRange4, MapHostRange6:
		raw = e.Value
	case SetHairpin4, SetHairpin6:
		raw = e.Key[min(len(e.Key), unix.IFNAMSIZ):]
	case SetSelf4, SetOpen4, SetDirect4:
		raw = e.Key[:min(len(e.Key), 4)]
	case SetSelf6, SetOpen6, SetDirect6:
		raw = e.Key[:min(len(e.Key), 16)]
	}
	return netip.AddrFromSlice(raw)
}

// padded fills a field of a concatenation up to four bytes.
func padded(b []byte) []byte { return append(b, make([]byte, (4-len(b)%4)%4)...) }

func ifname(s string) []byte {
	b := make([]byte, unix.IFNAMSIZ)
	copy(b, s)
	return b
}

func quote(s string) string { return `"` + s + `"` }
