package cgroup

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

func TestParse(t *testing.T) {
	const hybrid = `31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:4 - cgroup cgroup rw,cpu,cpuacct
35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
40 31 0:37 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,xattr,name=systemd
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
`
	v1, _, _ := strings.Cut(hybrid, "41 31")
	const v2 = `29 22 0:25 / /sys/fs/cgroup rw,nosuid,nodev,noexec,relatime shared:9 - cgroup2 cgroup2 rw,nsdelegate,memory_recursiveprot
90 22 0:25 /inner /mnt/my\040copy rw - cgroup2 cgroup2 rw
`
	for _, c := range []struct {
		name, mountinfo, own string
		belowOwn             bool
		want                 string
	}{
		{"hybrid", hybrid, "4:memory:/x\n0::/\n", false,
			"hybrid unified=/sys/fs/cgroup/unified cpu=/sys/fs/cgroup/cpu,cpuacct cpuacct=/sys/fs/cgroup/cpu,cpuacct memory=/sys/fs/cgroup/memory"},
		{"v1", v1, "", false,
			"v1 unified= cpu=/sys/fs/cgroup/cpu,cpuacct cpuacct=/sys/fs/cgroup/cpu,cpuacct memory=/sys/fs/cgroup/memory"},
		{"v2", v2, "0::/init.scope\n", false, "v2 unified=/sys/fs/cgroup"},
		{"rootless v2", v2, "0::/user.slice/user-1000.slice/a:b\n", true, "v2 unified=/sys/fs/cgroup/user.slice/user-1000.slice/a:b"},
		{"container without cgroup namespace", "9 8 0:25 /docker/1f /sys/fs/cgroup ro - cgroup2 cgroup rw\n", "0::/docker/1f/x\n", true, "v2 unified=/sys/fs/cgroup/x"},
		{"escapes", "9 8 0:25 / /mnt/a\\040b\\134 rw - cgroup2 none rw\n", "", false, `v2 unified=/mnt/a b\`},
		{"none", "22 1 8:1 / / rw - ext4 /dev/sda1 rw\nbroken\n", "", false, "cannot find control groups: no cgroup file system is mounted; mount one (mount -t cgroup2 cgroup2 /sys/fs/cgroup) and try again"},
	} {
		h, err := parse(c.mountinfo, c.own, c.belowOwn)
		got := fmt.Sprint(err)
		if err == nil {
			got = fmt.Sprintf("%s unified=%s", h.Mode, h.Unified)
			var list []string
			for name, dir := range h.V1 {
				list = append(list, name+"="+dir)
			}
			slices.Sort(list)
			got = strings.TrimSpace(got + " " + strings.Join(list, " "))
		}
		if got != c.want {
			t.Errorf("%s:\ngot  %s\nwant %s", c.name, got, c.want)
		}
	}
}

func p[T any](v T) *T { return &v }

// fullResources has every limit that Compose knows.
func fullResources() *specs.LinuxResources {
	rate := func(n uint64) []specs.LinuxThrottleDevice {
		d := specs.LinuxThrottleDevice{Rate: n}
		d.Major, d.Minor = 8, 16
		return []specs.LinuxThrottleDevice{d}
	}
	weight := specs.LinuxWeightDevice{Weight: p(uint16(300))}
	weight.Major, weight.Minor = 8, 0
	return &specs.LinuxResources{
		Memory: &specs.LinuxMemory{Limit: p(int64(100)), Swap: p(int64(150)), Reservation: p(int64(50)), Swappiness: p(uint64(10)), DisableOOMKiller: p(true)},
		CPU: &specs.LinuxCPU{Shares: p(uint64(512)), Quota: p(int64(50000)), Period: p(uint64(100000)), Burst: p(uint64(7)),
			RealtimePeriod: p(uint64(9)), RealtimeRuntime: p(int64(8)), Cpus: "0-1", Mems: "0", Idle: p(int64(1))},
		Pids: &specs.LinuxPids{Limit: p(int64(-1))},
		BlockIO: &specs.LinuxBlockIO{Weight: p(uint16(500)), WeightDevice: []specs.LinuxWeightDevice{weight},
			ThrottleReadBpsDevice: rate(1), ThrottleWriteBpsDevice: rate(2), ThrottleReadIOPSDevice: rate(3), ThrottleWriteIOPSDevice: rate(0)},
		HugepageLimits: []specs.LinuxHugepageLimit{{Pagesize: "2MB", Limit: 4}},
		Network:        &specs.LinuxNetwork{ClassID: p(uint32(6))},
		Unified:        map[string]string{"memory.high": "9", "cpu.weight.nice": "1"},
	}
}

func TestSettings(t *testing.T) {
	for _, c := range []struct {
		name string
		got  []setting
		want string
	}{
		{"v1", v1Settings(fullResources()), `
memory memory.limit_in_bytes = 100
memory memory.memsw.limit_in_bytes = 150
memory memory.soft_limit_in_bytes = 50
memory memory.swappiness = 10
memory memory.oom_control = 1
cpu cpu.idle = 1
cpu cpu.shares = 512
cpu cpu.rt_period_us = 9
cpu cpu.rt_runtime_us = 8
cpu cpu.cfs_period_us = 100000
cpu cpu.cfs_quota_us = 50000
cpu cpu.cfs_burst_us = 7
cpuset cpuset.cpus = 0-1
cpuset cpuset.mems = 0
pids pids.max = max
blkio blkio.bfq.weight = 500
blkio blkio.bfq.weight_device = 8:0 300
blkio blkio.throttle.read_bps_device = 8:16 1
blkio blkio.throttle.write_bps_device = 8:16 2
blkio blkio.throttle.read_iops_device = 8:16 3
blkio blkio.throttle.write_iops_device = 8:16 0
hugetlb hugetlb.2MB.limit_in_bytes = 4
net_cls net_cls.classid = 6
 cpu.weight.nice = 1
 memory.high = 9`},
		{"v2", v2Settings(fullResources()), `
memory memory.max = 100
memory memory.swap.max = 50
memory memory.low = 50
memory  = 
memory  = 
cpu cpu.idle = 1
cpu cpu.weight = 59
cpu cpu.max = 50000 100000
cpu cpu.max.burst = 7
cpu  = 
cpuset cpuset.cpus = 0-1
cpuset cpuset.mems = 0
pids pids.max = max
io io.bfq.weight = 500
io io.weight = default 4950
io io.bfq.weight = 8:0 300
io io.weight = 8:0 2930
io io.max = 8:16 rbps=1
io io.max = 8:16 wbps=2
io io.max = 8:16 riops=3
io io.max = 8:16 wiops=max
hugetlb hugetlb.2MB.max = 4
  = 
cpu cpu.weight.nice = 1
memory memory.high = 9`},
	} {
		var got strings.Builder
		for _, s := range c.got {
			fmt.Fprintf(&got, "\n%s %s", s.controller, s)
		}
		if got.String() != c.want {
			t.Errorf("%s: got%s", c.name, &got)
		}
	}
}

func TestWeight(t *testing.T) {
	for shares, want := range map[uint64]uint64{0: 1, 2: 1, 512: 59, 1024: 100, 2048: 174, 262144: 10000, 1 << 40: 10000} {
		if got := Weight(shares); got != want {
			t.Errorf("%d shares: weight %d, not %d", shares, got, want)
		}
	}
}

// A v2 host with all controllers, as plain files: the real one is not to be had
// on a hybrid machine.
func TestCreateV2(t *testing.T) {
	root := t.TempDir()
	h := &Hierarchy{Mode: V2, Unified: root, UnifiedControllers: []string{"cpuset", "cpu", "io", "memory", "pids", "hugetlb"}}
	files := []string{"memory.max", "memory.swap.max", "memory.low", "cpu.idle", "cpu.weight", "cpu.max", "cpuset.cpus", "cpuset.mems", "pids.max", "io.weight", "io.max"}
	dir := root
	for i, name := range []string{"", "stack-1", "project", "id"} {
		dir = filepath.Join(dir, name)
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		list := []string{"cgroup.subtree_control"}
		if i == 3 {
			list = files
		}
		for _, f := range list {
			if err := os.WriteFile(filepath.Join(dir, f), nil, 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	g := h.group("stack-1/project/id", nil)
	r := fullResources()
	r.HugepageLimits = nil
	settings := h.settings(r)
	if w := h.enable(g.path, settings); len(w) > 0 {
		t.Error(w)
	}
	warnings, err := g.apply(settings)
	want := "[this host's cgroups (v2) do not support a network class or priority, a real-time budget, disabling the OOM killer, swappiness, the CPU burst, the cgroup v2 setting cpu.weight.nice, the cgroup v2 setting memory.high; going on without]"
	if err != nil || fmt.Sprint(warnings) != want {
		t.Error(warnings, err)
	}
	for file, want := range map[string]string{
		"../../cgroup.subtree_control": "+cpuset +cpu +io +memory +pids",
		"../cgroup.subtree_control":    "+cpuset +cpu +io +memory +pids",
		"memory.max":                   "100", "memory.swap.max": "50", "cpu.weight": "59",
	} {
		got, err := os.ReadFile(filepath.Join(g.unified, file))
		if err != nil || string(got) != want {
			t.Errorf("%s: %q, %v", file, got, err)
		}
	}
}

func TestStatsV2(t *testing.T) {
	root := t.TempDir()
	h := &Hierarchy{Mode: V2, Unified: root, UnifiedControllers: []string{"memory"}}
	g := h.group("g", nil)
	if err := os.Mkdir(g.unified, 0o755); err != nil {
		t.Fatal(err)
	}
	for file, content := range map[string]string{
		"cpu.stat":       "usage_usec 3000\nuser_usec 1000\nsystem_usec 2000\nnr_periods 5\nnr_throttled 2\nthrottled_usec 7\n",
		"memory.current": "1000\n", "memory.stat": "anon 1\ninactive_file 300\n", "memory.max": "max\n", "memory.events": "oom 2\noom_kill 1\n",
		"pids.current": "4\n", "pids.max": "100\n",
		"io.stat": "8:0 rbytes=10 wbytes=20 rios=1 wios=2 dbytes=0 dios=0\n8:16 rbytes=5 wbytes=5 rios=1 wios=1\n",
	} {
		if err := os.WriteFile(filepath.Join(g.unified, file), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	s, err := g.Stats()
	if err != nil {
		t.Fatal(err)
	}
	got := fmt.Sprintf("%+v %+v %+v %+v", s.CPU, s.Memory, s.PIDs, s.IO)
	want := "{Total:3ms User:1ms System:2ms PerCPU:[] Periods:5 ThrottledPeriods:2 Throttled:7µs} {Usage:700 Cache:300 Peak:0 Limit:0 OOMKills:1} {Current:4 Limit:100} {ReadBytes:15 WriteBytes:25 Reads:2 Writes:3}"
	if got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	if n, err := g.OOMKills(); n != 1 || err != nil {
		t.Error(n, err)
	}
}

func TestBlkioV1(t *testing.T) {
	r, w := blkioV1("8:0 Read 10\n8:0 Write 20\n8:0 Total 30\n8:16 Read 1\nTotal 31\n")
	if r != 11 || w != 20 {
		t.Error(r, w)
	}
}

// run interprets a device program as the kernel would.
func run(t *testing.T, program []instruction, typ, access, major, minor uint32) bool {
	t.Helper()
	ctx := []uint32{access<<16 | typ, major, minor}
	var r [6]uint32
	for pc := 0; pc < len(program); pc++ {
		in := program[pc]
		switch in.code {
		case opLoadWord:
			r[in.dst] = ctx[in.off/4]
		case opMove:
			r[in.dst] = r[in.src]
		case opSet:
			r[in.dst] = uint32(in.imm)
		case opAnd:
			r[in.dst] &= uint32(in.imm)
		case opShift:
			r[in.dst] >>= uint32(in.imm)
		case opIfNot:
			if r[in.dst] != uint32(in.imm) {
				pc += int(in.off)
			}
		case opIf:
			if r[in.dst] == uint32(in.imm) {
				pc += int(in.off)
			}
		case opExit:
			return r[0] == 1
		default:
			t.Fatalf("instruction %#x", in.code)
		}
	}
	t.Fatal("ran over the end")
	return false
}

func TestAssemble(t *testing.T) {
	rules := append(defaultDevices(),
		specs.LinuxDeviceCgroup{Allow: true, Type: "b", Major: p(int64(8)), Access: "r"},
		specs.LinuxDeviceCgroup{Allow: false, Type: "c", Major: p(int64(1)), Minor: p(int64(9)), Access: "w"})
	program, err := assemble(rules)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		typ, access, major, minor uint32
		want                      bool
	}{
		{deviceChar, accessRead, 1, 3, true},
		{deviceChar, accessRead | accessWrite, 1, 5, true},
		{deviceChar, accessRead, 1, 7, false},
		{deviceChar, accessMknod, 99, 99, true},
		{deviceChar, accessMknod | accessRead, 99, 99, false},
		{deviceBlock, accessRead, 8, 3, true},
		{deviceBlock, accessRead | accessWrite, 8, 3, false},
		{deviceBlock, accessRead, 9, 3, false},
		{deviceBlock, accessRead, 1, 3, false},
		{deviceChar, accessRead, 1, 9, true},
		{deviceChar, accessWrite, 1, 9, false},
		{deviceChar, accessRead | accessWrite, 1, 9, false},
		{deviceChar, accessWrite, 136, 7, true},
	} {
		if got := run(t, program, c.typ, c.access, c.major, c.minor); got != c.want {
			t.Errorf("%+v: %v", c, got)
		}
	}
	for _, bad := range []specs.LinuxDeviceCgroup{{Access: "x"}, {Type: "z"}, {Type: "c", Major: p(int64(1) << 40)}} {
		if _, err := assemble([]specs.LinuxDeviceCgroup{bad}); err == nil {
			t.Errorf("%+v: no error", bad)
		}
	}
}

func TestV1Devices(t *testing.T) {
	writes, err := v1Devices([]specs.LinuxDeviceCgroup{
		{Allow: false, Access: "rwm"}, {Allow: true, Type: "c", Major: p(int64(1)), Minor: p(int64(3)), Access: "rw"},
		{Allow: true, Type: "a", Access: "m"}, {Allow: true, Type: "c", Major: p(int64(136)), Access: ""},
	})
	want := "[devices.deny = a devices.deny = a devices.allow = c 1:3 rw devices.allow = b *:* m devices.allow = c *:* m devices.allow = c 136:* rwm]"
	if err != nil || fmt.Sprint(writes) != want {
		t.Error(writes, err)
	}
}
