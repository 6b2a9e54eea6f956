package netns

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/stack-run/stack/internal/durable"
)

// Broken is a network whose record cannot be used, and as an error tells so. It
// is left out of [Manager.List]; [Manager.Remove] takes its ID.
type Broken struct {
	ID    string
	Name  string // what can still be known of it, else empty
	Path  string // of the file
	Newer bool   // the record is whole, and of a later version of this program
	Err   error
}

func (b *Broken) Error() string {
	name := b.Name
	if name == "" {
		name = short(b.ID)
	}
	todo := fmt.Sprintf("\"stack network rm %s\" or \"stack system check --repair\" removes it", short(b.ID))
	if b.Newer {
		todo = "until then nothing touches it"
	}
	return fmt.Sprintf("network %s is set aside: %v; %s", name, b.Err, todo)
}

func (b *Broken) Unwrap() error { return b.Err }

// Broken returns the networks that are set aside.
func (m *Manager) Broken() ([]*Broken, error) {
	_, broken, err := m.scan()
	return broken, err
}

// record reads the record of a network. One that is broken is rebuilt, in memory,
// from what is left of it and what its endpoints know; Create writes it again.
func (m *Manager) record(id string) (record, error) {
	var r record
	path := filepath.Join(m.networkDir(), id+".json")
	err := durable.ReadVersioned(path, &r, &r.Version, recordVersion)
	if err == nil && r.ID != id {
		err = &durable.BrokenError{Path: path, Err: fmt.Errorf("it is of network %q", r.ID)}
	}
	if errors.Is(err, os.ErrNotExist) {
		// A removal drops the copy first: a copy alone is of a record that was lost.
		if r, copyErr := m.readCopy(id); copyErr == nil {
			m.o.Logf("network %s: its record %s is missing; it is written again with the next start of a container", r.Name, path)
			return r, nil
		}
	}
	broken := durable.Broken(err)
	if broken == nil {
		return r, err
	}
	text, _ := os.ReadFile(path)
	b := &Broken{ID: id, Name: salvage(text, "name"), Path: path, Newer: broken.Newer, Err: err}
	if b.Newer {
		return r, b
	}
	r, copyErr := m.readCopy(id)
	if copyErr != nil {
		if r = m.rebuild(id, text); !r.complete() {
			return r, b
		}
	}
	m.o.Logf("network %s: %v; it is taken from what is known of it while its bridge is there, and written again with the next start of a container", r.Name, err)
	return r, nil
}

// rebuild makes the record of a network out of the rests of its file and of the
// links that its endpoints have. Without a name it is of no use to anybody.
func (m *Manager) rebuild(id string, text []byte) record {
	r := record{Version: recordVersion, rebuilt: true}
	r.ID, r.Bridge = id, m.bridgeName(id)
	r.Name, r.Project, r.Key = salvage(text, "name"), salvage(text, "project"), salvage(text, "key")
	if bridge := salvage(text, "bridge"); bridge != "" {
		r.Bridge = bridge
	}
	endpoints, _ := m.endpoints()
	for _, e := range endpoints {
		for _, l := range e.Links {
			if l.NetworkID != id {
				continue
			}
			r.Name, r.Gateway4, r.Gateway6, r.Internal = l.Network, l.Gateway4, l.Gateway6, l.Internal
			r.IPv4, r.IPv6 = masked(l.IPv4, l.Bits4), masked(l.IPv6, l.Bits6)
			if l.Bridge != "" {
				r.Bridge = l.Bridge
			}
			project, _, _ := strings.Cut(e.Spec.Key, "/")
			if key, own := strings.CutPrefix(l.Network, project+"_"); own && r.Project == "" {
				r.Project, r.Key = project, key
			}
		}
	}
	bridge, err := net.InterfaceByName(r.Bridge)
	if err == nil {
		r.MAC = bridge.HardwareAddr.String()
		r.addressesOf(bridge)
	}
	return r
}

// complete tells whether enough is known: a bridge comes with its subnets.
func (r record) complete() bool { return r.Name != "" && (r.IPv4.IsValid() || r.IPv6.IsValid()) }

// The copy of a record lives in the run root as long as the network's bridge: what
// of a network cannot be told from the kernel can be told from there.

func (m *Manager) copyPath(id string) string {
	return filepath.Join(m.o.RunRoot, "networks", id+".json")
}

func (m *Manager) readCopy(id string) (record, error) {
	var r record
	err := durable.ReadVersioned(m.copyPath(id), &r, &r.Version, recordVersion)
	if err == nil && r.ID != id {
		err = fmt.Errorf("%s is of network %q", m.copyPath(id), r.ID)
	}
	r.rebuilt = true
	return r, err
}

func (m *Manager) keepCopy(r record) {
	path := m.copyPath(r.ID)
	err := os.MkdirAll(filepath.Dir(path), 0o700)
	if err == nil {
		err = writeFile(path, r, false)
	}
	if err != nil {
		m.o.Logf("network %s: %v", r.Name, err) // it is of use only if the record breaks
	}
}

func (m *Manager) dropCopy(id string) error {
	return errors.Join(os.RemoveAll(m.copyPath(id)), removeEmpty(filepath.Dir(m.copyPath(id))))
}

// mend writes a record that was broken. The lock is held.
func (m *Manager) mend(r record) error {
	if !r.rebuilt {
		return nil
	}
	return writeFile(filepath.Join(m.networkDir(), r.ID+".json"), r, true)
}

// addressesOf takes the subnets that are not known yet from the bridge.
func (r *record) addressesOf(bridge *net.Interface) {
	addrs, _ := bridge.Addrs()
	for _, a := range addrs {
		p, err := netip.ParsePrefix(a.String())
		if err != nil || p.Addr().IsLinkLocalUnicast() {
			continue
		}
		switch {
		case p.Addr().Is4() && !r.IPv4.IsValid():
			r.IPv4, r.Gateway4 = p.Masked(), p.Addr()
		case p.Addr().Is6() && !r.IPv6.IsValid():
			r.IPv6, r.Gateway6 = p.Masked(), p.Addr()
		}
	}
}

func masked(a netip.Addr, bits int) netip.Prefix {
	if !a.IsValid() {
		return netip.Prefix{}
	}
	return netip.PrefixFrom(a, bits).Masked()
}

// salvage finds the text that a key has in what is left of a JSON file. It is a
// name, which needs no escapes.
func salvage(text []byte, key string) string {
	found := regexp.MustCompile(`"` + regexp.QuoteMeta(key) + `":"([a-zA-Z0-9][a-zA-Z0-9_.-]*)"`).FindSubmatch(text)
	if found == nil {
		return ""
	}
	return string(found[1])
}

// Restore writes the record of an endpoint again that is lost or cannot be read,
// from the copy that the engine keeps.
func (m *Manager) Restore(e *Endpoint, published bool) error {
	if _, err := m.loadEndpoint(e.Spec.ID); err == nil {
		return nil
	}
	return m.saveEndpoint(e, published)
}

// BrokenEndpoints are the IDs of the endpoints whose record cannot be read.
func (m *Manager) BrokenEndpoints() []string {
	entries, _ := os.ReadDir(m.endpointDir())
	var ids []string
	for _, entry := range entries {
		if id, ok := strings.CutSuffix(entry.Name(), ".json"); ok {
			if _, err := m.loadEndpoint(id); err != nil && !errors.Is(err, os.ErrNotExist) {
				ids = append(ids, id)
			}
		}
	}
	return ids
}

// sweepRecords removes the leases of networks that are no more, and writes records
// that were broken. The lock is held.
func (m *Manager) sweepRecords() error {
	all, _, err := m.scan()
	errs := []error{err}
	for _, r := range all {
		errs = append(errs, m.mend(r))
	}
	entries, err := os.ReadDir(m.networkDir())
	errs = append(errs, err)
	for _, e := range entries {
		id, ok := strings.CutSuffix(e.Name(), ".leases")
		if !ok {
			continue
		}
		if _, err := os.Lstat(filepath.Join(m.networkDir(), id+".json")); errors.Is(err, os.ErrNotExist) {
			errs = append(errs, os.RemoveAll(filepath.Join(m.networkDir(), e.Name())))
		}
	}
	return errors.Join(errs...)
}
