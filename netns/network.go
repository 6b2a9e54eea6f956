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
	"strconv"
	"strings"
	"time"

	"github.com/stack-run/stack/netns/ipam"
	"github.com/stack-run/stack/netns/link"
	"github.com/stack-run/stack/netns/nft"
	"golang.org/x/sys/unix"
)

// Driver options of a network, with Docker's names.
const (
	OptBridgeName  = "com.docker.network.bridge.name"
	OptMTU         = "com.docker.network.driver.mtu"
	OptICC         = "com.docker.network.bridge.enable_icc"           // "false": containers do not reach each other
	OptMasquerade  = "com.docker.network.bridge.enable_ip_masquerade" // "false": containers leave with their own addresses
	OptHostBinding = "com.docker.network.bridge.host_binding_ipv4"    // host address of ports that name none
	// OptGatewayMode is "nat" or "routed": no translation, published ports are open
	// at the container's own address for those who have a route to it.
	OptGatewayMode  = "com.docker.network.bridge.gateway_mode_ipv4"
	OptGatewayMode6 = "com.docker.network.bridge.gateway_mode_ipv6"
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
}

// isBridge reports whether the network has a bridge of its own.
func (s NetworkSpec) isBridge() bool {
	return s.Driver == "" || s.Driver == "bridge" || s.Driver == "default"
}

func (s NetworkSpec) mtu() int {
	n, _ := strconv.Atoi(s.DriverOpts[OptMTU])
	return n
}

func (s NetworkSpec) routed() bool {
	return s.DriverOpts[OptGatewayMode] == "routed" || s.DriverOpts[OptGatewayMode6] == "routed"
}

func (s NetworkSpec) option(name string, otherwise bool) bool {
	if v, err := strconv.ParseBool(s.DriverOpts[name]); err == nil {
		return v
	}
	return otherwise
}

func (n Network) firewall() nft.Network {
	return nft.Network{
		Bridge: n.Bridge, Internal: n.Internal,
		Masquerade: n.option(OptMasquerade, true) && !n.routed(),
		Isolated:   !n.option(OptICC, true),
	}
}

func (n Network) subnets() []netip.Prefix {
	return slices.DeleteFunc([]netip.Prefix{n.IPv4, n.IPv6}, func(p netip.Prefix) bool { return !p.IsValid() })
}

// Create makes the record of a network and chooses its subnets. The bridge comes
// with [Manager.Ensure] or the first endpoint. A network that exists already as
// specified is returned; one that differs is [ErrExists].
func (m *Manager) Create(ctx context.Context, spec NetworkSpec) (Network, error) {
	if err := spec.validate(); err != nil {
		return Network{}, fmt.Errorf("cannot create network %s: %w", spec.Name, err)
	}
	var n Network
	err := m.locked(ctx, func() error {
		all, err := m.records()
		if err != nil {
			return err
		}
		if i := slices.IndexFunc(all, func(r record) bool { return r.Name == spec.Name }); i >= 0 {
			n = all[i].Network
			spec.Hosts = 0
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
	r := record{Version: 1, Network: Network{NetworkSpec: spec, ID: hex.EncodeToString(id[:]), Created: time.Now().UTC()}}
	r.Hosts = 0
	if !spec.isBridge() {
		return r, nil
	}
	if i := slices.IndexFunc(all, func(r record) bool { return r.Bridge != "" && r.Bridge == spec.DriverOpts[OptBridgeName] }); i >= 0 {
		return r, fmt.Errorf("network %s has the bridge %s; choose another %s", all[i].Name, all[i].Bridge, OptBridgeName)
	}
	r.Bridge = spec.DriverOpts[OptBridgeName]
	if r.Bridge == "" {
		r.Bridge = "st" + m.o.Instance + "-" + r.ID[:8]
	}
	mac := append(net.HardwareAddr{0x02}, id[8:13]...)
	r.MAC = mac.String()

	host, err := link.Occupied()
	if err != nil {
		return r, err
	}
	used := slices.Clone(host)
	for _, o := range all {
		used = append(used, o.subnets()...)
	}
	var asked [2]Pool
	for _, p := range spec.Pools {
		if !p.Subnet.IsValid() {
			continue // only options, the subnet is ours to choose
		}
		for _, o := range all {
			if s, ok := ipam.Overlapping(p.Subnet, o.subnets()); ok {
				return r, fmt.Errorf("subnet %s overlaps %s of network %s; choose another subnet, or none", p.Subnet, s, o.Name)
			}
		}
		if s, ok := ipam.Overlapping(p.Subnet, host); ok {
			m.o.Logf("network %s: subnet %s overlaps %s, which the host has a route to", spec.Name, p.Subnet, s)
		}
		asked[familyOf(p.Subnet.Addr())] = p
	}
	pools4, pools6 := m.pools()
	if !spec.DisableIPv4 {
		if r.IPv4, r.Gateway4, err = choose(asked[0], pools4, used, spec, all); err != nil {
			return r, err
		}
	}
	if !spec.DisableIPv6 && (asked[1].Subnet.IsValid() || hostHasIPv6()) {
		if r.IPv6, r.Gateway6, err = choose(asked[1], pools6, used, spec, all); err != nil {
			return r, err
		}
	}
	if !r.IPv4.IsValid() && !r.IPv6.IsValid() {
		return r, errors.New("neither IPv4 nor IPv6 is enabled")
	}
	return r, nil
}

func familyOf(a netip.Addr) int {
	if a.Is4() {
		return 0
	}
	return 1
}

func choose(asked Pool, pools []ipam.Pool, used []netip.Prefix, spec NetworkSpec, all []record) (netip.Prefix, netip.Addr, error) {
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

func (s NetworkSpec) validate() error {
	if s.Name == "" {
		return errors.New("it has no name")
	}
	if !s.isBridge() && s.Driver != "host" && s.Driver != "none" && s.Driver != "null" {
		return fmt.Errorf("driver %q is not supported; use bridge", s.Driver)
	}
	for _, opt := range []string{OptICC, OptMasquerade} {
		if v, ok := s.DriverOpts[opt]; ok {
			if _, err := strconv.ParseBool(v); err != nil {
				return fmt.Errorf("driver option %s is %q; use true or false", opt, v)
			}
		}
	}
	if v, ok := s.DriverOpts[OptMTU]; ok {
		if n, err := strconv.Atoi(v); err != nil || n < 68 || n > 65535 {
			return fmt.Errorf("driver option %s is %q; use a number from 68 to 65535", OptMTU, v)
		}
	}
	if v, ok := s.DriverOpts[OptHostBinding]; ok {
		if a, err := netip.ParseAddr(v); err != nil || !a.Is4() {
			return fmt.Errorf("driver option %s is %q; use an IPv4 address", OptHostBinding, v)
		}
	}
	for _, opt := range []string{OptGatewayMode, OptGatewayMode6} {
		if v := s.DriverOpts[opt]; v != "" && v != "nat" && v != "routed" {
			return fmt.Errorf("driver option %s is %q; use nat or routed", opt, v)
		}
	}
	if v, ok := s.DriverOpts[OptBridgeName]; ok && !linkName(v) {
		return fmt.Errorf("driver option %s is %q; a link's name has up to 15 characters without space, slash and colon", OptBridgeName, v)
	}
	var have [2]bool
	for _, p := range s.Pools {
		if !p.Subnet.IsValid() {
			if p.Gateway.IsValid() || p.Range.IsValid() || len(p.Aux) > 0 {
				return errors.New("a gateway, range or auxiliary address needs a subnet; add ipam.config.subnet")
			}
			continue
		}
		f := familyOf(p.Subnet.Addr())
		if have[f] {
			return fmt.Errorf("subnet %s is the second of its family; a bridge has one", p.Subnet)
		}
		have[f] = true
		if p.Subnet.Bits() > p.Subnet.Addr().BitLen()-2 {
			return fmt.Errorf("subnet %s has no room for containers; use a shorter prefix", p.Subnet)
		}
		if f == 0 && s.DisableIPv4 || f == 1 && s.DisableIPv6 {
			return fmt.Errorf("subnet %s is of a family that the network disables", p.Subnet)
		}
		if p.Range.IsValid() && (p.Range.Bits() < p.Subnet.Bits() || !p.Subnet.Contains(p.Range.Addr())) {
			return fmt.Errorf("range %s is outside subnet %s", p.Range, p.Subnet)
		}
		for _, a := range append(auxOf(p), p.Gateway) {
			if a.IsValid() && !ipam.Assignable(p.Subnet, a) {
				return fmt.Errorf("address %s is not one of subnet %s", a, p.Subnet)
			}
		}
	}
	return nil
}

// linkName reports whether the kernel takes the name (dev_valid_name).
func linkName(s string) bool {
	return s != "" && len(s) < unix.IFNAMSIZ && s != "." && s != ".." && !strings.ContainsAny(s, "/: \t\n\v\f\r") &&
		!strings.Contains(s, "\x00")
}

// records reads all networks, sorted by name. It needs no lock: a record is
// always complete.
func (m *Manager) records() ([]record, error) {
	entries, err := os.ReadDir(m.networkDir())
	if err != nil {
		return nil, fmt.Errorf("cannot list networks: %w", err)
	}
	var all []record
	for _, e := range entries {
		if id, ok := strings.CutSuffix(e.Name(), ".json"); ok {
			r, err := m.record(id)
			if errors.Is(err, os.ErrNotExist) {
				continue // removed meanwhile
			}
			if err != nil {
				return nil, err
			}
			all = append(all, r)
		}
	}
	slices.SortFunc(all, func(a, b record) int { return strings.Compare(a.Name, b.Name) })
	return all, nil
}

func (m *Manager) record(id string) (record, error) {
	var r record
	path := filepath.Join(m.networkDir(), id+".json")
	b, err := os.ReadFile(path)
	if err == nil {
		err = json.Unmarshal(b, &r)
	}
	if err == nil && r.Version != 1 {
		err = fmt.Errorf("its schema version is %d, this program knows 1", r.Version)
	}
	if err != nil {
		return r, fmt.Errorf("cannot read network record %s: %w", path, err)
	}
	return r, nil
}

// find returns the network of a name, an ID, or a unique start of an ID.
func (m *Manager) find(name string) (record, error) {
	all, err := m.records()
	if err != nil {
		return record{}, err
	}
	if i := slices.IndexFunc(all, func(r record) bool { return r.Name == name || r.ID == name }); i >= 0 {
		return all[i], nil
	}
	var found []record
	for _, r := range all {
		if name != "" && strings.HasPrefix(r.ID, name) {
			found = append(found, r)
		}
	}
	switch len(found) {
	case 1:
		return found[0], nil
	case 0:
		return record{}, fmt.Errorf("cannot find network %s: %w", name, ErrNotFound)
	}
	return record{}, fmt.Errorf("cannot find network %s: %d networks have an ID that starts so", name, len(found))
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

// Get returns a network by name, ID or unique start of an ID; [ErrNotFound] when
// there is none.
func (m *Manager) Get(name string) (Network, error) {
	r, err := m.find(name)
	return r.Network, err
}

// Ensure makes the network so in the kernel: bridge, addresses, sysctls and
// firewall. What is so already stays.
func (m *Manager) Ensure(ctx context.Context, name string) (Network, error) {
	r, err := m.find(name)
	if err != nil {
		return r.Network, err
	}
	if !r.isBridge() {
		return r.Network, nil
	}
	err = m.locked(ctx, func() error {
		if _, err := m.record(r.ID); err != nil {
			return err // removed meanwhile
		}
		return m.ensure(r)
	})
	if err != nil {
		return r.Network, fmt.Errorf("cannot set up network %s: %w", r.Name, err)
	}
	return r.Network, nil
}

const aliasPrefix = "stack "

// ensure is Ensure under the lock.
func (m *Manager) ensure(r record) error {
	s, err := link.Open()
	if err != nil {
		return err
	}
	defer s.Close()
	info, err := s.Find(r.Bridge)
	made := errors.Is(err, unix.ENODEV)
	if made {
		mac, _ := net.ParseMAC(r.MAC)
		var b link.Batch
		b.AddBridge(r.Bridge, mac, r.mtu())
		b.SetAlias(r.Bridge, aliasPrefix+r.ID)
		if err := s.Do(&b); err != nil {
			return err
		}
		info, err = s.Find(r.Bridge)
	} else if err == nil && info.Alias != aliasPrefix+r.ID {
		return fmt.Errorf("link %s exists and belongs to somebody else; remove it or choose another %s", r.Bridge, OptBridgeName)
	}
	if err != nil {
		return err
	}
	undo := func(err error) error {
		if made {
			var b link.Batch
			b.DeleteLink(r.Bridge)
			err = errors.Join(err, s.Do(&b))
		}
		return err
	}
	if err := m.bridgeSysctls(r); err != nil {
		return undo(err)
	}
	var b link.Batch
	b.Up(r.Bridge)
	if r.IPv4.IsValid() {
		b.AddAddress(info.Index, netip.PrefixFrom(r.Gateway4, r.IPv4.Bits()))
	}
	if r.IPv6.IsValid() {
		b.AddAddress(info.Index, netip.PrefixFrom(r.Gateway6, r.IPv6.Bits()))
	}
	if err := s.Do(&b); err != nil {
		return undo(err)
	}
	if err := m.table.Ensure(r.firewall().Elements()); err != nil {
		return undo(err)
	}
	if err := nft.AcceptForward(m.acceptedLinks(r)); err != nil {
		m.o.Logf("network %s: %v", r.Name, err)
	}
	if chain, drops := forwardDrops(made); drops {
		m.o.Logf("network %s: the firewall's chain %s drops forwarded packets by default; containers reach other hosts only if it accepts those of links st%s-*",
			r.Name, chain, m.o.Instance)
	}
	if !r.Internal {
		if err := m.forwarding(r); err != nil {
			return undo(err)
		}
	}
	m.mu.Lock()
	m.ready[r.ID] = info.Index
	m.mu.Unlock()
	return nil
}

// acceptedLinks are the link name patterns that other firewalls should let pass:
// all bridges of the instance, and one that the user named.
func (m *Manager) acceptedLinks(r record) []nft.LinkPattern {
	p := []nft.LinkPattern{{Name: "st" + m.o.Instance + "-", Prefix: true}}
	if !strings.HasPrefix(r.Bridge, p[0].Name) {
		p = append(p, nft.LinkPattern{Name: r.Bridge})
	}
	return p
}

func (m *Manager) bridgeSysctls(r record) error {
	conf4, conf6 := "net/ipv4/conf/"+r.Bridge+"/", "net/ipv6/conf/"+r.Bridge+"/"
	var err error
	if !r.Internal {
		// For 127.0.0.1:PORT on the host; package nft guards what this opens.
		err = link.WriteSysctl(conf4+"route_localnet", "1")
	}
	if !hostHasIPv6() {
		return err
	}
	if !r.IPv6.IsValid() {
		return errors.Join(err, link.WriteSysctl(conf6+"disable_ipv6", "1"))
	}
	return errors.Join(err,
		link.WriteSysctl(conf6+"disable_ipv6", "0"), // a host may have it off by default
		link.WriteSysctl(conf6+"accept_dad", "0"),
		link.WriteSysctl(conf6+"accept_ra", "0"))
}

// forwarding lets the host route between the bridge and the world.
func (m *Manager) forwarding(r record) error {
	if r.IPv4.IsValid() {
		if err := m.switchOn("net.ipv4.ip_forward"); err != nil {
			return err
		}
	}
	if !r.IPv6.IsValid() {
		return nil
	}
	const all = "net.ipv6.conf.all.forwarding"
	if v, err := link.ReadSysctl(all); err != nil || v != "0" {
		return err
	}
	// A host that forwards takes no router advertisements, unless told so
	// (accept_ra=2, see ip-sysctl): keep the interfaces that live by them alive.
	links, _ := os.ReadDir("/proc/sys/net/ipv6/conf")
	for _, l := range links {
		key := "net/ipv6/conf/" + l.Name() + "/accept_ra"
		if v, _ := link.ReadSysctl(key); v == "1" {
			if err := link.WriteSysctl(key, "2"); err != nil {
				m.o.Logf("network %s: %v", r.Name, err)
			}
		}
	}
	return m.switchOn(all)
}

func (m *Manager) switchOn(key string) error {
	v, err := link.ReadSysctl(key)
	if err != nil || v != "0" {
		return err
	}
	if err := link.WriteSysctl(key, "1"); err != nil {
		return fmt.Errorf("%w; containers cannot reach other hosts without it", err)
	}
	m.o.Logf("sysctl %s is now 1, for containers to reach other hosts", key)
	return nil
}

// Users names the containers attached to a network.
func (m *Manager) Users(name string) ([]string, error) {
	r, err := m.find(name)
	if err != nil {
		return nil, err
	}
	return m.users(r.ID)
}

func (m *Manager) users(networkID string) ([]string, error) {
	endpoints, err := m.endpoints()
	if err != nil {
		return nil, err
	}
	var users []string
	for _, e := range endpoints {
		if slices.ContainsFunc(e.Links, func(l Link) bool { return l.NetworkID == networkID }) {
			users = append(users, e.Spec.owner())
		}
	}
	slices.Sort(users)
	return slices.Compact(users), nil
}

// Remove deletes networks that nobody uses; with users it fails ([ErrInUse]),
// names them and leaves that network alone. Several at once cost the kernel
// little more than one.
func (m *Manager) Remove(ctx context.Context, names ...string) error {
	var records []record
	var errs []error
	for _, name := range names {
		r, err := m.find(name)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		records = append(records, r)
	}
	err := m.locked(ctx, func() error {
		var unused []record
		for _, r := range records {
			users, err := m.users(r.ID)
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
		if err := m.takeDown(unused); err != nil {
			return fmt.Errorf("cannot remove networks: %w", err)
		}
		for _, r := range unused {
			if err := errors.Join(os.RemoveAll(m.nameDir(r.ID)), removeEmpty(filepath.Dir(m.nameDir(r.ID))),
				removeFile(m.leasePath(r.ID)), removeFile(filepath.Join(m.networkDir(), r.ID+".json"))); err != nil {
				errs = append(errs, fmt.Errorf("cannot remove network %s: %w", r.Name, err))
			}
		}
		return nil
	})
	return errors.Join(append(errs, err)...)
}

func removeEmpty(dir string) error {
	if err := os.Remove(dir); err != nil && !errors.Is(err, os.ErrNotExist) && !errors.Is(err, unix.ENOTEMPTY) {
		return err
	}
	return nil
}

// takeDown removes the kernel's part of networks.
func (m *Manager) takeDown(records []record) error {
	s, err := link.Open()
	if err != nil {
		return err
	}
	defer s.Close()
	var b link.Batch
	var elements []nft.Element
	group := link.NewGroup()
	for _, r := range records {
		if !r.isBridge() {
			continue
		}
		elements = append(elements, r.firewall().Elements()...)
		if info, err := s.Find(r.Bridge); err == nil && info.Alias == aliasPrefix+r.ID {
			b.SetGroup(r.Bridge, group)
		}
		if own := m.acceptedLinks(r)[1:]; len(own) > 0 {
			if err := nft.UnacceptForward(own); err != nil {
				m.o.Logf("network %s: %v", r.Name, err)
			}
		}
	}
	if b.Len() > 0 {
		b.DeleteGroup(group)
		if err := s.Do(&b); err != nil {
			return err
		}
	}
	if len(elements) == 0 {
		return nil
	}
	left, err := m.table.Bridges()
	if err != nil {
		return err
	}
	left = slices.DeleteFunc(left, func(bridge string) bool {
		return slices.ContainsFunc(records, func(r record) bool { return r.Bridge == bridge })
	})
	if len(left) > 0 {
		return m.table.Delete(elements)
	}
	if err := nft.UnacceptForward(m.acceptedLinks(records[0])[:1]); err != nil {
		m.o.Logf("firewall: %v", err)
	}
	return m.table.Remove()
}

// forwardDrops looks for a firewall in the way when a bridge is new.
func forwardDrops(fresh bool) (chain string, drops bool) {
	if !fresh {
		return "", false
	}
	return nft.DropsForward()
}
