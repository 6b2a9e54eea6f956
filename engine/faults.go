package engine

import (
	"errors"
	"fmt"
	"iter"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/docker/go-units"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/stack-run/stack/engine/cdi"
	"github.com/stack-run/stack/engine/runtime"
)

// Fault is what is wrong with a Spec on any host.
type Fault struct {
	// Attribute is its name in a Compose file's service.
	Attribute string
	Err       error
}

// Faults tells what of a spec can be set nowhere.
func Faults(s Spec) []Fault {
	var out []Fault
	add := func(attribute string, err error) {
		if err != nil {
			out = append(out, Fault{attribute, err})
		}
	}
	out = append(out, logFaults(s.Log)...)
	if s.StopSignal != "" && SignalNumber(s.StopSignal) == 0 {
		add("stop_signal", fmt.Errorf("unknown signal %q; signal(7) lists them", s.StopSignal))
	}
	_, err := parseCPUSet(s.Limits.CpusetCPUs)
	add("cpuset", err)
	_, err = parseCPUSet(s.Limits.CpusetMems)
	add("cpuset_mems", err)
	if w := s.Limits.BlkioWeight; w != 0 && (w < 10 || w > 1000) {
		add("blkio_config.weight", fmt.Errorf("%d is out of range; use 10 to 1000", w))
	}
	for _, w := range s.Limits.BlkioWeightDevice {
		if w.Rate < 10 || w.Rate > 1000 {
			add("blkio_config.weight_device", fmt.Errorf("the weight %d of %s is out of range; use 10 to 1000", w.Rate, w.Path))
		}
	}
	add("oom_score_adj", outOfRange(int64(s.Limits.OOMScoreAdj), -1000, 1000))
	if sw := s.Limits.Swappiness; sw != nil {
		add("mem_swappiness", outOfRange(*sw, -1, 100))
	}
	for attribute, err := range memoryFaults(s.Limits) {
		add(attribute, err)
	}
	for attribute, err := range cpuFaults(s.Limits) {
		add(attribute, err)
	}
	add("hostname", hostNameFault(s.Hostname))
	add("domainname", hostNameFault(s.Domain))
	if l := s.Limits; l.NanoCPUs > 0 && (l.CPUQuota > 0 || l.CPUPeriod > 0) {
		add("cpus", errors.New("a number of CPUs cannot be combined with a CPU quota or period; keep one"))
	}
	iso := s.Isolation
	add("pid", unknownMode(iso.PIDMode, true, "host"))
	add("ipc", unknownMode(iso.IPCMode, true, "host", "private", "shareable", "none"))
	add("uts", unknownMode(iso.UTSMode, false, "host"))
	add("userns_mode", userNSFaults(s))
	add("cgroup", unknownMode(iso.CgroupNSMode, false, "host", "private"))
	switch iso.Runtime {
	case "", "runc", "crun", "io.containerd.runc.v2":
	default:
		add("runtime", fmt.Errorf("runtime %q is not available: containers run in stack's own runtime; leave it out", iso.Runtime))
	}
	for _, rule := range s.Isolation.DeviceCgroupRules {
		_, err := parseDeviceRule(rule)
		add("device_cgroup_rules", err)
	}
	_, err = storageSize(s.Limits.StorageOpt)
	add("storage_opt", err)
	for i, r := range s.Isolation.DeviceRequests {
		add(fmt.Sprintf("device_requests[%d]", i), cdi.Request(r).Fault())
	}
	for key, err := range sysctlFaults(s) {
		add("sysctls."+key, err)
	}
	return out
}

// storageSize is how much a container may write, 0 for as much as there is room for.
func storageSize(options map[string]string) (int64, error) {
	for _, name := range slices.Sorted(maps.Keys(options)) {
		if name != "size" {
			return 0, fmt.Errorf("unknown option %q; the only one is size", name)
		}
	}
	text, given := options["size"]
	if !given {
		return 0, nil
	}
	n, err := units.RAMInBytes(text)
	if err != nil || n < 1 {
		return 0, fmt.Errorf("size %q is no size; write it like 10g", text)
	}
	return n, nil
}

func outOfRange(n, low, high int64) error {
	if n < low || n > high {
		return fmt.Errorf("%d is out of range; use %d to %d", n, low, high)
	}
	return nil
}

// cpuFaults has the kernel's bounds of the CFS scheduler's period and quota.
func cpuFaults(l Limits) iter.Seq2[string, error] {
	return func(yield func(string, error) bool) {
		if l.NanoCPUs < 0 && !yield("cpus", errors.New("cannot be below 0; give a number of CPUs, such as 1.5")) {
			return
		}
		if l.CPUShares < 0 && !yield("cpu_shares", fmt.Errorf("%d is out of range; use 2 to 262144, of which 1024 is usual", l.CPUShares)) {
			return
		}
		if p := l.CPUPeriod; p != 0 && (p < 1000 || p > 1000000) && !yield("cpu_period", fmt.Errorf("%d is out of range; use 1000 to 1000000 microseconds", p)) {
			return
		}
		if q := l.CPUQuota; q != 0 && q != -1 && q < 1000 {
			yield("cpu_quota", fmt.Errorf("%d is out of range; use 1000 microseconds or more, or -1 for no limit", q))
		}
	}
}

// hostNameFault says what is no part of a host's name: the kernel takes 64 bytes, and in
// /etc/hosts a space ends a name.
func hostNameFault(name string) error {
	switch {
	case len(name) > 64:
		return fmt.Errorf("%q is longer than the 64 characters that the kernel takes", name)
	case strings.ContainsFunc(name, func(r rune) bool { return r <= ' ' || r == 0x7f || r == '#' }):
		return fmt.Errorf("%q is no host name; use letters, digits, \"-\" and \".\"", name)
	}
	return nil
}

// leastMemory is Docker's lower bound.
const leastMemory = 6 << 20

func memoryFaults(l Limits) iter.Seq2[string, error] {
	return func(yield func(string, error) bool) {
		switch {
		case l.Memory > 0 && l.Memory < leastMemory:
			yield("mem_limit", fmt.Errorf("a memory limit of %d bytes is too small to start a process; use 6m or more", l.Memory))
		case l.Memory == 0 && l.MemorySwap > 0:
			yield("memswap_limit", errors.New("the swap limit is memory plus swap and needs a memory limit; set that, too"))
		case l.Memory > 0 && l.MemorySwap > 0 && l.MemorySwap < l.Memory:
			yield("memswap_limit", fmt.Errorf("the swap limit is memory plus swap and cannot be below the memory limit (%d < %d bytes)", l.MemorySwap, l.Memory))
		case l.Memory > 0 && l.MemoryReservation > l.Memory:
			yield("mem_reservation", fmt.Errorf("the memory reservation cannot be above the limit (%d > %d bytes)", l.MemoryReservation, l.Memory))
		}
	}
}

// unknownMode tells that a namespace's mode is none of the known ones, nor, with
// shares, another container's.
func unknownMode(mode string, shares bool, known ...string) error {
	if mode == "" || slices.Contains(known, mode) {
		return nil
	}
	if shares {
		if _, of, _ := strings.Cut(mode, ":"); isShared(mode) && of != "" {
			return nil
		}
		known = append(known, "service:NAME", "container:NAME")
	}
	return fmt.Errorf("unknown value %q; use %s", mode, strings.Join(known, ", "))
}

// parseCPUSet reads the list format of cpuset(7): "0-3,8".
func parseCPUSet(text string) ([]int, error) {
	var out []int
	if text == "" {
		return nil, nil
	}
	const most = 1 << 13 // CPUs a kernel can be made for
	for part := range strings.SplitSeq(text, ",") {
		low, high, isRange := strings.Cut(strings.TrimSpace(part), "-")
		if !isRange {
			high = low
		}
		a, err := strconv.ParseUint(low, 10, 31)
		z, err2 := strconv.ParseUint(high, 10, 31)
		if err != nil || err2 != nil || z < a || z-a > most {
			return nil, fmt.Errorf("%q is no number or range; write it like 0-3,8", part)
		}
		for n := a; n <= z; n++ {
			out = append(out, int(n))
		}
	}
	return out, nil
}

// eachSysctl calls f with the kernel parameters in order, and the file below
// /proc/sys or why it cannot be: not a name, or of a namespace that is the host's.
func eachSysctl(s Spec, f func(key, file string, err error) bool) {
	all := map[string]string{}
	maps.Copy(all, s.Network.Sysctls)
	maps.Copy(all, s.Isolation.Sysctls)
	if len(all) == 0 {
		return
	}
	facts := Facts{PIDNS: s.Isolation.PIDMode, IPCNS: s.Isolation.IPCMode}
	if s.Network.Mode == "host" {
		facts.NetNS = "host"
	}
	spec := &specs.Spec{Linux: &specs.Linux{Namespaces: namespaces(s, facts)}}
	for _, key := range slices.Sorted(maps.Keys(all)) {
		file, err := runtime.SysctlFile(spec, key)
		if err == nil && all[key] == "" {
			err = errors.New("it has no value; write NAME=VALUE")
		}
		if !f(key, file, err) {
			return
		}
	}
}

func sysctlFaults(s Spec) iter.Seq2[string, error] {
	return func(yield func(string, error) bool) {
		eachSysctl(s, func(key, _ string, err error) bool { return err == nil || yield(key, err) })
	}
}

func sysctlFiles(s Spec) iter.Seq2[string, string] {
	return func(yield func(string, string) bool) {
		eachSysctl(s, func(key, file string, err error) bool { return err != nil || yield(key, file) })
	}
}
