package logs

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"github.com/klauspost/compress/gzip"
	"golang.org/x/sys/unix"

	"github.com/stack-run/stack/internal/glob"
	"github.com/stack-run/stack/internal/inode"
)

// A raw file of a complete segment may be packed: it has another suffix then, and who
// reads it unpacks it into a file without a name.
const (
	packedSuffix  = ".gz"
	packingSuffix = packedSuffix + ".tmp"
)

// openRaw opens a raw file for reading, packed or not.
func openRaw(dir string, segment uint64, s Stream) (*os.File, error) {
	path := rawPath(dir, segment, s)
	f, err := openFile(path, unix.O_RDONLY)
	if !errors.Is(err, fs.ErrNotExist) {
		return f, err
	}
	packed, packedErr := openFile(path+packedSuffix, unix.O_RDONLY)
	if errors.Is(packedErr, fs.ErrNotExist) {
		return nil, err
	}
	if packedErr != nil {
		return nil, packedErr
	}
	defer packed.Close()
	return unpack(dir, packed)
}

func unpack(dir string, packed *os.File) (_ *os.File, err error) {
	out, err := openFile(dir, unix.O_TMPFILE|unix.O_RDWR)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = fmt.Errorf("cannot unpack %s: %w", packed.Name(), errors.Join(err, out.Close()))
		}
	}()
	var st unix.Stat_t
	if err := unix.Fstat(int(packed.Fd()), &st); err != nil {
		return nil, err
	}
	r, err := gzip.NewReader(packed)
	if err != nil {
		return nil, err
	}
	if _, err := io.Copy(out, r); err != nil {
		return nil, err
	}
	stored := unix.NsecToTimeval(st.Mtim.Nano())
	return out, unix.Futimes(int(out.Fd()), []unix.Timeval{stored, stored})
}

// rawSize is how many bytes of a stream a segment has.
func rawSize(dir string, segment uint64, s Stream) int64 {
	path := rawPath(dir, segment, s)
	if st, err := os.Stat(path); err == nil {
		return st.Size()
	}
	f, err := openFile(path+packedSuffix, unix.O_RDONLY)
	if err != nil {
		return 0
	}
	defer f.Close()
	// The last four bytes of a gzip file are its content's size, RFC 1952.
	var size [4]byte
	st, err := f.Stat()
	if err != nil || st.Size() < 4 {
		return 0
	}
	if _, err := f.ReadAt(size[:], st.Size()-4); err != nil {
		return 0
	}
	return int64(binary.LittleEndian.Uint32(size[:]))
}

// packAll packs the complete segments of a log that are not packed.
func packAll(ctx context.Context, dir string) error {
	list, err := segments(dir)
	if err != nil || len(list) == 0 {
		return err
	}
	for _, segment := range list[:len(list)-1] {
		for _, s := range []Stream{Stdout, Stderr} {
			if err := pack(ctx, dir, segment, s); err != nil {
				return err
			}
		}
	}
	return nil
}

// pack replaces a raw file by a packed one. That is there before the other goes, so
// whoever looks for one finds it.
func pack(ctx context.Context, dir string, segment uint64, s Stream) (err error) {
	path := rawPath(dir, segment, s)
	in, err := openFile(path, unix.O_RDONLY)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := openFile(path+packingSuffix, unix.O_WRONLY|unix.O_CREAT|unix.O_TRUNC)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			os.Remove(path + packingSuffix)
			err = fmt.Errorf("cannot compress %s: %w", path, err)
		}
	}()
	w, err := gzip.NewWriterLevel(out, gzip.BestSpeed)
	if err == nil {
		_, err = io.Copy(w, &canceled{ctx, in})
	}
	if err == nil {
		err = w.Close()
	}
	if err == nil { // it is as old as what it stands for
		var st os.FileInfo
		if st, err = in.Stat(); err == nil {
			changed := unix.NsecToTimespec(st.ModTime().UnixNano())
			err = inode.SetTimes(int(out.Fd()), []unix.Timespec{changed, changed})
		}
	}
	if err := errors.Join(err, out.Sync(), out.Close()); err != nil {
		return err
	}
	err = os.Rename(path+packingSuffix, path+packedSuffix)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // the segment was deleted meanwhile, with what was to become of it
	}
	if err != nil {
		return err
	}
	if _, err := os.Stat(indexPath(dir, segment)); errors.Is(err, fs.ErrNotExist) {
		return removeRaw(dir, segment, s) // as above, a moment later
	}
	if err := os.Remove(path); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// canceled reads until ctx is done.
type canceled struct {
	ctx context.Context
	io.Reader
}

func (c *canceled) Read(b []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, err
	}
	return c.Reader.Read(b)
}

// removeRaw deletes what there is of a segment's stream.
func removeRaw(dir string, segment uint64, s Stream) error {
	var errs []error
	for _, suffix := range []string{"", packedSuffix, packingSuffix} {
		if err := os.Remove(rawPath(dir, segment, s) + suffix); !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// removeHalfPacked deletes what a pump left that was killed while it packed.
func removeHalfPacked(dir string) error {
	left, err := glob.In(dir, "*"+packingSuffix)
	errs := []error{err}
	for _, path := range left {
		errs = append(errs, os.Remove(path))
	}
	return errors.Join(errs...)
}
