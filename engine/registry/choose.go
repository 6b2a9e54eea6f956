package registry

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/stack-run/stack/engine/image"
)

// maxUnsaid is how many members whose platform an index does not tell are looked
// at. Each costs two requests.
const maxUnsaid = 20

// chooser finds the image that is wanted in an index. An index may have indexes
// in it, and members whose platform only their configs tell.
type chooser struct {
	p    *pull
	seen map[digest.Digest]bool
	have []string // platforms that there are
	// unsaid counts the members that were looked at for their platform.
	unsaid int
}

// choose returns the manifest that the index data has for the platform. The index
// is in depth others.
func (c *chooser) choose(ctx context.Context, data []byte, depth int) (ocispec.Descriptor, []byte, error) {
	var idx ocispec.Index
	if err := json.Unmarshal(data, &idx); err != nil {
		return ocispec.Descriptor{}, nil, fmt.Errorf("the image index cannot be read: %w", err)
	}
	all, have, err := image.Candidates(idx, c.p.o.Platform)
	if err != nil {
		return ocispec.Descriptor{}, nil, err
	}
	c.have = append(c.have, have...)
	alone := len(all) == 1 && len(have) == 0
	var failed error
	for _, candidate := range all {
		if c.seen[candidate.Digest] {
			continue
		}
		c.seen[candidate.Digest] = true
		desc, body, err := c.look(ctx, candidate, alone, depth)
		if err == nil {
			return desc, body, nil
		}
		if errors.Is(err, image.ErrNotFound) || errors.Is(err, errNoImage) {
			continue
		}
		if !candidate.Unsaid || ctx.Err() != nil {
			return desc, nil, err
		}
		failed = errors.Join(failed, err)
	}
	if failed == nil {
		failed = image.NoneFor(c.p.o.Platform, c.have)
	}
	return ocispec.Descriptor{}, nil, failed
}

// errNoImage says that a member of an index is something else than an image.
var errNoImage = errors.New("it is no container image")

// look brings a member of an index, and tells whether it is the one.
func (c *chooser) look(ctx context.Context, m image.Candidate, alone bool, depth int) (ocispec.Descriptor, []byte, error) {
	if m.Unsaid && !alone {
		if c.unsaid++; c.unsaid > maxUnsaid {
			return m.Descriptor, nil, fmt.Errorf("the index does not tell the platforms of more than %d of its images", maxUnsaid)
		}
	}
	desc, body, err := c.p.member(ctx, m.Descriptor)
	if err != nil {
		return desc, nil, err
	}
	if isIndex(desc.MediaType) {
		if depth+1 == image.MaxNesting {
			return desc, nil, fmt.Errorf("index %s is in an index that is in an index, and so on, more than %d", desc.Digest, image.MaxNesting)
		}
		return c.choose(ctx, body, depth+1)
	}
	if m.Unsaid && !alone {
		return desc, body, c.suits(ctx, body)
	}
	return desc, body, nil
}

// suits tells whether a manifest's config says that it is for the platform.
func (c *chooser) suits(ctx context.Context, body []byte) error {
	var m ocispec.Manifest
	if err := json.Unmarshal(body, &m); err != nil || checkManifest(m) != nil {
		return errNoImage
	}
	config, err := c.p.config(ctx, m.Config)
	if err != nil {
		return err
	}
	if !config.RunsOn(c.p.o.Platform) {
		c.have = append(c.have, image.FormatPlatform(config.Platform()))
		return image.ErrNotFound
	}
	return nil
}

// member brings a manifest or index that an index lists.
func (p *pull) member(ctx context.Context, want ocispec.Descriptor) (ocispec.Descriptor, []byte, error) {
	if want.Digest.Validate() != nil || want.Digest.Algorithm() != digest.SHA256 {
		return want, nil, fmt.Errorf("the index lists %q, which is not a sha256 digest", printable(want.Digest.String()))
	}
	// A manifest of the same platform for an image that is here need not come again.
	blobs := p.to.Images.Content()
	if body, err := blobs.ReadAll(want.Digest, maxDocument); err == nil {
		if err := p.lease.Protect(ctx, want.Digest); err != nil {
			return want, nil, err
		}
		if _, err := blobs.Stat(want.Digest); err == nil {
			want.MediaType, err = documentType(body, want.MediaType)
			return want, body, err
		}
	}
	var errs []error
	for _, e := range p.repo.endpoints {
		d, body, err := p.manifest(ctx, e, want.Digest.String(), want.Digest)
		if err == nil && d.Size != want.Size {
			err = fmt.Errorf("registry %s sends manifest %s with %d bytes, not the %d that the index says", e, want.Digest, d.Size, want.Size)
		}
		if err == nil {
			want.MediaType = d.MediaType
			return want, body, nil
		}
		errs = append(errs, err)
	}
	return want, nil, errors.Join(errs...)
}
