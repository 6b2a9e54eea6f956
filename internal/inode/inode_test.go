package inode

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

func TestChangesGoToWhatIsOpen(t *testing.T) {
	dir := t.TempDir()
	secret := filepath.Join(dir, "secret")
	if err := os.WriteFile(secret, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("secret", filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mkfifo(filepath.Join(dir, "fifo"), 0o600); err != nil {
		t.Fatal(err)
	}
	d, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	at := int(d.Fd())
	if _, err := Open(at, "link", unix.S_IFDIR); err == nil || err.Error() != "open link: it is a symbolic link, not a directory" {
		t.Errorf("a link as a directory: %v", err)
	}
	if _, err := Open(at, "none", unix.S_IFREG); !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
	when := []unix.Timespec{{Sec: 1000}, {Sec: 2000}}
	link, err := Open(at, "link", unix.S_IFLNK)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(link)
	if err := SetTimes(link, when); err != nil {
		t.Error(err)
	}
	if err := Chmod(link, 0o777); err == nil {
		t.Error("a link got a mode")
	}
	if os.Geteuid() == 0 {
		if err := Chown(link, 12, 34); err != nil {
			t.Error(err)
		}
	}
	fifo, err := Open(at, "fifo", unix.S_IFIFO)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fifo)
	if err := errors.Join(Chmod(fifo, 0o640), SetTimes(fifo, when)); err != nil {
		t.Error(err)
	}
	var st unix.Stat_t
	if err := unix.Lstat(filepath.Join(dir, "fifo"), &st); err != nil || st.Mode&0o7777 != 0o640 || st.Mtim.Sec != 2000 {
		t.Errorf("%o %d, %v", st.Mode, st.Mtim.Sec, err)
	}
	if err := unix.Lstat(secret, &st); err != nil || st.Mode&0o7777 != 0o600 || st.Mtim.Sec == 2000 || st.Uid == 12 {
		t.Errorf("the link's target changed: %+v, %v", st, err)
	}
}

func TestOpenPlainFollowsNoLink(t *testing.T) {
	dir := t.TempDir()
	for _, err := range []error{
		os.MkdirAll(filepath.Join(dir, "real/d"), 0o755), os.WriteFile(filepath.Join(dir, "real/d/f"), nil, 0o644),
		os.Symlink("real", filepath.Join(dir, "link")), os.Symlink("f", filepath.Join(dir, "real/d/to-f")),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	for name, kind := range map[string]uint32{"real/d": unix.S_IFDIR, "real/d/f": unix.S_IFREG, "real/d/to-f": unix.S_IFLNK, "link": unix.S_IFLNK} {
		fd, err := OpenPlain(filepath.Join(dir, name))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		var st unix.Stat_t
		if err := unix.Fstat(fd, &st); err != nil || st.Mode&unix.S_IFMT != kind {
			t.Errorf("%s is %o, %v", name, st.Mode, err)
		}
		if to, err := Readlink(fd); kind == unix.S_IFLNK && (err != nil || to == "") {
			t.Errorf("%s leads to %q, %v", name, to, err)
		}
		unix.Close(fd)
	}
	for _, name := range []string{"link/d", "link/d/f", "none"} {
		if _, err := OpenPlain(filepath.Join(dir, name)); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
