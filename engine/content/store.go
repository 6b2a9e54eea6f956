package content

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/opencontainers/go-digest"
)

var (
	// ErrNotFound says that a blob is not in the store.
	ErrNotFound = errors.New("blob not found")
	// ErrExists says that a blob need not be written: it is there.
	ErrExists = errors.New("blob exists")
	// ErrCorrupt says that a blob is not what its name says.
	ErrCorrupt = errors.New("blob is corrupt")
)

// Store is a directory of blobs. It holds no state in memory, so that any
// number of Stores in any number of processes may share a directory.
type Store struct {
	dir string
}

// Info describes a blob.
type Info struct {
	Digest digest.Digest
	Size   int64 // bytes
}

// Open opens the store below root, the data root, and creates it if need be.
func Open(root string) (*Store, error) {
	s := &Store{dir: filepath.Join(root, "content")}
	for _, dir := range []string{"blobs/sha256", "ingest", "leases"} {
		if err := os.MkdirAll(filepath.Join(s.dir, dir), 0o700); err != nil {
			return nil, fmt.Errorf("cannot open content store: %w", err)
		}
	}
	return s, nil
}

// Path is where the blob d is, or would be. The file is read-only.
func (s *Store) Path(d digest.Digest) string {
	return filepath.Join(s.dir, "blobs", d.Algorithm().String(), d.Encoded())
}

// Stat returns the size of d, or ErrNotFound.
func (s *Store) Stat(d digest.Digest) (Info, error) {
	if err := d.Validate(); err != nil {
		return Info{}, fmt.Errorf("cannot look up blob %q: %w", d, err)
	}
	fi, err := os.Stat(s.Path(d))
	if err != nil {
		return Info{}, blobError("look up", d, err)
	}
	return Info{Digest: d, Size: fi.Size()}, nil
}

// Blob is an open blob.
type Blob struct {
	*os.File
	size int64
}

// Size is the blob's length in bytes.
func (b *Blob) Size() int64 { return b.size }

// Reader opens d for reading. What it reads was verified when it was stored,
// not now; a reader that decides something from the content uses ReadAll or
// hashes what it reads.
func (s *Store) Reader(d digest.Digest) (*Blob, error) {
	if err := d.Validate(); err != nil {
		return nil, fmt.Errorf("cannot open blob %q: %w", d, err)
	}
	f, err := os.Open(s.Path(d))
	if err != nil {
		return nil, blobError("open", d, err)
	}
	fi, err := f.Stat()
	if err != nil {
		f.Close()
		return nil, blobError("open", d, err)
	}
	return &Blob{File: f, size: fi.Size()}, nil
}

// ReadAll returns the content of d, verified, if it is not longer than limit
// bytes. It is for manifests and configs.
func (s *Store) ReadAll(d digest.Digest, limit int64) ([]byte, error) {
	b, err := s.Reader(d)
	if err != nil {
		return nil, err
	}
	defer b.Close()
	if b.Size() > limit {
		return nil, fmt.Errorf("cannot read blob %s: it has %d bytes, more than the %d that its kind may have", d, b.Size(), limit)
	}
	data, err := io.ReadAll(io.LimitReader(b, limit+1))
	if err != nil {
		return nil, blobError("read", d, err)
	}
	if d.Algorithm().FromBytes(data) != d {
		return nil, corrupt(d)
	}
	return data, nil
}

// Verify reads d and compares it with its name. The error wraps ErrCorrupt if
// they differ.
func (s *Store) Verify(ctx context.Context, d digest.Digest) error {
	b, err := s.Reader(d)
	if err != nil {
		return err
	}
	defer b.Close()
	h := d.Algorithm().Hash()
	if _, err := io.CopyBuffer(struct{ io.Writer }{h}, ctxReader{ctx, struct{ io.Reader }{b}}, make([]byte, 256<<10)); err != nil {
		return blobError("verify", d, err)
	}
	if digest.NewDigest(d.Algorithm(), h) != d {
		return corrupt(d)
	}
	return nil
}

// Walk calls fn for each blob, in no order, until fn returns an error.
func (s *Store) Walk(fn func(Info) error) error {
	algorithms, err := os.ReadDir(filepath.Join(s.dir, "blobs"))
	if err != nil {
		return fmt.Errorf("cannot list blobs: %w", err)
	}
	for _, a := range algorithms {
		blobs, err := os.ReadDir(filepath.Join(s.dir, "blobs", a.Name()))
		if err != nil {
			return fmt.Errorf("cannot list blobs: %w", err)
		}
		for _, b := range blobs {
			d := digest.NewDigestFromEncoded(digest.Algorithm(a.Name()), b.Name())
			if d.Validate() != nil {
				continue // a temporary file
			}
			fi, err := b.Info()
			if errors.Is(err, fs.ErrNotExist) {
				continue
			}
			if err != nil {
				return fmt.Errorf("cannot list blobs: %w", err)
			}
			if err := fn(Info{Digest: d, Size: fi.Size()}); err != nil {
				return err
			}
		}
	}
	return nil
}

func (s *Store) lockPath() string { return filepath.Join(s.dir, "lock") }

func blobError(verb string, d digest.Digest, err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("cannot %s blob %s: %w", verb, d, ErrNotFound)
	}
	return fmt.Errorf("cannot %s blob %s: %w", verb, d, trimPath(err))
}

func corrupt(d digest.Digest) error {
	return fmt.Errorf("%w: the content of %s does not have that digest; \"stack system check --repair\" removes it, then pull or load the image again", ErrCorrupt, d)
}

// trimPath takes the long path of the store out of an error.
func trimPath(err error) error {
	var pe *fs.PathError
	if errors.As(err, &pe) {
		return fmt.Errorf("%s: %w", strings.ToLower(pe.Op), pe.Err)
	}
	return err
}

// ctxReader ends with the context.
type ctxReader struct {
	ctx context.Context
	r   io.Reader
}

func (r ctxReader) Read(p []byte) (int, error) {
	if r.ctx.Err() != nil {
		return 0, context.Cause(r.ctx)
	}
	return r.r.Read(p)
}
