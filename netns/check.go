package netns

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// Check tells, before anything is started, why endpoints could not be attached:
// missing networks, static addresses that cannot be had, host ports that are
// asked for twice or that somebody else has. own are endpoints that will be gone by
// then. Addresses are set aside for the keys: the static ones that are free, so that no
// other endpoint gets them by chance, and those of services that asked for none.
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
	wanted := map[string][]wish{} // by network ID
	for _, s := range specs {
		for _, a := range s.Networks {
			i := slices.IndexFunc(records, func(r record) bool { return r.Name == a.Network || r.ID == a.Network })
			if i < 0 {
				c.fail(s, fmt.Errorf("network %s does not exist; create it with \"stack network create %s\"", a.Network, a.Network))
				continue
			}
			if w := (wish{s, a}); w.fixed() || w.lasting() {
				wanted[records[i].ID] = append(wanted[records[i].ID], w)
			}
		}
	}
	if len(wanted) == 0 {
		return
	}
	err = c.m.locked(c.ctx, func() error {
		for _, r := range records {
			if len(wanted[r.ID]) == 0 || !r.Attaches() {
				continue
			}
			leases, err := c.m.loadLeases(r.ID)
			if err != nil {
				return err
			}
			c.setAside(r.Network, leases, wanted[r.ID])
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

// wish is one network that an endpoint is to be on.
type wish struct {
	spec EndpointSpec
	a    Attachment
}

func (w wish) fixed() bool { return w.a.IPv4.IsValid() || w.a.IPv6.IsValid() }

// lasting wishes are those of services, which keep their addresses.
func (w wish) lasting() bool { return ofService(w.spec.Key) }

// setAside gives addresses before anything starts: first those that are fixed, then
// the others in the order of their keys, so that who gets which does not depend on
// who starts first.
func (c *checker) setAside(n Network, leases *leaseFile, wishes []wish) {
	slices.SortStableFunc(wishes, func(a, b wish) int {
		if a.fixed() != b.fixed() {
			return strings.Compare(fmt.Sprint(b.fixed()), fmt.Sprint(a.fixed()))
		}
		return compareKeys(a.spec.Key, b.spec.Key)
	})
	seen := map[netip.Addr]EndpointSpec{}
	for _, w := range wishes {
		ok := true
		for _, a := range []netip.Addr{w.a.IPv4, w.a.IPv6} {
			if !a.IsValid() {
				continue
			}
			err := leases.askable(n, a, w.spec.Key, func(id string) bool { return c.m.live(id) && !c.replaced(id) })
			if o, twice := seen[a]; twice {
				err = fmt.Errorf("address %s of network %s is also asked for by %s", a, n.Name, o.Subject())
			}
			if err != nil {
				c.fail(w.spec, c.m.explain(err))
				ok = false
			}
			seen[a] = w.spec
		}
		if ok && w.spec.Key != "" {
			leases.setAside(n, w, c.m.society())
		}
	}
}

// compareKeys orders shop/web/2 before shop/web/10.
func compareKeys(a, b string) int {
	i, j := strings.LastIndexByte(a, '/'), strings.LastIndexByte(b, '/')
	if i >= 0 && i == j && a[:i] == b[:j] {
		return cmp.Or(len(a)-len(b), strings.Compare(a, b))
	}
	return strings.Compare(a, b)
}

// setAside remembers addresses for a key that has no endpoint yet. A network
// that is full is told of when the endpoint is made.
func (f *leaseFile) setAside(n Network, w wish, s society) {
	if slices.ContainsFunc(f.leases, func(l lease) bool { return l.Key == w.spec.Key && s.live(l.Endpoint) }) {
		return
	}
	endpoint := "" // none yet, or the one that will come back
	if i := slices.IndexFunc(f.leases, func(l lease) bool { return l.Key == w.spec.Key }); i >= 0 && s.kept(f.leases[i].Endpoint) {
		endpoint = f.leases[i].Endpoint
	}
	_, _ = f.lend(n, applicant{w.spec.Key, endpoint, w.a, w.spec.Reserved[n.Name]}, s)
}

func (c *checker) checkPorts(specs []EndpointSpec) {
	type portWish struct {
		spec EndpointSpec
		port Port
	}
	var wishes []portWish
	wished, leaving := portIndex{}, portIndex{}
	for _, s := range specs {
		if s.Mode != "" {
			continue
		}
		for _, p := range s.Ports {
			if checkPort(p) != nil || p.HostPort == 0 {
				continue
			}
			if by, clash := wished.clashing(p); clash && !mayShare(p, s, by) {
				c.fail(s, fmt.Errorf("port %s/%s is also published by %s; choose another host port", p.Host(), p.Transport(), by.Subject()))
				continue
			}
			wished.add(p, s)
			wishes = append(wishes, portWish{s, p})
		}
	}
	except := make([]string, len(c.own))
	for i, e := range c.own {
		except[i] = e.Spec.ID
		for _, p := range e.Ports {
			leaving.add(p, e.Spec)
		}
	}
	all, err := c.m.endpoints()
	if err != nil {
		c.errs = append(c.errs, err)
	}
	published := publishedPorts(all, except)
	var free freePorts
	for _, w := range wishes {
		var err error
		for port := int(w.port.HostPort); port <= int(w.port.Last()); port++ {
			one := w.port
			one.HostPort, one.HostPortEnd = uint16(port), 0
			if _, free := leaving.clashing(one); free {
				err = nil
				break
			}
			if by, taken := published.clashing(one); taken && mayShare(w.port, w.spec, by) {
				err = nil
				break
			} else if taken {
				err = fmt.Errorf("port %s/%s is used by %s", one.Host(), one.Transport(), by.OwnerInFull())
				continue
			}
			if err = c.m.probe(c.ctx, one, &free); err == nil {
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

// mayShare reports whether two may publish the same port: replicas of one service, of
// which each takes a free one of a range.
func mayShare(p Port, a, b EndpointSpec) bool {
	return p.Last() == p.HostPort && a.ID != b.ID && a.Service() != "" && a.Service() == b.Service()
}

// probe tries whether a port could be had now.
func (m *Manager) probe(ctx context.Context, p Port, free *freePorts) error {
	err := free.check(ctx, p)
	switch {
	case err == nil:
		return nil
	case errors.Is(err, unix.EADDRINUSE):
		return fmt.Errorf("port %s/%s is used by %s; stop that, or choose another host port", p.Host(), p.Transport(), m.portOwner(p, nil))
	}
	return fmt.Errorf("port %w", m.explainPort(p, err))
}
