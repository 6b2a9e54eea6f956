package registry

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/stack-run/stack/engine/image"
	"github.com/stack-run/stack/engine/snapshot"
)

// hostile is a registry with one image that does to answers what a test wants.
type hostile struct {
	blobs    map[string][]byte
	manifest []byte
	layer    digest.Digest
	mu       sync.Mutex
	asked    map[string]int // how often a path was asked for
	ranges   []string
	// serve may answer the nth request (from 1) for a path itself.
	serve func(w http.ResponseWriter, r *http.Request, n int, data []byte) bool
}

func newHostile(t testing.TB) *hostile {
	t.Helper()
	var raw bytes.Buffer
	w := tar.NewWriter(&raw)
	content := make([]byte, 300<<10)
	for i := range content {
		content[i] = byte(i * i >> 3)
	}
	w.WriteHeader(&tar.Header{Name: "file", Typeflag: tar.TypeReg, Mode: 0o644, Size: int64(len(content))})
	w.Write(content)
	w.Close()
	var z bytes.Buffer
	// Stored, so that its length is that of the content.
	gz, _ := gzip.NewWriterLevel(&z, gzip.NoCompression)
	gz.Write(raw.Bytes())
	gz.Close()
	config := fmt.Appendf(nil, `{"os":"linux","architecture":%q,"config":{},"rootfs":{"type":"layers","diff_ids":[%q]}}`, hostArch(), digest.FromBytes(raw.Bytes()))
	h := &hostile{blobs: map[string][]byte{}, asked: map[string]int{}, layer: digest.FromBytes(z.Bytes())}
	h.blobs[h.layer.String()] = z.Bytes()
	h.blobs[digest.FromBytes(config).String()] = config
	h.manifest, _ = json.Marshal(map[string]any{
		"schemaVersion": 2, "mediaType": ocispec.MediaTypeImageManifest,
		"config": map[string]any{"mediaType": ocispec.MediaTypeImageConfig, "digest": digest.FromBytes(config), "size": len(config)},
		"layers": []any{map[string]any{"mediaType": ocispec.MediaTypeImageLayerGzip, "digest": h.layer, "size": z.Len()}},
	})
	return h
}

func hostArch() string {
	p, _ := image.ParsePlatform("")
	return p.Architecture
}

func (h *hostile) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h.mu.Lock()
	h.asked[r.URL.Path]++
	n := h.asked[r.URL.Path]
	if v := r.Header.Get("Range"); v != "" {
		h.ranges = append(h.ranges, v)
	}
	h.mu.Unlock()
	name := r.URL.Path[strings.LastIndexByte(r.URL.Path, '/')+1:]
	var data []byte
	switch {
	case r.URL.Path == "/v2/":
		return
	case strings.Contains(r.URL.Path, "/manifests/"):
		data = h.manifest
		if one, ok := h.blobs[name]; ok {
			data = one
		}
		w.Header().Set("Content-Type", mediaType(data))
	default:
		data = h.blobs[name]
	}
	if data == nil {
		w.WriteHeader(http.StatusNotFound)
		io.WriteString(w, `{"errors":[{"code":"BLOB_UNKNOWN","message":"blob unknown to registry"}]}`)
		return
	}
	if h.serve != nil && h.serve(w, r, n, data) {
		return
	}
	http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(data))
}

// mediaType is what a manifest says of itself.
func mediaType(manifest []byte) string {
	var m struct {
		MediaType string `json:"mediaType"`
	}
	json.Unmarshal(manifest, &m)
	return m.MediaType
}

func (h *hostile) isLayer(r *http.Request) bool {
	return strings.HasSuffix(r.URL.Path, h.layer.String())
}

func pullFrom(t *testing.T, h *hostile) (image.Image, Target, string, error) {
	t.Helper()
	server := httptest.NewServer(h)
	t.Cleanup(server.Close)
	to, c := target(t)
	ref := strings.TrimPrefix(server.URL, "http://") + "/some/image:1"
	got, err := c.Pull(t.Context(), to, ref, PullOptions{})
	return got.Image, to, c.creds.Dir, err
}

// target is an empty store, and a client without patience. Both have the same
// directory.
func target(t *testing.T) (Target, *Client) {
	t.Helper()
	root := t.TempDir()
	images, err := image.Open(root)
	if err != nil {
		t.Fatal(err)
	}
	layers, err := snapshot.Open(root)
	if err != nil {
		t.Fatal(err)
	}
	c, err := NewClient(Options{Config: &Config{}, Credentials: &Credentials{Dir: root}, StallTimeout: 200 * time.Millisecond, Backoff: time.Millisecond, MaxWait: time.Second})
	if err != nil {
		t.Fatal(err)
	}
	return Target{images, layers}, c
}

// TestPullSucceeds is about servers whose faults can be got over.
func TestPullSucceeds(t *testing.T) {
	cut := func(w http.ResponseWriter, data []byte, n int) {
		w.Header().Set("Content-Length", fmt.Sprint(len(data)))
		w.Write(data[:n])
		http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	}
	for name, serve := range map[string]func(h *hostile) func(http.ResponseWriter, *http.Request, int, []byte) bool{
		"an honest registry": func(h *hostile) func(http.ResponseWriter, *http.Request, int, []byte) bool { return nil },
		"one that drops in the middle of a layer": func(h *hostile) func(http.ResponseWriter, *http.Request, int, []byte) bool {
			return func(w http.ResponseWriter, r *http.Request, n int, data []byte) bool {
				if h.isLayer(r) && n == 1 {
					cut(w, data, 100<<10)
				}
				return false
			}
		},
		"one that knows no ranges": func(h *hostile) func(http.ResponseWriter, *http.Request, int, []byte) bool {
			return func(w http.ResponseWriter, r *http.Request, n int, data []byte) bool {
				if h.isLayer(r) && n == 1 {
					cut(w, data, 100<<10)
				}
				r.Header.Del("Range")
				return false
			}
		},
		"one that stalls": func(h *hostile) func(http.ResponseWriter, *http.Request, int, []byte) bool {
			return func(w http.ResponseWriter, r *http.Request, n int, data []byte) bool {
				if !h.isLayer(r) || n > 1 {
					return false
				}
				w.Header().Set("Content-Length", fmt.Sprint(len(data)))
				w.Write(data[:1000])
				http.NewResponseController(w).Flush()
				<-r.Context().Done()
				return true
			}
		},
		"one that is busy": func(h *hostile) func(http.ResponseWriter, *http.Request, int, []byte) bool {
			return func(w http.ResponseWriter, r *http.Request, n int, data []byte) bool {
				if n > 2 {
					return false
				}
				w.WriteHeader(map[int]int{1: 503, 2: 429}[n])
				return true
			}
		},
		"one that flips a bit, once": func(h *hostile) func(http.ResponseWriter, *http.Request, int, []byte) bool {
			return func(w http.ResponseWriter, r *http.Request, n int, data []byte) bool {
				if n > 1 || strings.Contains(r.URL.Path, "/manifests/") {
					return false
				}
				bad := bytes.Clone(data)
				bad[len(bad)/2] ^= 1
				w.Write(bad)
				return true
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHostile(t)
			h.serve = serve(h)
			img, to, _, err := pullFrom(t, h)
			if err != nil {
				t.Fatal(err)
			}
			if len(img.Names) != 1 || len(img.RepoDigests) != 1 {
				t.Errorf("names %v, digests %v", img.Names, img.RepoDigests)
			}
			if _, err := to.Layers.Layer(img.Layers[0].DiffID); err != nil {
				t.Error(err)
			}
			if strings.Contains(name, "drops") && (len(h.ranges) != 1 || h.ranges[0] != fmt.Sprintf("bytes=%d-", 100<<10)) {
				t.Errorf("the rest was asked for by %v", h.ranges)
			}
			if problems, err := to.Images.Check(t.Context(), image.CheckOptions{}); err != nil || len(problems) > 0 {
				t.Error(problems, err)
			}
		})
	}
}

// TestPullRefuses is about servers that never send the right thing.
func TestPullRefuses(t *testing.T) {
	for name, c := range map[string]struct {
		change func(h *hostile)
		want   string
	}{
		"other content": {func(h *hostile) {
			h.serve = func(w http.ResponseWriter, r *http.Request, n int, data []byte) bool {
				if h.isLayer(r) {
					w.Write(bytes.Repeat([]byte{7}, len(data)))
				}
				return h.isLayer(r)
			}
		}, "the content has digest"},
		"too little": {func(h *hostile) {
			h.serve = func(w http.ResponseWriter, r *http.Request, n int, data []byte) bool {
				if h.isLayer(r) {
					w.Write(data[:10])
				}
				return h.isLayer(r)
			}
		}, "ended it after"},
		"too much": {func(h *hostile) {
			h.serve = func(w http.ResponseWriter, r *http.Request, n int, data []byte) bool {
				if h.isLayer(r) {
					w.Write(append(bytes.Clone(data), 1))
				}
				return h.isLayer(r)
			}
		}, "more than the"},
		"a manifest with another digest than the header says": {func(h *hostile) {
			h.serve = func(w http.ResponseWriter, r *http.Request, n int, data []byte) bool {
				w.Header().Set("Docker-Content-Digest", digest.FromString("x").String())
				return false
			}
		}, "with the content of"},
		"a config of another size": {func(h *hostile) {
			h.manifest = bytes.Replace(h.manifest, []byte(`"size":`), []byte(`"size":1`), 1)
		}, "not the"},
		"a wrong diff ID": {func(h *hostile) {
			for d, data := range h.blobs {
				if d == h.layer.String() {
					continue
				}
				var c map[string]any
				json.Unmarshal(data, &c)
				c["rootfs"] = map[string]any{"type": "layers", "diff_ids": []string{digest.FromString("x").String()}}
				bad, _ := json.Marshal(c)
				delete(h.blobs, d)
				h.blobs[digest.FromBytes(bad).String()] = bad
				h.manifest = bytes.Replace(h.manifest, []byte(d), []byte(digest.FromBytes(bad).String()), 1)
				h.manifest = bytes.Replace(h.manifest, fmt.Appendf(nil, `"size":%d`, len(data)), fmt.Appendf(nil, `"size":%d`, len(bad)), 1)
				return
			}
		}, "diff ID"},
		"nothing": {func(h *hostile) { delete(h.blobs, h.layer.String()) }, "blob unknown to registry"},
		"a limit that is used up": {func(h *hostile) {
			h.serve = func(w http.ResponseWriter, r *http.Request, n int, data []byte) bool {
				w.Header().Set("RateLimit-Limit", "100;w=21600")
				w.Header().Set("RateLimit-Remaining", "0;w=21600")
				w.Header().Set("Retry-After", "3600")
				w.WriteHeader(429)
				return true
			}
		}, "0 of 100 requests are left in 6h0m0s, try again in 1h0m0s"},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHostile(t)
			c.change(h)
			_, to, root, err := pullFrom(t, h)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%v; want %q", err, c.want)
			}
			if all, err := to.Images.List(t.Context()); err != nil || len(all) > 0 {
				t.Error("there is an image", all, err)
			}
			if all, err := to.Layers.Layers(); err != nil || len(all) > 0 {
				t.Error("there is a layer", all, err)
			}
			if left, _ := os.ReadDir(filepath.Join(root, "layers/tmp")); len(left) > 0 {
				t.Error("left behind", left)
			}
			if problems, err := to.Images.Check(t.Context(), image.CheckOptions{}); err != nil || len(problems) > 0 {
				t.Error(problems, err)
			}
		})
	}
}
