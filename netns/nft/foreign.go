package nft

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/userdata"
	"github.com/google/nftables/xt"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// Other firewalls on the host.
//
// A packet must be accepted in every base chain of a hook: what another table
// drops, no rule of ours can save. Where a foreign chain drops forwarded packets
// unless a rule of its own accepts them (the policy of ufw, of a hand-written
// ruleset, of "iptables -P FORWARD DROP"), the instance puts as few rules into it
// as make containers work:
//
//	iifname "st1234-*" accept
//	oifname "st1234-*" ct state established,related accept
//
// They come last, before what drops everything, so that whatever the administrator
// refuses stays refused. New connections from outside to published ports are his to
// admit, unless the owner of a network asks otherwise ([LinkPattern.Open]).
// DOCKER-USER is the chain in which Docker lets the administrator decide before
// Docker drops what is not its own; there all packets of the links are accepted.
//
// Each rule carries the comment "stack: LINK" and is removed by it.

// LinkPattern names a link, or all links whose name starts with Name.
type LinkPattern struct {
	Name   string
	Prefix bool
	// Open lets other firewalls accept new connections to published ports.
	Open bool
}

const commentPrefix = "stack: "

func (p LinkPattern) comment() string { return commentPrefix + p.Name }

func (p LinkPattern) match(in bool) Statement {
	s := linkPrefix(in, p.Name)
	if !p.Prefix {
		s.Exprs[1] = &expr.Cmp{Op: expr.CmpOpEq, Register: reg, Data: ifname(p.Name)}
	}
	return s
}

// rules are what a chain needs for the links. Where iptables reads the chain, ct
// matches have to be in its own words, or it refuses the whole table.
func (p LinkPattern) rules(docker, xtables bool) []Rule {
	answers, published := established(), translated()
	if xtables {
		answers = xtConntrack("RELATED,ESTABLISHED", xtEstablished|xtRelated)
		published = xtConntrack("DNAT", xtDNAT)
	}
	count := Statement{"counter", []expr.Any{&expr.Counter{}}}
	out := []Rule{{p.match(true), count, accept()}}
	switch {
	case docker:
		out = append(out, Rule{p.match(false), count, accept()})
	case p.Open:
		out = append(out, Rule{p.match(false), answers, count, accept()}, Rule{p.match(false), published, count, accept()})
	default:
		out = append(out, Rule{p.match(false), answers, count, accept()})
	}
	return out
}

// States of xt_conntrack (linux/netfilter/xt_conntrack.h).
const (
	xtEstablished = 1 << 1
	xtRelated     = 1 << 2
	xtDNAT        = 1 << 7
)

// xtConntrack matches the state of a connection with the match of iptables(8).
func xtConntrack(text string, states uint16) Statement {
	info := &xt.ConntrackMtinfo3{}
	info.MatchFlags, info.StateMask = uint16(xt.ConntrackState), states
	return Statement{"-m conntrack --ctstate " + text, []expr.Any{&expr.Match{Name: "conntrack", Rev: 3, Info: info}}}
}

// ForeignChain is a chain of another firewall that drops forwarded packets unless
// a rule accepts them, or Docker's for the administrator.
type ForeignChain struct {
	Family string // ip, ip6, inet
	Table  string
	Chain  string
	// By is the program whose chain it is: ufw, firewalld, iptables, docker or nft.
	By string

	chain *nftables.Chain
	rules []*nftables.Rule
	// end is the first rule that drops everything, nil when the policy does.
	end *nftables.Rule
	// admits says that a rule accepts translated connections.
	admits bool
}

// String is the chain as nft(8) names it.
func (f ForeignChain) String() string { return f.Family + " " + f.Table + " " + f.Chain }

const dockerUser = "DOCKER-USER"

// ForeignChains finds the chains of other firewalls that concern forwarded packets.
func ForeignChains() ([]ForeignChain, error) {
	c := &nftables.Conn{}
	chains, err := c.ListChains()
	if err != nil {
		return nil, fmt.Errorf("cannot list firewall chains: %w", err)
	}
	var out []ForeignChain
	for _, ch := range chains {
		family := map[nftables.TableFamily]string{nftables.TableFamilyINet: "inet", nftables.TableFamilyIPv4: "ip", nftables.TableFamilyIPv6: "ip6"}[ch.Table.Family]
		forward := ch.Hooknum != nil && *ch.Hooknum == *nftables.ChainHookForward
		docker := ch.Name == dockerUser && ch.Table.Name == "filter"
		if family == "" || !forward && !docker || strings.HasPrefix(ch.Table.Name, "stack_") {
			continue
		}
		rules, err := rulesOf(c, ch)
		if err != nil {
			continue // gone meanwhile
		}
		f := ForeignChain{Family: family, Table: ch.Table.Name, Chain: ch.Name, chain: ch, rules: rules}
		table := sameTable{c, chains, ch.Table}
		if docker {
			f.By = "docker"
			out = append(out, f)
			continue
		}
		if table.has(dockerUser) {
			continue // its owner asks there
		}
		if i := slices.IndexFunc(rules, func(r *nftables.Rule) bool { return !isOurs(r) && table.dropsAll(r, 0) }); i >= 0 {
			f.end = rules[i]
		}
		if f.end == nil && (ch.Policy == nil || *ch.Policy != nftables.ChainPolicyDrop) {
			continue
		}
		switch {
		case ch.Table.Name == "firewalld":
			f.By = "firewalld"
		case table.has("ufw-before-forward") || table.has("ufw6-before-forward"):
			f.By = "ufw"
		case ch.Table.Name == "filter" && ch.Name == "FORWARD":
			f.By = "iptables"
		default:
			f.By = "nft"
		}
		f.admits = slices.ContainsFunc(rules, func(r *nftables.Rule) bool { return !isOurs(r) && acceptsTranslated(r) })
		out = append(out, f)
	}
	return out, nil
}

// sameTable answers questions about the chains of one table.
type sameTable struct {
	c      *nftables.Conn
	chains []*nftables.Chain
	table  *nftables.Table
}

func (t sameTable) chain(name string) *nftables.Chain {
	for _, ch := range t.chains {
		if ch.Name == name && ch.Table.Name == t.table.Name && ch.Table.Family == t.table.Family {
			return ch
		}
	}
	return nil
}

func (t sameTable) has(chain string) bool { return t.chain(chain) != nil }

// dropsAll reports whether nothing gets past a rule: it drops, or goes to a chain
// that does in the end.
func (t sameTable) dropsAll(r *nftables.Rule, depth int) bool {
	for _, e := range r.Exprs {
		switch e := e.(type) {
		case *expr.Counter, *expr.Log:
		case *expr.Reject:
			return true
		case *expr.Target:
			return e.Name == "REJECT"
		case *expr.Verdict:
			switch e.Kind {
			case expr.VerdictDrop:
				return true
			case expr.VerdictJump, expr.VerdictGoto:
				next := t.chain(e.Chain)
				if next == nil || depth > 3 {
					return false
				}
				rules, err := rulesOf(t.c, next)
				return err == nil && slices.ContainsFunc(rules, func(r *nftables.Rule) bool { return t.dropsAll(r, depth+1) })
			}
			return false
		default:
			return false // it has a condition
		}
	}
	return false
}

// rulesOf lists the rules of a chain. Where one has an expression that the library
// cannot read, all come without their expressions.
func rulesOf(c *nftables.Conn, ch *nftables.Chain) ([]*nftables.Rule, error) {
	rules, err := c.GetRules(ch.Table, ch)
	if err == nil {
		return rules, nil
	}
	r := nl.NewNetlinkRequest(unix.NFNL_SUBSYS_NFTABLES<<8|unix.NFT_MSG_GETRULE, unix.NLM_F_DUMP)
	r.AddData(&nl.Nfgenmsg{NfgenFamily: byte(ch.Table.Family), Version: nl.NFNETLINK_V0})
	r.AddData(nl.NewRtAttr(unix.NFTA_RULE_TABLE, nl.ZeroTerminated(ch.Table.Name)))
	r.AddData(nl.NewRtAttr(unix.NFTA_RULE_CHAIN, nl.ZeroTerminated(ch.Name)))
	messages, err := r.Execute(unix.NETLINK_NETFILTER, 0)
	if err != nil {
		return nil, fmt.Errorf("cannot list rules of firewall chain %s %s: %w", ch.Table.Name, ch.Name, err)
	}
	for _, m := range messages {
		if len(m) < 4 {
			continue
		}
		attrs, err := nl.ParseRouteAttr(m[4:])
		if err != nil {
			return nil, fmt.Errorf("cannot read rules of firewall chain %s %s: %w", ch.Table.Name, ch.Name, err)
		}
		// Some condition stands for those that are not known.
		rule := &nftables.Rule{Table: ch.Table, Chain: ch, Exprs: []expr.Any{&expr.Meta{}}}
		for _, a := range attrs {
			switch a.Attr.Type &^ (unix.NLA_F_NESTED | unix.NLA_F_NET_BYTEORDER) {
			case unix.NFTA_RULE_HANDLE:
				rule.Handle = binary.BigEndian.Uint64(a.Value)
			case unix.NFTA_RULE_USERDATA:
				rule.UserData = a.Value
			}
		}
		rules = append(rules, rule)
	}
	return rules, nil
}

// acceptsTranslated recognises "ct status dnat accept" without conditions on the
// packet, which admits all published ports. It is what firewalld has.
func acceptsTranslated(r *nftables.Rule) bool {
	asks, accepts := false, false
	for _, e := range r.Exprs {
		switch e := e.(type) {
		case *expr.Payload:
			return false
		case *expr.Match:
			if info, ok := e.Info.(*xt.ConntrackMtinfo3); ok {
				asks = asks || info.StateMask&xtDNAT != 0
			}
		case *expr.Ct:
			asks = asks || e.Key == expr.CtKeySTATUS
		case *expr.Verdict:
			accepts = e.Kind == expr.VerdictAccept
		}
	}
	return asks && accepts
}

func comment(r *nftables.Rule) string {
	s, _ := userdata.GetString(r.UserData, userdata.TypeComment)
	return s
}

func isOurs(r *nftables.Rule) bool { return strings.HasPrefix(comment(r), commentPrefix) }

// has reports whether the chain has all our rules for a link.
func (f ForeignChain) has(l LinkPattern) bool {
	n := 0
	for _, r := range f.rules {
		if comment(r) == l.comment() {
			n++
		}
	}
	return n == len(l.rules(f.By == "docker", false))
}

// Accepted reports whether all chains of other firewalls have our rules.
func Accepted(links []LinkPattern) bool {
	chains, err := ForeignChains()
	if err != nil {
		return false
	}
	for _, f := range chains {
		if slices.ContainsFunc(links, func(l LinkPattern) bool { return !f.has(l) }) {
			return false
		}
	}
	return true
}

// AcceptForward lets packets from and to the links pass other firewalls. What is
// so already stays.
func AcceptForward(links []LinkPattern) error {
	chains, err := ForeignChains()
	if err != nil {
		return err
	}
	var errs []error
	for _, f := range chains {
		c := &nftables.Conn{}
		changed := false
		for _, l := range links {
			if f.has(l) {
				continue
			}
			changed = true
			for _, r := range f.rules {
				if comment(r) == l.comment() {
					_ = c.DelRule(r) // of another version, or with another wish
				}
			}
			f.add(c, l)
		}
		if changed {
			if err := c.Flush(); err != nil {
				errs = append(errs, fmt.Errorf("cannot add rules to firewall chain %s: %w", f, err))
			}
		}
	}
	return errors.Join(errs...)
}

func (f ForeignChain) add(c *nftables.Conn, l LinkPattern) {
	docker := f.By == "docker"
	for _, r := range l.rules(docker, f.By == "ufw" || f.By == "iptables") {
		rule := &nftables.Rule{Table: f.chain.Table, Chain: f.chain, Exprs: r.exprs(),
			UserData: userdata.AppendString(nil, userdata.TypeComment, l.comment())}
		switch {
		case docker:
			c.InsertRule(rule)
		case f.end != nil:
			rule.Position = f.end.Handle
			c.InsertRule(rule) // before it
		default:
			c.AddRule(rule)
		}
	}
}

// UnacceptForward takes the rules of [AcceptForward] back, also from chains that
// drop no more.
func UnacceptForward(links []LinkPattern) error {
	c := &nftables.Conn{}
	chains, err := c.ListChains()
	if err != nil {
		return fmt.Errorf("cannot list firewall chains: %w", err)
	}
	var errs []error
	for _, ch := range chains {
		forward := ch.Hooknum != nil && *ch.Hooknum == *nftables.ChainHookForward
		if !forward && ch.Name != dockerUser || strings.HasPrefix(ch.Table.Name, "stack_") {
			continue
		}
		rules, err := rulesOf(c, ch)
		if err != nil {
			continue // gone meanwhile
		}
		gone := false
		for _, r := range rules {
			if slices.ContainsFunc(links, func(l LinkPattern) bool { return comment(r) == l.comment() }) {
				_ = c.DelRule(r)
				gone = true
			}
		}
		if !gone {
			continue
		}
		if err := c.Flush(); err != nil && !errors.Is(err, unix.ENOENT) { // it went meanwhile
			errs = append(errs, fmt.Errorf("cannot remove rules from firewall chain %s %s: %w", ch.Table.Name, ch.Name, err))
		}
	}
	return errors.Join(errs...)
}

// Admits reports whether the chain is known to let other hosts reach a published
// port whose packets go to target: all of them, or this one by a rule with its address.
func (f ForeignChain) Admits(target netip.AddrPort) bool {
	if f.By == "docker" || f.admits || f.Family == "ip" && target.Addr().Is6() || f.Family == "ip6" && target.Addr().Is4() {
		return true
	}
	rules := f.rules
	if f.By == "ufw" {
		name := "ufw-user-forward"
		if f.Family == "ip6" {
			name = "ufw6-user-forward"
		}
		rules, _ = rulesOf(&nftables.Conn{}, &nftables.Chain{Name: name, Table: f.chain.Table})
	}
	return slices.ContainsFunc(rules, func(r *nftables.Rule) bool {
		names, accepts := false, false
		for _, e := range r.Exprs {
			switch e := e.(type) {
			case *expr.Cmp:
				names = names || bytes.Equal(e.Data, target.Addr().AsSlice())
			case *expr.Verdict:
				accepts = e.Kind == expr.VerdictAccept
			}
		}
		return names && accepts
	})
}

// Command is what the administrator types to let other hosts reach a published port.
func (f ForeignChain) Command(links string, proto string, hostPort uint16, target netip.AddrPort) string {
	switch f.By {
	case "ufw":
		return fmt.Sprintf("ufw route allow proto %s to %s port %d", proto, target.Addr(), target.Port())
	case "firewalld":
		return fmt.Sprintf("firewall-cmd --add-forward-port=port=%d:proto=%s:toport=%d:toaddr=%s", hostPort, proto, target.Port(), target.Addr())
	case "iptables":
		program := "iptables"
		if f.Family == "ip6" {
			program = "ip6tables"
		}
		return fmt.Sprintf("%s -I FORWARD -o %s+ -p %s -m conntrack --ctstate DNAT --ctorigdstport %d -j ACCEPT", program, links, proto, hostPort)
	}
	family := "ip"
	if target.Addr().Is6() {
		family = "ip6"
	}
	return fmt.Sprintf("nft insert rule %s %s daddr %s %s dport %d accept", f, family, target.Addr(), proto, target.Port())
}
