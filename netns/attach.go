package netns

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"time"

	"crypto/sha256"
	"encoding/hex"

	"github.com/stack-run/stack/netns/link"
	"github.com/stack-run/stack/netns/nft"
	"golang.org/x/sys/unix"
)

// firstIndex is the interface index of the first link inside a namespace; those
// below may be taken by devices that some kernels put into every namespace.
const firstIndex = 100

// resolverAddress is where containers look for names. nginx configurations name it.
var resolverAddress = [4]byte{127, 0, 0, 11}

// resolverPort is the first choice for the port where names are really served.
const resolverPort = 40053

// carrierWait is the longest wait for a new link to carry packets. It takes a
// few milliseconds, and a container whose link takes longer may start all the same.
const carrierWait = 2 * time.Second

// Attach makes an endpoint: a namespace with loopback up, pinned below the run
// root, a link with addresses and routes for each network, sysctls, and published
// ports. After a failure nothing is left. An endpoint of the same ID that was left
// half-made is replaced.
func (m *Manager) Attach(ctx context.Context, spec EndpointSpec) (*Endpoint, error) {
	return m.AttachTo(ctx, nil, spec)
}

// AttachTo is [Manager.Attach] with a network namespace that was just made, such as one
// that belongs to a user namespace. With nil it makes one.
func (m *Manager) AttachTo(ctx context.Context, namespace *os.File, spec EndpointSpec) (*Endpoint, error) {
	e, err := m.attach(ctx, namespace, spec)
	if err != nil {
		return nil, fmt.Errorf("cannot connect %s to its network: %w", spec.Subject(), err)
	}
	return e, nil
}

func (m *Manager) attach(ctx context.Context, namespace *os.File, spec EndpointSpec) (_ *Endpoint, err error) {
	if err := checkEndpoint(spec); err != nil {
		return nil, err
	}
	e := &Endpoint{Spec: spec}
	if id, ok := spec.Shares(); ok {
		e.NetNS, e.Shared = m.pin(id), true
		if !link.Pinned(e.NetNS) {
			return nil, fmt.Errorf("container %s, whose network it shares, has none; start that first", short(id))
		}
		if !spec.OwnAddresses {
			return e, m.unguard(ctx, id)
		}
		return e, nil
	}
	if spec.Mode == "host" {
		if len(spec.Ports) > 0 {
			e.Warnings = append(e.Warnings, "published ports are ignored: the container uses the host's network")
		}
		return e, nil
	}
	if m.live(spec.ID) {
		if err := m.Detach(ctx, e); err != nil {
			return nil, err
		}
	}
	e.NetNS = m.pin(spec.ID)
	records, err := m.lendAll(ctx, e)
	defer func() {
		if err != nil {
			// The caller's context may be the reason.
			err = errors.Join(err, m.Detach(context.WithoutCancel(ctx), e))
		}
	}()
	if err != nil {
		return nil, err
	}
	for i := range records {
		if err := m.bridge(ctx, records[i]); err != nil {
			return nil, err
		}
	}
	ensure := func() error {
		for _, r := range records {
			if _, err := m.Ensure(ctx, r.Name); err != nil {
				return err
			}
		}
		return nil
	}
	guarded := make(chan error, 1)
	elements := guards(e, e.Links)
	go func() { guarded <- m.guard(elements, ensure) }()
	defer func() { err = errors.Join(err, <-guarded) }()
	inside := &link.Watch{}
	outer, err := link.Open()
	if err != nil {
		return nil, err
	}
	defer outer.Close()
	if err := link.Create(e.NetNS, namespace, func(hostNS int) error { return m.furnish(e, records, inside, outer, hostNS) }); err != nil {
		return nil, err
	}
	defer inside.End()
	if err := m.plug(ctx, e.Links, records, inside, len(e.Spec.Ports) > 0); err != nil {
		return nil, err
	}
	if err = m.Publish(ctx, e); errors.Is(err, unix.ENOENT) {
		// Somebody deleted the firewall's table since.
		if err = ensure(); err == nil {
			err = m.Publish(ctx, e)
		}
	}
	if err != nil {
		return nil, err
	}
	return e, nil
}

// lendAll decides about addresses and link names and writes the endpoint's
// record, all under the lock.
func (m *Manager) lendAll(ctx context.Context, e *Endpoint) ([]record, error) {
	attachments := slices.Clone(e.Spec.Networks)
	slices.SortStableFunc(attachments, func(a, b Attachment) int { return b.Priority - a.Priority })
	var records []record
	err := m.locked(ctx, func() error {
		if err := link.PreparePins(m.pinDir()); err != nil {
			return err
		}
		for _, a := range attachments {
			r, err := m.find(a.Network)
			if err != nil {
				return err
			}
			if !r.Attaches() {
				return fmt.Errorf("network %s has driver %q, which takes no attachments; use network_mode", r.Name, r.Driver)
			}
			l, err := m.lend(e, r, a)
			if err != nil {
				return err
			}
			records = append(records, r)
			e.Links = append(e.Links, l)
		}
		return m.saveEndpoint(e, false)
	})
	return records, err
}

// lend decides about one link.
func (m *Manager) lend(e *Endpoint, r record, a Attachment) (Link, error) {
	leases, err := m.loadLeases(r.ID)
	if err != nil {
		return Link{}, err
	}
	key := e.Spec.Key
	if key == "" {
		key = e.Spec.ID
	}
	got, err := leases.lend(r.Network, applicant{key, e.Spec.ID, a, e.Spec.Reserved[r.Name]}, m.society())
	if err != nil {
		return Link{}, m.explain(err)
	}
	if err := m.saveLeases(r.ID, leases); err != nil {
		return Link{}, err
	}
	l := Link{
		Network: r.Name, NetworkID: r.ID, Name: interfaceName(a), MAC: a.MAC, Aliases: a.Aliases,
		HostLink: m.hostLink(e.Spec.ID, r.ID), Parent: parentOf(r.Network), Bridge: r.Bridge, Internal: r.Internal, Trusted: len(trusted(r.NetworkSpec)) > 0,
		Routed4: gatewayMode(r.NetworkSpec, false) == modeRouted, Routed6: gatewayMode(r.NetworkSpec, true) == modeRouted,
		IPv4: got.IPv4, IPv6: got.IPv6, Gateway4: r.Gateway4, Gateway6: r.Gateway6,
	}
	if l.Parent != "" {
		l.HostLink = ""
	}
	l.Direct = r.SharesMAC() && strings.HasPrefix(r.DriverOpts[OptIPvlanMode], "l3")
	if r.SharesMAC() && a.MAC != "" {
		return l, fmt.Errorf("containers of network %s have the MAC address of link %s, which its driver ipvlan shares; leave mac_address out, or use macvlan", r.Name, l.Parent)
	}
	if l.IPv4.IsValid() {
		l.Bits4 = r.IPv4.Bits()
	}
	if l.IPv6.IsValid() {
		l.Bits6 = r.IPv6.Bits()
	}
	if l.MAC == "" && !r.SharesMAC() {
		l.MAC = stableMAC(l).String()
	}
	for i := 0; l.Name == ""; i++ {
		name := fmt.Sprintf("%s%d", interfacePrefix(r.NetworkSpec), i)
		taken := slices.ContainsFunc(e.Links, func(o Link) bool { return o.Name == name }) ||
			slices.ContainsFunc(e.Spec.Networks, func(o Attachment) bool { return interfaceName(o) == name })
		if !taken {
			l.Name = name
		}
	}
	return l, nil
}

// explain puts the name of a container in place of its key.
func (m *Manager) explain(err error) error {
	var taken *addressTaken
	if errors.As(err, &taken) {
		if e, lerr := m.loadEndpoint(taken.by.Endpoint); lerr == nil {
			return fmt.Errorf("address %s of network %s is taken by %s; choose another, or remove that container",
				taken.addr, taken.network, e.Spec.OwnerInFull())
		}
	}
	return err
}

// hostLink is the name of the host's end of a link, below 16 characters.
func (m *Manager) hostLink(endpointID, networkID string) string {
	sum := sha256.Sum256([]byte(endpointID + "\x00" + networkID))
	return m.hostLinkPrefix() + hex.EncodeToString(sum[:4])
}

func (m *Manager) hostLinkPrefix() string { return "sv" + m.o.Instance + "-" }

// stableMAC derives a locally administered address from the IP address, so that
// who had the one in a neighbour table still finds the other.
func stableMAC(l Link) net.HardwareAddr {
	if l.IPv4.IsValid() {
		a := l.IPv4.As4()
		return net.HardwareAddr{0x02, 0x42, a[0], a[1], a[2], a[3]}
	}
	a := l.IPv6.As16()
	return net.HardwareAddr{0x02, 0x43, a[12], a[13], a[14], a[15]}
}

// Prepare makes sure of a network as [Manager.Attach] does.
func (m *Manager) Prepare(ctx context.Context, name string) error {
	r, err := m.find(name)
	if err != nil || !r.Attaches() {
		return err
	}
	return m.bridge(ctx, r)
}

// bridge makes sure of a network: wholly once per process, and then of what others may
// have changed since. Address and state of the bridge are made sure of with its new
// port, see plug; the firewall is watched.
func (m *Manager) bridge(ctx context.Context, r record) error {
	m.mu.Lock()
	_, ok := m.ready[r.ID]
	m.mu.Unlock()
	// A parent is not ours, and may have been made again.
	if ok && !r.OnParent() && !r.rebuilt && m.watched.Load() && m.table.Current() {
		if r.Internal {
			return nil
		}
		return m.forwarding(r)
	}
	_, err := m.Ensure(ctx, r.Name)
	return err
}

// furnish sets up the inside of a new namespace. It runs on a thread there; outer is
// a socket of the host's.
// inside has begun to watch when it returns without an error.
func (m *Manager) furnish(e *Endpoint, records []record, inside *link.Watch, outer *link.Socket, hostNS int) (err error) {
	if err := inside.Begin(); err != nil {
		return err
	}
	defer func() {
		if err != nil {
			inside.End()
		}
	}()
	v6 := slices.ContainsFunc(e.Links, func(l Link) bool { return l.IPv6.IsValid() })
	if err := namespaceSysctls(len(e.Links) > 0, v6); err != nil {
		return err
	}
	s, err := link.Open()
	if err != nil {
		return err
	}
	defer s.Close()
	var b link.Batch
	b.Up("lo")
	indexes := map[string]int{}
	for i, l := range e.Links {
		indexes[l.Name] = firstIndex + i
		if l.Parent != "" {
			if indexes[l.Name], err = m.addChild(outer, s, e, l, records[i]); err != nil {
				return err
			}
		}
		addLink(&b, e, l, indexes[l.Name], mtuOf(records[i].NetworkSpec), hostNS)
	}
	defaultRoutes(&b, e, func(name string) int { return indexes[name] }, false)
	// The kernel takes its time for either; both sockets are of this namespace.
	translated := make(chan error, 1)
	if len(e.Links) > 0 {
		translate, err := nft.Prepare(nft.Resolver(resolverTable, resolverAddress, resolverPort, resolverPort))
		if err != nil {
			return err
		}
		go func() { translated <- translate() }()
	} else {
		translated <- nil
	}
	linkErr := s.Do(&b)
	if err := errors.Join(linkErr, <-translated); err != nil {
		return err
	}
	for _, l := range e.Links {
		if err := linkSysctls(e, l, v6); err != nil {
			return err
		}
	}
	for key, value := range e.Spec.Sysctls {
		if err := link.WriteSysctl(key, value); err != nil {
			return err
		}
	}
	return nil
}

const resolverTable = "stack-resolver"

// addLink queues one link with its addresses. One with a parent is there already.
func addLink(b *link.Batch, e *Endpoint, l Link, index, mtu, hostNS int) {
	mac, _ := net.ParseMAC(l.MAC)
	if l.Parent == "" {
		b.AddVeth(link.Veth{Name: l.Name, Index: index, MAC: mac, MTU: mtu, Host: l.HostLink}, hostNS)
	}
	b.Up(l.Name)
	if l.IPv4.IsValid() {
		b.AddAddress(index, netip.PrefixFrom(l.IPv4, l.Bits4))
	}
	if l.IPv6.IsValid() {
		b.AddAddress(index, netip.PrefixFrom(l.IPv6, l.Bits6))
	}
	for _, a := range e.Attachment(l.Network).LinkLocal {
		bits := 64
		if a.Is4() {
			bits = 16
		}
		b.AddAddress(index, netip.PrefixFrom(a, bits))
	}
}

// defaultRoutes queues the ways out. index finds a link's index; replace says that
// there may be others, which go.
func defaultRoutes(b *link.Batch, e *Endpoint, index func(name string) int, replace bool) {
	for _, v6 := range []bool{false, true} {
		out := e.Outlet(v6)
		if out == nil {
			if replace {
				b.NoDefaultRoute(v6)
			}
			continue
		}
		if out.Direct {
			b.DefaultRouteOnLink(index(out.Name), v6)
			continue
		}
		gateway := out.Gateway4
		if v6 {
			gateway = out.Gateway6
		}
		b.DefaultRoute(index(out.Name), gateway)
	}
}

// namespaceSysctls are Docker's defaults, and those that make IPv6 addresses
// usable at once.
func namespaceSysctls(links, v6 bool) error {
	set := [][2]string{
		{"net/ipv4/ping_group_range", "0 2147483647"}, // ping without CAP_NET_RAW
		{"net/ipv4/ip_unprivileged_port_start", "0"},
	}
	if !hostHasIPv6() || !links {
		return writeSysctls(set)
	}
	if !v6 {
		// For the links to come. The loopback has ::1, as with Docker: it is what
		// "localhost" means, too.
		return writeSysctls(append(set, [2]string{"net/ipv6/conf/default/disable_ipv6", "1"}))
	}
	// A host may have it off by default, which is seldom.
	for _, conf := range []string{"all", "default"} {
		if err := link.EnsureSysctl("net/ipv6/conf/"+conf+"/disable_ipv6", "0"); err != nil {
			return err
		}
	}
	return writeSysctls(append(set, [][2]string{
		{"net/ipv6/conf/default/accept_dad", "0"},
		{"net/ipv6/conf/default/accept_ra", "0"},
	}...))
}

func writeSysctls(set [][2]string) error {
	for _, s := range set {
		if err := link.WriteSysctl(s[0], s[1]); err != nil {
			return err
		}
	}
	return nil
}

func linkSysctls(e *Endpoint, l Link, v6 bool) error {
	if v6 && !l.IPv6.IsValid() {
		if err := link.WriteSysctl("net/ipv6/conf/"+l.Name+"/disable_ipv6", "1"); err != nil {
			return err
		}
	}
	for _, s := range strings.Split(e.Attachment(l.Network).DriverOpts[OptSysctls], ",") {
		key, value, ok := strings.Cut(s, "=")
		if !ok {
			continue
		}
		// A dot of the interface's name is a slash in sysctl(8)'s dotted form.
		name := strings.ReplaceAll(l.Name, ".", "/")
		if err := link.WriteSysctl(strings.ReplaceAll(strings.TrimSpace(key), "IFNAME", name), value); err != nil {
			return err
		}
	}
	return nil
}

// bridgedFilter reports whether bridged packets pass through netfilter
// (br_netfilter, which Docker loads).
func bridgedFilter() bool {
	v, _ := link.ReadSysctl("net.bridge.bridge-nf-call-iptables")
	return v == "1"
}

// plug puts the host's ends of links under their bridges. Containers with ports
// may reach themselves by way of the host.
// It waits until packets pass, also inside.
func (m *Manager) plug(ctx context.Context, links []Link, records []record, inside *link.Watch, ports bool) error {
	if len(links) == 0 {
		return nil
	}
	filtered := bridgedFilter()
	if err := m.watch.Begin(); err != nil {
		return err
	}
	defer m.watch.End()
	var outer, inner []string
	for _, l := range links {
		inner = append(inner, l.Name)
		if l.Parent == "" {
			outer = append(outer, l.HostLink, l.Bridge)
		}
	}
	s, err := link.Open()
	if err != nil {
		return err
	}
	defer s.Close()
	for try := 0; ; try++ {
		var b link.Batch
		m.mu.Lock()
		for i, l := range links {
			if l.Parent != "" {
				continue
			}
			// With netfilter on the bridge the firewall keeps containers apart, and
			// isolation would keep them from each other's published ports.
			b.Port(l.HostLink, m.ready[l.NetworkID], link.PortMode{
				Isolated: !filtered && !option(records[i].NetworkSpec, OptICC, true), Hairpin: filtered && ports})
			bridgeAddresses(&b, records[i], m.ready[l.NetworkID])
		}
		m.mu.Unlock()
		err := s.Do(&b)
		if err == nil {
			ctx, cancel := context.WithTimeout(ctx, carrierWait)
			defer cancel()
			if err := errors.Join(m.watch.Wait(ctx, outer), inside.Wait(ctx, inner)); err != nil {
				m.o.Logf("links %s carry no packets yet: %v", strings.Join(outer, ", "), err)
			}
			return nil
		}
		if try > 0 || !errors.Is(err, unix.ENODEV) && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.EOPNOTSUPP) {
			return err
		}
		// Somebody removed a bridge since this process made sure of it.
		for _, r := range records {
			if _, err := m.Ensure(ctx, r.Name); err != nil {
				return err
			}
		}
	}
}

// Detach takes an endpoint away: ports, links, pin. What is not there is not an
// error, and a failing step does not keep the others from being done.
func (m *Manager) Detach(ctx context.Context, e *Endpoint) error {
	return m.DetachAll(ctx, []*Endpoint{e})
}
