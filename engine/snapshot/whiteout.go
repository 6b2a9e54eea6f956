package snapshot

import (
	"errors"

	"golang.org/x/sys/unix"
)

// Names in a layer's archive that say what is not there any more (image-spec,
// layer.md, "Whiteouts"). Other names that start with reservedPrefix are aufs'
// own and mean nothing here.
const (
	whiteoutPrefix = ".wh."
	reservedPrefix = ".wh..wh."
	opaqueName     = ".wh..wh..opq"
)

// whiteout carries out the whiteout base. It says something about lower layers
// only: what this layer puts there stays, wherever in the archive it comes.
func (u *unpacker) whiteout(parent int, base string) error {
	if base == opaqueName {
		return u.makeOpaque(parent)
	}
	name := base[len(whiteoutPrefix):]
	switch {
	case len(base) >= len(reservedPrefix) && base[:len(reservedPrefix)] == reservedPrefix:
		return nil
	case name == "" || name == "." || name == "..":
		return errors.New("a whiteout needs the name of a file")
	}
	err := unix.Mknodat(parent, name, unix.S_IFCHR, 0)
	if !errors.Is(err, unix.EEXIST) {
		return err
	}
	var st unix.Stat_t
	if err := unix.Fstatat(parent, name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT == unix.S_IFDIR {
		return u.makeOpaqueAt(parent, name)
	}
	return nil // it hides what is below already
}

func (u *unpacker) makeOpaqueAt(parent int, name string) error {
	fd, err := unix.Openat(parent, name, unix.O_DIRECTORY|unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return u.makeOpaque(fd)
}

// makeOpaque hides what lower layers have in the directory fd.
func (u *unpacker) makeOpaque(fd int) error {
	return unix.Fsetxattr(fd, u.xattr+"opaque", []byte("y"), 0)
}

// isWhiteout tells whether st is overlayfs' mark of a deleted file.
func isWhiteout(st unix.Stat_t) bool {
	return st.Mode&unix.S_IFMT == unix.S_IFCHR && st.Rdev == 0
}

func isWhiteoutAt(dir int, name string) (bool, error) {
	var st unix.Stat_t
	err := unix.Fstatat(dir, name, &st, unix.AT_SYMLINK_NOFOLLOW)
	return err == nil && isWhiteout(st), err
}
