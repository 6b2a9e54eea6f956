package engine

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path"

	"golang.org/x/sys/unix"

	"github.com/stack-run/stack/internal/inode"
)

// Mirror makes files of a container what they are on this machine. What it writes
// belongs to the user that the container's processes run as. Nothing of the image
// is needed for it, and nothing in the container leads it out: each path is
// resolved inside the container's root, and its last element is never followed.
type Mirror struct {
	files    *Files
	uid, gid int
}

// Mirror opens a container's files for mirroring.
func (e *Engine) Mirror(files *Files, c *Container) (*Mirror, error) {
	u, _, err := resolveUser(files.root, first(c.Spec.Process.User, e.base(c).User), nil)
	if err != nil {
		return nil, err
	}
	uid, err := files.HostID(u.UID)
	if err != nil {
		return nil, err
	}
	gid, err := files.HostID(u.GID)
	return &Mirror{files, int(uid), int(gid)}, err
}

// Put makes name what source is: a file, a link, or a directory without what is in
// it. It tells whether that changed anything; where a file has the same content it
// is left alone. Its error is fs.ErrNotExist where source is gone.
func (m *Mirror) Put(source, name string) (changed bool, err error) {
	err = m.files.Change(func() (err error) {
		changed, err = m.put(source, name)
		return err
	})
	return changed, err
}

func (m *Mirror) put(source, name string) (changed bool, err error) {
	// The container may be able to write the source's directories, too: a link among
	// them must not lead to what is this machine's alone.
	from, err := inode.OpenPlain(source)
	if err != nil {
		return false, err
	}
	defer unix.Close(from)
	var st unix.Stat_t
	if err := unix.Fstat(from, &st); err != nil {
		return false, &os.PathError{Op: "stat", Path: source, Err: err}
	}
	name = path.Clean("/" + name)
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		return m.dir(name, &st)
	case unix.S_IFLNK:
		return m.link(from, name)
	case unix.S_IFREG:
		return m.file(from, &st, name)
	}
	return false, nil // a socket, a FIFO, a device: of no use in another place
}

// parent opens, or makes, the directory of name.
func (m *Mirror) parent(name string) (*os.File, error) { return m.mkdirAll(path.Dir(name)) }

func (m *Mirror) mkdirAll(dir string) (*os.File, error) {
	at, err := m.files.Open(dir, unix.O_PATH|unix.O_DIRECTORY, 0)
	if err == nil || !errors.Is(err, unix.ENOENT) || dir == "/" {
		return at, err
	}
	parent, err := m.mkdirAll(path.Dir(dir))
	if err != nil {
		return nil, err
	}
	defer parent.Close()
	if err := m.mkdir(int(parent.Fd()), path.Base(dir), 0o755); err != nil && err != unix.EEXIST {
		return nil, &os.PathError{Op: "mkdir", Path: dir, Err: err}
	}
	return m.files.Open(dir, unix.O_PATH|unix.O_DIRECTORY, 0)
}

func (m *Mirror) mkdir(at int, base string, mode uint32) error {
	if err := unix.Mkdirat(at, base, 0o700); err != nil {
		return err
	}
	fd, err := inode.Open(at, base, unix.S_IFDIR)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := inode.Chown(fd, m.uid, m.gid); err != nil {
		return err
	}
	return inode.Chmod(fd, mode)
}

// dir leaves a directory alone that is there, or a link that leads to one, but for
// its mode.
func (m *Mirror) dir(name string, st *unix.Stat_t) (bool, error) {
	if name == "/" {
		return false, nil
	}
	mode := st.Mode & 0o7777
	parent, err := m.parent(name)
	if err != nil {
		return false, err
	}
	defer parent.Close()
	at, base := int(parent.Fd()), path.Base(name)
	if err := m.mkdir(at, base, mode); err != unix.EEXIST {
		return err == nil, pathError("mkdir", name, err)
	}
	if there, err := m.files.Open(name, unix.O_PATH|unix.O_DIRECTORY, 0); err == nil {
		there.Close()
		fd, err := inode.Open(at, base, unix.S_IFDIR)
		if err != nil {
			return false, nil // a link leads there
		}
		defer unix.Close(fd)
		var now unix.Stat_t
		if err := unix.Fstat(fd, &now); err != nil || now.Mode&0o7777 == mode || inode.IsMount(at, base) {
			return false, err
		}
		return true, pathError("chmod", name, inode.Chmod(fd, mode))
	}
	if inode.IsMount(at, base) {
		return false, pathError("mkdir", name, errMounted)
	}
	if err := unix.Unlinkat(at, base, 0); err != nil {
		return false, pathError("remove", name, err)
	}
	return true, pathError("mkdir", name, m.mkdir(at, base, mode))
}

func (m *Mirror) link(from int, name string) (bool, error) {
	to, err := inode.Readlink(from)
	if err != nil {
		return false, err
	}
	parent, err := m.parent(name)
	if err != nil {
		return false, err
	}
	defer parent.Close()
	at, base := int(parent.Fd()), path.Base(name)
	buf := make([]byte, unix.PathMax)
	if n, err := unix.Readlinkat(at, base, buf); err == nil && string(buf[:n]) == to {
		return false, nil
	}
	if inode.IsMount(at, base) {
		return false, pathError("link", name, errMounted)
	}
	return m.place(at, name, func(temp string) error {
		if err := unix.Symlinkat(to, at, temp); err != nil {
			return err
		}
		fd, err := inode.Open(at, temp, unix.S_IFLNK)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		return inode.Chown(fd, m.uid, m.gid)
	})
}

func (m *Mirror) file(source int, st *unix.Stat_t, name string) (bool, error) {
	from, err := os.Open(inode.Path(source))
	if err != nil {
		return false, err
	}
	defer from.Close()
	parent, err := m.parent(name)
	if err != nil {
		return false, err
	}
	defer parent.Close()
	at, base := int(parent.Fd()), path.Base(name)
	mode := st.Mode & 0o7777
	fd, err := inode.Open(at, base, unix.S_IFREG)
	if err == nil {
		defer unix.Close(fd)
		var now unix.Stat_t
		if err := unix.Fstat(fd, &now); err != nil {
			return false, err
		}
		if now.Dev == st.Dev && now.Ino == st.Ino {
			return false, nil // it is mounted there
		}
		if now.Size == st.Size && sameContent(from, fd) {
			if now.Mode&0o7777 == mode {
				return false, nil
			}
			return true, pathError("chmod", name, inode.Chmod(fd, mode))
		}
		if _, err := from.Seek(0, io.SeekStart); err != nil {
			return false, err
		}
	}
	if inode.IsMount(at, base) {
		if fd < 0 {
			return false, pathError("write", name, errMounted)
		}
		return true, pathError("write", name, overwrite(fd, from))
	}
	return m.place(at, name, func(temp string) error {
		fd, err := unix.Openat(at, temp, unix.O_CREAT|unix.O_EXCL|unix.O_WRONLY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
		if err != nil {
			return err
		}
		f := os.NewFile(uintptr(fd), temp)
		_, err = io.Copy(f, from)
		if err == nil {
			err = inode.Chown(fd, m.uid, m.gid) // before the mode: it takes set-user-ID away
		}
		if err == nil {
			err = inode.Chmod(fd, mode)
		}
		if err == nil {
			err = inode.SetTimes(fd, []unix.Timespec{st.Mtim, st.Mtim})
		}
		return errors.Join(err, f.Close())
	})
}

// place has something made under a name of its own and renames it to its place,
// where nobody ever sees half of it. What a killed process left under that name
// goes.
func (m *Mirror) place(at int, name string, create func(temp string) error) (bool, error) {
	base := path.Base(name)
	temp := ".stack-" + base
	if len(temp) > unix.NAME_MAX {
		sum := sha256.Sum256([]byte(base))
		temp = ".stack-" + hex.EncodeToString(sum[:])
	}
	if err := unix.Unlinkat(at, temp, 0); err != nil && err != unix.ENOENT {
		return false, pathError("write", name, err)
	}
	err := create(temp)
	if err == nil {
		if err = unix.Renameat(at, temp, at, base); err == unix.EISDIR || err == unix.ENOTEMPTY || err == unix.EEXIST {
			if _, err = removeTree(at, base, name, nil, false); err == nil {
				err = unix.Renameat(at, temp, at, base)
			}
		}
	}
	if err != nil {
		unix.Unlinkat(at, temp, 0)
		return false, pathError("write", name, err)
	}
	return true, nil
}

// Remove removes name with what is in it, but for what keep, if set, names by its
// path below name. With onlyEmpty a directory stays that has anything in it.
func (m *Mirror) Remove(name string, keep func(name string) bool, onlyEmpty bool) (changed bool, err error) {
	name = path.Clean("/" + name)
	if name == "/" {
		return false, nil
	}
	parent, err := m.files.Open(path.Dir(name), unix.O_PATH|unix.O_DIRECTORY, 0)
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer parent.Close()
	return removeTree(int(parent.Fd()), path.Base(name), name, keep, onlyEmpty)
}

var errMounted = errors.New("something is mounted there")

// removeTree removes base in the directory at. full is its path, for errors.
func removeTree(at int, base, full string, keep func(string) bool, onlyEmpty bool) (changed bool, err error) {
	if inode.IsMount(at, base) {
		return false, pathError("remove", full, errMounted)
	}
	if !onlyEmpty {
		err := unix.Unlinkat(at, base, 0)
		if err == nil || err == unix.ENOENT {
			return err == nil, nil
		}
		if err != unix.EISDIR {
			return false, pathError("remove", full, err)
		}
		if changed, err = removeContent(at, base, full, "", keep); err != nil {
			return changed, err
		}
	}
	switch err := unix.Unlinkat(at, base, unix.AT_REMOVEDIR); err {
	case nil:
		return true, nil
	case unix.ENOENT, unix.ENOTEMPTY, unix.EEXIST, unix.ENOTDIR:
		return changed, nil
	default:
		return changed, pathError("remove", full, err)
	}
}

// removeContent removes what is in the directory base. below is its path from
// where the removal began.
func removeContent(at int, base, full, below string, keep func(string) bool) (changed bool, err error) {
	fd, err := unix.Openat(at, base, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err == unix.ENOENT {
		return false, nil
	}
	if err != nil {
		return false, pathError("remove", full, err)
	}
	d := os.NewFile(uintptr(fd), full)
	defer d.Close()
	list, err := d.ReadDir(-1)
	if err != nil {
		return false, err
	}
	for _, e := range list {
		name := path.Join(below, e.Name())
		if e.IsDir() {
			if inode.IsMount(fd, e.Name()) {
				continue // a volume stays, and so do the directories above it
			}
			some, err := removeContent(fd, e.Name(), path.Join(full, e.Name()), name, keep)
			changed = changed || some
			if err != nil {
				return changed, err
			}
		}
		if keep != nil && keep(name) || inode.IsMount(fd, e.Name()) {
			continue
		}
		flags := 0
		if e.IsDir() {
			flags = unix.AT_REMOVEDIR
		}
		switch err := unix.Unlinkat(fd, e.Name(), flags); err {
		case nil:
			changed = true
		case unix.ENOENT, unix.ENOTEMPTY, unix.EEXIST:
		default:
			return changed, pathError("remove", path.Join(full, e.Name()), err)
		}
	}
	return changed, nil
}

// overwrite writes into a file that something else is mounted on: nobody can put
// another in its place. What is no file of a file system for files (proc, sysfs)
// is not written: root's rights here are not the container's.
func overwrite(fd int, from *os.File) error {
	var fs unix.Statfs_t
	if err := unix.Fstatfs(fd, &fs); err != nil {
		return err
	}
	switch fs.Type {
	case unix.PROC_SUPER_MAGIC, unix.SYSFS_MAGIC, unix.CGROUP2_SUPER_MAGIC, unix.CGROUP_SUPER_MAGIC:
		return fmt.Errorf("it is the kernel's: %w", unix.EPERM)
	}
	f, err := os.OpenFile(inode.Path(fd), os.O_WRONLY|os.O_TRUNC, 0)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, from)
	return errors.Join(err, f.Close())
}

// sameContent compares two files of the same size.
func sameContent(a *os.File, fd int) bool {
	b, err := os.Open(inode.Path(fd))
	if err != nil {
		return false
	}
	defer b.Close()
	x, y := make([]byte, 64<<10), make([]byte, 64<<10)
	for {
		n, err := io.ReadFull(a, x)
		k, _ := io.ReadFull(b, y)
		if n != k || !bytes.Equal(x[:n], y[:k]) {
			return false
		}
		if err != nil {
			return err == io.EOF || err == io.ErrUnexpectedEOF
		}
	}
}

func pathError(op, name string, err error) error {
	if err == nil {
		return nil
	}
	return &os.PathError{Op: op, Path: name, Err: err}
}
