package netns

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"

	"github.com/stack-run/stack/netns/link"
	"github.com/stack-run/stack/netns/nft"
	"golang.org/x/sys/unix"
)

// Ensure makes the network so in the kernel: bridge, addresses, sysctls and
// firewall. What is so already stays.
func (m *Manager) Ensure(ctx context.Context, name string) (Network, error) {
	r, err := m.find(name)
	if err != nil {
		return r.Network, err
	}
	if !r.Attaches() {
		return r.Network, nil
	}
	err = m.locked(ctx, func() error {
		now, err := m.record(r.ID)
		if err != nil {
			return err // removed meanwhile
		}
		return errors.Join(m.mend(now), m.ensure(r))
	})
	if err != nil {
		return r.Network, fmt.Errorf("cannot set up network %s: %w", r.Name, err)
	}
	return r.Network, nil
}

const aliasPrefix = "stack "

// ensure is Ensure under the lock.
func (m *Manager) ensure(r record) error {
	s, err := link.Open()
	if err != nil {
		return err
	}
	defer s.Close()
	if r.OnParent() {
		return m.ensureParent(s, r)
	}
	info, err := s.Find(r.Bridge)
	made := errors.Is(err, unix.ENODEV)
	if made {
		mac, _ := net.ParseMAC(r.MAC)
		var b link.Batch
		b.AddBridge(r.Bridge, mac, mtuOf(r.NetworkSpec))
		b.SetAlias(r.Bridge, aliasPrefix+r.ID)
		if err := s.Do(&b); err != nil {
			return err
		}
		m.keepCopy(r)
		info, err = s.Find(r.Bridge)
	} else if err == nil && info.Alias != aliasPrefix+r.ID {
		return fmt.Errorf("link %s exists and belongs to somebody else; remove it or choose another %s", r.Bridge, OptBridgeName)
	}
	if err != nil {
		return err
	}
	undo := func(err error) error {
		if made {
			var b link.Batch
			b.DeleteLink(r.Bridge)
			err = errors.Join(err, s.Do(&b))
		}
		return err
	}
	if err := m.bridgeSysctls(r); err != nil {
		return undo(err)
	}
	var b link.Batch
	bridgeAddresses(&b, r, info.Index)
	if err := s.Do(&b); err != nil {
		return undo(err)
	}
	if err := m.table.Ensure(firewallOf(r.Network).Elements()); err != nil {
		return undo(err)
	}
	if m.table.Portless() && !m.portless.Swap(true) {
		m.o.Logf("the kernel has no nftables for bridges (nf_tables_bridge): containers with CAP_NET_RAW can take each other's addresses; load the module, or drop the capability")
	}
	m.passFirewalls(r)
	if !r.Internal {
		if err := m.forwarding(r); err != nil {
			return undo(err)
		}
	}
	m.mu.Lock()
	m.ready[r.ID] = info.Index
	m.mu.Unlock()
	return nil
}

// bridgeAddresses queues that a bridge is up and has the host's addresses.
func bridgeAddresses(b *link.Batch, r record, index int) {
	b.Up(r.Bridge)
	if r.IPv4.IsValid() && !hostless(r.NetworkSpec, false) {
		b.AddAddress(index, netip.PrefixFrom(r.Gateway4, r.IPv4.Bits()))
	}
	if r.IPv6.IsValid() && !hostless(r.NetworkSpec, true) {
		b.AddAddress(index, netip.PrefixFrom(r.Gateway6, r.IPv6.Bits()))
	}
}

func (m *Manager) bridgeSysctls(r record) error {
	conf4, conf6 := "net/ipv4/conf/"+r.Bridge+"/", "net/ipv6/conf/"+r.Bridge+"/"
	var err error
	if !r.Internal {
		// For 127.0.0.1:PORT on the host; package nft guards what this opens.
		err = link.WriteSysctl(conf4+"route_localnet", "1")
	}
	if !hostHasIPv6() {
		return err
	}
	if !r.IPv6.IsValid() {
		return errors.Join(err, link.EnsureSysctl(conf6+"disable_ipv6", "1"))
	}
	return errors.Join(err,
		link.EnsureSysctl(conf6+"disable_ipv6", "0"), // a host may have it off by default
		link.WriteSysctl(conf6+"accept_dad", "0"),
		link.WriteSysctl(conf6+"accept_ra", "0"))
}

// forwarding lets the host route between the bridge and the world.
func (m *Manager) forwarding(r record) error {
	if r.IPv4.IsValid() {
		if err := m.switchOn("net.ipv4.ip_forward"); err != nil {
			return err
		}
	}
	if !r.IPv6.IsValid() {
		return nil
	}
	const all = "net.ipv6.conf.all.forwarding"
	if v, err := link.ReadSysctl(all); err != nil || v != "0" {
		return err
	}
	// A host that forwards takes no router advertisements, unless told so
	// (accept_ra=2, see ip-sysctl): keep the interfaces that live by them alive.
	links, _ := os.ReadDir("/proc/sys/net/ipv6/conf")
	for _, l := range links {
		key := "net/ipv6/conf/" + l.Name() + "/accept_ra"
		if v, _ := link.ReadSysctl(key); v == "1" {
			if err := link.WriteSysctl(key, "2"); err != nil {
				m.o.Logf("network %s: %v", r.Name, err)
			}
		}
	}
	return m.switchOn(all)
}

func (m *Manager) switchOn(key string) error {
	v, err := link.ReadSysctl(key)
	if err != nil || v != "0" {
		return err
	}
	if err := link.WriteSysctl(key, "1"); err != nil {
		return fmt.Errorf("%w; containers cannot reach other hosts without it", err)
	}
	m.o.Logf("sysctl %s is now 1, for containers to reach other hosts", key)
	return nil
}

// takeDown removes the kernel's part of networks, and the links of endpoints.
func (m *Manager) takeDown(records []record, endpoints []*Endpoint) error {
	s, err := link.Open()
	if err != nil {
		return err
	}
	defer s.Close()
	var elements []nft.Element
	d := departure{group: link.NewGroup()}
	for _, r := range records {
		if r.OnParent() && r.Bridge != "" {
			if info, err := s.Find(r.Bridge); err == nil && info.Alias == aliasPrefix+r.ID {
				d.add(r.Bridge)
			}
		}
		if !r.IsBridge() {
			continue
		}
		elements = append(elements, firewallOf(r.Network).Elements()...)
		if info, err := s.Find(r.Bridge); err == nil && info.Alias == aliasPrefix+r.ID {
			d.add(r.Bridge)
		}
		if own := m.acceptedLinks(r)[1:]; len(own) > 0 {
			m.leaveFirewalls(own)
		}
	}
	// A network whose record cannot be read may have had any driver.
	if slices.ContainsFunc(records, func(r record) bool { return r.OnParent() || r.Version == 0 }) {
		idle, err := m.idleVLANs(s, records)
		if err != nil {
			return err
		}
		for _, name := range idle {
			d.add(name)
		}
	}
	if err := d.do(m, endpoints); err != nil {
		return err
	}
	if len(elements) == 0 {
		return m.table.Forget(d.guards)
	}
	left, err := m.table.Bridges()
	if err != nil {
		return err
	}
	left = slices.DeleteFunc(left, func(bridge string) bool {
		return slices.ContainsFunc(records, func(r record) bool { return r.Bridge == bridge })
	})
	if len(left) > 0 {
		return errors.Join(m.table.Delete(elements), m.table.Forget(d.guards))
	}
	m.leaveFirewalls([]nft.LinkPattern{{Name: m.linkPrefix(), Prefix: true}})
	return m.table.Remove()
}
