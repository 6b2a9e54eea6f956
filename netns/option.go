package netns

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/stack-run/stack/netns/endpoint"
)

// Driver options of a network, with Docker's names.
const (
	OptBridgeName  = "com.docker.network.bridge.name"
	OptMTU         = "com.docker.network.driver.mtu"
	OptICC         = "com.docker.network.bridge.enable_icc"           // "false": containers do not reach each other
	OptMasquerade  = "com.docker.network.bridge.enable_ip_masquerade" // "false": containers leave with their own addresses
	OptHostBinding = "com.docker.network.bridge.host_binding_ipv4"    // host address of ports that name none
	// OptInhibit4 "true" leaves the gateway's address to somebody else on the bridge.
	OptInhibit4 = "com.docker.network.bridge.inhibit_ipv4"
	// OptPrefix is what the names of interfaces in containers begin with, "eth".
	OptPrefix = "com.docker.network.container_iface_prefix"
	// OptGatewayMode is one of the modes of a gateway, for IPv4.
	OptGatewayMode  = "com.docker.network.bridge.gateway_mode_ipv4"
	OptGatewayMode6 = "com.docker.network.bridge.gateway_mode_ipv6"
)

// Driver options of a bridge about its way to other hosts, with Docker's names.
const (
	// OptHost4 and OptHost6 are the host's address that packets of containers leave with.
	OptHost4 = "com.docker.network.host_ipv4"
	OptHost6 = "com.docker.network.host_ipv6"
	// OptTrusted are links of the host, separated by colons, from which published ports are
	// open at the containers' own addresses.
	OptTrusted = "com.docker.network.bridge.trusted_host_interfaces"
)

// Driver options of a macvlan or ipvlan network.
const (
	OptParent      = "parent" // the host's link that containers share
	OptMacvlanMode = "macvlan_mode"
	OptIPvlanMode  = "ipvlan_mode"
	OptIPvlanFlag  = "ipvlan_flag"
)

// Modes of a gateway.
const (
	modeNAT = "nat"
	// No translation; published ports are open at the container's own address for
	// those who have a route to it.
	modeRouted = "routed"
	// As nat, and all ports are open at the container's own address.
	modeUnprotected = "nat-unprotected"
	// The host has no address on the network.
	modeIsolated = "isolated"
)

// Driver options of an attachment.
const (
	// OptInterface is the name of the interface in the container.
	OptInterface = "com.docker.network.endpoint.ifname"
	// OptSysctls are sysctls of its interface, separated by commas, with IFNAME for
	// the interface's name.
	OptSysctls = "com.docker.network.endpoint.sysctls"
)

// OptionProblem is what is wrong with a driver option.
type OptionProblem struct {
	Key, Text string
	// Refused options are errors; the others have no effect.
	Refused bool
}

func (p OptionProblem) Error() string { return fmt.Sprintf("driver option %s %s", p.Key, p.Text) }

// Checks of values return what is wrong with one.
type check func(value string) string

func boolean(v string) string {
	if _, err := strconv.ParseBool(v); err != nil {
		return "use true or false"
	}
	return ""
}

func address4(v string) string {
	if a, err := netip.ParseAddr(v); err != nil || !a.Is4() {
		return "use an IPv4 address"
	}
	return ""
}

func oneOf(values ...string) check {
	return func(v string) string {
		if v == "" || slices.Contains(values, v) {
			return ""
		}
		return "use one of " + strings.Join(values, ", ")
	}
}

var bridgeOptions = map[string]check{
	OptICC: boolean, OptMasquerade: boolean, OptOpen: boolean, OptInhibit4: boolean,
	OptMTU: func(v string) string {
		if n, err := strconv.Atoi(v); err != nil || n < 68 || n > 65535 {
			return "use a number from 68 to 65535"
		}
		return ""
	},
	OptHostBinding: address4, OptHost4: address4,
	OptHost6: func(v string) string {
		if a, err := netip.ParseAddr(v); err != nil || !a.Is6() || a.Is4In6() || a.Zone() != "" {
			return "use an IPv6 address"
		}
		return ""
	},
	OptTrusted: func(v string) string {
		for name := range strings.SplitSeq(v, ":") {
			if name != "" && !endpoint.LinkName(name) {
				return "use names of links, separated by colons"
			}
		}
		return ""
	},
	OptBridgeName: func(v string) string {
		if !endpoint.LinkName(v) {
			return "a link's name has up to 15 characters without space, slash and colon"
		}
		return ""
	},
	OptPrefix: func(v string) string {
		if !endpoint.LinkName(v + "1000") {
			return "the beginning of a link's name has up to 11 characters without space, slash and colon"
		}
		return ""
	},
	OptGatewayMode:  oneOf(modeNAT, modeRouted, modeUnprotected, modeIsolated),
	OptGatewayMode6: oneOf(modeNAT, modeRouted, modeUnprotected, modeIsolated),
}

var macvlanOptions = map[string]check{
	OptMTU: bridgeOptions[OptMTU], OptPrefix: bridgeOptions[OptPrefix], OptParent: isParent,
	OptMacvlanMode: oneOf("bridge", "private", "vepa", "passthru"),
}

var ipvlanOptions = map[string]check{
	OptMTU: bridgeOptions[OptMTU], OptPrefix: bridgeOptions[OptPrefix], OptParent: isParent,
	OptIPvlanMode: oneOf("l2", "l3", "l3s"), OptIPvlanFlag: oneOf("bridge", "private", "vepa"),
}

func isParent(v string) string {
	if v != "" && !endpoint.LinkName(v) || v == "lo" {
		return "use the name of a link that leads to other hosts, such as eth0"
	}
	return ""
}

// Options of Docker's bridge that are not acted on, with what happens instead.
var ignoredOptions = map[string]string{
	"com.docker.network.bridge.default_bridge": "every network is a user's own",
}

// CheckOptions tells what is wrong with the driver options of a network.
func CheckOptions(s NetworkSpec) []OptionProblem {
	var out []OptionProblem
	var known map[string]check
	switch {
	case s.IsBridge():
		known = bridgeOptions
	case s.OnParent():
		if known = macvlanOptions; s.SharesMAC() {
			known = ipvlanOptions
		}
		if s.DriverOpts[OptParent] == "" && !s.Internal {
			out = append(out, OptionProblem{Key: OptParent, Refused: true,
				Text: "is missing: the link of the host that containers share, such as eth0; without one the network must be internal"})
		}
	}
	for _, key := range slices.Sorted(maps.Keys(s.DriverOpts)) {
		value := s.DriverOpts[key]
		if valid, ok := known[key]; !ok {
			text := "is not acted on: the driver does not know it"
			if instead, ok := ignoredOptions[key]; ok {
				text = "is not acted on: " + instead
			}
			out = append(out, OptionProblem{Key: key, Text: text})
		} else if wrong := valid(value); wrong != "" {
			out = append(out, OptionProblem{Key: key, Text: fmt.Sprintf("is %q; %s", value, wrong), Refused: true})
		}
	}
	for _, key := range []string{OptGatewayMode, OptGatewayMode6} {
		if s.DriverOpts[key] == modeIsolated && !s.Internal && s.IsBridge() {
			out = append(out, OptionProblem{Key: key, Refused: true,
				Text: `is "isolated", where the host is no gateway; make the network internal too`})
		}
	}
	return out
}

// CheckAttachmentOptions tells what is wrong with the driver options of an
// attachment.
func CheckAttachmentOptions(opts map[string]string) []OptionProblem {
	var out []OptionProblem
	for _, key := range slices.Sorted(maps.Keys(opts)) {
		switch key {
		case OptInterface:
			if !endpoint.LinkName(opts[key]) {
				out = append(out, OptionProblem{Key: key, Refused: true,
					Text: fmt.Sprintf("is %q; a link's name has up to 15 characters without space, slash and colon", opts[key])})
			}
		case OptSysctls:
			for setting := range strings.SplitSeq(opts[key], ",") {
				name, _, ok := strings.Cut(strings.TrimSpace(setting), "=")
				if !ok || !strings.HasPrefix(name, "net.") || !strings.Contains(name, ".IFNAME.") {
					out = append(out, OptionProblem{Key: key, Refused: true,
						Text: fmt.Sprintf("has %q; write net.ipv4.conf.IFNAME.KEY=VALUE", setting)})
				}
			}
		default:
			out = append(out, OptionProblem{Key: key, Text: "is not acted on: it is no option of an endpoint"})
		}
	}
	return out
}

// interfaceName is the name of the interface in the container that was asked for.
func interfaceName(a Attachment) string { return cmp.Or(a.Interface, a.DriverOpts[OptInterface]) }

func mtuOf(s NetworkSpec) int {
	n, _ := strconv.Atoi(s.DriverOpts[OptMTU])
	return n
}

// gatewayMode is the mode of the gateway for a family.
func gatewayMode(s NetworkSpec, v6 bool) string {
	if v6 {
		return s.DriverOpts[OptGatewayMode6]
	}
	return s.DriverOpts[OptGatewayMode]
}

// trusted are the host's links that reach published ports at the containers' addresses.
func trusted(s NetworkSpec) []string {
	return slices.DeleteFunc(strings.Split(s.DriverOpts[OptTrusted], ":"), func(name string) bool { return name == "" })
}

// leaving are the addresses that packets leave with, of those that were given.
func leaving(s NetworkSpec) (out [2]netip.Addr) {
	for i, key := range []string{OptHost4, OptHost6} {
		if v := s.DriverOpts[key]; v != "" {
			out[i], _ = netip.ParseAddr(v)
		}
	}
	return out
}

// hostless says that the host takes no address of a family on the bridge.
func hostless(s NetworkSpec, v6 bool) bool {
	return gatewayMode(s, v6) == modeIsolated || !v6 && option(s, OptInhibit4, false)
}

func option(s NetworkSpec, name string, otherwise bool) bool {
	if v, err := strconv.ParseBool(s.DriverOpts[name]); err == nil {
		return v
	}
	return otherwise
}

// interfacePrefix is what names of interfaces of a network begin with.
func interfacePrefix(s NetworkSpec) string {
	if p := s.DriverOpts[OptPrefix]; p != "" {
		return p
	}
	return "eth"
}
