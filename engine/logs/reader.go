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
	// CaughtUp, if set, is called whenever all that is there has been read and the
	// reader begins to wait or to end, with the place to which it has come.
	CaughtUp func(Position) error
	// After, if set, is the place where reading begins, instead of From.
	After *Position
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

// Open opens a log. Until a container starts, its directory is one with nothing in it.
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
		switch s, err := reopenStore(ctx, r.dir, DefaultBudget()); {
		case err == nil:
			s.close()
		case errors.Is(err, fs.ErrNotExist):
			return err
		}
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
	out := &lineSink{emit: f}
	for s := range out.splitters {
		out.splitters[s] = splitter{stream: Stream(s), emit: out.place}
	}
	return r.walk(ctx, o, out)
}

// Raw writes the streams' bytes as the container printed them.
func (r *Reader) Raw(ctx context.Context, o ReadOptions, stdout, stderr io.Writer) error {
	return r.walk(ctx, o, rawSink{stdout, stderr})
}

// sink takes what a walk over a log finds.
type sink interface {
	// begin is called once, before all else.
	begin(*cursor)
	data(Stream, int64, []byte) error
	// pending takes the beginning of a line that lies before the place where
	// reading begins.
	pending(Stream, []byte)
	// cut says that what comes of a stream may begin inside of a line whose head is
	// deleted; so is the end of the line that is pending.
	cut(Stream)
	// whole says that what comes of a stream begins with a line.
	whole(Stream)
	// unfinished returns when the newest piece was stored of lines that have begun
	// and not ended, 0 without such a line. From then on the sink takes only what is
	// missing of them.
	unfinished() int64
	// end marks the end of a run or of reading.
	end() error
}

type lineSink struct {
	splitters [2]splitter
	cursor    *cursor
	emit      func(Entry) error
}

// place tells of an entry where it ends.
func (l *lineSink) place(e Entry) error {
	if !e.Partial {
		e.End = l.cursor.position(recordSize)
		e.End.At[e.Stream] -= int64(l.splitters[e.Stream].left)
	}
	return l.emit(e)
}

func (l *lineSink) begin(c *cursor)                        { l.cursor = c }
func (l *lineSink) data(s Stream, t int64, b []byte) error { return l.splitters[s].feed(t, b) }
func (l *lineSink) pending(s Stream, b []byte)             { l.splitters[s].pending = b }
func (l *lineSink) cut(s Stream) {
	l.splitters[s].pending, l.splitters[s].skip = nil, true
}
func (l *lineSink) whole(s Stream) { l.splitters[s].skip = false }
func (l *lineSink) unfinished() (newest int64) {
	for s := range l.splitters {
		x := &l.splitters[s]
		x.closing = true
		if len(x.pending) > 0 {
			newest = max(newest, x.time)
		}
	}
	return newest
}
func (l *lineSink) end() error {
	return errors.Join(l.splitters[Stdout].end(), l.splitters[Stderr].end())
}

type rawSink [2]io.Writer

func (w rawSink) begin(*cursor) {}
func (w rawSink) data(s Stream, _ int64, b []byte) error {
	if w[s] == nil {
		return nil
	}
	_, err := w[s].Write(b)
	return err
}
func (w rawSink) pending(Stream, []byte) {}
func (w rawSink) cut(Stream)             {}
func (w rawSink) whole(Stream)           {}
func (w rawSink) unfinished() int64      { return 0 }
func (w rawSink) end() error             { return nil }

// begin opens a cursor where o says.
func (r *Reader) begin(o ReadOptions) (*cursor, place, error) {
	for again := 0; ; again++ {
		c := &cursor{dir: r.dir, lossless: o.Lossless}
		pl, err := r.locate(o)
		if err == nil && pl.segment != 0 {
			if err = c.enter(pl.segment); err == nil {
				c.next, c.at = pl.next, pl.at
			}
		}
		if err == nil && pl.segment == 0 && again < 10 && pumpRuns(r.dir) {
			continue // a listing can miss all of a directory whose files come and go
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
	defer func() {
		if err == nil {
			pl.stop, err = l.known()
		}
	}()
	if o.After != nil {
		return l.resume(*o.After, o.streams())
	}
	deleted := l.list[0] > 1
	if o.From == Beginning && o.Since.IsZero() && o.Tail == 0 {
		return place{segment: l.list[0], cut: [2]bool{deleted, deleted}}, nil
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
	if err != nil {
		return pl, err
	}
	if pl.segment == l.list[0] && pl.next == 0 && pl.at == [2]int64{} {
		pl.cut = [2]bool{deleted, deleted}
		return pl, nil
	}
	if o.From == LastRun && o.Tail == 0 && o.Since.IsZero() {
		return pl, nil
	}
	err = l.heads(&pl, o.streams())
	return pl, err
}

func untilNano(t time.Time) int64 {
	if t.IsZero() {
		return math.MaxInt64
	}
	return t.UnixNano()
}

// walk reads a log from where o says and feeds out.
func (r *Reader) walk(ctx context.Context, o ReadOptions, out sink) (err error) {
	w := walk{o: o, out: out, streams: o.streams(), until: untilNano(o.Until), live: !o.Follow && pumpRuns(r.dir)}
	if r.held != nil && o.Lossless {
		w.c, r.held = r.held, nil
		out.begin(w.c)
	} else {
		c, pl, err := r.begin(o)
		if err != nil {
			return err
		}
		out.begin(c)
		w.c, w.stop = c, pl.stop
		if pl.gap > 0 && o.Gap != nil {
			o.Gap(pl.gap)
		}
		for s, b := range pl.pending {
			if len(b) > 0 {
				out.pending(Stream(s), b)
			}
			if pl.cut[s] {
				out.cut(Stream(s))
			}
		}
	}
	defer w.c.close()
	if !w.live {
		w.stop = mark{} // nothing comes, or all is wanted
	}
	if !o.Follow {
		return w.all(ctx)
	}
	if o.UntilExit {
		// A run that is over needs no watch.
		if err := w.available(ctx); err != nil {
			return err
		}
		if w.ended() {
			return w.finish(ctx)
		}
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
	live     bool // a pump stores more while this reads what there was
	stop     mark // where what there was at the beginning ends, for who does not follow
	moved    int  // how often stop was
	torn     bool // a part of this segment was deleted before it was read
	watch    *inotify.Watch
	watching string // the index that is watched
}

// all reads what there was at the beginning: a container may print faster than
// this reads. A log without a pump is read to the last stored byte, indexed or not.
func (w *walk) all(ctx context.Context) error {
	if err := w.available(ctx); err != nil {
		return err
	}
	var err error
	switch {
	case w.past || w.c.index == nil:
	case w.live:
		err = w.settle(ctx)
	default:
		err = w.extra()
	}
	if err != nil {
		return err
	}
	return w.out.end()
}

// settleBound limits how long after a piece of a line its end is waited for. The
// pump may take a line in two pieces, one right after the other; what is longer in
// coming is a prompt, or a line that its container takes time to write.
const settleBound = time.Second

// settle reads the ends of the lines that have begun.
func (w *walk) settle(ctx context.Context) error {
	if w.out.unfinished() == 0 {
		return nil
	}
	// It may be there by now, if reading took its time.
	var err error
	if w.stop, err = w.end(); err == nil {
		err = w.available(ctx)
	}
	begun := w.out.unfinished()
	if begun == 0 || err != nil {
		return err
	}
	w.stop = mark{}
	bound := settleBound - time.Since(time.Unix(0, begun))
	patience, cancel := context.WithTimeout(ctx, min(bound, settleBound))
	defer cancel()
	look := time.NewTicker(settleBound / 200)
	defer look.Stop()
	for w.out.unfinished() != 0 && !w.past && !w.removed && patience.Err() == nil {
		r, ok, err := w.record()
		if err == nil && ok {
			err = w.take(r)
		}
		if err != nil {
			return err
		}
		if !ok {
			select {
			case <-look.C:
			case <-patience.Done():
			}
		}
	}
	return ctx.Err()
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
		if w.over || w.ended() {
			return w.finish(ctx)
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
			if err := w.o.CaughtUp(w.c.position(0)); err != nil {
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

// ended tells whether no more is to come of what is followed.
func (w *walk) ended() bool {
	return w.past || w.removed || w.last == kindDone || w.o.UntilExit && w.last == kindRunEnd
}

// finish reads the ends of lines and tells that the log is read.
func (w *walk) finish(ctx context.Context) error {
	if err := w.settle(ctx); err != nil {
		return err
	}
	if err := w.out.end(); err != nil || w.o.CaughtUp == nil {
		return err
	}
	return w.o.CaughtUp(w.c.position(0))
}

// available reads the records that are there.
func (w *walk) available(ctx context.Context) error {
	for !w.past && !w.removed {
		if err := ctx.Err(); err != nil {
			return err
		}
		if w.c.reached(w.stop) {
			return nil
		}
		r, ok, err := w.record()
		if err != nil {
			return err
		}
		if !ok {
			return nil
		}
		if w.c.beyond(w.stop) {
			w.c.unread()
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
	s, data := r.kind.stream()
	if data && r.value == 0 { // see store.rotate
		w.out.whole(s)
		return nil
	}
	w.last = r.kind
	switch {
	case data && r.time > w.until:
		w.past = true
		return nil
	case data && !w.streams[s]:
		w.c.at[s] = r.value
		return nil
	case data:
		err := w.c.chunk(s, r.value, func(b []byte) error { return w.out.data(s, r.time, b) })
		if errors.Is(err, errDeleted) {
			w.out.cut(s)
			w.c.at[s], err = r.value, nil
			if !w.torn {
				w.torn = true
				err = w.gap(1)
			}
		}
		return err
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
		w.torn = false
		if gap := c.segment - from - 1; gap > 0 {
			w.out.cut(Stdout)
			w.out.cut(Stderr)
			if err := w.gap(gap); err != nil {
				return r, false, err
			}
		}
	}
}

// gap says that segments were deleted before they were read.
func (w *walk) gap(segments uint64) error {
	if w.stop.segment != 0 && w.moved < maxMoved {
		// What was to be read is gone: what has taken its place is read instead.
		if end, err := w.end(); err == nil {
			w.stop = end
			w.moved++
		}
	}
	if w.o.Gap != nil {
		w.o.Gap(segments)
	} else if w.o.Lossless {
		return fmt.Errorf("a part of the log %s was deleted before it was read: nothing of it was taken for %v", w.c.dir, readerDead)
	}
	return nil
}

// maxMoved limits how often the end of reading is put off: with a budget of little
// that is used up again and again, reading would never end.
const maxMoved = 3

// end is the end of what there is.
func (w *walk) end() (at mark, err error) {
	for range 10 {
		l, err := newLocator(w.c.dir)
		if err != nil || len(l.list) == 0 {
			return w.stop, err
		}
		if at, err = l.known(); !errors.Is(err, fs.ErrNotExist) {
			return at, err
		}
	}
	return w.stop, nil // it is deleted as fast as it is looked for
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
