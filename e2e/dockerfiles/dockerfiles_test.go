package dockerfiles

import (
	"context"
	"encoding/hex"
	"errors"
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/mattn/go-shellwords"
	"golang.org/x/sys/unix"
	"golang.org/x/tools/txtar"

	"github.com/stack-run/stack/e2e/peer"
)

var (
	withPeer = flag.Bool("peer", false, "build with docker build too (needs root)")
	update   = flag.Bool("update", false, "with -peer: write golden files anew")
)

func TestMain(m *testing.M) {
	flag.Parse()
	if os.Geteuid() != 0 {
		os.Exit(m.Run())
	}
	peer.Main(m, prepare)
}

func prepare(ctx context.Context, dir string) error {
	for _, program := range []string{"stack", "stack-builder"} {
		if err := peer.Build(ctx, "../..", "./cmd/"+program, filepath.Join(dir, program)); err != nil {
			return err
		}
	}
	if !*withPeer {
		return nil
	}
	return peer.Link(ctx, filepath.Join(dir, "programs"), append(peer.BuildKitPrograms, "registry")...)
}

// bench is stack and, if wanted, docker build, with the same base image.
type bench struct {
	dir    string
	stack  *peer.Stack
	docker *peer.BuildKitDaemon // nil without -peer
	host   string               // of the registry that docker build has its images from
	base   tree
}

// baseChanges make the configuration of the image "base".
var baseChanges = []string{"ENV PATH=/bin:/usr/bin", "ENV FROM_BASE=1", `CMD ["sh"]`, "LABEL base=yes"}

func newBench(t *testing.T) *bench {
	dir := peer.Dir()
	if dir == "" {
		t.Skip("needs root")
	}
	b := &bench{dir: dir, stack: peer.NewStack(filepath.Join(dir, "stack"), filepath.Join(dir, "roots"))}
	closing(t, b.stack.Close)
	busybox, err := peer.Busybox()
	if err != nil {
		t.Fatal(err)
	}
	tar, err := os.Create(filepath.Join(dir, "base.tar"))
	if err == nil {
		err = errors.Join(peer.WriteRootfs(tar, busybox), tar.Close())
	}
	if err != nil {
		t.Fatal(err)
	}
	if *withPeer {
		programs := filepath.Join(dir, "programs")
		r, err := peer.StartRegistry(t.Context(), filepath.Join(programs, "registry"), filepath.Join(dir, "registry"), peer.RegistryOptions{})
		if err != nil {
			t.Fatal(err)
		}
		closing(t, r.Close)
		b.host = r.Host
		if b.docker, err = peer.StartBuildKit(t.Context(), programs, filepath.Join(dir, "buildkit"), r.Host); err != nil {
			t.Fatal(err)
		}
		closing(t, b.docker.Close)
	}
	b.image(t, "base", baseChanges)
	b.base = b.saved(t, "base").files
	return b
}

func closing(t *testing.T, do func() error) {
	t.Cleanup(func() {
		if err := do(); err != nil {
			t.Error(err)
		}
	})
}

// image makes an image of the base's files on both sides.
func (b *bench) image(t *testing.T, name string, changes []string) {
	t.Helper()
	args := []string{"image", "import"}
	for _, c := range changes {
		args = append(args, "--change", c)
	}
	b.run(t, b.stack.Command(t.Context(), append(args, filepath.Join(b.dir, "base.tar"), name)...))
	if b.docker != nil {
		b.run(t, b.stack.Command(t.Context(), "image", "tag", name, b.host+"/"+name))
		b.run(t, b.stack.Command(t.Context(), "image", "push", b.host+"/"+name))
		b.run(t, b.stack.Command(t.Context(), "image", "rm", b.host+"/"+name))
	}
}

func (b *bench) run(t *testing.T, cmd *exec.Cmd) string {
	t.Helper()
	out, err := peer.Run(cmd)
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}

// saved reads an image of ours.
func (b *bench) saved(t *testing.T, name string) built {
	t.Helper()
	file := filepath.Join(t.TempDir(), "image.tar")
	b.run(t, b.stack.Command(t.Context(), "image", "save", "-o", file, name))
	return readArchive(t, file)
}

// example is one case.
type example struct {
	dir    string // the build context
	flags  []string
	env    []string
	errors []string
	times  bool
	alone  bool // the peer cannot build it
	hosts  bool // it cannot be built in a user namespace of its own
	images map[string][]string
}

// readCase unpacks a case.
func readCase(t *testing.T, file string) example {
	t.Helper()
	a, err := txtar.ParseFile(file)
	if err != nil {
		t.Fatal(err)
	}
	e := example{dir: t.TempDir(), images: map[string][]string{}}
	for _, f := range a.Files {
		path := filepath.Join(e.dir, f.Name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, f.Data, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for line := range strings.Lines(string(a.Comment)) {
		key, value, ok := strings.Cut(strings.TrimSpace(line), ":")
		value = strings.TrimSpace(value)
		switch {
		case key == "" || strings.HasPrefix(key, "#"):
		case !ok:
			t.Fatalf("%s: line %q is not KEY: VALUE", file, line)
		case key == "flags":
			words, err := shellwords.Parse(value)
			if err != nil {
				t.Fatalf("%s: %v", file, err)
			}
			e.flags = append(e.flags, words...)
		case key == "env":
			e.env = append(e.env, value)
		case key == "error":
			e.errors = append(e.errors, value)
		case key == "peer":
			e.alone = strings.HasPrefix(value, "no;")
		case key == "userns":
			e.hosts = strings.HasPrefix(value, "no;")
		case key == "times":
			e.times = value == "yes"
		case key == "images":
			name, config, _ := strings.Cut(value, " ")
			e.images[name] = append(e.images[name], config)
		case key == "xattr":
			if err := setXattr(e.dir, strings.Fields(value)); err != nil {
				t.Fatalf("%s: cannot set xattr %s: %v", file, value, err)
			}
		case key == "setup":
			cmd := exec.Command("sh", "-euc", value)
			cmd.Dir = e.dir
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Fatalf("%s: %s: %v\n%s", file, value, err, out)
			}
		default:
			t.Fatalf("%s: unknown key %q", file, key)
		}
	}
	return e
}

// setXattr sets an extended attribute of a file below dir: PATH NAME VALUE in hex.
func setXattr(dir string, words []string) error {
	if len(words) != 3 {
		return errors.New("it is not PATH NAME VALUE")
	}
	value, err := hex.DecodeString(words[2])
	if err != nil {
		return err
	}
	return unix.Setxattr(filepath.Join(dir, words[0]), words[1], value, 0)
}

func TestDockerfiles(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(files) < 60 {
		t.Fatalf("%d cases, %v", len(files), err)
	}
	b := newBench(t)
	for _, file := range files {
		name := strings.TrimSuffix(filepath.Base(file), ".txtar")
		t.Run(name, func(t *testing.T) {
			e := readCase(t, file)
			for image, changes := range e.images {
				b.image(t, image, append(baseChanges[:len(baseChanges):len(baseChanges)], changes...))
			}
			if len(e.errors) > 0 {
				b.mustFail(t, e)
				return
			}
			golden := strings.TrimSuffix(file, ".txtar") + ".golden"
			compare, theirs := b.docker != nil && !e.alone, ""
			if compare {
				theirs = b.buildTheirs(t, e)
			}
			if compare && *update {
				if err := os.WriteFile(golden, []byte(theirs), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), theirs); compare && diff != "" {
				t.Errorf("docker build no longer makes of it what %s says (-golden +docker):\n%s", golden, diff)
			}
			if diff := cmp.Diff(string(want), b.buildOurs(t, e)); diff != "" {
				t.Errorf("(-docker +stack):\n%s", diff)
			}
			e.flags = append(e.flags, "--no-cache", "--userns", "auto")
			if e.hosts {
				b.mustFail(t, e)
			} else if diff := cmp.Diff(string(want), b.buildOurs(t, e)); diff != "" {
				t.Errorf("(-docker +stack in a user namespace):\n%s", diff)
			}
		})
	}
	if b.docker != nil {
		t.Run("docker build speaks to stack's builder", b.dockerBuildsHere)
	}
}

// dockerBuildsHere has docker build speak to stack's own builder, which serves
// BuildKit's API.
func (b *bench) dockerBuildsHere(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "Dockerfile"), []byte("FROM base\nRUN echo $FROM_BASE >/made\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	b.run(t, b.stack.Command(t.Context(), "image", "build", dir)) // so that it is there
	socket := filepath.Join(b.dir, "roots/run/builder/buildkitd.sock")
	b.run(t, b.docker.Buildx(t.Context(), "create", "--name", "stack", "--driver", "remote", "unix://"+socket))
	b.run(t, b.docker.Buildx(t.Context(), "build", "--builder", "stack", "--output", "type=local,dest="+filepath.Join(dir, "out"), dir))
	if made, err := os.ReadFile(filepath.Join(dir, "out/made")); err != nil || string(made) != "1\n" {
		t.Errorf("it made %q, %v", made, err)
	}
}

// args are the arguments of both sides.
func (e example) args(more ...string) []string {
	return append(append(more, e.flags...), e.dir)
}

func (b *bench) buildOurs(t *testing.T, e example) string {
	t.Helper()
	cmd := b.stack.Command(t.Context(), append([]string{"image", "build", "--progress", "plain", "-t", "built"}, e.args()...)...)
	cmd.Env = append(cmd.Env, e.env...)
	cmd.Dir = e.dir
	b.run(t, cmd)
	return b.saved(t, "built").describe(t, b.base, e.times)
}

func (b *bench) buildTheirs(t *testing.T, e example) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "image.tar")
	args := []string{"build", "--progress", "plain", "--output", "type=oci,dest=" + file, "--build-context", "base=docker-image://" + b.host + "/base"}
	for image := range e.images {
		args = append(args, "--build-context", image+"=docker-image://"+b.host+"/"+image)
	}
	cmd := b.docker.Buildx(t.Context(), e.args(args...)...)
	cmd.Env = append(cmd.Env, e.env...)
	cmd.Dir = e.dir
	b.run(t, cmd)
	return readArchive(t, file).describe(t, b.base, e.times)
}

// mustFail builds what cannot be built, and looks that the tag stays.
func (b *bench) mustFail(t *testing.T, e example) {
	t.Helper()
	b.run(t, b.stack.Command(t.Context(), "image", "tag", "base", "built"))
	cmd := b.stack.Command(t.Context(), append([]string{"image", "build", "--progress", "plain", "-t", "built"}, e.args()...)...)
	cmd.Env = append(cmd.Env, e.env...)
	cmd.Dir = e.dir
	out, err := peer.Run(cmd)
	if err == nil {
		t.Fatalf("it succeeded: %s", out)
	}
	for _, want := range e.errors {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("no word of %q in\n%v", want, err)
		}
	}
	if diff := cmp.Diff("", b.saved(t, "built").files.list(b.base)); diff != "" {
		t.Errorf("the tag leads elsewhere now:\n%s", diff)
	}
}
