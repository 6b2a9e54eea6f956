// Package nft renders and applies the firewall of an instance: one nftables
// table whose rules never change and whose sets and maps hold all that differs, and
// a second one, of the family bridge, for what a container may send ([Ports]).
//
// There is one for all networks of an instance (a pair of data root and
// run root), not one for each network or project, because
//
//   - the kernel runs every base chain of a hook for every packet and allows
//     1024 of them (MAX_HOOK_COUNT in net/netfilter/core.c): with a table per
//     network the thousandth network would fail, and the hundredth would cost;
//   - isolation is a statement about pairs of networks, which a table that knows
//     only one of them cannot make;
//   - a network may be used by several projects.
//
// A network is a handful of set elements, a published port one or two map
// elements and a container one: each is added and removed in one transaction, and
// two processes that do so at once cannot disturb each other. The table goes with
// the last network.
//
// What a rule says in nft(8) syntax and what is sent to the kernel come from the
// same constructor (see statement.go), so that the printed table is the table.
package nft
