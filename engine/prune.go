package engine

import (
	"context"
	"errors"
	"maps"
	"slices"

	"github.com/opencontainers/go-digest"

	"github.com/stack-run/stack/engine/image"
	"github.com/stack-run/stack/engine/snapshot"
	"github.com/stack-run/stack/volumes"
)

// PruneImagesOptions say what PruneImages removes.
type PruneImagesOptions struct {
	image.PruneOptions
	// Without are containers, and WithoutCache says that it is the build cache,
	// that a dry run takes as removed already.
	Without      []string
	WithoutCache bool
}

// PruneImages removes images as image.Store.Prune does, and the unpacked layers
// that nothing has any more; the bytes are those of both. No image is removed
// that a container is made from or mounts.
func (e *Engine) PruneImages(ctx context.Context, o PruneImagesOptions) (image.Removed, error) {
	images, err := e.Images()
	if err != nil {
		return image.Removed{}, err
	}
	layers, err := e.Layers()
	if err != nil {
		return image.Removed{}, err
	}
	o.InUse = e.ImageUsers
	keep := images.DiffIDs
	var removed image.Removed
	if o.DryRun {
		o.InUse = func(id digest.Digest) []string { return e.imagesUsers([]digest.Digest{id}, o.Without)[id] }
		keep = func() (map[digest.Digest]bool, error) {
			kept, err := images.DiffIDs()
			maps.DeleteFunc(kept, func(d digest.Digest, _ bool) bool { return slices.Contains(removed.Layers, d) })
			return kept, err
		}
	}
	removed, err = images.Prune(ctx, o.PruneOptions)
	collected, collectErr := layers.Collect(ctx, snapshot.CollectOptions{DryRun: o.DryRun, Without: o.Without, WithoutLent: o.WithoutCache}, keep)
	removed.Bytes += collected.Bytes
	if _, err := layers.Layers(); err != nil {
		e.Warnf("%v", err) // it stays, and what uses it may fail to start
	}
	return removed, errors.Join(err, collectErr)
}

// CollectLayers deletes the unpacked layers that no image and no container has
// any more.
func (e *Engine) CollectLayers(ctx context.Context) error {
	images, err := e.Images()
	if err != nil {
		return err
	}
	layers, err := e.Layers()
	if err != nil {
		return err
	}
	_, err = layers.Collect(ctx, snapshot.CollectOptions{}, images.DiffIDs)
	return err
}

// ImageUsers names the containers made from an image, or that mount it.
func (e *Engine) ImageUsers(id digest.Digest) []string { return e.ImagesUsers([]digest.Digest{id})[id] }

// ImagesUsers is ImageUsers for several images, with the records read once.
func (e *Engine) ImagesUsers(ids []digest.Digest) map[digest.Digest][]string {
	return e.imagesUsers(ids, nil)
}

// imagesUsers is ImagesUsers without the containers with the IDs except.
func (e *Engine) imagesUsers(ids []digest.Digest, except []string) map[digest.Digest][]string {
	out := make(map[digest.Digest][]string, len(ids))
	all, broken, err := e.Records.Scan()
	for _, id := range ids {
		if err != nil {
			out[id] = []string{"unknown: " + err.Error()}
			continue
		}
		for _, b := range broken {
			if !slices.Contains(except, b.ID) && b.mentions(string(id)) {
				out[id] = append(out[id], b.String())
			}
		}
		for _, c := range all {
			if !slices.Contains(except, c.ID) && (c.Spec.ImageID == string(id) || e.mountsImage(c, id)) {
				out[id] = append(out[id], c.Spec.Name)
			}
		}
	}
	return out
}

// mountsImage tells whether a container mounts an image, or will when it starts.
func (e *Engine) mountsImage(c *Container, id digest.Digest) bool {
	return slices.ContainsFunc(c.Spec.Mounts, func(m volumes.Mount) bool {
		if m.Type != volumes.TypeImage {
			return false
		}
		img, err := e.resolve(context.Background(), Spec{Image: m.Source})
		return err == nil && img.ID == id
	})
}
