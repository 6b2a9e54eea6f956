package engine

import (
	"os"
	"path/filepath"
	"testing"
)

// What containers write is out of the reach of other users, who could run the
// set-user-ID programs among it.
func TestRootsAreClosedToOthers(t *testing.T) {
	mode := func(p string) os.FileMode {
		t.Helper()
		fi, err := os.Stat(p)
		if err != nil {
			t.Fatal(err)
		}
		return fi.Mode().Perm()
	}
	dir := t.TempDir()
	old := filepath.Join(dir, "old")
	if err := os.Mkdir(old, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(old, 0o755); err != nil {
		t.Fatal(err)
	}
	private := filepath.Join(dir, "private")
	if err := os.Mkdir(private, 0o700); err != nil {
		t.Fatal(err)
	}
	for _, o := range []Options{
		{DataRoot: filepath.Join(dir, "data"), RunRoot: filepath.Join(dir, "run")},
		{DataRoot: old, RunRoot: private},
	} {
		if _, err := Open(o); err != nil {
			t.Fatal(err)
		}
		for _, p := range []string{o.DataRoot, o.RunRoot} {
			if m := mode(p); m&0o007 != 0 {
				t.Errorf("%s has mode %o", p, m)
			}
		}
	}
	if m := mode(private); m != 0o700 {
		t.Errorf("a stricter mode became %o", m)
	}
	if _, err := Open(Options{DataRoot: "/", RunRoot: private}); err == nil {
		t.Error("the file system's root was taken")
	}
}
