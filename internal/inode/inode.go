// Package inode changes what an open descriptor means. A path that a container,
// or anybody else without our rights, can write may lead elsewhere from one call
// to the next: so what is there is opened once, without following a link, looked
// at, and changed through the descriptor (chmod(2) follows links, and fchmodat(2)
// did not learn otherwise before Linux 6.6).
package inode

import (
	"fmt"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// Open opens name in the directory dir, whatever it is, without following a link.
// kind, of S_IFMT, is what it must be.
func Open(dir int, name string, kind uint32) (int, error) {
	fd, err := unix.Openat(dir, name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, &os.PathError{Op: "open", Path: name, Err: err}
	}
	var st unix.Stat_t
	err = unix.Fstat(fd, &st)
	if err == nil && st.Mode&unix.S_IFMT != kind {
		err = fmt.Errorf("it is %s, not %s", describe(st.Mode), describe(kind))
	}
	if err != nil {
		unix.Close(fd)
		return -1, &os.PathError{Op: "open", Path: name, Err: err}
	}
	return fd, nil
}

// OpenPlain opens an absolute path, with O_PATH, in which only the last element may
// be a link, and is not followed. Where a link is on the way, nothing is there.
func OpenPlain(name string) (int, error) {
	fd, err := unix.Openat2(unix.AT_FDCWD, name, &unix.OpenHow{
		Flags: unix.O_PATH | unix.O_NOFOLLOW | unix.O_CLOEXEC, Resolve: unix.RESOLVE_NO_SYMLINKS,
	})
	if err == unix.ELOOP {
		err = unix.ENOENT
	}
	if err != nil {
		return -1, &os.PathError{Op: "open", Path: name, Err: err}
	}
	return fd, nil
}

// Readlink tells where a link leads that is open.
func Readlink(fd int) (string, error) {
	buf := make([]byte, unix.PathMax)
	n, err := unix.Readlinkat(fd, "", buf)
	if err != nil {
		return "", os.NewSyscallError("readlinkat", err)
	}
	return string(buf[:n]), nil
}

func describe(mode uint32) string {
	switch mode & unix.S_IFMT {
	case unix.S_IFDIR:
		return "a directory"
	case unix.S_IFLNK:
		return "a symbolic link"
	case unix.S_IFREG:
		return "a file"
	case unix.S_IFIFO:
		return "a FIFO"
	case unix.S_IFSOCK:
		return "a socket"
	}
	return "a device"
}

// Chown changes the owner of a link itself, too.
func Chown(fd, uid, gid int) error { return unix.Fchownat(fd, "", uid, gid, unix.AT_EMPTY_PATH) }

// Chmod changes the mode. Links have none.
func Chmod(fd int, mode uint32) error { return unix.Chmod(Path(fd), mode) }

// SetTimes sets the times of access and modification.
func SetTimes(fd int, times []unix.Timespec) error {
	return unix.UtimesNanoAt(fd, "", times, unix.AT_EMPTY_PATH)
}

// Path leads to what the descriptor is open on, a link itself included, as long
// as it is open: for calls that take no descriptor, or none with O_PATH.
func Path(fd int) string { return "/proc/self/fd/" + strconv.Itoa(fd) }

// IsMount tells whether something is mounted on name in the directory dir. The
// kernel would let us unlink it where it is mounted in another mount namespace,
// and take the mount away.
func IsMount(dir int, name string) bool {
	var parent, child unix.Statx_t
	return unix.Statx(dir, "", unix.AT_EMPTY_PATH, unix.STATX_MNT_ID, &parent) == nil &&
		unix.Statx(dir, name, unix.AT_SYMLINK_NOFOLLOW, unix.STATX_MNT_ID, &child) == nil && child.Mnt_id != parent.Mnt_id
}
