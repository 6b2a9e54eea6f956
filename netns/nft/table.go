package nft

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"iter"
	"slices"
	"strings"
	"sync/atomic"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"golang.org/x/sys/unix"
)

// Table is the tables of an instance in the kernel: that of packets, and that of the
// ports of its bridges. Its methods may be called by several processes at once;
// [Table.Ensure] and [Table.Remove] must be serialised by the caller.
type Table struct {
	rules, ports Ruleset
	// portless says that the kernel cannot filter on bridges.
	portless atomic.Bool
}

// NewTable returns the instance's tables of the given name, which need not exist.
func NewTable(name string) *Table { return &Table{rules: Instance(name), ports: Ports(name)} }

// Portless reports whether the kernel has no table for the ports of bridges, whose
// elements are ignored then.
func (t *Table) Portless() bool { return t.portless.Load() }

// rulesets are those that the kernel can have.
func (t *Table) rulesets() []Ruleset {
	if t.portless.Load() {
		return []Ruleset{t.rules}
	}
	return []Ruleset{t.rules, t.ports}
}

// ErrTaken says that a map has another value for a key already.
var ErrTaken = errors.New("already published")

// Ensure makes the table exist with the rules of this version and adds the
// elements, in one transaction.
func (t *Table) Ensure(elements []Element) error {
	err := t.ensure(t.rulesets(), elements)
	if t.portless.Load() || !errors.Is(err, unix.EOPNOTSUPP) && !errors.Is(err, unix.EAFNOSUPPORT) && !errors.Is(err, unix.EPROTONOSUPPORT) {
		return err
	}
	// The table for bridges is a module of its own.
	if t.ensure([]Ruleset{t.rules}, elements) != nil {
		return err
	}
	t.portless.Store(true)
	return nil
}

func (t *Table) ensure(rulesets []Ruleset, elements []Element) error {
	c := &nftables.Conn{}
	for _, r := range rulesets {
		if r.current(c) {
			continue
		}
		if err := apply(c, r); err != nil {
			return fmt.Errorf("cannot describe firewall table %s: %w", r.Table, err)
		}
		r.forgetOtherVersions(c)
	}
	return flush(c, rulesets, elements, (*nftables.Conn).SetAddElements, "extend")
}

// current reports whether the kernel has this version of the tables.
func (t *Table) current(c *nftables.Conn) bool {
	return !slices.ContainsFunc(t.rulesets(), func(r Ruleset) bool { return !r.current(c) })
}

func (r Ruleset) current(c *nftables.Conn) bool {
	_, err := c.ListChain(r.table(), r.version())
	return err == nil
}

const versionPrefix = "version_"

// version is a short fingerprint of what the rules are, for the name of a marker
// chain: a table with the marker is complete and up to date.
func (r Ruleset) version() string {
	r.Table = ""
	sum := sha256.Sum256([]byte(r.String()))
	return versionPrefix + hex.EncodeToString(sum[:4])
}

// forgetOtherVersions queues the removal of the markers of other versions of this
// program, whose rules are replaced.
func (r Ruleset) forgetOtherVersions(c *nftables.Conn) {
	chains, err := c.ListChainsOfTableFamily(r.Family)
	if err != nil {
		return // the markers only cost a needless replacement later
	}
	for _, ch := range chains {
		if ch.Table.Name == r.Table && strings.HasPrefix(ch.Name, versionPrefix) && ch.Name != r.version() {
			c.DelChain(&nftables.Chain{Name: ch.Name, Table: r.table()})
		}
	}
}

// Add adds elements in one transaction, or in several if they are thousands. Elements that are there already are not
// an error, unless a map has another value for the key: [ErrTaken].
func (t *Table) Add(elements []Element) error {
	return flush(&nftables.Conn{}, t.rulesets(), elements, (*nftables.Conn).SetAddElements, "extend")
}

// Replace has the elements of after where those of before, or others in the same places,
// are, in one transaction, so that no packet meets anything between, unless they are
// thousands. What the tables have decides, not what they should have.
func (t *Table) Replace(before, after []Element) error {
	concerned := map[string]bool{}
	for _, e := range slices.Concat(before, after) {
		concerned[e.Place()] = true
	}
	have, err := t.like(slices.Concat(before, after))
	if err != nil {
		return err
	}
	have = slices.DeleteFunc(have, func(e Element) bool { return !concerned[e.Place()] })
	add, remove := Difference(have, after)
	if len(remove)+len(add) > perTransaction {
		return errors.Join(t.Delete(remove), t.Add(add))
	}
	c, together := &nftables.Conn{}, func(int) error { return nil }
	err = queue(c, t.rulesets(), remove, (*nftables.Conn).SetDeleteElements, "change", together)
	if err == nil {
		err = queue(c, t.rulesets(), add, (*nftables.Conn).SetAddElements, "change", together)
	}
	if err == nil {
		err = commit(c, t.rules.Table, "change")
	}
	return err
}

// like lists what the sets have that some elements are of.
func (t *Table) like(elements []Element) ([]Element, error) {
	c := &nftables.Conn{}
	var have []Element
	for r, s := range t.sets() {
		if slices.ContainsFunc(elements, func(e Element) bool { return e.Set == s.Name }) {
			found, err := r.elements(c, s)
			if err != nil {
				return nil, err
			}
			have = append(have, found...)
		}
	}
	return have, nil
}

// Balance makes shared ports possible. An error says that the kernel cannot count
// connections (CONFIG_NFT_NUMGEN).
func (t *Table) Balance() error {
	c := &nftables.Conn{}
	chain := &nftables.Chain{Name: shareChain, Table: t.rules.table()}
	if rules, err := c.GetRules(chain.Table, chain); err != nil || len(rules) > 0 {
		return err
	}
	for _, r := range shareRules() {
		c.AddRule(&nftables.Rule{Table: chain.Table, Chain: chain, Exprs: r.exprs()})
	}
	return c.Flush()
}

// Balances reports whether elements are of shared ports.
func Balances(elements []Element) bool { return slices.ContainsFunc(elements, Element.shared) }

// Unshared are elements without those of shared ports: what is left sends all
// connections to the first of those who share.
func Unshared(elements []Element) []Element {
	return slices.DeleteFunc(slices.Clone(elements), Element.shared)
}

// Delete removes elements. Those that are not there, and map elements that have
// another value by now, are left alone.
func (t *Table) Delete(elements []Element) error {
	have, err := t.like(elements)
	if err != nil {
		return err
	}
	there := map[string]bool{}
	for _, e := range have {
		there[e.identity()] = true
	}
	return t.delete(slices.DeleteFunc(slices.Clone(elements), func(e Element) bool { return !there[e.identity()] }))
}

// sets are those of all rulesets.
func (t *Table) sets() iter.Seq2[Ruleset, Set] { return setsOf(t.rulesets()) }

// setsOf lists the sets of rulesets. Their order keeps transactions alike.
func setsOf(rulesets []Ruleset) iter.Seq2[Ruleset, Set] {
	return func(yield func(Ruleset, Set) bool) {
		for _, r := range rulesets {
			for _, s := range r.Sets {
				if !yield(r, s) {
					return
				}
			}
		}
	}
}

// Forget removes elements of sets, which normally all are there.
func (t *Table) Forget(elements []Element) error {
	if len(elements) == 0 {
		return nil
	}
	err := flush(&nftables.Conn{}, t.rulesets(), elements, (*nftables.Conn).SetDeleteElements, "shorten")
	if errors.Is(err, unix.ENOENT) {
		return t.Delete(elements)
	}
	return err
}

func (e Element) identity() string { return e.Place() + "\x00" + string(e.Value) }

func (t *Table) delete(elements []Element) error {
	err := flush(&nftables.Conn{}, t.rulesets(), elements, (*nftables.Conn).SetDeleteElements, "shorten")
	if !errors.Is(err, unix.ENOENT) {
		return err
	}
	if len(elements) == 1 {
		return nil
	}
	// One that another process deleted meanwhile fails the transaction: halve it.
	half := len(elements) / 2
	return errors.Join(t.delete(elements[:half]), t.delete(elements[half:]))
}

// perMessage keeps a message's list of elements below the 64 KiB of an attribute.
const perMessage = 200

// perTransaction keeps a transaction below the send buffer of a socket, 208 KiB on
// most hosts. More elements are changed in several transactions.
const perTransaction = 1000

func flush(c *nftables.Conn, rulesets []Ruleset, elements []Element, op func(*nftables.Conn, *nftables.Set, []nftables.SetElement) error, verb string) error {
	queued := 0
	err := queue(c, rulesets, elements, op, verb, func(n int) error {
		if queued += n; queued <= perTransaction {
			return nil
		}
		queued = n
		return commit(c, rulesets[0].Table, verb)
	})
	if err != nil {
		return err
	}
	return commit(c, rulesets[0].Table, verb)
}

// queue has a transaction change elements. before each message it tells of how many.
func queue(c *nftables.Conn, rulesets []Ruleset, elements []Element, op func(*nftables.Conn, *nftables.Set, []nftables.SetElement) error, verb string, before func(n int) error) error {
	bySet := map[string][]nftables.SetElement{}
	for _, e := range elements {
		bySet[e.Set] = append(bySet[e.Set], nftables.SetElement{Key: e.Key, KeyEnd: e.KeyEnd, Val: e.Value})
	}
	for r, s := range setsOf(rulesets) {
		for part := range slices.Chunk(bySet[s.Name], perMessage) {
			if err := before(len(part)); err != nil {
				return err
			}
			if err := op(c, kernelSet(r.table(), s), part); err != nil {
				return fmt.Errorf("cannot %s firewall table %s: %w", verb, r.Table, err)
			}
		}
	}
	return nil
}

func commit(c *nftables.Conn, table, verb string) error {
	err := c.Flush()
	switch {
	case err == nil:
		return nil
	case errors.Is(err, unix.EBUSY) || errors.Is(err, unix.EEXIST):
		return fmt.Errorf("cannot %s firewall table %s: %w", verb, table, ErrTaken)
	}
	return fmt.Errorf("cannot %s firewall table %s: %w", verb, table, err)
}

// Elements lists all elements of all sets; a table that does not exist has none.
func (t *Table) Elements() ([]Element, error) {
	c := &nftables.Conn{}
	var out []Element
	for _, r := range t.rulesets() {
		if !r.exists(c) {
			continue
		}
		for _, s := range r.Sets {
			found, err := r.elements(c, s)
			if err != nil {
				return nil, err
			}
			out = append(out, found...)
		}
	}
	return out, nil
}

func (r Ruleset) exists(c *nftables.Conn) bool {
	tables, err := c.ListTablesOfFamily(r.Family)
	return err != nil || slices.ContainsFunc(tables, func(o *nftables.Table) bool { return o.Name == r.Table })
}

func (r Ruleset) elements(c *nftables.Conn, s Set) ([]Element, error) {
	found, err := c.GetSetElements(kernelSet(r.table(), s))
	if err != nil && !r.exists(c) { // the library hides which error it was
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("cannot list firewall table %s: %w", r.Table, err)
	}
	var out []Element
	for _, e := range found {
		out = append(out, Element{Set: s.Name, Key: e.Key, KeyEnd: e.KeyEnd, Value: e.Val})
	}
	return out, nil
}

// Complete reports whether the table is there and has all the elements.
func (t *Table) Complete(elements []Element) bool {
	c := &nftables.Conn{}
	if !t.current(c) {
		return false
	}
	have, err := t.Elements()
	if err != nil {
		return false
	}
	there := map[string]bool{}
	for _, h := range have {
		there[h.identity()] = true
	}
	known := map[string]bool{}
	for _, s := range t.sets() {
		known[s.Name] = true
	}
	return !slices.ContainsFunc(elements, func(e Element) bool { return known[e.Set] && !there[e.identity()] })
}

// Bridges lists the bridges the table knows.
func (t *Table) Bridges() ([]string, error) {
	found, err := t.rules.elements(&nftables.Conn{}, t.rules.Sets[0])
	var names []string
	for _, e := range found {
		names = append(names, string(bytes.TrimRight(e.Key, "\x00")))
	}
	return names, err
}

// Remove deletes the tables; one that is not there is not an error.
func (t *Table) Remove() error {
	// Both in one transaction, since each has the kernel wait for its packets.
	both := &nftables.Conn{}
	for _, r := range t.rulesets() {
		both.DelTable(r.table())
	}
	if err := both.Flush(); err == nil {
		return nil
	}
	var errs []error
	for _, r := range t.rulesets() {
		c := &nftables.Conn{}
		c.DelTable(r.table())
		if err := c.Flush(); err != nil && !errors.Is(err, unix.ENOENT) {
			errs = append(errs, fmt.Errorf("cannot remove firewall table %s: %w", r.Table, err))
		}
	}
	return errors.Join(errs...)
}

func (r Ruleset) table() *nftables.Table {
	return &nftables.Table{Family: r.Family, Name: r.Table}
}

func kernelSet(table *nftables.Table, s Set) *nftables.Set {
	set := &nftables.Set{Table: table, Name: s.Name, KeyType: concat(s.Key)}
	if len(s.Key) == 1 {
		set.KeyByteOrder = binaryutil.BigEndian
		if s.Key[0].Name == nftables.TypeIFName.Name {
			set.KeyByteOrder = binaryutil.NativeEndian
		}
	}
	set.Interval, set.Concatenation = s.Ranges, s.Ranges
	if len(s.Data) > 0 {
		set.IsMap = true
		set.DataType = concat(s.Data)
	}
	return set
}

func concat(types []nftables.SetDatatype) nftables.SetDatatype {
	if len(types) == 1 {
		return types[0]
	}
	return nftables.MustConcatSetType(types...)
}

// apply queues everything that brings the table to the ruleset: its rules are
// replaced, the elements of sets that exist stay.
func apply(c *nftables.Conn, r Ruleset) error {
	table := c.AddTable(&nftables.Table{Family: r.Family, Name: r.Table})
	c.FlushTable(table) // rules only
	for i, s := range r.Sets {
		set := kernelSet(table, s)
		set.ID = uint32(i + 1) // within the transaction; the library's counter is not safe for concurrent use
		if err := c.AddSet(set, nil); err != nil {
			return fmt.Errorf("set %s: %w", s.Name, err)
		}
	}
	chains := make([]*nftables.Chain, len(r.Chains))
	for i, ch := range r.Chains {
		chains[i] = &nftables.Chain{Name: ch.Name, Table: table}
		if ch.Hook != "" {
			policy := nftables.ChainPolicyAccept
			chains[i].Type, chains[i].Priority, chains[i].Policy = ch.Type, &ch.Priority, &policy
			chains[i].Hooknum = hook(ch.Hook)
		}
		c.AddChain(chains[i])
	}
	for i, ch := range r.Chains {
		for _, rule := range ch.Rules {
			c.AddRule(&nftables.Rule{Table: table, Chain: chains[i], Exprs: rule.exprs()})
		}
	}
	if len(r.Sets) > 0 {
		c.AddChain(&nftables.Chain{Name: r.version(), Table: table})
	}
	return nil
}

func hook(name string) *nftables.ChainHook {
	switch name {
	case "prerouting":
		return nftables.ChainHookPrerouting
	case "forward":
		return nftables.ChainHookForward
	case "output":
		return nftables.ChainHookOutput
	}
	return nftables.ChainHookPostrouting
}

// Apply makes the ruleset so in the network namespace of the calling thread.
func Apply(r Ruleset) error {
	do, err := Prepare(r)
	if err != nil {
		return err
	}
	return do()
}

// Prepare returns what makes the ruleset so in the network namespace that the calling
// thread is in now, on whichever thread it is called, once.
func Prepare(r Ruleset) (do func() error, err error) {
	c, err := nftables.New(nftables.AsLasting())
	if err != nil {
		return nil, fmt.Errorf("cannot reach the firewall: %w", err)
	}
	if err := apply(c, r); err != nil {
		return nil, errors.Join(fmt.Errorf("cannot describe firewall table %s: %w", r.Table, err), c.CloseLasting())
	}
	return func() error {
		err := c.Flush()
		if err != nil {
			err = fmt.Errorf("cannot apply firewall table %s: %w", r.Table, err)
		}
		return errors.Join(err, c.CloseLasting())
	}, nil
}

// Current reports whether the kernel has the table as this version makes it. It is
// gone after "nft flush ruleset".
func (t *Table) Current() bool { return t.current(&nftables.Conn{}) }
