package spec_test

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/stack-run/stack/compose/desired"
	"github.com/stack-run/stack/compose/load"
	"github.com/stack-run/stack/compose/spec"
	"github.com/stack-run/stack/engine"
	"github.com/stack-run/stack/engine/container"
	"github.com/stack-run/stack/healthcheck"
	"github.com/stack-run/stack/netns"
	"github.com/stack-run/stack/volumes"
)

var update = flag.Bool("update", false, "rewrite testdata")

// build loads and builds a project called shop, whose directory has the files.
func build(t *testing.T, yaml string, files ...string) (*spec.Desired, []spec.Warning, error) {
	t.Helper()
	return buildWith(t, spec.HostFacts{}, yaml, files...)
}

func buildWith(t *testing.T, host spec.HostFacts, yaml string, files ...string) (*spec.Desired, []spec.Warning, error) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "shop")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for i := 0; i+1 < len(files); i += 2 {
		if err := os.WriteFile(filepath.Join(dir, files[i]), []byte(files[i+1]), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "compose.yaml"), []byte(yaml), 0o644); err != nil {
		t.Fatal(err)
	}
	l, err := load.Load(context.Background(), load.Options{WorkingDir: dir, Environ: []string{"TOKEN=s3cret"}})
	if err != nil {
		t.Fatal(err)
	}
	host.Locate, host.StackVersion = l.Locate, "1.2.3"
	return spec.Build(l.Project, host)
}

func mustBuild(t *testing.T, yaml string, files ...string) *spec.Desired {
	t.Helper()
	d, _, err := build(t, yaml, files...)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func web(d *spec.Desired) *engine.Spec { return &d.Services["web"].Replicas[0].Spec }

func service(lines string) string {
	var b strings.Builder
	b.WriteString("services:\n  web:\n    image: nginx\n")
	for line := range strings.Lines(lines) {
		b.WriteString("    " + line)
	}
	return b.String() + "\n"
}

func TestNamesAndLabelsAreThoseOfDockerCompose(t *testing.T) {
	d := mustBuild(t, `services:
  web: {image: nginx, scale: 2, depends_on: [db], labels: {a: b}}
  db: {build: ., volumes: ["data:/data"], container_name: the-db}
volumes: {data: }
`)
	if got := d.Services["web"].Replicas[1].Spec.Name; got != "shop-web-2" {
		t.Errorf("container %s", got)
	}
	db := d.Services["db"]
	if got := db.Replicas[0].Spec; got.Name != "the-db" || got.Image != "shop-db" || !db.HasBuild {
		t.Errorf("container %s of image %s, build %v", got.Name, got.Image, db.HasBuild)
	}
	if got := d.Networks["default"].Spec; got.Name != "shop_default" || got.Labels["com.docker.compose.network"] != "default" {
		t.Errorf("network %+v", got)
	}
	if got := d.Volumes["data"].Spec; got.Name != "shop_data" || got.Labels["com.docker.compose.volume"] != "data" {
		t.Errorf("volume %+v", got)
	}
	labels := maps.Clone(d.Services["web"].Replicas[1].Spec.Labels)
	hash := labels["com.docker.compose.config-hash"]
	delete(labels, "com.docker.compose.config-hash")
	want := map[string]string{
		"a":                                       "b",
		"com.docker.compose.project":              "shop",
		"com.docker.compose.service":              "web",
		"com.docker.compose.container-number":     "2",
		"com.docker.compose.oneoff":               "False",
		"com.docker.compose.depends_on":           "db:service_started:false",
		"com.docker.compose.project.working_dir":  d.WorkingDir,
		"com.docker.compose.project.config_files": filepath.Join(d.WorkingDir, "compose.yaml"),
		"com.docker.compose.version":              "1.2.3",
	}
	if diff := cmp.Diff(want, labels); diff != "" {
		t.Errorf("labels (-want +got):\n%s", diff)
	}
	if hash != d.Services["web"].Replicas[1].Hash || !strings.HasPrefix(hash, "v1:") || len(hash) != 3+64 {
		t.Errorf("hash %s", hash)
	}
}

func TestTranslation(t *testing.T) {
	ignore := cmpopts.IgnoreFields(volumes.Mount{}, "Origin")
	tests := []struct {
		name string
		yaml string
		get  func(*engine.Spec) any
		want any
	}{
		{"command string", "command: echo \"a b\" c", func(s *engine.Spec) any { return s.Process.Command }, []string{"echo", "a b", "c"}},
		{"empty entrypoint", "entrypoint: []", func(s *engine.Spec) any { return s.Process.Entrypoint != nil && len(s.Process.Entrypoint) == 0 }, true},
		{"no entrypoint", "init: true", func(s *engine.Spec) any { return s.Process.Entrypoint == nil && s.Init }, true},
		{"environment", "environment: [B=2, A=1, NONE, TOKEN]", func(s *engine.Spec) any { return s.Process.Env }, []string{"A=1", "B=2", "NONE", "TOKEN=s3cret"}},
		{"ports", "ports: [\"8080-8081:80-81\", \"127.0.0.1:53:53/udp\", \"443\", \"9000-9005:90\", \"[::1]:1:1\"]", func(s *engine.Spec) any { return s.Network.Ports }, []netns.Port{
			{HostPort: 8080, ContainerPort: 80, Protocol: "tcp"}, {HostPort: 8081, ContainerPort: 81, Protocol: "tcp"},
			{HostIP: addr("127.0.0.1"), HostPort: 53, ContainerPort: 53, Protocol: "udp"},
			{ContainerPort: 443, Protocol: "tcp"}, {HostPort: 9000, HostPortEnd: 9005, ContainerPort: 90, Protocol: "tcp"},
			{HostIP: addr("::1"), HostPort: 1, ContainerPort: 1, Protocol: "tcp"}}},
		{"health", "healthcheck: {test: curl x, interval: 5s, retries: 2}", func(s *engine.Spec) any { return s.Health }, &healthcheck.Spec{Test: []string{"CMD-SHELL", "curl x"}, Interval: 5 * time.Second, Retries: 2}},
		{"health by HTTP", "x-healthcheck: {http: \":8080/healthz\"}\nhealthcheck: {interval: 5s}", func(s *engine.Spec) any { return s.Health }, &healthcheck.Spec{Test: []string{"HTTP", "http://localhost:8080/healthz"}, Interval: 5 * time.Second}},
		{"health by TCP", "x-healthcheck: {tcp: 5432}", func(s *engine.Spec) any { return s.Health }, &healthcheck.Spec{Test: []string{"TCP", "localhost:5432"}}},
		{"health by log", "x-healthcheck: {log: ready to}\nhealthcheck: {}", func(s *engine.Spec) any { return s.Health }, &healthcheck.Spec{Test: []string{"LOG", "ready to"}}},
		{"health by file, disabled", "x-healthcheck: {file: /run/ok}\nhealthcheck: {disable: true}", func(s *engine.Spec) any { return s.Health }, &healthcheck.Spec{Test: []string{"NONE"}}},
		{"on unhealthy", "x-on-unhealthy: restart", func(s *engine.Spec) any { return s.OnUnhealthy }, container.UnhealthyRestart},
		{"on unhealthy: none", "x-on-unhealthy: none", func(s *engine.Spec) any { return s.OnUnhealthy }, container.OnUnhealthy("")},
		{"no health", "healthcheck: {disable: true}", func(s *engine.Spec) any { return s.Health }, &healthcheck.Spec{Test: []string{"NONE"}}},
		{"restart", "restart: on-failure:3", func(s *engine.Spec) any { return s.Restart }, engine.Restart{Policy: "on-failure", MaxRetries: 3}},
		{"restart_policy", "restart: always\ndeploy: {restart_policy: {condition: on-failure, delay: 2s, max_attempts: 5, window: 10s}}", func(s *engine.Spec) any { return s.Restart }, engine.Restart{Policy: "on-failure", MaxRetries: 5, Delay: 2 * time.Second, Window: 10 * time.Second}},
		{"limits", "cpus: 0.1\nmem_limit: 64m\ndeploy: {resources: {limits: {pids: 10}, reservations: {memory: 32m}}}", func(s *engine.Spec) any { return s.Limits }, engine.Limits{NanoCPUs: 1e8, Memory: 64 << 20, MemoryReservation: 32 << 20, PIDs: 10}},
		{"capabilities", "cap_add: [NET_ADMIN, cap_sys_ptrace]\ncap_drop: [ALL]", func(s *engine.Spec) any { return append(s.Isolation.CapAdd, s.Isolation.CapDrop...) }, []string{"NET_ADMIN", "SYS_PTRACE", "ALL"}},
		{"ulimits", "ulimits: {nofile: {soft: 10, hard: 20}, nproc: 5, core: 0}", func(s *engine.Spec) any { return s.Isolation.Rlimits }, map[string]engine.Rlimit{"nofile": {Soft: 10, Hard: 20}, "nproc": {Soft: 5, Hard: 5}, "core": {}}},
		{"sysctls", "sysctls: {net.core.somaxconn: 1024, kernel.shmmax: 1}", func(s *engine.Spec) any { return []map[string]string{s.Isolation.Sysctls, s.Network.Sysctls} }, []map[string]string{{"kernel.shmmax": "1"}, {"net.core.somaxconn": "1024"}}},
		{"security", "security_opt: [\"no-new-privileges:true\", seccomp:unconfined, label=disable]", func(s *engine.Spec) any { return s.Isolation.SecurityOpt }, []string{"label=disable", "no-new-privileges", "seccomp=unconfined"}},
		{"devices", "devices: [\"/dev/null:/dev/x:r\", /dev/zero]", func(s *engine.Spec) any { return s.Isolation.Devices }, []engine.Device{{Source: "/dev/null", Target: "/dev/x", Permissions: "r"}, {Source: "/dev/zero", Target: "/dev/zero", Permissions: "rwm"}}},
		{"tmpfs", "tmpfs: [\"/a\", \"/b:size=1m,mode=700,noexec\"]", func(s *engine.Spec) any { return s.Mounts }, []volumes.Mount{{Type: "tmpfs", Target: "/a"}, {Type: "tmpfs", Target: "/b", Size: 1 << 20, Mode: 0o700, Options: []string{"noexec"}}}},
		{"mounts", "volumes: [\"/src:/dst:ro,z\", \"/anonymous\", {type: bind, source: /a, target: /b, bind: {create_host_path: false, propagation: rshared}}]", func(s *engine.Spec) any { return s.Mounts }, []volumes.Mount{
			{Type: "bind", Source: "/src", Target: "/dst", ReadOnly: true, CreateHostPath: true, SELinux: "z"},
			{Type: "volume", Target: "/anonymous"},
			{Type: "bind", Source: "/a", Target: "/b", Propagation: "rshared"}}},
		{"host network", "network_mode: host", func(s *engine.Spec) any { return s.Network.Mode }, "host"},
		{"stop", "stop_signal: SIGINT\nstop_grace_period: 1m", func(s *engine.Spec) any { return []any{s.StopSignal, s.StopGrace} }, []any{"SIGINT", time.Minute}},
		{"no grace", "stop_grace_period: 0s", func(s *engine.Spec) any { return s.StopGrace }, time.Duration(1)},
		{"hosts", "extra_hosts: [\"b=10.0.0.1\", \"a:host-gateway\"]", func(s *engine.Spec) any { return s.Network.ExtraHosts }, []netns.ExtraHost{{Name: "a", Addr: "host-gateway"}, {Name: "b", Addr: "10.0.0.1"}}},
		{"names", "hostname: h", func(s *engine.Spec) any { return s.Network.Names }, []string{"shop-web-1", "web", "h"}},
		{"logging", "logging: {driver: json-file, options: {max-size: 10m}}", func(s *engine.Spec) any { return s.Log }, engine.LogConfig{Driver: "json-file", Options: map[string]string{"max-size": "10m"}}},
		{"expose", "expose: [\"90\", \"91/udp\"]\nports: [\"80\"]", func(s *engine.Spec) any { return s.Expose }, []string{"80/tcp", "90/tcp", "91/udp"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			d := mustBuild(t, service(tt.yaml))
			if diff := cmp.Diff(tt.want, tt.get(web(d)), ignore, cmp.Comparer(func(a, b netipAddr) bool { return a == b })); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestNetworksAreInOrderOfPriority(t *testing.T) {
	d := mustBuild(t, `services:
  web:
    image: a
    mac_address: 02:42:ac:11:00:02
    networks:
      back: {aliases: [x], ipv4_address: 10.9.0.5, use_service_name_alias: false}
      front: {priority: 10, gw_priority: 1, interface_name: eth7}
networks:
  front:
  back: {internal: true, ipam: {config: [{subnet: 10.9.0.0/24, gateway: 10.9.0.1}]}}
`)
	want := []netns.Attachment{
		{Network: "shop_front", Aliases: []string{"web"}, MAC: "02:42:ac:11:00:02", Interface: "eth7", GatewayPrio: 1, Priority: 10},
		{Network: "shop_back", Aliases: []string{"x"}, IPv4: addr("10.9.0.5")},
	}
	if diff := cmp.Diff(want, web(d).Network.Networks, cmp.Comparer(func(a, b netipAddr) bool { return a == b })); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if names := web(d).Network.Names; !slices.Equal(names, []string{"shop-web-1"}) {
		t.Errorf("a network has use_service_name_alias off, but names are %v", names)
	}
	if n := d.Networks["back"].Spec; !n.Internal || len(n.Pools) != 1 || n.Pools[0].Subnet.String() != "10.9.0.0/24" {
		t.Errorf("network %+v", n)
	}
}

func TestReferencesToServices(t *testing.T) {
	d := mustBuild(t, `services:
  web: {image: a, network_mode: "service:vpn", pid: "service:vpn", volumes_from: ["db:ro", "container:x"], links: ["db:database"]}
  vpn: {image: b}
  db: {image: c, networks: [default, other]}
networks: {other: }
`)
	s := web(d)
	if s.Network.Mode != "service:vpn" || s.Isolation.PIDMode != "service:vpn" || !slices.Equal(s.VolumesFrom, []string{"service:db:ro", "container:x:rw"}) {
		t.Errorf("mode %q, pid %q, volumes from %v", s.Network.Mode, s.Isolation.PIDMode, s.VolumesFrom)
	}
	deps := d.Services["web"].DependsOn
	if !deps["vpn"].Implicit || !deps["db"].Implicit || deps["vpn"].Condition != "service_started" {
		t.Errorf("dependencies %+v", deps)
	}
	d = mustBuild(t, "services:\n  web: {image: a, links: [\"db:database\"]}\n  db: {image: b}\n")
	if got, want := web(d).Network.Synonyms, []netns.Synonym{{Name: "database", Of: "service:db"}}; !slices.Equal(got, want) {
		t.Errorf("synonyms of web: %v", got)
	}
	if got := d.Services["db"].Replicas[0].Spec.Network.Networks[0].Aliases; len(got) > 0 {
		t.Errorf("web's name for db is one for everybody: %v", got)
	}
}

func TestConfigsAndSecrets(t *testing.T) {
	d := mustBuild(t, `services:
  web:
    image: a
    configs: [inline, {source: file, target: /etc/x, uid: "101", mode: 0o640}]
    secrets: [token, {source: pw, target: password, mode: 0o400}]
configs: {inline: {content: "hello $$x"}, file: {file: ./x.conf}}
secrets: {token: {environment: TOKEN}, pw: {file: ./pw}}
`, "x.conf", "conf", "pw", "hunter2")
	got := map[string]volumes.Mount{}
	for _, m := range web(d).Mounts {
		if m.ContentDigest == "" || m.Type != volumes.TypeFile {
			t.Errorf("mount %+v", m)
		}
		m.ContentDigest = ""
		m.Origin = ""
		m.ContentFrom = strings.Replace(m.ContentFrom, d.WorkingDir, "DIR", 1)
		got[m.Target] = m
	}
	want := map[string]volumes.Mount{
		"/inline":               {Type: "file", Target: "/inline", ReadOnly: true, Mode: 0o444, Content: []byte("hello $x")},
		"/etc/x":                {Type: "file", Target: "/etc/x", ReadOnly: true, Mode: 0o440, UID: "101", Content: []byte("conf"), ContentFrom: "file:DIR/x.conf"},
		"/run/secrets/token":    {Type: "file", Target: "/run/secrets/token", ReadOnly: true, Mode: 0o444, Content: []byte("s3cret"), ContentFrom: "environment:TOKEN", Secret: true},
		"/run/secrets/password": {Type: "file", Target: "/run/secrets/password", ReadOnly: true, Mode: 0o400, Content: []byte("hunter2"), ContentFrom: "file:DIR/pw", Secret: true},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	stored := d.WithoutSecrets()
	data, err := json.Marshal(stored)
	if err != nil {
		t.Fatal(err)
	}
	for _, secret := range []string{"hunter2", "s3cret", "aHVudGVyMg", "czNjcmV0"} {
		if strings.Contains(string(data), secret) {
			t.Errorf("the stored definition has %q in it", secret)
		}
	}
	if got := spec.Hash(&stored.Services["web"].Replicas[0].Spec); got != d.Services["web"].Replicas[0].Hash {
		t.Error("without secrets the hash is another")
	}
}

func TestExternalSecretsAndConfigs(t *testing.T) {
	asked := 0
	host := spec.HostFacts{Stored: func(kind, name string) ([]byte, string, error) {
		asked++
		if name == "none" {
			return nil, "", errors.New("no such thing")
		}
		return []byte(kind + " " + name), "hmac:" + name, nil
	}}
	d, _, err := buildWith(t, host, `services:
  web:
    image: a
    configs: [{source: conf, target: /etc/x, uid: "101"}]
    secrets: [db, {source: named, target: other, gid: "7", mode: 0o400}]
  worker: {image: a, secrets: [db]}
configs: {conf: {external: true}}
secrets: {db: {external: true}, named: {external: true, name: "prod.${TOKEN}"}, unused: {external: true, name: none}}
`)
	if err != nil {
		t.Fatal(err)
	}
	mounts := web(d).Mounts
	for i := range mounts {
		mounts[i].Origin = ""
	}
	want := []volumes.Mount{
		{Type: "file", Target: "/etc/x", ReadOnly: true, Mode: 0o444, UID: "101", Content: []byte("config conf"), ContentDigest: "hmac:conf", ContentFrom: "store:config/conf"},
		{Type: "file", Target: "/run/secrets/db", ReadOnly: true, Mode: 0o444, Content: []byte("secret db"), ContentDigest: "hmac:db", ContentFrom: "store:secret/db", Secret: true},
		{Type: "file", Target: "/run/secrets/other", ReadOnly: true, Mode: 0o400, GID: "7", Content: []byte("secret prod.s3cret"), ContentDigest: "hmac:prod.s3cret", ContentFrom: "store:secret/prod.s3cret", Secret: true},
	}
	if diff := cmp.Diff(want, mounts); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if asked != 3 {
		t.Errorf("the store was asked %d times", asked)
	}
	for _, m := range d.WithoutSecrets().Services["web"].Replicas[0].Spec.Mounts {
		if m.Content != nil {
			t.Errorf("the content of %s would be stored", m.Target)
		}
	}
	_, _, err = buildWith(t, host, service("secrets: [a]")+"secrets:\n  a:\n    name: none\n    external: true\n")
	if err == nil || !strings.Contains(err.Error(), "compose.yaml:8: secrets.a.external: no such thing") {
		t.Errorf("got %v", err)
	}
}

func TestRollouts(t *testing.T) {
	const second = time.Second
	for _, tt := range []struct {
		yaml             string
		update, rollback *spec.Rollout
	}{
		{"deploy: {replicas: 2}", nil, nil},
		{"deploy: {update_config: {}}", &spec.Rollout{Parallelism: 1, Monitor: 5 * second, FailureAction: "pause"}, &spec.Rollout{Parallelism: 1, Monitor: 5 * second, FailureAction: "pause"}},
		{"healthcheck: {test: a}\ndeploy: {update_config: {parallelism: 0, delay: 3s, order: start-first, failure_action: rollback, max_failure_ratio: 0.5}, rollback_config: {parallelism: 2, monitor: 7s, failure_action: continue}}",
			&spec.Rollout{Delay: 3 * second, StartFirst: true, FailureAction: "rollback", MaxFailureRatio: 0.5}, &spec.Rollout{Parallelism: 2, Monitor: 7 * second, FailureAction: "continue"}},
	} {
		d, _, err := build(t, service(tt.yaml))
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff([]*spec.Rollout{tt.update, tt.rollback}, []*spec.Rollout{d.Services["web"].Update, d.Services["web"].Rollback}); diff != "" {
			t.Errorf("%s: %s", tt.yaml, diff)
		}
	}
	_, warnings, err := build(t, service("deploy: {rollback_config: {}}"))
	if err != nil || len(warnings) != 1 || warnings[0].Text != "has no effect without update_config" {
		t.Errorf("%v, %v", warnings, err)
	}
}

func TestDirectoryAsSecretHasNoOwner(t *testing.T) {
	_, warnings, err := build(t, service("secrets: [{source: a, uid: \"7\"}]")+"secrets: {a: {file: .}}\n")
	if err != nil || len(warnings) != 1 || !strings.Contains(warnings[0].String(), "compose.yaml:4: services.web.secrets[0]") || !strings.Contains(warnings[0].Text, "uid, gid and mode have no effect") {
		t.Errorf("%v, %v", warnings, err)
	}
}

func TestFaultsNamePlaceAndFix(t *testing.T) {
	tests := []struct{ name, yaml, want string }{
		{"gpu", service("gpus: [{driver: cdi, count: 1}]"), `compose.yaml:4: services.web.gpus[0]: driver cdi needs device_ids, such as vendor.com/class=name`},
		{"devices", service("deploy: {resources: {reservations: {devices: [{capabilities: [tpu]}]}}}"), `compose.yaml:4: services.web.deploy.resources.reservations.devices[0]: capabilities ["tpu"] name no kind of device that is known; use [gpu], or driver cdi with device_ids like vendor.com/class=name`},
		{"API socket", service("use_api_socket: true"), `compose.yaml:4: services.web.use_api_socket: there is no API server whose socket could be given to a container; remove use_api_socket, or run a Docker daemon and mount its socket with volumes`},
		{"size of files", service("storage_opt: {size: much}"), `compose.yaml:4: services.web.storage_opt: size "much" is no size; write it like 10g`},
		{"storage option", service("storage_opt: {sizes: 1g}"), `compose.yaml:4: services.web.storage_opt: unknown option "sizes"; the only one is size`},
		{"logging driver", service("logging: {driver: sylog}"), `compose.yaml:4: services.web.logging: unknown logging driver "sylog"; use "local", "json-file", "journald", "syslog", "fluentd", "gelf" or "none"`},
		{"logging option", service("logging: {driver: gelf, options: {gelf-address: \"http://h:1\"}}"), `compose.yaml:4: services.web.logging.options.gelf-address: cannot use logging option gelf-address: "http://h:1" is no address: it begins with none of udp://, tcp://; write it like udp://HOST:PORT`},
		{"external secret", service("secrets: [a]") + "secrets: {a: {external: true}}\n", `compose.yaml:5: secrets.a.external: there is no store of external secrets and configs here`},
		{"missing secret file", service("secrets: [a]") + "secrets:\n  a:\n    file: ./none\n", `compose.yaml:7: secrets.a.file: cannot read secret "a": file `},
		{"unset secret", service("secrets: [a]") + "secrets:\n  a:\n    environment: NONE\n", `compose.yaml:7: secrets.a.environment: cannot read secret "a": environment variable NONE is not set; set it, or use file`},
		{"overlay", service("command: a") + "networks:\n  default:\n    driver: overlay\n", `compose.yaml:7: networks.default.driver: network driver "overlay" is not supported; use bridge, macvlan, ipvlan, host or none`},
		{"failure action", service("deploy: {update_config: {failure_action: rollbak}}"), `compose.yaml:4: services.web.deploy.update_config.failure_action: invalid failure_action "rollbak"; use one of pause, continue, rollback`},
		{"failure action of a rollback", service("deploy: {update_config: {}, rollback_config: {failure_action: rollback}}"), `compose.yaml:4: services.web.deploy.rollback_config.failure_action: invalid failure_action "rollback"; use one of pause, continue`},
		{"ports of replicas", service("scale: 3\nports: [\"80-81:80\"]"), `compose.yaml:5: services.web.ports[0]: the host port range 80-81 has 2 ports for 3 replicas; make it larger`},
		{"restart", service("restart: allways"), `compose.yaml:4: services.web.restart: unknown restart policy "allways"; use no, always, on-failure[:N] or unless-stopped; did you mean "always"?`},
		{"static address without a subnet", service("networks: {default: {ipv4_address: 10.0.0.9}}"), `compose.yaml:4: services.web.networks.default.ipv4_address: network "default" has no subnet of its own for 10.0.0.9; give it one: networks.default.ipam.config with subnet`},
		{"static address outside", service("networks: {default: {ipv4_address: 10.0.0.9}}") + "networks:\n  default: {ipam: {config: [{subnet: 10.1.0.0/24}, {subnet: \"fd00::/64\"}]}}\n", `compose.yaml:4: services.web.networks.default.ipv4_address: 10.0.0.9 is outside of network "default", which has 10.1.0.0/24`},
		{"MAC address", service("networks: {default: {mac_address: \"zz\"}}"), `compose.yaml:4: services.web.networks.default: MAC address "zz" is not six bytes in hex`},
		{"stop signal", service("stop_signal: SIGNO"), `compose.yaml:4: services.web.stop_signal: unknown signal "SIGNO"; signal(7) lists them`},
		{"cpuset", service("cpuset: \"3-1\""), `compose.yaml:4: services.web.cpuset: "3-1" is no number or range; write it like 0-3,8`},
		{"logging driver", service("logging: {driver: sylog}"), `compose.yaml:4: services.web.logging: unknown logging driver "sylog"`},
		{"a host's sysctl", service("sysctls: {kernel.panic: 1}"), `compose.yaml:4: services.web.sysctls.kernel.panic: cannot set sysctl "kernel.panic": it is not namespaced`},
		{"expose", service("expose: [\"70000\"]"), `compose.yaml:4: services.web.expose[0]: "70000" is no port`},
		{"each replica has it", service("scale: 2\nstop_signal: SIGNO"), `compose.yaml:5: services.web.stop_signal: unknown signal "SIGNO"; signal(7) lists them`},
		{"ulimit", service("ulimits:\n  nofiles: 5"), `compose.yaml:5: services.web.ulimits.nofiles: unknown ulimit "nofiles"; did you mean "nofile"?`},
		{"seccomp", service("security_opt: [seccomp=./none.json]"), `compose.yaml:4: services.web.security_opt[0]: cannot read seccomp profile: `},
		{"runtime", service("runtime: kata"), `compose.yaml:4: services.web.runtime: runtime "kata" is not available`},
		{"port of a guest", service("network_mode: \"service:db\"\nports: [\"80:80\"]") + "  db: {image: a}\n", `compose.yaml:5: services.web.ports: a container with network_mode: service:db has no ports of its own`},
		{"container name", service("container_name: ../../x"), `compose.yaml:4: services.web.container_name: invalid container name "../../x": it must be`},
		{"capability", service("cap_drop: [ALL]\ncap_add: [CAP_NET_RAW, NET_ADMN]"), `compose.yaml:5: services.web.cap_add[1]: unknown capability "NET_ADMN"; capabilities(7) lists them; did you mean "NET_ADMIN"?`},
		{"memory", service("mem_limit: 1m"), `compose.yaml:4: services.web.mem_limit: a memory limit of 1048576 bytes is too small to start a process; use 6m or more`},
		{"health by two", service("x-healthcheck: {tcp: 1, file: /a}"), `compose.yaml:4: services.web.x-healthcheck.tcp: a service has one check: x-healthcheck has one of http,`},
		{"health by two tests", service("healthcheck: {test: x}\nx-healthcheck: {tcp: 1}"), `compose.yaml:5: services.web.x-healthcheck: a service has one check, and healthcheck.test is another;`},
		{"health by nothing", service("x-healthcheck: {}"), `compose.yaml:4: services.web.x-healthcheck: x-healthcheck has one of`},
		{"health by a list", service("x-healthcheck: [tcp]"), `compose.yaml:4: services.web.x-healthcheck: x-healthcheck has one of`},
		{"health by udp", service("x-healthcheck: {tpc: 1}"), `compose.yaml:4: services.web.x-healthcheck.tpc: unknown attribute "tpc"; did you mean "tcp"?`},
		{"health's times", service("x-healthcheck: {tcp: 1, interval: 5s}"), `compose.yaml:4: services.web.x-healthcheck.interval: interval is an attribute of healthcheck, and goes there`},
		{"health of another", service("x-healthcheck:\n  http: http://db/"), `compose.yaml:5: services.web.x-healthcheck.http: "http://db/": a check asks from inside of the container`},
		{"health by no log", service("x-healthcheck: {log: x}\nlogging: {driver: none}"), `compose.yaml:4: services.web.x-healthcheck.log: there is no log to look into`},
		{"on unhealthy", service("x-on-unhealthy: reboot"), `compose.yaml:4: services.web.x-on-unhealthy: x-on-unhealthy is restart, stop, kill or none, not reboot`},
		{"on unhealthy, never", service("x-on-unhealthy: stop\nhealthcheck: {disable: true}"), `compose.yaml:4: services.web.x-on-unhealthy: it would never happen`},
		{"health", service("healthcheck:\n  test: [curl, x]"), `compose.yaml:5: services.web.healthcheck.test: a list must begin with "CMD", "CMD-SHELL" or "NONE", not "curl"; did you mean ["CMD", "curl", "x"]?`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, _, err := build(t, tt.yaml)
			if err == nil || !strings.HasPrefix(err.Error(), tt.want) {
				t.Errorf("got:\n%v\nwant:\n%s", err, tt.want)
			}
		})
	}
}

const golden = `services:
  web:
    image: nginx:1.29
    command: [nginx, -g, daemon off;]
    environment: {A: "1", B: two}
    labels: {team: blue}
    ports: ["8080:80", "127.0.0.1:9000-9005:90/udp"]
    volumes: ["data:/data", "/srv:/srv:ro", {type: tmpfs, target: /t, tmpfs: {size: 1m}}]
    configs: [{source: c, target: /etc/c, uid: "5"}]
    networks: {front: {aliases: [www]}, back: }
    healthcheck: {test: [CMD, "true"], interval: 3s, start_period: 1s}
    restart: unless-stopped
    cap_add: [NET_ADMIN]
    security_opt: [no-new-privileges]
    ulimits: {nofile: 1024}
    sysctls: {net.ipv4.ip_forward: 1, kernel.msgmax: 65536}
    mem_limit: 128m
    cpus: 0.5
    stop_grace_period: 20s
    user: "1000:1000"
    working_dir: /srv
    logging: {options: {max-size: 1m}}
    extra_hosts: ["a=10.0.0.1"]
    depends_on: [db]
  db: {image: postgres}
networks: {front: , back: }
volumes: {data: }
configs: {c: {content: text}}
`

// The hash must not change between releases, or an upgrade of stack recreates
// every container. If this test fails, keep the old fields as they were (a new
// field of engine.Spec must be omitempty), or make a new HashVersion.
func TestHashIsTheSameInEachRelease(t *testing.T) {
	d := mustBuild(t, golden)
	got := d.Services["web"].Replicas[0].Hash
	const file = "testdata/hash-v1"
	if *update {
		if err := os.WriteFile(file, []byte(got+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if got != strings.TrimSpace(string(want)) {
		data, _ := json.MarshalIndent(desired.Comparable(web(d)), "", "  ")
		t.Errorf("got %s, want %s, over\n%s", got, want, data)
	}
}

func TestWhatChangesTheHash(t *testing.T) {
	hash := func(yaml string) string { return mustBuild(t, yaml).Services["web"].Replicas[0].Hash }
	base := hash(golden)
	same := map[string][2]string{
		"replicas":               {"    user:", "    scale: 1\n    user:"},
		"order of ports":         {`"8080:80", "127.0.0.1:9000-9005:90/udp"`, `"127.0.0.1:9000-9005:90/udp", "8080:80"`},
		"order of environment":   {`{A: "1", B: two}`, "[B=two, A=1]"},
		"a dependency":           {"    depends_on: [db]\n", ""},
		"a prefix":               {"[NET_ADMIN]", "[CAP_NET_ADMIN]"},
		"a profile":              {"    user:", "    pull_policy: always\n    user:"},
		"order of mounts":        {`"data:/data", "/srv:/srv:ro", `, `"/srv:/srv:ro", "data:/data", `},
		"develop":                {"    user:", "    develop: {watch: [{path: ., action: rebuild}]}\n    user:"},
		"an unrelated extension": {"    user:", "    x-note: a\n    user:"},
		"a hook":                 {"    user:", "    post_start: [{command: a}]\n    user:"},
	}
	for name, c := range same {
		if !strings.Contains(golden, c[0]) {
			t.Fatalf("%s: no %q", name, c[0])
		}
		if hash(strings.Replace(golden, c[0], c[1], 1)) != base {
			t.Errorf("%s changes the hash", name)
		}
	}
	other := map[string][2]string{
		"image":          {"nginx:1.29", "nginx:1.30"},
		"environment":    {"B: two", "B: three"},
		"config content": {"content: text", "content: other"},
		"a port":         {"8080:80", "8081:80"},
		"a network":      {", back: }\n    health", "}\n    health"},
		"an alias":       {"[www]", "[w3]"},
		"a label":        {"team: blue", "team: red"},
		"container_name": {"    user:", "    container_name: x\n    user:"},
		"health":         {"interval: 3s", "interval: 4s"},
	}
	for name, c := range other {
		if !strings.Contains(golden, c[0]) {
			t.Fatalf("%s: no %q", name, c[0])
		}
		if hash(strings.Replace(golden, c[0], c[1], 1)) == base {
			t.Errorf("%s does not change the hash", name)
		}
	}
	d := mustBuild(t, strings.Replace(service(""), "nginx", "nginx\n    scale: 3", 1))
	if r := d.Services["web"].Replicas; r[0].Hash != r[2].Hash {
		t.Error("replicas of one service have different hashes")
	}
	d.Services["web"].Replicas[0].Spec.ImageID = "sha256:1"
	if spec.Hash(web(d)) != d.Services["web"].Replicas[0].Hash {
		t.Error("the image's ID changes the hash")
	}
}

func TestOneOff(t *testing.T) {
	d := mustBuild(t, `services:
  web:
    image: nginx
    command: serve
    entrypoint: /entry
    restart: always
    ports: ["80:80"]
    environment: {A: "1", B: "2"}
    networks: {default: {aliases: [www]}}
    volumes: ["data:/data"]
    depends_on: [db]
  db: {image: pg}
volumes: {data: }
`)
	s, err := spec.OneOff(d, "web", spec.Overrides{Slug: "abc", Command: []string{"sh"}, Env: []string{"B=3", "TOKEN", "NOPE"}, User: "u", Volumes: []string{"data:/other:ro", "./x:/x"}, Publish: []string{"81:80"}, Labels: map[string]string{"l": "1"}, AutoRemove: true, TTY: true, Interactive: true})
	if err != nil {
		t.Fatal(err)
	}
	if s.Name != "shop-web-run-abc" || s.Restart.Policy != "" || !s.AutoRemove || s.Network.Key != "shop-web-run-abc" {
		t.Errorf("got %+v", s)
	}
	if !slices.Equal(s.Process.Command, []string{"sh"}) || !slices.Equal(s.Process.Entrypoint, []string{"/entry"}) || !slices.Equal(s.Process.Env, []string{"A=1", "B=3", "TOKEN=s3cret"}) {
		t.Errorf("process %+v", s.Process)
	}
	if s.Labels["com.docker.compose.oneoff"] != "True" || s.Labels["com.docker.compose.slug"] != "abc" || s.Labels["l"] != "1" || s.Labels["com.docker.compose.container-number"] != "" {
		t.Errorf("labels %v", s.Labels)
	}
	if len(s.Network.Ports) != 1 || s.Network.Ports[0].HostPort != 81 || !slices.Equal(s.Network.Names, []string{s.Name}) || s.Network.Networks[0].Aliases != nil {
		t.Errorf("network %+v", s.Network)
	}
	if len(s.Mounts) != 3 || s.Mounts[1].Source != "shop_data" || s.Mounts[2].Source != filepath.Join(d.WorkingDir, "x") {
		t.Errorf("mounts %+v", s.Mounts)
	}
	if len(web(d).Network.Ports) != 1 || web(d).Labels["l"] != "" || len(web(d).Mounts) != 1 {
		t.Error("the service's own spec was changed")
	}
	s, err = spec.OneOff(d, "web", spec.Overrides{Entrypoint: []string{}, ServicePorts: true, UseAliases: true})
	if err != nil {
		t.Fatal(err)
	}
	if len(s.Process.Command) != 0 || s.Process.Command == nil || s.Network.Ports[0].HostPort != 80 || !slices.Equal(s.Network.Names, []string{s.Name, "web"}) {
		t.Errorf("got %+v", s)
	}
	if _, err = spec.OneOff(d, "wbe", spec.Overrides{}); err == nil || err.Error() != `cannot run service "wbe": no such service; did you mean "web"?` {
		t.Errorf("got %v", err)
	}
}

func TestScale(t *testing.T) {
	l, err := load.Load(context.Background(), load.Options{WorkingDir: write(t, service("ports: [\"80-85:80\"]")), Environ: []string{}})
	if err != nil {
		t.Fatal(err)
	}
	p, err := spec.Scale(l.Project, map[string]int{"web": 3})
	if err != nil {
		t.Fatal(err)
	}
	d, _, err := spec.Build(p, spec.HostFacts{})
	if err != nil || len(d.Services["web"].Replicas) != 3 {
		t.Errorf("got %v, %v", d, err)
	}
	if _, err := spec.Scale(l.Project, map[string]int{"wb": 3}); err == nil || err.Error() != `cannot scale service "wb": no such service; did you mean "web"?` {
		t.Errorf("got %v", err)
	}
}

func write(t *testing.T, yaml string) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "compose.yaml"), []byte(yaml), 0o644); err != nil {
		t.Fatal(err)
	}
	return dir
}

// What one service fixes every other one leaves alone, and it is no reason to
// recreate those.
func TestFixedAddressesAreReservedForOthers(t *testing.T) {
	file := func(fixed string) string {
		return `
services:
  web: {image: x, networks: [n, m]}
  db: {image: x, networks: {n: {` + fixed + `}}}
  idle: {image: x, profiles: [p], networks: {n: {ipv4_address: 10.9.0.7}}}
networks:
  n: {ipam: {config: [{subnet: 10.9.0.0/24}, {subnet: "fd09::/64"}]}}
  m:
`
	}
	with, without := mustBuild(t, file(`ipv4_address: 10.9.0.5, ipv6_address: "fd09::5"`)), mustBuild(t, file(""))
	want := map[string][]netipAddr{"shop_n": {addr("10.9.0.5"), addr("10.9.0.7"), addr("fd09::5")}}
	if d := cmp.Diff(want, web(with).Network.Reserved, cmpopts.EquateComparable(netipAddr{})); d != "" {
		t.Errorf("web's (-want +got):\n%s", d)
	}
	if d := cmp.Diff(map[string][]netipAddr{"shop_n": {addr("10.9.0.7")}}, with.Services["db"].Replicas[0].Spec.Network.Reserved, cmpopts.EquateComparable(netipAddr{})); d != "" {
		t.Errorf("db's (-want +got):\n%s", d)
	}
	if spec.Hash(web(with)) != spec.Hash(web(without)) {
		t.Error("the hash of web depends on db's address")
	}
}
