package blobs

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	ours "github.com/stack-run/stack/engine/content"
	"github.com/stack-run/stack/engine/image"
)

// NoName is the repository of an image that is to have no name: the exporter
// calls it NoName@DIGEST.
const NoName = "stack.invalid/unnamed"

// Images shows the engine's images to BuildKit, and adds to the engine those that
// BuildKit makes. It implements images.Store.
type Images struct {
	Engine *image.Store
	// Blobs is where BuildKit's blobs are files.
	Blobs *Store
	// Content reads them, with BuildKit's namespace.
	Content content.Provider
	// Ready, if set, is called for each image before it has a name.
	Ready func(context.Context, image.Image) error
}

var _ images.Store = (*Images)(nil)

// Get returns the image of a name, as the engine has it: with its index, so that
// BuildKit chooses the platform.
func (s *Images) Get(ctx context.Context, name string) (images.Image, error) {
	n, err := s.Engine.Target(ctx, name)
	if errors.Is(err, image.ErrNotFound) {
		return images.Image{}, fmt.Errorf("image %s: %w", name, errdefs.ErrNotFound)
	}
	if err != nil {
		return images.Image{}, err
	}
	return asImage(n), nil
}

// List returns all images that have names. Filters are not supported, and
// BuildKit gives none.
func (s *Images) List(ctx context.Context, _ ...string) ([]images.Image, error) {
	names, err := s.Engine.Targets(ctx)
	if err != nil {
		return nil, err
	}
	all := make([]images.Image, 0, len(names))
	for _, n := range names {
		all = append(all, asImage(n))
	}
	return all, nil
}

func asImage(n image.Named) images.Image {
	return images.Image{Name: n.Name, Target: n.Target, CreatedAt: n.Tagged, UpdatedAt: n.Tagged}
}

// Create adds an image to the engine.
func (s *Images) Create(ctx context.Context, img images.Image) (images.Image, error) {
	return img, s.Add(ctx, img)
}

// Update adds an image to the engine and takes its name from another one.
func (s *Images) Update(ctx context.Context, img images.Image, _ ...string) (images.Image, error) {
	return img, s.Add(ctx, img)
}

// Delete is never called by BuildKit.
func (s *Images) Delete(_ context.Context, name string, _ ...images.DeleteOpt) error {
	return fmt.Errorf("cannot delete image %s: %w: that is the engine's business", name, errdefs.ErrNotImplemented)
}

// Add gives images, which have the same or different names, to the engine.
func (s *Images) Add(ctx context.Context, all ...images.Image) error {
	blobs := s.Engine.Content()
	lease, err := blobs.Lease(ctx)
	if err != nil {
		return err
	}
	defer lease.Close()
	names := map[digest.Digest][]string{}
	var targets []ocispec.Descriptor
	for _, img := range all {
		d := img.Target.Digest
		if _, seen := names[d]; !seen {
			names[d] = nil
			targets = append(targets, img.Target)
		}
		if !strings.HasPrefix(img.Name, NoName+"@") {
			names[d] = append(names[d], img.Name)
		}
	}
	for _, target := range targets {
		if err := s.give(ctx, lease, target, 0); err != nil {
			return err
		}
		target.Annotations = nil
		if _, err := s.Engine.Add(ctx, lease, target, image.AddOptions{Names: names[target.Digest], Ready: s.Ready}); err != nil {
			return err
		}
	}
	return nil
}

// maxDepth bounds indexes of indexes.
const maxDepth = 4

// give gives the blob d, and what it leads to, to the engine.
func (s *Images) give(ctx context.Context, lease *ours.Lease, d ocispec.Descriptor, depth int) error {
	if depth > maxDepth {
		return fmt.Errorf("cannot add image: indexes are nested more than %d deep", maxDepth)
	}
	for _, child := range s.children(ctx, d) {
		if err := s.give(ctx, lease, child, depth+1); err != nil {
			return err
		}
	}
	err := s.Engine.Content().Link(ctx, lease, ours.Want{Digest: d.Digest, Size: d.Size}, s.Blobs.Path(d.Digest))
	if err != nil {
		return fmt.Errorf("cannot add image: %w", err)
	}
	return nil
}

// children returns what a manifest or an index refers to. What cannot be read is
// left to Add, which says what is wrong with it.
func (s *Images) children(ctx context.Context, d ocispec.Descriptor) []ocispec.Descriptor {
	if !images.IsManifestType(d.MediaType) && !images.IsIndexType(d.MediaType) {
		return nil
	}
	data, err := content.ReadBlob(ctx, s.Content, d)
	if err != nil {
		return nil
	}
	var doc struct {
		Config    *ocispec.Descriptor  `json:"config"`
		Layers    []ocispec.Descriptor `json:"layers"`
		Manifests []ocispec.Descriptor `json:"manifests"`
	}
	if json.Unmarshal(data, &doc) != nil {
		return nil
	}
	all := append(doc.Layers, doc.Manifests...)
	if doc.Config != nil {
		all = append(all, *doc.Config)
	}
	return all
}
