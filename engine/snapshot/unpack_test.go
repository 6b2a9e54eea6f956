package snapshot

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"
)

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

	f, err := s.View(layers, nil)
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
	f, err := s.View(unpack(t, s, base, top), nil)
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
	f, err = s.View(unpack(t, s, base, top, again), nil)
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
	f, err := s.View(layers, nil)
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
	f, err = s.View(unpack(t, s, top), nil)
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
	)), nil)
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
		{"absolute hard link", []entry{hardlink("h", outside+"/secret")}, "not in this archive"},
		{"hard link through a link", []entry{symlink("l", outside), hardlink("h", "l/secret")}, "not in this archive"},
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

func TestLimitsDoNotOverflow(t *testing.T) {
	l := Limits{Bytes: 1 << 40}
	if l.checkBytes(1<<39, math.MaxInt64) == nil {
		t.Error("a file of 8 EiB fits beside others")
	}
	if err := l.checkBytes(1<<39, 1<<39); err != nil {
		t.Error(err)
	}
}

// TestNamesWithoutAnEnd is about archives that are small, and would have stack make
// directories, or remember names, until its memory is full.
func TestNamesWithoutAnEnd(t *testing.T) {
	needRoot(t)
	deep := strings.Repeat(strings.Repeat("d", 250)+"/", 12)
	for name, tt := range map[string]struct {
		entries []entry
		want    string // of the error; "" for success
	}{
		"a name as long as a path": {[]entry{file(strings.Repeat("d/", 480)+"f", "")}, ""},
		"a longer one":             {[]entry{file(strings.Repeat("d/", 1<<18)+"f", "")}, unix.ENAMETOOLONG.Error()},
		"a link to a longer one":   {[]entry{hardlink("h", strings.Repeat("d/", 1<<18)+"f")}, unix.ENAMETOOLONG.Error()},
		"a longer one by links":    {[]entry{symlink("l", deep), symlink(deep+"l", deep), file("l/l/f", "")}, unix.ENAMETOOLONG.Error()},
		"links there and back": {[]entry{
			symlink("l", strings.Repeat("d/../", 800)), file("l/l/l/f", ""),
		}, "leads through more than"},
		"more directories than entries may be": {[]entry{
			file("a/"+strings.Repeat("d/", 480)+"f", ""), file("b/"+strings.Repeat("d/", 480)+"f", ""), file("c/"+strings.Repeat("d/", 480)+"f", ""),
		}, "more than 1000 entries"},
	} {
		t.Run(name, func(t *testing.T) {
			began := cpuTime(t)
			err := unpackBelow(t, filepath.Join(t.TempDir(), "root"), archiveOf(t, tt.entries...))
			if tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
				t.Errorf("got %v, want %q", err, tt.want)
			}
			if err != nil && len(err.Error()) > 30<<10 {
				t.Errorf("the error has %d bytes", len(err.Error()))
			}
			if spent := cpuTime(t) - began; spent > 10*time.Second {
				t.Errorf("it took %v", spent)
			}
		})
	}
}

// TestImpliedDirectoriesThatAreReplaced has directories that no entry names go with
// one above them, and come again.
func TestImpliedDirectoriesThatAreReplaced(t *testing.T) {
	needRoot(t)
	s := store(t)
	layers := unpack(t, s, archiveOf(t, dir(".", 0), file("a/b/c/f", ""), file("a", ""), file("x/y/f", ""), file("x", ""), dir("x", 0), file("x/y/f", ""),
		file("u/v/w/f", ""), file("u/v", ""), dir("u/v", 0), dir("u/v/w", 0), file("l/m/f", ""), symlink("l", "u")))
	info, err := s.Layer(layers[0])
	if want := []string{"u", "x/y"}; err != nil || !slices.Equal(info.Implied, want) {
		t.Errorf("implied are %q, %v, want %q", info.Implied, err, want)
	}
}
