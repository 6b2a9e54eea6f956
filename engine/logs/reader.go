package logs

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"time"

	"github.com/stack-run/stack/engine/logs/inotify"
	"golang.org/x/sys/unix"
)

// Start is where reading begins, before Since and Tail narrow it.
type Start int

const (
	Beginning Start = iota
	LastRun         // where the container's newest run starts
	End             // what comes from now on
)

// NoTail is the Tail that reads nothing of what is there.
const NoTail = -1

// ReadOptions select what is read. The zero value reads all there is.
type ReadOptions struct {
	From         Start
	Since, Until time.Time // zero: no limit; both inclusive
	Tail         int       // the last so many lines; 0: all; NoTail: none
	// Stdout and Stderr choose the streams; both false means both.
	Stdout, Stderr bool

	// Follow waits for more, until the log is done or removed.
	Follow bool
	// UntilExit ends following at the end of a run too: once all is read and
	// the last thing read is that the container's process ended.
	UntilExit bool
	// Finish, when closed, ends following once all is read that is there.
	Finish <-chan struct{}
	// Lossless keeps what is not read yet from being deleted: a slow reader
	// holds the container back instead.
	Lossless bool

	// Watcher lets many readers share one inotify instance. Nil: an own one.
	Watcher *inotify.Watcher
	// Gap, if set, is told that so many segments were deleted before they were
	// read.
	Gap func(segments uint64)
	// Lost, if set, is told that so many bytes could not be stored.
	Lost func(bytes int64)
	// CaughtUp, if set, is called whenever all that is there has been read and
	// the reader begins to wait.
	CaughtUp func() error
}

func (o ReadOptions) streams() [2]bool {
	if !o.Stdout && !o.Stderr {
		return [2]bool{true, true}
	}
	return [2]bool{o.Stdout, o.Stderr}
}

// Reader reads one log. It needs no pump and no supervisor.
type Reader struct {
	dir  string
	held *cursor
}

// Create makes an empty log, so that it can be opened before the container
// starts.
func Create(ctx context.Context, dir string) error {
	s, err := openStore(ctx, dir, DefaultBudget())
	if err != nil {
		return err
	}
	s.close()
	return nil
}

// Open opens a log.
func Open(dir string) (*Reader, error) {
	if _, err := os.Stat(dir); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("cannot open log: %w; the container has not been started yet or is removed", err)
		}
		return nil, fmt.Errorf("cannot open log: %w", err)
	}
	return &Reader{dir: dir}, nil
}

// Hold fixes where the next lossless Read or Raw begins, and keeps all from
// there on from being deleted. A foreground run calls it with End before the
// container's process starts, and then misses nothing of it.
func (r *Reader) Hold(from Start) error {
	r.Close()
	if list, err := segments(r.dir); err == nil && len(list) == 0 {
		// There must be a segment to hold. Where a pump is just starting it makes
		// one itself, so this does not wait for it.
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		Create(ctx, r.dir)
	}
	c, _, err := r.begin(ReadOptions{From: from, Lossless: true})
	r.held = c
	return err
}

// Close releases what Hold holds.
func (r *Reader) Close() {
	if r.held != nil {
		r.held.close()
		r.held = nil
	}
}

// Read calls f with each entry, in the order of their newlines. It returns when
// all is read, for Follow when the log ends, or with f's or ctx's error.
func (r *Reader) Read(ctx context.Context, o ReadOptions, f func(Entry) error) error {
	out := &lineSink{}
	for s := range out.splitters {
		out.splitters[s] = splitter{stream: Stream(s), emit: f}
	}
	return r.walk(ctx, o, out)
}

// Raw writes the streams' bytes as the container printed them.
func (r *Reader) Raw(ctx context.Context, o ReadOptions, stdout, stderr io.Writer) error {
	return r.walk(ctx, o, rawSink{stdout, stderr})
}

// sink takes what a walk over a log finds.
type sink interface {
	data(Stream, int64, []byte) error
	// pending takes the beginning of a line that lies before the place where
	// reading begins.
	pending(Stream, []byte)
	// cut says that reading may begin inside of a line whose head is deleted.
	cut()
	// end marks the end of a run or of reading; growing says that more may come.
	end() error
}

type lineSink struct{ splitters [2]splitter }

func (l *lineSink) data(s Stream, t int64, b []byte) error { return l.splitters[s].feed(t, b) }
func (l *lineSink) pending(s Stream, b []byte)             { l.splitters[s].pending = b }
func (l *lineSink) cut() {
	for s := range l.splitters {
		l.splitters[s].skip = true
	}
}
func (l *lineSink) end() error {
	return errors.Join(l.splitters[Stdout].end(), l.splitters[Stderr].end())
}

type rawSink [2]io.Writer

func (w rawSink) data(s Stream, _ int64, b []byte) error {
	if w[s] == nil {
		return nil
	}
	_, err := w[s].Write(b)
	return err
}
func (w rawSink) pending(Stream, []byte) {}
func (w rawSink) cut()                   {}
func (w rawSink) end() error             { return nil }

// begin opens a cursor where o says.
func (r *Reader) begin(o ReadOptions) (*cursor, place, error) {
	for {
		c := &cursor{dir: r.dir, lossless: o.Lossless}
		pl, err := r.locate(o)
		if err == nil && pl.segment != 0 {
			if err = c.enter(pl.segment); err == nil {
				c.next, c.at = pl.next, pl.at
			}
		}
		if err == nil {
			return c, pl, nil
		}
		c.close()
		if !errors.Is(err, fs.ErrNotExist) {
			return nil, pl, fmt.Errorf("cannot read log %s: %w", r.dir, err)
		}
		// A segment was deleted meanwhile: look again at what there is now.
	}
}

func (r *Reader) locate(o ReadOptions) (pl place, err error) {
	l, err := newLocator(r.dir)
	if err != nil || len(l.list) == 0 {
		return place{}, err
	}
	defer l.close()
	if o.From == Beginning && o.Since.IsZero() && o.Tail == 0 {
		return place{segment: l.list[0], cut: l.list[0] > 1}, nil
	}
	floor := spot{}
	if o.From == LastRun {
		if floor, err = l.lastRun(); err != nil {
			return place{}, err
		}
	}
	if o.From == End || o.Tail < 0 {
		floor = l.end()
	} else if !o.Since.IsZero() {
		since, err := l.since(o.Since)
		if err != nil {
			return place{}, err
		}
		if since.page > floor.page || since.page == floor.page && since.record > floor.record {
			floor = since
		}
	}
	if o.Tail > 0 && floor.page < len(l.list) {
		pl, err = l.tail(o.Tail, o.streams(), floor, untilNano(o.Until))
	} else {
		var p *place
		if p, err = l.place(floor); err == nil {
			pl = *p
		}
	}
	if err != nil || o.From == LastRun && o.Tail == 0 && o.Since.IsZero() {
		return pl, err
	}
	for s, wanted := range o.streams() {
		if wanted {
			if pl.pending[s], err = l.pending(pl, Stream(s)); err != nil {
				return pl, err
			}
		}
	}
	return pl, nil
}

func untilNano(t time.Time) int64 {
	if t.IsZero() {
		return math.MaxInt64
	}
	return t.UnixNano()
}

// walk reads a log from where o says and feeds out.
func (r *Reader) walk(ctx context.Context, o ReadOptions, out sink) (err error) {
	w := walk{o: o, out: out, streams: o.streams(), until: untilNano(o.Until)}
	if r.held != nil && o.Lossless {
		w.c, r.held = r.held, nil
	} else {
		c, pl, err := r.begin(o)
		if err != nil {
			return err
		}
		w.c = c
		if pl.cut {
			out.cut()
		}
		for s, b := range pl.pending {
			if len(b) > 0 {
				out.pending(Stream(s), b)
			}
		}
	}
	defer w.c.close()
	if !o.Follow {
		return w.all(ctx)
	}
	watcher := o.Watcher
	if watcher == nil {
		if watcher, err = inotify.New(nil); err != nil {
			return err
		}
		defer watcher.Close()
	}
	w.watch = watcher.NewWatch()
	defer w.watch.Close()
	return w.follow(ctx)
}

// walk is one pass over a log.
type walk struct {
	c       *cursor
	o       ReadOptions
	out     sink
	streams [2]bool
	until   int64

	last     kind // of the newest record read
	past     bool // Until is over
	over     bool // the moment of Until has passed
	removed  bool // the log is deleted
	watch    *inotify.Watch
	watching string // the index that is watched
}

// all reads what is there. A log without a pump is read to the last stored
// byte, indexed or not.
func (w *walk) all(ctx context.Context) error {
	if err := w.available(ctx); err != nil {
		return err
	}
	if !w.past && w.c.index != nil && !pumpRuns(w.c.dir) {
		// The pump may have ended after the first look.
		if err := w.available(ctx); err != nil {
			return err
		}
		if err := w.extra(); err != nil {
			return err
		}
	}
	return w.out.end()
}

// extra reads what the index of the segment lacks.
func (w *walk) extra() error {
	for _, r := range w.c.missing() {
		if err := w.take(r); err != nil {
			return err
		}
	}
	return nil
}

// follow reads what is there and what comes.
func (w *walk) follow(ctx context.Context) error {
	if err := w.watch.Add(w.c.dir, unix.IN_CREATE|unix.IN_DELETE|unix.IN_DELETE_SELF|unix.IN_ONLYDIR); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return err
	}
	var over <-chan time.Time
	if !w.o.Until.IsZero() {
		timer := time.NewTimer(time.Until(w.o.Until))
		defer timer.Stop()
		over = timer.C
	}
	for {
		if err := w.available(ctx); err != nil {
			return err
		}
		if w.past || w.over || w.removed || w.last == kindDone || w.o.UntilExit && w.last == kindRunEnd {
			return w.out.end()
		}
		if w.c.index != nil && w.watching != w.c.index.Name() {
			if w.watching != "" {
				w.watch.Remove(w.watching)
			}
			w.watching = w.c.index.Name()
			err := w.watch.Add(w.watching, unix.IN_MODIFY|unix.IN_ATTRIB)
			if err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
			continue // it may have grown before the watch was there
		}
		if w.o.CaughtUp != nil {
			if err := w.o.CaughtUp(); err != nil {
				return err
			}
		}
		select {
		case <-w.watch.C:
		case <-over:
			w.over = true // read what is there, then end
		case <-w.o.Finish:
			w.over = true
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// available reads the records that are there.
func (w *walk) available(ctx context.Context) error {
	for !w.past && !w.removed {
		if err := ctx.Err(); err != nil {
			return err
		}
		r, ok, err := w.record()
		if err != nil {
			return err
		}
		if !ok {
			return nil
		}
		if err := w.take(r); err != nil {
			return err
		}
	}
	return nil
}

// take hands on what a record speaks of.
func (w *walk) take(r record) error {
	w.last = r.kind
	s, data := r.kind.stream()
	switch {
	case data && r.time > w.until:
		w.past = true
		return nil
	case data && !w.streams[s]:
		w.c.at[s] = r.value
		return nil
	case data:
		return w.c.chunk(s, r.value, func(b []byte) error { return w.out.data(s, r.time, b) })
	case r.kind == kindLost && w.o.Lost != nil:
		w.o.Lost(r.value)
	}
	return w.out.end()
}

// record returns the next record, from the next segment if need be.
func (w *walk) record() (r record, ok bool, err error) {
	c := w.c
	for {
		if c.index == nil {
			if ok, err = c.enterOldest(0); !ok || err != nil {
				return r, false, err
			}
		}
		if r, ok, err = c.read(); ok || err != nil {
			return r, ok, err
		}
		if !c.sealed {
			next, err := w.newer()
			if !next || err != nil {
				return r, false, err
			}
			c.sealed = true
			continue // the last records may have come since
		}
		// A pump that was killed left bytes without a record, and then the
		// machine lost power: the raw file is all there is.
		if err := w.extra(); err != nil {
			return r, false, err
		}
		from := c.segment
		if ok, err = c.enterOldest(from); err != nil {
			return r, false, err
		}
		if !ok {
			w.removed = true
			return r, false, nil
		}
		if gap := c.segment - from - 1; gap > 0 {
			if err := w.out.end(); err != nil {
				return r, false, err
			}
			if w.o.Gap != nil {
				w.o.Gap(gap)
			}
		}
	}
}

// newer tells whether the current segment has a successor. It notices that the
// log is gone.
func (w *walk) newer() (bool, error) {
	if _, err := os.Stat(indexPath(w.c.dir, w.c.segment+1)); err == nil {
		return true, nil
	}
	if !gone(w.c.index) {
		return false, nil
	}
	list, err := segments(w.c.dir)
	if err != nil {
		return false, err
	}
	if len(list) > 0 && list[len(list)-1] > w.c.segment {
		return true, nil
	}
	// Gone with the log, or the pump is between deleting and making a segment.
	if _, err := os.Stat(w.c.dir); errors.Is(err, fs.ErrNotExist) {
		w.removed = true
	}
	return false, nil
}
