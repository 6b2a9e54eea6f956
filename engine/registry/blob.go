package registry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/stack-run/stack/engine/content"
)

// progressStep is how much a try must bring to count as progress, which is what
// a connection that breaks again and again may cost no tries for.
const progressStep = 64 << 10

// repository is where blobs and manifests are asked for.
type repository struct {
	c         *Client
	name      string // path within the registry
	endpoints []*endpoint
}

func (r *repository) pullScope() string { return "repository:" + r.name + ":pull" }

// get is the request for a blob.
func (r *repository) get(d digest.Digest) call {
	return call{method: http.MethodGet, path: "/v2/" + r.name + "/blobs/" + d.String(), scope: r.pullScope(), header: http.Header{}, ok: []int{http.StatusOK}}
}

// blob brings the rest of a blob into w, over as many connections as it takes.
func (r *repository) blob(ctx context.Context, d ocispec.Descriptor, w *content.Writer, got func(n int64)) error {
	var errs []error
	for _, e := range r.endpoints {
		err := r.blobFrom(ctx, e, d, w, got)
		if err == nil || ctx.Err() != nil {
			return err
		}
		if errs = append(errs, err); errors.As(err, new(*storeError)) {
			break
		}
	}
	return errors.Join(errs...)
}

// storeError is an error of this side, which no other server helps against.
type storeError struct{ error }

func (e *storeError) Unwrap() error { return e.error }

func (r *repository) blobFrom(ctx context.Context, e *endpoint, d ocispec.Descriptor, w *content.Writer, got func(n int64)) error {
	for try := 1; w.Offset() < d.Size; try++ {
		before := w.Offset()
		err := r.blobOnce(ctx, e, d, w, got)
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err == nil && w.Offset() < d.Size {
			err = io.ErrUnexpectedEOF
		}
		if err == nil {
			return nil
		}
		if w.Offset()-before >= progressStep {
			try = 1
		}
		if try >= attempts || !transient(err) {
			if errors.Is(err, io.ErrUnexpectedEOF) {
				err = fmt.Errorf("registry %s ended it after %d of %d bytes", e, w.Offset(), d.Size)
			}
			return err
		}
		if err := r.c.pause(ctx, err, try); err != nil {
			return err
		}
	}
	return nil
}

// blobOnce asks for what is missing and writes what comes.
func (r *repository) blobOnce(ctx context.Context, e *endpoint, d ocispec.Descriptor, w *content.Writer, got func(n int64)) error {
	offset := w.Offset()
	q := r.get(d.Digest)
	if offset > 0 {
		q.header.Set("Range", fmt.Sprintf("bytes=%d-", offset))
		q.ok = append(q.ok, http.StatusPartialContent)
	}
	resp, err := r.c.do(ctx, e, q)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	// A server that does not know ranges sends all of it again.
	var skip int64
	if offset > 0 && resp.StatusCode == http.StatusOK {
		skip = offset
	} else if resp.StatusCode == http.StatusPartialContent && rangeStart(resp.Header.Get("Content-Range")) != offset {
		return fmt.Errorf("registry %s answers another range than was asked for", e)
	}
	buf := make([]byte, 256<<10)
	for {
		n, err := resp.Body.Read(buf)
		p := buf[:n]
		if skip > 0 {
			k := min(skip, int64(n))
			skip -= k
			p = p[k:]
		}
		if len(p) > 0 {
			if w.Offset()+int64(len(p)) > d.Size {
				return fmt.Errorf("registry %s sends more than the %d bytes that the manifest says", e, d.Size)
			}
			if _, err := w.Write(p); err != nil {
				return &storeError{err}
			}
			got(int64(len(p)))
		}
		switch {
		case err == io.EOF:
			return nil
		case errors.Is(err, errStalled):
			return fmt.Errorf("registry %s: %w", e, err)
		case err != nil:
			return err
		}
	}
}

// rangeStart reads the first byte of "bytes 5-9/10", -1 if it cannot.
func rangeStart(s string) int64 {
	rest, ok := strings.CutPrefix(s, "bytes ")
	first, _, cut := strings.Cut(rest, "-")
	n, err := strconv.ParseInt(first, 10, 64)
	if !ok || !cut || err != nil {
		return -1
	}
	return n
}

// small brings a manifest's config: a blob that fits into memory.
func (r *repository) small(ctx context.Context, d ocispec.Descriptor) ([]byte, error) {
	var errs []error
	for _, e := range r.endpoints {
		data, _, err := r.document(ctx, e, r.get(d.Digest), d.Digest)
		if err == nil && int64(len(data)) != d.Size {
			err = fmt.Errorf("registry %s sends %s with %d bytes, not the %d that the manifest says", e, d.Digest, len(data), d.Size)
		}
		if err == nil {
			return data, nil
		}
		errs = append(errs, err)
	}
	return nil, errors.Join(errs...)
}

// maxDocument is the limit for manifests, indexes and configs, bytes.
const maxDocument = 8 << 20

// document asks for something small and verifies it, several times if it comes
// broken. Without want, what the registry says about its digest must be true.
func (r *repository) document(ctx context.Context, e *endpoint, q call, want digest.Digest) ([]byte, *http.Response, error) {
	for try := 1; ; try++ {
		data, resp, err := r.documentOnce(ctx, e, q, want)
		var wrong *wrongDigest
		if err == nil || try >= attempts || !errors.As(err, &wrong) && !transient(err) || ctx.Err() != nil {
			return data, resp, err
		}
		if err := r.c.pause(ctx, err, try); err != nil {
			return nil, nil, err
		}
	}
}

type wrongDigest struct{ text string }

func (e *wrongDigest) Error() string { return e.text }

func (r *repository) documentOnce(ctx context.Context, e *endpoint, q call, want digest.Digest) ([]byte, *http.Response, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, r.c.o.HeaderTimeout+r.c.o.StallTimeout+r.c.o.MaxWait, errStalled)
	defer cancel()
	resp, err := r.c.do(ctx, e, q)
	if err != nil {
		return nil, nil, err
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(io.LimitReader(resp.Body, maxDocument+1))
	if err != nil {
		return nil, nil, fmt.Errorf("cannot read from registry %s: %w", e, err)
	}
	if len(data) > maxDocument {
		return nil, nil, fmt.Errorf("registry %s sends more than %d MiB where a manifest or config should be", e, maxDocument>>20)
	}
	if want == "" {
		want = digest.Digest(resp.Header.Get("Docker-Content-Digest"))
		if want == "" || want.Validate() != nil {
			return data, resp, nil
		}
	}
	if got := want.Algorithm().FromBytes(data); got != want {
		return nil, nil, &wrongDigest{fmt.Sprintf("registry %s sends %s with the content of %s", e, want, got)}
	}
	return data, resp, nil
}
