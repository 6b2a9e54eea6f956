package engine

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
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

// A container may put anything where its image has a list of users.
func TestAListOfUsersThatIsNoFile(t *testing.T) {
	dir := t.TempDir()
	if err := errors.Join(os.Mkdir(filepath.Join(dir, "etc"), 0o755), unix.Mkfifo(filepath.Join(dir, "etc/passwd"), 0o644)); err != nil {
		t.Fatal(err)
	}
	// Somebody has it open and writes nothing.
	silent, err := os.OpenFile(filepath.Join(dir, "etc/passwd"), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	root, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	if _, err := readIn(root, "etc/passwd"); err == nil || err.Error() != "/etc/passwd of the image is no file" {
		t.Errorf("got %v", err)
	}
}
