package seccomp

import (
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// Offsets in struct seccomp_data.
const (
	offNumber = 0
	offArch   = 4
	offArgs   = 16
)

// assembler writes a program from its end to its beginning: BPF only jumps
// forward, so every target is already in place when a jump to it is written.
type assembler struct {
	code   []unix.SockFilter // reversed
	leaves []leaf            // return instructions near enough to be shared
}

// label is a position counted from the end, 1 for the last instruction.
type label int

type leaf struct {
	at    label
	value uint32
}

func (a *assembler) emit(i unix.SockFilter) label {
	a.code = append(a.code, i)
	return label(len(a.code))
}

// distance is what an instruction written now must skip to get to a label.
func (a *assembler) distance(to label) int { return len(a.code) - int(to) }

// ret returns a value, from an earlier instruction if one is near.
func (a *assembler) ret(value uint32) label {
	for _, l := range a.leaves {
		// Room for what comes in between: a node and its long jumps.
		if l.value == value && a.distance(l.at) < 250 {
			return l.at
		}
	}
	at := a.emit(unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: value})
	for i := range a.leaves {
		if a.leaves[i].value == value {
			a.leaves[i].at = at
			return at
		}
	}
	a.leaves = append(a.leaves, leaf{at, value})
	return at
}

// near makes a label reachable for a conditional jump, whose offsets have
// eight bits.
func (a *assembler) near(to label, reserve int) label {
	if a.distance(to)+reserve <= 255 {
		return to
	}
	return a.emit(unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JA, K: uint32(a.distance(to))})
}

// jump compares the accumulator with k.
func (a *assembler) jump(op uint16, k uint32, yes, no label) label {
	yes = a.near(yes, 1)
	no = a.near(no, 0)
	return a.emit(unix.SockFilter{Code: unix.BPF_JMP | op | unix.BPF_K, Jt: uint8(a.distance(yes)), Jf: uint8(a.distance(no)), K: k})
}

// load reads a word of seccomp_data and goes on at next.
func (a *assembler) load(offset uint32, next label) label {
	a.follow(next)
	return a.emit(unix.SockFilter{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: offset})
}

// follow makes next the instruction after the one written now.
func (a *assembler) follow(next label) {
	if d := a.distance(next); d > 0 {
		a.emit(unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JA, K: uint32(d)})
	}
}

// tree searches the number in the accumulator in adjoining ranges.
func (a *assembler) tree(s []span) label {
	if len(s) == 1 {
		return a.verdict(s[0].verdict)
	}
	mid := len(s) / 2
	right := a.tree(s[mid:])
	left := a.tree(s[:mid])
	return a.jump(unix.BPF_JGE, s[mid].from, right, left)
}

func (a *assembler) verdict(v verdict) label {
	next := a.ret(v.otherwise)
	for i := len(v.conditional) - 1; i >= 0; i-- {
		c := v.conditional[i]
		yes := a.ret(c.action)
		for j := len(c.conditions) - 1; j >= 0; j-- {
			yes = a.compare(c.conditions[j], yes, next)
		}
		next = yes
	}
	return next
}

// compare tests one argument, 64 bits wide, a word at a time.
func (a *assembler) compare(c specs.LinuxSeccompArg, yes, no label) label {
	high, low := uint32(c.Value>>32), uint32(c.Value)
	word := func(half uint32, next label) label { return a.load(offArgs+8*uint32(c.Index)+wordOffset(half), next) }
	switch c.Op {
	case specs.OpNotEqual:
		yes, no = no, yes
		fallthrough
	case specs.OpEqualTo:
		l := word(0, a.jump(unix.BPF_JEQ, low, yes, no))
		return word(1, a.jump(unix.BPF_JEQ, high, l, no))
	case specs.OpLessEqual:
		yes, no = no, yes
		fallthrough
	case specs.OpGreaterThan:
		l := word(0, a.jump(unix.BPF_JGT, low, yes, no))
		eq := a.jump(unix.BPF_JEQ, high, l, no)
		return word(1, a.jump(unix.BPF_JGT, high, yes, eq))
	case specs.OpLessThan:
		yes, no = no, yes
		fallthrough
	case specs.OpGreaterEqual:
		l := word(0, a.jump(unix.BPF_JGE, low, yes, no))
		eq := a.jump(unix.BPF_JEQ, high, l, no)
		return word(1, a.jump(unix.BPF_JGT, high, yes, eq))
	}
	// SCMP_CMP_MASKED_EQ: argument & value == valueTwo.
	and := func(k uint32, next label) label {
		a.follow(next)
		return a.emit(unix.SockFilter{Code: unix.BPF_ALU | unix.BPF_AND | unix.BPF_K, K: k})
	}
	l := word(0, and(low, a.jump(unix.BPF_JEQ, uint32(c.ValueTwo), yes, no)))
	return word(1, and(high, a.jump(unix.BPF_JEQ, uint32(c.ValueTwo>>32), l, no)))
}
