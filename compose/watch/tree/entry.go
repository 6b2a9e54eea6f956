package tree

import (
	"crypto/sha256"
	"io"
	"os"

	"golang.org/x/sys/unix"

	"github.com/stack-run/stack/internal/inode"
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

// look tells what is at a path, in which a link that is not the last element leads
// nowhere: what it leads to has a path of its own.
func look(name string) (stat, error) {
	fd, err := inode.OpenPlain(name)
	if err != nil {
		return stat{}, err
	}
	defer unix.Close(fd)
	return lookAt(fd)
}

func lookAt(fd int) (stat, error) {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return stat{}, err
	}
	return stat{Mode: st.Mode, Size: st.Size, Mtime: st.Mtim, Ctime: st.Ctim, Ino: st.Ino}, nil
}

// sum is that of a file's content or of where a link leads; nil for what cannot be
// read or has no content.
func sum(name string) *[sha256.Size]byte {
	var out [sha256.Size]byte
	fd, err := inode.OpenPlain(name)
	if err != nil {
		return nil
	}
	defer unix.Close(fd)
	st, err := lookAt(fd)
	if err != nil {
		return nil
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFLNK:
		to, err := inode.Readlink(fd)
		if err != nil {
			return nil
		}
		out = sha256.Sum256([]byte(to))
		return &out
	case unix.S_IFREG:
	default:
		return nil
	}
	f, err := os.Open(inode.Path(fd))
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
