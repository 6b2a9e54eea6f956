package tree

import (
	"crypto/sha256"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// stat is what tells a path from what it was. The time of the last access is no
// part of it, and a change of any other puts the time of the last status change
// on, which nobody can set back.
type stat struct {
	Mode         uint32
	Size         int64
	Mtime, Ctime unix.Timespec
	Ino          uint64
}

// entry is what is known of a path.
type entry struct {
	stat
	sum *[sha256.Size]byte // nil: not read
}

func (e entry) dir() bool { return e.Mode&unix.S_IFMT == unix.S_IFDIR }

func look(name string) (stat, error) {
	var st unix.Stat_t
	if err := unix.Lstat(name, &st); err != nil {
		return stat{}, err
	}
	return stat{Mode: st.Mode, Size: st.Size, Mtime: st.Mtim, Ctime: st.Ctim, Ino: st.Ino}, nil
}

// sum is that of a file's content or of where a link leads; nil for what cannot be
// read or has no content.
func sum(name string) *[sha256.Size]byte {
	var out [sha256.Size]byte
	st, err := look(name)
	if err != nil {
		return nil
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFLNK:
		to, err := os.Readlink(name)
		if err != nil {
			return nil
		}
		out = sha256.Sum256([]byte(to))
		return &out
	case unix.S_IFREG:
	default:
		return nil
	}
	f, err := os.OpenFile(name, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return nil
	}
	h.Sum(out[:0])
	return &out
}
