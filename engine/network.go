package engine

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/stack-run/stack/internal/lock"
	"github.com/stack-run/stack/netns"
)

// endpointSpec is the network side of c, with what only the engine knows.
func (e *Engine) endpointSpec(c *Container) (netns.EndpointSpec, error) {
	s := c.Spec.Network
	s.ID = c.ID
	s.Key = fmt.Sprintf("%s/%s/%d", c.Project, c.Service, c.Index)
	if c.Service == "" || c.OneOff {
		s.Key = c.Spec.Name
	}
	if s.Owner == "" {
		s.Owner = "container " + c.Spec.Name
		if c.Service != "" {
			s.Owner = "service " + c.Service
		}
	}
	s.Hostname = e.hostname(c)
	s.OwnAddresses = !mayChangeNetwork(c.Spec.Isolation)
	s.Aside = c.State.Aside
	if isShared(s.Mode) {
		donor, err := e.peer(c, s.Mode)
		if err != nil {
			return s, fmt.Errorf("cannot share a network: %w", err)
		}
		s.Mode = "container:" + donor.ID
	}
	return s, nil
}

// mayChangeNetwork tells whether a container can give itself other addresses.
func mayChangeNetwork(iso Isolation) bool {
	caps, err := capabilities(iso.Privileged, iso.CapAdd, iso.CapDrop, func(string) bool { return true })
	return err == nil && slices.Contains(caps, "CAP_NET_ADMIN")
}

// attach makes the container's endpoint, or publishes the ports of one that was
// kept from the last run.
func (e *Engine) attach(ctx context.Context, c *Container, namespace *os.File, k FDs) (*netns.Endpoint, error) {
	nets, err := e.Networks()
	if err != nil {
		return nil, err
	}
	s, err := e.endpointSpec(c)
	if err != nil {
		return nil, err
	}
	ep := c.State.Endpoint
	if ep != nil && isShared(s.Mode) && ep.Spec.Mode != s.Mode {
		// It is of a container that is gone: another has its place now.
		if err := e.detachNet(ctx, c, ep, k); err != nil {
			return nil, err
		}
		ep = nil
	}
	if ep != nil {
		own := *ep // others read the one they have
		own.Warnings = slices.Clone(ep.Warnings)
		own.Spec.Aside = s.Aside
		ep = &own
		if err := nets.Publish(ctx, ep); err != nil {
			return nil, err
		}
	} else {
		if ep, err = nets.AttachTo(ctx, namespace, s); err != nil {
			return nil, err
		}
	}
	if owner, ok := strings.CutPrefix(s.Mode, "container:"); ok {
		if err := e.markSharer(owner, c, false); err != nil {
			return nil, err
		}
	}
	if err := e.holdPorts(c.ID, ep, k); err != nil {
		return nil, errors.Join(err, e.Detach(ctx, ep))
	}
	return ep, nil
}

// holdPorts opens the sockets that keep published ports ours, or adopts those
// that the guardian kept.
func (e *Engine) holdPorts(id string, ep *netns.Endpoint, k FDs) error {
	if k == nil || len(ep.Ports) == 0 {
		return nil
	}
	nets, err := e.Networks()
	if err != nil {
		return err
	}
	prefix := HeldName(id, "port/")
	have := map[string]*os.File{}
	for _, name := range k.Names(prefix) {
		have[name[len(prefix):]] = k.Get(name)
	}
	opened, err := nets.Hold(ep, have)
	if err != nil {
		return err
	}
	for key, f := range opened {
		if err := errors.Join(k.Hold(prefix+key, f), f.Close()); err != nil {
			return err
		}
	}
	return nil
}

// HandOver gives a container that stood aside its published ports, and takes them from
// another one, of whose endpoint from is a copy, if it is not nil. The container's state
// says so then; the caller stores it.
func (e *Engine) HandOver(ctx context.Context, c *Container, from *netns.Endpoint, k FDs) error {
	c.State.Aside = false
	if c.State.Endpoint == nil {
		return nil
	}
	nets, err := e.Networks()
	if err != nil {
		return err
	}
	ep := *c.State.Endpoint
	if err := nets.HandOver(ctx, &ep, from); err != nil {
		return err
	}
	c.State.Endpoint = &ep
	return e.holdPorts(c.ID, &ep, k)
}

// StepAside notes that another container has the place of this one.
func (e *Engine) StepAside(c *Container, k FDs) {
	c.State.Aside = true
	if c.State.Endpoint == nil {
		return
	}
	ep := *c.State.Endpoint
	ep.Spec.Aside, ep.Ports = true, nil
	c.State.Endpoint = &ep
	dropHeld(c.ID, k, "port/")
}

// Drained returns when nobody has a connection any more to a port on which the
// container listens.
func (e *Engine) Drained(ctx context.Context, c *Container) error {
	ep := c.State.Endpoint
	if ep == nil || ep.Shared || ep.NetNS == "" {
		return nil
	}
	return netns.Drained(ctx, ep)
}

// detachNet takes the endpoint away.
func (e *Engine) detachNet(ctx context.Context, c *Container, ep *netns.Endpoint, k FDs) error {
	c.State.Endpoint = nil
	e.dropNames(c.ID, k)
	if owner, ok := strings.CutPrefix(ep.Spec.Mode, "container:"); ok {
		if err := e.markSharer(owner, c, true); err != nil {
			return err
		}
	}
	return e.Detach(ctx, ep)
}

// Endpoint returns what there is of a container in the networks, nil for nothing. A
// supervisor that was killed while it started a container may not have noted it.
func (e *Engine) Endpoint(id string) (*netns.Endpoint, error) {
	nets, err := e.Networks()
	if err != nil {
		return nil, err
	}
	ep, err := nets.Endpoint(id)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return ep, err
}

// Detach takes endpoints away that no container has any more.
func (e *Engine) Detach(ctx context.Context, endpoints ...*netns.Endpoint) error {
	if len(endpoints) == 0 {
		return nil
	}
	return e.detaching.add(ctx, endpoints)
}

// RemoveNetwork removes a network that nobody uses, and takes endpoints away with
// it that no container has any more, see [netns.Manager.RemoveWith]. It asks for
// them, if leaving is not nil, when it comes to it.
func (e *Engine) RemoveNetwork(ctx context.Context, name string, leaving func() []*netns.Endpoint) error {
	return e.removing.add(ctx, networkRemoval{name, leaving})
}

type networkRemoval struct {
	network string
	leaving func() []*netns.Endpoint
}

// SweepNetworks removes what killed processes left behind in the network:
// links, pins, ports and records of containers that are no more.
func (e *Engine) SweepNetworks(ctx context.Context) error {
	nets, err := e.Networks()
	if err != nil {
		return err
	}
	builds := e.builderLives()
	for _, id := range nets.BrokenEndpoints() {
		c, err := e.Records.Read(id)
		if err != nil || c.State.Endpoint == nil {
			continue
		}
		if err := nets.Restore(c.State.Endpoint, c.State.Pid != 0); err != nil {
			return err // what a container has must not count as nobody's
		}
	}
	return nets.Sweep(ctx, func(id string) bool {
		if isBuild(id) {
			return builds
		}
		return e.endpointLives(id)
	})
}

// endpointLives tells whether an endpoint belongs to a container that has a
// record, or to a builder that runs.
func (e *Engine) endpointLives(id string) bool {
	if isBuild(id) {
		return e.builderLives()
	}
	return e.Records.Exists(id)
}

func isBuild(id string) bool { return strings.HasPrefix(id, BuildEndpoint) }

// BuildEndpoint starts the IDs of endpoints that are the builder's: they belong
// to no container, and end with it.
const BuildEndpoint = "build-"

func builderLock(run string) string { return filepath.Join(run, "builder", "lock") }

func (e *Engine) builderLives() bool { return builderLives(e.run) }

// builderLives tells whether a builder of a run root is there, who holds a lock all his
// life.
func builderLives(run string) bool {
	path := builderLock(run)
	if _, err := os.Stat(path); err != nil {
		return false
	}
	held, free, err := lock.TryExclusive(path)
	if err == nil && free {
		held.Unlock()
	}
	return !free
}

// dropNames forgets the sockets held for a container's network.
func (e *Engine) dropNames(id string, k FDs) { dropHeld(id, k, "port/", "dns/") }

func dropHeld(id string, k FDs, prefixes ...string) {
	if k == nil {
		return
	}
	for _, prefix := range prefixes {
		for _, name := range k.Names(HeldName(id, prefix)) {
			k.Drop(name)
		}
	}
}

// Unplug frees what an ended container holds in the network: its published
// ports and, if no other container shares it, its namespace.
func (e *Engine) Unplug(ctx context.Context, c *Container, k FDs) error {
	ep := c.State.Endpoint
	if ep == nil {
		return nil
	}
	ctx = detached(ctx)
	if !e.shared(c) {
		return e.detachNet(ctx, c, ep, k)
	}
	nets, err := e.Networks()
	if err != nil {
		return err
	}
	if k != nil {
		for _, name := range k.Names(HeldName(c.ID, "port/")) {
			k.Drop(name)
		}
	}
	return nets.Unpublish(ctx, ep)
}

// Who shares a container's network namespace is marked by a file in that
// container's run directory, so that asking costs one directory and not the
// records of all containers.

func (e *Engine) sharersDir(id string) string {
	return filepath.Join(e.Records.RunDir(id), "sharers")
}

// markSharer notes that c lives in the namespace of the container owner, or,
// with gone, that it does no more.
func (e *Engine) markSharer(owner string, c *Container, gone bool) error {
	path := filepath.Join(e.sharersDir(owner), c.ID)
	if gone {
		return ignoreNotExist(os.Remove(path))
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	return os.WriteFile(path, nil, 0o600)
}

// shared tells whether other containers live in c's network namespace.
func (e *Engine) shared(c *Container) bool {
	entries, err := os.ReadDir(e.sharersDir(c.ID))
	return err == nil && len(entries) > 0
}

// release is Unplug for good: the namespace goes even if others are in it, for
// whom it lives on until they end.
func (e *Engine) release(ctx context.Context, c *Container, k FDs) error {
	e.dropStdio(c.ID, k)
	e.dropNames(c.ID, k)
	if c.State.Endpoint != nil {
		return e.detachNet(ctx, c, c.State.Endpoint, k)
	}
	return nil
}

// writeNames writes hosts, hostname and resolv.conf.
func (e *Engine) writeNames(c *Container) error {
	nets, err := e.Networks()
	if err != nil {
		return err
	}
	all, err := nets.List()
	if err != nil {
		return err
	}
	ep := c.State.Endpoint
	if isShared(c.Spec.Network.Mode) {
		// The files of the container whose namespace it is.
		donor, err := e.peer(c, c.Spec.Network.Mode)
		if err != nil {
			return err
		}
		for _, name := range etcFiles {
			b, err := e.readEtc(donor.ID, name)
			if errors.Is(err, fs.ErrNotExist) {
				return fmt.Errorf("container %s, whose network it shares, is only just starting; start this one after it", donor.Spec.Name)
			}
			if err != nil {
				return err
			}
			if err := os.WriteFile(filepath.Join(e.Records.RunDir(c.ID), name), b, 0o644); err != nil {
				return err
			}
		}
		return nil
	}
	hosts, resolv := netns.Files(ep, all, netns.FileOptions{Hostname: e.hostname(c), Domain: c.Spec.Domain, Host: nets.HostFiles()})
	return e.writeEtc(c, hosts, resolv)
}

// PrepareNetworks sets up the networks that a container is about to join, as far as
// they exist and this process has not done so, so that its start need not wait for that.
func (e *Engine) PrepareNetworks(ctx context.Context, s netns.EndpointSpec) {
	nets, err := e.Networks()
	if err != nil || s.Mode != "" {
		return
	}
	for _, a := range s.Networks {
		_ = nets.Prepare(ctx, a.Network)
	}
}

// Connect attaches a container to one more network.
func (e *Engine) Connect(ctx context.Context, c *Container, a netns.Attachment) (err error) {
	if a.Links, err = e.named(a.Links); err != nil {
		return err
	}
	c.Spec.Network.Networks = append(slices.Clone(c.Spec.Network.Networks), a)
	if c.State.Endpoint != nil {
		nets, err := e.Networks()
		if err != nil {
			return err
		}
		if _, err := nets.Ensure(ctx, a.Network); err != nil {
			return err
		}
		if _, err := nets.Connect(ctx, c.State.Endpoint, a); err != nil {
			return err
		}
	}
	return e.Records.SaveConfig(c)
}

// Disconnect takes a container off a network.
func (e *Engine) Disconnect(ctx context.Context, c *Container, network string, force bool) error {
	kept := c.Spec.Network.Networks[:0:0]
	for _, a := range c.Spec.Network.Networks {
		if a.Network != network {
			kept = append(kept, a)
		}
	}
	if len(kept) == len(c.Spec.Network.Networks) && !force {
		return fmt.Errorf("cannot disconnect: container %s is not on network %s", c.Spec.Name, network)
	}
	c.Spec.Network.Networks = kept
	if c.State.Endpoint != nil {
		nets, err := e.Networks()
		if err != nil {
			return err
		}
		if err := nets.Disconnect(ctx, c.State.Endpoint, network); err != nil {
			return err
		}
	}
	return e.Records.SaveConfig(c)
}
