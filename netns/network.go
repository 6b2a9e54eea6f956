package netns

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/stack-run/stack/netns/ipam"
	"github.com/stack-run/stack/netns/link"
	"golang.org/x/sys/unix"
)

var (
	// ErrNotFound says that there is no such network.
	ErrNotFound = errors.New("no such network")
	// ErrExists says that a network of the name exists and is different.
	ErrExists = errors.New("a network of that name exists already")
	// ErrInUse says that containers are attached to a network.
	ErrInUse = errors.New("network is in use")
)

// record is the file of a network.
type record struct {
	Version int `json:"version"` // of this schema, now 1
	Network
	MAC string `json:"mac"` // of the bridge

	rebuilt bool // the file is broken
}

const recordVersion = 1

// Create makes the record of a network and chooses its subnets. The bridge comes
// with [Manager.Ensure] or the first endpoint. A network that exists already as
// specified is returned; one that differs is [ErrExists].
func (m *Manager) Create(ctx context.Context, spec NetworkSpec) (Network, error) {
	if err := checkNetwork(spec); err != nil {
		return Network{}, fmt.Errorf("cannot create network %s: %w", spec.Name, err)
	}
	var n Network
	err := m.locked(ctx, func() error {
		all, broken, err := m.scan()
		if err != nil {
			return err
		}
		if i := slices.IndexFunc(broken, func(b *Broken) bool { return b.Name == spec.Name }); i >= 0 {
			return broken[i]
		}
		if i := slices.IndexFunc(all, func(r record) bool { return r.Name == spec.Name }); i >= 0 {
			spec.Hosts = 0
			if all[i].rebuilt {
				all[i].NetworkSpec, all[i].Created = spec, time.Now().UTC()
				n = all[i].Network
				return writeFile(filepath.Join(m.networkDir(), n.ID+".json"), all[i], true)
			}
			n = all[i].Network
			if a, b := mustJSON(spec), mustJSON(n.NetworkSpec); string(a) != string(b) {
				return ErrExists
			}
			return nil
		}
		r, err := m.design(spec, all)
		if err != nil {
			return err
		}
		n = r.Network
		return writeFile(filepath.Join(m.networkDir(), n.ID+".json"), r, true)
	})
	if err != nil {
		return n, fmt.Errorf("cannot create network %s: %w", spec.Name, err)
	}
	return n, nil
}

func mustJSON(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		panic("internal error: " + err.Error())
	}
	return b
}

// design chooses what the user left open.
func (m *Manager) design(spec NetworkSpec, all []record) (record, error) {
	var id [32]byte
	_, _ = rand.Read(id[:])
	r := record{Version: recordVersion, Network: Network{NetworkSpec: spec, ID: hex.EncodeToString(id[:]), Created: time.Now().UTC()}}
	r.Hosts = 0
	if !spec.Attaches() {
		return r, nil
	}
	if i := slices.IndexFunc(all, func(r record) bool { return r.Bridge != "" && r.Bridge == spec.DriverOpts[OptBridgeName] }); i >= 0 {
		return r, fmt.Errorf("network %s has the bridge %s; choose another %s", all[i].Name, all[i].Bridge, OptBridgeName)
	}
	if spec.IsBridge() {
		r.Bridge = spec.DriverOpts[OptBridgeName]
	}
	if r.Bridge == "" && (spec.IsBridge() || spec.DriverOpts[OptParent] == "") {
		r.Bridge = m.bridgeName(r.ID)
	}
	mac := append(net.HardwareAddr{0x02}, id[8:13]...)
	r.MAC = mac.String()

	host, err := link.Occupied()
	if err != nil {
		return r, err
	}
	used := slices.Clone(host)
	for _, o := range all {
		used = append(used, o.Subnets()...)
	}
	var asked [2]Pool
	for _, p := range spec.Pools {
		if !p.Subnet.IsValid() {
			continue // only options, the subnet is ours to choose
		}
		for _, o := range all {
			if s, ok := ipam.Overlapping(p.Subnet, o.Subnets()); ok {
				return r, fmt.Errorf("subnet %s overlaps %s of network %s; choose another subnet, or none", p.Subnet, s, o.Name)
			}
		}
		if s, ok := ipam.Overlapping(p.Subnet, host); ok && !spec.OnParent() {
			m.o.Logf("network %s: subnet %s overlaps %s, which the host has a route to", spec.Name, p.Subnet, s)
		}
		asked[familyOf(p.Subnet.Addr())] = p
	}
	pools4, pools6 := m.pools()
	if !spec.DisableIPv4 {
		if r.IPv4, r.Gateway4, err = chooseSubnet(asked[0], pools4, used, spec, all); err != nil {
			return r, err
		}
	}
	if !spec.DisableIPv6 && (asked[1].Subnet.IsValid() || hostHasIPv6()) {
		if r.IPv6, r.Gateway6, err = chooseSubnet(asked[1], pools6, used, spec, all); err != nil {
			return r, err
		}
	}
	if !r.IPv4.IsValid() && !r.IPv6.IsValid() {
		return r, errors.New("neither IPv4 nor IPv6 is enabled")
	}
	return r, nil
}

func (m *Manager) bridgeName(id string) string {
	return "st" + m.o.Instance + "-" + id[:min(8, len(id))]
}

func familyOf(a netip.Addr) int {
	if a.Is4() {
		return 0
	}
	return 1
}

func chooseSubnet(asked Pool, pools []ipam.Pool, used []netip.Prefix, spec NetworkSpec, all []record) (netip.Prefix, netip.Addr, error) {
	subnet := asked.Subnet.Masked()
	if !asked.Subnet.IsValid() {
		var err error
		subnet, err = ipam.Subnet(pools, used, spec.Name, spec.Hosts)
		if err != nil {
			return subnet, netip.Addr{}, fmt.Errorf("%w: %d networks and the host's routes hold them; remove networks with \"stack network prune\"", err, len(all))
		}
	}
	gateway := asked.Gateway
	if !gateway.IsValid() {
		gateway = ipam.Gateway(subnet)
		for slices.Contains(auxOf(asked), gateway) {
			gateway = gateway.Next()
		}
	}
	return subnet, gateway, nil
}

func auxOf(p Pool) []netip.Addr {
	var all []netip.Addr
	for _, a := range p.Aux {
		all = append(all, a)
	}
	return all
}

func (m *Manager) pools() (v4, v6 []ipam.Pool) {
	for _, p := range m.o.Pools {
		if p.Subnet.Addr().Is4() {
			v4 = append(v4, ipam.Pool{Base: p.Subnet, Bits: max(24, p.Subnet.Bits())})
		} else {
			v6 = append(v6, ipam.Pool{Base: p.Subnet, Bits: max(64, p.Subnet.Bits())})
		}
	}
	if v4 == nil {
		v4 = ipam.DefaultPools()
	}
	if v6 == nil {
		v6 = []ipam.Pool{ipam.UniqueLocal(machineID() + m.o.DataRoot)}
	}
	return v4, v6
}

// machineID is a seed that differs from machine to machine, see machine-id(5).
func machineID() string {
	b, _ := os.ReadFile("/etc/machine-id")
	return strings.TrimSpace(string(b))
}

func hostHasIPv6() bool {
	_, err := os.Stat("/proc/sys/net/ipv6/conf")
	return err == nil
}

// records reads all networks, sorted by name, without those that are broken, which
// are told of. It needs no lock: a record is always complete.
func (m *Manager) records() ([]record, error) {
	all, broken, err := m.scan()
	for _, b := range broken {
		m.o.Logf("%v", b)
	}
	return all, err
}

func (m *Manager) scan() (all []record, broken []*Broken, err error) {
	entries, err := os.ReadDir(m.networkDir())
	if err != nil {
		return nil, nil, fmt.Errorf("cannot list networks: %w", err)
	}
	copies, err := os.ReadDir(filepath.Dir(m.copyPath("")))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, nil, fmt.Errorf("cannot list networks: %w", err)
	}
	seen := map[string]bool{}
	for _, e := range slices.Concat(entries, copies) {
		id, ok := strings.CutSuffix(e.Name(), ".json")
		if !ok || seen[id] {
			continue
		}
		seen[id] = true
		r, err := m.record(id)
		var b *Broken
		switch {
		case err == nil:
			all = append(all, r)
		case errors.As(err, &b):
			broken = append(broken, b)
		}
	}
	slices.SortFunc(all, func(a, b record) int { return strings.Compare(a.Name, b.Name) })
	return all, broken, nil
}

// find returns the network of a name or ID. The start of an ID will not do: it
// may look like the name of a network that is not there, such as "db".
func (m *Manager) find(name string) (record, error) {
	all, broken, err := m.scan()
	if err != nil {
		return record{}, err
	}
	if i := slices.IndexFunc(all, func(r record) bool { return r.Name == name || r.ID == name }); i >= 0 {
		return all[i], nil
	}
	for _, b := range broken {
		if b.Name == name || b.ID == name || short(b.ID) == name {
			return record{}, b
		}
	}
	return record{}, fmt.Errorf("cannot find network %s: %w", name, ErrNotFound)
}

// List returns all networks, sorted by name.
func (m *Manager) List() ([]Network, error) {
	all, err := m.records()
	if err != nil {
		return nil, err
	}
	networks := make([]Network, len(all))
	for i, r := range all {
		networks[i] = r.Network
	}
	return networks, nil
}

// Get returns a network by name or ID; [ErrNotFound] when there is none.
func (m *Manager) Get(name string) (Network, error) {
	r, err := m.find(name)
	return r.Network, err
}

// Users names the containers attached to a network. Those that are no more do not
// count, see [Options].
func (m *Manager) Users(name string) ([]string, error) {
	r, err := m.find(name)
	if err != nil {
		return nil, err
	}
	return m.users(r.ID, nil)
}

// users names the containers attached to a network, but for those that leave.
func (m *Manager) users(networkID string, leaving []*Endpoint) ([]string, error) {
	endpoints, err := m.endpoints()
	if err != nil {
		return nil, err
	}
	var users []string
	for _, e := range endpoints {
		if slices.ContainsFunc(leaving, func(l *Endpoint) bool { return l.Spec.ID == e.Spec.ID }) || m.o.Live != nil && !m.o.Live(e.Spec.ID) {
			continue
		}
		if slices.ContainsFunc(e.Links, func(l Link) bool { return l.NetworkID == networkID }) {
			users = append(users, e.Spec.OwnerInFull())
		}
	}
	slices.Sort(users)
	return slices.Compact(users), nil
}

// Remove deletes networks that nobody uses; with users it fails ([ErrInUse]),
// names them and leaves that network alone. Several at once cost the kernel
// little more than one.
func (m *Manager) Remove(ctx context.Context, names ...string) error {
	return m.RemoveWith(ctx, nil, names...)
}

// RemoveWith deletes networks as [Manager.Remove] does, and takes endpoints away
// with them. That is faster than one after the other: the kernel waits once for
// all the links. The endpoints go also if a network has to stay.
func (m *Manager) RemoveWith(ctx context.Context, endpoints []*Endpoint, names ...string) error {
	own := ownEndpoints(endpoints)
	errs := []error{m.unpublish(own)}
	var records []record
	for _, name := range names {
		r, err := m.find(name)
		var b *Broken
		if errors.As(err, &b) && !b.Newer {
			// What is its own has names that come from the ID.
			r, err = record{Network: Network{NetworkSpec: NetworkSpec{Name: name}, ID: b.ID, Bridge: m.bridgeName(b.ID)}}, nil
		}
		if err != nil {
			errs = append(errs, err)
			continue
		}
		records = append(records, r)
	}
	dead, err := m.dead(records, own)
	own = append(own, dead...)
	errs = append(errs, err, m.unpublish(own))
	err = m.locked(ctx, func() error {
		var unused []record
		for _, r := range records {
			users, err := m.users(r.ID, own)
			if len(users) > 0 {
				err = fmt.Errorf("%w by %s; remove them first", ErrInUse, strings.Join(users, "; "))
			}
			if err != nil {
				errs = append(errs, fmt.Errorf("cannot remove network %s: %w", r.Name, err))
				continue
			}
			unused = append(unused, r)
			m.mu.Lock()
			delete(m.ready, r.ID)
			delete(m.leases, r.ID)
			m.mu.Unlock()
		}
		// Records go last: what is left behind stays known.
		if err := errors.Join(m.takeDown(unused, own), m.forget(own)); err != nil {
			return fmt.Errorf("cannot remove networks: %w", err)
		}
		for _, r := range unused {
			if err := errors.Join(os.RemoveAll(m.nameDir(r.ID)), removeEmpty(filepath.Dir(m.nameDir(r.ID))),
				m.dropCopy(r.ID), os.RemoveAll(m.leasePath(r.ID)), os.RemoveAll(filepath.Join(m.networkDir(), r.ID+".json"))); err != nil {
				errs = append(errs, fmt.Errorf("cannot remove network %s: %w", r.Name, err))
			}
		}
		return nil
	})
	return errors.Join(append(errs, err, m.tidy(ctx))...)
}

// dead are the endpoints on networks that belong to no container, but for those
// in without.
func (m *Manager) dead(networks []record, without []*Endpoint) ([]*Endpoint, error) {
	if m.o.Live == nil {
		return nil, nil
	}
	all, err := m.endpoints()
	if err != nil {
		return nil, err
	}
	var dead []*Endpoint
	for _, e := range all {
		on := slices.ContainsFunc(e.Links, func(l Link) bool {
			return slices.ContainsFunc(networks, func(r record) bool { return r.ID == l.NetworkID })
		})
		known := slices.ContainsFunc(without, func(o *Endpoint) bool { return o.Spec.ID == e.Spec.ID })
		if on && !known && !m.o.Live(e.Spec.ID) {
			dead = append(dead, &e.Endpoint)
		}
	}
	return dead, nil
}

func removeEmpty(dir string) error {
	if err := os.Remove(dir); err != nil && !errors.Is(err, os.ErrNotExist) && !errors.Is(err, unix.ENOTEMPTY) {
		return err
	}
	return nil
}
