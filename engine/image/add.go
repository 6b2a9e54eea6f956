package image

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/stack-run/stack/engine/content"
)

// Media types of Docker's image manifest version 2, schema 2
// (distribution, docs/content/spec/manifest-v2-2.md).
const (
	DockerManifest  = "application/vnd.docker.distribution.manifest.v2+json"
	DockerIndex     = "application/vnd.docker.distribution.manifest.list.v2+json"
	dockerConfig    = "application/vnd.docker.container.image.v1+json"
	dockerRefType   = "vnd.docker.reference.type" // annotation of attestations in an index
	maxManifest     = 8 << 20                     // bytes of a manifest, index or config
	maxIndexMembers = 1000
)

// MaxNesting is how many indexes may be in one another.
const MaxNesting = 4

// errIncomplete says that a blob an image needs is not in the store.
var errIncomplete = errors.New("image is incomplete")

// errNoImage says that a manifest is for something else than an image.
var errNoImage = errors.New("it is not a container image")

// AddOptions say what else Add does.
type AddOptions struct {
	// Names are given to the image; each may have a tag or a digest. A name
	// that another image has goes over to this one.
	Names []string
	// Platforms, if any, are those of an index that are taken; each must be there.
	Platforms []string
	// Ready, if set, is called for each image once all its blobs are there and
	// before it has a name, for unpacking. If it fails, no name is given.
	Ready func(context.Context, Image) error
}

// Add makes an image of the manifest or index target, whose blobs were put into
// Content under lease. It reads and verifies manifest and config, and that the
// layers are there with the size that the manifest says. Of an index it takes
// the platforms that are complete.
func (s *Store) Add(ctx context.Context, lease *content.Lease, target ocispec.Descriptor, opts AddOptions) ([]Image, error) {
	canonical := make([]string, len(opts.Names))
	for i, name := range opts.Names {
		var err error
		if canonical[i], err = canonicalName(name); err != nil {
			return nil, err
		}
	}
	records, err := s.readTarget(ctx, lease, &target, map[digest.Digest]bool{}, 0)
	if err != nil {
		return nil, err
	}
	if records, err = forPlatforms(records, opts.Platforms); err != nil {
		return nil, fmt.Errorf("cannot add image %s: %w", target.Digest, err)
	}
	e := entry{Target: target, Updated: time.Now().UTC()}
	var images []Image
	for _, r := range records {
		if err := lease.Protect(ctx, r.digests()...); err != nil {
			return nil, err
		}
		img, err := r.image()
		if err != nil {
			return nil, err
		}
		if opts.Ready != nil {
			if err := opts.Ready(ctx, img); err != nil {
				return nil, err
			}
		}
		images = append(images, img)
		e.Images = append(e.Images, member{ID: r.ID, Manifest: r.Manifest.Digest, Platform: FormatPlatform(img.Platform)})
	}
	err = s.update(ctx, func(all names) (bool, error) {
		for _, r := range records {
			if err := s.writeRecord(r); err != nil {
				return false, err
			}
		}
		for _, name := range canonical {
			e.Name = name
			all[name] = e
		}
		for i := range images {
			images[i].Names, images[i].RepoDigests = split(all.of(recordKey{images[i].ID, images[i].Manifest.Digest}))
			images[i].Tagged = e.Updated
		}
		return len(canonical) > 0, nil
	})
	return images, err
}

// readTarget reads and verifies what target leads to, and completes target. What
// is in seen was read; depth is in how many indexes target is.
func (s *Store) readTarget(ctx context.Context, lease *content.Lease, target *ocispec.Descriptor, seen map[digest.Digest]bool, depth int) ([]record, error) {
	data, err := s.readManifest(target)
	if err != nil {
		return nil, err
	}
	switch target.MediaType {
	case ocispec.MediaTypeImageManifest, DockerManifest:
		r, err := s.readImage(lease, *target, data)
		return []record{r}, err
	case ocispec.MediaTypeImageIndex, DockerIndex:
	default:
		return nil, fmt.Errorf("cannot add image %s: media type %q is neither an image manifest nor an index", target.Digest, target.MediaType)
	}
	var idx ocispec.Index
	if err := json.Unmarshal(data, &idx); err != nil {
		return nil, fmt.Errorf("cannot read image index %s: %w", target.Digest, err)
	}
	if len(idx.Manifests) > maxIndexMembers {
		return nil, fmt.Errorf("cannot read image index %s: it has %d manifests, more than %d", target.Digest, len(idx.Manifests), maxIndexMembers)
	}
	if depth == MaxNesting {
		return nil, fmt.Errorf("cannot read image index %s: it is in an index that is in an index, and so on, more than %d", target.Digest, MaxNesting)
	}
	return s.readMembers(ctx, lease, *target, idx, seen, depth+1)
}

// readMembers reads those images of an index that are complete.
func (s *Store) readMembers(ctx context.Context, lease *content.Lease, target ocispec.Descriptor, idx ocispec.Index, seen map[digest.Digest]bool, depth int) ([]record, error) {
	var records []record
	var missing []string
	for _, desc := range idx.Manifests {
		// Indexes that list each other many times would otherwise be read without
		// an end.
		if isAttestation(desc) || seen[desc.Digest] {
			continue
		}
		seen[desc.Digest] = true
		if err := lease.Protect(ctx, desc.Digest); err != nil {
			return nil, err
		}
		members, err := s.readTarget(ctx, lease, &desc, seen, depth)
		if errors.Is(err, errIncomplete) || errors.Is(err, content.ErrNotFound) || errors.Is(err, errNoImage) {
			missing = append(missing, err.Error())
			continue
		}
		if err != nil {
			return nil, err
		}
		records = append(records, members...)
	}
	if len(records) == 0 && depth > 1 {
		return nil, fmt.Errorf("%w: index %s has no image that is here", errIncomplete, target.Digest)
	}
	if len(records) == 0 {
		return nil, fmt.Errorf("cannot add image %s: %w for each of its platforms: %s", target.Digest, errIncomplete, strings.Join(missing, "; "))
	}
	return records, nil
}

// isAttestation tells whether a member of an index says something about another
// member instead of being an image.
func isAttestation(d ocispec.Descriptor) bool {
	if d.Annotations[dockerRefType] != "" || d.ArtifactType != "" {
		return true
	}
	return d.Platform != nil && d.Platform.OS == "unknown" && d.Platform.Architecture == "unknown"
}

// readManifest reads the blob of d, verified, and fills d's size and media type
// where the sender left them out.
func (s *Store) readManifest(d *ocispec.Descriptor) ([]byte, error) {
	if d.Digest.Validate() != nil || d.Digest.Algorithm() != digest.SHA256 {
		return nil, fmt.Errorf("cannot read manifest: digest %q is not a sha256 digest", d.Digest)
	}
	data, err := s.content.ReadAll(d.Digest, maxManifest)
	if err != nil {
		return nil, err
	}
	if d.Size != 0 && d.Size != int64(len(data)) {
		return nil, fmt.Errorf("cannot read manifest %s: it has %d bytes and was announced with %d", d.Digest, len(data), d.Size)
	}
	d.Size = int64(len(data))
	var kind struct {
		MediaType string            `json:"mediaType"`
		Manifests []json.RawMessage `json:"manifests"`
		Config    *struct{}         `json:"config"`
	}
	if err := json.Unmarshal(data, &kind); err != nil {
		return nil, fmt.Errorf("cannot read manifest %s: %w", d.Digest, err)
	}
	// A document that is an index for one reader and a manifest for another
	// would be two images under one digest (CVE-2021-41190).
	if kind.Config != nil && kind.Manifests != nil {
		return nil, fmt.Errorf("cannot read manifest %s: it claims to be both a manifest and an index", d.Digest)
	}
	if kind.MediaType != "" {
		if d.MediaType != "" && d.MediaType != kind.MediaType {
			return nil, fmt.Errorf("cannot read manifest %s: it says media type %q and was announced with %q", d.Digest, kind.MediaType, d.MediaType)
		}
		d.MediaType = kind.MediaType
	}
	switch {
	case d.MediaType == "" && kind.Manifests != nil:
		d.MediaType = ocispec.MediaTypeImageIndex
	case d.MediaType == "":
		d.MediaType = ocispec.MediaTypeImageManifest
	}
	return data, nil
}

// readImage reads and verifies one manifest and its config.
func (s *Store) readImage(lease *content.Lease, desc ocispec.Descriptor, data []byte) (record, error) {
	fail := func(format string, args ...any) (record, error) {
		return record{}, fmt.Errorf("cannot add image with manifest %s: %w", desc.Digest, fmt.Errorf(format, args...))
	}
	var m ocispec.Manifest
	if err := json.Unmarshal(data, &m); err != nil {
		return fail("%w", err)
	}
	switch m.Config.MediaType {
	case ocispec.MediaTypeImageConfig, dockerConfig, "":
	default:
		return fail("%w: its config has media type %q", errNoImage, m.Config.MediaType)
	}
	if m.Config.Digest.Validate() != nil || m.Config.Digest.Algorithm() != digest.SHA256 {
		return fail("its config has digest %q, which is not a sha256 digest", m.Config.Digest)
	}
	raw, err := s.content.ReadAll(m.Config.Digest, maxManifest)
	if errors.Is(err, content.ErrNotFound) {
		return fail("%w: config %s is not here", errIncomplete, m.Config.Digest)
	}
	if err != nil {
		return fail("%w", err)
	}
	if m.Config.Size != int64(len(raw)) {
		return fail("its config has %d bytes, not the %d that the manifest says", len(raw), m.Config.Size)
	}
	var c Config
	if err := json.Unmarshal(raw, &c); err != nil {
		return fail("its config cannot be read: %w", err)
	}
	if c.RootFS.Type != "layers" {
		return fail("its config has a root file system of type %q, not \"layers\"", c.RootFS.Type)
	}
	if len(c.RootFS.DiffIDs) != len(m.Layers) {
		return fail("the manifest has %d layers and the config %d", len(m.Layers), len(c.RootFS.DiffIDs))
	}
	r := record{ID: m.Config.Digest, Manifest: desc, Size: desc.Size + m.Config.Size, Config: raw}
	for i, l := range m.Layers {
		diffID := c.RootFS.DiffIDs[i]
		if diffID.Validate() != nil || diffID.Algorithm() != digest.SHA256 {
			return fail("layer %d has diff ID %q, which is not a sha256 digest", i, diffID)
		}
		if !IsLayer(l.MediaType) {
			return fail("layer %d has media type %q, which is not a file system layer", i, l.MediaType)
		}
		if lease != nil {
			// Before the look, so that it stays.
			if err := lease.Protect(context.Background(), m.Config.Digest, l.Digest); err != nil {
				return fail("%w", err)
			}
		}
		info, err := s.content.Stat(l.Digest)
		if errors.Is(err, content.ErrNotFound) {
			return fail("%w: layer %s is not here", errIncomplete, l.Digest)
		}
		if err != nil {
			return fail("%w", err)
		}
		if info.Size != l.Size {
			return fail("layer %s has %d bytes, not the %d that the manifest says", l.Digest, info.Size, l.Size)
		}
		r.Size += l.Size
		r.Layers = append(r.Layers, content.Layer{Digest: l.Digest, DiffID: diffID, MediaType: l.MediaType, Size: l.Size})
	}
	r.Manifest.Platform, r.Manifest.URLs, r.Manifest.Data, r.Manifest.Annotations = nil, nil, nil, nil
	return r, nil
}

// IsLayer tells whether a media type is a layer's. How it is compressed is told
// by its content.
func IsLayer(mediaType string) bool {
	return strings.HasPrefix(mediaType, "application/vnd.oci.image.layer.") ||
		strings.HasPrefix(mediaType, "application/vnd.docker.image.rootfs.")
}
