package runtime

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/stack-run/stack/engine/seccomp"
)

func TestCommandErrors(t *testing.T) {
	r := newRootfs(t)
	for name, content := range map[string]string{"plain": "no shebang", "script": "#!/no/such/shell\n", "noexec": "#!/bin/sh\n"} {
		mode := os.FileMode(0o755)
		if name == "noexec" {
			mode = 0o644
		}
		check(t, os.WriteFile(filepath.Join(r.lower, "bin", name), []byte(content), mode))
	}
	for _, c := range []struct {
		command string
		code    int
		want    string
	}{
		{"foo", 127, `exec: "foo": executable file not found in $PATH`},
		{"/bin/foo", 127, `exec: "/bin/foo": stat /bin/foo: no such file or directory`},
		{"/bin/busybox/foo", 127, `exec: "/bin/busybox/foo": stat /bin/busybox/foo: no such file or directory`},
		{"./foo", 127, `exec: "./foo": stat ./foo: no such file or directory`},
		{"noexec", 126, `exec: "noexec": permission denied`},
		{"/bin/noexec", 126, `exec: "/bin/noexec": permission denied`},
		{"/bin", 126, `exec: "/bin": permission denied`},
		{"/bin/plain", 126, `exec: "/bin/plain": exec format error; is it a script without a #! line, or made for another processor?`},
		{"script", 126, `exec: "script": its interpreter does not exist: no such file or directory; `},
	} {
		err := r.fails(t, testSpec(c.command))
		var ce *CommandError
		if !errors.As(err, &ce) || ce.ExitCode != c.code || !strings.HasPrefix(err.Error(), c.want) {
			t.Errorf("%s: got %v, want %d %s", c.command, err, c.code, c.want)
		}
	}
}

func TestSetupErrors(t *testing.T) {
	r := newRootfs(t)
	check(t, os.WriteFile(filepath.Join(r.lower, "etc/file"), nil, 0o644))
	check(t, os.Symlink("/tmp", filepath.Join(r.lower, "link")))
	check(t, os.Symlink("proc", filepath.Join(r.lower, "procfs")))
	mount := func(m specs.Mount) func(*specs.Spec) {
		return func(s *specs.Spec) { s.Mounts = append(s.Mounts, m) }
	}
	sysctl := func(k, v string) func(*specs.Spec) {
		return func(s *specs.Spec) { s.Linux.Sysctl = map[string]string{k: v} }
	}
	hostNet := func(s *specs.Spec) {
		s.Linux.Namespaces = s.Linux.Namespaces[:4]
		s.Linux.Sysctl = map[string]string{"net.core.somaxconn": "1"}
	}
	before := fdCount(t)
	for want, change := range map[string]func(*specs.Spec){
		`cannot mount nosuchfs at /x: no such device; the kernel does not know this file system`:                                mount(specs.Mount{Destination: "/x", Type: "nosuchfs"}),
		`cannot set option "size=banana" of tmpfs at /x: invalid argument`:                                                      mount(specs.Mount{Destination: "/x", Type: "tmpfs", Options: []string{"size=banana"}}),
		`cannot set option "nonsense" of tmpfs at /x: invalid argument`:                                                         mount(specs.Mount{Destination: "/x", Type: "tmpfs", Options: []string{"nonsense"}}),
		`cannot mount /no/such/source at /x: open_tree /no/such/source: no such file or directory`:                              mount(specs.Mount{Destination: "/x", Type: "bind", Source: "/no/such/source"}),
		`cannot open the mount point /etc/file: not a directory; the source is a directory and the mount point a file`:          mount(specs.Mount{Destination: "/etc/file", Type: "bind", Source: "/tmp"}),
		`cannot mount /etc/passwd at /etc: invalid argument; one of source and mount point is a directory and the other a file`: mount(specs.Mount{Destination: "/etc", Type: "bind", Source: "/etc/passwd"}),
		`cannot mount proc at /link: the image has a symbolic link there, to /tmp`:                                              mount(specs.Mount{Destination: "/link", Type: "proc"}),
		`cannot mount /tmp at /proc/self: it would cover /proc/self, and nothing but proc may be mounted there`:                 mount(specs.Mount{Destination: "/proc/self", Type: "bind", Source: "/tmp"}),
		`cannot mount tmpfs at /procfs/sys: it would cover /proc/sys, and nothing but proc may be mounted there`:                mount(specs.Mount{Destination: "/procfs/sys", Type: "tmpfs"}),
		`cannot mount at "relative": the destination must be an absolute path below /`:                                          mount(specs.Mount{Destination: "relative", Type: "tmpfs"}),
		`cannot mount at "/x/..": the destination must be an absolute path below /`:                                             mount(specs.Mount{Destination: "/x/..", Type: "tmpfs"}),
		`cannot set sysctl "vm.swappiness": it is not namespaced and would change the host; set it on the host`:                 sysctl("vm.swappiness", "1"),
		`cannot set sysctl "kernel.../x": not a parameter's name`:                                                               sysctl("kernel.../x", "1"),
		`cannot set sysctl net.core.nonsense to "1": no such file or directory; the kernel has no such parameter`:               sysctl("net.core.nonsense", "1"),
		`cannot set sysctl kernel.shmmni to "-5": invalid argument; the value is out of the parameter's range`:                  sysctl("kernel.shmmni", "-5"),
		`cannot set sysctl "net.core.somaxconn": the container uses the host's network namespace; set it on the host`:           hostNet,
		`cannot join the network namespace: open /no/such/ns: no such file or directory`:                                        func(s *specs.Spec) { joinNetns(s, "/no/such/ns") },
		`cannot join the network namespace /proc/self/ns/uts: invalid argument; the file is not a network namespace`:            func(s *specs.Spec) { joinNetns(s, "/proc/self/ns/uts") },
		`cannot change to the working directory /etc/passwd: not a directory`:                                                   func(s *specs.Spec) { s.Process.Cwd = "/etc/passwd" },
		`cannot start in the working directory "etc": it is not an absolute path`:                                               func(s *specs.Spec) { s.Process.Cwd = "etc" },
		`cannot start a process without a command`:                                                                              func(s *specs.Spec) { s.Process.Args = nil },
		`unknown capability "CAP_FLY"; capabilities(7) lists them`:                                                              func(s *specs.Spec) { s.Process.Capabilities.Bounding = []string{"CAP_FLY"} },
		`unknown resource limit "RLIMIT_X"; getrlimit(2) lists them`:                                                            func(s *specs.Spec) { s.Process.Rlimits = []specs.POSIXRlimit{{Type: "RLIMIT_X"}} },
		`cannot set RLIMIT_CORE: the soft limit 2 is above the hard limit 1`:                                                    func(s *specs.Spec) { s.Process.Rlimits = []specs.POSIXRlimit{{Type: "RLIMIT_CORE", Soft: 2, Hard: 1}} },
		`cannot set the AppArmor profile none-such: `:                                                                           func(s *specs.Spec) { s.Process.ApparmorProfile = "none-such" },
		`cannot start a process: "a\x00b" contains a NUL byte`:                                                                  func(s *specs.Spec) { s.Process.Env = []string{"a\x00b"} },
		`seccomp profile: default action: unknown action ""`:                                                                    func(s *specs.Spec) { s.Linux.Seccomp = &specs.LinuxSeccomp{} },
		`unknown rootfs propagation "odd"`:                                                                                      func(s *specs.Spec) { s.Linux.RootfsPropagation = "odd" },
		`cannot give the container a terminal: it has no devpts at /dev/pts`:                                                    func(s *specs.Spec) { s.Process.Terminal = true; s.Mounts = s.Mounts[:2] },
		`cannot set a hostname in the host's uts namespace; remove the hostname or the host's uts mode`:                         func(s *specs.Spec) { s.Linux.Namespaces = s.Linux.Namespaces[:3] },
	} {
		s := testSpec("true")
		change(s)
		if err := r.fails(t, s); !strings.HasPrefix(err.Error(), want) {
			t.Errorf("got  %v\nwant %s", err, want)
		}
	}
	if after := fdCount(t); after != before {
		t.Errorf("%d descriptors before, %d after", before, after)
	}
	noZombies(t)
}

func TestKilledBySeccompDuringSetup(t *testing.T) {
	r := newRootfs(t)
	f, err := seccomp.Compile(&specs.LinuxSeccomp{DefaultAction: specs.ActAllow, Syscalls: []specs.LinuxSyscall{{Names: []string{"capset"}, Action: specs.ActKillProcess}}})
	check(t, err)
	err = r.fails(t, testSpec("true"), func(c *Config) { c.Seccomp = f })
	if want := "cannot start the process: signal 31 (bad system call) killed it while it was set up; the seccomp profile forbids a call that execution needs"; err.Error() != want {
		t.Error(err)
	}
}

func fdCount(t testing.TB) int {
	t.Helper()
	e, err := os.ReadDir("/proc/self/fd")
	check(t, err)
	return len(e)
}

func noZombies(t testing.TB) {
	t.Helper()
	var info unix.Siginfo
	if err := unix.Waitid(unix.P_ALL, 0, &info, unix.WEXITED|unix.WNOHANG|unix.WNOWAIT, nil); err == nil && info.Signo != 0 {
		t.Error("a zombie is left")
	}
}

func TestCreatedRunsBeforeTheCommand(t *testing.T) {
	r := newRootfs(t)
	out, w := pipe(t)
	var seen *Process
	p := r.start(t, testSpec("echo", "running"), func(c *Config) {
		c.Stdout = w
		c.Created = func(p *Process) error {
			seen = p
			s, err := ReadStat(p.PID)
			if err != nil || !s.Alive() || s.StartTicks != p.StartTicks || p.StartTicks == 0 {
				t.Errorf("%+v %v", s, err)
			}
			out.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
			if n, _ := out.Read(make([]byte, 1)); n != 0 {
				t.Error("the command runs already")
			}
			out.SetReadDeadline(time.Time{})
			return nil
		}
	})
	if seen != p {
		t.Error("another process")
	}
	w.Close()
	b, _ := io.ReadAll(out)
	expect(t, string(b), "running\n")
	p.Wait()

	refused := errors.New("refused")
	before := fdCount(t)
	if err := r.fails(t, testSpec("touch", "/ran"), func(c *Config) { c.Created = func(*Process) error { return refused } }); err != refused {
		t.Error(err)
	}
	if after := fdCount(t); after != before {
		t.Errorf("%d descriptors before, %d after", before, after)
	}
	noZombies(t)
}

// Prepared finds the root as the command will, and can write there; an error stops all.
func TestPreparedFindsTheRoot(t *testing.T) {
	r := newRootfs(t)
	out, w := pipe(t)
	order := ""
	r.start(t, testSpec("cat", "/prepared"), func(c *Config) {
		c.Stdout = w
		c.Created = func(*Process) error { order += "created "; return nil }
		c.Prepared = func(p *Process) error {
			order += "prepared"
			root := fmt.Sprintf("/proc/%d/root", p.PID)
			if _, err := os.Stat(root + "/proc/uptime"); err != nil {
				t.Errorf("/proc is not mounted: %v", err)
			}
			return os.WriteFile(root+"/prepared", []byte("by a hook\n"), 0o644)
		}
	}).Wait()
	w.Close()
	b, _ := io.ReadAll(out)
	expect(t, string(b), "by a hook\n")
	expect(t, order, "created prepared")
	refused := errors.New("refused")
	err := r.fails(t, testSpec("touch", "/ran"), func(c *Config) {
		c.Created = func(*Process) error { return nil }
		c.Prepared = func(*Process) error { return refused }
	})
	if err != refused {
		t.Error(err)
	}
	noZombies(t)
}

func TestCancel(t *testing.T) {
	r := newRootfs(t)
	ctx, cancel := context.WithCancel(t.Context())
	root := r.mount(t)
	defer root.Close()
	_, err := Start(ctx, &Config{Spec: testSpec("sleep", "1000"), RootFS: root, Created: func(*Process) error { cancel(); return nil }})
	if !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	noZombies(t)
}

func TestAttachedRootByPath(t *testing.T) {
	r := newRootfs(t)
	s := testSpec("cat", "/etc/passwd")
	s.Root.Path = r.lower
	out, w := pipe(t)
	p, err := Start(t.Context(), &Config{Spec: s, Stdout: w})
	check(t, err)
	defer p.Close()
	w.Close()
	b, _ := io.ReadAll(out)
	if !strings.HasPrefix(string(b), "root:x:0:0") {
		t.Errorf("%s", b)
	}
	p.Wait()
}
