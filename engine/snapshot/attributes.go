package snapshot

import (
	"archive/tar"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/stack-run/stack/internal/inode"
)

// xattrRecord starts the PAX records that hold extended attributes (star(1),
// also written by GNU tar, bsdtar and Docker).
const xattrRecord = "SCHILY.xattr."

// setAttributes gives an open file or directory its owner, extended attributes
// and mode. The order matters: changing the owner clears set-user-ID and
// capabilities (chown(2)).
func (u *unpacker) setAttributes(fd int, h *tar.Header) error {
	if err := unix.Fchown(fd, h.Uid, h.Gid); err != nil {
		return ownerError(h, err)
	}
	err := eachXattr(h, func(name string, value []byte) error {
		return unix.Fsetxattr(fd, name, value, 0)
	})
	if err != nil {
		return err
	}
	mode := uint32(h.Mode & 0o7777)
	if h.Typeflag == tar.TypeDir && u.deferModes() {
		mode |= 0o700
	}
	return unix.Fchmod(fd, mode)
}

// deferModes tells whether a directory's mode could keep us out of it.
func (u *unpacker) deferModes() bool { return os.Geteuid() != 0 }

// setLinkAttributes is setAttributes, with the time, for what cannot be opened:
// links and devices. kind, of S_IFMT, is what it is.
func (u *unpacker) setLinkAttributes(parent int, base string, kind uint32, h *tar.Header) error {
	fd, err := inode.Open(parent, base, kind)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := inode.Chown(fd, h.Uid, h.Gid); err != nil {
		return ownerError(h, err)
	}
	err = eachXattr(h, func(name string, value []byte) error {
		return unix.Setxattr(inode.Path(fd), name, value, 0)
	})
	if err != nil {
		return err
	}
	if h.Typeflag != tar.TypeSymlink {
		if err := inode.Chmod(fd, uint32(h.Mode&0o7777)); err != nil {
			return err
		}
	}
	return inode.SetTimes(fd, times(h.ModTime))
}

func ownerError(h *tar.Header, err error) error {
	if errors.Is(err, unix.EPERM) || errors.Is(err, unix.EINVAL) {
		return fmt.Errorf("cannot give it to user %d and group %d: %w; the IDs must be mapped where stack does not run as root", h.Uid, h.Gid, err)
	}
	return err
}

// eachXattr calls set for each extended attribute of an entry. overlayfs' own
// are left out: inside a container nobody sees them, and in a layer they would
// direct overlayfs. Attributes that the file system cannot hold are left out as
// Docker leaves them out, except capabilities, without which programs fail.
func eachXattr(h *tar.Header, set func(name string, value []byte) error) error {
	if len(h.PAXRecords) == 0 {
		return nil
	}
	for _, key := range slices.Sorted(maps.Keys(h.PAXRecords)) {
		name, ok := strings.CutPrefix(key, xattrRecord)
		if !ok || strings.HasPrefix(name, "trusted.overlay.") || strings.HasPrefix(name, "user.overlay.") {
			continue
		}
		err := set(name, []byte(h.PAXRecords[key]))
		if err == nil || errors.Is(err, unix.EOPNOTSUPP) && name != "security.capability" {
			continue
		}
		// user attributes exist on files and directories only (xattr(7)).
		if errors.Is(err, unix.EPERM) && strings.HasPrefix(name, "user.") && h.Typeflag != tar.TypeReg && h.Typeflag != tar.TypeDir {
			continue
		}
		return fmt.Errorf("cannot set extended attribute %s: %w", name, err)
	}
	return nil
}

func times(t time.Time) []unix.Timespec {
	ts := unix.NsecToTimespec(t.UnixNano())
	if t.IsZero() {
		ts = unix.Timespec{}
	}
	return []unix.Timespec{ts, ts}
}

// procPath is a path to an open file.
func procPath(fd int) string { return "/proc/self/fd/" + strconv.Itoa(fd) }
