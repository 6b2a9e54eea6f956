package peer

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

// BuildKitDaemon is a BuildKit daemon of our own that runs containers with runc, and
// the docker build that speaks to it.
type BuildKitDaemon struct {
	dir    string
	buildx string
	daemon *daemon
}

// BuildKitPrograms are those that it is made of.
var BuildKitPrograms = []string{"buildkitd", "docker-buildx", "runc"}

// StartBuildKit starts a daemon with its data below dir. programs is a directory
// of all BuildKitPrograms, see Link. Registries at host are spoken to in plain HTTP.
func StartBuildKit(ctx context.Context, programs, dir, host string) (*BuildKitDaemon, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	b := &BuildKitDaemon{dir: dir, buildx: filepath.Join(programs, "docker-buildx")}
	config := filepath.Join(dir, "buildkitd.toml")
	if err := os.WriteFile(config, fmt.Appendf(nil, "[registry.%q]\n  http = true\n", host), 0o600); err != nil {
		return nil, err
	}
	cmd := exec.Command(filepath.Join(programs, "buildkitd"), "--config", config, "--addr", b.address(), "--root", filepath.Join(dir, "data"),
		"--oci-worker-binary", filepath.Join(programs, "runc"), "--oci-worker-net", "host", "--containerd-worker=false",
		"--allow-insecure-entitlement", "security.insecure", "--allow-insecure-entitlement", "network.host")
	var err error
	if b.daemon, err = startDaemon(ctx, "BuildKit", "running server on", cmd); err != nil {
		return nil, err
	}
	if _, err := Run(b.Buildx(ctx, "create", "--name", "peer", "--driver", "remote", b.address())); err != nil {
		return nil, errors.Join(fmt.Errorf("cannot start BuildKit: %w", err), b.Close())
	}
	return b, nil
}

func (b *BuildKitDaemon) address() string {
	return "unix://" + filepath.Join(b.dir, "buildkitd.sock")
}

// Buildx is a buildx command, what "docker build" is today.
func (b *BuildKitDaemon) Buildx(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, b.buildx, args...)
	cmd.Env = append(os.Environ(), "HOME="+b.dir, "DOCKER_CONFIG="+filepath.Join(b.dir, "config"), "BUILDX_BUILDER=peer", "BUILDX_NO_DEFAULT_ATTESTATIONS=1")
	return cmd
}

// Close ends the daemon.
func (b *BuildKitDaemon) Close() error {
	return errors.Join(b.daemon.close(), RemoveCgroups("buildkit")) // where BuildKit puts its containers
}
