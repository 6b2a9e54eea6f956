package engine

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/stack-run/stack/netns"
)

func TestFeasible(t *testing.T) {
	m := machine{
		online:    func(what string) string { return map[string]string{"cpu": "0-3,8", "node": "0"}[what] },
		parameter: func(file string) bool { return slices.Contains([]string{"kernel/sem", "net/core/somaxconn"}, file) },
		devices: func(iso Isolation) error {
			if iso.Devices[0].Source == "/dev/none" {
				return errors.New("cannot add device /dev/none")
			}
			return nil
		},
	}
	isolation := func(key, value string) Spec {
		return Spec{Isolation: Isolation{Sysctls: map[string]string{key: value}}}
	}
	network := func(key string) Spec {
		return Spec{Network: netns.EndpointSpec{Sysctls: map[string]string{key: "1"}}}
	}
	for name, c := range map[string]struct {
		spec Spec
		want string // "" if it is feasible
	}{
		"nothing":                   {Spec{}, ""},
		"CPUs that are there":       {Spec{Limits: Limits{CpusetCPUs: "1,8", CpusetMems: "0", NanoCPUs: 5e9}}, ""},
		"a CPU that is not":         {Spec{Limits: Limits{CpusetCPUs: "2-4"}}, `cpuset "2-4": there is no CPU 4; this host has 0-3,8`},
		"a memory node that is not": {Spec{Limits: Limits{CpusetMems: "1"}}, `cpuset-mems "1": there is no memory node 1; this host has 0`},
		"too many CPUs":             {Spec{Limits: Limits{NanoCPUs: 5.5e9}}, "cpus 5.5 is more than there are: this host has 5"},
		"a device":                  {Spec{Isolation: Isolation{Devices: []Device{{Source: "/dev/null"}}}}, ""},
		"a device that is not":      {Spec{Isolation: Isolation{Devices: []Device{{Source: "/dev/none"}}}}, "cannot add device /dev/none"},
		"a parameter":               {isolation("kernel.sem", "1 2 3 4"), ""},
		"a parameter that is not":   {isolation("kernel.shmall", "1"), `cannot set sysctl "kernel.shmall": this kernel has no such parameter`},
		"a network's":               {network("net.core.somaxconn"), ""},
		"one that is not":           {network("net.core.no"), `cannot set sysctl "net.core.no": this kernel has no such parameter`},
		"an interface's":            {network("net.ipv4.conf.eth0.forwarding"), ""},
	} {
		got := errors.Join(feasible(c.spec, m)...)
		if c.want == "" && got != nil || c.want != "" && (got == nil || got.Error() != c.want) {
			t.Errorf("%s: %v", name, got)
		}
	}
	if got := feasible(Spec{Limits: Limits{CpusetCPUs: "4000", NanoCPUs: 1e15}}, machine{online: func(string) string { return "" }}); got != nil {
		t.Errorf("where nothing is known: %v", got)
	}
}

func TestFaults(t *testing.T) {
	fine := Spec{
		Log: LogConfig{Driver: "json-file", Options: map[string]string{"max-size": "1m"}}, StopSignal: "RTMIN+3",
		Limits:    Limits{CpusetCPUs: "0-3,8", BlkioWeight: 10, BlkioWeightDevice: []BlkioDevice{{Path: "/dev/a", Rate: 1000}}},
		Isolation: Isolation{Sysctls: map[string]string{"kernel.sem": "1"}, DeviceCgroupRules: []string{"c 1:3 rwm"}},
		Network:   netns.EndpointSpec{Sysctls: map[string]string{"net.core.somaxconn": "5"}},
	}
	if got := Faults(fine); got != nil {
		t.Errorf("%v", got)
	}
	bad := Spec{
		Log: LogConfig{Driver: "none-such"}, StopSignal: "SIGNO",
		Limits: Limits{CpusetCPUs: "3-1", CpusetMems: "x", BlkioWeight: 5, BlkioWeightDevice: []BlkioDevice{{Path: "/dev/a", Rate: 1}}},
		Isolation: Isolation{
			Sysctls: map[string]string{"kernel.sem": "", "kernel.shmall": "1", "kernel.panic": "1"}, DeviceCgroupRules: []string{"x"}, IPCMode: "host",
		},
		Network: netns.EndpointSpec{Mode: "host", Sysctls: map[string]string{"net.core.somaxconn": "5"}},
	}
	var got []string
	for _, f := range Faults(bad) {
		got = append(got, f.Attribute)
	}
	want := "logging stop_signal cpuset cpuset_mems blkio_config.weight blkio_config.weight_device device_cgroup_rules " +
		"sysctls.kernel.panic sysctls.kernel.sem sysctls.kernel.shmall sysctls.net.core.somaxconn"
	if strings.Join(got, " ") != want {
		t.Errorf("%v", got)
	}
}

func TestParseExpose(t *testing.T) {
	for text, want := range map[string]string{
		"80": "80/tcp", "53/UDP": "53/udp", "7-9/sctp": "7/sctp 8/sctp 9/sctp", "65535": "65535/tcp",
		"": "", "0": "", "65536": "", "9-7": "", "80/": "", "80/icmp": "", "a": "", "-1": "", "1-": "",
	} {
		got, err := ParseExpose(text)
		if strings.Join(got, " ") != want || (err == nil) != (want != "") {
			t.Errorf("%q: %v, %v", text, got, err)
		}
	}
}

func TestPublishAll(t *testing.T) {
	c := Container{
		Base: &ImageConfig{ExposedPorts: []string{"80/tcp", "53/udp", "nonsense"}},
		Spec: Spec{Expose: []string{"9/tcp", "80/tcp"}, Network: netns.EndpointSpec{Ports: []netns.Port{{HostPort: 8080, ContainerPort: 80, Protocol: "tcp"}}}},
	}
	if got := strings.Join(c.Exposed(), " "); got != "nonsense 9/tcp 53/udp 80/tcp" {
		t.Errorf("%q", got)
	}
	got := publishAll(c.Spec.Network.Ports, c.Exposed())
	want := []netns.Port{c.Spec.Network.Ports[0], {ContainerPort: 9, Protocol: "tcp"}, {ContainerPort: 53, Protocol: "udp"}}
	if !slices.Equal(got, want) {
		t.Errorf("%+v", got)
	}
}
