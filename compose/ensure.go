package compose

import (
	"context"
	"errors"
	"time"

	"github.com/stack-run/stack/compose/plan"
	"github.com/stack-run/stack/compose/spec"
	"github.com/stack-run/stack/engine/image"
)

// EnsureImages makes sure that the images of a project are here: it pulls and
// builds what the pull policies ask for. All pulls come first, and if one of
// them fails no name has changed and nothing is built.
func (c *Client) EnsureImages(ctx context.Context, d *spec.Desired, o ImageOptions, p Progress) error {
	ops, err := c.planImages(ctx, d, o)
	if err != nil {
		return err
	}
	var pull []plan.ImageOp
	var build []string
	for _, op := range ops {
		if op.Kind == plan.PullImage {
			pull = append(pull, op)
		} else {
			build = append(build, op.Services...)
		}
	}
	instead, err := c.pull(ctx, pull, PullOptions{Parallel: o.Parallel}, p)
	if err != nil {
		return err
	}
	for _, op := range instead {
		for _, name := range op.Services {
			if d.All()[name].HasBuild {
				build = append(build, name)
			}
		}
	}
	if len(build) > 0 && o.Build != nil {
		return o.Build(ctx, build)
	}
	return nil
}

// PlanImages says what EnsureImages would do, and lets d be planned before it is done.
func (c *Client) PlanImages(ctx context.Context, d *spec.Desired, o ImageOptions) ([]plan.ImageOp, error) {
	ops, err := c.planImages(ctx, d, o)
	for _, op := range ops {
		d.Coming = append(d.Coming, op.Image)
	}
	return ops, err
}

func (c *Client) planImages(ctx context.Context, d *spec.Desired, o ImageOptions) ([]plan.ImageOp, error) {
	images, err := c.Engine.Images()
	if err != nil {
		return nil, err
	}
	return plan.Images(d, plan.ImageOptions{Services: o.Services, NoDeps: o.NoDeps, NoBuild: o.Build == nil, Now: time.Now()},
		localImages(ctx, images))
}

// localImages returns a function that looks for an image, once for all services
// that have it.
func localImages(ctx context.Context, images *image.Store) func(ref, platform string) (plan.LocalImage, error) {
	type key struct{ ref, platform string }
	known := map[key]plan.LocalImage{}
	return func(ref, platform string) (plan.LocalImage, error) {
		k := key{ref, platform}
		if here, ok := known[k]; ok {
			return here, nil
		}
		img, err := images.ResolvePlatform(ctx, ref, platform)
		if err != nil && !errors.Is(err, image.ErrNotFound) {
			return plan.LocalImage{}, err
		}
		known[k] = plan.LocalImage{Present: err == nil, Tagged: img.Tagged}
		return known[k], nil
	}
}
