package spec

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/compose-spec/compose-go/v2/types"
	"github.com/stack-run/stack/netns"
)

func (b *builder) network(d *Desired, key string, n types.NetworkConfig) {
	path := "networks." + key
	if n.External {
		d.Networks[key] = &Network{External: true, Spec: netns.NetworkSpec{Name: n.Name, Key: key}}
		for _, own := range []struct {
			attribute string
			set       bool
		}{
			{"attachable", n.Attachable}, {"driver", n.Driver != ""}, {"driver_opts", len(n.DriverOpts) > 0}, {"enable_ipv4", n.EnableIPv4 != nil}, {"enable_ipv6", n.EnableIPv6 != nil},
			{"internal", n.Internal}, {"ipam", n.Ipam.Driver != "" || len(n.Ipam.Config) > 0}, {"labels", len(n.Labels) > 0},
		} {
			if own.set {
				b.warn(path+"."+own.attribute, "has no effect: the network is external, made by others; remove it")
			}
		}
		return
	}
	spec := netns.NetworkSpec{
		Name:       n.Name,
		Project:    b.project.Name,
		Key:        key,
		Driver:     n.Driver,
		DriverOpts: maps.Clone(map[string]string(n.DriverOpts)),
		Internal:   n.Internal,
		Attachable: n.Attachable,
		Labels:     b.resourceLabels(n.Labels, LabelNetwork, key),
	}
	switch n.Driver {
	case "", "default", "bridge":
		spec.Driver = "bridge"
	case "host", "none", "macvlan", "ipvlan":
	default:
		b.fail(path+".driver", "network driver %q is not supported; use bridge, macvlan, ipvlan, host or none", n.Driver)
	}
	spec.DisableIPv4 = n.EnableIPv4 != nil && !*n.EnableIPv4
	// As with Docker, IPv6 is there for who asks: a program that listens on IPv4
	// alone would else not answer under its own name.
	if n.EnableIPv6 != nil {
		spec.DisableIPv6 = !*n.EnableIPv6
	} else {
		spec.DisableIPv6 = !slices.ContainsFunc(n.Ipam.Config, func(c *types.IPAMPool) bool { return c != nil && strings.Contains(c.Subnet, ":") })
	}
	if spec.DisableIPv4 && spec.DisableIPv6 {
		b.fail(path+".enable_ipv4", "a network needs IPv4 or IPv6; set one of enable_ipv4, enable_ipv6 to true")
	}
	switch n.Ipam.Driver {
	case "", "default":
	default:
		b.fail(path+".ipam.driver", "IPAM driver %q is not supported; remove it", n.Ipam.Driver)
	}
	for _, p := range netns.CheckOptions(spec) {
		b.optionProblem(path, p)
	}
	for i, c := range n.Ipam.Config {
		if c != nil {
			spec.Pools = append(spec.Pools, b.pool(fmt.Sprintf("%s.ipam.config[%d]", path, i), c))
		}
	}
	d.Networks[key] = &Network{Spec: spec}
}

// optionProblem tells of a driver option that is an error or has no effect.
func (b *builder) optionProblem(path string, p netns.OptionProblem) {
	path += ".driver_opts." + p.Key
	if p.Refused {
		b.fail(path, "%s", p.Text)
		return
	}
	b.warn(path, "%s", p.Text)
}

func (b *builder) pool(path string, c *types.IPAMPool) netns.Pool {
	var pool netns.Pool
	prefix := func(attribute, text string) netip.Prefix {
		if text == "" {
			return netip.Prefix{}
		}
		p, err := netip.ParsePrefix(text)
		if err != nil {
			b.fail(path+"."+attribute, "%q is no subnet; write it like 10.5.0.0/24", text)
			return netip.Prefix{}
		}
		return p.Masked()
	}
	pool.Subnet = prefix("subnet", c.Subnet)
	pool.Range = prefix("ip_range", c.IPRange)
	pool.Gateway = b.address(path+".gateway", c.Gateway)
	for _, name := range slices.Sorted(maps.Keys(c.AuxiliaryAddresses)) {
		if pool.Aux == nil {
			pool.Aux = map[string]netip.Addr{}
		}
		pool.Aux[name] = b.address(path+".aux_addresses."+name, c.AuxiliaryAddresses[name])
	}
	if pool.Subnet.IsValid() {
		if pool.Gateway.IsValid() && !pool.Subnet.Contains(pool.Gateway) {
			b.fail(path+".gateway", "gateway %s is outside of the subnet %s", pool.Gateway, pool.Subnet)
		}
		if pool.Range.IsValid() && (!pool.Subnet.Contains(pool.Range.Addr()) || pool.Range.Bits() < pool.Subnet.Bits()) {
			b.fail(path+".ip_range", "ip_range %s is outside of the subnet %s", pool.Range, pool.Subnet)
		}
	}
	return pool
}

func (b *builder) address(path, text string) netip.Addr {
	if text == "" {
		return netip.Addr{}
	}
	a, err := netip.ParseAddr(strings.Trim(text, "[]"))
	if err != nil {
		b.fail(path, "%q is no IP address; write it like 192.0.2.10 or 2001:db8::10", text)
	}
	return a
}

// endpoint is the network side of one container.
func (b *builder) endpoint(d *Desired, s types.ServiceConfig, index int, name string) netns.EndpointSpec {
	path := "services." + s.Name
	e := netns.EndpointSpec{
		Key:        fmt.Sprintf("%s/%s/%d", b.project.Name, s.Name, index),
		Hostname:   s.Hostname,
		DNSSearch:  slices.Clone(s.DNSSearch),
		DNSOptions: slices.Clone(s.DNSOpts),
		Owner:      "service " + s.Name,
	}
	for i, text := range s.DNS {
		e.DNS = append(e.DNS, b.address(fmt.Sprintf("%s.dns[%d]", path, i), text))
	}
	for _, host := range slices.Sorted(maps.Keys(s.ExtraHosts)) {
		for _, addr := range s.ExtraHosts[host] {
			if addr != "host-gateway" {
				if _, err := netip.ParseAddr(addr); err != nil {
					b.fail(path+".extra_hosts", "%q for host %q is no IP address; write an address or host-gateway", addr, host)
				}
			}
			e.ExtraHosts = append(e.ExtraHosts, netns.ExtraHost{Name: host, Addr: addr})
		}
	}
	b.networkMode(d, s, &e)
	e.Synonyms = b.synonyms(path, s, e.Mode)
	e.Reserved = b.reserved(s.Name, e.Networks)
	joined := e.Mode != ""
	if joined && len(s.Ports) > 0 {
		switch e.Mode {
		case "host":
			b.warn(path+".ports", "network_mode: host opens every port on the host itself; ports is not used")
		case "none":
			b.warn(path+".ports", "a container with network_mode: none cannot be reached; ports is not used")
		default:
			b.fail(path+".ports", "a container with network_mode: %s has no ports of its own; publish them on the service whose network it uses", s.NetworkMode)
		}
		return e
	}
	if !joined {
		e.Names = []string{name}
		if b.serviceNameEverywhere(s) {
			e.Names = append(e.Names, s.Name)
		}
		if s.Hostname != "" && !slices.Contains(e.Names, s.Hostname) {
			e.Names = append(e.Names, s.Hostname)
		}
	}
	for i, port := range s.Ports {
		e.Ports = append(e.Ports, b.port(fmt.Sprintf("%s.ports[%d]", path, i), port)...)
	}
	return e
}

// reserved are the addresses on the networks that other services fix, those of
// inactive profiles too.
func (b *builder) reserved(service string, on []netns.Attachment) map[string][]netip.Addr {
	out := map[string][]netip.Addr{}
	for _, services := range []types.Services{b.project.Services, b.project.DisabledServices} {
		for name, s := range services {
			for key, cfg := range s.Networks {
				n, declared := b.project.Networks[key]
				if name == service || cfg == nil || !declared || !slices.ContainsFunc(on, func(a netns.Attachment) bool { return a.Network == n.Name }) {
					continue
				}
				for _, text := range []string{cfg.Ipv4Address, cfg.Ipv6Address} {
					if a, err := netip.ParseAddr(text); err == nil { // that service's own check tells of the others
						out[n.Name] = append(out[n.Name], a)
					}
				}
			}
		}
	}
	if len(out) == 0 {
		return nil
	}
	for _, list := range out {
		slices.SortFunc(list, netip.Addr.Compare)
	}
	return out
}

// networkMode sets Mode, or attaches the endpoint to its networks in order of
// priority.
func (b *builder) networkMode(d *Desired, s types.ServiceConfig, e *netns.EndpointSpec) {
	path := "services." + s.Name
	mode := s.NetworkMode
	switch {
	case mode == "host", mode == "none":
		e.Mode = mode
		return
	case strings.HasPrefix(mode, types.ServicePrefix), strings.HasPrefix(mode, types.ContainerPrefix):
		kind, target, _ := strings.Cut(mode, ":")
		if target == "" {
			b.fail(path+".network_mode", "network_mode %q names no %s", mode, kind)
		}
		for attribute, set := range map[string]bool{"hostname": s.Hostname != "", "dns": len(s.DNS) > 0, "extra_hosts": len(s.ExtraHosts) > 0} {
			if set {
				b.warn(path+"."+attribute, "the container uses the network of %s; %s has to be set there", target, attribute)
			}
		}
		e.Mode = mode
		return
	case mode == "bridge", mode == "default":
		e.Networks = []netns.Attachment{{Network: b.plainBridge(d)}}
		return
	case mode != "":
		b.namedNetworkMode(d, mode)
		e.Networks = []netns.Attachment{{Network: mode}}
		return
	}
	keys := s.NetworksByPriority()
	if len(keys) == 0 {
		e.Mode = "none"
		return
	}
	for i, key := range keys {
		n := b.project.Networks[key]
		name := n.Name
		if (n.External && (name == "host" || name == "none")) || n.Driver == "host" || n.Driver == "none" {
			if len(keys) > 1 {
				b.fail(path+".networks."+key, "the %s network cannot be combined with others; use network_mode: %s alone", name, name)
			}
			e.Mode = name
			if n.Driver == "host" || n.Driver == "none" {
				e.Mode = n.Driver
			}
			return
		}
		e.Networks = append(e.Networks, b.attachment(s, key, name, i == 0))
	}
}

func (b *builder) attachment(s types.ServiceConfig, key, name string, first bool) netns.Attachment {
	path := "services." + s.Name + ".networks." + key
	faults := len(b.errs)
	a := netns.Attachment{Network: name}
	cfg := s.Networks[key]
	if !b.serviceNameEverywhere(s) && cfg.ServiceNameAliasEnabled() {
		a.Aliases = append(a.Aliases, s.Name)
	}
	if cfg != nil {
		a.Aliases = append(a.Aliases, cfg.Aliases...)
		a.IPv4 = b.address(path+".ipv4_address", cfg.Ipv4Address)
		a.IPv6 = b.address(path+".ipv6_address", cfg.Ipv6Address)
		switch {
		case a.IPv4.Is6():
			b.fail(path+".ipv4_address", "%s is an IPv6 address; write it as ipv6_address", a.IPv4)
		case a.IPv6.Is4():
			b.fail(path+".ipv6_address", "%s is an IPv4 address; write it as ipv4_address", a.IPv6)
		default:
			b.checkStatic(path+".ipv4_address", key, a.IPv4)
			b.checkStatic(path+".ipv6_address", key, a.IPv6)
		}
		for i, ip := range cfg.LinkLocalIPs {
			a.LinkLocal = append(a.LinkLocal, b.address(fmt.Sprintf("%s.link_local_ips[%d]", path, i), ip))
		}
		a.MAC = cfg.MacAddress
		a.Interface = cfg.InterfaceName
		a.GatewayPrio = cfg.GatewayPriority
		a.Priority = cfg.Priority
		a.DriverOpts = maps.Clone(map[string]string(cfg.DriverOpts))
		for _, p := range netns.CheckAttachmentOptions(a.DriverOpts) {
			b.optionProblem(path, p)
		}
		if name := a.DriverOpts[netns.OptInterface]; name != "" && a.Interface != "" && name != a.Interface {
			b.fail(path+".interface_name", "it is %q, and driver_opts say %q; keep one", a.Interface, name)
		}
		if s.GetScale() > 1 && (a.IPv4.IsValid() || a.IPv6.IsValid() || a.MAC != "") {
			b.fail(path, "%d replicas cannot share one fixed address; remove ipv4_address, ipv6_address and mac_address, or scale the service to 1", s.GetScale())
		}
	}
	if first && s.MacAddress != "" {
		if a.MAC != "" && a.MAC != s.MacAddress {
			b.fail(path+".mac_address", "the service says mac_address %s and its first network %s; keep one", s.MacAddress, a.MAC)
		}
		a.MAC = s.MacAddress
	}
	if err := a.Validate(); err != nil && len(b.errs) == faults {
		if first && a.MAC == s.MacAddress && s.MacAddress != "" {
			path = "services." + s.Name + ".mac_address"
		}
		b.fail(path, "%w", err)
	}
	return a
}

// checkStatic checks an address of one's own against the subnets of a network of
// this project. As with Docker, one that chooses its subnet itself takes none:
// it would be another one on the next machine.
func (b *builder) checkStatic(path, key string, a netip.Addr) {
	n := b.project.Networks[key]
	if !a.IsValid() || bool(n.External) {
		return
	}
	var subnets []string
	for _, pool := range n.Ipam.Config {
		if pool == nil {
			continue
		}
		subnet, err := netip.ParsePrefix(pool.Subnet)
		if err != nil || subnet.Addr().Is4() != a.Is4() {
			continue // what is wrong with it is told where it stands
		}
		if subnet.Contains(a) {
			return
		}
		subnets = append(subnets, pool.Subnet)
	}
	if len(subnets) == 0 {
		b.fail(path, "network %q has no subnet of its own for %s; give it one: networks.%s.ipam.config with subnet", key, a, key)
		return
	}
	b.fail(path, "%s is outside of network %q, which has %s", a, key, strings.Join(subnets, ", "))
}

// serviceNameEverywhere says that no network of the service turns
// use_service_name_alias off, so that the name is answered on all of them.
func (b *builder) serviceNameEverywhere(s types.ServiceConfig) bool {
	for _, cfg := range s.Networks {
		if !cfg.ServiceNameAliasEnabled() {
			return false
		}
	}
	return true
}

// plainBridge is the network behind network_mode: bridge. Docker has one for
// the whole machine; here each project gets its own, which isolates more and
// has a way out just the same.
func (b *builder) plainBridge(d *Desired) string {
	const key = "bridge"
	if n, ok := d.Networks[key]; ok {
		return n.Spec.Name
	}
	d.Networks[key] = &Network{Spec: netns.NetworkSpec{
		Name:    b.project.Name + "_" + key,
		Project: b.project.Name,
		Key:     key,
		Driver:  "bridge",
		Labels:  b.resourceLabels(nil, LabelNetwork, key),

		DisableIPv6: true,
	}}
	return d.Networks[key].Spec.Name
}

// namedNetworkMode is network_mode: NAME of a network that exists.
func (b *builder) namedNetworkMode(d *Desired, name string) {
	for _, n := range d.Networks {
		if n.Spec.Name == name {
			return
		}
	}
	d.Networks[name] = &Network{External: true, Spec: netns.NetworkSpec{Name: name, Key: name}}
}

func (b *builder) port(path string, p types.ServicePortConfig) []netns.Port {
	protocol := strings.ToLower(p.Protocol)
	switch protocol {
	case "":
		protocol = "tcp"
	case "tcp", "udp", "sctp":
	default:
		b.fail(path, "protocol %q is not supported; use tcp, udp or sctp", p.Protocol)
	}
	if p.Target == 0 || p.Target > 65535 {
		b.fail(path, "container port %d is out of range; use 1 to 65535", p.Target)
		return nil
	}
	switch p.Mode {
	case "", "ingress", "host":
	default:
		b.fail(path+".mode", "port mode %q is not known; use ingress or host", p.Mode)
	}
	out := netns.Port{
		HostIP:        b.address(path+".host_ip", p.HostIP),
		ContainerPort: uint16(p.Target),
		Protocol:      protocol,
	}
	if p.Published == "" {
		return []netns.Port{out}
	}
	from, to, isRange := strings.Cut(p.Published, "-")
	low, err := strconv.ParseUint(from, 10, 16)
	if err != nil {
		b.fail(path+".published", "published port %q is no port or range of ports", p.Published)
		return nil
	}
	out.HostPort = uint16(low)
	if isRange {
		high, err := strconv.ParseUint(to, 10, 16)
		if err != nil || high < low {
			b.fail(path+".published", "published port range %q is not a range from low to high", p.Published)
			return nil
		}
		if high > low {
			out.HostPortEnd = uint16(high)
		}
	}
	return []netns.Port{out}
}

// portRanges refuses ranges of host ports in which not every replica finds one. A
// single port is shared.
func (b *builder) portRanges(s *Service, path string) {
	for i, p := range s.Replicas[0].Spec.Network.Ports {
		if room := int(p.HostPortEnd) - int(p.HostPort) + 1; p.HostPortEnd != 0 && room < len(s.Replicas) {
			b.fail(fmt.Sprintf("%s.ports[%d]", path, i), "the host port range %d-%d has %d ports for %d replicas; make it larger", p.HostPort, p.HostPortEnd, room, len(s.Replicas))
		}
	}
}

// synonyms are the names that links and external_links give to others, for this
// service alone: the same name may stand for another container elsewhere.
func (b *builder) synonyms(path string, s types.ServiceConfig, mode string) []netns.Synonym {
	if mode != "" && len(s.Links)+len(s.ExternalLinks) > 0 {
		b.warn(path+".links", "a container with network_mode: %s has no names of its own; links are not used", s.NetworkMode)
		return nil
	}
	var out []netns.Synonym
	of := map[string]string{}
	add := func(attribute string, i int, link, kind string) {
		target, alias, ok := strings.Cut(link, ":")
		if !ok {
			alias = target
		}
		if kind != "" && alias == target && b.serviceNameEverywhere(b.project.Services[target]) {
			return // its name on every network
		}
		if other, taken := of[alias]; taken && other != kind+target {
			b.fail(fmt.Sprintf("%s.%s[%d]", path, attribute, i), "alias %q already stands for %q; use another alias", alias, other)
			return
		} else if taken {
			return
		}
		of[alias] = kind + target
		out = append(out, netns.Synonym{Name: alias, Of: kind + target})
	}
	for i, link := range s.Links {
		add("links", i, link, "service:")
	}
	for i, link := range s.ExternalLinks {
		add("external_links", i, link, "")
	}
	return out
}
