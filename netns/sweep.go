package netns

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/stack-run/stack/internal/glob"
	"github.com/stack-run/stack/netns/dns"
	"github.com/stack-run/stack/netns/link"
	"github.com/stack-run/stack/netns/nft"
)

// Sweep removes what is left of endpoints that are no more: ports, links, pins,
// names. live tells whether an endpoint ID belongs to a container; endpoints that
// another process makes meanwhile must count as live.
func (m *Manager) Sweep(ctx context.Context, live func(endpointID string) bool) error {
	all, err := m.endpoints()
	if err != nil {
		return err
	}
	var dead []*Endpoint
	alive := map[netip.Addr]bool{}
	links := map[string]bool{}
	for _, e := range all {
		if !live(e.Spec.ID) {
			dead = append(dead, &e.Endpoint)
			continue
		}
		for _, l := range e.Links {
			alive[l.IPv4], alive[l.IPv6] = true, true
			links[l.HostLink] = true
		}
	}
	errs := []error{m.DetachAll(ctx, dead), m.sweepPins(live), m.sweepNames(live)}
	errs = append(errs, m.locked(ctx, func() error {
		// Under the lock nobody is between choosing an address and writing it down;
		// what was attached since the list above was read is looked up again.
		fresh, err := m.endpoints()
		if err != nil {
			return err
		}
		for _, e := range fresh {
			for _, l := range e.Links {
				alive[l.IPv4], alive[l.IPv6] = true, true
				links[l.HostLink] = true
			}
		}
		return errors.Join(m.sweepLinks(links), m.sweepElements(alive, links), m.sweepRecords())
	}))
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("cannot sweep networks: %w", err)
	}
	return m.tidy(ctx)
}

func (m *Manager) sweepPins(live func(string) bool) error {
	entries, err := os.ReadDir(m.pinDir())
	if err != nil {
		return nil //nolint:nilerr // no pins were ever made
	}
	var errs []error
	for _, e := range entries {
		if !live(e.Name()) && !m.live(e.Name()) {
			errs = append(errs, link.Unpin(m.pin(e.Name())))
		}
	}
	return errors.Join(errs...)
}

// sweepLinks removes host ends with our prefix that no endpoint has.
func (m *Manager) sweepLinks(keep map[string]bool) error {
	all, err := net.Interfaces()
	if err != nil {
		return fmt.Errorf("cannot list links: %w", err)
	}
	var b link.Batch
	for _, i := range all {
		if strings.HasPrefix(i.Name, m.hostLinkPrefix()) && !keep[i.Name] {
			b.DeleteLink(i.Name)
		}
	}
	if b.Len() == 0 {
		return nil
	}
	s, err := link.Open()
	if err != nil {
		return err
	}
	return errors.Join(s.Do(&b), s.Close())
}

// sweepElements removes elements that lead to addresses nobody has, or are of links that
// are gone.
func (m *Manager) sweepElements(alive map[netip.Addr]bool, links map[string]bool) error {
	all, err := m.table.Elements()
	if err != nil {
		return err
	}
	var gone []nft.Element
	for _, e := range all {
		if a, ok := e.Container(); ok && !alive[a] {
			gone = append(gone, e)
		}
		if port, ok := e.Port(); ok && !links[port] {
			gone = append(gone, e)
		}
	}
	if len(gone) == 0 {
		return nil
	}
	return m.table.Delete(gone)
}

// sweepNames takes dead endpoints out of the files of names.
func (m *Manager) sweepNames(live func(string) bool) error {
	files, _ := glob.In(filepath.Dir(m.nameDir("x")), "*/*.json")
	var errs []error
	for _, file := range files {
		b, err := os.ReadFile(file)
		var records []dns.Record
		if err != nil || json.Unmarshal(b, &records) != nil {
			continue
		}
		kept := slices.DeleteFunc(slices.Clone(records), func(r dns.Record) bool { return !live(r.EndpointID) })
		switch {
		case len(kept) == len(records):
		case len(kept) == 0:
			dir := filepath.Dir(file)
			errs = append(errs, removeFile(file), removeEmpty(dir), removeEmpty(filepath.Dir(dir)))
		default:
			errs = append(errs, writeFile(file, kept, false))
		}
	}
	return errors.Join(errs...)
}
