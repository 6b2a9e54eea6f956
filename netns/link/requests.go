package link

import (
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// Attribute numbers of linux/if_link.h which golang.org/x/sys lacks.
const (
	vethInfoPeer        = 1  // VETH_INFO_PEER
	macvlanMode         = 1  // IFLA_MACVLAN_MODE
	ipvlanMode          = 1  // IFLA_IPVLAN_MODE
	ipvlanFlags         = 2  // IFLA_IPVLAN_FLAGS
	brForwardDelay      = 1  // IFLA_BR_FORWARD_DELAY
	brSTPState          = 5  // IFLA_BR_STP_STATE
	brMcastSnooping     = 23 // IFLA_BR_MCAST_SNOOPING
	brportState         = 1  // IFLA_BRPORT_STATE
	brportMode          = 4  // IFLA_BRPORT_MODE, hairpin
	brportIsolated      = 33 // IFLA_BRPORT_ISOLATED
	inet6AddrGenMode    = 8  // IFLA_INET6_ADDR_GEN_MODE
	addrGenModeNone     = 1  // IN6_ADDR_GEN_MODE_NONE
	newLinkFlags        = unix.NLM_F_CREATE | unix.NLM_F_EXCL
	replaceOrCreate     = unix.NLM_F_CREATE | unix.NLM_F_REPLACE
	nlaNested           = unix.NLA_F_NESTED
	nestedAFSpec        = unix.IFLA_AF_SPEC | nlaNested
	nestedLinkInfo      = unix.IFLA_LINKINFO | nlaNested
	nestedInfoData      = unix.IFLA_INFO_DATA | nlaNested
	infoSlaveKind       = 4             // IFLA_INFO_SLAVE_KIND
	nestedSlaveData     = 5 | nlaNested // IFLA_INFO_SLAVE_DATA
	nestedVethInfoPeer  = vethInfoPeer | nlaNested
	nestedInet6         = unix.AF_INET6 | nlaNested
	permanentWithoutDAD = unix.IFA_F_PERMANENT | unix.IFA_F_NODAD
)

// Veth is a veth pair as seen from the container.
type Veth struct {
	Name  string // inside, such as "eth0"
	Index int    // inside; 0 lets the kernel choose
	MAC   net.HardwareAddr
	MTU   int    // 0: the kernel's default of 1500
	Host  string // name of the host's end
}

// AddVeth makes a pair: the container's end in the namespace of the socket and
// the host's end, down, in the namespace of the descriptor hostNS.
func (b *Batch) AddVeth(v Veth, hostNS int) {
	r := nl.NewNetlinkRequest(unix.RTM_NEWLINK, newLinkFlags)
	info := nl.NewIfInfomsg(unix.AF_UNSPEC)
	info.Index = int32(v.Index)
	r.AddData(info)
	r.AddData(nl.NewRtAttr(unix.IFLA_IFNAME, nl.ZeroTerminated(v.Name)))
	if len(v.MAC) > 0 {
		r.AddData(nl.NewRtAttr(unix.IFLA_ADDRESS, v.MAC))
	}
	if v.MTU > 0 {
		r.AddData(nl.NewRtAttr(unix.IFLA_MTU, nl.Uint32Attr(uint32(v.MTU))))
	}
	kind := nl.NewRtAttr(nestedLinkInfo, nil)
	kind.AddRtAttr(unix.IFLA_INFO_KIND, nl.NonZeroTerminated("veth"))
	peer := kind.AddRtAttr(nestedInfoData, nil).AddRtAttr(nestedVethInfoPeer, nil)
	peer.AddChild(nl.NewIfInfomsg(unix.AF_UNSPEC))
	peer.AddRtAttr(unix.IFLA_IFNAME, nl.ZeroTerminated(v.Host))
	peer.AddRtAttr(unix.IFLA_NET_NS_FD, nl.Uint32Attr(uint32(hostNS)))
	if v.MTU > 0 {
		peer.AddRtAttr(unix.IFLA_MTU, nl.Uint32Attr(uint32(v.MTU)))
	}
	r.AddData(kind)
	b.add(fmt.Sprintf("make link %s with %s", v.Name, v.Host), r)
}

// PortMode is how a bridge treats a port.
type PortMode struct {
	// Isolated ports reach the bridge itself but no other isolated port.
	Isolated bool
	// Hairpin ports get packets back that came from them. Where bridged packets
	// pass through netfilter, one that is translated to another port of the bridge
	// stays on the bridge.
	Hairpin bool
}

// Port puts the link under a bridge and sets it up.
func (b *Batch) Port(name string, bridgeIndex int, mode PortMode) {
	r, _ := b.change("put link "+name+" under its bridge", name)
	r.AddData(nl.NewRtAttr(unix.IFLA_MASTER, nl.Uint32Attr(uint32(bridgeIndex))))
	r.AddData(noLinkLocal())
	if mode != (PortMode{}) {
		// The port's settings exist only once it is a port: a message of its own.
		r, _ := b.change("set mode of bridge port "+name, name)
		port := nl.NewRtAttr(nestedLinkInfo, nil)
		port.AddRtAttr(infoSlaveKind, nl.NonZeroTerminated("bridge"))
		data := port.AddRtAttr(nestedSlaveData, nil)
		if mode.Isolated {
			data.AddRtAttr(brportIsolated, nl.Uint8Attr(1))
		}
		if mode.Hairpin {
			data.AddRtAttr(brportMode, nl.Uint8Attr(1))
		}
		r.AddData(port)
	}
	b.Up(name)
}

// AddBridge makes a bridge without spanning tree, forward delay or multicast
// snooping. An existing link of the name is an error (EEXIST).
func (b *Batch) AddBridge(name string, mac net.HardwareAddr, mtu int) {
	r := nl.NewNetlinkRequest(unix.RTM_NEWLINK, newLinkFlags)
	r.AddData(nl.NewIfInfomsg(unix.AF_UNSPEC))
	r.AddData(nl.NewRtAttr(unix.IFLA_IFNAME, nl.ZeroTerminated(name)))
	r.AddData(nl.NewRtAttr(unix.IFLA_ADDRESS, mac))
	if mtu > 0 {
		r.AddData(nl.NewRtAttr(unix.IFLA_MTU, nl.Uint32Attr(uint32(mtu))))
	}
	kind := nl.NewRtAttr(nestedLinkInfo, nil)
	kind.AddRtAttr(unix.IFLA_INFO_KIND, nl.NonZeroTerminated("bridge"))
	data := kind.AddRtAttr(nestedInfoData, nil)
	data.AddRtAttr(brForwardDelay, nl.Uint32Attr(0))
	data.AddRtAttr(brSTPState, nl.Uint32Attr(0))
	data.AddRtAttr(brMcastSnooping, nl.Uint8Attr(0))
	r.AddData(kind)
	b.add("make bridge "+name, r)
}

// Macvlan is a link that shares another one.
type Macvlan struct {
	Name string
	MAC  net.HardwareAddr
	MTU  int    // 0: that of the parent
	Mode string // bridge, private, vepa, passthru; "" for bridge
}

// macvlanModes are MACVLAN_MODE_… of linux/if_link.h.
var macvlanModes = map[string]uint32{"private": 1, "vepa": 2, "": 4, "bridge": 4, "passthru": 8}

// AddMacvlan makes a link on a parent of the socket's namespace, down, in the
// namespace of a descriptor.
func (b *Batch) AddMacvlan(v Macvlan, parent, ns int) {
	mac := v.MAC
	if v.Mode == "passthru" { // which has its parent's
		mac = nil
	}
	b.addShared("macvlan", v.Name, mac, v.MTU, parent, ns, func(data *nl.RtAttr) {
		data.AddRtAttr(macvlanMode, nl.Uint32Attr(macvlanModes[v.Mode]))
	})
}

// addShared makes a link of a kind on a parent, with what only that kind has.
func (b *Batch) addShared(kind, name string, mac net.HardwareAddr, mtu, parent, ns int, own func(data *nl.RtAttr)) {
	r := nl.NewNetlinkRequest(unix.RTM_NEWLINK, newLinkFlags)
	r.AddData(nl.NewIfInfomsg(unix.AF_UNSPEC))
	r.AddData(nl.NewRtAttr(unix.IFLA_IFNAME, nl.ZeroTerminated(name)))
	r.AddData(nl.NewRtAttr(unix.IFLA_LINK, nl.Uint32Attr(uint32(parent))))
	r.AddData(nl.NewRtAttr(unix.IFLA_NET_NS_FD, nl.Uint32Attr(uint32(ns))))
	if len(mac) > 0 {
		r.AddData(nl.NewRtAttr(unix.IFLA_ADDRESS, mac))
	}
	if mtu > 0 {
		r.AddData(nl.NewRtAttr(unix.IFLA_MTU, nl.Uint32Attr(uint32(mtu))))
	}
	info := nl.NewRtAttr(nestedLinkInfo, nil)
	info.AddRtAttr(unix.IFLA_INFO_KIND, nl.NonZeroTerminated(kind))
	own(info.AddRtAttr(nestedInfoData, nil))
	r.AddData(info)
	b.add("make link "+name, r)
}

// IPvlan is a link that shares another one and its Ethernet address.
type IPvlan struct {
	Name string
	MTU  int    // 0: that of the parent
	Mode string // l2, l3, l3s; "" for l2
	Flag string // bridge, private, vepa; "" for bridge
}

// What modes and flags are to the kernel, IPVLAN_MODE_… and IPVLAN_F_… of linux/if_link.h.
var (
	ipvlanModes      = map[string]uint16{"": 0, "l2": 0, "l3": 1, "l3s": 2}
	ipvlanFlagValues = map[string]uint16{"": 0, "bridge": 0, "private": 1, "vepa": 2}
)

// AddIPvlan makes a link on a parent of the socket's namespace, down, in the namespace
// of a descriptor.
func (b *Batch) AddIPvlan(v IPvlan, parent, ns int) {
	b.addShared("ipvlan", v.Name, nil, v.MTU, parent, ns, func(data *nl.RtAttr) {
		data.AddRtAttr(ipvlanMode, nl.Uint16Attr(ipvlanModes[v.Mode]))
		data.AddRtAttr(ipvlanFlags, nl.Uint16Attr(ipvlanFlagValues[v.Flag]))
	})
}

// vlanID is IFLA_VLAN_ID of linux/if_link.h.
const vlanID = 1

// AddVLAN makes a link that carries the VLAN of a number on another link, 802.1Q.
func (b *Batch) AddVLAN(name string, id uint16, on int) {
	r := nl.NewNetlinkRequest(unix.RTM_NEWLINK, newLinkFlags)
	r.AddData(nl.NewIfInfomsg(unix.AF_UNSPEC))
	r.AddData(nl.NewRtAttr(unix.IFLA_IFNAME, nl.ZeroTerminated(name)))
	r.AddData(nl.NewRtAttr(unix.IFLA_LINK, nl.Uint32Attr(uint32(on))))
	info := nl.NewRtAttr(nestedLinkInfo, nil)
	info.AddRtAttr(unix.IFLA_INFO_KIND, nl.NonZeroTerminated("vlan"))
	info.AddRtAttr(nestedInfoData, nil).AddRtAttr(vlanID, nl.Uint16Attr(id))
	r.AddData(info)
	b.add("make link "+name, r)
}

// AddDummy makes a link that leads nowhere.
func (b *Batch) AddDummy(name string) {
	r := nl.NewNetlinkRequest(unix.RTM_NEWLINK, newLinkFlags)
	r.AddData(nl.NewIfInfomsg(unix.AF_UNSPEC))
	r.AddData(nl.NewRtAttr(unix.IFLA_IFNAME, nl.ZeroTerminated(name)))
	kind := nl.NewRtAttr(nestedLinkInfo, nil)
	kind.AddRtAttr(unix.IFLA_INFO_KIND, nl.NonZeroTerminated("dummy"))
	r.AddData(kind)
	b.add("make link "+name, r)
}

// Rename gives a link, which must be down, another name.
func (b *Batch) Rename(index int, name string) {
	r := nl.NewNetlinkRequest(unix.RTM_NEWLINK, 0)
	info := nl.NewIfInfomsg(unix.AF_UNSPEC)
	info.Index = int32(index)
	r.AddData(info)
	r.AddData(nl.NewRtAttr(unix.IFLA_IFNAME, nl.ZeroTerminated(name)))
	b.add("name link "+name, r)
}

// Up sets a link up.
func (b *Batch) Up(name string) {
	_, info := b.change("set link "+name+" up", name)
	info.Flags, info.Change = unix.IFF_UP, unix.IFF_UP
}

// SetAlias labels a link (ifalias), so that its maker is known.
func (b *Batch) SetAlias(name, alias string) {
	r, _ := b.change("label link "+name, name)
	r.AddData(nl.NewRtAttr(unix.IFLA_IFALIAS, nl.NonZeroTerminated(alias)))
}

// Find looks a link up by name in the socket's namespace. The error of one that
// is not there is ENODEV.
func (s *Socket) Find(name string) (Info, error) {
	var b Batch
	var info Info
	r := nl.NewNetlinkRequest(unix.RTM_GETLINK, 0)
	r.AddData(nl.NewIfInfomsg(unix.AF_UNSPEC))
	r.AddData(nl.NewRtAttr(unix.IFLA_IFNAME, nl.ZeroTerminated(name)))
	b.add("find link "+name, r)
	b.requests[0].info = &info
	err := s.Do(&b)
	return info, err
}

// FindIndex looks a link up by index, see [Socket.Find].
func (s *Socket) FindIndex(index int) (Info, error) {
	var b Batch
	var info Info
	r := nl.NewNetlinkRequest(unix.RTM_GETLINK, 0)
	msg := nl.NewIfInfomsg(unix.AF_UNSPEC)
	msg.Index = int32(index)
	r.AddData(msg)
	b.add(fmt.Sprintf("find link %d", index), r)
	b.requests[0].info = &info
	err := s.Do(&b)
	return info, err
}

// DeleteLink removes a link; one that is not there is not an error.
func (b *Batch) DeleteLink(name string) {
	r := nl.NewNetlinkRequest(unix.RTM_DELLINK, 0)
	r.AddData(nl.NewIfInfomsg(unix.AF_UNSPEC))
	r.AddData(nl.NewRtAttr(unix.IFLA_IFNAME, nl.ZeroTerminated(name)))
	b.add("remove link "+name, r, unix.ENODEV)
}

// NewGroup returns a random device group, far from those people use.
func NewGroup() uint32 {
	var raw [4]byte
	_, _ = rand.Read(raw[:])
	return binary.NativeEndian.Uint32(raw[:]) | 1<<31
}

// SetGroup puts a link into a device group, see [Batch.DeleteGroup].
func (b *Batch) SetGroup(name string, group uint32) {
	r, _ := b.change("put link "+name+" into group", name)
	r.AddData(nl.NewRtAttr(unix.IFLA_GROUP, nl.Uint32Attr(group)))
	b.requests[len(b.requests)-1].ignore = []unix.Errno{unix.ENODEV}
}

// DeleteGroup removes all links of a device group at once, which costs the
// kernel one grace period instead of one for each link.
func (b *Batch) DeleteGroup(group uint32) {
	r := nl.NewNetlinkRequest(unix.RTM_DELLINK, 0)
	r.AddData(nl.NewIfInfomsg(unix.AF_UNSPEC))
	r.AddData(nl.NewRtAttr(unix.IFLA_GROUP, nl.Uint32Attr(group)))
	b.add("remove links", r, unix.ENODEV)
}

func (b *Batch) change(what, name string) (*nl.NetlinkRequest, *nl.IfInfomsg) {
	r := nl.NewNetlinkRequest(unix.RTM_NEWLINK, 0)
	info := nl.NewIfInfomsg(unix.AF_UNSPEC)
	r.AddData(info)
	r.AddData(nl.NewRtAttr(unix.IFLA_IFNAME, nl.ZeroTerminated(name)))
	b.add(what, r)
	return r, info
}

// noLinkLocal keeps the kernel from giving the link a fe80:: address, which a
// bridge port has no use for.
func noLinkLocal() *nl.RtAttr {
	spec := nl.NewRtAttr(nestedAFSpec, nil)
	spec.AddRtAttr(nestedInet6, nil).AddRtAttr(inet6AddrGenMode, nl.Uint8Attr(addrGenModeNone))
	return spec
}

// AddAddress gives a link an address; one that is there already is not an
// error. IPv6 addresses are usable at once, without duplicate detection.
func (b *Batch) AddAddress(index int, p netip.Prefix) {
	r := nl.NewNetlinkRequest(unix.RTM_NEWADDR, replaceOrCreate)
	msg := &nl.IfAddrmsg{}
	msg.Family = family(p.Addr())
	msg.Prefixlen = uint8(p.Bits())
	msg.Index = uint32(index)
	r.AddData(msg)
	addr := p.Addr().AsSlice()
	r.AddData(nl.NewRtAttr(unix.IFA_LOCAL, addr))
	r.AddData(nl.NewRtAttr(unix.IFA_ADDRESS, addr))
	if p.Addr().Is6() {
		r.AddData(nl.NewRtAttr(unix.IFA_FLAGS, nl.Uint32Attr(permanentWithoutDAD)))
	} else if p.Bits() < 31 {
		r.AddData(nl.NewRtAttr(unix.IFA_BROADCAST, lastAddr(p).AsSlice()))
	}
	b.add(fmt.Sprintf("add address %s", p), r, unix.EEXIST)
}

// DefaultRoute makes the gateway on the link the way out for its family.
// A replaced default route is gone.
func (b *Batch) DefaultRoute(index int, gateway netip.Addr) {
	r := nl.NewNetlinkRequest(unix.RTM_NEWROUTE, replaceOrCreate)
	r.AddData(defaultRoute(gateway.Is6()))
	r.AddData(nl.NewRtAttr(unix.RTA_GATEWAY, gateway.AsSlice()))
	r.AddData(nl.NewRtAttr(unix.RTA_OIF, nl.Uint32Attr(uint32(index))))
	b.add(fmt.Sprintf("add default route via %s", gateway), r)
}

// DefaultRouteOnLink makes the link the way out for a family, without a gateway.
func (b *Batch) DefaultRouteOnLink(index int, v6 bool) {
	r := nl.NewNetlinkRequest(unix.RTM_NEWROUTE, replaceOrCreate)
	m := defaultRoute(v6)
	m.Scope = unix.RT_SCOPE_LINK
	r.AddData(m)
	r.AddData(nl.NewRtAttr(unix.RTA_OIF, nl.Uint32Attr(uint32(index))))
	b.add("add default route on the link", r)
}

// NoDefaultRoute removes the default route of a family, if there is one.
func (b *Batch) NoDefaultRoute(v6 bool) {
	r := nl.NewNetlinkRequest(unix.RTM_DELROUTE, 0)
	m := defaultRoute(v6)
	m.Protocol, m.Scope = 0, unix.RT_SCOPE_NOWHERE
	r.AddData(m)
	b.add("remove default route", r, unix.ESRCH, unix.ENOENT)
}

func defaultRoute(v6 bool) *nl.RtMsg {
	m := nl.NewRtMsg()
	m.Family = unix.AF_INET
	if v6 {
		m.Family = unix.AF_INET6
	}
	m.Scope = unix.RT_SCOPE_UNIVERSE
	return m
}

func family(a netip.Addr) uint8 {
	if a.Is4() {
		return unix.AF_INET
	}
	return unix.AF_INET6
}

// lastAddr is the highest address of a prefix, the broadcast address in IPv4.
func lastAddr(p netip.Prefix) netip.Addr {
	b := p.Masked().Addr().AsSlice()
	for i := p.Bits(); i < len(b)*8; i++ {
		b[i/8] |= 0x80 >> (i % 8)
	}
	a, _ := netip.AddrFromSlice(b)
	return a
}

// Down sets a link down.
func (b *Batch) Down(name string) {
	_, info := b.change("set link "+name+" down", name)
	info.Flags, info.Change = 0, unix.IFF_UP
}
