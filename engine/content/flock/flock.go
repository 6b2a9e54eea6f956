// Package flock holds file locks (flock(2)) that end with the process that
// holds them, however it ends.
//
// A lock file may be removed by its holder: whoever locks a file looks
// afterwards whether the path still names that file, and starts over if not.
package flock

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"
)

// Lock is a held lock. Its methods may be called once.
type Lock struct{ f *os.File }

// Exclusive waits until it alone holds path, which it creates if need be.
func Exclusive(ctx context.Context, path string) (*Lock, error) {
	return acquire(ctx, path, unix.LOCK_EX)
}

// Shared waits until nobody holds path exclusively.
func Shared(ctx context.Context, path string) (*Lock, error) {
	return acquire(ctx, path, unix.LOCK_SH)
}

// TryExclusive takes path if nobody holds it; ok tells whether it did.
func TryExclusive(path string) (l *Lock, ok bool, err error) {
	for {
		f, err := open(path)
		if err != nil {
			return nil, false, err
		}
		err = flock(f, unix.LOCK_EX|unix.LOCK_NB)
		if errors.Is(err, unix.EWOULDBLOCK) {
			f.Close()
			return nil, false, nil
		}
		if err != nil {
			f.Close()
			return nil, false, &fs.PathError{Op: "lock", Path: path, Err: err}
		}
		if same, err := names(path, f); err != nil || same {
			return &Lock{f}, true, err
		}
		f.Close()
	}
}

// File is the lock file, open for reading and writing.
func (l *Lock) File() *os.File { return l.f }

// Unlock lets others have the lock.
func (l *Lock) Unlock() error { return l.f.Close() }

// Remove deletes the lock file and unlocks. Whoever waits for the lock then
// makes a new file.
func (l *Lock) Remove() error {
	err := os.Remove(l.f.Name())
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	return errors.Join(err, l.f.Close())
}

func acquire(ctx context.Context, path string, how int) (*Lock, error) {
	for {
		f, err := open(path)
		if err != nil {
			return nil, err
		}
		if err := wait(ctx, f, how); err != nil {
			return nil, fmt.Errorf("cannot lock %s: %w", path, err)
		}
		same, err := names(path, f)
		if err != nil {
			f.Close()
			return nil, err
		}
		if same {
			return &Lock{f}, nil
		}
		f.Close()
	}
}

// wait locks f, or closes it and returns an error. flock(2) cannot be
// cancelled, so on a cancelled context the call is left to a goroutine that
// gives the lock back as soon as it gets it.
func wait(ctx context.Context, f *os.File, how int) error {
	err := flock(f, how|unix.LOCK_NB)
	if err == nil {
		return nil
	}
	if !errors.Is(err, unix.EWOULDBLOCK) {
		f.Close()
		return err
	}
	got := make(chan error, 1)
	go func() { got <- flock(f, how) }()
	select {
	case err := <-got:
		if err != nil {
			f.Close()
		}
		return err
	case <-ctx.Done():
		go func() {
			<-got
			f.Close()
		}()
		return context.Cause(ctx)
	}
}

func open(path string) (*os.File, error) {
	return os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
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
