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
}

// readRecord reads the record in a volume's directory.
func readRecord(dir string) (Volume, error) {
	var r record
	if err := durable.ReadVersioned(filepath.Join(dir, recordName), &r, &r.Version, recordVersion); err != nil {
		return Volume{}, err
	}
	r.Mountpoint = filepath.Join(dir, dataName)
	return r.Volume, nil
}

// writeRecord replaces the record in a volume's directory.
func writeRecord(dir string, v Volume) error {
	return durable.WriteJSON(filepath.Join(dir, recordName), record{Version: recordVersion, Volume: v}, durable.Synced)
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
	held, err := lock.Exclusive(ctx, s.dir(name), lock.Dir(), lock.Of("volume "+name), lock.Patiently())
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
