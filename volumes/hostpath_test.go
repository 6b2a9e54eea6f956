package volumes

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

func ownerOf(t *testing.T, path string) int {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		t.Fatal(err)
	}
	return int(st.Uid)
}

// Whoever owns the directory in which a bind's source is made moves what was made
// aside and puts something else there, at each step.
func TestBindSourceThatIsReplacedWhileItIsMade(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	const user = 1234
	replace := map[string]func(t *testing.T, path, victims string) error{
		"a link": func(_ *testing.T, path, victims string) error { return os.Symlink(victims, path) },
		"a link to what is protected": func(_ *testing.T, path, victims string) error {
			return os.Symlink(filepath.Join(victims, "config"), path)
		},
		"a directory of ours": func(_ *testing.T, path, victims string) error { return os.Rename(victims, path) },
		"a file":              func(_ *testing.T, path, _ string) error { return os.WriteFile(path, nil, 0o644) },
	}
	for what, put := range replace {
		for _, step := range []string{"app", "config"} {
			t.Run(what+" in place of "+step, func(t *testing.T) {
				root := t.TempDir()
				home, victims := filepath.Join(root, "home"), filepath.Join(root, "victims")
				for _, dir := range []string{home, victims} {
					if err := os.Mkdir(dir, 0o755); err != nil {
						t.Fatal(err)
					}
				}
				secret := filepath.Join(victims, "config")
				if err := os.WriteFile(secret, []byte("x"), 0o600); err != nil {
					t.Fatal(err)
				}
				if err := os.Chown(home, user, user); err != nil {
					t.Fatal(err)
				}
				moved := victims
				afterMkdir = func(path string) {
					if filepath.Base(path) != step {
						return
					}
					if err := os.Rename(path, path+".aside"); err != nil {
						t.Error(err)
					}
					if err := put(t, path, victims); err != nil {
						t.Error(err)
					}
					if what == "a directory of ours" {
						moved = path
					}
				}
				defer func() { afterMkdir = nil }()
				f, _, err := createHostPath(filepath.Join(home, "app", "config"), 0, 0)
				if err == nil {
					f.Close()
					t.Error("it is bound")
				}
				for _, path := range []string{moved, filepath.Join(moved, "config")} {
					if ownerOf(t, path) != 0 {
						t.Errorf("%s belongs to the user", path)
					}
				}
				if entries, _ := os.ReadDir(moved); len(entries) != 1 {
					t.Errorf("made where it must not be: %v", entries)
				}
			})
		}
	}
}

func TestBindSourceIsMade(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	home := t.TempDir()
	if err := os.Chown(home, 1234, 1234); err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(home, "a", "b")
	f, owner, err := createHostPath(dir, 70, 70)
	if err != nil || owner != "70:70" {
		t.Fatal(owner, err)
	}
	defer f.Close()
	if ownerOf(t, filepath.Dir(dir)) != 1234 || ownerOf(t, dir) != 70 {
		t.Error("wrong owners")
	}
	// The next one finds it.
	again, owner, err := createHostPath(dir, 70, 70)
	if err != nil || owner != "another container's user" {
		t.Fatal(owner, err)
	}
	again.Close()
}

func TestSetOnTreeFollowsNoLink(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	root := t.TempDir()
	tree, outside := filepath.Join(root, "tree"), filepath.Join(root, "outside")
	for _, dir := range []string{filepath.Join(tree, "sub"), outside} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for path, target := range map[string]string{filepath.Join(tree, "sub", "link"): outside, filepath.Join(tree, "link"): "sub"} {
		if err := os.Symlink(target, path); err != nil {
			t.Fatal(err)
		}
	}
	file := filepath.Join(tree, "sub", "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	fd, err := unix.Open(tree, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	const name = "trusted.label"
	if err := setOnTree(fd, tree, name, "x"); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]bool{tree: true, file: true, filepath.Dir(file): true, outside: false} {
		value := make([]byte, 8)
		n, err := unix.Lgetxattr(path, name, value)
		if got := err == nil && string(value[:n]) == "x"; got != want {
			t.Errorf("%s: %t, %v", path, got, err)
		}
	}
}
