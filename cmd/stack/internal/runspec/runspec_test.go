package runspec

import (
	"encoding/json"
	"net/netip"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/spf13/pflag"

	"github.com/stack-run/stack/engine"
	"github.com/stack-run/stack/healthcheck"
	"github.com/stack-run/stack/netns"
	"github.com/stack-run/stack/volumes"
)

func parse(t *testing.T, line string) (engine.Spec, error) {
	t.Helper()
	var f Flags
	fs := pflag.NewFlagSet("run", pflag.ContinueOnError)
	f.Add(fs)
	if err := fs.Parse(strings.Fields(line)); err != nil {
		t.Fatalf("%s: %v", line, err)
	}
	f.EntrypointSet = fs.Changed("entrypoint")
	f.StopTimeoutSet = fs.Changed("stop-timeout")
	return f.Build(Facts{
		Image: "debian", Dir: "/home/me", Name: func() string { return "some-name" },
		ReadFile: func(string) ([]byte, error) { return []byte("{}"), nil },
	})
}

func TestBuild(t *testing.T) {
	swappiness := int64(10)
	for _, test := range []struct {
		line string
		want func(*engine.Spec)
	}{
		{"", func(*engine.Spec) {}},
		{"-m 512m --memory-swap -1 --memory-swappiness 10 --cpus 1.5 --pids-limit 100", func(s *engine.Spec) {
			s.Limits = engine.Limits{Memory: 512 << 20, MemorySwap: -1, NanoCPUs: 1500000000, PIDs: 100, Swappiness: &swappiness}
		}},
		{"--name x -h box --domainname example.org --add-host db:10.0.0.1 --add-host six=[::1] --dns 9.9.9.9", func(s *engine.Spec) {
			s.Name, s.Hostname, s.Domain = "x", "box", "example.org"
			s.Network.Key, s.Network.Names, s.Network.Owner, s.Network.Hostname = "x", []string{"x"}, "container x", "box"
			s.Network.ExtraHosts = []netns.ExtraHost{{Name: "db", Addr: "10.0.0.1"}, {Name: "six", Addr: "::1"}}
			s.Network.DNS = []netip.Addr{netip.MustParseAddr("9.9.9.9")}
		}},
		{"--network host", func(s *engine.Spec) { s.Network.Mode, s.Network.Names, s.Network.Networks = "host", nil, nil }},
		{"--network back --network name=front,alias=a,ip=10.1.0.5,gw-priority=2 --network-alias b", func(s *engine.Spec) {
			s.Network.Networks = []netns.Attachment{
				{Network: "back", Aliases: []string{"b"}},
				{Network: "front", Aliases: []string{"a"}, IPv4: netip.MustParseAddr("10.1.0.5"), GatewayPrio: 2},
			}
		}},
		{"-v data:/data:ro -v /srv:/srv:rshared,z -v ./src:/src -v /anon --tmpfs /run:size=1m,mode=700,noexec", func(s *engine.Spec) {
			s.Mounts = []volumes.Mount{
				{Type: "volume", Source: "data", Target: "/data", ReadOnly: true},
				{Type: "bind", Source: "/srv", Target: "/srv", Propagation: "rshared", SELinux: "z", CreateHostPath: true},
				{Type: "bind", Source: "/home/me/src", Target: "/src", CreateHostPath: true},
				{Type: "volume", Target: "/anon"},
				{Type: "tmpfs", Target: "/run", Size: 1 << 20, Mode: 0o700, Options: []string{"noexec"}},
			}
		}},
		{"--mount type=bind,src=/a,dst=/b,ro,bind-propagation=rslave --mount type=tmpfs,target=/t,tmpfs-size=1k --mount source=v,target=/v,volume-nocopy,volume-subpath=x", func(s *engine.Spec) {
			s.Mounts = []volumes.Mount{
				{Type: "bind", Source: "/a", Target: "/b", ReadOnly: true, Propagation: "rslave"},
				{Type: "tmpfs", Target: "/t", Size: 1024},
				{Type: "volume", Source: "v", Target: "/v", NoCopy: true, Subpath: "x"},
			}
		}},
		{"--entrypoint= --restart on-failure:3 --stop-timeout 0 --stop-signal QUIT --init --read-only --rm=false", func(s *engine.Spec) {
			s.Process.Entrypoint, s.Process.Command = []string{}, []string{}
			s.Restart = engine.Restart{Policy: "on-failure", MaxRetries: 3}
			s.StopGrace, s.StopSignal, s.Init, s.ReadOnly = 1, "QUIT", true, true
		}},
		{"--ulimit nofile=10:20 --device /dev/null:/dev/x:r --sysctl net.a=1 --sysctl kernel.sem=2 --security-opt seccomp=p.json", func(s *engine.Spec) {
			s.Isolation.Rlimits = map[string]engine.Rlimit{"nofile": {Soft: 10, Hard: 20}}
			s.Isolation.Devices = []engine.Device{{Source: "/dev/null", Target: "/dev/x", Permissions: "r"}}
			s.Isolation.Sysctls = map[string]string{"kernel.sem": "2"}
			s.Isolation.SecurityOpt, s.Isolation.SeccompProfile = []string{"seccomp=/home/me/p.json"}, "{}"
			s.Network.Sysctls = map[string]string{"net.a": "1"}
		}},
		{"--health-cmd true --health-interval 2s --health-retries 4", func(s *engine.Spec) {
			s.Health = &healthcheck.Spec{Test: []string{"CMD-SHELL", "true"}, Interval: 2 * time.Second, Retries: 4}
		}},
		{"--no-healthcheck", func(s *engine.Spec) { s.Health = &healthcheck.Spec{Test: []string{"NONE"}} }},
		{"--expose 80-81 --expose 53/udp -P", func(s *engine.Spec) {
			s.Expose = []string{"53/udp", "80/tcp", "81/tcp"}
			s.PublishAll = true
		}},
		{"--device vendor.com/class=name --gpus all", func(s *engine.Spec) {
			s.Isolation.CDI = []string{"vendor.com/class=name"}
			s.Isolation.DeviceRequests = []engine.DeviceRequest{{Count: -1, Capabilities: []string{"gpu"}}}
		}},
		{`--gpus driver=nvidia,"device=0,1","capabilities=utility,video"`, func(s *engine.Spec) {
			s.Isolation.DeviceRequests = []engine.DeviceRequest{{Driver: "nvidia", IDs: []string{"0", "1"}, Capabilities: []string{"gpu", "utility", "video"}}}
		}},
		{"--gpus 2", func(s *engine.Spec) {
			s.Isolation.DeviceRequests = []engine.DeviceRequest{{Count: 2, Capabilities: []string{"gpu"}}}
		}},
		{"-l a=b -l c --log-driver json-file --log-opt max-size=1m", func(s *engine.Spec) {
			s.Labels = map[string]string{"a": "b", "c": ""}
			s.Log = engine.LogConfig{Driver: "json-file", Options: map[string]string{"max-size": "1m"}}
		}},
	} {
		got, err := parse(t, test.line)
		if err != nil {
			t.Errorf("%s: %v", test.line, err)
			continue
		}
		want := engine.Spec{
			Name: "some-name", Image: "debian", Restart: engine.Restart{Policy: "no"},
			Network: netns.EndpointSpec{Key: "some-name", Names: []string{"some-name"}, Owner: "container some-name", Networks: []netns.Attachment{{Network: "bridge"}}},
		}
		test.want(&want)
		for i := range got.Mounts {
			got.Mounts[i].Origin = ""
		}
		if !reflect.DeepEqual(got, want) {
			g, _ := json.MarshalIndent(got, "", " ")
			w, _ := json.MarshalIndent(want, "", " ")
			t.Errorf("%s:\ngot  %s\nwant %s", test.line, g, w)
		}
	}
}

func TestFaults(t *testing.T) {
	for line, want := range map[string]string{
		"--cpus many":                          "invalid --cpus",
		"--cpus 1 --cpu-quota 5":               "cannot be combined with a CPU quota",
		"-m lots":                              "invalid --memory",
		"--restart sometimes":                  "invalid --restart",
		"--rm --restart always":                "cannot specify both --restart and --rm",
		"-v a:b:c:d":                           "invalid --volume",
		"-v a:relative":                        "not an absolute path",
		"-v a:/x -v b:/x":                      "another mount at /x",
		"-v a:/":                               "over / of the container",
		"--mount type=npipe,target=/x":         "unknown type",
		"--network host --network a":           "cannot be combined",
		"-p 80:90:100:110":                     "no IP address",
		"-p x":                                 "no port",
		"-p 80/quic":                           "unknown protocol",
		"--no-healthcheck --health-cmd x":      "conflicts",
		"--device null":                        "absolute",
		"--gpus none":                          "no number of GPUs",
		"--gpus count=1,device=0":              "exclude each other",
		"--gpus a=b":                           "not known",
		"--gpus driver=intel":                  "unknown device driver",
		"--gpus options=x":                     "no driver of devices has options",
		"--use-api-socket":                     "no API server",
		"--storage-opt size=x":                 "no size",
		"--log-driver gelf":                    "gelf-address",
		"--ulimit nofile":                      "invalid --ulimit",
		"--add-host db":                        "NAME:ADDRESS",
		"--device-read-bps /dev/sda":           "DEVICE:NUMBER",
		"--ip 300.1.1.1":                       "no IP address",
		"--log-opt novalue":                    "KEY=VALUE",
		"--health-cmd x --health-interval 1ns": "less than 1ms",
	} {
		_, err := parse(t, line)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: error %v, want %q", line, err, want)
		}
	}
}

func TestParsePublish(t *testing.T) {
	local := netip.MustParseAddr("127.0.0.1")
	six := netip.MustParseAddr("::1")
	for text, want := range map[string][]netns.Port{
		"80":                {{ContainerPort: 80, Protocol: "tcp"}},
		"8080:80":           {{HostPort: 8080, ContainerPort: 80, Protocol: "tcp"}},
		"8080:80/UDP":       {{HostPort: 8080, ContainerPort: 80, Protocol: "udp"}},
		"127.0.0.1:8080:80": {{HostIP: local, HostPort: 8080, ContainerPort: 80, Protocol: "tcp"}},
		"127.0.0.1::80":     {{HostIP: local, ContainerPort: 80, Protocol: "tcp"}},
		"[::1]:8080:80":     {{HostIP: six, HostPort: 8080, ContainerPort: 80, Protocol: "tcp"}},
		"::1:8080:80":       {{HostIP: six, HostPort: 8080, ContainerPort: 80, Protocol: "tcp"}},
		"8000-8001:80-81":   {{HostPort: 8000, ContainerPort: 80, Protocol: "tcp"}, {HostPort: 8001, ContainerPort: 81, Protocol: "tcp"}},
		"8000-8010:80":      {{HostPort: 8000, HostPortEnd: 8010, ContainerPort: 80, Protocol: "tcp"}},
		"0:80":              {{ContainerPort: 80, Protocol: "tcp"}},
		"65534-65535":       {{ContainerPort: 65534, Protocol: "tcp"}, {ContainerPort: 65535, Protocol: "tcp"}},
	} {
		got, err := ParsePublish(text)
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%s: %+v, %v; want %+v", text, got, err, want)
		}
	}
}
