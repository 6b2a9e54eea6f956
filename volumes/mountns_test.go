package volumes

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: makes mounts")
	}
}

// rootFS makes a detached mount that stands for a container's root. Names that
// end in "/" are directories, "path=content" files.
func rootFS(t *testing.T, entries ...string) *os.File {
	t.Helper()
	f, err := filesystem{kind: "tmpfs", source: "tmpfs", data: []string{"mode=0755"}}.mount()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	for _, e := range entries {
		name, content, isFile := strings.Cut(e, "=")
		path := filepath.Join(mountPath(f), name)
		if !isFile {
			if err := os.MkdirAll(path, 0o755); err != nil {
				t.Fatal(err)
			}
			continue
		}
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		write(t, path, content)
	}
	return f
}

// inContainer attaches root and the mounts in a mount namespace of its own, as
// a container's process does, and calls check there with the path of the root.
func inContainer(t *testing.T, root *os.File, r *Resolved, check func(root string)) {
	t.Helper()
	dir := t.TempDir()
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // the thread and its namespace end here
		done <- func() error {
			if err := unix.Unshare(unix.CLONE_FS | unix.CLONE_NEWNS); err != nil {
				return err
			}
			if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
				return err
			}
			if err := unix.MoveMount(int(root.Fd()), "", unix.AT_FDCWD, dir, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
				return err
			}
			for _, m := range r.Mounts {
				path := filepath.Join(dir, m.Target)
				at := path
				if m.IsFile {
					at = filepath.Dir(path)
				}
				if err := os.MkdirAll(at, 0o755); err != nil {
					return err
				}
				if _, err := os.Stat(path); m.IsFile && err != nil {
					if err := os.WriteFile(path, nil, 0o644); err != nil {
						return err
					}
				}
				if err := unix.MoveMount(int(m.FD.Fd()), "", unix.AT_FDCWD, path, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
					return fmt.Errorf("attach %s: %w", m.Target, err)
				}
			}
			check(dir)
			return nil
		}()
	}()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

func resolve(t *testing.T, s *Store, req Request) *Resolved {
	t.Helper()
	r, err := s.Resolve(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close() })
	return r
}

func read(t *testing.T, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Error(err)
	}
	return string(data)
}

// perms prints mode and owner: "0644 0:0".
func perms(t *testing.T, path string) string {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		t.Errorf("stat %s: %v", path, err)
	}
	return fmt.Sprintf("%04o %d:%d", st.Mode&0o7777, st.Uid, st.Gid)
}

func mountFlags(t *testing.T, path string) string {
	t.Helper()
	var st unix.Statfs_t
	if err := unix.Statfs(path, &st); err != nil {
		t.Errorf("statfs %s: %v", path, err)
	}
	var words []string
	for _, f := range []struct {
		bit  int64
		name string
	}{{unix.ST_RDONLY, "ro"}, {unix.ST_NOSUID, "nosuid"}, {unix.ST_NODEV, "nodev"}, {unix.ST_NOEXEC, "noexec"}} {
		if st.Flags&f.bit != 0 {
			words = append(words, f.name)
		}
	}
	return strings.Join(words, ",")
}
