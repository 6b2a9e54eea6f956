package cgroup

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// eachMode runs a test with the host's hierarchies, and with those of v1 alone.
func eachMode(t *testing.T, f func(t *testing.T, h *Hierarchy, base string)) {
	t.Run("as mounted", func(t *testing.T) {
		h, base := testHierarchy(t)
		f(t, h, base)
	})
	t.Run("v1", func(t *testing.T) {
		h, base := testHierarchy(t)
		if len(h.V1) == 0 {
			t.Skip("this host has no v1 hierarchies")
		}
		h.Unified, h.UnifiedControllers, h.Mode = "", nil, V1
		f(t, h, base)
	})
}

// join runs a script in a nested group and returns after it printed a line.
func join(t *testing.T, n *Nested, script string) (*exec.Cmd, string) {
	t.Helper()
	e, err := n.Entry()
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	cmd := exec.Command("/bin/sh", "-c", `for f in "$@"; do echo 0 >"$f" || exit 99; done; `+script, "sh")
	for _, f := range e.Tasks {
		cmd.Args = append(cmd.Args, f.Name())
	}
	if e.Dir != nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(e.Dir.Fd())}
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var line string
	if _, err := fmt.Fscanln(out, &line); err != nil {
		t.Fatal(err)
	}
	return cmd, line
}

func TestNestedEnds(t *testing.T) {
	eachMode(t, func(t *testing.T, h *Hierarchy, base string) {
		g := create(t, h, base+"/project/outer", nil)
		outer := start(t, g, "exec sleep 1000")
		defer outer.Wait()
		n, err := g.Nest("probe-1")
		if err != nil {
			t.Fatal(err)
		}
		// A child, one in another session, and one whose parent is gone.
		cmd, _ := join(t, n, `sleep 1000 & setsid sleep 1000 & (sleep 1000 &) ; echo ready; wait`)
		inside, err := n.own.Processes()
		if err != nil || len(inside) < 4 {
			t.Fatal(inside, err)
		}
		if all, err := g.Processes(); err != nil || len(all) != len(inside)+1 {
			t.Errorf("%d processes in the group, %d in the nested one; %v", len(all), len(inside), err)
		}
		done := make(chan error, 1)
		go func() { done <- cmd.Wait() }()
		if err := n.End(t.Context()); err != nil {
			t.Fatal(err)
		}
		<-done
		if err := n.Close(); err != nil {
			t.Fatal(err)
		}
		if left, _ := g.Processes(); !slices.Equal(left, []int{outer.Process.Pid}) {
			t.Errorf("left: %v, want %d alone", left, outer.Process.Pid)
		}
		if _, err := os.Stat(n.dir); !errors.Is(err, fs.ErrNotExist) {
			t.Error(err)
		}
		outer.Process.Kill()
	})
}

// What goes on when a nested group is closed belongs to the group around it.
func TestNestedCloseKeepsProcesses(t *testing.T) {
	eachMode(t, func(t *testing.T, h *Hierarchy, base string) {
		g := create(t, h, base+"/project/outer", nil)
		n, err := g.Nest("probe-1")
		if err != nil {
			t.Fatal(err)
		}
		cmd, pid := join(t, n, `sleep 1000 & echo $!`)
		cmd.Wait()
		if err := n.Close(); err != nil {
			t.Fatal(err)
		}
		in, err := os.ReadFile(filepath.Join(g.listDir(), "cgroup.procs"))
		if err != nil || !strings.Contains(string(in), pid) {
			t.Errorf("%q, %v; want %s", in, err, pid)
		}
		if err := n.Close(); err != nil {
			t.Errorf("closing twice: %v", err)
		}
	})
}

// A nested group whose owner was killed is found and ended.
func TestKillNested(t *testing.T) {
	eachMode(t, func(t *testing.T, h *Hierarchy, base string) {
		g := create(t, h, base+"/project/outer", nil)
		for _, name := range []string{"probe-1", "other"} {
			n, err := g.Nest(name)
			if err != nil {
				t.Fatal(err)
			}
			cmd, _ := join(t, n, `echo in; exec sleep 1000`)
			go cmd.Wait()
		}
		if err := g.KillNested(t.Context(), "probe-"); err != nil {
			t.Fatal(err)
		}
		if left, err := g.Processes(); len(left) != 1 || err != nil {
			t.Errorf("left: %v, %v; want the one of the other group", left, err)
		}
	})
}

// A process in the v1 freezer dies once it is released from that.
func TestRelease(t *testing.T) {
	eachMode(t, func(t *testing.T, h *Hierarchy, base string) {
		g := create(t, h, base+"/project/frozen", nil)
		cmd := start(t, g, "exec sleep 1000")
		if err := g.Freeze(t.Context()); err != nil {
			t.Fatal(err)
		}
		if frozen, err := g.Frozen(); !frozen || err != nil {
			t.Error(frozen, err)
		}
		if err := g.Release(cmd.Process.Pid); err != nil {
			t.Fatal(err)
		}
		unix.Kill(cmd.Process.Pid, unix.SIGKILL)
		cmd.Wait()
		if err := g.Thaw(t.Context()); err != nil {
			t.Error(err)
		}
	})
}
