package content

import (
	"bufio"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/stack-run/stack/internal/durable"
	"github.com/stack-run/stack/internal/lock"
)

// Lease keeps blobs from collection while their user lives. It is safe for
// concurrent use.
type Lease struct {
	s    *Store
	lock *lock.Held
	mu   sync.Mutex
	has  map[digest.Digest]bool
}

// Lease returns a new lease that protects nothing yet.
func (s *Store) Lease(ctx context.Context) (*Lease, error) {
	l, err := lock.Exclusive(ctx, filepath.Join(s.dir, "leases", randomName()))
	if err != nil {
		return nil, fmt.Errorf("cannot take a lease on blobs: %w", err)
	}
	return &Lease{s: s, lock: l, has: make(map[digest.Digest]bool)}, nil
}

// Protect keeps the digests from collection until the lease is closed, whether
// the blobs are there already or not.
func (l *Lease) Protect(ctx context.Context, digests ...digest.Digest) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	var lines strings.Builder
	for _, d := range digests {
		if !l.has[d] {
			lines.WriteString(d.String() + "\n")
		}
	}
	if lines.Len() == 0 {
		return nil
	}
	shared, err := lock.Shared(ctx, l.s.lockPath(), lock.Patiently())
	if err != nil {
		return err
	}
	defer shared.Unlock()
	if _, err := io.WriteString(l.lock.File(), lines.String()); err != nil {
		return fmt.Errorf("cannot protect blobs: %w", err)
	}
	for _, d := range digests {
		l.has[d] = true
	}
	return nil
}

// Digests returns what the lease protects.
func (l *Lease) Digests() []digest.Digest {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Collect(maps.Keys(l.has))
}

// Close ends the protection.
func (l *Lease) Close() error { return l.lock.Remove() }

// CollectOptions say what Collect may remove.
type CollectOptions struct {
	// Only, if not nil, limits collection to these blobs.
	Only []digest.Digest
	// DryRun reports what would be removed and removes nothing.
	DryRun bool
	// PartialAge is how long an unfinished ingest is kept for resuming; 0
	// keeps all of them. One that nobody can resume is not kept.
	PartialAge time.Duration
}

// Collect removes the blobs that neither keep returns nor a lease protects, and
// returns them. keep is called with additions locked out, so it sees every
// reference there is. A Collect that is killed half-way has removed less.
func (s *Store) Collect(ctx context.Context, opts CollectOptions, keep func() (map[digest.Digest]bool, error)) ([]Info, error) {
	held, err := lock.Exclusive(ctx, s.lockPath(), lock.Patiently())
	if err != nil {
		return nil, err
	}
	defer held.Unlock()
	kept, err := keep()
	if err != nil {
		return nil, err
	}
	leased, err := s.leased()
	if err != nil {
		return nil, err
	}
	var only map[digest.Digest]bool
	if opts.Only != nil {
		only = make(map[digest.Digest]bool, len(opts.Only))
		for _, d := range opts.Only {
			only[d] = true
		}
	}
	var removed []Info
	dirs := make(map[string]bool)
	err = s.Walk(func(b Info) error {
		if kept[b.Digest] || leased[b.Digest] || only != nil && !only[b.Digest] {
			return nil
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if !opts.DryRun {
			path := s.Path(b.Digest)
			if err := os.Remove(path); err != nil {
				return blobError("remove", b.Digest, err)
			}
			dirs[filepath.Dir(path)] = true
		}
		removed = append(removed, b)
		return nil
	})
	for dir := range dirs {
		err = errors.Join(err, durable.SyncDir(dir))
	}
	if !opts.DryRun {
		err = errors.Join(err, s.removePartials(opts.PartialAge))
	}
	return removed, err
}

// leased reads the leases of living processes and removes those of dead ones.
func (s *Store) leased() (map[digest.Digest]bool, error) {
	dir := filepath.Join(s.dir, "leases")
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("cannot read leases: %w", err)
	}
	leased := make(map[digest.Digest]bool)
	for _, e := range entries {
		path := filepath.Join(dir, e.Name())
		l, free, err := lock.TryExclusive(path)
		if err != nil {
			return nil, fmt.Errorf("cannot read leases: %w", err)
		}
		if free {
			l.Remove()
			continue
		}
		f, err := os.Open(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("cannot read leases: %w", err)
		}
		lines := bufio.NewScanner(f)
		for lines.Scan() {
			leased[digest.Digest(lines.Text())] = true
		}
		f.Close()
		if lines.Err() != nil {
			return nil, fmt.Errorf("cannot read leases: %w", lines.Err())
		}
	}
	return leased, nil
}

// removePartials deletes ingests that nobody writes to and nobody has for age,
// and those that cannot be resumed at once.
func (s *Store) removePartials(age time.Duration) error {
	dir := filepath.Join(s.dir, "ingest")
	entries, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("cannot remove unfinished blobs: %w", err)
	}
	for _, e := range entries {
		key := strings.TrimSuffix(e.Name(), filepath.Ext(e.Name()))
		path := filepath.Join(dir, key)
		fi, err := os.Stat(path + ".data")
		resumable := err == nil && !strings.HasPrefix(key, onceName)
		if resumable && (age == 0 || time.Since(fi.ModTime()) < age) {
			continue
		}
		l, free, err := lock.TryExclusive(path + ".lock")
		if err != nil || !free {
			continue
		}
		os.Remove(path + ".data")
		l.Remove()
	}
	return nil
}

func randomName() string { return strings.ToLower(rand.Text()) }
