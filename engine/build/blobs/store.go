package blobs

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/plugins/content/local"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	ours "github.com/stack-run/stack/engine/content"
)

// Store is BuildKit's store of blobs. To whoever asks it for a blob by digest, it
// has the engine's too.
type Store struct {
	content.Store
	dir    string
	engine *ours.Store
}

// Open opens the store in dir, which is on one file system with the engine's.
func Open(dir string, engine *ours.Store) (*Store, error) {
	s, err := local.NewStore(dir)
	if err != nil {
		return nil, fmt.Errorf("cannot open the builder's blobs: %w", err)
	}
	return &Store{Store: s, dir: dir, engine: engine}, nil
}

// Path is where blob d is, or would be.
func (s *Store) Path(d digest.Digest) string {
	return filepath.Join(s.dir, "blobs", d.Algorithm().String(), d.Encoded())
}

// Info tells about a blob.
func (s *Store) Info(ctx context.Context, d digest.Digest) (content.Info, error) {
	if err := s.take(d); err != nil {
		return content.Info{}, err
	}
	return s.Store.Info(ctx, d)
}

// ReaderAt opens a blob.
func (s *Store) ReaderAt(ctx context.Context, desc ocispec.Descriptor) (content.ReaderAt, error) {
	if err := s.take(desc.Digest); err != nil {
		return nil, err
	}
	return s.Store.ReaderAt(ctx, desc)
}

// ReaderAtEngine opens a blob of the engine's without taking it over.
func (s *Store) ReaderAtEngine(d digest.Digest) (content.ReaderAt, error) {
	if err := d.Validate(); err != nil {
		return nil, err
	}
	return local.OpenReader(s.engine.Path(d))
}

// Writer starts to write a blob.
func (s *Store) Writer(ctx context.Context, opts ...content.WriterOpt) (content.Writer, error) {
	var o content.WriterOpts
	for _, opt := range opts {
		if err := opt(&o); err != nil {
			return nil, err
		}
	}
	if o.Desc.Digest != "" {
		if err := s.take(o.Desc.Digest); err != nil {
			return nil, err
		}
	}
	return s.Store.Writer(ctx, opts...)
}

// take gives a blob of the engine's a name here, if only the engine has it.
func (s *Store) take(d digest.Digest) error {
	if d.Validate() != nil || s.engine == nil {
		return nil // for the store to complain
	}
	path := s.Path(d)
	if _, err := os.Lstat(path); err == nil {
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return fmt.Errorf("cannot take blob %s over: %w", d, err)
	}
	err := os.Link(s.engine.Path(d), path)
	if err == nil || errors.Is(err, fs.ErrExist) || errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return fmt.Errorf("cannot take blob %s over: %w", d, err)
}
