package seccomp

import (
	"errors"
	"fmt"
	"slices"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// Filter is a compiled profile.
type Filter struct {
	Program []unix.SockFilter // for struct sock_fprog
	Flags   uint32            // SECCOMP_FILTER_FLAG_*
}

// maxInstructions is BPF_MAXINSNS.
const maxInstructions = 4096

// Compile translates a profile. It is pure.
func Compile(p *specs.LinuxSeccomp) (*Filter, error) {
	flags, err := filterFlags(p.Flags)
	if err != nil {
		return nil, err
	}
	fallback, err := action(p.DefaultAction, p.DefaultErrnoRet)
	if err != nil {
		return nil, fmt.Errorf("seccomp profile: default action: %w", err)
	}
	rules, err := parseRules(p.Syscalls)
	if err != nil {
		return nil, fmt.Errorf("seccomp profile: %w", err)
	}
	archs, err := selectArchs(p.Architectures)
	if err != nil {
		return nil, fmt.Errorf("seccomp profile: %w", err)
	}
	a := &assembler{}
	generate(a, archs, rules, fallback, newerCalls(p, fallback))
	if len(a.code) > maxInstructions {
		return nil, fmt.Errorf("seccomp profile: it compiles to %d instructions, the kernel takes %d; name fewer system calls or arguments", len(a.code), maxInstructions)
	}
	slices.Reverse(a.code)
	return &Filter{Program: a.code, Flags: flags}, nil
}

// newerCalls is the result for calls that are newer than the profile.
func newerCalls(p *specs.LinuxSeccomp, fallback uint32) uint32 {
	switch p.DefaultAction {
	case specs.ActAllow, specs.ActLog, specs.ActTrace, specs.ActNotify:
		return fallback
	}
	return unix.SECCOMP_RET_ERRNO | uint32(unix.ENOSYS)
}

func filterFlags(names []specs.LinuxSeccompFlag) (uint32, error) {
	if names == nil {
		return unix.SECCOMP_FILTER_FLAG_SPEC_ALLOW, nil
	}
	var flags uint32
	for _, n := range names {
		switch n {
		case specs.LinuxSeccompFlagLog:
			flags |= unix.SECCOMP_FILTER_FLAG_LOG
		case specs.LinuxSeccompFlagSpecAllow:
			flags |= unix.SECCOMP_FILTER_FLAG_SPEC_ALLOW
		case specs.LinuxSeccompFlagWaitKillableRecv:
			flags |= unix.SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV
		default:
			return 0, fmt.Errorf("seccomp profile: unknown flag %q", n)
		}
	}
	return flags, nil
}

// action translates an action to a filter's return value.
func action(a specs.LinuxSeccompAction, errnoRet *uint) (uint32, error) {
	data := uint32(unix.EPERM)
	if errnoRet != nil {
		if *errnoRet > unix.SECCOMP_RET_DATA {
			return 0, fmt.Errorf("errnoRet %d is out of range", *errnoRet)
		}
		data = uint32(*errnoRet)
	}
	switch a {
	case specs.ActErrno:
		return unix.SECCOMP_RET_ERRNO | data, nil
	case specs.ActTrace:
		return unix.SECCOMP_RET_TRACE | data, nil
	}
	if errnoRet != nil {
		return 0, fmt.Errorf("errnoRet has no meaning with %s", a)
	}
	switch a {
	case specs.ActAllow:
		return unix.SECCOMP_RET_ALLOW, nil
	case specs.ActKill, specs.ActKillThread:
		return unix.SECCOMP_RET_KILL_THREAD, nil
	case specs.ActKillProcess:
		return unix.SECCOMP_RET_KILL_PROCESS, nil
	case specs.ActTrap:
		return unix.SECCOMP_RET_TRAP, nil
	case specs.ActLog:
		return unix.SECCOMP_RET_LOG, nil
	case specs.ActNotify:
		return unix.SECCOMP_RET_USER_NOTIF, nil
	}
	return 0, fmt.Errorf("unknown action %q", a)
}

// rule is what a profile's entry does with one call.
type rule struct {
	names  []string
	action uint32
	// alternatives are lists of conditions, one of which must hold entirely.
	// None means always.
	alternatives [][]specs.LinuxSeccompArg
}

func parseRules(entries []specs.LinuxSyscall) ([]rule, error) {
	rules := make([]rule, 0, len(entries))
	for i, e := range entries {
		if len(e.Names) == 0 {
			return nil, fmt.Errorf("syscalls[%d] has no names", i)
		}
		act, err := action(e.Action, e.ErrnoRet)
		if err != nil {
			return nil, fmt.Errorf("syscalls[%d] (%s): %w", i, e.Names[0], err)
		}
		r := rule{names: e.Names, action: act}
		var seen [6]bool
		repeated := false
		for _, a := range e.Args {
			if a.Index > 5 {
				return nil, fmt.Errorf("syscalls[%d] (%s): argument index %d; a system call has arguments 0 to 5", i, e.Names[0], a.Index)
			}
			switch a.Op {
			case specs.OpEqualTo, specs.OpNotEqual, specs.OpLessThan, specs.OpLessEqual, specs.OpGreaterEqual, specs.OpGreaterThan, specs.OpMaskedEqual:
			default:
				return nil, fmt.Errorf("syscalls[%d] (%s): unknown operator %q", i, e.Names[0], a.Op)
			}
			repeated = repeated || seen[a.Index]
			seen[a.Index] = true
		}
		switch {
		case repeated:
			for _, a := range e.Args {
				r.alternatives = append(r.alternatives, []specs.LinuxSeccompArg{a})
			}
		case len(e.Args) > 0:
			r.alternatives = [][]specs.LinuxSeccompArg{e.Args}
		}
		rules = append(rules, r)
	}
	return rules, nil
}

func selectArchs(names []specs.Arch) ([]arch, error) {
	own := native()
	if own == "" {
		return nil, errors.New("this processor architecture is not supported; run without a profile (seccomp=unconfined)")
	}
	known := architectures()
	var out []arch
	for _, name := range append([]specs.Arch{own}, names...) {
		i := slices.IndexFunc(known, func(a arch) bool { return a.name == name })
		if i < 0 {
			// Calls of an architecture that is left out kill: nothing is opened by it.
			continue
		}
		if !slices.ContainsFunc(out, func(a arch) bool { return a.name == name }) {
			out = append(out, known[i])
		}
	}
	return out, nil
}

// verdict is what happens to one system call number.
type verdict struct {
	conditional []clause // the first that holds decides
	otherwise   uint32
}

type clause struct {
	conditions []specs.LinuxSeccompArg
	action     uint32
}

// table holds the verdicts of an architecture by number. Numbers are small,
// except for the few private ones of arm.
type table struct {
	base     uint32 // x32Bit or 0
	index    [1024]uint16
	private  [16]uint16
	verdicts []tableEntry
}

type tableEntry struct {
	verdict
	decided bool // by a rule without conditions
}

// private is where the numbers begin that arm has apart from all others.
const private = 0x0f0000

// at returns the verdict on a number, made with the default if there is none.
func (t *table) at(nr, fallback uint32) *tableEntry {
	var i *uint16
	if n := nr - t.base; n < uint32(len(t.index)) {
		i = &t.index[n]
	} else {
		i = &t.private[(nr-private)%uint32(len(t.private))]
	}
	if *i == 0 {
		t.verdicts = append(t.verdicts, tableEntry{verdict: verdict{otherwise: fallback}})
		*i = uint16(len(t.verdicts))
	}
	return &t.verdicts[*i-1]
}

// verdicts collects the rules of an architecture by number. A rule without
// conditions decides when no rule with conditions holds; of two the first counts.
func verdicts(a *arch, rules []rule, fallback uint32) *table {
	t := &table{verdicts: make([]tableEntry, 0, 512)}
	if a.name == specs.ArchX32 {
		t.base = x32Bit
	}
	for i := range rules {
		r := &rules[i]
		for _, name := range r.names {
			if nr, ok := a.number(name); ok {
				v := t.at(nr, fallback)
				if len(r.alternatives) == 0 && !v.decided {
					v.decided, v.otherwise = true, r.action
				}
				for _, c := range r.alternatives {
					v.conditional = append(v.conditional, clause{c, r.action})
				}
			}
			// The arguments of a multiplexed call are in memory, out of a filter's reach.
			if by, n, ok := a.multiplexed(name); ok && len(r.alternatives) == 0 {
				nr, _ := a.number(by)
				v := t.at(nr, fallback)
				v.conditional = append(v.conditional, clause{[]specs.LinuxSeccompArg{{Index: 0, Op: specs.OpEqualTo, Value: n}}, r.action})
			}
		}
	}
	for i := range t.verdicts {
		// Clauses at the end that decide as the rest does are for nothing.
		v := &t.verdicts[i]
		for n := len(v.conditional); n > 0 && v.conditional[n-1].action == v.otherwise; n-- {
			v.conditional = v.conditional[:n-1]
		}
	}
	return t
}

// span is a range of numbers, up to the next span's from, with one verdict.
type span struct {
	from uint32
	verdict
}

// spans turns verdicts into adjoining ranges that cover all numbers. Those
// after the last known number get the verdict newer.
func (t *table) spans(fallback, newer uint32) []span {
	out := []span{{from: t.base, verdict: verdict{otherwise: fallback}}}
	add := func(from uint32, v verdict) {
		last := &out[len(out)-1]
		switch {
		case last.from == from:
			last.verdict = v
			if n := len(out); n > 1 && same(out[n-2].verdict, v) {
				out = out[:n-1]
			}
		case !same(last.verdict, v):
			out = append(out, span{from, v})
		}
	}
	next := t.base
	for n, i := range t.index {
		if i == 0 {
			continue
		}
		nr := t.base + uint32(n)
		if nr != next {
			add(next, verdict{otherwise: fallback})
		}
		add(nr, t.verdicts[i-1].verdict)
		next = nr + 1
	}
	if len(t.verdicts) > 0 {
		add(next, verdict{otherwise: newer})
	}
	for n, i := range t.private {
		if i != 0 {
			add(private+uint32(n), t.verdicts[i-1].verdict)
			add(private+uint32(n)+1, verdict{otherwise: newer})
		}
	}
	return out
}

func same(a, b verdict) bool {
	return len(a.conditional) == 0 && len(b.conditional) == 0 && a.otherwise == b.otherwise
}

// generate writes the whole program, last instruction first.
func generate(a *assembler, archs []arch, rules []rule, fallback, newer uint32) {
	type entry struct {
		arch *arch
		at   label
	}
	var entries []entry
	for i := range archs {
		ar := &archs[i]
		a.leaves = a.leaves[:0]
		entries = append(entries, entry{ar, a.tree(verdicts(ar, rules, fallback).spans(fallback, newer))})
	}
	// x32 shares its architecture number with x86-64; where it is not included
	// its calls are foreign.
	for i, e := range entries {
		if e.arch.name != specs.ArchX86_64 {
			continue
		}
		var x32 label
		if j := slices.IndexFunc(entries, func(e entry) bool { return e.arch.name == specs.ArchX32 }); j >= 0 {
			x32 = entries[j].at
		} else {
			x32 = a.ret(unix.SECCOMP_RET_KILL_PROCESS)
		}
		entries[i].at = a.jump(unix.BPF_JGE, x32Bit, x32, e.at)
	}
	next := a.ret(unix.SECCOMP_RET_KILL_PROCESS)
	for _, e := range slices.Backward(entries) {
		if e.arch.name == specs.ArchX32 {
			continue
		}
		at := a.load(offNumber, e.at)
		next = a.jump(unix.BPF_JEQ, e.arch.audit, at, next)
	}
	a.load(offArch, next)
}
