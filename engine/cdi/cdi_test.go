package cdi

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// registry are specifications in two directories; a name that begins with "run/" is in the
// more important one.
func registry(t *testing.T, files map[string]string) *Registry {
	t.Helper()
	root := t.TempDir()
	dirs := []string{filepath.Join(root, "etc"), filepath.Join(root, "run")}
	for name, text := range files {
		dir := dirs[0]
		if rest, ok := strings.CutPrefix(name, "run/"); ok {
			dir, name = dirs[1], rest
		}
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return Load(dirs...)
}

func TestIsName(t *testing.T) {
	for name, want := range map[string]bool{
		"nvidia.com/gpu=0": true, "a/b=c": true, "vendor.com/net-class=GPU-1:2": true, "/dev/a/b=c": false, "a/b": false, "a/b=": false, "a=b": false,
		"/b=c": false, "a/=c": false, "1a/b=c": false, "a/b/c=d": false, "a/b=c=d": false, "a/b=-c": false, "a./b=c": false, "": false, "a/b=ä": false,
	} {
		if IsName(name) != want {
			t.Errorf("%q: %v", name, !want)
		}
	}
}

const nvidia = `
cdiVersion: 0.5.0
kind: nvidia.com/gpu
devices:
  - name: "0"
    containerEdits: {deviceNodes: [{path: /dev/nvidia0, hostPath: /dev/null}]}
  - name: "1"
    containerEdits: {deviceNodes: [{path: /dev/nvidia1}]}
  - name: "10"
    containerEdits: {env: [TEN=10]}
  - name: GPU-abc
    containerEdits: {env: [ABC=0]}
  - name: all
    containerEdits: {env: [ALL=yes]}
containerEdits:
  env: [COMMON=1]
  hooks: [{hookName: createContainer, path: /usr/bin/nvidia-cdi-hook, args: [nvidia-cdi-hook, create-symlinks]}]
  mounts: [{hostPath: /lib/x.so, containerPath: /lib/x.so, options: [ro, nosuid, nodev, rbind, rprivate]}]
`

func TestSelect(t *testing.T) {
	gpu := []string{"gpu"}
	for _, c := range []struct {
		files map[string]string
		q     Request
		want  string // names, or with "!" in front a part of the error
	}{
		{map[string]string{"n.yaml": nvidia}, Request{Count: -1, Capabilities: gpu}, "nvidia.com/gpu=all"},
		{map[string]string{"n.yaml": nvidia}, Request{Capabilities: gpu}, "nvidia.com/gpu=all"},
		{map[string]string{"n.yaml": nvidia}, Request{Count: 2, Driver: "nvidia", Capabilities: []string{"gpu", "utility"}}, "nvidia.com/gpu=0 nvidia.com/gpu=1"},
		{map[string]string{"n.yaml": nvidia}, Request{Count: 3, Capabilities: gpu}, "nvidia.com/gpu=0 nvidia.com/gpu=1 nvidia.com/gpu=10"},
		{map[string]string{"n.yaml": nvidia}, Request{Count: 4, Capabilities: gpu}, "!4 GPUs are wanted, and there are 3"},
		{map[string]string{"n.yaml": nvidia}, Request{IDs: []string{"GPU-abc", "1"}, Capabilities: gpu}, "nvidia.com/gpu=GPU-abc nvidia.com/gpu=1"},
		{map[string]string{"n.yaml": nvidia}, Request{Driver: "amd", Capabilities: gpu}, "!amd-ctk"},
		{map[string]string{"a.json": `{"cdiVersion":"0.6.0","kind":"amd.com/gpu","devices":[{"name":"x","containerEdits":{"env":["A=1"]}}]}`}, Request{Count: -1, Capabilities: gpu}, "amd.com/gpu=x"},
		{map[string]string{}, Request{Count: 1, Capabilities: gpu}, "!nvidia-ctk cdi generate"},
		{map[string]string{"n.yaml": "kind: ["}, Request{Count: 1, Capabilities: gpu}, "!n.yaml is left out"},
		{map[string]string{}, Request{Driver: "cdi", IDs: []string{"a.b/c=d"}}, "a.b/c=d"},
		{map[string]string{}, Request{Driver: "cdi"}, "!needs device_ids"},
		{map[string]string{}, Request{Driver: "cdi", IDs: []string{"d"}}, "!vendor.com/class=name"},
		{map[string]string{}, Request{Driver: "intel", Capabilities: gpu}, "!unknown device driver"},
		{map[string]string{}, Request{Capabilities: []string{"tpu"}}, "!name no kind of device"},
		{map[string]string{}, Request{Count: 1, IDs: []string{"0"}, Capabilities: gpu}, "!exclude each other"},
		{map[string]string{}, Request{Count: -2, Capabilities: gpu}, "!no number of devices"},
	} {
		names, err := registry(t, c.files).Select(c.q)
		if bad, fails := strings.CutPrefix(c.want, "!"); fails {
			if err == nil || !strings.Contains(err.Error(), bad) {
				t.Errorf("%+v: %v", c.q, err)
			}
		} else if err != nil || strings.Join(names, " ") != c.want {
			t.Errorf("%+v: %q, %v", c.q, names, err)
		}
	}
}

func TestEdits(t *testing.T) {
	r := registry(t, map[string]string{
		"n.yaml":     nvidia,
		"other.json": `{"cdiVersion":"0.7.0","kind":"a.b/c","devices":[{"name":"d","containerEdits":{"env":["FROM=etc"],"additionalGids":[7]}},{"name":"twice","containerEdits":{"env":["X=1"]}}]}`,
		"again.json": `{"cdiVersion":"0.7.0","kind":"a.b/c","devices":[{"name":"twice","containerEdits":{"env":["X=1"]}}]}`,
		"run/a.json": `{"cdiVersion":"1.1.0","kind":"a.b/c","devices":[{"name":"d","containerEdits":{"env":["FROM=run"]}},{"name":"net","containerEdits":{"netDevices":[{"hostInterfaceName":"x","name":"y"}]}},{"name":"rdt","containerEdits":{"intelRdt":{"closID":"x"}}}]}`,
	})
	e, err := r.Edits([]string{"nvidia.com/gpu=10", "a.b/c=d", "nvidia.com/gpu=0", "nvidia.com/gpu=0"})
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(e.Env, []string{"COMMON=1", "TEN=10", "FROM=run"}) || len(e.DeviceNodes) != 1 || e.DeviceNodes[0].HostPath != "/dev/null" || len(e.Mounts) != 1 || len(e.Hooks) != 1 {
		t.Errorf("%+v", e)
	}
	for name, want := range map[string]string{
		"nvidia.com/gpu=7": "of this kind there are nvidia.com/gpu=0,", "amd.com/gpu=0": "amd-ctk", "x.y/z=1": "its vendor's program",
		"a.b/c=twice": "is described twice", "a.b/c=net": "netDevices", "a.b/c=rdt": "intelRdt",
	} {
		if _, err := r.Edits([]string{name}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestParseRefuses(t *testing.T) {
	const head = "cdiVersion: 0.5.0\nkind: a.b/c\n"
	for text, want := range map[string]string{
		"": "no specification", "kind: a.b/c": "cannot be used", "cdiVersion: 9.0.0\nkind: a.b/c": "9.0.0",
		"cdiVersion: 0.3.0\nkind: a.b/c\ndevices: [{name: \"0\", containerEdits: {env: [A=1]}}]": "at least",
		"cdiVersion: 0.5.0\nkind: c": "its kind",
		head + "made: up":            "made",
		head + "devices: [{name: a, containerEdits: {env: [A]}}]":                                         "has no value",
		head + "devices: [{name: a b, containerEdits: {env: [A=1]}}]":                                     "a b",
		head + "devices: [{name: a, containerEdits: {}}, {name: a, containerEdits: {}}]":                  "twice",
		head + "devices: [{name: a, containerEdits: {deviceNodes: [{path: dev/x}]}}]":                     "absolute path",
		head + "devices: [{name: a, containerEdits: {deviceNodes: [{path: /dev/x, type: z}]}}]":           "unknown type",
		head + "devices: [{name: a, containerEdits: {deviceNodes: [{path: /dev/x, permissions: x}]}}]":    "permissions",
		head + "devices: [{name: a, containerEdits: {mounts: [{hostPath: /x, containerPath: y}]}}]":       "containerPath",
		head + "devices: [{name: a, containerEdits: {hooks: [{hookName: createContainer, path: hook}]}}]": "a hook",
	} {
		if _, err := parse([]byte(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", text, err)
		}
	}
}
