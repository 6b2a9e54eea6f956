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
	broken := durable.Broken(err)
	if broken == nil {
		return r, err
	}
	text, _ := os.ReadFile(path)
	b := &Broken{ID: id, Name: salvage(text, "name"), Path: path, Newer: broken.Newer, Err: err}
	if b.Newer {
		return r, b
	}
	r, ok := m.rebuild(id, text)
	if !ok {
		return r, b
	}
	m.o.Logf("network %s: %v; it is rebuilt from what its containers know of it, and written by the next \"stack up\"", r.Name, err)
	return r, nil
}

// rebuild makes the record of a network out of the rests of its file and of the
// links that its endpoints have. Without a name it is of no use to anybody.
func (m *Manager) rebuild(id string, text []byte) (record, bool) {
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
	// A bridge comes with its subnets; without any there is nothing to go on with.
	return r, r.Name != "" && (r.IPv4.IsValid() || r.IPv6.IsValid())
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

// sweepLeases removes the leases of networks that are no more. The lock is held.
func (m *Manager) sweepLeases() error {
	entries, err := os.ReadDir(m.networkDir())
	errs := []error{err}
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
