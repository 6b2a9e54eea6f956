package snapshot

import (
	"archive/tar"
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"path"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// unpacker unpacks one archive into an empty directory that nobody else writes
// to. All paths are taken relative to that directory, component by component,
// and links are followed within it, as chroot(2) would: nothing in an archive
// leads out of it.
type unpacker struct {
	root  int    // fd of the directory
	xattr string // prefix of overlayfs' attributes
	// plain says that it is no layer: no name and no device is a whiteout.
	plain bool
	// devices says whether character and block devices are made, if it is no layer.
	devices bool
	omitted int // devices that were not made
	limits  Limits
	info    LayerInfo
	parent  parentDir
	dirs    []dirTime
	implied map[string]bool
	// made counts the directories that were made without an entry of their own.
	made int
	// replaced says that a directory was removed, and what implied has below it.
	replaced bool
	names    int // bytes of names that are remembered
	buf      []byte
}

// parentDir is the directory of the last entry; the next one is mostly in it too.
type parentDir struct {
	name string // as in the archive
	real string // with links resolved
	fd   int    // -1: none
}

// dirTime is a directory's time, set at the end, because what is put into a
// directory changes it.
type dirTime struct {
	name string
	mode uint32
	time time.Time
}

func newUnpacker(dir, xattr string, limits Limits) (*unpacker, error) {
	fd, err := unix.Open(dir, unix.O_DIRECTORY|unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, fmt.Errorf("cannot open %s: %w", dir, err)
	}
	return &unpacker{
		root: fd, xattr: xattr, limits: limits, parent: parentDir{fd: -1},
		implied: map[string]bool{".": true}, buf: make([]byte, 128<<10),
	}, nil
}

// close frees the unpacker and completes its info.
func (u *unpacker) close() error {
	u.forgetParent()
	u.info.Implied = slices.Sorted(maps.Keys(u.implied))
	return unix.Close(u.root)
}

// unpack unpacks the archive r.
func (u *unpacker) unpack(ctx context.Context, r io.Reader) error {
	archive := tar.NewReader(bufio.NewReaderSize(r, 64<<10))
	for {
		h, err := archive.Next()
		if err == io.EOF {
			u.forgetReplaced()
			return u.setDirTimes()
		}
		if errors.Is(err, io.ErrUnexpectedEOF) {
			return fmt.Errorf("the archive is truncated, after %d entries", u.info.Entries)
		}
		if err != nil {
			return fmt.Errorf("the archive cannot be read: %w", err)
		}
		u.info.Entries++
		if err := u.limits.checkEntries(u.info.Entries + u.made); err != nil {
			return err
		}
		if err := u.entry(h, contentReader{ctx, archive}); err != nil {
			if errors.Is(err, io.ErrUnexpectedEOF) {
				return fmt.Errorf("the archive is truncated, in %q", inWords(h.Name))
			}
			return fmt.Errorf("entry %q: %w", inWords(h.Name), err)
		}
	}
}

// contentReader reads the content of an entry until its context ends: a sparse file
// may claim a length that takes hours, for which nothing is read from the archive.
type contentReader struct {
	ctx context.Context
	r   io.Reader
}

func (c contentReader) Read(p []byte) (int, error) {
	if c.ctx.Err() != nil {
		return 0, context.Cause(c.ctx)
	}
	return c.r.Read(p)
}

func (u *unpacker) entry(h *tar.Header, r io.Reader) error {
	if h.Typeflag == tar.TypeXGlobalHeader {
		return nil
	}
	name, err := localName(h.Name)
	if err != nil {
		return err
	}
	if name == "." {
		if h.Typeflag != tar.TypeDir {
			return errors.New("the root must be a directory")
		}
		return u.rootEntry(h)
	}
	dir, base := path.Split(name)
	parent, err := u.openParent(path.Clean(dir))
	if err != nil {
		return err
	}
	if !u.plain && strings.HasPrefix(base, whiteoutPrefix) {
		return u.whiteout(parent, base)
	}
	if u.plain && !u.devices && (h.Typeflag == tar.TypeChar || h.Typeflag == tar.TypeBlock) {
		u.omitted++
		return nil
	}
	err = u.create(parent, base, h, r)
	if !errors.Is(err, unix.EEXIST) {
		return err
	}
	switch err := u.makeRoom(parent, base, h); err {
	case nil:
		return u.create(parent, base, h, r)
	case errDirectoryStays:
		return u.directoryAttributes(parent, base, h)
	case errSameFile:
		return nil
	default:
		return err
	}
}

// maxNames bounds the memory that an archive's names take. An entry of a few bytes,
// once it is compressed, may imply two thousand directories, or name one in four
// thousand bytes.
const maxNames = 256 << 20

// remember counts the name of a directory that is kept until the end.
func (u *unpacker) remember(name string) error {
	if u.names += len(name); u.names > maxNames {
		return fmt.Errorf("the names of its directories have more than %d MiB, the limit for one archive", maxNames>>20)
	}
	return nil
}

// forgetReplaced takes out of implied what went with a directory that an entry
// replaced. Whatever made a directory of that name again has corrected it. To do
// this at each replacement would take a time that grows with its square.
func (u *unpacker) forgetReplaced() {
	if !u.replaced {
		return
	}
	for name := range u.implied {
		fd, err := u.openReal(name)
		if err != nil {
			delete(u.implied, name)
			continue
		}
		unix.Close(fd)
	}
}

// inWords is a name for a message: one may have a million bytes.
func inWords(name string) string {
	if len(name) <= maxPath {
		return name
	}
	return name[:100] + "…"
}

// localName cleans an entry's name. Absolute names count from the root. One
// that leads out of it is an error, because no honest archive has it.
func localName(name string) (string, error) {
	if strings.IndexByte(name, 0) >= 0 {
		return "", errors.New("its name contains a zero byte")
	}
	if len(name) > maxPath {
		return "", fmt.Errorf("a name of %d bytes: %w", len(name), unix.ENAMETOOLONG)
	}
	clean := path.Clean(strings.TrimLeft(name, "/"))
	if clean == ".." || strings.HasPrefix(clean, "../") {
		return "", errors.New("its name leads out of the root")
	}
	return clean, nil
}

// rootEntry gives the root its attributes.
func (u *unpacker) rootEntry(h *tar.Header) error {
	delete(u.implied, ".")
	u.dirs = append(u.dirs, dirTime{".", uint32(h.Mode & 0o7777), h.ModTime})
	return u.setAttributes(u.root, h)
}

// create makes what h says. It returns EEXIST if the name is taken.
func (u *unpacker) create(parent int, base string, h *tar.Header, r io.Reader) error {
	switch h.Typeflag {
	case tar.TypeDir:
		return u.directory(parent, base, h)
	case tar.TypeReg, tar.TypeGNUSparse, tar.TypeCont:
		return u.regular(parent, base, h, r)
	case tar.TypeSymlink:
		if err := unix.Symlinkat(h.Linkname, parent, base); err != nil {
			return err
		}
		u.info.Disk += inodeSize(len(h.Linkname))
		return u.setLinkAttributes(parent, base, unix.S_IFLNK, h)
	case tar.TypeLink:
		return u.hardLink(parent, base, h.Linkname)
	case tar.TypeChar, tar.TypeBlock, tar.TypeFifo:
		return u.device(parent, base, h)
	}
	return fmt.Errorf("unknown type %q", string(h.Typeflag))
}

func (u *unpacker) directory(parent int, base string, h *tar.Header) error {
	if err := unix.Mkdirat(parent, base, 0o700); err != nil {
		return err
	}
	u.info.Disk += blockSize
	return u.directoryAttributes(parent, base, h)
}

// directoryAttributes gives the directory base its attributes.
func (u *unpacker) directoryAttributes(parent int, base string, h *tar.Header) error {
	fd, err := unix.Openat(parent, base, unix.O_DIRECTORY|unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	name := path.Join(u.parent.real, base)
	if err := u.remember(name); err != nil {
		return err
	}
	delete(u.implied, name)
	u.dirs = append(u.dirs, dirTime{name, uint32(h.Mode & 0o7777), h.ModTime})
	return u.setAttributes(fd, h)
}

func (u *unpacker) regular(parent int, base string, h *tar.Header, r io.Reader) error {
	fd, err := unix.Openat(parent, base, unix.O_CREAT|unix.O_EXCL|unix.O_WRONLY|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := u.limits.checkBytes(u.info.Bytes, h.Size); err != nil {
		return err
	}
	u.info.Bytes += h.Size
	if err := u.copyContent(fd, h.Size, r); err != nil {
		return err
	}
	if err := u.setAttributes(fd, h); err != nil {
		return err
	}
	return unix.UtimesNanoAt(fd, "", times(h.ModTime), unix.AT_EMPTY_PATH)
}

// blockSize is the unit in which disk use is counted.
const blockSize = 4096

// inodeSize is what a name with n bytes of content in the inode takes: ext4 and
// xfs keep links of up to about 60 bytes in the inode.
func inodeSize(n int) int64 {
	if n < 60 {
		return 0
	}
	return blockSize
}

// copyContent copies size bytes from r to fd and leaves holes where there are
// only zeros.
func (u *unpacker) copyContent(fd int, size int64, r io.Reader) error {
	var done int64
	hole := false
	for done < size {
		n, err := io.ReadFull(r, u.buf[:min(int64(len(u.buf)), size-done)])
		if err != nil {
			if err == io.EOF {
				err = io.ErrUnexpectedEOF
			}
			return err
		}
		p := u.buf[:n]
		if n >= blockSize && allZero(p) {
			if _, err := unix.Seek(fd, int64(n), io.SeekCurrent); err != nil {
				return err
			}
			hole = true
		} else {
			if err := writeFull(fd, p); err != nil {
				return err
			}
			u.info.Disk += int64(n+blockSize-1) / blockSize * blockSize
			hole = false
		}
		done += int64(n)
	}
	if hole {
		return unix.Ftruncate(fd, size)
	}
	return nil
}

func writeFull(fd int, p []byte) error {
	for len(p) > 0 {
		n, err := unix.Write(fd, p)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return err
		}
		p = p[n:]
	}
	return nil
}

func allZero(p []byte) bool {
	for len(p) >= 8 {
		if p[0]|p[1]|p[2]|p[3]|p[4]|p[5]|p[6]|p[7] != 0 {
			return false
		}
		p = p[8:]
	}
	for _, b := range p {
		if b != 0 {
			return false
		}
	}
	return true
}

// hardLink makes base another name of the file target, which must be in this
// archive: what is in another layer cannot be linked to.
func (u *unpacker) hardLink(parent int, base, target string) error {
	name, err := localName(target)
	if err != nil {
		return fmt.Errorf("hard link to %q: %w", inWords(target), err)
	}
	dir, file := path.Split(name)
	fd, err := u.openDir(path.Clean(dir))
	if err == nil {
		err = unix.Linkat(fd, file, parent, base, 0)
		unix.Close(fd)
	}
	if errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("hard link to %q, which is not in this archive", inWords(target))
	}
	return err
}

func (u *unpacker) device(parent int, base string, h *tar.Header) error {
	mode, dev := uint32(unix.S_IFIFO), 0
	switch h.Typeflag {
	case tar.TypeChar:
		mode, dev = unix.S_IFCHR, int(unix.Mkdev(uint32(h.Devmajor), uint32(h.Devminor)))
	case tar.TypeBlock:
		mode, dev = unix.S_IFBLK, int(unix.Mkdev(uint32(h.Devmajor), uint32(h.Devminor)))
	}
	err := unix.Mknodat(parent, base, mode|0o600, dev)
	if errors.Is(err, unix.EPERM) {
		return fmt.Errorf("cannot make device %d:%d without the right to (CAP_MKNOD): %w", h.Devmajor, h.Devminor, err)
	}
	if err != nil {
		return err
	}
	return u.setLinkAttributes(parent, base, mode, h)
}

// setDirTimes gives directories their times and, last of all, modes that might
// have kept an unprivileged user out.
func (u *unpacker) setDirTimes() error {
	u.forgetParent()
	for _, d := range slices.Backward(u.dirs) {
		fd, err := unix.Openat2(u.root, d.name, &unix.OpenHow{
			Flags:   unix.O_DIRECTORY | unix.O_RDONLY | unix.O_CLOEXEC | unix.O_NOFOLLOW,
			Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS,
		})
		if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ELOOP) {
			continue // a later entry replaced it
		}
		if err == nil && u.deferModes() {
			err = unix.Fchmod(fd, d.mode)
		}
		if err == nil {
			err = unix.UtimesNanoAt(fd, "", times(d.time), unix.AT_EMPTY_PATH)
		}
		if fd >= 0 {
			unix.Close(fd)
		}
		if err != nil {
			return fmt.Errorf("directory %q: %w", d.name, err)
		}
	}
	return nil
}
