package image

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/stack-run/stack/engine/content"
)

// Store is the images of one data root. It holds no state in memory, so any
// number of them in any number of processes may share a data root.
type Store struct {
	dir     string
	content *content.Store
}

// Image is one image for one platform.
type Image struct {
	ID       digest.Digest      // digest of the config, Docker's image ID
	Manifest ocispec.Descriptor // of this platform's manifest
	// Names are the tags that lead here, as Docker shows them ("nginx:latest"),
	// RepoDigests the digests under which registries know the image.
	Names       []string
	RepoDigests []string
	Tagged      time.Time // when a name was last given, zero without names
	Created     time.Time
	Size        int64 // bytes of all its blobs, as a registry would count them
	Platform    ocispec.Platform
	Config      Config
	Layers      []content.Layer // lowest first
}

// DiffIDs are the digests of the layers' uncompressed content, lowest first.
func (img Image) DiffIDs() []digest.Digest { return img.Config.RootFS.DiffIDs }

// ChainID names the stack of all layers (image-spec, config.md, "Layer
// ChainID"); "" without layers.
func (img Image) ChainID() digest.Digest {
	var chain digest.Digest
	for _, d := range img.DiffIDs() {
		if chain == "" {
			chain = d
		} else {
			chain = digest.FromString(chain.String() + " " + d.String())
		}
	}
	return chain
}

// Open opens the images below dataRoot and creates the store if need be.
func Open(dataRoot string) (*Store, error) {
	blobs, err := content.Open(dataRoot)
	if err != nil {
		return nil, err
	}
	s := &Store{dir: filepath.Join(dataRoot, "images"), content: blobs}
	if err := os.MkdirAll(filepath.Join(s.dir, "records"), 0o700); err != nil {
		return nil, fmt.Errorf("cannot open image store: %w", err)
	}
	return s, nil
}

// Content is the store of the images' blobs.
func (s *Store) Content() *content.Store { return s.content }

// Resolve returns the image that ref means: a name ("nginx", "nginx:1.27",
// "nginx@sha256:…"), an image ID, or an abbreviated ID. Of an image for several
// platforms it takes the one for this machine. The error wraps ErrNotFound if
// there is none.
func (s *Store) Resolve(ctx context.Context, ref string) (Image, error) {
	return s.ResolvePlatform(ctx, ref, "")
}

// ResolvePlatform is Resolve for the platform OS/ARCH[/VARIANT]; "" prefers this
// machine's and otherwise takes the only one there is.
func (s *Store) ResolvePlatform(ctx context.Context, ref, platform string) (Image, error) {
	ix, err := s.readIndex()
	if err != nil {
		return Image{}, err
	}
	members, err := s.find(ix, ref)
	if err != nil {
		return Image{}, err
	}
	m, err := choose(members, ref, platform)
	if err != nil {
		return Image{}, err
	}
	r, err := s.readRecord(m.ID, m.Manifest)
	if errors.Is(err, ErrNotFound) {
		// The name may have been given to another image, and this one pruned, since.
		if now, readErr := s.readIndex(); readErr == nil && !bytes.Equal(now, ix) {
			return s.ResolvePlatform(ctx, ref, platform)
		}
	}
	if err != nil {
		return Image{}, fmt.Errorf("cannot read image %s: %w; pull or load it again", ref, err)
	}
	return s.describe(r, ix)
}

// Platforms returns all images that ref means, which are for several platforms.
func (s *Store) Platforms(ctx context.Context, ref string) ([]Image, error) {
	ix, err := s.readIndex()
	if err != nil {
		return nil, err
	}
	members, err := s.find(ix, ref)
	if err != nil {
		return nil, err
	}
	images := make([]Image, len(members))
	for i, m := range members {
		r, err := s.readRecord(m.ID, m.Manifest)
		if err != nil {
			return nil, fmt.Errorf("cannot read image %s: %w; pull or load it again", ref, err)
		}
		if images[i], err = s.describe(r, ix); err != nil {
			return nil, err
		}
	}
	return images, nil
}

// describe turns a record into an image with its names.
func (s *Store) describe(r record, ix index) (Image, error) {
	img, err := r.image()
	if err != nil {
		return Image{}, err
	}
	entries, err := ix.containing(r.ID.Encoded())
	if err != nil {
		return Image{}, err
	}
	var canonical []string
	for _, e := range entries {
		if !e.has(r.key()) {
			continue
		}
		canonical = append(canonical, e.Name)
		if e.Updated.After(img.Tagged) {
			img.Tagged = e.Updated
		}
	}
	img.Names, img.RepoDigests = split(canonical)
	return img, nil
}

// find returns the images that ref may mean: several if they are for several
// platforms.
func (s *Store) find(ix index, ref string) ([]member, error) {
	if e, ok, err := findName(ix, ref); err != nil || ok {
		return e.Images, err
	}
	if hex, ok := asID(ref); ok {
		return s.findID(hex, ref)
	}
	// A reference that cannot be read is told as such.
	if _, err := reference.ParseNormalizedNamed(ref); err != nil {
		return nil, fmt.Errorf("cannot read image name %q: %w", ref, err)
	}
	return nil, notFound(ref)
}

// findName looks ref up as a name.
func findName(ix index, ref string) (entry, bool, error) {
	named, err := reference.ParseNormalizedNamed(ref)
	if err != nil {
		return entry{}, false, nil
	}
	key := canonical(named)
	e, ok, err := ix.lookup(key)
	if err != nil || ok {
		return e, ok, err
	}
	digested, ok := named.(reference.Digested)
	if !ok {
		return entry{}, false, nil
	}
	// name@digest also means a tag of that name that leads to the digest.
	entries, err := ix.containing(digested.Digest().Encoded())
	if err != nil {
		return entry{}, false, err
	}
	for _, e := range entries {
		if repository(e.Name) != named.Name() {
			continue
		}
		if e.Target.Digest == digested.Digest() {
			return e, true, nil
		}
		for _, m := range e.Images {
			if m.Manifest == digested.Digest() {
				e.Images = []member{m}
				return e, true, nil
			}
		}
	}
	return entry{}, false, nil
}

// findID looks up an ID, an abbreviated ID, or the digest of a manifest.
func (s *Store) findID(hex, ref string) ([]member, error) {
	keys, err := s.recordKeys(hex)
	if err != nil {
		return nil, err
	}
	if len(keys) == 0 && len(hex) == 64 {
		all, err := s.recordKeys("")
		if err != nil {
			return nil, err
		}
		for _, k := range all {
			if k.manifest.Encoded() == hex {
				keys = append(keys, k)
			}
		}
	}
	if len(keys) == 0 {
		return nil, notFound(ref)
	}
	var ids []string
	for _, k := range keys {
		if short := shortID(k.id); !slices.Contains(ids, short) {
			ids = append(ids, short)
		}
	}
	if len(ids) > 1 {
		return nil, fmt.Errorf("cannot choose image %q: it is the beginning of %d image IDs (%s); give more digits", ref, len(ids), strings.Join(ids, ", "))
	}
	r, err := s.readRecord(keys[0].id, keys[0].manifest)
	if err != nil {
		return nil, err
	}
	img, err := r.image()
	if err != nil {
		return nil, err
	}
	return []member{{ID: r.ID, Manifest: r.Manifest.Digest, Platform: FormatPlatform(img.Platform)}}, nil
}

// choose picks the image for platform.
func choose(members []member, ref, platform string) (member, error) {
	want, err := ParsePlatform(platform)
	if err != nil {
		return member{}, err
	}
	best, score := -1, 0
	var have []string
	for i, m := range members {
		have = append(have, m.Platform)
		p, err := ParsePlatform(m.Platform)
		if err != nil {
			continue
		}
		if n := matches(want, p); n > score {
			best, score = i, n
		}
	}
	if best >= 0 {
		return members[best], nil
	}
	if platform == "" && len(members) == 1 {
		return members[0], nil
	}
	return member{}, fmt.Errorf("%w: %s is here for %s, not for %s; pull or load it for that platform", ErrNotFound, ref, listed(have), FormatPlatform(want))
}

func notFound(ref string) error {
	return fmt.Errorf("%w: %s; get it with \"stack image pull\", \"stack image load\" or \"stack image import\"", ErrNotFound, ref)
}

// List returns all images, those without a name too, newest first.
func (s *Store) List(ctx context.Context) ([]Image, error) {
	ix, err := s.readIndex()
	if err != nil {
		return nil, err
	}
	records, err := s.records()
	if err != nil {
		return nil, err
	}
	var images []Image
	for _, r := range records {
		img, err := s.describe(r, ix)
		if err != nil {
			return nil, err
		}
		images = append(images, img)
	}
	slices.SortStableFunc(images, func(a, b Image) int {
		return b.Created.Compare(a.Created)
	})
	return images, nil
}

// DiffIDs returns the layers that the images here are made of. Other unpacked
// layers are of no use except to the containers that have them.
func (s *Store) DiffIDs() (map[digest.Digest]bool, error) {
	records, err := s.records()
	if err != nil {
		return nil, err
	}
	return diffIDs(records), nil
}

func diffIDs(records []record) map[digest.Digest]bool {
	all := make(map[digest.Digest]bool)
	for _, r := range records {
		for _, l := range r.Layers {
			all[l.DiffID] = true
		}
	}
	return all
}

// IsNotFound tells whether err says that an image is not here.
func IsNotFound(err error) bool { return errors.Is(err, ErrNotFound) }

// Layers returns the layers of all images whose records can be read, each once.
func (s *Store) Layers() ([]content.Layer, error) {
	keys, err := s.recordKeys("")
	if err != nil {
		return nil, err
	}
	var all []content.Layer
	seen := make(map[digest.Digest]bool)
	for _, k := range keys {
		r, err := s.readRecord(k.id, k.manifest)
		if err != nil {
			continue // Check says so
		}
		for _, l := range r.Layers {
			if !seen[l.DiffID] {
				seen[l.DiffID] = true
				all = append(all, l)
			}
		}
	}
	return all, nil
}
