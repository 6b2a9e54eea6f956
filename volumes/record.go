package volumes

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

const (
	recordName = "volume.json"
	dataName   = "_data"
	// recordVersion is the schema of volume.json.
	recordVersion = 1
)

type record struct {
	Version int `json:"version"`
	Volume
}

// readRecord reads the record in a volume's directory.
func readRecord(dir string) (Volume, error) {
	data, err := os.ReadFile(filepath.Join(dir, recordName))
	if err != nil {
		return Volume{}, err
	}
	var r record
	if err := json.Unmarshal(data, &r); err != nil {
		return Volume{}, fmt.Errorf("cannot read volume record %s: %w", filepath.Join(dir, recordName), err)
	}
	if r.Version > recordVersion {
		return Volume{}, fmt.Errorf("cannot read volume record %s: it is of schema %d, made by a newer version; update stack", filepath.Join(dir, recordName), r.Version)
	}
	r.Mountpoint = filepath.Join(dir, dataName)
	return r.Volume, nil
}

// writeRecord replaces the record in a volume's directory: after a power
// failure it is the old one or the new one, complete.
func writeRecord(dir string, v Volume) error {
	data, err := json.MarshalIndent(record{Version: recordVersion, Volume: v}, "", "  ")
	if err != nil {
		return err
	}
	temp, err := os.CreateTemp(dir, ".record-")
	if err != nil {
		return err
	}
	_, err = temp.Write(append(data, '\n'))
	if err == nil {
		err = temp.Sync()
	}
	err = errors.Join(err, temp.Close())
	if err == nil {
		err = os.Rename(temp.Name(), filepath.Join(dir, recordName))
	}
	if err != nil {
		os.Remove(temp.Name())
		return err
	}
	return syncDir(dir)
}

func syncDir(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// lockFile takes an exclusive flock on f and gives it back when f is closed.
// It takes ownership of f if it fails.
func lockFile(ctx context.Context, f *os.File) error {
	err := flock(f, unix.LOCK_EX|unix.LOCK_NB)
	if err == nil {
		return nil
	}
	if !errors.Is(err, unix.EWOULDBLOCK) {
		f.Close()
		return err
	}
	done := make(chan error, 1)
	go func() { done <- flock(f, unix.LOCK_EX) }()
	select {
	case err := <-done:
		if err != nil {
			f.Close()
		}
		return err
	case <-ctx.Done():
		// flock(2) cannot be called off: whoever waits closes the file, and
		// with it the lock, as soon as it has it.
		go func() {
			<-done
			f.Close()
		}()
		return ctx.Err()
	}
}

func flock(f *os.File, how int) error {
	for {
		err := unix.Flock(int(f.Fd()), how)
		if err != unix.EINTR {
			return err
		}
	}
}

// lock takes the lock of the whole store.
func (s *Store) lock(ctx context.Context) (unlock func(), err error) {
	// A directory: flock(2) takes those too, and no file is left.
	path := filepath.Join(s.opts.RunRoot, "locks", "volumes")
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		if err := os.MkdirAll(path, 0o700); err != nil {
			return nil, fmt.Errorf("cannot make lock directory: %w", err)
		}
		f, err = os.Open(path)
	}
	if err != nil {
		return nil, fmt.Errorf("cannot open volume lock: %w", err)
	}
	if err := lockFile(ctx, f); err != nil {
		return nil, fmt.Errorf("cannot lock %s: %w", path, err)
	}
	return func() { f.Close() }, nil
}

// lockVolume takes the lock of one volume, which is on its directory, and
// returns the volume as it is then.
func (s *Store) lockVolume(ctx context.Context, name string) (Volume, func(), error) {
	for {
		dir, err := os.Open(s.dir(name))
		if errors.Is(err, fs.ErrNotExist) {
			return Volume{}, nil, &NotFoundError{Name: name}
		} else if err != nil {
			return Volume{}, nil, err
		}
		if err := lockFile(ctx, dir); err != nil {
			return Volume{}, nil, fmt.Errorf("cannot lock volume %q: %w", name, err)
		}
		// While waiting, the volume may have been removed and made anew.
		held, herr := dir.Stat()
		now, nerr := os.Stat(s.dir(name))
		if herr == nil && nerr == nil && os.SameFile(held, now) {
			v, err := s.Get(name)
			if err != nil {
				dir.Close()
				return Volume{}, nil, err
			}
			return v, func() { dir.Close() }, nil
		}
		dir.Close()
	}
}
