package desired

import (
	"crypto/sha256"
	"encoding/hex"
	"slices"

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
	for name, s := range d.Services {
		service := *s
		service.Replicas = slices.Clone(s.Replicas)
		for i := range service.Replicas {
			change(&service.Replicas[i].Spec)
		}
		out.Services[name] = &service
	}
	return &out
}

func Digest(content []byte) string {
	sum := sha256.Sum256(content)
	return "sha256:" + hex.EncodeToString(sum[:])
}
