package compose

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/stack-run/stack/engine"
	"github.com/stack-run/stack/engine/snapshot"
	"github.com/stack-run/stack/internal/inode"
)

// files opens a container's files. It also returns the container's name.
func (c *Client) files(ctx context.Context, container string) (*engine.Files, string, error) {
	r, err := c.find(ctx, container)
	if err != nil {
		return nil, "", err
	}
	f, err := c.Engine.Files(ctx, r)
	if err != nil {
		return nil, "", fmt.Errorf("cannot open the files of container %s: %w", r.Spec.Name, err)
	}
	return f, r.Spec.Name, nil
}

// CopyFrom writes a tar archive of name, as "docker cp" does: its entries are
// named after the last element of the path.
func (c *Client) CopyFrom(ctx context.Context, container, name string, followLinks bool, w io.Writer) error {
	files, container, err := c.files(ctx, container)
	if err != nil {
		return err
	}
	defer files.Close()
	flags := uint64(unix.O_PATH)
	// "DIR/." is what is in the directory, also behind a link.
	if !followLinks && !strings.HasSuffix(name, "/.") {
		flags |= unix.O_NOFOLLOW
	}
	at, err := files.Open(name, flags, 0)
	if err != nil {
		return fmt.Errorf("cannot copy %s:%s: %w", container, name, err)
	}
	defer at.Close()
	tw := tar.NewWriter(w)
	base := path.Base(path.Clean("/" + name))
	if base == "/" {
		base = "."
	}
	if strings.HasSuffix(name, "/.") {
		base = "."
	}
	if err := snapshot.Archive(ctx, tw, at, base, files.ContainerID); err != nil {
		return fmt.Errorf("cannot copy %s:%s: %w", container, name, err)
	}
	return tw.Close()
}

// CopyTo unpacks a tar archive into dir of the container. With keepOwner the
// archive's owners are kept, else all becomes root's, as "docker cp" does.
func (c *Client) CopyTo(ctx context.Context, container, dir string, r io.Reader, keepOwner bool) error {
	files, container, err := c.files(ctx, container)
	if err != nil {
		return err
	}
	defer files.Close()
	target, err := files.Open(dir, unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return fmt.Errorf("cannot copy to %s:%s: %w", container, dir, err)
	}
	defer target.Close()
	tr := tar.NewReader(r)
	for ctx.Err() == nil {
		h, err := tr.Next()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		if !keepOwner {
			h.Uid, h.Gid = 0, 0
		}
		err = own(files, h)
		if err == nil {
			err = files.Change(func() error { return unpack(files, path.Join(dir, h.Name), path.Join(dir, h.Linkname), h, tr) })
		}
		if err != nil {
			return fmt.Errorf("cannot copy to %s:%s: %w", container, path.Join(dir, h.Name), err)
		}
	}
	return context.Cause(ctx)
}

// own turns the owner of an entry, who is the container's, into that of this host.
func own(files *engine.Files, h *tar.Header) error {
	for _, id := range []*int{&h.Uid, &h.Gid} {
		host, err := files.HostID(uint32(*id))
		if err != nil {
			return err
		}
		*id = int(host)
	}
	return nil
}

// overwrite writes into a file that is there.
func overwrite(dir int, name string, h *tar.Header, content io.Reader) error {
	if h.Typeflag != tar.TypeReg {
		return errors.New("something is mounted there")
	}
	fd, err := unix.Openat(dir, name, unix.O_WRONLY|unix.O_TRUNC|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	f := os.NewFile(uintptr(fd), name)
	_, err = io.Copy(f, content)
	return errors.Join(err, f.Close())
}

// nodeType is the mode of what mknod(2) makes of an entry.
var nodeType = map[byte]uint32{tar.TypeFifo: unix.S_IFIFO, tar.TypeChar: unix.S_IFCHR, tar.TypeBlock: unix.S_IFBLK}

// unpack makes one entry. Its parent is resolved inside the root, its last
// element never followed.
func unpack(files *engine.Files, name, link string, h *tar.Header, content io.Reader) error {
	name = path.Clean("/" + name)
	if name == "/" {
		return nil
	}
	parent, err := files.MkdirAll(path.Dir(name))
	if err != nil {
		return err
	}
	defer parent.Close()
	base, at := path.Base(name), int(parent.Fd())
	if h.Typeflag != tar.TypeDir {
		if inode.IsMount(at, base) {
			return overwrite(at, base, h, content)
		}
		if err := unix.Unlinkat(at, base, 0); err != nil && err != unix.ENOENT {
			return err
		}
	}
	kind := nodeType[h.Typeflag]
	switch h.Typeflag {
	case tar.TypeDir:
		kind = unix.S_IFDIR
		if err := unix.Mkdirat(at, base, 0o700); err != nil && err != unix.EEXIST {
			return err
		}
	case tar.TypeReg:
		return writeFile(at, base, h, content)
	case tar.TypeSymlink:
		kind = unix.S_IFLNK
		if err := unix.Symlinkat(h.Linkname, at, base); err != nil {
			return err
		}
	case tar.TypeLink:
		old, err := files.Open(link, unix.O_PATH|unix.O_NOFOLLOW, 0)
		if err != nil {
			return err
		}
		defer old.Close()
		return unix.Linkat(unix.AT_FDCWD, inode.Path(int(old.Fd())), at, base, unix.AT_SYMLINK_FOLLOW)
	case tar.TypeFifo, tar.TypeChar, tar.TypeBlock:
		if err := unix.Mknodat(at, base, kind|0o600, int(unix.Mkdev(uint32(h.Devmajor), uint32(h.Devminor)))); err != nil {
			return err
		}
	default:
		return fmt.Errorf("entries of type %q cannot be copied into a container", h.Typeflag)
	}
	// The container may have put something else there, now or long ago.
	fd, err := inode.Open(at, base, kind)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return settle(fd, h)
}

// writeFile makes a file, which no container can have open before it has its
// owner and mode.
func writeFile(at int, base string, h *tar.Header, content io.Reader) error {
	fd, err := unix.Openat(at, base, unix.O_CREAT|unix.O_EXCL|unix.O_WRONLY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return err
	}
	f := os.NewFile(uintptr(fd), base)
	_, err = io.Copy(f, content)
	if err == nil {
		err = settle(fd, h)
	}
	return errors.Join(err, f.Close())
}

// settle gives what is open its owner, mode and time. The owner comes first:
// changing it takes set-user-ID away, chown(2).
func settle(fd int, h *tar.Header) error {
	if err := inode.Chown(fd, h.Uid, h.Gid); err != nil {
		return err
	}
	if h.Typeflag != tar.TypeSymlink {
		if err := inode.Chmod(fd, uint32(h.Mode&0o7777)); err != nil {
			return err
		}
	}
	when := unix.NsecToTimespec(h.ModTime.UnixNano())
	return inode.SetTimes(fd, []unix.Timespec{when, when})
}
