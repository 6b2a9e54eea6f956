package snapshot

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/stack-run/stack/engine/content/compression"
)

func extract(t *testing.T, archive []byte, o ExtractOptions) (string, Extracted, error) {
	t.Helper()
	dir := t.TempDir()
	got, err := Extract(t.Context(), dir, bytes.NewReader(archive), o)
	return dir, got, err
}

func tarOf(t *testing.T, headers ...*tar.Header) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, h := range headers {
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := io.Copy(w, io.LimitReader(zeros{}, h.Size)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}

func TestExtractTakesNoNameForAWhiteout(t *testing.T) {
	dir, got, err := extract(t, tarOf(t,
		&tar.Header{Typeflag: tar.TypeReg, Name: ".wh.kept", Mode: 0o600},
		&tar.Header{Typeflag: tar.TypeReg, Name: "d/.wh..wh..opq", Mode: 0o600},
		&tar.Header{Typeflag: tar.TypeReg, Name: "d/kept", Mode: 0o600},
	), ExtractOptions{})
	if err != nil || got.Entries != 3 {
		t.Fatal(got, err)
	}
	for _, name := range []string{".wh.kept", "d/.wh..wh..opq", "d/kept"} {
		if i, err := os.Lstat(filepath.Join(dir, name)); err != nil || !i.Mode().IsRegular() {
			t.Errorf("%s: %v, %v", name, i, err)
		}
	}
	if n, err := unix.Getxattr(filepath.Join(dir, "d"), "trusted.overlay.opaque", nil); err == nil {
		t.Errorf("the directory became opaque (%d bytes)", n)
	}
}

func TestExtractLeavesDevicesOut(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: makes devices")
	}
	archive := tarOf(t,
		&tar.Header{Typeflag: tar.TypeChar, Name: "mem", Mode: 0o666, Devmajor: 1, Devminor: 1},
		&tar.Header{Typeflag: tar.TypeBlock, Name: "disk", Mode: 0o666, Devmajor: 8},
		&tar.Header{Typeflag: tar.TypeFifo, Name: "pipe", Mode: 0o666},
	)
	dir, got, err := extract(t, archive, ExtractOptions{})
	if left, _ := os.ReadDir(dir); err != nil || got.Omitted != 2 || len(left) != 1 || left[0].Name() != "pipe" {
		t.Errorf("%+v, %v, %v", got, left, err)
	}
	dir, got, err = extract(t, archive, ExtractOptions{Devices: true})
	if left, _ := os.ReadDir(dir); err != nil || got.Omitted != 0 || len(left) != 3 {
		t.Errorf("%+v, %v, %v", got, left, err)
	}
}

func TestExtractSeesThatAnArchiveWasCutOff(t *testing.T) {
	whole := tarOf(t, &tar.Header{Typeflag: tar.TypeReg, Name: "a", Mode: 0o600, Size: 700}, &tar.Header{Typeflag: tar.TypeReg, Name: "b", Mode: 0o600})
	var packed bytes.Buffer
	z := compression.NewWriter(&packed)
	if _, err := z.Write(whole); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	for _, fine := range [][]byte{whole, append(bytes.Clone(whole), make([]byte, 9000)...), whole[:len(whole)-512], packed.Bytes()} {
		if _, _, err := extract(t, fine, ExtractOptions{}); err != nil {
			t.Errorf("%d bytes: %v", len(fine), err)
		}
	}
	for name, bad := range map[string][]byte{
		"nothing": nil, "only the end": make([]byte, 1024), "no tar": []byte(strings.Repeat("text ", 1000)),
		"the end is missing": whole[:len(whole)-1024], "in a file": whole[:1000], "in a header": whole[:300],
		"another follows": append(bytes.Clone(whole), whole...), "a bomb follows": append(bytes.Clone(whole), make([]byte, maxPadding+1)...),
		"the checksum is missing": packed.Bytes()[:packed.Len()-4],
	} {
		if _, got, err := extract(t, bad, ExtractOptions{}); err == nil {
			t.Errorf("%s: %+v", name, got)
		}
	}
}

func TestExtractIsBounded(t *testing.T) {
	many := tarOf(t, &tar.Header{Typeflag: tar.TypeDir, Name: "a/b/c/d", Mode: 0o700})
	if _, _, err := extract(t, many, ExtractOptions{Limits: Limits{Entries: 3}}); err == nil || !strings.Contains(err.Error(), "entries") {
		t.Error(err)
	}
	big := tarOf(t, &tar.Header{Typeflag: tar.TypeReg, Name: "a", Mode: 0o600, Size: 1 << 20})
	if _, _, err := extract(t, big, ExtractOptions{Limits: Limits{Bytes: 1 << 19}}); err == nil || !strings.Contains(err.Error(), "MiB") {
		t.Error(err)
	}
	// What never comes does not hold the caller up.
	ctx, cancel := context.WithCancelCause(t.Context())
	r, w := io.Pipe()
	defer w.Close()
	go cancel(errors.New("enough"))
	if _, err := Extract(ctx, t.TempDir(), r, ExtractOptions{}); err == nil || err.Error() != "enough" {
		t.Error(err)
	}
}

// FuzzExtract extracts any archive, of any compression: nothing outside the directory
// may change, nothing exceeds the limits, no device is made, and what was extracted is
// extracted again to the same tree.
func FuzzExtract(f *testing.F) {
	if os.Geteuid() != 0 {
		f.Skip("needs root: changes owners")
	}
	addArchives(f)
	f.Fuzz(func(t *testing.T, archive []byte) {
		mendChecksums(archive)
		base, outside := besideSecret(t)
		before, open := describe(t, outside), descriptors(t)
		extracted := func(name string) error {
			dir := filepath.Join(base, name)
			if err := os.Mkdir(dir, 0o755); err != nil {
				t.Fatal(err)
			}
			_, err := Extract(t.Context(), dir, bytes.NewReader(archive), ExtractOptions{Limits: fuzzLimits})
			checkTree(t, dir)
			return err
		}
		err := extracted("one")
		if now := descriptors(t); now != open {
			t.Fatalf("%d descriptors were open and %d are now", open, now)
		}
		if after := describe(t, outside); after != before {
			t.Fatalf("outside was\n%s\nand now is\n%s", before, after)
		}
		if again := extracted("two"); (err == nil) != (again == nil) {
			t.Fatalf("first %v, then %v", err, again)
		}
		if got := list(t, base); got != "one outside two" {
			t.Fatalf("beside the directory there is %q", got)
		}
		if err != nil {
			return
		}
		if err := compareTrees(t.Context(), base+"/one", base+"/two", ".", ""); err != nil {
			t.Fatalf("extracted twice: %v", err)
		}
		err = filepath.WalkDir(base+"/one", func(path string, e os.DirEntry, err error) error {
			if err == nil && e.Type()&os.ModeDevice != 0 {
				t.Errorf("%s is a device", path)
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	})
}
