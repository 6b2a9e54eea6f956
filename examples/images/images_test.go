package images

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// extracted is a stream as mmdebstrap writes it.
func extracted(t *testing.T, headers ...tar.Header) *bytes.Buffer {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, h := range headers {
		text := ""
		if h.Typeflag == tar.TypeReg {
			text = "content of " + h.Name
			if strings.HasSuffix(h.Name, ".master") {
				text = "root:*:0:0:root:/root:/bin/bash\n"
			}
		}
		h.Size = int64(len(text))
		if h.Mode == 0 {
			h.Mode = 0o755
		}
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		io.WriteString(w, text)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return &b
}

func dirEntry(name string) tar.Header  { return tar.Header{Name: name, Typeflag: tar.TypeDir} }
func fileEntry(name string) tar.Header { return tar.Header{Name: name, Typeflag: tar.TypeReg} }

// list reads a tar: path → what is there.
func list(t *testing.T, r io.Reader) map[string]string {
	t.Helper()
	m := map[string]string{}
	tr := tar.NewReader(r)
	for {
		h, err := tr.Next()
		if err == io.EOF {
			return m
		}
		if err != nil {
			t.Fatal(err)
		}
		if _, twice := m[h.Name]; twice {
			t.Errorf("%s is there twice", h.Name)
		}
		switch h.Typeflag {
		case tar.TypeDir:
			m[h.Name] = fmt.Sprintf("%o %d", h.Mode, h.Uid)
		case tar.TypeSymlink, tar.TypeLink:
			m[h.Name] = "-> " + h.Linkname
		default:
			b, err := io.ReadAll(tr)
			if err != nil {
				t.Fatal(err)
			}
			m[h.Name] = string(b)
		}
	}
}

func TestFilter(t *testing.T) {
	in := extracted(t,
		dirEntry("./"), dirEntry("./bin/"), fileEntry("./bin/sh"), dirEntry("./usr/"), dirEntry("./usr/lib/"),
		dirEntry("./lib/"), dirEntry("./lib/x86_64-linux-gnu/"), fileEntry("./lib/x86_64-linux-gnu/libc.so.6"),
		dirEntry("./usr/lib/x86_64-linux-gnu/"), fileEntry("./usr/lib/x86_64-linux-gnu/libLLVM-14.so.1"),
		tar.Header{Name: "./lib/hard", Typeflag: tar.TypeLink, Linkname: "./bin/sh"},
		fileEntry("./usr/share/doc/x/copyright"), fileEntry("./usr/share/base-passwd/passwd.master"),
		fileEntry("./usr/share/base-passwd/group.master"), fileEntry("./etc/replaced"), fileEntry("./dev/null"),
		dirEntry("./data/"),
	)
	r := Recipe{
		Drop:  []string{"usr/lib/*/libLLVM-*"},
		Users: []User{{"app", 999, "/data"}},
		Dirs:  []Dir{{"data", 0o700, 999}},
		Files: map[string]File{"etc/replaced": {Text: "new", Mode: 0o644}},
		Links: map[string]string{"usr/bin/psql": "/opt/psql"},
	}
	var out bytes.Buffer
	if err := r.filter(in, &out); err != nil {
		t.Fatal(err)
	}
	got := list(t, &out)
	for path, want := range map[string]string{
		"usr/bin/sh":                         "content of ./bin/sh",
		"bin":                                "-> usr/bin",
		"lib":                                "-> usr/lib",
		"usr/lib/x86_64-linux-gnu/libc.so.6": "content of ./lib/x86_64-linux-gnu/libc.so.6",
		"usr/lib/hard":                       "-> usr/bin/sh",
		"usr/bin/psql":                       "-> /opt/psql",
		"etc/replaced":                       "new",
		"etc/passwd":                         "root:x:0:0:root:/root:/bin/bash\napp:x:999:999::/data:/usr/sbin/nologin\n",
		"data/":                              "700 999",
		"dev/":                               "755 0",
	} {
		if got[path] != want {
			t.Errorf("%s is %q, must be %q", path, got[path], want)
		}
	}
	for _, gone := range []string{"usr/lib/x86_64-linux-gnu/libLLVM-14.so.1", "usr/share/doc/x/copyright", "dev/null"} {
		if _, ok := got[gone]; ok {
			t.Errorf("%s must be left out", gone)
		}
	}
}

func TestKey(t *testing.T) {
	a := Redis()
	b := Redis()
	b.Ref, b.Changes = "other:1", []string{"CMD x"}
	if a.key("amd64") != b.key("amd64") {
		t.Error("a reference and a configuration do not change the files")
	}
	b.Packages = append(b.Packages, "curl")
	if a.key("amd64") == b.key("amd64") || a.key("amd64") == a.key("arm64") {
		t.Error("packages and the architecture do")
	}
}

func TestCacheMakesOnce(t *testing.T) {
	c := Cache{Dir: filepath.Join(t.TempDir(), "cache")}
	var mu sync.Mutex
	made := 0
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			path, err := c.once(t.Context(), "x", func(w io.Writer) error {
				mu.Lock()
				defer mu.Unlock()
				made++
				_, err := io.WriteString(w, "tar")
				return err
			})
			if err != nil {
				t.Error(err)
				return
			}
			if b, err := os.ReadFile(path); err != nil || string(b) != "tar" {
				t.Errorf("%q %v", b, err)
			}
		})
	}
	wg.Wait()
	if made != 1 {
		t.Errorf("made %d times", made)
	}
}

func TestCacheForgetsWhatFailed(t *testing.T) {
	c := Cache{Dir: t.TempDir()}
	boom := errors.New("boom")
	_, err := c.once(context.Background(), "x", func(w io.Writer) error {
		io.WriteString(w, "half")
		return boom
	})
	if !errors.Is(err, boom) {
		t.Errorf("got %v", err)
	}
	files, err := filepath.Glob(filepath.Join(c.Dir, "*.tar"))
	if err != nil || len(files) != 0 {
		t.Errorf("left %v %v", files, err)
	}
}
