package interop

import (
	"context"
	"errors"
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stack-run/stack/e2e/peer"
)

var withPeer = flag.Bool("peer", false, "exchange images with dockerd, podman, skopeo and buildah (needs root and all of them)")

func TestMain(m *testing.M) {
	flag.Parse()
	if !*withPeer {
		os.Exit(m.Run())
	}
	peer.Main(m, func(ctx context.Context, dir string) error {
		if err := peer.Build(ctx, "../..", "./cmd/stack", filepath.Join(dir, "stack")); err != nil {
			return err
		}
		return peer.Link(ctx, filepath.Join(dir, "programs"), append(peer.DockerPrograms, "registry")...)
	})
}

// bench has all the tools, and one image: box, which says its WHICH.
type bench struct {
	dir      string
	stack    *peer.Stack
	docker   *peer.Docker
	registry *peer.Registry
}

const (
	user, password = "me", "secret"
	creds          = user + ":" + password
)

func newBench(t *testing.T) *bench {
	if !*withPeer {
		t.Skip("needs -peer")
	}
	b := &bench{dir: peer.Dir()}
	closing := func(what interface{ Close() error }) {
		t.Cleanup(func() {
			if err := what.Close(); err != nil {
				t.Error(err)
			}
		})
	}
	var err error
	if b.registry, err = peer.StartRegistry(t.Context(), b.path("programs/registry"), b.path("registry"), peer.RegistryOptions{TLS: true, User: user, Password: password}); err != nil {
		t.Fatal(err)
	}
	closing(b.registry)
	t.Setenv("STACK_CONFIG", b.path("etc"))
	t.Setenv("DOCKER_CONFIG", b.path("config"))
	certs := b.path("etc/certs.d/" + b.registry.Host)
	if err := os.MkdirAll(certs, 0o755); err != nil {
		t.Fatal(err)
	}
	ca, err := os.ReadFile(b.registry.CA)
	if err == nil {
		err = os.WriteFile(filepath.Join(certs, "ca.crt"), ca, 0o644)
	}
	if err != nil {
		t.Fatal(err)
	}
	b.stack = peer.NewStack(b.path("stack"), b.path("roots"))
	closing(b.stack)
	if b.docker, err = peer.StartDocker(t.Context(), b.path("docker"), b.path("programs")); err != nil {
		t.Fatal(err)
	}
	closing(b.docker)
	b.run(t, b.stack.Command(t.Context(), "login", "-u", user, "-p", password, b.registry.Host))
	b.run(t, b.docker.Container(t.Context(), "login", "-u", user, "-p", password, b.registry.Host))

	busybox, err := peer.Busybox()
	if err != nil {
		t.Fatal(err)
	}
	tar, err := os.Create(b.path("box.tar"))
	if err == nil {
		err = errors.Join(peer.WriteRootfs(tar, busybox), tar.Close())
	}
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func (b *bench) path(name string) string   { return filepath.Join(b.dir, name) }
func (b *bench) image(name string) string  { return b.registry.Host + "/" + name }
func (b *bench) remote(name string) string { return "docker://" + b.image(name) }

// run runs a command that must succeed, and returns its output.
func (b *bench) run(t *testing.T, cmd *exec.Cmd) string {
	t.Helper()
	out, err := peer.Run(cmd)
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}

func (b *bench) ours(t *testing.T, args ...string) string {
	t.Helper()
	return b.run(t, b.stack.Command(t.Context(), args...))
}

func (b *bench) dockers(t *testing.T, args ...string) string {
	t.Helper()
	return b.run(t, b.docker.Container(t.Context(), args...))
}

// tool runs one of skopeo, buildah and podman.
func (b *bench) tool(t *testing.T, name string, args ...string) string {
	t.Helper()
	store := []string{"--root", b.path("containers"), "--runroot", b.path("containers-run"), "--storage-driver", "vfs"}
	switch name {
	case "skopeo":
		store = []string{"--insecure-policy"}
	case "podman":
		store = append(store, "--cgroup-manager", "cgroupfs", "--runtime", "runc")
	}
	cmd := exec.CommandContext(t.Context(), name, append(store, args...)...)
	cmd.Env = append(os.Environ(), "BUILDAH_ISOLATION=chroot")
	return b.run(t, cmd)
}

// access is how skopeo, buildah and podman get into the registry.
func (b *bench) access() []string {
	return []string{"--cert-dir", filepath.Join(b.path("etc/certs.d"), b.registry.Host), "--creds", creds}
}

// skopeoAccess is for a command that has a source and a destination.
func (b *bench) skopeoAccess(side string) []string {
	return []string{"--" + side + "-cert-dir", filepath.Join(b.path("etc/certs.d"), b.registry.Host), "--" + side + "-creds", creds}
}

// says checks what the image answers in stack.
func (b *bench) says(t *testing.T, image, which string) {
	t.Helper()
	if out := b.ours(t, "container", "run", "--rm", "--pull", "never", image, "sh", "-c", "echo $WHICH"); out != which+"\n" {
		t.Errorf("%s says %q in stack, want %q", image, out, which)
	}
}

// saysInDocker and saysInPodman check what it answers there.
func (b *bench) saysInDocker(t *testing.T, image, which string) {
	t.Helper()
	if out := b.dockers(t, "run", "--rm", "--network", "none", image, "sh", "-c", "echo $WHICH"); out != which+"\n" {
		t.Errorf("%s says %q in Docker, want %q", image, out, which)
	}
}

func (b *bench) saysInPodman(t *testing.T, image, which string) {
	t.Helper()
	if out := b.tool(t, "podman", "run", "--rm", "--network", "none", image, "sh", "-c", "echo $WHICH"); out != which+"\n" {
		t.Errorf("%s says %q in podman, want %q", image, out, which)
	}
}

// forget removes all images here, so that the next ones come from outside.
func (b *bench) forget(t *testing.T) {
	t.Helper()
	b.ours(t, "system", "prune", "--all", "--force")
	if out := b.ours(t, "image", "ls", "-q"); out != "" {
		t.Fatalf("images are left: %s", out)
	}
}

func (b *bench) make(t *testing.T, name, which string) {
	t.Helper()
	b.ours(t, "image", "import", "--change", "ENV WHICH="+which, b.path("box.tar"), name)
}

func TestInterop(t *testing.T) {
	b := newBench(t)
	t.Run("what we push", func(t *testing.T) {
		name := b.image("team/ours:1")
		b.make(t, name, "ours")
		out := b.ours(t, "image", "push", name)
		t.Run("has the digest that skopeo reads", func(t *testing.T) {
			args := append([]string{"inspect", "--format", "{{.Digest}}"}, b.access()...)
			digest := strings.TrimSpace(b.tool(t, "skopeo", append(args, b.remote("team/ours:1"))...))
			if !strings.HasPrefix(digest, "sha256:") || !strings.Contains(out, digest) {
				t.Errorf("skopeo reads %s, we said %s", digest, out)
			}
		})
		t.Run("runs in Docker", func(t *testing.T) {
			b.dockers(t, "pull", name)
			b.saysInDocker(t, name, "ours")
		})
		t.Run("runs in podman", func(t *testing.T) {
			b.tool(t, "podman", append(append([]string{"pull"}, b.access()...), name)...)
			b.saysInPodman(t, name, "ours")
		})
	})
	t.Run("what we save", func(t *testing.T) {
		b.make(t, "saved:1", "saved")
		archive := b.path("saved.tar")
		b.ours(t, "image", "save", "-o", archive, "saved:1")
		b.dockers(t, "load", "-i", archive)
		b.saysInDocker(t, "saved:1", "saved")
		b.tool(t, "podman", "load", "-i", archive)
		b.saysInPodman(t, "saved:1", "saved")
	})
	t.Run("what buildah makes", func(t *testing.T) {
		b.forget(t)
		c := strings.TrimSpace(b.tool(t, "buildah", "from", "scratch"))
		b.tool(t, "buildah", "add", c, b.path("box.tar"), "/")
		b.tool(t, "buildah", "config", "--env", "WHICH=buildah", c)
		b.tool(t, "buildah", "commit", c, "buildah:1")
		for _, format := range []string{"oci", "v2s2"} {
			args := append([]string{"push", "--format", format}, b.access()...)
			b.tool(t, "buildah", append(args, "buildah:1", b.remote("team/buildah:"+format))...)
			b.ours(t, "image", "pull", b.image("team/buildah:"+format))
			b.says(t, b.image("team/buildah:"+format), "buildah")
		}
	})
	t.Run("what skopeo copies", func(t *testing.T) {
		b.make(t, "copied:1", "copied")
		archive := b.path("copied.tar")
		b.ours(t, "image", "save", "-o", archive, "copied:1")
		b.forget(t)
		for _, compression := range []string{"gzip", "zstd"} {
			args := append([]string{"copy", "--dest-compress-format", compression}, b.skopeoAccess("dest")...)
			b.tool(t, "skopeo", append(args, "docker-archive:"+archive, b.remote("team/copied:"+compression))...)
			b.ours(t, "image", "pull", b.image("team/copied:"+compression))
			b.says(t, b.image("team/copied:"+compression), "copied")
		}
		for _, transport := range []string{"docker-archive", "oci-archive"} {
			b.forget(t)
			archive := b.path(transport + ".tar")
			args := append([]string{"copy"}, b.skopeoAccess("src")...)
			b.tool(t, "skopeo", append(args, b.remote("team/copied:gzip"), transport+":"+archive+":copied:"+transport)...)
			b.ours(t, "image", "load", "-i", archive)
			b.says(t, "copied:"+transport, "copied")
		}
	})
	t.Run("what Docker saves", func(t *testing.T) {
		b.dockers(t, "import", "--change", "ENV WHICH=docker", b.path("box.tar"), "docker:1")
		b.dockers(t, "save", "-o", b.path("docker.tar"), "docker:1")
		b.ours(t, "image", "load", "-i", b.path("docker.tar"))
		b.says(t, "docker:1", "docker")
	})
	t.Run("what Docker pushes", func(t *testing.T) {
		name := b.image("team/docker:1")
		b.dockers(t, "import", "--change", "ENV WHICH=docker", b.path("box.tar"), name)
		b.dockers(t, "push", name)
		b.ours(t, "image", "pull", name)
		b.says(t, name, "docker")
	})
	t.Run("what podman saves", func(t *testing.T) {
		b.tool(t, "podman", "import", "--change", "ENV WHICH=podman", b.path("box.tar"), "localhost/podman:1")
		for _, format := range []string{"docker-archive", "oci-archive"} {
			b.forget(t)
			archive := b.path("podman-" + format + ".tar")
			b.tool(t, "podman", "save", "--format", format, "-o", archive, "localhost/podman:1")
			b.ours(t, "image", "load", "-i", archive)
			b.says(t, "localhost/podman:1", "podman")
		}
	})
	b.ours(t, "system", "check")
}
