package content

import (
	"cmp"
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sync/errgroup"

	"github.com/stack-run/stack/internal/durable"
	"github.com/stack-run/stack/internal/lock"
)

// At is the blobs below dir/blobs, which another program keeps. It is for
// reading: nothing is created, and there is nothing to be leased.
func At(dir string) *Store { return &Store{dir: dir} }

// BadBlob is a blob that is not what its name says, or cannot be read.
type BadBlob struct {
	Info
	Err error
}

// VerifyAll reads every blob, on all CPUs, and returns those that are wrong, in
// the order of their digests. read, which may be nil, is told how many bytes
// were read; it is called from several goroutines. Blobs that are removed
// meanwhile are no problem.
func (s *Store) VerifyAll(ctx context.Context, read func(n int64)) ([]BadBlob, error) {
	var blobs []Info
	if err := s.Walk(func(b Info) error { blobs = append(blobs, b); return nil }); err != nil {
		return nil, err
	}
	// The big ones first, so that no CPU is left alone with one at the end.
	slices.SortFunc(blobs, func(a, b Info) int { return cmp.Compare(b.Size, a.Size) })
	var mu sync.Mutex
	var bad []BadBlob
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(max(2, runtime.NumCPU()))
	for _, b := range blobs {
		group.Go(func() error {
			err := s.Verify(ctx, b.Digest)
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			if read != nil {
				read(b.Size)
			}
			if err == nil || errors.Is(err, ErrNotFound) {
				return nil
			}
			mu.Lock()
			defer mu.Unlock()
			bad = append(bad, BadBlob{b, err})
			return nil
		})
	}
	err := group.Wait()
	slices.SortFunc(bad, func(a, b BadBlob) int { return strings.Compare(string(a.Digest), string(b.Digest)) })
	return bad, err
}

// Size returns how many blobs there are, and their bytes.
func (s *Store) Size() (count int, bytes int64, err error) {
	err = s.Walk(func(b Info) error {
		count++
		bytes += b.Size
		return nil
	})
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	return count, bytes, err
}

// DeleteCorrupt removes d if it still is what Verify called corrupt; a blob that
// was stored anew meanwhile stays.
func (s *Store) DeleteCorrupt(ctx context.Context, d digest.Digest) error {
	l, err := lock.Exclusive(ctx, s.lockPath(), lock.Patiently())
	if err != nil {
		return err
	}
	defer l.Unlock()
	err = s.Verify(ctx, d)
	if !errors.Is(err, ErrCorrupt) {
		if errors.Is(err, ErrNotFound) {
			return nil
		}
		return err
	}
	if err := os.Remove(s.Path(d)); err != nil {
		return blobError("delete", d, err)
	}
	return durable.SyncDir(filepath.Dir(s.Path(d)))
}

// Leftovers are what killed processes left: no harm, but room.
type Leftovers struct {
	Partials int   // blobs that were not written to their end and nobody writes
	Bytes    int64 // of theirs
	Leases   int   // of processes that are gone
}

// Leftovers looks for them.
func (s *Store) Leftovers() (Leftovers, error) {
	var l Leftovers
	err := s.eachFree("ingest", ".lock", func(path string) error {
		data := strings.TrimSuffix(path, ".lock") + ".data"
		if fi, err := os.Stat(data); err == nil {
			l.Partials++
			l.Bytes += fi.Size()
		}
		return nil
	})
	return l, errors.Join(err, s.eachFree("leases", "", func(string) error { l.Leases++; return nil }))
}

// Tidy removes the leftovers, also blobs that might have been resumed.
func (s *Store) Tidy() error {
	return errors.Join(
		s.eachFree("ingest", ".lock", func(path string) error {
			err := os.Remove(strings.TrimSuffix(path, ".lock") + ".data")
			if errors.Is(err, fs.ErrNotExist) {
				err = nil
			}
			return errors.Join(err, os.Remove(path))
		}),
		s.eachFree("leases", "", os.Remove),
	)
}

// eachFree calls fn, under its lock, for each file of dir that ends with suffix
// and that no process holds.
func (s *Store) eachFree(dir, suffix string, fn func(path string) error) error {
	entries, err := os.ReadDir(filepath.Join(s.dir, dir))
	if err != nil {
		return err
	}
	var errs []error
	for _, e := range entries {
		if !strings.HasSuffix(e.Name(), suffix) {
			continue
		}
		path := filepath.Join(s.dir, dir, e.Name())
		held, free, err := lock.TryExclusive(path)
		if err != nil || !free {
			errs = append(errs, err)
			continue
		}
		errs = append(errs, fn(path), held.Unlock())
	}
	return errors.Join(errs...)
}
