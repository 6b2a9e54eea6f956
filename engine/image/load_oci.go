package image

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// containerdName is the annotation in which containerd, Docker and buildx put an
// image's full name; image-spec's own holds any text, often just a tag.
const containerdName = "io.containerd.image.name"

// addLayout adds the images of an OCI image layout (image-spec,
// image-layout.md).
func (a *archive) addLayout(ctx context.Context, opts LoadOptions) ([]Loaded, error) {
	var idx ocispec.Index
	if err := json.Unmarshal(a.files["index.json"], &idx); err != nil {
		return nil, fmt.Errorf("index.json: %w", err)
	}
	if len(idx.Manifests) > maxIndexMembers {
		return nil, fmt.Errorf("index.json lists %d images, more than %d", len(idx.Manifests), maxIndexMembers)
	}
	tags, err := a.repoTags()
	if err != nil {
		return nil, err
	}
	// One target may be listed once for each of its names.
	var targets []ocispec.Descriptor
	names := make(map[digest.Digest][]string)
	for _, desc := range idx.Manifests {
		if isAttestation(desc) {
			continue
		}
		if names[desc.Digest] == nil {
			targets = append(targets, desc)
			names[desc.Digest] = []string{}
		}
		if name := layoutName(desc); name != "" && !slices.Contains(names[desc.Digest], name) {
			names[desc.Digest] = append(names[desc.Digest], name)
		}
	}
	if len(targets) == 0 {
		return nil, errors.New("the archive contains no image")
	}
	var all []Loaded
	for _, target := range targets {
		given := names[target.Digest]
		if len(given) == 0 {
			given = tags[a.configOf(target.Digest)]
		}
		target.Annotations = nil
		images, err := a.s.Add(ctx, a.lease, target, AddOptions{Names: given, Platforms: opts.Platforms, Ready: opts.Ready})
		if err != nil {
			return nil, err
		}
		all = append(all, loaded(images, given)...)
	}
	return all, nil
}

// layoutName returns the name that a layout gives an image, "" if none. A bare
// tag, which org.opencontainers.image.ref.name may be, names no image.
func layoutName(d ocispec.Descriptor) string {
	for _, name := range []string{d.Annotations[containerdName], d.Annotations[ocispec.AnnotationRefName]} {
		if !strings.ContainsAny(name, "/:") {
			continue
		}
		if c, err := canonicalName(name); err == nil {
			return c
		}
	}
	return ""
}

// repoTags returns the names in manifest.json, which Docker puts beside
// index.json, by the digest of the image's config.
func (a *archive) repoTags() (map[digest.Digest][]string, error) {
	if a.files["manifest.json"] == nil {
		return nil, nil
	}
	items, err := a.dockerItems()
	if err != nil {
		return nil, err
	}
	tags := make(map[digest.Digest][]string)
	for _, item := range items {
		if d, ok := blobName(item.Config); ok {
			tags[d] = append(tags[d], item.RepoTags...)
		}
	}
	return tags, nil
}

// configOf is the digest of a manifest's config, "" for an index.
func (a *archive) configOf(manifest digest.Digest) digest.Digest {
	data, err := a.s.content.ReadAll(manifest, maxManifest)
	if err != nil {
		return ""
	}
	var m ocispec.Manifest
	if json.Unmarshal(data, &m) != nil {
		return ""
	}
	return m.Config.Digest
}
