package remote

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

func TestParseGit(t *testing.T) {
	for ref, want := range map[string]Address{
		"https://h/app.git":          {"https://h/app.git", "HEAD", ""},
		"http://h:1/app.git#v1":      {"http://h:1/app.git", "v1", ""},
		"https://h/app.git#main:a/b": {"https://h/app.git", "main", "a/b"},
		"https://h/app.git#:a":       {"https://h/app.git", "HEAD", "a"},
		"https://github.com/o/app":   {"https://github.com/o/app", "HEAD", ""},
		"github.com/o/app#dev":       {"https://github.com/o/app", "dev", ""},
		"git@h:o/app.git":            {"git@h:o/app.git", "HEAD", ""},
		"ssh://git@h/o/app":          {"ssh://git@h/o/app", "HEAD", ""},
		"https://h/compose.yaml":     {},
		"oci://h/app:1":              {},
		"file:///srv/app.git":        {},
		"./app.git":                  {},
	} {
		got, ok := ParseGit(ref)
		if got != want || ok != (want.Repository != "") {
			t.Errorf("%s is %+v, %t", ref, got, ok)
		}
	}
}

func git(t *testing.T, dir string, args ...string) string {
	t.Helper()
	cmd := exec.Command("git", args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_SYSTEM=/dev/null",
		"GIT_AUTHOR_NAME=t", "GIT_AUTHOR_EMAIL=t@t.invalid", "GIT_COMMITTER_NAME=t", "GIT_COMMITTER_EMAIL=t@t.invalid")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("git %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return strings.TrimSpace(string(out))
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// A copy is that of the commit that a reference leads to; nothing leads out of it.
func TestGitFetch(t *testing.T) {
	repository := t.TempDir()
	git(t, repository, "init", "--quiet", "--initial-branch=main")
	git(t, repository, "config", "uploadpack.allowAnySHA1InWant", "true")
	write(t, filepath.Join(repository, "app/f"), "one")
	if err := os.Symlink("/etc/passwd", filepath.Join(repository, "out")); err != nil {
		t.Fatal(err)
	}
	git(t, repository, "add", "-A")
	git(t, repository, "commit", "--quiet", "-m", "one")
	first := git(t, repository, "rev-parse", "HEAD")
	git(t, repository, "checkout", "--quiet", "-b", "next")
	write(t, filepath.Join(repository, "app/f"), "two")
	git(t, repository, "commit", "--quiet", "-a", "-m", "two")
	git(t, repository, "checkout", "--quiet", "main")

	g := Git{Dir: filepath.Join(t.TempDir(), "copies"), Environ: os.Environ()}
	for _, c := range []struct{ ref, path, want, err string }{
		{ref: "HEAD", path: "app/f", want: "one"},
		{ref: "next", path: "app/f", want: "two"},
		{ref: first, path: "app/f", want: "one"},
		{ref: "nosuch", err: `it has no "nosuch"`},
		{ref: "--upload-pack=x", err: "no branch"},
		{ref: "main", path: "../x", err: "not a path in the repository"},
		{ref: "main", path: "/etc/passwd", err: "not a path in the repository"},
		{ref: "main", path: "out", err: "leads out of it"},
		{ref: "main", path: "nosuch", err: "no such file"},
	} {
		path, err := g.Fetch(t.Context(), Address{Repository: repository, Ref: c.ref, Path: c.path})
		if c.err != "" {
			if err == nil || !strings.Contains(err.Error(), c.err) {
				t.Errorf("%s %s: the error is %v", c.ref, c.path, err)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s %s: %v", c.ref, c.path, err)
			continue
		}
		if got, err := os.ReadFile(path); err != nil || string(got) != c.want {
			t.Errorf("%s %s: %q, %v", c.ref, c.path, got, err)
		}
	}
	copies, err := os.ReadDir(g.Dir)
	if err != nil || len(copies) != 2 {
		t.Errorf("there are the copies %v, %v", copies, err)
	}
}
