package peer

import (
	"context"
	"debug/buildinfo"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// ReadyVariable names a directory with programs that are built already. What is
// not in it is built.
const ReadyVariable = "STACK_PEERS"

// source says how a program is built.
type source struct {
	module, version, pkg string
	flags                string // of the linker
	tags                 string
	cgo                  bool
	// replace has the versions that stand in for what a requirement names.
	replace map[string]string
	// main is the source of a program that imports the package.
	main string
	// requirements is the file with what a module requires that has no go.mod.
	requirements string
}

//go:embed composeflags.txt
var composeFlags string

// The current releases of what stack is compared with. Moby's own tags of the 29
// line are not tags of its Go module, whose versions go beside them.
var sources = map[string]source{
	"dockerd": {module: "github.com/moby/moby/v2", version: "v2.0.0-beta.24", pkg: "cmd/dockerd",
		flags: "-X github.com/moby/moby/v2/dockerversion.Version=v2.0.0-beta.24"},
	"docker-proxy":            {module: "github.com/moby/moby/v2", version: "v2.0.0-beta.24", pkg: "cmd/docker-proxy"},
	"containerd":              {module: "github.com/containerd/containerd/v2", version: "v2.4.2", pkg: "cmd/containerd"},
	"containerd-shim-runc-v2": {module: "github.com/containerd/containerd/v2", version: "v2.4.2", pkg: "cmd/containerd-shim-runc-v2"},
	// C joins the namespaces, and libseccomp makes the filter that Docker asks for.
	"runc": {module: "github.com/opencontainers/runc", version: "v1.5.3", cgo: true, tags: "seccomp"},
	// One version that it requires cannot be fetched; the one of the daemon can.
	"docker": {module: "github.com/docker/cli", version: "v29.9.3+incompatible", pkg: "cmd/docker", requirements: "vendor.mod",
		flags:   "-X github.com/docker/cli/cli/version.Version=29.9.3",
		replace: map[string]string{"github.com/moby/swarmkit/v2": "github.com/moby/swarmkit/v2@v2.1.3-0.20260828175525-ad0357aedfca"}},
	"docker-compose": {module: "github.com/docker/compose/v5", version: "v5.6.0", pkg: "cmd",
		flags: "-X github.com/docker/compose/v5/internal.Version=v5.6.0"},
	"composeflags": {module: "github.com/docker/compose/v5", version: "v5.6.0", pkg: "cmd/compose", main: composeFlags},
	"docker-buildx": {module: "github.com/docker/buildx", version: "v0.38.2", pkg: "cmd/buildx",
		flags: "-X github.com/docker/buildx/version.Version=v0.38.2"},
	// BuildKit is the version that stack-builder has.
	"buildkitd": {module: "github.com/moby/buildkit", version: "v0.33.0", pkg: "cmd/buildkitd"},
	// The reference implementation of the distribution specification.
	"registry": {module: "github.com/distribution/distribution/v3", version: "v3.1.2", pkg: "cmd/registry"},
}

// DockerPrograms are those that a Docker with compose and build is made of.
var DockerPrograms = []string{"dockerd", "docker-proxy", "containerd", "containerd-shim-runc-v2", "runc", "docker", "docker-compose", "docker-buildx"}

// AllPrograms are the names of all that can be built.
func AllPrograms() []string { return slices.Sorted(maps.Keys(sources)) }

// Built returns the path of a program: a ready one, else one that is built from
// source once and kept in the user's cache directory. Its file has its name.
func Built(ctx context.Context, name string) (string, error) {
	if dir := os.Getenv(ReadyVariable); dir != "" {
		path, err := filepath.Abs(filepath.Join(dir, name))
		if err != nil {
			return "", err
		}
		if _, err := os.Stat(path); err == nil {
			return path, nil
		}
	}
	s, ok := sources[name]
	if !ok {
		return "", fmt.Errorf("cannot build %s: it is none of %s", name, strings.Join(AllPrograms(), ", "))
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		cache = os.TempDir()
	}
	path := filepath.Join(cache, "stack-peer", name+"@"+s.version, name)
	if _, err := os.Stat(path); err == nil {
		return path, nil
	}
	fmt.Fprintf(os.Stderr, "building %s %s\n", s.module, s.version)
	if err := s.build(ctx, path); err != nil {
		return "", fmt.Errorf("cannot build %s %s: %w", name, s.version, err)
	}
	return path, nil
}

// Link makes a directory of links to programs, under their names.
func Link(ctx context.Context, dir string, names ...string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	for _, name := range names {
		path, err := Built(ctx, name)
		if err == nil {
			err = os.Symlink(path, filepath.Join(dir, name))
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// build builds in a module that requires the program's: "go install" refuses one
// with exclude directives, and has no place for what stands in.
func (s source) build(ctx context.Context, path string) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	dir, err := os.MkdirTemp(filepath.Dir(path), "build-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	cgo := "CGO_ENABLED=0"
	if s.cgo {
		cgo = "CGO_ENABLED=1"
		if _, err := exec.LookPath("gcc"); err != nil {
			return errors.New("there is no C compiler; run `make peers`, or install Debian's gcc, libc6-dev, libseccomp-dev and pkg-config")
		}
	}
	command := func(args ...string) *exec.Cmd {
		cmd := exec.CommandContext(ctx, "go", args...)
		cmd.Dir = dir
		cmd.Env = append(os.Environ(), cgo, "GOFLAGS=-mod=mod", "GOWORK=off")
		return cmd
	}
	if err := s.writeModule(dir, command); err != nil {
		return err
	}
	pkg := s.module
	if s.pkg != "" {
		pkg += "/" + s.pkg
	}
	program := pkg
	if s.main != "" {
		program = "."
		if err := os.WriteFile(filepath.Join(dir, "main.go"), []byte(s.main), 0o644); err != nil {
			return err
		}
	}
	made := filepath.Join(dir, "program")
	for _, args := range [][]string{
		{"get", pkg + "@" + s.version},
		{"build", "-trimpath", "-tags", s.tags, "-ldflags", strings.TrimSpace("-s -w " + s.flags), "-o", made, program},
	} {
		if _, err := Run(command(args...)); err != nil {
			return err
		}
	}
	return os.Rename(made, path)
}

// builtVersion is the version of a module that a program was built from, as Go
// wrote it into the program.
func builtVersion(path, module string) (string, error) {
	info, err := buildinfo.ReadFile(path)
	if err != nil {
		return "", err
	}
	for _, m := range append(info.Deps, &info.Main) {
		if m.Path == module {
			return m.Version, nil
		}
	}
	return "", fmt.Errorf("%s is not of %s", path, module)
}

// writeModule writes the go.mod of the module that is built in.
func (s source) writeModule(dir string, command func(...string) *exec.Cmd) error {
	if err := os.WriteFile(filepath.Join(dir, "go.mod"), []byte("module peer.invalid/build\n"), 0o644); err != nil {
		return err
	}
	replace := func(old, by string) error {
		_, err := Run(command("mod", "edit", "-replace", old+"="+by))
		return err
	}
	// Without a go.mod, Go takes a module's source for that of long ago, and any
	// requirement for wanted.
	if s.requirements != "" {
		module := filepath.Join(dir, "module")
		if err := s.copyModule(module, command); err != nil {
			return err
		}
		if err := os.Rename(filepath.Join(module, s.requirements), filepath.Join(module, "go.mod")); err != nil {
			return err
		}
		if err := replace(s.module, "./module"); err != nil {
			return err
		}
	}
	for old, by := range s.replace {
		if err := replace(old, by); err != nil {
			return err
		}
	}
	return nil
}

// CopyModule makes a copy of the module that a program is built from.
func CopyModule(ctx context.Context, program, to string) error {
	return sources[program].copyModule(to, func(args ...string) *exec.Cmd {
		return exec.CommandContext(ctx, "go", args...)
	})
}

func (s source) copyModule(to string, command func(...string) *exec.Cmd) error {
	out, err := Run(command("mod", "download", "-json", s.module+"@"+s.version))
	if err != nil {
		return err
	}
	var downloaded struct{ Dir string }
	if err := json.Unmarshal(out, &downloaded); err != nil {
		return err
	}
	return os.CopyFS(to, os.DirFS(downloaded.Dir))
}
