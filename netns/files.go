package netns

import (
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"

	"github.com/stack-run/stack/netns/dns"
)

// HostFiles are what the host has, for [Files].
type HostFiles struct {
	Hosts      []byte // /etc/hosts
	ResolvConf []byte // /etc/resolv.conf
}

// HostFiles reads the host's files; one that cannot be read is empty.
func (m *Manager) HostFiles() HostFiles {
	var f HostFiles
	f.Hosts, _ = os.ReadFile("/etc/hosts")
	f.ResolvConf, _ = os.ReadFile(m.o.ResolvConf)
	return f
}

// FileOptions say what goes into a container's files besides its endpoint.
type FileOptions struct {
	Hostname string
	Domain   string
	Host     HostFiles
}

// Files renders a container's /etc/hosts and /etc/resolv.conf. nets are the
// endpoint's networks. It is pure; for an endpoint that shares another one's
// namespace, give that one's endpoint and options.
//
// With networks the only name server is our own; what else is in the host's
// resolv.conf stays unless the user says otherwise, and names are looked up as
// they are first (ndots:0), since names of containers have no dots.
func Files(e *Endpoint, nets []Network, o FileOptions) (hosts, resolvConf []byte) {
	if e.Spec.Mode == "host" {
		return hostModeHosts(e, o), hostModeResolvConf(e, o)
	}
	return hostsFile(e, nets, o), resolvConfFile(e, o)
}

func hostModeHosts(e *Endpoint, o FileOptions) []byte {
	var b strings.Builder
	b.Write(o.Host.Hosts)
	if n := len(o.Host.Hosts); n > 0 && o.Host.Hosts[n-1] != '\n' {
		b.WriteByte('\n')
	}
	for _, x := range e.Spec.ExtraHosts {
		addr := x.Addr
		if addr == "host-gateway" {
			addr = "127.0.0.1" // the host is where the container is
		}
		fmt.Fprintf(&b, "%s\t%s\n", addr, x.Name)
	}
	return []byte(b.String())
}

func hostModeResolvConf(e *Endpoint, o FileOptions) []byte {
	if len(e.Spec.DNS)+len(e.Spec.DNSSearch)+len(e.Spec.DNSOptions) == 0 {
		return o.Host.ResolvConf
	}
	return userResolvConf(e, dns.ParseConfig(o.Host.ResolvConf))
}

const localNames = "127.0.0.1\tlocalhost\n" +
	"::1\tlocalhost ip6-localhost ip6-loopback\n" +
	"fe00::\tip6-localnet\n" +
	"ff00::\tip6-mcastprefix\n" +
	"ff02::1\tip6-allnodes\n" +
	"ff02::2\tip6-allrouters\n"

func hostsFile(e *Endpoint, nets []Network, o FileOptions) []byte {
	var b strings.Builder
	b.WriteString(localNames)
	for _, x := range e.Spec.ExtraHosts {
		if x.Addr != "host-gateway" {
			fmt.Fprintf(&b, "%s\t%s\n", x.Addr, x.Name)
			continue
		}
		for _, a := range hostAddrs(e, nets) {
			fmt.Fprintf(&b, "%s\t%s\n", a, x.Name)
		}
	}
	if o.Hostname != "" {
		names := o.Hostname
		if o.Domain != "" {
			names = o.Hostname + "." + o.Domain + " " + o.Hostname
		}
		for _, l := range e.Links {
			for _, a := range []netip.Addr{l.IPv4, l.IPv6} {
				if a.IsValid() {
					fmt.Fprintf(&b, "%s\t%s\n", a, names)
				}
			}
		}
	}
	return []byte(b.String())
}

// hostAddrs are the addresses under which the container reaches the host: the
// gateways of the way out, or of the first network.
func hostAddrs(e *Endpoint, nets []Network) []netip.Addr {
	var out []netip.Addr
	if l := e.Publisher(false); l != nil {
		out = append(out, l.Gateway4)
	}
	if l := e.Publisher(true); l != nil {
		out = append(out, l.Gateway6)
	}
	if len(out) == 0 && len(e.Links) > 0 && e.Links[0].Parent == "" {
		out = []netip.Addr{e.Links[0].Gateway4, e.Links[0].Gateway6}
	}
	if len(e.Links) == 0 && len(nets) > 0 {
		out = []netip.Addr{nets[0].Gateway4, nets[0].Gateway6}
	}
	return slices.DeleteFunc(out, func(a netip.Addr) bool { return !a.IsValid() })
}

func resolvConfFile(e *Endpoint, o FileOptions) []byte {
	host := dns.ParseConfig(o.Host.ResolvConf)
	if len(e.Links) == 0 {
		// Without networks nothing is reachable: what Docker writes all the same.
		host.Nameservers = slices.DeleteFunc(host.Nameservers, func(a netip.Addr) bool { return a.IsLoopback() })
		return userResolvConf(e, host)
	}
	host.Nameservers = []netip.Addr{netip.AddrFrom4(resolverAddress)}
	with := *e
	with.Spec.DNS = nil // our resolver asks them
	options := host.Options
	if len(e.Spec.DNSOptions) > 0 {
		options = e.Spec.DNSOptions
	}
	if !slices.ContainsFunc(options, func(o string) bool { return strings.HasPrefix(o, "ndots:") && len(e.Spec.DNSOptions) > 0 }) {
		options = slices.DeleteFunc(slices.Clone(options), func(o string) bool { return strings.HasPrefix(o, "ndots:") })
		options = append(options, "ndots:0")
	}
	with.Spec.DNSOptions = options
	return userResolvConf(&with, host)
}

// userResolvConf renders c with the user's settings in place of its own.
func userResolvConf(e *Endpoint, c dns.Config) []byte {
	if len(e.Spec.DNS) > 0 {
		c.Nameservers = e.Spec.DNS
	}
	if len(e.Spec.DNSSearch) > 0 {
		c.Search = e.Spec.DNSSearch
	}
	if len(e.Spec.DNSOptions) > 0 {
		c.Options = e.Spec.DNSOptions
	}
	var b strings.Builder
	for _, a := range c.Nameservers {
		fmt.Fprintf(&b, "nameserver %s\n", a)
	}
	// A single dot means no search list at all.
	if len(c.Search) > 0 && !slices.Equal(c.Search, []string{"."}) {
		fmt.Fprintf(&b, "search %s\n", strings.Join(c.Search, " "))
	}
	if len(c.Options) > 0 {
		fmt.Fprintf(&b, "options %s\n", strings.Join(c.Options, " "))
	}
	return []byte(b.String())
}
