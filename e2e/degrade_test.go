package e2e

import (
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/stack-run/stack/e2e/machine"
)

// A host may lack a controller: then a limit cannot hold, and nothing else suffers.
func TestMissingController(t *testing.T) {
	b := newBox(t, "busybox:latest")
	hierarchy := filepath.Join(machine.CgroupRoot, "pids")
	if !exists(filepath.Join(hierarchy, "cgroup.procs")) {
		t.Skip("the controllers are not apart on this machine (cgroup v2)")
	}
	must(t, unix.Unmount(hierarchy, unix.MNT_DETACH))
	t.Cleanup(func() { must(t, unix.Mount("cgroup", hierarchy, "cgroup", 0, "pids")) })
	b.compose(t, `
		name: app
		services:
			web: {image: busybox, command: [sleep, infinity], pids_limit: 20, mem_limit: 50m}
	`)
	r := b.stack(t, "up", "--detach")
	t.Run("the service starts, with one warning that names what is missing", func(t *testing.T) {
		if r.code != 0 || !b.look(t, "app-web-1").State.Running {
			t.Error(r)
		}
		if n := strings.Count(strings.ToLower(r.stderr), "pids"); n != 1 {
			t.Errorf("%d warnings: %v", n, r)
		}
	})
	t.Run("the other limits hold", func(t *testing.T) {
		if got := limitOf(t, b.look(t, "app-web-1").State.Pid, "memory.max", "memory.limit_in_bytes"); got != "52428800" {
			t.Errorf("the memory limit is %s", got)
		}
	})
	t.Run("it stops, pauses and leaves nothing as ever", func(t *testing.T) {
		b.ok(t, "pause")
		b.ok(t, "unpause")
		b.ok(t, "exec", "-d", "web", "sleep", "54321")
		b.ok(t, "down", "--timeout", "0")
		b.nothingLeft(t, b.before)
	})
}
