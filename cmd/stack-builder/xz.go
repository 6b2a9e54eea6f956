package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/stack-run/stack/engine/content/compression"
)

// xzName is what this program is called as when it stands in for xz(1).
const xzName = "xz"

// provideXZ puts an xz on the search path of a machine that has none: BuildKit
// calls it, as "xz -d -c -q", for archives of this format that ADD unpacks. dir is
// made for it.
func provideXZ(dir string) error {
	if _, err := exec.LookPath(xzName); err == nil {
		return nil
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	link := filepath.Join(dir, xzName)
	if err := os.Remove(link); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := os.Symlink(self, link); err != nil {
		return err
	}
	return os.Setenv("PATH", os.Getenv("PATH")+string(filepath.ListSeparator)+dir)
}

// decompress is what xz does for BuildKit.
func decompress(w io.Writer, r io.Reader) error {
	d, _, err := compression.NewReader(r)
	if err != nil {
		return err
	}
	defer d.Close()
	if _, err := io.Copy(w, d); err != nil {
		return fmt.Errorf("cannot decompress the archive: %w", err)
	}
	return nil
}
