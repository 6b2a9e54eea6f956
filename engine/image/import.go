package image

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/stack-run/stack/engine/content"
)

// ImportOptions say what Import makes of a root file system.
type ImportOptions struct {
	// Changes are Dockerfile instructions (CMD, ENTRYPOINT, ENV, EXPOSE,
	// HEALTHCHECK, LABEL, ONBUILD, SHELL, STOPSIGNAL, USER, VOLUME, WORKDIR).
	Changes []string
	// Message is the comment in the image's history.
	Message string
	// Platform is OS/ARCH[/VARIANT], "" for this machine's.
	Platform string
	// Created is the image's creation time, zero for now.
	Created time.Time
	// Ready is as in AddOptions.
	Ready func(context.Context, Image) error
}

// Import makes an image of one layer out of a tar archive, which may be
// compressed with gzip, zstd, bzip2 or xz. ref is its name, "" for none.
func (s *Store) Import(ctx context.Context, r io.Reader, ref string, opts ImportOptions) (Image, error) {
	platform, err := ParsePlatform(opts.Platform)
	if err != nil {
		return Image{}, err
	}
	names, err := newNames("import", ref)
	if err != nil {
		return Image{}, err
	}
	created := creation(opts.Created)
	message := opts.Message
	if message == "" {
		message = "Imported from a tar archive"
	}
	config := Config{
		Created: &created, OS: platform.OS, Architecture: platform.Architecture, Variant: platform.Variant,
		History: []History{{Created: &created, Comment: message}},
	}
	if err := config.Config.Apply(opts.Changes); err != nil {
		return Image{}, err
	}
	return s.onTop(ctx, nil, r, config, AddOptions{Names: names, Ready: opts.Ready})
}

// newNames are the names of an image that is made here, none for "". doing is
// what makes it.
func newNames(doing, ref string) ([]string, error) {
	if ref == "" {
		return nil, nil
	}
	name, err := canonicalName(ref)
	if err != nil {
		return nil, err
	}
	if isDigested(name) {
		return nil, fmt.Errorf("cannot %s image as %s: its digest is not known beforehand; give a name and a tag", doing, ref)
	}
	return []string{name}, nil
}

// creation is the time of an image that is made here, now if none is given.
func creation(t time.Time) time.Time {
	if t.IsZero() {
		t = time.Now()
	}
	return t.UTC()
}

// onTop adds an image of the layers below, which are here, and of one more that is
// read from r.
func (s *Store) onTop(ctx context.Context, below []content.Layer, r io.Reader, config Config, opts AddOptions) (Image, error) {
	lease, err := s.content.Lease(ctx)
	if err != nil {
		return Image{}, err
	}
	img, err := func() (Image, error) {
		layer, err := s.StoreLayer(ctx, lease, r)
		if err != nil {
			return Image{}, err
		}
		return s.AddLayers(ctx, lease, config, append(slices.Clone(below), layer), opts)
	}()
	return img, s.release(ctx, lease, err)
}

// addLayers stores the config raw and a manifest for it and its layers, which
// are stored already, and adds the image.
func (s *Store) addLayers(ctx context.Context, lease *content.Lease, raw []byte, layers []content.Layer, opts AddOptions) ([]Image, error) {
	id, err := s.content.Put(ctx, lease, raw)
	if err != nil {
		return nil, err
	}
	m := ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2},
		MediaType: ocispec.MediaTypeImageManifest,
		Config:    ocispec.Descriptor{MediaType: ocispec.MediaTypeImageConfig, Digest: id, Size: int64(len(raw))},
		Layers:    []ocispec.Descriptor{},
	}
	for _, l := range layers {
		m.Layers = append(m.Layers, ocispec.Descriptor{MediaType: l.MediaType, Digest: l.Digest, Size: l.Size})
	}
	data, err := json.Marshal(m)
	if err != nil {
		return nil, fmt.Errorf("cannot write image manifest: %w", err)
	}
	d, err := s.content.Put(ctx, lease, data)
	if err != nil {
		return nil, err
	}
	target := ocispec.Descriptor{MediaType: m.MediaType, Digest: d, Size: int64(len(data))}
	return s.Add(ctx, lease, target, opts)
}

// AddLayers makes an image of a config and its layers, which were stored with
// StoreLayer under the same lease. The config's RootFS is set to the layers.
func (s *Store) AddLayers(ctx context.Context, lease *content.Lease, config Config, layers []content.Layer, opts AddOptions) (Image, error) {
	config.RootFS = RootFS{Type: "layers", DiffIDs: []digest.Digest{}}
	for _, l := range layers {
		config.RootFS.DiffIDs = append(config.RootFS.DiffIDs, l.DiffID)
	}
	raw, err := json.Marshal(config)
	if err != nil {
		return Image{}, fmt.Errorf("cannot write image config: %w", err)
	}
	images, err := s.addLayers(ctx, lease, raw, layers, opts)
	if err != nil {
		return Image{}, err
	}
	return images[0], nil
}

// release ends a lease. If the work under it failed, the blobs that came with it
// are removed, unless something else needs them.
func (s *Store) release(ctx context.Context, lease *content.Lease, err error) error {
	blobs := lease.Digests()
	if closeErr := lease.Close(); err == nil {
		return closeErr
	}
	s.discard(context.WithoutCancel(ctx), blobs)
	return err
}
