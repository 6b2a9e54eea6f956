package logs

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"
)

// Position is a place in a log: all before it has been read. The zero value is the
// beginning.
type Position struct {
	Segment uint64
	Next    int64    // offset in the segment's index of the record that is read there
	At      [2]int64 // offsets in its raw files, by stream
}

// position is where the cursor is, or the beginning of the record that was read last.
func (c *cursor) position(back int64) Position {
	if c.index == nil {
		return Position{}
	}
	return Position{c.segment, max(0, c.next-back), c.at}
}

// resume turns a position into a place. One whose segment is deleted becomes the
// beginning of the oldest one, and one that the log has not come to the log's end:
// a power failure took what it counts on.
func (l *locator) resume(p Position, streams [2]bool) (place, error) {
	first, last := l.list[0], l.list[len(l.list)-1]
	i, found := slices.BinarySearch(l.list, p.Segment)
	switch {
	case p.Segment > last:
		pl, err := l.place(l.end())
		return *pl, err
	case !found:
		gap := l.list[i] - max(p.Segment, 1)
		return place{segment: l.list[i], cut: [2]bool{gap > 0, gap > 0}, gap: gap}, nil
	}
	page, err := l.page(i)
	if err != nil {
		return place{}, err
	}
	known := p.Next <= int64(page.real)*recordSize
	pl, err := l.place(spot{i, min(int(p.Next/recordSize), page.real)})
	if err != nil || !known {
		return *pl, err
	}
	for s, f := range page.raw {
		var st unix.Stat_t
		if f != nil && unix.Fstat(int(f.Fd()), &st) == nil {
			pl.at[s] = max(pl.at[s], min(p.At[s], st.Size))
		}
	}
	if p.Segment == first && pl.next == 0 && pl.at == [2]int64{} {
		pl.cut = [2]bool{first > 1, first > 1}
		return *pl, nil
	}
	err = l.heads(pl, streams)
	return *pl, err
}

// Backlog is how much of a log is behind a position, bytes.
func Backlog(dir string, p Position) (n int64) {
	list, err := segments(dir)
	if err != nil {
		return 0
	}
	for _, segment := range list {
		for s, at := range p.At {
			switch size := rawSize(dir, segment, Stream(s)); {
			case segment > p.Segment:
				n += size
			case segment == p.Segment:
				n += size - min(at, size)
			}
		}
	}
	return n
}

// Bookmark remembers how far somebody has read a log, in a file beside it. Writing it
// is one system call, which SIGKILL does not split.
type Bookmark struct {
	file *os.File
	at   Position
}

const bookmarkName = "delivered"

// OpenBookmark opens the bookmark of a log. A new one is at the end of what is there:
// that was not meant for who is to read it.
func OpenBookmark(dir string) (*Bookmark, error) {
	path := filepath.Join(dir, bookmarkName)
	f, err := openFile(path, unix.O_RDWR)
	fresh := errors.Is(err, fs.ErrNotExist)
	if fresh {
		if err = os.MkdirAll(dir, 0o700); err == nil {
			f, err = openFile(path, unix.O_RDWR|unix.O_CREAT)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("cannot open the bookmark of log %s: %w", dir, err)
	}
	b := &Bookmark{file: f}
	if fresh {
		end, err := logEnd(dir)
		if err == nil {
			err = b.Save(end)
		}
		return b, err
	}
	var text [bookmarkSize]byte
	if _, err := f.ReadAt(text[:], 0); err != nil && err != io.EOF {
		return nil, errors.Join(err, f.Close())
	}
	b.at = decodePosition(text)
	return b, nil
}

func logEnd(dir string) (Position, error) {
	l, err := newLocator(dir)
	if err != nil || len(l.list) == 0 {
		return Position{}, err
	}
	defer l.close()
	pl, err := l.place(l.end())
	if err != nil {
		return Position{}, err
	}
	return Position{pl.segment, pl.next, pl.at}, nil
}

// At is the place that was saved last.
func (b *Bookmark) At() Position { return b.at }

// Save moves the bookmark.
func (b *Bookmark) Save(p Position) error {
	if p == b.at {
		return nil
	}
	text := encodePosition(p)
	if _, err := b.file.WriteAt(text[:], 0); err != nil {
		return fmt.Errorf("cannot write how far a log is delivered: %w", err)
	}
	b.at = p
	return nil
}

// Close closes the file.
func (b *Bookmark) Close() error { return b.file.Close() }

// bookmarkSize is four numbers of eight bytes and a CRC-32 of them.
const bookmarkSize = 36

func encodePosition(p Position) (b [bookmarkSize]byte) {
	for i, n := range []uint64{p.Segment, uint64(p.Next), uint64(p.At[0]), uint64(p.At[1])} {
		binary.LittleEndian.PutUint64(b[8*i:], n)
	}
	binary.LittleEndian.PutUint32(b[32:], crc32.ChecksumIEEE(b[:32]))
	return b
}

// decodePosition takes what is damaged for the beginning: lines come twice rather
// than never.
func decodePosition(b [bookmarkSize]byte) Position {
	if crc32.ChecksumIEEE(b[:32]) != binary.LittleEndian.Uint32(b[32:]) {
		return Position{}
	}
	n := func(i int) int64 { return int64(binary.LittleEndian.Uint64(b[8*i:])) }
	return Position{uint64(n(0)), n(1), [2]int64{n(2), n(3)}}
}
