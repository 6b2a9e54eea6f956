package snapshot

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"github.com/stack-run/stack/engine/content"
)

func TestPrepareKeepsWhatWasWritten(t *testing.T) {
	needRoot(t)
	s := store(t)
	layers := unpack(t, s, archiveOf(t, file("f", "f")))
	root := container(t, s, "c", layers)
	if err := os.WriteFile(root+"/g", []byte("g"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(s.containers, "c/lower.json")); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Mount("c", MountOptions{}); !errors.Is(err, ErrNotPrepared) {
		t.Errorf("mount without lower.json: %v", err)
	}
	if n, err := s.Usage(t.Context(), "c"); err != nil || n < 4096 {
		t.Errorf("usage without lower.json: %d, %v", n, err)
	}
	root = container(t, s, "c", layers)
	if got := read(t, root+"/g"); got != "g" {
		t.Errorf("g is %q", got)
	}
	if n, err := s.Usage(t.Context(), "c"); err != nil || n < 4096 {
		t.Errorf("usage %d, %v", n, err)
	}
	if err := s.Remove(t.Context(), "c"); err != nil {
		t.Fatal(err)
	}
	if err := s.Remove(t.Context(), "c"); err != nil {
		t.Errorf("second remove: %v", err)
	}
	if _, err := s.Mount("c", MountOptions{}); !errors.Is(err, ErrNotPrepared) {
		t.Errorf("mount of a removed container: %v", err)
	}
	if err := s.Prepare(t.Context(), "d", []digest.Digest{digest.FromString("other")}); !errors.Is(err, ErrNotUnpacked) {
		t.Errorf("prepare on a missing layer: %v", err)
	}
	for _, bad := range []string{"", ".", "..", "a/b", "../x"} {
		if err := s.Prepare(t.Context(), bad, layers); err == nil {
			t.Errorf("container ID %q was taken", bad)
		}
	}
}

// Whatever a Prepare that was killed has left, the next one makes a root that has the
// image's owner and mode: others than root must come in.
func TestPrepareAfterAKill(t *testing.T) {
	needRoot(t)
	s := store(t)
	layers := unpack(t, s, archiveOf(t, dir("./", 0o751), file("f", "f")))
	for i, left := range [][]string{{}, {""}, {"", "work"}, {"", "work", "upper.new"}} {
		id := fmt.Sprint("c", i)
		for _, name := range left {
			if err := os.Mkdir(filepath.Join(s.containers, id, name), 0o700); err != nil {
				t.Fatal(err)
			}
		}
		root := container(t, s, id, layers)
		var st unix.Stat_t
		if err := unix.Stat(root, &st); err != nil || st.Mode&0o7777 != 0o751 {
			t.Errorf("after %q the root has mode %o, %v", left, st.Mode&0o7777, err)
		}
		if got := list(t, filepath.Join(s.containers, id)); strings.Contains(got, ".new") {
			t.Errorf("after %q there is %s", left, got)
		}
	}
}

func TestChanges(t *testing.T) {
	needRoot(t)
	s := store(t)
	layers := unpack(t, s, archiveOf(t, dir("etc", 0), file("etc/same", "same"), file("etc/changed", "old"), file("etc/gone", ""),
		dir("old", 0), file("old/1", ""), file("old/2", ""), dir("deep", 0), dir("deep/er", 0), file("deep/er/f", ""), file("mode", ""), dir("untouched", 0), file("untouched/f", "")))
	root := container(t, s, "c", layers)
	do := func(errs ...error) {
		t.Helper()
		if err := errors.Join(errs...); err != nil {
			t.Fatal(err)
		}
	}
	if changes, err := s.Changes(t.Context(), "c"); err != nil || len(changes) != 0 {
		t.Errorf("fresh container: %v, %v", changes, err)
	}
	touched, err := os.OpenFile(root+"/etc/same", os.O_RDWR, 0) // copied up, not changed
	do(err, touched.Close())
	do(os.WriteFile(root+"/etc/changed", []byte("new"), 0o644), os.Remove(root+"/etc/gone"))
	do(os.RemoveAll(root+"/old"), os.Mkdir(root+"/old", 0o755), os.WriteFile(root+"/old/2", []byte("2"), 0o644), os.WriteFile(root+"/old/3", nil, 0o644))
	do(os.WriteFile(root+"/deep/er/g", nil, 0o644), os.Chmod(root+"/mode", 0o600), os.Mkdir(root+"/new", 0o755), os.WriteFile(root+"/new/f", nil, 0o644), os.Symlink("x", root+"/new/l"))
	changes, err := s.Changes(t.Context(), "c")
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, c := range changes {
		got = append(got, c.String())
	}
	want := []string{"C /deep", "C /deep/er", "A /deep/er/g", "C /etc", "C /etc/changed", "D /etc/gone", "C /mode", "A /new", "A /new/f", "A /new/l", "C /old", "D /old/1", "C /old/2", "A /old/3"}
	if !slices.Equal(got, want) {
		t.Errorf("changes\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func TestCollectSparesWhatIsUsed(t *testing.T) {
	needRoot(t)
	s := store(t)
	base, used, unused := archiveOf(t, dir("tmp", 0o1777), file("base", "")), archiveOf(t, file("used", "")), archiveOf(t, file("tmp/unused", ""))
	a := unpack(t, s, base, used)
	b := unpack(t, s, base, unused)
	root := container(t, s, "c", a)
	leftover := filepath.Join(s.layers, "tmp", "deadbeef")
	if err := os.MkdirAll(leftover+"/fs/x", 0o755); err != nil {
		t.Fatal(err)
	}
	// Killed once the layer was gone, and while a stack was written.
	for _, name := range []string{"locks/cafe", "stacks/.tmp-1"} {
		if err := os.WriteFile(filepath.Join(s.layers, name), []byte("{}"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	keep := func() (map[digest.Digest]bool, error) { return nil, nil }
	c, err := s.Collect(t.Context(), CollectOptions{DryRun: true}, keep)
	if err != nil || !slices.Equal(c.Layers, []digest.Digest{b[1]}) || c.Bytes == 0 {
		t.Errorf("dry run: %+v, %v", c, err)
	}
	if c, err := s.Collect(t.Context(), CollectOptions{DryRun: true, Without: []string{"c"}}, keep); err != nil || len(c.Layers) != 3 {
		t.Errorf("dry run without the container: %+v, %v", c, err)
	}
	if c, err = s.Collect(t.Context(), CollectOptions{}, keep); err != nil || !slices.Equal(c.Layers, []digest.Digest{b[1]}) {
		t.Errorf("collected %+v, %v", c, err)
	}
	for _, name := range []string{"tmp", "locks"} {
		if got := list(t, filepath.Join(s.layers, name)); got != "" {
			t.Errorf("%s contains %q", name, got)
		}
	}
	if got := list(t, filepath.Join(s.layers, "stacks")); strings.Contains(got, ".tmp-") {
		t.Errorf("stacks contains %q", got)
	}
	if strings.Contains(list(t, s.layers), "fix-") {
		t.Errorf("a correction was left: %s", list(t, s.layers))
	}
	if _, err := s.View(b, nil); !errors.Is(err, ErrNotUnpacked) {
		t.Errorf("view of a removed layer: %v", err)
	}
	if got := own(t, root); got != "base tmp used" {
		t.Errorf("the container's root contains %q", got)
	}
	pinned := unpack(t, s, archiveOf(t, file("pinned", "")))
	if err := s.Pin(t.Context(), "c", pinned); err != nil {
		t.Fatal(err)
	}
	if c, err := s.RemoveLayer(t.Context(), append(a, pinned...)...); err != nil || len(c.Layers) != 0 {
		t.Errorf("removed %+v under a container, %v", c, err)
	}
	if err := s.Remove(t.Context(), "c"); err != nil {
		t.Fatal(err)
	}
	if c, err := s.Collect(t.Context(), CollectOptions{}, keep); err != nil || len(c.Layers) != 3 {
		t.Errorf("collected %+v, %v", c, err)
	}
}

// withBlobs returns a store of layers with the blobs that they come from, and the
// layer of an archive, unpacked.
func withBlobs(t *testing.T, archive []byte) (*Store, *content.Store, []content.Layer) {
	t.Helper()
	root := t.TempDir()
	blobs, err := content.Open(root)
	if err != nil {
		t.Fatal(err)
	}
	lease, err := blobs.Lease(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { lease.Close() })
	d, err := blobs.Put(t.Context(), lease, archive)
	if err != nil {
		t.Fatal(err)
	}
	layers := []content.Layer{{Digest: d, DiffID: d, Size: int64(len(archive))}}
	s, err := Open(root)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Unpack(t.Context(), layers, blobs); err != nil {
		t.Fatal(err)
	}
	return s, blobs, layers
}

// damageInfo leaves nothing readable of what is known about a layer.
func damageInfo(t *testing.T, s *Store, d digest.Digest) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(s.layerDir(d), infoFile), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestLayerOfWhichNothingIsKnown(t *testing.T) {
	needRoot(t)
	s, blobs, layers := withBlobs(t, archiveOf(t, file("f", "content"), dir("d", 0)))
	other := unpack(t, s, archiveOf(t, file("g", "content")))
	damageInfo(t, s, layers[0].DiffID)
	if all, err := s.Layers(); err == nil || !strings.Contains(err.Error(), "--repair") || len(all) != 1 || all[0].DiffID != other[0] {
		t.Errorf("layers %+v, %v", all, err)
	}
	root := container(t, s, "c", []digest.Digest{layers[0].DiffID})
	check := func(repair bool) []Problem {
		t.Helper()
		problems, err := s.Check(t.Context(), layers, blobs, CheckOptions{Repair: repair, Running: func(string) bool { return true }})
		if err != nil {
			t.Fatal(err)
		}
		return problems
	}
	if p := check(false); len(p) != 1 || p[0].Repaired != "" {
		t.Errorf("problems %v", p)
	}
	// Its files are right, so a container that runs does not matter.
	if p := check(true); len(p) != 1 || p[0].Repaired == "" {
		t.Errorf("repaired %v", p)
	}
	if p := check(false); len(p) != 0 {
		t.Errorf("after the repair: %v", p)
	}
	if got := own(t, root); got != "d f" {
		t.Errorf("the container's root contains %q", got)
	}
	damageInfo(t, s, layers[0].DiffID)
	damageInfo(t, s, other[0])
	c, err := s.Collect(t.Context(), CollectOptions{}, func() (map[digest.Digest]bool, error) { return nil, nil })
	if err != nil || !slices.Equal(c.Layers, other) || c.Bytes == 0 {
		t.Errorf("collected %+v, %v", c, err)
	}
}

func TestCheckFindsChangedLayers(t *testing.T) {
	needRoot(t)
	s, blobs, layers := withBlobs(t, archiveOf(t, dir("d", 0), file("d/f", "content"), file("d/.wh.x", ""), symlink("l", "d"), file("i/f", "")))
	d := layers[0].DiffID
	if problems, err := s.Check(t.Context(), layers, blobs, CheckOptions{}); err != nil || len(problems) != 0 {
		t.Fatalf("problems %v, %v", problems, err)
	}
	f := filepath.Join(s.layerDir(d), "fs/d/f")
	st := lstat(t, f)
	if err := os.WriteFile(f, []byte("c0ntent"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := unix.UtimesNanoAt(unix.AT_FDCWD, f, []unix.Timespec{st.Mtim, st.Mtim}, 0); err != nil {
		t.Fatal(err)
	}
	problems, err := s.Check(t.Context(), layers, blobs, CheckOptions{})
	if err != nil || len(problems) != 1 || !strings.Contains(problems[0].Err.Error(), "content of /d/f") {
		t.Fatalf("problems %v, %v", problems, err)
	}
	if _, err := s.RemoveLayer(t.Context(), d); err != nil {
		t.Fatal(err)
	}
	if err := s.Unpack(t.Context(), layers, blobs); err != nil {
		t.Fatal(err)
	}
	if problems, err := s.Check(t.Context(), layers, blobs, CheckOptions{}); err != nil || len(problems) != 0 {
		t.Fatalf("after unpacking again: %v, %v", problems, err)
	}
}
