package volumes

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/stack-run/stack/internal/durable"
)

// RenameOptions say who may be in the way of a rename.
type RenameOptions struct {
	// Users returns the containers that use a volume, running or not. It is asked
	// while the volume is locked, so that it must look anew each time.
	Users func(name string) []string
	// Owned renames a volume of a project too. It stays the project's, which has it
	// under the new name once its Compose file says so.
	Owned bool
}

// OwnedError says that a volume is a project's, which knows it by its name.
type OwnedError struct{ Name, To, Project, Key string }

func (e *OwnedError) Error() string {
	return fmt.Sprintf("cannot rename volume %q: it is volume %q of project %s, whose next \"stack up\" would make a new, empty %s; "+
		"write \"name: %s\" for volumes.%s into the Compose file, then rename it with --force", e.Name, e.Key, e.Project, e.Name, e.To, e.Key)
}

// Rename gives a volume another name. At any moment one of the two names has all of it:
// the record says both beforehand, and the directory's name which of them is so.
func (s *Store) Rename(ctx context.Context, name, to string, o RenameOptions) (Volume, error) {
	if err := checkName(to); err != nil {
		return Volume{}, err
	}
	if name == to {
		return Volume{}, fmt.Errorf("cannot rename volume %q: that is its name already", name)
	}
	v, release, err := s.lockVolume(ctx, name)
	if err != nil {
		return Volume{}, err
	}
	defer release()
	unlock, err := s.lock(ctx)
	if err != nil {
		return Volume{}, err
	}
	defer unlock()
	inUse := func() error {
		if by := o.Users(name); len(by) > 0 {
			return &InUseError{Name: name, Users: by, To: "rename"}
		}
		return nil
	}
	_, err = os.Lstat(s.dir(to))
	switch {
	case err == nil:
		return Volume{}, fmt.Errorf("cannot rename volume %q: %w", name, &ExistsError{Name: to})
	case !errors.Is(err, fs.ErrNotExist):
		return Volume{}, fmt.Errorf("cannot rename volume %q: %w", name, err)
	case v.Project != "" && !v.Anonymous && !o.Owned:
		return Volume{}, &OwnedError{Name: name, To: to, Project: v.Project, Key: v.Key}
	}
	if err := inUse(); err != nil {
		return Volume{}, err
	}
	renamed, err := s.rename(v, to, inUse)
	var used *InUseError
	if err != nil && !errors.As(err, &used) {
		err = fmt.Errorf("cannot rename volume %q: %w", name, err)
	}
	return renamed, err
}

// rename renames a volume, and back if it has got users meanwhile. It and the store are
// locked, so that who misses the old name waits.
func (s *Store) rename(v Volume, to string, inUse func() error) (Volume, error) {
	from, dir := s.dir(v.Name), s.dir(to)
	if err := s.unpin(v.Name); err != nil {
		return Volume{}, err
	}
	if err := checkNoMounts(from); err != nil {
		return Volume{}, err
	}
	renamed := v
	renamed.Name, renamed.Mountpoint = to, filepath.Join(dir, dataName)
	if v.Anonymous { // what was given a name has one
		renamed.Anonymous, renamed.Project = false, ""
		renamed.Labels = maps.Clone(v.Labels)
		delete(renamed.Labels, AnonymousLabel)
	}
	if err := announceRename(from, v, renamed); err != nil {
		return Volume{}, err
	}
	if err := moveDir(from, dir); err != nil {
		return Volume{}, err
	}
	if err := inUse(); err != nil {
		return Volume{}, errors.Join(err, moveDir(dir, from), writeRecord(from, v), durable.SyncDir(s.root()))
	}
	return renamed, errors.Join(durable.SyncDir(s.root()), writeRecord(dir, renamed))
}

// moveDir renames a directory of the store to a name that is free.
func moveDir(from, to string) error {
	err := unix.Renameat2(unix.AT_FDCWD, from, unix.AT_FDCWD, to, unix.RENAME_NOREPLACE)
	if err != nil {
		return &os.LinkError{Op: "rename", Old: from, New: to, Err: err}
	}
	return nil
}
