// Package copying copies files between this machine and a container as
// "docker cp" does, whose rules on what a destination means are those of cp -r:
//
//	destination         source is a file        source is a directory    source is DIR/.
//	does not exist      becomes the file        becomes the directory    becomes the directory
//	ends with / and     error                   becomes the directory    becomes the directory
//	does not exist
//	is a file           is replaced             error                    error
//	is a directory      gets the file           gets the directory       gets its content
package copying

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// Remote is a container's file system as tar archives.
type Remote interface {
	// Read writes an archive of name, whose entries begin with its last element.
	Read(ctx context.Context, name string, followLinks bool, w io.Writer) error
	// Write unpacks an archive into dir.
	Write(ctx context.Context, dir string, r io.Reader, keepOwner bool) error
}

// Options of a copy.
type Options struct {
	FollowLinks bool
	KeepOwner   bool
}

// place says where the root of a copy goes: into dir, under the name name. The
// name "." stands for dir itself.
type place struct{ dir, name string }

// kind is what a path is.
type kind int

const (
	missing kind = iota
	file
	directory
)

// destine is the table above. base is the last element of the source.
func destine(source kind, base string, contentOnly bool, destination string, is kind) (place, error) {
	split := func() place {
		clean := path.Clean(destination)
		return place{path.Dir(clean), path.Base(clean)}
	}
	switch is {
	case directory:
		if contentOnly {
			base = "."
		}
		return place{destination, base}, nil
	case file:
		if source == directory {
			return place{}, fmt.Errorf("cannot copy a directory to the file %s", destination)
		}
		return split(), nil
	}
	if source == file && strings.HasSuffix(destination, "/") {
		return place{}, fmt.Errorf("cannot copy to %s: no such directory", destination)
	}
	return split(), nil
}

// onlyContent reports whether a path means what is in a directory.
func onlyContent(name string) bool {
	return name == "." || strings.HasSuffix(name, "/.")
}

// To copies a local file or directory into a container.
func To(ctx context.Context, r Remote, source, destination string, o Options) error {
	stat := os.Lstat
	if o.FollowLinks || strings.HasSuffix(source, "/") || onlyContent(source) {
		stat = os.Stat
	}
	info, err := stat(source)
	if err != nil {
		return err
	}
	from := file
	if info.IsDir() {
		from = directory
	} else if onlyContent(source) {
		return fmt.Errorf("cannot copy %s: not a directory", source)
	}
	absolute, err := filepath.Abs(source)
	if err != nil {
		return err
	}
	if destination, err = followed(ctx, r, destination); err != nil {
		return err
	}
	is, err := remoteKind(ctx, r, destination)
	if err != nil {
		return err
	}
	to, err := destine(from, filepath.Base(absolute), onlyContent(source), destination, is)
	if err != nil {
		return err
	}
	reader, writer := io.Pipe()
	go func() { writer.CloseWithError(pack(ctx, writer, absolute, info, to.name)) }()
	err = r.Write(ctx, to.dir, reader, o.KeepOwner)
	reader.CloseWithError(errors.New("the other side has ended"))
	return err
}

// maxLinks is how many links lead from one to another, as in the kernel.
const maxLinks = 40

// followed is where a destination leads that is a link in the container. What a
// link to a file is copied to is that file, be it there or not.
func followed(ctx context.Context, r Remote, name string) (string, error) {
	for range maxLinks {
		if strings.HasSuffix(name, "/") || onlyContent(name) {
			return name, nil
		}
		h, err := remoteHeader(ctx, r, name, false)
		if err != nil || h.Typeflag != tar.TypeSymlink {
			return name, nil // remoteKind says what is wrong
		}
		if path.IsAbs(h.Linkname) {
			name = h.Linkname
		} else {
			name = path.Join(path.Dir(name), h.Linkname)
		}
	}
	return "", fmt.Errorf("cannot copy to %s: %w", name, unix.ELOOP)
}

// remoteHeader is the first entry of an archive of name.
func remoteHeader(ctx context.Context, r Remote, name string, followLinks bool) (*tar.Header, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	reader, writer := io.Pipe()
	defer reader.Close()
	go func() { writer.CloseWithError(r.Read(ctx, name, followLinks, writer)) }()
	return tar.NewReader(reader).Next()
}

// remoteKind tells what name is in the container.
func remoteKind(ctx context.Context, r Remote, name string) (kind, error) {
	h, err := remoteHeader(ctx, r, name, true)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return missing, nil
	case err != nil:
		return missing, err
	case h.Typeflag == tar.TypeDir:
		return directory, nil
	}
	return file, nil
}

// pack writes an archive of a local tree whose root is called name.
func pack(ctx context.Context, w io.Writer, root string, info fs.FileInfo, name string) error {
	tw := tar.NewWriter(w)
	if !info.IsDir() {
		if err := packOne(tw, root, info, name); err != nil {
			return err
		}
		return tw.Close()
	}
	err := filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		if p == root {
			if info, err = os.Stat(p); err != nil {
				return err
			}
		}
		rest, err := filepath.Rel(root, p)
		if err != nil {
			return err
		}
		return packOne(tw, p, info, path.Join(name, rest))
	})
	if err != nil {
		return err
	}
	return tw.Close()
}

func packOne(tw *tar.Writer, p string, info fs.FileInfo, name string) error {
	if info.Mode()&fs.ModeSocket != 0 {
		return nil // tar has no word for sockets
	}
	link := ""
	if info.Mode()&fs.ModeSymlink != 0 {
		var err error
		if link, err = os.Readlink(p); err != nil {
			return err
		}
	}
	h, err := tar.FileInfoHeader(info, link)
	if err != nil {
		return err
	}
	h.Name, h.Format = name, tar.FormatPAX
	h.Uname, h.Gname = "", ""
	if info.IsDir() {
		h.Name += "/"
	}
	if err := tw.WriteHeader(h); err != nil || !info.Mode().IsRegular() {
		return err
	}
	f, err := os.Open(p)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = io.CopyN(tw, f, h.Size)
	if errors.Is(err, io.EOF) {
		return fmt.Errorf("cannot copy %s: it shrank while it was read", p)
	}
	return err
}

// From copies a container's file or directory to this machine.
func From(ctx context.Context, r Remote, source, destination string, o Options) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	reader, writer := io.Pipe()
	defer reader.Close()
	go func() {
		writer.CloseWithError(r.Read(ctx, source, o.FollowLinks || strings.HasSuffix(source, "/") || onlyContent(source), writer))
	}()
	tr := tar.NewReader(reader)
	first, err := tr.Next()
	if err != nil {
		return err
	}
	from := file
	if first.Typeflag == tar.TypeDir {
		from = directory
	} else if onlyContent(source) {
		return fmt.Errorf("cannot copy %s: not a directory", source)
	}
	is := missing
	switch info, err := os.Stat(destination); {
	case err == nil && info.IsDir():
		is = directory
	case err == nil:
		is = file
	case !errors.Is(err, fs.ErrNotExist):
		return err
	}
	base := path.Base(path.Clean("/" + source))
	to, err := destine(from, base, onlyContent(source) || base == "/", destination, is)
	if err != nil {
		return err
	}
	dir, err := os.OpenRoot(to.dir)
	if err != nil {
		return err
	}
	defer dir.Close()
	u := unpacker{root: dir, old: strings.TrimSuffix(first.Name, "/"), name: to.name, keepOwner: o.KeepOwner}
	for h := first; ; {
		if err := u.entry(h, tr); err != nil {
			return err
		}
		if h, err = tr.Next(); err == io.EOF {
			return u.finish()
		} else if err != nil {
			return err
		}
	}
}

// unpacker makes files below root, out of which no entry leads (os.Root).
type unpacker struct {
	root      *os.Root
	old, name string // the archive's root, and what it is called here
	keepOwner bool
	dirs      []*tar.Header // whose mode and times are set last
}

// local is what an archive's name is called here.
func (u *unpacker) local(name string) string {
	name = path.Clean(name)
	if u.old != "." {
		name = strings.TrimPrefix(strings.TrimPrefix(name, u.old), "/")
	}
	return path.Join(u.name, name)
}

func (u *unpacker) entry(h *tar.Header, content io.Reader) error {
	name := u.local(h.Name)
	fail := func(err error) error {
		if err == nil {
			return nil
		}
		return fmt.Errorf("cannot copy to %s: %w", filepath.Join(u.root.Name(), name), err)
	}
	mode := fs.FileMode(h.Mode).Perm()
	if h.Typeflag == tar.TypeDir {
		if name != "." {
			if err := u.root.Mkdir(name, mode|0o700); err != nil && !errors.Is(err, fs.ErrExist) {
				return fail(err)
			}
		}
		dir := *h
		dir.Name = name
		u.dirs = append(u.dirs, &dir)
		return nil
	}
	if err := u.root.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fail(err)
	}
	switch h.Typeflag {
	case tar.TypeReg:
		f, err := u.root.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, mode)
		if err != nil {
			return fail(err)
		}
		_, err = io.Copy(f, content)
		if err := errors.Join(err, f.Close()); err != nil {
			return fail(err)
		}
	case tar.TypeSymlink:
		if err := u.root.Symlink(h.Linkname, name); err != nil {
			return fail(err)
		}
		if u.keepOwner {
			return fail(u.root.Lchown(name, h.Uid, h.Gid))
		}
		return nil
	case tar.TypeLink:
		return fail(u.root.Link(u.local(h.Linkname), name))
	case tar.TypeFifo, tar.TypeChar, tar.TypeBlock:
		if err := u.node(name, h); err != nil {
			return fail(err)
		}
	default:
		return fail(fmt.Errorf("entries of type %q cannot be copied", h.Typeflag))
	}
	return fail(u.attributes(name, h))
}

// node makes a FIFO or a device, mknod(2).
func (u *unpacker) node(name string, h *tar.Header) error {
	dir, err := u.root.Open(filepath.Dir(name))
	if err != nil {
		return err
	}
	defer dir.Close()
	kind := map[byte]uint32{tar.TypeFifo: unix.S_IFIFO, tar.TypeChar: unix.S_IFCHR, tar.TypeBlock: unix.S_IFBLK}[h.Typeflag]
	device := unix.Mkdev(uint32(h.Devmajor), uint32(h.Devminor))
	return unix.Mknodat(int(dir.Fd()), filepath.Base(name), kind|uint32(h.Mode&0o777), int(device))
}

func (u *unpacker) attributes(name string, h *tar.Header) error {
	if u.keepOwner {
		if err := u.root.Lchown(name, h.Uid, h.Gid); err != nil {
			return err
		}
	}
	if err := u.root.Chmod(name, h.FileInfo().Mode()); err != nil {
		return err
	}
	return u.root.Chtimes(name, h.ModTime, h.ModTime)
}

// finish gives directories their modes and times, the deepest first. The
// destination itself keeps its own.
func (u *unpacker) finish() error {
	for i := len(u.dirs) - 1; i >= 0; i-- {
		if h := u.dirs[i]; h.Name != "." {
			if err := u.attributes(h.Name, h); err != nil {
				return err
			}
		}
	}
	return nil
}
