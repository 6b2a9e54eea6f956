package registry

import (
	"bufio"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"syscall"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/stack-run/stack/engine/content"
)

// scripted is a connection to a registry that gives the answers of a script, whatever
// it is asked, and the last one from then on.
type scripted struct {
	t       *testing.T
	script  []string
	asked   int
	digest  digest.Digest
	uploads bool // a PUT is of this blob
}

// mostAsked is how many requests are answered. None of what is done here needs more,
// but lists that never end.
const mostAsked = 100

// password is none that comes about by chance.
const password = "7f3a-not-in-an-answer"

func (s *scripted) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.Body != nil {
		r.Body.Close()
	}
	if r.URL.Scheme != "https" && !loopback(r.URL.Host) {
		s.t.Errorf("a request goes to %s in plain text", r.URL)
	}
	// A token server gets the password, as its registry says; a token is for the
	// registry alone.
	if strings.HasPrefix(r.Header.Get("Authorization"), "Bearer") && r.URL.Host != "r.test" {
		s.t.Errorf("a token goes to %s", r.URL)
	}
	if s.uploads && r.Method == http.MethodPut && (r.URL.Query().Get("digest") != s.digest.String() || r.URL.Scheme != "https") {
		s.t.Errorf("the blob goes to %s", r.URL)
	}
	if s.asked++; s.asked > mostAsked {
		return nil, syscall.ECONNREFUSED
	}
	text := s.script[min(s.asked, len(s.script))-1]
	return http.ReadResponse(bufio.NewReader(strings.NewReader(text)), r)
}

// FuzzHeaders has a registry answer with any headers, in answers that are separated by
// an empty line and "--": what is asked of it comes to an end, credentials stay where
// they belong, and errors can be read.
func FuzzHeaders(f *testing.F) {
	const ok = "HTTP/1.1 200 OK\r\n"
	tags := "Content-Length: 14\r\n\r\n{\"tags\":[\"1\"]}"
	for _, script := range []string{
		ok + "Link: </v2/a/b/tags/list?last=1>; rel=\"next\"\r\n" + tags,
		ok + "Link: <x/>; rel=next\r\n" + tags,
		ok + "Link: <https://other.test/>; rel=\"next\", <?n=1>; a=\"b;c,d\"; rel=\"prev next\"\r\n" + tags + "\n--\n" + ok + tags,
		"HTTP/1.1 401 Unauthorized\r\nWww-Authenticate: Bearer realm=\"https://auth.test/t\",service=\"s\"\r\nContent-Length: 0\r\n\r\n\n--\n" +
			ok + "Content-Length: 13\r\n\r\n{\"token\":\"t\"}\n--\n" + ok + tags,
		"HTTP/1.1 401 Unauthorized\r\nWww-Authenticate: Basic realm=x\r\nContent-Length: 0\r\n\r\n",
		"HTTP/1.1 401 Unauthorized\r\nWww-Authenticate: Bearer realm=\"http://auth.test/t\"\r\nContent-Length: 0\r\n\r\n",
		"HTTP/1.1 429 Too Many Requests\r\nRetry-After: 99999999999999999999\r\nRateLimit-Limit: 100;w=21600\r\nRateLimit-Remaining: 0;w=21600\r\nContent-Length: 0\r\n\r\n",
		"HTTP/1.1 503 X\r\nRetry-After: Mon, 02 Jan 2040 15:04:05 GMT\r\nContent-Length: 52\r\n\r\n{\"errors\":[{\"code\":\"DENIED\",\"message\":\"\x1b[31mno\"}]}",
		"HTTP/1.1 307 Temporary Redirect\r\nLocation: https://cdn.test/x\r\nContent-Length: 0\r\n\r\n\n--\n" + ok + "Content-Length: 10\r\n\r\n0123456789",
		"HTTP/1.1 302 Found\r\nLocation: http://cdn.test/x\r\n\r\n",
		"HTTP/1.1 206 Partial Content\r\nContent-Range: bytes 4-9/10\r\nContent-Length: 6\r\n\r\n456789",
		"HTTP/1.1 206 Partial Content\r\nContent-Range: bytes 0-9/10\r\nContent-Length: 10\r\n\r\n0123456789",
		"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n\n--\nHTTP/1.1 202 Accepted\r\nLocation: /v2/a/b/blobs/uploads/1?_state=x\r\nContent-Length: 0\r\n\r\n\n--\nHTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n",
		"HTTP/1.1 404 Not Found\r\n\r\n\n--\nHTTP/1.1 202 Accepted\r\nLocation: http://other.test/up\r\n\r\n\n--\nHTTP/1.1 204 No Content\r\n\r\n",
		ok + "Docker-Content-Digest: sha256:" + strings.Repeat("0", 64) + "\r\nContent-Type: application/json; x=\"\r\nContent-Length: 2\r\n\r\n{}",
		ok + "Docker-Content-Digest: sha512:" + strings.Repeat("0", 128) + "\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
	} {
		f.Add(script)
	}
	dir := f.TempDir()
	blobs, err := content.Open(dir)
	if err != nil {
		f.Fatal(err)
	}
	lease, err := blobs.Lease(f.Context())
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { lease.Close() })
	held, err := blobs.Put(f.Context(), lease, []byte("a blob to push"))
	if err != nil {
		f.Fatal(err)
	}
	wanted := ocispec.Descriptor{Digest: digest.FromString("0123456789"), Size: 10}
	f.Fuzz(func(t *testing.T, script string) {
		var s *scripted
		var errs []error
		client := func() (*Client, *endpoint) {
			c, err := NewClient(Options{
				Config: &Config{}, Credentials: &Credentials{only: &Credential{Username: "me", Password: password}},
				Backoff: 1, MaxWait: time.Millisecond,
			})
			if err != nil {
				t.Fatal(err)
			}
			e, err := c.endpoint("r.test", url.URL{Scheme: "https", Host: "r.test"})
			if err != nil {
				t.Fatal(err)
			}
			s = &scripted{t: t, script: strings.Split(script, "\n--\n"), digest: held}
			e.client.Transport = s
			c.known["r.test"], c.known["r.test itself"] = []*endpoint{e}, []*endpoint{e}
			return c, e
		}

		c, _ := client()
		_, err := c.Tags(t.Context(), "r.test/a/b")
		errs = append(errs, err)
		if s.asked > mostAsked && err == nil {
			t.Error("a list without an end has one")
		}

		c, e := client()
		repo := repository{c: c, name: "a/b", endpoints: []*endpoint{e}}
		data, resp, err := repo.document(t.Context(), e, call{method: http.MethodGet, path: "/v2/a/b/manifests/1", ok: []int{http.StatusOK}}, "")
		if err == nil {
			if want := digest.Digest(resp.Header.Get("Docker-Content-Digest")); want.Validate() == nil && want != want.Algorithm().FromBytes(data) {
				t.Errorf("%q is taken for %s", data, want)
			}
			_, err = documentType(data, resp.Header.Get("Content-Type"))
		}
		errs = append(errs, err)
		if s.asked > mostAsked {
			t.Error("a document takes requests without an end")
		}

		c, e = client()
		repo = repository{c: c, name: "a/b", endpoints: []*endpoint{e}}
		w, err := blobs.Ingest(t.Context(), lease, "", content.Want{Digest: wanted.Digest, Size: wanted.Size})
		if err != nil {
			t.Fatal(err)
		}
		defer w.Abort()
		if _, err := w.Write([]byte("0123")); err != nil {
			t.Fatal(err)
		}
		err = repo.blob(t.Context(), wanted, w, func(int64) {})
		errs = append(errs, err)
		if w.Offset() > wanted.Size || err == nil && w.Offset() != wanted.Size || s.asked > mostAsked {
			t.Errorf("%d bytes come in %d requests, %v", w.Offset(), s.asked, err)
		}

		c, e = client()
		s.uploads = true
		p := &push{c: c, e: e, repo: "a/b", blobs: blobs, o: PushOptions{Event: func(Event) {}}}
		errs = append(errs, p.blob(t.Context(), ocispec.Descriptor{Digest: held, Size: int64(len("a blob to push"))}))
		if s.asked > mostAsked {
			t.Error("an upload takes requests without an end")
		}

		for _, err := range errs {
			checkError(t, err)
		}
		checkHeaders(t, e, script)
	})
}

// checkError tells what no error may be.
func checkError(t *testing.T, err error) {
	t.Helper()
	if err == nil {
		return
	}
	text := err.Error()
	if strings.TrimSpace(text) == "" || strings.Contains(text, password) {
		t.Errorf("the error %q", text)
	}
}

// checkHeaders reads the headers of one answer.
func checkHeaders(t *testing.T, e *endpoint, script string) {
	req, _ := http.NewRequest(http.MethodGet, "https://r.test/v2/a/b/tags/list", nil)
	resp, err := http.ReadResponse(bufio.NewReader(strings.NewReader(script)), req)
	if err != nil {
		return
	}
	now := time.Now()
	if next := nextPage(resp); next != "" {
		if u, err := url.Parse(next); err != nil || u.Host != "r.test" || u.Scheme != "https" {
			t.Errorf("the next page is at %q, %v", next, err)
		}
	}
	for _, l := range parseLinks(resp.Header.Values("Link")) {
		// What was understood is understood again when it is written plainly.
		again := parseLinks([]string{fmt.Sprintf("<%s>; rel=%q", l.target, strings.Join(l.relations, " "))})
		plain := !strings.ContainsFunc(strings.Join(l.relations, ""), func(r rune) bool { return !unicode.IsPrint(r) || r == '\\' || r == '"' })
		if plain && (len(again) != 1 || again[0].target != l.target || strings.Join(again[0].relations, " ") != strings.Join(l.relations, " ")) {
			t.Errorf("%q is read as %q", l, again)
		}
	}
	first, _, _ := strings.Cut(strings.TrimPrefix(resp.Header.Get("Content-Range"), "bytes "), "-")
	if n := rangeStart(resp.Header.Get("Content-Range")); n < -1 || n >= 0 && strings.TrimLeft(first, "+0") != strings.TrimPrefix(fmt.Sprint(n), "0") {
		t.Errorf("range %q begins at %d", resp.Header.Get("Content-Range"), n)
	}
	fail := refusal(e, resp, now)
	if fail.wait < 0 {
		t.Errorf("Retry-After %q is %v", resp.Header.Get("Retry-After"), fail.wait)
	}
	if text := fail.Error(); !utf8.ValidString(text) || len(text) > 10000 || strings.ContainsFunc(text, func(r rune) bool { return !unicode.IsPrint(r) }) {
		t.Errorf("the error %q", text)
	}
	if strings.Contains(fail.Error(), password) {
		t.Error("the password is told")
	}
}
