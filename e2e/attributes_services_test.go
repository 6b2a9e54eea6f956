package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/stack-run/stack/e2e/conformance"
)

// subject is a container of the project app as a subject whose attributes have a prefix.
func (b *box) subject(t *testing.T, name, prefix string) *subject {
	t.Helper()
	return &subject{t: t, b: b, name: name, pid: b.look(t, name).State.Pid, prefix: prefix}
}

// What services have and steps before them do not.
func TestAttributesOfServices(t *testing.T) {
	b := newBox(t, "busybox:latest", "probe")
	b.compose(t, `
		name: app
		services:
			plain: {image: busybox, command: sleep 1000, container_name: chosen, networks: [front]}
			many: {image: busybox, command: sleep 1000, scale: 2}
			addressed:
				image: busybox
				command: sleep 1000
				networks:
					front:
						aliases: [nickname]
						ipv4_address: 198.18.7.9
						ipv6_address: "fd00:7::9"
						mac_address: "02:42:c0:00:07:09"
						interface_name: lan9
						link_local_ips: [169.254.8.9]
			hidden: {image: busybox, command: sleep 1000, networks: {front: {use_service_name_alias: false}}}
			machined: {image: busybox, command: sleep 1000, mac_address: "02:42:c0:00:07:0a", expose: ["1234"]}
			asker: {image: busybox, command: sleep 1000, networks: [front], links: ["addressed:linked"]}
			terminal: {image: busybox, command: sleep 1000, tty: true}
			lender: {image: busybox, command: sleep 1000, ipc: shareable}
			borrower: {image: busybox, command: sleep 1000, ipc: "service:lender", pid: "service:lender", network_mode: "service:lender"}
			reader: {image: busybox, command: [sh, -c, "read line; echo got $$line; sleep 1000"], stdin_open: true}
			web:
				image: probe
				command: [serve, "80", "81"]
				ports:
					- {target: 80, published: "8080", host_ip: 127.0.0.1, protocol: tcp, mode: host, name: web, app_protocol: http}
					- {target: 81, published: "8081-8083"}
			slow:
				image: busybox
				command: [sh, -c, "sleep 0.5; touch /well; exec sleep 1000"]
				healthcheck: {test: [CMD, test, -e, /well], interval: 1h, start_period: 1h, start_interval: 50ms}
		networks:
			front: {enable_ipv6: true, ipam: {config: [{subnet: 198.18.7.0/24}, {subnet: "fd00:7::/64"}]}}
	`)
	b.ok(t, "up", "--detach")
	of := func(name string) *subject { t.Helper(); return b.subject(t, name, "services.*.") }

	of("chosen").sees(b.look(t, "chosen").Name, "/chosen", "container_name")
	of("chosen").sees(b.ok(t, "inspect", "--format", "{{.Config.Image}}", "chosen"), "busybox\n", "image")
	of("app-many-2").sees(b.look(t, "app-many-2").State.Status, "running", "scale")

	addressed := of("app-addressed-1")
	link := strings.Join(strings.Fields(addressed.run("ip addr show lan9")), " ")
	for part, attribute := range map[string]string{
		"198.18.7.9/24": "ipv4_address", "fd00:7::9/64": "ipv6_address", "02:42:c0:00:07:09": "mac_address",
		"lan9": "interface_name", "169.254.8.9": "link_local_ips",
	} {
		addressed.seesIn(link, part, "networks.*."+attribute)
	}
	addressed.seesIn(of("app-machined-1").run("ip addr"), "02:42:c0:00:07:0a", "mac_address")
	addressed.seesIn(b.ok(t, "inspect", "--format", "{{json .Config.ExposedPorts}}", "app-machined-1"), `"1234/tcp"`, "expose")
	for name, attribute := range map[string]string{"nickname": "networks.*.aliases", "linked": "links"} {
		addressed.seesIn(of("app-asker-1").run("nslookup "+name), "Address: 198.18.7.9", attribute)
	}
	if r := b.stack(t, "exec", "-T", "asker", "nslookup", "hidden"); r.code != 0 {
		addressed.sees("unknown", "unknown", "networks.*.use_service_name_alias")
	} else {
		t.Errorf("the service's name is known: %v", r)
	}

	lender, borrower := of("app-lender-1"), of("app-borrower-1")
	lender.run("touch /dev/shm/lent")
	borrower.sees(borrower.run("ls /dev/shm"), "lent", "ipc")
	for kind, attribute := range map[string]string{"ipc": "ipc", "pid": "pid", "net": "network_mode"} {
		borrower.sees(borrower.namespace(kind), lender.namespace(kind), attribute)
	}
	terminal := of("app-terminal-1")
	stdin, err := os.Readlink(terminal.proc("fd/0"))
	must(t, err)
	terminal.seesIn(stdin, "/dev/pts/", "tty")
	attached := b.start(t, "attach", "reader")
	_, err = attached.stdin.Write([]byte("it\n"))
	must(t, err)
	attached.out.until(t, soon, "got it")
	terminal.sees("read", "read", "stdin_open")

	fetch(t, "http://127.0.0.1:8080/host")
	addressed.sees("answers", "answers", "ports", "ports.[].target", "ports.[].published", "ports.[].protocol", "ports.[].mode", "ports.[].name", "ports.[].app_protocol")
	if _, err := get("http://" + hostAddress(t) + ":8080/host"); err == nil {
		t.Error("a port of 127.0.0.1 answers elsewhere")
	} else {
		addressed.sees("refused", "refused", "ports.[].host_ip")
	}
	b.eventuallyHealth(t, "app-slow-1", "healthy")
	addressed.sees("healthy", "healthy", "healthcheck.start_interval")
	b.ok(t, "down", "--timeout", "0")

	b.compose(t, `
		name: app
		services:
			loud: {image: busybox, command: echo heard}
			quiet: {image: busybox, command: echo unheard, attach: false}
	`)
	if r := b.stack(t, "up"); r.code == 0 && strings.Contains(r.stdout, "heard") && !strings.Contains(r.stdout, "unheard") {
		conformance.Works(t, "services.*.attach")
	} else {
		t.Error(r)
	}
	b.ok(t, "down")
	b.nothingLeft(t, b.before)
}

// What jobs have and steps do not: names and addresses, ports, health, terminals.
func TestAttributesOfJobs(t *testing.T) {
	b := newBox(t, "busybox:latest", "probe")
	b.compose(t, `
		name: app
		services:
			asker: {image: busybox, command: sleep 1000, networks: [front], healthcheck: {test: [CMD, "true"], interval: 100ms}}
			absent: {image: busybox, command: sleep 1000, profiles: [never]}
		jobs:
			addressed:
				image: busybox
				command: sleep 1000
				triggers: {manual: true}
				depends_on: {absent: {condition: service_started, required: false}, asker: {condition: service_healthy, restart: true}}
				networks:
					front:
						aliases: [nickname]
						ipv4_address: 198.18.7.9
						ipv6_address: "fd00:7::9"
						mac_address: "02:42:c0:00:07:09"
						link_local_ips: [169.254.8.9]
			hidden: {image: busybox, command: sleep 1000, triggers: {manual: true}, networks: {front: {use_service_name_alias: false}}}
			machined: {image: busybox, command: sleep 1000, triggers: {manual: true}, mac_address: "02:42:c0:00:07:0a", expose: ["1234"]}
			terminal: {image: busybox, command: [sh, -c, "test -t 0 && exit 5"], triggers: {schedule: ["@every 1s"]}, tty: true}
			reader: {image: busybox, command: [sh, -c, "timeout 0.3 cat || exit 6"], triggers: {schedule: ["@every 1s"]}, stdin_open: true}
			told: {image: busybox, command: [sh, -c, "trap 'echo told; exit 3' USR1; echo on; while true; do sleep 0.05; done"], triggers: {manual: true}, stop_signal: SIGUSR1}
			deaf: {image: busybox, command: [sh, -c, "trap 'echo heard' USR1; echo on; while true; do sleep 0.05; done"], triggers: {manual: true}, stop_signal: SIGUSR1, stop_grace_period: 300ms}
			web:
				image: probe
				command: [serve, "80", "81"]
				triggers: {manual: true}
				ports:
					- {target: 80, published: "8080", host_ip: 127.0.0.1, protocol: tcp, mode: host, name: web, app_protocol: http}
			well: {image: busybox, command: [sh, -c, "sleep 0.5; touch /well; exec sleep 1000"], triggers: {manual: true}, healthcheck: {test: [CMD, test, -e, /well], interval: 1h, start_period: 1h, start_interval: 50ms}}
			ill: {image: busybox, command: sleep 1000, triggers: {manual: true}, healthcheck: {test: [CMD, sleep, "1000"], interval: 50ms, timeout: 100ms, retries: 2}}
			unasked: {image: busybox, command: sleep 1000, triggers: {manual: true}, healthcheck: {disable: true}}
		networks:
			front: {enable_ipv6: true, ipam: {config: [{subnet: 198.18.7.0/24}, {subnet: "fd00:7::/64"}]}}
	`)
	b.ok(t, "up", "--detach")
	run := func(name string, flags ...string) *subject {
		t.Helper()
		b.ok(t, append(append([]string{"run", "--detach", "--name", "app-" + name}, flags...), name)...)
		return b.subject(t, "app-"+name, "jobs.*.")
	}
	addressed := run("addressed", "--use-aliases")
	addressed.sees("runs", "runs", "depends_on.*.required", "depends_on.*.restart")
	link := strings.Join(strings.Fields(addressed.run("ip addr show eth0")), " ")
	for part, attribute := range map[string]string{
		"198.18.7.9/24": "ipv4_address", "fd00:7::9/64": "ipv6_address", "02:42:c0:00:07:09": "mac_address", "169.254.8.9": "link_local_ips",
	} {
		addressed.seesIn(link, part, "networks.*."+attribute)
	}
	asker := b.subject(t, "app-asker-1", "")
	asker.prefix = "jobs.*."
	asker.seesIn(asker.run("nslookup nickname"), "Address: 198.18.7.9", "networks.*.aliases")
	run("hidden", "--use-aliases")
	if r := b.stack(t, "exec", "-T", "asker", "nslookup", "hidden"); r.code != 0 {
		addressed.sees("unknown", "unknown", "networks.*.use_service_name_alias")
	} else {
		t.Errorf("the job's name is known: %v", r)
	}
	machined := run("machined")
	machined.seesIn(machined.run("ip addr"), "02:42:c0:00:07:0a", "mac_address")
	machined.seesIn(b.ok(t, "inspect", "--format", "{{json .Config.ExposedPorts}}", "app-machined"), `"1234/tcp"`, "expose")
	// With run, the command's own terminal and input count.
	for name, want := range map[string][2]string{"terminal": {"exited (5)", "tty"}, "reader": {"exited (6)", "stdin_open"}} {
		addressed.sees(b.eventuallyRan(t, name, 1)[0].Status, want[0], want[1])
	}
	for _, name := range []string{"told", "deaf"} {
		run(name)
		eventually(t, soon, func() error {
			if out := b.ok(t, "container", "logs", "app-"+name); out != "on\n" {
				return fmt.Errorf("%s says %q", name, out)
			}
			return nil
		})
	}
	start := time.Now()
	b.ok(t, "container", "stop", "app-deaf")
	took := time.Since(start)
	addressed.sees(fmt.Sprint(took >= 300*time.Millisecond, took < 8*time.Second), "true true", "stop_grace_period")
	b.ok(t, "container", "stop", "app-told")
	addressed.sees(b.ok(t, "container", "wait", "app-told"), "3\n", "stop_signal")

	run("web", "--service-ports")
	fetch(t, "http://127.0.0.1:8080/host")
	addressed.sees("answers", "answers", "ports", "ports.[].target", "ports.[].published", "ports.[].protocol", "ports.[].mode", "ports.[].name", "ports.[].app_protocol")
	if _, err := get("http://" + hostAddress(t) + ":8080/host"); err == nil {
		t.Error("a port of 127.0.0.1 answers elsewhere")
	} else {
		addressed.sees("refused", "refused", "ports.[].host_ip")
	}
	run("well")
	b.eventuallyHealth(t, "app-well", "healthy")
	addressed.sees("healthy", "healthy", "healthcheck", "healthcheck.test", "healthcheck.start_interval", "healthcheck.start_period", "healthcheck.interval")
	run("ill")
	b.eventuallyHealth(t, "app-ill", "unhealthy")
	addressed.sees("unhealthy", "unhealthy", "healthcheck.timeout", "healthcheck.retries")
	run("unasked")
	addressed.sees(b.ok(t, "inspect", "--format", "{{if .State.Health}}{{.State.Health.Status}}{{end}}", "app-unasked"), "\n", "healthcheck.disable")
	b.ok(t, "down", "--timeout", "0")
	b.nothingLeft(t, b.before)
}

// hostAddress is an address of this machine that is not the loopback's.
func hostAddress(t *testing.T) string {
	t.Helper()
	links, err := netlink.LinkList()
	must(t, err)
	for _, l := range links {
		list, err := netlink.AddrList(l, netlink.FAMILY_V4)
		must(t, err)
		for _, a := range list {
			if !a.IP.IsLoopback() {
				return a.IP.String()
			}
		}
	}
	t.Fatal("the machine has no address")
	return ""
}

// Commands that run in a container once it has started and before it stops, and
// programs that stand for services.
func TestAttributesOfHooks(t *testing.T) {
	b := newBox(t, "busybox:latest")
	must(t, os.Mkdir(filepath.Join(b.dir, "out"), 0o777))
	must(t, os.Chmod(filepath.Join(b.dir, "out"), 0o777))
	const hook = `[{command: [sh, -c, "(id -u; pwd; echo $$SAID; grep CapBnd /proc/self/status) >/out/%[1]s.user"], user: "7", working_dir: /tmp, environment: {SAID: it}},
					{command: [sh, -c, "grep CapEff /proc/self/status >/out/%[1]s.all"], privileged: true}]`
	b.compose(t, fmt.Sprintf(`
		name: app
		services:
			box:
				image: busybox
				command: sleep 1000
				volumes: ["./out:/out"]
				post_start: %s
				pre_stop: %s
	`, fmt.Sprintf(hook, "post_start"), fmt.Sprintf(hook, "pre_stop")))
	b.ok(t, "up", "--detach")
	b.ok(t, "down", "--timeout", "0")
	all, err := os.ReadFile("/proc/sys/kernel/cap_last_cap")
	must(t, err)
	for _, attribute := range []string{"post_start", "pre_stop"} {
		c := &subject{t: t, b: b, prefix: "services.*." + attribute}
		text, err := os.ReadFile(filepath.Join(b.dir, "out", attribute+".user"))
		must(t, err)
		lines := append(strings.Split(string(text), "\n"), "", "", "")
		c.sees(lines[0], "7", ".[].user")
		c.sees(lines[1], "/tmp", ".[].working_dir")
		c.sees(lines[2], "it", ".[].environment", ".[].environment.*", ".[].command", "")
		text, err = os.ReadFile(filepath.Join(b.dir, "out", attribute+".all"))
		must(t, err)
		var last, mask uint64
		fmt.Sscan(string(all), &last)
		fmt.Sscanf(strings.Join(strings.Fields(string(text)), " "), "CapEff: %x", &mask)
		c.sees(fmt.Sprint(mask>>unix.CAP_SYS_ADMIN&1, lines[3] != ""), "1 true", ".[].privileged")
	}

	program := b.write(t, "bin/maker", `#!/bin/sh
echo "$@" >>`+b.dir+`/out/calls
echo '{"type":"setenv","message":"URL=made"}'
`)
	must(t, os.Chmod(program, 0o755))
	b.compose(t, `
		name: app
		services:
			db: {provider: {type: maker, options: {size: small}}}
			web: {image: busybox, command: sleep 1000, depends_on: [db]}
	`)
	b = b.with("PATH=" + filepath.Dir(program) + ":" + os.Getenv("PATH"))
	b.ok(t, "up", "--detach")
	c := &subject{t: t, b: b, prefix: "services.*."}
	c.sees(b.ok(t, "exec", "-T", "web", "sh", "-c", "echo $DB_URL"), "made\n", "provider", "provider.type")
	calls, err := os.ReadFile(filepath.Join(b.dir, "out/calls"))
	must(t, err)
	c.seesIn(string(calls), "--size=small", "provider.options", "provider.options.*")
	b.ok(t, "down", "--timeout", "0")
	b.nothingLeft(t, b.before)
}

func TestAttributesOfDeployments(t *testing.T) {
	b := newBox(t, "busybox:latest")
	b.compose(t, `
		name: app
		services:
			limited:
				image: busybox
				command: sleep 1000
				deploy:
					mode: replicated
					endpoint_mode: dnsrr
					replicas: 2
					resources:
						limits: {cpus: "0.5", memory: 64m, pids: 23}
						reservations: {memory: 32m}
			failing:
				image: busybox
				command: [sh, -c, "cut -d' ' -f1 /proc/uptime >>/out/starts; exit 3"]
				volumes: ["./out:/out"]
				deploy: {restart_policy: {condition: on-failure, delay: 300ms, max_attempts: 2, window: 1h}}
			lucky:
				image: busybox
				command: [sh, -c, "cut -d' ' -f1 /proc/uptime >>/out/lucky; exit 0"]
				volumes: ["./out:/out"]
				deploy: {restart_policy: {condition: on-failure}}
	`)
	b.ok(t, "up", "--detach")
	c := b.subject(t, "app-limited-2", "services.*.deploy.")
	c.limit([]string{"67108864"}, []string{"memory.max", "memory.limit_in_bytes"}, "resources.limits.memory", "replicas", "mode")
	c.limit([]string{"50000 100000", "50000"}, []string{"cpu.max", "cpu.cfs_quota_us"}, "resources.limits.cpus")
	c.limit([]string{"23"}, []string{"pids.max"}, "resources.limits.pids")
	c.limit([]string{"33554432"}, []string{"memory.low", "memory.soft_limit_in_bytes"}, "resources.reservations.memory")
	c.sees(fmt.Sprint(strings.Count(c.run("nslookup limited"), "Name:")), "2", "endpoint_mode")

	eventually(t, soon, func() error {
		if i := b.look(t, "app-failing-1"); i.State.Status != "exited" || i.RestartCount != 2 {
			return fmt.Errorf("%s after %d restarts", i.State.Status, i.RestartCount)
		}
		return nil
	})
	c.sees("2", "2", "restart_policy.max_attempts", "restart_policy.window")
	starts, err := os.ReadFile(filepath.Join(b.dir, "out/starts"))
	must(t, err)
	var at [3]float64
	_, err = fmt.Sscan(string(starts), &at[0], &at[1], &at[2])
	must(t, err)
	c.sees(fmt.Sprint(at[1]-at[0] >= 0.3, at[2]-at[1] >= 0.3), "true true", "restart_policy.delay")
	lucky, err := os.ReadFile(filepath.Join(b.dir, "out/lucky"))
	must(t, err)
	c.sees(fmt.Sprint(strings.Count(string(lucky), "\n")), "1", "restart_policy.condition")
	b.ok(t, "down", "--timeout", "0")
	b.nothingLeft(t, b.before)
}

// What is outside of services: networks, volumes, configs and secrets.
func TestAttributesOfResources(t *testing.T) {
	b := newBox(t, "busybox:latest")
	for _, name := range []string{"theirs", "older"} {
		b.ok(t, "network", "create", name)
		b.ok(t, "volume", "create", name)
	}
	for _, kind := range []string{"secret", "configs"} {
		if r := b.input(t, kind+" of the store", kind, "create", "stored", "-"); r.code != 0 {
			t.Fatal(r)
		}
	}
	b.write(t, "filed", "filed\n")
	must(t, os.Mkdir(filepath.Join(b.dir, "bound"), 0o755))
	b.write(t, "bound/file", "")
	b = b.with("FROM_ENV=varied")
	b.compose(t, `
		name: app
		services:
			box:
				image: busybox
				command: sleep 1000
				networks: [chosen, six, outer, joinable, old]
				volumes: ["bound:/bound", "named:/named", "outer:/theirs", "old:/old"]
				configs: [filed, varied, written, outer, {source: old, target: /old-config}]
				secrets: [filed, varied, outer, old]
		networks:
			chosen:
				name: chosen-net
				driver: bridge
				labels: {told: net}
				driver_opts: {com.docker.network.bridge.name: e2e-chosen, com.docker.network.driver.mtu: "1400"}
				ipam:
					driver: default
					config: [{subnet: 198.18.9.0/24, gateway: 198.18.9.254, ip_range: 198.18.9.8/30, aux_addresses: {a: 198.18.9.8, b: 198.18.9.9, c: 198.18.9.10}}]
			six: {enable_ipv4: false, enable_ipv6: true}
			outer: {external: true, name: theirs}
			old: {external: {name: older}}
			joinable: {attachable: true}
		volumes:
			bound: {driver: local, driver_opts: {type: none, o: bind, device: DIR/bound}}
			named: {name: chosen-volume, labels: {told: volume}}
			outer: {external: true, name: theirs}
			old: {external: {name: older}}
		configs:
			filed: {file: ./filed}
			varied: {environment: FROM_ENV}
			written: {content: "written ${FROM_ENV}"}
			outer: {external: true, name: stored}
			old: {external: {name: stored}}
		secrets:
			filed: {file: ./filed}
			varied: {environment: FROM_ENV}
			outer: {external: true, name: stored}
			old: {external: {name: stored}}
	`)
	text, err := os.ReadFile(filepath.Join(b.dir, "compose.yaml"))
	must(t, err)
	b.write(t, "compose.yaml", strings.ReplaceAll(string(text), "DIR", b.dir))
	b.ok(t, "up", "--detach")

	net := b.subject(t, "app-box-1", "networks.*")
	bridge, err := netlink.LinkByName("e2e-chosen")
	must(t, err)
	net.sees(fmt.Sprint(bridge.Type(), bridge.Attrs().MTU), "bridge1400", ".driver", ".driver_opts", ".driver_opts.*")
	addresses, err := netlink.AddrList(bridge, netlink.FAMILY_V4)
	must(t, err)
	net.sees(addresses[0].IPNet.String(), "198.18.9.254/24", ".ipam.config.[].subnet", ".ipam.config.[].gateway", ".ipam.driver")
	net.seesIn(net.run("ip addr"), "inet 198.18.9.11/24", ".ipam.config.[].ip_range", ".ipam.config.[].aux_addresses", ".ipam.config.[].aux_addresses.*")
	net.sees(b.ok(t, "network", "ls", "--format", "{{.Name}}", "--filter", "label=told=net"), "chosen-net\n", ".name", ".labels", ".labels.*")
	networks := b.look(t, "app-box-1").NetworkSettings.Networks
	six := networks["app_six"]
	net.sees(fmt.Sprintf("%q %v", six.IPAddress, six.GlobalIPv6Address != ""), `"" true`, ".enable_ipv4", ".enable_ipv6")
	if _, ok := networks["theirs"]; ok {
		net.sees("joined", "joined", ".external")
	} else {
		t.Errorf("%v", networks)
	}
	if _, ok := networks["older"]; !ok {
		t.Errorf("an external network is not found by its name of the old form: %v", networks)
	}
	b.ok(t, "container", "run", "--rm", "--network", "app_joinable", "busybox", "true")
	net.sees("attached", "attached", ".attachable")

	vol := b.subject(t, "app-box-1", "volumes.*")
	vol.sees(vol.run("ls /bound"), "file", ".driver", ".driver_opts", ".driver_opts.*")
	vol.sees(b.ok(t, "volume", "ls", "--quiet", "--filter", "label=told=volume"), "chosen-volume\n", ".name", ".labels", ".labels.*")
	vol.sees(vol.volume("/theirs"), "theirs", ".external")
	vol.sees(vol.volume("/old"), "older")

	config, secret := b.subject(t, "app-box-1", "configs.*"), b.subject(t, "app-box-1", "secrets.*")
	config.sees(config.run("cat /filed"), "filed", ".file")
	config.sees(config.run("cat /varied"), "varied", ".environment")
	config.sees(config.run("cat /written"), "written varied", ".content")
	config.sees(config.run("cat /outer"), "configs of the store", ".external", ".name")
	config.sees(config.run("cat /old-config"), "configs of the store")
	secret.sees(secret.run("cat /run/secrets/filed"), "filed", ".file")
	secret.sees(secret.run("cat /run/secrets/varied"), "varied", ".environment")
	secret.sees(secret.run("cat /run/secrets/outer"), "secret of the store", ".external", ".name")
	secret.sees(secret.run("cat /run/secrets/old"), "secret of the store")
	b.ok(t, "down", "--volumes", "--timeout", "0")
	b.ok(t, "network", "rm", "theirs", "older")
	b.ok(t, "volume", "rm", "theirs", "older")
}

func TestAttributesOfBuilds(t *testing.T) {
	for _, kind := range []string{"services", "jobs"} {
		t.Run(kind, func(t *testing.T) { attributesOfBuilds(t, kind) })
	}
}

// attributesOfBuilds builds the images of services, or of jobs, in the same ways.
func attributesOfBuilds(t *testing.T, kind string) {
	b := newBuildBox(t)
	b.write(t, "ctx/file", "in the context\n")
	b.write(t, "more/other", "in another\n")
	b.write(t, "secret", "hidden")
	b.write(t, "ctx/Other", unindent(`
		FROM busybox AS first
		ARG WHO
		COPY file /file
		COPY --from=more other /other
		RUN echo $WHO >/who
		RUN grep somewhere /etc/hosts >/hosts
		RUN ip link | grep -c . >/links
		RUN df -k /dev/shm | tail -1 | tr -s ' ' | cut -d' ' -f2 >/shm
		RUN ulimit -Sn >/soft; ulimit -Hn >/hard
		RUN --mount=type=secret,id=deep cat /run/secrets/deep >/deep
		RUN --mount=type=ssh test -S $SSH_AUTH_SOCK && echo there >/agent
		RUN --security=insecure grep CapEff /proc/self/status >/caps
		FROM first
		RUN echo second >/second
	`))
	socket := b.agent(t)
	b = b.with("SSH_AUTH_SOCK=" + socket)
	b.compose(t, `
		name: app
		services:
			box:
				image: built:1
				command: sleep 1000
				build:
					context: ctx
					dockerfile: Other
					target: first
					args: {WHO: me}
					additional_contexts: {more: ./more}
					extra_hosts: {somewhere: 192.0.2.9}
					network: none
					shm_size: 8m
					ulimits: {nofile: {soft: 1000, hard: 2000}}
					secrets: [{source: hidden, target: deep}]
					ssh: {default: }
					privileged: true
					entitlements: [security.insecure]
					labels: {told: me}
					tags: ["built:2"]
					platforms: [linux/ARCH]
					provenance: mode=min
					cache_to: ["type=local,dest=cache"]
			plain:
				image: plain:1
				command: sleep 1000
				build:
					dockerfile_inline: |
						FROM busybox AS one
						RUN cat /proc/sys/kernel/random/uuid >/first
						FROM one AS two
						RUN cat /proc/sys/kernel/random/uuid >/second
					NOCACHE
		secrets: {hidden: {file: ./secret}}
	`)
	text, err := os.ReadFile(filepath.Join(b.dir, "compose.yaml"))
	must(t, err)
	file := func(more string) {
		named := strings.NewReplacer("ARCH", runtime.GOARCH, "NOCACHE", more).Replace(string(text))
		if kind == "jobs" {
			named = strings.NewReplacer("services:\n", "jobs:\n", "command:", "triggers: {manual: true}\n    command:").Replace(named)
		}
		b.write(t, "compose.yaml", named)
	}
	file("")
	prefix := kind + ".*.build."
	// subject is a container of what was built.
	subject := func(name string) *subject {
		if kind == "services" {
			return b.subject(t, "app-"+name+"-1", prefix)
		}
		b.ok(t, "run", "--detach", "--name", "app-"+name, name)
		return b.subject(t, "app-"+name, prefix)
	}
	if kind == "services" {
		b.ok(t, "build")
		b.ok(t, "up", "--detach")
	} else {
		b.ok(t, "build", "box", "plain")
	}
	c := subject("box")
	for command, want := range map[string][]string{
		"cat /file":                    {"in the context", "context", "dockerfile"},
		"cat /other":                   {"in another", "additional_contexts", "additional_contexts.*"},
		"cat /who":                     {"me", "args", "args.*"},
		"cut -f1 /hosts":               {"192.0.2.9", "extra_hosts", "extra_hosts.*"},
		"cat /links":                   {"2", "network"},
		"cat /shm":                     {"8192", "shm_size"},
		"cat /soft":                    {"1000", "ulimits.*.soft"},
		"cat /hard":                    {"2000", "ulimits.*.hard"},
		"cat /deep":                    {"hidden", "secrets", "secrets.[].source", "secrets.[].target"},
		"cat /agent":                   {"there", "ssh", "ssh.*"},
		"ls /second 2>/dev/null; true": {"", "target"},
	} {
		c.sees(c.run(command), want[0], want[1:]...)
	}
	c.sees(fmt.Sprint(strings.Contains(c.run("cat /caps"), "00000000a80425fb")), "false", "privileged", "entitlements")
	c.sees(b.ok(t, "image", "inspect", "--format", "{{.Config.Labels.told}}", "built:2"), "me\n", "labels", "labels.*", "tags")
	c.seesIn(b.ok(t, "image", "inspect", "--format", "{{.Architecture}}", "built:1"), runtime.GOARCH, "platforms")
	if _, err := os.Stat(filepath.Join(b.dir, "cache/index.json")); err == nil {
		c.sees("written", "written", "cache_to")
	} else {
		t.Error(err)
	}
	plain := subject("plain")
	ids := func() [2]string {
		return [2]string{b.ok(t, "run", "--rm", "-T", "plain", "cat", "/first"), b.ok(t, "run", "--rm", "-T", "plain", "cat", "/second")}
	}
	before := ids()
	for more, changed := range map[string]string{"no_cache: true": "true true", "no_cache_filter: [two]": "false true"} {
		file(more)
		b.ok(t, "build", "plain")
		now := ids()
		plain.sees(fmt.Sprint(now[0] != before[0], now[1] != before[1]), changed, strings.SplitN(more, ":", 2)[0], "dockerfile_inline")
		before = now
	}
	// What was built elsewhere is not built again.
	file("cache_to: [\"type=local,dest=kept,mode=max\"]")
	b.ok(t, "build", "plain")
	before = ids()
	b.ok(t, "builder", "prune", "--all", "--force")
	file("cache_from: [\"type=local,src=kept\"]")
	b.ok(t, "build", "plain")
	plain.sees(fmt.Sprint(ids() == before), "true", "cache_from")
	// There is no registry here, which these would ask.
	for more, asked := range map[string]string{"pull: true": "registry-1.docker.io", "sbom: true": "buildkit-syft-scanner"} {
		file(more)
		plain.seesIn(b.fails(t, "build", "plain").stderr, asked, strings.SplitN(more, ":", 2)[0])
	}
	file("secrets: [{source: hidden, uid: \"5\", gid: \"6\", mode: 0400}]")
	for _, part := range []string{"uid", "gid", "mode"} {
		if r := b.stack(t, "build", "plain"); !strings.Contains(r.stderr, kind+".plain.build.secrets[0]") || !strings.Contains(r.stderr, part) {
			t.Errorf("nothing is said of %s: %v", part, r)
		}
		conformance.Warns(t, prefix+"secrets.[]."+part)
	}
	archive := filepath.Join(b.dir, "built.tar")
	b.ok(t, "image", "save", "--output", archive, "built:1")
	saved, err := os.ReadFile(archive)
	must(t, err)
	c.seesIn(string(saved), "attestation-manifest", "provenance")
	b.ok(t, "builder", "prune", "--all", "--force")
	b.ok(t, "down", "--timeout", "0")
	b.awaitBuilder(t)
}

// Who pulls when.
func TestAttributesOfPulls(t *testing.T) {
	b := newBox(t)
	shelf := newShelf(t)
	shelf.put(t, "box", "1", "one")
	shelf.put(t, "box", "2", "two")
	pulled := func(attributes string) bool {
		t.Helper()
		b.write(t, "compose.yaml", strings.ReplaceAll("name: app\nservices:\n  box: {image: HOST/box:1, command: sleep 1000, "+attributes+"}\n", "HOST", shelf.host()))
		before := shelf.manifests()
		b.ok(t, "up", "--detach", "--force-recreate", "--timeout", "0")
		return shelf.manifests() > before
	}
	if !pulled("pull_policy: missing") {
		t.Error("an image that is missing was not pulled")
	}
	for attributes, want := range map[string]bool{
		"pull_policy: missing": false, "pull_policy: never": false, "pull_policy: every_1h": false, "pull_policy: always": true,
		"pre_start: [{command: [\"true\"], pull_policy: never}]":                                             false,
		"pull_policy: never, pre_start: [{command: [\"true\"], image: \"HOST/box:2\", pull_policy: always}]": true,
	} {
		if got := pulled(attributes); got != want {
			t.Errorf("%s: it was pulled: %v", attributes, got)
			continue
		}
		path := "services.*.pull_policy"
		if strings.Contains(attributes, "pre_start") {
			path = "services.*.pre_start.[].pull_policy"
		}
		conformance.Works(t, path)
	}
	b.write(t, "compose.yaml", strings.ReplaceAll("name: app\njobs:\n  box: {image: HOST/box:1, pull_policy: always, command: \"true\", triggers: {manual: true}}\n", "HOST", shelf.host()))
	before := shelf.manifests()
	b.ok(t, "run", "--rm", "box")
	if shelf.manifests() == before {
		t.Error("the image of a job was not pulled")
	} else {
		conformance.Works(t, "jobs.*.pull_policy")
	}
	b.ok(t, "down", "--timeout", "0")
}

// How many containers are replaced at a time, and what their failures lead to.
func TestAttributesOfRollouts(t *testing.T) {
	b := newBox(t, "busybox:latest")
	must(t, os.Mkdir(filepath.Join(b.dir, "marks"), 0o777))
	// up brings version what, whose first container, of the marks, fails.
	up := func(version, command, deploy string) result {
		t.Helper()
		b.compose(t, fmt.Sprintf(`
			name: app
			services:
				box:
					image: busybox
					command: [sh, -c, %q]
					environment: {V: %s}
					stop_signal: KILL
					volumes: ["./marks:/marks"]
					deploy: {replicas: 4, %s}
		`, command, version, deploy))
		return b.stack(t, "up", "--detach")
	}
	const fine, oneFails = "exec sleep 1000", "mkdir /marks/$$V && exit 3; exec sleep 1000"
	// running are the start times of the containers of a version, sorted.
	running := func(version string) []time.Time {
		t.Helper()
		var out []time.Time
		for _, p := range b.ps(t) {
			if i := b.look(t, p.ID); i.State.Running && strings.Contains(string(environ(i.State.Pid)), "\x00V="+version+"\x00") {
				out = append(out, i.State.StartedAt)
			}
		}
		slices.SortFunc(out, time.Time.Compare)
		return out
	}
	c := &subject{t: t, b: b, prefix: "services.*.deploy."}
	gaps := func(times []time.Time, longer time.Duration) string {
		var out []string
		for i := range times[1:] {
			out = append(out, fmt.Sprint(times[i+1].Sub(times[i]) >= longer))
		}
		return strings.Join(out, " ")
	}

	up("one", fine, "update_config: {}")
	if r := up("two", fine, "update_config: {parallelism: 2, delay: 1s, monitor: 50ms}"); r.code != 0 {
		t.Fatal(r)
	}
	c.sees(gaps(running("two"), time.Second), "false true false", "update_config.parallelism", "update_config.delay")
	start := time.Now()
	up("three", oneFails, "update_config: {monitor: 500ms, failure_action: pause, max_failure_ratio: 0.3}")
	c.sees(fmt.Sprint(len(running("three"))), "3", "update_config.max_failure_ratio")
	c.sees(fmt.Sprint(time.Since(start) < 4*5*time.Second), "true", "update_config.monitor")
	up("four", fine, "update_config: {monitor: 50ms, parallelism: 0}")
	up("five", oneFails, "update_config: {monitor: 500ms, failure_action: pause}")
	c.sees(fmt.Sprint(len(running("five")), len(running("four"))), "0 4", "update_config.failure_action")

	// The fourth container of the bad version fails. Of those that come back, one does
	// in its place; then the others are rolled back, the first of which fails.
	const fourthFails = "for i in 1 2 3; do mkdir /marks/$$V-$$i && exec sleep 1000; done; exit 3"
	const comesBack = "if test -e /once; then mkdir /marks/$$V-a || { mkdir /marks/$$V-b && exit 3; }; fi; touch /once; exec sleep 1000"
	for _, tt := range []struct {
		version, rollback string
		back              int
		attribute         string
	}{
		{"seven", "failure_action: continue", 3, "failure_action"},
		{"eight", "failure_action: pause, max_failure_ratio: 0.4", 3, "max_failure_ratio"},
	} {
		up(tt.version, comesBack, "update_config: {monitor: 50ms, parallelism: 0}")
		start := time.Now()
		up("bad"+tt.version, fourthFails, "update_config: {monitor: 400ms, failure_action: rollback}, rollback_config: {monitor: 500ms, delay: 250ms, parallelism: 1, "+tt.rollback+"}")
		back := running(tt.version)
		c.sees(fmt.Sprint(len(back)), fmt.Sprint(tt.back), "rollback_config."+tt.attribute)
		if len(back) > 1 {
			c.sees(gaps(back, 250*time.Millisecond), "true true", "rollback_config.delay", "rollback_config.parallelism")
			c.sees(fmt.Sprint(time.Since(start) < 3*5*time.Second), "true", "rollback_config.monitor")
		}
	}
	b.ok(t, "down", "--timeout", "0")
}

// environ is the environment of a process, with a zero at both ends.
func environ(pid int) []byte {
	text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid))
	return append([]byte{0}, text...)
}

// A step before a service is stopped as it says.
func TestAttributesOfStoppedSteps(t *testing.T) {
	b := newBox(t, "busybox:latest")
	must(t, os.Mkdir(filepath.Join(b.dir, "out"), 0o777))
	b.compose(t, `
		name: app
		services:
			told:
				image: busybox
				command: sleep 1000
				pre_start: [{command: [sh, -c, "trap 'touch /out/told; exit 3' USR1; touch /out/one; while true; do sleep 0.05; done"], stop_signal: SIGUSR1, volumes: ["./out:/out"]}]
			deaf:
				image: busybox
				command: sleep 1000
				pre_start: [{command: [sh, -c, "trap 'touch /out/heard' USR1; touch /out/two; while true; do sleep 0.05; done"], stop_signal: SIGUSR1, stop_grace_period: 300ms, volumes: ["./out:/out"]}]
	`)
	up := b.start(t, "up", "--detach")
	for _, file := range []string{"one", "two"} {
		eventually(t, soon, func() error { _, err := os.Stat(filepath.Join(b.dir, "out", file)); return err })
	}
	c := &subject{t: t, b: b, prefix: "services.*.pre_start.[]."}
	start := time.Now()
	b.ok(t, "container", "stop", "app-deaf-pre_start-0")
	took := time.Since(start)
	c.sees(fmt.Sprint(took >= 300*time.Millisecond, took < 8*time.Second), "true true", "stop_grace_period")
	b.stack(t, "container", "stop", "app-told-pre_start-0") // which may have gone with the other
	if code := up.wait(t, limit); code == 0 {
		t.Error("up does not fail with its steps")
	}
	c.sees(fmt.Sprint(exists(filepath.Join(b.dir, "out/told"))), "true", "stop_signal")
	b.ok(t, "down", "--timeout", "0")
	b.nothingLeft(t, b.before)
}

// What cannot be had is refused, or told, with its path: of services, and of jobs.
func TestAttributesThatAreRefused(t *testing.T) {
	b := newBox(t, "busybox:latest")
	for _, tt := range []struct {
		yaml, says string
		note       func(testing.TB, ...string)
		jobs       bool // have it, too
		paths      []string
	}{
		{"gpus: [{driver: made-up}]", "gpus[0]: ", conformance.Errors, true, []string{"gpus.[].driver"}},
		{"gpus: [{count: 0, options: {a: b}}]", "gpus[0].options: has no effect", conformance.Warns, true, []string{"gpus.[].options", "gpus.[].options.*"}},
		{"deploy: {resources: {reservations: {devices: [{capabilities: [gpu], count: 0, options: {a: b}}]}}}", "deploy.resources.reservations.devices[0].options: has no effect", conformance.Warns, false,
			[]string{"deploy.resources.reservations.devices.[].options", "deploy.resources.reservations.devices.[].options.*"}},
		{"use_api_socket: true", "use_api_socket: there is no API server", conformance.Errors, true, []string{"use_api_socket"}},
		{"storage_opt: {made: up}", "storage_opt: unknown option", conformance.Errors, true, []string{"storage_opt"}},
		{"logging: {driver: nosuch}", "logging: unknown logging driver", conformance.Errors, true, []string{"logging.driver"}},
		{"volumes: [{type: bind, source: ., target: /a, bind: {selinux: q}}]", "volumes[0].bind.selinux: ", conformance.Errors, true, []string{"volumes.[].bind.selinux"}},
		{"volumes: [{type: volume, source: v, target: /a, volume: {subpath: ../..}}]", `volumes[0].volume.subpath: "../.." leads out`, conformance.Errors, true, []string{"volumes.[].volume.subpath"}},
		{"cpu_rt_runtime: 95000", "", conformance.Errors, true, []string{"cpu_rt_runtime"}},
		{"pre_start: [{command: [\"true\"], cpu_rt_runtime: 95000}]", "", conformance.Errors, false, []string{"pre_start.[].cpu_rt_runtime"}},
		{"pre_start: [{command: [\"true\"], gpus: [{count: 0, options: {a: b}}]}]", "pre_start[0].gpus[0].options: has no effect", conformance.Warns, false,
			[]string{"pre_start.[].gpus.[].options", "pre_start.[].gpus.[].options.*"}},
		{"pre_start: [{command: [\"true\"], storage_opt: {made: up}}]", "pre_start[0].storage_opt: unknown option", conformance.Errors, false, []string{"pre_start.[].storage_opt"}},
		{"pull_policy: sometimes", "pull_policy: invalid pull_policy", conformance.Errors, true, []string{"pull_policy"}},
		{"runtime: kata", "runtime: ", conformance.Errors, true, []string{"runtime"}},
		{"deploy: {mode: replicated-job}", "deploy.mode: mode replicated-job is not acted on", conformance.Warns, false, []string{"deploy.mode"}},
		{"deploy: {endpoint_mode: vip}", "deploy.endpoint_mode: vip is not acted on", conformance.Warns, false, []string{"deploy.endpoint_mode"}},
	} {
		kinds := []string{"services"}
		if tt.jobs {
			kinds = append(kinds, "jobs")
		}
		for _, kind := range kinds {
			t.Run(kind+" "+tt.yaml, func(t *testing.T) {
				const below = "volumes: {v: {}}\n"
				verb, more := []string{"up", "--detach"}, ""
				if kind == "jobs" {
					verb, more = []string{"run", "--rm", "-T", "box"}, "    triggers: {manual: true}\n"
				}
				b.write(t, "compose.yaml", "name: app\n"+kind+":\n  box:\n    image: busybox\n    command: \"true\"\n    "+tt.yaml+"\n"+more+below)
				r := b.stack(t, verb...)
				paths := make([]string, len(tt.paths))
				for i, p := range tt.paths {
					paths[i] = kind + ".*." + p
				}
				// A budget of real time has to come from the machine.
				if realtime := tt.says == ""; realtime && r.code != 0 && strings.Contains(r.stderr, "real-time budget") {
					tt.note(t, paths...)
				} else if realtime {
					conformance.Unseen(t, paths...)
				} else if says := "compose.yaml:6: " + kind + ".box." + tt.says; strings.Count(r.stderr, says) != 1 {
					t.Errorf("it does not say once %q: %v", says, r)
				} else {
					tt.note(t, paths...)
				}
				b.write(t, "compose.yaml", "name: app\nservices: {box: {image: busybox}}\n"+below)
				b.ok(t, "down", "--timeout", "0", "--volumes")
			})
		}
	}
	b.nothingLeft(t, b.before)
}
