package volumes

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"

	"github.com/stack-run/stack/volumes/copytree"
)

// Content is a volume's content, for reading.
type Content struct {
	Volume Volume
	// Dir is a mount of it, open with O_PATH.
	Dir   *os.File
	store *Store
	id    unix.Stat_t // of the volume's directory
}

// Content mounts a volume's content, also that of driver_opts. No lock is held: nobody
// who starts, fills or removes has to wait for who reads. See [Content.Intact].
func (s *Store) Content(ctx context.Context, name string) (*Content, error) {
	v, unlock, err := s.useVolume(ctx, name)
	if err != nil {
		return nil, err
	}
	defer unlock()
	c := &Content{Volume: v, store: s}
	opts, err := parseDriverOpts(v.DriverOpts)
	if err != nil {
		return nil, fmt.Errorf("cannot read volume %q: %w", name, err)
	}
	if !opts.empty() && !opts.perUse() {
		mounted, err := isMountRoot(s.pinPath(name))
		if err != nil {
			return nil, err
		}
		if !mounted {
			return nil, fmt.Errorf("cannot read volume %q: a %s has content only while a container that uses it runs, and none does", name, opts.fs.kind)
		}
	}
	if err := unix.Lstat(s.dir(name), &c.id); err != nil {
		return nil, &fs.PathError{Op: "lstat", Path: s.dir(name), Err: err}
	}
	if c.Dir, err = s.mount(ctx, v, opts); err != nil {
		return nil, fmt.Errorf("cannot mount volume %q: %w", name, err)
	}
	return c, nil
}

// Intact tells whether all that was read was there to the end: neither was the volume
// removed meanwhile nor its content replaced.
func (c *Content) Intact() error {
	var now unix.Stat_t
	err := unix.Lstat(c.store.dir(c.Volume.Name), &now)
	if err != nil && !errors.Is(err, unix.ENOENT) {
		return &fs.PathError{Op: "lstat", Path: c.store.dir(c.Volume.Name), Err: err}
	}
	if err != nil || now.Dev != c.id.Dev || now.Ino != c.id.Ino {
		return fmt.Errorf("volume %q was removed, renamed or filled anew while it was read; do it again", c.Volume.Name)
	}
	return nil
}

// Close unmounts it.
func (c *Content) Close() error { return c.Dir.Close() }

// CopyTo copies it into the empty directory dir. Others may write to it meanwhile; see
// Intact.
func (c *Content) CopyTo(ctx context.Context, dir string) error {
	src, err := os.Open(mountPath(c.Dir))
	if err != nil {
		return err
	}
	defer src.Close()
	return copytree.CopyLive(ctx, src, dir)
}
