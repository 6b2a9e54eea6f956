package snapshot

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// Archive adds what f, opened with O_PATH, stands for, and all below it, to an
// archive under the given name: modes, owners, times, extended attributes, hard
// links and special files, but no sockets, for which tar has no word. No link is
// followed, so nothing from elsewhere gets in while others write to the tree. owner
// says what an ID of a user or group becomes in the archive.
func Archive(ctx context.Context, tw *tar.Writer, f *os.File, name string, owner func(id uint32) uint32) error {
	a := archiver{ctx: ctx, tw: tw, links: make(map[fileID]string), owner: owner}
	return a.add(f, name)
}

// ArchiveRoot writes a container's files without what is mounted over them, as
// "docker export" does. The container may run.
func (s *Store) ArchiveRoot(ctx context.Context, containerID string, w io.Writer) error {
	root, err := s.ViewContainer(containerID)
	if err != nil {
		return err
	}
	defer root.Close()
	tw := tar.NewWriter(w)
	if err := Archive(ctx, tw, root, ".", sameID); err != nil {
		return fmt.Errorf("cannot archive container %s: %w", short(containerID), err)
	}
	return tw.Close()
}

// ArchiveChanges writes what a container changed as the archive of a layer over
// those of its image (image-spec, layer.md), without the paths in except, which
// are absolute, and all below them.
func (s *Store) ArchiveChanges(ctx context.Context, containerID string, except []string, w io.Writer) error {
	path, err := s.upper(containerID)
	if err != nil {
		return err
	}
	upper, err := os.OpenFile(path, unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return err
	}
	defer upper.Close()
	a := archiver{ctx: ctx, tw: tar.NewWriter(w), links: make(map[fileID]string), owner: sameID, opaque: s.xattr + "opaque", except: except}
	if err := a.add(upper, "."); err != nil {
		return fmt.Errorf("cannot archive the changes of container %s: %w", short(containerID), err)
	}
	return a.tw.Close()
}

// ViewContainer mounts what a container sees, read-only. Its own directory is
// one of the lower ones, since a second mount with it as the upper one would
// clear the work directory under the container.
func (s *Store) ViewContainer(containerID string) (*os.File, error) {
	dir, st, err := s.lower(containerID)
	if err != nil {
		return nil, err
	}
	o := s.containerOverlay(st)
	o.attrs = unix.MOUNT_ATTR_RDONLY
	o.lower = append(o.lower, filepath.Join(dir, "upper"))
	f, err := s.mount(o, "rootfs")
	if err != nil {
		return nil, fmt.Errorf("cannot mount the files of container %s: %w", short(containerID), err)
	}
	return f, nil
}

func sameID(id uint32) uint32 { return id }

type fileID struct{ dev, ino uint64 }

// archiver is one run of Archive.
type archiver struct {
	ctx   context.Context // of the one call that the archiver lives for
	tw    *tar.Writer
	links map[fileID]string // where a file with several names is in the archive
	owner func(uint32) uint32
	// opaque is the attribute of directories that hide what is below them, ""
	// unless it is an upper directory that is archived.
	opaque string
	except []string
}

func (a *archiver) add(f *os.File, name string) error {
	if a.ctx.Err() != nil {
		return context.Cause(a.ctx)
	}
	if slices.Contains(a.except, "/"+name) {
		return nil
	}
	fd := int(f.Fd())
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err
	}
	if a.opaque != "" && isWhiteout(st) {
		return a.mark(path.Join(path.Dir(name), whiteoutPrefix+path.Base(name)))
	}
	kind := st.Mode & unix.S_IFMT
	if kind == unix.S_IFSOCK {
		return nil
	}
	h := &tar.Header{
		Name: name, Mode: int64(st.Mode & 0o7777), Uid: int(a.owner(st.Uid)), Gid: int(a.owner(st.Gid)),
		ModTime: time.Unix(st.Mtim.Unix()), Format: tar.FormatPAX,
	}
	if kind != unix.S_IFDIR && st.Nlink > 1 {
		id := fileID{st.Dev, st.Ino}
		if first, seen := a.links[id]; seen {
			h.Typeflag, h.Linkname = tar.TypeLink, first
			return a.tw.WriteHeader(h)
		}
		a.links[id] = name
	}
	xattrs, err := xattrsOf(fd)
	if err != nil {
		return &os.PathError{Op: "read the attributes of", Path: name, Err: err}
	}
	for key, value := range xattrs {
		if h.PAXRecords == nil {
			h.PAXRecords = make(map[string]string)
		}
		h.PAXRecords[xattrRecord+key] = value
	}
	switch kind {
	case unix.S_IFREG:
		h.Typeflag, h.Size = tar.TypeReg, st.Size
		return a.file(f, h)
	case unix.S_IFDIR:
		h.Typeflag, h.Name = tar.TypeDir, name+"/"
		if err := a.tw.WriteHeader(h); err != nil {
			return err
		}
		return a.directory(f, name)
	case unix.S_IFLNK:
		buf := make([]byte, unix.PathMax)
		n, err := unix.Readlinkat(fd, "", buf)
		if err != nil {
			return err
		}
		h.Typeflag, h.Linkname = tar.TypeSymlink, string(buf[:n])
	case unix.S_IFCHR, unix.S_IFBLK:
		h.Typeflag = tar.TypeChar
		if kind == unix.S_IFBLK {
			h.Typeflag = tar.TypeBlock
		}
		h.Devmajor, h.Devminor = int64(unix.Major(st.Rdev)), int64(unix.Minor(st.Rdev))
	case unix.S_IFIFO:
		h.Typeflag = tar.TypeFifo
	}
	return a.tw.WriteHeader(h)
}

// mark adds an empty file whose name alone says something.
func (a *archiver) mark(name string) error {
	return a.tw.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o600, Format: tar.FormatPAX})
}

func (a *archiver) file(f *os.File, h *tar.Header) error {
	r, err := os.Open(procPath(int(f.Fd())))
	if err != nil {
		return err
	}
	defer r.Close()
	if err := a.tw.WriteHeader(h); err != nil {
		return err
	}
	_, err = io.CopyN(a.tw, r, h.Size)
	if errors.Is(err, io.EOF) {
		return fmt.Errorf("%s shrank while it was read; pause or stop the container", h.Name)
	}
	return err
}

func (a *archiver) directory(f *os.File, name string) error {
	dir, err := os.Open(procPath(int(f.Fd())))
	if err != nil {
		return err
	}
	defer dir.Close()
	if a.opaque != "" {
		value := make([]byte, 1)
		if n, err := unix.Fgetxattr(int(dir.Fd()), a.opaque, value); err == nil && n == 1 && value[0] == 'y' {
			if err := a.mark(path.Join(name, opaqueName)); err != nil {
				return err
			}
		}
	}
	names, err := dir.Readdirnames(-1)
	if err != nil {
		return err
	}
	slices.Sort(names)
	for _, base := range names {
		fd, err := unix.Openat(int(dir.Fd()), base, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		if errors.Is(err, unix.ENOENT) {
			continue // deleted meanwhile
		}
		if err != nil {
			return &os.PathError{Op: "open", Path: path.Join(name, base), Err: err}
		}
		child := os.NewFile(uintptr(fd), base)
		err = a.add(child, path.Join(name, base))
		child.Close()
		if err != nil {
			return err
		}
	}
	return nil
}

// xattrsOf is readXattrs of what is opened with O_PATH.
func xattrsOf(fd int) (map[string]string, error) {
	return collectXattrs(procPath(fd), unix.Listxattr, unix.Getxattr)
}
