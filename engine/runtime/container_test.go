package runtime

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/stack-run/stack/engine/seccomp"
)

// expect compares what a container wrote.
func expect(t testing.TB, got, want string) {
	t.Helper()
	if got != want {
		t.Errorf("got:\n%s\nwant:\n%s", got, want)
	}
}

func status(keys ...string) string {
	return "grep -E '^(" + strings.Join(keys, "|") + "):' /proc/self/status | tr '\\t' ' '\n"
}

func TestDefaultContainer(t *testing.T) {
	signal.Ignore(unix.SIGHUP)
	defer signal.Reset(unix.SIGHUP)
	r := newRootfs(t)
	s := testSpec("sh", "-c", `
hostname; pwd; umask; echo $PATH
grep -E '^(Uid|Gid|CapInh|CapPrm|CapEff|CapBnd|CapAmb|NoNewPrivs|Seccomp|SigBlk|SigIgn):' /proc/self/status | tr '\t' ' '
ls /dev /proc/1/fd; for f in null tty fd ptmx; do stat -c '%A %t:%T %N' /dev/$f; done
ps -o pid,comm | head -2
`)
	var err error
	s.Linux.Seccomp, err = seccomp.Default(dockerCaps)
	check(t, err)
	out, st := r.output(t, s)
	if st.Code != 0 {
		t.Errorf("exit code %d", st.Code)
	}
	expect(t, out, `testbox
/
0022
/bin:/usr/bin
Uid: 0 0 0 0
Gid: 0 0 0 0
SigBlk: 0000000000000000
SigIgn: 0000000000000000
CapInh: 0000000000000000
CapPrm: 00000000a80425fb
CapEff: 00000000a80425fb
CapBnd: 00000000a80425fb
CapAmb: 0000000000000000
NoNewPrivs: 0
Seccomp: 2
/dev:
`+ifKcore("core\n")+`fd
full
mqueue
null
ptmx
pts
random
shm
stderr
stdin
stdout
tty
urandom
zero

/proc/1/fd:
0
1
2
crw-rw-rw- 1:3 /dev/null
crw-rw-rw- 5:0 /dev/tty
lrwxrwxrwx 0:0 '/dev/fd' -> '/proc/self/fd'
lrwxrwxrwx 0:0 '/dev/ptmx' -> 'pts/ptmx'
PID   COMMAND
    1 sh
`)
}

func ifKcore(s string) string {
	if _, err := os.Stat("/proc/kcore"); err == nil {
		return s
	}
	return ""
}

func TestMounts(t *testing.T) {
	r := newRootfs(t)
	s := testSpec("sh", "-c", "mount | grep -v ' type cgroup' | sed 's/lowerdir.*)/…)/'")
	s.Linux.MaskedPaths = []string{"/proc/keys", "/sys/firmware", "/does/not/exist"}
	s.Linux.ReadonlyPaths = []string{"/proc/sys", "/does/not/exist"}
	out, _ := r.output(t, s)
	for _, want := range []string{
		"none on / type overlay (rw,relatime,…)",
		"proc on /proc type proc (rw,nosuid,nodev,noexec,relatime)",
		"tmpfs on /dev type tmpfs (rw,nosuid,size=65536k,mode=755)",
		"devpts on /dev/pts type devpts (rw,nosuid,noexec,relatime,gid=5,mode=620,ptmxmode=666)",
		"sysfs on /sys type sysfs (ro,nosuid,nodev,noexec,relatime)",
		"mqueue on /dev/mqueue type mqueue (rw,nosuid,nodev,noexec,relatime)",
		"shm on /dev/shm type tmpfs (rw,nosuid,nodev,noexec,relatime,size=65536k)",
		"proc on /proc/sys type proc (ro,nosuid,nodev,noexec,relatime)",
		"tmpfs on /sys/firmware type tmpfs (ro,relatime,size=4k,nr_inodes=1)",
	} {
		if !strings.Contains(out, want+"\n") {
			t.Errorf("no mount %q", want)
		}
	}
	for line := range strings.Lines(out) {
		if strings.Contains(line, r.dir) && !strings.Contains(line, " on / ") {
			t.Errorf("a mount of the host: %s", line)
		}
	}
	if t.Failed() {
		t.Log(out)
	}
}

func TestMaskedAndReadonlyPaths(t *testing.T) {
	r := newRootfs(t)
	out := r.sh(t, `
ls -A /sys/firmware | wc -l; cat /proc/keys | wc -c; cat /proc/timer_list | wc -c
echo 1 > /proc/sys/kernel/shmmni || echo refused
mkdir /sys/fs/cgroup/x || echo refused
echo fine > /tmp/file && cat /tmp/file
`)
	expect(t, withoutDiagnostics(out), "0\n0\n0\nrefused\nrefused\nfine\n")
}

// withoutDiagnostics drops lines like "sh: can't create …".
func withoutDiagnostics(out string) string {
	var keep []string
	for line := range strings.Lines(out) {
		if !strings.Contains(line, ": ") {
			keep = append(keep, line)
		}
	}
	return strings.Join(keep, "")
}

func TestReadonlyRoot(t *testing.T) {
	r := newRootfs(t)
	s := testSpec("sh", "-c", "touch /x || echo refused; touch /run/x && echo fine; pwd")
	s.Root.Readonly = true
	s.Process.Cwd = "/made/for/this"
	s.Mounts = append(s.Mounts, specs.Mount{Destination: "/run", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "size=1m"}})
	out, _ := r.output(t, s)
	expect(t, withoutDiagnostics(out), "refused\nfine\n/made/for/this\n")
}

func TestUser(t *testing.T) {
	r := newRootfs(t)
	s := testSpec("sh", "-c", status("Uid", "Gid", "Groups", "CapPrm", "CapEff", "CapBnd", "CapAmb")+"echo reopened > /dev/stdout; ls -ld . | cut -d' ' -f1; umask")
	mask := uint32(0o077)
	s.Process.User = specs.User{UID: 1000, GID: 1001, AdditionalGids: []uint32{1001, 5000}, Umask: &mask}
	s.Process.Cwd = "/srv/app"
	s.Process.Capabilities = &specs.LinuxCapabilities{Bounding: dockerCaps}
	var err error
	s.Linux.Seccomp, err = seccomp.Default(dockerCaps)
	check(t, err)
	out, _ := r.output(t, s)
	expect(t, out, "Uid: 1000 1000 1000 1000\nGid: 1001 1001 1001 1001\nGroups: 1001 5000 \nCapPrm: 0000000000000000\nCapEff: 0000000000000000\nCapBnd: 00000000a80425fb\nCapAmb: 0000000000000000\nreopened\ndrwxr-xr-x\n0077\n")
}

func TestAmbientCapabilitiesAndNoNewPrivileges(t *testing.T) {
	r := newRootfs(t)
	for _, nnp := range []bool{false, true} {
		s := testSpec("sh", "-c", status("Uid", "CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs", "Seccomp"))
		s.Process.User = specs.User{UID: 7, GID: 7}
		s.Process.NoNewPrivileges = nnp
		one := []string{"CAP_NET_BIND_SERVICE"}
		s.Process.Capabilities = &specs.LinuxCapabilities{Bounding: one, Permitted: one, Effective: one, Inheritable: one, Ambient: one}
		var err error
		s.Linux.Seccomp, err = seccomp.Default(one)
		check(t, err)
		out, _ := r.output(t, s)
		flag := 0
		if nnp {
			flag = 1
		}
		expect(t, out, fmt.Sprintf("Uid: 7 7 7 7\nCapInh: 0000000000000400\nCapPrm: 0000000000000400\nCapEff: 0000000000000400\nCapBnd: 0000000000000400\nCapAmb: 0000000000000400\nNoNewPrivs: %d\nSeccomp: 2\n", flag))
	}
}

func TestSeccompBlocksWhatDockerBlocks(t *testing.T) {
	r := newRootfs(t)
	s := testSpec("sh", "-c", `unshare -m true || echo unshare refused; mount -t tmpfs x /tmp || echo mount refused
dmesg > /dev/null || echo syslog refused; chroot / true && echo chroot works`)
	// All capabilities, so that only the filter is in the way.
	all := capNames()
	s.Process.Capabilities = &specs.LinuxCapabilities{Bounding: all, Effective: all, Permitted: all}
	var err error
	s.Linux.Seccomp, err = seccomp.Default(dockerCaps)
	check(t, err)
	out, _ := r.output(t, s)
	expect(t, withoutDiagnostics(out), "unshare refused\nmount refused\nsyslog refused\nchroot works\n")
}

func capNames() []string {
	k, _ := kernel()
	var all []string
	for i, n := range capabilityNames {
		if k.permitted&(1<<i) != 0 {
			all = append(all, "CAP_"+n)
		}
	}
	return all
}

func TestMissingCapabilityIsAWarning(t *testing.T) {
	s, lacking, err := parseCapabilities(&specs.LinuxCapabilities{Bounding: []string{"cap_chown", "SYS_ADMIN"}, Permitted: []string{"CAP_SYS_ADMIN"}}, 1)
	if err != nil || s.bounding != 1 || s.permitted != 0 || !slices.Equal(lacking, []string{"CAP_SYS_ADMIN"}) {
		t.Error(s, lacking, err)
	}
}

func TestLimitsSysctlsOOMScore(t *testing.T) {
	r := newRootfs(t)
	var warnings []string
	s := testSpec("sh", "-c", "ulimit -n; ulimit -Hn; cat /proc/sys/kernel/shmmni /proc/sys/net/ipv4/ip_unprivileged_port_start /proc/self/oom_score_adj")
	s.Process.Rlimits = []specs.POSIXRlimit{{Type: "RLIMIT_NOFILE", Soft: 20, Hard: 30}, {Type: "RLIMIT_MEMLOCK", Soft: 1 << 50, Hard: unix.RLIM_INFINITY}}
	s.Linux.Sysctl = map[string]string{"kernel.shmmni": "77", "net.ipv4.ip_unprivileged_port_start": "0"}
	adj := 500
	s.Process.OOMScoreAdj = &adj
	out, _ := r.output(t, s, func(c *Config) { c.Warn = func(m string) { warnings = append(warnings, m) } })
	expect(t, withoutDiagnostics(out), "20\n30\n77\n0\n500\n")
	k, _ := kernel()
	if lacks := k.permitted&(1<<capSysResource) == 0; lacks && (len(warnings) != 1 || !strings.Contains(warnings[0], "RLIMIT_MEMLOCK is ")) {
		t.Errorf("warnings: %q", warnings)
	}
	low := -900
	s = testSpec("true")
	s.Process.OOMScoreAdj = &low
	warnings = nil
	r.output(t, s, func(c *Config) { c.Warn = func(m string) { warnings = append(warnings, m) } })
	if lacks := k.permitted&(1<<capSysResource) == 0; lacks && (len(warnings) != 1 || !strings.Contains(warnings[0], "cannot set oom_score_adj to -900: permission denied; lowering it needs CAP_SYS_RESOURCE")) {
		t.Errorf("warnings: %q", warnings)
	}
}

func TestBinds(t *testing.T) {
	r := newRootfs(t)
	src := filepath.Join(r.dir, "src")
	check(t, os.MkdirAll(filepath.Join(src, "sub"), 0o755))
	check(t, os.WriteFile(filepath.Join(src, "file"), []byte("content\n"), 0o644))
	// Links of the image never lead out of it, and dangling ones are followed.
	check(t, os.Symlink("/run/generated/resolv.conf", filepath.Join(r.lower, "etc/resolv.conf")))
	check(t, os.Symlink("../../../../../../../tmp/escape", filepath.Join(r.lower, "out")))
	s := testSpec("sh", "-c", `cat /new/dir/file /etc/hosts /run/generated/resolv.conf /tmp/escape/file; touch /ro/x || echo refused; touch /rw/x && echo fine
ls /rw; mount | grep -c ' /rw/sub '; ls -d /shm/deep`)
	bind := func(source, target string, o ...string) specs.Mount {
		return specs.Mount{Destination: target, Type: "bind", Source: source, Options: append([]string{"rbind"}, o...)}
	}
	s.Mounts = append(s.Mounts,
		bind(src, "/new/dir"), bind(src+"/file", "/etc/hosts"), bind(src+"/file", "/etc/resolv.conf"), bind(src, "/out"),
		bind(src, "/ro", "ro"), bind(src, "/rw", "nosuid"), bind(src, "/rw/sub", "ro"),
		specs.Mount{Destination: "/shm", Type: "tmpfs", Source: "tmpfs"}, bind(src, "/shm/deep"))
	out, st := r.output(t, s)
	expect(t, withoutDiagnostics(out), "content\ncontent\ncontent\ncontent\nrefused\nfine\nfile\nsub\nx\n1\n/shm/deep\n")
	if st.Code != 0 {
		t.Error(st)
	}
	if _, err := os.Stat("/tmp/escape"); err == nil {
		t.Error("the mount point was made on the host")
	}
}

func TestPropagation(t *testing.T) {
	r := newRootfs(t)
	// The source is a shared mount of its own.
	src := filepath.Join(r.dir, "shared")
	check(t, os.Mkdir(src, 0o755))
	check(t, unix.Mount("tmpfs", src, "tmpfs", 0, ""))
	defer unix.Unmount(src, unix.MNT_DETACH)
	check(t, unix.Mount("", src, "", unix.MS_SHARED, ""))
	for option, want := range map[string]string{"": "", "rprivate": "", "rslave": "master:", "rshared": "shared:"} {
		s := testSpec("sh", "-c", "grep ' /v ' /proc/self/mountinfo | cut -d' ' -f7")
		s.Mounts = append(s.Mounts, specs.Mount{Destination: "/v", Type: "bind", Source: src, Options: []string{"rbind", option}})
		if option == "rshared" {
			s.Linux.RootfsPropagation = "shared"
		}
		out, _ := r.output(t, s)
		if got := strings.TrimRight(strings.TrimSpace(out), "0123456789"); got != want && !(want == "" && got == "-") {
			t.Errorf("%q: propagation %q, want %q", option, got, want)
		}
	}
}

func TestDevices(t *testing.T) {
	r := newRootfs(t)
	s := testSpec("sh", "-c", "ls -ln /dev/fuse /dev/deep/er/zero /opt/disk | sed 's/  */ /g' | cut -d' ' -f1,3-6; head -c3 /dev/deep/er/zero | wc -c")
	mode, uid := os.FileMode(0o640), uint32(33)
	s.Linux.Devices = []specs.LinuxDevice{
		{Path: "/dev/fuse", Type: "c", Major: 10, Minor: 229, FileMode: &mode, UID: &uid, GID: &uid},
		{Path: "/dev/deep/er/zero", Type: "c", Major: 1, Minor: 5},
		{Path: "/opt/disk", Type: "b", Major: 7, Minor: 0, FileMode: &mode},
		{Path: "/dev/null", Type: "c", Major: 1, Minor: 3},
	}
	out, _ := r.output(t, s)
	expect(t, out, "crw-rw-rw- 0 0 1, 5\ncrw-r----- 33 33 10, 229\nbrw-r----- 0 0 7, 0\n3\n")
}

func TestNamespacesAreJoined(t *testing.T) {
	r := newRootfs(t)
	first := r.start(t, testSpec("sleep", "1000"))
	links := func(pid int) map[string]string {
		m := map[string]string{}
		for _, ns := range []string{"mnt", "pid", "ipc", "uts", "net", "cgroup", "user"} {
			l, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/%s", pid, ns))
			check(t, err)
			m[ns] = l
		}
		return m
	}
	s := testSpec("sh", "-c", "ps -o comm | grep -c sleep; exec sleep 1000")
	s.Hostname = ""
	s.Linux.Namespaces = []specs.LinuxNamespace{
		{Type: specs.MountNamespace},
		{Type: specs.PIDNamespace, Path: fmt.Sprintf("/proc/%d/ns/pid", first.PID)},
		{Type: specs.NetworkNamespace, Path: fmt.Sprintf("/proc/%d/ns/net", first.PID)},
		{Type: specs.IPCNamespace, Path: fmt.Sprintf("/proc/%d/ns/ipc", first.PID)},
	}
	out, w := pipe(t)
	second := r.start(t, s, func(c *Config) { c.Stdout = w })
	var b [2]byte
	_, err := io.ReadFull(out, b[:])
	check(t, err)
	if b[0] != '1' {
		t.Errorf("the container of the joined pid namespace sees %q processes sleep", b[0])
	}
	own, one, two := links(os.Getpid()), links(first.PID), links(second.PID)
	for ns, same := range map[string]bool{"mnt": false, "pid": true, "net": true, "ipc": true} {
		if (one[ns] == two[ns]) != same {
			t.Errorf("%s: %s and %s", ns, one[ns], two[ns])
		}
		if one[ns] == own[ns] {
			t.Errorf("the first container has the host's %s namespace", ns)
		}
	}
	for _, ns := range []string{"uts", "cgroup"} {
		if two[ns] != own[ns] || one[ns] == own[ns] {
			t.Errorf("%s: host %s, first %s, second %s", ns, own[ns], one[ns], two[ns])
		}
	}
	// The calling thread is back where it was.
	for _, task := range tasks(t) {
		l, err := os.Readlink("/proc/self/task/" + task + "/ns/pid_for_children")
		if err == nil && l != own["pid"] {
			t.Errorf("thread %s makes children in %s", task, l)
		}
	}
}

func tasks(t testing.TB) []string {
	entries, err := os.ReadDir("/proc/self/task")
	check(t, err)
	var out []string
	for _, e := range entries {
		out = append(out, e.Name())
	}
	return out
}

func TestCgroups(t *testing.T) {
	r := newRootfs(t)
	k, _ := kernel()
	if len(k.hierarchies) == 0 {
		t.Skip("needs cgroup v1")
	}
	dir := "/sys/fs/cgroup/pids/run-test-" + filepath.Base(r.dir)
	check(t, os.Mkdir(dir, 0o755))
	defer os.Remove(dir)
	procs, err := os.OpenFile(dir+"/tasks", os.O_WRONLY, 0)
	check(t, err)
	defer procs.Close()
	join := func(c *Config) { c.CgroupProcs = []*os.File{procs} }
	out, _ := r.output(t, testSpec("sh", "-c", "grep :pids: /proc/self/cgroup; cat /sys/fs/cgroup/pids/cgroup.procs | head -1; ls /sys/fs/cgroup/pids/tasks"), join)
	if !strings.Contains(out, ":pids:/\n") || !strings.Contains(out, "\n1\n") {
		t.Error(out)
	}
	p := r.start(t, testSpec("sleep", "1000"), join)
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", p.PID))
	check(t, err)
	if !strings.Contains(string(b), ":pids:/run-test-") {
		t.Errorf("%s", b)
	}
	proc := *testSpec("sh", "-c", "grep :pids: /proc/self/cgroup").Process
	rd, w := pipe(t)
	e, err := Exec(t.Context(), &ExecConfig{Target: p.PID, Process: &proc, Stdout: w, CgroupProcs: []*os.File{procs}})
	check(t, err)
	w.Close()
	got, _ := io.ReadAll(rd)
	e.Wait()
	e.Close()
	if !strings.HasSuffix(string(got), ":pids:/\n") {
		t.Errorf("%s", got)
	}
	p.Signal(unix.SIGKILL)
	p.Wait()
}

func TestCgroupV2(t *testing.T) {
	r := newRootfs(t)
	base := "/sys/fs/cgroup/unified"
	if k, _ := kernel(); k.cgroupV2 {
		base = "/sys/fs/cgroup"
	}
	dir := base + "/run-test-" + filepath.Base(r.dir)
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Skip(err)
	}
	defer os.Remove(dir)
	f, err := os.Open(dir)
	check(t, err)
	defer f.Close()
	p := r.start(t, testSpec("sleep", "1000"), func(c *Config) { c.CgroupFD = f })
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", p.PID))
	check(t, err)
	if !strings.Contains(string(b), "0::/run-test-") {
		t.Errorf("%s", b)
	}
	p.Signal(unix.SIGKILL)
	p.Wait()
}

func TestTerminal(t *testing.T) {
	r := newRootfs(t)
	s := testSpec("sh", "-c", "tty; stty size; ls -l /dev/console | cut -c1; trap 'echo interrupted; exit 5' INT; read line; echo got $line; while :; do sleep 0.01; done")
	s.Process.Terminal = true
	s.Process.ConsoleSize = &specs.Box{Height: 33, Width: 99}
	p := r.start(t, s)
	defer p.Console.Close()
	read := func(until string) {
		t.Helper()
		var got strings.Builder
		var b [1]byte
		for !strings.HasSuffix(got.String(), until) {
			if _, err := p.Console.Read(b[:]); err != nil {
				t.Fatalf("%v after %q", err, got.String())
			}
			got.Write(b[:])
		}
	}
	read("/dev/pts/0\r\n33 99\r\nc\r\n")
	check(t, p.Resize(10, 20))
	io.WriteString(p.Console, "hello\n")
	read("got hello\r\n")
	io.WriteString(p.Console, "\x03")
	read("interrupted\r\n")
	st, err := p.Wait()
	check(t, err)
	if st.Code != 5 {
		t.Error(st)
	}
}

func TestInit(t *testing.T) {
	r := newRootfs(t)
	init := func(c *Config) { c.Init = true }
	out, st := r.output(t, testSpec("sh", "-c", "echo $$; tr '\\0' ' ' < /proc/1/cmdline; echo; (exec true &); (sleep 0.02 &); exit 7"), init)
	expect(t, out, "2\n/sbin/docker-init -- sh -c echo $$; tr '\\0' ' ' < /proc/1/cmdline; echo; (exec true &); (sleep 0.02 &); exit 7 \n")
	if st.Code != 7 {
		t.Error(st)
	}
	if _, st = r.output(t, testSpec("sh", "-c", "kill -9 $$"), init); st.Code != 137 {
		t.Error(st)
	}

	rd, w := pipe(t)
	p := r.start(t, testSpec("sh", "-c", "trap 'echo term; exit 9' TERM; echo ready; while :; do sleep 1000 & wait; done"), init, func(c *Config) { c.Stdout = w })
	var b [6]byte
	io.ReadFull(rd, b[:])
	if caught, _, err := CatchesSignal(p.PID, unix.SIGTERM); err != nil || !caught {
		t.Errorf("the init process seems not to care for SIGTERM: %v", err)
	}
	check(t, p.Signal(unix.SIGTERM))
	st, err := p.Wait()
	check(t, err)
	if st.Code != 9 {
		t.Error(st)
	}

	err = r.fails(t, testSpec("nonsense"), init)
	var c *CommandError
	if !errors.As(err, &c) || c.ExitCode != 127 {
		t.Error(err)
	}
	s := testSpec("sh", "-c", "ps -o stat,comm | grep -q 'R+' && echo foreground")
	s.Process.Terminal = true
	p = r.start(t, s, init)
	got, _ := io.ReadAll(p.Console)
	p.Console.Close()
	_ = got
	if st, _ := p.Wait(); st.Code > 1 {
		t.Error(st, string(got))
	}
}
