package e2e

import (
	"bytes"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"
)

// answer is what a registry does to the nth GET (from 1) of a layer; false lets
// it answer as it should.
type answer func(w http.ResponseWriter, r *http.Request, n int, data []byte) bool

// cut sends the beginning of a layer and then does what then does.
func cut(w http.ResponseWriter, data []byte, then func()) bool {
	w.Header().Set("Content-Length", strconv.Itoa(len(data)))
	w.Write(data[:len(data)/3])
	http.NewResponseController(w).Flush()
	then()
	return true
}

func drop() { panic(http.ErrAbortHandler) }

func flipped(w http.ResponseWriter, data []byte) bool {
	bad := bytes.Clone(data)
	bad[len(bad)/2] ^= 1
	w.Write(bad)
	return true
}

func TestPullFromAHostileRegistry(t *testing.T) {
	for _, tt := range []struct {
		name   string
		answer answer
		want   string // of the error; "" for a pull that succeeds in the end
	}{
		{"drops two times in the middle of the layer", func(w http.ResponseWriter, r *http.Request, n int, data []byte) bool {
			return n <= 2 && cut(w, data, drop)
		}, ""},
		{"stalls once in the middle of the layer", func(w http.ResponseWriter, r *http.Request, n int, data []byte) bool {
			return n == 1 && cut(w, data, func() { <-r.Context().Done() })
		}, ""},
		{"is busy: 503, then 429 with Retry-After", func(w http.ResponseWriter, r *http.Request, n int, data []byte) bool {
			switch n {
			case 1:
				w.WriteHeader(http.StatusServiceUnavailable)
			case 2:
				w.Header().Set("Retry-After", "1")
				w.WriteHeader(http.StatusTooManyRequests)
			}
			return n <= 2
		}, ""},
		{"flips a bit once", func(w http.ResponseWriter, r *http.Request, n int, data []byte) bool {
			return n == 1 && flipped(w, data)
		}, ""},
		{"flips a bit each time", func(w http.ResponseWriter, r *http.Request, n int, data []byte) bool {
			return flipped(w, data)
		}, "the content has digest"},
		{"truncates each time", func(w http.ResponseWriter, r *http.Request, n int, data []byte) bool {
			w.Write(data[:len(data)/3])
			return true
		}, "ended it after"},
		{"is out of order each time", func(w http.ResponseWriter, r *http.Request, n int, data []byte) bool {
			w.WriteHeader(http.StatusInternalServerError)
			w.Write([]byte(`{"errors":[{"code":"UNKNOWN","message":"the disk is on fire"}]}`))
			return true
		}, "the disk is on fire"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b := newBox(t)
			r := newShelf(t)
			r.put(t, "box", "1", "old")
			name := r.host() + "/box:1"
			b.ok(t, "image", "pull", name)
			r.put(t, "box", "1", "new", tarOf(t, "file", strings.Repeat("x", 100<<10)))
			r.fault = tt.answer
			start := time.Now()
			res := b.stack(t, "image", "pull", name)
			which := "new"
			if tt.want != "" {
				which = "old"
				if res.code == 0 || !strings.Contains(res.stderr, tt.want) {
					t.Errorf("no word of %q: %v", tt.want, res)
				}
			} else if res.code != 0 {
				t.Errorf("%v", res)
			}
			t.Logf("it took %v", time.Since(start).Round(time.Millisecond))
			if out := b.ok(t, "container", "run", "--rm", "--pull", "never", name, "sh", "-c", "echo $WHICH"); out != which+"\n" {
				t.Errorf("the name leads to %q, want %q", out, which)
			}
			b.ok(t, "system", "check")
		})
	}
}
