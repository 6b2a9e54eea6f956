package runtime

import (
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/stack-run/stack/engine/seccomp"
)

var update = flag.Bool("update", false, "write the golden files")

// goldenKernel is a kernel with everything, as root.
var goldenKernel = kernelFacts{lastCap: 40, permitted: 1<<41 - 1, kcore: true, cgroupV2: true}

func goldenFacts(s *specs.Spec) startFacts {
	f := startFacts{kernel: goldenKernel, mounts: make([]mountFact, len(s.Mounts)), cwd: s.Process.Cwd}
	f.process.limits = func(int) unix.Rlimit { return unix.Rlimit{Cur: 1024, Max: 4096} }
	f.process.step = true
	f.process.filter = &seccomp.Filter{Program: make([]unix.SockFilter, 3), Flags: 4}
	return f
}

func TestPrograms(t *testing.T) {
	start := func(change func(*specs.Spec, *startFacts)) func() (*program, []string, error) {
		return func() (*program, []string, error) {
			s := testSpec("sh", "-c", "true")
			f := goldenFacts(s)
			change(s, &f)
			return compileStart(s, f)
		}
	}
	for name, compile := range map[string]func() (*program, []string, error){
		"default": start(func(s *specs.Spec, f *startFacts) {}),
		"v1": start(func(s *specs.Spec, f *startFacts) {
			f.kernel.cgroupV2, f.kernel.hierarchies, f.cgroups = false, []string{"cpu,cpuacct", "memory", "name=systemd"}, 2
			s.Mounts = s.Mounts[4:5]
			f.mounts = make([]mountFact, 1)
			s.Linux.MaskedPaths, s.Linux.ReadonlyPaths = nil, nil
		}),
		"user": start(func(s *specs.Spec, f *startFacts) {
			s.Mounts = s.Mounts[:1]
			f.mounts = make([]mountFact, 1)
			s.Linux.MaskedPaths, s.Linux.ReadonlyPaths, s.Root.Readonly = nil, nil, true
			s.Process.User = specs.User{UID: 1000, GID: 1000, AdditionalGids: []uint32{1000, 5}}
			one := []string{"CAP_NET_BIND_SERVICE"}
			s.Process.Capabilities = &specs.LinuxCapabilities{Bounding: one, Permitted: one, Effective: one, Inheritable: one, Ambient: one}
			s.Process.Rlimits = []specs.POSIXRlimit{{Type: "RLIMIT_NOFILE", Soft: 1, Hard: 2}}
			s.Linux.Sysctl = map[string]string{"net.ipv4.ip_forward": "1"}
			s.Process.NoNewPrivileges = true
			adj := -5
			s.Process.OOMScoreAdj = &adj
			f.process.stdio = [3]stdioFact{{}, {given: true, chown: true}, {given: true}}
			f.process.wait = true
		}),
		"volumes": start(func(s *specs.Spec, f *startFacts) {
			s.Mounts = []specs.Mount{
				s.Mounts[1],
				{Destination: "/data", Type: "bind", Source: "/host/data", Options: []string{"rbind", "ro"}},
				{Destination: "/etc/hosts", Type: "bind", Source: "/host/hosts", Options: []string{"bind", "rslave"}},
			}
			f.mounts = []mountFact{{}, {fd: true, dir: true, target: "/srv/data"}, {fd: true}}
			s.Linux.MaskedPaths, s.Linux.ReadonlyPaths = []string{"/proc/keys"}, []string{"/proc/sys"}
			joinNetns(s, "/run/x/netns")
		}),
		"init-terminal": start(func(s *specs.Spec, f *startFacts) {
			s.Process.Terminal = true
			s.Mounts = s.Mounts[1:3]
			f.mounts = []mountFact{{}, {fd: true, dir: true, ready: true}}
			s.Linux.MaskedPaths, s.Linux.ReadonlyPaths = nil, nil
			f.init, f.process.terminal = true, true
		}),
		"exec": func() (*program, []string, error) {
			s := testSpec("sh", "-c", "true")
			f := goldenFacts(s)
			f.process.stdio = [3]stdioFact{{given: true}, {given: true}, {given: true}}
			return compileExec(s.Process, execFacts{kernel: f.kernel, process: f.process, cgroups: 1})
		},
	} {
		p, warnings, err := compile()
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		got := p.String()
		if len(warnings) > 0 {
			got += "warnings: " + strings.Join(warnings, "\n") + "\n"
		}
		file := filepath.Join("testdata", name+".golden")
		if *update {
			check(t, os.MkdirAll("testdata", 0o755))
			check(t, os.WriteFile(file, []byte(got), 0o644))
		}
		want, err := os.ReadFile(file)
		check(t, err)
		if got != string(want) {
			t.Errorf("the program %q differs from %s; if that is right, run with -update and read the change:\n%s", name, file, got)
		}
	}
}

// Every call must be numbered the same wherever a program is interpreted, and
// no call may expect more errors than a linked one has room for.
func TestProgramsLink(t *testing.T) {
	s := testSpec("sh")
	p, _, err := compileStart(s, goldenFacts(s))
	check(t, err)
	for i := range p.ops {
		if len(p.ops[i].ignore) > 4 || len(p.ops[i].args) > 6 {
			t.Errorf("call %d: %+v", i, p.ops[i])
		}
		if strings.HasPrefix(callName(p.ops[i].nr), "syscall_") {
			t.Errorf("call %d has no name", i)
		}
	}
	if _, err := p.link(map[string]int{}, 5); err == nil {
		t.Error("a program links without its descriptors")
	}
}
