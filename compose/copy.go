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

	"github.com/stack-run/stack/engine/snapshot"
)

// filesystem opens a container's root: that of its process, with all mounts,
// while it runs, else its layers. It also returns the container's name.
func (c *Client) filesystem(container string) (root *os.File, name string, err error) {
	r, err := c.Engine.Records.Find(container)
	if err != nil {
		return nil, "", err
	}
	if r.State.Pid > 0 {
		root, err = os.OpenFile(fmt.Sprintf("/proc/%d/root/.", r.State.Pid), unix.O_PATH|unix.O_DIRECTORY, 0)
		return root, r.Spec.Name, err
	}
	layers, err := c.Engine.Layers()
	if err != nil {
		return nil, "", err
	}
	root, err = layers.Mount(r.ID, snapshot.MountOptions{})
	return root, r.Spec.Name, err
}

// inside opens a path below root as the container would see it: links are
// followed, but never out of it.
func inside(root *os.File, name string, flags uint64, mode uint64) (*os.File, error) {
	name = strings.TrimPrefix(path.Clean("/"+name), "/")
	if name == "" {
		name = "."
	}
	fd, err := unix.Openat2(int(root.Fd()), name, &unix.OpenHow{
		Flags: flags | unix.O_CLOEXEC, Mode: mode, Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS,
	})
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: "/" + strings.TrimPrefix(name, "."), Err: err}
	}
	return os.NewFile(uintptr(fd), name), nil
}

// CopyFrom writes a tar archive of name, as "docker cp" does: its entries are
// named after the last element of the path.
func (c *Client) CopyFrom(ctx context.Context, container, name string, followLinks bool, w io.Writer) error {
	root, container, err := c.filesystem(container)
	if err != nil {
		return err
	}
	defer root.Close()
	flags := uint64(unix.O_PATH)
	if !followLinks {
		flags |= unix.O_NOFOLLOW
	}
	at, err := inside(root, name, flags, 0)
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
	if err := snapshot.Archive(ctx, tw, at, base); err != nil {
		return fmt.Errorf("cannot copy %s:%s: %w", container, name, err)
	}
	return tw.Close()
}

// CopyTo unpacks a tar archive into dir of the container. With keepOwner the
// archive's owners are kept, else all becomes root's, as "docker cp" does.
func (c *Client) CopyTo(ctx context.Context, container, dir string, r io.Reader, keepOwner bool) error {
	root, container, err := c.filesystem(container)
	if err != nil {
		return err
	}
	defer root.Close()
	target, err := inside(root, dir, unix.O_PATH|unix.O_DIRECTORY, 0)
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
		if err := unpack(root, path.Join(dir, h.Name), path.Join(dir, h.Linkname), h, tr); err != nil {
			return fmt.Errorf("cannot copy to %s:%s: %w", container, path.Join(dir, h.Name), err)
		}
	}
	return context.Cause(ctx)
}

// unpack makes one entry. Its parent is resolved inside the root, its last
// element never followed.
func unpack(root *os.File, name, link string, h *tar.Header, content io.Reader) error {
	name = path.Clean("/" + name)
	if name == "/" {
		return nil
	}
	parent, err := mkdirs(root, path.Dir(name))
	if err != nil {
		return err
	}
	defer parent.Close()
	base, at := path.Base(name), int(parent.Fd())
	mode := uint32(h.Mode & 0o7777)
	if h.Typeflag != tar.TypeDir {
		if err := unix.Unlinkat(at, base, 0); err != nil && err != unix.ENOENT {
			return err
		}
	}
	switch h.Typeflag {
	case tar.TypeDir:
		if err := unix.Mkdirat(at, base, mode); err != nil && err != unix.EEXIST {
			return err
		}
	case tar.TypeReg:
		fd, err := unix.Openat(at, base, unix.O_CREAT|unix.O_EXCL|unix.O_WRONLY|unix.O_NOFOLLOW|unix.O_CLOEXEC, mode)
		if err != nil {
			return err
		}
		f := os.NewFile(uintptr(fd), base)
		_, err = io.Copy(f, content)
		if err := errors.Join(err, f.Close()); err != nil {
			return err
		}
	case tar.TypeSymlink:
		if err := unix.Symlinkat(h.Linkname, at, base); err != nil {
			return err
		}
	case tar.TypeLink:
		old, err := inside(root, link, unix.O_PATH|unix.O_NOFOLLOW, 0)
		if err != nil {
			return err
		}
		defer old.Close()
		return unix.Linkat(unix.AT_FDCWD, fmt.Sprintf("/proc/self/fd/%d", old.Fd()), at, base, unix.AT_SYMLINK_FOLLOW)
	case tar.TypeFifo:
		if err := unix.Mknodat(at, base, unix.S_IFIFO|mode, 0); err != nil {
			return err
		}
	default:
		return fmt.Errorf("entries of type %q cannot be copied into a container", h.Typeflag)
	}
	if err := unix.Fchownat(at, base, h.Uid, h.Gid, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return err
	}
	if h.Typeflag == tar.TypeSymlink {
		return nil
	}
	if err := unix.Fchmodat(at, base, mode, 0); err != nil {
		return err
	}
	when := []unix.Timespec{unix.NsecToTimespec(h.ModTime.UnixNano()), unix.NsecToTimespec(h.ModTime.UnixNano())}
	return unix.UtimesNanoAt(at, base, when, unix.AT_SYMLINK_NOFOLLOW)
}

func mkdirs(root *os.File, dir string) (*os.File, error) {
	f, err := inside(root, dir, unix.O_PATH|unix.O_DIRECTORY, 0)
	if err == nil || !errors.Is(err, unix.ENOENT) || dir == "/" {
		return f, err
	}
	parent, err := mkdirs(root, path.Dir(dir))
	if err != nil {
		return nil, err
	}
	defer parent.Close()
	if err := unix.Mkdirat(int(parent.Fd()), path.Base(dir), 0o755); err != nil && err != unix.EEXIST {
		return nil, err
	}
	return inside(root, dir, unix.O_PATH|unix.O_DIRECTORY, 0)
}
