// Package copytree copies directories with all that is in them, as they are.
package copytree

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/stack-run/stack/internal/inode"
)

// Copy copies what is in the directory src to the directory dst, which must
// exist: content, modes, owners, times, extended attributes, links hard and
// symbolic, and special files. Holes stay holes, and where the file system can
// share blocks nothing is copied at all. The root gets src's attributes too. What
// overlayfs notes for itself, and SELinux labels, which belong to the place, are
// not copied.
//
// What is at dst already is replaced, except that directories are merged. No
// link is followed on either side, so neither tree leads out of itself; dst must
// not be written to by others meanwhile.
func Copy(ctx context.Context, src *os.File, dst string) error {
	return run(ctx, src, dst, copier{})
}

// CopyLive is Copy of a tree that others may write to meanwhile: what vanishes is left
// out. What overlayfs notes is copied too, for the tree is not seen through one: it may
// be another engine's.
func CopyLive(ctx context.Context, src *os.File, dst string) error {
	return run(ctx, src, dst, copier{live: true})
}

func run(ctx context.Context, src *os.File, dst string, c copier) error {
	from, err := unix.Openat(int(src.Fd()), ".", unix.O_DIRECTORY|unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("cannot copy %s: %w", src.Name(), err)
	}
	to, err := unix.Open(dst, unix.O_DIRECTORY|unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0)
	if err != nil {
		unix.Close(from)
		return fmt.Errorf("cannot copy to %s: %w", dst, err)
	}
	defer unix.Close(to)
	c.root, c.links = to, make(map[fileID]string)
	if err := c.directory(ctx, from, to, "."); err != nil {
		return fmt.Errorf("cannot copy to %s: %w", dst, err)
	}
	return nil
}

type fileID struct{ dev, ino uint64 }

type copier struct {
	root  int               // of the destination
	links map[fileID]string // where a file with several names was copied to
	live  bool
}

// directory copies what is in from to to, both open; it closes from.
func (c *copier) directory(ctx context.Context, from, to int, name string) error {
	f := os.NewFile(uintptr(from), name)
	defer f.Close()
	entries, err := f.Readdirnames(-1)
	if err != nil {
		return err
	}
	for _, base := range entries {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		rel := path.Join(name, base)
		err := c.entry(ctx, from, to, base, rel)
		if c.live && errors.Is(err, unix.ENOENT) && gone(from, base) {
			continue
		}
		if err != nil {
			if _, isPath := errors.AsType[*os.PathError](err); isPath {
				return err
			}
			return &os.PathError{Op: "copy", Path: rel, Err: err}
		}
	}
	var st unix.Stat_t
	if err := unix.Fstat(from, &st); err != nil {
		return err
	}
	return c.copyAttributes(from, to, st)
}

// gone tells whether nothing has the name any more.
func gone(dir int, base string) bool {
	var st unix.Stat_t
	return errors.Is(unix.Fstatat(dir, base, &st, unix.AT_SYMLINK_NOFOLLOW), unix.ENOENT)
}

func (c *copier) entry(ctx context.Context, from, to int, base, rel string) error {
	var st unix.Stat_t
	if err := unix.Fstatat(from, base, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT == unix.S_IFDIR {
		return c.subdirectory(ctx, from, to, base, rel)
	}
	create := func() error { return c.file(ctx, from, to, base, rel, st) }
	if first, ok := c.links[fileID{st.Dev, st.Ino}]; ok {
		create = func() error { return unix.Linkat(c.root, first, to, base, 0) }
	}
	err := create()
	if !errors.Is(err, unix.EEXIST) {
		return err
	}
	if err := os.RemoveAll(path.Join(inode.Path(to), base)); err != nil {
		return err
	}
	return create()
}

func (c *copier) subdirectory(ctx context.Context, from, to int, base, rel string) error {
	src, err := unix.Openat(from, base, unix.O_DIRECTORY|unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	dst, err := makeDirAt(to, base)
	if err != nil {
		unix.Close(src)
		return err
	}
	defer unix.Close(dst)
	return c.directory(ctx, src, dst, rel)
}

// makeDirAt makes a directory, or opens the one that is there.
func makeDirAt(dir int, base string) (int, error) {
	for {
		err := unix.Mkdirat(dir, base, 0o700)
		if err != nil && !errors.Is(err, unix.EEXIST) {
			return -1, err
		}
		fd, err := unix.Openat(dir, base, unix.O_DIRECTORY|unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0)
		if !errors.Is(err, unix.ENOTDIR) && !errors.Is(err, unix.ELOOP) {
			return fd, err
		}
		if err := unix.Unlinkat(dir, base, 0); err != nil {
			return -1, err
		}
	}
}

// file copies anything but a directory.
func (c *copier) file(ctx context.Context, from, to int, base, rel string, st unix.Stat_t) error {
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		return c.regular(ctx, from, to, base, rel)
	case unix.S_IFLNK:
		buf := make([]byte, unix.PathMax)
		n, err := unix.Readlinkat(from, base, buf)
		if err != nil {
			return err
		}
		if err := unix.Symlinkat(string(buf[:n]), to, base); err != nil {
			return err
		}
	default:
		if err := unix.Mknodat(to, base, st.Mode, int(st.Rdev)); err != nil {
			return err
		}
	}
	if err := c.copyLinkAttributes(from, to, base, st); err != nil {
		return err
	}
	c.copied(st, rel)
	return nil
}

// copied remembers what may have further names. It is what was opened: something else
// may have had the name before.
func (c *copier) copied(st unix.Stat_t, rel string) {
	if st.Nlink > 1 {
		c.links[fileID{st.Dev, st.Ino}] = rel
	}
}

func (c *copier) regular(ctx context.Context, from, to int, base, rel string) error {
	src, err := unix.Openat(from, base, unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return err
	}
	defer unix.Close(src)
	var st unix.Stat_t
	if err := unix.Fstat(src, &st); err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return errors.New("it was replaced while it was copied")
	}
	dst, err := unix.Openat(to, base, unix.O_CREAT|unix.O_EXCL|unix.O_WRONLY|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return err
	}
	defer unix.Close(dst)
	if err := copyData(ctx, src, dst, st.Size); err != nil {
		return err
	}
	if err := c.copyAttributes(src, dst, st); err != nil {
		return err
	}
	c.copied(st, rel)
	return nil
}

// copyData copies a file's content, by sharing its blocks if possible.
func copyData(ctx context.Context, src, dst int, size int64) error {
	if size == 0 {
		return nil
	}
	if unix.IoctlFileClone(dst, src) == nil {
		return nil
	}
	for at := int64(0); at < size; {
		start, err := unix.Seek(src, at, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) {
			break // only a hole follows
		}
		end := size
		if err != nil {
			start = at // the file system does not know about holes
		} else if end, err = unix.Seek(src, start, unix.SEEK_HOLE); err != nil {
			return err
		}
		if err := copyRange(ctx, src, dst, start, end); err != nil {
			return err
		}
		at = end
	}
	return unix.Ftruncate(dst, size)
}

// copyRange copies the bytes from start to end inside the kernel:
// copy_file_range(2) where both files are on one file system, else sendfile(2).
func copyRange(ctx context.Context, src, dst int, start, end int64) error {
	const step = 64 << 20 // bytes between two looks at the context
	in, out := start, start
	for in < end {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		n, err := unix.CopyFileRange(src, &in, dst, &out, int(min(end-in, step)), 0)
		if err == nil && n > 0 {
			continue
		}
		if err == unix.EINTR {
			continue
		}
		break
	}
	if _, err := unix.Seek(dst, in, 0); err != nil {
		return err
	}
	for in < end {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		n, err := unix.Sendfile(dst, src, &in, int(min(end-in, step)))
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return err
		}
		if n == 0 {
			return nil // it became shorter while it was copied
		}
	}
	return nil
}

// copyAttributes copies owner, extended attributes, mode and times between open
// files.
func (c *copier) copyAttributes(from, to int, st unix.Stat_t) error {
	if err := unix.Fchown(to, int(st.Uid), int(st.Gid)); err != nil {
		return err
	}
	if err := c.copyXattrs(inode.Path(from), inode.Path(to)); err != nil {
		return err
	}
	if err := unix.Fchmod(to, st.Mode&0o7777); err != nil {
		return err
	}
	return unix.UtimesNanoAt(to, "", []unix.Timespec{st.Atim, st.Mtim}, unix.AT_EMPTY_PATH)
}

// copyLinkAttributes is copyAttributes for what cannot be opened otherwise. A
// container may already have the destination in use.
func (c *copier) copyLinkAttributes(from, to int, base string, st unix.Stat_t) error {
	kind := st.Mode & unix.S_IFMT
	src, err := inode.Open(from, base, kind)
	if err != nil {
		return err
	}
	defer unix.Close(src)
	dst, err := inode.Open(to, base, kind)
	if err != nil {
		return err
	}
	defer unix.Close(dst)
	if err := inode.Chown(dst, int(st.Uid), int(st.Gid)); err != nil {
		return err
	}
	if err := c.copyXattrs(inode.Path(src), inode.Path(dst)); err != nil {
		return err
	}
	if kind != unix.S_IFLNK {
		if err := inode.Chmod(dst, st.Mode&0o7777); err != nil {
			return err
		}
	}
	return inode.SetTimes(dst, []unix.Timespec{st.Atim, st.Mtim})
}

// copyXattrs copies extended attributes. Those that the destination's file
// system cannot hold are left out, capabilities excepted.
func (c *copier) copyXattrs(from, to string) error {
	size, err := unix.Listxattr(from, nil)
	if errors.Is(err, unix.EOPNOTSUPP) || err == nil && size == 0 {
		return nil
	}
	if err != nil {
		return err
	}
	names := make([]byte, size)
	if size, err = unix.Listxattr(from, names); err != nil {
		return err
	}
	for name := range strings.SplitSeq(strings.TrimRight(string(names[:size]), "\x00"), "\x00") {
		// Where overlayfs hid all of them there is one, empty name.
		if name == "" || name == "security.selinux" || !c.live && isOverlays(name) {
			continue
		}
		n, err := unix.Getxattr(from, name, nil)
		if c.live && errors.Is(err, unix.ENODATA) {
			continue
		}
		if err != nil {
			return err
		}
		value := make([]byte, n)
		if n > 0 {
			if n, err = unix.Getxattr(from, name, value); err != nil {
				return err
			}
		}
		if err := unix.Setxattr(to, name, value[:n], 0); err != nil && (!errors.Is(err, unix.EOPNOTSUPP) || name == "security.capability") {
			return fmt.Errorf("extended attribute %s: %w", name, err)
		}
	}
	return nil
}

func isOverlays(name string) bool {
	return strings.HasPrefix(name, "trusted.overlay.") || strings.HasPrefix(name, "user.overlay.")
}
