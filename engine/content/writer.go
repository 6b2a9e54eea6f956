package content

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"path/filepath"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"github.com/stack-run/stack/internal/durable"
	"github.com/stack-run/stack/internal/lock"
)

// flushEvery is how many bytes are written before the kernel is asked to start
// writing them to disk, so that the fsync at the end has little left to do.
const flushEvery = 8 << 20

// onceName starts the name of an ingest without a key, which nobody can resume.
const onceName = "once-"

// Want announces a blob. The zero value announces nothing.
type Want struct {
	Digest digest.Digest
	Size   int64 // bytes, 0 for unknown
}

// Writer writes one blob. It is not for concurrent use. Exactly one of Commit,
// Close and Abort ends it; Close and Abort after Commit do nothing.
type Writer struct {
	s       *Store
	lease   *Lease
	want    Want
	lock    *lock.Held
	f       *os.File
	hash    hash.Hash
	n       int64
	flushed int64
	done    bool
	follow  *follower
}

// Ingest starts or resumes to write a blob. key names the ingest for resuming;
// "" takes the wanted digest, or, without one, a key that nobody else has.
// While another process writes under the key, Ingest waits; if the wanted blob
// is there, or is there then, the error is ErrExists. Either way lease
// protects the wanted blob.
func (s *Store) Ingest(ctx context.Context, lease *Lease, key string, want Want) (*Writer, error) {
	alg := digest.SHA256
	if want.Digest != "" {
		if err := want.Digest.Validate(); err != nil {
			return nil, fmt.Errorf("cannot store blob %q: %w", want.Digest, err)
		}
		alg = want.Digest.Algorithm()
		if err := lease.Protect(ctx, want.Digest); err != nil {
			return nil, err
		}
		if s.has(want) {
			return nil, ErrExists
		}
		if key == "" {
			key = want.Digest.String()
		}
	}
	path := filepath.Join(s.dir, "ingest", onceName+randomName())
	if key != "" {
		sum := sha256.Sum256([]byte(key))
		path = filepath.Join(s.dir, "ingest", hex.EncodeToString(sum[:16]))
	}
	held, err := lock.Exclusive(ctx, path+".lock", lock.Patiently())
	if err != nil {
		return nil, err
	}
	if want.Digest != "" && s.has(want) {
		held.Remove()
		return nil, ErrExists
	}
	f, err := os.OpenFile(path+".data", os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		held.Remove()
		return nil, fmt.Errorf("cannot store blob: %w", err)
	}
	w := &Writer{s: s, lease: lease, want: want, lock: held, f: f, hash: alg.Hash(), follow: newFollower(0)}
	w.n, err = io.Copy(w.hash, ctxReader{ctx, f})
	if err != nil {
		w.Close()
		return nil, fmt.Errorf("cannot resume to store a blob: %w", err)
	}
	w.follow.advance(w.n)
	if want.Size > 0 && w.n > want.Size {
		if err := w.Reset(); err != nil {
			w.Close()
			return nil, err
		}
	}
	return w, nil
}

// has tells whether want is there with the wanted length.
func (s *Store) has(want Want) bool {
	info, err := s.Stat(want.Digest)
	return err == nil && (want.Size == 0 || info.Size == want.Size)
}

// Offset is the number of bytes written, before and after a resume.
func (w *Writer) Offset() int64 { return w.n }

// Write appends to the blob. Writing more than the announced size fails.
func (w *Writer) Write(p []byte) (int, error) {
	if w.want.Size > 0 && w.n+int64(len(p)) > w.want.Size {
		return 0, fmt.Errorf("cannot store blob %s: it is longer than the %d bytes announced", w.want.Digest, w.want.Size)
	}
	n, err := w.f.Write(p)
	w.hash.Write(p[:n])
	w.n += int64(n)
	w.follow.advance(w.n)
	if w.n-w.flushed >= flushEvery {
		unix.SyncFileRange(int(w.f.Fd()), w.flushed, w.n-w.flushed, unix.SYNC_FILE_RANGE_WRITE)
		w.flushed = w.n
	}
	if err != nil {
		err = fmt.Errorf("cannot store blob: %w", trimPath(err))
	}
	return n, err
}

// Reset forgets what was written, for a sender that cannot resume.
func (w *Writer) Reset() error {
	w.follow.end(errAbandoned)
	w.follow = newFollower(0)
	w.hash.Reset()
	w.n, w.flushed = 0, 0
	if err := w.f.Truncate(0); err != nil {
		return fmt.Errorf("cannot store blob: %w", trimPath(err))
	}
	_, err := w.f.Seek(0, io.SeekStart)
	return err
}

// Digest is the digest of what was written so far.
func (w *Writer) Digest() digest.Digest {
	alg := digest.SHA256
	if w.want.Digest != "" {
		alg = w.want.Digest.Algorithm()
	}
	return digest.NewDigest(alg, w.hash)
}

// Commit compares size and digest with what was wanted, makes the blob durable
// and gives it its name. A blob that is not what was wanted is deleted, so that
// the next try starts from nothing. Whatever happens, the writer is done.
func (w *Writer) Commit(ctx context.Context) (Info, error) {
	if w.done {
		return Info{}, errors.New("internal error: blob writer used after its end")
	}
	info := Info{Digest: w.Digest(), Size: w.n}
	if w.want.Size > 0 && w.n != w.want.Size {
		w.Abort()
		return Info{}, fmt.Errorf("cannot store blob %s: it ended after %d of %d bytes", w.want.Digest, w.n, w.want.Size)
	}
	if w.want.Digest != "" && info.Digest != w.want.Digest {
		w.Abort()
		return Info{}, fmt.Errorf("cannot store blob %s: %w: the content has digest %s", w.want.Digest, ErrCorrupt, info.Digest)
	}
	// Who reads behind need not wait for the disk.
	w.follow.end(nil)
	if err := w.commit(ctx, info.Digest); err != nil {
		w.Abort()
		return Info{}, fmt.Errorf("cannot store blob %s: %w", info.Digest, trimPath(err))
	}
	return info, nil
}

func (w *Writer) commit(ctx context.Context, d digest.Digest) error {
	if err := w.f.Chmod(0o444); err != nil {
		return err
	}
	if err := w.f.Sync(); err != nil {
		return err
	}
	if err := w.lease.Protect(ctx, d); err != nil {
		return err
	}
	path := w.s.Path(d)
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	// An existing blob is replaced: this content was verified just now.
	if err := os.Rename(w.f.Name(), path); err != nil {
		return err
	}
	if err := durable.SyncDir(dir); err != nil {
		return err
	}
	w.done = true
	return errors.Join(w.f.Close(), w.lock.Remove())
}

// Close ends the writer and keeps what was written for a later Ingest.
func (w *Writer) Close() error {
	if w.done {
		return nil
	}
	w.done = true
	w.follow.end(errAbandoned)
	return errors.Join(w.f.Close(), w.lock.Unlock())
}

// Abort ends the writer and deletes what was written.
func (w *Writer) Abort() error {
	if w.done {
		return nil
	}
	w.done = true
	w.follow.end(errAbandoned)
	err := os.Remove(w.f.Name())
	if errors.Is(err, os.ErrNotExist) {
		err = nil
	}
	return errors.Join(err, w.f.Close(), w.lock.Remove())
}

// Put stores data and returns its digest.
func (s *Store) Put(ctx context.Context, lease *Lease, data []byte) (digest.Digest, error) {
	d := digest.FromBytes(data)
	w, err := s.Ingest(ctx, lease, "", Want{Digest: d, Size: int64(len(data))})
	if errors.Is(err, ErrExists) {
		return d, nil
	}
	if err != nil {
		return "", err
	}
	if err := w.Reset(); err != nil {
		w.Abort()
		return "", err
	}
	if _, err := w.Write(data); err != nil {
		w.Abort()
		return "", err
	}
	_, err = w.Commit(ctx)
	return d, err
}
