package daemon

import (
	"context"
	"fmt"

	controlapi "github.com/moby/buildkit/api/services/control"

	"github.com/stack-run/stack/engine/build/request"
)

// reporter is what tells what the cache holds: BuildKit's controller.
type reporter interface {
	DiskUsage(context.Context, *controlapi.DiskUsageRequest) (*controlapi.DiskUsageResponse, error)
}

// noteUsage writes down what the cache holds.
func noteUsage(ctx context.Context, c reporter, dataRoot string) error {
	usage, err := c.DiskUsage(ctx, &controlapi.DiskUsageRequest{})
	if err != nil {
		return fmt.Errorf("cannot measure the build cache: %w", err)
	}
	out := request.Records{Records: []request.Record{}}
	for _, r := range usage.Record {
		x := request.Record{
			ID: r.ID, Parents: r.Parents, Type: r.RecordType, Description: r.Description, InUse: r.InUse, Shared: r.Shared,
			Mutable: r.Mutable, Size: r.Size, CreatedAt: r.CreatedAt.AsTime(), UsageCount: int(r.UsageCount),
		}
		if r.LastUsedAt != nil {
			last := r.LastUsedAt.AsTime()
			x.LastUsedAt = &last
		}
		out.Records = append(out.Records, x)
	}
	return request.WriteUsage(dataRoot, out)
}
