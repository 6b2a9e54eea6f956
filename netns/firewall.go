package netns

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strings"
	"time"

	"github.com/stack-run/stack/netns/nft"
)

// OptOpen is a driver option of a network: "true" lets other firewalls on the host
// accept what goes to its published ports, as Docker does. Otherwise these decide.
const OptOpen = "stack.firewall.open"

// linkPrefix starts the names of the instance's bridges.
func (m *Manager) linkPrefix() string { return "st" + m.o.Instance + "-" }

// acceptedLinks are the link name patterns that other firewalls should let pass:
// all bridges of the instance, and one that the user named or wants open.
func (m *Manager) acceptedLinks(r record) []nft.LinkPattern {
	p := []nft.LinkPattern{{Name: m.linkPrefix(), Prefix: true}}
	open := option(r.NetworkSpec, OptOpen, false)
	if !strings.HasPrefix(r.Bridge, p[0].Name) || open {
		p = append(p, nft.LinkPattern{Name: r.Bridge, Open: open})
	}
	return p
}

// passFirewalls lets containers of a network through the other firewalls.
func (m *Manager) passFirewalls(r record) {
	links := m.acceptedLinks(r)
	if err := errors.Join(nft.AcceptForward(links), m.legacyAccept(links)); err != nil {
		m.o.Logf("network %s: %v; containers may not reach other hosts", r.Name, err)
	}
}

func (m *Manager) leaveFirewalls(links []nft.LinkPattern) {
	if err := errors.Join(nft.UnacceptForward(links), m.legacyUnaccept(links)); err != nil {
		m.o.Logf("firewall: %v", err)
	}
}

// hintFirewall says which ports other hosts do not reach, and what admits them.
func (m *Manager) hintFirewall(e *Endpoint) {
	chains, err := nft.ForeignChains()
	if err != nil {
		return
	}
	for _, f := range chains {
		var commands []string
		for _, p := range e.Ports {
			for _, a := range p.Bindings() {
				out := e.Publisher(a.Is6())
				if out == nil || a.IsLoopback() {
					continue
				}
				if r, err := m.record(out.NetworkID); err != nil || option(r.NetworkSpec, OptOpen, false) {
					continue
				}
				target := netip.AddrPortFrom(out.IPv4, p.ContainerPort)
				if a.Is6() {
					target = netip.AddrPortFrom(out.IPv6, p.ContainerPort)
				}
				if !f.Admits(target) {
					commands = append(commands, f.Command(m.linkPrefix(), p.Transport(), p.HostPort, target))
				}
			}
		}
		if len(commands) == 0 {
			continue
		}
		more := ""
		if n := len(commands); n > 4 {
			commands, more = commands[:4], fmt.Sprintf(" and %d more", n-4)
		}
		e.Warn(fmt.Sprintf("the host's firewall (%s, chain %s) keeps other hosts from published ports; to admit them: %s%s; or open them as Docker does with the network's driver option %s: \"true\"",
			f.By, f, strings.Join(commands, "; "), more, OptOpen))
	}
}

// settle is how long changes of the firewall are left to end before they are
// looked at: a reload is many.
const settle = 100 * time.Millisecond

// legacyPoll is how often legacy iptables are looked at, which tell nobody of
// their changes.
const legacyPoll = 700 * time.Millisecond

// watchFirewalls puts back what others flush, until the context ends: our table,
// and our rules in theirs.
func (m *Manager) watchFirewalls(ctx context.Context) {
	changes, err := nft.Watch(ctx)
	if err != nil {
		m.o.Logf("%v; after a flush containers have no network until they start again", err)
		return
	}
	m.watched.Store(true)
	defer m.watched.Store(false)
	// What was flushed before is not told of.
	if err := m.restoreFirewall(ctx); err != nil && ctx.Err() == nil {
		m.o.Logf("cannot put the firewall's rules back: %v", err)
	}
	for {
		var poll <-chan time.Time
		if legacyTables() {
			poll = time.After(legacyPoll)
		}
		select {
		case _, ok := <-changes:
			if !ok {
				return
			}
			select {
			case <-time.After(settle):
			case <-ctx.Done():
				return
			}
			select {
			case <-changes:
			default:
			}
		case <-poll:
		case <-ctx.Done():
			return
		}
		if err := m.restoreFirewall(ctx); err != nil && ctx.Err() == nil {
			m.o.Logf("cannot put the firewall's rules back: %v", err)
		}
	}
}

// restoreFirewall puts back what is missing of our rules.
func (m *Manager) restoreFirewall(ctx context.Context) error {
	up, err := m.presentNetworks()
	if err != nil || len(up) == 0 {
		return err
	}
	current := m.table.Current()
	var links []nft.LinkPattern
	for _, r := range up {
		for _, l := range m.acceptedLinks(r) {
			if !slices.Contains(links, l) {
				links = append(links, l)
			}
		}
	}
	if current && nft.Accepted(links) && !legacyTables() {
		return nil
	}
	return m.locked(ctx, func() error {
		up, err := m.presentNetworks() // some may have gone meanwhile
		if err != nil || len(up) == 0 {
			return err
		}
		var errs []error
		if !m.table.Current() {
			errs = append(errs, m.restoreTable(up))
		}
		return errors.Join(append(errs, nft.AcceptForward(links), m.legacyAccept(links))...)
	})
}

// presentNetworks are those whose bridge is there.
func (m *Manager) presentNetworks() ([]record, error) {
	all, err := m.records()
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(all, func(r record) bool {
		if !r.IsBridge() {
			return true
		}
		_, err := net.InterfaceByName(r.Bridge)
		return err != nil
	}), nil
}

func (m *Manager) restoreTable(networks []record) error {
	var elements []nft.Element
	for _, r := range networks {
		elements = append(elements, firewallOf(r.Network).Elements()...)
	}
	endpoints, err := m.endpoints()
	if err != nil {
		return err
	}
	services := map[string][]*Endpoint{}
	for i := range endpoints {
		e := &endpoints[i]
		elements = append(elements, guards(&e.Endpoint, e.Links)...)
		if e.Published {
			service := cmp.Or(e.Spec.Service(), e.Spec.ID)
			services[service] = append(services[service], &e.Endpoint)
			elements = append(elements, m.anywhere(e.Ports)...)
		}
	}
	for _, replicas := range services {
		elements = append(elements, together(replicas...)...)
	}
	err = m.table.Ensure(distinct(elements))
	if nft.Balances(elements) {
		err = errors.Join(err, m.table.Balance())
	}
	return err
}

// Legacy iptables (without nf_tables) are apart from all that nft(8) sees. Their
// own programs change them.

// legacyTables reports whether the host has a legacy filter table.
func legacyTables() bool {
	for _, file := range []string{"ip_tables_names", "ip6_tables_names"} {
		b, _ := os.ReadFile("/proc/thread-self/net/" + file)
		if slices.Contains(strings.Fields(string(b)), "filter") {
			return true
		}
	}
	return false
}

// legacyPrograms are those whose filter table drops forwarded packets, and what
// its chain FORWARD has.
func legacyPrograms() (map[string]string, error) {
	out := map[string]string{}
	for program, file := range map[string]string{"iptables-legacy": "ip_tables_names", "ip6tables-legacy": "ip6_tables_names"} {
		b, _ := os.ReadFile("/proc/thread-self/net/" + file)
		if !slices.Contains(strings.Fields(string(b)), "filter") {
			continue
		}
		path, err := exec.LookPath(program)
		if err != nil {
			// On hosts that never had another one it has the plain name.
			if path, err = exec.LookPath(strings.TrimSuffix(program, "-legacy")); err != nil {
				return out, fmt.Errorf("the host has legacy iptables, but no program %s to change them", program)
			}
		}
		rules, err := exec.Command(path, "-w", "5", "-S", "FORWARD").Output()
		if err != nil {
			return out, fmt.Errorf("cannot list rules with %s: %w", path, err)
		}
		out[path] = string(rules)
	}
	return out, nil
}

func legacyRules(l nft.LinkPattern) [][]string {
	name := l.Name
	if l.Prefix {
		name += "+"
	}
	about := []string{"-m", "comment", "--comment", "stack: " + l.Name, "-j", "ACCEPT"}
	states := "RELATED,ESTABLISHED"
	if l.Open {
		states += ",DNAT"
	}
	return [][]string{
		append([]string{"-i", name}, about...),
		append([]string{"-o", name, "-m", "conntrack", "--ctstate", states}, about...),
	}
}

func (m *Manager) legacyAccept(links []nft.LinkPattern) error {
	if !legacyTables() {
		return nil
	}
	programs, err := legacyPrograms()
	errs := []error{err}
	for program, rules := range programs {
		if !strings.Contains(rules, "-P FORWARD DROP") {
			continue
		}
		for _, l := range links {
			for _, rule := range legacyRules(l) {
				if exec.Command(program, slices.Concat([]string{"-w", "5", "-C", "FORWARD"}, rule)...).Run() != nil {
					errs = append(errs, runLegacy(program, "-A", rule))
				}
			}
		}
	}
	return errors.Join(errs...)
}

func (m *Manager) legacyUnaccept(links []nft.LinkPattern) error {
	if !legacyTables() {
		return nil
	}
	programs, err := legacyPrograms()
	errs := []error{err}
	for program, rules := range programs {
		for _, l := range links {
			if strings.Contains(rules, `"stack: `+l.Name+`"`) {
				for _, rule := range legacyRules(l) {
					errs = append(errs, runLegacy(program, "-D", rule))
				}
			}
		}
	}
	return errors.Join(errs...)
}

func runLegacy(program, verb string, rule []string) error {
	if out, err := exec.Command(program, slices.Concat([]string{"-w", "5", verb, "FORWARD"}, rule)...).CombinedOutput(); err != nil {
		return fmt.Errorf("cannot change rules with %s: %w: %s", program, err, strings.TrimSpace(string(out)))
	}
	return nil
}
