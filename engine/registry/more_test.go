package registry

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// guarded lets only those in who have a token, and gives it to the user me.
type guarded struct {
	*hostile
	realm  string
	scopes []string // of the tokens that were asked for
}

const goodToken = "eyJ0b2tlbiI6IjEifQ"

func (g *guarded) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch {
	case r.URL.Path == "/token" && r.Method == http.MethodGet:
		user, password, _ := r.BasicAuth()
		g.scopes = append(g.scopes, r.URL.Query()["scope"]...)
		if r.URL.Query().Get("service") != "here" || user != "me" || password != "secret" {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		fmt.Fprintf(w, `{"token":%q}`, goodToken)
	case r.URL.Path == "/token":
		r.ParseForm()
		if r.Form.Get("grant_type") != "refresh_token" || r.Form.Get("refresh_token") != "identity" {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		fmt.Fprintf(w, `{"access_token":%q}`, goodToken)
	case r.Header.Get("Authorization") == "Bearer "+goodToken:
		g.hostile.ServeHTTP(w, r)
	default:
		w.Header().Set("WWW-Authenticate", fmt.Sprintf(`Bearer realm=%q,service="here"`, g.realm))
		w.WriteHeader(http.StatusUnauthorized)
	}
}

func TestBearerToken(t *testing.T) {
	for name, tt := range map[string]struct {
		cred Credential
		ok   bool
	}{
		"by password":       {Credential{Username: "me", Password: "secret"}, true},
		"by identity token": {Credential{IdentityToken: "identity"}, true},
		"by wrong password": {Credential{Username: "me", Password: "wrong"}, false},
		"by nothing":        {Credential{}, false},
	} {
		t.Run(name, func(t *testing.T) {
			g := &guarded{hostile: newHostile(t)}
			server := httptest.NewServer(g)
			defer server.Close()
			g.realm = server.URL + "/token"
			to, c := target(t)
			c.creds.only = &tt.cred
			_, err := c.Pull(t.Context(), to, strings.TrimPrefix(server.URL, "http://")+"/some/image:1", PullOptions{})
			if tt.ok != (err == nil) {
				t.Errorf("got %v", err)
			}
			if !tt.ok && !strings.Contains(err.Error(), "stack login") {
				t.Errorf("no word of how to log in: %v", err)
			}
			if tt.ok && tt.cred.Username != "" && !slices.Contains(g.scopes, "repository:some/image:pull") {
				t.Errorf("asked for %q", g.scopes)
			}
		})
	}
}

func TestTokenServerMustBeSafe(t *testing.T) {
	g := &guarded{hostile: newHostile(t), realm: "http://tokens.example/token"}
	server := httptest.NewTLSServer(g)
	defer server.Close()
	host := strings.TrimPrefix(server.URL, "https://")
	_, c := target(t)
	c.config.Insecure = []string{host} // whose certificate nobody knows
	c.creds.only = &Credential{Username: "me", Password: "secret"}
	if _, err := c.Tags(t.Context(), host+"/some/image"); err == nil || !strings.Contains(err.Error(), "plain HTTP") {
		t.Errorf("got %v", err)
	}
}

// platforms makes the registry's image an index of images for each platform.
func (h *hostile) platforms(t *testing.T, platforms ...string) {
	t.Helper()
	var all []any
	for _, p := range platforms {
		os, rest, _ := strings.Cut(p, "/")
		arch, variant, _ := strings.Cut(rest, "/")
		m := bytes.Clone(h.manifest)
		if p != "linux/"+hostArch() {
			m = append(m, '\n') // another image, as far as anyone can see
		}
		h.blobs[digest.FromBytes(m).String()] = m
		all = append(all, map[string]any{
			"mediaType": ocispec.MediaTypeImageManifest, "digest": digest.FromBytes(m), "size": len(m),
			"platform":    map[string]string{"os": os, "architecture": arch, "variant": variant},
			"annotations": map[string]string{"of.somebody.else": "1"},
		})
	}
	index, err := json.Marshal(map[string]any{"schemaVersion": 2, "mediaType": ocispec.MediaTypeImageIndex, "manifests": all})
	if err != nil {
		t.Fatal(err)
	}
	h.manifest = index
}

func TestPlatforms(t *testing.T) {
	t.Run("this machine's is chosen", func(t *testing.T) {
		h := newHostile(t)
		h.platforms(t, "linux/s390x", "linux/"+hostArch())
		img, _, _, err := pullFrom(t, h)
		if err != nil || img.Platform.Architecture != hostArch() {
			t.Errorf("%v, %v", img.Platform, err)
		}
	})
	t.Run("what is there is listed where it is not", func(t *testing.T) {
		h := newHostile(t)
		h.platforms(t, "linux/s390x", "linux/arm/v7")
		_, to, _, err := pullFrom(t, h)
		if err == nil || !strings.Contains(err.Error(), "linux/s390x") || !strings.Contains(err.Error(), "linux/arm/v7") {
			t.Errorf("got %v", err)
		}
		if all, _ := to.Images.List(t.Context()); len(all) > 0 {
			t.Error("there is an image", all)
		}
	})
}

func TestZstdLayer(t *testing.T) {
	h := newHostile(t)
	var raw bytes.Buffer
	w := tar.NewWriter(&raw)
	w.WriteHeader(&tar.Header{Name: "file", Typeflag: tar.TypeReg, Mode: 0o644, Size: 4})
	w.Write([]byte("text"))
	w.Close()
	enc, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	layer := enc.EncodeAll(raw.Bytes(), nil)
	config := fmt.Appendf(nil, `{"os":"linux","architecture":%q,"config":{},"rootfs":{"type":"layers","diff_ids":[%q]}}`, hostArch(), digest.FromBytes(raw.Bytes()))
	h.blobs[digest.FromBytes(layer).String()] = layer
	h.blobs[digest.FromBytes(config).String()] = config
	h.manifest, _ = json.Marshal(map[string]any{
		"schemaVersion": 2, "mediaType": ocispec.MediaTypeImageManifest,
		"config": map[string]any{"mediaType": ocispec.MediaTypeImageConfig, "digest": digest.FromBytes(config), "size": len(config)},
		"layers": []any{map[string]any{"mediaType": ocispec.MediaTypeImageLayerZstd, "digest": digest.FromBytes(layer), "size": len(layer)}},
	})
	img, to, _, err := pullFrom(t, h)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := to.Layers.Layer(img.Layers[0].DiffID); err != nil {
		t.Error(err)
	}
}

func TestTagsFollowPages(t *testing.T) {
	var server *httptest.Server
	pages := map[string]string{"": `{"tags":["3","1"]}`, "1": `{"tags":["2"]}`}
	server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/v2/some/image/tags/list" {
			return
		}
		last := r.URL.Query().Get("last")
		if last == "" {
			w.Header().Set("Link", `</v2/some/image/tags/list?`+url.Values{"last": {"1"}}.Encode()+`>; rel="next"`)
		}
		fmt.Fprint(w, pages[last])
	}))
	defer server.Close()
	_, c := target(t)
	got, err := c.Tags(t.Context(), strings.TrimPrefix(server.URL, "http://")+"/some/image")
	if err != nil || !slices.Equal(got, []string{"1", "2", "3"}) {
		t.Errorf("got %v, %v", got, err)
	}
}

func TestLinks(t *testing.T) {
	for line, want := range map[string]string{
		`</v2/a/tags/list?last=1>; rel="next"`:                         "https://r.test/v2/a/tags/list?last=1",
		`<?last=1>;rel=next`:                                           "https://r.test/v2/a/tags/list?last=1",
		`<?p=0>; rel="prev", <?p=2>; title="a, b; c"; rel="last next"`: "https://r.test/v2/a/tags/list?p=2",
		`<?p=2> ; REL = "Next" , <?p=3>; rel=next`:                     "https://r.test/v2/a/tags/list?p=2",
		`<?p=0>; rel="prev"; rel="next"`:                               "",
		`<?p=0>; title="rel=next"`:                                     "",
		`<https://other.test/>; rel=next`:                              "",
		`<http://r.test/>; rel=next`:                                   "",
		`<?p=2; rel="next"`:                                            "",
		`?p=2; rel="next"`:                                             "",
		`<`:                                                            "",
	} {
		req := httptest.NewRequest(http.MethodGet, "https://r.test/v2/a/tags/list", nil)
		resp := &http.Response{Request: req, Header: http.Header{"Link": {line}}}
		if got := nextPage(resp); got != want {
			t.Errorf("%s: %q, want %q", line, got, want)
		}
	}
}

// TestTagsWithoutAnEnd has a registry name a next page without an end.
func TestTagsWithoutAnEnd(t *testing.T) {
	tags := strings.Repeat(`"`+strings.Repeat("t", 1<<20)+`",`, 7) + `"x"`
	for name, tt := range map[string]struct {
		link func(asked int) string
		tags string
		want string // of the error; "" for success
	}{
		"in a circle":       {func(asked int) string { return fmt.Sprintf("?page=%d", asked%3) }, `"1"`, ""},
		"on and on":         {func(asked int) string { return fmt.Sprintf("?page=%d", asked) }, tags, "the tags have more than 64 MiB"},
		"without more tags": {func(asked int) string { return fmt.Sprintf("?page=%d", asked) }, ``, ""},
	} {
		t.Run(name, func(t *testing.T) {
			asked := 0
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if strings.HasSuffix(r.URL.Path, "/tags/list") {
					asked++
					w.Header().Set("Link", "<"+tt.link(asked)+">; rel=next")
					fmt.Fprint(w, `{"tags":[`+tt.tags+`]}`)
				}
			}))
			defer server.Close()
			_, c := target(t)
			_, err := c.Tags(t.Context(), strings.TrimPrefix(server.URL, "http://")+"/some/image")
			if tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
				t.Errorf("after %d pages: %v, want %q", asked, err, tt.want)
			}
		})
	}
}

func TestRetryAfter(t *testing.T) {
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	const longest = time.Duration(maxSeconds) * time.Second
	for value, want := range map[string]time.Duration{
		"": 0, "0": 0, "5": 5 * time.Second, "-5": 0, "soon": 0, "9223372037": longest, "99999999999999999999999": longest,
		"Thu, 01 Jan 2026 00:01:00 GMT": time.Minute, "Thu, 01 Jan 2015 00:01:00 GMT": 0, "Fri, 01 Jan 9999 00:00:00 GMT": math.MaxInt64,
	} {
		if got := retryAfter(value, now); got != want {
			t.Errorf("%q: %v, want %v", value, got, want)
		}
	}
}

func TestServer(t *testing.T) {
	for in, want := range map[string]string{
		"": "docker.io", "docker.io": "docker.io", "https://index.docker.io/v1/": "docker.io",
		"registry.lan:5000": "registry.lan:5000", "https://registry.lan/v2/": "registry.lan",
	} {
		if got := Server(in); got != want {
			t.Errorf("Server(%q) = %q, want %q", in, got, want)
		}
	}
}

func TestCredentialsAreKeptBesideTheRest(t *testing.T) {
	c := &Credentials{Dir: t.TempDir()}
	if _, err := c.Store(t.Context(), "docker.io", Credential{Username: "me", Password: "a:b"}); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Store(t.Context(), "registry.lan", Credential{IdentityToken: "identity"}); err != nil {
		t.Fatal(err)
	}
	if got, err := c.Get(t.Context(), "docker.io"); err != nil || got != (Credential{Username: "me", Password: "a:b"}) {
		t.Errorf("%v, %v", got, err)
	}
	if got, err := c.Get(t.Context(), "registry.lan"); err != nil || got.IdentityToken != "identity" {
		t.Errorf("%v, %v", got, err)
	}
	if had, err := c.Erase(t.Context(), "docker.io"); !had || err != nil {
		t.Errorf("%v, %v", had, err)
	}
	if got, err := c.Get(t.Context(), "docker.io"); err != nil || got != (Credential{}) {
		t.Errorf("%v, %v", got, err)
	}
}
