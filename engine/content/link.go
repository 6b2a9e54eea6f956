package content

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/stack-run/stack/internal/durable"
)

// Link gives the file at path, which is the content of d, a name in the store. It
// is for a file that was hashed and synced when it was written, is never changed,
// and is on the store's file system: nothing is read and nothing copied. Its
// length must be that of want. lease protects the blob.
func (s *Store) Link(ctx context.Context, lease *Lease, want Want, path string) error {
	if err := want.Digest.Validate(); err != nil {
		return fmt.Errorf("cannot store blob %q: %w", want.Digest, err)
	}
	if err := lease.Protect(ctx, want.Digest); err != nil {
		return err
	}
	if s.has(want) {
		return nil
	}
	if err := s.link(want, path); err != nil {
		return fmt.Errorf("cannot store blob %s: %w", want.Digest, trimPath(err))
	}
	return nil
}

func (s *Store) link(want Want, path string) error {
	fi, err := os.Lstat(path)
	if err != nil {
		return err
	}
	if !fi.Mode().IsRegular() || want.Size > 0 && fi.Size() != want.Size {
		return fmt.Errorf("%s has %d bytes, not %d", filepath.Base(path), fi.Size(), want.Size)
	}
	to := s.Path(want.Digest)
	dir := filepath.Dir(to)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	err = os.Link(path, to)
	var le *os.LinkError
	if errors.As(err, &le) {
		err = le.Err
	}
	if err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return durable.SyncDir(dir)
}
