package snapshot

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"github.com/stack-run/stack/internal/durable"
	"github.com/stack-run/stack/internal/lock"
)

// ErrUnlike says that a layer cannot stand in for a directory.
var ErrUnlike = errors.New("layer is not as the directory is")

// borrowersDir is where the builder's snapshots are, below the data root: N/fs.
// Only there Collect looks for links that keep layers.
const borrowersDir = "build/snapshots/snapshots"

// Dir is the directory that all layers are in.
func (s *Store) Dir() string { return s.layers }

// Lend replaces dir, a directory of the builder's that is about to get the content
// of a layer, by a symbolic link to the layer's files. The link keeps the layer
// from removal as long as it is there, so nobody has to give it back. Whoever
// mounts dir, on top of the directories below, uppermost first, resolves the link,
// and writes nothing through it.
//
// The error is ErrNotUnpacked if the layer is not there, and ErrUnlike if it shows
// something else than an archive that is unpacked to dir: see "Implied
// directories".
func (s *Store) Lend(ctx context.Context, diffID digest.Digest, dir string, below ...string) error {
	return s.lend(ctx, diffID, dir, func() error { return s.standsFor(diffID, dir, below) })
}

// LendSame is Lend for a directory that has the content of the layer, which was
// made of it, already. Nobody may have it mounted. The error is ErrUnlike as well
// if something is in one of them and not in the other; files are not read.
func (s *Store) LendSame(ctx context.Context, diffID digest.Digest, dir string) error {
	return s.lend(ctx, diffID, dir, func() error {
		if _, err := s.Layer(diffID); err != nil {
			return err
		}
		return s.alike(ctx, s.dirPath(diffID.Encoded()), dir)
	})
}

// lend does it if check, called while no layer can go, has nothing against it.
func (s *Store) lend(ctx context.Context, diffID digest.Digest, dir string, check func() error) error {
	if err := diffID.Validate(); err != nil {
		return fmt.Errorf("cannot lend layer %q: %w", diffID, err)
	}
	// Collect has not begun, or will see the link.
	held, err := lock.Shared(ctx, s.lockPath(), lock.Patiently())
	if err != nil {
		return err
	}
	defer held.Unlock()
	if err := check(); err != nil {
		return err
	}
	if err := s.replaceByLink(dir, s.dirPath(diffID.Encoded())); err != nil {
		return fmt.Errorf("cannot lend layer %s: %w", short(diffID.Encoded()), err)
	}
	return nil
}

// standsFor tells whether the layer's directories that its archive does not have
// look as they shall: the root as that of dir, the others as those below.
func (s *Store) standsFor(diffID digest.Digest, dir string, below []string) error {
	info, err := s.Layer(diffID)
	if err != nil {
		return err
	}
	for _, name := range info.Implied {
		lower := below
		if name == "." {
			lower = []string{dir}
		}
		mine, err := readAttributes(filepath.Join(s.dirPath(diffID.Encoded()), name))
		if err != nil {
			return err
		}
		for _, d := range lower {
			theirs, found, err := readDirectory(filepath.Join(d, name))
			if err != nil {
				return err
			}
			if found && !mine.equal(theirs) {
				return fmt.Errorf("%w: in its directory /%s", ErrUnlike, name)
			}
			if found {
				break
			}
		}
	}
	return nil
}

// readDirectory reads the attributes of a directory, if it is one.
func readDirectory(path string) (dirAttributes, bool, error) {
	fi, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, unix.ENOTDIR), err == nil && !fi.IsDir():
		return dirAttributes{}, false, nil
	case err != nil:
		return dirAttributes{}, false, err
	}
	a, err := readAttributes(path)
	return a, err == nil, err
}

// replaceByLink puts a link to tree in the place of dir, at once.
func (s *Store) replaceByLink(dir, tree string) error {
	target, err := filepath.Rel(filepath.Dir(dir), tree)
	if err != nil {
		return err
	}
	old := dir + ".old"
	if err := removeTree(old); err != nil { // of a killed process
		return err
	}
	if err := os.Symlink(target, old); err != nil {
		return err
	}
	if err := unix.Renameat2(unix.AT_FDCWD, old, unix.AT_FDCWD, dir, unix.RENAME_EXCHANGE); err != nil {
		return errors.Join(err, os.Remove(old))
	}
	if err := durable.SyncDir(filepath.Dir(dir)); err != nil {
		return err
	}
	return removeTree(old)
}

// Lent returns the layers that are lent.
func (s *Store) Lent() (map[digest.Digest]bool, error) {
	all := map[digest.Digest]bool{}
	err := s.eachLent(func(_, name string) error {
		all[digest.NewDigestFromEncoded(digest.SHA256, name)] = true
		return nil
	})
	return all, err
}

// eachLent calls fn for each link that Lend has made, with the name of the layer
// directory that it leads to.
func (s *Store) eachLent(fn func(link, name string) error) error {
	dir := filepath.Join(filepath.Dir(s.layers), borrowersDir)
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("cannot read which layers are lent: %w", err)
	}
	for _, e := range entries {
		link := filepath.Join(dir, e.Name(), "fs")
		target, err := os.Readlink(link)
		if errors.Is(err, unix.EINVAL) || errors.Is(err, fs.ErrNotExist) {
			continue // a directory, or gone
		}
		if err != nil {
			return fmt.Errorf("cannot read which layers are lent: %w", err)
		}
		if err := fn(link, filepath.Base(filepath.Dir(target))); err != nil {
			return err
		}
	}
	return nil
}
