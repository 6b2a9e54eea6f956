package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/stack-run/stack/e2e/conformance"
)

// withCDI has specifications in /etc/cdi until the test ends, and what hooks need.
func withCDI(t *testing.T, files map[string]string) {
	t.Helper()
	const dir = "/etc/cdi"
	if _, err := os.Stat(dir); err != nil {
		must(t, os.Mkdir(dir, 0o755))
		t.Cleanup(func() { os.Remove(dir) })
	}
	must(t, unix.Mount("tmpfs", dir, "tmpfs", 0, "mode=755"))
	t.Cleanup(func() { must(t, unix.Unmount(dir, unix.MNT_DETACH)) })
	for name, text := range files {
		must(t, os.WriteFile(filepath.Join(dir, name), []byte(unindent(text)), 0o755))
	}
}

const gpus = `
	cdiVersion: 0.7.0
	kind: nvidia.com/gpu
	devices:
		- name: "0"
		  containerEdits: {env: [GPU=0], deviceNodes: [{path: /dev/gpu0, hostPath: /dev/null}]}
		- name: "1"
		  containerEdits: {env: [GPU=1], deviceNodes: [{path: /dev/gpu1, hostPath: /dev/zero, permissions: r, uid: 7, gid: 8, fileMode: 416}]}
		- name: all
		  containerEdits: {env: [GPU=all], deviceNodes: [{path: /dev/gpu0, hostPath: /dev/null}, {path: /dev/gpu1, hostPath: /dev/zero}]}
	containerEdits:
		env: [COMMON=yes]
		additionalGids: [77]
		mounts: [{hostPath: /etc/cdi/library, containerPath: /opt/lib/library, options: [ro, nosuid, nodev, rbind]}]
		hooks: [{hookName: createContainer, path: /etc/cdi/hook, args: [hook, made-by-hook], env: [PATH=/usr/bin:/bin]}]
`

// hook makes a file in the container, as nvidia-cdi-hook makes links: it finds the root in
// the bundle that the state on its standard input names.
const hook = `#!/bin/sh
state=$(cat)
bundle=$(echo "$state" | sed 's/.*"bundle":"\([^"]*\)".*/\1/')
root=$(tr ',{' '\n\n' < "$bundle/config.json" | sed -n 's/^"path":"\(\/proc\/[0-9]*\/root\)".*/\1/p')
echo "$1" > "$root/hooked"
`

// Devices by the Container Device Interface: nodes, variables, mounts, groups and hooks of
// a specification take effect in the container.
func TestCDI(t *testing.T) {
	b := newBox(t, "busybox:latest")
	withCDI(t, map[string]string{
		"nvidia.yaml": gpus, "library": "the library\n", "hook": hook,
		"own.json": `{"cdiVersion":"0.5.0","kind":"example.com/null","devices":[{"name":"dev","containerEdits":{"env":["OWN=1"],"deviceNodes":[{"path":"/dev/own","hostPath":"/dev/null"}]}},` +
			`{"name":"failing","containerEdits":{"hooks":[{"hookName":"createContainer","path":"/bin/sh","args":["sh","-c","echo no such thing >&2; exit 3"]}]}},` +
			`{"name":"late","containerEdits":{"hooks":[{"hookName":"startContainer","path":"/bin/true"}]}},` +
			`{"name":"gone","containerEdits":{"deviceNodes":[{"path":"/dev/nosuch"}]}}]}`,
	})
	before := snap(t, b)
	b.compose(t, `
		name: app
		x-web: &web {image: busybox, command: [sleep, infinity], stop_signal: KILL}
		services:
			all: {<<: *web, gpus: all}
			one: {<<: *web, gpus: [{driver: nvidia, count: 1}]}
			chosen: {<<: *web, gpus: [{device_ids: ["1"], capabilities: [gpu]}]}
			counted: {<<: *web, deploy: {resources: {reservations: {devices: [{capabilities: [gpu], count: 1}]}}}}
			second: {<<: *web, deploy: {resources: {reservations: {devices: [{capabilities: [gpu], device_ids: ["1"]}]}}}}
			named: {<<: *web, devices: [example.com/null=dev]}
			cdi: {<<: *web, deploy: {resources: {reservations: {devices: [{capabilities: [x], driver: cdi, device_ids: [example.com/null=dev, nvidia.com/gpu=0]}]}}}}
			mapped: {<<: *web, userns_mode: auto, devices: [example.com/null=dev]}
			user: {<<: *web, user: "5:6", gpus: all}
			stepped: {<<: *web, pre_start: [{command: [sh, -c, "echo $$GPU >/out/step"], volumes: ["./out:/out"], gpus: [{driver: nvidia, device_ids: ["1"], capabilities: [gpu]}]}, {command: [sh, -c, "echo $$GPU >>/out/step"], volumes: ["./out:/out"], gpus: [{count: 1, capabilities: [gpu]}]}]}
		jobs:
			job: {image: busybox, command: [sh, -c, "echo $$GPU"], gpus: [{count: 1, capabilities: [gpu]}], triggers: {manual: true}}
			second-job: {image: busybox, command: [sh, -c, "echo $$GPU"], gpus: [{driver: nvidia, device_ids: ["1"], capabilities: [gpu]}], triggers: {manual: true}}
	`)
	must(t, os.Mkdir(filepath.Join(b.dir, "out"), 0o777))
	b.ok(t, "up", "--detach")
	for service, want := range map[string]string{
		"all": "all yes  gpu0 gpu1 library made-by-hook 77", "one": "0 yes  gpu0 library made-by-hook 77", "second": "1 yes  gpu1 library made-by-hook 77",
		"chosen": "1 yes  gpu1 library made-by-hook 77", "counted": "0 yes  gpu0 library made-by-hook 77",
		"named": "  1 own", "cdi": "0 yes 1 gpu0 own library made-by-hook 77", "mapped": "1 own", "user": "all yes  gpu0 gpu1 library made-by-hook 77",
	} {
		pid := b.look(t, "app-"+service+"-1").State.Pid
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid))
		must(t, err)
		env := map[string]string{}
		for v := range strings.SplitSeq(string(text), "\x00") {
			name, value, _ := strings.Cut(v, "=")
			env[name] = value
		}
		got := strings.Join([]string{env["GPU"], env["COMMON"], env["OWN"]}, " ")
		got += " " + b.ok(t, "exec", "-T", service, "sh", "-c", "cd /dev; ls -d gpu* own 2>/dev/null; cat /opt/lib/library /hooked 2>/dev/null; true")
		status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
		must(t, err)
		for line := range strings.Lines(string(status)) {
			if groups, ok := strings.CutPrefix(line, "Groups:"); ok && strings.Contains(" "+strings.TrimSpace(groups)+" ", "77 ") {
				got += " 77"
			}
		}
		got = strings.NewReplacer("the library", "library", "\n", " ").Replace(got)
		if a, w := strings.Join(strings.Fields(got), " "), strings.Join(strings.Fields(want), " "); a != w {
			t.Errorf("%s has %q, want %q", service, a, w)
		}
	}
	t.Run("a node has the owner, the mode and the permissions of its specification", func(t *testing.T) {
		if out := b.ok(t, "exec", "-T", "second", "stat", "-c", "%u:%g %a %t:%T", "/dev/gpu1"); strings.TrimSpace(out) != "7:8 640 1:5" {
			t.Errorf("%q", out)
		}
		b.ok(t, "exec", "-T", "second", "head", "-c", "1", "/dev/gpu1")
		b.ok(t, "exec", "-T", "all", "sh", "-c", "head -c 1 /dev/gpu1 && echo x > /dev/gpu0")
	})
	t.Run("a mount is as its specification says", func(t *testing.T) {
		if r := b.fails(t, "exec", "-T", "one", "sh", "-c", "echo x > /opt/lib/library"); !strings.Contains(r.stderr, "Read-only") {
			t.Error(r)
		}
	})
	t.Run("inspect tells what was asked for", func(t *testing.T) {
		text := fmt.Sprint(b.look(t, "app-cdi-1").HostConfig["DeviceRequests"])
		if !strings.Contains(text, "example.com/null=dev") {
			t.Error(text)
		}
	})
	for _, path := range []string{"services.*.gpus", "services.*.deploy.resources.reservations.devices"} {
		conformance.Works(t, path, path+".[].capabilities", path+".[].driver", path+".[].device_ids", path+".[].count")
	}
	step, err := os.ReadFile(filepath.Join(b.dir, "out/step"))
	must(t, err)
	for kind, got := range map[string]string{"services.*.pre_start.[].gpus": string(step), "jobs.*.gpus": b.ok(t, "run", "-T", "second-job") + b.ok(t, "run", "-T", "job")} {
		if got != "1\n0\n" {
			t.Errorf("%s: %q", kind, got)
		}
		conformance.Works(t, kind, kind+".[].driver", kind+".[].device_ids", kind+".[].capabilities", kind+".[].count")
	}
	b.ok(t, "down", "--timeout", "0")
	must(t, os.RemoveAll(filepath.Join(b.dir, "out")))
	b.nothingLeft(t, before)
	t.Run("flags", func(t *testing.T) {
		for _, c := range []struct{ flags, want string }{
			{"--gpus all", "all"}, {"--gpus 1", "0"}, {`--gpus "device=0,1"`, "1"}, {"--gpus device=1", "1"}, {"--device nvidia.com/gpu=0", "0"}, {`--gpus driver=nvidia,count=all`, "all"},
		} {
			args := append([]string{"container", "run", "--rm"}, strings.Fields(c.flags)...)
			if out := b.ok(t, append(args, "busybox", "sh", "-c", "echo $GPU")...); strings.TrimSpace(out) != c.want {
				t.Errorf("%s: %q", c.flags, out)
			}
		}
		for flags, want := range map[string]string{
			"--gpus 7": "there are 2", "--gpus 1 --userns auto": "leave out userns_mode", "--gpus device=x": "nvidia.com/gpu=x", "--gpus count=x": "no number of GPUs", "--gpus made=up": "not known",
			"--device example.com/null=nosuch": "of this kind there are", "--device a.b/c=d": "no specification", "--device example.com/null=failing": "no such thing",
			"--device example.com/null=late": "startContainer", "--device example.com/null=gone": "/dev/nosuch",
		} {
			args := append([]string{"container", "run", "--rm"}, strings.Fields(flags)...)
			if r := b.fails(t, append(args, "busybox", "true")...); r.code != 125 || !strings.Contains(r.stderr, want) {
				t.Errorf("%s: %v", flags, r)
			}
		}
	})
	b.nothingLeft(t, before)
}

// Without a specification the error says who makes one, before anything is made.
func TestNoGPUs(t *testing.T) {
	b := newBox(t, "busybox:latest")
	b.compose(t, `
		name: app
		services:
			web: {image: busybox, gpus: all}
			bad:
				image: busybox
				gpus: [{driver: made-up, count: 1}]
	`)
	if r := b.fails(t, "up", "--detach"); !strings.Contains(r.stderr, "compose.yaml:6: services.bad.gpus[0]: ") {
		t.Error(r)
	}
	if r := b.fails(t, "up", "--detach", "web"); !strings.Contains(r.stderr, "nvidia-ctk cdi generate") {
		t.Error(r)
	}
	b.nothingLeft(t, b.before)
}

// What this host cannot keep to is told with its place, before anything is made.
func TestWhatTheHostLacks(t *testing.T) {
	b := newBox(t, "busybox:latest")
	for attribute, want := range map[string]string{
		"cpu_rt_runtime: 1000":      "cpu_rt_runtime cannot be set",
		"storage_opt: {size: 10m}":  "has no project quotas",
		"use_api_socket: true":      "compose.yaml:3: services.web.use_api_socket: there is no API server",
		"storage_opt: {made: up}":   "compose.yaml:3: services.web.storage_opt: unknown option",
		"logging: {driver: nosuch}": "compose.yaml:3: services.web.logging: unknown logging driver",
	} {
		b.compose(t, "name: app\nservices:\n  web: {image: busybox, "+attribute+"}\n")
		if r := b.fails(t, "up", "--detach"); !strings.Contains(r.stderr, want) {
			t.Errorf("%s: %v", attribute, r)
		}
	}
	b.compose(t, "name: app\nmodels: {llm: {model: ai/small}}\nservices:\n  web: {image: busybox, command: [sleep, infinity], models: [llm]}\n")
	if r := b.stack(t, "up", "--detach"); r.code != 0 || !strings.Contains(r.stderr, "services.web.models") || !strings.Contains(r.stderr, "run one as a service") {
		t.Error(r)
	}
	for flags, want := range map[string]string{"--use-api-socket": "no API server", "--cpu-rt-runtime 1000": "cannot be set", "--storage-opt size=10m": "no project quotas", "--storage-opt size=x": "no size"} {
		args := append([]string{"container", "run", "--rm"}, strings.Fields(flags)...)
		if r := b.fails(t, append(args, "busybox", "true")...); r.code != 125 || !strings.Contains(r.stderr, want) {
			t.Errorf("%s: %v", flags, r)
		}
	}
	b.ok(t, "down", "--timeout", "0")
	b.nothingLeft(t, b.before)
}
