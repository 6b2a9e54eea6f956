package engine

import (
	"context"

	"github.com/opencontainers/go-digest"

	"github.com/stack-run/stack/engine/image"
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
	infos, err := layers.Layers()
	if err != nil {
		e.Warnf("%v", err)
	}
	var u ImagesDisk
	unpacked := make(map[digest.Digest]int64)
	for _, l := range infos {
		unpacked[l.DiffID] = l.Disk
		u.Size += l.Disk
	}
	u.Images = imagesDisk(all, unpacked)
	_, blobs, err := images.Content().Size()
	if err != nil {
		return ImagesDisk{}, err
	}
	u.Size += blobs
	removed, err := e.PruneImages(ctx, PruneImagesOptions{PruneOptions: image.PruneOptions{All: true, DryRun: true}})
	u.Reclaimable = removed.Bytes
	return u, err
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
