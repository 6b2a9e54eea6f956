package main

import (
	"context"

	"github.com/stack-run/stack/cmd/stack/internal/progress"
	"github.com/stack-run/stack/compose"
	"github.com/stack-run/stack/compose/spec"
)

// ensureImages pulls and builds the images that services need, before anything
// is planned. build makes the images of services that have a build section; nil
// leaves what is not built to the plan's complaint.
func (a *app) ensureImages(ctx context.Context, v compose.API, d *spec.Desired, o *createOptions, services []string, noDeps bool, build func(ctx context.Context, services []string) error) error {
	if o.NoBuild {
		build = nil
	}
	show := a.imageDisplay(o.QuietPull)
	defer show.Done()
	return v.EnsureImages(ctx, d, compose.ImageOptions{
		Services: services, NoDeps: noDeps, Build: build, Parallel: a.parallel(),
	}, show.Event)
}

// imageDisplay shows what is pulled.
func (a *app) imageDisplay(quiet bool) progress.Display { return a.transferDisplay("Pulling", quiet) }

// transferDisplay shows what goes to or comes from a registry.
func (a *app) transferDisplay(title string, quiet bool) progress.Display {
	if quiet {
		return progress.New(progress.Quiet, a.err, progress.Options{})
	}
	return a.display(title)
}
