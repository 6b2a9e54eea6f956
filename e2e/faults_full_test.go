package e2e

import (
	"cmp"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// mountData makes the data root a disk of its own, of so many MiB.
func (b *box) mountData(t *testing.T, mib int) {
	t.Helper()
	must(t, os.MkdirAll(b.dataRoot(), 0o755))
	must(t, unix.Mount("tmpfs", b.dataRoot(), "tmpfs", 0, fmt.Sprintf("size=%dm", mib)))
	t.Cleanup(func() { unix.Unmount(b.dataRoot(), unix.MNT_DETACH) })
}

// leave fills the disk of the data root up to so many bytes, and returns what
// frees it again.
func (b *box) leave(t *testing.T, free int64) (undo func()) {
	t.Helper()
	ballast := filepath.Join(b.dataRoot(), "ballast")
	fill(t, ballast)
	i, err := os.Stat(ballast)
	must(t, err)
	must(t, os.Truncate(ballast, max(0, i.Size()-free)))
	return func() { t.Helper(); must(t, os.Remove(ballast)) }
}

// fullDisk is a command for which the disk is full at one point or another.
type fullDisk struct {
	// ready prepares a round and returns the command.
	ready func(t *testing.T, round int) []string
	// which tells the round whose command did all of its work.
	which func(t *testing.T) string
	// after is what which tells after a failure, if not the round before.
	after string
}

// run runs the command with ever more bytes left, from nothing to enough.
func (f fullDisk) run(t *testing.T, b *box) {
	t.Helper()
	b.ok(t, f.ready(t, 0)...)
	failed := 0
	for i, free := range []int64{0, 32, 512, 1024, 2048, 3072, 6144} {
		round := i + 1
		args := f.ready(t, round)
		b.ok(t, "image", "prune", "--force")
		undo := b.leave(t, free<<10)
		res, check := b.stack(t, args...), b.stack(t, "system", "check")
		undo()
		if check.code != 0 && !strings.Contains(check.stderr, "no space left on device") {
			t.Errorf("round %d, %d KiB left: %v", round, free, check)
		}
		b.ok(t, "system", "check")
		if res.code == 0 {
			isOneOf(t, f.which(t), fmt.Sprint(round))
			continue
		}
		failed++
		for _, want := range []string{"no space left on device", "the disk with " + b.dataRoot() + " has ", "system prune"} {
			if !strings.Contains(strings.ToLower(res.stderr), want) {
				t.Errorf("round %d, %d KiB left: no %q: %v", round, free, want, res)
			}
		}
		isOneOf(t, f.which(t), cmp.Or(f.after, fmt.Sprint(round-1)))
		b.ok(t, args...)
		isOneOf(t, f.which(t), fmt.Sprint(round))
	}
	t.Logf("it failed %d times", failed)
	if failed == 0 {
		t.Error("the disk was never full")
	}
}

func TestFaultsFullDisk(t *testing.T) {
	b := newBuildBox(t)
	must(t, os.RemoveAll(b.dataRoot()))
	b.mountData(t, 160)
	b.load(t, "busybox:latest")
	r, k := newShelf(t), newKilling(t, b)
	name := r.host() + "/box:1"

	t.Run("pull", func(t *testing.T) {
		fullDisk{
			ready: func(t *testing.T, round int) []string {
				r.put(t, "box", "1", fmt.Sprint(round), randomLayer(t, k.rand, "a", 30, 32<<10), randomLayer(t, k.rand, "b", 100, 4<<10))
				return []string{"image", "pull", name}
			},
			which: func(t *testing.T) string { return b.says(t, name, "sh", "-c", "echo $WHICH") },
		}.run(t, b)
	})
	load := func(t *testing.T, round int) []string {
		t.Helper()
		b.write(t, "archive.tar", string(dockerArchive(t, "box:1", tarOf(t, "round", fmt.Sprint(round)), randomLayer(t, k.rand, "files", 50, 32<<10))))
		return []string{"image", "load", "-i", "archive.tar"}
	}
	t.Run("load", func(t *testing.T) {
		fullDisk{ready: load, which: func(t *testing.T) string { return b.says(t, "box:1", "cat", "/round") }}.run(t, b)
	})
	t.Run("build", func(t *testing.T) {
		fullDisk{
			ready: func(t *testing.T, round int) []string {
				b.ok(t, "builder", "prune", "--all", "--force")
				b.writeBuild(t, k.rand, round)
				return []string{"image", "build", "-t", "built", "."}
			},
			which: func(t *testing.T) string { return b.says(t, "built") },
		}.run(t, b)
	})
	t.Run("up, which unpacks an image and copies its files into a volume", func(t *testing.T) {
		b.compose(t, `
			name: app
			services:
				box: {image: "box:1", pull_policy: never, command: [sleep, infinity], init: true, volumes: ["data:/files"]}
			volumes: {data: {}}
		`)
		fullDisk{
			ready: func(t *testing.T, round int) []string {
				b.ok(t, "down", "--volumes")
				b.ok(t, load(t, round)...)
				return []string{"up", "--detach"}
			},
			which: func(t *testing.T) string {
				res := b.stack(t, "exec", "-T", "box", "sh", "-c", "test $(ls /files | wc -l) = 50 && cat /round")
				if res.code != 0 {
					return "nothing"
				}
				return res.stdout
			},
			after: "nothing",
		}.run(t, b)
		b.ok(t, "down", "--volumes")
	})
	k.nothingLeft(t)
}
