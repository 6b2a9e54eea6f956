package netns

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/stack-run/stack/internal/durable"
	"github.com/stack-run/stack/netns/ipam"
)

// lease remembers which addresses a key has or had on a network. It counts as
// taken while its endpoint exists; afterwards others get the addresses only when
// no fresh one is left, and fixed ones only when their container is gone.
type lease struct {
	Key      string     `json:"key"`
	Endpoint string     `json:"endpoint,omitempty"`
	IPv4     netip.Addr `json:"ipv4,omitzero"`
	IPv6     netip.Addr `json:"ipv6,omitzero"`
	Fixed    bool       `json:"fixed,omitempty"` // the user chose an address
}

func (l lease) addr(f int) netip.Addr {
	if f == 0 {
		return l.IPv4
	}
	return l.IPv6
}

// leaseFile is the content of a file of leases, as of the given change. It is
// read and written under the lock only.
type leaseFile struct {
	changed time.Time
	inode   os.FileInfo
	leases  []lease
}

func (m *Manager) leasePath(networkID string) string {
	return filepath.Join(m.networkDir(), networkID+".leases")
}

// loadLeases reads the leases of a network; another process may have changed them.
func (m *Manager) loadLeases(networkID string) (*leaseFile, error) {
	path := m.leasePath(networkID)
	st, err := os.Stat(path)
	if errors.Is(err, os.ErrNotExist) {
		return &leaseFile{}, nil
	}
	if err != nil {
		return nil, fmt.Errorf("cannot read leases: %w", err)
	}
	m.mu.Lock()
	f := m.leases[networkID]
	m.mu.Unlock()
	if f != nil && f.inode != nil && os.SameFile(st, f.inode) && st.ModTime().Equal(f.changed) {
		return f, nil
	}
	f = &leaseFile{changed: st.ModTime(), inode: st}
	if err := durable.ReadJSON(path, &f.leases); err != nil {
		f.leases = nil
		// Losing it costs stable addresses, not running containers.
		m.o.Logf("leases in %s are unreadable and forgotten: %v", path, err)
	}
	return f, nil
}

// saveLeases writes them. It does not wait for the disk: after a power failure
// addresses are chosen anew, and mostly come out the same.
func (m *Manager) saveLeases(networkID string, f *leaseFile) error {
	path := m.leasePath(networkID)
	if err := writeFile(path, f.leases, false); err != nil {
		return err
	}
	if st, err := os.Stat(path); err == nil {
		f.inode, f.changed = st, st.ModTime()
	}
	m.mu.Lock()
	m.leases[networkID] = f
	m.mu.Unlock()
	return nil
}

// applicant is who wants addresses on a network.
type applicant struct {
	key, endpoint string
	Attachment
	reserved []netip.Addr // fixed for others, see [EndpointSpec.Reserved]
}

// society is what leases must know of endpoints.
type society struct {
	live func(endpoint string) bool // it exists
	kept func(endpoint string) bool // its container exists, perhaps stopped
}

func (m *Manager) society() society {
	// All leases are asked for at every start: one look at the directory.
	present := sync.OnceValue(m.present)
	live := func(id string) bool { return present()(id) }
	kept := m.o.Live
	if kept == nil {
		kept = live
	}
	return society{live: live, kept: func(id string) bool { return id != "" && kept(id) }}
}

// lend gives the applicant addresses on a network: those asked for, those it had,
// or the lowest that nobody has, had, or is to have.
func (f *leaseFile) lend(n Network, who applicant, s society) (lease, error) {
	f.forget(s)
	mine := lease{Key: who.key, Endpoint: who.endpoint, Fixed: who.IPv4.IsValid() || who.IPv6.IsValid()}
	had := slices.IndexFunc(f.leases, func(l lease) bool { return l.Key == mine.Key })
	if had >= 0 && f.leases[had].Endpoint != who.endpoint && s.live(f.leases[had].Endpoint) {
		// Its predecessor still runs: this one lives beside it under another key.
		mine.Key += "+" + who.endpoint
		had = slices.IndexFunc(f.leases, func(l lease) bool { return l.Key == mine.Key })
	}
	var before lease
	if had >= 0 {
		before = f.leases[had]
	}
	for family, subnet := range []netip.Prefix{n.IPv4, n.IPv6} {
		asked := []netip.Addr{who.IPv4, who.IPv6}[family]
		if !subnet.IsValid() {
			if asked.IsValid() {
				return mine, fmt.Errorf("address %s is asked for, but network %s has no addresses of its family", asked, n.Name)
			}
			continue
		}
		var got netip.Addr
		if asked.IsValid() {
			if err := f.askable(n, asked, mine.Key, s.live); err != nil {
				return mine, err
			}
			got = asked
		} else if got = f.choose(n, family, before.addr(family), mine.Key, who.reserved, s); !got.IsValid() {
			return mine, fmt.Errorf("network %s has no free address in %s; remove containers, or make the network with a larger subnet", n.Name, subnet)
		}
		// Who had it and is gone forgets it.
		f.leases = slices.DeleteFunc(f.leases, func(l lease) bool { return l.addr(family) == got && l.Key != mine.Key })
		if family == 0 {
			mine.IPv4 = got
		} else {
			mine.IPv6 = got
		}
	}
	f.leases = append(slices.DeleteFunc(f.leases, func(l lease) bool { return l.Key == mine.Key }), mine)
	return mine, nil
}

// choose finds an address of a family for a key that asked for none.
func (f *leaseFile) choose(n Network, family int, before netip.Addr, key string, reserved []netip.Addr, s society) netip.Addr {
	subnet, pool := []netip.Prefix{n.IPv4, n.IPv6}[family], poolOf(n, family)
	never := map[netip.Addr]bool{n.Gateway4: true, n.Gateway6: true}
	for _, a := range slices.Concat(auxOf(pool), reserved) {
		never[a] = true
	}
	known, taken := map[netip.Addr]bool{}, map[netip.Addr]bool{}
	for _, l := range f.leases {
		if l.Key != key {
			a := l.addr(family)
			known[a] = true
			taken[a] = s.live(l.Endpoint) || l.Fixed && s.kept(l.Endpoint)
		}
	}
	if before.IsValid() && subnet.Contains(before) && !never[before] && !taken[before] {
		return before
	}
	got, ok := ipam.Address(subnet, pool.Range, func(a netip.Addr) bool { return never[a] || known[a] })
	if !ok {
		got, _ = ipam.Address(subnet, pool.Range, func(a netip.Addr) bool { return never[a] || taken[a] })
	}
	return got
}

// forget drops the leases nobody will come back to: of replacements that started
// beside their predecessor, and of containers that are gone and belong to no service.
// An address that was set aside for one that is not made yet is kept if it is fixed;
// whoever gets it later takes its place.
func (f *leaseFile) forget(s society) {
	f.leases = slices.DeleteFunc(f.leases, func(l lease) bool {
		if l.Endpoint == "" {
			return !l.Fixed && !ofService(l.Key)
		}
		return !s.live(l.Endpoint) && !s.kept(l.Endpoint) && !ofService(l.Key)
	})
}

// ofService tells whether a key is that of a service's replica, shop/web/1, and not of
// a replacement that started beside it.
func ofService(key string) bool {
	parts := strings.Split(key, "/")
	if len(parts) != 3 {
		return false
	}
	_, err := strconv.Atoi(parts[2])
	return err == nil
}

// askable tells why a static address cannot be had.
func (f *leaseFile) askable(n Network, a netip.Addr, key string, live func(string) bool) error {
	subnet := []netip.Prefix{n.IPv4, n.IPv6}[familyOf(a)]
	switch {
	case !subnet.IsValid():
		return fmt.Errorf("address %s is asked for, but network %s has no addresses of its family", a, n.Name)
	case !ipam.Assignable(subnet, a):
		return fmt.Errorf("address %s is not one of network %s, whose subnet is %s", a, n.Name, subnet)
	case a == n.Gateway4 || a == n.Gateway6:
		return fmt.Errorf("address %s is the gateway of network %s; choose another", a, n.Name)
	}
	for name, aux := range poolOf(n, familyOf(a)).Aux {
		if aux == a {
			return fmt.Errorf("address %s of network %s is set aside for %s; choose another", a, n.Name, name)
		}
	}
	for _, l := range f.leases {
		if l.addr(familyOf(a)) == a && l.Key != key && live(l.Endpoint) {
			return &addressTaken{a, n.Name, l}
		}
	}
	return nil
}

type addressTaken struct {
	addr    netip.Addr
	network string
	by      lease
}

func (e *addressTaken) Error() string {
	return fmt.Sprintf("address %s of network %s is taken by %s", e.addr, e.network, e.by.Key)
}

// poolOf is the user's pool of a family, empty when there is none.
func poolOf(n Network, family int) Pool {
	for _, p := range n.Pools {
		if p.Subnet.IsValid() && familyOf(p.Subnet.Addr()) == family {
			return p
		}
	}
	return Pool{}
}
