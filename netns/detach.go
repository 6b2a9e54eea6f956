package netns

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/stack-run/stack/internal/durable"
	"github.com/stack-run/stack/netns/link"
	"github.com/stack-run/stack/netns/nft"
)

// DetachAll takes several endpoints away, which is much faster than one by one:
// the kernel waits for all their links together.
func (m *Manager) DetachAll(ctx context.Context, endpoints []*Endpoint) error {
	own := ownEndpoints(endpoints)
	d := departure{group: link.NewGroup()}
	err := errors.Join(m.unpublish(own), d.do(m, own), m.table.Forget(d.guards), m.forget(own))
	if err != nil {
		return fmt.Errorf("cannot remove network connections: %w", err)
	}
	return m.tidy(ctx)
}

// ownEndpoints are those with links and a namespace of their own.
func ownEndpoints(endpoints []*Endpoint) []*Endpoint {
	var own []*Endpoint
	for _, e := range endpoints {
		if e != nil && !e.Shared && e.Spec.Mode != "host" && e.Spec.ID != "" {
			own = append(own, e)
		}
	}
	return own
}

// departure is links that go together, in one of the kernel's grace periods.
type departure struct {
	group  uint32
	batch  link.Batch
	guards []nft.Element // of links that are gone
}

func (d *departure) add(name string) { d.batch.SetGroup(name, d.group) }

// do removes the links that were added and those of endpoints.
func (d *departure) do(m *Manager, endpoints []*Endpoint) error {
	for _, e := range endpoints {
		links := m.allLinks(e)
		if err := m.dropChildren(e, links); err != nil {
			return err
		}
		d.guards = append(d.guards, guards(e, links)...)
		for _, l := range links {
			if l.HostLink != "" {
				d.add(l.HostLink)
			}
		}
	}
	if d.batch.Len() == 0 {
		return nil
	}
	d.batch.DeleteGroup(d.group)
	s, err := link.Open()
	if err != nil {
		return err
	}
	return errors.Join(s.Do(&d.batch), s.Close())
}

// forget removes the pins and the records of endpoints whose links are gone.
func (m *Manager) forget(endpoints []*Endpoint) error {
	var errs []error
	for _, e := range endpoints {
		if err := link.Unpin(m.pin(e.Spec.ID)); err != nil {
			errs = append(errs, err)
			continue
		}
		errs = append(errs, removeFile(m.endpointPath(e.Spec.ID)))
	}
	return errors.Join(errs...)
}

// allLinks are an endpoint's links, also those which only our own copy knows.
func (m *Manager) allLinks(e *Endpoint) []Link {
	links := slices.Clone(e.Links)
	r, err := m.loadEndpoint(e.Spec.ID)
	if err != nil {
		return links
	}
	for _, l := range r.Links {
		if !slices.ContainsFunc(links, func(o Link) bool { return o.NetworkID == l.NetworkID }) {
			links = append(links, l)
		}
	}
	return links
}

// tidy removes the mount of the pins when none is left, and what killed processes
// had begun to write.
func (m *Manager) tidy(ctx context.Context) error {
	half := func(e os.DirEntry) bool { return durable.IsTemp(e.Name()) }
	pins, err := os.ReadDir(m.pinDir())
	if len(pins) > 0 || err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	records := [...]string{m.networkDir(), filepath.Dir(m.copyPath(""))}
	if err != nil { // nothing was ever attached
		if !slices.ContainsFunc(records[:], func(dir string) bool {
			entries, err := os.ReadDir(dir)
			return err == nil && slices.ContainsFunc(entries, half)
		}) {
			return nil
		}
	}
	return m.locked(ctx, func() error {
		// All that is written into the directories of networks is written under the
		// lock: a file in the making is of a process that was killed.
		for _, dir := range records {
			if err := durable.RemoveTemps(dir); err != nil {
				return err
			}
		}
		if err := removeEmpty(records[1]); err != nil {
			return err
		}
		entries, err := os.ReadDir(m.endpointDir())
		if errors.Is(err, fs.ErrNotExist) {
			err = nil
		}
		// Endpoints in the making have a record before their pin. The first record
		// is written under the lock, so the same holds for what is there without one.
		if err == nil && slices.ContainsFunc(entries, func(e os.DirEntry) bool { return !half(e) }) {
			return nil
		}
		for _, e := range entries {
			err = errors.Join(err, removeFile(filepath.Join(m.endpointDir(), e.Name())))
		}
		link.RemovePins(m.pinDir())
		return err
	})
}
