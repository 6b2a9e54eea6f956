package e2e

import (
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
)

func TestBuildCacheElsewhere(t *testing.T) {
	b := newBuildBox(t)
	b.write(t, "Dockerfile", "FROM busybox\nRUN cat /proc/sys/kernel/random/uuid >/once\n")
	once := func(image string) string { return b.ok(t, "container", "run", "--rm", image, "cat", "/once") }
	b.ok(t, "image", "build", "-t", "first", "--cache-to", "type=local,dest=kept", ".")
	b.ok(t, "builder", "prune", "--all", "--force")

	b.ok(t, "image", "build", "-t", "second", "--cache-from", "type=local,src=kept", ".")
	if a, b := once("first"), once("second"); a != b {
		t.Errorf("the step ran again: %q, then %q", a, b)
	}
	b.ok(t, "image", "build", "-t", "third", "--no-cache", ".")
	if a, b := once("first"), once("third"); a == b {
		t.Error("the step did not run again without the cache")
	}
	b.awaitBuilder(t)
}

func TestBuildForPlatforms(t *testing.T) {
	b := newBuildBox(t)
	b.write(t, "Dockerfile", "FROM scratch\nARG TARGETARCH\nCOPY Dockerfile /$TARGETARCH\n")
	other := map[string]string{"amd64": "arm64", "arm64": "amd64"}[runtime.GOARCH]
	b.ok(t, "image", "build", "-t", "several", "--platform", "linux/"+runtime.GOARCH+",linux/"+other, ".")
	tree := b.ok(t, "image", "ls", "--tree", "several")
	if !strings.Contains(tree, "linux/amd64") || !strings.Contains(tree, "linux/arm64") {
		t.Errorf("\n%s", tree)
	}
	if out := b.ok(t, "image", "inspect", "--format", "{{.Architecture}}", "several"); out != runtime.GOARCH+"\n" {
		t.Errorf("this machine's is %q", out)
	}
	b.awaitBuilder(t)
}

// agent is the socket of an SSH agent that says nothing.
func (b *box) agent(t *testing.T) (socket string) {
	t.Helper()
	socket = filepath.Join(b.root, "agent")
	l, err := net.Listen("unix", socket)
	must(t, err)
	t.Cleanup(func() { l.Close() })
	return socket
}

func TestBuildWithAnAgent(t *testing.T) {
	b := newBuildBox(t)
	socket := b.agent(t)
	b.write(t, "Dockerfile", "FROM busybox\nRUN --mount=type=ssh test -S $SSH_AUTH_SOCK && echo there >/agent\nRUN [ -z \"$SSH_AUTH_SOCK\" ]\n")
	b.with("SSH_AUTH_SOCK="+socket).ok(t, "image", "build", "-t", "built", "--ssh", "default", ".")
	if out := b.ok(t, "container", "run", "--rm", "built", "cat", "/agent"); out != "there\n" {
		t.Errorf("%q", out)
	}
	if res := b.fails(t, "image", "build", "--ssh", "default", "."); !strings.Contains(res.stderr, "SSH_AUTH_SOCK") {
		t.Errorf("without an agent: %v", res)
	}
	b.awaitBuilder(t)
}

func TestBuildOfARepository(t *testing.T) {
	b := newBuildBox(t)
	repo := filepath.Join(b.root, "repo")
	must(t, os.MkdirAll(filepath.Join(repo, "sub"), 0o755))
	must(t, os.WriteFile(filepath.Join(repo, "sub/Dockerfile"), []byte("FROM busybox\nCOPY file /file\n"), 0o644))
	must(t, os.WriteFile(filepath.Join(repo, "sub/file"), []byte("from git\n"), 0o644))
	for _, args := range [][]string{
		{"init", "--quiet", "--initial-branch", "trunk"}, {"add", "."},
		{"-c", "user.name=t", "-c", "user.email=t@example.org", "commit", "--quiet", "--message", "one"}, {"update-server-info"},
	} {
		cmd := exec.Command("git", args...)
		cmd.Dir = repo
		cmd.Env = append(os.Environ(), "HOME="+b.root)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("git %v: %v\n%s", args, err, out)
		}
	}
	url := serveFiles(t, repo) + "/.git#trunk:sub"
	b.ok(t, "image", "build", "-t", "built", url)
	if out := b.ok(t, "container", "run", "--rm", "built", "cat", "/file"); out != "from git\n" {
		t.Errorf("%q", out)
	}
	b.awaitBuilder(t)
}

// serveFiles serves a directory over HTTP.
func serveFiles(t *testing.T, dir string) (url string) {
	t.Helper()
	s := httptest.NewServer(http.FileServer(http.Dir(dir)))
	t.Cleanup(s.Close)
	return s.URL
}
