package snapshot

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// ChangeKind says what happened to a path, by the letters of "docker diff".
type ChangeKind byte

const (
	Added    ChangeKind = 'A'
	Modified ChangeKind = 'C'
	Deleted  ChangeKind = 'D'
)

// Change is one path in which a container differs from its image.
type Change struct {
	Path string // absolute, in the container
	Kind ChangeKind
}

func (c Change) String() string { return string(c.Kind) + " " + c.Path }

// Changes compares a container with its image, as "docker diff" does, in the
// order of the paths. Directories in which something changed are among them. A
// running container may be compared; what it changes meanwhile may be missed.
func (s *Store) Changes(ctx context.Context, containerID string) ([]Change, error) {
	dir, st, err := s.lower(containerID)
	if err != nil {
		return nil, err
	}
	view, err := s.view(st, nil)
	if err != nil {
		return nil, fmt.Errorf("cannot compare container %s with its image: %w", short(containerID), err)
	}
	defer view.Close()
	d := differ{s: s, ctx: ctx, upper: filepath.Join(dir, "upper"), lower: procPath(int(view.Fd())), kinds: make(map[string]ChangeKind)}
	if err := d.directory("/"); err != nil {
		return nil, fmt.Errorf("cannot compare container %s with its image: %w", short(containerID), err)
	}
	var changes []Change
	for name, kind := range d.kinds {
		changes = append(changes, Change{name, kind})
	}
	slices.SortFunc(changes, func(a, b Change) int {
		// A directory comes before what is in it.
		return strings.Compare(strings.ReplaceAll(a.Path, "/", "\x00"), strings.ReplaceAll(b.Path, "/", "\x00"))
	})
	return changes, nil
}

// differ walks an upper directory.
type differ struct {
	s     *Store
	ctx   context.Context // of the one call that the differ lives for
	upper string
	lower string
	kinds map[string]ChangeKind
}

// note records a change, and that the directories above it changed.
func (d *differ) note(name string, kind ChangeKind) {
	d.kinds[name] = kind
	for dir := path.Dir(name); dir != "/"; dir = path.Dir(dir) {
		if _, ok := d.kinds[dir]; ok {
			return
		}
		d.kinds[dir] = Modified
	}
}

// directory compares the directory name, which is in upper, and what is in it.
func (d *differ) directory(name string) error {
	if d.ctx.Err() != nil {
		return context.Cause(d.ctx)
	}
	entries, err := os.ReadDir(filepath.Join(d.upper, name))
	if err != nil {
		return ignoreGone(err)
	}
	for _, e := range entries {
		if err := d.entry(path.Join(name, e.Name())); err != nil {
			return err
		}
	}
	opaque, err := d.s.isOpaque(filepath.Join(d.upper, name))
	if err != nil || !opaque {
		return ignoreGone(err)
	}
	// The directory was deleted and made again: what is not in it was deleted.
	below, err := os.ReadDir(filepath.Join(d.lower, name))
	if err != nil {
		return ignoreGone(err)
	}
	for _, e := range below {
		child := path.Join(name, e.Name())
		if _, err := os.Lstat(filepath.Join(d.upper, child)); errors.Is(err, fs.ErrNotExist) {
			d.note(child, Deleted)
		}
	}
	return nil
}

func (d *differ) entry(name string) error {
	var up, low unix.Stat_t
	if err := unix.Lstat(filepath.Join(d.upper, name), &up); err != nil {
		return ignoreGone(err)
	}
	err := unix.Lstat(filepath.Join(d.lower, name), &low)
	exists := err == nil
	if err != nil && !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.ENOTDIR) {
		return err
	}
	switch {
	case isWhiteout(up):
		if exists {
			d.note(name, Deleted)
		}
		return nil
	case !exists:
		d.note(name, Added)
	case !sameFile(up, low) || d.capabilitiesDiffer(name):
		d.note(name, Modified)
	}
	if up.Mode&unix.S_IFMT == unix.S_IFDIR {
		return d.directory(name)
	}
	return nil
}

// sameFile compares by the same things as Docker: times and sizes instead of
// content, and of directories only owner and mode.
func sameFile(a, b unix.Stat_t) bool {
	if a.Mode != b.Mode || a.Uid != b.Uid || a.Gid != b.Gid || a.Rdev != b.Rdev {
		return false
	}
	return a.Mode&unix.S_IFMT == unix.S_IFDIR || a.Size == b.Size && a.Mtim == b.Mtim
}

func (d *differ) capabilitiesDiffer(name string) bool {
	get := func(root string) string {
		buf := make([]byte, 64)
		n, err := unix.Lgetxattr(filepath.Join(root, name), "security.capability", buf)
		if err != nil {
			return ""
		}
		return string(buf[:n])
	}
	return get(d.upper) != get(d.lower)
}

// ignoreGone lets pass that a running container deleted what is looked at.
func ignoreGone(err error) error {
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR) {
		return nil
	}
	return err
}
