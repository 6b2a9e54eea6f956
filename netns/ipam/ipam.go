// Package ipam chooses subnets for networks and addresses for endpoints. It is
// pure: what is taken is handed in, and the same input gives the same answer, so
// that a network that is removed and made again, or a container that is
// recreated, gets the numbers it had.
package ipam

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"math/bits"
	"net/netip"
	"slices"
)

// ErrFull says that no free subnet is left in the pools.
var ErrFull = errors.New("no free subnet is left in the address pools")

// Pool is a prefix out of which networks get subnets of Bits length.
type Pool struct {
	Base netip.Prefix
	Bits int
}

// DefaultPools are the IPv4 pools: private addresses (RFC 1918), those first
// that home and office networks use least, then shared address space (RFC 6598).
// That is over 80 000 subnets of 254 addresses.
func DefaultPools() []Pool {
	var pools []Pool
	for _, base := range []string{"172.16.0.0/12", "10.128.0.0/9", "100.64.0.0/10", "10.0.0.0/9", "192.168.0.0/16"} {
		pools = append(pools, Pool{Base: netip.MustParsePrefix(base), Bits: 24})
	}
	return pools
}

// UniqueLocal is the IPv6 pool of a site: a /48 with a pseudo-random global ID
// (RFC 4193 section 3.2.2) made from seed.
func UniqueLocal(seed string) Pool {
	sum := sha256.Sum256([]byte("ula " + seed))
	var a [16]byte
	a[0] = 0xfd
	copy(a[1:6], sum[:5])
	return Pool{Base: netip.PrefixFrom(netip.AddrFrom16(a), 48), Bits: 64}
}

// Subnet chooses a subnet that overlaps nothing in used. It starts at a place
// that depends on name. hosts is how many addresses are needed, 0 for what the
// pool gives; a larger subnet than the pool's is taken when they need it.
func Subnet(pools []Pool, used []netip.Prefix, name string, hosts int) (netip.Prefix, error) {
	taken := newPrefixSet(used)
	for _, pool := range pools {
		length := pool.Bits
		if need := hostBits(hosts); need > pool.Base.Addr().BitLen()-length {
			length = pool.Base.Addr().BitLen() - need
		}
		length = max(length, pool.Base.Bits())
		// More than 2^20 places in one pool are not tried.
		places := uint64(1) << min(length-pool.Base.Bits(), 20)
		start := hash(name) % places
		for i := range places {
			p := netip.PrefixFrom(offset(pool.Base.Masked().Addr(), (start+i)%places, length), length)
			if !taken.overlaps(p) {
				return p, nil
			}
		}
	}
	return netip.Prefix{}, ErrFull
}

// hostBits is how many host bits a subnet of n endpoints needs: with network,
// broadcast and gateway address, and as much again for replacements that start
// before their predecessors stop.
func hostBits(n int) int {
	if n <= 0 {
		return 0
	}
	return bits.Len(uint(2*n + 3))
}

// Gateway is the gateway of a subnet whose user named none: its first address,
// or the first of the range that new addresses come from.
func Gateway(subnet netip.Prefix) netip.Addr { return subnet.Masked().Addr().Next() }

// Assignable reports whether an endpoint may have the address: inside the
// subnet, and neither the network nor the broadcast address.
func Assignable(subnet netip.Prefix, a netip.Addr) bool {
	if !subnet.Contains(a) {
		return false
	}
	if subnet.Bits() >= a.BitLen()-1 { // RFC 3021 point-to-point, and single addresses
		return true
	}
	return a != subnet.Masked().Addr() && (a.Is6() || a != Last(subnet))
}

// Address chooses the lowest address of the range pool (the subnet itself when
// pool is not valid) that is assignable and for which taken is false. People give
// fixed addresses from the high end.
func Address(subnet, pool netip.Prefix, taken func(netip.Addr) bool) (netip.Addr, bool) {
	if !pool.IsValid() {
		pool = subnet
	}
	// More than 2^20 addresses are not tried.
	a := pool.Masked().Addr()
	for range uint64(1) << min(a.BitLen()-pool.Bits(), 20) {
		if Assignable(subnet, a) && !taken(a) {
			return a, true
		}
		a = a.Next()
	}
	return netip.Addr{}, false
}

// Last is the highest address of a prefix.
func Last(p netip.Prefix) netip.Addr {
	b := p.Masked().Addr().AsSlice()
	for i := p.Bits(); i < len(b)*8; i++ {
		b[i/8] |= 0x80 >> (i % 8)
	}
	a, _ := netip.AddrFromSlice(b)
	return a
}

func hash(s string) uint64 {
	sum := sha256.Sum256([]byte(s))
	return binary.BigEndian.Uint64(sum[:])
}

// offset adds n times the size of a prefix of the given length to a.
func offset(a netip.Addr, n uint64, length int) netip.Addr {
	shift := a.BitLen() - length
	if a.Is4() {
		b := a.As4()
		v := binary.BigEndian.Uint32(b[:]) + uint32(n<<shift)
		binary.BigEndian.PutUint32(b[:], v)
		return netip.AddrFrom4(b)
	}
	b := a.As16()
	high, low := binary.BigEndian.Uint64(b[:8]), binary.BigEndian.Uint64(b[8:])
	var addHigh, addLow uint64
	switch {
	case shift >= 64:
		addHigh = n << (shift - 64)
	case shift == 0:
		addLow = n
	default:
		addLow, addHigh = n<<shift, n>>(64-shift)
	}
	low, carry := bits.Add64(low, addLow, 0)
	high, _ = bits.Add64(high, addHigh, carry)
	binary.BigEndian.PutUint64(b[:8], high)
	binary.BigEndian.PutUint64(b[8:], low)
	return netip.AddrFrom16(b)
}

// prefixSet answers overlap questions about many prefixes. Prefixes nest or are
// disjoint, so after dropping nested ones the sorted rest is disjoint and only
// two neighbours of a question matter.
type prefixSet []netip.Prefix

func newPrefixSet(ps []netip.Prefix) prefixSet {
	var all []netip.Prefix
	for _, p := range ps {
		if p.IsValid() {
			all = append(all, p.Masked())
		}
	}
	slices.SortFunc(all, func(a, b netip.Prefix) int {
		if c := a.Addr().Compare(b.Addr()); c != 0 {
			return c
		}
		return a.Bits() - b.Bits()
	})
	var set prefixSet
	for _, p := range all {
		if n := len(set); n == 0 || !set[n-1].Overlaps(p) {
			set = append(set, p)
		}
	}
	return set
}

func (s prefixSet) overlaps(p netip.Prefix) bool {
	i, _ := slices.BinarySearchFunc(s, p, func(a, b netip.Prefix) int { return a.Addr().Compare(b.Addr()) })
	return i < len(s) && s[i].Overlaps(p) || i > 0 && s[i-1].Overlaps(p)
}

// Overlapping returns the first of the prefixes that overlaps p.
func Overlapping(p netip.Prefix, used []netip.Prefix) (netip.Prefix, bool) {
	i := slices.IndexFunc(used, p.Overlaps)
	if i < 0 {
		return netip.Prefix{}, false
	}
	return used[i], true
}
