package snapshot

import (
	"archive/tar"
	"errors"
	"fmt"
	"os"
	"path"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/stack-run/stack/internal/inode"
)

const (
	// maxLinks is how many links a path may contain, as in the kernel.
	maxLinks = 40
	// maxPath is the length of a path that the kernel takes (PATH_MAX without the
	// final zero). Nobody could name what lies deeper.
	maxPath = unix.PathMax - 1
	// maxSteps is how many names a path may have with those of the links in it: twice
	// what fits into a path without any.
	maxSteps = unix.PathMax
)

func (u *unpacker) forgetParent() {
	if u.parent.fd >= 0 {
		unix.Close(u.parent.fd)
	}
	u.parent = parentDir{fd: -1}
}

// openParent returns the directory dir, which stays open until the next call.
func (u *unpacker) openParent(dir string) (int, error) {
	if u.parent.fd >= 0 && u.parent.name == dir {
		return u.parent.fd, nil
	}
	u.forgetParent()
	fd, real, err := u.walk(dir)
	if err != nil {
		return -1, err
	}
	u.parent = parentDir{name: dir, real: real, fd: fd}
	return fd, nil
}

// openDir opens a directory that must exist.
func (u *unpacker) openDir(dir string) (int, error) {
	return unix.Openat2(u.root, dir, &unix.OpenHow{
		Flags:   unix.O_DIRECTORY | unix.O_PATH | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS,
	})
}

// walk opens the directory dir and returns its path without links. What is
// missing on the way is made; this includes where a dangling link points to,
// because that may well exist in a lower layer.
func (u *unpacker) walk(dir string) (fd int, real string, err error) {
	todo := strings.Split(dir, "/")
	var at []string // real path so far
	length := 0     // of at, with a slash for each name
	if fd, err = u.dup(); err != nil {
		return -1, "", err
	}
	for links, steps := 0, 0; len(todo) > 0; {
		name := todo[0]
		todo = todo[1:]
		if steps++; steps > maxSteps {
			unix.Close(fd)
			return -1, "", fmt.Errorf("directory %q leads through more than %d names", dir, maxSteps)
		}
		var next int
		var target string
		switch name {
		case "", ".":
			continue
		case "..":
			if len(at) > 0 {
				length -= len(at[len(at)-1]) + 1
				at = at[:len(at)-1]
			}
			next, err = u.openReal(strings.Join(at, "/"))
		default:
			at = append(at, name)
			if length += len(name) + 1; length > maxPath {
				unix.Close(fd)
				return -1, "", fmt.Errorf("directory %q: %w", dir, unix.ENAMETOOLONG)
			}
			if next, target, err = u.step(fd, name, at); target != "" {
				length -= len(name) + 1
				at = at[:len(at)-1]
			}
		}
		if err != nil {
			unix.Close(fd)
			return -1, "", err
		}
		if target != "" {
			if links++; links > maxLinks {
				unix.Close(fd)
				return -1, "", fmt.Errorf("directory %q: %w", dir, unix.ELOOP)
			}
			todo = append(strings.Split(target, "/"), todo...)
			if !strings.HasPrefix(target, "/") {
				continue
			}
			at, length = nil, 0
			if next, err = u.dup(); err != nil {
				unix.Close(fd)
				return -1, "", err
			}
		}
		unix.Close(fd)
		fd = next
	}
	if len(at) == 0 {
		return fd, ".", nil
	}
	return fd, path.Join(at...), nil
}

// step opens the directory name in fd, making it if it is missing, or returns
// where the link name points to. at is its path without links.
func (u *unpacker) step(fd int, name string, at []string) (next int, target string, err error) {
	for {
		next, err = unix.Openat(fd, name, unix.O_DIRECTORY|unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0)
		if err == nil {
			return next, "", nil
		}
		if errors.Is(err, unix.ENOENT) {
			if err := u.imply(fd, name, strings.Join(at, "/")); err != nil {
				return -1, "", err
			}
			continue
		}
		if !errors.Is(err, unix.ENOTDIR) && !errors.Is(err, unix.ELOOP) {
			return -1, "", err
		}
		buf := make([]byte, unix.PathMax)
		n, linkErr := unix.Readlinkat(fd, name, buf)
		if linkErr == nil {
			return -1, string(buf[:n]), nil
		}
		white, statErr := isWhiteoutAt(fd, name)
		if statErr != nil || !white || u.plain {
			return -1, "", fmt.Errorf("%q is not a directory", strings.Join(at, "/"))
		}
		// The lower one was deleted, and this is a new directory.
		if err := unix.Unlinkat(fd, name, 0); err != nil {
			return -1, "", err
		}
		real := strings.Join(at, "/")
		if err := u.imply(fd, name, real); err != nil {
			return -1, "", err
		}
		delete(u.implied, real) // nothing below shows
		if err := u.makeOpaqueAt(fd, name); err != nil {
			return -1, "", err
		}
	}
}

// imply makes a directory that the archive has no entry for, at least not yet.
func (u *unpacker) imply(fd int, name, real string) error {
	u.made++
	if err := u.limits.checkEntries(u.info.Entries + u.made); err != nil {
		return err
	}
	if err := u.remember(real); err != nil {
		return err
	}
	if err := unix.Mkdirat(fd, name, 0o755); err != nil {
		return err
	}
	made, err := inode.Open(fd, name, unix.S_IFDIR)
	if err != nil {
		return err
	}
	defer unix.Close(made)
	// Neither the umask nor a set-group-ID parent decides.
	if err := inode.Chmod(made, 0o755); err != nil {
		return err
	}
	if err := inode.Chown(made, os.Geteuid(), os.Getegid()); err != nil {
		return err
	}
	u.info.Disk += blockSize
	u.implied[real] = true
	return nil
}

func (u *unpacker) dup() (int, error) { return u.openReal(".") }

// openReal opens a directory by its path without links.
func (u *unpacker) openReal(real string) (int, error) {
	if real == "" {
		real = "."
	}
	return unix.Openat2(u.root, real, &unix.OpenHow{
		Flags:   unix.O_DIRECTORY | unix.O_RDONLY | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS,
	})
}

// makeRoom prepares for h where something with its name is already: as in
// Docker, a directory over a directory changes its attributes, and anything else
// takes the place of what is there. Unless it returns nil, errDirectoryStays or
// errSameFile, it failed.
func (u *unpacker) makeRoom(parent int, base string, h *tar.Header) error {
	var st unix.Stat_t
	if err := unix.Fstatat(parent, base, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return err
	}
	if h.Typeflag == tar.TypeLink {
		same, err := u.sameFile(h.Linkname, st)
		if err != nil {
			return err
		}
		if same {
			return errSameFile
		}
	}
	if st.Mode&unix.S_IFMT == unix.S_IFDIR {
		if h.Typeflag == tar.TypeDir {
			return errDirectoryStays
		}
		u.replaced = true
		return removeTreeAt(parent, base)
	}
	if err := unix.Unlinkat(parent, base, 0); err != nil {
		return err
	}
	if h.Typeflag == tar.TypeDir && isWhiteout(st) && !u.plain {
		if err := unix.Mkdirat(parent, base, 0o700); err != nil {
			return err
		}
		if err := u.makeOpaqueAt(parent, base); err != nil {
			return err
		}
		return errDirectoryStays
	}
	return nil
}

var (
	// errDirectoryStays says that only the attributes are to be set.
	errDirectoryStays = errors.New("directory stays")
	// errSameFile says that a hard link is there already.
	errSameFile = errors.New("same file")
)

// sameFile tells whether the name target leads to the file st.
func (u *unpacker) sameFile(target string, st unix.Stat_t) (bool, error) {
	name, err := localName(target)
	if err != nil {
		return false, err
	}
	dir, file := path.Split(name)
	fd, err := u.openDir(path.Clean(dir))
	if errors.Is(err, unix.ENOENT) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer unix.Close(fd)
	var other unix.Stat_t
	err = unix.Fstatat(fd, file, &other, unix.AT_SYMLINK_NOFOLLOW)
	if errors.Is(err, unix.ENOENT) {
		return false, nil
	}
	return err == nil && other.Dev == st.Dev && other.Ino == st.Ino, err
}
