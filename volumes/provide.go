package volumes

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// copyUp says which directory of the container's root a fresh volume is filled
// from.
type copyUp struct {
	root   *os.File
	target string
	off    bool
}

// open returns the directory to copy from, nil if there is none.
func (c copyUp) open() (*os.File, error) {
	if c.off || c.root == nil {
		return nil, nil
	}
	fd, err := openat2(c.root, c.target, unix.O_RDONLY|unix.O_DIRECTORY)
	switch {
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENOTDIR), errors.Is(err, unix.ELOOP):
		return nil, nil
	case err != nil:
		return nil, &fs.PathError{Op: "open", Path: c.target, Err: err}
	}
	return os.NewFile(uintptr(fd), c.target), nil
}

// provide returns a detached mount of a volume's content, after it has filled a
// fresh volume from the image.
func (s *Store) provide(ctx context.Context, v Volume, opts driverOpts, from copyUp) (mount *os.File, err error) {
	image, err := from.open()
	if err != nil {
		return nil, err
	}
	if image != nil {
		defer image.Close()
	}
	pinned := !opts.empty() && !opts.perUse()
	take := s.useVolume
	if pinned || image != nil && !v.Seeded {
		take = s.lockVolume
	}
	v, unlock, err := take(ctx, v.Name)
	if err != nil {
		return nil, err
	}
	defer unlock()
	if mount, err = s.mount(ctx, v, opts); err != nil {
		return nil, err
	}
	switch {
	case image == nil:
	case pinned:
		err = s.seedPinned(ctx, v, image, mount)
	case !v.Seeded:
		err = s.seed(ctx, v, image, mount)
	}
	if err != nil {
		mount.Close()
		return nil, fmt.Errorf("cannot copy the image's content into it: %w", err)
	}
	return mount, nil
}

// mount returns a detached mount of a volume's content.
func (s *Store) mount(ctx context.Context, v Volume, opts driverOpts) (*os.File, error) {
	switch {
	case opts.empty():
		return cloneTree(nil, v.Mountpoint, true)
	case opts.bind:
		mount, err := cloneTree(nil, opts.fs.source, opts.recursive)
		if errors.Is(err, fs.ErrNotExist) {
			return nil, &mountError{text: fmt.Sprintf("driver_opts.device %q does not exist; create the directory", opts.fs.source), cause: err}
		}
		return mount, err
	case opts.perUse():
		if err := opts.resolveHost(ctx); err != nil {
			return nil, err
		}
		return opts.fs.mount()
	}
	path := s.pinPath(v.Name)
	pinned, err := isMountRoot(path)
	if err != nil {
		return nil, err
	}
	if !pinned {
		if err := s.pin(path, opts.fs); err != nil {
			return nil, err
		}
	}
	return cloneTree(nil, path, true)
}

// seed fills a fresh, empty volume. The record says so before the first file is
// written and again when all have reached the disk, so that a copy that was
// interrupted is done again. The volume is locked.
func (s *Store) seed(ctx context.Context, v Volume, image, mount *os.File) error {
	if !v.Seeding {
		if empty, err := isEmpty(mount); err != nil || !empty {
			return err
		}
		// Giving the directory its owner and mode can be repeated as it is.
		bare, err := isEmpty(image)
		if err != nil {
			return err
		}
		if !bare {
			v.Seeding = true
			if err := writeRecord(s.dir(v.Name), v); err != nil {
				return err
			}
		}
	}
	if err := s.opts.CopyUp(ctx, image, mountPath(mount)); err != nil {
		return err
	}
	if v.Seeding {
		f, err := os.Open(mountPath(mount))
		if err != nil {
			return err
		}
		err = unix.Syncfs(int(f.Fd()))
		f.Close()
		if err != nil {
			return os.NewSyscallError("syncfs", err)
		}
	}
	v.Seeding, v.Seeded = false, true
	return writeRecord(s.dir(v.Name), v)
}

// seedPinned fills a volume that begins empty each time it is mounted, whose
// state therefore is kept beside the mount. The volume is locked.
func (s *Store) seedPinned(ctx context.Context, v Volume, image, mount *os.File) error {
	mark := s.pinPath(v.Name) + ",seeding" // no volume's name has a comma
	_, err := os.Lstat(mark)
	if errors.Is(err, fs.ErrNotExist) {
		empty, err := isEmpty(mount)
		if err != nil || !empty {
			return err
		}
		if err := os.WriteFile(mark, nil, 0o600); err != nil {
			return err
		}
	} else if err != nil {
		return err
	}
	if err := s.opts.CopyUp(ctx, image, mountPath(mount)); err != nil {
		return err
	}
	return os.Remove(mark)
}

// mountPath is a path to the root of a detached mount, for this process.
func mountPath(mount *os.File) string { return fmt.Sprintf("/proc/self/fd/%d/.", mount.Fd()) }

// isEmpty says that a directory has no entries but the one a fresh ext4 has.
func isEmpty(dir *os.File) (bool, error) {
	fd, err := unix.Openat(int(dir.Fd()), ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return false, &fs.PathError{Op: "open", Path: dir.Name(), Err: err}
	}
	f := os.NewFile(uintptr(fd), dir.Name())
	defer f.Close()
	names, err := f.Readdirnames(2)
	if err != nil && !errors.Is(err, io.EOF) {
		return false, err
	}
	return len(names) == 0 || len(names) == 1 && names[0] == "lost+found", nil
}

// resolveHost gives a network filesystem its server's address, which the kernel
// wants as a number: that of addr=, or of the host that device names.
func (o *driverOpts) resolveHost(ctx context.Context) error {
	host := o.host
	if host == "" {
		switch {
		case strings.HasPrefix(o.fs.kind, "nfs"):
			host, _, _ = strings.Cut(o.fs.source, ":/")
		case o.fs.kind == "cifs":
			host, _, _ = strings.Cut(strings.TrimPrefix(o.fs.source, "//"), "/")
		}
	}
	host = strings.Trim(host, "[]")
	if host == "" {
		return nil
	}
	addrs, err := net.DefaultResolver.LookupIPAddr(ctx, host)
	if err != nil {
		return fmt.Errorf("cannot find the server %q: %w", host, err)
	}
	o.fs.data = append(o.fs.data, "addr="+addrs[0].String())
	return nil
}

// A volume whose content lives in its mount (tmpfs, overlay) is mounted once
// for all its users, at RunRoot/volumes/NAME, until Release or Remove.

func (s *Store) pinRoot() string            { return filepath.Join(s.opts.RunRoot, "volumes") }
func (s *Store) pinPath(name string) string { return filepath.Join(s.pinRoot(), name) }

func (s *Store) pin(path string, fs filesystem) error {
	mount, err := fs.mount()
	if err != nil {
		return err
	}
	defer mount.Close()
	if err := os.MkdirAll(path, 0o700); err != nil {
		return err
	}
	// A mark without a mount is of a mount that is gone.
	if err := os.Remove(path + ",seeding"); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	err = unix.MoveMount(int(mount.Fd()), "", unix.AT_FDCWD, path, unix.MOVE_MOUNT_F_EMPTY_PATH)
	return os.NewSyscallError("move_mount", err)
}

func (s *Store) unpin(name string) error {
	path := s.pinPath(name)
	for {
		pinned, err := isMountRoot(path)
		if err != nil {
			return err
		}
		if !pinned {
			break
		}
		if err := unix.Unmount(path, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil {
			return fmt.Errorf("cannot unmount volume %q: %w", name, err)
		}
	}
	for _, p := range []string{path, path + ",seeding"} {
		if err := os.Remove(p); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("cannot release volume %q: %w", name, err)
		}
	}
	return nil
}

// Release unmounts what was mounted for volumes that nobody uses any more. To
// be called after containers ended; it costs one system call if no volume with
// a filesystem of its own is there.
func (s *Store) Release(ctx context.Context, inUse func(name string) bool) error {
	entries, err := os.ReadDir(s.pinRoot())
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	} else if err != nil {
		return fmt.Errorf("cannot list mounted volumes: %w", err)
	}
	var errs []error
	for _, e := range entries {
		name := e.Name()
		if !e.IsDir() || inUse(name) {
			continue
		}
		_, unlock, err := s.lockVolume(ctx, name)
		if err != nil && !isNotFound(err) && !isBroken(err) {
			errs = append(errs, err)
			continue
		}
		// Somebody may have begun to use it before the lock was had.
		if !inUse(name) {
			errs = append(errs, s.unpin(name))
		}
		if unlock != nil {
			unlock()
		}
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	// Leaves nothing in the run directory; fails if something is in use.
	if err := os.Remove(s.pinRoot()); err != nil && !errors.Is(err, unix.ENOTEMPTY) && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// isMountRoot says that something is mounted at path.
func isMountRoot(path string) (bool, error) {
	var st unix.Statx_t
	err := unix.Statx(unix.AT_FDCWD, path, unix.AT_SYMLINK_NOFOLLOW, 0, &st)
	if errors.Is(err, unix.ENOENT) {
		return false, nil
	} else if err != nil {
		return false, &fs.PathError{Op: "statx", Path: path, Err: err}
	}
	return st.Attributes&unix.STATX_ATTR_MOUNT_ROOT != 0, nil
}
