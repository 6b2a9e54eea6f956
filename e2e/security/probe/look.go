package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/stack-run/stack/e2e/security"
)

// capabilityNames is in the order of the kernel's numbers, capability.h.
var capabilityNames = [...]string{
	"chown", "dac_override", "dac_read_search", "fowner", "fsetid", "kill", "setgid", "setuid", "setpcap", "linux_immutable",
	"net_bind_service", "net_broadcast", "net_admin", "net_raw", "ipc_lock", "ipc_owner", "sys_module", "sys_rawio", "sys_chroot",
	"sys_ptrace", "sys_pacct", "sys_admin", "sys_boot", "sys_nice", "sys_resource", "sys_time", "sys_tty_config", "mknod", "lease",
	"audit_write", "audit_control", "setfcap", "mac_override", "mac_admin", "syslog", "wake_alarm", "block_suspend", "audit_read",
	"perfmon", "bpf", "checkpoint_restore",
}

// statusLines returns /proc/self/status as a map.
func statusLines() map[string]string {
	data, _ := os.ReadFile("/proc/self/status")
	lines := map[string]string{}
	for line := range strings.Lines(string(data)) {
		if key, value, ok := strings.Cut(line, ":"); ok {
			lines[key] = strings.Join(strings.Fields(value), " ")
		}
	}
	return lines
}

func capabilities() map[string][]string {
	lines := statusLines()
	sets := map[string][]string{}
	for _, set := range []string{"Inh", "Prm", "Eff", "Bnd", "Amb"} {
		bits, err := strconv.ParseUint(lines["Cap"+set], 16, 64)
		if err != nil {
			sets[set] = []string{"unknown"}
			continue
		}
		sets[set] = []string{}
		for i := range 64 {
			switch {
			case bits&(1<<i) == 0:
			case i < len(capabilityNames):
				sets[set] = append(sets[set], capabilityNames[i])
			default:
				sets[set] = append(sets[set], strconv.Itoa(i))
			}
		}
	}
	return sets
}

func status() map[string]string {
	lines := statusLines()
	kept := map[string]string{}
	for _, key := range []string{"Uid", "Gid", "Groups", "Umask", "NoNewPrivs", "Seccomp", "Seccomp_filters", "Speculation_Store_Bypass", "SpeculationIndirectBranch"} {
		kept[key] = lines[key]
	}
	return kept
}

// interesting are paths that tell things of the host or change it.
var interesting = [...]string{
	"/proc/acpi", "/proc/asound", "/proc/bus", "/proc/fs", "/proc/interrupts", "/proc/irq", "/proc/kallsyms", "/proc/kcore", "/proc/keys",
	"/proc/kmsg", "/proc/latency_stats", "/proc/modules", "/proc/sched_debug", "/proc/scsi", "/proc/self/oom_score_adj", "/proc/sys", "/proc/sysrq-trigger",
	"/proc/timer_list", "/proc/timer_stats", "/proc/1/environ", "/proc/1/root/etc",
	"/proc/sys/fs/binfmt_misc", "/proc/sys/kernel/core_pattern", "/proc/sys/kernel/hostname", "/proc/sys/kernel/modprobe", "/proc/sys/kernel/sysrq",
	"/proc/sys/kernel/shmmax", "/proc/sys/kernel/ns_last_pid", "/proc/sys/net/ipv4/ip_forward", "/proc/sys/net/ipv4/ip_unprivileged_port_start",
	"/proc/sys/net/ipv4/ping_group_range", "/proc/sys/vm/overcommit_memory", "/proc/sys/vm/panic_on_oom", "/proc/sys/fs/mqueue/msg_max",
	"/sys", "/sys/block", "/sys/devices/virtual/powercap", "/sys/firmware", "/sys/fs/cgroup", "/sys/fs/cgroup/cgroup.procs", "/sys/fs/cgroup/devices/devices.allow",
	"/sys/fs/cgroup/memory/release_agent", "/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/systemd/release_agent",
	"/sys/kernel/debug", "/sys/kernel/security", "/sys/kernel/tracing", "/sys/kernel/uevent_helper", "/sys/kernel/vmcoreinfo", "/sys/module", "/sys/power/state",
	"/sys/fs/bpf", "/sys/fs/pstore", "/dev/mem", "/dev/kmem", "/dev/kmsg", "/dev/fuse", "/dev/net/tun", "/dev/sda", "/dev/vda", "/dev/mapper",
	"/run/docker.sock", "/var/run/docker.sock", "/run/containerd", "/lib/modules", "/boot",
}

func paths() map[string]security.Path {
	out := map[string]security.Path{}
	for _, path := range interesting {
		out[path] = security.Path{State: state(path), Writable: writable(path)}
	}
	return out
}

func state(path string) string {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK|unix.O_NOCTTY, 0)
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, unix.ENXIO):
		return "absent"
	case err != nil:
		return "denied"
	}
	defer f.Close()
	if info, err := f.Stat(); err == nil && info.IsDir() {
		if _, err := f.Readdirnames(1); errors.Is(err, io.EOF) {
			return "empty"
		} else if err != nil {
			return "denied"
		}
		return "readable"
	}
	n, err := f.Read(make([]byte, 1))
	switch {
	case n > 0, errors.Is(err, unix.EAGAIN):
		return "readable"
	case errors.Is(err, io.EOF):
		return "empty"
	}
	return "denied"
}

// writable opens for writing and writes nothing. What is not a file of /proc or
// /sys is only asked about.
func writable(path string) bool {
	var st unix.Stat_t
	if unix.Stat(path, &st) != nil {
		return false
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return unix.Faccessat(unix.AT_FDCWD, path, unix.W_OK, unix.AT_EACCESS) == nil
	}
	fd, err := unix.Open(path, unix.O_WRONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return false
	}
	unix.Close(fd)
	return true
}

func mounts() map[string]security.Mount {
	data, _ := os.ReadFile("/proc/self/mountinfo")
	out := map[string]security.Mount{}
	for line := range strings.Lines(string(data)) {
		// 36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw,errors=continue
		left, right, ok := strings.Cut(line, " - ")
		fields, kind := strings.Fields(left), strings.Fields(right)
		if !ok || len(fields) < 6 || len(kind) < 1 {
			continue
		}
		m := security.Mount{Type: kind[0], Options: strings.Split(fields[5], ",")}
		for _, optional := range fields[6:] {
			m.Shared = m.Shared || strings.HasPrefix(optional, "shared:")
		}
		slices.Sort(m.Options)
		out[fields[4]] = m
	}
	return out
}

func dev() map[string]security.Node {
	out := map[string]security.Node{}
	_ = filepath.WalkDir("/dev", func(path string, _ fs.DirEntry, err error) error {
		var st unix.Stat_t
		if err != nil || unix.Lstat(path, &st) != nil {
			return nil
		}
		name := strings.TrimPrefix(path, "/dev")
		out["/dev"+name] = security.Node{Kind: kind(path, &st), Mode: st.Mode & 0o7777, UID: st.Uid, GID: st.Gid}
		return nil
	})
	return out
}

func kind(path string, st *unix.Stat_t) string {
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFCHR:
		return fmt.Sprintf("c %d:%d", unix.Major(st.Rdev), unix.Minor(st.Rdev))
	case unix.S_IFBLK:
		return fmt.Sprintf("b %d:%d", unix.Major(st.Rdev), unix.Minor(st.Rdev))
	case unix.S_IFDIR:
		return "dir"
	case unix.S_IFLNK:
		to, _ := os.Readlink(path)
		return "link " + to
	case unix.S_IFIFO:
		return "fifo"
	case unix.S_IFSOCK:
		return "socket"
	}
	return "file"
}

// namespaces compares with the host's, which the environment gives.
func namespaces(host string) map[string]string {
	out := map[string]string{}
	for pair := range strings.FieldsSeq(host) {
		name, inode, _ := strings.Cut(pair, "=")
		link, err := os.Readlink("/proc/self/ns/" + name)
		switch {
		case err != nil:
			out[name] = "unknown"
		case link == name+":["+inode+"]":
			out[name] = "host"
		default:
			out[name] = "own"
		}
	}
	return out
}

func rlimits() map[string][2]uint64 {
	out := map[string][2]uint64{}
	for i, name := range []string{"cpu", "fsize", "data", "stack", "core", "rss", "nproc", "nofile", "memlock", "as", "locks", "sigpending", "msgqueue", "nice", "rtprio", "rttime"} {
		var r unix.Rlimit
		// Not Getrlimit: package os raises nofile at its start, and that function
		// tells of what was before.
		if err := unix.Prlimit(0, i, nil, &r); err == nil {
			out[name] = [2]uint64{r.Cur, r.Max}
		}
	}
	return out
}

func label() string {
	data, err := os.ReadFile("/proc/self/attr/current")
	if err != nil {
		return ""
	}
	return strings.TrimRight(string(data), "\x00\n")
}
