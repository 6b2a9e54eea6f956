package logs

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// spliceMax is the most that one splice moves, bytes; while it runs the
// container's other stream waits.
const spliceMax = 1 << 20

// heldError says that the budget is used up by segments a lossless reader has
// still to read.
type heldError struct {
	segment uint64   // the oldest one
	index   *os.File // of it; open
}

func (*heldError) Error() string { return "log budget used up by segments that are being read" }

// store is the writing side of a log. It is not safe for concurrent use.
type store struct {
	dir    string
	budget Budget
	lock   *os.File // the directory, under an exclusive flock

	segments []uint64 // on disk, oldest first; the last one is current
	index    *os.File
	indexEnd int64
	raw      [2]*os.File // nil until the first byte
	rawEnd   [2]int64    // what the raw files hold
	ends     [2]int64    // what the index knows of it
	last     record
	fresh    [2]bool // nothing was stored of the stream since a line of it began
	lost     int64   // bytes thrown away and not recorded yet
	noSplice bool    // the file system cannot
	buffer   []byte
	unstored [2][]byte     // read by copy, and not written yet
	rotated  chan struct{} // gets a value with each new segment; nil: nobody asks
}

// openStore opens a log for writing, makes it if need be, and repairs what a
// killed pump or a power failure left. It waits until no other pump has it.
func openStore(ctx context.Context, dir string, budget Budget) (*store, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("cannot open log %s: %w", dir, err)
	}
	return reopenStore(ctx, dir, budget)
}

// reopenStore is openStore for a log that is there: one that was removed stays so.
func reopenStore(ctx context.Context, dir string, budget Budget) (_ *store, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("cannot open log %s: %w", dir, err)
		}
	}()
	lock, err := openFile(dir, unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return nil, err
	}
	if err := flockContext(ctx, lock); err != nil {
		return nil, err // flockContext closed the file
	}
	s := &store{dir: dir, budget: budget.normal(), lock: lock}
	if err := s.recover(); err != nil {
		s.close()
		return nil, err
	}
	return s, nil
}

// flockContext waits for an exclusive lock or the end of ctx. On failure it
// closes f, at the latest when the lock comes.
func flockContext(ctx context.Context, f *os.File) error {
	if err := flock(f, unix.LOCK_EX|unix.LOCK_NB); err != unix.EWOULDBLOCK {
		if err != nil {
			f.Close()
		}
		return err
	}
	user := holders(f) // while f is open
	locked := make(chan error)
	go func() {
		err := flock(f, unix.LOCK_EX)
		select {
		case locked <- err:
			if err == nil {
				return
			}
		case <-ctx.Done():
		}
		f.Close()
	}()
	select {
	case err := <-locked:
		return err
	case <-ctx.Done():
		return fmt.Errorf("it is in use by %s: %w", user, ctx.Err())
	}
}

func (s *store) recover() error {
	list, orphans, err := scan(s.dir)
	if err != nil {
		return err
	}
	errs := []error{removeHalfPacked(s.dir)}
	for _, segment := range orphans {
		errs = append(errs, removeRaw(s.dir, segment, Stdout), removeRaw(s.dir, segment, Stderr))
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	if len(list) == 0 {
		s.fresh = [2]bool{true, true}
		return s.newSegment(1)
	}
	s.segments = list
	return s.resume(list[len(list)-1])
}

// resume goes on with an existing segment.
func (s *store) resume(segment uint64) error {
	var sizes [2]int64
	var mtime int64
	for _, stream := range []Stream{Stdout, Stderr} {
		var st unix.Stat_t
		err := unix.Stat(rawPath(s.dir, segment, stream), &st)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		sizes[stream] = st.Size
		mtime = max(mtime, st.Mtim.Nano())
	}
	content, err := os.ReadFile(indexPath(s.dir, segment))
	if err != nil {
		return err
	}
	if s.index, err = openFile(indexPath(s.dir, segment), unix.O_RDWR); err != nil {
		return err
	}
	s.indexEnd, s.ends, s.last = repair(content, segment, sizes)
	s.rawEnd = sizes
	s.fresh = [2]bool{segment == 1, segment == 1}
	for at := int64(0); at < s.indexEnd; at += recordSize {
		r, _ := decodeRecord(content[at:], segment)
		s.note(r)
	}
	if s.indexEnd < int64(len(content)) {
		if err := s.index.Truncate(s.indexEnd); err != nil {
			return err
		}
	}
	if err := s.indexRaw(mtime); !scarce(err) {
		return err
	}
	return nil // the pump tries again
}

// indexRaw records what the raw files hold beyond what the index knows.
func (s *store) indexRaw(now int64) error {
	for _, stream := range []Stream{Stdout, Stderr} {
		if s.rawEnd[stream] == s.ends[stream] {
			continue
		}
		if err := s.append(record{now, s.rawEnd[stream], dataKind(stream)}); err != nil {
			return err
		}
		s.ends[stream] = s.rawEnd[stream]
	}
	return nil
}

func (s *store) current() uint64 { return s.segments[len(s.segments)-1] }

func (s *store) append(r record) error {
	var b [recordSize]byte
	if _, err := s.index.WriteAt(r.append(b[:0], s.current()), s.indexEnd); err != nil {
		return err
	}
	s.indexEnd += recordSize
	s.last = r
	s.note(r)
	return nil
}

// note keeps fresh up to date with a record.
func (s *store) note(r record) {
	if stream, data := r.kind.stream(); data {
		s.fresh[stream] = r.value == 0
	} else if r.kind != kindLost {
		s.fresh = [2]bool{true, true}
	}
}

// atLineStart tells whether the next byte of a stream is the first of a line.
func (s *store) atLineStart(stream Stream) bool {
	end := s.rawEnd[stream]
	if s.fresh[stream] && end == s.ends[stream] {
		return true
	}
	if end == 0 {
		return false
	}
	f, err := openFile(rawPath(s.dir, s.current(), stream), unix.O_RDONLY)
	if err != nil {
		return false
	}
	defer f.Close()
	var last [1]byte
	_, err = f.ReadAt(last[:], end-1)
	return err == nil && last[0] == '\n'
}

// mark appends a record that is not about bytes.
func (s *store) mark(k kind, value int64) error {
	return s.append(record{time.Now().UnixNano(), value, k})
}

func (s *store) used() int64 { return s.indexEnd + s.rawEnd[Stdout] + s.rawEnd[Stderr] }

// newSegment makes segment n the current one.
func (s *store) newSegment(n uint64) error {
	index, err := openFile(indexPath(s.dir, n), unix.O_RDWR|unix.O_CREAT|unix.O_TRUNC)
	if err != nil {
		return err
	}
	s.closeSegment()
	s.index, s.indexEnd = index, 0
	s.rawEnd, s.ends = [2]int64{}, [2]int64{}
	s.segments = append(s.segments, n)
	return nil
}

func (s *store) closeSegment() {
	if s.index != nil {
		s.index.Close()
	}
	for i, f := range s.raw {
		if f != nil {
			f.Close()
		}
		s.raw[i] = nil
	}
	s.index = nil
}

// close leaves the log to the next pump.
func (s *store) close() {
	s.closeSegment()
	s.buffer = nil
	s.lock.Close()
}

// rotate begins a new segment when the current one is full. It first deletes
// what the budget has no room for; a segment that is being read gives a
// heldError, unless force says to exceed the budget.
func (s *store) rotate(force bool) error {
	if s.used() < s.budget.MaxSize {
		return nil
	}
	if err := s.indexAll(); err != nil {
		return err // else the order of the two streams would be lost
	}
	for len(s.segments) >= s.budget.MaxFiles {
		err := s.deleteOldest()
		var held *heldError
		if errors.As(err, &held) && force {
			held.index.Close()
			break
		}
		if err != nil {
			return err
		}
	}
	whole := [2]bool{s.atLineStart(Stdout), s.atLineStart(Stderr)}
	if err := s.newSegment(s.current() + 1); err != nil {
		return err
	}
	select {
	case s.rotated <- struct{}{}:
	default:
	}
	// A record that a stream ends at 0 says that it begins with a line here: who
	// finds what was before deleted can show the first one. Without it he takes it
	// for the rest of one.
	for stream, is := range whole {
		s.fresh[stream] = is
		if is {
			s.append(record{time.Now().UnixNano(), 0, dataKind(Stream(stream))})
		}
	}
	return nil
}

// deleteOldest deletes the oldest segment, or returns a heldError. It works as
// well on the current segment, which the caller then has to replace.
func (s *store) deleteOldest() error {
	oldest := s.segments[0]
	index, err := openFile(indexPath(s.dir, oldest), unix.O_RDONLY)
	if errors.Is(err, fs.ErrNotExist) {
		s.segments = s.segments[1:]
		return nil
	}
	if err != nil {
		return err
	}
	if err := flock(index, unix.LOCK_EX|unix.LOCK_NB); err == unix.EWOULDBLOCK {
		return &heldError{oldest, index}
	} else if err != nil {
		index.Close()
		return err
	}
	defer index.Close()
	return s.dropOldest()
}

// dropOldest deletes the oldest segment, whoever reads it.
func (s *store) dropOldest() error {
	if err := removeSegment(s.dir, s.segments[0]); err != nil {
		return err
	}
	s.segments = s.segments[1:]
	return nil
}

// move moves bytes from a pipe to the log: some that are there now, none (0,
// nil) when the pipe is empty.
func (s *store) move(fd int, stream Stream, force bool) (int, error) {
	if err := s.rotate(force); err != nil {
		return 0, err
	}
	raw, err := s.rawFile(stream)
	if err != nil {
		return 0, err
	}
	room := int(min(spliceMax, max(s.budget.MaxSize-s.used()-recordSize, 1)))
	n, err := s.transfer(fd, stream, raw, s.rawEnd[stream], room)
	if n == 0 {
		return 0, err
	}
	s.rawEnd[stream] += int64(n)
	// An index record that cannot be written now is part of the next one.
	return n, s.indexAll()
}

// indexAll records bytes lost and bytes stored, in this order.
func (s *store) indexAll() error {
	if s.lost > 0 {
		if err := s.mark(kindLost, s.lost); err != nil {
			return err
		}
		s.lost = 0
	}
	return s.indexRaw(time.Now().UnixNano())
}

func (s *store) transfer(fd int, stream Stream, raw *os.File, at int64, room int) (int, error) {
	for !s.noSplice {
		n, err := unix.Splice(fd, nil, int(raw.Fd()), &at, room, unix.SPLICE_F_NONBLOCK|unix.SPLICE_F_MOVE)
		switch err {
		case nil:
			return int(n), nil
		case unix.EINTR:
		case unix.EAGAIN:
			return 0, nil
		case unix.EINVAL, unix.EOPNOTSUPP:
			s.noSplice = true
		default:
			return 0, &os.PathError{Op: "splice", Path: raw.Name(), Err: err}
		}
	}
	return s.copy(fd, stream, raw, at, room)
}

// copy is transfer for a file system or a terminal that cannot splice. A kill
// between its two calls loses what is in the buffer; a full disk does not.
func (s *store) copy(fd int, stream Stream, raw *os.File, at int64, room int) (int, error) {
	if len(s.unstored[stream]) == 0 {
		b := make([]byte, min(room, 64<<10))
		n, err := readSome(fd, b)
		if n == 0 {
			return 0, err
		}
		s.unstored[stream] = b[:n]
	}
	n, err := raw.WriteAt(s.unstored[stream], at)
	s.unstored[stream] = s.unstored[stream][n:]
	return n, err
}

// giveUp counts as lost what copy has read and cannot write.
func (s *store) giveUp() {
	for stream, b := range s.unstored {
		s.lost += int64(len(b))
		s.unstored[stream] = nil
	}
}

// readSome reads what is there. No data, no writer and a terminal without a
// process (EIO) are all the same: nothing now.
func readSome(fd int, b []byte) (int, error) {
	for {
		n, err := unix.Read(fd, b)
		switch err {
		case nil:
			return n, nil
		case unix.EINTR:
		case unix.EAGAIN, unix.EIO:
			return 0, nil
		default:
			return 0, fmt.Errorf("cannot read container output: %w", err)
		}
	}
}

func (s *store) rawFile(stream Stream) (*os.File, error) {
	if s.raw[stream] == nil {
		f, err := openFile(rawPath(s.dir, s.current(), stream), unix.O_WRONLY|unix.O_CREAT)
		if err != nil {
			return nil, err
		}
		s.raw[stream] = f
	}
	return s.raw[stream], nil
}

// makeRoom deletes the oldest segment that is not the current one, for a disk
// that is full.
func (s *store) makeRoom() bool {
	if len(s.segments) < 2 {
		return false
	}
	err := s.deleteOldest()
	var held *heldError
	if errors.As(err, &held) {
		held.index.Close()
	}
	return err == nil
}

// discard throws away what is in the pipe, and remembers how much.
func (s *store) discard(fd int) (int, error) {
	if s.buffer == nil {
		s.buffer = make([]byte, 64<<10)
	}
	n, err := readSome(fd, s.buffer)
	s.lost += int64(n)
	return n, err
}
