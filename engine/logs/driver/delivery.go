package driver

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/stack-run/stack/engine/logs"
	"github.com/stack-run/stack/engine/logs/inotify"
)

// Config says what is delivered where.
type Config struct {
	Dir      string // of the log
	Driver   Driver // with a target
	Info     *Info
	Watchers *inotify.Shared
	// Tell is for the user: that a receiver does not answer, what was not sent.
	Tell func(text string)
}

// Delivery sends one container's lines to its target, see the package's comment.
type Delivery struct {
	c    Config
	t    *Target
	book *logs.Bookmark
	end  context.CancelFunc
	done chan struct{}
	kick chan struct{} // has a value: connect now

	mu      sync.Mutex // guards what others look at
	info    *Info
	encode  encoder
	at      logs.Position // how far all is sent
	tries   int           // to connect that failed since it worked last
	changed chan struct{} // closed and replaced with at and tries

	// Of the goroutine alone:
	queue     []queued
	sent      int // of the queue, and not known to have arrived
	size      int // of the queue, bytes
	settledAt logs.Position
	link      *link
	retryAt   time.Time
	pause     time.Duration
	retry     *time.Timer
	look      *time.Timer
	looks     time.Duration
	pieces    [2]Piece
	silent    time.Time // no word of a receiver that is gone before
	dropped   int64     // lines that waited behind max-buffer-size
	skip      int64     // bytes of what is read next that go the same way
	lastSent  time.Time // the time of the last line sent
	lost      bool      // lines were deleted before they were read
	gaps      int       // how often, since it was told
	gapSilent time.Time // no word of it before
}

// queued is a message that has its turn, or was sent and may not have arrived.
type queued struct {
	message
	end   logs.Position // zero: none
	time  time.Time
	mark  int64 // what the connection had written with it
	acked bool
}

// mostQueued is how much is encoded and not settled, bytes.
const mostQueued = 1 << 20

// Open opens the bookmark. It is called before the pump begins: what is in a log without
// one is left alone.
func Open(c Config) (*Delivery, error) {
	encode, err := c.Driver.Target.encoder(c.Info)
	if err != nil {
		return nil, fmt.Errorf("cannot use the logging options: %w", err)
	}
	book, err := logs.OpenBookmark(c.Dir)
	if err != nil {
		return nil, err
	}
	d := &Delivery{
		c: c, t: c.Driver.Target, book: book, info: c.Info, encode: encode, at: book.At(), settledAt: book.At(),
		done: make(chan struct{}), kick: make(chan struct{}, 1), changed: make(chan struct{}), looks: shortLook,
	}
	return d, nil
}

// Start begins to send.
func (d *Delivery) Start() {
	ctx, cancel := context.WithCancel(context.Background())
	d.end = cancel
	go d.run(ctx)
}

// Ended tells whether it sends no more: the log has ended, or could not be read.
func (d *Delivery) Ended() bool {
	select {
	case <-d.done:
		return true
	default:
		return false
	}
}

// Started tells whether Start was called, and Close is for who does not call it.
func (d *Delivery) Started() bool { return d.end != nil }
func (d *Delivery) Close() error  { return d.book.Close() }

// Behind tells whether there is something that is not sent.
func (d *Delivery) Behind() bool {
	d.mu.Lock()
	at := d.at
	d.mu.Unlock()
	return logs.Backlog(d.c.Dir, at) > 0
}

// Describe has what follows tell of a container that got another name.
func (d *Delivery) Describe(i *Info) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.info.ContainerName == i.ContainerName {
		return nil
	}
	encode, err := d.t.encoder(i)
	if err == nil {
		d.info, d.encode = i, encode
	}
	return err
}

func (d *Delivery) name() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.info.Name()
}

// Flush waits until all is sent, until the receiver has not answered and patience is
// over, or for ctx.
func (d *Delivery) Flush(ctx context.Context, patience time.Duration) {
	over := time.After(max(patience, leastPatience))
	d.mu.Lock()
	before := d.tries
	d.mu.Unlock()
	select {
	case d.kick <- struct{}{}:
	default:
	}
	for {
		d.mu.Lock()
		changed, tries := d.changed, d.tries
		d.mu.Unlock()
		if !d.Behind() {
			return
		}
		silent := over
		switch {
		case tries > before && patience == 0:
			return
		case tries == 0: // it takes what there is
			silent = nil
		}
		select {
		case <-changed:
		case <-silent:
			return
		case <-d.done:
			return
		case <-ctx.Done():
			return
		}
	}
}

// Finish is Flush before the log is removed: what is not sent then is told and lost.
func (d *Delivery) Finish(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, finishBound)
	defer cancel()
	d.Flush(ctx, 0)
	behind := d.Behind()
	d.Stop()
	if behind {
		d.c.Tell(fmt.Sprintf("container %s is removed before the last %d bytes of its log were sent to %s", d.name(), logs.Backlog(d.c.Dir, d.at), d.t))
	}
}

// leastPatience is for a receiver that did not answer before, which is tried once more.
const leastPatience = time.Second

// finishBound limits how long a log is kept that is to be removed.
const finishBound = 10 * time.Second

// Stop ends the delivery. Another one goes on where it stopped.
func (d *Delivery) Stop() {
	d.end()
	<-d.done
}

// change tells who waits.
func (d *Delivery) change(f func()) {
	d.mu.Lock()
	f()
	close(d.changed)
	d.changed = make(chan struct{})
	d.mu.Unlock()
}

// batch is what was read at once.
type batch struct {
	entries []logs.Entry
	bytes   []byte
	here    logs.Position // behind it; zero: not told
	gap     bool          // what was before it was deleted
}

const (
	batchEntries = 512
	batchBytes   = 64 << 10
)

// read reads the log from the bookmark on until it ends.
func (d *Delivery) read(ctx context.Context, out chan<- batch) error {
	reader, err := logs.Open(d.c.Dir)
	if err != nil {
		return err
	}
	watcher, put, err := d.c.Watchers.Get()
	if err != nil {
		return err
	}
	defer put()
	var b batch
	hand := func() error {
		if len(b.entries) == 0 && b.here == (logs.Position{}) {
			return nil
		}
		select {
		case out <- b:
		case <-ctx.Done():
			return ctx.Err()
		}
		b = batch{}
		return nil
	}
	from := d.book.At()
	return reader.Read(ctx, logs.ReadOptions{
		After: &from, Follow: true, Watcher: watcher,
		Gap: func(uint64) { b.gap = true },
		CaughtUp: func(p logs.Position) error {
			b.here = p
			return hand()
		},
	}, func(e logs.Entry) error {
		if len(b.entries) == batchEntries || len(b.bytes)+len(e.Data) > batchBytes && len(b.entries) > 0 {
			if err := hand(); err != nil {
				return err
			}
		}
		at := len(b.bytes)
		b.bytes = append(b.bytes, e.Data...)
		e.Data = b.bytes[at:len(b.bytes):len(b.bytes)]
		b.entries = append(b.entries, e)
		return nil
	})
}

// run sends until ctx is done, or the log has ended and all of it is sent.
func (d *Delivery) run(ctx context.Context) {
	defer close(d.done)
	defer d.book.Close()
	d.retry, d.look = time.NewTimer(0), time.NewTimer(0)
	d.retry.Stop()
	d.look.Stop()
	defer d.retry.Stop()
	defer d.look.Stop()
	batches := make(chan batch)
	go func() {
		defer close(batches)
		if err := d.read(ctx, batches); err != nil && ctx.Err() == nil {
			d.c.Tell(fmt.Sprintf("cannot send more of the log of container %s to %s: %v", d.name(), d.t, err))
		}
	}()
	defer func() {
		if d.link != nil {
			d.link.close()
		}
		if d.gaps > 0 {
			d.c.Tell(fmt.Sprintf("lines of container %s were deleted from its log %d more times before they were sent to %s", d.name(), d.gaps, d.t))
		}
	}()
	in := batches
	for in != nil || d.sent < len(d.queue) || d.t.acks != nil && len(d.queue) > 0 {
		read := in
		if d.size >= mostQueued {
			read = nil
		}
		var ended <-chan error
		var acks <-chan struct{}
		if d.link != nil {
			ended, acks = d.link.ended, d.link.acks
		}
		select {
		case b, more := <-read:
			if !more {
				in = nil
			}
			d.add(b)
		case err := <-ended:
			d.lose(err)
		case <-acks:
		case <-d.look.C:
		case <-d.retry.C:
		case <-d.kick:
			d.retryAt = time.Time{}
		case <-ctx.Done():
			return
		}
		d.send(ctx)
	}
}

// add encodes what was read.
func (d *Delivery) add(b batch) {
	d.mu.Lock()
	encode := d.encode
	d.mu.Unlock()
	if b.gap {
		d.lost = true
	}
	d.limit(b)
	for _, e := range b.entries {
		if d.lost {
			d.lost = false
			d.tellGap(e.Time)
		}
		if d.skip > 0 {
			d.skip -= int64(len(e.Data)) + 1
			d.dropped++
			d.put(message{}, e.End, e.Time)
			continue
		}
		d.split(e, func(l Line) message { return encode(l) })
	}
	if b.here != (logs.Position{}) {
		d.put(message{}, b.here, time.Time{})
	}
	if d.skip <= 0 && d.dropped > 0 {
		d.c.Tell(fmt.Sprintf("%d lines of container %s were not sent to %s: more than max-buffer-size waited; they are in its log here", d.dropped, d.name(), d.t))
		d.dropped = 0
	}
}

// limit leaves out of what waits the oldest lines that are too many.
func (d *Delivery) limit(b batch) {
	most := d.c.Driver.Backlog
	if most <= 0 || len(b.entries) == 0 || d.skip > 0 {
		return
	}
	d.mu.Lock()
	at := d.at
	d.mu.Unlock()
	over := logs.Backlog(d.c.Dir, at) - most
	for over > 0 && d.sent < len(d.queue) {
		q := &d.queue[d.sent]
		over -= int64(len(q.data))
		if len(q.data) > 0 {
			d.dropped++
		}
		d.size -= len(q.data)
		q.data, q.ack = nil, ""
		d.pass(1)
	}
	d.skip = over
}

// tellGap tells of lines that were deleted before they were sent; of a receiver that is
// too slow for its container not each time.
func (d *Delivery) tellGap(next time.Time) {
	d.gaps++
	if time.Now().Before(d.gapSilent) {
		return
	}
	from := "the beginning"
	if !d.lastSent.IsZero() {
		from = d.lastSent.Format(time.RFC3339)
	}
	d.c.Tell(fmt.Sprintf("lines of container %s from %s to %s were not sent to %s: they were deleted from its log before; raise cache-max-size or cache-max-file of its logging",
		d.name(), from, next.Format(time.RFC3339), d.t))
	d.gaps, d.gapSilent = 0, time.Now().Add(quiet)
}

// split makes lines of an entry as long as Docker's.
func (d *Delivery) split(e logs.Entry, encode encoder) {
	p := &d.pieces[e.Stream]
	goesOn := e.Partial && !e.Unfinished
	data := e.Data
	for {
		n := min(len(data), longestPiece)
		last := n == len(data) && !goesOn
		l := Line{Time: e.Time, Stderr: e.Stream == logs.Stderr, Data: data[:n]}
		if !last || p.Ordinal > 0 {
			if p.Ordinal == 0 {
				p.ID = hex.EncodeToString(randomID(32))
			}
			p.Ordinal++
			l.Piece = &Piece{p.ID, p.Ordinal, last}
		}
		data = data[n:]
		end := logs.Position{}
		if len(data) == 0 {
			end = e.End
		}
		if last {
			*p = Piece{}
		}
		d.put(encode(l), end, e.Time)
		if len(data) == 0 {
			return
		}
	}
}

func (d *Delivery) put(m message, end logs.Position, at time.Time) {
	d.queue = append(d.queue, queued{message: m, end: end, time: at})
	d.size += len(m.data)
}

// send connects if need be and sends what has its turn.
func (d *Delivery) send(ctx context.Context) {
	for d.sent < len(d.queue) && ctx.Err() == nil {
		if n := allEmpty(d.queue[d.sent:]); n > 0 {
			d.pass(n)
			continue
		}
		if d.link != nil && d.t.reconnect > 0 && time.Since(d.link.since) > d.t.reconnect && d.sent == d.settled(false) {
			d.forget(d.sent)
			d.drop()
		}
		if d.link == nil && !d.connect(ctx) {
			break
		}
		if err := d.write(); err != nil && ctx.Err() == nil {
			d.lose(err)
			break
		}
	}
	if d.link == nil {
		if d.sent > 0 {
			d.forget(allEmpty(d.queue[:d.sent]))
		}
		return
	}
	d.forget(d.settled(false))
	// Nothing tells when a program has read its unix socket.
	if d.sent == 0 {
		d.looks = shortLook
		d.look.Stop()
	} else if d.t.network == "unix" || d.t.network == "unixgram" {
		d.look.Reset(d.looks)
		d.looks = min(2*d.looks, longLook)
	}
}

// How long after a write it is first and at most looked whether that was read.
const (
	shortLook = time.Second
	longLook  = time.Minute
)

// allEmpty is how many of the oldest messages say nothing.
func allEmpty(list []queued) int {
	for i, q := range list {
		if len(q.data) > 0 {
			return i
		}
	}
	return len(list)
}

// settled is how many of the messages that were sent are known to have arrived.
func (d *Delivery) settled(ended bool) int {
	sent, i := d.queue[:d.sent], 0
	for _, id := range d.link.acknowledged() {
		// They come in order, as a rule.
		if j := slices.IndexFunc(sent[i:], func(q queued) bool { return q.ack == id }); j >= 0 {
			i += j
			sent[i].acked = true
		} else if i = slices.IndexFunc(sent, func(q queued) bool { return q.ack == id }); i >= 0 {
			sent[i].acked = true
		}
		i = max(i, 0)
	}
	return d.link.settled(sent, ended)
}

// write sends one datagram, or some messages of a stream.
func (d *Delivery) write() error {
	if d.t.write != nil {
		q := &d.queue[d.sent]
		switch err := d.t.write(d.link.raw, q.data); {
		case errors.Is(err, errTooLarge), errors.Is(err, unix.EMSGSIZE):
			d.c.Tell(fmt.Sprintf("a line of container %s was not sent to %s: %v", d.name(), d.t, err))
		case err != nil:
			return err
		}
		d.pass(1)
		return nil
	}
	var b []byte
	n := 0
	for _, q := range d.queue[d.sent:] {
		if len(b) > 0 && len(b)+len(q.data) > batchBytes {
			break
		}
		b = append(b, q.data...)
		n++
	}
	done, err := d.link.send(b)
	if err != nil {
		// What of it is whole is sent like all that was written before.
		n = 0
		for _, q := range d.queue[d.sent:] {
			if done -= len(q.data); done < 0 {
				break
			}
			n++
		}
	}
	d.pass(n)
	return err
}

// pass counts the next n messages as sent and moves the bookmark behind them, unless the
// receiver acknowledges them.
func (d *Delivery) pass(n int) {
	var end logs.Position
	sent := false
	for i := range d.queue[d.sent : d.sent+n] {
		q := &d.queue[d.sent+i]
		if d.link != nil {
			q.mark = d.link.written.Load()
		}
		if !q.time.IsZero() {
			d.lastSent = q.time
		}
		if q.end != (logs.Position{}) {
			end = q.end
		}
		sent = sent || len(q.data) > 0
	}
	d.sent += n
	if end != (logs.Position{}) && d.t.acks == nil {
		d.mark(end)
	}
	if sent && d.tries > 0 {
		d.change(func() { d.tries = 0 })
		d.pause, d.silent = 0, time.Now().Add(quiet)
	}
}

func (d *Delivery) mark(p logs.Position) {
	if err := d.book.Save(p); err != nil {
		d.c.Tell(fmt.Sprintf("container %s: %v; its lines may be sent to %s twice", d.name(), err, d.t))
	}
	d.change(func() { d.at = p })
}

// forget lets go of the oldest messages, which have arrived.
func (d *Delivery) forget(n int) {
	before := d.settledAt
	for _, q := range d.queue[:n] {
		if q.end != (logs.Position{}) {
			d.settledAt = q.end
		}
		d.size -= len(q.data)
	}
	d.queue = d.queue[n:]
	d.sent -= n
	if len(d.queue) == 0 {
		d.queue = nil
	}
	if d.t.acks != nil && d.settledAt != before {
		d.mark(d.settledAt) // what is only sent does not count
	}
}

// connect tells whether there is a connection.
func (d *Delivery) connect(ctx context.Context) bool {
	if time.Now().Before(d.retryAt) {
		return false
	}
	l, err := open(ctx, d.t)
	if err != nil {
		if ctx.Err() == nil {
			d.failed(err)
		}
		return false
	}
	d.link = l
	return true
}

// lose goes back to what the receiver is known to have.
func (d *Delivery) lose(err error) {
	d.forget(d.settled(true))
	d.drop()
	again := d.sent > 0
	d.sent = 0
	if again {
		d.mark(d.settledAt)
	}
	if again || len(d.queue) > 0 {
		d.failed(err)
	}
}

func (d *Delivery) drop() {
	d.link.close()
	d.link = nil
}

// quiet is how long a receiver must answer before it is news that it does not.
const quiet = time.Minute

// failed waits before the next try.
func (d *Delivery) failed(err error) {
	d.pause = min(max(2*d.pause, d.t.pause), d.t.pauses)
	d.retryAt = time.Now().Add(d.pause)
	d.retry.Reset(d.pause)
	if d.tries == 0 && time.Now().After(d.silent) {
		d.c.Tell(fmt.Sprintf("cannot send the log of container %s to %s: %v; its lines wait in the log here and are sent once that answers", d.name(), d.t, err))
	}
	d.change(func() { d.tries++ })
}
