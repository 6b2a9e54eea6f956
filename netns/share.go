package netns

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/stack-run/stack/netns/link"
	"github.com/stack-run/stack/netns/nft"
)

// Replicas of a service may publish the same port: connections go to each in turn,
// new ones only, so that one which leaves keeps those that it has. A replica that
// stands aside publishes nothing until it is let in.

// fellows are the endpoints of this process with which e shares its ports, in the
// order of their keys. They are published.
func (m *Manager) fellows(e *Endpoint, except ...string) []*Endpoint {
	m.mu.Lock()
	ids := slices.Clone(m.groups[e.Spec.Service()])
	m.mu.Unlock()
	var out []*Endpoint
	for _, id := range ids {
		if id == e.Spec.ID || slices.Contains(except, id) {
			continue
		}
		if r, err := m.loadEndpoint(id); err == nil && r.Published {
			out = append(out, &r.Endpoint)
		}
	}
	return out
}

// joins has others find an endpoint that is published.
func (m *Manager) joins(e *Endpoint) {
	service := e.Spec.Service()
	if service == "" {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if !slices.Contains(m.groups[service], e.Spec.ID) {
		m.groups[service] = append(m.groups[service], e.Spec.ID)
	}
}

func (m *Manager) leaves(e *Endpoint) {
	m.mu.Lock()
	defer m.mu.Unlock()
	service := e.Spec.Service()
	m.groups[service] = slices.DeleteFunc(m.groups[service], func(id string) bool { return id == e.Spec.ID })
	if len(m.groups[service]) == 0 {
		delete(m.groups, service)
	}
}

func ids(endpoints []*Endpoint) []string {
	var out []string
	for _, e := range endpoints {
		out = append(out, e.Spec.ID)
	}
	return out
}

// together are the elements of endpoints that may share ports.
func together(endpoints ...*Endpoint) []nft.Element {
	// The order must not depend on who asks: old and new of one replica have one key.
	endpoints = slices.SortedFunc(slices.Values(endpoints), func(a, b *Endpoint) int {
		return cmp.Or(compareKeys(a.Spec.Key, b.Spec.Key), strings.Compare(a.Spec.ID, b.Spec.ID))
	})
	type place struct {
		host  netip.Addr
		port  uint16
		proto string
	}
	var out []nft.Element
	var places []place
	targets := map[place][]netip.AddrPort{}
	for _, e := range endpoints {
		out = append(out, allElements(e)...)
		if len(endpoints) == 1 {
			return out
		}
		for _, p := range e.Ports {
			for _, host := range p.Bindings() {
				outlet, addr := served(e, host)
				if outlet == nil || outlet.Routed(host.Is6()) {
					continue
				}
				at := place{host, p.HostPort, p.Transport()}
				if targets[at] == nil {
					places = append(places, at)
				}
				targets[at] = append(targets[at], netip.AddrPortFrom(addr, p.ContainerPort))
			}
		}
	}
	// Of those that want the same place the first has it; it gets all connections
	// where they cannot be shared.
	out = distinct(out)
	for _, at := range places {
		if len(targets[at]) > 1 {
			out = append(out, nft.Share(at.host, at.port, nft.Protocol(at.proto), targets[at])...)
		}
	}
	return out
}

// joinUnknown shares the ports of an endpoint with those of its service that this
// process has not taken over yet. Ports that are another's are an error.
func (m *Manager) joinUnknown(e *Endpoint) error {
	all, err := m.endpoints()
	if err != nil {
		return err
	}
	var fellows []*Endpoint
	for i := range all {
		if o := &all[i]; o.Published && o.Spec.ID != e.Spec.ID && o.Spec.Service() == e.Spec.Service() {
			fellows = append(fellows, &o.Endpoint)
		}
	}
	foreign := slices.ContainsFunc(e.Ports, func(p Port) bool {
		_, yes := holderOf(p, all, append(ids(fellows), e.Spec.ID))
		return yes
	})
	if foreign || e.Spec.Service() == "" || len(fellows) == 0 {
		return m.takenBy(e)
	}
	return errors.Join(m.swap(fellows, append(slices.Clone(fellows), e)), m.table.Add(m.anywhere(e.Ports)))
}

// swap brings the firewall from the elements of some endpoints to those of others.
func (m *Manager) swap(before, after []*Endpoint) error {
	from, to := together(before...), together(after...)
	if nft.Balances(to) {
		if err := m.table.Balance(); err != nil {
			m.o.Logf("the kernel cannot share a published port between containers, the first gets all connections: %v", err)
			from, to = nft.Unshared(from), nft.Unshared(to)
		}
	}
	return m.table.Replace(from, to)
}

// Drained returns when nobody outside the endpoint has a TCP connection to a port on
// which it listens.
func Drained(ctx context.Context, e *Endpoint) error { return link.Drained(ctx, e.NetNS) }

// HandOver lets an endpoint in that stood aside, and has another one, if it is not
// nil, step aside in the same moment. Connections that are there stay with who has
// them.
func (m *Manager) HandOver(ctx context.Context, to, from *Endpoint) error {
	m.sharing.Lock()
	defer m.sharing.Unlock()
	to.Spec.Aside = false
	var leaving []*Endpoint
	if from != nil {
		from.Spec.Aside = true
		if r, err := m.loadEndpoint(from.Spec.ID); err == nil && r.Published {
			leaving = append(leaving, &r.Endpoint)
		}
	}
	if to.NetNS == "" || to.Shared {
		return nil // there is no record of it, and nothing in it is its own
	}
	if len(to.Spec.Ports) == 0 || to.Publisher(false) == nil && to.Publisher(true) == nil {
		return m.saveEndpoint(to, false)
	}
	staying := m.fellows(to, ids(leaving)...)
	before := slices.Concat(staying, leaving)
	var had []Port
	stored, err := m.loadEndpoint(to.Spec.ID)
	published := err == nil && stored.Published
	if published { // one that never left keeps the ports that were chosen for it
		had = stored.Ports
		before = append(before, &stored.Endpoint)
	}
	to.Ports = nil
	err = m.reserveAll(ctx, to, had, ids(before))
	if err == nil {
		err = m.saveEndpoint(to, true)
	}
	if err == nil {
		err = m.swap(before, append(slices.Clone(staying), to))
	}
	if err != nil && !published {
		err = errors.Join(err, m.withdraw([]*Endpoint{to}))
	}
	if err != nil {
		return fmt.Errorf("cannot publish ports of %s: %w", to.Spec.Subject(), err)
	}
	m.joins(to)
	errs := []error{link.ForgetUDP(udpPorts(to.Ports))}
	for _, e := range leaving {
		m.release(e.Spec.ID)
		m.leaves(e)
		e.Spec.Aside = true
		errs = append(errs, m.saveEndpoint(e, false))
	}
	return errors.Join(errs...)
}
