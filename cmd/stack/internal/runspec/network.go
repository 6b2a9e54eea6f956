package runspec

import (
	"encoding/csv"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/stack-run/stack/engine"
	"github.com/stack-run/stack/netns"
)

// DefaultNetwork is what a container without --network is on, as in Docker.
const DefaultNetwork = "bridge"

// Link reads a value of --link.
func Link(text string) (netns.Synonym, error) {
	target, alias, ok := strings.Cut(text, ":")
	if !ok {
		alias = target
	}
	if target == "" || alias == "" {
		return netns.Synonym{}, errors.New("write CONTAINER or CONTAINER:ALIAS")
	}
	return netns.Synonym{Name: alias, Of: target}, nil
}

// network fills in the container's endpoint.
func (b *builder) network(s *engine.Spec) {
	f := b.f
	e := netns.EndpointSpec{
		Key: s.Name, Names: []string{s.Name}, Hostname: f.Hostname,
		DNSSearch: f.DNSSearch, DNSOptions: f.DNSOption, Owner: "container " + s.Name,
	}
	for _, text := range f.DNS {
		e.DNS = append(e.DNS, b.address("dns", text))
	}
	for _, text := range f.AddHost {
		e.ExtraHosts = append(e.ExtraHosts, b.extraHost(text))
	}
	for _, text := range f.Network {
		a, mode := b.attachment(text)
		if mode != "" {
			e.Mode = mode
			continue
		}
		e.Networks = append(e.Networks, a)
	}
	if e.Mode != "" && len(f.Network) > 1 {
		b.fail("network", strings.Join(f.Network, ", "), "%s cannot be combined with other networks", e.Mode)
	}
	if e.Mode == "" && len(e.Networks) == 0 {
		e.Networks = []netns.Attachment{{Network: DefaultNetwork}}
	}
	for _, text := range f.Link {
		link, err := Link(text)
		if err != nil {
			b.fail("link", text, "%v", err)
		}
		e.Synonyms = append(e.Synonyms, link)
	}
	if e.Mode != "" && len(e.Synonyms) > 0 {
		b.fail("link", f.Link[0], "a container with --network %s has no names of its own", e.Mode)
	}
	// These flags are about the first network.
	if f.IP != "" || f.IP6 != "" || f.MACAddress != "" || len(f.NetworkAlias) > 0 || len(f.LinkLocalIP) > 0 {
		if len(e.Networks) == 0 {
			b.fail("network", f.Network[0], "--ip, --ip6, --mac-address and --network-alias need a network of one's own")
			e.Networks = []netns.Attachment{{}}
		}
		a := &e.Networks[0]
		a.Aliases = append(a.Aliases, f.NetworkAlias...)
		if f.IP != "" {
			a.IPv4 = b.address("ip", f.IP)
		}
		if f.IP6 != "" {
			a.IPv6 = b.address("ip6", f.IP6)
		}
		if f.MACAddress != "" {
			a.MAC = f.MACAddress
		}
		for _, text := range f.LinkLocalIP {
			a.LinkLocal = append(a.LinkLocal, b.address("link-local-ip", text))
		}
	}
	for _, text := range f.Publish {
		ports, err := ParsePublish(text)
		if err != nil {
			b.fail("publish", text, "%v", err)
		}
		e.Ports = append(e.Ports, ports...)
	}
	if e.Mode != "" {
		e.Names = nil
	}
	if strings.HasPrefix(e.Mode, "container:") && f.Hostname != "" {
		b.fail("hostname", f.Hostname, "the container has that of the one whose network it uses; set it there")
	}
	for key, value := range s.Isolation.Sysctls {
		if strings.HasPrefix(key, "net.") {
			if e.Sysctls == nil {
				e.Sysctls = map[string]string{}
			}
			e.Sysctls[key] = value
			delete(s.Isolation.Sysctls, key)
		}
	}
	s.Network = e
}

func (b *builder) address(flag, text string) netip.Addr {
	a, err := netip.ParseAddr(strings.Trim(text, "[]"))
	if err != nil {
		b.fail(flag, text, "it is no IP address")
	}
	return a
}

// extraHost reads NAME:ADDRESS and NAME=ADDRESS.
func (b *builder) extraHost(text string) netns.ExtraHost {
	name, addr, ok := strings.Cut(text, "=")
	if !ok {
		name, addr, ok = strings.Cut(text, ":")
	}
	addr = strings.Trim(addr, "[]")
	if _, err := netip.ParseAddr(addr); !ok || name == "" || err != nil && addr != "host-gateway" {
		b.fail("add-host", text, "write NAME:ADDRESS or NAME:host-gateway")
	}
	return netns.ExtraHost{Name: name, Addr: addr}
}

// attachment reads a network's name or its long form "name=NET,alias=A,ip=…".
func (b *builder) attachment(text string) (a netns.Attachment, mode string) {
	switch {
	case text == "host", text == "none", strings.HasPrefix(text, "container:"):
		return a, text
	case text == "bridge", text == "default":
		return netns.Attachment{Network: DefaultNetwork}, ""
	case !strings.Contains(text, "="):
		return netns.Attachment{Network: text}, ""
	}
	fields, err := csv.NewReader(strings.NewReader(text)).Read()
	if err != nil {
		b.fail("network", text, "%v", err)
	}
	for _, field := range fields {
		key, value, _ := strings.Cut(field, "=")
		switch strings.ToLower(key) {
		case "name":
			a.Network = value
		case "alias":
			a.Aliases = append(a.Aliases, value)
		case "ip":
			a.IPv4 = b.address("network", value)
		case "ip6":
			a.IPv6 = b.address("network", value)
		case "mac-address":
			a.MAC = value
		case "link-local-ip":
			a.LinkLocal = append(a.LinkLocal, b.address("network", value))
		case "driver-opt":
			k, v, _ := strings.Cut(value, "=")
			if k == "com.docker.network.endpoint.ifname" {
				a.Interface = v
			}
			if a.DriverOpts == nil {
				a.DriverOpts = map[string]string{}
			}
			a.DriverOpts[k] = v
		case "gw-priority":
			n, err := strconv.Atoi(value)
			if err != nil {
				b.fail("network", text, "gw-priority %q is no number", value)
			}
			a.GatewayPrio = n
		default:
			b.fail("network", text, "unknown key %q", key)
		}
	}
	if a.Network == "" {
		b.fail("network", text, "it has no name=")
	}
	return a, ""
}

// expose reads --expose PORT[-PORT][/PROTOCOL].
func (b *builder) expose() []string {
	var out []string
	for _, text := range b.f.Expose {
		ports, err := engine.ParseExpose(text)
		if err != nil {
			b.fail("expose", text, "%v", err)
		}
		out = append(out, ports...)
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// ParsePublish reads [[IP:]HOST[-HOST]:]CONTAINER[-CONTAINER][/PROTOCOL].
func ParsePublish(text string) ([]netns.Port, error) {
	const usage = "write [[IP:]HOST:]CONTAINER[/PROTOCOL]"
	rest, protocol, ok := strings.Cut(text, "/")
	if !ok {
		protocol = "tcp"
	}
	protocol = strings.ToLower(protocol)
	if protocol != "tcp" && protocol != "udp" && protocol != "sctp" {
		return nil, fmt.Errorf("unknown protocol %q; use tcp, udp or sctp", protocol)
	}
	var ip netip.Addr
	if i := strings.LastIndexByte(rest, ':'); i >= 0 && strings.Contains(rest[:i], ":") {
		// Two colons or more: everything before the last but one is the address.
		j := strings.LastIndexByte(rest[:i], ':')
		if host := strings.Trim(rest[:j], "[]"); host != "" {
			var err error
			if ip, err = netip.ParseAddr(host); err != nil {
				return nil, fmt.Errorf("%q is no IP address; %s", host, usage)
			}
		}
		rest = rest[j+1:]
	}
	host, container, ok := strings.Cut(rest, ":")
	if !ok {
		host, container = "", rest
	}
	first, last, err := portRange(container)
	if err != nil || first == 0 {
		return nil, fmt.Errorf("%q is no port; %s", container, usage)
	}
	hostFirst, hostLast := uint16(0), uint16(0)
	if host != "" {
		if hostFirst, hostLast, err = portRange(host); err != nil {
			return nil, fmt.Errorf("%q is no port; %s", host, usage)
		}
	}
	count, hostCount := last-first, hostLast-hostFirst
	var out []netns.Port
	for i := range int(count) + 1 {
		p := netns.Port{HostIP: ip, ContainerPort: first + uint16(i), Protocol: protocol}
		switch {
		case host == "" || hostFirst == 0:
		case hostCount == count:
			p.HostPort = hostFirst + uint16(i)
		case count == 0:
			p.HostPort, p.HostPortEnd = hostFirst, hostLast
		default:
			return nil, fmt.Errorf("the ranges %s and %s differ in length", host, container)
		}
		out = append(out, p)
	}
	return out, nil
}

func portRange(text string) (first, last uint16, err error) {
	low, high, ok := strings.Cut(text, "-")
	if !ok {
		high = low
	}
	a, err := strconv.ParseUint(low, 10, 16)
	if err != nil {
		return 0, 0, err
	}
	z, err := strconv.ParseUint(high, 10, 16)
	if err != nil {
		return 0, 0, err
	}
	if z < a {
		return 0, 0, fmt.Errorf("the range %s runs backwards", text)
	}
	return uint16(a), uint16(z), nil
}
