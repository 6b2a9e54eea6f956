package engine

import (
	"context"

	"github.com/opencontainers/go-digest"

	"github.com/stack-run/stack/engine/image"
	"github.com/stack-run/stack/engine/snapshot"
)

// ImageDisk is what an image takes on the disk, in bytes: blobs and unpacked
// layers. Shared is the part of Size that other images have as well.
type ImageDisk struct {
	image.Image
	Size, Shared int64
}

// ImagesDisk is what all images take on the disk, in bytes.
type ImagesDisk struct {
	Images []ImageDisk
	// Size counts what images share once, and what no image has too.
	Size int64
	// Reclaimable is what PruneImages frees of it, if it takes all images.
	Reclaimable int64
	// Cached is what layers take that only the build cache has. It is not in Size.
	Cached int64
}

// ImagesDisk measures the images. What cannot be measured is told to Warn.
func (e *Engine) ImagesDisk(ctx context.Context) (ImagesDisk, error) {
	images, err := e.Images()
	if err != nil {
		return ImagesDisk{}, err
	}
	layers, err := e.Layers()
	if err != nil {
		return ImagesDisk{}, err
	}
	all, err := images.List(ctx)
	if err != nil {
		return ImagesDisk{}, err
	}
	lent, err := layers.Lent()
	if err != nil {
		return ImagesDisk{}, err
	}
	var u ImagesDisk
	unpacked := e.unpacked(layers)
	u.Images = imagesDisk(all, unpacked)
	for _, img := range all {
		for _, d := range img.DiffIDs() {
			delete(lent, d)
		}
	}
	for d, size := range unpacked {
		if lent[d] {
			u.Cached += size
		} else {
			u.Size += size
		}
	}
	_, blobs, err := images.Content().Size()
	if err != nil {
		return ImagesDisk{}, err
	}
	u.Size += blobs
	removed, err := e.PruneImages(ctx, PruneImagesOptions{PruneOptions: image.PruneOptions{All: true, DryRun: true}})
	u.Reclaimable = removed.Bytes
	return u, err
}

// MeasureImages measures images by themselves; what is shared is shared among them.
func (e *Engine) MeasureImages(images ...image.Image) ([]ImageDisk, error) {
	layers, err := e.Layers()
	if err != nil {
		return nil, err
	}
	return imagesDisk(images, e.unpacked(layers)), nil
}

// unpacked is what each unpacked layer takes on the disk, in bytes. What cannot be
// measured is told to Warn.
func (e *Engine) unpacked(layers *snapshot.Store) map[digest.Digest]int64 {
	infos, err := layers.Layers()
	if err != nil {
		e.Warnf("%v", err)
	}
	all := make(map[digest.Digest]int64, len(infos))
	for _, l := range infos {
		all[l.DiffID] = l.Disk
	}
	return all
}

// imagesDisk measures images whose unpacked layers take what unpacked says.
func imagesDisk(images []image.Image, unpacked map[digest.Digest]int64) []ImageDisk {
	// The same layer may be there as blobs that are compressed differently.
	type part struct {
		digest   digest.Digest
		unpacked bool
	}
	parts := make([]map[part]int64, len(images))
	have := make(map[part]int)
	out := make([]ImageDisk, len(images))
	for i, img := range images {
		out[i] = ImageDisk{Image: img, Size: img.Size}
		parts[i] = make(map[part]int64)
		for _, l := range img.Layers {
			out[i].Size -= l.Size // img.Size counts a layer as often as it is there
			parts[i][part{l.Digest, false}] = l.Size
			parts[i][part{l.DiffID, true}] = unpacked[l.DiffID]
		}
		for p := range parts[i] {
			have[p]++
		}
	}
	for i := range out {
		for p, size := range parts[i] {
			out[i].Size += size
			if have[p] > 1 {
				out[i].Shared += size
			}
		}
	}
	return out
}
