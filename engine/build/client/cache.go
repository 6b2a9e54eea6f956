package client

import (
	"context"
	"fmt"

	bk "github.com/moby/buildkit/client"

	"github.com/stack-run/stack/engine/build/request"
)

// Usage lists what the build cache holds.
func (c *Client) Usage(ctx context.Context, q *request.Cache) (*request.Records, error) {
	conn, err := c.Dial(ctx)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	infos, err := conn.DiskUsage(ctx, bk.WithFilter(q.Filters))
	if err != nil {
		return nil, fmt.Errorf("cannot list the build cache: %w", err)
	}
	out := &request.Records{}
	for _, i := range infos {
		out.Records = append(out.Records, record(*i))
	}
	return out, nil
}

// Prune removes what q says from the build cache and returns what is gone.
func (c *Client) Prune(ctx context.Context, q *request.Cache) (*request.Records, error) {
	conn, err := c.Dial(ctx)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	options := []bk.PruneOption{bk.WithFilter(q.Filters), bk.WithKeepOpt(q.Keep, q.Reserved, q.MaxUsed, q.MinFree)}
	if q.All {
		options = append(options, bk.PruneAll)
	}
	gone := make(chan bk.UsageInfo)
	collected := make(chan *request.Records)
	go func() {
		out := &request.Records{}
		for i := range gone {
			out.Records = append(out.Records, record(i))
		}
		collected <- out
	}()
	err = conn.Prune(ctx, gone, options...)
	close(gone)
	out := <-collected
	if err != nil {
		return out, fmt.Errorf("cannot prune the build cache: %w", err)
	}
	return out, nil
}

func record(i bk.UsageInfo) request.Record {
	return request.Record{
		ID: i.ID, Parents: i.Parents, Type: string(i.RecordType), Description: i.Description,
		InUse: i.InUse, Shared: i.Shared, Mutable: i.Mutable, Size: i.Size,
		CreatedAt: i.CreatedAt, LastUsedAt: i.LastUsedAt, UsageCount: i.UsageCount,
	}
}
