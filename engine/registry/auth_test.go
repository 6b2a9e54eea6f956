package registry

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"reflect"
	"strings"
	"testing"
)

func TestParseChallenges(t *testing.T) {
	bearer := challenge{"bearer", map[string]string{"realm": "https://a/t", "service": "s", "scope": "a:b:pull,push"}}
	basic := challenge{"basic", map[string]string{"realm": "x"}}
	for name, tt := range map[string]struct {
		lines []string
		want  []challenge
	}{
		"none":                    {nil, nil},
		"a line each":             {[]string{`Basic realm="x"`, `Bearer realm="https://a/t",service="s",scope="a:b:pull,push"`}, []challenge{basic, bearer}},
		"both in one line":        {[]string{`Basic realm="x", Bearer realm="https://a/t", service="s",scope="a:b:pull,push"`}, []challenge{basic, bearer}},
		"a scheme without more":   {[]string{`Negotiate, Basic realm=x`}, []challenge{{"negotiate", map[string]string{}}, basic}},
		"a token68":               {[]string{`Negotiate YWJj==, Basic realm="x"`}, []challenge{{"negotiate", map[string]string{"ywjj": "="}}, basic}},
		"spaces and other case":   {[]string{"\tBASIC\t Realm = \"x\" ,"}, []challenge{basic}},
		"quoted pairs":            {[]string{`Basic realm="\x"`}, []challenge{basic}},
		"a comma in a quote":      {[]string{`Digest qop="auth,auth-int",Basic realm=x`}, []challenge{{"digest", map[string]string{"qop": "auth,auth-int"}}, basic}},
		"a quote that never ends": {[]string{`Basic realm="x`}, []challenge{basic}},
		"a parameter of nothing":  {[]string{`realm="x"`}, nil},
		"no token":                {[]string{`"Basic" realm="x"`, `=`, `,,`}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			if got := parseChallenges(tt.lines); len(got) != len(tt.want) || len(got) > 0 && !reflect.DeepEqual(got, tt.want) {
				t.Errorf("got %v, want %v", got, tt.want)
			}
		})
	}
}

func FuzzChallenges(f *testing.F) {
	for _, s := range []string{`Basic realm="x", Bearer realm="https://a/t",service=s`, `Negotiate abc==`, `Bearer realm="\`, `a=b`, "Basic\trealm=,x"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, line string) {
		for _, c := range parseChallenges([]string{line}) {
			if c.scheme == "" || c.scheme != strings.ToLower(c.scheme) || strings.ContainsAny(c.scheme, " \t,=\"\r\n") {
				t.Errorf("%q: scheme %q", line, c.scheme)
			}
			// What was understood is understood again when it is written as the
			// grammar has it.
			out := c.scheme
			sep := " "
			for k, v := range c.params {
				out += sep + k + `="` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(v) + `"`
				sep = ", "
			}
			if again := parseChallenges([]string{out}); len(again) != 1 || !reflect.DeepEqual(again[0], c) {
				t.Errorf("%q: %v, written as %q, is %v", line, c, out, again)
			}
		}
	})
}

// TestTokenIsTakenBeforePassword is about registries that offer both.
func TestTokenIsTakenBeforePassword(t *testing.T) {
	for name, lines := range map[string][]string{
		"the password's line first": {`Basic realm="x"`, `Bearer realm=REALM,service="here"`},
		"the token's line first":    {`Bearer realm=REALM,service="here"`, `Basic realm="x"`},
		"in one line":               {`Basic realm="x", Bearer realm=REALM,service="here"`},
	} {
		t.Run(name, func(t *testing.T) {
			g := &guarded{hostile: newHostile(t)}
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Path != "/token" && r.Header.Get("Authorization") != "Bearer "+goodToken {
					for _, line := range lines {
						w.Header().Add("WWW-Authenticate", strings.ReplaceAll(line, "REALM", fmt.Sprintf("%q", g.realm)))
					}
					w.WriteHeader(http.StatusUnauthorized)
					return
				}
				g.ServeHTTP(w, r)
			}))
			defer server.Close()
			g.realm = server.URL + "/token"
			to, c := target(t)
			c.creds.only = &Credential{Username: "me", Password: "secret"}
			if _, err := c.Pull(t.Context(), to, strings.TrimPrefix(server.URL, "http://")+"/some/image:1", PullOptions{}); err != nil {
				t.Error(err)
			}
		})
	}
	t.Run("the password where no token server is named", func(t *testing.T) {
		h := newHostile(t)
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if _, password, _ := r.BasicAuth(); password != "secret" {
				w.Header().Add("WWW-Authenticate", `Bearer realm="", Basic realm="x"`)
				w.WriteHeader(http.StatusUnauthorized)
				return
			}
			h.ServeHTTP(w, r)
		}))
		defer server.Close()
		to, c := target(t)
		c.creds.only = &Credential{Username: "me", Password: "secret"}
		if _, err := c.Pull(t.Context(), to, strings.TrimPrefix(server.URL, "http://")+"/some/image:1", PullOptions{}); err != nil {
			t.Error(err)
		}
	})
}

// TestRedirectTakesNoCredentials sends a client from one server to another, which
// is on the same host, and back.
func TestRedirectTakesNoCredentials(t *testing.T) {
	h := newHostile(t)
	var leaked []string
	note := func(r *http.Request) {
		if v := r.Header.Get("Authorization"); v != "" {
			leaked = append(leaked, r.Host+r.URL.Path)
		}
	}
	var home string
	other := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		note(r)
		http.Redirect(w, r, home+"/back"+r.URL.Path, http.StatusTemporaryRedirect)
	}))
	defer other.Close()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if path, ok := strings.CutPrefix(r.URL.Path, "/back"); ok {
			note(r)
			r.URL.Path = path
			h.ServeHTTP(w, r)
			return
		}
		if _, password, _ := r.BasicAuth(); password != "secret" {
			w.Header().Add("WWW-Authenticate", `Basic realm="x"`)
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		if h.isLayer(r) {
			http.Redirect(w, r, other.URL+r.URL.Path, http.StatusTemporaryRedirect)
			return
		}
		h.ServeHTTP(w, r)
	}))
	defer server.Close()
	home = server.URL
	to, c := target(t)
	c.creds.only = &Credential{Username: "me", Password: "secret"}
	if _, err := c.Pull(t.Context(), to, strings.TrimPrefix(server.URL, "http://")+"/some/image:1", PullOptions{}); err != nil {
		t.Fatal(err)
	}
	if len(leaked) > 0 {
		t.Errorf("the password went to %v", leaked)
	}
}

// TestRedirectStaysWithHTTP sends a client that asked by HTTPS to where others listen.
func TestRedirectStaysWithHTTP(t *testing.T) {
	for location, want := range map[string]string{
		"http://other.test/x": "from HTTPS to plain HTTP", "p://user@other.test/x": "not HTTP", "file:///etc/passwd": "not HTTP", "ftp://other.test/": "not HTTP",
	} {
		server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path != "/v2/" {
				w.Header().Set("Location", location)
				w.WriteHeader(http.StatusFound)
			}
		}))
		host := strings.TrimPrefix(server.URL, "https://")
		to, c := target(t)
		c.config.Insecure = []string{host} // its certificate is nobody's
		if _, err := c.Pull(t.Context(), to, host+"/some/image:1", PullOptions{}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", location, err, want)
		}
		server.Close()
	}
}

// TestRefusalSaysWhatItMeans is about images that are not there, or that one may
// not see, which registries do not tell apart.
func TestRefusalSaysWhatItMeans(t *testing.T) {
	deny := func(w http.ResponseWriter, status int) {
		w.WriteHeader(status)
		fmt.Fprint(w, `{"errors":[{"code":"UNAUTHORIZED","message":"authentication required"}]}`)
	}
	for name, tt := range map[string]struct {
		cred  *Credential
		serve func(w http.ResponseWriter, r *http.Request)
		want  string
	}{
		"without a login": {&Credential{}, func(w http.ResponseWriter, r *http.Request) {
			deny(w, 401)
		}, `: it does not exist, or needs "stack login HOST" (registry HOST says: authentication required (401 Unauthorized))`},
		"forbidden without a login": {&Credential{}, func(w http.ResponseWriter, r *http.Request) {
			deny(w, 403)
		}, `: it does not exist, or needs "stack login HOST" (`},
		"the token server denies": {&Credential{}, func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path != "/token" {
				w.Header().Set("WWW-Authenticate", `Bearer realm="http://`+r.Host+`/token"`)
			}
			deny(w, 401)
		}, `: it does not exist, or needs "stack login HOST" (`},
		"with a login": {&Credential{Username: "me", Password: "secret"}, func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/token" {
				fmt.Fprint(w, `{"token":"abc"}`)
				return
			}
			w.Header().Set("WWW-Authenticate", `Bearer realm="http://`+r.Host+`/token",error="insufficient_scope"`)
			deny(w, 401)
		}, `: it does not exist, or is not for the account that "stack login HOST" was done with (`},
		"with a wrong password": {&Credential{Username: "me", Password: "secret"}, func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path != "/token" {
				w.Header().Set("WWW-Authenticate", `Bearer realm="http://`+r.Host+`/token"`)
			}
			deny(w, 401)
		}, `authentication required (401 Unauthorized); log in with "stack login HOST"`},
		"a tag that is not there": {&Credential{}, func(w http.ResponseWriter, r *http.Request) {
			deny(w, 404)
		}, `; check the name and the tag`},
	} {
		t.Run(name, func(t *testing.T) {
			server := httptest.NewServer(http.HandlerFunc(tt.serve))
			defer server.Close()
			host := strings.TrimPrefix(server.URL, "http://")
			to, c := target(t)
			c.creds.only = tt.cred
			_, err := c.Pull(t.Context(), to, host+"/some/image:1", PullOptions{})
			if want := strings.ReplaceAll(tt.want, "HOST", host); err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("got  %v\nwant %s", err, want)
			}
		})
	}
}
