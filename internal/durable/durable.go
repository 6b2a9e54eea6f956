// Package durable replaces files so that a reader, and the next start after a
// power failure, sees the complete old or the complete new content: write a
// temporary file in the same directory, fsync it, rename it, fsync the directory
// (rename(2), fsync(2)). It reads records of JSON so that whoever asks can tell
// one that is missing from one that is broken.
package durable

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// TempPrefix starts the names of temporary files. One that a killed process
// left is of no use to anybody.
const TempPrefix = ".tmp-"

// IsTemp tells whether a file of that name is a temporary one.
func IsTemp(name string) bool { return strings.HasPrefix(name, TempPrefix) }

// RemoveTemps deletes the temporary files in a directory, where nobody may write
// just now. A directory that is not there has none.
func RemoveTemps(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	for _, e := range entries {
		if !IsTemp(e.Name()) {
			continue
		}
		if removeErr := os.Remove(filepath.Join(dir, e.Name())); !errors.Is(removeErr, fs.ErrNotExist) {
			err = errors.Join(err, removeErr)
		}
	}
	return err
}

// Keep says what a write outlives.
type Keep int

const (
	// Synced content survives a power failure. It costs two waits for the disk.
	Synced Keep = iota
	// Volatile content survives the process. After a power failure the file may
	// be the old one, or empty.
	Volatile
)

// Write gives path the content data.
func Write(path string, data []byte, mode os.FileMode) error {
	return write(path, data, mode, Synced)
}

// WriteVolatile is Write for what a power failure may take.
func WriteVolatile(path string, data []byte, mode os.FileMode) error {
	return write(path, data, mode, Volatile)
}

// WriteJSON gives path the content v, for the owner's eyes only.
func WriteJSON(path string, v any, keep Keep) error {
	data, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("cannot encode %s: %w", path, err)
	}
	return write(path, append(data, '\n'), ownerOnly, keep)
}

// ownerOnly is the mode that os.CreateTemp gives.
const ownerOnly = 0o600

func write(path string, data []byte, mode os.FileMode, keep Keep) error {
	if keep == Volatile && says(path, data, mode) {
		return nil
	}
	dir := filepath.Dir(path)
	f, err := os.CreateTemp(dir, TempPrefix+"*")
	if err != nil {
		return fmt.Errorf("cannot write %s: %w", path, err)
	}
	_, err = f.Write(data)
	if err == nil && mode != ownerOnly {
		err = f.Chmod(mode)
	}
	if err == nil && keep == Synced {
		err = f.Sync()
	}
	err = errors.Join(err, f.Close())
	if err == nil {
		err = replace(f.Name(), path)
	}
	if err != nil {
		_ = os.Remove(f.Name())
		return fmt.Errorf("cannot write %s: %w", path, err)
	}
	if keep == Volatile {
		return nil
	}
	return SyncDir(dir)
}

// says tells whether path is a file of that content already. Reading it costs less
// than another inode does.
func says(path string, data []byte, mode os.FileMode) bool {
	info, err := os.Lstat(path)
	if err != nil || info.Mode() != mode || info.Size() != int64(len(data)) {
		return false
	}
	old, err := os.ReadFile(path)
	return err == nil && bytes.Equal(old, data)
}

// replace is rename(2) that also takes the place of an empty directory, which a
// repaired file system or a mistaken bind mount leaves where a file was.
func replace(temp, path string) error {
	err := os.Rename(temp, path)
	if !errors.Is(err, unix.EISDIR) && !errors.Is(err, unix.EEXIST) {
		return err
	}
	if info, statErr := os.Lstat(path); statErr != nil || !info.IsDir() {
		return err
	}
	if err := os.Remove(path); err != nil {
		return fmt.Errorf("a directory is in its place; move it away: %w", err)
	}
	return os.Rename(temp, path)
}

// SyncDir makes the names in dir durable.
func SyncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("cannot sync directory: %w", err)
	}
	defer d.Close()
	// Some file systems cannot sync a directory and say EINVAL; theirs is
	// then as durable as it gets.
	if err := d.Sync(); err != nil && !errors.Is(err, unix.EINVAL) {
		return fmt.Errorf("cannot sync directory %s: %w", dir, err)
	}
	return nil
}
