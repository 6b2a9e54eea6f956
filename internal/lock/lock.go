// Package lock holds file locks (flock(2)) that end with the process that holds
// them, however it ends.
//
// A lock file may be removed by its holder: whoever locks a file looks
// afterwards whether the path still names that file, and starts over if not.
//
// No wait is without an end: after [DefaultWait], or the time that [Within]
// gives, the error is a [*HeldError] that tells who holds the lock.
package lock

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// DefaultWait bounds the wait for a lock that is held for the time of a few
	// system calls.
	DefaultWait = time.Minute
	// WorkWait bounds the wait for a lock that is held while something is
	// unpacked, downloaded or deleted.
	WorkWait = time.Hour

	noticeAfter = 2 * time.Second
)

// Held is a held lock. It may be given back once.
type Held struct{ f *os.File }

// An Option says how a lock is taken.
type Option func(*request)

// Within bounds the wait; see DefaultWait.
func Within(d time.Duration) Option { return func(r *request) { r.wait = d } }

// Patiently is Within WorkWait.
func Patiently() Option { return Within(WorkWait) }

// Of says what the lock guards, for messages: "the images".
func Of(what string) Option { return func(r *request) { r.what = what } }

// Dir takes the lock on a directory, which has to be there. No lock file is left.
func Dir() Option { return func(r *request) { r.dir = true } }

// MakeDir is Dir for a directory that is made if it is missing.
func MakeDir() Option { return func(r *request) { r.dir, r.makeDir = true, true } }

type request struct {
	path         string
	how          int // LOCK_EX or LOCK_SH
	what         string
	dir, makeDir bool
	wait, notice time.Duration
}

func newRequest(path string, how int, options []Option) request {
	r := request{path: path, how: how, wait: DefaultWait, notice: noticeAfter}
	for _, o := range options {
		o(&r)
	}
	return r
}

// Exclusive waits until it alone holds path, a file that it makes if need be.
func Exclusive(ctx context.Context, path string, options ...Option) (*Held, error) {
	return newRequest(path, unix.LOCK_EX, options).acquire(ctx)
}

// Shared waits until nobody holds path exclusively.
func Shared(ctx context.Context, path string, options ...Option) (*Held, error) {
	return newRequest(path, unix.LOCK_SH, options).acquire(ctx)
}

// TryExclusive takes path if nobody holds it; ok tells whether it did.
func TryExclusive(path string, options ...Option) (h *Held, ok bool, err error) {
	return newRequest(path, unix.LOCK_EX, options).try()
}

// TryShared takes path if nobody holds it exclusively; ok tells whether it did.
func TryShared(path string, options ...Option) (h *Held, ok bool, err error) {
	return newRequest(path, unix.LOCK_SH, options).try()
}

func (r request) try() (h *Held, ok bool, err error) {
	for {
		f, err := r.open()
		if err != nil {
			return nil, false, err
		}
		err = flock(f, r.how|unix.LOCK_NB)
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, false, f.Close()
		}
		if err != nil {
			return nil, false, errors.Join(&fs.PathError{Op: "lock", Path: r.path, Err: err}, f.Close())
		}
		same, err := names(r.path, f)
		if err != nil {
			return nil, false, errors.Join(err, f.Close())
		}
		if same {
			return &Held{f}, true, nil
		}
		_ = f.Close()
	}
}

// File is the lock file, open for reading and writing.
func (h *Held) File() *os.File { return h.f }

// Unlock lets others have the lock.
func (h *Held) Unlock() error { return h.f.Close() }

// Remove deletes the lock file and unlocks. Whoever waits for the lock then
// makes a new file.
func (h *Held) Remove() error {
	err := os.Remove(h.f.Name())
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	return errors.Join(err, h.f.Close())
}

func (r request) acquire(ctx context.Context) (*Held, error) {
	var deadline <-chan time.Time
	for {
		f, err := r.open()
		if err != nil {
			return nil, err
		}
		err = flock(f, r.how|unix.LOCK_NB)
		if errors.Is(err, unix.EWOULDBLOCK) {
			if deadline == nil {
				timer := time.NewTimer(r.wait)
				defer timer.Stop()
				deadline = timer.C
			}
			err = r.await(ctx, f, deadline) // closes f if it fails
		} else if err != nil {
			_ = f.Close()
		}
		if err != nil {
			return nil, fmt.Errorf("cannot lock %s: %w", r.path, err)
		}
		same, err := names(r.path, f)
		if err != nil {
			return nil, errors.Join(err, f.Close())
		}
		if same {
			return &Held{f}, nil
		}
		_ = f.Close()
	}
}

// await locks f, or closes it and returns an error. flock(2) cannot be called
// off, so the call is left to a goroutine that gives the lock back if it comes
// too late.
func (r request) await(ctx context.Context, f *os.File, deadline <-chan time.Time) error {
	got := make(chan error, 1)
	go func() { got <- flock(f, r.how) }()
	notice := time.NewTimer(r.notice)
	defer notice.Stop()
	var err error
	for err == nil {
		select {
		case err := <-got:
			if err != nil {
				_ = f.Close()
			}
			return err
		case <-notice.C:
			if tell := noticeOf(ctx); tell != nil {
				tell("waiting for " + r.holder(f).describe())
			}
		case <-deadline:
			held := r.holder(f)
			held.Waited = r.wait
			err = held
		case <-ctx.Done():
			err = context.Cause(ctx)
		}
	}
	go func() {
		<-got
		_ = f.Close()
	}()
	return err
}

func (r request) open() (*os.File, error) {
	if !r.dir {
		return os.OpenFile(r.path, os.O_RDWR|os.O_CREATE, 0o600)
	}
	f, err := os.OpenFile(r.path, os.O_RDONLY|unix.O_DIRECTORY, 0)
	if r.makeDir && errors.Is(err, fs.ErrNotExist) {
		if err := os.MkdirAll(r.path, 0o700); err != nil {
			return nil, err
		}
		f, err = os.OpenFile(r.path, os.O_RDONLY|unix.O_DIRECTORY, 0)
	}
	return f, err
}

func flock(f *os.File, how int) error {
	for {
		err := unix.Flock(int(f.Fd()), how)
		if err != unix.EINTR {
			return err
		}
	}
}

// names tells whether path still leads to f.
func names(path string, f *os.File) (bool, error) {
	mine, err := f.Stat()
	if err != nil {
		return false, err
	}
	there, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	return os.SameFile(mine, there), nil
}
