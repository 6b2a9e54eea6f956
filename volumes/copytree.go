package volumes

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// CopyTree copies the content of the directory src into the existing directory
// dst with owners, modes, times, extended attributes, hard links, symbolic
// links and devices, and gives dst the owner and mode of src. What is of the
// same name in dst is replaced, so that a copy that was interrupted can be done
// again; what is of another name stays.
func CopyTree(ctx context.Context, src *os.File, dst string) error {
	to, err := os.OpenFile(dst, os.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	defer to.Close()
	c := copier{ctx: ctx, links: map[inode]link{}}
	defer c.close()
	return c.directory(src, to, ".")
}

type inode struct{ dev, ino uint64 }

// link is where the first name of a file with several was copied to.
type link struct {
	dir  *os.File // duplicate, closed at the end
	name string
}

// copier works relative to directory descriptors and never follows a symbolic
// link of either side.
type copier struct {
	ctx   context.Context
	links map[inode]link
}

func (c *copier) close() {
	for _, l := range c.links {
		l.dir.Close()
	}
}

func (c *copier) directory(src, dst *os.File, path string) error {
	// A new description: the caller's offset does not matter and stays.
	fd, err := unix.Openat(int(src.Fd()), ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return &fs.PathError{Op: "open", Path: path, Err: err}
	}
	from := os.NewFile(uintptr(fd), path)
	defer from.Close()
	for {
		names, err := from.Readdirnames(256)
		for _, name := range names {
			if err := c.entry(from, dst, name, filepath.Join(path, name)); err != nil {
				return err
			}
		}
		if errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return err
		}
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return &fs.PathError{Op: "stat", Path: path, Err: err}
	}
	return describe(from, dst, &st, path)
}

func (c *copier) entry(src, dst *os.File, name, path string) error {
	if err := c.ctx.Err(); err != nil {
		return err
	}
	in, out := int(src.Fd()), int(dst.Fd())
	var st unix.Stat_t
	if err := unix.Fstatat(in, name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return &fs.PathError{Op: "stat", Path: path, Err: err}
	}
	kind := st.Mode & unix.S_IFMT
	if err := clearPlace(out, name, kind == unix.S_IFDIR); err != nil {
		return &fs.PathError{Op: "replace", Path: path, Err: err}
	}
	id := inode{st.Dev, st.Ino}
	if first, ok := c.links[id]; ok && kind != unix.S_IFDIR {
		if err := unix.Linkat(int(first.dir.Fd()), first.name, out, name, 0); err != nil {
			return &fs.PathError{Op: "link", Path: path, Err: err}
		}
		return nil
	}
	var err error
	switch kind {
	case unix.S_IFDIR:
		err = c.subdirectory(src, dst, name, path)
	case unix.S_IFREG:
		err = c.file(src, dst, name, path, &st)
	case unix.S_IFLNK:
		err = symlink(in, out, name, &st)
	default: // device, FIFO, socket
		err = node(in, out, name, &st)
	}
	if err != nil {
		var located *fs.PathError
		if !errors.As(err, &located) {
			err = &fs.PathError{Op: "copy", Path: path, Err: err}
		}
		return err
	}
	if st.Nlink > 1 && kind != unix.S_IFDIR {
		dup, err := unix.FcntlInt(dst.Fd(), unix.F_DUPFD_CLOEXEC, 0)
		if err != nil {
			return os.NewSyscallError("fcntl", err)
		}
		c.links[id] = link{dir: os.NewFile(uintptr(dup), dst.Name()), name: name}
	}
	return nil
}

// clearPlace removes what is at name, unless both it and what comes are
// directories.
func clearPlace(dir int, name string, comesDir bool) error {
	var st unix.Stat_t
	if err := unix.Fstatat(dir, name, &st, unix.AT_SYMLINK_NOFOLLOW); errors.Is(err, unix.ENOENT) {
		return nil
	} else if err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT == unix.S_IFDIR {
		if comesDir {
			return nil
		}
		return unix.Unlinkat(dir, name, unix.AT_REMOVEDIR)
	}
	return unix.Unlinkat(dir, name, 0)
}

func (c *copier) subdirectory(src, dst *os.File, name, path string) error {
	const flags = unix.O_RDONLY | unix.O_DIRECTORY | unix.O_NOFOLLOW | unix.O_CLOEXEC
	in, err := unix.Openat(int(src.Fd()), name, flags, 0)
	if err != nil {
		return err
	}
	from := os.NewFile(uintptr(in), path)
	defer from.Close()
	if err := unix.Mkdirat(int(dst.Fd()), name, 0o700); err != nil && !errors.Is(err, unix.EEXIST) {
		return err
	}
	out, err := unix.Openat(int(dst.Fd()), name, flags, 0)
	if err != nil {
		return err
	}
	to := os.NewFile(uintptr(out), path)
	defer to.Close()
	return c.directory(from, to, path)
}

func (c *copier) file(src, dst *os.File, name, path string, st *unix.Stat_t) error {
	in, err := unix.Openat(int(src.Fd()), name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	from := os.NewFile(uintptr(in), path)
	defer from.Close()
	out, err := unix.Openat(int(dst.Fd()), name, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return err
	}
	to := os.NewFile(uintptr(out), path)
	defer to.Close()
	// A reflink where the filesystem can, else io.Copy, which is
	// copy_file_range(2).
	if unix.IoctlFileClone(out, in) != nil {
		if _, err := io.Copy(to, contextReader{c.ctx, from}); err != nil {
			return err
		}
	}
	return describe(from, to, st, path)
}

func symlink(in, out int, name string, st *unix.Stat_t) error {
	buf := make([]byte, unix.PathMax)
	n, err := unix.Readlinkat(in, name, buf)
	if err != nil {
		return err
	}
	if err := unix.Symlinkat(string(buf[:n]), out, name); err != nil {
		return err
	}
	return ownTimes(out, name, st)
}

func node(in, out int, name string, st *unix.Stat_t) error {
	if err := unix.Mknodat(out, name, st.Mode, int(st.Rdev)); err != nil {
		return err
	}
	if err := ownTimes(out, name, st); err != nil {
		return err
	}
	return unix.Fchmodat(out, name, st.Mode&0o7777, 0) // not a link: just made
}

func ownTimes(dir int, name string, st *unix.Stat_t) error {
	if err := unix.Fchownat(dir, name, int(st.Uid), int(st.Gid), unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return err
	}
	return unix.UtimesNanoAt(dir, name, []unix.Timespec{st.Atim, st.Mtim}, unix.AT_SYMLINK_NOFOLLOW)
}

// describe gives dst what st and the extended attributes of src say. The mode
// is set after the owner, because chown(2) clears set-user-ID.
func describe(src, dst *os.File, st *unix.Stat_t, path string) error {
	out := int(dst.Fd())
	err := unix.Fchown(out, int(st.Uid), int(st.Gid))
	if err == nil {
		err = unix.Fchmod(out, st.Mode&0o7777)
	}
	if err == nil {
		err = copyXattrs(int(src.Fd()), out)
	}
	if err == nil {
		err = unix.UtimesNanoAt(out, "", []unix.Timespec{st.Atim, st.Mtim}, unix.AT_EMPTY_PATH)
	}
	if err != nil {
		return &fs.PathError{Op: "copy attributes of", Path: path, Err: err}
	}
	return nil
}

// copyXattrs copies what is the file's own: not overlayfs' notes, and not the
// SELinux label, which belongs to the place.
func copyXattrs(src, dst int) error {
	size, err := unix.Flistxattr(src, nil)
	if errors.Is(err, unix.ENOTSUP) || size == 0 {
		return nil
	} else if err != nil {
		return err
	}
	list := make([]byte, size)
	if size, err = unix.Flistxattr(src, list); err != nil {
		return err
	}
	for name := range strings.SplitSeq(string(list[:size]), "\x00") {
		if name == "" || name == "security.selinux" || strings.HasPrefix(name, "trusted.overlay.") || strings.HasPrefix(name, "user.overlay.") {
			continue
		}
		n, err := unix.Fgetxattr(src, name, nil)
		if err != nil {
			return err
		}
		value := make([]byte, n)
		if n > 0 {
			if n, err = unix.Fgetxattr(src, name, value); err != nil {
				return err
			}
		}
		if err := unix.Fsetxattr(dst, name, value[:n], 0); err != nil && !errors.Is(err, unix.ENOTSUP) {
			return err
		}
	}
	return nil
}

// contextReader ends a long copy when the caller gives up. It hides nothing
// else of the file, so that a short copy stays in the kernel.
type contextReader struct {
	ctx context.Context
	*os.File
}

func (r contextReader) WriteTo(w io.Writer) (int64, error) {
	const step = 64 << 20 // bytes between two looks at the context
	var total int64
	for {
		if err := r.ctx.Err(); err != nil {
			return total, err
		}
		n, err := io.CopyN(w, r.File, step)
		total += n
		if errors.Is(err, io.EOF) {
			return total, nil
		} else if err != nil {
			return total, err
		}
	}
}
