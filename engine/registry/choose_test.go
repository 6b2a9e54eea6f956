package registry

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"unicode"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/stack-run/stack/engine/image"
)

// keep puts a document into the registry and returns a descriptor of it.
func (h *hostile) keep(mediaType string, data []byte, platform any) map[string]any {
	d := map[string]any{"mediaType": mediaType, "digest": digest.FromBytes(data), "size": len(data)}
	h.blobs[digest.FromBytes(data).String()] = data
	if platform != nil {
		d["platform"] = platform
	}
	return d
}

// index is a document that lists members.
func index(mediaType string, members ...any) []byte {
	data, _ := json.Marshal(map[string]any{"schemaVersion": 2, "mediaType": mediaType, "manifests": members})
	return data
}

// reconfigured is the registry's image with another config.
func (h *hostile) reconfigured(change func(config map[string]any)) []byte {
	var m map[string]any
	json.Unmarshal(h.manifest, &m)
	old := m["config"].(map[string]any)
	var config map[string]any
	json.Unmarshal(h.blobs[old["digest"].(string)], &config)
	change(config)
	data, _ := json.Marshal(config)
	m["config"] = h.keep(ocispec.MediaTypeImageConfig, data, nil)
	out, _ := json.Marshal(m)
	return out
}

func for390(config map[string]any) { config["architecture"] = "s390x" }

func TestIndexes(t *testing.T) {
	mine := map[string]string{"os": "linux", "architecture": hostArch()}
	other := map[string]string{"os": "linux", "architecture": "s390x"}
	for name, tt := range map[string]struct {
		change func(h *hostile)
		want   string // of the error; "" for success
	}{
		"a manifest list in an index": {func(h *hostile) {
			inner := index(image.DockerIndex, h.keep(ocispec.MediaTypeImageManifest, h.manifest, mine))
			h.manifest = index(ocispec.MediaTypeImageIndex, h.keep(image.DockerIndex, inner, nil))
		}, ""},
		"an index in an index beside another": {func(h *hostile) {
			foreign := h.keep(ocispec.MediaTypeImageManifest, h.reconfigured(for390), other)
			one := index(ocispec.MediaTypeImageIndex, foreign)
			two := index(ocispec.MediaTypeImageIndex, h.keep(ocispec.MediaTypeImageManifest, h.manifest, mine))
			h.manifest = index(ocispec.MediaTypeImageIndex, h.keep(ocispec.MediaTypeImageIndex, one, nil), h.keep(ocispec.MediaTypeImageIndex, two, nil))
		}, ""},
		"one without a platform beside another": {func(h *hostile) {
			foreign := h.keep(ocispec.MediaTypeImageManifest, h.reconfigured(for390), other)
			h.manifest = index(ocispec.MediaTypeImageIndex, foreign, h.keep(ocispec.MediaTypeImageManifest, h.manifest, nil))
		}, ""},
		"two without a platform": {func(h *hostile) {
			foreign := h.keep(ocispec.MediaTypeImageManifest, h.reconfigured(for390), nil)
			h.manifest = index(ocispec.MediaTypeImageIndex, foreign, h.keep(ocispec.MediaTypeImageManifest, h.manifest, nil))
		}, ""},
		"an artifact without a platform": {func(h *hostile) {
			chart := fmt.Appendf(nil, `{"schemaVersion":2,"config":{"mediaType":"application/vnd.cncf.helm.config.v1+json","digest":%q,"size":2},"layers":[{"mediaType":"application/x","digest":%q,"size":2}]}`,
				digest.FromString("{}"), digest.FromString("{}"))
			h.manifest = index(ocispec.MediaTypeImageIndex, h.keep(ocispec.MediaTypeImageManifest, chart, nil), h.keep(ocispec.MediaTypeImageManifest, h.manifest, nil))
		}, ""},
		"an empty architecture": {func(h *hostile) {
			m := h.reconfigured(func(c map[string]any) { c["architecture"] = "" })
			h.manifest = index(ocispec.MediaTypeImageIndex, h.keep(ocispec.MediaTypeImageManifest, m, map[string]string{"os": "linux", "architecture": ""}))
		}, ""},
		"a config without a platform": {func(h *hostile) {
			h.manifest = h.reconfigured(func(c map[string]any) { delete(c, "architecture"); delete(c, "os") })
		}, ""},
		"a nondistributable layer that is there": {func(h *hostile) {
			h.manifest = []byte(strings.Replace(string(h.manifest), "image.layer.v1", "image.layer.nondistributable.v1", 1))
		}, ""},
		"a nondistributable layer that is not there": {func(h *hostile) {
			h.manifest = []byte(strings.Replace(string(h.manifest), "image.layer.v1", "image.layer.nondistributable.v1", 1))
			delete(h.blobs, h.layer.String())
		}, "its maker wants it fetched from elsewhere"},
		"none for this machine": {func(h *hostile) {
			m := h.reconfigured(for390)
			h.manifest = index(ocispec.MediaTypeImageIndex, h.keep(ocispec.MediaTypeImageManifest, m, nil), h.keep(ocispec.MediaTypeImageManifest, append(m, '\n'), nil))
		}, "there are images for linux/s390x"},
		"indexes in indexes without an end": {func(h *hostile) {
			data := h.manifest
			for range 10 {
				data = index(ocispec.MediaTypeImageIndex, h.keep(ocispec.MediaTypeImageIndex, data, nil))
			}
			h.manifest = data
		}, "in an index that is in an index"},
		"indexes that list each other a thousand times": {func(h *hostile) {
			data := h.reconfigured(for390)
			for range 3 {
				one := h.keep(ocispec.MediaTypeImageIndex, data, nil)
				var many []any
				for range 1000 {
					many = append(many, one)
				}
				data = index(ocispec.MediaTypeImageIndex, many...)
			}
			h.manifest = data
		}, "there are images for linux/s390x"},
		"the same with an image in it": {func(h *hostile) {
			data := h.manifest
			for range 3 {
				one := h.keep(mediaType(data), data, nil)
				var many []any
				for range 1000 {
					many = append(many, one)
				}
				data = index(ocispec.MediaTypeImageIndex, many...)
			}
			h.manifest = data
		}, ""},
		"hundreds whose platform is not told": {func(h *hostile) {
			m := h.reconfigured(for390)
			var many []any
			for range 300 {
				m = append(m, '\n')
				many = append(many, h.keep(ocispec.MediaTypeImageManifest, m, nil))
			}
			h.manifest = index(ocispec.MediaTypeImageIndex, many...)
		}, "does not tell the platforms of more than"},
		"a manifest that is an index too": {func(h *hostile) {
			h.manifest = []byte(strings.Replace(string(h.manifest), `"schemaVersion"`, `"manifests":[],"schemaVersion"`, 1))
		}, "both a manifest and an index"},
		"an index of something that is no digest": {func(h *hostile) {
			h.manifest = index(ocispec.MediaTypeImageIndex, map[string]any{"mediaType": ocispec.MediaTypeImageManifest, "digest": "sha256:../../x", "size": 3, "platform": mine})
		}, "not a sha256 digest"},
		"more layers than the kernel stacks": {func(h *hostile) {
			var m map[string]any
			json.Unmarshal(h.manifest, &m)
			for range 9 {
				m["layers"] = append(m["layers"].([]any), m["layers"].([]any)...)
			}
			h.manifest, _ = json.Marshal(m)
		}, "more than the 500"},
		"a huge manifest": {func(h *hostile) {
			h.manifest = append(h.manifest, make([]byte, maxDocument)...)
		}, "more than 8 MiB"},
		"an endless manifest": {func(h *hostile) {
			h.serve = func(w http.ResponseWriter, r *http.Request, n int, data []byte) bool {
				for {
					if _, err := w.Write(make([]byte, 1<<20)); err != nil {
						return true
					}
				}
			}
		}, "more than 8 MiB"},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHostile(t)
			tt.change(h)
			img, to, _, err := pullFrom(t, h)
			if tt.want != "" {
				if err == nil || !strings.Contains(err.Error(), tt.want) {
					t.Errorf("got %v, want %q", err, tt.want)
				}
				if all, err := to.Images.List(t.Context()); err != nil || len(all) > 0 {
					t.Error("there is an image", all, err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if img.Platform.OS != "linux" || img.Platform.Architecture != hostArch() {
				t.Errorf("it is for %v", img.Platform)
			}
			if problems, err := to.Images.Check(t.Context(), image.CheckOptions{}); err != nil || len(problems) > 0 {
				t.Error(problems, err)
			}
			// What was pulled is still whole after a collection, and can be sent on.
			if _, err := to.Images.Prune(t.Context(), image.PruneOptions{}); err != nil {
				t.Error(err)
			}
			if err := to.Images.Content().Verify(t.Context(), img.Layers[0].Digest); err != nil {
				t.Error(err)
			}
		})
	}
}

// FuzzManifest has a registry answer with any manifest or index, and any config. What
// is accepted can be asked for, and of one platform: a digest is a hash, a size is that
// of something, and no reader sees an index where another sees a manifest.
func FuzzManifest(f *testing.F) {
	h := newHostile(f)
	one := h.manifest
	mine := map[string]string{"os": "linux", "architecture": hostArch()}
	inner := index(image.DockerIndex, h.keep(ocispec.MediaTypeImageManifest, one, mine))
	var m ocispec.Manifest
	if err := json.Unmarshal(one, &m); err != nil {
		f.Fatal(err)
	}
	config := h.blobs[m.Config.Digest.String()]
	f.Add(one, "application/json", config)
	f.Add(inner, image.DockerIndex, []byte("null"))
	f.Add(index(ocispec.MediaTypeImageIndex, h.keep(image.DockerIndex, inner, nil)), "", []byte("{}"))
	f.Add(index(ocispec.MediaTypeImageIndex, h.keep(ocispec.MediaTypeImageManifest, one, nil)), "text/html; charset", []byte(`{"os":"linux","variant":"v7","x":{"y":[1.0e9]}}`))
	f.Add(index(ocispec.MediaTypeImageIndex, h.keep(ocispec.MediaTypeImageManifest, one, map[string]string{"os": "\x1b[31m", "architecture": strings.Repeat("a", 3000)})), "", config)
	f.Add([]byte(`{"schemaVersion":1}`), "", config)
	f.Add([]byte(`{"manifests":[{"platform":{}}],"config":{}}`), "", []byte(`{"Config":{"Env":[null],"env":1}}`))
	f.Fuzz(func(t *testing.T, data []byte, contentType string, config []byte) {
		checkConfig(t, config)
		mediaType, err := documentType(data, contentType)
		if err != nil {
			checkError(t, err)
			return
		}
		if !isIndex(mediaType) && !isManifest(mediaType) {
			t.Fatalf("media type %q", mediaType)
		}
		var m ocispec.Manifest
		if json.Unmarshal(data, &m) == nil {
			err := checkManifest(m)
			checkError(t, err)
			if err != nil && strings.ContainsFunc(err.Error(), func(r rune) bool { return !unicode.IsPrint(r) }) {
				t.Errorf("the error %q", err)
			}
			for _, l := range append(m.Layers, m.Config) {
				if err == nil && (l.Digest.Validate() != nil || l.Size <= 0 || strings.ContainsAny(l.Digest.String(), "/?#% ")) {
					t.Fatalf("accepted %+v", l)
				}
			}
			if err == nil && (m.Config.Size > maxDocument || len(m.Layers) > maxLayers) {
				t.Fatalf("accepted %d layers and a config of %d bytes", len(m.Layers), m.Config.Size)
			}
		}
		var idx ocispec.Index
		if json.Unmarshal(data, &idx) != nil {
			return
		}
		for _, platform := range []string{"", "linux/arm/v6", "windows"} {
			all, have, err := image.Candidates(idx, platform)
			if err != nil {
				checkError(t, err)
				continue
			}
			if len(all) > len(idx.Manifests) {
				t.Fatalf("%d candidates of %d", len(all), len(idx.Manifests))
			}
			text := image.NoneFor(platform, have).Error()
			if len(text) > 30<<10 || strings.ContainsFunc(text, func(r rune) bool { return !unicode.IsPrint(r) }) {
				t.Errorf("the error has %d bytes: %q", len(text), text)
			}
		}
	})
}

// checkConfig looks whether a config that can be read is the same once it is written
// and read again.
func checkConfig(t *testing.T, data []byte) {
	var c, again image.Config
	if json.Unmarshal(data, &c) != nil {
		return
	}
	text, err := json.Marshal(c)
	if err != nil {
		t.Fatalf("%q is read, and cannot be written: %v", data, err)
	}
	if err := json.Unmarshal(text, &again); err != nil {
		t.Fatalf("%q is written as %q, and cannot be read: %v", data, text, err)
	}
	if twice, err := json.Marshal(again); err != nil || string(twice) != string(text) {
		t.Errorf("%q is written as %q and then as %q, %v", data, text, twice, err)
	}
	if c.RunsOn("") != again.RunsOn("") {
		t.Errorf("%q is for another platform as %q", data, text)
	}
}
