package netns

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/stack-run/stack/netns/link"
	"golang.org/x/sys/unix"
)

// Connect attaches an endpoint that exists to one more network and returns the new
// link, which is also in e.Links. When the way out changes, so do the targets of
// published ports. After a failure the endpoint is as before.
func (m *Manager) Connect(ctx context.Context, e *Endpoint, a Attachment) (Link, error) {
	l, err := m.connect(ctx, e, a)
	if err != nil {
		return l, fmt.Errorf("cannot connect %s to network %s: %w", e.Spec.Subject(), a.Network, err)
	}
	return l, nil
}

func (m *Manager) connect(ctx context.Context, e *Endpoint, a Attachment) (l Link, err error) {
	if e.NetNS == "" || e.Shared || e.Spec.Mode != "" {
		return l, fmt.Errorf("its network mode is %q, which takes no networks", e.Spec.Mode)
	}
	changed := *e
	m.freed(&changed)
	changed.Spec.Networks = append(slices.Clone(e.Spec.Networks), a)
	changed.Links = slices.Clone(e.Links)
	if err := checkEndpoint(changed.Spec); err != nil {
		return l, err
	}
	was := m.published(e.Spec.ID)
	var r record
	err = m.locked(ctx, func() error {
		if r, err = m.find(a.Network); err != nil {
			return err
		}
		if !r.Attaches() {
			return fmt.Errorf("its driver is %q, which takes no attachments", r.Driver)
		}
		if l, err = m.lend(e, r, a); err != nil {
			return err
		}
		changed.Links = append(changed.Links, l)
		return m.saveEndpoint(&changed, was)
	})
	if err != nil {
		return l, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, m.unplug(e, l), m.reroute(e), m.saveEndpoint(e, was))
		}
	}()
	if err := m.bridge(ctx, r); err != nil {
		return l, err
	}
	outer, err := link.Open()
	if err != nil {
		return l, err
	}
	defer outer.Close()
	inside := &link.Watch{}
	err = link.Enter(e.NetNS, func(hostNS int) (err error) {
		if err := inside.Begin(); err != nil {
			return err
		}
		defer func() {
			if err != nil {
				inside.End()
			}
		}()
		if hostHasIPv6() && l.IPv6.IsValid() {
			for _, key := range []string{"lo/disable_ipv6", "default/disable_ipv6"} {
				if err := link.EnsureSysctl("net/ipv6/conf/"+key, "0"); err != nil {
					return err
				}
			}
		}
		s, err := link.Open()
		if err != nil {
			return err
		}
		defer s.Close()
		index := firstIndex
		for ; ; index++ { // the first that is free
			if _, err := s.FindIndex(index); errors.Is(err, unix.ENODEV) {
				break
			} else if err != nil {
				return err
			}
		}
		if l.Parent != "" {
			if index, err = m.addChild(outer, s, &changed, l, r); err != nil {
				return err
			}
		}
		var b link.Batch
		addLink(&b, &changed, l, index, mtuOf(r.NetworkSpec), hostNS)
		if err := s.Do(&b); err != nil {
			return err
		}
		return linkSysctls(&changed, l, true)
	})
	if err != nil {
		return l, err
	}
	defer inside.End()
	if err = m.guard(guards(&changed, []Link{l}), func() error { _, err := m.Ensure(ctx, r.Name); return err }); err != nil {
		return l, err
	}
	if err = m.plug(ctx, []Link{l}, []record{r}, inside, len(e.Spec.Ports) > 0); err != nil {
		return l, err
	}
	if err = m.reroute(&changed); err != nil {
		return l, err
	}
	if err = m.retarget(e, &changed, was); err != nil {
		return l, err
	}
	*e = changed
	return l, nil
}

func (m *Manager) published(id string) bool {
	r, err := m.loadEndpoint(id)
	return err == nil && r.Published
}

// Disconnect takes one network away from an endpoint; one that it does not have
// is not an error.
func (m *Manager) Disconnect(ctx context.Context, e *Endpoint, network string) error {
	i := slices.IndexFunc(e.Links, func(l Link) bool { return l.Network == network || l.NetworkID == network })
	if i < 0 {
		return nil
	}
	l := e.Links[i]
	was := m.published(e.Spec.ID)
	changed := *e
	m.freed(&changed)
	changed.Links = slices.Delete(slices.Clone(e.Links), i, i+1)
	changed.Spec.Networks = slices.DeleteFunc(slices.Clone(e.Spec.Networks), func(a Attachment) bool { return a.Network == l.Network })
	if err := errors.Join(m.retarget(e, &changed, was), m.unplug(e, l), m.reroute(&changed)); err != nil {
		return fmt.Errorf("cannot disconnect %s from network %s: %w", e.Spec.Subject(), network, err)
	}
	*e = changed
	return nil
}

func (m *Manager) unplug(e *Endpoint, l Link) error {
	if l.Parent != "" {
		return m.dropChildren(e, []Link{l})
	}
	s, err := link.Open()
	if err != nil {
		return err
	}
	defer s.Close()
	var b link.Batch
	b.DeleteLink(l.HostLink)
	return errors.Join(s.Do(&b), m.table.Forget(guards(e, []Link{l})))
}

// reroute makes the default routes inside those of the endpoint's links.
func (m *Manager) reroute(e *Endpoint) error {
	return link.Enter(e.NetNS, func(int) error {
		s, err := link.Open()
		if err != nil {
			return err
		}
		defer s.Close()
		var b link.Batch
		var missing error
		defaultRoutes(&b, e, func(name string) int {
			info, err := s.Find(name)
			missing = errors.Join(missing, err)
			return info.Index
		}, true)
		return errors.Join(missing, s.Do(&b))
	})
}

// retarget moves published ports from the old outlet to the new one.
func (m *Manager) retarget(before, after *Endpoint, published bool) error {
	if err := m.saveEndpoint(after, published); err != nil || !published {
		return err
	}
	m.sharing.Lock()
	defer m.sharing.Unlock()
	fellows := m.fellows(after)
	return errors.Join(m.swap(append(slices.Clone(fellows), before), append(fellows, after)), link.ForgetUDP(udpPorts(after.Ports)))
}
