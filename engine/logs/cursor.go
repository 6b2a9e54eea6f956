package logs

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"

	"golang.org/x/sys/unix"
)

// windowSize is how much of a raw file is read at once, bytes.
const windowSize = 64 << 10

// cursor walks over a log's records in order, through all segments, and reads
// the bytes they speak of.
type cursor struct {
	dir      string
	lossless bool // hold a shared flock on the current segment

	segment uint64
	index   *os.File // nil: not in a segment yet
	next    int64    // offset in the index of the next record
	buffer  []byte   // records read ahead, from next on
	memory  []byte   // what buffer is a part of
	raw     [2]*os.File
	at      [2]int64 // how far the raw files are read
	sealed  bool     // the next segment exists, so this one does not grow
	tailed  bool     // what the index of this segment lacks has been made up
	windows [2]window
}

// window is a part of a raw file in memory.
type window struct {
	data  []byte
	start int64
	mem   []byte
}

func (c *cursor) close() {
	if c.index != nil {
		c.index.Close() // releases the flock
	}
	for i, f := range c.raw {
		if f != nil {
			f.Close()
		}
		c.raw[i] = nil
		c.windows[i] = window{mem: c.windows[i].mem}
	}
	c.index = nil
}

// enter opens a segment at its start. With lossless the new segment is locked
// before the old one is released.
func (c *cursor) enter(segment uint64) error {
	index, err := openFile(indexPath(c.dir, segment), unix.O_RDONLY)
	if err != nil {
		return err
	}
	if c.lossless {
		if err := flock(index, unix.LOCK_SH); err != nil {
			index.Close()
			return err
		}
		if gone(index) {
			index.Close()
			return fs.ErrNotExist
		}
	}
	c.close()
	c.index, c.segment, c.next = index, segment, 0
	c.buffer, c.at = nil, [2]int64{}
	c.sealed, c.tailed = false, false
	// Open now what is there: an open file can be read after its deletion.
	for _, s := range []Stream{Stdout, Stderr} {
		if err := c.openRaw(s); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

func (c *cursor) openRaw(s Stream) (err error) {
	if c.raw[s] == nil {
		c.raw[s], err = openRaw(c.dir, c.segment, s)
	}
	return err
}

// reached tells whether all before a mark is read.
func (c *cursor) reached(m mark) bool {
	return m.segment != 0 && c.index != nil && (c.segment > m.segment || c.segment == m.segment && c.next >= m.next)
}

// beyond tells whether the record that was read last is behind a mark.
func (c *cursor) beyond(m mark) bool {
	return m.segment != 0 && (c.segment > m.segment || c.segment == m.segment && c.next > m.next)
}

// unread takes the last record back.
func (c *cursor) unread() { c.next, c.buffer = c.next-recordSize, nil }

// gone tells whether a file has been deleted.
func gone(f *os.File) bool {
	var st unix.Stat_t
	return unix.Fstat(int(f.Fd()), &st) != nil || st.Nlink == 0
}

// enterOldest enters the oldest segment that is newer than after. ok is false
// when there is none.
func (c *cursor) enterOldest(after uint64) (ok bool, err error) {
	if after > 0 {
		// The oldest go first, so this is the one if it is there.
		if err := c.enter(after + 1); !errors.Is(err, fs.ErrNotExist) {
			return err == nil, err
		}
	}
	for {
		list, err := segments(c.dir)
		if err != nil {
			return false, err
		}
		i, found := slices.BinarySearch(list, after)
		if found {
			i++
		}
		if i == len(list) {
			return false, nil
		}
		err = c.enter(list[i])
		if !errors.Is(err, fs.ErrNotExist) {
			return err == nil, err
		}
	}
}

// read returns the next record of this segment, or ok false when there is none
// now.
func (c *cursor) read() (r record, ok bool, err error) {
	if len(c.buffer) < recordSize {
		if c.memory == nil {
			c.memory = make([]byte, 256*recordSize)
		}
		n, err := c.index.ReadAt(c.memory, c.next)
		if err != nil && err != io.EOF {
			return r, false, fmt.Errorf("cannot read log %s: %w", c.dir, err)
		}
		c.buffer = c.memory[:n]
	}
	r, ok = decodeRecord(c.buffer, c.segment)
	if !ok {
		c.buffer = nil // torn; it may be whole in a moment
		return r, false, nil
	}
	c.next += recordSize
	c.buffer = c.buffer[recordSize:]
	return r, true, nil
}

// errDeleted says that the pump deleted a segment after its index was opened and
// before its raw file was.
var errDeleted = errors.New("the segment was deleted meanwhile")

// chunk calls f with the bytes of a stream up to offset end, in pieces.
func (c *cursor) chunk(s Stream, end int64, f func([]byte) error) error {
	for c.at[s] < end {
		b, err := c.bytes(s, end)
		if err != nil {
			return err
		}
		if len(b) == 0 {
			c.at[s] = end // a power failure cut the file short
			return nil
		}
		c.at[s] += int64(len(b))
		if err := f(b); err != nil {
			return err
		}
	}
	return nil
}

// bytes returns some bytes at the read position, at most up to end; none when
// the file has none.
func (c *cursor) bytes(s Stream, end int64) ([]byte, error) {
	w := &c.windows[s]
	at := c.at[s]
	if at < w.start || at >= w.start+int64(len(w.data)) {
		if err := c.openRaw(s); errors.Is(err, fs.ErrNotExist) {
			if gone(c.index) {
				return nil, errDeleted
			}
			return nil, nil
		} else if err != nil {
			return nil, err
		}
		if w.mem == nil {
			w.mem = make([]byte, windowSize)
		}
		n, err := c.raw[s].ReadAt(w.mem, at)
		if err != nil && err != io.EOF {
			return nil, fmt.Errorf("cannot read log %s: %w", c.dir, err)
		}
		w.data, w.start = w.mem[:n], at
	}
	b := w.data[at-w.start:]
	return b[:min(int64(len(b)), end-at)], nil
}

// missing makes up records for what the raw files hold beyond the index. The
// segment must not be in use by a pump.
func (c *cursor) missing() (rs []record) {
	if c.tailed {
		return nil
	}
	c.tailed = true
	for _, s := range []Stream{Stdout, Stderr} {
		if c.openRaw(s) != nil {
			continue
		}
		var st unix.Stat_t
		if unix.Fstat(int(c.raw[s].Fd()), &st) == nil && st.Size > c.at[s] {
			rs = append(rs, record{st.Mtim.Nano(), st.Size, dataKind(s)})
		}
	}
	return rs
}
