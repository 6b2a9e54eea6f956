package daemon

import (
	"context"

	"github.com/moby/buildkit/client"
	"github.com/moby/buildkit/cmd/buildkitd/config"
	"github.com/moby/buildkit/util/disk"
)

// gcPolicy is what the cache may keep: BuildKit's rules with a cap of a tenth of
// the disk, and a fifth of the disk kept free.
func gcPolicy(dir string) []client.PruneInfo {
	stat, err := disk.GetDiskStat(dir)
	if err != nil {
		stat = disk.DiskStat{} // BuildKit then assumes a small disk
	}
	limits := config.GCConfig{
		GCReservedSpace: config.DiskSpace{Percentage: 2},
		GCMaxUsedSpace:  config.DiskSpace{Percentage: 10},
		GCMinFreeSpace:  config.DiskSpace{Percentage: 20},
	}
	var out []client.PruneInfo
	for _, rule := range config.DefaultGCPolicy(limits, stat) {
		out = append(out, client.PruneInfo{
			Filter:        rule.Filters,
			All:           rule.All,
			KeepDuration:  rule.KeepDuration.Duration,
			ReservedSpace: rule.ReservedSpace.AsBytes(stat),
			MaxUsedSpace:  rule.MaxUsedSpace.AsBytes(stat),
			MinFreeSpace:  rule.MinFreeSpace.AsBytes(stat),
		})
	}
	return out
}

// collect removes what the policy does not keep, and what failed builds left.
func (w *worker) collect(ctx context.Context) error {
	gone := make(chan client.UsageInfo)
	defer close(gone)
	go func() {
		for range gone {
		}
	}()
	return w.Prune(ctx, gone, w.GCPolicy()...)
}
