package engine

import (
	"errors"
	"fmt"
	"maps"
	"path"
	"slices"
	"strconv"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/stack-run/stack/engine/runtime"
)

// Facts is what compiling a specification needs to know beyond the request.
type Facts struct {
	ID       string
	Image    ImageConfig
	Hostname string
	User     specs.User
	Home     string
	// NetNS, PIDNS, IPCNS are paths of namespaces to join: "" makes a new one,
	// "host" keeps the host's.
	NetNS, PIDNS, IPCNS string
	// UserNS is the path of the user namespace to join, "" for the host's, and IDs
	// are what its users and groups are on the host.
	UserNS     string
	IDs        runtime.IDs
	CgroupPath string
	CgroupV2   bool
	AppArmor   bool // is enabled
	// Mounts are the volumes, binds and generated files, in mount order.
	Mounts []specs.Mount
	// HasCap tells which capabilities can be passed on.
	HasCap func(string) bool
	// Seccomp is the profile to use, nil for none.
	Seccomp *specs.LinuxSeccomp
	// Devices are the resolved extra devices with their cgroup rules.
	Devices     []specs.LinuxDevice
	DeviceRules []specs.LinuxDeviceCgroup
	// DeviceSources are where on the host nodes are that have another place in the
	// container. Env and GIDs are what devices add.
	DeviceSources map[string]string
	Env           []string
	GIDs          []uint32
	BlkioDevice   func(path string) (major, minor int64, err error)
}

// args merges entrypoint and command as Docker does: setting the entrypoint
// drops the image's command.
func args(p Process, img ImageConfig) ([]string, error) {
	entry, cmd := p.Entrypoint, p.Command
	if entry == nil {
		entry = img.Entrypoint
		if cmd == nil {
			cmd = img.Cmd
		}
	}
	if len(entry) == 1 && entry[0] == "" {
		entry = nil
	}
	all := append(slices.Clone(entry), cmd...)
	if len(all) == 0 {
		return nil, errors.New("no command specified: neither the image nor the service has an entrypoint or a command; set \"command\"")
	}
	return all, nil
}

const defaultPath = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// environment layers the engine's defaults, the image's and the user's variables.
// A user's entry without "=" removes the variable.
func environment(p Process, img ImageConfig, hostname, home string) []string {
	env := []string{defaultPath, "HOSTNAME=" + hostname}
	if p.TTY {
		env = append(env, "TERM=xterm")
	}
	env = mergeEnv(env, img.Env)
	env = mergeEnv(env, p.Env)
	if home != "" && !slices.ContainsFunc(env, func(kv string) bool { return strings.HasPrefix(kv, "HOME=") }) {
		env = append(env, "HOME="+home)
	}
	return env
}

func mergeEnv(base, over []string) []string {
	out := slices.Clone(base)
	for _, kv := range over {
		key, _, set := strings.Cut(kv, "=")
		i := slices.IndexFunc(out, func(old string) bool { k, _, _ := strings.Cut(old, "="); return k == key })
		switch {
		case !set && i >= 0:
			out = slices.Delete(out, i, i+1)
		case !set:
		case i >= 0:
			out[i] = kv
		default:
			out = append(out, kv)
		}
	}
	return out
}

// OCI compiles what was asked for into an OCI runtime specification with
// Docker's defaults. It is pure.
func OCI(s Spec, f Facts) (*specs.Spec, error) {
	iso := s.Isolation
	argv, err := args(s.Process, f.Image)
	if err != nil {
		return nil, err
	}
	caps, err := capabilities(iso.Privileged, iso.CapAdd, iso.CapDrop, f.HasCap)
	if err != nil {
		return nil, err
	}
	sec, err := parseSecurity(iso.SecurityOpt)
	if err != nil {
		return nil, err
	}
	out := &specs.Spec{
		Version:  specs.Version,
		Hostname: f.Hostname, Domainname: s.Domain,
		Root: &specs.Root{Path: "rootfs", Readonly: s.ReadOnly},
		Process: &specs.Process{
			Terminal:        s.Process.TTY,
			User:            f.User,
			Args:            argv,
			Env:             mergeEnv(environment(s.Process, f.Image, f.Hostname, f.Home), f.Env),
			Cwd:             workingDir(f.Image.WorkingDir, s.Process.WorkingDir),
			Capabilities:    capabilitySets(caps, f.User.UID),
			NoNewPrivileges: sec.noNewPrivileges,
			Rlimits:         rlimits(iso.Rlimits),
		},
		Linux: &specs.Linux{
			CgroupsPath: f.CgroupPath,
			Sysctl:      sysctls(iso.Sysctls),
			Seccomp:     f.Seccomp,
			Devices:     f.Devices,
		},
	}
	for _, gid := range f.GIDs {
		if gid != 0 && !slices.Contains(out.Process.User.AdditionalGids, gid) {
			out.Process.User.AdditionalGids = append(slices.Clone(out.Process.User.AdditionalGids), gid)
		}
	}
	if s.Limits.OOMScoreAdj != 0 {
		adj := s.Limits.OOMScoreAdj
		out.Process.OOMScoreAdj = &adj
	}
	if iso.UTSMode == "host" {
		out.Hostname, out.Domainname = "", ""
	}
	out.Linux.Namespaces = namespaces(s, f)
	out.Linux.UIDMappings, out.Linux.GIDMappings = f.IDs, f.IDs
	if !iso.Privileged && !sec.systemPathsUnconfined {
		out.Linux.MaskedPaths = MaskedPaths()
		out.Linux.ReadonlyPaths = readonlyPaths()
	}
	if sec.apparmor != "unconfined" && f.AppArmor {
		out.Process.ApparmorProfile = sec.apparmor
	}
	out.Mounts = mounts(s, f)
	if out.Linux.RootfsPropagation, err = propagation(f.Mounts); err != nil {
		return nil, err
	}
	if out.Linux.Resources, err = resources(s, f); err != nil {
		return nil, err
	}
	return out, nil
}

// capabilitySets gives a user other than root no permitted capabilities, which
// is what execve(2) would make of them anyway.
func capabilitySets(caps []string, uid uint32) *specs.LinuxCapabilities {
	if uid != 0 {
		return &specs.LinuxCapabilities{Bounding: caps}
	}
	return &specs.LinuxCapabilities{Bounding: caps, Effective: caps, Permitted: caps}
}

type security struct {
	noNewPrivileges, systemPathsUnconfined, seccompUnconfined, writableCgroups bool
	seccomp                                                                    string
	apparmor                                                                   string // profile, "" or "unconfined" for none
	label                                                                      string // the first of SELinux's that asks for something
}

// parseSecurity reads security_opt, with "=" or the older ":" as separator.
func parseSecurity(opts []string) (s security, err error) {
	for _, o := range opts {
		key, value, found := strings.Cut(o, "=")
		if !found {
			key, value, found = strings.Cut(o, ":")
		}
		switch key {
		case "no-new-privileges":
			s.noNewPrivileges = true
			if found {
				if s.noNewPrivileges, err = strconv.ParseBool(value); err != nil {
					return s, fmt.Errorf("security_opt %q: %w", o, err)
				}
			}
		case "seccomp":
			s.seccomp = value
			s.seccompUnconfined = value == "unconfined"
		case "systempaths":
			if value != "unconfined" {
				return s, fmt.Errorf("security_opt %q: the only value is systempaths=unconfined", o)
			}
			s.systemPathsUnconfined = true
		case "writable-cgroups":
			if s.writableCgroups, err = strconv.ParseBool(value); err != nil {
				return s, fmt.Errorf("security_opt %q: %w", o, err)
			}
		case "apparmor":
			s.apparmor = value
		case "label":
			if value != "disable" && s.label == "" {
				s.label = o
			}
		default:
			return s, fmt.Errorf("unknown security_opt %q; known are no-new-privileges, seccomp, apparmor, label, systempaths, writable-cgroups", o)
		}
	}
	return s, nil
}

// notes tells which of the security options have no effect on this host,
// and fails if one asks for protection that should be there and is not.
func (s security) notes(iso Isolation, h host) (notes []string, err error) {
	switch {
	case s.apparmor == "" || s.apparmor == "unconfined":
	case !h.apparmor:
		notes = append(notes, fmt.Sprintf("security_opt apparmor=%s has no effect: AppArmor is not enabled on this host", s.apparmor))
	case !h.profile(s.apparmor):
		return nil, fmt.Errorf("security_opt apparmor=%s: there is no such profile; load it (apparmor_parser -r FILE), or use apparmor=unconfined", s.apparmor)
	}
	if s.label != "" {
		why := "SELinux is not enabled on this host"
		if h.selinux {
			why = "containers get no SELinux labels here; the host's policy treats them as what started them"
		}
		notes = append(notes, fmt.Sprintf("security_opt %s has no effect: %s", s.label, why))
	}
	if s.writableCgroups && !iso.Privileged {
		switch {
		case !h.cgroupV2:
			notes = append(notes, "security_opt writable-cgroups=true has no effect: with cgroup v1 the container could lift its own limits")
		case iso.CgroupNSMode == "host":
			notes = append(notes, "security_opt writable-cgroups=true has no effect with cgroup: host: these are the host's cgroups")
		}
	}
	return notes, nil
}

// host is what security options depend on.
type host struct {
	apparmor, selinux, cgroupV2 bool
	profile                     func(name string) bool // is an AppArmor profile loaded?
}

func namespaces(s Spec, f Facts) []specs.LinuxNamespace {
	ns := []specs.LinuxNamespace{{Type: specs.MountNamespace}}
	add := func(t specs.LinuxNamespaceType, path string) {
		if path != "host" {
			ns = append(ns, specs.LinuxNamespace{Type: t, Path: path})
		}
	}
	if f.UserNS != "" {
		add(specs.UserNamespace, f.UserNS)
	}
	add(specs.NetworkNamespace, f.NetNS)
	add(specs.PIDNamespace, f.PIDNS)
	add(specs.IPCNamespace, f.IPCNS)
	add(specs.UTSNamespace, s.Isolation.UTSMode)
	cg := s.Isolation.CgroupNSMode
	if cg == "" && (!f.CgroupV2 || s.Isolation.Privileged) {
		cg = "host" // Docker's default: private on v2 only
		if !f.CgroupV2 {
			cg = "private" // stricter than Docker on v1, where nothing is lost by it
		}
	}
	if cg != "host" {
		ns = append(ns, specs.LinuxNamespace{Type: specs.CgroupNamespace})
	}
	return ns
}

// MaskedPaths are what containers do not see of /proc and /sys.
func MaskedPaths() []string {
	return []string{
		"/proc/acpi", "/proc/asound", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats",
		"/proc/sched_debug", "/proc/scsi", "/proc/timer_list", "/proc/timer_stats",
		"/sys/devices/virtual/powercap", "/sys/firmware",
	}
}

func readonlyPaths() []string {
	return []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"}
}

// workingDir is where a process starts. Each directory counts from the one before
// it, the first one from the root.
func workingDir(dirs ...string) string {
	at := "/"
	for _, d := range dirs {
		if path.IsAbs(d) {
			at = path.Clean(d)
		} else {
			at = path.Join(at, d)
		}
	}
	return at
}

// mounts lists the kernel file systems first and then the user's mounts; one of
// the user's replaces ours at the same place.
func mounts(s Spec, f Facts) []specs.Mount {
	shm := s.ShmSize
	if shm == 0 {
		shm = 64 << 20
	}
	access := "ro"
	if s.Isolation.Privileged {
		access = "rw"
	}
	cgroups := access
	if sec, err := parseSecurity(s.Isolation.SecurityOpt); err == nil && sec.writableCgroups && f.CgroupV2 && s.Isolation.CgroupNSMode != "host" {
		cgroups = "rw"
	}
	base := []specs.Mount{
		{Destination: "/proc", Type: "proc", Source: "proc", Options: []string{"nosuid", "noexec", "nodev"}},
		{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "strictatime", "mode=755", "size=65536k"}},
		{Destination: "/dev/pts", Type: "devpts", Source: "devpts", Options: []string{"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"}},
		{Destination: "/sys", Type: "sysfs", Source: "sysfs", Options: []string{"nosuid", "noexec", "nodev", access}},
		{Destination: "/sys/fs/cgroup", Type: "cgroup", Source: "cgroup", Options: []string{"nosuid", "noexec", "nodev", cgroups}},
		{Destination: "/dev/mqueue", Type: "mqueue", Source: "mqueue", Options: []string{"nosuid", "noexec", "nodev"}},
		{Destination: "/dev/shm", Type: "tmpfs", Source: "shm", Options: []string{"nosuid", "noexec", "nodev", "mode=1777", "size=" + strconv.FormatInt(shm, 10)}},
	}
	covered := map[string]bool{}
	for _, m := range f.Mounts {
		covered[path.Clean(m.Destination)] = true
	}
	if s.Isolation.IPCMode == "none" {
		covered["/dev/shm"] = true
	}
	base = slices.DeleteFunc(base, func(m specs.Mount) bool { return covered[m.Destination] })
	return append(base, f.Mounts...)
}

// propagation is the root's: a shared or slave bind needs a root that receives.
func propagation(ms []specs.Mount) (string, error) {
	out := ""
	for _, m := range ms {
		for _, o := range m.Options {
			switch o {
			case "shared", "rshared":
				out = "shared"
			case "slave", "rslave":
				if out == "" {
					out = "rslave"
				}
			}
		}
	}
	return out, nil
}

func rlimits(limits map[string]Rlimit) []specs.POSIXRlimit {
	var out []specs.POSIXRlimit
	for _, name := range slices.Sorted(maps.Keys(limits)) {
		l := limits[name]
		out = append(out, specs.POSIXRlimit{Type: "RLIMIT_" + strings.ToUpper(name), Soft: uint64(l.Soft), Hard: uint64(l.Hard)})
	}
	return out
}

// sysctls leaves the net.* ones to the network namespace's owner.
func sysctls(all map[string]string) map[string]string {
	out := map[string]string{}
	for k, v := range all {
		if !strings.HasPrefix(k, "net.") {
			out[k] = v
		}
	}
	if len(out) == 0 {
		return nil
	}
	return out
}

// resources translates Limits into the runtime specification's terms.
func resources(s Spec, f Facts) (*specs.LinuxResources, error) {
	l := s.Limits
	r := &specs.LinuxResources{Devices: DeviceRules(s.Isolation.Privileged, f.DeviceRules)}
	if l.Memory != 0 || l.MemoryReservation != 0 || l.Swappiness != nil || l.OOMKillDisable {
		m := &specs.LinuxMemory{}
		if l.Memory != 0 {
			m.Limit = &l.Memory
			swap := l.MemorySwap
			if swap == 0 {
				swap = 2 * l.Memory
			}
			m.Swap = &swap
		}
		if l.MemoryReservation != 0 {
			m.Reservation = &l.MemoryReservation
		}
		if l.Swappiness != nil && *l.Swappiness >= 0 {
			v := uint64(*l.Swappiness)
			m.Swappiness = &v
		}
		if l.OOMKillDisable {
			m.DisableOOMKiller = &l.OOMKillDisable
		}
		r.Memory = m
	}
	if c := cpu(l); c != nil {
		r.CPU = c
	}
	if l.PIDs != 0 {
		pids := l.PIDs
		if pids < 0 {
			pids = -1
		}
		r.Pids = &specs.LinuxPids{Limit: &pids}
	}
	var err error
	r.BlockIO, err = blkio(l, f.BlkioDevice)
	return r, err
}

func cpu(l Limits) *specs.LinuxCPU {
	c := &specs.LinuxCPU{Cpus: l.CpusetCPUs, Mems: l.CpusetMems}
	if l.CPUShares != 0 {
		v := uint64(l.CPUShares)
		c.Shares = &v
	}
	quota, period := l.CPUQuota, l.CPUPeriod
	if l.NanoCPUs != 0 {
		period = 100_000
		quota = l.NanoCPUs * period / 1e9
	}
	if quota != 0 {
		c.Quota = &quota
	}
	if period != 0 {
		v := uint64(period)
		c.Period = &v
	}
	if l.CPURealtimePeriod != 0 {
		v := uint64(l.CPURealtimePeriod)
		c.RealtimePeriod = &v
	}
	if l.CPURealtimeRuntime != 0 {
		c.RealtimeRuntime = &l.CPURealtimeRuntime
	}
	if *c == (specs.LinuxCPU{}) {
		return nil
	}
	return c
}

func blkio(l Limits, device func(string) (int64, int64, error)) (*specs.LinuxBlockIO, error) {
	b := &specs.LinuxBlockIO{}
	used := false
	if l.BlkioWeight != 0 {
		b.Weight, used = &l.BlkioWeight, true
	}
	for _, d := range l.BlkioWeightDevice {
		major, minor, err := device(d.Path)
		if err != nil {
			return nil, err
		}
		w := uint16(d.Rate)
		wd := specs.LinuxWeightDevice{Weight: &w}
		wd.Major, wd.Minor = major, minor
		b.WeightDevice, used = append(b.WeightDevice, wd), true
	}
	for _, t := range []struct {
		from []BlkioDevice
		to   *[]specs.LinuxThrottleDevice
	}{
		{l.ReadBps, &b.ThrottleReadBpsDevice}, {l.WriteBps, &b.ThrottleWriteBpsDevice},
		{l.ReadIOps, &b.ThrottleReadIOPSDevice}, {l.WriteIOps, &b.ThrottleWriteIOPSDevice},
	} {
		for _, d := range t.from {
			major, minor, err := device(d.Path)
			if err != nil {
				return nil, err
			}
			td := specs.LinuxThrottleDevice{Rate: d.Rate}
			td.Major, td.Minor = major, minor
			*t.to, used = append(*t.to, td), true
		}
	}
	if !used {
		return nil, nil
	}
	return b, nil
}

// DeviceRules is Docker's default list: everything may be made with mknod, and
// only the harmless ones may be opened.
func DeviceRules(privileged bool, extra []specs.LinuxDeviceCgroup) []specs.LinuxDeviceCgroup {
	if privileged {
		return []specs.LinuxDeviceCgroup{{Allow: true, Access: "rwm"}}
	}
	n := func(v int64) *int64 { return &v }
	allow := func(kind string, major, minor *int64, access string) specs.LinuxDeviceCgroup {
		return specs.LinuxDeviceCgroup{Allow: true, Type: kind, Major: major, Minor: minor, Access: access}
	}
	rules := []specs.LinuxDeviceCgroup{
		{Allow: false, Access: "rwm"},
		allow("c", nil, nil, "m"), allow("b", nil, nil, "m"),
		allow("c", n(1), n(3), "rwm"), allow("c", n(1), n(5), "rwm"), allow("c", n(1), n(7), "rwm"),
		allow("c", n(1), n(8), "rwm"), allow("c", n(1), n(9), "rwm"),
		allow("c", n(5), n(0), "rwm"), allow("c", n(5), n(2), "rwm"), allow("c", n(136), nil, "rwm"),
	}
	return append(rules, extra...)
}

func first(values ...string) string {
	for _, v := range values {
		if v != "" {
			return v
		}
	}
	return ""
}
