package e2e

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// shelf is a registry that serves what is put on it, read-only.
type shelf struct {
	*httptest.Server
	mu    sync.Mutex
	items map[string][]byte // by path below /v2/
	asked map[string]int    // GETs, by path
	pace  time.Duration     // how long a KiB of a blob takes
	// fault may answer the nth GET (from 1) of a layer itself, wrongly.
	fault func(w http.ResponseWriter, r *http.Request, n int, data []byte) bool
}

func newShelf(t *testing.T) *shelf {
	s := &shelf{items: map[string][]byte{}, asked: map[string]int{}}
	s.Server = httptest.NewServer(s)
	t.Cleanup(s.Close)
	return s
}

func (s *shelf) host() string { return strings.TrimPrefix(s.URL, "http://") }

func (s *shelf) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	item := strings.TrimPrefix(r.URL.Path, "/v2/")
	s.mu.Lock()
	data, ok := s.items[item]
	pace, fault := s.pace, s.fault
	if r.Method == http.MethodGet {
		s.asked[item]++
	}
	n := s.asked[item]
	s.mu.Unlock()
	if isLayer := len(data) > 10<<10; isLayer && fault != nil && fault(w, r, n, data) {
		return
	}
	switch {
	case item == "":
		return
	case !ok:
		w.WriteHeader(http.StatusNotFound)
		fmt.Fprint(w, `{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown"}]}`)
		return
	case path.Base(path.Dir(item)) == "manifests":
		w.Header().Set("Content-Type", "application/vnd.oci.image.manifest.v1+json")
		w.Header().Set("Docker-Content-Digest", sha(data))
	case pace > 0:
		w = &slowWriter{w, r.Context(), pace}
	}
	http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(data))
}

func sha(data []byte) string { return fmt.Sprintf("sha256:%x", sha256.Sum256(data)) }

// slowWriter is a connection of limited speed.
type slowWriter struct {
	http.ResponseWriter
	ctx  context.Context // of the request
	pace time.Duration   // for a KiB
}

func (w *slowWriter) Write(p []byte) (int, error) {
	for piece := range slices.Chunk(p, 16<<10) {
		if _, err := w.ResponseWriter.Write(piece); err != nil {
			return 0, err
		}
		w.ResponseWriter.(http.Flusher).Flush()
		select {
		case <-time.After(w.pace * time.Duration(len(piece)) / 1024):
		case <-w.ctx.Done():
			return 0, w.ctx.Err()
		}
	}
	return len(p), nil
}

// slow sets how long a KiB of a blob takes from now on.
func (s *shelf) slow(pace time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.pace = pace
}

// put puts BusyBox under a name, with an environment variable that tells one
// image from another, and with further layers, which are plain tars.
func (s *shelf) put(t *testing.T, repo, tag, which string, more ...[]byte) {
	t.Helper()
	busybox, err := os.ReadFile(shared.Images["busybox:latest"].Tar)
	must(t, err)
	s.mu.Lock()
	defer s.mu.Unlock()
	blob := func(mediaType string, data []byte) map[string]any {
		s.items[repo+"/blobs/"+sha(data)] = data
		return map[string]any{"mediaType": mediaType, "digest": sha(data), "size": len(data)}
	}
	var diffIDs []string
	var layers []any
	for _, l := range append([][]byte{busybox}, more...) {
		diffIDs = append(diffIDs, sha(l))
		layers = append(layers, blob("application/vnd.oci.image.layer.v1.tar", l))
	}
	config, err := json.Marshal(map[string]any{
		"os": "linux", "architecture": runtime.GOARCH,
		"config": map[string]any{"Cmd": []string{"sh"}, "Env": []string{"PATH=/bin", "WHICH=" + which}},
		"rootfs": map[string]any{"type": "layers", "diff_ids": diffIDs},
	})
	must(t, err)
	manifest, err := json.Marshal(map[string]any{
		"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
		"config": blob("application/vnd.oci.image.config.v1+json", config),
		"layers": layers,
	})
	must(t, err)
	s.items[repo+"/manifests/"+tag] = manifest
	s.items[repo+"/manifests/"+sha(manifest)] = manifest
}

// manifests counts the requests for manifests.
func (s *shelf) manifests() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := 0
	for item, times := range s.asked {
		if strings.Contains(item, "/manifests/") {
			n += times
		}
	}
	return n
}

// got counts the downloads of blobs, and forgets them.
func (s *shelf) got() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := 0
	for item, times := range s.asked {
		if strings.Contains(item, "/blobs/") {
			n += times
		}
	}
	clear(s.asked)
	return n
}

func TestPull(t *testing.T) {
	b := newBox(t)
	r := newShelf(t)
	r.put(t, "box", "1", "first")
	name := r.host() + "/box:1"

	t.Run("an image is pulled, and run under its name and its digest", func(t *testing.T) {
		out := b.ok(t, "image", "pull", name)
		if !strings.Contains(out, "Digest: sha256:") || !strings.Contains(out, "Status: Downloaded newer image for "+name) {
			t.Errorf("%q", out)
		}
		if out := b.ok(t, "container", "run", "--rm", name, "sh", "-c", "echo $WHICH"); out != "first\n" {
			t.Errorf("%q", out)
		}
		if n := r.got(); n != 2 {
			t.Errorf("%d blobs were fetched, want a config and a layer", n)
		}
	})
	t.Run("what is here is not fetched again", func(t *testing.T) {
		if out := b.ok(t, "image", "pull", name); !strings.Contains(out, "Status: Image is up to date") {
			t.Errorf("%q", out)
		}
		if n := r.got(); n != 0 {
			t.Errorf("%d blobs were fetched", n)
		}
	})
	t.Run("run pulls what is missing, and only if it may", func(t *testing.T) {
		r.put(t, "other", "1", "other")
		other := r.host() + "/other:1"
		if res := b.fails(t, "container", "run", "--rm", "--pull", "never", other, "true"); res.code != 125 {
			t.Errorf("%v", res)
		}
		if out := b.ok(t, "container", "run", "--rm", other, "sh", "-c", "echo $WHICH"); out != "other\n" {
			t.Errorf("%q", out)
		}
	})
	t.Run("a registry's refusal is told in its words", func(t *testing.T) {
		res := b.fails(t, "image", "pull", r.host()+"/box:2")
		if !strings.Contains(res.stderr, "manifest unknown") || !strings.Contains(res.stderr, "/box:2") {
			t.Errorf("%v", res)
		}
	})
	t.Run("a registry that is not there is told once, and soon", func(t *testing.T) {
		b.compose(t, "services: {a: {image: 127.0.0.1:1/one}, b: {image: 127.0.0.1:1/two}}")
		start := time.Now()
		for _, verb := range [][]string{{"up", "-d"}, {"pull"}, {"container", "run", "--rm", "127.0.0.1:1/one", "true"}} {
			res := b.fails(t, verb...)
			if n := strings.Count(res.stderr, "cannot reach registry 127.0.0.1:1: connection refused"); n < 1 || n > strings.Count(res.stderr, " Error") || strings.Count(res.stderr, "127.0.0.1:1/one:latest: cannot") > 1 {
				t.Errorf("%v: %v", verb, res)
			}
		}
		if d := time.Since(start); d > 20*time.Second {
			t.Errorf("it took %s", d)
		}
	})
	t.Run("the store is sound", func(t *testing.T) { b.ok(t, "system", "check") })
}

func TestUpPullsAllOrNothing(t *testing.T) {
	b := newBox(t)
	r := newShelf(t)
	r.put(t, "web", "1", "old")
	r.put(t, "db", "1", "old")
	b.compose(t, `
	services:
		web:
			image: `+r.host()+`/web:1
			command: sleep 1000
			init: true
		db:
			image: `+r.host()+`/db:1
			command: sleep 1000
			init: true
	`)
	b.ok(t, "up", "-d")
	id := func(service string) string { return strings.TrimSpace(b.ok(t, "ps", "-q", service)) }
	web, db := id("web"), id("db")

	t.Run("nothing changes if one of the images cannot be had", func(t *testing.T) {
		r.put(t, "web", "1", "new")
		r.mu.Lock()
		delete(r.items, "db/manifests/1")
		r.mu.Unlock()
		b.fails(t, "up", "-d", "--pull", "always")
		if id("web") != web || id("db") != db {
			t.Error("a container was replaced")
		}
		if out := b.ok(t, "container", "run", "--rm", "--pull", "never", r.host()+"/web:1", "sh", "-c", "echo $WHICH"); out != "old\n" {
			t.Errorf("the name went over to an image of a failed pull: %q", out)
		}
	})
	t.Run("a newer image replaces the container that has it, and no other", func(t *testing.T) {
		r.put(t, "db", "1", "old")
		res := b.stack(t, "up", "-d", "--pull", "always")
		if res.code != 0 {
			t.Fatal(res)
		}
		if id("web") == web || id("db") != db {
			t.Errorf("web %s → %s, db %s → %s: %v", web, id("web"), db, id("db"), res)
		}
	})
	t.Run("pull ignores failures when told to", func(t *testing.T) {
		r.mu.Lock()
		delete(r.items, "db/manifests/1")
		r.mu.Unlock()
		b.fails(t, "pull")
		b.ok(t, "pull", "--ignore-pull-failures")
	})
	b.ok(t, "down")
}
