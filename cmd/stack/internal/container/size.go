package container

import (
	"context"
	"slices"

	"github.com/stack-run/stack/cmd/stack/internal/cli"
	"github.com/stack-run/stack/compose"
	"github.com/stack-run/stack/engine"
)

// Sizes measures containers: their own files, and those with the image's.
func Sizes(ctx context.Context, v compose.API, cs []engine.Container) (func(engine.Container) (own, virtual int64), error) {
	disk, err := v.ContainersDisk(ctx, cs)
	return func(c engine.Container) (int64, int64) { return disk[c.ID].Own, disk[c.ID].Virtual }, err
}

// Sweep removes what killed processes left behind. The logs of containers that were
// removed just now are still being removed, and are told of already.
func Sweep(ctx context.Context, a *cli.App, removed []string) error {
	v, err := a.API(ctx)
	if err != nil {
		return err
	}
	left, err := v.Sweep(ctx, a.Global.DryRun)
	var lines []string
	for _, l := range left {
		if !slices.Contains(removed, l.Subject) {
			lines = append(lines, l.Kind+" "+l.Subject)
		}
	}
	a.PrintPruned("leftovers of killed processes", lines)
	return err
}
