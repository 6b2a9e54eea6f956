package image

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/stack-run/stack/engine/content"
	"github.com/stack-run/stack/internal/durable"
)

const recordVersion = 1

// errNewer ends the error about a record that this program does not know.
var errNewer = errors.New("; use a newer stack")

// record is the file of one image: all that running it needs, in one read.
type record struct {
	Version  int                `json:"version"`
	ID       digest.Digest      `json:"id"`
	Manifest ocispec.Descriptor `json:"manifest"`
	Size     int64              `json:"size"`
	Layers   []content.Layer    `json:"layers"`
	Config   json.RawMessage    `json:"config"`
}

// digests returns the blobs of the image.
func (r record) digests() []digest.Digest {
	all := []digest.Digest{r.Manifest.Digest, r.ID}
	for _, l := range r.Layers {
		all = append(all, l.Digest)
	}
	return all
}

// image is the Image that r describes, without names.
func (r record) image() (Image, error) {
	img := Image{ID: r.ID, Manifest: r.Manifest, Size: r.Size, Layers: r.Layers}
	if err := json.Unmarshal(r.Config, &img.Config); err != nil {
		return Image{}, fmt.Errorf("cannot read config of image %s: %w", shortID(r.ID), err)
	}
	c := img.Config
	if c.Created != nil {
		img.Created = *c.Created
	}
	img.Platform = c.Platform()
	return img, nil
}

func recordName(id, manifest digest.Digest) string {
	return id.Encoded() + "-" + manifest.Encoded() + ".json"
}

func (s *Store) recordPath(id, manifest digest.Digest) string {
	return filepath.Join(s.dir, "records", recordName(id, manifest))
}

func (s *Store) readRecord(id, manifest digest.Digest) (record, error) {
	return readRecordFile(s.recordPath(id, manifest))
}

func readRecordFile(path string) (record, error) {
	var r record
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return r, ErrNotFound
	}
	if err != nil {
		return r, fmt.Errorf("cannot read image record: %w", err)
	}
	if err := json.Unmarshal(data, &r); err != nil {
		return r, fmt.Errorf("cannot read image record %s: %w", filepath.Base(path), err)
	}
	if r.Version != recordVersion {
		return r, fmt.Errorf("cannot read image record %s: it has version %d and this program knows %d%w", filepath.Base(path), r.Version, recordVersion, errNewer)
	}
	return r, nil
}

func (s *Store) writeRecord(r record) error {
	if old, err := s.readRecord(r.ID, r.Manifest.Digest); err == nil && old.ID == r.ID {
		return nil // a record never changes
	}
	return s.replaceRecord(r)
}

func (s *Store) replaceRecord(r record) error {
	r.Version = recordVersion
	data, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("cannot write image record: %w", err)
	}
	return durable.Write(s.recordPath(r.ID, r.Manifest.Digest), data, 0o600)
}

// recordKey is what a record's file name says. Images whose layers are compressed
// in other ways have the same ID, for that is of their config, and manifests of
// their own: they are two images all the same.
type recordKey struct{ id, manifest digest.Digest }

func (r record) key() recordKey { return recordKey{r.ID, r.Manifest.Digest} }

// recordKeys lists the records whose ID starts with the hex digits prefix.
func (s *Store) recordKeys(prefix string) ([]recordKey, error) {
	entries, err := os.ReadDir(filepath.Join(s.dir, "records"))
	if err != nil {
		return nil, fmt.Errorf("cannot list images: %w", err)
	}
	var keys []recordKey
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), prefix) {
			continue
		}
		base, _ := strings.CutSuffix(e.Name(), ".json")
		id, manifest, ok := strings.Cut(base, "-")
		k := recordKey{digest.NewDigestFromEncoded(digest.SHA256, id), digest.NewDigestFromEncoded(digest.SHA256, manifest)}
		if ok && k.id.Validate() == nil && k.manifest.Validate() == nil {
			keys = append(keys, k)
		}
	}
	return keys, nil
}

// records reads all records. One that cannot be read is an image that must be
// pulled, loaded or built again, and is left out; what a later version wrote is
// not to be touched, nor anything that it may need.
func (s *Store) records() ([]record, error) {
	keys, err := s.recordKeys("")
	if err != nil {
		return nil, err
	}
	var all []record
	for _, k := range keys {
		r, err := s.readRecord(k.id, k.manifest)
		if errors.Is(err, errNewer) {
			return nil, err
		}
		if err != nil {
			continue // or removed just now
		}
		all = append(all, r)
	}
	return all, nil
}
