package netns

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/stack-run/stack/netns/link"
)

// DetachAll takes several endpoints away, which is much faster than one by one:
// the kernel waits for all their links together.
func (m *Manager) DetachAll(ctx context.Context, endpoints []*Endpoint) error {
	var errs []error
	var b link.Batch
	group := link.NewGroup()
	var own []*Endpoint
	for _, e := range endpoints {
		if e == nil || e.Shared || e.Spec.Mode == "host" || e.Spec.ID == "" {
			continue
		}
		own = append(own, e)
		for _, name := range m.hostLinks(e) {
			b.SetGroup(name, group)
		}
	}
	errs = append(errs, m.unpublish(own))
	if b.Len() > 0 {
		b.DeleteGroup(group)
		s, err := link.Open()
		if err == nil {
			err = errors.Join(s.Do(&b), s.Close())
		}
		errs = append(errs, err)
	}
	for _, e := range own {
		if err := link.Unpin(m.pin(e.Spec.ID)); err != nil {
			errs = append(errs, err)
			continue
		}
		errs = append(errs, removeFile(m.endpointPath(e.Spec.ID)))
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("cannot remove network connections: %w", err)
	}
	return m.tidy(ctx)
}

// hostLinks are the names of the host's ends of an endpoint's links, also of
// those which only our own copy knows.
func (m *Manager) hostLinks(e *Endpoint) []string {
	var names []string
	seen := map[string]bool{}
	links := e.Links
	if r, err := m.loadEndpoint(e.Spec.ID); err == nil {
		links = append(links[:len(links):len(links)], r.Links...)
	}
	for _, l := range links {
		if !seen[l.HostLink] {
			seen[l.HostLink] = true
			names = append(names, l.HostLink)
		}
	}
	return names
}

// tidy removes the mount of the pins when none is left.
func (m *Manager) tidy(ctx context.Context) error {
	if entries, err := os.ReadDir(m.pinDir()); err != nil || len(entries) > 0 {
		return nil
	}
	return m.locked(ctx, func() error {
		// Endpoints in the making have a record before their pin.
		if entries, err := os.ReadDir(m.endpointDir()); err != nil || len(entries) == 0 {
			link.RemovePins(m.pinDir())
		}
		return nil
	})
}
