package e2e

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stack-run/stack/e2e/machine"

	"golang.org/x/sys/unix"
)

// snap looks at the kernel and at the box's directories.
func snap(t *testing.T, b *box) *machine.Snapshot {
	t.Helper()
	s, err := b.installation().Take()
	must(t, err)
	return s
}

// nothingLeft fails unless the machine is as it was before, but for what keep
// names (prefixes of snapshot lines). The supervisor's own end and the
// kernel's deferred clean-up (network namespaces) may take a moment.
func (b *box) nothingLeft(t *testing.T, before *machine.Snapshot, keep ...string) {
	t.Helper()
	b.endLinger()
	eventually(t, 3*time.Second, func() error {
		var left []string
	lines:
		for _, l := range snap(t, b).Since(before) {
			for _, k := range keep {
				if strings.HasPrefix(l, k) {
					continue lines
				}
			}
			left = append(left, l)
		}
		if len(left) > 0 {
			return fmt.Errorf("left behind:\n  %s", strings.Join(left, "\n  "))
		}
		return nil
	})
}

// endLinger has the supervisor of single containers leave at once where it has
// nothing left to own; it stays for some seconds otherwise, for the next one.
func (b *box) endLinger() {
	text, err := os.ReadFile(filepath.Join(b.runRoot(), "projects", "single.", "supervisor.pid"))
	if err != nil {
		return // there is none
	}
	if pid, err := strconv.Atoi(strings.TrimSpace(string(text))); err == nil {
		unix.Kill(pid, unix.SIGTERM)
	}
}

// volumeFile begins the snapshot lines of a volume that is kept.
func volumeFile(name string) string { return "file data/volumes/" + name + "/" }

// destroy takes everything of the box away, whatever state it is in.
func (b *box) destroy(t *testing.T) {
	t.Helper()
	if !t.Failed() {
		b.removeProjects(t)
	}
	if err := errors.Join(b.installation().Clear(b.before), os.RemoveAll(b.root)); err != nil {
		t.Errorf("cannot remove the box: %v", err)
	}
}

// now returns the lines of one kind of thing.
func now(t *testing.T, look machine.Look) []string {
	t.Helper()
	s, err := machine.Take(look)
	must(t, err)
	return s.Lines()
}

// removeProjects takes down what a passed test did not.
func (b *box) removeProjects(t *testing.T) {
	t.Helper()
	if _, err := os.Stat(filepath.Join(b.runRoot(), "projects")); err != nil {
		return
	}
	for _, p := range jsonLines[struct{ Name string }](t, b.stack(t, "ls", "--all", "--format", "json").stdout) {
		b.stack(t, "-p", p.Name, "down", "--volumes", "--remove-orphans", "--timeout", "0")
	}
}

// dump shows what is needed to understand a failure.
func (b *box) dump(t *testing.T) {
	t.Helper()
	for _, args := range [][]string{{"ls", "--all"}, {"container", "ls", "--all"}, {"logs", "--tail", "40", "--timestamps"}} {
		t.Log(b.stack(t, args...))
	}
	t.Logf("on the machine since the test began:\n  %s", strings.Join(snap(t, b).Since(b.before), "\n  "))
	for _, root := range []string{b.runRoot(), b.dataRoot()} {
		filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
			if err != nil {
				return nil
			}
			if rel := strings.TrimPrefix(p, b.root+"/"); d.IsDir() && machine.ImageStore(rel) {
				return fs.SkipDir
			}
			switch filepath.Ext(p) {
			case ".json", ".log", ".pid":
				if text, err := os.ReadFile(p); err == nil {
					t.Logf("%s:\n%s", p, tail(string(text)))
				}
			}
			return nil
		})
	}
}

// crash makes the box's part of the machine look as after a power failure and a
// boot: no process, no run root, no link, no table.
func (b *box) crash(t *testing.T) {
	t.Helper()
	must(t, errors.Join(b.installation().Clear(b.before), os.RemoveAll(b.runRoot())))
}
