package request

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func abs(t *testing.T, p string) string {
	t.Helper()
	a, err := filepath.Abs(p)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func TestParse(t *testing.T) {
	t.Setenv("TOKEN", "x")
	os.Unsetenv("OTHER")
	attrs := func(kv ...string) map[string]string {
		m := map[string]string{}
		for i := 0; i < len(kv); i += 2 {
			m[kv[i]] = kv[i+1]
		}
		return m
	}
	secret := func(s string) func() (any, error) { return func() (any, error) { return ParseSecret(s) } }
	output := func(s string) func() (any, error) { return func() (any, error) { return ParseOutput(s) } }
	cache := func(s string, export bool) func() (any, error) {
		return func() (any, error) { return ParseCache(s, export, "") }
	}
	host := func(s string) func() (any, error) { return func() (any, error) { return ParseHost(s) } }
	limit := func(s string) func() (any, error) { return func() (any, error) { return ParseUlimit(s) } }
	ssh := func(s string) func() (any, error) { return func() (any, error) { return ParseSSH(s) } }
	for name, c := range map[string]struct {
		parse func() (any, error)
		want  any
		fails string
	}{
		"secret from a file":               {secret("id=a,src=/x"), Secret{ID: "a", File: "/x"}, ""},
		"secret from a relative file":      {secret("id=a,source=x"), Secret{ID: "a", File: abs(t, "x")}, ""},
		"secret from a variable":           {secret("id=a,env=B"), Secret{ID: "a", Env: "B"}, ""},
		"secret of type env":               {secret("type=env,id=a,src=B"), Secret{ID: "a", Env: "B"}, ""},
		"secret that is a variable's name": {secret("id=TOKEN"), Secret{ID: "TOKEN", Env: "TOKEN"}, ""},
		"secret that is a file's name":     {secret("id=OTHER"), Secret{ID: "OTHER", File: abs(t, "OTHER")}, ""},
		"secret without id":                {secret("src=/x"), nil, "no id"},
		"secret with an odd key":           {secret("id=a,foo=b"), nil, `unexpected "foo=b"`},

		"output to a directory":    {output("out"), Entry{"local", attrs("dest", abs(t, "out"))}, ""},
		"output to stdout":         {output("-"), Entry{"tar", attrs("dest", "-")}, ""},
		"output as docker archive": {output("type=docker,dest=/a.tar"), Entry{"docker", attrs("dest", "/a.tar")}, ""},
		"output docker is ours":    {output("type=docker"), Entry{"image", attrs()}, ""},
		"output as a directory":    {output("type=oci,dest=/a,tar=false"), Entry{"oci", attrs("dest", "/a", "tar", "false")}, ""},
		"output as no directory":   {output("type=oci,tar=false"), nil, "needs a directory"},
		"output of one to stdout":  {output("type=docker,dest=-,tar=0"), nil, "standard output"},
		"output to a registry":     {output("type=registry"), Entry{"image", attrs("push", "true")}, ""},
		"output with commas":       {output(`type=image,"name=a,b"`), Entry{"image", attrs("name", "a,b")}, ""},
		"output of unknown type":   {output("type=zip"), nil, `unknown type "zip"`},
		"output local to nowhere":  {output("type=local"), nil, "needs a directory"},

		"cache from an image":         {cache("user/app:cache", false), Entry{"registry", attrs("ref", "user/app:cache")}, ""},
		"cache from a directory":      {cache("type=local,src=/c", false), Entry{"local", attrs("src", "/c")}, ""},
		"cache to a directory":        {cache("type=local,dest=/c,mode=max", true), Entry{"local", attrs("dest", "/c", "mode", "max")}, ""},
		"cache to a lacking place":    {cache("type=local,src=/c", true), nil, "needs dest="},
		"cache inline":                {cache("type=inline", true), Entry{"inline", attrs()}, ""},
		"cache of somebody's service": {cache("type=gha", true), nil, "no cache of type gha"},

		"host":           {host("a:1.2.3.4"), Host{"a", "1.2.3.4"}, ""},
		"host of IPv6":   {host("a=[::1]"), Host{"a", "::1"}, ""},
		"host IPv6 bare": {host("a:::1"), Host{"a", "::1"}, ""},
		"host alone":     {host("a"), nil, "NAME:ADDRESS"},

		"ulimit":           {limit("nofile=10:20"), Ulimit{"nofile", 10, 20}, ""},
		"ulimit single":    {limit("core=-1"), Ulimit{"core", -1, -1}, ""},
		"ulimit reversed":  {limit("nofile=20:10"), nil, "above"},
		"ulimit not known": {limit("foo=1"), nil, "no limit of the name foo"},
		"ulimit no number": {limit("nofile=a"), nil, "NAME=SOFT[:HARD]"},

		"ssh agent": {ssh("default"), SSH{ID: "default"}, ""},
		"ssh keys":  {ssh("a=/k1,/k2"), SSH{"a", []string{"/k1", "/k2"}}, ""},
		"ssh empty": {ssh(""), nil, "default"},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := c.parse()
			switch {
			case c.fails != "":
				if err == nil || !strings.Contains(err.Error(), c.fails) {
					t.Errorf("got error %v, want one with %q", err, c.fails)
				}
			case err != nil:
				t.Error(err)
			default:
				if d := cmp.Diff(c.want, got); d != "" {
					t.Error(d)
				}
			}
		})
	}
}

func TestAttest(t *testing.T) {
	for value, want := range map[string]string{
		"true": "on ", "false": "off ", "max": "on mode=max", "mode=min,version=v1": "on mode=min,version=v1",
	} {
		params, on, err := ShortAttest("provenance", value)
		if err != nil {
			t.Fatal(err)
		}
		if got := map[bool]string{true: "on ", false: "off "}[on] + params; got != want {
			t.Errorf("%s: %q, want %q", value, got, want)
		}
	}
}

func TestIsRemote(t *testing.T) {
	for c, want := range map[string]bool{
		".": false, "/a/b": false, "-": false, "dir@v1": false, "./a@b:c/d": false,
		"https://example.com/a.tar.gz": true, "git@github.com:a/b.git#main:dir": true,
		"github.com/a/b": true, "ssh://git@host/x": true, "me@host:repo.git": true,
	} {
		if IsRemote(c) != want {
			t.Errorf("IsRemote(%q) is %t", c, !want)
		}
	}
}

func TestCheck(t *testing.T) {
	on := func(name string, needs ...string) Target {
		c := map[string]string{}
		for _, n := range needs {
			c["c"+n] = TargetPrefix + n
		}
		return Target{Name: name, Contexts: c}
	}
	for name, c := range map[string]struct {
		targets []Target
		fails   string
	}{
		"chain":    {[]Target{on("a", "b"), on("b", "c"), on("c")}, ""},
		"diamond":  {[]Target{on("a", "b", "c"), on("b", "d"), on("c", "d"), on("d")}, ""},
		"cycle":    {[]Target{on("a", "b"), on("b", "c"), on("c", "b")}, "b -> c -> b"},
		"itself":   {[]Target{on("a", "a")}, "a -> a"},
		"missing":  {[]Target{on("a", "x")}, "target:x is not among"},
		"repeated": {[]Target{on("a"), on("a")}, "internal error"},
	} {
		t.Run(name, func(t *testing.T) {
			err := (&Build{Targets: c.targets}).Check()
			if c.fails == "" && err != nil || c.fails != "" && (err == nil || !strings.Contains(err.Error(), c.fails)) {
				t.Errorf("got %v, want %q", err, c.fails)
			}
		})
	}
}
