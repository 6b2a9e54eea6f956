package nft

import (
	"errors"
	"fmt"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/userdata"
)

// LinkPattern names a link, or all links whose name starts with Name.
type LinkPattern struct {
	Name   string
	Prefix bool
}

func (p LinkPattern) comment() string { return "stack: " + p.Name }

func (p LinkPattern) match(in bool) Statement {
	if p.Prefix {
		return linkPrefix(in, p.Name)
	}
	s := linkPrefix(in, p.Name)
	s.Exprs[1] = &expr.Cmp{Op: expr.CmpOpEq, Register: reg, Data: ifname(p.Name)}
	return s
}

// dockerUser are the chains that Docker's iptables rules call for the
// administrator's own, before they drop what is not Docker's. They exist only
// where Docker set the policy of forwarded packets to drop.
func dockerUser() []*nftables.Chain {
	return []*nftables.Chain{
		{Name: "DOCKER-USER", Table: &nftables.Table{Name: "filter", Family: nftables.TableFamilyIPv4}},
		{Name: "DOCKER-USER", Table: &nftables.Table{Name: "filter", Family: nftables.TableFamilyIPv6}},
	}
}

// AcceptForward lets packets from and to the links pass Docker's firewall, where
// there is one. Our own table decides about them all the same.
func AcceptForward(links []LinkPattern) error {
	return eachDockerUser(func(c *nftables.Conn, chain *nftables.Chain, ours map[string][]*nftables.Rule) {
		for _, l := range links {
			if len(ours[l.comment()]) > 0 {
				continue
			}
			for _, in := range []bool{true, false} {
				rule := Rule{l.match(in), {"counter", []expr.Any{&expr.Counter{}}}, accept()}
				c.InsertRule(&nftables.Rule{Table: chain.Table, Chain: chain, Exprs: rule.exprs(),
					UserData: userdata.AppendString(nil, userdata.TypeComment, l.comment())})
			}
		}
	})
}

// UnacceptForward takes the rules of [AcceptForward] back.
func UnacceptForward(links []LinkPattern) error {
	return eachDockerUser(func(c *nftables.Conn, _ *nftables.Chain, ours map[string][]*nftables.Rule) {
		for _, l := range links {
			for _, r := range ours[l.comment()] {
				_ = c.DelRule(r)
			}
		}
	})
}

func eachDockerUser(change func(c *nftables.Conn, chain *nftables.Chain, ours map[string][]*nftables.Rule)) error {
	var errs []error
	for _, chain := range dockerUser() {
		c := &nftables.Conn{}
		if _, err := c.ListChain(chain.Table, chain.Name); err != nil {
			continue // no such chain
		}
		rules, err := c.GetRules(chain.Table, chain)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		ours := map[string][]*nftables.Rule{}
		for _, r := range rules {
			if comment, ok := userdata.GetString(r.UserData, userdata.TypeComment); ok {
				ours[comment] = append(ours[comment], r)
			}
		}
		change(c, chain, ours)
		errs = append(errs, c.Flush())
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("cannot change Docker's chain DOCKER-USER: %w", err)
	}
	return nil
}

// DropsForward names a chain of another table that drops forwarded packets unless
// a rule of its own accepts them, which no table of ours can change. A chain
// that [AcceptForward] dealt with does not count.
func DropsForward() (chain string, ok bool) {
	c := &nftables.Conn{}
	chains, err := c.ListChains()
	if err != nil {
		return "", false
	}
	for _, ch := range chains {
		if ch.Hooknum == nil || *ch.Hooknum != *nftables.ChainHookForward || ch.Policy == nil || *ch.Policy != nftables.ChainPolicyDrop {
			continue
		}
		asksUs := slices.ContainsFunc(chains, func(o *nftables.Chain) bool {
			return o.Table.Name == ch.Table.Name && o.Table.Family == ch.Table.Family && o.Name == "DOCKER-USER"
		})
		switch ch.Table.Family {
		case nftables.TableFamilyINet, nftables.TableFamilyIPv4, nftables.TableFamilyIPv6:
			if !asksUs {
				return ch.Table.Name + " " + ch.Name, true
			}
		}
	}
	return "", false
}
