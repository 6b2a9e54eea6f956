package seccomp

import (
	"runtime"
	"slices"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// call is a system call's name and number on one architecture.
type call struct {
	name string
	nr   uint32
}

// arch is an architecture that a process can make calls of.
type arch struct {
	name  specs.Arch
	audit uint32 // AUDIT_ARCH_*, seccomp_data.arch
	calls []call // by name
}

// x32Bit marks the calls of x32, which share AUDIT_ARCH_X86_64.
const x32Bit = 0x40000000

func architectures() []arch {
	return []arch{
		{specs.ArchX86_64, unix.AUDIT_ARCH_X86_64, x8664Calls[:]},
		{specs.ArchX86, unix.AUDIT_ARCH_I386, x86Calls[:]},
		{specs.ArchX32, unix.AUDIT_ARCH_X86_64, x32Calls[:]},
		{specs.ArchAARCH64, unix.AUDIT_ARCH_AARCH64, aarch64Calls[:]},
		{specs.ArchARM, unix.AUDIT_ARCH_ARM, armCalls[:]},
		{specs.ArchRISCV64, unix.AUDIT_ARCH_RISCV64, riscv64Calls[:]},
		{specs.ArchPPC64LE, unix.AUDIT_ARCH_PPC64LE, ppc64leCalls[:]},
		{specs.ArchS390X, unix.AUDIT_ARCH_S390X, s390xCalls[:]},
	}
}

// native is the architecture of this process, "" if it is not supported.
func native() specs.Arch {
	switch runtime.GOARCH {
	case "amd64":
		return specs.ArchX86_64
	case "386":
		return specs.ArchX86
	case "arm64":
		return specs.ArchAARCH64
	case "arm":
		return specs.ArchARM
	case "riscv64":
		return specs.ArchRISCV64
	case "ppc64le":
		return specs.ArchPPC64LE
	case "s390x":
		return specs.ArchS390X
	}
	return ""
}

// number looks a name up.
func (a *arch) number(name string) (uint32, bool) {
	i, ok := slices.BinarySearchFunc(a.calls, name, func(c call, n string) int { return strings.Compare(c.name, n) })
	if !ok {
		return 0, false
	}
	return a.calls[i].nr, true
}

// multiplexed tells through which call and with which first argument a socket
// or System V IPC call can also be made on 32-bit x86; socketcall(2), ipc(2).
func (a *arch) multiplexed(name string) (by string, number uint64, ok bool) {
	if a.name != specs.ArchX86 {
		return "", 0, false
	}
	if i := slices.Index(socketCalls[:], name); i >= 0 {
		return "socketcall", uint64(i + 1), true
	}
	if i := slices.Index(ipcCalls[:], name); i >= 0 {
		return "ipc", uint64(i + 1), true
	}
	return "", 0, false
}

var socketCalls = [...]string{
	"socket", "bind", "connect", "listen", "accept", "getsockname", "getpeername", "socketpair", "send", "recv", "sendto",
	"recvfrom", "shutdown", "setsockopt", "getsockopt", "sendmsg", "recvmsg", "accept4", "recvmmsg", "sendmmsg",
}

var ipcCalls = [...]string{
	0: "semop", 1: "semget", 2: "semctl", 3: "semtimedop", 10: "msgsnd", 11: "msgrcv", 12: "msgget", 13: "msgctl",
	20: "shmat", 21: "shmdt", 22: "shmget", 23: "shmctl",
}
