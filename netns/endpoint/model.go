// Package endpoint is what networks and the network side of containers are asked
// to be and are: plain data, which packages may speak of that touch no kernel.
package endpoint

import (
	"net/netip"
	"time"
)

// NetworkSpec is what a user network must be. It is compared field by field
// when a network is reconciled, so everything in it must come from the user's
// request and nothing from the host.
type NetworkSpec struct {
	// Name is the network's name on this machine, such as "shop_default".
	Name string `json:"name"`
	// Project is the Compose project that owns the network, empty for a
	// network made by "stack network create".
	Project string `json:"project,omitempty"`
	// Key is the network's name inside the Compose file, such as "default".
	Key        string            `json:"key,omitempty"`
	Driver     string            `json:"driver,omitempty"` // "bridge" (default), "macvlan", "ipvlan", "host", "none"
	DriverOpts map[string]string `json:"driverOpts,omitempty"`
	Internal   bool              `json:"internal,omitempty"`
	Attachable bool              `json:"attachable,omitempty"`
	// DisableIPv4 and EnableIPv6 follow enable_ipv4 and enable_ipv6. IPv6 is
	// on by default with a unique local prefix (RFC 4193).
	DisableIPv4 bool              `json:"disableIPv4,omitempty"`
	DisableIPv6 bool              `json:"disableIPv6,omitempty"`
	Pools       []Pool            `json:"pools,omitempty"`
	Labels      map[string]string `json:"labels,omitempty"`
	// Hosts is how many containers are expected, so that a large project gets a
	// large enough subnet. It is a hint at creation and no part of the record.
	Hosts int `json:"-"`
}

// Pool is one entry of ipam.config.
type Pool struct {
	Subnet  netip.Prefix          `json:"subnet"`
	Range   netip.Prefix          `json:"range,omitzero"`
	Gateway netip.Addr            `json:"gateway,omitzero"`
	Aux     map[string]netip.Addr `json:"aux,omitempty"`
}

// Network is a network as it exists: the spec plus what was chosen for it.
type Network struct {
	NetworkSpec
	ID       string       `json:"id"`     // 64 hex digits
	Bridge   string       `json:"bridge"` // link name on the host: of the bridge, or of a parent that we make
	IPv4     netip.Prefix `json:"ipv4,omitzero"`
	IPv6     netip.Prefix `json:"ipv6,omitzero"`
	Gateway4 netip.Addr   `json:"gateway4,omitzero"`
	Gateway6 netip.Addr   `json:"gateway6,omitzero"`
	Created  time.Time    `json:"created"`
}

// Attachment is one network of an endpoint, as the user asked for it.
type Attachment struct {
	Network     string            `json:"network"` // Network.Name
	Aliases     []string          `json:"aliases,omitempty"`
	Links       []Synonym         `json:"links,omitempty"` // answered to this container alone, on this network
	IPv4        netip.Addr        `json:"ipv4,omitzero"`
	IPv6        netip.Addr        `json:"ipv6,omitzero"`
	LinkLocal   []netip.Addr      `json:"linkLocal,omitempty"`
	MAC         string            `json:"mac,omitempty"`
	Interface   string            `json:"interface,omitempty"` // name inside the container, default ethN
	GatewayPrio int               `json:"gatewayPriority,omitempty"`
	Priority    int               `json:"priority,omitempty"`
	DriverOpts  map[string]string `json:"driverOpts,omitempty"`
}

// Port is one published port. A host port of 0 asks for an ephemeral one.
type Port struct {
	// HostIP unset stands for all addresses, IPv4 and IPv6. A loopback address is for
	// this host only, another one for clients who arrive on the link that has it.
	HostIP   netip.Addr `json:"hostIP,omitzero"`
	HostPort uint16     `json:"hostPort"`
	// HostPortEnd, when larger than HostPort, makes the host side a range out of
	// which the first free port is taken.
	HostPortEnd   uint16 `json:"hostPortEnd,omitempty"`
	ContainerPort uint16 `json:"containerPort"`
	Protocol      string `json:"protocol"` // "tcp", "udp", "sctp"
}

// Spec is all that the network side of one container must be.
type Spec struct {
	// ID is the container's ID; Key is stable over recreates, such as
	// "shop/web/1", and decides the addresses.
	ID  string `json:"id"`
	Key string `json:"key"`
	// Mode is "" (networks), "host", "none", or "container:ID" to share the
	// network namespace of another endpoint.
	Mode     string       `json:"mode,omitempty"`
	Networks []Attachment `json:"networks,omitempty"`
	Ports    []Port       `json:"ports,omitempty"`
	// Names are answered by DNS on every network of the endpoint (container
	// name, service name, short ID); Attachment.Aliases only on theirs.
	Names []string `json:"names,omitempty"`
	// Synonyms are answered to this container alone, on all of its networks.
	Synonyms []Synonym `json:"synonyms,omitempty"`
	Hostname string    `json:"hostname,omitempty"`
	// DNS, Search, Options are the user's own dns, dns_search, dns_opt.
	DNS        []netip.Addr      `json:"dns,omitempty"`
	DNSSearch  []string          `json:"dnsSearch,omitempty"`
	DNSOptions []string          `json:"dnsOptions,omitempty"`
	ExtraHosts []ExtraHost       `json:"extraHosts,omitempty"`
	Sysctls    map[string]string `json:"sysctls,omitempty"` // net.* only
	// Reserved are the addresses that others are to have, by network name: those
	// which the Compose file fixes, whether these containers run or not.
	Reserved map[string][]netip.Addr `json:"reserved,omitempty"`
	// OwnAddresses says that the container can have no addresses but its own, since
	// nobody in its network namespace has CAP_NET_ADMIN.
	OwnAddresses bool `json:"ownAddresses,omitempty"`
	// Aside says that the container stands aside: its ports are not published yet.
	Aside bool `json:"aside,omitempty"`
	// Owner says whom an error is about: `service web`.
	Owner string `json:"owner,omitempty"`
}

// Synonym is a name that one container has for another, or for a service.
type Synonym struct {
	Name string `json:"name"`
	// Of is "service:NAME" of the same project, or a container's name or short ID.
	Of string `json:"of"`
}

// ExtraHost is one line of extra_hosts. The address may be "host-gateway".
type ExtraHost struct {
	Name string `json:"name"`
	Addr string `json:"addr"`
}

// Endpoint is the network side of one container as it exists. It is plain data
// and is stored in the run directory, so that a new supervisor adopts it.
type Endpoint struct {
	Spec Spec `json:"spec"`
	// NetNS is the path of the pinned network namespace, "" with host mode.
	NetNS  string `json:"netns,omitempty"`
	Shared bool   `json:"shared,omitempty"` // the namespace belongs to another endpoint
	Links  []Link `json:"links,omitempty"`
	// Ports has one entry per published port with the host port resolved.
	Ports []Port `json:"ports,omitempty"`
	// Warnings say what was asked for and cannot be, such as ports of a container
	// that has internal networks only.
	Warnings []string `json:"warnings,omitempty"`
}

// Link is one link of an endpoint: a veth pair, or one that shares a parent.
type Link struct {
	Network   string     `json:"network"`
	NetworkID string     `json:"networkID"`
	HostLink  string     `json:"hostLink"` // name on the host, "" with a parent
	Name      string     `json:"name"`     // name in the container, eth0
	MAC       string     `json:"mac"`
	IPv4      netip.Addr `json:"ipv4,omitzero"`
	IPv6      netip.Addr `json:"ipv6,omitzero"`
	Bits4     int        `json:"bits4,omitempty"`
	Bits6     int        `json:"bits6,omitempty"`
	Gateway4  netip.Addr `json:"gateway4,omitzero"`
	Gateway6  netip.Addr `json:"gateway6,omitzero"`
	Aliases   []string   `json:"aliases,omitempty"`
	// Internal says that the network has no way out: the gateways are the host's
	// addresses, but no default route leads there.
	Internal bool `json:"internal,omitempty"`
	// Routed4 and Routed6 say that the network is not translated, see
	// netns.OptGatewayMode. RoutedBefore is both, in records of older versions.
	Routed4      bool `json:"routed4,omitempty"`
	Routed6      bool `json:"routed6,omitempty"`
	RoutedBefore bool `json:"routed,omitempty"`
	// Trusted says that links of the host reach published ports directly, see
	// netns.OptTrusted.
	Trusted bool   `json:"trusted,omitempty"`
	Bridge  string `json:"bridge,omitempty"`
	// Parent is the host's link that this one shares, "" for a veth pair. The host
	// does not reach it, and translates nothing.
	Parent string `json:"parent,omitempty"`
	// Direct says that its way out is the link and no gateway on it (ipvlan in mode l3).
	Direct bool `json:"direct,omitempty"`
}
