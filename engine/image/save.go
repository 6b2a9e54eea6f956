package image

import (
	"archive/tar"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/stack-run/stack/engine/content"
)

// Save writes the images refs as one archive that is an OCI image layout and
// Docker's format at once, as "docker save" does, so that docker, podman, skopeo
// and Load read it. The same images make the same bytes. An image given by name
// keeps that name; of a name for several platforms all are saved if all are
// here, and otherwise this machine's.
func (s *Store) Save(ctx context.Context, w io.Writer, refs ...string) error {
	return s.SavePlatforms(ctx, w, nil, refs...)
}

// SavePlatforms is Save for the given platforms only, for each of which the
// images must be here.
func (s *Store) SavePlatforms(ctx context.Context, w io.Writer, platforms []string, refs ...string) error {
	if len(refs) == 0 {
		return errors.New("cannot save images: none is named")
	}
	lease, err := s.content.Lease(ctx)
	if err != nil {
		return err
	}
	defer lease.Close()
	plan := savePlan{index: ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex, Manifests: []ocispec.Descriptor{}}}
	for _, ref := range refs {
		if err := s.planSave(ctx, lease, ref, platforms, &plan); err != nil {
			return err
		}
	}
	if err := s.writeArchive(ctx, w, plan); err != nil {
		return fmt.Errorf("cannot save images: %w", err)
	}
	return nil
}

// savePlan is what an archive will contain.
type savePlan struct {
	index  ocispec.Index
	docker []savedItem
	blobs  []digest.Digest
}

type savedItem struct {
	Config   string
	RepoTags []string
	Layers   []string
}

// planSave adds ref to the plan. The blobs are leased first and looked for
// afterwards, so that they stay until they are written.
func (s *Store) planSave(ctx context.Context, lease *content.Lease, ref string, platforms []string, plan *savePlan) error {
	images, err := s.resolveEach(ctx, ref, platforms)
	if err != nil {
		return err
	}
	img := images[0]
	ix, err := s.readIndex()
	if err != nil {
		return err
	}
	name, target := "", img.Manifest
	e, isName, err := findName(ix, ref)
	if err != nil {
		return err
	}
	if isName && !isDigested(e.Name) {
		name = e.Name
	}
	blobs := img.digests()
	switch {
	case isName && len(images) > 1:
		// One name leads to one thing: the index, of which the rest is missing.
		target, blobs = e.Target, []digest.Digest{e.Target.Digest}
		for _, img := range images {
			blobs = append(blobs, img.digests()...)
		}
	case isName && len(platforms) == 0 && e.Target.Digest != img.Manifest.Digest:
		if all, err := s.reachable(ctx, lease, e.Target.Digest); err == nil {
			target, blobs = e.Target, all
		}
	}
	if err := lease.Protect(ctx, blobs...); err != nil {
		return err
	}
	for _, d := range blobs {
		if _, err := s.content.Stat(d); err != nil {
			return fmt.Errorf("cannot save image %s: %w", ref, err)
		}
		if !slices.Contains(plan.blobs, d) {
			plan.blobs = append(plan.blobs, d)
		}
	}
	plan.add(img, target, name)
	return nil
}

// resolveEach resolves ref for each of the platforms, or for this machine's if
// there are none.
func (s *Store) resolveEach(ctx context.Context, ref string, platforms []string) ([]Image, error) {
	if len(platforms) == 0 {
		img, err := s.Resolve(ctx, ref)
		return []Image{img}, err
	}
	var images []Image
	for _, p := range platforms {
		img, err := s.resolveFor(ctx, ref, p)
		if err != nil {
			return nil, err
		}
		if !slices.ContainsFunc(images, func(have Image) bool { return have.Manifest.Digest == img.Manifest.Digest }) {
			images = append(images, img)
		}
	}
	return images, nil
}

// resolveFor is ResolvePlatform that takes no image for another platform, even if
// it runs there.
func (s *Store) resolveFor(ctx context.Context, ref, platform string) (Image, error) {
	want, err := ParsePlatform(platform)
	if err != nil {
		return Image{}, err
	}
	img, err := s.ResolvePlatform(ctx, ref, platform)
	if err == nil && !isFor(want, img.Platform) {
		err = fmt.Errorf("%w: %s is here for %s, not for %s", ErrNotFound, ref, inWords(FormatPlatform(img.Platform)), FormatPlatform(want))
	}
	return img, err
}

func (p *savePlan) add(img Image, target ocispec.Descriptor, name string) {
	desc := ocispec.Descriptor{MediaType: target.MediaType, Digest: target.Digest, Size: target.Size}
	if target.Digest == img.Manifest.Digest {
		desc.Platform = &ocispec.Platform{OS: img.Platform.OS, Architecture: img.Platform.Architecture, Variant: img.Platform.Variant}
	}
	if name != "" {
		tag := name[strings.LastIndexByte(name, ':')+1:]
		desc.Annotations = map[string]string{containerdName: name, ocispec.AnnotationRefName: tag}
	}
	p.index.Manifests = append(p.index.Manifests, desc)

	config := blobPath(img.ID)
	i := slices.IndexFunc(p.docker, func(item savedItem) bool { return item.Config == config })
	if i < 0 {
		item := savedItem{Config: config, Layers: []string{}}
		for _, l := range img.Layers {
			item.Layers = append(item.Layers, blobPath(l.Digest))
		}
		i = len(p.docker)
		p.docker = append(p.docker, item)
	}
	if tag := familiar(name); name != "" && !slices.Contains(p.docker[i].RepoTags, tag) {
		p.docker[i].RepoTags = append(p.docker[i].RepoTags, tag)
	}
}

// digests returns the blobs of the image.
func (img Image) digests() []digest.Digest {
	return record{ID: img.ID, Manifest: img.Manifest, Layers: img.Layers}.digests()
}

// reachable returns all that an index leads to, or an error if some of it is not
// here.
func (s *Store) reachable(ctx context.Context, lease *content.Lease, d digest.Digest) ([]digest.Digest, error) {
	return s.reachableFrom(ctx, lease, d, map[digest.Digest]bool{})
}

// reachableFrom is reachable without what was seen.
func (s *Store) reachableFrom(ctx context.Context, lease *content.Lease, d digest.Digest, seen map[digest.Digest]bool) ([]digest.Digest, error) {
	if seen[d] {
		return nil, nil
	}
	seen[d] = true
	if err := lease.Protect(ctx, d); err != nil {
		return nil, err
	}
	if _, err := s.content.Stat(d); err != nil {
		return nil, err
	}
	all := []digest.Digest{d}
	for _, c := range s.children(d) {
		if isIndex(c.MediaType) || c.MediaType == ocispec.MediaTypeImageManifest || c.MediaType == DockerManifest {
			more, err := s.reachableFrom(ctx, lease, c.Digest, seen)
			if err != nil {
				return nil, err
			}
			all = append(all, more...)
			continue
		}
		if _, err := s.content.Stat(c.Digest); err != nil {
			return nil, err
		}
		all = append(all, c.Digest)
	}
	return all, nil
}

func blobPath(d digest.Digest) string {
	return "blobs/" + d.Algorithm().String() + "/" + d.Encoded()
}

func (s *Store) writeArchive(ctx context.Context, w io.Writer, plan savePlan) error {
	out := tar.NewWriter(w)
	for _, dir := range []string{"blobs/", "blobs/sha256/"} {
		if err := out.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: dir, Mode: 0o755, ModTime: time.Unix(0, 0)}); err != nil {
			return err
		}
	}
	slices.Sort(plan.blobs)
	for _, d := range plan.blobs {
		if err := s.writeBlob(ctx, out, d); err != nil {
			return err
		}
	}
	files := []struct {
		name string
		data any
	}{
		{"index.json", plan.index},
		{"manifest.json", plan.docker},
		{ocispec.ImageLayoutFile, ocispec.ImageLayout{Version: ocispec.ImageLayoutVersion}},
	}
	for _, f := range files {
		data, err := json.Marshal(f.data)
		if err != nil {
			return err
		}
		if err := out.WriteHeader(fileHeader(f.name, int64(len(data)))); err != nil {
			return err
		}
		if _, err := out.Write(data); err != nil {
			return err
		}
	}
	return out.Close()
}

// writeBlob copies a blob into the archive, and stops if it is not what its name
// says: a broken archive would be found too late.
func (s *Store) writeBlob(ctx context.Context, out *tar.Writer, d digest.Digest) error {
	blob, err := s.content.Reader(d)
	if err != nil {
		return err
	}
	defer blob.Close()
	if err := out.WriteHeader(fileHeader(blobPath(d), blob.Size())); err != nil {
		return err
	}
	v := d.Verifier()
	_, err = io.CopyBuffer(struct{ io.Writer }{io.MultiWriter(out, v)}, ctxReader{ctx, struct{ io.Reader }{blob}}, make([]byte, 256<<10))
	if err == nil && !v.Verified() {
		err = fmt.Errorf("%w: %s", content.ErrCorrupt, d)
	}
	return err
}

func fileHeader(name string, size int64) *tar.Header {
	return &tar.Header{Typeflag: tar.TypeReg, Name: name, Size: size, Mode: 0o644, ModTime: time.Unix(0, 0)}
}
