package seccomp

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// data is struct seccomp_data.
type data struct {
	nr, arch uint32
	args     [6]uint64
}

// run executes a filter in x/net's virtual machine, whose loads are big-endian.
func run(t testing.TB, vm *bpf.VM, d data) uint32 {
	t.Helper()
	b := make([]byte, 64)
	binary.BigEndian.PutUint32(b[0:], d.nr)
	binary.BigEndian.PutUint32(b[4:], d.arch)
	for i, v := range d.args {
		binary.BigEndian.PutUint32(b[16+8*i:], uint32(v))
		binary.BigEndian.PutUint32(b[20+8*i:], uint32(v>>32))
	}
	n, err := vm.Run(b)
	if err != nil {
		t.Fatal(err)
	}
	return uint32(n)
}

func newVM(t testing.TB, f *Filter) *bpf.VM {
	t.Helper()
	raw := make([]bpf.RawInstruction, len(f.Program))
	for i, in := range f.Program {
		raw[i] = bpf.RawInstruction{Op: in.Code, Jt: in.Jt, Jf: in.Jf, K: in.K}
	}
	program, ok := bpf.Disassemble(raw)
	if !ok {
		t.Fatal("the program has unknown instructions")
	}
	vm, err := bpf.NewVM(program)
	if err != nil {
		t.Fatal(err)
	}
	return vm
}

// expected decides by walking the profile, the slow and obvious way.
func expected(t testing.TB, p *specs.LinuxSeccomp, d data) uint32 {
	fallback, err := action(p.DefaultAction, p.DefaultErrnoRet)
	if err != nil {
		t.Fatal(err)
	}
	archs, err := selectArchs(p.Architectures)
	if err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(archs, func(a arch) bool {
		if a.audit != d.arch {
			return false
		}
		return a.audit != unix.AUDIT_ARCH_X86_64 || (a.name == specs.ArchX32) == (d.nr >= x32Bit)
	})
	if i < 0 {
		return unix.SECCOMP_RET_KILL_PROCESS
	}
	a := &archs[i]
	conditional, unconditional := uint32(0), uint32(0)
	haveCond, haveUncond, newest := false, false, int64(-1)
	for _, e := range p.Syscalls {
		act, _ := action(e.Action, e.ErrnoRet)
		for _, name := range e.Names {
			nr, ok := a.number(name)
			if by, n, mux := a.multiplexed(name); mux && len(e.Args) == 0 {
				bynr, _ := a.number(by)
				newest = max(newest, int64(bynr))
				if d.nr == bynr && d.args[0] == n && !haveCond {
					haveCond, conditional = true, act
				}
			}
			if !ok {
				continue
			}
			if nr&^x32Bit < private {
				newest = max(newest, int64(nr))
			}
			if nr != d.nr {
				continue
			}
			if len(e.Args) == 0 {
				if !haveUncond {
					haveUncond, unconditional = true, act
				}
				continue
			}
			all, any, repeated := true, false, false
			seen := map[uint]bool{}
			for _, c := range e.Args {
				h := holds(c, d.args[c.Index])
				all, any = all && h, any || h
				repeated = repeated || seen[c.Index]
				seen[c.Index] = true
			}
			if (repeated && any || !repeated && all) && !haveCond {
				haveCond, conditional = true, act
			}
		}
	}
	switch {
	case haveCond:
		return conditional
	case haveUncond:
		return unconditional
	case newest >= 0 && int64(d.nr) > newest:
		return newerCalls(p, fallback)
	}
	return fallback
}

func holds(c specs.LinuxSeccompArg, v uint64) bool {
	switch c.Op {
	case specs.OpEqualTo:
		return v == c.Value
	case specs.OpNotEqual:
		return v != c.Value
	case specs.OpLessThan:
		return v < c.Value
	case specs.OpLessEqual:
		return v <= c.Value
	case specs.OpGreaterThan:
		return v > c.Value
	case specs.OpGreaterEqual:
		return v >= c.Value
	}
	return v&c.Value == c.ValueTwo
}

var dockerCaps = []string{
	"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FSETID", "CAP_FOWNER", "CAP_MKNOD", "CAP_NET_RAW", "CAP_SETGID",
	"CAP_SETUID", "CAP_SETFCAP", "CAP_SETPCAP", "CAP_NET_BIND_SERVICE", "CAP_SYS_CHROOT", "CAP_KILL", "CAP_AUDIT_WRITE",
}

func TestDefaultProfileDecidesEachCallAsWritten(t *testing.T) {
	if native() != specs.ArchX86_64 {
		t.Skip("x86-64 only")
	}
	for _, caps := range [][]string{dockerCaps, nil, append([]string{"CAP_SYS_ADMIN"}, dockerCaps...)} {
		p, err := Default(caps)
		if err != nil {
			t.Fatal(err)
		}
		f, err := Compile(p)
		if err != nil {
			t.Fatal(err)
		}
		vm := newVM(t, f)
		rng := rand.New(rand.NewPCG(1, 2))
		check := func(d data) {
			t.Helper()
			if got, want := run(t, vm, d), expected(t, p, d); got != want {
				t.Fatalf("caps %v: %+v: got %#x, want %#x", caps, d, got, want)
			}
		}
		for _, audit := range []uint32{unix.AUDIT_ARCH_X86_64, unix.AUDIT_ARCH_I386, unix.AUDIT_ARCH_AARCH64} {
			for _, base := range []uint32{0, x32Bit} {
				for nr := uint32(0); nr < 560; nr++ {
					check(data{nr: base + nr, arch: audit})
					check(data{nr: base + nr, arch: audit, args: [6]uint64{uint64(rng.IntN(64)), rng.Uint64()}})
				}
			}
			check(data{nr: 1<<32 - 1, arch: audit})
			check(data{nr: 0x80000000, arch: audit})
		}
		for _, arg := range []uint64{0, 8, 0x20000, 0x20008, 0xffffffff, 0x1_0000_0000, 0x1_0000_0008, 38, 39, 40, 41, 0x7E020000, 0x10000000} {
			for _, name := range []string{"personality", "clone", "socket"} {
				for _, ar := range architectures()[:3] {
					nr, _ := ar.number(name)
					check(data{nr: nr, arch: ar.audit, args: [6]uint64{arg}})
				}
			}
		}
	}
}

func TestDefaultProfileIsSmallAndShallow(t *testing.T) {
	p, err := Default(dockerCaps)
	if err != nil {
		t.Fatal(err)
	}
	f, err := Compile(p)
	if err != nil {
		t.Fatal(err)
	}
	if len(f.Program) > 700 {
		t.Errorf("%d instructions", len(f.Program))
	}
	deepest := 0
	for nr := range uint32(470) {
		deepest = max(deepest, steps(f, data{nr: nr, arch: native_(t)}))
	}
	if deepest > 20 {
		t.Errorf("a call without conditions takes up to %d instructions", deepest)
	}
	t.Logf("%d instructions, at most %d for a call", len(f.Program), deepest)
}

func native_(t testing.TB) uint32 {
	a, err := selectArchs(nil)
	if err != nil {
		t.Skip(err)
	}
	return a[0].audit
}

// steps counts the instructions executed.
func steps(f *Filter, d data) int {
	acc, n := uint32(0), 0
	for pc := 0; ; pc++ {
		in := f.Program[pc]
		n++
		switch in.Code & 7 {
		case unix.BPF_RET:
			return n
		case unix.BPF_LD:
			switch in.K {
			case offNumber:
				acc = d.nr
			case offArch:
				acc = d.arch
			default:
				acc = 0
			}
		case unix.BPF_JMP:
			yes := true
			switch in.Code & 0xf0 {
			case unix.BPF_JA:
				pc += int(in.K)
				continue
			case unix.BPF_JEQ:
				yes = acc == in.K
			case unix.BPF_JGT:
				yes = acc > in.K
			case unix.BPF_JGE:
				yes = acc >= in.K
			}
			if yes {
				pc += int(in.Jt)
			} else {
				pc += int(in.Jf)
			}
		}
	}
}

func TestRandomProfiles(t *testing.T) {
	if native() != specs.ArchX86_64 {
		t.Skip("x86-64 only")
	}
	rng := rand.New(rand.NewPCG(3, 4))
	ops := []specs.LinuxSeccompOperator{specs.OpEqualTo, specs.OpNotEqual, specs.OpLessThan, specs.OpLessEqual, specs.OpGreaterThan, specs.OpGreaterEqual, specs.OpMaskedEqual}
	actions := []specs.LinuxSeccompAction{specs.ActAllow, specs.ActErrno, specs.ActKillProcess, specs.ActKillThread, specs.ActTrap, specs.ActLog, specs.ActTrace, specs.ActNotify}
	values := []uint64{0, 1, 2, 0xffffffff, 1 << 32, 1<<32 + 1, 1<<63 + 5, ^uint64(0)}
	value := func() uint64 { return values[rng.IntN(len(values))] }
	for range 60 {
		p := &specs.LinuxSeccomp{
			DefaultAction: actions[rng.IntN(len(actions))],
			Architectures: [][]specs.Arch{nil, {specs.ArchX86}, {specs.ArchX86, specs.ArchX32}, {specs.ArchAARCH64, specs.ArchARM}}[rng.IntN(4)],
		}
		for range rng.IntN(40) {
			e := specs.LinuxSyscall{Action: actions[rng.IntN(len(actions))]}
			for range 1 + rng.IntN(30) {
				e.Names = append(e.Names, x86Calls[rng.IntN(len(x86Calls))].name)
			}
			for range rng.IntN(3) * rng.IntN(2) {
				e.Args = append(e.Args, specs.LinuxSeccompArg{Index: uint(rng.IntN(6)), Op: ops[rng.IntN(len(ops))], Value: value(), ValueTwo: value()})
			}
			p.Syscalls = append(p.Syscalls, e)
		}
		f, err := Compile(p)
		if err != nil {
			if strings.Contains(err.Error(), "the kernel takes") {
				continue
			}
			t.Fatal(err)
		}
		vm := newVM(t, f)
		for range 600 {
			d := data{nr: uint32(rng.IntN(480)), arch: architectures()[rng.IntN(5)].audit}
			if rng.IntN(4) == 0 {
				d.nr |= x32Bit
			}
			for i := range d.args {
				d.args[i] = value()
			}
			if got, want := run(t, vm, d), expected(t, p, d); got != want {
				t.Fatalf("%+v\n%+v: got %#x, want %#x", p, d, got, want)
			}
		}
	}
}

func TestLongConditionsStayReachable(t *testing.T) {
	p := &specs.LinuxSeccomp{DefaultAction: specs.ActErrno}
	for i := range 200 {
		p.Syscalls = append(p.Syscalls, specs.LinuxSyscall{Names: []string{"personality"}, Action: specs.ActAllow,
			Args: []specs.LinuxSeccompArg{{Index: 0, Op: specs.OpEqualTo, Value: uint64(i) << 20}, {Index: 1, Op: specs.OpGreaterThan, Value: uint64(i)}}})
	}
	f, err := Compile(p)
	if err != nil {
		t.Fatal(err)
	}
	vm := newVM(t, f)
	a := architectures()[slices.IndexFunc(architectures(), func(a arch) bool { return a.name == native() })]
	nr, _ := a.number("personality")
	for i := range uint64(210) {
		for _, second := range []uint64{i, i + 1} {
			d := data{nr: nr, arch: a.audit, args: [6]uint64{i << 20, second}}
			if got, want := run(t, vm, d), expected(t, p, d); got != want {
				t.Fatalf("%+v: got %#x, want %#x", d, got, want)
			}
		}
	}
}

func TestBadProfiles(t *testing.T) {
	errno := uint(1 << 20)
	one := uint(1)
	for want, p := range map[string]*specs.LinuxSeccomp{
		`default action: unknown action "SCMP_ACT_MAYBE"`:             {DefaultAction: "SCMP_ACT_MAYBE"},
		`unknown flag "FLAG"`:                                         {DefaultAction: specs.ActAllow, Flags: []specs.LinuxSeccompFlag{"FLAG"}},
		`syscalls[0] has no names`:                                    {DefaultAction: specs.ActAllow, Syscalls: []specs.LinuxSyscall{{Action: specs.ActErrno}}},
		`syscalls[0] (read): unknown operator "=="`:                   {DefaultAction: specs.ActAllow, Syscalls: []specs.LinuxSyscall{{Names: []string{"read"}, Action: specs.ActErrno, Args: []specs.LinuxSeccompArg{{Op: "=="}}}}},
		`syscalls[0] (read): argument index 6`:                        {DefaultAction: specs.ActAllow, Syscalls: []specs.LinuxSyscall{{Names: []string{"read"}, Action: specs.ActErrno, Args: []specs.LinuxSeccompArg{{Index: 6, Op: specs.OpEqualTo}}}}},
		`errnoRet 1048576 is out of range`:                            {DefaultAction: specs.ActErrno, DefaultErrnoRet: &errno},
		`default action: errnoRet has no meaning with SCMP_ACT_ALLOW`: {DefaultAction: specs.ActAllow, DefaultErrnoRet: &one},
	} {
		if _, err := Compile(p); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %s", err, want)
		}
	}
	if _, err := Load("{", nil); err == nil {
		t.Error("broken JSON loads")
	}
}

func BenchmarkDefault(b *testing.B) {
	for b.Loop() {
		p, err := Default(dockerCaps)
		if err != nil {
			b.Fatal(err)
		}
		if _, err := Compile(p); err != nil {
			b.Fatal(err)
		}
	}
}

func ExampleCompile() {
	f, err := Compile(&specs.LinuxSeccomp{
		DefaultAction: specs.ActAllow,
		Syscalls:      []specs.LinuxSyscall{{Names: []string{"reboot"}, Action: specs.ActErrno}},
	})
	fmt.Println(len(f.Program) < 20, err)
	// Output: true <nil>
}
