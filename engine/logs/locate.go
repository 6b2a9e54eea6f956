package logs

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// place is where a reader begins.
type place struct {
	segment uint64 // 0: the log has none
	next    int64  // offset in the index
	at      [2]int64
	// pending is what was stored before of lines that end after the place.
	pending [2][]byte
	// cut says that what was before is deleted: the place may be inside of a line.
	cut [2]bool
	// stop is where what is known ended when the place was looked for.
	stop mark
	// gap is how many segments are deleted between what was asked for and the place.
	gap uint64
}

// mark is an end in a log's indexes; the zero value is none.
type mark struct {
	segment uint64
	next    int64 // offset in the index
}

// locator finds places from the end of a log backwards, so that its cost
// depends on what is asked for and not on the log's size.
type locator struct {
	dir   string
	list  []uint64
	pages []*page // by position in list, nil until needed
}

// page is the index of one segment in memory.
type page struct {
	segment uint64
	records []record
	real    int     // records that are in the index; the rest is made up
	starts  []int64 // where a data record's bytes begin
	raw     [2]*os.File
	windows [2]window
}

// spot is a position in a log: before a record, by positions in list and
// records.
type spot struct{ page, record int }

func newLocator(dir string) (*locator, error) {
	list, err := segments(dir)
	return &locator{dir: dir, list: list, pages: make([]*page, len(list))}, err
}

func (l *locator) close() {
	for _, p := range l.pages {
		if p == nil {
			continue
		}
		for _, f := range p.raw {
			if f != nil {
				f.Close()
			}
		}
	}
}

func (l *locator) page(i int) (*page, error) {
	if l.pages[i] != nil {
		return l.pages[i], nil
	}
	n := l.list[i]
	p := &page{segment: n}
	content, err := os.ReadFile(indexPath(l.dir, n))
	if err != nil {
		return nil, err
	}
	var ends, sizes, mtimes [2]int64
	for _, s := range []Stream{Stdout, Stderr} {
		p.raw[s], err = openRaw(l.dir, n, s)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		var st unix.Stat_t
		if err := unix.Fstat(int(p.raw[s].Fd()), &st); err != nil {
			return nil, err
		}
		sizes[s], mtimes[s] = st.Size, st.Mtim.Nano()
	}
	deleted := false
	add := func(r record) {
		start := int64(0)
		if s, data := r.kind.stream(); data {
			deleted = deleted || r.value > 0 && p.raw[s] == nil
			r.value = min(r.value, sizes[s]) // a power failure may have cut the file short
			start, ends[s] = ends[s], r.value
		}
		p.records = append(p.records, r)
		p.starts = append(p.starts, start)
	}
	p.records = make([]record, 0, len(content)/recordSize+2)
	p.starts = make([]int64, 0, len(content)/recordSize+2)
	for {
		r, ok := decodeRecord(content, n)
		if !ok {
			break
		}
		add(r)
		content = content[recordSize:]
	}
	p.real = len(p.records)
	if deleted {
		// The pump deletes the index first.
		if _, err := os.Stat(indexPath(l.dir, n)); err != nil {
			return nil, err
		}
	}
	if i < len(l.list)-1 || !pumpRuns(l.dir) {
		for s, size := range sizes {
			if size > ends[s] {
				add(record{mtimes[s], size, dataKind(Stream(s))})
			}
		}
	}
	l.pages[i] = p
	return p, nil
}

// known is the end of what there was when the last segment was looked at.
func (l *locator) known() (mark, error) {
	last := len(l.list) - 1
	if p := l.pages[last]; p != nil {
		return mark{p.segment, int64(p.real) * recordSize}, nil
	}
	st, err := os.Stat(indexPath(l.dir, l.list[last]))
	if err != nil {
		return mark{}, err
	}
	return mark{l.list[last], st.Size() / recordSize * recordSize}, nil
}

// pumpRuns tells whether a pump has the log.
func pumpRuns(dir string) bool {
	f, err := openFile(dir, unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return false
	}
	defer f.Close()
	return flock(f, unix.LOCK_SH|unix.LOCK_NB) == unix.EWOULDBLOCK
}

// before returns up to 64 KiB of a raw file that end at offset end.
func (p *page) before(s Stream, start, end int64) ([]byte, error) {
	w := &p.windows[s]
	if end <= w.start || end > w.start+int64(len(w.data)) {
		if p.raw[s] == nil {
			return nil, nil
		}
		if w.mem == nil {
			w.mem = make([]byte, windowSize)
		}
		from := max(0, end-windowSize)
		n, err := p.raw[s].ReadAt(w.mem[:end-from], from)
		if err != nil && err != io.EOF {
			return nil, err
		}
		w.data, w.start = w.mem[:n], from
		if from+int64(n) < end {
			return nil, nil // cut short by a power failure
		}
	}
	return w.data[max(start, w.start)-w.start : end-w.start], nil
}

// back calls f for each record before from, newest first, until it returns
// false.
func (l *locator) back(from spot, f func(spot, *page, record) (bool, error)) error {
	for i := min(from.page, len(l.list)-1); i >= 0; i-- {
		p, err := l.page(i)
		if err != nil {
			return err
		}
		j := len(p.records)
		if i == from.page {
			j = min(j, from.record)
		}
		for j--; j >= 0; j-- {
			if more, err := f(spot{i, j}, p, p.records[j]); !more || err != nil {
				return err
			}
		}
	}
	return nil
}

func (l *locator) end() spot { return spot{len(l.list), 0} }

// lastRun returns the start of the newest run.
func (l *locator) lastRun() (at spot, err error) {
	err = l.back(l.end(), func(s spot, _ *page, r record) (bool, error) {
		at = s
		return r.kind != kindRunStart, nil
	})
	return at, err
}

// since returns the oldest record from which on all are not older than t.
func (l *locator) since(t time.Time) (at spot, err error) {
	at = l.end()
	err = l.back(at, func(s spot, _ *page, r record) (bool, error) {
		if r.time < t.UnixNano() {
			return false, nil
		}
		at = s
		return true, nil
	})
	return at, err
}

// tail returns the place after which n lines of the streams end, not looking
// before floor nor at what is newer than until.
func (l *locator) tail(n int, streams [2]bool, floor spot, until int64) (place, error) {
	count := 0
	unterminated := [2]bool{true, true} // not known yet to end in a newline
	var barrier spot                    // the end of a run that was seen last
	var found *place
	err := l.back(l.end(), func(at spot, p *page, r record) (bool, error) {
		if at.page < floor.page || at.page == floor.page && at.record < floor.record {
			return false, nil
		}
		if r.kind == kindRunEnd || r.kind == kindRunStart {
			unterminated = [2]bool{true, true}
			barrier = at
			return true, nil
		}
		s, data := r.kind.stream()
		if !data || !streams[s] || r.time > until {
			return true, nil
		}
		start := p.starts[at.record]
		for end := r.value; end > start; {
			b, err := p.before(s, start, end)
			if err != nil {
				return false, err
			}
			if len(b) == 0 {
				break
			}
			if unterminated[s] {
				unterminated[s] = false
				if b[len(b)-1] != '\n' {
					if count++; count > n {
						barrier.record++
						found, err = l.place(barrier)
						return false, err
					}
				}
			}
			lines := bytes.Count(b, []byte{'\n'})
			if count+lines > n {
				i := len(b)
				for ; count <= n; count++ {
					i = bytes.LastIndexByte(b[:i], '\n')
				}
				if found, err = l.place(at); err != nil {
					return false, err
				}
				found.at[s] = end - int64(len(b)) + int64(i) + 1
				return false, nil
			}
			count += lines
			end -= int64(len(b))
		}
		return true, nil
	})
	if err != nil {
		return place{}, err
	}
	if found == nil {
		if found, err = l.place(floor); err != nil {
			return place{}, err
		}
	}
	return *found, nil
}

// place turns a spot into a place without pending bytes.
func (l *locator) place(at spot) (*place, error) {
	if len(l.list) == 0 {
		return &place{}, nil
	}
	atEnd := at.page >= len(l.list)
	p, err := l.page(min(at.page, len(l.list)-1))
	if err != nil {
		return nil, err
	}
	if atEnd {
		at.record = len(p.records)
	}
	pl := &place{segment: p.segment, next: int64(min(at.record, p.real)) * recordSize}
	for _, r := range p.records[:at.record] {
		if s, data := r.kind.stream(); data {
			pl.at[s] = r.value
		}
	}
	return pl, nil
}

// heads fills in what was stored before a place of lines that end after it.
func (l *locator) heads(pl *place, streams [2]bool) (err error) {
	for s, wanted := range streams {
		if wanted {
			if pl.pending[s], pl.cut[s], err = l.pending(*pl, Stream(s)); err != nil {
				return err
			}
		}
	}
	return nil
}

// pending returns the bytes before a place that belong to the stream's
// unfinished line there, at most maxPiece, or that the head of it is deleted.
func (l *locator) pending(pl place, s Stream) (head []byte, cut bool, err error) {
	i := 0
	for i < len(l.list) && l.list[i] != pl.segment {
		i++
	}
	if i == len(l.list) || l.pages[i] == nil {
		return nil, false, nil
	}
	var parts [][]byte
	size := 0
	complete := l.list[0] == 1
	// The record at the place may be a data record that the place cuts in two.
	from := spot{i, int(pl.next/recordSize) + 1}
	if from.record > l.pages[i].real {
		from.record = len(l.pages[i].records)
	}
	err = l.back(from, func(at spot, p *page, r record) (bool, error) {
		end, start := r.value, p.starts[at.record]
		inside := at.page == i && at.record >= int(pl.next/recordSize)
		if inside {
			end = min(end, pl.at[s])
		}
		if !inside && (r.kind == kindRunEnd || r.kind == kindRunStart) {
			complete = true
			return false, nil
		}
		if of, data := r.kind.stream(); !data || of != s {
			return true, nil
		}
		if r.value == 0 { // see store.rotate
			complete = true
			return false, nil
		}
		for end > start {
			b, err := p.before(s, start, end)
			if err != nil || len(b) == 0 {
				return false, err
			}
			newline := bytes.LastIndexByte(b, '\n')
			part := bytes.Clone(b[newline+1:])
			parts = append(parts, part)
			size += len(part)
			if newline >= 0 || size >= maxPiece {
				complete = true
				return false, nil
			}
			end -= int64(len(b))
		}
		return true, nil
	})
	if err != nil || !complete {
		return nil, !complete, err
	}
	head = make([]byte, 0, size)
	for i := len(parts) - 1; i >= 0; i-- {
		head = append(head, parts[i]...)
	}
	return head, false, nil
}
