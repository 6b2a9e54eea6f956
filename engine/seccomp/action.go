package seccomp

import "golang.org/x/sys/unix"

// Allows tells whether the filter lets a call pass whatever its arguments are, as
// far as that can be told with arguments of zero: what a rule says of certain
// arguments is not looked at.
func (f *Filter) Allows(nr uintptr) bool {
	if f == nil {
		return true
	}
	action, ok := decide(f.Program, uint32(nr), nativeAudit())
	switch action & unix.SECCOMP_RET_ACTION_FULL {
	case unix.SECCOMP_RET_ALLOW, unix.SECCOMP_RET_LOG:
		return ok
	}
	return false
}

// nativeAudit is seccomp_data.arch of this process's calls.
func nativeAudit() uint32 {
	for _, a := range architectures() {
		if a.name == native() {
			return a.audit
		}
	}
	return 0
}

// decide interprets a filter (bpf(4), seccomp(2)) on a call without arguments. ok is
// false for an instruction that Compile does not use.
func decide(program []unix.SockFilter, nr, arch uint32) (action uint32, ok bool) {
	const at = unix.BPF_LD | unix.BPF_W | unix.BPF_ABS
	var a uint32
	for pc := 0; pc < len(program); pc++ {
		in := program[pc]
		taken := false
		switch in.Code {
		case at:
			switch in.K {
			case 0:
				a = nr
			case 4:
				a = arch
			default:
				a = 0
			}
			continue
		case unix.BPF_ALU | unix.BPF_AND | unix.BPF_K:
			a &= in.K
			continue
		case unix.BPF_JMP | unix.BPF_JA:
			pc += int(in.K)
			continue
		case unix.BPF_RET | unix.BPF_K:
			return in.K, true
		case unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K:
			taken = a == in.K
		case unix.BPF_JMP | unix.BPF_JGT | unix.BPF_K:
			taken = a > in.K
		case unix.BPF_JMP | unix.BPF_JGE | unix.BPF_K:
			taken = a >= in.K
		case unix.BPF_JMP | unix.BPF_JSET | unix.BPF_K:
			taken = a&in.K != 0
		default:
			return 0, false
		}
		if taken {
			pc += int(in.Jt)
		} else {
			pc += int(in.Jf)
		}
	}
	return 0, false
}
