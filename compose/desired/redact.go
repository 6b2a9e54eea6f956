package desired

import (
	"crypto/sha256"
	"encoding/hex"
	"maps"
	"slices"
	"strings"

	"github.com/stack-run/stack/engine/container"
	"github.com/stack-run/stack/volumes/volume"
)

// WithoutSecrets is a copy of d that may be stored: the content of secrets, and of
// configs that are stored encrypted, is left out, their digest stays. Hashes stay the
// same.
func (d *Project) WithoutSecrets() *Project {
	return d.mapSpecs(func(s *container.Spec) { s.Mounts = withoutSecrets(s.Mounts) })
}

func withoutSecrets(mounts []volume.Mount) []volume.Mount {
	out := slices.Clone(mounts)
	for i := range out {
		if out[i].Withheld() {
			out[i].Content = nil
		}
	}
	return out
}

func (d *Project) mapSpecs(change func(*container.Spec)) *Project {
	out := *d
	out.Services = make(map[string]*Service, len(d.Services))
	mapped := func(s *Service) Service {
		service := *s
		service.Replicas = slices.Clone(s.Replicas)
		for i := range service.Replicas {
			change(&service.Replicas[i].Spec)
		}
		return service
	}
	for name, s := range d.Services {
		service := mapped(s)
		out.Services[name] = &service
	}
	out.Jobs = maps.Clone(d.Jobs)
	for name, j := range d.Jobs {
		job := *j
		job.Service = mapped(&j.Service)
		out.Jobs[name] = &job
	}
	return &out
}

// Digest stands for a content. Of a secret it is to be keyed, for who knows it could
// guess the content; see KeyDigests.
func Digest(content []byte) string {
	sum := sha256.Sum256(content)
	return plainPrefix + hex.EncodeToString(sum[:])
}

const plainPrefix = "sha256:"

// KeyDigests keys the digests of secrets in a spec that an earlier version has stored with
// plain ones, and makes its hash anew. changed is false where there are none.
//
// Where the hash is not the spec's, which has been changed since, it becomes "": then the
// fields alone are compared.
func KeyDigests(s *container.Spec, hash string, key func(digest string) (string, error)) (_ *container.Spec, newHash string, changed bool, err error) {
	own := *s
	own.Mounts = slices.Clone(s.Mounts)
	for i := range own.Mounts {
		m := &own.Mounts[i]
		if !m.Secret || !strings.HasPrefix(m.ContentDigest, plainPrefix) {
			continue
		}
		if m.ContentDigest, err = key(m.ContentDigest); err != nil {
			return s, hash, false, err
		}
		changed = true
	}
	if !changed {
		return s, hash, false, nil
	}
	if Hash(s) == hash {
		newHash = Hash(&own)
	}
	if own.Labels = maps.Clone(s.Labels); own.Labels[LabelConfigHash] != "" {
		own.Labels[LabelConfigHash] = newHash
	}
	return &own, newHash, true, nil
}
