package content

import (
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
)

// errAbandoned ends the reading of a blob whose writer gave up.
var errAbandoned = errors.New("the blob was not completed")

// follower lets readers wait for what a Writer writes.
type follower struct {
	mu    sync.Mutex
	cond  sync.Cond
	n     int64 // bytes that can be read
	ended bool
	err   error
}

func newFollower(n int64) *follower {
	f := &follower{n: n}
	f.cond.L = &f.mu
	return f
}

func (f *follower) advance(n int64) {
	f.mu.Lock()
	f.n = n
	f.mu.Unlock()
	f.cond.Broadcast()
}

func (f *follower) end(err error) {
	f.mu.Lock()
	if !f.ended {
		f.ended, f.err = true, err
	}
	f.mu.Unlock()
	f.cond.Broadcast()
}

// Follow returns a reader of the blob from its start, also of what is not
// written yet. It ends once the digest is verified, and with an error if that
// fails, if the writer is closed, or if what was written is forgotten.
func (w *Writer) Follow() (io.ReadCloser, error) {
	file, err := os.Open(w.f.Name())
	if err != nil {
		return nil, fmt.Errorf("cannot read what is stored: %w", trimPath(err))
	}
	return &followReader{file: file, f: w.follow}, nil
}

type followReader struct {
	file *os.File
	f    *follower
	off  int64
}

func (r *followReader) Read(p []byte) (int, error) {
	r.f.mu.Lock()
	for r.f.n <= r.off && !r.f.ended {
		r.f.cond.Wait()
	}
	n, err := r.f.n, r.f.err
	r.f.mu.Unlock()
	if err != nil {
		return 0, err
	}
	if n <= r.off {
		return 0, io.EOF
	}
	got, err := r.file.ReadAt(p[:min(int64(len(p)), n-r.off)], r.off)
	r.off += int64(got)
	if got > 0 {
		return got, nil
	}
	if err == io.EOF {
		err = io.ErrUnexpectedEOF // it was shortened
	}
	return 0, err
}

func (r *followReader) Close() error { return r.file.Close() }
