package engine

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/stack-run/stack/volumes"
)

// etcFiles are the generated files, mounted over the container's own in /etc.
var etcFiles = [...]string{"hosts", "hostname", "resolv.conf"}

// etcLimit is how much of such a file, bytes, is passed on to a container that
// shares the network of another one.
const etcLimit = 1 << 20

// A container may write these files, so what it sees lies on a small file system
// of its own. The copies in the run directory are for the host's eyes, and for
// containers that share the network.

// writeEtc writes the run directory's copies.
func (e *Engine) writeEtc(c *Container, hosts, resolv []byte) error {
	dir := e.Records.RunDir(c.ID)
	if err := os.MkdirAll(dir, 0o711); err != nil {
		return err
	}
	for name, content := range map[string][]byte{
		"hosts": hosts, "resolv.conf": resolv, "hostname": []byte(e.hostname(c) + "\n"),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// readEtc reads one of the copies.
func (e *Engine) readEtc(id, name string) ([]byte, error) {
	f, err := os.Open(filepath.Join(e.Records.RunDir(id), name))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, etcLimit))
}

// etcMounts are the mounts of the generated files, except where the user mounts
// his own. They are empty still.
func (e *Engine) etcMounts(c *Container) []volumes.Mount {
	var out []volumes.Mount
	for _, name := range etcFiles {
		target := "/etc/" + name
		covered := false
		for _, m := range c.Spec.Mounts {
			covered = covered || strings.TrimSuffix(m.Target, "/") == target
		}
		if !covered {
			out = append(out, volumes.Mount{Type: volumes.TypeFile, Own: true, Target: target, Mode: 0o644, ReadOnly: c.Spec.ReadOnly})
		}
	}
	return out
}

// fillEtc gives the mounted files the copies' content.
func (e *Engine) fillEtc(c *Container, mounts []volumes.ResolvedMount) error {
	for _, m := range mounts {
		if m.File == nil {
			continue
		}
		content, err := e.readEtc(c.ID, filepath.Base(m.Target))
		if err == nil {
			_, err = m.File.WriteAt(content, 0)
		}
		if err != nil {
			return fmt.Errorf("cannot write %s: %w", m.Target, err)
		}
	}
	return nil
}
