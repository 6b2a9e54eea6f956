package image

import (
	"archive/tar"
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/stack-run/stack/engine/content"
	"github.com/stack-run/stack/engine/content/compression"
)

// StoreLayer reads a tar archive from r and stores it as a layer. What comes
// compressed with gzip or zstd is stored as it is, so that its digest stays;
// anything else is compressed with gzip. The archive must have its end marker,
// without which a truncated one could not be told from a complete one.
func (s *Store) StoreLayer(ctx context.Context, lease *content.Lease, r io.Reader) (content.Layer, error) {
	return s.storeLayer(ctx, lease, r, true)
}

// storeLayer is StoreLayer; strict asks for the end marker, which is not needed
// where the archive's digest is known from elsewhere.
func (s *Store) storeLayer(ctx context.Context, lease *content.Lease, r io.Reader, strict bool) (content.Layer, error) {
	br := bufio.NewReaderSize(ctxReader{ctx, r}, 1<<20)
	head, err := br.Peek(6)
	if len(head) == 0 {
		if err == io.EOF {
			err = errors.New("it is empty")
		}
		return content.Layer{}, fmt.Errorf("cannot read archive: %w", err)
	}
	w, err := s.content.Ingest(ctx, lease, "", content.Want{})
	if err != nil {
		return content.Layer{}, err
	}
	defer w.Abort()
	layer := content.Layer{MediaType: ocispec.MediaTypeImageLayerGzip}
	switch compression.Detect(head) {
	case compression.Zstd:
		layer.MediaType = ocispec.MediaTypeImageLayerZstd
		fallthrough
	case compression.Gzip:
		layer.DiffID, err = copyVerbatim(w, br, strict)
	default:
		layer.DiffID, err = copyCompressed(w, br, strict)
	}
	if err != nil {
		return content.Layer{}, fmt.Errorf("cannot read archive: %w", err)
	}
	info, err := w.Commit(ctx)
	layer.Digest, layer.Size = info.Digest, info.Size
	return layer, err
}

// copyVerbatim copies the compressed archive r to w.
func copyVerbatim(w io.Writer, r io.Reader, strict bool) (digest.Digest, error) {
	raw, _, err := compression.NewReader(io.TeeReader(r, w))
	if err != nil {
		return "", err
	}
	diffID, err := readTar(raw, io.Discard, strict)
	raw.Close()
	if err != nil {
		return "", err
	}
	_, err = io.Copy(w, r) // what the decompressor had no need to read
	return diffID, err
}

// copyCompressed compresses the archive r, which may be plain or compressed in a
// way that layers are not, into w.
func copyCompressed(w io.Writer, r io.Reader, strict bool) (digest.Digest, error) {
	raw, _, err := compression.NewReader(r)
	if err != nil {
		return "", err
	}
	defer raw.Close()
	z := compression.NewWriter(w)
	diffID, err := readTar(raw, z, strict)
	return diffID, errors.Join(err, z.Close())
}

// readTar copies the tar archive r to w, checks that it can be read to its end,
// and returns its digest.
func readTar(r io.Reader, w io.Writer, strict bool) (digest.Digest, error) {
	h := digest.SHA256.Digester()
	var tail tailWriter
	tee := io.TeeReader(r, io.MultiWriter(h.Hash(), w, &tail))
	archive := tar.NewReader(tee)
	entries := 0
	for {
		_, err := archive.Next()
		if err == io.EOF {
			break
		}
		if errors.Is(err, tar.ErrHeader) && entries == 0 {
			return "", errors.New("it is not a tar archive")
		}
		if errors.Is(err, io.ErrUnexpectedEOF) {
			return "", fmt.Errorf("it is truncated, after %d entries: %w", entries, err)
		}
		if err != nil {
			return "", err
		}
		entries++
	}
	if strict && !tail.zero() {
		return "", fmt.Errorf("it is truncated: after %d entries there is no end-of-archive marker", entries)
	}
	if _, err := io.CopyBuffer(struct{ io.Writer }{io.Discard}, tee, make([]byte, 64<<10)); err != nil {
		return "", err
	}
	return h.Digest(), nil
}

// tailWriter remembers the last block of 512 bytes written to it.
type tailWriter struct {
	last [512]byte
	n    int
}

func (t *tailWriter) Write(p []byte) (int, error) {
	if len(p) >= len(t.last) {
		copy(t.last[:], p[len(p)-len(t.last):])
		t.n = len(t.last)
		return len(p), nil
	}
	copy(t.last[:], t.last[len(p):])
	copy(t.last[len(t.last)-len(p):], p)
	t.n += len(p)
	return len(p), nil
}

// zero tells whether the block is full of zeros, as an end marker is.
func (t *tailWriter) zero() bool {
	return t.n >= len(t.last) && bytes.Equal(t.last[:], make([]byte, len(t.last)))
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
