package container

import (
	"context"
	"slices"

	"github.com/stack-run/stack/cmd/stack/internal/cli"
	"github.com/stack-run/stack/engine"
)

// ContainerSizes measures containers: their own files, and those with the image's.
func ContainerSizes(ctx context.Context, a *cli.App) (func(engine.Container) (own, virtual int64), error) {
	e, store, err := a.Images()
	if err != nil {
		return nil, err
	}
	layers, err := e.Layers()
	if err != nil {
		return nil, err
	}
	return func(c engine.Container) (int64, int64) {
		own, err := layers.Usage(ctx, c.ID)
		if err != nil {
			return 0, 0
		}
		img, err := store.Resolve(ctx, c.Spec.ImageID)
		if err != nil {
			return own, own
		}
		virtual := own
		for _, l := range img.Layers {
			if info, err := layers.Layer(l.DiffID); err == nil {
				virtual += info.Disk
			}
		}
		return own, virtual
	}, nil
}

// Sweep removes what killed processes left behind. The logs of containers that were
// removed just now are still being removed, and are told of already.
func Sweep(ctx context.Context, a *cli.App, removed []string) error {
	e, err := a.Engine()
	if err != nil {
		return err
	}
	var left []engine.Leftover
	if a.Global.DryRun {
		left, err = e.Leftovers()
	} else {
		left, err = e.Sweep(ctx)
	}
	var lines []string
	for _, l := range left {
		if !slices.Contains(removed, l.Subject) {
			lines = append(lines, l.Kind+" "+l.Subject)
		}
	}
	a.PrintPruned("leftovers of killed processes", lines)
	return err
}
