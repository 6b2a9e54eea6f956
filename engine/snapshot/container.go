package snapshot

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"github.com/stack-run/stack/internal/durable"
	"github.com/stack-run/stack/internal/lock"
)

// Prepare makes the writable layer of a container over an unpacked image. Done
// again, it keeps what the container wrote. The error is ErrNotUnpacked if the
// image's layers are not there; then Unpack and Prepare again.
//
// Nothing here is synced, because a container's data is its own business. After
// a power failure Mount may say ErrNotPrepared; then Prepare again.
func (s *Store) Prepare(ctx context.Context, containerID string, diffIDs []digest.Digest) error {
	dir, err := s.containerDir(containerID)
	if err != nil {
		return err
	}
	// Layers cannot be removed before the container is seen to use them.
	held, err := lock.Shared(ctx, s.lockPath(), lock.Patiently())
	if err != nil {
		return err
	}
	defer held.Unlock()
	st, err := s.readStack(diffIDs)
	if err != nil {
		return err
	}
	if err := s.makeContainer(dir, st); err != nil {
		return fmt.Errorf("cannot make the writable layer of container %s: %w", short(containerID), err)
	}
	return nil
}

// Pin keeps further layers, such as those of an image that a container has as a
// volume, from removal until the container's writable layer is removed. The
// error is ErrNotUnpacked if they are not there.
func (s *Store) Pin(ctx context.Context, containerID string, diffIDs []digest.Digest) error {
	dir, err := s.containerDir(containerID)
	if err != nil {
		return err
	}
	held, err := lock.Shared(ctx, s.lockPath(), lock.Patiently())
	if err != nil {
		return err
	}
	defer held.Unlock()
	st, err := s.readStack(diffIDs)
	if err != nil {
		return err
	}
	data, err := json.Marshal(st)
	if err == nil {
		err = mkdir(dir, 0o700)
	}
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, pinPrefix+chainID(diffIDs).Encoded()), data, 0o600)
	}
	if err != nil {
		return fmt.Errorf("cannot keep layers for container %s: %w", short(containerID), err)
	}
	return nil
}

// pinPrefix starts the names of the files that Pin writes.
const pinPrefix = "pin-"

func (s *Store) makeContainer(dir string, st stack) error {
	data, err := json.Marshal(st)
	if err != nil {
		return err
	}
	if err := mkdir(dir, 0o700); err != nil {
		return err
	}
	if err := mkdir(filepath.Join(dir, "work"), 0o700); err != nil {
		return err
	}
	upper := filepath.Join(dir, "upper")
	if _, err := os.Lstat(upper); errors.Is(err, fs.ErrNotExist) {
		// The uppermost directory decides what the root looks like. It gets its name once
		// it does: what a kill leaves is made anew.
		root, err := readAttributes(s.dirPath(st.Dirs[len(st.Dirs)-1]))
		if err != nil {
			return err
		}
		made := upper + ".new"
		if err := mkdir(made, 0o700); err != nil {
			return err
		}
		if err := errors.Join(root.apply(made), os.Rename(made, upper)); err != nil {
			return err
		}
	} else if err != nil {
		return err
	}
	// Written last: where it is, all is.
	return durable.WriteVolatile(filepath.Join(dir, "lower.json"), data, 0o600)
}

func mkdir(path string, mode os.FileMode) error {
	if err := os.Mkdir(path, mode); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return nil
}

// containerDir checks a container's ID, which becomes the name of a directory.
func (s *Store) containerDir(id string) (string, error) {
	if id == "" || strings.HasPrefix(id, ".") || strings.ContainsAny(id, "/\x00") {
		return "", fmt.Errorf("internal error: %q cannot be a container ID", id)
	}
	return filepath.Join(s.containers, id), nil
}

// dirPath is where the layer directory name, from a stack, is mounted from.
func (s *Store) dirPath(name string) string { return filepath.Join(s.layers, name, "fs") }

// lower returns the stack that a container is prepared on, or ErrNotPrepared.
func (s *Store) lower(containerID string) (dir string, st stack, err error) {
	dir, err = s.containerDir(containerID)
	if err != nil {
		return "", st, err
	}
	err = durable.ReadJSON(filepath.Join(dir, "lower.json"), &st)
	if durable.Broken(err) != nil {
		err = fs.ErrNotExist // power failed before it was written: Prepare writes it again
	}
	if errors.Is(err, fs.ErrNotExist) || err == nil && len(st.Dirs) == 0 {
		return "", st, fmt.Errorf("cannot use container %s: %w", short(containerID), ErrNotPrepared)
	}
	if err != nil {
		return "", st, fmt.Errorf("cannot use container %s: %w", short(containerID), err)
	}
	return dir, st, nil
}

// Prepared tells whether a container's writable layer can be used. Prepare makes
// it so.
func (s *Store) Prepared(containerID string) bool {
	_, _, err := s.lower(containerID)
	return err == nil
}

// upper is the directory of what a container changed, in overlayfs' terms, which is
// there whatever became of the record of what it lies on.
func (s *Store) upper(containerID string) (string, error) {
	dir, err := s.containerDir(containerID)
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, "upper")
	if _, err = os.Lstat(path); errors.Is(err, fs.ErrNotExist) {
		err = fmt.Errorf("cannot use container %s: %w", short(containerID), ErrNotPrepared)
	}
	return path, err
}

// Usage returns the bytes of disk that a container's writable layer takes, hard
// links counted once.
func (s *Store) Usage(ctx context.Context, containerID string) (int64, error) {
	upper, err := s.upper(containerID)
	if err != nil {
		return 0, err
	}
	n, err := diskUsage(ctx, upper)
	if err != nil {
		return 0, fmt.Errorf("cannot read the writable layer of container %s: %w", short(containerID), err)
	}
	return n, nil
}

// diskUsage returns the bytes in blocks below dir. What vanishes meanwhile is
// left out.
func diskUsage(ctx context.Context, dir string) (int64, error) {
	type inode struct{ dev, ino uint64 }
	seen := make(map[inode]bool)
	var total int64
	err := filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			if errors.Is(err, unix.ENOENT) {
				return nil
			}
			return err
		}
		if key := (inode{st.Dev, st.Ino}); st.Nlink == 1 || !seen[key] {
			seen[key] = st.Nlink > 1
			total += st.Blocks * 512
		}
		return nil
	})
	return total, err
}

// Remove deletes a container's writable layer; it need not exist. What a mount
// of it still shows afterwards is undefined. Killed half-way, the layer is gone
// and Collect deletes the rest.
func (s *Store) Remove(ctx context.Context, containerID string) error {
	dir, err := s.containerDir(containerID)
	if err != nil {
		return err
	}
	bounded := limited(dir)
	trash := filepath.Join(s.layers, "tmp", "rw-"+containerID)
	for range 10 {
		if err = removeTree(trash); err == nil {
			err = os.Rename(dir, trash)
		}
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err == nil {
			err = errors.Join(removeTree(trash), s.unlimit(containerID, bounded))
		}
		// Who removes it at the same time may have put it where this one deletes.
		if !errors.Is(err, unix.ENOTEMPTY) && !errors.Is(err, unix.EEXIST) {
			break
		}
	}
	if err != nil {
		return fmt.Errorf("cannot remove container %s: %w", short(containerID), err)
	}
	return nil
}
