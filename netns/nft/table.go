package nft

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"golang.org/x/sys/unix"
)

// Table is the table of an instance in the kernel. Its methods may be called by
// several processes at once; [Table.Ensure] and [Table.Remove] must be serialised
// by the caller.
type Table struct{ rules Ruleset }

// NewTable returns the instance's table of the given name, which need not exist.
func NewTable(name string) *Table { return &Table{rules: Instance(name)} }

// ErrTaken says that a map has another value for a key already.
var ErrTaken = errors.New("already published")

// Ensure makes the table exist with the rules of this version and adds the
// elements, in one transaction.
func (t *Table) Ensure(elements []Element) error {
	c := &nftables.Conn{}
	if !t.current(c) {
		if err := apply(c, t.rules); err != nil {
			return fmt.Errorf("cannot describe firewall table %s: %w", t.rules.Table, err)
		}
		t.forgetOtherVersions(c)
	}
	return t.flush(c, elements, (*nftables.Conn).SetAddElements, "extend")
}

// current reports whether the kernel has this version of the table.
func (t *Table) current(c *nftables.Conn) bool {
	_, err := c.ListChain(t.table(), t.rules.version())
	return err == nil
}

// forgetOtherVersions queues the removal of the markers of other versions of this
// program, whose rules are replaced.
func (t *Table) forgetOtherVersions(c *nftables.Conn) {
	chains, err := c.ListChainsOfTableFamily(t.rules.Family)
	if err != nil {
		return // the markers only cost a needless replacement later
	}
	for _, ch := range chains {
		if ch.Table.Name == t.rules.Table && strings.HasPrefix(ch.Name, versionPrefix) && ch.Name != t.rules.version() {
			c.DelChain(&nftables.Chain{Name: ch.Name, Table: t.table()})
		}
	}
}

// Add adds elements in one transaction, or in several if they are thousands. Elements that are there already are not
// an error, unless a map has another value for the key: [ErrTaken].
func (t *Table) Add(elements []Element) error {
	return t.flush(&nftables.Conn{}, elements, (*nftables.Conn).SetAddElements, "extend")
}

// Delete removes elements. Those that are not there, and map elements that have
// another value by now, are left alone.
func (t *Table) Delete(elements []Element) error {
	c := &nftables.Conn{}
	var have []Element
	for _, s := range t.rules.Sets {
		if slices.ContainsFunc(elements, func(e Element) bool { return e.Set == s.Name }) {
			found, err := t.elements(c, s)
			if err != nil {
				return err
			}
			have = append(have, found...)
		}
	}
	there := map[string]bool{}
	for _, e := range have {
		there[e.identity()] = true
	}
	return t.delete(slices.DeleteFunc(slices.Clone(elements), func(e Element) bool { return !there[e.identity()] }))
}

func (e Element) identity() string {
	return e.Set + "\x00" + string(e.Key) + "\x00" + string(e.KeyEnd) + "\x00" + string(e.Value)
}

func (t *Table) delete(elements []Element) error {
	err := t.flush(&nftables.Conn{}, elements, (*nftables.Conn).SetDeleteElements, "shorten")
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

func (t *Table) flush(c *nftables.Conn, elements []Element, op func(*nftables.Conn, *nftables.Set, []nftables.SetElement) error, verb string) error {
	bySet := map[string][]nftables.SetElement{}
	for _, e := range elements {
		bySet[e.Set] = append(bySet[e.Set], nftables.SetElement{Key: e.Key, KeyEnd: e.KeyEnd, Val: e.Value})
	}
	queued := 0
	for _, s := range t.rules.Sets { // their order keeps transactions alike
		for part := range slices.Chunk(bySet[s.Name], perMessage) {
			if queued += len(part); queued > perTransaction {
				if err := t.commit(c, verb); err != nil {
					return err
				}
				queued = len(part)
			}
			if err := op(c, t.set(s), part); err != nil {
				return fmt.Errorf("cannot %s firewall table %s: %w", verb, t.rules.Table, err)
			}
		}
	}
	return t.commit(c, verb)
}

func (t *Table) commit(c *nftables.Conn, verb string) error {
	err := c.Flush()
	switch {
	case err == nil:
		return nil
	case errors.Is(err, unix.EBUSY) || errors.Is(err, unix.EEXIST):
		return fmt.Errorf("cannot %s firewall table %s: %w", verb, t.rules.Table, ErrTaken)
	}
	return fmt.Errorf("cannot %s firewall table %s: %w", verb, t.rules.Table, err)
}

// Elements lists all elements of all sets; a table that does not exist has none.
func (t *Table) Elements() ([]Element, error) {
	c := &nftables.Conn{}
	if !t.exists(c) {
		return nil, nil
	}
	var out []Element
	for _, s := range t.rules.Sets {
		found, err := t.elements(c, s)
		if err != nil {
			return nil, err
		}
		out = append(out, found...)
	}
	return out, nil
}

func (t *Table) exists(c *nftables.Conn) bool {
	tables, err := c.ListTablesOfFamily(t.rules.Family)
	return err != nil || slices.ContainsFunc(tables, func(o *nftables.Table) bool { return o.Name == t.rules.Table })
}

func (t *Table) elements(c *nftables.Conn, s Set) ([]Element, error) {
	found, err := c.GetSetElements(t.set(s))
	if err != nil && !t.exists(c) { // the library hides which error it was
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("cannot list firewall table %s: %w", t.rules.Table, err)
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
	return !slices.ContainsFunc(elements, func(e Element) bool { return !there[e.identity()] })
}

// Bridges lists the bridges the table knows.
func (t *Table) Bridges() ([]string, error) {
	found, err := t.elements(&nftables.Conn{}, t.rules.Sets[0])
	var names []string
	for _, e := range found {
		names = append(names, string(bytes.TrimRight(e.Key, "\x00")))
	}
	return names, err
}

// Remove deletes the table; one that is not there is not an error.
func (t *Table) Remove() error {
	c := &nftables.Conn{}
	c.DelTable(t.table())
	if err := c.Flush(); err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("cannot remove firewall table %s: %w", t.rules.Table, err)
	}
	return nil
}

func (t *Table) table() *nftables.Table {
	return &nftables.Table{Family: t.rules.Family, Name: t.rules.Table}
}

func (t *Table) set(s Set) *nftables.Set { return kernelSet(t.table(), s) }

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
