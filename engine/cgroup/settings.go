package cgroup

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// setting is one write to one file of a group.
type setting struct {
	controller string
	file       string
	value      string
	what       string // the limit in the user's words, for a warning
}

func (s setting) String() string { return s.file + " = " + s.value }

// v1Settings translates OCI resources to v1 files (kernel: admin-guide/cgroup-v1,
// scheduler/sched-bwc). Order matters. Devices are not among them.
func v1Settings(r *specs.LinuxResources) (out []setting) {
	add := func(controller, file, value, what string) {
		out = append(out, setting{controller, file, value, what})
	}
	if m := r.Memory; m != nil {
		if m.Limit != nil {
			add("memory", "memory.limit_in_bytes", decimal(*m.Limit), "the memory limit")
		}
		if m.Swap != nil {
			add("memory", "memory.memsw.limit_in_bytes", decimal(*m.Swap), "the swap limit")
		}
		if m.Reservation != nil {
			add("memory", "memory.soft_limit_in_bytes", decimal(*m.Reservation), "the memory reservation")
		}
		if m.Swappiness != nil {
			add("memory", "memory.swappiness", decimal(*m.Swappiness), "swappiness")
		}
		if m.DisableOOMKiller != nil && *m.DisableOOMKiller {
			add("memory", "memory.oom_control", "1", "disabling the OOM killer")
		}
	}
	if c := r.CPU; c != nil {
		if c.Idle != nil {
			add("cpu", "cpu.idle", decimal(*c.Idle), "idle scheduling")
		}
		if c.Shares != nil {
			add("cpu", "cpu.shares", decimal(*c.Shares), "CPU shares")
		}
		if c.RealtimePeriod != nil {
			add("cpu", "cpu.rt_period_us", decimal(*c.RealtimePeriod), "the real-time period")
		}
		if c.RealtimeRuntime != nil {
			add("cpu", "cpu.rt_runtime_us", decimal(*c.RealtimeRuntime), "the real-time budget")
		}
		if c.Period != nil {
			add("cpu", "cpu.cfs_period_us", decimal(*c.Period), "the CPU period")
		}
		if c.Quota != nil {
			add("cpu", "cpu.cfs_quota_us", decimal(*c.Quota), "the CPU limit")
		}
		if c.Burst != nil {
			add("cpu", "cpu.cfs_burst_us", decimal(*c.Burst), "the CPU burst")
		}
		if c.Cpus != "" {
			add("cpuset", "cpuset.cpus", c.Cpus, "the set of CPUs")
		}
		if c.Mems != "" {
			add("cpuset", "cpuset.mems", c.Mems, "the set of memory nodes")
		}
	}
	if r.Pids != nil && r.Pids.Limit != nil {
		add("pids", "pids.max", maxed(*r.Pids.Limit), "the process limit (pids)")
	}
	if b := r.BlockIO; b != nil {
		if b.Weight != nil {
			add("blkio", "blkio.bfq.weight", decimal(*b.Weight), "the I/O weight")
		}
		for _, d := range b.WeightDevice {
			if d.Weight != nil {
				add("blkio", "blkio.bfq.weight_device", fmt.Sprintf("%d:%d %d", d.Major, d.Minor, *d.Weight), "an I/O weight")
			}
		}
		for _, t := range throttles(b) {
			for _, d := range t.devices {
				add("blkio", "blkio.throttle."+t.v1, fmt.Sprintf("%d:%d %d", d.Major, d.Minor, d.Rate), "an I/O limit")
			}
		}
	}
	for _, l := range r.HugepageLimits {
		add("hugetlb", "hugetlb."+l.Pagesize+".limit_in_bytes", decimal(l.Limit), "a huge page limit")
	}
	if n := r.Network; n != nil {
		if n.ClassID != nil {
			add("net_cls", "net_cls.classid", decimal(*n.ClassID), "the network class")
		}
		for _, p := range n.Priorities {
			add("net_prio", "net_prio.ifpriomap", fmt.Sprintf("%s %d", p.Name, p.Priority), "a network priority")
		}
	}
	for _, key := range slices.Sorted(maps.Keys(r.Unified)) {
		add("", key, r.Unified[key], "the cgroup v2 setting "+key)
	}
	return out
}

// v2Settings translates OCI resources to v2 files (kernel: admin-guide/cgroup-v2).
// What v2 has no file for comes as a setting without one.
func v2Settings(r *specs.LinuxResources) (out []setting) {
	add := func(controller, file, value, what string) {
		out = append(out, setting{controller, file, value, what})
	}
	if m := r.Memory; m != nil {
		if m.Limit != nil {
			add("memory", "memory.max", maxed(*m.Limit), "the memory limit")
		}
		if m.Swap != nil {
			if swap, ok := v2Swap(m); ok {
				add("memory", "memory.swap.max", swap, "the swap limit")
			}
		}
		if m.Reservation != nil {
			add("memory", "memory.low", maxed(*m.Reservation), "the memory reservation")
		}
		if m.Swappiness != nil {
			add("memory", "", "", "swappiness")
		}
		if m.DisableOOMKiller != nil && *m.DisableOOMKiller {
			add("memory", "", "", "disabling the OOM killer")
		}
	}
	if c := r.CPU; c != nil {
		if c.Idle != nil {
			add("cpu", "cpu.idle", decimal(*c.Idle), "idle scheduling")
		}
		if c.Shares != nil && *c.Shares != 0 {
			add("cpu", "cpu.weight", decimal(Weight(*c.Shares)), "CPU shares")
		}
		if c.Quota != nil || c.Period != nil {
			value := "max"
			if c.Quota != nil && *c.Quota > 0 {
				value = decimal(*c.Quota)
			}
			if c.Period != nil && *c.Period != 0 {
				value += " " + decimal(*c.Period)
			}
			add("cpu", "cpu.max", value, "the CPU limit")
		}
		if c.Burst != nil {
			add("cpu", "cpu.max.burst", decimal(*c.Burst), "the CPU burst")
		}
		if c.RealtimeRuntime != nil || c.RealtimePeriod != nil {
			add("cpu", "", "", "a real-time budget")
		}
		if c.Cpus != "" {
			add("cpuset", "cpuset.cpus", c.Cpus, "the set of CPUs")
		}
		if c.Mems != "" {
			add("cpuset", "cpuset.mems", c.Mems, "the set of memory nodes")
		}
	}
	if r.Pids != nil && r.Pids.Limit != nil {
		add("pids", "pids.max", maxed(*r.Pids.Limit), "the process limit (pids)")
	}
	if b := r.BlockIO; b != nil {
		// BFQ takes Docker's numbers (10-1000) as they are; where the scheduler is
		// another one, io.weight (1-10000) is scaled.
		if b.Weight != nil && *b.Weight != 0 {
			add("io", "io.bfq.weight", decimal(*b.Weight), "the I/O weight")
			add("io", "io.weight", "default "+ioWeight(*b.Weight), "the I/O weight")
		}
		for _, d := range b.WeightDevice {
			if d.Weight != nil {
				add("io", "io.bfq.weight", fmt.Sprintf("%d:%d %d", d.Major, d.Minor, *d.Weight), "an I/O weight")
				add("io", "io.weight", fmt.Sprintf("%d:%d %s", d.Major, d.Minor, ioWeight(*d.Weight)), "an I/O weight")
			}
		}
		for _, t := range throttles(b) {
			for _, d := range t.devices {
				rate := decimal(d.Rate)
				if d.Rate == 0 {
					rate = "max"
				}
				add("io", "io.max", fmt.Sprintf("%d:%d %s=%s", d.Major, d.Minor, t.v2, rate), "an I/O limit")
			}
		}
	}
	for _, l := range r.HugepageLimits {
		add("hugetlb", "hugetlb."+l.Pagesize+".max", decimal(l.Limit), "a huge page limit")
	}
	if r.Network != nil && (r.Network.ClassID != nil || len(r.Network.Priorities) > 0) {
		add("", "", "", "a network class or priority")
	}
	for _, key := range slices.Sorted(maps.Keys(r.Unified)) {
		controller, _, _ := strings.Cut(key, ".")
		add(controller, key, r.Unified[key], "the cgroup v2 setting "+key)
	}
	return out
}

type throttle struct {
	v1, v2  string
	devices []specs.LinuxThrottleDevice
}

func throttles(b *specs.LinuxBlockIO) []throttle {
	return []throttle{
		{"read_bps_device", "rbps", b.ThrottleReadBpsDevice},
		{"write_bps_device", "wbps", b.ThrottleWriteBpsDevice},
		{"read_iops_device", "riops", b.ThrottleReadIOPSDevice},
		{"write_iops_device", "wiops", b.ThrottleWriteIOPSDevice},
	}
}

// v2Swap turns memory plus swap (OCI, v1) into swap alone (v2).
func v2Swap(m *specs.LinuxMemory) (string, bool) {
	switch {
	case *m.Swap < 0:
		return "max", true
	case *m.Swap == 0, m.Limit == nil:
		return "", false
	case *m.Limit < 0:
		return "max", true
	}
	return decimal(max(0, *m.Swap-*m.Limit)), true
}

// Weight is the v2 cpu.weight (1-10000) for v1 CPU shares (2-262144): a curve
// through both ends and both defaults, 1024 shares being weight 100. It is the
// one of the OCI runtimes since 2025:
// 10^((l² + 125·l)/612 − 7/34) with l = log2(shares), rounded up.
func Weight(shares uint64) uint64 {
	switch {
	case shares <= 2:
		return 1
	case shares >= 262144:
		return 10000
	}
	l := math.Log2(float64(shares))
	// Less a little: floating point makes 100 a trifle more.
	return uint64(math.Ceil(math.Pow(10, (l*l+125*l)/612-7.0/34) - 1e-9))
}

// ioWeight scales Docker's I/O weight (10-1000) to io.weight's range (1-10000).
func ioWeight(w uint16) string { return decimal(1 + (uint64(max(w, 10))-10)*9999/990) }

func decimal[T int64 | uint64 | uint32 | uint16](n T) string { return fmt.Sprint(n) }

func maxed(n int64) string {
	if n < 0 {
		return "max"
	}
	return strconv.FormatInt(n, 10)
}
