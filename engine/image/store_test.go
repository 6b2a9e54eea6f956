package image

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
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

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/stack-run/stack/engine/content"
)

func newStore(t testing.TB) *Store {
	t.Helper()
	s, err := Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// rootfs is a tar archive with the given files, "name=content".
func rootfs(t testing.TB, files ...string) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, f := range files {
		name, data, _ := strings.Cut(f, "=")
		if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Size: int64(len(data)), Mode: 0o644}); err != nil {
			t.Fatal(err)
		}
		io.WriteString(w, data)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func importImage(t testing.TB, s *Store, ref string, files ...string) Image {
	t.Helper()
	img, err := s.Import(context.Background(), bytes.NewReader(rootfs(t, files...)), ref, ImportOptions{Created: time.Unix(1000, 0)})
	if err != nil {
		t.Fatal(err)
	}
	return img
}

func clean(t testing.TB, s *Store) {
	t.Helper()
	problems, err := s.Check(context.Background(), CheckOptions{})
	if err != nil || len(problems) != 0 {
		t.Errorf("check: %v, %v", problems, err)
	}
}

// blobCount is the number of blobs in the store.
func blobCount(t testing.TB, s *Store) int {
	t.Helper()
	n := 0
	if err := s.Content().Walk(func(content.Info) error { n++; return nil }); err != nil {
		t.Fatal(err)
	}
	return n
}

func TestImport(t *testing.T) {
	raw := rootfs(t, "etc/os-release=Test", "bin/sh=#!")
	compress := func(w io.WriteCloser, b *bytes.Buffer) []byte {
		w.Write(raw)
		w.Close()
		return b.Bytes()
	}
	var g, z bytes.Buffer
	zw, _ := zstd.NewWriter(&z)
	for name, test := range map[string]struct {
		data      []byte
		mediaType string
	}{
		"tar":      {raw, ocispec.MediaTypeImageLayerGzip},
		"tar.gz":   {compress(gzip.NewWriter(&g), &g), ocispec.MediaTypeImageLayerGzip},
		"tar.zstd": {compress(zw, &z), ocispec.MediaTypeImageLayerZstd},
	} {
		t.Run(name, func(t *testing.T) {
			s := newStore(t)
			img, err := s.Import(t.Context(), bytes.NewReader(test.data), "shop/db", ImportOptions{
				Changes: []string{`CMD ["/bin/sh"]`, "ENV A=1"}, Message: "hello", Platform: "linux/arm64",
			})
			if err != nil {
				t.Fatal(err)
			}
			if img.DiffIDs()[0] != digest.FromBytes(raw) || img.Layers[0].MediaType != test.mediaType {
				t.Errorf("layer %+v", img.Layers[0])
			}
			got, err := s.ResolvePlatform(t.Context(), "shop/db", "linux/arm64")
			if err != nil {
				t.Fatal(err)
			}
			if got.ID != img.ID || !slices.Equal(got.Names, []string{"shop/db:latest"}) || got.Config.Config.Cmd[0] != "/bin/sh" || got.Config.History[0].Comment != "hello" || got.Platform.Architecture != "arm64" || got.Created.IsZero() {
				t.Errorf("image %+v", got)
			}
			clean(t, s)
		})
	}
}

func TestImportRefuses(t *testing.T) {
	raw := rootfs(t, "a="+strings.Repeat("x", 5000), "b=y")
	var g bytes.Buffer
	w := gzip.NewWriter(&g)
	w.Write(raw)
	w.Close()
	for name, test := range map[string]struct {
		data []byte
		ref  string
		opts ImportOptions
		err  string
	}{
		"empty":            {nil, "x", ImportOptions{}, "it is empty"},
		"text":             {bytes.Repeat([]byte("text "), 500), "x", ImportOptions{}, "not a tar archive"},
		"truncated":        {raw[:3000], "x", ImportOptions{}, "truncated"},
		"no end marker":    {raw[:len(raw)-1024], "x", ImportOptions{}, "no end-of-archive marker"},
		"truncated gzip":   {g.Bytes()[:g.Len()-20], "x", ImportOptions{}, "unexpected EOF"},
		"bad name":         {raw, "UPPER", ImportOptions{}, "must be lowercase"},
		"name with digest": {raw, "x@" + digest.FromString("x").String(), ImportOptions{}, "not known beforehand"},
		"bad platform":     {raw, "x", ImportOptions{Platform: "a/b/c/d"}, "cannot read platform"},
		"bad change":       {raw, "x", ImportOptions{Changes: []string{"RUN x"}}, "RUN is not one of"},
		"hook refuses":     {raw, "x", ImportOptions{Ready: func(context.Context, Image) error { return errors.New("no space") }}, "no space"},
	} {
		t.Run(name, func(t *testing.T) {
			s := newStore(t)
			_, err := s.Import(t.Context(), bytes.NewReader(test.data), test.ref, test.opts)
			if err == nil || !strings.Contains(err.Error(), test.err) {
				t.Errorf("error %v, want %q", err, test.err)
			}
			if images, _ := s.List(t.Context()); len(images) != 0 || blobCount(t, s) != 0 {
				t.Errorf("%d images and %d blobs are left", len(images), blobCount(t, s))
			}
			if left, _ := filepath.Glob(filepath.Join(s.dir, "../content/ingest/*")); len(left) != 0 {
				t.Errorf("left: %v", left)
			}
		})
	}
}

func TestResolve(t *testing.T) {
	s := newStore(t)
	img := importImage(t, s, "docker.io/library/web:1.2", "a=1")
	other := importImage(t, s, "other", "b=2")
	if err := s.Tag(t.Context(), "web:1.2", "ghcr.io/x/web"); err != nil {
		t.Fatal(err)
	}
	for _, ref := range []string{
		"web:1.2", "library/web:1.2", "docker.io/web:1.2", "ghcr.io/x/web:latest", img.ID.String(), img.ID.Encoded(), img.ID.Encoded()[:12], img.ID.Encoded()[:1] + img.ID.Encoded()[1:9], "sha256:" + img.ID.Encoded()[:10],
		"web@" + img.Manifest.Digest.String(), "web:other@" + img.Manifest.Digest.String(), img.Manifest.Digest.String(),
	} {
		got, err := s.Resolve(t.Context(), ref)
		if err != nil || got.ID != img.ID {
			t.Errorf("%s: %s, %v", ref, got.ID, err)
			continue
		}
		if !slices.Equal(got.Names, []string{"ghcr.io/x/web:latest", "web:1.2"}) {
			t.Errorf("%s: names %v", ref, got.Names)
		}
	}
	for _, ref := range []string{"web", "nothing", "web@" + other.Manifest.Digest.String(), strings.Repeat("0", 64), "sha256:" + strings.Repeat("0", 64), "fff0fff0fff0"} {
		_, err := s.Resolve(t.Context(), ref)
		if !errors.Is(err, ErrNotFound) || !strings.Contains(err.Error(), "No such image: "+ref+"; get it with") {
			t.Errorf("%s: %v", ref, err)
		}
	}
	if _, err := s.Resolve(t.Context(), "Bad Name"); err == nil || IsNotFound(err) {
		t.Errorf("bad name: %v", err)
	}
	if _, err := s.ResolvePlatform(t.Context(), "web:1.2", "linux/riscv64"); !IsNotFound(err) || !strings.Contains(err.Error(), "is here for linux/") {
		t.Errorf("other platform: %v", err)
	}
}

func TestAmbiguousShortID(t *testing.T) {
	s := newStore(t)
	first := make(map[byte]digest.Digest)
	for i := range 40 {
		img := importImage(t, s, "", fmt.Sprintf("f=%d", i))
		c := img.ID.Encoded()[0]
		if other, ok := first[c]; ok && other != img.ID {
			_, err := s.Resolve(t.Context(), string(c))
			if err == nil || !strings.Contains(err.Error(), shortID(img.ID)) || !strings.Contains(err.Error(), "give more digits") {
				t.Errorf("error %v", err)
			}
			return
		}
		first[c] = img.ID
	}
}

func TestRemove(t *testing.T) {
	ctx := t.Context()
	s := newStore(t)
	a := importImage(t, s, "a", "a=1")
	if err := s.Tag(ctx, "a", "a:2"); err != nil {
		t.Fatal(err)
	}
	busy := RemoveOptions{InUse: func(id digest.Digest) []string { return []string{"container c1"} }}

	if _, err := s.Remove(ctx, a.ID.String(), RemoveOptions{}); err == nil || !strings.Contains(err.Error(), "2 names (a:2, a:latest)") {
		t.Errorf("by ID with two names: %v", err)
	}
	r, err := s.Remove(ctx, "a:2", busy) // a name is left, so this is harmless
	if err != nil || !slices.Equal(r.Untagged, []string{"a:2"}) || len(r.Deleted) != 0 {
		t.Errorf("first name: %+v, %v", r, err)
	}
	if _, err := s.Remove(ctx, "a", busy); err == nil || !strings.Contains(err.Error(), "used by container c1") {
		t.Errorf("last name of a used image: %v", err)
	}
	if _, err := s.Resolve(ctx, "a"); err != nil {
		t.Errorf("after the refusal: %v", err)
	}
	busy.Force = true
	r, err = s.Remove(ctx, "a", busy)
	if err != nil || len(r.Deleted) != 0 || !slices.Equal(r.Untagged, []string{"a:latest"}) {
		t.Errorf("forced: %+v, %v", r, err)
	}
	if _, err := s.Resolve(ctx, a.ID.String()); err != nil {
		t.Errorf("the used image is gone: %v", err)
	}
	if _, err := s.Remove(ctx, a.ID.String(), busy); err == nil {
		t.Error("a used image was removed by its ID")
	}
	r, err = s.Remove(ctx, shortID(a.ID), RemoveOptions{})
	if err != nil || !slices.Equal(r.Deleted, []digest.Digest{a.ID}) || !slices.Equal(r.Layers, a.DiffIDs()) || r.Bytes != a.Size {
		t.Errorf("at last: %+v, %v", r, err)
	}
	if n := blobCount(t, s); n != 0 {
		t.Errorf("%d blobs left", n)
	}
	if _, err := s.Remove(ctx, "a", RemoveOptions{}); !IsNotFound(err) {
		t.Errorf("again: %v", err)
	}
}

// TestOneConfigTwoCompressions is about images that differ in nothing but how their
// layers are compressed, and so have one ID.
func TestOneConfigTwoCompressions(t *testing.T) {
	ctx := t.Context()
	s := newStore(t)
	lease, err := s.Content().Lease(ctx)
	if err != nil {
		t.Fatal(err)
	}
	raw := rootfs(t, "f="+strings.Repeat("text", 1000))
	enc, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	config := []byte(`{"os":"linux","architecture":"amd64","config":{},"rootfs":{"type":"layers","diff_ids":["` + digest.FromBytes(raw).String() + `"]}}`)
	layers := map[string]content.Layer{}
	for name, data := range map[string][]byte{"gzip": raw, "zstd": enc.EncodeAll(raw, nil)} {
		layer, err := s.StoreLayer(ctx, lease, bytes.NewReader(data))
		if err != nil {
			t.Fatal(err)
		}
		layers[name] = layer
		if _, err := s.addLayers(ctx, lease, config, []content.Layer{layer}, AddOptions{Names: []string{name, name + ":again"}}); err != nil {
			t.Fatal(err)
		}
	}
	lease.Close()
	all, err := s.List(ctx)
	if err != nil || len(all) != 2 || all[0].ID != all[1].ID {
		t.Fatalf("%v, %v", all, err)
	}
	for _, img := range all {
		if len(img.Names) != 2 || img.Names[1] != strings.TrimSuffix(img.Names[0], "again")+"latest" {
			t.Errorf("names %v", img.Names)
		}
	}
	id := all[0].ID
	used := RemoveOptions{InUse: func(digest.Digest) []string { return []string{"a container"} }}
	if r, err := s.Remove(ctx, "zstd:again", used); err != nil || len(r.Deleted) > 0 {
		t.Fatalf("%+v, %v", r, err)
	}
	// A container needs the ID, which the other one has too.
	r, err := s.Remove(ctx, "zstd", used)
	if err != nil || r.Bytes < layers["zstd"].Size || len(r.Deleted) != 1 || r.Deleted[0] == id || len(r.Layers) > 0 {
		t.Fatalf("%+v, %v", r, err)
	}
	if _, err := s.Content().Stat(layers["zstd"].Digest); !errors.Is(err, content.ErrNotFound) {
		t.Errorf("its layer is still there: %v", err)
	}
	if _, err := s.Content().Stat(layers["gzip"].Digest); err != nil {
		t.Error(err)
	}
	clean(t, s)
	if _, err := s.Remove(ctx, id.String(), used); err == nil {
		t.Error("the last one of the ID went, though it is in use")
	}
	if r, err := s.Remove(ctx, id.String(), RemoveOptions{Force: true}); err != nil || len(r.Deleted) != 1 || r.Deleted[0] != id || len(r.Untagged) != 2 {
		t.Errorf("%+v, %v", r, err)
	}
	if n := blobCount(t, s); n > 0 {
		t.Errorf("%d blobs are left", n)
	}
}

func TestSharedLayersStay(t *testing.T) {
	ctx := t.Context()
	s := newStore(t)
	a := importImage(t, s, "a", "same=1")
	b, err := s.Import(ctx, bytes.NewReader(rootfs(t, "same=1")), "b", ImportOptions{Message: "other"})
	if err != nil || a.ID == b.ID {
		t.Fatal(err)
	}
	r, err := s.Remove(ctx, "a", RemoveOptions{})
	if err != nil || len(r.Deleted) != 1 || len(r.Layers) != 0 {
		t.Errorf("removed %+v, %v", r, err)
	}
	clean(t, s)
	if _, err := s.Resolve(ctx, "b"); err != nil {
		t.Error(err)
	}
}

func TestPrune(t *testing.T) {
	ctx := t.Context()
	s := newStore(t)
	old := importImage(t, s, "app", "v=1")
	importImage(t, s, "app", "v=2") // takes the name over
	if err := s.Tag(ctx, "app", "app:stable"); err != nil {
		t.Fatal(err)
	}
	labelled, err := s.Import(ctx, bytes.NewReader(rootfs(t, "l=1")), "labelled", ImportOptions{Changes: []string{"LABEL keep=yes"}})
	if err != nil {
		t.Fatal(err)
	}
	used := importImage(t, s, "used", "u=1")
	// A blob that a killed process left.
	lease, err := s.Content().Lease(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Content().Put(ctx, lease, []byte("orphan")); err != nil {
		t.Fatal(err)
	}
	lease.Close()

	opts := PruneOptions{DryRun: true, InUse: func(id digest.Digest) []string {
		if id == used.ID {
			return []string{"c"}
		}
		return nil
	}}
	for _, dry := range []bool{true, false} {
		opts.DryRun = dry
		r, err := s.Prune(ctx, opts)
		if err != nil || !slices.Equal(r.Deleted, []digest.Digest{old.ID}) || r.Bytes != old.Size+6 || len(r.Untagged) != 0 {
			t.Errorf("dry=%v: %+v (image of %d bytes), %v", dry, r, old.Size, err)
		}
	}
	clean(t, s)
	opts.All, opts.NotLabels = true, []string{"keep"}
	for _, dry := range []bool{true, false} {
		opts.DryRun = dry
		r, err := s.Prune(ctx, opts)
		if err != nil || len(r.Deleted) != 1 || !slices.Equal(r.Untagged, []string{"app:latest", "app:stable"}) || r.Bytes == 0 {
			t.Errorf("all, dry=%v: %+v, %v", dry, r, err)
		}
	}
	opts = PruneOptions{All: true, Until: time.Unix(2000, 0)}
	if r, err := s.Prune(ctx, opts); err != nil || !slices.Equal(r.Deleted, []digest.Digest{used.ID}) {
		t.Errorf("until: %+v, %v", r, err)
	}
	images, err := s.List(ctx)
	if err != nil || len(images) != 1 || images[0].ID != labelled.ID {
		t.Errorf("left: %v, %v", images, err)
	}
	clean(t, s)
}

func TestCheckAndRepair(t *testing.T) {
	ctx := t.Context()
	s := newStore(t)
	good := importImage(t, s, "good", "g=1")
	bad := importImage(t, s, "bad", "b=1")
	layer := s.Content().Path(bad.Layers[0].Digest)
	os.Chmod(layer, 0o600)
	if err := os.WriteFile(layer, bytes.Repeat([]byte("x"), int(bad.Layers[0].Size)), 0o600); err != nil {
		t.Fatal(err)
	}
	problems, err := s.Check(ctx, CheckOptions{})
	if err != nil || len(problems) != 3 || problems[0].Subject != bad.Layers[0].Digest.String() {
		t.Fatalf("problems %v, %v", problems, err)
	}
	if problems, err = s.Check(ctx, CheckOptions{Repair: true}); err != nil || len(problems) != 3 { // blob, image, name
		t.Fatalf("repair: %v, %v", problems, err)
	}
	clean(t, s)
	if _, err := s.Resolve(ctx, "bad"); !IsNotFound(err) {
		t.Errorf("bad: %v", err)
	}
	if img, err := s.Resolve(ctx, "good"); err != nil || img.ID != good.ID {
		t.Errorf("good: %v", err)
	}
	importImage(t, s, "bad", "b=1")
	clean(t, s)
}

// A record that cannot be written again takes nothing from its image.
func TestRepairThatCannotWrite(t *testing.T) {
	ctx := t.Context()
	s := newStore(t)
	img := importImage(t, s, "good", "g=1")
	path := s.recordPath(img.ID, img.Manifest.Digest)
	inTheWay := filepath.Join(path, "full")
	if err := errors.Join(os.Remove(path), os.MkdirAll(inTheWay, 0o700)); err != nil {
		t.Fatal(err)
	}
	if problems, err := s.Check(ctx, CheckOptions{Repair: true}); err == nil {
		t.Fatalf("repaired: %v", problems)
	}
	if err := os.Remove(inTheWay); err != nil {
		t.Fatal(err)
	}
	problems, err := s.Check(ctx, CheckOptions{Repair: true})
	if err != nil || len(problems) != 1 || problems[0].Repaired != madeAgain {
		t.Fatalf("problems %v, %v", problems, err)
	}
	clean(t, s)
	if again, err := s.Resolve(ctx, "good"); err != nil || again.ID != img.ID {
		t.Errorf("good: %v", err)
	}
}

func TestAddRefusesManifestsThatLie(t *testing.T) {
	ctx := t.Context()
	s := newStore(t)
	lease, err := s.Content().Lease(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer lease.Close()
	raw := rootfs(t, "f=1")
	layer, err := s.StoreLayer(ctx, lease, bytes.NewReader(raw))
	if err != nil {
		t.Fatal(err)
	}
	put := func(v any) ocispec.Descriptor {
		data, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		d, err := s.Content().Put(ctx, lease, data)
		if err != nil {
			t.Fatal(err)
		}
		return ocispec.Descriptor{Digest: d, Size: int64(len(data))}
	}
	config := Config{OS: "linux", Architecture: "amd64", RootFS: RootFS{Type: "layers", DiffIDs: []digest.Digest{layer.DiffID}}}
	valid := func() (ocispec.Manifest, *Config) {
		c := config
		m := ocispec.Manifest{MediaType: ocispec.MediaTypeImageManifest, Layers: []ocispec.Descriptor{{MediaType: layer.MediaType, Digest: layer.Digest, Size: layer.Size}}}
		m.SchemaVersion = 2
		return m, &c
	}
	for name, test := range map[string]struct {
		change func(m *ocispec.Manifest, c *Config, target *ocispec.Descriptor)
		err    string
	}{
		"valid":      {func(*ocispec.Manifest, *Config, *ocispec.Descriptor) {}, ""},
		"layer size": {func(m *ocispec.Manifest, c *Config, _ *ocispec.Descriptor) { m.Layers[0].Size++ }, "not the"},
		"layer missing": {func(m *ocispec.Manifest, c *Config, _ *ocispec.Descriptor) {
			m.Layers[0].Digest = digest.FromString("x")
		}, "is not here"},
		"layer type":       {func(m *ocispec.Manifest, c *Config, _ *ocispec.Descriptor) { m.Layers[0].MediaType = "text/plain" }, "not a file system layer"},
		"number of layers": {func(m *ocispec.Manifest, c *Config, _ *ocispec.Descriptor) { c.RootFS.DiffIDs = nil }, "1 layers and the config 0"},
		"diff ID": {func(m *ocispec.Manifest, c *Config, _ *ocispec.Descriptor) {
			c.RootFS.DiffIDs = []digest.Digest{"sha256:x"}
		}, "not a sha256 digest"},
		"target size":       {func(_ *ocispec.Manifest, _ *Config, d *ocispec.Descriptor) { d.Size = 5 }, "announced with 5"},
		"target media type": {func(_ *ocispec.Manifest, _ *Config, d *ocispec.Descriptor) { d.MediaType = ocispec.MediaTypeImageIndex }, "announced with"},
		"target digest":     {func(_ *ocispec.Manifest, _ *Config, d *ocispec.Descriptor) { d.Digest = "sha256:abc" }, "not a sha256 digest"},
		"artifact": {func(m *ocispec.Manifest, _ *Config, _ *ocispec.Descriptor) {
			m.Config.MediaType = "application/vnd.cncf.helm"
		}, "not a container image"},
	} {
		t.Run(name, func(t *testing.T) {
			m, c := valid()
			var target ocispec.Descriptor
			test.change(&m, c, &target)
			d := put(c)
			m.Config.Digest, m.Config.Size = d.Digest, d.Size
			d = put(m)
			if target.Digest == "" {
				target.Digest = d.Digest
			}
			_, err := s.Add(ctx, lease, target, AddOptions{Names: []string{"x"}})
			if (test.err == "") != (err == nil) || err != nil && !strings.Contains(err.Error(), test.err) {
				t.Fatalf("error %v, want %q", err, test.err)
			}
			if _, err := s.Resolve(ctx, "x"); (err == nil) != (test.err == "") {
				t.Errorf("resolve: %v", err)
			}
			if test.err == "" {
				if _, err := s.Remove(ctx, "x", RemoveOptions{}); err != nil {
					t.Fatal(err)
				}
			}
		})
	}
	both := map[string]any{"schemaVersion": 2, "config": map[string]any{}, "manifests": []any{}}
	if _, err := s.Add(ctx, lease, put(both), AddOptions{}); err == nil || !strings.Contains(err.Error(), "both a manifest and an index") {
		t.Errorf("ambiguous document: %v", err)
	}
}

func TestConcurrentImportsAndPrunes(t *testing.T) {
	root := t.TempDir()
	var wg sync.WaitGroup
	for i := range 6 {
		wg.Go(func() {
			s, err := Open(root)
			if err != nil {
				t.Error(err)
				return
			}
			for j := range 4 {
				name := fmt.Sprintf("img%d", (i+j)%3)
				if _, err := s.Import(t.Context(), bytes.NewReader(rootfs(t, fmt.Sprintf("f=%d", j))), name, ImportOptions{}); err != nil {
					t.Error(err)
				}
				if _, err := s.Prune(t.Context(), PruneOptions{}); err != nil {
					t.Error(err)
				}
				if _, err := s.Resolve(t.Context(), name); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	s, err := Open(root)
	if err != nil {
		t.Fatal(err)
	}
	clean(t, s)
	images, err := s.List(t.Context())
	if err != nil || len(images) < 3 {
		t.Errorf("%d images, %v", len(images), err)
	}
}

func BenchmarkResolve(b *testing.B) {
	s := newStore(b)
	importImage(b, s, "target", "f=1")
	for i := range 100 {
		if err := s.Tag(b.Context(), "target", fmt.Sprintf("target:%d", i)); err != nil {
			b.Fatal(err)
		}
		if i < 20 {
			importImage(b, s, fmt.Sprintf("other%d", i), fmt.Sprint("f=", i))
		}
	}
	for b.Loop() {
		if _, err := s.Resolve(b.Context(), "other7"); err != nil {
			b.Fatal(err)
		}
	}
}
