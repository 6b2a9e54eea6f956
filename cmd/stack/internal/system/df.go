package system

import (
	"context"
	"fmt"
	"strconv"

	"github.com/docker/go-units"
	"github.com/spf13/cobra"

	"github.com/stack-run/stack/cmd/stack/internal/cli"
	"github.com/stack-run/stack/cmd/stack/internal/container"
	"github.com/stack-run/stack/cmd/stack/internal/format"
	"github.com/stack-run/stack/cmd/stack/internal/volume"
	"github.com/stack-run/stack/compose"
	"github.com/stack-run/stack/engine"
	"github.com/stack-run/stack/engine/build/request"
	"github.com/stack-run/stack/volumes"
)

type dfOptions struct {
	Format  string
	Verbose bool
}

func newDfCmd(a *cli.App, runF func(context.Context, *cli.App, *dfOptions) error) *cobra.Command {
	if runF == nil {
		runF = runDf
	}
	o := &dfOptions{}
	cmd := &cobra.Command{
		Use:   "df [OPTIONS]",
		Short: "Show disk usage",
		Args:  cli.ExactArgs(0),
		RunE: a.Run(func(ctx context.Context, _ *cobra.Command, _ []string) error {
			return runF(ctx, a, o)
		}),
	}
	cli.FormatFlag(cmd.Flags(), &o.Format)
	cmd.Flags().BoolVarP(&o.Verbose, "verbose", "v", false, "Show detailed information on space usage")
	return cmd
}

// diskRow is a row of "system df" in docker's shape.
type diskRow struct {
	Active      string
	Reclaimable string
	Size        string
	TotalCount  string
	Type        string
}

// diskUse is what "system df" knows.
type diskUse struct {
	images     compose.ImagesDisk
	containers []engine.Container
	volumes    []volumes.Volume
	cache      request.Records
	imageUsers map[string]int
	sizes      func(engine.Container) (own, virtual int64)
	volumeSize map[string]int64
}

func runDf(ctx context.Context, a *cli.App, o *dfOptions) error {
	u, err := measureDisk(ctx, a)
	if err != nil {
		return err
	}
	if o.Verbose {
		return writeDiskUse(a, u.details(a.Now()), o.Format)
	}
	return format.Write(a.Out, format.Layout{
		Table: "{{.Type}}\t{{.TotalCount}}\t{{.Active}}\t{{.Size}}\t{{.Reclaimable}}",
		Headers: map[string]string{
			"Type": "TYPE", "TotalCount": "TOTAL", "Active": "ACTIVE", "Size": "SIZE", "Reclaimable": "RECLAIMABLE",
		},
	}, format.Options{Format: o.Format}, u.rows())
}

func measureDisk(ctx context.Context, a *cli.App) (*diskUse, error) {
	v, err := a.API(ctx)
	if err != nil {
		return nil, err
	}
	u := &diskUse{imageUsers: map[string]int{}, volumeSize: map[string]int64{}}
	if u.images, err = v.ImagesDisk(ctx); err != nil {
		return nil, err
	}
	if u.containers, err = v.Containers(ctx, compose.Selector{All: true, OneOff: true}); err != nil {
		return nil, err
	}
	for _, c := range u.containers {
		u.imageUsers[c.Spec.ImageID]++
	}
	if u.sizes, err = container.Sizes(ctx, v, u.containers); err != nil {
		return nil, err
	}
	if u.volumes, err = v.Volumes(ctx); err != nil {
		return nil, err
	}
	for _, vol := range u.volumes {
		if u.volumeSize[vol.Name], err = v.VolumeDisk(ctx, vol.Name); err != nil {
			a.Warn("%v", err)
		}
	}
	if u.cache, err = v.BuildCacheDisk(ctx, a.Streams()); err != nil {
		a.Warn("%v", err)
	}
	return u, nil
}

func (u *diskUse) rows() []diskRow {
	row := func(kind string, total, active int, size, reclaimable int64) diskRow {
		r := diskRow{
			Type: kind, TotalCount: strconv.Itoa(total), Active: strconv.Itoa(active),
			Size: units.HumanSize(float64(size)), Reclaimable: units.HumanSize(float64(reclaimable)),
		}
		if size > 0 {
			r.Reclaimable += fmt.Sprintf(" (%d%%)", reclaimable*100/size)
		}
		return r
	}
	active := 0
	for _, img := range u.images.Images {
		if u.imageUsers[img.ID] > 0 {
			active++
		}
	}
	rows := []diskRow{row("Images", len(u.images.Images), active, u.images.Size, u.images.Reclaimable)}
	var size, free int64
	active = 0
	for _, c := range u.containers {
		own, _ := u.sizes(c)
		size += own
		switch c.State.Phase {
		case engine.Running, engine.Paused, engine.Restarting:
			active++
		default:
			free += own
		}
	}
	rows = append(rows, row("Containers", len(u.containers), active, size, free))
	size, free, active = 0, 0, 0
	for _, v := range u.volumes {
		size += u.volumeSize[v.Name]
		if len(volume.Users(v.Name, u.containers)) > 0 {
			active++
		} else {
			free += u.volumeSize[v.Name]
		}
	}
	rows = append(rows, row("Local Volumes", len(u.volumes), active, size, free))
	var used request.Records
	for _, r := range u.cache.Records {
		if r.InUse {
			used.Records = append(used.Records, r)
		}
	}
	size = u.cacheSize()
	free = size - used.Size()
	cache := row("Build Cache", len(u.cache.Records), len(used.Records), size, free)
	cache.Reclaimable = units.HumanSize(float64(free)) // docker gives no percentage here
	return append(rows, cache)
}

// cacheSize is what the build cache takes, with the layers that no image has any
// more.
func (u *diskUse) cacheSize() int64 { return u.cache.Size() + u.images.Cached }
