package client

import (
	"context"
	"fmt"

	bk "github.com/moby/buildkit/client"
	"github.com/moby/buildkit/util/disk"

	"github.com/stack-run/stack/engine/build/request"
)

// Usage lists what the build cache holds.
func (c *Client) Usage(ctx context.Context, q *request.Cache) (*request.Records, error) {
	conn, err := c.Dial(ctx)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	records, err := usage(ctx, conn, q.Filters)
	return &request.Records{Records: records}, err
}

func usage(ctx context.Context, conn *bk.Client, filters []string) ([]request.Record, error) {
	infos, err := conn.DiskUsage(ctx, bk.WithFilter(filters))
	if err != nil {
		return nil, fmt.Errorf("cannot list the build cache: %w", err)
	}
	var out []request.Record
	for _, i := range infos {
		out = append(out, record(*i))
	}
	return out, nil
}

// Prune removes what q says from the build cache, or only looks what would be
// removed, and returns that.
func (c *Client) Prune(ctx context.Context, q *request.Cache) (*request.Records, error) {
	conn, err := c.Dial(ctx)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	before, err := usage(ctx, conn, nil)
	if err != nil {
		return nil, err
	}
	if q.DryRun {
		return c.prunable(ctx, conn, before, q)
	}
	shared := make(map[string]bool) // BuildKit does not say so of what is gone
	for _, x := range before {
		shared[x.ID] = x.Shared
	}
	options := []bk.PruneOption{bk.WithFilter(q.Filters), bk.WithKeepOpt(q.Keep, q.Reserved, q.MaxUsed, q.MinFree)}
	if q.All {
		options = append(options, bk.PruneAll)
	}
	gone := make(chan bk.UsageInfo)
	collected := make(chan *request.Records)
	go func() {
		out := &request.Records{}
		for i := range gone {
			i.Shared = shared[i.ID]
			out.Records = append(out.Records, record(i))
		}
		out.Empties = len(out.Records) == len(before)
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

// prunable tells what Prune would remove.
func (c *Client) prunable(ctx context.Context, conn *bk.Client, all []request.Record, q *request.Cache) (*request.Records, error) {
	matching, err := usage(ctx, conn, q.Filters)
	if err != nil {
		return nil, err
	}
	var stat disk.DiskStat
	if q.MinFree > 0 {
		if stat, err = disk.GetDiskStat(request.StateDir(q.DataRoot)); err != nil {
			return nil, fmt.Errorf("cannot look how full the disk is: %w", err)
		}
	}
	r := rules{all: q.All, matching: make(map[string]bool), keep: keepBytes(all, q, stat.Free)}
	for _, x := range matching {
		r.matching[x.ID] = true
	}
	if q.Keep > 0 {
		r.unusedSince = c.Now().Add(-q.Keep)
	}
	gone := r.prunable(all)
	return &request.Records{Records: gone, Empties: len(gone) == len(all)}, nil
}

func record(i bk.UsageInfo) request.Record {
	return request.Record{
		ID: i.ID, Parents: i.Parents, Type: string(i.RecordType), Description: i.Description,
		InUse: i.InUse, Shared: i.Shared, Mutable: i.Mutable, Size: i.Size,
		CreatedAt: i.CreatedAt, LastUsedAt: i.LastUsedAt, UsageCount: i.UsageCount,
	}
}
