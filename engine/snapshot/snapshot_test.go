package snapshot

import (
	"archive/tar"
	"bytes"
	"context"
	"io"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"
)

func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: mounts overlayfs and makes devices")
	}
}

var when = time.Unix(1_000_000_000, 123_456_789)

// archiveOf makes a tar archive; the headers get a time, a mode and a length.
func archiveOf(t testing.TB, entries ...entry) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, e := range entries {
		h := e.Header
		h.Format, h.ModTime, h.Size = tar.FormatPAX, when, int64(len(e.data))
		if h.Mode == 0 {
			h.Mode = 0o644
			if h.Typeflag == tar.TypeDir {
				h.Mode = 0o755
			}
		}
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, e.data); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

type entry struct {
	tar.Header
	data string
}

func file(name, data string) entry {
	return entry{tar.Header{Typeflag: tar.TypeReg, Name: name}, data}
}

func dir(name string, mode int64) entry {
	return entry{tar.Header{Typeflag: tar.TypeDir, Name: name, Mode: mode}, ""}
}

func symlink(name, target string) entry {
	return entry{tar.Header{Typeflag: tar.TypeSymlink, Name: name, Linkname: target}, ""}
}

func hardlink(name, target string) entry {
	return entry{tar.Header{Typeflag: tar.TypeLink, Name: name, Linkname: target}, ""}
}

func store(t testing.TB) *Store {
	t.Helper()
	s, err := Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func reader(data []byte) func() (io.ReadCloser, error) {
	return func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(data)), nil }
}

// unpack unpacks archives as the layers of one image, lowest first.
func unpack(t testing.TB, s *Store, archives ...[]byte) []digest.Digest {
	t.Helper()
	var ids []digest.Digest
	for _, a := range archives {
		d := digest.FromBytes(a)
		if err := s.UnpackLayer(context.Background(), d, reader(a)); err != nil {
			t.Fatal(err)
		}
		ids = append(ids, d)
	}
	if err := s.makeStack(context.Background(), ids); err != nil {
		t.Fatal(err)
	}
	return ids
}

// mounted is where a detached mount can be looked at.
func mounted(t testing.TB, f *os.File, err error) string {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return procPath(int(f.Fd()))
}

func container(t testing.TB, s *Store, id string, layers []digest.Digest) string {
	t.Helper()
	if err := s.Prepare(context.Background(), id, layers); err != nil {
		t.Fatal(err)
	}
	f, err := s.Mount(id, MountOptions{})
	return mounted(t, f, err)
}

// list returns the names in a directory.
func list(t testing.TB, dir string) string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return strings.Join(names, " ")
}

func read(t testing.TB, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// own lists a container's root without what there is in every container's.
func own(t testing.TB, root string) string {
	t.Helper()
	return strings.Join(slices.DeleteFunc(strings.Fields(list(t, root)), func(name string) bool {
		return name == "etc" || IsMountPoint("/"+name)
	}), " ")
}

func lstat(t testing.TB, path string) unix.Stat_t {
	t.Helper()
	var st unix.Stat_t
	if strings.HasPrefix(path, "/proc/self/fd/") && strings.Count(path, "/") == 4 {
		path += "/." // the root of a mount, not the link to it
	}
	if err := unix.Lstat(path, &st); err != nil {
		t.Fatalf("%s: %v", path, err)
	}
	return st
}
