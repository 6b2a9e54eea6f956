package registry

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

// drip sends a byte now and then, for as long as somebody waits for it.
func drip(w http.ResponseWriter, r *http.Request) {
	for tick := time.NewTicker(5 * time.Millisecond); ; {
		select {
		case <-tick.C:
			io.WriteString(w, " ")
			http.NewResponseController(w).Flush()
		case <-r.Context().Done():
			tick.Stop()
			return
		}
	}
}

// TestSlowBodies is about servers that send a byte now and then: none of their
// answers is waited for without an end.
func TestSlowBodies(t *testing.T) {
	for name, tt := range map[string]struct {
		serve func(h *hostile) http.HandlerFunc
		want  string
	}{
		"a layer": {func(h *hostile) http.HandlerFunc {
			return func(w http.ResponseWriter, r *http.Request) {
				if !h.isLayer(r) {
					h.ServeHTTP(w, r)
					return
				}
				w.Header().Set("Content-Length", fmt.Sprint(len(h.blobs[h.layer.String()])))
				drip(w, r)
			}
		}, "hardly anything came"},
		"a manifest": {func(h *hostile) http.HandlerFunc {
			return func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Path != "/v2/" {
					drip(w, r)
				}
			}
		}, ""},
		"a refusal": {func(h *hostile) http.HandlerFunc {
			return func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Path != "/v2/" {
					w.WriteHeader(http.StatusNotFound)
					drip(w, r)
				}
			}
		}, "404 Not Found"},
		"the first answer": {func(h *hostile) http.HandlerFunc {
			return func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Path != "/v2/" {
					h.ServeHTTP(w, r)
					return
				}
				drip(w, r)
			}
		}, "works"},
		"a token": {func(h *hostile) http.HandlerFunc {
			return func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Path == "/token" {
					drip(w, r)
					return
				}
				w.Header().Set("WWW-Authenticate", `Bearer realm="http://`+r.Host+`/token"`)
				w.WriteHeader(http.StatusUnauthorized)
			}
		}, "hardly anything came"},
	} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			server := httptest.NewServer(tt.serve(newHostile(t)))
			defer server.Close()
			to, c := target(t)
			c.o.StallTimeout, c.o.HeaderTimeout, c.o.MaxWait = 100*time.Millisecond, 200*time.Millisecond, 200*time.Millisecond
			_, err := c.Pull(ctx, to, strings.TrimPrefix(server.URL, "http://")+"/some/image:1", PullOptions{})
			if ctx.Err() != nil {
				t.Fatal("it was waited for")
			}
			if (tt.want == "works") != (err == nil) || err != nil && !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want %q", err, tt.want)
			}
		})
	}
}

// TestUploadThatIsNotTaken is about a server that reads nothing of a blob.
func TestUploadThatIsNotTaken(t *testing.T) {
	release := make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		<-release
	}))
	defer server.Close()
	defer close(release)
	_, c := target(t)
	c.o.StallTimeout, c.o.HeaderTimeout = 50*time.Millisecond, 50*time.Millisecond
	all, err := c.endpoints(t.Context(), strings.TrimPrefix(server.URL, "http://"), false)
	if err != nil {
		t.Fatal(err)
	}
	all[0].base.Scheme = "http"
	_, err = c.send(t.Context(), all[0], call{method: http.MethodPut, path: "/v2/x", body: func() (io.ReadCloser, int64, error) {
		return io.NopCloser(io.LimitReader(endless{}, 1<<30)), 1 << 30, nil
	}}, "")
	if err == nil || !strings.Contains(err.Error(), "takes no more") {
		t.Errorf("got %v", err)
	}
}

type endless struct{}

func (endless) Read(p []byte) (int, error) { return len(p), nil }

// TestUnreachableIsToldSoon is about servers that have never answered: there is no
// use in asking again and again.
func TestUnreachableIsToldSoon(t *testing.T) {
	for name, tt := range map[string]struct {
		err   error
		tries int
	}{
		"no such host":           {&net.DNSError{Err: "no such host", Name: "x", IsNotFound: true}, 1},
		"no name server":         {&net.DNSError{Err: "network is unreachable", Name: "x", IsTemporary: true}, 1},
		"a silent name server":   {&net.DNSError{Err: "i/o timeout", Name: "x", IsTimeout: true, IsTemporary: true}, 1},
		"a silent host":          {timedOut{}, 1},
		"a connection that ends": {io.EOF, firstAttempts},
	} {
		t.Run(name, func(t *testing.T) {
			to, c := target(t)
			all, err := c.endpoints(t.Context(), "registry.example", true)
			if err != nil {
				t.Fatal(err)
			}
			tries := 0
			all[0].client.Transport = roundTripper(func(*http.Request) (*http.Response, error) {
				tries++
				return nil, &net.OpError{Op: "dial", Net: "tcp", Err: tt.err}
			})
			if _, err := c.Pull(t.Context(), to, "registry.example/x", PullOptions{}); err == nil || tries != tt.tries || strings.Contains(err.Error(), "https://") {
				t.Errorf("%d tries, %v; want %d", tries, err, tt.tries)
			}
			if tt.tries > 1 {
				return
			}
			// The same in the middle of a pull may go over.
			tries = 0
			all[0].answers.Store(true)
			c.do(t.Context(), all[0], call{method: http.MethodGet, path: "/v2/"})
			if _, dns := tt.err.(*net.DNSError); !dns && tries != attempts {
				t.Errorf("%d tries of a server that has answered before", tries)
			}
		})
	}
}

type timedOut struct{}

func (timedOut) Error() string   { return "i/o timeout" }
func (timedOut) Timeout() bool   { return true }
func (timedOut) Temporary() bool { return true }

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }
