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

	// Failed, if set, is told why bytes could not be stored: once, and again
	// after storing has worked in between. The bytes are thrown away, counted in
	// the log, and the container goes on.
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

	mu       sync.Mutex // guards all below
	store    *store
	failing  bool
	released chan struct{} // closed when the segment in the way is free
}

// input is one descriptor that the pump reads.
type input struct {
	stream Stream
	file   *os.File
	conn   syscall.RawConn
	via    *os.File // for a terminal: the FIFO in between, or nil
	tty    bool
}

// StartPump opens the log, repairs it if need be, and begins to move bytes. It
// waits, until ctx is done, for another pump of the same log to end.
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
	if p.store, err = openStore(ctx, cfg.Dir, cfg.Budget); err != nil {
		return nil, err
	}
	if !cfg.Adopt {
		if err := p.store.mark(kindRunStart, 0); err != nil {
			p.store.close()
			return nil, fmt.Errorf("cannot write log %s: %w", cfg.Dir, err)
		}
	}
	running, stop := context.WithCancel(context.Background())
	p.stop = stop
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

// step moves some bytes and returns how many, 0 for an empty input. When the
// budget is used up by what a reader holds, it returns a channel that is closed
// once that may have changed.
func (p *Pump) step(in *input, fd int, force bool) (int, <-chan struct{}) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.released != nil && !force {
		return 0, p.released
	}
	n, err := p.move(in, fd, force)
	var held *heldError
	switch {
	case err == nil:
		if n > 0 {
			p.failing = false
		}
		return n, nil
	case errors.As(err, &held):
		return 0, p.awaitRelease(held.index)
	case n > 0: // stored, though not in the index yet
		return n, nil
	case errors.Is(err, unix.ENOSPC) && p.store.makeRoom():
		return 1, nil
	}
	if !p.failing && p.failed != nil {
		p.failed(fmt.Errorf("cannot store container output in %s: %w; what it prints now is thrown away", p.store.dir, err))
	}
	p.failing = true
	n, _ = p.store.discard(fd)
	return n, nil
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
	n, err := s.copy(fd, raw, s.rawEnd[in.stream], spliceMax)
	s.rawEnd[in.stream] += int64(n)
	if n == 0 {
		return 0, err
	}
	return n, s.indexAll()
}

// awaitRelease waits in a goroutine for a segment's readers to be through with
// it. The kernel has no way to wait for a flock but in a thread, so this costs
// one, while a container is held back.
func (p *Pump) awaitRelease(index *os.File) <-chan struct{} {
	released := make(chan struct{})
	p.released = released
	go func() {
		flock(index, unix.LOCK_EX)
		index.Close()
		p.mu.Lock()
		p.released = nil
		p.mu.Unlock()
		close(released)
	}()
	return released
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

// Drain ends the pump after the container's processes are gone: what they left
// in the FIFOs is stored, the run is marked as ended. It never waits for a
// reader, even if the budget is exceeded by a FIFO's content. Where a process
// that is not in the container's cgroup still writes, ctx limits how long that
// is listened to.
func (p *Pump) Drain(ctx context.Context) error {
	var err error
	p.end.Do(func() {
		p.halt()
		for _, in := range p.inputs {
			in.conn.Control(func(fd uintptr) {
				for n := 1; n > 0 && ctx.Err() == nil; {
					n, _ = p.step(in, int(fd), true)
				}
			})
		}
		p.mu.Lock()
		defer p.mu.Unlock()
		if err = p.store.indexAll(); err == nil {
			err = p.store.mark(kindRunEnd, 0)
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
		// The next pump does not know how much was thrown away. If this cannot be
		// written either, Failed has been told of the same.
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

// Remove deletes a log. It is marked as done first; segments that a lossless
// reader has not read yet are deleted when it has, or when ctx is done. Who
// removes a container calls it without making the user wait for it.
func Remove(ctx context.Context, dir string) error {
	list, err := segments(dir)
	if err != nil {
		return err
	}
	if len(list) > 0 {
		if err := MarkDone(ctx, dir); err != nil && ctx.Err() == nil && !errors.Is(err, unix.ENOSPC) {
			return err
		}
	}
	for _, n := range list {
		index, err := openFile(indexPath(dir, n), unix.O_RDONLY)
		if err != nil {
			continue
		}
		if flockContext(ctx, index) == nil {
			removeSegment(dir, n)
			index.Close()
		}
	}
	if err := os.RemoveAll(dir); err != nil {
		return fmt.Errorf("cannot remove log %s: %w", dir, err)
	}
	return nil
}
