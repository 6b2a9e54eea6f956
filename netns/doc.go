// Package netns is the network side of containers: networks (a bridge each, or a
// link of the host that containers share), endpoints (a pinned network namespace
// with a link per network), published ports and names.
//
// # What is where
//
// A [Network] is a record below the data root and survives reboots; its bridge is
// made when [Manager.Ensure] or [Manager.Attach] needs it. An [Endpoint] is plain
// data which the engine stores; this package keeps a copy of its own below the run
// root from the moment before the first kernel object is made until after the
// last is gone, so that leftovers of a killed process can be told and removed
// ([Manager.Sweep]), a port's owner has a name, and a network its users.
//
//	DataRoot/networks/ID.json      record of a network
//	DataRoot/networks/ID.leases    which key had which address
//	RunRoot/locks/networks         lock of all decisions: subnets, leases, users
//	RunRoot/netns/ID               pin of an endpoint's namespace
//	RunRoot/endpoints/ID.json      copy of an endpoint
//	RunRoot/names/NETWORK/OWNER    names a project answers for on a network
//
// # Packets
//
// All rules of an instance (a pair of roots) are in one nftables table, and those
// for what a container may send on a bridge in a second one, both described in package nft. Published ports are map look-ups in the kernel; no process of
// ours has to live for them. Sockets are held for them all the same
// ([Manager.Hold]): nobody else on the host can take the port unnoticed, and what
// the kernel cannot rewrite goes through them, which is [::1]:PORT, and IPv6
// clients of containers without IPv6.
//
// A port published on 127.0.0.1 is for this host only, also when a neighbour sends
// packets for that address here; one published on another address of the host is
// for those who reach the host on the link that has the address.
//
// Another firewall that drops forwarded packets is beyond an accept rule of ours:
// in netfilter every table must accept. Where there is one, rules of ours in its
// chain let containers out and answers in, see package nft; published ports are
// reached from outside when it admits them, or the network has [OptOpen]. Who
// serves names puts our table and these rules back when somebody flushes them.
//
// Forwarding (net.ipv4.ip_forward, net.ipv6.conf.all.forwarding) is switched on
// with the first network that is not internal, and stays on.
package netns
