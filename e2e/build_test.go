package e2e

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/ulikunitz/xz"
)

// newBuildBox is a box whose builder leaves soon after its last build.
func newBuildBox(t *testing.T) *box {
	t.Helper()
	return newBox(t, "busybox:latest").with("STACK_BUILDER_IDLE=100ms")
}

func TestBuild(t *testing.T) {
	b := newBuildBox(t)
	dockerfile := func(t *testing.T, text string) { t.Helper(); b.write(t, "Dockerfile", unindent(text)) }

	t.Run("stages, files, arguments, cache and secret mounts make an image that runs", func(t *testing.T) {
		b.write(t, "file", "from the context")
		b.write(t, "ignored", "x")
		b.write(t, ".dockerignore", "ignored\n")
		b.write(t, "secret", "hidden")
		dockerfile(t, `
		FROM busybox AS one
		ARG WHO=nobody
		RUN echo "made by $WHO" > /made
		FROM busybox
		COPY . /context/
		COPY --from=one --chown=12:34 --chmod=640 /made /made
		RUN --mount=type=secret,id=s --mount=type=cache,target=/cache test "$(cat /run/secrets/s)" = hidden && touch /cache/x
		RUN --network=none test "$(ip addr | grep -c 'inet ')" -le 1
		ENV A=b
		LABEL x=y
		USER 12:34
		WORKDIR /work
		CMD ["sh", "-c", "cat /made; cat /context/file; ls /context; stat -c %a:%u:%g /made; ls /run/secrets 2>&1 | wc -l"]
		`)
		b.ok(t, "image", "build", "-t", "made:1", "--build-arg", "WHO=me", "--secret", "id=s,src=secret", "--progress", "plain", ".")
		out := b.ok(t, "container", "run", "--rm", "--pull", "never", "made:1")
		for _, want := range []string{"made by me\n", "from the context", "640:12:34\n"} {
			if !strings.Contains(out, want) {
				t.Errorf("no %q in %q", want, out)
			}
		}
		if strings.Contains(out, "ignored") {
			t.Errorf("a file of .dockerignore came along: %q", out)
		}
		if out := b.ok(t, "image", "inspect", "-f", "{{index .Config.Labels \"x\"}} {{.Config.User}}", "made:1"); out != "y 12:34\n" {
			t.Errorf("%q", out)
		}
	})
	t.Run("a build is confined as a container is", func(t *testing.T) {
		dockerfile(t, `
		FROM busybox
		RUN grep -E '^(CapEff|Seccomp):' /proc/self/status | tr -d '\t' > /status
		CMD ["cat", "/status"]
		`)
		b.ok(t, "image", "build", "-t", "status:1", ".")
		// The 14 capabilities that Docker gives.
		if out := b.ok(t, "container", "run", "--rm", "status:1"); out != "CapEff:00000000a80425fb\nSeccomp:2\n" {
			t.Errorf("%q", out)
		}
	})
	t.Run("archives are unpacked without programs of the machine", func(t *testing.T) {
		b.awaitBuilder(t) // one that has the search path
		bare := b.with("PATH=" + t.TempDir())
		archive := new(bytes.Buffer)
		x, err := xz.NewWriter(archive)
		if err != nil {
			t.Fatal(err)
		}
		w := tar.NewWriter(x)
		if err := w.WriteHeader(&tar.Header{Name: "hello", Mode: 0o644, Size: 5}); err != nil {
			t.Fatal(err)
		}
		io.WriteString(w, "world")
		if err := errors.Join(w.Close(), x.Close()); err != nil {
			t.Fatal(err)
		}
		b.write(t, "a.tar.xz", archive.String())
		dockerfile(t, "FROM busybox\nADD a.tar.xz /\nCMD [\"cat\", \"/hello\"]\n")
		bare.ok(t, "image", "build", "-t", "unpacked:1", ".")
		if res := bare.fails(t, "image", "build", "http://127.0.0.1:1/a.git"); !strings.Contains(res.stderr, "this machine has no git; install it") {
			t.Errorf("without git: %v", res)
		}
		if out := b.ok(t, "container", "run", "--rm", "unpacked:1"); out != "world" {
			t.Errorf("%q", out)
		}
	})
	t.Run("a cache in a directory is written and read, and warnings are plain", func(t *testing.T) {
		dockerfile(t, "FROM busybox\nRUN echo cached > /x\n")
		args := []string{"image", "build", "--progress", "plain", "--cache-to", "type=local,dest=cache", "--cache-from", "type=local,src=cache", "."}
		for _, want := range []string{"Warning: local cache import at ", "inferred cache manifest type"} {
			res := b.stack(t, args...)
			if res.code != 0 || !strings.Contains(res.stderr, want) || strings.Contains(res.stderr, "level=") {
				t.Errorf("no %q, or a log's line: %v", want, res)
			}
		}
	})
	t.Run("checks tell what they found, and how much", func(t *testing.T) {
		dockerfile(t, "FROM busybox\n")
		if out := b.ok(t, "image", "build", "--check", "."); out != "Check complete, no warnings found.\n" {
			t.Errorf("%q", out)
		}
		dockerfile(t, "FROM busybox\nCMD true\n")
		if res := b.fails(t, "image", "build", "--check", "."); !strings.HasPrefix(res.stdout, "Check complete, 1 warning has been found!\n\nWARNING: JSONArgsRecommended") {
			t.Errorf("%v", res)
		}
	})
	t.Run("what fails says where and why, and leaves the name where it was", func(t *testing.T) {
		id := b.ok(t, "image", "inspect", "-f", "{{.Id}}", "made:1")
		for _, test := range []struct{ text, want string }{
			{"FROM busybox\nRUN echo its output; exit 7\n", "exit code: 7"},
			{"FROM busybox\nRUNN x\n", "unknown instruction: RUNN"},
			{"FROM busybox\nCOPY missing /x\n", "missing"},
			{"FROM busybox\nRUN --mount=type=secret,id=no,required=true true\n", "secret no"},
		} {
			b.write(t, "Dockerfile", test.text)
			res := b.fails(t, "image", "build", "-t", "made:1", "--progress", "plain", ".")
			if !strings.Contains(res.stderr, test.want) {
				t.Errorf("no %q: %v", test.want, res)
			}
		}
		b.write(t, "Dockerfile", "FROM busybox\n")
		b.fails(t, "image", "build", "-t", "made:1", "--target", "nosuch", ".")
		if now := b.ok(t, "image", "inspect", "-f", "{{.Id}}", "made:1"); now != id {
			t.Errorf("the name went over to %s", now)
		}
	})
	t.Run("the builder leaves when nobody needs it", func(t *testing.T) { b.awaitBuilder(t) })
	t.Run("the store is sound", func(t *testing.T) { b.ok(t, "system", "check") })
}

// awaitBuilder waits until no builder is left: a builder holds a lock.
func (b *box) awaitBuilder(t *testing.T) {
	t.Helper()
	f, err := os.OpenFile(filepath.Join(b.runRoot(), "builder", "lock"), os.O_RDWR, 0)
	must(t, err)
	defer f.Close()
	left := make(chan error, 1)
	go func() { left <- syscall.Flock(int(f.Fd()), syscall.LOCK_EX) }()
	select {
	case err := <-left:
		must(t, err)
	case <-time.After(20 * time.Second):
		t.Fatal("the builder is still there")
	}
}

func TestUpBuilds(t *testing.T) {
	b := newBuildBox(t)
	b.compose(t, `
	services:
		base:
			build:
				dockerfile_inline: |
					FROM busybox
					ARG V
					RUN echo $$V > /v
					CMD ["sleep", "1000"]
				args: {V: "${V:-1}"}
			init: true
		top:
			build:
				dockerfile_inline: |
					FROM below
					RUN echo top >> /v
					CMD ["sleep", "1000"]
				additional_contexts: {below: "service:base"}
			init: true
	`)
	t.Run("up builds what is not there, one service on top of another", func(t *testing.T) {
		b.ok(t, "up", "-d")
		if out := b.ok(t, "exec", "-T", "top", "cat", "/v"); out != "1\ntop\n" {
			t.Errorf("%q", out)
		}
	})
	t.Run("an unchanged build recreates nothing", func(t *testing.T) {
		before := b.ok(t, "ps", "-q")
		b.ok(t, "up", "-d", "--build")
		if now := b.ok(t, "ps", "-q"); now != before {
			t.Errorf("%q, before %q", now, before)
		}
	})
	t.Run("a changed one recreates, and says why", func(t *testing.T) {
		res := b.with("V=2").stack(t, "up", "-d", "--build")
		if res.code != 0 || !strings.Contains(res.stderr, "image ID") {
			t.Fatal(res)
		}
		if out := b.ok(t, "exec", "-T", "top", "cat", "/v"); out != "2\ntop\n" {
			t.Errorf("%q", out)
		}
	})
	b.ok(t, "down")
	b.awaitBuilder(t)
}
