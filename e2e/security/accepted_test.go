package security

import (
	"slices"
	"strings"
	"testing"

	"github.com/moby/profiles/seccomp"
)

// accepted returns why stack may be weaker than the Docker it is compared with
// in an item, "" if it may not. The Docker at hand may be years old, and Docker
// itself has come to allow system calls since: those that its current default
// profile, which stack uses, allows to everybody.
func accepted(item string) string {
	switch item {
	case "namespaces.time":
		return "it shifts clocks that count from boot, time_namespaces(7), and hides nothing; the clock is CAP_SYS_TIME's"
	case "dev./dev/ptmx":
		return "the kernel leads the device to the devpts beside it, as the link does (filesystems/devpts.rst)"
	}
	name, ok := strings.CutPrefix(item, "syscalls.")
	if !ok {
		return ""
	}
	name, _, with := strings.Cut(name, "(")
	for _, rule := range seccomp.DefaultProfile().Syscalls {
		open := len(rule.Args) == 0 && unconditional(rule.Includes) && unconditional(rule.Excludes)
		if !with && open && rule.Action == "SCMP_ACT_ALLOW" && slices.Contains(rule.Names, name) {
			return "Docker's current default profile allows it to everybody"
		}
	}
	return ""
}

// unconditional says that a condition does not depend on the container. The
// oldest kernel a rule asks for is older than any that stack runs on.
func unconditional(f *seccomp.Filter) bool {
	return f == nil || len(f.Caps) == 0 && len(f.Arches) == 0
}

func TestAccepted(t *testing.T) {
	for item, want := range map[string]bool{
		"syscalls.mseal": true, "syscalls.process_vm_readv": true,
		"syscalls.mount": false, "syscalls.clone3": false, "syscalls.bpf": false, "syscalls.clone(NEWUSER)": false,
		"namespaces.time": true, "namespaces.net": false, "dev./dev/ptmx": true, "dev./dev/ptmx.mode": false, "dev./dev/mem": false,
		"syscalls.io_uring_setup": false, "paths./proc/kcore": false,
	} {
		if got := accepted(item); (got != "") != want {
			t.Errorf("accepted(%q) = %q", item, got)
		}
	}
}
