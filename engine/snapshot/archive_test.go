package snapshot

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// entries lists an archive: one line for each entry, with what it says.
func entries(t *testing.T, archive []byte) []string {
	t.Helper()
	var out []string
	for r := tar.NewReader(bytes.NewReader(archive)); ; {
		h, err := r.Next()
		if err == io.EOF {
			return out
		}
		if err != nil {
			t.Fatal(err)
		}
		line := fmt.Sprintf("%c %s %o %d:%d", h.Typeflag, h.Name, h.Mode, h.Uid, h.Gid)
		if h.Linkname != "" {
			line += " -> " + h.Linkname
		}
		for key, value := range h.PAXRecords {
			if strings.HasPrefix(key, xattrRecord) {
				line += " " + strings.TrimPrefix(key, xattrRecord) + "=" + value
			}
		}
		data, _ := io.ReadAll(r)
		out = append(out, strings.TrimSpace(line+" "+string(data)))
	}
}

func TestArchives(t *testing.T) {
	needRoot(t)
	s := store(t)
	layers := unpack(t, s, archiveOf(t, dir("./", 0o755), file("kept", "k"), file("gone", "g"), dir("d", 0), file("d/old", "o"), dir("dev", 0)))
	root := container(t, s, "c", layers)
	must := func(errs ...error) {
		t.Helper()
		for _, err := range errs {
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	at := func(name string) string { return filepath.Join(root, name) }
	must(
		os.Remove(at("gone")),
		os.RemoveAll(at("d")), os.Mkdir(at("d"), 0o750), os.WriteFile(at("d/new"), []byte("n"), 0o644),
		os.Chown(at("d/new"), 12, 34), os.Chmod(at("d/new"), os.ModeSetuid|0o755), unix.Lsetxattr(at("d/new"), "user.note", []byte("hi"), 0),
		os.Link(at("d/new"), at("hard")), os.Symlink("/not/../here", at("soft")), os.Lchown(at("soft"), 7, 7),
		unix.Lsetxattr(at("soft"), "trusted.note", []byte("ho"), 0),
		unix.Mkfifo(at("fifo"), 0o600), unix.Mknod(at("null"), unix.S_IFCHR|0o644, int(unix.Mkdev(1, 3))),
		unix.Mknod(at("socket"), unix.S_IFSOCK|0o600, 0),
		os.WriteFile(at("dev/console"), nil, 0o600),
	)
	var b bytes.Buffer
	must(s.ArchiveChanges(t.Context(), "c", []string{"/dev"}, &b))
	changes := bytes.Clone(b.Bytes())
	want := []string{
		"5 ./ 755 0:0",
		"5 d/ 750 0:0", "0 d/.wh..wh..opq 600 0:0", "0 d/new 4755 12:34 user.note=hi n",
		"6 fifo 600 0:0", "0 .wh.gone 600 0:0", "1 hard 4755 12:34 -> d/new", "3 null 644 0:0",
		"2 soft 777 7:7 -> /not/../here trusted.note=ho",
	}
	if got := entries(t, changes); !slices.Equal(got, want) {
		t.Errorf("changes:\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	b.Reset()
	must(s.ArchiveRoot(t.Context(), "c", &b))
	want = []string{
		"5 ./ 755 0:0", "5 d/ 750 0:0", "0 d/new 4755 12:34 user.note=hi n", "5 dev/ 755 0:0", "0 dev/console 600 0:0",
		"5 etc/ 755 0:0", "0 etc/hostname 644 0:0", "0 etc/hosts 644 0:0", "0 etc/resolv.conf 644 0:0",
		"6 fifo 600 0:0", "1 hard 4755 12:34 -> d/new", "0 kept 644 0:0 k", "3 null 644 0:0", "5 proc/ 755 0:0",
		"2 soft 777 7:7 -> /not/../here trusted.note=ho", "5 sys/ 755 0:0",
	}
	if got := entries(t, b.Bytes()); !slices.Equal(got, want) {
		t.Errorf("root:\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	// The container's own mount did not suffer, and the layer makes what it saw.
	must(os.WriteFile(at("kept"), []byte("written after"), 0o644), os.Remove(at("kept")))
	all := append(layers, unpack(t, s, changes)...)
	if err := s.makeStack(t.Context(), all); err != nil {
		t.Fatal(err)
	}
	f, err := s.View(all, nil)
	made := mounted(t, f, err)
	if got := list(t, made) + ", " + list(t, filepath.Join(made, "d")); got != "d dev fifo hard kept null soft, new" {
		t.Errorf("the layer makes %q", got)
	}
}
