// Package link makes the kernel's network objects: network namespaces pinned
// to files, bridges, veth pairs, addresses, routes and sysctls.
//
// Everything that belongs together is sent as one batch, that is as one
// sendmsg(2) with several rtnetlink(7) messages, because fifty containers that
// start at once are bound by system calls and by the kernel's RTNL mutex.
//
// A thread that works inside another network namespace is locked to its
// goroutine, is never the process's main thread (so /proc/self/net and
// /proc/self/ns/net always mean the host's), and comes back to the namespace it
// left; a thread that cannot come back is ended.
package link
