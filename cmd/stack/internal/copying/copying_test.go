package copying

import (
	"archive/tar"
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// dirRemote is a container whose file system is a directory of this machine.
type dirRemote string

func (d dirRemote) Read(ctx context.Context, name string, follow bool, w io.Writer) error {
	p := filepath.Join(string(d), name)
	if real, err := filepath.EvalSymlinks(p); follow && err == nil {
		p = real
	}
	info, err := os.Lstat(p)
	if err != nil {
		return err
	}
	base := filepath.Base(filepath.Clean("/" + name))
	if onlyContent(name) || base == "/" {
		base = "."
	}
	return pack(ctx, w, p, info, base)
}

func (d dirRemote) Write(_ context.Context, dir string, r io.Reader, _ bool) error {
	root, err := os.OpenRoot(filepath.Join(string(d), dir))
	if err != nil {
		return err
	}
	defer root.Close()
	u := unpacker{root: root, old: ".", name: "."}
	tr := tar.NewReader(r)
	for {
		h, err := tr.Next()
		if err == io.EOF {
			return u.finish()
		}
		if err != nil {
			return err
		}
		if err := u.entry(h, tr); err != nil {
			return err
		}
	}
}

// tree makes the files, whose names end with / for directories.
func tree(t *testing.T, names ...string) string {
	t.Helper()
	dir := t.TempDir()
	for _, n := range names {
		p := filepath.Join(dir, n)
		os.MkdirAll(filepath.Dir(p), 0o755)
		if strings.HasSuffix(n, "/") {
			os.MkdirAll(p, 0o755)
			continue
		}
		if err := os.WriteFile(p, []byte(n), 0o640); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func list(t *testing.T, dir string) []string {
	var names []string
	err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if p != dir {
			rel, _ := filepath.Rel(dir, p)
			if d.IsDir() {
				rel += "/"
			}
			names = append(names, rel)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return names
}

func TestRules(t *testing.T) {
	for _, test := range []struct {
		source, destination string
		have, want          []string // at the destination
		fails               string
	}{
		{source: "f", destination: "new", want: []string{"new"}},
		{source: "f", destination: "dir", have: []string{"dir/"}, want: []string{"dir/", "dir/f"}},
		{source: "f", destination: "dir/", have: []string{"dir/"}, want: []string{"dir/", "dir/f"}},
		{source: "f", destination: "old", have: []string{"old"}, want: []string{"old"}},
		{source: "f", destination: "no/", fails: "no such directory"},
		{source: "f", destination: "no/x", fails: "no such file or directory"},
		{source: "d", destination: "new", want: []string{"new/", "new/e/", "new/e/g"}},
		{source: "d", destination: "dir", have: []string{"dir/x"}, want: []string{"dir/", "dir/d/", "dir/d/e/", "dir/d/e/g", "dir/x"}},
		{source: "d/.", destination: "dir", have: []string{"dir/x"}, want: []string{"dir/", "dir/e/", "dir/e/g", "dir/x"}},
		{source: "d/.", destination: "new", want: []string{"new/", "new/e/", "new/e/g"}},
		{source: "d", destination: "old", have: []string{"old"}, fails: "cannot copy a directory to the file"},
		{source: "none", destination: "dir", have: []string{"dir/"}, fails: "no such file or directory"},
	} {
		name := test.source + " to " + test.destination + " of " + strings.Join(test.have, ",")
		check := func(t *testing.T, dst string, err error) {
			if test.fails != "" {
				if err == nil || !strings.Contains(err.Error(), test.fails) {
					t.Fatalf("error %v, want %q", err, test.fails)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if got := list(t, dst); !slices.Equal(got, test.want) {
				t.Errorf("got %q, want %q", got, test.want)
			}
		}
		t.Run("to/"+name, func(t *testing.T) {
			src, dst := tree(t, "f", "d/e/g"), tree(t, test.have...)
			check(t, dst, To(t.Context(), dirRemote(dst), src+"/"+test.source, "/"+test.destination, Options{}))
		})
		t.Run("from/"+name, func(t *testing.T) {
			src, dst := tree(t, "f", "d/e/g"), tree(t, test.have...)
			check(t, dst, From(t.Context(), dirRemote(src), "/"+test.source, dst+"/"+test.destination, Options{}))
		})
	}
}

// A container must not be able to write outside of the destination.
func TestLinksAreFollowed(t *testing.T) {
	link := func(t *testing.T, in, name, target string) {
		t.Helper()
		if err := os.Symlink(target, filepath.Join(in, name)); err != nil {
			t.Fatal(err)
		}
	}
	read := func(t *testing.T, elements ...string) string {
		t.Helper()
		data, err := os.ReadFile(filepath.Join(elements...))
		if err != nil {
			t.Error(err)
		}
		return string(data)
	}
	t.Run("the content of a directory behind a link comes out", func(t *testing.T) {
		box, out := tree(t, "dir/f"), t.TempDir()
		link(t, box, "link", "dir")
		if err := From(t.Context(), dirRemote(box), "/link/.", out, Options{}); err != nil {
			t.Fatal(err)
		}
		if got := read(t, out, "f"); got != "dir/f" {
			t.Errorf("%q", got)
		}
	})
	t.Run("what a link leads to is written, and the link stays", func(t *testing.T) {
		box, in := tree(t, "dir/old"), tree(t, "new")
		link(t, box, "file", "dir/second")
		link(t, box, "dir/second", "/dir/old")
		link(t, box, "dangling", "dir/made")
		link(t, box, "loop", "loop")
		for _, name := range []string{"/file", "/dangling"} {
			if err := To(t.Context(), dirRemote(box), in+"/new", name, Options{}); err != nil {
				t.Fatal(name, err)
			}
		}
		if got := read(t, box, "dir/old") + " " + read(t, box, "dir/made"); got != "new new" {
			t.Errorf("%q", got)
		}
		if target, err := os.Readlink(box + "/file"); err != nil || target != "dir/second" {
			t.Errorf("%q, %v", target, err)
		}
		if err := To(t.Context(), dirRemote(box), in+"/new", "/loop", Options{}); !errors.Is(err, unix.ELOOP) {
			t.Errorf("got %v", err)
		}
	})
}

func TestFromStaysInside(t *testing.T) {
	outside := t.TempDir()
	for name, headers := range map[string][]*tar.Header{
		"dots": {{Name: "d/", Typeflag: tar.TypeDir, Mode: 0o755}, {Name: "d/../../x", Typeflag: tar.TypeReg, Mode: 0o644}},
		"link": {
			{Name: "d/", Typeflag: tar.TypeDir, Mode: 0o755},
			{Name: "d/l", Typeflag: tar.TypeSymlink, Linkname: outside},
			{Name: "d/l/x", Typeflag: tar.TypeReg, Mode: 0o644},
		},
	} {
		t.Run(name, func(t *testing.T) {
			dst := t.TempDir()
			err := From(t.Context(), headersRemote(headers), "/d", filepath.Join(dst, "new"), Options{})
			if _, statErr := os.Stat(filepath.Join(outside, "x")); !errors.Is(statErr, fs.ErrNotExist) {
				t.Fatal("a file was written outside")
			}
			if _, statErr := os.Stat(filepath.Join(filepath.Dir(dst), "x")); !errors.Is(statErr, fs.ErrNotExist) {
				t.Fatal("a file was written above")
			}
			if name == "link" && err == nil {
				t.Error("no error")
			}
		})
	}
}

type headersRemote []*tar.Header

func (r headersRemote) Read(_ context.Context, _ string, _ bool, w io.Writer) error {
	tw := tar.NewWriter(w)
	for _, h := range r {
		if err := tw.WriteHeader(h); err != nil {
			return err
		}
	}
	return tw.Close()
}

func (headersRemote) Write(context.Context, string, io.Reader, bool) error { return nil }
