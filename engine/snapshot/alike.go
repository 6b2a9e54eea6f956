package snapshot

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// alike compares all of two trees but the content of files: the tree of a layer
// with the one that the layer's archive was made of. Times may differ by what an
// archive does not hold, the fractions of a second, and those of directories may
// differ. The error wraps ErrUnlike.
func (s *Store) alike(ctx context.Context, layer, dir string) error {
	a := alikeness{layer: layer, dir: dir, first: map[fileID]string{}, second: map[fileID]string{}}
	if err := eachEntry(ctx, layer, func(rel string, _ fs.DirEntry) error { return a.entry(rel) }); err != nil {
		return err
	}
	return eachEntry(ctx, dir, func(rel string, e fs.DirEntry) error {
		if _, err := os.Lstat(filepath.Join(layer, rel)); !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		// overlayfs copies a directory to put something into it. If that is gone
		// again and the archive does not have it, it is as the one below.
		if e.IsDir() {
			if opaque, err := s.isOpaque(filepath.Join(dir, rel)); err != nil || !opaque {
				return err
			}
		}
		return fmt.Errorf("%w: /%s is not in the layer", ErrUnlike, rel)
	})
}

// eachEntry calls fn for each entry of a tree, by its path in it.
func eachEntry(ctx context.Context, root string, fn func(rel string, e fs.DirEntry) error) error {
	return filepath.WalkDir(root, func(path string, e fs.DirEntry, err error) error {
		if err == nil && ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		return fn(rel, e)
	})
}

type alikeness struct {
	layer, dir    string
	first, second map[fileID]string // the first names of files
}

func (a *alikeness) entry(rel string) error {
	unlike := func(what string) error { return fmt.Errorf("%w: %s of /%s", ErrUnlike, what, rel) }
	p, q := filepath.Join(a.layer, rel), filepath.Join(a.dir, rel)
	var s, t unix.Stat_t
	if err := unix.Lstat(p, &s); err != nil {
		return err
	}
	if unix.Lstat(q, &t) != nil {
		return unlike("existence")
	}
	if isWhiteout(s) && isWhiteout(t) {
		return nil
	}
	kind := s.Mode & unix.S_IFMT
	switch {
	case s.Mode != t.Mode, s.Uid != t.Uid, s.Gid != t.Gid, s.Rdev != t.Rdev:
		return unlike("mode, owner or device")
	case kind != unix.S_IFDIR && s.Size != t.Size:
		return unlike("size")
	case kind != unix.S_IFDIR && apart(s.Mtim, t.Mtim) >= time.Second:
		return unlike("time")
	case kind != unix.S_IFDIR && firstName(a.first, s, rel) != firstName(a.second, t, rel):
		return unlike("hard links")
	}
	if kind == unix.S_IFLNK {
		one, err := os.Readlink(p)
		if err != nil {
			return err
		}
		if two, err := os.Readlink(q); err != nil || one != two {
			return unlike("target")
		}
	}
	x, err := readXattrs(p)
	if err != nil {
		return err
	}
	y, err := readXattrs(q)
	if err != nil {
		return err
	}
	if !(dirAttributes{xattrs: x}).equal(dirAttributes{xattrs: y}) {
		return unlike("extended attributes")
	}
	return nil
}

// firstName returns the name under which a file was met first.
func firstName(met map[fileID]string, st unix.Stat_t, rel string) string {
	if st.Nlink < 2 {
		return rel
	}
	id := fileID{st.Dev, st.Ino}
	if _, ok := met[id]; !ok {
		met[id] = rel
	}
	return met[id]
}

func apart(a, b unix.Timespec) time.Duration {
	return time.Unix(a.Unix()).Sub(time.Unix(b.Unix())).Abs()
}
