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
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/klauspost/compress/gzip"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/stack-run/stack/engine/content"
)

func save(t testing.TB, s *Store, refs ...string) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := s.Save(context.Background(), &b, refs...); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func load(t testing.TB, s *Store, data []byte) []Loaded {
	t.Helper()
	l, err := s.Load(context.Background(), bytes.NewReader(data), LoadOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// archiveFiles makes a tar archive of names and contents, in turn.
func archiveFiles(t testing.TB, files ...string) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for i := 0; i < len(files); i += 2 {
		name, data := files[i], files[i+1]
		h := &tar.Header{Typeflag: tar.TypeReg, Name: name, Size: int64(len(data)), Mode: 0o644}
		if target, ok := strings.CutPrefix(data, "-> "); ok {
			h.Typeflag, h.Linkname, h.Size, data = tar.TypeSymlink, target, 0, ""
		}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		w.Write([]byte(data))
	}
	w.Close()
	return b.Bytes()
}

func asJSON(t testing.TB, v any) string {
	t.Helper()
	data, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func TestSaveAndLoad(t *testing.T) {
	ctx := t.Context()
	s := newStore(t)
	a := importImage(t, s, "a:1", "f=a")
	b := importImage(t, s, "b", "f=b")
	if err := s.Tag(ctx, "a:1", "localhost:5000/a:2"); err != nil {
		t.Fatal(err)
	}
	data := save(t, s, "a:1", "localhost:5000/a:2", "b")
	if !bytes.Equal(data, save(t, s, "a:1", "localhost:5000/a:2", "b")) {
		t.Error("saving twice makes different bytes")
	}
	var g bytes.Buffer
	w := gzip.NewWriter(&g)
	w.Write(data)
	w.Close()
	for name, data := range map[string][]byte{"plain": data, "gzip": g.Bytes()} {
		t.Run(name, func(t *testing.T) {
			s := newStore(t)
			var ready []digest.Digest
			l, err := s.Load(ctx, bytes.NewReader(data), LoadOptions{Ready: func(_ context.Context, img Image) error {
				ready = append(ready, img.ID)
				return nil
			}})
			if err != nil || len(l) != 2 || len(ready) != 2 {
				t.Fatalf("loaded %v, ready %v, %v", l, ready, err)
			}
			if !slices.Equal(l[0].Names, []string{"a:1", "localhost:5000/a:2"}) || l[0].Image.ID != a.ID || l[1].Image.ID != b.ID || l[1].Image.Manifest.Digest != b.Manifest.Digest {
				t.Errorf("loaded %+v", l)
			}
			clean(t, s)
			load(t, s, data) // once more changes nothing
			if images, _ := s.List(ctx); len(images) != 2 {
				t.Errorf("%d images", len(images))
			}
		})
	}
	if err := s.Save(ctx, &g, "nothing"); !IsNotFound(err) {
		t.Errorf("save of a missing image: %v", err)
	}
	// By ID an image has no name.
	s2 := newStore(t)
	if l := load(t, s2, save(t, s, a.ID.String())); len(l) != 1 || len(l[0].Names) != 0 || l[0].Image.ID != a.ID {
		t.Errorf("by ID: %+v", l)
	}
}

func TestLoadDamaged(t *testing.T) {
	s := newStore(t)
	importImage(t, s, "a", "f="+strings.Repeat("content", 1000))
	good := save(t, s, "a")
	flip := slices.Clone(good)
	flip[bytes.Index(good, []byte("linux"))] = 'L' // in a config blob
	layer := rootfs(t, "f=1")
	config := func(diffID digest.Digest) string {
		return asJSON(t, Config{OS: "linux", Architecture: "amd64", RootFS: RootFS{Type: "layers", DiffIDs: []digest.Digest{diffID}}})
	}
	docker := `[{"Config":"c.json","RepoTags":["x:1"],"Layers":["l.tar"]}]`
	for name, test := range map[string]struct {
		data []byte
		err  string
	}{
		"truncated":           {good[:len(good)/2], "truncated"},
		"empty":               {nil, "truncated"},
		"text":                {bytes.Repeat([]byte("no "), 500), "not a tar archive"},
		"root file system":    {rootfs(t, "etc/passwd=x"), "stack image import"},
		"bit flipped":         {flip, "the content has digest"},
		"layer missing":       {archiveFiles(t, "manifest.json", docker, "c.json", config(digest.FromBytes(layer))), "does not contain layer l.tar"},
		"config missing":      {archiveFiles(t, "manifest.json", docker, "l.tar", string(layer)), "does not contain c.json"},
		"diff ID wrong":       {archiveFiles(t, "manifest.json", docker, "l.tar", string(layer), "c.json", config(digest.FromString("x"))), "the config says"},
		"layer truncated":     {archiveFiles(t, "manifest.json", docker, "l.tar", string(layer[:512])+"", "c.json", config(digest.FromBytes(layer))), "truncated"},
		"bad tag":             {archiveFiles(t, "manifest.json", strings.Replace(docker, "x:1", "X X", 1), "l.tar", string(layer), "c.json", config(digest.FromBytes(layer))), "cannot read image name"},
		"layout without":      {archiveFiles(t, "oci-layout", "{}", "index.json", asJSON(t, ocispec.Index{Manifests: []ocispec.Descriptor{{Digest: digest.FromString("x"), MediaType: ocispec.MediaTypeImageManifest}}})), "blob not found"},
		"layout with nothing": {archiveFiles(t, "oci-layout", "{}", "index.json", "{}"), "contains no image"},
		"not JSON":            {archiveFiles(t, "manifest.json", "{"), "manifest.json"},
	} {
		t.Run(name, func(t *testing.T) {
			s := newStore(t)
			_, err := s.Load(t.Context(), bytes.NewReader(test.data), LoadOptions{})
			if err == nil || !strings.Contains(err.Error(), test.err) {
				t.Errorf("error %v, want %q", err, test.err)
			}
			if images, _ := s.List(t.Context()); len(images) != 0 || blobCount(t, s) != 0 {
				t.Errorf("%d images and %d blobs are left", len(images), blobCount(t, s))
			}
		})
	}
}

func TestLoadOldFormats(t *testing.T) {
	base, top := rootfs(t, "base=1"), rootfs(t, "top=1")
	config := asJSON(t, Config{OS: "linux", Architecture: "amd64", RootFS: RootFS{Type: "layers", DiffIDs: []digest.Digest{digest.FromBytes(base), digest.FromBytes(top), digest.FromBytes(base)}}})
	t.Run("manifest.json with links", func(t *testing.T) {
		s := newStore(t)
		l := load(t, s, archiveFiles(t,
			"1/layer.tar", string(base), "1/VERSION", "1.0", "2/layer.tar", string(top), "3/layer.tar", "-> ../1/layer.tar",
			"c.json", config, "manifest.json", `[{"Config":"c.json","RepoTags":["old:1","old:2"],"Layers":["1/layer.tar","2/layer.tar","3/layer.tar"]}]`,
		))
		if len(l) != 1 || !slices.Equal(l[0].Names, []string{"old:1", "old:2"}) || l[0].Image.ID != digest.FromString(config) {
			t.Errorf("loaded %+v", l)
		}
		clean(t, s)
	})
	t.Run("repositories", func(t *testing.T) {
		s := newStore(t)
		l := load(t, s, archiveFiles(t,
			"aaa/json", `{"id":"aaa","created":"2014-01-01T00:00:00Z","container_config":{"Cmd":["/bin/sh","-c","#(nop) ADD"]}}`, "aaa/layer.tar", string(base), "aaa/VERSION", "1.0",
			"bbb/json", `{"id":"bbb","parent":"aaa","created":"2014-02-01T00:00:00Z","architecture":"amd64","os":"linux","config":{"Cmd":["/bin/sh"],"Env":["A=1"]}}`, "bbb/layer.tar", string(top),
			"repositories", `{"old":{"1":"bbb"}}`,
		))
		if len(l) != 1 || !slices.Equal(l[0].Names, []string{"old:1"}) {
			t.Fatalf("loaded %+v", l)
		}
		img := l[0].Image
		if !slices.Equal(img.DiffIDs(), []digest.Digest{digest.FromBytes(base), digest.FromBytes(top)}) || img.Config.Config.Cmd[0] != "/bin/sh" || img.Created.Month() != 2 || len(img.Config.History) != 2 {
			t.Errorf("image %+v", img)
		}
		clean(t, s)
	})
}

// TestSeveralPlatforms is about one name for images for several platforms.
func TestSeveralPlatforms(t *testing.T) {
	ctx := t.Context()
	s := newStore(t)
	lease, err := s.Content().Lease(ctx)
	if err != nil {
		t.Fatal(err)
	}
	idx := ocispec.Index{MediaType: ocispec.MediaTypeImageIndex}
	idx.SchemaVersion = 2
	byPlatform := make(map[string]Image)
	for _, platform := range []string{"linux/amd64", "linux/arm64", "linux/arm/v6"} {
		img, err := s.Import(ctx, bytes.NewReader(rootfs(t, "f="+platform)), "", ImportOptions{Platform: platform})
		if err != nil {
			t.Fatal(err)
		}
		byPlatform[platform] = img
		if err := lease.Protect(ctx, img.digests()...); err != nil {
			t.Fatal(err)
		}
		desc := img.Manifest
		desc.Platform = &img.Platform
		idx.Manifests = append(idx.Manifests, desc)
	}
	attestation, err := s.Content().Put(ctx, lease, []byte(`{"config":{"digest":"`+digest.FromString("{}").String()+`"}}`))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Content().Put(ctx, lease, []byte("{}")); err != nil {
		t.Fatal(err)
	}
	idx.Manifests = append(idx.Manifests,
		ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: attestation, Platform: &ocispec.Platform{OS: "unknown", Architecture: "unknown"}, Annotations: map[string]string{dockerRefType: "attestation-manifest"}})
	add := func(idx ocispec.Index) []Image {
		data, err := json.Marshal(idx)
		if err != nil {
			t.Fatal(err)
		}
		d, err := s.Content().Put(ctx, lease, data)
		if err != nil {
			t.Fatal(err)
		}
		images, err := s.Add(ctx, lease, ocispec.Descriptor{Digest: d}, AddOptions{Names: []string{"multi", "multi@" + d.String()}})
		if err != nil {
			t.Fatal(err)
		}
		return images
	}
	if images := add(idx); len(images) != 3 || !slices.Equal(images[0].Names, []string{"multi:latest"}) || len(images[0].RepoDigests) != 1 {
		t.Fatalf("added %+v", images)
	}
	lease.Close()
	for platform, want := range map[string]string{"linux/amd64": "linux/amd64", "linux/aarch64": "linux/arm64", "linux/arm/v7": "linux/arm/v6", "": "linux/amd64"} {
		img, err := s.ResolvePlatform(ctx, "multi", platform)
		if err != nil || img.ID != byPlatform[want].ID {
			t.Errorf("%q: %s, %v", platform, FormatPlatform(img.Platform), err)
		}
	}
	if _, err := s.ResolvePlatform(ctx, "multi", "linux/s390x"); err == nil || !strings.Contains(err.Error(), "linux/amd64, linux/arm64, linux/arm/v6") {
		t.Errorf("s390x: %v", err)
	}
	if _, err := s.Prune(ctx, PruneOptions{}); err != nil {
		t.Fatal(err)
	}
	clean(t, s)
	if _, err := s.Content().Stat(attestation); err != nil {
		t.Errorf("the attestation is gone: %v", err)
	}

	all := save(t, s, "multi")
	s2 := newStore(t)
	if l := load(t, s2, all); len(l) != 3 || !slices.Equal(l[2].Names, []string{"multi:latest"}) {
		t.Fatalf("loaded %+v", l)
	}
	if img, err := s2.ResolvePlatform(ctx, "multi", "linux/arm64"); err != nil || img.ID != byPlatform["linux/arm64"].ID {
		t.Errorf("after load: %v", err)
	}

	t.Run("some platforms only", func(t *testing.T) { testSomePlatforms(t, s, all) })

	// Of an index of which a part is not here, that part is not an image.
	r, err := s.Remove(ctx, byPlatform["linux/arm64"].ID.String(), RemoveOptions{})
	if err != nil || len(r.Deleted) != 1 {
		t.Fatalf("remove one platform: %+v, %v", r, err)
	}
	clean(t, s)
	if l := load(t, newStore(t), save(t, s, "multi")); len(l) != 1 || l[0].Image.Platform.Architecture != "amd64" {
		t.Errorf("saved without a platform: %+v", l)
	}
	r, err = s.Remove(ctx, "multi", RemoveOptions{})
	if err != nil || len(r.Deleted) != 2 || blobCount(t, s) != 0 {
		t.Errorf("remove: %+v, %d blobs, %v", r, blobCount(t, s), err)
	}
}

// testSomePlatforms takes some of the platforms of the image multi in s, of which
// all is an archive.
func testSomePlatforms(t *testing.T, s *Store, all []byte) {
	platforms := func(loaded []Loaded) string {
		var out []string
		for _, l := range loaded {
			out = append(out, FormatPlatform(l.Image.Platform))
			if !slices.Equal(l.Names, []string{"multi:latest"}) {
				t.Errorf("%s has the names %q", out, l.Names)
			}
		}
		return strings.Join(out, " ")
	}
	for _, want := range []string{"linux/arm64", "linux/amd64 linux/arm/v6"} {
		var b bytes.Buffer
		if err := s.SavePlatforms(t.Context(), &b, strings.Fields(want), "multi"); err != nil {
			t.Fatal(err)
		}
		if got := platforms(load(t, newStore(t), b.Bytes())); got != want {
			t.Errorf("saved %q, want %q", got, want)
		}
		if b.Len() >= len(all) {
			t.Errorf("%s takes %d bytes, everything %d", want, b.Len(), len(all))
		}
	}
	some := newStore(t)
	loaded, err := some.Load(t.Context(), bytes.NewReader(all), LoadOptions{Platforms: []string{"linux/arm64", "linux/amd64"}})
	if err != nil || platforms(loaded) != "linux/amd64 linux/arm64" {
		t.Fatalf("loaded %+v, %v", loaded, err)
	}
	clean(t, some)
	for _, p := range []string{"linux/s390x", "linux/arm/v7"} { // v6 would run on v7, and is not it
		if err := s.SavePlatforms(t.Context(), io.Discard, []string{p}, "multi"); !IsNotFound(err) {
			t.Errorf("saved for %s: %v", p, err)
		}
		if _, err := newStore(t).Load(t.Context(), bytes.NewReader(all), LoadOptions{Platforms: []string{p}}); !IsNotFound(err) || !strings.Contains(err.Error(), "linux/arm/v6") {
			t.Errorf("loaded for %s: %v", p, err)
		}
		if _, err := some.RemovePlatform(t.Context(), "multi", p, RemoveOptions{}); !IsNotFound(err) {
			t.Errorf("removed for %s: %v", p, err)
		}
	}
	inUse := func(digest.Digest) []string { return []string{"a container"} }
	if _, err := some.RemovePlatform(t.Context(), "multi", "linux/arm64", RemoveOptions{InUse: inUse}); err == nil {
		t.Error("an image that is used was removed")
	}
	r, err := some.RemovePlatform(t.Context(), "multi", "linux/arm64", RemoveOptions{})
	if err != nil || len(r.Deleted) != 1 || len(r.Untagged) != 0 {
		t.Errorf("removed %+v, %v", r, err)
	}
	if r, err = some.RemovePlatform(t.Context(), "multi", "linux/amd64", RemoveOptions{}); err != nil || !slices.Equal(r.Untagged, []string{"multi:latest"}) || blobCount(t, some) != 0 {
		t.Errorf("removed %+v, %d blobs are left, %v", r, blobCount(t, some), err)
	}
}

func TestSkopeo(t *testing.T) {
	skopeo, err := exec.LookPath("skopeo")
	if err != nil {
		t.Skip("needs skopeo")
	}
	ctx := t.Context()
	dir := t.TempDir()
	s := newStore(t)
	img, err := s.Import(ctx, bytes.NewReader(rootfs(t, "etc/os-release=Test", "bin/sh=#!")), "shop/db:1", ImportOptions{Changes: []string{`CMD ["/bin/sh"]`, "ENV A=1", "HEALTHCHECK CMD true"}})
	if err != nil {
		t.Fatal(err)
	}
	ours := filepath.Join(dir, "ours.tar")
	if err := os.WriteFile(ours, save(t, s, "shop/db:1"), 0o600); err != nil {
		t.Fatal(err)
	}
	run := func(args ...string) string {
		t.Helper()
		out, err := exec.CommandContext(ctx, skopeo, args...).CombinedOutput()
		if err != nil {
			t.Fatalf("skopeo %s: %v\n%s", strings.Join(args, " "), err, out)
		}
		return string(out)
	}
	for _, from := range []string{"docker-archive:" + ours, "oci-archive:" + ours} {
		for i, to := range []string{"docker-archive:%s:theirs:1", "oci-archive:%s:theirs:1", "oci-archive:%s"} {
			file := filepath.Join(dir, fmt.Sprintf("%d%s.tar", i, from[:3]))
			run("copy", "--insecure-policy", from, fmt.Sprintf(to, file))
			data, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			s2 := newStore(t)
			l := load(t, s2, data)
			if len(l) != 1 || l[0].Image.DiffIDs()[0] != img.DiffIDs()[0] || l[0].Image.Config.Config.Env[0] != "A=1" {
				t.Errorf("%s → %s: %+v", from, to, l)
			}
			if want := strings.Count(to, "theirs"); len(l[0].Names) != want || want == 1 && l[0].Names[0] != "theirs:1" {
				t.Errorf("%s → %s: names %v", from, to, l[0].Names)
			}
			clean(t, s2)
		}
	}
	var manifest struct{ Digest digest.Digest }
	if err := json.Unmarshal([]byte(run("inspect", "oci-archive:"+ours)), &manifest); err != nil || manifest.Digest != img.Manifest.Digest {
		t.Errorf("skopeo reads digest %s, ours is %s, %v", manifest.Digest, img.Manifest.Digest, err)
	}
}

func TestSaveStopsAtACorruptBlob(t *testing.T) {
	s := newStore(t)
	img := importImage(t, s, "a", "f=1")
	path := s.Content().Path(img.Layers[0].Digest)
	os.Chmod(path, 0o600)
	if err := os.WriteFile(path, bytes.Repeat([]byte("x"), int(img.Layers[0].Size)), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := s.Save(t.Context(), &bytes.Buffer{}, "a"); !errors.Is(err, content.ErrCorrupt) {
		t.Errorf("error %v", err)
	}
}

func TestInspect(t *testing.T) {
	s := newStore(t)
	importImage(t, s, "a", "f=1")
	img, err := s.Resolve(t.Context(), "a")
	if err != nil {
		t.Fatal(err)
	}
	var v map[string]any
	if err := json.Unmarshal([]byte(asJSON(t, DockerInspect(img, 5))), &v); err != nil {
		t.Fatal(err)
	}
	if v["Id"] != img.ID.String() || v["RepoTags"].([]any)[0] != "a:latest" || v["Os"] != "linux" || v["Config"] == nil || v["RootFS"].(map[string]any)["Layers"].([]any)[0] != img.DiffIDs()[0].String() {
		t.Errorf("inspect: %v", v)
	}
}
