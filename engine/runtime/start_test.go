package runtime

import (
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// rootfs is a small root file system with busybox, and overlays over it.
type rootfs struct {
	lower string
	dir   string
}

func newRootfs(t testing.TB) *rootfs {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
	busybox, err := exec.LookPath("busybox")
	if err != nil {
		t.Skip("needs busybox-static")
	}
	dir, err := os.MkdirTemp("/tmp", "run-test-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	r := &rootfs{lower: filepath.Join(dir, "lower"), dir: dir}
	for _, d := range []string{"bin", "dev", "etc", "proc", "root", "sys", "tmp"} {
		check(t, os.MkdirAll(filepath.Join(r.lower, d), 0o755))
	}
	b, err := os.ReadFile(busybox)
	check(t, err)
	check(t, os.WriteFile(filepath.Join(r.lower, "bin/busybox"), b, 0o755))
	out, err := exec.Command(busybox, "--list").Output()
	check(t, err)
	for name := range strings.FieldsSeq(string(out)) {
		if name != "busybox" {
			check(t, os.Symlink("busybox", filepath.Join(r.lower, "bin", name)))
		}
	}
	check(t, os.WriteFile(filepath.Join(r.lower, "etc/passwd"), []byte("root:x:0:0:root:/root:/bin/sh\napp:x:1000:1000::/home/app:/bin/sh\n"), 0o644))
	return r
}

// mount returns a detached overlay.
func (r *rootfs) mount(t testing.TB) *os.File {
	t.Helper()
	tmp, err := os.MkdirTemp(r.dir, "upper-")
	check(t, err)
	upper, work := filepath.Join(tmp, "u"), filepath.Join(tmp, "w")
	check(t, os.Mkdir(upper, 0o755))
	check(t, os.Mkdir(work, 0o755))
	fs, err := unix.Fsopen("overlay", unix.FSOPEN_CLOEXEC)
	check(t, err)
	defer unix.Close(fs)
	check(t, unix.FsconfigSetString(fs, "lowerdir", r.lower))
	check(t, unix.FsconfigSetString(fs, "upperdir", upper))
	check(t, unix.FsconfigSetString(fs, "workdir", work))
	check(t, unix.FsconfigCreate(fs))
	fd, err := unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, 0)
	check(t, err)
	return os.NewFile(uintptr(fd), "root")
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

var dockerCaps = []string{
	"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FSETID", "CAP_FOWNER", "CAP_MKNOD", "CAP_NET_RAW", "CAP_SETGID",
	"CAP_SETUID", "CAP_SETFCAP", "CAP_SETPCAP", "CAP_NET_BIND_SERVICE", "CAP_SYS_CHROOT", "CAP_KILL", "CAP_AUDIT_WRITE",
}

// testSpec is a container as Docker makes it by default.
func testSpec(args ...string) *specs.Spec {
	return &specs.Spec{
		Version:  specs.Version,
		Root:     &specs.Root{Path: "rootfs"},
		Hostname: "testbox",
		Process: &specs.Process{
			Args: args, Cwd: "/", Env: []string{"PATH=/bin:/usr/bin", "HOME=/root"},
			Capabilities: &specs.LinuxCapabilities{Bounding: dockerCaps, Effective: dockerCaps, Permitted: dockerCaps},
		},
		Mounts: []specs.Mount{
			{Destination: "/proc", Type: "proc", Source: "proc", Options: []string{"nosuid", "noexec", "nodev"}},
			{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "strictatime", "mode=755", "size=65536k"}},
			{Destination: "/dev/pts", Type: "devpts", Source: "devpts", Options: []string{"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"}},
			{Destination: "/sys", Type: "sysfs", Source: "sysfs", Options: []string{"nosuid", "noexec", "nodev", "ro"}},
			{Destination: "/sys/fs/cgroup", Type: "cgroup", Source: "cgroup", Options: []string{"nosuid", "noexec", "nodev", "ro"}},
			{Destination: "/dev/mqueue", Type: "mqueue", Source: "mqueue", Options: []string{"nosuid", "noexec", "nodev"}},
			{Destination: "/dev/shm", Type: "tmpfs", Source: "shm", Options: []string{"nosuid", "noexec", "nodev", "mode=1777", "size=67108864"}},
		},
		Linux: &specs.Linux{
			Namespaces: []specs.LinuxNamespace{
				{Type: specs.MountNamespace}, {Type: specs.PIDNamespace}, {Type: specs.IPCNamespace}, {Type: specs.UTSNamespace},
				{Type: specs.NetworkNamespace}, {Type: specs.CgroupNamespace},
			},
			MaskedPaths: []string{
				"/proc/acpi", "/proc/asound", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats",
				"/proc/sched_debug", "/proc/scsi", "/proc/timer_list", "/proc/timer_stats",
				"/sys/devices/virtual/powercap", "/sys/firmware",
			},
			ReadonlyPaths: []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"},
		},
	}
}

// pipe returns a pipe whose write end is for the container.
func pipe(t testing.TB) (r, w *os.File) {
	t.Helper()
	r, w, err := os.Pipe()
	check(t, err)
	t.Cleanup(func() { r.Close(); w.Close() })
	return r, w
}

// output runs a container to its end and returns what it wrote to stdout and stderr.
func (r *rootfs) output(t testing.TB, s *specs.Spec, change ...func(*Config)) (string, ExitStatus) {
	t.Helper()
	root := r.mount(t)
	defer root.Close()
	out, w := pipe(t)
	defer out.Close()
	defer w.Close()
	cfg := &Config{Spec: s, RootFS: root, Stdout: w, Stderr: w, Warn: func(m string) { t.Log("warning:", m) }}
	for _, c := range change {
		c(cfg)
	}
	p, err := Start(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	w.Close()
	b, err := io.ReadAll(out)
	check(t, err)
	status, err := p.Wait()
	check(t, err)
	return string(b), status
}

// start starts a container that runs until the test ends.
func (r *rootfs) start(t testing.TB, s *specs.Spec, change ...func(*Config)) *Process {
	t.Helper()
	root := r.mount(t)
	defer root.Close()
	cfg := &Config{Spec: s, RootFS: root}
	for _, c := range change {
		c(cfg)
	}
	p, err := Start(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		p.Signal(unix.SIGKILL)
		p.Wait()
		p.Close()
	})
	return p
}

// fails starts a container that must not start.
func (r *rootfs) fails(t testing.TB, s *specs.Spec, change ...func(*Config)) error {
	t.Helper()
	root := r.mount(t)
	defer root.Close()
	cfg := &Config{Spec: s, RootFS: root}
	for _, c := range change {
		c(cfg)
	}
	p, err := Start(t.Context(), cfg)
	if err == nil {
		p.Signal(unix.SIGKILL)
		p.Wait()
		p.Close()
		t.Fatal("the container starts")
	}
	return err
}

func (r *rootfs) sh(t testing.TB, script string) string {
	t.Helper()
	out, status := r.output(t, testSpec("sh", "-c", script))
	if status.Code != 0 {
		t.Fatalf("exit code %d: %s", status.Code, out)
	}
	return out
}
