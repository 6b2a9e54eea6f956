package snapshot

import (
	"context"
	"io"
)

// aheadReader reads a stream in a goroutine of its own, so that decompressing
// goes on while files are written.
type aheadReader struct {
	full    chan chunk
	free    chan []byte
	stop    context.CancelFunc
	done    chan struct{}
	current chunk
	rest    []byte
}

type chunk struct {
	buf []byte
	n   int
	err error
}

func readAhead(ctx context.Context, r io.Reader) *aheadReader {
	const count, size = 4, 256 << 10
	ctx, stop := context.WithCancel(ctx)
	a := &aheadReader{full: make(chan chunk, count), free: make(chan []byte, count), stop: stop, done: make(chan struct{})}
	for range count {
		a.free <- make([]byte, size)
	}
	go func() {
		defer close(a.done)
		defer close(a.full)
		for {
			select {
			case <-ctx.Done():
				a.send(chunk{err: context.Cause(ctx)})
				return
			case buf := <-a.free:
				n, err := fill(r, buf)
				a.full <- chunk{buf, n, err} // never blocks: there are count buffers
				if err != nil {
					return
				}
			}
		}
	}()
	return a
}

// fill reads until buf is full or r ends, and returns r's own error.
func fill(r io.Reader, buf []byte) (n int, err error) {
	for n < len(buf) && err == nil {
		var m int
		m, err = r.Read(buf[n:])
		n += m
	}
	return n, err
}

func (a *aheadReader) send(c chunk) {
	select {
	case a.full <- c:
	default: // the reader has enough to find the end by itself
	}
}

func (a *aheadReader) Read(p []byte) (int, error) {
	for len(a.rest) == 0 {
		if a.current.err != nil {
			return 0, a.current.err
		}
		if a.current.buf != nil {
			a.free <- a.current.buf
		}
		next, ok := <-a.full
		if !ok {
			next = chunk{err: io.ErrUnexpectedEOF}
		}
		a.current, a.rest = next, next.buf[:next.n]
	}
	n := copy(p, a.rest)
	a.rest = a.rest[n:]
	return n, nil
}

// Close ends the goroutine and waits for it.
func (a *aheadReader) Close() {
	a.stop()
	<-a.done
}
