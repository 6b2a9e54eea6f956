// Package dns answers the names of a network's containers and forwards all
// other questions. It knows nothing of containers: names come as [Zone], what
// one client may see as [View].
package dns

import (
	"net/netip"
	"slices"
	"strings"
)

// TTL is the time to live of our answers, in seconds. It is short because a
// container may be replaced at any time, and many clients keep what they get.
const TTL = 1

// Record is one container on one network.
type Record struct {
	// Names are found without regard to case, with and without ".<network>".
	Names      []string   `json:"names"`
	IPv4       netip.Addr `json:"ipv4,omitzero"`
	IPv6       netip.Addr `json:"ipv6,omitzero"`
	NotReady   bool       `json:"notReady,omitempty"`
	Service    string     `json:"service,omitempty"` // what synonyms may stand for, no name by itself
	Reverse    string     `json:"reverse,omitempty"` // what reverse look-ups answer, without the network
	EndpointID string     `json:"endpoint,omitempty"`
}

// Zone is the names of one network. It is immutable.
type Zone struct {
	names    map[string][]Record
	services map[string][]Record
	reverse  map[netip.Addr]string
}

// NewZone indexes the records of a network.
func NewZone(records []Record) *Zone {
	z := &Zone{names: map[string][]Record{}, services: map[string][]Record{}, reverse: map[netip.Addr]string{}}
	for _, r := range records {
		if r.Service != "" {
			z.services[r.Service] = append(z.services[r.Service], r)
		}
		for i, n := range r.Names {
			n = Canonical(n)
			if n == "" || slices.ContainsFunc(r.Names[:i], func(o string) bool { return Canonical(o) == n }) {
				continue
			}
			z.names[n] = append(z.names[n], r)
		}
		name := r.Reverse
		if name == "" && len(r.Names) > 0 {
			name = r.Names[0]
		}
		for _, a := range []netip.Addr{r.IPv4, r.IPv6} {
			if a.IsValid() && name != "" {
				z.reverse[a] = name
			}
		}
	}
	return z
}

// find returns the records of a name. Of several only those that are ready
// are returned, unless none is.
func (z *Zone) find(name string) []Record { return readyOf(z.names[name]) }

func readyOf(all []Record) []Record {
	ready := 0
	for _, r := range all {
		if !r.NotReady {
			ready++
		}
	}
	if ready == 0 || ready == len(all) {
		return all
	}
	return slices.DeleteFunc(slices.Clone(all), func(r Record) bool { return r.NotReady })
}

// Zones finds the zone of a network by its ID, nil when there is none.
type Zones interface {
	Zone(networkID string) *Zone
}

// Network is a network of a client.
type Network struct{ Name, ID string }

// Synonym is a name that a client has for others on its networks, or on the one with
// an ID: those of a service, or else those of another name.
type Synonym struct{ Service, Name, Network string }

// View is what one client sees. It is immutable.
type View struct {
	// Synonyms are found before all other names, by their canonical ones; of several for
	// a name the first that stands for anybody.
	Synonyms map[string][]Synonym
	// Networks are those of the client, the first one with a name wins.
	Networks []Network
	Subnets  []netip.Prefix
	// Gateway4 and Gateway6 are the addresses of host.docker.internal.
	Gateway4, Gateway6 netip.Addr
	// Upstreams is the way to the servers that other questions go to. With none they
	// are refused: NXDOMAIN.
	Upstreams func() Route
}

// Canonical is a name in lower case without the final dot.
func Canonical(name string) string {
	return strings.ToLower(strings.TrimSuffix(name, "."))
}

// isHostName says which names are answered with the network's gateway, which is the host.
func isHostName(name string) bool {
	switch name {
	case "host.docker.internal", "gateway.docker.internal", "host.containers.internal", "host.stack.internal":
		return true
	}
	return false
}

// lookup finds a canonical name. known is true when the name is ours to answer,
// though it may have no address of the asked family, and inside when it lies
// below a network's name, so that nobody else can know it.
func (v *View) lookup(zones Zones, name string) (found []Record, known, inside bool) {
	if isHostName(name) {
		return []Record{{IPv4: v.Gateway4, IPv6: v.Gateway6}}, true, false
	}
	if all, ok := v.Synonyms[name]; ok {
		// Whom it stands for may not run, or be on none of the networks. It is no name
		// for the world even then.
		for _, s := range all {
			if found = v.synonym(zones, s); len(found) > 0 {
				break
			}
		}
		return found, len(found) > 0, true
	}
	for _, n := range v.Networks {
		z := zones.Zone(n.ID)
		if z == nil {
			continue
		}
		if r := z.find(name); len(r) > 0 {
			return r, true, false
		}
		if short, ok := strings.CutSuffix(name, "."+Canonical(n.Name)); ok {
			inside = true
			if r := z.find(short); len(r) > 0 {
				return r, true, true
			}
		}
	}
	return nil, false, inside
}

// synonym finds the records that one stands for, on the first network that has any.
func (v *View) synonym(zones Zones, s Synonym) []Record {
	for _, n := range v.Networks {
		z := zones.Zone(n.ID)
		if z == nil || s.Network != "" && s.Network != n.ID {
			continue
		}
		found := z.find(Canonical(s.Name))
		if s.Service != "" {
			found = readyOf(z.services[s.Service])
		}
		if len(found) > 0 {
			return found
		}
	}
	return nil
}

// pointer finds the name of an address. own says that the address lies in one of
// the client's networks, so that nobody else can know it.
func (v *View) pointer(zones Zones, a netip.Addr) (name string, own bool) {
	if a == v.Gateway4 || a == v.Gateway6 {
		return "host.docker.internal", true
	}
	for _, n := range v.Networks {
		if z := zones.Zone(n.ID); z != nil {
			if name, ok := z.reverse[a]; ok {
				return name + "." + n.Name, true
			}
		}
	}
	return "", slices.ContainsFunc(v.Subnets, func(p netip.Prefix) bool { return p.Contains(a) })
}

// arpaAddr is the address of a name such as 2.0.16.172.in-addr.arpa.
func arpaAddr(name string) (netip.Addr, bool) {
	if s, ok := strings.CutSuffix(name, ".in-addr.arpa"); ok {
		parts := strings.Split(s, ".")
		slices.Reverse(parts)
		a, err := netip.ParseAddr(strings.Join(parts, "."))
		return a, err == nil && a.Is4()
	}
	if s, ok := strings.CutSuffix(name, ".ip6.arpa"); ok && len(s) == 63 {
		var b strings.Builder
		for i := 62; i >= 0; i -= 2 {
			b.WriteByte(s[i])
			if i > 0 && (62-i)/2%4 == 3 {
				b.WriteByte(':')
			}
		}
		a, err := netip.ParseAddr(b.String())
		return a, err == nil
	}
	return netip.Addr{}, false
}
