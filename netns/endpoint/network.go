package endpoint

import (
	"net/netip"
	"slices"
	"strings"
)

// IsBridge reports whether the network has a bridge of its own.
func (s NetworkSpec) IsBridge() bool {
	return s.Driver == "" || s.Driver == "bridge" || s.Driver == "default"
}

// OnParent reports whether its containers share a link of the host, as if they were
// on the network behind it themselves.
func (s NetworkSpec) OnParent() bool { return s.Driver == "macvlan" || s.SharesMAC() }

// SharesMAC reports whether they also share that link's Ethernet address.
func (s NetworkSpec) SharesMAC() bool { return s.Driver == "ipvlan" }

// Attaches reports whether containers can be attached to it.
func (s NetworkSpec) Attaches() bool { return s.IsBridge() || s.OnParent() }

// Subnets are those that the network has, of either family.
func (n Network) Subnets() []netip.Prefix {
	return slices.DeleteFunc([]netip.Prefix{n.IPv4, n.IPv6}, func(p netip.Prefix) bool { return !p.IsValid() })
}

// nameSize is the kernel's IFNAMSIZ: a link's name with the zero at its end.
const nameSize = 16

// LinkName reports whether the kernel takes the name (dev_valid_name).
func LinkName(s string) bool {
	return s != "" && len(s) < nameSize && s != "." && s != ".." && !strings.ContainsAny(s, "/: \t\n\v\f\r") &&
		!strings.Contains(s, "\x00")
}
