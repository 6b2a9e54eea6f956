package volumes

import (
	"context"
	"errors"
	"io/fs"
	"path/filepath"

	"github.com/stack-run/stack/internal/durable"
	"github.com/stack-run/stack/internal/lock"
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
	// Renamed is the volume once its directory has that name: the rename of the
	// directory makes it so, and nothing is between the one and the other.
	Renamed *Volume `json:"renamed,omitempty"`
}

// readRecord reads the record in a volume's directory.
func readRecord(dir string) (Volume, error) {
	var r record
	if err := durable.ReadVersioned(filepath.Join(dir, recordName), &r, &r.Version, recordVersion); err != nil {
		return Volume{}, err
	}
	if r.Renamed != nil && r.Renamed.Name == filepath.Base(dir) {
		r.Volume = *r.Renamed
	}
	r.Mountpoint = filepath.Join(dir, dataName)
	return r.Volume, nil
}

// writeRecord replaces the record in a volume's directory.
func writeRecord(dir string, v Volume) error {
	return durable.WriteJSON(filepath.Join(dir, recordName), record{Version: recordVersion, Volume: v}, durable.Synced)
}

// announceRename writes into a volume's record what it is about to become.
func announceRename(dir string, v, renamed Volume) error {
	return durable.WriteJSON(filepath.Join(dir, recordName), record{Version: recordVersion, Volume: v, Renamed: &renamed}, durable.Synced)
}

// lock takes the lock of the whole store.
func (s *Store) lock(ctx context.Context) (unlock func(), err error) {
	path := filepath.Join(s.opts.RunRoot, "locks", "volumes")
	held, err := lock.Exclusive(ctx, path, lock.MakeDir(), lock.Of("the volumes"))
	if err != nil {
		return nil, err
	}
	return func() { held.Unlock() }, nil
}

// lockVolume takes the lock of one volume, which is on its directory, and
// returns the volume as it is then. Its holder may fill it meanwhile.
func (s *Store) lockVolume(ctx context.Context, name string) (Volume, func(), error) {
	return s.locked(ctx, name, lock.Exclusive)
}

// useVolume returns a volume as it is, and keeps it from being replaced or renamed
// meanwhile.
func (s *Store) useVolume(ctx context.Context, name string) (Volume, func(), error) {
	return s.locked(ctx, name, lock.Shared)
}

func (s *Store) locked(ctx context.Context, name string, take func(context.Context, string, ...lock.Option) (*lock.Held, error)) (Volume, func(), error) {
	if checkName(name) != nil {
		return Volume{}, nil, &NotFoundError{Name: name}
	}
	held, err := take(ctx, s.dir(name), lock.Dir(), lock.Of("volume "+name), lock.Patiently())
	if errors.Is(err, fs.ErrNotExist) {
		return Volume{}, nil, &NotFoundError{Name: name}
	} else if err != nil {
		return Volume{}, nil, err
	}
	v, err := s.Get(name)
	if err != nil {
		return Volume{}, nil, errors.Join(err, held.Unlock())
	}
	return v, func() { held.Unlock() }, nil
}
