package image

import (
	"encoding/json"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// keepTarget adds to keep the manifest or index that a name leads to. The images
// of an index are kept by their records, or not at all; its attestations, which
// have no records, are kept with it.
func (s *Store) keepTarget(d digest.Digest, keep map[digest.Digest]bool) {
	keep[d] = true
	for _, c := range s.children(d) {
		switch {
		case isAttestation(c):
			keep[c.Digest] = true
			for _, part := range s.children(c.Digest) {
				keep[part.Digest] = true
			}
		case isIndex(c.MediaType) && !keep[c.Digest]:
			s.keepTarget(c.Digest, keep)
		}
	}
}

// children returns what a manifest or an index refers to, nothing if it is not
// here or cannot be read.
func (s *Store) children(d digest.Digest) []ocispec.Descriptor {
	data, err := s.content.ReadAll(d, maxManifest)
	if err != nil {
		return nil
	}
	var m struct {
		Manifests []ocispec.Descriptor `json:"manifests"`
		Config    *ocispec.Descriptor  `json:"config"`
		Layers    []ocispec.Descriptor `json:"layers"`
	}
	if json.Unmarshal(data, &m) != nil {
		return nil
	}
	all := append(m.Manifests, m.Layers...)
	if m.Config != nil {
		all = append(all, *m.Config)
	}
	return all
}

func isIndex(mediaType string) bool {
	return mediaType == ocispec.MediaTypeImageIndex || mediaType == DockerIndex
}
