package compose

import (
	"context"
	"errors"
	"io"
	"os"

	"github.com/opencontainers/go-digest"

	"github.com/stack-run/stack/engine/build/request"
	"github.com/stack-run/stack/internal/sock"
)

// Builds are made by a program of its own, with BuildKit in it. It gets the caller's
// streams, because it shows progress, reads contexts from stdin and writes archives to
// stdout.
type Builds interface {
	// Build builds images. The result tells of the targets even where some failed.
	Build(ctx context.Context, b *request.Build, s Streams) (request.Result, error)
	// BuildCache lists what the build cache holds, or what PruneBuildCache would remove.
	BuildCache(ctx context.Context, q *request.Cache, s Streams) (request.Records, error)
	// BuildCacheDisk is BuildCache for those who only measure: no builder is started for
	// it, because the last one noted what it left.
	BuildCacheDisk(ctx context.Context, s Streams) (request.Records, error)
	// PruneBuildCache removes from the build cache. What layers only it had stay until
	// PruneImages or CollectLayers.
	PruneBuildCache(ctx context.Context, q *request.Cache, s Streams) (request.Records, error)
}

// Streams are a caller's.
type Streams struct {
	In       io.Reader
	Out, Err io.Writer
}

// Builder runs a verb of the builder program: it gives it what is asked for, and reads
// the answer into result.
type Builder func(ctx context.Context, verb string, ask, result any, s Streams) error

func (c *Client) askBuilder(ctx context.Context, verb string, ask, result any, s Streams) error {
	if c.builder == nil {
		return errors.New("cannot build: this program has no builder")
	}
	return c.builder(ctx, verb, ask, result, s)
}

// Build builds images.
func (c *Client) Build(ctx context.Context, b *request.Build, s Streams) (request.Result, error) {
	here := *b
	here.DataRoot, here.RunRoot = c.Engine.DataRoot(), c.Engine.RunRoot()
	var r request.Result
	err := c.askBuilder(ctx, "build", &here, &r, s)
	return r, err
}

// BuildCache lists the build cache.
func (c *Client) BuildCache(ctx context.Context, q *request.Cache, s Streams) (request.Records, error) {
	return c.askCache(ctx, "du", q, s)
}

func (c *Client) askCache(ctx context.Context, verb string, q *request.Cache, s Streams) (request.Records, error) {
	here := *q
	here.DataRoot, here.RunRoot = c.Engine.DataRoot(), c.Engine.RunRoot()
	var r request.Records
	err := c.askBuilder(ctx, verb, &here, &r, s)
	return r, err
}

// BuildCacheDisk asks a builder that runs, else reads what the last one left.
func (c *Client) BuildCacheDisk(ctx context.Context, s Streams) (request.Records, error) {
	conn, err := sock.Dial(ctx, request.Socket(c.Engine.RunRoot()))
	if err != nil {
		return c.notedCacheDisk()
	}
	conn.Close()
	return c.BuildCache(ctx, &request.Cache{}, s)
}

// notedCacheDisk is what the last builder left, which shares with the images of today.
func (c *Client) notedCacheDisk() (request.Records, error) {
	r, err := request.ReadUsage(c.Engine.DataRoot())
	if err != nil || len(r.Blobs) == 0 {
		return r, err
	}
	images, err := c.Engine.Images()
	if err != nil {
		return r, err
	}
	r.MarkShared(func(d digest.Digest) bool {
		_, err := images.Content().Stat(d)
		return err == nil
	})
	return r, nil
}

// PruneBuildCache prunes the build cache.
func (c *Client) PruneBuildCache(ctx context.Context, q *request.Cache, s Streams) (request.Records, error) {
	if _, err := os.Stat(request.StateDir(c.Engine.DataRoot())); err != nil {
		return request.Records{}, nil // nothing was ever built
	}
	return c.askCache(ctx, "prune", q, s)
}
