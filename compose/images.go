package compose

import (
	"context"
	"io"
	"time"

	docker "github.com/moby/moby/api/types/image"
	"github.com/opencontainers/go-digest"

	"github.com/stack-run/stack/engine"
	"github.com/stack-run/stack/engine/image"
)

// Images are those of one data root.
type Images interface {
	Images(ctx context.Context) ([]Image, error)
	// Image finds an image by name, ID or the beginning of an ID; platform "" is this
	// machine's. Of the error for one that is not here IsNoImage is true.
	Image(ctx context.Context, ref, platform string) (Image, error)
	ImageHistory(ctx context.Context, ref, platform string) ([]ImageStep, error)
	// InspectImage returns an image in docker's shape. With platform "" it is this
	// machine's, and its size that of all platforms that ref is here for.
	InspectImage(ctx context.Context, ref, platform string) (image.Inspection, error)
	TagImage(ctx context.Context, ref, name string) error
	// RemoveImages removes one image after the other and goes on after an error,
	// which is in the image's own answer.
	RemoveImages(ctx context.Context, refs []string, o RemoveImagesOptions) ([]RemovedImages, error)
	PruneImages(ctx context.Context, o PruneImagesOptions) (RemovedImages, error)
	// CollectLayers removes the unpacked layers that nothing has any more.
	CollectLayers(ctx context.Context) error
	// ImportImage makes an image of one layer out of an archive of files.
	ImportImage(ctx context.Context, r io.Reader, name string, o ImportOptions) (id string, err error)
	// LoadImages loads those of an archive that are for the platforms, "" for all.
	LoadImages(ctx context.Context, r io.Reader, platforms []string) ([]LoadedImage, error)
	SaveImages(ctx context.Context, w io.Writer, platforms []string, refs ...string) error
	// ImagesDisk measures what all images take.
	ImagesDisk(ctx context.Context) (ImagesDisk, error)
}

// Image is an image for one platform, with what is known of it here.
type Image struct {
	ID       string // digest of its configuration
	Manifest string // digest of its manifest, "" where it has none
	// Names are as Docker shows them, and Targets the digests of what each of them
	// leads to: the manifest, or an index of several.
	Names, Targets []string
	RepoDigests    []string // NAME@DIGEST, as registries know it
	Platform       string   // OS/ARCH[/VARIANT]
	Labels         map[string]string
	Created        time.Time
	Tagged         time.Time // when a name was last given
	Content        int64     // bytes of its blobs
	Disk           int64     // bytes that it takes: blobs and unpacked layers
	Shared         int64     // of Disk what other images have as well
	Users          []string  // names of the containers made from it, or that mount it

	parts map[engine.ImagePart]int64 // of Disk what Together counts once
}

// Together is what images take that may share layers, in bytes: blobs, and blobs
// with unpacked layers.
func Together(images ...Image) (content, disk int64) {
	seen := map[engine.ImagePart]bool{}
	for _, img := range images {
		content, disk = content+img.Content, disk+img.Disk
		for p, size := range img.parts {
			if seen[p] {
				disk -= size
				if !p.Unpacked {
					content -= size
				}
			}
			seen[p] = true
		}
	}
	return content, disk
}

// ImagesDisk is what all images take on the disk, in bytes.
type ImagesDisk struct {
	Images []Image
	// Size counts what images share once, and what no image has too.
	Size int64
	// Reclaimable is what PruneImages frees of it, if it takes all images.
	Reclaimable int64
	// Cached is what layers take that only the build cache has. It is not in Size.
	Cached int64
}

// ImageStep is a step an image was made in.
type ImageStep = docker.HistoryResponseItem

// RemoveImagesOptions say what RemoveImages removes.
type RemoveImagesOptions struct {
	Force     bool
	Platforms []string // "" removes all that the name leads to
}

// PruneImagesOptions say what PruneImages removes.
type PruneImagesOptions struct {
	PruneOptions
	All               bool      // with names, too
	Until             time.Time // spares what is made later; zero spares none
	Labels, NotLabels []string  // KEY or KEY=VALUE
	// WithoutCache says that a dry run takes the build cache as removed already.
	WithoutCache bool
}

// RemovedImages tells what was removed, or would be.
type RemovedImages struct {
	Untagged []string
	Deleted  []string // IDs, or the digest of the manifest where others have the ID too
	Bytes    int64    // freed
	Err      error    // RemoveImages: why this one was not removed
}

// ImportOptions describe an image that is made of files.
type ImportOptions struct {
	Changes  []string // Dockerfile instructions
	Message  string
	Platform string // "" for this machine's
}

// LoadedImage is an image that came out of an archive.
type LoadedImage struct {
	ID    string
	Names []string // which the archive gave it
}

// IsNoImage tells whether an error says that an image is not here.
func IsNoImage(err error) bool { return image.IsNotFound(err) }

// Images lists the images.
func (c *Client) Images(ctx context.Context) ([]Image, error) {
	store, err := c.Engine.Images()
	if err != nil {
		return nil, err
	}
	all, err := store.List(ctx)
	if err != nil {
		return nil, err
	}
	return c.measure(ctx, all...)
}

// Image finds an image.
func (c *Client) Image(ctx context.Context, ref, platform string) (Image, error) {
	store, err := c.Engine.Images()
	if err != nil {
		return Image{}, err
	}
	img, err := store.ResolvePlatform(ctx, ref, platform)
	if err != nil {
		return Image{}, err
	}
	found, err := c.measure(ctx, img)
	if err != nil {
		return Image{}, err
	}
	return found[0], nil
}

func (c *Client) measure(ctx context.Context, images ...image.Image) ([]Image, error) {
	measured, err := c.Engine.MeasureImages(images...)
	if err != nil {
		return nil, err
	}
	return c.describe(ctx, measured)
}

// describe puts images into the door's terms.
func (c *Client) describe(ctx context.Context, measured []engine.ImageDisk) ([]Image, error) {
	store, err := c.Engine.Images()
	if err != nil {
		return nil, err
	}
	ids := make([]digest.Digest, len(measured))
	for i, img := range measured {
		ids[i] = img.ID
	}
	users := c.Engine.ImagesUsers(ids)
	out := make([]Image, len(measured))
	for i, img := range measured {
		out[i] = Image{
			ID: img.ID.String(), Manifest: img.Manifest.Digest.String(), Names: img.Names, RepoDigests: img.RepoDigests,
			Platform: image.FormatPlatform(img.Platform), Labels: img.Config.Config.Labels, Created: img.Created, Tagged: img.Tagged,
			Content: img.Content, Disk: img.Size, Shared: img.Shared, Users: users[img.ID], parts: img.Parts,
		}
		for _, name := range img.Names {
			target := img.Manifest.Digest
			if named, err := store.Target(ctx, name); err == nil { // else it has just gone
				target = named.Target.Digest
			}
			out[i].Targets = append(out[i].Targets, target.String())
		}
	}
	return out, nil
}

// ImageHistory tells the steps an image was made in, newest first.
func (c *Client) ImageHistory(ctx context.Context, ref, platform string) ([]ImageStep, error) {
	store, err := c.Engine.Images()
	if err != nil {
		return nil, err
	}
	img, err := store.ResolvePlatform(ctx, ref, platform)
	if err != nil {
		return nil, err
	}
	layers, err := c.Engine.Layers()
	if err != nil {
		return nil, err
	}
	sizes := make([]int64, len(img.Layers))
	for i, l := range img.Layers {
		if info, err := layers.Layer(l.DiffID); err == nil { // else for another platform
			sizes[i] = info.Disk
		}
	}
	return image.DockerHistory(img, sizes), nil
}

// InspectImage describes an image in docker's shape.
func (c *Client) InspectImage(ctx context.Context, ref, platform string) (image.Inspection, error) {
	store, err := c.Engine.Images()
	if err != nil {
		return image.Inspection{}, err
	}
	img, err := store.ResolvePlatform(ctx, ref, platform)
	if err != nil {
		return image.Inspection{}, err
	}
	all := []image.Image{img}
	if platform == "" {
		if all, err = store.Platforms(ctx, ref); err != nil {
			return image.Inspection{}, err
		}
	}
	measured, err := c.measure(ctx, all...)
	if err != nil {
		return image.Inspection{}, err
	}
	_, size := Together(measured...)
	return image.DockerInspect(img, size), nil
}

// TagImage gives an image one more name.
func (c *Client) TagImage(ctx context.Context, ref, name string) error {
	store, err := c.Engine.Images()
	if err != nil {
		return err
	}
	return store.Tag(ctx, ref, name)
}

// RemoveImages removes images.
func (c *Client) RemoveImages(ctx context.Context, refs []string, o RemoveImagesOptions) ([]RemovedImages, error) {
	store, err := c.Engine.Images()
	if err != nil {
		return nil, err
	}
	out := make([]RemovedImages, len(refs))
	for i, ref := range refs {
		out[i] = removeImage(ctx, store, ref, o.Platforms, image.RemoveOptions{Force: o.Force, InUse: c.Engine.ImageUsers})
	}
	return out, c.Engine.CollectLayers(ctx)
}

// removeImage removes an image, or of it what is for some platforms.
func removeImage(ctx context.Context, store *image.Store, ref string, platforms []string, o image.RemoveOptions) RemovedImages {
	if len(platforms) == 0 {
		removed, err := store.Remove(ctx, ref, o)
		return removedImages(removed, err)
	}
	var all image.Removed
	for _, p := range platforms {
		removed, err := store.RemovePlatform(ctx, ref, p, o)
		all.Untagged, all.Deleted = append(all.Untagged, removed.Untagged...), append(all.Deleted, removed.Deleted...)
		if err != nil {
			return removedImages(all, err)
		}
	}
	return removedImages(all, nil)
}

func removedImages(r image.Removed, err error) RemovedImages {
	out := RemovedImages{Untagged: r.Untagged, Bytes: r.Bytes, Err: err}
	for _, d := range r.Deleted {
		out.Deleted = append(out.Deleted, d.String())
	}
	return out
}

// PruneImages removes images that no container uses.
func (c *Client) PruneImages(ctx context.Context, o PruneImagesOptions) (RemovedImages, error) {
	removed, err := c.Engine.PruneImages(ctx, engine.PruneImagesOptions{
		PruneOptions: image.PruneOptions{All: o.All, Until: o.Until, Labels: o.Labels, NotLabels: o.NotLabels, DryRun: o.DryRun},
		Without:      o.Without, WithoutCache: o.WithoutCache,
	})
	return removedImages(removed, nil), err
}

// CollectLayers removes what layers nothing has any more.
func (c *Client) CollectLayers(ctx context.Context) error { return c.Engine.CollectLayers(ctx) }

// ImportImage makes an image of an archive of files.
func (c *Client) ImportImage(ctx context.Context, r io.Reader, name string, o ImportOptions) (string, error) {
	store, err := c.Engine.Images()
	if err != nil {
		return "", err
	}
	img, err := store.Import(ctx, r, name, image.ImportOptions{Changes: o.Changes, Message: o.Message, Platform: o.Platform, Ready: c.unpack})
	return img.ID.String(), err
}

// LoadImages loads the images of an archive.
func (c *Client) LoadImages(ctx context.Context, r io.Reader, platforms []string) ([]LoadedImage, error) {
	store, err := c.Engine.Images()
	if err != nil {
		return nil, err
	}
	loaded, err := store.Load(ctx, r, image.LoadOptions{Platforms: platforms, Ready: c.unpack})
	out := make([]LoadedImage, len(loaded))
	for i, l := range loaded {
		out[i] = LoadedImage{ID: l.Image.ID.String(), Names: l.Names}
	}
	return out, err
}

// unpack unpacks an image that this machine can run before it gets its name: what
// it takes on the disk is known then, and that it can be unpacked.
func (c *Client) unpack(ctx context.Context, img image.Image) error {
	if !img.Config.RunsOn("") {
		return nil
	}
	to, err := registryTarget(c.Engine)
	if err != nil {
		return err
	}
	return to.Layers.Unpack(ctx, img.Layers, to.Images.Content())
}

// SaveImages writes an archive of images.
func (c *Client) SaveImages(ctx context.Context, w io.Writer, platforms []string, refs ...string) error {
	store, err := c.Engine.Images()
	if err != nil {
		return err
	}
	return store.SavePlatforms(ctx, w, platforms, refs...)
}

// ImagesDisk measures the images.
func (c *Client) ImagesDisk(ctx context.Context) (ImagesDisk, error) {
	disk, err := c.Engine.ImagesDisk(ctx)
	if err != nil {
		return ImagesDisk{}, err
	}
	all, err := c.describe(ctx, disk.Images)
	return ImagesDisk{Images: all, Size: disk.Size, Reclaimable: disk.Reclaimable, Cached: disk.Cached}, err
}
