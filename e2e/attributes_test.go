package e2e

import (
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/stack-run/stack/e2e/conformance"
)

// A wish is some attributes of a container and how to see that they came true. The
// same containers run as services and as steps of pre_start.
type wish struct {
	service string
	yaml    string // below the service, or the step
	see     func(c *subject)
}

// A subject is a container that is looked at.
type subject struct {
	t      *testing.T
	b      *box
	name   string
	pid    int
	prefix string // of its attributes' paths in the schema
	said   string // what up said
}

// sees compares, and notes whose effect this is.
func (c *subject) sees(got, want string, attributes ...string) {
	c.t.Helper()
	if got != want {
		c.t.Errorf("%s: %v: %q, want %q", c.name, attributes, got, want)
		return
	}
	conformance.Works(c.t, c.paths(attributes)...)
}

// seesAny is for what reads differently on different machines.
func (c *subject) seesAny(got string, want []string, attributes ...string) {
	c.t.Helper()
	if slices.Contains(want, got) {
		c.sees(got, got, attributes...)
		return
	}
	c.t.Errorf("%s: %v: %q, want one of %q", c.name, attributes, got, want)
}

// seesIn looks for a part.
func (c *subject) seesIn(got, want string, attributes ...string) {
	c.t.Helper()
	if strings.Contains(got, want) {
		got = want
	}
	c.sees(got, want, attributes...)
}

func (c *subject) paths(attributes []string) []string {
	out := make([]string, len(attributes))
	for i, a := range attributes {
		out[i] = c.prefix + a
	}
	return out
}

// run runs a command in the container, without the spaces around what it prints.
func (c *subject) run(script string) string {
	c.t.Helper()
	return strings.TrimSpace(c.b.ok(c.t, "container", "exec", c.name, "sh", "-c", script))
}

func (c *subject) proc(file string) string { return fmt.Sprintf("/proc/%d/%s", c.pid, file) }

func (c *subject) read(file string) string {
	c.t.Helper()
	text, err := os.ReadFile(c.proc(file))
	must(c.t, err)
	return strings.TrimSpace(string(text))
}

// status is a field of /proc/PID/status.
func (c *subject) status(field string) string {
	c.t.Helper()
	for line := range strings.Lines(c.read("status")) {
		if value, ok := strings.CutPrefix(line, field+":"); ok {
			return strings.Join(strings.Fields(value), " ")
		}
	}
	c.t.Fatalf("%s has no %s", c.proc("status"), field)
	return ""
}

// has says whether a capability is in effect.
func (c *subject) has(capability uint) string {
	c.t.Helper()
	bits, err := hex.DecodeString(c.status("CapEff"))
	must(c.t, err)
	var all uint64
	for _, b := range bits {
		all = all<<8 | uint64(b)
	}
	return fmt.Sprint(all>>capability&1 == 1)
}

// mount is the line of mountinfo for what is mounted at a target, "" if nothing is.
func (c *subject) mount(target string) string {
	c.t.Helper()
	found := ""
	for line := range strings.Lines(c.read("mountinfo")) {
		if f := strings.Fields(line); f[4] == target {
			found = strings.TrimSpace(line)
		}
	}
	return found
}

// stat is "mode uid gid" of a file in the container.
func (c *subject) stat(file string) string {
	c.t.Helper()
	var st unix.Stat_t
	must(c.t, unix.Stat(c.proc("root"+file), &st))
	return fmt.Sprintf("%o %d %d", st.Mode&0o7777, st.Uid, st.Gid)
}

// namespace is "ours" for a namespace that is the test's.
func (c *subject) namespace(kind string) string {
	c.t.Helper()
	theirs, err := os.Readlink(c.proc("ns/" + kind))
	must(c.t, err)
	ours, err := os.Readlink("/proc/self/ns/" + kind)
	must(c.t, err)
	if theirs == ours {
		return "ours"
	}
	return theirs
}

// limit is a value of the container's control group. Where the machine has no such
// file, nothing can be seen of the attributes.
func (c *subject) limit(want []string, files []string, attributes ...string) {
	c.t.Helper()
	if value, ok := findLimit(c.pid, files...); ok {
		c.seesAny(value, want, attributes...)
		return
	}
	conformance.Unseen(c.t, c.paths(attributes)...)
}

// disk is a block device of the machine, as "7:0".
func disk(t *testing.T) string {
	t.Helper()
	list, err := filepath.Glob("/sys/block/*/dev")
	must(t, err)
	if len(list) == 0 {
		t.Fatal("the machine has no block device")
	}
	text, err := os.ReadFile(list[0])
	must(t, err)
	return strings.TrimSpace(string(text))
}

// node makes a device file in the working directory.
func (b *box) node(t *testing.T, name string, kind uint32, numbers string) {
	t.Helper()
	var major, minor uint32
	_, err := fmt.Sscanf(numbers, "%d:%d", &major, &minor)
	must(t, err)
	must(t, unix.Mknod(filepath.Join(b.dir, name), kind|0o666, int(unix.Mkdev(major, minor))))
}

func wishes(t *testing.T, disk string) []wish {
	return []wish{
		{
			service: "limits",
			yaml: `
				mem_limit: 64m
				memswap_limit: 96m
				mem_reservation: 32m
				mem_swappiness: 7
				oom_kill_disable: true
				oom_score_adj: 321
				pids_limit: 23
				cpus: 0.5
				cpu_shares: 512
				cpuset: "0"
				ulimits: {nofile: {soft: 1000, hard: 2000}, core: 7}
			`,
			see: func(c *subject) {
				c.limit([]string{"67108864"}, []string{"memory.max", "memory.limit_in_bytes"}, "mem_limit")
				c.limit([]string{"100663296", "33554432"}, []string{"memory.memsw.limit_in_bytes", "memory.swap.max"}, "memswap_limit")
				c.limit([]string{"33554432"}, []string{"memory.low", "memory.soft_limit_in_bytes"}, "mem_reservation")
				c.limit([]string{"7"}, []string{"memory.swappiness"}, "mem_swappiness")
				if text, ok := findLimit(c.pid, "memory.oom_control"); ok {
					c.seesIn(text, "oom_kill_disable 1", "oom_kill_disable")
				} else {
					conformance.Unseen(c.t, c.prefix+"oom_kill_disable")
				}
				c.sees(c.read("oom_score_adj"), "321", "oom_score_adj")
				c.limit([]string{"23"}, []string{"pids.max"}, "pids_limit")
				c.limit([]string{"50000 100000", "50000"}, []string{"cpu.max", "cpu.cfs_quota_us"}, "cpus")
				c.limit([]string{"20", "59", "512"}, []string{"cpu.weight", "cpu.shares"}, "cpu_shares")
				c.limit([]string{"0"}, []string{"cpuset.cpus"}, "cpuset")
				for limit, attributes := range map[string][]string{
					"Max open files 1000 2000": {"ulimits.*.soft", "ulimits.*.hard"},
					"Max core file size 7 7":   {"ulimits.*"},
				} {
					c.seesIn(strings.Join(strings.Fields(c.read("limits")), " "), limit, attributes...)
				}
			},
		},
		{
			service: "quota",
			yaml: `
				cpu_period: 50000
				cpu_quota: 20000
			`,
			see: func(c *subject) {
				if value, ok := findLimit(c.pid, "cpu.max"); ok {
					c.sees(value, "20000 50000", "cpu_period", "cpu_quota")
					return
				}
				c.limit([]string{"50000"}, []string{"cpu.cfs_period_us"}, "cpu_period")
				c.limit([]string{"20000"}, []string{"cpu.cfs_quota_us"}, "cpu_quota")
			},
		},
		{
			service: "throttled",
			yaml: `
				blkio_config:
					device_read_bps: [{path: DIR/disk, rate: 1mb}]
					device_write_bps: [{path: DIR/disk, rate: 2mb}]
					device_read_iops: [{path: DIR/disk, rate: 100}]
					device_write_iops: [{path: DIR/disk, rate: 200}]
			`,
			see: func(c *subject) {
				for _, l := range []struct{ attribute, v1, v2, value string }{
					{"device_read_bps", "blkio.throttle.read_bps_device", "rbps=", "1048576"},
					{"device_write_bps", "blkio.throttle.write_bps_device", "wbps=", "2097152"},
					{"device_read_iops", "blkio.throttle.read_iops_device", "riops=", "100"},
					{"device_write_iops", "blkio.throttle.write_iops_device", "wiops=", "200"},
				} {
					attributes := []string{"blkio_config." + l.attribute + ".[].path", "blkio_config." + l.attribute + ".[].rate"}
					if text, ok := findLimit(c.pid, "io.max"); ok {
						c.seesIn(" "+text+" ", " "+l.v2+l.value+" ", attributes...)
						continue
					}
					c.limit([]string{disk + " " + l.value}, []string{l.v1}, attributes...)
				}
			},
		},
		{
			service: "weighed",
			yaml: `
				blkio_config: {weight: 300, weight_device: [{path: DIR/disk, weight: 400}]}
				cpu_rt_period: 500000
			`,
			see: func(c *subject) {
				attributes := []string{"blkio_config.weight", "blkio_config.weight_device", "blkio_config.weight_device.[].path", "blkio_config.weight_device.[].weight"}
				if strings.Contains(c.said, "do not support an I/O weight") {
					conformance.Warns(c.t, c.paths(attributes)...)
				} else if _, ok := findLimit(c.pid, "io.weight", "io.bfq.weight", "blkio.bfq.weight"); ok {
					conformance.Unseen(c.t, c.paths(attributes)...)
				} else {
					c.t.Errorf("the machine has no I/O weight, which is not said: %s", c.said)
				}
				c.limit([]string{"500000"}, []string{"cpu.rt_period_us"}, "cpu_rt_period")
			},
		},
		{
			service: "process",
			yaml: `
				user: "1234:4321"
				group_add: ["77", "78"]
				umask: "0027"
				working_dir: /tmp
				environment: {SAID: "a b"}
				env_file:
					- {path: ./raw.env, format: raw}
					- {path: ./none.env, required: false}
					- ./plain.env
				init: true
				hostname: myself
				domainname: example.org
				labels: {said: here}
				label_file: ./labels.env
				annotations: {said: there}
				runtime: runc
				platform: linux/amd64
			`,
			see: func(c *subject) {
				c.sees(c.status("Uid")+" "+c.status("Gid"), "1234 1234 1234 1234 4321 4321 4321 4321", "user")
				c.sees(c.status("Groups"), "77 78 4321", "group_add")
				c.sees(c.status("Umask"), "0027", "umask")
				cwd, err := os.Readlink(c.proc("cwd"))
				must(c.t, err)
				c.sees(cwd, "/tmp", "working_dir")
				env := "\x00" + c.read("environ") + "\x00"
				c.seesIn(env, "\x00SAID=a b\x00", "environment", "environment.*")
				c.seesIn(env, "\x00RAW='q'\x00", "env_file.[].path", "env_file.[].format", "env_file.[].required")
				c.seesIn(env, "\x00PLAIN=q\x00", "env_file")
				// The command is a child of the init.
				comm, err := os.ReadFile(fmt.Sprintf("/proc/%s/comm", strings.Fields(c.read(fmt.Sprintf("task/%d/children", c.pid)))[0]))
				must(c.t, err)
				c.sees(string(comm), "sh\n", "init")
				c.sees(c.run("hostname; cat /proc/sys/kernel/domainname"), "myself\nexample.org", "hostname", "domainname")
				for filter, attributes := range map[string][]string{"label=said=here": {"labels", "labels.*"}, "label=filed=too": {"label_file"}} {
					c.seesIn(c.b.ok(c.t, "container", "ls", "--format", "{{.Names}}", "--filter", filter), c.name+"\n", attributes...)
				}
				c.seesIn(c.b.ok(c.t, "inspect", "--format", "{{json .HostConfig.Annotations}}", c.name), `"said":"there"`, "annotations", "annotations.*")
				c.sees(c.b.ok(c.t, "inspect", "--format", "{{.State.Status}}", c.name), "running\n", "runtime", "platform")
			},
		},
		{
			service: "entered",
			yaml: `
				entrypoint: [sh, -c, ": </gate/open; exec sleep $$0"]
				command: ["87651"]
			`,
			see: func(c *subject) {
				args := strings.Split(strings.TrimRight(c.read("cmdline"), "\x00"), "\x00")
				c.sees(args[0]+" … "+args[len(args)-1], "sh … 87651", "entrypoint", "command")
			},
		},
		{
			service: "named",
			yaml: `
				dns: [192.0.2.53, ` + lanV4 + `]
				dns_opt: [ndots:7]
				dns_search: [corp.example]
				extra_hosts: {somewhere: 192.0.2.9}
				networks: {chosen: {interface_name: lan6}}
			`,
			see: func(c *subject) {
				resolv := c.run("cat /etc/resolv.conf")
				c.seesIn(resolv, "ndots:7", "dns_opt")
				c.seesIn(resolv, "search corp.example", "dns_search")
				c.seesIn(c.run("nslookup example.test"), "Address: "+lanV4, "dns")
				c.seesIn(strings.Join(strings.Fields(c.run("cat /etc/hosts")), " "), "192.0.2.9 somewhere", "extra_hosts", "extra_hosts.*")
				c.seesIn(c.run("ls /sys/class/net"), "lan6", "networks.*.interface_name")
				c.seesIn(c.b.ok(c.t, "inspect", "--format", "{{range $n, $v := .NetworkSettings.Networks}}{{$n}}{{end}}", c.name), "app_chosen", "networks", "networks.*")
			},
		},
		{
			service: "able",
			yaml: `
				cap_add: [SYS_TIME]
				cap_drop: [CHOWN]
				security_opt: [no-new-privileges, seccomp=unconfined]
				sysctls: {net.ipv4.ip_default_ttl: "77", kernel.msgmax: 4096}
				read_only: true
				shm_size: 8m
				tmpfs: ["/scratch:size=64k,mode=700"]
				cgroup: private
				uts: ""
			`,
			see: func(c *subject) {
				c.sees(c.has(unix.CAP_SYS_TIME), "true", "cap_add")
				c.sees(c.has(unix.CAP_CHOWN), "false", "cap_drop")
				c.sees(c.status("NoNewPrivs")+c.status("Seccomp"), "10", "security_opt")
				c.sees(c.run("cat /proc/sys/net/ipv4/ip_default_ttl /proc/sys/kernel/msgmax"), "77\n4096", "sysctls", "sysctls.*")
				c.seesIn(" "+strings.Fields(c.mount("/"))[5]+",", " ro,", "read_only")
				var shm unix.Statfs_t
				must(c.t, unix.Statfs(c.proc("root/dev/shm"), &shm))
				c.sees(fmt.Sprint(int64(shm.Blocks)*shm.Bsize), "8388608", "shm_size")
				c.seesIn(c.mount("/scratch"), "size=64k", "tmpfs")
				if c.namespace("cgroup") == "ours" {
					c.t.Error("the control group namespace is ours")
				}
			},
		},
		{
			service: "mighty",
			yaml: `
				privileged: true
				pid: host
				ipc: host
				uts: host
				cgroup: host
				userns_mode: host
				network_mode: host
				cgroup_parent: e2e-conformance
			`,
			see: func(c *subject) {
				c.sees(c.has(unix.CAP_SYS_ADMIN), "true", "privileged")
				for kind, attribute := range map[string]string{"pid": "pid", "ipc": "ipc", "uts": "uts", "cgroup": "cgroup", "user": "userns_mode", "net": "network_mode"} {
					c.sees(c.namespace(kind), "ours", attribute)
				}
				c.run("touch /dev/shm/" + c.name)
				c.sees(fmt.Sprint(exists("/dev/shm/"+c.name)), "true", "ipc")
				must(c.t, os.Remove("/dev/shm/"+c.name))
				c.seesIn(c.read("cgroup"), "/e2e-conformance/", "cgroup_parent")
			},
		},
		{
			service: "devices",
			yaml: `
				devices:
					- DIR/one:/dev/one:r
					- {source: DIR/two, target: /dev/two, permissions: rwm}
				device_cgroup_rules: ["c 240:* rm"]
			`,
			see: func(c *subject) {
				for name, number := range map[string]string{"one": "241 1", "two": "241 2"} {
					var st unix.Stat_t
					must(c.t, unix.Stat(c.proc("root/dev/"+name), &st))
					c.sees(fmt.Sprint(unix.Major(st.Rdev), unix.Minor(st.Rdev)), number, "devices", "devices.[].source", "devices.[].target")
				}
				// What may be opened has no driver, which is another error.
				const open = `
					mknod /other c 240 1
					for d in "</dev/one" ">/dev/one" ">/dev/two" "</other" ">/other"; do
						(eval ": $d") 2>&1 | grep -q "not permitted" && echo -n "no " || echo -n "yes "
					done`
				c.sees(c.run(open), "yes no yes yes no", "devices.[].permissions", "device_cgroup_rules")
			},
		},
		{
			service: "files",
			yaml: `
				configs:
					- {source: told, target: /etc/told, uid: "11", gid: "12", mode: 0440}
					- plain
				secrets:
					- {source: hidden, target: deep, uid: "13", gid: "14", mode: 0400}
					- bare
			`,
			see: func(c *subject) {
				c.sees(c.stat("/etc/told"), "440 11 12", "configs.[].uid", "configs.[].gid", "configs.[].mode")
				c.sees(c.stat("/run/secrets/deep"), "400 13 14", "secrets.[].uid", "secrets.[].gid", "secrets.[].mode")
				for file, want := range map[string]string{"/etc/told": "told", "/plain": "plain"} {
					c.sees(c.run("cat "+file), want, "configs", "configs.[].source", "configs.[].target")
				}
				for file, want := range map[string]string{"/run/secrets/deep": "hidden", "/run/secrets/bare": "bare"} {
					c.sees(c.run("cat "+file), want, "secrets", "secrets.[].source", "secrets.[].target")
				}
			},
		},
		{
			service: "mounted",
			yaml: `
				volumes:
					- ./shown:/short:ro
					- {type: bind, source: ./shared, target: /shared, bind: {propagation: rshared}}
					- {type: bind, source: ./made, target: /made, bind: {create_host_path: true}}
					- {type: bind, source: ./outer, target: /flat, bind: {recursive: disabled}}
					- {type: volume, source: filled, target: /sub, volume: {subpath: a/b}, read_only: true}
					- {type: volume, source: empty, target: /bin/none, volume: {nocopy: true}}
					- {type: volume, target: /unnamed, volume: {labels: {told: me}}}
					- {type: tmpfs, target: /scratch, tmpfs: {size: 65536, mode: 0o750}}
					- {type: bind, source: ./shown, target: /labelled, bind: {selinux: z}}
					- {type: image, source: busybox, target: /image, image: {subpath: bin}}
			`,
			see: func(c *subject) {
				c.seesIn(" "+strings.Fields(c.mount("/short"))[5]+",", " ro,", "volumes")
				c.sees(c.run("cat /shared/file"), "shared", "volumes.[].type", "volumes.[].source", "volumes.[].target")
				c.seesIn(c.mount("/shared"), " shared:", "volumes.[].bind.propagation", "volumes.[].bind")
				if _, err := os.Stat(filepath.Join(c.b.dir, "made")); err == nil {
					c.sees("made", "made", "volumes.[].bind.create_host_path")
				}
				// With SELinux it lets containers read; without, they may anyway.
				c.sees(c.run("cat /labelled/file"), "shown", "volumes.[].bind.selinux")
				c.sees(c.run("ls /flat/inner"), "", "volumes.[].bind.recursive")
				c.sees(c.run("ls /sub"), "deep", "volumes.[].volume.subpath", "volumes.[].volume")
				c.seesIn(" "+strings.Fields(c.mount("/sub"))[5]+",", " ro,", "volumes.[].read_only")
				c.sees(c.run("ls /bin/none"), "", "volumes.[].volume.nocopy")
				c.sees(c.b.ok(c.t, "volume", "inspect", "--format", "{{.Labels.told}}", c.volume("/unnamed")), "me\n", "volumes.[].volume.labels", "volumes.[].volume.labels.*")
				c.seesIn(c.mount("/scratch"), "size=64k", "volumes.[].tmpfs.size", "volumes.[].tmpfs")
				c.sees(c.stat("/scratch"), "750 0 0", "volumes.[].tmpfs.mode")
				c.sees(c.run("test -e /image/busybox && echo there"), "there", "volumes.[].image", "volumes.[].image.subpath")
			},
		},
		{
			service: "borrower",
			yaml: `
				volumes_from: ["lender:ro"]
			`,
			see: func(c *subject) {
				c.sees(c.run("cat /lent/file"), "shown", "volumes_from")
			},
		},
		{
			service: "attached",
			yaml: `
				networks:
					chosen: {gw_priority: 1, driver_opts: {com.docker.network.endpoint.ifname: lan7}}
					other: {priority: 1000}
			`,
			see: func(c *subject) {
				c.seesIn(c.run("ip route show default"), "dev lan7", "networks.*.gw_priority")
				c.seesIn(c.run("ls /sys/class/net"), "lan7", "networks.*.driver_opts", "networks.*.driver_opts.*")
				c.seesIn(c.run("ip -4 addr show eth0"), "198.18.6.", "networks.*.priority")
			},
		},
		{
			service: "quiet",
			yaml: `
				logging: {driver: none}
			`,
			see: func(c *subject) {
				if r := c.b.stack(c.t, "container", "logs", c.name); r.code != 0 {
					c.sees("refused", "refused", "logging", "logging.driver")
				}
			},
		},
		{
			service: "brief",
			yaml: `
				logging: {driver: json-file, options: {max-size: 1k, max-file: "2"}}
				entrypoint: [sh, -c, "seq 2000; : </gate/open; exec sleep 1000"]
			`,
			see: func(c *subject) {
				eventually(c.t, soon, func() error {
					if out := c.b.stack(c.t, "container", "logs", c.name).stdout; !strings.Contains(out, "2000\n") || strings.HasPrefix(out, "1\n") {
						return fmt.Errorf("it has %d bytes of logs", len(out))
					}
					return nil
				})
				c.sees("short", "short", "logging.options", "logging.options.*")
			},
		},
	}
}

// volume is the name of the volume that is mounted at a target.
func (c *subject) volume(target string) string {
	c.t.Helper()
	for _, m := range c.b.look(c.t, c.name).Mounts {
		if m.Destination == target {
			return m.Name
		}
	}
	c.t.Fatalf("%s has nothing at %s", c.name, target)
	return ""
}

// TestAttributesOfContainers has one container for a group of attributes, and looks
// at each while it runs: first as services, then as steps before services.
func TestAttributesOfContainers(t *testing.T) {
	newLAN(t)
	b := newBox(t, "busybox:latest")
	numbers := disk(t)
	b.node(t, "disk", unix.S_IFBLK, numbers)
	b.node(t, "one", unix.S_IFCHR, "241:1")
	b.node(t, "two", unix.S_IFCHR, "241:2")
	for file, text := range map[string]string{
		"raw.env": "RAW='q'\n", "plain.env": "PLAIN='q'\n", "labels.env": "filed=too\n",
		"shown/file": "shown\n", "hidden.txt": "hidden", "told.txt": "told",
	} {
		b.write(t, file, text)
	}
	// What is below another must be a mount of its own, and a shared one be one.
	for _, dir := range []string{"outer/inner", "shared"} {
		dir = filepath.Join(b.dir, dir)
		must(t, os.MkdirAll(dir, 0o755))
		must(t, unix.Mount("none", dir, "tmpfs", 0, ""))
		must(t, unix.Mount("", dir, "", unix.MS_SHARED, ""))
		must(t, os.WriteFile(filepath.Join(dir, "file"), []byte("shared\n"), 0o644))
		t.Cleanup(func() { unix.Unmount(dir, unix.MNT_DETACH) })
	}
	b.before = snap(t, b)
	b = b.with("BARE=bare")
	const below = `
		volumes: {filled: {}, empty: {}}
		networks:
			chosen: {ipam: {config: [{subnet: 198.18.5.0/24}]}}
			other: {ipam: {config: [{subnet: 198.18.6.0/24}]}}
		configs: {told: {file: told.txt}, plain: {content: plain}}
		secrets: {hidden: {file: hidden.txt}, bare: {environment: BARE}}
	`
	const lender = `
		name: app
		services:
			lender:
				image: busybox
				command: sleep 1000
				volumes: ["./shown:/lent", "filled:/filled"]
	`
	gate := filepath.Join(b.dir, "gate/open")
	must(t, os.Mkdir(filepath.Dir(gate), 0o755))
	must(t, unix.Mkfifo(gate, 0o644))
	b.write(t, "compose.yaml", unindent(lender)+unindent(below))
	b.ok(t, "up", "--detach")
	b.ok(t, "exec", "-T", "lender", "sh", "-c", "mkdir -p /filled/a/b && touch /filled/a/b/deep")

	all := wishes(t, numbers)
	for _, kind := range []struct{ name, prefix, container string }{
		{"services", "services.*.", "app-%s-1"},
		{"steps of pre_start", "services.*.pre_start.[].", "app-%s-pre_start-0"},
		{"jobs", "jobs.*.", ""}, // whose containers have names that nobody can foretell
	} {
		t.Run(kind.name, func(t *testing.T) {
			var file strings.Builder
			file.WriteString(unindent(lender))
			if kind.name == "jobs" {
				file.WriteString("jobs:\n")
			}
			for _, w := range all {
				lines := unindent(w.yaml)
				if !strings.Contains(lines, "entrypoint:") {
					lines += "\ncommand: [sh, -c, ': </gate/open; exec sleep 1000']"
				}
				mounts := "\n" + `volumes: ["./gate:/gate:ro"]`
				if rest, ok := strings.CutPrefix(lines, "volumes:\n"); ok {
					lines, mounts = "", "\nvolumes:\n  - ./gate:/gate:ro\n"+rest
				}
				lines = "image: busybox\n" + lines + mounts
				switch kind.name {
				case "jobs":
					lines += "\ntriggers: {manual: true}"
				case "steps of pre_start":
					lines = "image: busybox\ncommand: sleep 1000\npre_start:\n  - " + strings.ReplaceAll(strings.TrimRight(strings.ReplaceAll(lines, "exec sleep", "true"), "\n"), "\n", "\n    ")
				}
				fmt.Fprintf(&file, "  %s:\n    %s\n", w.service, strings.ReplaceAll(lines, "\n", "\n    "))
			}
			file.WriteString(unindent(below))
			b.write(t, "compose.yaml", strings.ReplaceAll(file.String(), "DIR", b.dir))
			if kind.name == "jobs" {
				for _, w := range all {
					t.Run(w.service, func(t *testing.T) {
						r := b.stack(t, "run", "--detach", w.service)
						if r.code != 0 {
							t.Fatal(r)
						}
						c := b.look(t, strings.TrimSpace(r.stdout))
						w.see(&subject{t: t, b: b, name: strings.TrimPrefix(c.Name, "/"), pid: c.State.Pid, prefix: kind.prefix, said: r.stderr})
					})
				}
				b.ok(t, "down", "--timeout", "0")
				return
			}
			up := b.start(t, "up", "--detach")
			for _, w := range all {
				up.out.until(t, limit, "Container "+fmt.Sprintf(kind.container, w.service)+" Started")
			}
			for _, w := range all {
				t.Run(w.service, func(t *testing.T) {
					name := fmt.Sprintf(kind.container, w.service)
					w.see(&subject{t: t, b: b, name: name, pid: b.look(t, name).State.Pid, prefix: kind.prefix, said: up.out.String()})
				})
			}
			open, err := os.OpenFile(gate, os.O_RDWR, 0)
			must(t, err)
			defer open.Close()
			if code := up.wait(t, limit); code != 0 {
				t.Errorf("up ends with %d: %s", code, up.out.String())
			}
			b.ok(t, "down", "--timeout", "0")
		})
	}
	b.ok(t, "down", "--volumes", "--timeout", "0")
	b.nothingLeft(t, b.before, "file data/sealed/digests")
}
