package engine

import (
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/stack-run/stack/netns"
)

var update = flag.Bool("update", false, "rewrite the golden files")

func anyCap(string) bool { return true }

func testFacts() Facts {
	return Facts{
		ID:       strings.Repeat("ab", 32),
		Image:    ImageConfig{Entrypoint: []string{"/entry"}, Cmd: []string{"serve"}, Env: []string{"PATH=/bin", "A=image"}, WorkingDir: "/srv"},
		Hostname: "abababababab", NetNS: "/run/stack/netns/x", CgroupPath: "/stack-1/abab",
		Home: "/root", HasCap: anyCap,
	}
}

func TestOCIGolden(t *testing.T) {
	swappiness := int64(10)
	cases := map[string]struct {
		spec  Spec
		facts func(*Facts)
	}{
		"default": {},
		"privileged": {spec: Spec{Isolation: Isolation{Privileged: true}}, facts: func(f *Facts) {
			f.CgroupV2 = true
		}},
		"limited": {spec: Spec{
			ReadOnly: true,
			Limits:   Limits{Memory: 64 << 20, NanoCPUs: 1_500_000_000, CpusetCPUs: "0-1", PIDs: 50, Swappiness: &swappiness, CPUShares: 512, BlkioWeight: 300},
			Isolation: Isolation{
				CapDrop: []string{"ALL"}, CapAdd: []string{"NET_BIND_SERVICE"}, SecurityOpt: []string{"no-new-privileges:true"},
				Rlimits: map[string]Rlimit{"nofile": {Soft: 1024, Hard: 2048}}, Sysctls: map[string]string{"kernel.msgmax": "1", "net.core.somaxconn": "2"},
			},
			Process: Process{User: "app", Env: []string{"A=service", "B=2"}, Command: []string{"work"}, TTY: true},
		}, facts: func(f *Facts) { f.User = specs.User{UID: 1000, GID: 1000}; f.Home = "/home/app" }},
		"shared": {spec: Spec{
			Network:   netns.EndpointSpec{Mode: "host"},
			Isolation: Isolation{PIDMode: "host", IPCMode: "container:x", UTSMode: "host"},
		}, facts: func(f *Facts) {
			f.NetNS, f.PIDNS, f.IPCNS = "host", "host", "/proc/7/ns/ipc"
			f.Mounts = []specs.Mount{{Destination: "/dev/shm", Type: "bind"}, {Destination: "/data", Type: "bind", Options: []string{"rshared"}}}
		}},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			f := testFacts()
			if c.facts != nil {
				c.facts(&f)
			}
			got, err := OCI(c.spec, f)
			if err != nil {
				t.Fatal(err)
			}
			text, err := json.MarshalIndent(got, "", "  ")
			if err != nil {
				t.Fatal(err)
			}
			text = append(text, '\n')
			golden := filepath.Join("testdata", "oci", name+".json")
			if *update {
				if err := os.MkdirAll(filepath.Dir(golden), 0o755); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(golden, text, 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if string(text) != string(want) {
				t.Errorf("the specification differs from %s (run with -update to accept):\n%s", golden, text)
			}
		})
	}
}

func TestCommandMerging(t *testing.T) {
	img := ImageConfig{Entrypoint: []string{"/entry"}, Cmd: []string{"serve"}}
	for _, tt := range []struct {
		name       string
		entry, cmd []string
		img        ImageConfig
		want       string
	}{
		{"image's own", nil, nil, img, "/entry serve"},
		{"command replaces the image's", nil, []string{"x"}, img, "/entry x"},
		{"entrypoint drops the image's command", []string{"/e"}, nil, img, "/e"},
		{"both", []string{"/e"}, []string{"x"}, img, "/e x"},
		{"empty entrypoint", []string{}, []string{"x"}, img, "x"},
		{"entrypoint of one empty string", []string{""}, []string{"x"}, img, "x"},
	} {
		got, err := args(Process{Entrypoint: tt.entry, Command: tt.cmd}, tt.img)
		if err != nil || strings.Join(got, " ") != tt.want {
			t.Errorf("%s: %q, %v; want %q", tt.name, got, err, tt.want)
		}
	}
	if _, err := args(Process{}, ImageConfig{}); err == nil {
		t.Error("no command at all is no error")
	}
}

func TestEnvironmentLayers(t *testing.T) {
	got := environment(Process{Env: []string{"A=service", "GONE", "EMPTY="}}, ImageConfig{Env: []string{"A=image", "GONE=1", "PATH=/x"}}, "h", "/root")
	want := []string{"PATH=/x", "HOSTNAME=h", "A=service", "EMPTY=", "HOME=/root"}
	if !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestCapabilities(t *testing.T) {
	for _, tt := range []struct {
		name       string
		privileged bool
		add, drop  []string
		have       func(string) bool
		want       int
		has, lacks string
	}{
		{name: "default", have: anyCap, want: 14, has: "CAP_CHOWN", lacks: "CAP_SYS_ADMIN"},
		{name: "privileged", privileged: true, have: anyCap, want: 41, has: "CAP_SYS_ADMIN"},
		{name: "drop all, add one", drop: []string{"all"}, add: []string{"net_admin"}, have: anyCap, want: 1, has: "CAP_NET_ADMIN"},
		{name: "add all, drop one", add: []string{"ALL"}, drop: []string{"SYS_TIME"}, have: anyCap, want: 40, lacks: "CAP_SYS_TIME"},
		{name: "a host without one", privileged: true, have: func(c string) bool { return c != "CAP_SYS_RESOURCE" }, want: 40, lacks: "CAP_SYS_RESOURCE"},
	} {
		got, err := capabilities(tt.privileged, tt.add, tt.drop, tt.have)
		if err != nil {
			t.Errorf("%s: %v", tt.name, err)
		}
		if len(got) != tt.want || tt.has != "" && !slices.Contains(got, tt.has) || tt.lacks != "" && slices.Contains(got, tt.lacks) {
			t.Errorf("%s: %d capabilities %v", tt.name, len(got), got)
		}
	}
	if _, err := capabilities(false, []string{"NO_SUCH"}, nil, anyCap); err == nil || !strings.Contains(err.Error(), "CAP_NO_SUCH") {
		t.Errorf("an unknown capability gives %v", err)
	}
}

func TestSecurityOptions(t *testing.T) {
	s, err := parseSecurity([]string{"no-new-privileges", "seccomp:unconfined", "systempaths=unconfined", "apparmor=x"})
	if err != nil || !s.noNewPrivileges || !s.seccompUnconfined || !s.systemPathsUnconfined || s.apparmor != "x" {
		t.Errorf("got %+v, %v", s, err)
	}
	if _, err := parseSecurity([]string{"nonsense=1"}); err == nil {
		t.Error("an unknown option is no error")
	}
}

func TestDeviceRules(t *testing.T) {
	r, err := parseDeviceRule("c 13:* rw")
	if err != nil || *r.Major != 13 || r.Minor != nil || r.Access != "rw" || r.Type != "c" {
		t.Errorf("got %+v, %v", r, err)
	}
	for _, bad := range []string{"", "c 13", "x 1:1 r", "c a:b r", "c 1:1 q"} {
		if _, err := parseDeviceRule(bad); err == nil {
			t.Errorf("%q is no error", bad)
		}
	}
}

// What has no effect is told, and a profile that is not there stops the start.
func TestSecurityNotes(t *testing.T) {
	with := host{apparmor: true, selinux: true, cgroupV2: true, profile: func(name string) bool { return name == "mine" }}
	for _, test := range []struct {
		opt   string
		iso   Isolation
		host  host
		notes string // a part of the only one
		err   string
	}{
		{opt: "apparmor=mine", host: with},
		{opt: "apparmor=nosuch", host: with, err: "there is no such profile"},
		{opt: "apparmor=nosuch", notes: "AppArmor is not enabled"},
		{opt: "apparmor=unconfined"},
		{opt: "label=disable", host: with},
		{opt: "label=type:spc_t", host: with, notes: "containers get no SELinux labels"},
		{opt: "label:level:s0", notes: "SELinux is not enabled"},
		{opt: "writable-cgroups=true", host: with},
		{opt: "writable-cgroups=true", notes: "cgroup v1"},
		{opt: "writable-cgroups=true", host: with, iso: Isolation{CgroupNSMode: "host"}, notes: "the host's cgroups"},
		{opt: "writable-cgroups=false"},
	} {
		sec, err := parseSecurity([]string{test.opt})
		if err != nil {
			t.Fatal(err)
		}
		notes, err := sec.notes(test.iso, test.host)
		switch {
		case test.err != "" || err != nil:
			if err == nil || test.err == "" || !strings.Contains(err.Error(), test.err) {
				t.Errorf("%s: %v, want %q", test.opt, err, test.err)
			}
		case test.notes == "" && len(notes) > 0, test.notes != "" && (len(notes) != 1 || !strings.Contains(notes[0], test.notes)):
			t.Errorf("%s: %q, want %q", test.opt, notes, test.notes)
		}
	}
}

func TestMountsFollowSecurityAndIPC(t *testing.T) {
	find := func(iso Isolation, v2 bool, at string) (string, bool) {
		for _, m := range mounts(Spec{Isolation: iso}, Facts{CgroupV2: v2}) {
			if m.Destination == at {
				return m.Options[len(m.Options)-1], true
			}
		}
		return "", false
	}
	writable := Isolation{SecurityOpt: []string{"writable-cgroups=true"}}
	if access, _ := find(writable, true, "/sys/fs/cgroup"); access != "rw" {
		t.Errorf("writable-cgroups with v2: %s", access)
	}
	if access, _ := find(writable, false, "/sys/fs/cgroup"); access != "ro" {
		t.Errorf("writable-cgroups with v1: %s", access)
	}
	if access, _ := find(Isolation{}, true, "/sys/fs/cgroup"); access != "ro" {
		t.Errorf("without: %s", access)
	}
	if _, there := find(Isolation{IPCMode: "none"}, true, "/dev/shm"); there {
		t.Error("ipc: none has a /dev/shm")
	}
	if _, there := find(Isolation{IPCMode: "private"}, true, "/dev/shm"); !there {
		t.Error("ipc: private has no /dev/shm")
	}
}

func TestWorkingDir(t *testing.T) {
	for want, dirs := range map[string][]string{
		"/":            {"", ""},
		"/rel/dir":     {"rel/dir", ""},
		"/rel/dir/sub": {"rel/dir", "sub"},
		"/other":       {"/srv", "/other/"},
		"/srv/a":       {"/srv", "", "a"},
		"/etc":         {"/srv", "../../etc"},
	} {
		if got := workingDir(dirs...); got != want {
			t.Errorf("%q: %s, want %s", dirs, got, want)
		}
	}
}

func TestWiden(t *testing.T) {
	limit := func(n int64) *specs.LinuxResources { return &specs.LinuxResources{Pids: &specs.LinuxPids{Limit: &n}} }
	own := Facts{UserNS: "/proc/self/fd/3"}
	for _, tt := range []struct {
		limits         *specs.LinuxResources
		facts          Facts
		during, narrow int64 // 0 for none
	}{
		{&specs.LinuxResources{}, own, 0, 0},
		{limit(1), Facts{}, 1, 0},
		{limit(1), own, 2, 1},
		{limit(2), own, 2, 0},
		{limit(-1), own, -1, 0},
	} {
		value := func(r *specs.LinuxResources) int64 {
			if r == nil || r.Pids == nil {
				return 0
			}
			return *r.Pids.Limit
		}
		narrow := widen(tt.limits, tt.facts)
		if value(tt.limits) != tt.during || value(narrow) != tt.narrow {
			t.Errorf("%d, then %d, want %d, then %d", value(tt.limits), value(narrow), tt.during, tt.narrow)
		}
	}
}
