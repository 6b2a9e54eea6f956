package engine

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/stack-run/stack/engine/runtime"
)

// installation is an engine with roots of its own and what it has warned of.
type installation struct {
	*Engine
	warnings []string
}

// installations are engines that share a machine.
func installations(t *testing.T, n int) []*installation {
	t.Helper()
	shared := filepath.Join(t.TempDir(), "shared")
	var all []*installation
	for range n {
		i := &installation{}
		e, err := Open(Options{DataRoot: t.TempDir(), RunRoot: t.TempDir(), Warn: func(s string) { i.warnings = append(i.warnings, s) }})
		if err != nil {
			t.Fatal(err)
		}
		e.sharedRanges = shared
		i.Engine = e
		all = append(all, i)
	}
	return all
}

// container makes the record of a container.
func (i *installation) container(t *testing.T, project, mode string) *Container {
	t.Helper()
	c := &Container{ID: NewID(), Project: project, Spec: Spec{Name: "c" + NewID()[:8], Isolation: Isolation{UserNSMode: mode}}}
	if err := i.Records.Insert(c); err != nil {
		t.Fatal(err)
	}
	return c
}

// take takes the range of a container.
func (i *installation) take(t *testing.T, c *Container) string {
	t.Helper()
	_, ids, err := parseUserNS(c.Spec.Isolation.UserNSMode)
	if err == nil {
		ids, err = i.takeRange(t.Context(), rangeKey(c), c.ID, ids)
	}
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(ids.String())
}

func TestRangesOfOneMachine(t *testing.T) {
	all := installations(t, 2)
	a, b := all[0], all[1]
	first, second := a.container(t, "app", "auto"), a.container(t, "app", "auto")
	taken := a.take(t, first)
	t.Run("a project has one range, and no other installation has it", func(t *testing.T) {
		if again := a.take(t, second); again != taken {
			t.Errorf("%s, then %s", taken, again)
		}
		if theirs := b.take(t, b.container(t, "app", "auto")); theirs == taken {
			t.Errorf("both have %s", taken)
		}
	})
	t.Run("a chosen range may overlap, with one warning", func(t *testing.T) {
		var host, size uint32
		fmt.Sscanf(taken, "0 %d %d", &host, &size)
		mode := fmt.Sprintf("%d:100", host+5)
		one, two := b.container(t, "other", mode), b.container(t, "other", mode)
		b.take(t, one)
		b.take(t, two)
		b.take(t, one) // a restart
		if len(b.warnings) != 1 || !strings.Contains(b.warnings[0], "project other has the user IDs "+mode) || !strings.Contains(b.warnings[0], "project app of the run root "+a.run) {
			t.Errorf("%q", b.warnings)
		}
		a.take(t, a.container(t, "", mode))
		if len(a.warnings) != 1 || !strings.Contains(a.warnings[0], "project app ("+spanOf(taken)+") and project other of the run root "+b.run) {
			t.Errorf("%q", a.warnings)
		}
	})
	t.Run("an automatic range avoids a chosen one", func(t *testing.T) {
		fresh := installations(t, 2)
		key := "project.shop"
		at, err := freeRange(key, []string{"", ""}, idsInUse())
		if err != nil {
			t.Fatal(err)
		}
		chosen := fresh[0].container(t, "first", fmt.Sprintf("%d:10", at+1000))
		fresh[0].take(t, chosen)
		for _, i := range fresh {
			if got := i.take(t, i.container(t, "shop", "auto")); got == fmt.Sprintf("0 %d %d", at, idsPerRange) {
				t.Errorf("it is %s, of which some are chosen", got)
			}
		}
	})
	t.Run("nothing is left when all have given theirs back", func(t *testing.T) {
		for _, i := range all {
			records, err := i.Records.List()
			if err != nil {
				t.Fatal(err)
			}
			for _, c := range records {
				if err := i.leaveRanges(t.Context(), c); err != nil {
					t.Error(err)
				}
			}
			if left, err := os.ReadDir(i.rangesPath()); err != nil || len(left) > 0 {
				t.Errorf("%v, %v", left, err)
			}
		}
		if _, err := os.Lstat(a.sharedRanges); !os.IsNotExist(err) {
			t.Errorf("what all share is left: %v", err)
		}
	})
}

// spanOf is a line of a map as a range.
func spanOf(ids string) string {
	fields := strings.Fields(ids)
	return fields[1] + ":" + fields[2]
}

// Whatever an installation leaves that ends without a word, others can have its range.
func TestRangesAfterACrash(t *testing.T) {
	for what, crash := range map[string]func(*testing.T, *installation, *Container){
		"the run root is gone": func(t *testing.T, i *installation, _ *Container) { os.RemoveAll(i.run) },
		"the container is gone": func(t *testing.T, i *installation, c *Container) {
			if err := i.Records.Delete(c); err != nil {
				t.Fatal(err)
			}
		},
		"the data root is gone": func(t *testing.T, i *installation, _ *Container) { os.RemoveAll(i.data) },
		"a builder was killed": func(t *testing.T, i *installation, c *Container) {
			if _, err := i.takeRange(t.Context(), rangeKey(c), BuildEndpoint+"x", nil); err != nil {
				t.Fatal(err)
			}
			if err := i.leaveRanges(t.Context(), c); err != nil {
				t.Fatal(err)
			}
		},
	} {
		t.Run(what, func(t *testing.T) {
			all := installations(t, 2)
			c := all[0].container(t, "app", "auto")
			taken := all[0].take(t, c)
			crash(t, all[0], c)
			if got := all[1].take(t, all[1].container(t, "app", "auto")); got != taken {
				t.Errorf("%s, not %s", got, taken)
			}
		})
	}
}

// Who is not of ours, such as systemd-nspawn, has IDs as well.
func TestRangesOfProcesses(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	i := installations(t, 1)[0]
	c := i.container(t, "app", "auto")
	taken := i.take(t, c)
	if err := i.leaveRanges(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	var m syscall.SysProcIDMap
	fmt.Sscanf(taken, "0 %d %d", &m.HostID, &m.Size)
	m.HostID, m.Size = m.HostID+7, 1
	holder := exec.Command("sleep", "infinity")
	holder.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWUSER, UidMappings: []syscall.SysProcIDMap{m}, GidMappings: []syscall.SysProcIDMap{m}}
	if err := holder.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { holder.Process.Kill(); holder.Wait() })
	if got := i.take(t, c); got == taken {
		t.Errorf("it is %s, where a process has IDs", got)
	}
}

func TestNamesOfRanges(t *testing.T) {
	for _, r := range []takenRange{
		{span: span{5, 5 + idsPerRange}, key: "project.a/b.c"}, {span: span{200000, 200010}, key: "container.1", chosen: true},
	} {
		if got, ok := parseRange(r.dirName()); !ok || got != r {
			t.Errorf("%v becomes %v", r, got)
		}
	}
	for _, name := range []string{"", "5", "x.y", "5:.y", ":5.y", "5.%zz"} {
		if got, ok := parseRange(name); ok {
			t.Errorf("%q is read as %v", name, got)
		}
	}
	if got := (takenRange{span: span{7, 9}}).ids().String(); got != (runtime.IDs{{HostID: 7, Size: 2}}).String() {
		t.Error(got)
	}
}
