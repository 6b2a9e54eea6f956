package engine

import (
	"fmt"
	"slices"
	"strings"
)

// defaultCapabilities are the 14 that Docker grants.
var defaultCapabilities = [...]string{
	"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FSETID", "CAP_FOWNER", "CAP_MKNOD", "CAP_NET_RAW", "CAP_SETGID",
	"CAP_SETUID", "CAP_SETFCAP", "CAP_SETPCAP", "CAP_NET_BIND_SERVICE", "CAP_SYS_CHROOT", "CAP_KILL", "CAP_AUDIT_WRITE",
}

// allCapabilities is capabilities(7) in numeric order.
var allCapabilities = [...]string{
	"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_DAC_READ_SEARCH", "CAP_FOWNER", "CAP_FSETID", "CAP_KILL", "CAP_SETGID", "CAP_SETUID",
	"CAP_SETPCAP", "CAP_LINUX_IMMUTABLE", "CAP_NET_BIND_SERVICE", "CAP_NET_BROADCAST", "CAP_NET_ADMIN", "CAP_NET_RAW",
	"CAP_IPC_LOCK", "CAP_IPC_OWNER", "CAP_SYS_MODULE", "CAP_SYS_RAWIO", "CAP_SYS_CHROOT", "CAP_SYS_PTRACE", "CAP_SYS_PACCT",
	"CAP_SYS_ADMIN", "CAP_SYS_BOOT", "CAP_SYS_NICE", "CAP_SYS_RESOURCE", "CAP_SYS_TIME", "CAP_SYS_TTY_CONFIG", "CAP_MKNOD",
	"CAP_LEASE", "CAP_AUDIT_WRITE", "CAP_AUDIT_CONTROL", "CAP_SETFCAP", "CAP_MAC_OVERRIDE", "CAP_MAC_ADMIN", "CAP_SYSLOG",
	"CAP_WAKE_ALARM", "CAP_BLOCK_SUSPEND", "CAP_AUDIT_READ", "CAP_PERFMON", "CAP_BPF", "CAP_CHECKPOINT_RESTORE",
}

// Capabilities lists all that there are, as Docker writes them: without "CAP_".
func Capabilities() []string {
	out := make([]string, len(allCapabilities))
	for i, c := range allCapabilities {
		out[i] = strings.TrimPrefix(c, "CAP_")
	}
	return out
}

// capabilities applies cap_add and cap_drop to the default set as Docker does:
// with drop ALL only what is added stays; with add ALL only what is dropped goes.
// have is the set this process can pass on; what it lacks is left out.
func capabilities(privileged bool, add, drop []string, have func(string) bool) ([]string, error) {
	adds, addAll, err := normalizeCaps("cap_add", add)
	if err != nil {
		return nil, err
	}
	drops, dropAll, err := normalizeCaps("cap_drop", drop)
	if err != nil {
		return nil, err
	}
	var base []string
	switch {
	case privileged, addAll && !dropAll:
		base = allCapabilities[:]
	case dropAll:
	default:
		base = defaultCapabilities[:]
	}
	var out []string
	for _, c := range allCapabilities {
		want := slices.Contains(base, c) && (privileged || !slices.Contains(drops, c)) || slices.Contains(adds, c)
		if want && have(c) {
			out = append(out, c)
		}
	}
	return out, nil
}

func normalizeCaps(attribute string, names []string) (out []string, all bool, err error) {
	for _, n := range names {
		n = strings.ToUpper(n)
		if n == "ALL" {
			all = true
			continue
		}
		if !strings.HasPrefix(n, "CAP_") {
			n = "CAP_" + n
		}
		if !slices.Contains(allCapabilities[:], n) {
			return nil, false, fmt.Errorf("unknown capability %q in %s; capabilities(7) lists them", n, attribute)
		}
		out = append(out, n)
	}
	return out, all, nil
}
