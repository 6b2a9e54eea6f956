package snapshot

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"github.com/stack-run/stack/volumes/copytree"
)

// borrower makes a directory where the builder has its snapshots.
func borrower(t *testing.T, s *Store, name string) string {
	t.Helper()
	dir := filepath.Join(filepath.Dir(s.layers), "build/snapshots/snapshots", name, "fs")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

func TestLentLayersStay(t *testing.T) {
	needRoot(t)
	s := store(t)
	d := unpack(t, s, archiveOf(t, file("base", "x")))[0]
	one, two := borrower(t, s, "1"), borrower(t, s, "2")
	if err := os.WriteFile(filepath.Join(one, "base"), []byte("x"), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{one, two} {
		if err := s.Lend(t.Context(), d, dir); err != nil {
			t.Fatal(err)
		}
		if got := list(t, dir); got != "base" {
			t.Errorf("%s has %q", dir, got)
		}
		if got := list(t, filepath.Dir(dir)); got != "fs" {
			t.Errorf("beside the link is %q", got)
		}
	}
	keep := func() (map[digest.Digest]bool, error) { return nil, nil }
	for _, gone := range []string{one, two} {
		if c, err := s.Collect(t.Context(), CollectOptions{}, keep); err != nil || len(c.Layers) != 0 {
			t.Fatalf("collected %+v of what is lent, %v", c, err)
		}
		if err := os.RemoveAll(filepath.Dir(gone)); err != nil {
			t.Fatal(err)
		}
	}
	if c, err := s.Collect(t.Context(), CollectOptions{}, keep); err != nil || len(c.Layers) != 1 {
		t.Errorf("collected %+v once nobody has it, %v", c, err)
	}
	if err := s.Lend(t.Context(), d, borrower(t, s, "3")); !errors.Is(err, ErrNotUnpacked) {
		t.Errorf("lent a layer that is gone: %v", err)
	}
}

func TestLendLooksAtImpliedDirectories(t *testing.T) {
	needRoot(t)
	s := store(t)
	layer := unpack(t, s, archiveOf(t, file("tmp/x", "x")))[0]
	lower := func(mode os.FileMode) string {
		root := t.TempDir()
		if err := errors.Join(os.Mkdir(root+"/tmp", 0o755), os.Chmod(root+"/tmp", mode)); err != nil {
			t.Fatal(err)
		}
		return root
	}
	unlike, private := borrower(t, s, "1"), borrower(t, s, "2")
	if err := s.Lend(t.Context(), layer, unlike, lower(0o755|os.ModeSticky), lower(0o755)); !errors.Is(err, ErrUnlike) {
		t.Errorf("its /tmp is not that below: %v", err)
	}
	if err := os.Chmod(private, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := s.Lend(t.Context(), layer, private); !errors.Is(err, ErrUnlike) {
		t.Errorf("its root is not that of the directory: %v", err)
	}
	for _, dir := range []string{unlike, private} {
		if fi, err := os.Lstat(dir); err != nil || !fi.IsDir() {
			t.Errorf("the directory is %v, %v", fi, err)
		}
	}
	for name, below := range map[string][]string{"3": nil, "4": {t.TempDir(), lower(0o755)}} {
		if err := s.Lend(t.Context(), layer, borrower(t, s, name), below...); err != nil {
			t.Errorf("on %v: %v", below, err)
		}
	}
}

func TestLendSame(t *testing.T) {
	needRoot(t)
	s := store(t)
	layer := unpack(t, s, archiveOf(t, dir("d", 0o755), file("d/f", "content"), symlink("d/l", "f"), hardlink("d/h", "d/f"), file(".wh.gone", "")))[0]
	tree := s.dirPath(layer.Encoded())
	// The directory that the archive was made of: overlayfs leaves notes of its own.
	fresh := func(name string) string {
		t.Helper()
		to := borrower(t, s, name)
		from, err := os.Open(tree)
		if err != nil {
			t.Fatal(err)
		}
		defer from.Close()
		if err := copytree.Copy(t.Context(), from, to); err != nil {
			t.Fatal(err)
		}
		if err := unix.Lsetxattr(to+"/d", s.xattr+"opaque", []byte("y"), 0); err != nil {
			t.Fatal(err)
		}
		// A file was put into a directory of a layer below, and removed again.
		if err := os.Mkdir(to+"/etc", 0o755); err != nil {
			t.Fatal(err)
		}
		half := time.Unix(lstat(t, to+"/d/f").Mtim.Sec, 500_000_000)
		if err := os.Chtimes(to+"/d/f", half, half); err != nil {
			t.Fatal(err)
		}
		return to
	}
	same := fresh("same")
	if err := s.LendSame(t.Context(), layer, same); err != nil {
		t.Fatal(err)
	}
	if to, err := os.Readlink(same); err != nil || filepath.Join(filepath.Dir(same), to) != tree {
		t.Errorf("it leads to %q, %v", to, err)
	}
	for name, change := range map[string]func(dir string) error{
		"a file more":        func(dir string) error { return os.WriteFile(dir+"/d/more", nil, 0o644) },
		"a file less":        func(dir string) error { return os.Remove(dir + "/d/l") },
		"another mode":       func(dir string) error { return os.Chmod(dir+"/d/f", 0o600) },
		"another owner":      func(dir string) error { return os.Chown(dir+"/d", 1, 0) },
		"another time":       func(dir string) error { return os.Chtimes(dir+"/d/f", time.Now(), time.Now()) },
		"another length":     func(dir string) error { return os.Truncate(dir+"/d/f", 1) },
		"an attribute":       func(dir string) error { return unix.Lsetxattr(dir+"/d/f", "user.x", []byte("y"), 0) },
		"a hidden directory": func(dir string) error { return unix.Lsetxattr(dir+"/etc", s.xattr+"opaque", []byte("y"), 0) },
		"a private root":     func(dir string) error { return os.Chmod(dir, 0o700) },
		"another target":     func(dir string) error { return errors.Join(os.Remove(dir+"/d/l"), os.Symlink("g", dir+"/d/l")) },
		"a file of its own": func(dir string) error {
			return errors.Join(os.Remove(dir+"/d/h"), os.WriteFile(dir+"/d/h", []byte("content"), 0o644))
		},
		"no deletion": func(dir string) error { return errors.Join(os.Remove(dir+"/gone"), os.WriteFile(dir+"/gone", nil, 0)) },
	} {
		to := fresh(name)
		if err := change(to); err != nil {
			t.Fatal(err)
		}
		if err := s.LendSame(t.Context(), layer, to); !errors.Is(err, ErrUnlike) {
			t.Errorf("with %s: %v", name, err)
		}
		if fi, err := os.Lstat(to); err != nil || !fi.IsDir() {
			t.Errorf("with %s the directory is %v, %v", name, fi, err)
		}
	}
}
