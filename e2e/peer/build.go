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
	cache, err := os.UserCacheDir()
	if err != nil {
		cache = os.TempDir()
	}
	path := filepath.Join(cache, "stack-peer", "docker-compose-"+ComposeVersion)
	if _, err := os.Stat(path); err == nil {
		return path, nil
	}
	if err := buildCompose(ctx, path); err != nil {
		return "", fmt.Errorf("cannot build docker compose %s: %w; install it and name it by flag", ComposeVersion, err)
	}
	return path, nil
}

// buildCompose builds in a module that requires compose: "go install" refuses a
// module with exclude directives, as compose has.
func buildCompose(ctx context.Context, path string) error {
	dir, err := os.MkdirTemp("", "peer-compose-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	const module = "github.com/docker/compose/v5"
	for _, args := range [][]string{
		{"mod", "init", "peer.invalid/compose"},
		{"get", module + "/cmd@" + ComposeVersion},
		{"build", "-trimpath", "-ldflags", "-s -w -X " + module + "/internal.Version=" + ComposeVersion, "-o", path + ".new", module + "/cmd"},
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
