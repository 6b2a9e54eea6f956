package project

import (
	"context"

	"github.com/stack-run/stack/cmd/stack/internal/cli"
	"github.com/stack-run/stack/compose"
	"github.com/stack-run/stack/compose/spec"
)

// ensureImages pulls and builds the images that services need, before anything
// is planned. build makes the images of services that have a build section; nil
// leaves what is not built to the plan's complaint.
func ensureImages(ctx context.Context, a *cli.App, v compose.API, d *spec.Desired, o *createOptions, services []string, noDeps bool, build func(ctx context.Context, services []string) error) error {
	if o.NoBuild {
		build = nil
	}
	show := a.ImageDisplay(false)
	defer show.Done()
	return v.EnsureImages(ctx, d, compose.ImageOptions{
		Services: services, NoDeps: noDeps, Build: build, Parallel: a.Parallel(),
	}, pullEvents(show, o.QuietPull))
}
