package image

import (
	"context"
	"fmt"
	"slices"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/stack-run/stack/engine/content"
)

// Outline is what sending an image to a registry takes.
type Outline struct {
	Name string // canonical
	// Manifests are in the order in which a registry accepts them: an index after
	// what it lists. The last is the image.
	Manifests []ocispec.Descriptor
	Blobs     []ocispec.Descriptor // configs and layers
	// Partial says that the name stands for more platforms than are here, so that
	// only the one that is here is meant.
	Partial bool
}

// Outline tells what the name ref consists of, and protects it by lease. With
// platform only that platform's image is meant.
func (s *Store) Outline(ctx context.Context, lease *content.Lease, ref, platform string) (Outline, error) {
	name, err := canonicalName(ref)
	if err != nil {
		return Outline{}, err
	}
	ix, err := s.readIndex()
	if err != nil {
		return Outline{}, err
	}
	e, ok, err := ix.lookup(name)
	if err != nil {
		return Outline{}, err
	}
	if !ok {
		return Outline{}, fmt.Errorf("%w: %s; give an image that name with \"stack image tag\"", ErrNotFound, familiar(name))
	}
	out := Outline{Name: name}
	target := e.Target
	if platform != "" || !s.complete(ctx, lease, target.Digest) {
		m, err := choose(e.Images, ref, platform)
		if err != nil {
			return out, err
		}
		out.Partial = platform == "" && m.Manifest != target.Digest
		if m.Manifest != target.Digest {
			data, err := s.content.ReadAll(m.Manifest, maxManifest)
			if err != nil {
				return out, err
			}
			target = ocispec.Descriptor{Digest: m.Manifest, Size: int64(len(data))}
		}
	}
	return out, s.outline(ctx, lease, target, &out)
}

func (s *Store) complete(ctx context.Context, lease *content.Lease, d digest.Digest) bool {
	_, err := s.reachable(ctx, lease, d)
	return err == nil
}

func (s *Store) outline(ctx context.Context, lease *content.Lease, d ocispec.Descriptor, out *Outline) error {
	if err := lease.Protect(ctx, d.Digest); err != nil {
		return err
	}
	if _, err := s.readManifest(&d); err != nil {
		return err
	}
	for _, c := range s.children(d.Digest) {
		if isIndex(c.MediaType) || c.MediaType == ocispec.MediaTypeImageManifest || c.MediaType == DockerManifest {
			if out.has(c.Digest) {
				continue
			}
			if err := s.outline(ctx, lease, c, out); err != nil {
				return err
			}
			continue
		}
		if err := lease.Protect(ctx, c.Digest); err != nil {
			return err
		}
		if _, err := s.content.Stat(c.Digest); err != nil {
			return err
		}
		if !slices.ContainsFunc(out.Blobs, func(b ocispec.Descriptor) bool { return b.Digest == c.Digest }) {
			out.Blobs = append(out.Blobs, c)
		}
	}
	if !out.has(d.Digest) {
		out.Manifests = append(out.Manifests, d)
	}
	return nil
}

func (o *Outline) has(manifest digest.Digest) bool {
	return slices.ContainsFunc(o.Manifests, func(m ocispec.Descriptor) bool { return m.Digest == manifest })
}

// Repositories are the repositories of a registry that are known to have blobs,
// because images with them came from there or went there.
func (s *Store) Repositories(registry string) (map[digest.Digest][]string, error) {
	ix, err := s.readIndex()
	if err != nil {
		return nil, err
	}
	entries, err := ix.containing(registry + "/")
	if err != nil {
		return nil, err
	}
	known := map[digest.Digest][]string{}
	for _, e := range entries {
		repo := repository(e.Name)
		if !isDigested(e.Name) || len(repo) <= len(registry) || repo[:len(registry)+1] != registry+"/" {
			continue
		}
		for _, m := range e.Images {
			r, err := s.readRecord(m.ID, m.Manifest)
			if err != nil {
				continue
			}
			for _, l := range r.Layers {
				known[l.Digest] = append(known[l.Digest], repo[len(registry)+1:])
			}
		}
	}
	return known, nil
}

// Pushed notes that a registry has an image under a digest.
func (s *Store) Pushed(ctx context.Context, lease *content.Lease, name string, target ocispec.Descriptor) error {
	_, err := s.Add(ctx, lease, target, AddOptions{Names: []string{repository(name) + "@" + target.Digest.String()}})
	return err
}
