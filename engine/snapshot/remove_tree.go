package snapshot

import (
	"fmt"
	"os"
	"path/filepath"
)

// removeTree deletes a directory with all that is in it; it need not exist.
// os.RemoveAll goes by directory descriptors and follows no links.
func removeTree(path string) error {
	if err := os.RemoveAll(path); err != nil {
		return fmt.Errorf("cannot delete: %w", err)
	}
	return nil
}

// removeTreeAt deletes name in the open directory dir.
func removeTreeAt(dir int, name string) error {
	return removeTree(filepath.Join(procPath(dir), name))
}
