package peer

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

// ComposeVersion is the docker compose that is built where none is installed.
const ComposeVersion = "v5.5.1"

// Compose returns the path of a docker compose program: an installed one, else
// one built from source once and kept in the user's cache directory.
func Compose(ctx context.Context) (string, error) {
	if path, err := exec.LookPath("docker-compose"); err == nil {
		return path, nil
	}
	for _, dir := range []string{"/usr/local/libexec", "/usr/local/lib", "/usr/libexec", "/usr/lib"} {
		path := filepath.Join(dir, "docker/cli-plugins/docker-compose")
		if _, err := os.Stat(path); err == nil {
			return path, nil
		}
	}
	const module = "github.com/docker/compose/v5"
	return built(ctx, "docker-compose", module, ComposeVersion, "/cmd", "-s -w -X "+module+"/internal.Version="+ComposeVersion)
}

// BuildxVersion is the docker build that is built where none is installed.
const BuildxVersion = "v0.38.2"

// Buildx returns the path of the plugin that "docker build" needs for BuildKit,
// built from source once.
func Buildx(ctx context.Context) (string, error) {
	const module = "github.com/docker/buildx"
	return built(ctx, "docker-buildx", module, BuildxVersion, "/cmd/buildx", "-s -w -X "+module+"/version.Version="+BuildxVersion)
}

// BuildKitVersion is the BuildKit that Dockerfiles are built with for comparison,
// the one in stack-builder.
const BuildKitVersion = "v0.33.0"

// BuildKit returns the path of a BuildKit daemon, built from source once.
func BuildKit(ctx context.Context) (string, error) {
	return built(ctx, "buildkitd", "github.com/moby/buildkit", BuildKitVersion, "/cmd/buildkitd", "-s -w")
}

// RegistryVersion is the registry that is built: the reference implementation
// of the distribution specification.
const RegistryVersion = "v3.1.2"

// RegistryProgram returns the path of a registry, built from source once.
func RegistryProgram(ctx context.Context) (string, error) {
	return built(ctx, "registry", "github.com/distribution/distribution/v3", RegistryVersion, "/cmd/registry", "-s -w")
}

// built builds a program from source once, and keeps it in the user's cache
// directory.
func built(ctx context.Context, name, module, version, pkg, flags string) (string, error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		cache = os.TempDir()
	}
	path := filepath.Join(cache, "stack-peer", name+"-"+version)
	if _, err := os.Stat(path); err == nil {
		return path, nil
	}
	if err := buildModule(ctx, path, module, version, pkg, flags); err != nil {
		return "", fmt.Errorf("cannot build %s %s: %w", name, version, err)
	}
	return path, nil
}

// buildModule builds in a module that requires the program's: "go install"
// refuses one with exclude directives, as compose has.
func buildModule(ctx context.Context, path, module, version, pkg, flags string) error {
	dir, err := os.MkdirTemp("", "peer-build-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	for _, args := range [][]string{
		{"mod", "init", "peer.invalid/build"},
		{"get", module + pkg + "@" + version},
		{"build", "-trimpath", "-ldflags", flags, "-o", path + ".new", module + pkg},
	} {
		cmd := exec.CommandContext(ctx, "go", args...)
		cmd.Dir = dir
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=-mod=mod", "GOWORK=off")
		if _, err := Run(cmd); err != nil {
			return err
		}
	}
	return os.Rename(path+".new", path)
}

// Build builds a static program of this module; pkg is relative to dir.
func Build(ctx context.Context, dir, pkg, output string) error {
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-ldflags", "-s -w", "-o", output, pkg)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	_, err := Run(cmd)
	return err
}
