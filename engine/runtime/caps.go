package runtime

import (
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// capabilityNames is capabilities(7) by number.
var capabilityNames = [...]string{
	"CHOWN", "DAC_OVERRIDE", "DAC_READ_SEARCH", "FOWNER", "FSETID", "KILL", "SETGID", "SETUID", "SETPCAP", "LINUX_IMMUTABLE",
	"NET_BIND_SERVICE", "NET_BROADCAST", "NET_ADMIN", "NET_RAW", "IPC_LOCK", "IPC_OWNER", "SYS_MODULE", "SYS_RAWIO",
	"SYS_CHROOT", "SYS_PTRACE", "SYS_PACCT", "SYS_ADMIN", "SYS_BOOT", "SYS_NICE", "SYS_RESOURCE", "SYS_TIME",
	"SYS_TTY_CONFIG", "MKNOD", "LEASE", "AUDIT_WRITE", "AUDIT_CONTROL", "SETFCAP", "MAC_OVERRIDE", "MAC_ADMIN", "SYSLOG",
	"WAKE_ALARM", "BLOCK_SUSPEND", "AUDIT_READ", "PERFMON", "BPF", "CHECKPOINT_RESTORE",
}

// capSets are capability sets as bit masks.
type capSets struct {
	bounding, effective, permitted, inheritable, ambient uint64
}

// parseCapabilities translates names to masks. What the calling process does
// not have itself (have) cannot be given; those names are returned as lacking.
func parseCapabilities(c *specs.LinuxCapabilities, have uint64) (s capSets, lacking []string, err error) {
	if c == nil {
		return s, nil, nil
	}
	for _, set := range []struct {
		names []string
		to    *uint64
	}{{c.Bounding, &s.bounding}, {c.Effective, &s.effective}, {c.Permitted, &s.permitted}, {c.Inheritable, &s.inheritable}, {c.Ambient, &s.ambient}} {
		for _, name := range set.names {
			i := slices.Index(capabilityNames[:], strings.TrimPrefix(strings.ToUpper(name), "CAP_"))
			if i < 0 {
				return s, nil, fmt.Errorf("unknown capability %q; capabilities(7) lists them", name)
			}
			if have&(1<<i) == 0 {
				if full := "CAP_" + capabilityNames[i]; !slices.Contains(lacking, full) {
					lacking = append(lacking, full)
				}
				continue
			}
			*set.to |= 1 << i
		}
	}
	// An ambient capability must be permitted and inheritable, capabilities(7).
	s.ambient &= s.permitted & s.inheritable
	s.effective &= s.permitted
	return s, lacking, nil
}

// kernelFacts are what the runtime needs to know about the kernel and this process.
type kernelFacts struct {
	lastCap   int    // the highest capability the kernel knows
	permitted uint64 // capabilities of this process
	kcore     bool   // /proc/kcore exists
	cgroupV2  bool   // /sys/fs/cgroup is cgroup v2
	// hierarchies are the mounted cgroup v1 hierarchies: "memory", "cpu,cpuacct", "name=systemd".
	hierarchies []string
}

// kernel reads the facts once.
var kernel = sync.OnceValues(func() (kernelFacts, error) {
	f := kernelFacts{lastCap: len(capabilityNames) - 1}
	if b, err := os.ReadFile("/proc/sys/kernel/cap_last_cap"); err == nil {
		if n, err := strconv.Atoi(strings.TrimSpace(string(b))); err == nil && n < 64 {
			f.lastCap = n
		}
	}
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return f, fmt.Errorf("cannot read this process's capabilities: %w; is /proc mounted?", err)
	}
	if f.permitted, err = statusMask(status, "CapPrm"); err != nil {
		return f, err
	}
	_, err = os.Lstat("/proc/kcore")
	f.kcore = err == nil
	_, err = os.Stat("/sys/fs/cgroup/cgroup.controllers")
	f.cgroupV2 = err == nil
	if b, err := os.ReadFile("/proc/self/cgroup"); err == nil && !f.cgroupV2 {
		f.hierarchies = v1Hierarchies(string(b))
	}
	return f, nil
})

// v1Hierarchies reads the hierarchies' names out of /proc/self/cgroup, cgroups(7).
func v1Hierarchies(file string) []string {
	var out []string
	for line := range strings.Lines(file) {
		if parts := strings.SplitN(line, ":", 3); len(parts) == 3 && parts[1] != "" {
			out = append(out, parts[1])
		}
	}
	slices.Sort(out)
	return out
}
