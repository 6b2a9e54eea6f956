package snapshot

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// addArchives gives a fuzzer what it begins with.
func addArchives(f *testing.F) {
	for _, entries := range unpackSeeds() {
		f.Add(archiveOf(f, entries...))
	}
	f.Add(sparseArchive(f))
}

// besideSecret is a directory to unpack in, and one in it that must not change.
func besideSecret(t *testing.T) (base, outside string) {
	base = t.TempDir()
	outside = filepath.Join(base, "outside")
	if err := os.Mkdir(outside, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(outside+"/secret", []byte("secret"), 0o644); err != nil {
		t.Fatal(err)
	}
	return base, outside
}

// FuzzUnpack unpacks any archive: nothing outside the root may change, what unpacks
// must unpack again to the same tree, within its limits, and no archive says anything
// to overlayfs but by whiteouts. It ends in a time that its length bounds, and leaves
// no descriptor open.
func FuzzUnpack(f *testing.F) {
	if os.Geteuid() != 0 {
		f.Skip("needs root: makes devices and changes owners")
	}
	addArchives(f)
	f.Fuzz(func(t *testing.T, archive []byte) {
		mendChecksums(archive)
		base, outside := besideSecret(t)
		before, open, began := describe(t, outside), descriptors(t), cpuTime(t)
		err := unpackBelow(t, filepath.Join(base, "one"), archive)
		if spent := cpuTime(t) - began; spent > 10*time.Second {
			t.Fatalf("%d bytes took %v", len(archive), spent)
		}
		if now := descriptors(t); now != open {
			t.Fatalf("%d descriptors were open and %d are now", open, now)
		}
		checkTree(t, filepath.Join(base, "one"))
		if after := describe(t, outside); after != before {
			t.Fatalf("outside was\n%s\nand now is\n%s", before, after)
		}
		if got := list(t, base); got != "one outside" {
			t.Fatalf("beside the root there is %q", got)
		}
		if again := unpackBelow(t, filepath.Join(base, "two"), archive); (err == nil) != (again == nil) {
			t.Fatalf("first %v, then %v", err, again)
		}
		if err != nil {
			if strings.TrimSpace(err.Error()) == "" || len(err.Error()) > 3*unix.PathMax*len(`\x00`) {
				t.Fatalf("an error of %d bytes", len(err.Error()))
			}
			return
		}
		if err := compareTrees(t.Context(), base+"/one", base+"/two", ".", "trusted.overlay."); err != nil {
			t.Fatalf("unpacked twice: %v", err)
		}
	})
}

// fuzzLimits are what an archive may unpack to here.
var fuzzLimits = Limits{Bytes: 16 << 20, Entries: 1000}

// checkTree looks for what no archive may bring about.
func checkTree(t *testing.T, root string) {
	var bytes int64
	entries := 0
	seen := map[uint64]bool{}
	err := filepath.WalkDir(root, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		entries++
		st := lstat(t, path)
		if st.Mode&unix.S_IFMT == unix.S_IFREG && !seen[st.Ino] {
			seen[st.Ino] = true
			bytes += st.Size
		}
		x, err := readXattrs(path)
		for name, value := range x {
			overlay := strings.HasPrefix(name, "trusted.overlay.") || strings.HasPrefix(name, "user.overlay.")
			if overlay && (name != "trusted.overlay.opaque" || value != "y" || st.Mode&unix.S_IFMT != unix.S_IFDIR) {
				t.Errorf("%s has %s=%q", path, name, value)
			}
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if bytes > fuzzLimits.Bytes || entries > fuzzLimits.Entries+1 {
		t.Errorf("there are %d files with %d bytes, more than the limits", entries, bytes)
	}
}

// descriptors is how many files this process has open.
func descriptors(t *testing.T) int {
	all, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(all)
}

// cpuTime is what this process has used, which does not depend on what else runs on
// the machine.
func cpuTime(t *testing.T) time.Duration {
	var use unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &use); err != nil {
		t.Fatal(err)
	}
	return time.Duration(use.Utime.Nano() + use.Stime.Nano())
}

// unpackBelow unpacks archive to the new directory dir.
func unpackBelow(t *testing.T, dir string, archive []byte) error {
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	u, err := newUnpacker(dir, "trusted.overlay.", fuzzLimits)
	if err != nil {
		t.Fatal(err)
	}
	err = u.unpack(t.Context(), bytes.NewReader(archive))
	if err := u.close(); err != nil {
		t.Fatal(err)
	}
	for _, name := range u.info.Implied {
		if err != nil {
			break
		}
		if st := lstat(t, filepath.Join(dir, name)); st.Mode&unix.S_IFMT != unix.S_IFDIR {
			t.Fatalf("the implied directory %q is none", name)
		}
	}
	return err
}

// describe tells all about a tree that an archive might change.
func describe(t *testing.T, root string) string {
	var b strings.Builder
	err := filepath.WalkDir(root, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		st := lstat(t, path)
		x, err := readXattrs(path)
		fmt.Fprintln(&b, path, st.Ino, st.Mode, st.Nlink, st.Uid, st.Gid, st.Size, st.Mtim, st.Ctim, x)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return b.String() + read(t, root+"/secret")
}

// mendChecksums makes the checksums of headers right, where there would be
// headers, so that a change to one is not merely refused.
func mendChecksums(archive []byte) {
	const block, sum, size = 512, 148, 124
	for at := 0; at+block <= len(archive); at += block {
		h := archive[at : at+block]
		if allZero(h) {
			return
		}
		copy(h[sum:], "        ")
		total := 0
		for _, c := range h {
			total += int(c)
		}
		copy(h[sum:], fmt.Sprintf("%06o\x00 ", total))
		length, err := strconv.ParseInt(strings.Trim(string(h[size:size+11]), " \x00"), 8, 64)
		if err != nil || length < 0 || length > int64(len(archive)) {
			return
		}
		at += (int(length) + block - 1) / block * block
	}
}

func unpackSeeds() [][]entry {
	up := strings.Repeat("../", 20)
	xattrs := file("x", "x")
	xattrs.PAXRecords = map[string]string{
		"SCHILY.xattr.user.note": "hi", "SCHILY.xattr.trusted.overlay.opaque": "y", "SCHILY.xattr.security.capability": "\x01\x00\x00\x02",
	}
	onLink := symlink("xl", "x")
	onLink.PAXRecords = map[string]string{"SCHILY.xattr.trusted.note": "hi"}
	setuid := file("su", "su")
	setuid.Mode, setuid.Uid, setuid.Gid = 0o6755, 1000, 42
	device := func(kind byte, name string) entry {
		return entry{tar.Header{Typeflag: kind, Name: name, Devmajor: 1, Devminor: 3}, ""}
	}
	return [][]entry{
		{file(up+"outside/pwned", ""), file("a/../../outside/pwned", ""), file("/outside/pwned", "")},
		{symlink("l", "../outside"), file("l/pwned", ""), file("l", "pwned"), dir("l", 0o777), file("l/.wh.secret", ""), file("l/.wh..wh..opq", "")},
		{symlink("a", "/"), symlink("b", "a/outside"), file("b/pwned", ""), symlink("c", "c"), file("c/x", "")},
		{hardlink("h", "../outside/secret"), file("h", "pwned")},
		{symlink("l", "../outside"), hardlink("h", "l/secret"), hardlink("k", "/outside/secret")},
		{dir("d", 0), file("d/f", "f"), hardlink("h", "d/f"), hardlink("h", "d/f"), hardlink("d", "h"), file("f", ""), file("f/x", "")},
		{device(tar.TypeChar, "null"), device(tar.TypeBlock, "disk"), device(tar.TypeFifo, "fifo"), hardlink("n", "null"), file("null/x", "")},
		{file("f", "old"), file("f", "new"), dir("f", 0), file("f/x", "x"), file("f", "again"), symlink("f", "."), dir("./", 0o711), dir("d", 0), dir("d", 0o700)},
		{dir("a", 0), file("a/.wh.1", ""), file(".wh.a", ""), file("a/2", ""), file("a/.wh..wh..opq", ""), file(".wh..", ""), file(".wh..wh.plnk", "")},
		{file(".wh.d", ""), dir("d", 0), file("d/x", ""), file(".wh.e", ""), file("e/f/g", ""), hardlink("h", ".wh.e")},
		{file(strings.Repeat("n", 300), ""), file(strings.Repeat("d/", 400)+"f", "deep"), symlink("long", strings.Repeat("t", 5000))},
		{file(strings.Repeat("d/", 3000)+"f", ""), file("x", "")},
		{dir(strings.Repeat("d/", 1500), 0), symlink("l", strings.Repeat("d/", 1500)), file(strings.Repeat("l/", 3)+"f", ""), file(strings.Repeat("l/../", 700)+"f", "")},
		{file("a/b/c", ""), file("a", ""), file("a/b", ""), dir("a", 0), file("a/b/c/d", ""), file(".wh.e", ""), file("e/f", ""), file("e", ""), dir("e", 0)},
		{xattrs, onLink, setuid, hardlink("y", "x"), file("zeros", strings.Repeat("\x00", 8192)+"end")},
	}
}

// sparseArchive has a file in GNU tar's format 1.0 for sparse files: the content
// begins with a map, of a hole of 8192 bytes and then 3 of content.
func sparseArchive(t testing.TB) []byte {
	sparse := file("GNUSparseFile.0/s", fmt.Sprintf("%-512s", "1\n8192\n3\n")+"end")
	// archive/tar writes no such records, but reads them: they take the place
	// of ones of the same length.
	sparse.PAXRecords = map[string]string{"ANY.sparse.major": "1", "ANY.sparse.minor": "0", "ANY.sparse.name": "s", "ANY.sparse.realsize": "8195"}
	archive := archiveOf(t, sparse)
	for _, key := range []string{"major", "minor", "name", "realsize"} {
		archive = bytes.Replace(archive, []byte("ANY.sparse."+key), []byte("GNU.sparse."+key), 1)
	}
	return archive
}

func TestSparseFile(t *testing.T) {
	needRoot(t)
	root := filepath.Join(t.TempDir(), "root")
	if err := unpackBelow(t, root, sparseArchive(t)); err != nil {
		t.Fatal(err)
	}
	if got := read(t, root+"/s"); got != strings.Repeat("\x00", 8192)+"end" {
		t.Errorf("the sparse file is %q", got)
	}
}
