package snapshot

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"github.com/stack-run/stack/engine/content"
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

func TestAttributesSurvive(t *testing.T) {
	needRoot(t)
	s := store(t)
	caps := "\x01\x00\x00\x02\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00" // cap_net_bind_service=ep
	setuid := file("bin/su", "su")
	setuid.Mode, setuid.Uid, setuid.Gid = 0o4755, 0, 42
	owned := file("bin/ping", "ping")
	owned.Uid, owned.Gid = 1000, 100000
	owned.PAXRecords = map[string]string{
		"SCHILY.xattr.security.capability":    caps,
		"SCHILY.xattr.user.note":              "hi",
		"SCHILY.xattr.trusted.overlay.opaque": "y", // means nothing in an archive
	}
	null := entry{tar.Header{Typeflag: tar.TypeChar, Name: "dev/null", Mode: 0o666, Devmajor: 1, Devminor: 3}, ""}
	fifo := entry{tar.Header{Typeflag: tar.TypeFifo, Name: "run/fifo", Mode: 0o620}, ""}
	sticky := dir("tmp", 0o1777)
	linkOwned := symlink("bin/link", "su")
	linkOwned.Uid = 77
	layers := unpack(t, s, archiveOf(t, dir("./", 0o751), dir("bin/", 0o2755), setuid, owned, hardlink("bin/ping6", "bin/ping"),
		linkOwned, dir("dev", 0o755), null, dir("run", 0), fifo, sticky, file("bin/big", strings.Repeat("\x00", 1<<20)+"end")))

	f, err := s.View(layers)
	root := mounted(t, f, err)
	for _, want := range []struct {
		name     string
		mode     uint32
		uid, gid uint32
	}{
		{".", unix.S_IFDIR | 0o751, 0, 0},
		{"bin", unix.S_IFDIR | 0o2755, 0, 0},
		{"bin/su", unix.S_IFREG | 0o4755, 0, 42},
		{"bin/ping", unix.S_IFREG | 0o644, 1000, 100000},
		{"bin/link", unix.S_IFLNK | 0o777, 77, 0},
		{"dev/null", unix.S_IFCHR | 0o666, 0, 0},
		{"run/fifo", unix.S_IFIFO | 0o620, 0, 0},
		{"tmp", unix.S_IFDIR | 0o1777, 0, 0},
	} {
		st := lstat(t, filepath.Join(root, want.name))
		if st.Mode != want.mode || st.Uid != want.uid || st.Gid != want.gid {
			t.Errorf("%s: mode %o owner %d:%d, want %o %d:%d", want.name, st.Mode, st.Uid, st.Gid, want.mode, want.uid, want.gid)
		}
		if time.Unix(st.Mtim.Unix()) != when {
			t.Errorf("%s: time %v", want.name, time.Unix(st.Mtim.Unix()))
		}
	}
	if st := lstat(t, root+"/dev/null"); st.Rdev != unix.Mkdev(1, 3) {
		t.Errorf("dev/null is %x", st.Rdev)
	}
	if a, b := lstat(t, root+"/bin/ping"), lstat(t, root+"/bin/ping6"); a.Ino != b.Ino || a.Nlink != 2 {
		t.Errorf("hard link: inodes %d and %d, %d links", a.Ino, b.Ino, a.Nlink)
	}
	if st := lstat(t, root+"/bin/big"); st.Size != 1<<20+3 || st.Blocks*512 > 256<<10 {
		t.Errorf("sparse file has %d bytes in %d blocks", st.Size, st.Blocks)
	}
	x, err := readXattrs(root + "/bin/ping")
	if err != nil || len(x) != 2 || x["security.capability"] != caps || x["user.note"] != "hi" {
		t.Errorf("extended attributes %q, %v", x, err)
	}
	info, err := s.Layer(layers[0])
	if err != nil || info.Entries != 12 || len(info.Implied) != 0 || info.Disk == 0 {
		t.Errorf("layer info %+v, %v", info, err)
	}
}

func TestWhiteoutsAndOpaqueDirectories(t *testing.T) {
	needRoot(t)
	s := store(t)
	base := archiveOf(t, dir("a", 0), file("a/1", "one"), file("a/2", "two"), dir("b", 0), file("b/1", "one"), dir("c", 0), file("c/1", "one"),
		dir("d", 0), file("d/1", "one"), file("e", "e"), dir("f", 0), file("f/1", "one"))
	top := archiveOf(t,
		dir("a", 0), file("a/.wh.1", ""), file("a/3", "three"), // one file deleted
		dir("b", 0), file("b/.wh..wh..opq", ""), file("b/2", "two"), // content replaced
		file(".wh.c", ""),                                  // directory deleted
		file(".wh.d", ""), dir("d", 0), file("d/2", "two"), // deleted and made again
		file(".wh.e", ""), file("e", "new"), // file deleted and made again
		file("f/2", "two"), file(".wh.f", ""), // whiteout after the new content
		file(".wh..wh.plnk", ""), file(".wh.never", ""),
	)
	f, err := s.View(unpack(t, s, base, top))
	root := mounted(t, f, err)
	for name, want := range map[string]string{".": "a b d e f", "a": "2 3", "b": "2", "d": "2", "f": "2"} {
		if got := list(t, filepath.Join(root, name)); got != want {
			t.Errorf("%s contains %q, want %q", name, got, want)
		}
	}
	if got := read(t, root+"/e"); got != "new" {
		t.Errorf("e is %q", got)
	}
	again := archiveOf(t, file(".wh.a", ""), dir("c", 0), file("c/2", "two"), file(".wh.x", ""), file("x/y", "implied over a whiteout"))
	f, err = s.View(unpack(t, s, base, top, again))
	root = mounted(t, f, err)
	for name, want := range map[string]string{".": "b c d e f x", "c": "2"} {
		if got := list(t, filepath.Join(root, name)); got != want {
			t.Errorf("third layer: %s contains %q, want %q", name, got, want)
		}
	}
}

func TestImpliedDirectoriesTakeTheAttributesFromBelow(t *testing.T) {
	needRoot(t)
	s := store(t)
	home := dir("home/app", 0o750)
	home.Uid = 1000
	base := archiveOf(t, dir("./", 0o711), dir("tmp", 0o1777), dir("home", 0o755), home, dir("opt", 0o700), file("opt/old", ""))
	top := archiveOf(t, file("tmp/x", "x"), file("home/app/.cache/y", "y"), file("new/dir/z", "z"), file("opt/.wh..wh..opq", ""), file("opt/sub/n", "n"))
	layers := unpack(t, s, base, top)
	f, err := s.View(layers)
	root := mounted(t, f, err)
	for name, want := range map[string][2]uint32{
		".": {0o711, 0}, "tmp": {0o1777, 0}, "home": {0o755, 0}, "home/app": {0o750, 1000}, "home/app/.cache": {0o755, 0}, "new/dir": {0o755, 0}, "opt": {0o700, 0}, "opt/sub": {0o755, 0},
	} {
		st := lstat(t, filepath.Join(root, name))
		if st.Mode&0o7777 != want[0] || st.Uid != want[1] {
			t.Errorf("%s: mode %o owner %d, want %o %d", name, st.Mode&0o7777, st.Uid, want[0], want[1])
		}
	}
	if got := list(t, root+"/opt"); got != "sub" {
		t.Errorf("opt contains %q", got)
	}
	if got := read(t, root+"/tmp/x"); got != "x" {
		t.Errorf("tmp/x is %q", got)
	}
	rw := container(t, s, "c", layers)
	if st := lstat(t, rw); st.Mode&0o7777 != 0o711 {
		t.Errorf("root of the container has mode %o", st.Mode&0o7777)
	}
	// The layer itself is shared, and on its own has the defaults.
	f, err = s.View(unpack(t, s, top))
	alone := mounted(t, f, err)
	if st := lstat(t, alone+"/tmp"); st.Mode&0o7777 != 0o755 {
		t.Errorf("alone, tmp has mode %o", st.Mode&0o7777)
	}
}

func TestEntriesThatReplaceOthers(t *testing.T) {
	needRoot(t)
	s := store(t)
	f, err := s.View(unpack(t, s, archiveOf(t,
		file("f", "old"), file("f", "new"),
		dir("d", 0o700), file("d/x", "x"), dir("d", 0o755),
		dir("e", 0), file("e/x", "x"), file("e", "now a file"),
		symlink("l", "d"), dir("l", 0), file("l/own", ""),
		file("h", "h"), hardlink("h", "h"), hardlink("g", "h"), hardlink("g", "h"),
		dir("gone", 0), file("gone/x", ""), symlink("gone", "d"), file("gone/through", ""),
		symlink("abs", "/d"), file("abs/abs", ""), symlink("dangling", "/not/here"), file("dangling/x", ""),
	)))
	root := mounted(t, f, err)
	for name, want := range map[string]string{"d": "abs through x", "l": "own", "not/here": "x"} {
		if got := list(t, filepath.Join(root, name)); got != want {
			t.Errorf("%s contains %q, want %q", name, got, want)
		}
	}
	for name, want := range map[string]string{"f": "new", "e": "now a file", "g": "h"} {
		if got := read(t, filepath.Join(root, name)); got != want {
			t.Errorf("%s is %q, want %q", name, got, want)
		}
	}
	if st := lstat(t, root+"/d"); st.Mode&0o777 != 0o755 {
		t.Errorf("d has mode %o", st.Mode)
	}
}

func TestMaliciousArchivesStayInside(t *testing.T) {
	needRoot(t)
	outside := filepath.Join(t.TempDir(), "outside")
	if err := os.Mkdir(outside, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(outside+"/secret", []byte("secret"), 0o644); err != nil {
		t.Fatal(err)
	}
	up := strings.Repeat("../", 20)
	for _, test := range []struct {
		name    string
		entries []entry
		err     string // "" if it unpacks, harmlessly
	}{
		{"dot dot", []entry{file(up+outside+"/pwned", "")}, "leads out of the root"},
		{"dot dot inside", []entry{file("a/../../x", "")}, "leads out of the root"},
		{"absolute name", []entry{file(outside+"/pwned", "")}, ""},
		{"through absolute link", []entry{symlink("l", outside), file("l/pwned", "")}, ""},
		{"through relative link", []entry{symlink("l", up+outside), file("l/pwned", "")}, ""},
		{"through chained links", []entry{symlink("a", "/"), symlink("b", "a"+outside), file("b/pwned", "")}, ""},
		{"over a link to a file", []entry{symlink("l", outside+"/secret"), file("l", "pwned")}, ""},
		{"directory over a link", []entry{symlink("l", outside), dir("l", 0o777)}, ""},
		{"hard link outside", []entry{hardlink("h", up+outside+"/secret"), file("h", "pwned")}, "leads out of the root"},
		{"absolute hard link", []entry{hardlink("h", outside+"/secret")}, "not in this layer"},
		{"hard link through a link", []entry{symlink("l", outside), hardlink("h", "l/secret")}, "not in this layer"},
		{"hard link to a directory", []entry{dir("d", 0), hardlink("h", "d")}, "not permitted"},
		{"whiteout through a link", []entry{symlink("l", outside), file("l/.wh.secret", "")}, ""},
		{"whiteout of dot dot", []entry{file("d/.wh...", "")}, "needs the name"},
		{"whiteout of dot", []entry{file(".wh..", "")}, "needs the name"},
		{"whiteout of nothing", []entry{file("d/.wh.", "")}, "needs the name"},
		{"opaque through a link", []entry{symlink("l", outside), file("l/.wh..wh..opq", "")}, ""},
		{"link loop", []entry{symlink("a", "b"), symlink("b", "a"), file("a/x", "")}, "too many levels"},
		{"file as directory", []entry{file("f", ""), file("f/x", "")}, "not a directory"},
		{"root as link", []entry{symlink(".", outside)}, "must be a directory"},
		{"unknown type", []entry{{tar.Header{Typeflag: 'Z', Name: "z"}, ""}}, "unknown type"},
		{"long name", []entry{file(strings.Repeat("n", 300), "")}, "name too long"},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := store(t)
			a := archiveOf(t, test.entries...)
			err := s.UnpackLayer(t.Context(), digest.FromBytes(a), reader(a))
			if (test.err == "") != (err == nil) || err != nil && !strings.Contains(err.Error(), test.err) {
				t.Errorf("error %v, want %q", err, test.err)
			}
			if got := list(t, outside); got != "secret" {
				t.Fatalf("outside now contains %q", got)
			}
			if got := read(t, outside+"/secret"); got != "secret" {
				t.Fatalf("the file outside now is %q", got)
			}
			if err != nil {
				nothingLeft(t, s)
			}
		})
	}
}

// nothingLeft fails if a failed unpacking left anything.
func nothingLeft(t *testing.T, s *Store) {
	t.Helper()
	if got := list(t, s.layers); got != "empty locks stacks tmp" {
		t.Errorf("layers contains %q", got)
	}
	for _, name := range []string{"locks", "tmp"} {
		if got := list(t, filepath.Join(s.layers, name)); got != "" {
			t.Errorf("%s contains %q", name, got)
		}
	}
}

func TestDamagedArchivesAreRefused(t *testing.T) {
	needRoot(t)
	good := archiveOf(t, dir("d", 0), file("d/f", strings.Repeat("x", 10000)), file("g", "g"))
	d := digest.FromBytes(good)
	flipped := slices.Clone(good)
	flipped[4000] ^= 1 // in the content of d/f
	for name, test := range map[string]struct {
		data []byte
		err  string
	}{
		"truncated in a file":   {good[:5000], "truncated, in \"d/f\""},
		"truncated in a header": {good[:2560+100], "truncated"},
		"truncated at a header": {good[:1536], "diff ID"},
		"end marker missing":    {good[:len(good)-1024], "diff ID"},
		"more at the end":       {append(slices.Clone(good), 'x'), "diff ID"},
		"a bit flipped":         {flipped, "diff ID"},
		"not an archive":        {bytes.Repeat([]byte("text"), 1000), "cannot be read"},
	} {
		t.Run(name, func(t *testing.T) {
			s := store(t)
			err := s.UnpackLayer(t.Context(), d, reader(test.data))
			if err == nil || !strings.Contains(err.Error(), test.err) {
				t.Errorf("error %v, want %q", err, test.err)
			}
			nothingLeft(t, s)
		})
	}
}

func TestLimits(t *testing.T) {
	needRoot(t)
	s := store(t)
	s.Limits = Limits{Bytes: 3 << 20, Entries: 5}
	big := archiveOf(t, file("1", strings.Repeat("\x00", 2<<20)), file("2", strings.Repeat("\x00", 2<<20)))
	if err := s.UnpackLayer(t.Context(), digest.FromBytes(big), reader(big)); err == nil || !strings.Contains(err.Error(), "more than 3 MiB") {
		t.Errorf("bytes: %v", err)
	}
	var many []entry
	for i := range 6 {
		many = append(many, file(fmt.Sprint(i), ""))
	}
	a := archiveOf(t, many...)
	if err := s.UnpackLayer(t.Context(), digest.FromBytes(a), reader(a)); err == nil || !strings.Contains(err.Error(), "more than 5 entries") {
		t.Errorf("entries: %v", err)
	}
	nothingLeft(t, s)
}

func TestManyLayers(t *testing.T) {
	needRoot(t)
	s := store(t)
	var archives [][]byte
	for i := range 130 {
		archives = append(archives, archiveOf(t, dir("d", 0), file(fmt.Sprintf("d/%03d", i), fmt.Sprint(i)), file("last", fmt.Sprint(i))))
	}
	layers := unpack(t, s, archives...)
	for _, classic := range []bool{false, true} {
		t.Run(fmt.Sprintf("classic=%v", classic), func(t *testing.T) {
			s.noAppend.Store(classic)
			id := fmt.Sprintf("many-%v", classic)
			root := container(t, s, id, layers)
			if got := strings.Fields(list(t, root+"/d")); len(got) != 130 {
				t.Errorf("%d files of 130", len(got))
			}
			if got := read(t, root+"/last"); got != "129" {
				t.Errorf("last is %s", got)
			}
			if err := os.WriteFile(root+"/d/000", []byte("changed"), 0o644); err != nil {
				t.Fatal(err)
			}
			f, err := s.View(layers)
			view := mounted(t, f, err)
			if got := read(t, view+"/d/000"); got != "0" {
				t.Errorf("the image now has %q", got)
			}
		})
	}
}

func TestMountIsDetachedAndLeavesNothing(t *testing.T) {
	needRoot(t)
	s := store(t)
	layers := unpack(t, s, archiveOf(t, file("f", "f")))
	mounts := func() string { return read(t, "/proc/self/mountinfo") }
	before := mounts()
	for _, classic := range []bool{false, true} {
		s.noAppend.Store(classic)
		id := fmt.Sprintf("c-%v", classic)
		root := container(t, s, id, layers)
		if err := os.WriteFile(root+"/g", nil, 0o644); err != nil {
			t.Fatal(err)
		}
		if got := mounts(); got != before {
			t.Errorf("classic=%v: the mount shows:\n%s", classic, got)
		}
		f, err := s.Mount(id, MountOptions{ReadOnly: true})
		if err != nil {
			t.Fatalf("second mount of one writable layer: %v", err)
		}
		readOnly := mounted(t, f, nil)
		if err := os.WriteFile(readOnly+"/h", nil, 0o644); !errors.Is(err, unix.EROFS) {
			t.Errorf("classic=%v: writing to a read-only mount: %v", classic, err)
		}
		// It can be put where its user wants it.
		at := t.TempDir()
		if err := unix.MoveMount(int(f.Fd()), "", unix.AT_FDCWD, at, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
			t.Fatal(err)
		}
		if got := list(t, at); got != "f g" {
			t.Errorf("classic=%v: attached, it contains %q", classic, got)
		}
		if err := unix.Unmount(at, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	}
}

func TestPathsThatOverlayfsMisreads(t *testing.T) {
	needRoot(t)
	root := filepath.Join(t.TempDir(), `a:b,c\d`, strings.Repeat("long", 60))
	if err := os.MkdirAll(root, 0o755); err != nil {
		t.Fatal(err)
	}
	s, err := Open(root)
	if err != nil {
		t.Fatal(err)
	}
	layers := unpack(t, s, archiveOf(t, file("f", "f")), archiveOf(t, file("g", "g")))
	for _, classic := range []bool{false, true} {
		s.noAppend.Store(classic)
		at := container(t, s, fmt.Sprintf("c-%v", classic), layers)
		if got := list(t, at); got != "f g" {
			t.Errorf("classic=%v: %q", classic, got)
		}
		if err := os.WriteFile(at+"/h", nil, 0o644); err != nil {
			t.Error(err)
		}
	}
}

func TestImageWithoutLayers(t *testing.T) {
	needRoot(t)
	s := store(t)
	root := container(t, s, "c", nil)
	if err := os.WriteFile(root+"/f", []byte("f"), 0o644); err != nil {
		t.Fatal(err)
	}
	f, err := s.View(nil)
	if got := list(t, mounted(t, f, err)); got != "" {
		t.Errorf("view contains %q", got)
	}
}

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

func TestConcurrentUnpackHappensOnce(t *testing.T) {
	needRoot(t)
	root := t.TempDir()
	a := archiveOf(t, file("f", strings.Repeat("x", 1<<20)))
	var wg sync.WaitGroup
	opened := make(chan struct{}, 8)
	for range 8 {
		wg.Go(func() {
			s, err := Open(root)
			if err != nil {
				t.Error(err)
				return
			}
			err = s.UnpackLayer(t.Context(), digest.FromBytes(a), func() (io.ReadCloser, error) {
				opened <- struct{}{}
				return io.NopCloser(bytes.NewReader(a)), nil
			})
			if err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if len(opened) != 1 {
		t.Errorf("unpacked %d times", len(opened))
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
	keep := func() (map[digest.Digest]bool, error) { return nil, nil }
	c, err := s.Collect(t.Context(), true, keep)
	if err != nil || !slices.Equal(c.Layers, []digest.Digest{b[1]}) || c.Bytes == 0 {
		t.Errorf("dry run: %+v, %v", c, err)
	}
	if c, err = s.Collect(t.Context(), false, keep); err != nil || !slices.Equal(c.Layers, []digest.Digest{b[1]}) {
		t.Errorf("collected %+v, %v", c, err)
	}
	if got := list(t, filepath.Join(s.layers, "tmp")); got != "" {
		t.Errorf("tmp contains %q", got)
	}
	if strings.Contains(list(t, s.layers), "fix-") {
		t.Errorf("a correction was left: %s", list(t, s.layers))
	}
	if _, err := s.View(b); !errors.Is(err, ErrNotUnpacked) {
		t.Errorf("view of a removed layer: %v", err)
	}
	if got := list(t, root); got != "base tmp used" {
		t.Errorf("the container's root contains %q", got)
	}
	if c, err := s.RemoveLayer(t.Context(), a...); err != nil || len(c.Layers) != 0 {
		t.Errorf("removed %+v under a container, %v", c, err)
	}
	if err := s.Remove(t.Context(), "c"); err != nil {
		t.Fatal(err)
	}
	if c, err := s.Collect(t.Context(), false, keep); err != nil || len(c.Layers) != 2 {
		t.Errorf("collected %+v, %v", c, err)
	}
}

func TestCheckFindsChangedLayers(t *testing.T) {
	needRoot(t)
	root := t.TempDir()
	blobs, err := content.Open(root)
	if err != nil {
		t.Fatal(err)
	}
	lease, err := blobs.Lease(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer lease.Close()
	a := archiveOf(t, dir("d", 0), file("d/f", "content"), file("d/.wh.x", ""), symlink("l", "d"), file("i/f", ""))
	d, err := blobs.Put(t.Context(), lease, a)
	if err != nil {
		t.Fatal(err)
	}
	layers := []content.Layer{{Digest: d, DiffID: d, Size: int64(len(a))}}
	s, err := Open(root)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Unpack(t.Context(), layers, blobs); err != nil {
		t.Fatal(err)
	}
	if problems, err := s.Check(t.Context(), layers, blobs); err != nil || len(problems) != 0 {
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
	problems, err := s.Check(t.Context(), layers, blobs)
	if err != nil || len(problems) != 1 || !strings.Contains(problems[0].Err.Error(), "content of /d/f") {
		t.Fatalf("problems %v, %v", problems, err)
	}
	if _, err := s.RemoveLayer(t.Context(), d); err != nil {
		t.Fatal(err)
	}
	if err := s.Unpack(t.Context(), layers, blobs); err != nil {
		t.Fatal(err)
	}
	if problems, err := s.Check(t.Context(), layers, blobs); err != nil || len(problems) != 0 {
		t.Fatalf("after unpacking again: %v, %v", problems, err)
	}
}

func TestCopyTree(t *testing.T) {
	needRoot(t)
	s := store(t)
	owned := file("data/owned", "x")
	owned.Uid, owned.Gid, owned.Mode = 999, 998, 0o4640
	owned.PAXRecords = map[string]string{"SCHILY.xattr.user.note": "hi"}
	data := dir("data", 0o2750)
	data.Uid = 999
	layers := unpack(t, s, archiveOf(t, data, owned, hardlink("data/twin", "data/owned"), dir("data/sub", 0o700), symlink("data/sub/l", "../../etc/passwd"), symlink("data/out", "/etc"),
		entry{tar.Header{Typeflag: tar.TypeFifo, Name: "data/fifo", Mode: 0o600}, ""}, file("data/hole", strings.Repeat("\x00", 4<<20)+"end"), file("data/text", strings.Repeat("text", 50000))))
	f, err := s.View(layers)
	root := mounted(t, f, err)
	src, err := os.Open(root + "/data")
	if err != nil {
		t.Fatal(err)
	}
	defer src.Close()
	dst := t.TempDir()
	for round := range 2 { // the second replaces what the first made
		if err := CopyTree(t.Context(), src, dst); err != nil {
			t.Fatal(err)
		}
		if err := compareTrees(t.Context(), root+"/data", dst, ".", s.xattr); err != nil {
			t.Errorf("round %d: %v", round, err)
		}
	}
	if a, b := lstat(t, dst+"/owned"), lstat(t, dst+"/twin"); a.Ino != b.Ino {
		t.Error("hard link was not kept")
	}
	if st := lstat(t, dst+"/hole"); st.Blocks*512 > 1<<20 {
		t.Errorf("hole takes %d blocks", st.Blocks)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := CopyTree(ctx, src, dst); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled copy: %v", err)
	}
}

func BenchmarkMount(b *testing.B) {
	if os.Geteuid() != 0 {
		b.Skip("needs root")
	}
	for _, n := range []int{1, 8, 130} {
		b.Run(fmt.Sprintf("layers=%d", n), func(b *testing.B) {
			s := store(b)
			var archives [][]byte
			for i := range n {
				archives = append(archives, archiveOf(b, file(fmt.Sprint(i), "")))
			}
			if err := s.Prepare(b.Context(), "c", unpack(b, s, archives...)); err != nil {
				b.Fatal(err)
			}
			var mounting time.Duration
			for b.Loop() {
				start := time.Now()
				f, err := s.Mount("c", MountOptions{})
				if err != nil {
					b.Fatal(err)
				}
				mounting += time.Since(start)
				f.Close() // unmounting waits for an RCU grace period
			}
			b.ReportMetric(float64(mounting.Nanoseconds())/float64(b.N), "ns/mount")
		})
	}
}
