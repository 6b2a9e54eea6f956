package security

import (
	"fmt"
	"strings"
	"testing"
)

func TestCompare(t *testing.T) {
	base := func() Report {
		return Report{
			Capabilities: map[string][]string{"Eff": {"chown", "kill"}},
			Status:       map[string]string{"Seccomp": "2", "NoNewPrivs": "0", "Groups": "0 10", "Seccomp_filters": "1", "Speculation_Store_Bypass": "thread vulnerable"},
			Syscalls:     map[string]string{"mount": "EPERM", "clone3": "ENOSYS", "ptrace": "ESRCH"},
			Devices:      map[string]string{"mem": "EPERM", "null": "ok"},
			Paths:        map[string]Path{"/proc/kcore": {State: "empty"}, "/proc/sys": {State: "readable"}},
			Mounts:       map[string]Mount{"/proc": {Type: "proc", Options: []string{"nodev", "noexec", "nosuid", "rw"}}, "/sys": {Type: "sysfs", Options: []string{"ro"}}},
			Dev:          map[string]Node{"/dev/null": {Kind: "c 1:3", Mode: 0o666}, "/dev/shm": {Kind: "dir", Mode: 0o1777}},
			Namespaces:   map[string]string{"net": "own", "cgroup": "host"},
			Rlimits:      map[string][2]uint64{"nofile": {1024, 4096}},
			Label:        "docker-default (enforce)",
		}
	}
	if got := Compare(base(), base()); len(got) != 0 {
		t.Errorf("a report differs from itself: %v", got)
	}
	for name, c := range map[string]struct {
		change func(*Report)
		want   string
	}{
		"more capabilities":   {func(r *Report) { r.Capabilities["Eff"] = []string{"chown", "kill", "sys_admin"} }, "weaker: capabilities.Eff.sys_admin"},
		"fewer capabilities":  {func(r *Report) { r.Capabilities["Eff"] = []string{"chown"} }, "stricter: capabilities.Eff.kill"},
		"no seccomp":          {func(r *Report) { r.Status["Seccomp"] = "0" }, "weaker: status.Seccomp"},
		"no new privileges":   {func(r *Report) { r.Status["NoNewPrivs"] = "1" }, "stricter: status.NoNewPrivs"},
		"more groups":         {func(r *Report) { r.Status["Groups"] = "0 10 20" }, "weaker: status.Groups"},
		"fewer groups":        {func(r *Report) { r.Status["Groups"] = "0" }, "stricter: status.Groups"},
		"two filters":         {func(r *Report) { r.Status["Seccomp_filters"] = "2" }, "equal: status.Seccomp_filters"},
		"mitigated":           {func(r *Report) { r.Status["Speculation_Store_Bypass"] = "thread mitigated" }, "stricter: status.Speculation_Store_Bypass"},
		"syscall let through": {func(r *Report) { r.Syscalls["mount"] = "EFAULT" }, "weaker: syscalls.mount"},
		"syscall denied":      {func(r *Report) { r.Syscalls["ptrace"] = "EPERM" }, "stricter: syscalls.ptrace"},
		"denied otherwise":    {func(r *Report) { r.Syscalls["clone3"] = "EPERM" }, "equal: syscalls.clone3"},
		"device opens":        {func(r *Report) { r.Devices["mem"] = "ok" }, "weaker: devices.mem"},
		"unmasked":            {func(r *Report) { r.Paths["/proc/kcore"] = Path{State: "readable"} }, "weaker: paths./proc/kcore"},
		"masked otherwise":    {func(r *Report) { r.Paths["/proc/kcore"] = Path{State: "absent"} }, "equal: paths./proc/kcore"},
		"writable":            {func(r *Report) { r.Paths["/proc/sys"] = Path{State: "readable", Writable: true} }, "weaker: paths./proc/sys.writable"},
		"mount option lost": {func(r *Report) {
			r.Mounts["/proc"] = Mount{Type: "proc", Options: []string{"nodev", "noexec", "rw"}}
		}, "weaker: mounts./proc.nosuid"},
		"mount option won": {func(r *Report) { r.Mounts["/sys"] = Mount{Type: "sysfs", Options: []string{"nosuid", "ro"}} }, "stricter: mounts./sys.nosuid"},
		"shared":           {func(r *Report) { r.Mounts["/sys"] = Mount{Type: "sysfs", Options: []string{"ro"}, Shared: true} }, "weaker: mounts./sys.propagation"},
		"mount missing":    {func(r *Report) { delete(r.Mounts, "/sys") }, "equal: mounts./sys"},
		"mount more":       {func(r *Report) { r.Mounts["/x"] = Mount{Type: "ext4", Options: []string{"rw"}} }, "weaker: mounts./x"},
		"safe mount more":  {func(r *Report) { r.Mounts["/x"] = Mount{Type: "tmpfs", Options: []string{"nodev", "nosuid", "rw"}} }, "equal: mounts./x"},
		"device more":      {func(r *Report) { r.Dev["/dev/sda"] = Node{Kind: "b 8:0", Mode: 0o600} }, "weaker: dev./dev/sda"},
		"device less":      {func(r *Report) { delete(r.Dev, "/dev/null") }, "stricter: dev./dev/null"},
		"not sticky":       {func(r *Report) { r.Dev["/dev/shm"] = Node{Kind: "dir", Mode: 0o777} }, "weaker: dev./dev/shm.mode"},
		"tighter mode":     {func(r *Report) { r.Dev["/dev/null"] = Node{Kind: "c 1:3", Mode: 0o644} }, "stricter: dev./dev/null.mode"},
		"host namespace":   {func(r *Report) { r.Namespaces["net"] = "host" }, "weaker: namespaces.net"},
		"own namespace":    {func(r *Report) { r.Namespaces["cgroup"] = "own" }, "stricter: namespaces.cgroup"},
		"higher limit":     {func(r *Report) { r.Rlimits["nofile"] = [2]uint64{1024, 8192} }, "weaker: rlimits.nofile.hard"},
		"unconfined":       {func(r *Report) { r.Label = "unconfined" }, "weaker: label"},
	} {
		changed := base()
		c.change(&changed)
		var got []string
		for _, d := range Compare(base(), changed) {
			got = append(got, fmt.Sprintf("%s: %s", d.Verdict, d.Item))
		}
		if strings.Join(got, "; ") != c.want {
			t.Errorf("%s: got %q, want %q", name, got, c.want)
		}
	}
}
