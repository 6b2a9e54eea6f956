package netns

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/stack-run/stack/internal/durable"
	"github.com/stack-run/stack/internal/glob"
	"github.com/stack-run/stack/netns/dns"
	"github.com/stack-run/stack/netns/link"
	"github.com/stack-run/stack/netns/nft"
	"golang.org/x/sys/unix"
)

// ResolverOptions say for whom a resolver answers.
type ResolverOptions struct {
	// Owner is the project. Its names on each network are published in a file, so
	// that the resolvers of other projects on a shared network know them.
	Owner string
}

// Entry is an endpoint whose names are answered.
type Entry struct {
	Endpoint *Endpoint
	// NotReady endpoints are answered only when no endpoint of the name is ready.
	NotReady bool
}

// Resolver answers names inside the namespaces of endpoints. Its methods may be
// called concurrently.
type Resolver struct {
	m      *Manager
	owner  string
	server *dns.Server
	conf   *dns.File
	zones  *zones

	mu      sync.Mutex
	serving map[string]*serving // by endpoint ID
	unwatch context.CancelFunc  // ends watching the firewall
}

type serving struct {
	udp  *net.UDPConn
	tcp  *net.TCPListener
	view atomic.Pointer[dns.View]
}

// NewResolver returns a resolver that serves nobody yet.
func (m *Manager) NewResolver(o ResolverOptions) *Resolver {
	if o.Owner == "" {
		o.Owner = "default"
	}
	owner := url.PathEscape(o.Owner) + ".json"
	z := &zones{m: m, file: owner, own: map[string][]dns.Record{}, cache: map[string]cachedZone{}}
	// Who serves names lives as long as the containers, and so is there when somebody
	// flushes the firewall.
	ctx, unwatch := context.WithCancel(context.Background())
	go m.watchFirewalls(ctx)
	return &Resolver{
		m: m, owner: owner, zones: z, unwatch: unwatch,
		server:  &dns.Server{Zones: z, Forward: dns.NewForwarder()},
		conf:    dns.NewFile(m.o.ResolvConf),
		serving: map[string]*serving{},
	}
}

// Serve answers in the endpoint's namespace, on 127.0.0.11. sockets are those of
// an earlier Serve, kept open by another process: questions that came while
// nobody served wait in them and are answered now. Without them new ones are
// opened; opened are duplicates for the other process to keep. The caller closes
// sockets and opened. Endpoints without networks of their own need no resolver:
// for them nothing happens.
func (r *Resolver) Serve(_ context.Context, e *Endpoint, sockets []*os.File) (opened []*os.File, err error) {
	if e.Shared || len(e.Links) == 0 {
		return nil, nil
	}
	r.Stop(e.Spec.ID)
	s := &serving{}
	s.view.Store(r.view(e))
	defer func() {
		if err != nil {
			s.close()
			err = fmt.Errorf("cannot serve names to %s: %w", e.Spec.Subject(), err)
		}
	}()
	for _, f := range sockets {
		if err := s.adopt(f); err != nil {
			return nil, err
		}
	}
	newUDP, newTCP := s.udp == nil, s.tcp == nil
	if newUDP || newTCP {
		if err := link.Enter(e.NetNS, func(int) error { return s.open() }); err != nil {
			return nil, err
		}
	}
	if newUDP {
		f, err := s.udp.File()
		if err != nil {
			return nil, err
		}
		opened = append(opened, f)
	}
	if newTCP {
		f, err := s.tcp.File()
		if err != nil {
			return nil, err
		}
		opened = append(opened, f)
	}
	r.mu.Lock()
	r.serving[e.Spec.ID] = s
	r.mu.Unlock()
	go r.server.ServeUDP(s.udp, s.view.Load)
	go r.server.ServeTCP(s.tcp, s.view.Load)
	return opened, nil
}

// Update tells of changed networks of an endpoint that is served.
func (r *Resolver) Update(e *Endpoint) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if s := r.serving[e.Spec.ID]; s != nil {
		s.view.Store(r.view(e))
	}
}

// Stop ends serving an endpoint. Its sockets live on where they were duplicated.
func (r *Resolver) Stop(endpointID string) {
	r.mu.Lock()
	s := r.serving[endpointID]
	delete(r.serving, endpointID)
	r.mu.Unlock()
	if s != nil {
		s.close()
	}
}

// Close ends serving all endpoints. The published names stay until
// [Resolver.SetTable] says otherwise.
func (r *Resolver) Close() {
	r.mu.Lock()
	all := r.serving
	r.serving = map[string]*serving{}
	r.mu.Unlock()
	r.unwatch()
	for _, s := range all {
		s.close()
	}
}

func (s *serving) close() {
	if s.udp != nil {
		_ = s.udp.Close()
	}
	if s.tcp != nil {
		_ = s.tcp.Close()
	}
}

func (s *serving) adopt(f *os.File) error {
	kind, err := unix.GetsockoptInt(int(f.Fd()), unix.SOL_SOCKET, unix.SO_TYPE)
	if err != nil {
		return fmt.Errorf("cannot adopt socket: %w", err)
	}
	if kind == unix.SOCK_DGRAM {
		c, err := net.FilePacketConn(f)
		if err != nil {
			return fmt.Errorf("cannot adopt socket: %w", err)
		}
		udp, ok := c.(*net.UDPConn)
		if !ok || s.udp != nil {
			return errors.Join(errors.New("cannot adopt socket: not one UDP socket"), c.Close())
		}
		s.udp = udp
		return nil
	}
	l, err := net.FileListener(f)
	if err != nil {
		return fmt.Errorf("cannot adopt socket: %w", err)
	}
	tcp, ok := l.(*net.TCPListener)
	if !ok || s.tcp != nil {
		return errors.Join(errors.New("cannot adopt socket: not one TCP listener"), l.Close())
	}
	s.tcp = tcp
	return nil
}

// open opens what is missing, on a thread inside the namespace. Where the usual
// port is taken by the container the kernel chooses another.
func (s *serving) open() error {
	addr := netip.AddrFrom4(resolverAddress)
	var err error
	if s.udp == nil {
		s.udp, err = net.ListenUDP("udp4", net.UDPAddrFromAddrPort(netip.AddrPortFrom(addr, resolverPort)))
		if errors.Is(err, unix.EADDRINUSE) {
			s.udp, err = net.ListenUDP("udp4", net.UDPAddrFromAddrPort(netip.AddrPortFrom(addr, 0)))
		}
		if err != nil {
			return err
		}
	}
	if s.tcp == nil {
		s.tcp, err = net.ListenTCP("tcp4", net.TCPAddrFromAddrPort(netip.AddrPortFrom(addr, resolverPort)))
		if errors.Is(err, unix.EADDRINUSE) {
			s.tcp, err = net.ListenTCP("tcp4", net.TCPAddrFromAddrPort(netip.AddrPortFrom(addr, 0)))
		}
		if err != nil {
			return err
		}
	}
	udp := s.udp.LocalAddr().(*net.UDPAddr).AddrPort().Port()
	tcp := s.tcp.Addr().(*net.TCPAddr).AddrPort().Port()
	if udp == resolverPort && tcp == resolverPort {
		return nil // as Attach set it up
	}
	return nft.Apply(nft.Resolver(resolverTable, resolverAddress, udp, tcp))
}

// view is what an endpoint's container sees.
func (r *Resolver) view(e *Endpoint) *dns.View {
	v := &dns.View{Synonyms: synonyms(e)}
	for _, l := range e.Links {
		v.Networks = append(v.Networks, dns.Network{Name: l.Network, ID: l.NetworkID})
		if l.IPv4.IsValid() {
			v.Subnets = append(v.Subnets, netip.PrefixFrom(l.IPv4, l.Bits4).Masked())
		}
		if l.IPv6.IsValid() {
			v.Subnets = append(v.Subnets, netip.PrefixFrom(l.IPv6, l.Bits6).Masked())
		}
	}
	for _, a := range hostAddrs(e, nil) {
		if a.Is4() {
			v.Gateway4 = a
		} else {
			v.Gateway6 = a
		}
	}
	own := slices.DeleteFunc(slices.Clone(e.Spec.DNS), func(a netip.Addr) bool { return a == netip.AddrFrom4(resolverAddress) }) // ourselves
	hosts := len(own) == 0
	inside := e.Outlet(false) == nil && e.Outlet(true) == nil
	if inside {
		// No way out: only servers inside.
		own = slices.DeleteFunc(own, func(a netip.Addr) bool {
			return !a.IsLoopback() && !slices.ContainsFunc(v.Subnets, func(p netip.Prefix) bool { return p.Contains(a) })
		})
	}
	switch {
	case len(own) > 0:
		// The user's own servers are asked from where the container is: they may be on
		// its loopback, or behind a tunnel that ends there.
		route := dns.Route{Servers: dns.Servers(own), Dial: dialInside(e.NetNS, !inside), Scope: e.Spec.ID}
		v.Upstreams = func() dns.Route { return route }
	case !inside && hosts:
		v.Upstreams = func() dns.Route { return dns.Route{Servers: dns.Servers(r.conf.Config().Nameservers)} }
	}
	return v
}

// synonyms are the names that a container alone knows.
func synonyms(e *Endpoint) map[string][]dns.Synonym {
	out := map[string][]dns.Synonym{}
	add := func(names []Synonym, network string) {
		for _, y := range names {
			to := dns.Synonym{Name: y.Of, Network: network}
			if service, ok := strings.CutPrefix(y.Of, "service:"); ok {
				project, _, _ := strings.Cut(e.Spec.Key, "/")
				to = dns.Synonym{Service: project + "/" + service, Network: network}
			}
			// Of a name that is given twice the last one counts, as in Docker.
			name := dns.Canonical(y.Name)
			out[name] = append(slices.DeleteFunc(out[name], func(s dns.Synonym) bool { return s.Network == network }), to)
		}
	}
	add(e.Spec.Synonyms, "")
	for _, l := range e.Links {
		add(e.Attachment(l.Network).Links, l.NetworkID)
	}
	return out
}

// dialInside connects from the network namespace of a pin. With a way out a server
// that has no route from there, such as an IPv6 one of a container with IPv4 only,
// is asked from the host.
func dialInside(pin string, out bool) func(ctx context.Context, network, address string) (net.Conn, error) {
	return func(ctx context.Context, network, address string) (conn net.Conn, err error) {
		var d net.Dialer
		err = link.Enter(pin, func(int) error {
			conn, err = d.DialContext(ctx, network, address)
			return err
		})
		if out && (errors.Is(err, unix.ENETUNREACH) || errors.Is(err, unix.EADDRNOTAVAIL) || errors.Is(err, unix.EAFNOSUPPORT)) {
			if a, perr := netip.ParseAddrPort(address); perr == nil && !a.Addr().IsLoopback() {
				return d.DialContext(ctx, network, address)
			}
		}
		return conn, err
	}
}

// SetTable replaces all names of the resolver's owner: those of the given
// endpoints, on each of their networks. It costs little when nothing changed.
func (r *Resolver) SetTable(entries []Entry) error {
	table := map[string][]dns.Record{}
	for _, en := range entries {
		e := en.Endpoint
		if e == nil || e.Shared {
			continue
		}
		for _, l := range e.Links {
			names := slices.Concat(e.Spec.Names, l.Aliases, []string{e.Spec.Hostname, short(e.Spec.ID)})
			rec := dns.Record{
				Names: slices.DeleteFunc(names, func(s string) bool { return s == "" }),
				IPv4:  l.IPv4, IPv6: l.IPv6, NotReady: en.NotReady, EndpointID: e.Spec.ID, Service: e.Spec.Service(),
			}
			if len(e.Spec.Names) > 0 {
				rec.Reverse = e.Spec.Names[0]
			}
			table[l.NetworkID] = append(table[l.NetworkID], rec)
		}
	}
	return r.zones.set(table)
}

// zones are the names of all networks: our own from memory, those of other
// owners from their files.
type zones struct {
	m    *Manager
	file string // our own file's name in each network's directory

	mu      sync.Mutex
	own     map[string][]dns.Record
	written map[string]string // content of our files, by network
	cache   map[string]cachedZone
}

type cachedZone struct {
	zone    *dns.Zone
	changed time.Time // of the directory
	settled bool      // it was old enough for a later change to have another time
}

// grain is more than the grain of file times.
const grain = 20 * time.Millisecond

func (z *zones) set(table map[string][]dns.Record) error {
	z.mu.Lock()
	defer z.mu.Unlock()
	z.own = table
	clear(z.cache)
	if z.written == nil {
		z.written = map[string]string{}
		for _, dir := range z.dirs() { // of an earlier process
			z.written[filepath.Base(dir)] = ""
		}
	}
	var errs []error
	for id, records := range table {
		b := string(mustJSON(records))
		if z.written[id] == b {
			continue
		}
		dir := z.m.nameDir(id)
		var err error
		for range 3 { // another owner may remove the directory, which was empty
			if err = os.MkdirAll(dir, 0o700); err == nil {
				err = durable.WriteVolatile(filepath.Join(dir, z.file), []byte(b), 0o600)
			}
			if !errors.Is(err, os.ErrNotExist) {
				break
			}
		}
		if err == nil {
			z.written[id] = b
		}
		errs = append(errs, err)
	}
	for id := range z.written {
		if _, ok := table[id]; ok {
			continue
		}
		dir := z.m.nameDir(id)
		errs = append(errs, removeFile(filepath.Join(dir, z.file)), removeEmpty(dir), removeEmpty(filepath.Dir(dir)))
		delete(z.written, id)
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("cannot publish names: %w", err)
	}
	return nil
}

// dirs are the directories of networks that have a file of ours.
func (z *zones) dirs() []string {
	found, _ := glob.In(filepath.Dir(z.m.nameDir("x")), "*/"+z.file)
	for i, f := range found {
		found[i] = filepath.Dir(f)
	}
	return found
}

// Zone implements [dns.Zones].
func (z *zones) Zone(networkID string) *dns.Zone {
	dir := z.m.nameDir(networkID)
	var changed time.Time
	if st, err := os.Stat(dir); err == nil {
		changed = st.ModTime()
	}
	z.mu.Lock()
	defer z.mu.Unlock()
	c, ok := z.cache[networkID]
	if ok && c.settled && c.changed.Equal(changed) {
		return c.zone
	}
	records := slices.Clone(z.own[networkID])
	settled := time.Since(changed) > grain
	entries, _ := os.ReadDir(dir)
	for _, e := range entries {
		if e.Name() == z.file || !strings.HasSuffix(e.Name(), ".json") {
			continue
		}
		var others []dns.Record
		if b, err := os.ReadFile(filepath.Join(dir, e.Name())); err == nil && json.Unmarshal(b, &others) == nil {
			records = append(records, others...)
		}
	}
	c = cachedZone{zone: dns.NewZone(records), changed: changed, settled: settled}
	z.cache[networkID] = c
	return c.zone
}
