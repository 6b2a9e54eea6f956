package netns

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"

	"github.com/stack-run/stack/netns/link"
	"github.com/stack-run/stack/netns/nft"
	"golang.org/x/sys/unix"
)

// Publish makes the endpoint's ports reachable and sets e.Ports: host ports left
// open are chosen, a port that was chosen before is kept if it is free. Sockets
// that reserve them stay open in this process, see [Manager.Hold]. Publishing what
// is published changes nothing.
func (m *Manager) Publish(ctx context.Context, e *Endpoint) error {
	if e.NetNS == "" || e.Shared || len(e.Spec.Ports) == 0 {
		return nil
	}
	if e.Publisher(false) == nil && e.Publisher(true) == nil {
		e.Ports = nil
		if e.Outlet(false) != nil || e.Outlet(true) != nil {
			e.Warn("published ports are ignored: the container's way out is not the host, and its ports are open at its own address")
		} else {
			e.Warn("published ports are ignored: the container has no network with a way out")
		}
		return nil
	}
	if e.Spec.Aside {
		e.Ports = nil
		return m.saveEndpoint(e, false)
	}
	if err := m.publish(ctx, e); err != nil {
		return err
	}
	m.hintFirewall(e)
	return nil
}

func (m *Manager) publish(ctx context.Context, e *Endpoint) error {
	m.sharing.Lock()
	defer m.sharing.Unlock()
	fellows := m.fellows(e)
	stored, err := m.loadEndpoint(e.Spec.ID)
	if err == nil && stored.Published && len(e.Ports) > 0 {
		// The firewall may have been flushed by somebody else: add again.
		m.joins(e)
		err := m.table.Add(append(together(append(fellows, e)...), m.anywhere(e.Ports)...))
		if errors.Is(err, nft.ErrTaken) {
			err = m.joinUnknown(e)
		}
		return err
	}
	if err == nil {
		e.Spec.OwnAddresses = e.Spec.OwnAddresses && stored.Spec.OwnAddresses
	}
	before := e.Ports
	e.Ports = nil
	// Our copy says what may be in the maps before it is.
	err = m.reserveAll(ctx, e, before, ids(fellows))
	if err == nil {
		err = m.saveEndpoint(e, true)
	}
	if err == nil {
		if len(fellows) > 0 {
			err = m.swap(fellows, append(slices.Clone(fellows), e))
		} else {
			err = m.table.Add(append(allElements(e), m.anywhere(e.Ports)...))
		}
		if errors.Is(err, nft.ErrTaken) {
			err = m.joinUnknown(e)
		}
		if err == nil {
			err = link.ForgetUDP(udpPorts(e.Ports))
		}
		if err != nil {
			err = errors.Join(err, m.withdraw([]*Endpoint{e}))
		}
	}
	if err != nil {
		m.release(e.Spec.ID)
		return fmt.Errorf("cannot publish ports of %s: %w", e.Spec.Subject(), err)
	}
	m.joins(e)
	return nil
}

// anywhere are the elements for host addresses of ports that clients reach over
// any link. They are facts about the host and not of an endpoint, and go with the
// table.
func (m *Manager) anywhere(ports []Port) []nft.Element {
	var out []nft.Element
	seen := map[netip.Addr]bool{}
	for _, p := range ports {
		a := p.HostIP.Unmap()
		if !a.IsValid() || a.IsUnspecified() || a.IsLoopback() || seen[a] {
			continue
		}
		seen[a] = true
		arrives, err := link.Arrives(a)
		if err != nil {
			m.o.Logf("port %s: %v", p, err)
		} else if !arrives {
			out = append(out, nft.Anywhere(a))
		}
	}
	return out
}

func udpPorts(ports []Port) []uint16 {
	var out []uint16
	for _, p := range ports {
		if p.Transport() == "udp" {
			out = append(out, p.HostPort)
		}
	}
	return out
}

// Unpublish frees the endpoint's ports; its namespace and links stay. e.Ports
// keeps what was chosen, for the next [Manager.Publish]. What is not published is
// not an error. Another process that keeps duplicates of the sockets has to close
// them, too.
func (m *Manager) Unpublish(_ context.Context, e *Endpoint) error {
	if err := m.unpublish([]*Endpoint{e}); err != nil {
		return fmt.Errorf("cannot free ports of %s: %w", e.Spec.Subject(), err)
	}
	return nil
}

func (m *Manager) unpublish(endpoints []*Endpoint) error {
	m.sharing.Lock()
	defer m.sharing.Unlock()
	return m.withdraw(endpoints)
}

// withdraw is unpublish for whoever holds m.sharing.
func (m *Manager) withdraw(endpoints []*Endpoint) error {
	var elements []nft.Element
	var udp []uint16
	var published []*Endpoint
	leaving := map[string][]*Endpoint{} // of those who have fellows, by service
	for _, e := range endpoints {
		m.release(e.Spec.ID)
		// Our copy knows what was published, also when e is only half filled in.
		if r, err := m.loadEndpoint(e.Spec.ID); err == nil && r.Published {
			udp = append(udp, udpPorts(r.Ports)...)
			published = append(published, &r.Endpoint)
			if len(m.fellows(&r.Endpoint)) > 0 {
				leaving[r.Spec.Service()] = append(leaving[r.Spec.Service()], &r.Endpoint)
			} else {
				elements = append(elements, everyElement(&r.Endpoint)...)
			}
		}
	}
	if len(published) == 0 {
		return nil
	}
	for _, some := range leaving {
		staying := m.fellows(some[0], ids(some)...)
		if err := m.swap(append(slices.Clone(staying), some...), staying); err != nil {
			return err
		}
	}
	if err := m.table.Delete(elements); err != nil {
		return err
	}
	errs := []error{link.ForgetUDP(udp)}
	for _, e := range published {
		m.leaves(e)
		errs = append(errs, m.saveEndpoint(e, false))
	}
	return errors.Join(errs...)
}

// reserveAll chooses and reserves host ports for all the endpoint's ports. fellows
// are the endpoints whose ports it may share.
func (m *Manager) reserveAll(ctx context.Context, e *Endpoint, before []Port, fellows []string) error {
	h := m.holder(e)
	unnamed := m.hostAddress(e)
	routed := e.RoutedOnly()
	loose := unheld(e.Spec.Ports)
	var others, own portIndex
	var free freePorts
	for i, p := range e.Spec.Ports {
		let := loose(p)
		if !p.HostIP.IsValid() {
			p.HostIP = unnamed
		}
		had := uint16(0)
		if i < len(before) && len(before) == len(e.Spec.Ports) {
			had = before[i].HostPort
		}
		if !let || routed {
			got, err := h.reserve(ctx, p, had, routed, fellows)
			if err != nil {
				return m.explainPort(p, err)
			}
			e.Ports = append(e.Ports, got)
			continue
		}
		if own == nil {
			all, err := m.endpoints()
			if err != nil {
				return err
			}
			own, others = portIndex{}, publishedPorts(all, append(fellows, e.Spec.ID))
		}
		got, err := choose(ctx, p, had, own, others, &free)
		if err != nil {
			return m.explainPort(p, err)
		}
		own.add(got, e.Spec)
		e.Ports = append(e.Ports, got)
	}
	if own != nil {
		e.Warn(fmt.Sprintf("%d of the published ports have no listener on the host, because they are so many: they do not answer on [::1], and other programs can listen on them", len(own)))
	}
	return nil
}

// hostAddress is the outlet's host address of ports that name none, not valid for
// all addresses.
func (m *Manager) hostAddress(e *Endpoint) netip.Addr {
	out := e.Publisher(false)
	if out == nil {
		return netip.Addr{}
	}
	r, err := m.record(out.NetworkID)
	if err != nil {
		return netip.Addr{}
	}
	a, _ := netip.ParseAddr(r.DriverOpts[OptHostBinding])
	return a
}

// explainPort names who has a port.
func (m *Manager) explainPort(p Port, err error) error {
	switch {
	case errors.Is(err, unix.EADDRINUSE):
		if p.Last() != p.HostPort {
			return fmt.Errorf("all ports of %s/%s are in use; choose another range", p.Host(), p.Transport())
		}
		return fmt.Errorf("%s/%s is used by %s", p.Host(), p.Transport(), m.portOwner(p, nil))
	case errors.Is(err, unix.EADDRNOTAVAIL):
		return fmt.Errorf("%s/%s: the host has no address %s; publish on one that it has, or on none in particular", p.Host(), p.Transport(), p.HostIP)
	}
	return fmt.Errorf("%s/%s: %w", p.Host(), p.Transport(), err)
}

// takenBy is the error for a map key that another endpoint has, though its
// socket was free: its supervisor and guardian are dead.
func (m *Manager) takenBy(e *Endpoint) error {
	for _, p := range e.Ports {
		if o, ok := m.portHolder(p, []string{e.Spec.ID}); ok {
			return fmt.Errorf("%s/%s is used by %s", p.Host(), p.Transport(), o.Spec.OwnerInFull())
		}
	}
	return nft.ErrTaken
}

// Hold reserves the endpoint's published ports with sockets: those given (kept by
// another process while the last holder was dead, by the keys this call
// returned then) and new ones for the rest. It returns duplicates of the new ones
// for the other process to keep; the caller closes them and those it gave.
//
// While a socket is held nobody else on the host can take the port, and what
// reaches it, which the kernel did not rewrite, is forwarded by this process.
func (m *Manager) Hold(e *Endpoint, sockets map[string]*os.File) (opened map[string]*os.File, err error) {
	if e.NetNS == "" || e.Shared || e.Spec.Aside {
		return nil, nil
	}
	m.sharing.Lock()
	defer m.sharing.Unlock()
	h := m.holder(e)
	m.joins(e)
	fellows := m.fellows(e)
	if len(fellows) > 0 && m.published(e.Spec.ID) {
		// They were published when this process knew nothing of e, or with others that a
		// killed one had.
		if err := m.swap(fellows, append(slices.Clone(fellows), e)); err != nil {
			return nil, err
		}
	}
	for key, f := range sockets {
		if err := h.adopt(key, f); err != nil {
			return nil, fmt.Errorf("cannot hold port %s of %s: %w", key, e.Spec.Subject(), err)
		}
	}
	// What was let go when it was chosen is let go here, too: the spec decides.
	loose := unheld(e.Spec.Ports)
	for i, p := range e.Ports {
		if e.RoutedOnly() {
			break
		}
		if i < len(e.Spec.Ports) && loose(e.Spec.Ports[i]) {
			continue
		}
		if err := h.open(context.Background(), p, ids(fellows)); err != nil {
			return nil, fmt.Errorf("cannot hold port of %s: %w", e.Spec.Subject(), m.explainPort(p, err))
		}
	}
	return h.files(sockets)
}
