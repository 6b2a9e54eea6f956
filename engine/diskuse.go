package engine

import (
	"context"

	"github.com/opencontainers/go-digest"

	"github.com/stack-run/stack/engine/image"
	"github.com/stack-run/stack/engine/snapshot"
)

// ImageDisk is what an image takes on the disk, in bytes: blobs and unpacked
// layers. Content is the part of Size that is blobs, Shared the part that other
// images have as well.
type ImageDisk struct {
	image.Image
	Size, Content, Shared int64
	// Parts are the layers that Size counts, each once however often it is there.
	Parts map[ImagePart]int64
}

// ImagePart is a layer as a blob or unpacked. The same layer may be there as blobs
// that are compressed differently.
type ImagePart struct {
	Digest   digest.Digest // of the blob, or of what is unpacked
	Unpacked bool
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
	have := make(map[ImagePart]int)
	out := make([]ImageDisk, len(images))
	for i, img := range images {
		// img.Size counts a layer as often as it is there; manifest and configuration remain.
		rest := img.Size
		parts := make(map[ImagePart]int64)
		for _, l := range img.Layers {
			rest -= l.Size
			parts[ImagePart{l.Digest, false}] = l.Size
			parts[ImagePart{l.DiffID, true}] = unpacked[l.DiffID]
		}
		out[i] = ImageDisk{Image: img, Size: rest, Content: rest, Parts: parts}
		for p, size := range parts {
			have[p]++
			out[i].Size += size
			if !p.Unpacked {
				out[i].Content += size
			}
		}
	}
	for i := range out {
		for p, size := range out[i].Parts {
			if have[p] > 1 {
				out[i].Shared += size
			}
		}
	}
	return out
}
