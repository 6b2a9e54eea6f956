package peer

import (
	"context"
	"os"
	"os/exec"
)

// Build builds a static program of this module; pkg is relative to dir.
func Build(ctx context.Context, dir, pkg, output string) error {
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-ldflags", "-s -w", "-o", output, pkg)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	_, err := Run(cmd)
	return err
}
