package netns

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"
)

// Check tells, before anything is started, why endpoints could not be attached:
// missing networks, static addresses that cannot be had, host ports that are
// asked for twice or that somebody else has. own are endpoints that will be gone by
// then. Static addresses that are free are set aside for their keys, so that no
// other endpoint gets them by chance.
func (m *Manager) Check(ctx context.Context, specs []EndpointSpec, own []Endpoint) []error {
	c := checker{m: m, ctx: ctx, own: own}
	for _, s := range specs {
		if err := checkEndpoint(s); err != nil {
			c.fail(s, err)
		}
	}
	c.checkNetworks(specs)
	c.checkPorts(specs)
	return c.errs
}

type checker struct {
	m    *Manager
	ctx  context.Context //nolint:containedctx // lives for one call of Check
	own  []Endpoint
	errs []error
}

func (c *checker) fail(s EndpointSpec, err error) {
	c.errs = append(c.errs, fmt.Errorf("%s: %w", s.Subject(), err))
}

func (c *checker) replaced(id string) bool {
	return slices.ContainsFunc(c.own, func(e Endpoint) bool { return e.Spec.ID == id })
}

func (c *checker) checkNetworks(specs []EndpointSpec) {
	records, err := c.m.records()
	if err != nil {
		c.errs = append(c.errs, err)
		return
	}
	type static struct {
		spec EndpointSpec
		a    Attachment
	}
	wanted := map[string][]static{} // by network ID
	for _, s := range specs {
		for _, a := range s.Networks {
			i := slices.IndexFunc(records, func(r record) bool { return r.Name == a.Network || r.ID == a.Network })
			switch {
			case i < 0:
				c.fail(s, fmt.Errorf("network %s does not exist; create it with \"stack network create %s\"", a.Network, a.Network))
			case a.IPv4.IsValid() || a.IPv6.IsValid():
				wanted[records[i].ID] = append(wanted[records[i].ID], static{s, a})
			}
		}
	}
	if len(wanted) == 0 {
		return
	}
	err = c.m.locked(c.ctx, func() error {
		for _, r := range records {
			list := wanted[r.ID]
			if len(list) == 0 {
				continue
			}
			leases, err := c.m.loadLeases(r.ID)
			if err != nil {
				return err
			}
			seen := map[netip.Addr]EndpointSpec{}
			for _, w := range list {
				ok := true
				for _, a := range []netip.Addr{w.a.IPv4, w.a.IPv6} {
					if !a.IsValid() {
						continue
					}
					err := leases.askable(r.Network, a, w.spec.Key, func(id string) bool { return c.m.live(id) && !c.replaced(id) })
					if o, twice := seen[a]; twice {
						err = fmt.Errorf("address %s of network %s is also asked for by %s", a, r.Name, o.Subject())
					}
					if err != nil {
						c.fail(w.spec, c.m.explain(err))
						ok = false
					}
					seen[a] = w.spec
				}
				if ok {
					leases.setAside(w.spec.Key, w.a, c.m.live)
				}
			}
			if err := c.m.saveLeases(r.ID, leases); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		c.errs = append(c.errs, err)
	}
}

// setAside remembers a static address for a key that has no endpoint yet.
func (f *leaseFile) setAside(key string, a Attachment, live func(string) bool) {
	if slices.ContainsFunc(f.leases, func(l lease) bool { return l.Key == key && live(l.Endpoint) }) {
		return
	}
	f.leases = slices.DeleteFunc(f.leases, func(l lease) bool {
		return !live(l.Endpoint) && (l.Key == key || a.IPv4.IsValid() && l.IPv4 == a.IPv4 || a.IPv6.IsValid() && l.IPv6 == a.IPv6)
	})
	f.leases = append(f.leases, lease{Key: key, IPv4: a.IPv4, IPv6: a.IPv6})
}

func (c *checker) checkPorts(specs []EndpointSpec) {
	type wish struct {
		spec EndpointSpec
		port Port
	}
	var wishes []wish
	for _, s := range specs {
		if s.Mode != "" {
			continue
		}
		for _, p := range s.Ports {
			if checkPort(p) != nil || p.HostPort == 0 {
				continue
			}
			if i := slices.IndexFunc(wishes, func(w wish) bool { return w.port.Clashes(p) }); i >= 0 {
				c.fail(s, fmt.Errorf("port %s/%s is also published by %s; choose another host port", p.Host(), p.Transport(), wishes[i].spec.Subject()))
				continue
			}
			wishes = append(wishes, wish{s, p})
		}
	}
	except := make([]string, len(c.own))
	for i, e := range c.own {
		except[i] = e.Spec.ID
	}
	all, err := c.m.endpoints()
	if err != nil {
		c.errs = append(c.errs, err)
	}
	for _, w := range wishes {
		var err error
		for port := int(w.port.HostPort); port <= int(w.port.Last()); port++ {
			one := w.port
			one.HostPort, one.HostPortEnd = uint16(port), 0
			if slices.ContainsFunc(c.own, func(e Endpoint) bool { return slices.ContainsFunc(e.Ports, one.Clashes) }) {
				err = nil
				break
			}
			if e, ok := holderOf(one, all, except); ok {
				err = fmt.Errorf("port %s/%s is used by %s", one.Host(), one.Transport(), e.Spec.OwnerInFull())
				continue
			}
			if err = c.m.probe(c.ctx, one); err == nil {
				break
			}
		}
		if err != nil && w.port.Last() != w.port.HostPort {
			err = fmt.Errorf("all ports of %s/%s are in use; choose another range", w.port.Host(), w.port.Transport())
		}
		if err != nil {
			c.fail(w.spec, err)
		}
	}
}

// probe tries whether a port could be had now.
func (m *Manager) probe(ctx context.Context, p Port) error {
	var err error
	for _, a := range p.Bindings() {
		s, _, lerr := listen(ctx, p.Transport(), netip.AddrPortFrom(a, p.HostPort))
		if lerr == nil {
			defer s.close()
		} else if !optional(p, a, lerr) {
			err = lerr
		}
	}
	switch {
	case err == nil:
		return nil
	case errors.Is(err, unix.EADDRINUSE):
		return fmt.Errorf("port %s/%s is used by %s; stop that, or choose another host port", p.Host(), p.Transport(), m.portOwner(p, nil))
	}
	return fmt.Errorf("port %w", m.explainPort(p, err))
}
