package images

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// keyLabel marks an imported image with what it was made of.
const keyLabel = "run.stack.example.key"

// Import brings img into the store of the stack program at path, unless the
// same image is there under its reference already. extra changes are added.
func Import(ctx context.Context, stack string, img Image, extra ...string) error {
	changes := slices.Concat(img.Changes, extra)
	sum := sha256.Sum256([]byte(strings.Join(changes, "\n")))
	key := strings.TrimSuffix(filepath.Base(img.Tar), ".tar") + "-" + hex.EncodeToString(sum[:6])
	look := exec.CommandContext(ctx, stack, "image", "inspect", "--format", "{{json .Config.Labels}}", img.Ref)
	if out, err := look.Output(); err == nil && bytes.Contains(out, []byte(`"`+key+`"`)) {
		return nil
	}
	args := []string{"image", "import"}
	for _, c := range changes {
		args = append(args, "--change", c)
	}
	args = append(args, "--change", "LABEL "+keyLabel+"="+key, img.Tar, img.Ref)
	if err := run(exec.CommandContext(ctx, stack, args...)); err != nil {
		return fmt.Errorf("cannot import %s: %w", img.Ref, err)
	}
	return nil
}
