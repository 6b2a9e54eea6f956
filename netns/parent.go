package netns

import (
	"cmp"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/stack-run/stack/netns/link"
	"golang.org/x/sys/unix"
)

// Networks on a parent: each container gets a link of its own with an address of
// its own on the network behind a link of the host: with an Ethernet address of its own
// (macvlan), or with that of the parent (ipvlan), where only one is let through. The host
// forwards and translates nothing, and by the drivers' nature does not reach them itself.

// parentOf is the name of the link that containers of a network share, "" for a
// bridge. An internal network without one has a dummy of ours.
func parentOf(n Network) string {
	if !n.OnParent() {
		return ""
	}
	return cmp.Or(n.DriverOpts[OptParent], n.Bridge)
}

// ensureParent finds the parent, or makes the dummy.
func (m *Manager) ensureParent(s *link.Socket, r record) error {
	name := parentOf(r.Network)
	info, err := s.Find(name)
	switch {
	case errors.Is(err, unix.ENODEV) && r.Bridge == name:
		var b link.Batch
		b.AddDummy(name)
		b.SetAlias(name, aliasPrefix+r.ID)
		b.Up(name)
		if err = s.Do(&b); errors.Is(err, unix.EOPNOTSUPP) {
			return fmt.Errorf("the kernel has no dummy links, which an internal network without a parent needs; name one with the driver option %s", OptParent)
		}
		if err == nil {
			info, err = s.Find(name)
		}
	case errors.Is(err, unix.ENODEV):
		info, err = m.makeVLAN(s, name)
	}
	if err != nil {
		return err
	}
	m.mu.Lock()
	m.ready[r.ID] = info.Index
	m.mu.Unlock()
	return nil
}

// vlanOf takes apart the name of a VLAN's link, such as eth0.50: the link that it is on
// and its number.
func vlanOf(name string) (on string, id uint16, ok bool) {
	i := strings.LastIndexByte(name, '.')
	if i <= 0 {
		return "", 0, false
	}
	n, err := strconv.ParseUint(name[i+1:], 10, 16)
	return name[:i], uint16(n), err == nil && n >= 1 && n <= 4094
}

// vlanAlias marks the VLANs that this instance made, which go with the last network
// on them.
func (m *Manager) vlanAlias() string { return aliasPrefix + "VLAN " + m.o.Instance }

// makeVLAN makes a parent that is a VLAN on another link, as Docker does.
func (m *Manager) makeVLAN(s *link.Socket, name string) (link.Info, error) {
	missing := func(why string) (link.Info, error) {
		return link.Info{}, fmt.Errorf("the host has no link %s%s; make it, or choose another with the driver option %s", name, why, OptParent)
	}
	on, id, ok := vlanOf(name)
	if !ok {
		return missing("")
	}
	under, err := s.Find(on)
	if errors.Is(err, unix.ENODEV) {
		return missing(fmt.Sprintf(", and none named %s to make it on", on))
	}
	if err != nil {
		return under, err
	}
	var b link.Batch
	b.AddVLAN(name, id, under.Index)
	b.SetAlias(name, m.vlanAlias())
	if err := s.Do(&b); errors.Is(err, unix.EOPNOTSUPP) {
		return missing(", and the kernel cannot make VLANs (its module 8021q is missing)")
	} else if err != nil {
		return link.Info{}, fmt.Errorf("cannot make VLAN %d on link %s: %w", id, on, err)
	}
	b.Up(name)
	if err := s.Do(&b); err != nil {
		if errors.Is(err, unix.ENETDOWN) {
			err = fmt.Errorf("link %s is down; set it up: %w", on, err)
		}
		b.DeleteLink(name)
		return link.Info{}, errors.Join(err, s.Do(&b))
	}
	return s.Find(name)
}

// idleVLANs are the VLANs of ours on which no network is once some are gone. It is
// called under the lock.
func (m *Manager) idleVLANs(s *link.Socket, gone []record) ([]string, error) {
	going := func(id string) bool { return slices.ContainsFunc(gone, func(r record) bool { return r.ID == id }) }
	all, broken, err := m.scan()
	if err != nil || slices.ContainsFunc(broken, func(b *Broken) bool { return !going(b.ID) }) {
		return nil, err // one that cannot be read may be on any
	}
	links, err := net.Interfaces()
	if err != nil {
		return nil, fmt.Errorf("cannot list links: %w", err)
	}
	var idle []string
	for _, l := range links {
		_, _, ok := vlanOf(l.Name)
		if !ok || slices.ContainsFunc(all, func(r record) bool { return !going(r.ID) && parentOf(r.Network) == l.Name }) {
			continue
		}
		if info, err := s.Find(l.Name); err == nil && info.Alias == m.vlanAlias() {
			idle = append(idle, l.Name)
		}
	}
	return idle, nil
}

// addChild makes a link of an endpoint on its parent, and returns its index. It runs
// on a thread inside; outer is a socket of the host's namespace, where the request
// must be made and where the name that it will have may be taken.
func (m *Manager) addChild(outer, inner *link.Socket, e *Endpoint, l Link, r record) (int, error) {
	here, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		return 0, fmt.Errorf("cannot open own network namespace: %w", err)
	}
	defer here.Close()
	mac, _ := net.ParseMAC(l.MAC)
	m.mu.Lock()
	parent := m.ready[r.ID]
	m.mu.Unlock()
	first := m.hostLink(e.Spec.ID, r.ID)
	var b link.Batch
	if r.SharesMAC() {
		b.AddIPvlan(link.IPvlan{Name: first, MTU: mtuOf(r.NetworkSpec), Mode: r.DriverOpts[OptIPvlanMode], Flag: r.DriverOpts[OptIPvlanFlag]}, parent, int(here.Fd()))
	} else {
		b.AddMacvlan(link.Macvlan{Name: first, MAC: mac, MTU: mtuOf(r.NetworkSpec), Mode: r.DriverOpts[OptMacvlanMode]}, parent, int(here.Fd()))
	}
	if err := outer.Do(&b); err != nil {
		switch {
		case errors.Is(err, unix.EBUSY):
			return 0, fmt.Errorf("link %s cannot be shared as %s: %w; it is under a bridge, has links of another kind, or another has its MAC address", l.Parent, r.Driver, err)
		case errors.Is(err, unix.EOPNOTSUPP):
			return 0, fmt.Errorf("the kernel has no %s links: %w", r.Driver, err)
		}
		return 0, fmt.Errorf("cannot share link %s: %w", l.Parent, err)
	}
	info, err := inner.Find(first)
	if err != nil {
		return 0, err
	}
	b.Rename(info.Index, l.Name)
	return info.Index, inner.Do(&b)
}

// dropChildren removes links with a parent. They would go with their namespace, but
// later, and keep their MAC addresses from a successor.
func (m *Manager) dropChildren(e *Endpoint, links []Link) error {
	var b link.Batch
	for _, l := range links {
		if l.Parent != "" {
			b.DeleteLink(l.Name)
			b.DeleteLink(m.hostLink(e.Spec.ID, l.NetworkID)) // of one who was killed before it had its name
		}
	}
	pin := m.pin(e.Spec.ID)
	if b.Len() == 0 || !link.Pinned(pin) {
		return nil
	}
	return link.Enter(pin, func(int) error {
		s, err := link.Open()
		if err != nil {
			return err
		}
		return errors.Join(s.Do(&b), s.Close())
	})
}
