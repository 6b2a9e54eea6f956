package logs

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// PumpConfig says what a pump moves where.
type PumpConfig struct {
	Dir    string // of the log; made if need be
	Budget Budget // DefaultBudget where zero

	// Stdout and Stderr are the pump's ends of the FIFOs (OpenFIFO). The pump
	// closes them.
	Stdout, Stderr *os.File

	// TTY is the nonblocking master of the container's terminal; its output
	// counts as stdout. The pump does not close it, and others may write to it.
	// Stdout is then the FIFO the bytes pass through: with it nothing is lost
	// when the pump is killed, provided another process keeps it open too. It
	// may be nil.
	TTY *os.File

	// Adopt says that the container's process ran already under an earlier
	// pump, so that no new run begins.
	Adopt bool

	// Compress has the parts of the log compressed that are complete.
	Compress bool

	// Failed, if set, is told why bytes cannot be stored, or what storing waits
	// for: once, and again after storing has worked for a while. Where something
	// is scarce, such as room on the disk, the bytes wait in the FIFO, and so in
	// the end does the container. For any other reason they are thrown away and
	// counted in the log, and the container goes on.
	Failed func(error)
}

// Pump moves a container's output to its log. It costs a goroutine for each
// stream, and a thread only while it moves bytes.
type Pump struct {
	failed func(error)
	inputs []*input

	stop context.CancelFunc
	done sync.WaitGroup
	end  sync.Once

	mu        sync.Mutex // guards all below
	store     *store
	failedAt  time.Time     // when storing failed last
	pause     time.Duration // before the next try
	heldBy    uint64        // the segment that a reader kept from deletion last
	heldSince time.Time
	released  chan struct{} // closed when what is in the way may be gone
}

// input is one descriptor that the pump reads.
type input struct {
	stream Stream
	file   *os.File
	conn   syscall.RawConn
	via    *os.File // for a terminal: the FIFO in between, or nil
	tty    bool
}

// predecessorBound limits how long a pump waits for the one before it to end. It
// lies beyond the time that anything takes which a pump does at its end.
const predecessorBound = 30 * time.Second

// StartPump opens the log, repairs it if need be, and begins to move bytes. It
// waits for another pump of the same log to end, until ctx is done or half a
// minute is over.
func StartPump(ctx context.Context, cfg PumpConfig) (*Pump, error) {
	if cfg.Budget == (Budget{}) {
		cfg.Budget = DefaultBudget()
	}
	p := &Pump{failed: cfg.Failed}
	if cfg.TTY != nil {
		p.inputs = append(p.inputs, &input{stream: Stdout, file: cfg.TTY, via: cfg.Stdout, tty: true})
	} else {
		p.inputs = append(p.inputs, &input{stream: Stdout, file: cfg.Stdout}, &input{stream: Stderr, file: cfg.Stderr})
	}
	for _, in := range p.inputs {
		var err error
		if in.conn, err = in.file.SyscallConn(); err != nil {
			return nil, fmt.Errorf("cannot read container output: %w", err)
		}
		if err := in.file.SetReadDeadline(time.Time{}); err != nil {
			return nil, fmt.Errorf("cannot wait for container output: %w; the file must be nonblocking", err)
		}
	}
	var err error
	opening, cancel := context.WithTimeout(ctx, predecessorBound)
	defer cancel()
	if p.store, err = openStore(opening, cfg.Dir, cfg.Budget); err != nil {
		return nil, err
	}
	if !cfg.Adopt {
		err := p.endLastRun()
		if err == nil {
			err = p.store.mark(kindRunStart, 0)
		}
		if err != nil {
			p.store.close()
			return nil, fmt.Errorf("cannot write log %s: %w", cfg.Dir, err)
		}
	}
	running, stop := context.WithCancel(context.Background())
	p.stop = stop
	if cfg.Compress {
		p.store.rotated = make(chan struct{}, 1)
		p.store.rotated <- struct{}{}
		p.done.Go(func() { p.pack(running) })
	}
	for _, in := range p.inputs {
		p.done.Go(func() { p.run(running, in) })
	}
	return p, nil
}

// run moves bytes until the pump stops.
func (p *Pump) run(ctx context.Context, in *input) {
	for ctx.Err() == nil {
		var released <-chan struct{}
		err := in.conn.Read(func(fd uintptr) bool {
			n := 1
			for n > 0 && released == nil && ctx.Err() == nil {
				n, released = p.step(in, int(fd), false)
			}
			return n > 0 || released != nil
		})
		if err != nil {
			return // the deadline that halt sets, or a closed file
		}
		if released != nil {
			select {
			case <-released:
			case <-ctx.Done():
			}
		}
	}
}

// pack compresses what is complete, after each rotation.
func (p *Pump) pack(ctx context.Context) {
	for {
		select {
		case <-p.store.rotated:
		case <-ctx.Done():
			return
		}
		if err := packAll(ctx, p.store.dir); err != nil && ctx.Err() == nil && p.failed != nil {
			p.failed(fmt.Errorf("%w; it stays as it is", err))
		}
	}
}

// endLastRun stores what waits in the FIFOs since a Drain for which the disk was
// too full, and marks the end of that run.
func (p *Pump) endLastRun() error {
	switch p.store.last.kind {
	case 0, kindRunEnd, kindDone:
		return nil
	}
	for _, in := range p.inputs {
		var err error
		in.conn.Control(func(fd uintptr) {
			for left := int64(maxPipe); left > 0 && err == nil; {
				var n int
				if n, err = p.move(in, int(fd), true); n == 0 {
					return
				}
				left -= int64(n)
			}
		})
		if err != nil {
			return err
		}
	}
	return p.store.mark(kindRunEnd, 0)
}

// step moves some bytes and returns how many, 0 for an empty input. When there
// is something in the way, a reader of what the budget has no room for any more
// or a full disk, it returns a channel that is closed once that may have changed.
func (p *Pump) step(in *input, fd int, force bool) (int, <-chan struct{}) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.released != nil && !force {
		return 0, p.released
	}
	n, err := p.move(in, fd, force)
	if n == 0 && err == nil {
		// A record that could not be written is tried again without more bytes.
		err = p.store.indexAll()
	}
	var held *heldError
	switch {
	case err == nil:
		if n > 0 {
			p.pause = 0
		}
		return n, nil
	case errors.As(err, &held):
		return n, p.awaitRelease(held)
	case errors.Is(err, unix.ENOSPC) && p.store.makeRoom():
		return 1, nil
	case scarce(err):
		p.tell(fmt.Errorf("cannot store container output in %s: %w; it waits in a pipe of %d KiB until there is room again, and then so does the container", p.store.dir, err, pipeSize>>10))
		return n, p.awaitRoom()
	case n > 0: // stored, though not in the index yet
		return n, nil
	}
	p.tell(fmt.Errorf("cannot store container output in %s: %w; what it prints now is thrown away", p.store.dir, err))
	n, _ = p.store.discard(fd)
	return n, nil
}

// scarce tells whether an error is one of those that pass, once somebody gives
// back what there is too little of.
func scarce(err error) bool {
	for _, e := range []unix.Errno{unix.ENOSPC, unix.EDQUOT, unix.EMFILE, unix.ENFILE, unix.ENOMEM} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// tellAgain is how long storing must work before its next failure is news.
const tellAgain = 10 * time.Second

func (p *Pump) tell(err error) {
	if p.failed != nil && time.Since(p.failedAt) > tellAgain {
		p.failed(err)
	}
	p.failedAt = time.Now()
}

// Bounds of the time between two tries: nothing tells that a disk has room again.
const (
	shortPause = 20 * time.Millisecond
	longPause  = time.Second

	// For a reader that is slower than the container.
	readerPause     = time.Millisecond
	readerLongPause = 50 * time.Millisecond
)

// awaitRoom returns a channel that is closed when it is time for the next try.
func (p *Pump) awaitRoom() <-chan struct{} {
	if p.released == nil {
		p.pause = min(max(2*p.pause, shortPause), longPause)
		p.wait(p.pause)
	}
	return p.released
}

func (p *Pump) wait(d time.Duration) {
	released := make(chan struct{})
	p.released = released
	time.AfterFunc(d, func() {
		p.mu.Lock()
		p.released = nil
		p.mu.Unlock()
		close(released)
	})
}

func (p *Pump) move(in *input, fd int, force bool) (int, error) {
	switch {
	case !in.tty:
		return p.store.move(fd, in.stream, force)
	case in.via == nil:
		return p.moveTTY(in, fd, force)
	}
	// First what an earlier pump left in between, then the terminal.
	via := int(in.via.Fd())
	if n, err := p.store.move(via, in.stream, force); n > 0 || err != nil {
		return n, err
	}
	n, err := unix.Splice(fd, nil, via, nil, pipeSize, unix.SPLICE_F_NONBLOCK)
	switch err {
	case nil:
		return int(n), nil
	case unix.EAGAIN, unix.EIO:
		return 0, nil
	case unix.EINTR:
		return 1, nil
	case unix.EINVAL:
		return p.moveTTY(in, fd, force)
	}
	return 0, fmt.Errorf("cannot read the container's terminal: %w", err)
}

// moveTTY stores a terminal's output without splice.
func (p *Pump) moveTTY(in *input, fd int, force bool) (int, error) {
	s := p.store
	if err := s.rotate(force); err != nil {
		return 0, err
	}
	raw, err := s.rawFile(in.stream)
	if err != nil {
		return 0, err
	}
	n, err := s.copy(fd, in.stream, raw, s.rawEnd[in.stream], spliceMax)
	s.rawEnd[in.stream] += int64(n)
	if n == 0 {
		return 0, err
	}
	return n, s.indexAll()
}

// How long a reader that was promised all may keep the pump from going on: after
// the first, the user is told whom the container waits for; after the second,
// during which it has not read to the end of one segment, it is taken for dead.
const (
	readerSlow = 10 * time.Second
	readerDead = 10 * time.Minute
)

// awaitRelease returns a channel that is closed when it is time to see whether a
// segment's readers are through with it. The kernel can tell, but only a thread
// of ours that waits for the lock, and that could not be ended.
func (p *Pump) awaitRelease(held *heldError) <-chan struct{} {
	defer held.index.Close()
	if p.released != nil {
		return p.released
	}
	if p.heldBy != held.segment {
		p.heldBy, p.heldSince, p.pause = held.segment, time.Now(), 0
	}
	if since := time.Since(p.heldSince); since > readerDead {
		p.failedAt = time.Time{}
		p.tell(fmt.Errorf("%s has not read the log %s for %v: what it was to read is deleted", holders(held.index), p.store.dir, readerDead))
		if err := p.store.dropOldest(); err != nil {
			p.tell(fmt.Errorf("cannot delete the oldest part of log %s: %w", p.store.dir, err))
		}
	} else if since > readerSlow {
		p.tell(fmt.Errorf("the container waits for %s to read its log %s; end that program if it hangs", holders(held.index), p.store.dir))
	}
	most := readerLongPause
	if time.Since(p.heldSince) > readerSlow {
		most = longPause
	}
	p.pause = min(max(2*p.pause, readerPause), most)
	p.wait(p.pause)
	return p.released
}

// halt ends the goroutines that move bytes.
func (p *Pump) halt() {
	p.stop()
	for _, in := range p.inputs {
		in.file.SetReadDeadline(time.Unix(1, 0))
	}
	p.done.Wait()
}

func (p *Pump) closeFiles() {
	for _, in := range p.inputs {
		if in.tty {
			in.file.SetReadDeadline(time.Time{})
		} else {
			in.file.Close()
		}
		if in.via != nil {
			in.via.Close()
		}
	}
	p.store.close()
}

// ErrUnread is returned by Drain when bytes wait in the FIFOs for room on the
// disk. They stay there, for the next pump of the log, while any process has the
// FIFOs open.
var ErrUnread = errors.New("the container's last output waits in its pipe for room")

// drainBound limits how long Drain waits for room on the disk.
const drainBound = time.Second

// Drain ends the pump after the container's processes are gone: what they left
// in the FIFOs is stored, the run is marked as ended. It never waits for a
// reader, even if the budget is exceeded by a FIFO's content, and only a moment
// for room on the disk, see ErrUnread. Where a process that is not in the
// container's cgroup still writes, ctx limits how long that is listened to.
func (p *Pump) Drain(ctx context.Context) error {
	var err error
	p.end.Do(func() {
		p.halt()
		patience, cancel := context.WithTimeout(ctx, drainBound)
		defer cancel()
		full := false
		for _, in := range p.inputs {
			in.conn.Control(func(fd uintptr) {
				for more := true; more && ctx.Err() == nil; {
					n, released := p.step(in, int(fd), true)
					more = n > 0 || released != nil
					if released == nil {
						continue
					}
					select {
					case <-released:
					case <-patience.Done():
						full, more = true, false
					}
				}
			})
		}
		p.mu.Lock()
		defer p.mu.Unlock()
		p.store.giveUp()
		if err = p.store.indexAll(); err == nil && !full {
			err = p.store.mark(kindRunEnd, 0)
		}
		if full {
			err = errors.Join(ErrUnread, err)
		}
		if err != nil {
			err = fmt.Errorf("cannot end log %s: %w", p.store.dir, err)
		}
		p.closeFiles()
	})
	return err
}

// Close ends the pump and leaves the FIFOs' content to the next one.
func (p *Pump) Close() {
	p.end.Do(func() {
		p.halt()
		p.mu.Lock()
		defer p.mu.Unlock()
		// The next pump does not know how much was read and thrown away. If this cannot be
		// written either, Failed has been told of the same.
		p.store.giveUp()
		p.store.indexAll()
		p.closeFiles()
	})
}

// MarkDone ends a log for good: readers that follow it return after its last
// line. The log must have no pump; MarkDone waits for it to end until ctx is
// done.
func MarkDone(ctx context.Context, dir string) error {
	s, err := openStore(ctx, dir, DefaultBudget())
	if err != nil {
		return err
	}
	defer s.close()
	if s.last.kind == kindDone {
		return nil
	}
	return s.mark(kindDone, 0)
}

// removeBound limits how long a removal waits for the log's readers.
const removeBound = 30 * time.Second

// Remove deletes a log. It is marked as done first; segments that a lossless
// reader has not read yet are deleted when it has, or when ctx is done or half a
// minute is over, which gives an error that names the reader. Who removes a
// container calls it without making the user wait for it.
func Remove(ctx context.Context, dir string) error { return remove(ctx, dir, removeBound) }

func remove(ctx context.Context, dir string, bound time.Duration) error {
	list, err := segments(dir)
	if err != nil {
		return err
	}
	patience, cancel := context.WithTimeout(ctx, bound)
	defer cancel()
	if len(list) > 0 {
		if err := MarkDone(patience, dir); err != nil && patience.Err() == nil && !errors.Is(err, unix.ENOSPC) {
			return err
		}
	}
	var unread error
	for _, n := range list {
		index, err := openFile(indexPath(dir, n), unix.O_RDONLY)
		if err != nil {
			continue
		}
		if flockContext(patience, index) == nil {
			removeSegment(dir, n)
			index.Close()
		} else if ctx.Err() == nil && unread == nil {
			if index, err := openFile(indexPath(dir, n), unix.O_RDONLY); err == nil {
				unread = fmt.Errorf("the log %s is removed, though %s has not read all of it within %v", dir, holders(index), bound)
				index.Close()
			}
		}
	}
	if err := os.RemoveAll(dir); err != nil {
		return fmt.Errorf("cannot remove log %s: %w", dir, err)
	}
	return unread
}
