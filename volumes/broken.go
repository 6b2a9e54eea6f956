package volumes

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/stack-run/stack/internal/durable"
)

// Broken is a volume whose record cannot be used, and as an error tells so. It is
// left out of [Store.List]; [Store.Create] gives it a record again and
// [Store.Remove] deletes it. Its data is whole as far as anybody knows.
type Broken struct {
	Name  string
	Path  string // of the file
	Newer bool   // the record is whole, and of a later version of this program
	Err   error
}

func (b *Broken) Error() string {
	todo := fmt.Sprintf("its data is kept; \"stack up\" or \"stack volume create\" writes the record again, \"stack volume rm %s\" deletes both", b.Name)
	if b.Newer {
		todo = "until then nothing touches it"
	}
	return fmt.Sprintf("volume %s is set aside: %v; %s", b.Name, b.Err, todo)
}

func (b *Broken) Unwrap() error { return b.Err }

func isBroken(err error) bool {
	var b *Broken
	return errors.As(err, &b)
}

// canHeal tells whether err is about a record that may be written again.
func canHeal(err error) bool {
	var b *Broken
	return errors.As(err, &b) && !b.Newer
}

// broken says what is wrong with the record of a volume whose directory is there.
func (s *Store) broken(name string, err error) error {
	path := filepath.Join(s.dir(name), recordName)
	if errors.Is(err, fs.ErrNotExist) {
		if _, statErr := os.Lstat(s.dir(name)); statErr != nil {
			return &NotFoundError{Name: name}
		}
		err = fmt.Errorf("record %s is missing", path)
	}
	b := &Broken{Name: name, Path: path, Err: err}
	if e := durable.Broken(err); e != nil {
		b.Newer = e.Newer
	}
	return b
}

// Broken returns the volumes that are set aside.
func (s *Store) Broken() ([]*Broken, error) {
	_, broken, err := s.scan()
	return broken, err
}

// heal writes the record of a volume again whose data is there. The store is
// locked.
func (s *Store) heal(spec Spec) (Volume, error) {
	v := Volume{Spec: spec, Created: time.Now().UTC(), Mountpoint: filepath.Join(s.dir(spec.Name), dataName)}
	if info, err := os.Stat(s.dir(spec.Name)); err == nil {
		v.Created = info.ModTime().UTC()
	}
	if err := os.Mkdir(v.Mountpoint, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return Volume{}, err
	}
	return v, writeRecord(s.dir(spec.Name), v)
}

// Tidy deletes what killed processes left half made or half deleted.
func (s *Store) Tidy(ctx context.Context) error {
	entries, err := os.ReadDir(s.root())
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("cannot list volumes: %w", err)
	}
	left := false
	for _, e := range entries {
		left = left || strings.HasPrefix(e.Name(), ".")
	}
	if !left {
		return nil
	}
	unlock, err := s.lock(ctx)
	if err != nil {
		return err
	}
	err = errors.Join(os.RemoveAll(s.aside()), s.sweepFills())
	unlock()
	return errors.Join(err, s.sweep())
}
