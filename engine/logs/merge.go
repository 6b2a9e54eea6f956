package logs

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/stack-run/stack/engine/logs/inotify"
)

// reorder is how long a line that is followed may wait for older lines of other
// logs. Pumps of different projects write at different moments.
const reorder = 10 * time.Millisecond

// Batches keep the goroutines of a merge from meeting at every line.
const (
	batchEntries = 256
	batchBytes   = 64 << 10
)

// Merger reads many logs at once and gives out their entries in the order of
// time: exactly for what is there when reading begins, and for what is followed
// as far as lines are not later than 10 ms.
type Merger struct {
	emit    func(source int, e Entry) error
	watcher *inotify.Watcher

	mu      sync.Mutex
	wake    chan struct{} // has a value after a change that Run has to look at
	sources []*source
	notes   []note // in the order of their times
	sealed  bool
}

// note is what is to be done between two entries.
type note struct {
	at time.Time
	do func()
}

// source is one log of a merge. Its reader fills at most one batch ahead.
type source struct {
	id      int
	filling batch
	free    chan struct{} // a value: ready may be replaced

	// Guarded by the merger's mutex.
	ready  batch
	taken  int  // entries of ready given out
	idle   bool // all there was has been handed over; the reader waits
	ended  bool
	err    error
	arrive time.Time // of ready
}

// exhausted is for Run only, which alone takes and waits.
func (s *source) exhausted() bool { return s.taken == len(s.ready.entries) }

type batch struct {
	entries []Entry
	bytes   []byte
}

// NewMerger returns a merger without logs. emit is called from Run only. The
// watcher is for logs that are followed; it may be nil where none is.
func NewMerger(watcher *inotify.Watcher, emit func(source int, e Entry) error) *Merger {
	return &Merger{emit: emit, watcher: watcher, wake: make(chan struct{}, 1)}
}

// Add begins to read another log; it may be called while Run runs. Entries
// carry the given number. The reader is read with o, whose Watcher and
// CaughtUp are the merger's. When ctx is done, this log ends.
func (m *Merger) Add(ctx context.Context, id int, r *Reader, o ReadOptions) {
	s := &source{id: id, free: make(chan struct{}, 1)}
	s.free <- struct{}{}
	m.mu.Lock()
	m.sources = append(m.sources, s)
	m.mu.Unlock()
	o.Watcher = m.watcher
	o.CaughtUp = func(Position) error {
		if err := m.hand(ctx, s); err != nil {
			return err
		}
		m.change(func() { s.idle = true })
		return nil
	}
	go func() {
		err := r.Read(ctx, o, func(e Entry) error { return m.fill(ctx, s, e) })
		if err == nil {
			err = m.hand(ctx, s)
		}
		m.change(func() { s.ended, s.err = true, err })
	}()
}

// Note has Run call do in the place of an entry of now: after all older ones, those
// that are followed if they are not later than 10 ms.
func (m *Merger) Note(do func()) {
	m.change(func() { m.notes = append(m.notes, note{time.Now(), do}) })
}

// Seal says that no log is added any more, so Run ends with the last one.
func (m *Merger) Seal() { m.change(func() { m.sealed = true }) }

func (m *Merger) change(f func()) {
	m.mu.Lock()
	f()
	m.mu.Unlock()
	select {
	case m.wake <- struct{}{}:
	default:
	}
}

// fill adds an entry to the batch in the making.
func (m *Merger) fill(ctx context.Context, s *source, e Entry) error {
	b := &s.filling
	at := len(b.bytes)
	if len(b.entries) == batchEntries || at > 0 && at+len(e.Data) > batchBytes {
		if err := m.hand(ctx, s); err != nil {
			return err
		}
		at = 0
	}
	b.bytes = append(b.bytes, e.Data...)
	e.Data = b.bytes[at:len(b.bytes):len(b.bytes)]
	b.entries = append(b.entries, e)
	return nil
}

// hand passes the batch to Run, once that is through with the one before.
func (m *Merger) hand(ctx context.Context, s *source) error {
	if len(s.filling.entries) == 0 {
		return nil
	}
	select {
	case <-s.free:
	case <-ctx.Done():
		return ctx.Err()
	}
	m.change(func() {
		old := s.ready
		s.ready, s.taken, s.idle, s.arrive = s.filling, 0, false, time.Now()
		s.filling = batch{old.entries[:0], old.bytes[:0]}
	})
	return nil
}

// Run gives out entries until all logs have ended and the merger is sealed, or
// until emit fails or ctx is done. Logs that end with an error do not end the
// others; their errors are returned joined.
func (m *Merger) Run(ctx context.Context) error {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		wait, done, err := m.round()
		if done || err != nil {
			return err
		}
		if wait > 0 {
			timer.Reset(wait)
		} else {
			timer.Stop()
		}
		select {
		case <-m.wake:
		case <-timer.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// round gives out what may go. wait, if not 0, is when the next entry may.
func (m *Merger) round() (wait time.Duration, done bool, err error) {
	for {
		s, e, do, wait, done := m.next()
		switch {
		case do != nil:
			do()
			continue
		case done:
			return 0, true, m.failures()
		case s == nil:
			return wait, false, nil
		}
		if err := m.emit(s.id, e); err != nil {
			return 0, false, err
		}
		if s.exhausted() {
			s.free <- struct{}{} // only now: e.Data was a part of the batch
		}
	}
}

// next takes the oldest entry or note, if it is sure enough to be the oldest.
func (m *Merger) next() (_ *source, _ Entry, do func(), wait time.Duration, done bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	var oldest *source
	open, live := false, false
	for _, s := range m.sources {
		if s.taken < len(s.ready.entries) {
			if oldest == nil || s.ready.entries[s.taken].Time.Before(oldest.ready.entries[oldest.taken].Time) {
				oldest = s
			}
			continue
		}
		switch {
		case s.ended:
		case s.idle:
			live = true
		default:
			open = true // its next entry may be older than all
		}
	}
	if open {
		// Who has nothing to give out while it reads history must be waited for.
		return nil, Entry{}, nil, 0, false
	}
	if len(m.notes) > 0 && (oldest == nil || !oldest.ready.entries[oldest.taken].Time.Before(m.notes[0].at)) {
		n := m.notes[0]
		if wait := reorder - time.Since(n.at); live && wait > 0 {
			return nil, Entry{}, nil, wait, false
		}
		m.notes = m.notes[1:]
		return nil, Entry{}, n.do, 0, false
	}
	if oldest == nil {
		return nil, Entry{}, nil, 0, m.sealed && !live
	}
	e := oldest.ready.entries[oldest.taken]
	if live {
		// Not before the others had their time, even with a clock set back.
		due := e.Time
		if oldest.arrive.Before(due) {
			due = oldest.arrive
		}
		if wait := reorder - time.Since(due); wait > 0 {
			return nil, Entry{}, nil, wait, false
		}
	}
	oldest.taken++
	return oldest, e, nil, 0, false
}

func (m *Merger) failures() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	var errs []error
	for _, s := range m.sources {
		if s.err != nil && !errors.Is(s.err, context.Canceled) {
			errs = append(errs, s.err)
		}
	}
	return errors.Join(errs...)
}

// Merge reads logs in the order of time; emit gets the reader's number.
func Merge(ctx context.Context, readers []*Reader, o ReadOptions, emit func(source int, e Entry) error) error {
	m := NewMerger(o.Watcher, emit)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	for i, r := range readers {
		m.Add(ctx, i, r, o)
	}
	m.Seal()
	return m.Run(ctx)
}
