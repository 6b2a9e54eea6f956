package copytree

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// describe lists a tree: each path with what is to be the same in a copy.
func describe(t *testing.T, root string) string {
	t.Helper()
	var b strings.Builder
	err := filepath.WalkDir(root, func(p string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		var st unix.Stat_t
		if err := unix.Lstat(p, &st); err != nil {
			return err
		}
		rel, _ := filepath.Rel(root, p)
		fmt.Fprintf(&b, "%s %o %d:%d %d %v", rel, st.Mode, st.Uid, st.Gid, st.Rdev, st.Mtim)
		note := make([]byte, 10)
		if n, err := unix.Lgetxattr(p, "user.note", note); err == nil {
			fmt.Fprintf(&b, " note %q", note[:n])
		}
		switch {
		case e.Type() == fs.ModeSymlink:
			target, err := os.Readlink(p)
			fmt.Fprintln(&b, " ->", target)
			return err
		case e.Type().IsRegular():
			data, err := os.ReadFile(p)
			fmt.Fprintf(&b, " %d links %d bytes %x\n", st.Nlink, len(data), bytes.TrimLeft(data, "\x00"))
			return err
		}
		fmt.Fprintln(&b)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func TestCopy(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: changes owners")
	}
	must := func(errs ...error) {
		t.Helper()
		for _, err := range errs {
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	from := t.TempDir()
	at := func(name string) string { return filepath.Join(from, name) }
	must(
		os.WriteFile(at("owned"), []byte("x"), 0o640), os.Chown(at("owned"), 999, 998), os.Chmod(at("owned"), os.ModeSetuid|0o640),
		unix.Setxattr(at("owned"), "user.note", []byte("hi"), 0), unix.Setxattr(at("owned"), "trusted.overlay.note", []byte("no"), 0),
		os.Link(at("owned"), at("twin")),
		os.Mkdir(at("sub"), 0o700), os.Symlink("../../etc/passwd", at("sub/l")), os.Symlink("/etc", at("out")), os.Lchown(at("out"), 7, 7),
		unix.Mkfifo(at("fifo"), 0o600), os.WriteFile(at("text"), bytes.Repeat([]byte("text"), 500), 0o644),
		os.WriteFile(at("hole"), []byte("start"), 0o644), os.Truncate(at("hole"), 4<<20),
		os.Chown(from, 999, 0), os.Chmod(from, os.ModeSetgid|0o750),
	)
	src, err := os.Open(from)
	must(err)
	defer src.Close()
	to := t.TempDir()
	must(os.Mkdir(to+"/text", 0o700), os.WriteFile(to+"/text/x", nil, 0o600), os.Symlink("/etc", to+"/sub"))
	for round := range 2 { // the second replaces what the first made
		must(Copy(t.Context(), src, to))
		if want, got := describe(t, from), describe(t, to); got != want {
			t.Errorf("round %d: got\n%s\nwant\n%s", round, got, want)
		}
	}
	var st unix.Stat_t
	must(unix.Lstat(to+"/hole", &st))
	if st.Blocks*512 > 1<<20 {
		t.Errorf("the hole takes %d blocks", st.Blocks)
	}
	if _, err := unix.Lgetxattr(to+"/owned", "trusted.overlay.note", nil); !errors.Is(err, unix.ENODATA) {
		t.Errorf("overlayfs' own attribute was copied: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := Copy(ctx, src, to); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

func TestCopyLive(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: sets trusted attributes")
	}
	from, to := t.TempDir(), t.TempDir()
	if err := os.Mkdir(from+"/upper", 0o755); err != nil {
		t.Fatal(err)
	}
	if err := unix.Setxattr(from+"/upper", "trusted.overlay.opaque", []byte("y"), 0); err != nil {
		t.Fatal(err)
	}
	src, err := os.Open(from)
	if err != nil {
		t.Fatal(err)
	}
	defer src.Close()
	stop, done := make(chan struct{}), make(chan struct{})
	go func() { // a file with two names that come and go
		defer close(done)
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
			}
			a, b := filepath.Join(from, "a"), filepath.Join(from, "b")
			os.WriteFile(a+".new", fmt.Append(nil, i), 0o600)
			os.Link(a+".new", b+".new")
			os.Rename(a+".new", a)
			os.Rename(b+".new", b)
			os.Remove(a)
		}
	}()
	for range 200 {
		if err := CopyLive(t.Context(), src, to); err != nil {
			t.Error(err)
			break
		}
	}
	close(stop)
	<-done
	if _, err := unix.Lgetxattr(to+"/upper", "trusted.overlay.opaque", make([]byte, 1)); err != nil {
		t.Errorf("an attribute of another engine's overlay is gone: %v", err)
	}
}
