package engine

import (
	"reflect"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	cdispecs "tags.cncf.io/container-device-interface/specs-go"

	"github.com/stack-run/stack/engine/cdi"
)

func TestApplyEdits(t *testing.T) {
	edits := &cdi.Edits{ContainerEdits: cdispecs.ContainerEdits{
		Env: []string{"A=1"}, AdditionalGIDs: []uint32{7},
		DeviceNodes: []*cdispecs.DeviceNode{
			{Path: "/dev/a", HostPath: "/dev/null"},
			{Path: "/dev/b", Type: "u", Major: 9, Minor: 8, Permissions: "r"},
		},
		Mounts: []*cdispecs.Mount{{HostPath: "/x", ContainerPath: "/y", Options: []string{"ro"}}, {HostPath: "t", ContainerPath: "/t", Type: "tmpfs"}},
	}}
	var f Facts
	if err := applyEdits(edits, specs.User{UID: 5, GID: 6}, &f); err != nil {
		t.Fatal(err)
	}
	a, b := f.Devices[0], f.Devices[1]
	if a.Path != "/dev/a" || a.Type != "c" || a.Major != 1 || a.Minor != 3 || *a.UID != 5 || *a.GID != 6 || *a.FileMode != 0o666 {
		t.Errorf("%+v", a)
	}
	if b.Type != "c" || b.Major != 9 || b.Minor != 8 || b.FileMode != nil {
		t.Errorf("%+v", b)
	}
	if r := f.DeviceRules[1]; r.Access != "r" || *r.Major != 9 || !r.Allow || f.DeviceRules[0].Access != "rwm" {
		t.Errorf("%+v", f.DeviceRules)
	}
	want := []specs.Mount{{Destination: "/y", Source: "/x", Type: "bind", Options: []string{"ro"}}, {Destination: "/t", Source: "t", Type: "tmpfs"}}
	if !reflect.DeepEqual(f.Mounts, want) || f.Env[0] != "A=1" || f.GIDs[0] != 7 || f.DeviceSources["/dev/a"] != "/dev/null" {
		t.Errorf("%+v", f)
	}
	for want, e := range map[string]cdispecs.ContainerEdits{
		"FIFO":              {DeviceNodes: []*cdispecs.DeviceNode{{Path: "/dev/p", Type: "p"}}},
		"type proc":         {Mounts: []*cdispecs.Mount{{HostPath: "proc", ContainerPath: "/p", Type: "proc"}}},
		"not b as its":      {DeviceNodes: []*cdispecs.DeviceNode{{Path: "/dev/null", Type: "b"}}},
		"/dev/nosuch":       {DeviceNodes: []*cdispecs.DeviceNode{{Path: "/dev/nosuch"}}},
		"not a device node": {DeviceNodes: []*cdispecs.DeviceNode{{Path: "/etc/passwd"}}},
	} {
		if err := applyEdits(&cdi.Edits{ContainerEdits: e}, specs.User{}, &Facts{}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", want, err)
		}
	}
}

// A hook's failure has what it said, and one without an end has one.
func TestHooks(t *testing.T) {
	sh := func(script string) specs.Hook {
		return specs.Hook{Path: "/bin/sh", Args: []string{"sh", "-c", script}, Env: []string{"PATH=/bin:/usr/bin", "A=b"}}
	}
	if err := runHook(t.Context(), hookBound, sh(`test "$A" = b && test -z "$HOME" && grep -q state`), []byte("state")); err != nil {
		t.Error(err)
	}
	if err := runHook(t.Context(), hookBound, sh("echo no good >&2; exit 3"), nil); err == nil || !strings.Contains(err.Error(), "exit status 3: no good") {
		t.Error(err)
	}
	if err := runHook(t.Context(), hookBound/600, sh("sleep 100"), nil); err == nil || !strings.Contains(err.Error(), "does not end within 100ms") {
		t.Error(err)
	}
}
