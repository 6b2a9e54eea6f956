package desired

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/stack-run/stack/engine/container"
	"github.com/stack-run/stack/volumes/volume"
)

// WithoutSecrets is a copy of d that may be stored: the content of secrets is
// left out, their digest stays. Hashes stay the same.
func (d *Project) WithoutSecrets() *Project {
	return d.mapSpecs(func(s *container.Spec) { s.Mounts = withoutSecrets(s.Mounts) })
}

func withoutSecrets(mounts []volume.Mount) []volume.Mount {
	out := slices.Clone(mounts)
	for i := range out {
		if out[i].Secret {
			out[i].Content = nil
		}
	}
	return out
}

// WithSecrets is a copy of d with the content of secrets read again from where
// they came from. The value of an environment
// variable is gone: such a secret is an error, which "stack up" mends.
func (d *Project) WithSecrets(read func(string) ([]byte, error)) (*Project, error) {
	var errs []error
	out := d.mapSpecs(func(s *container.Spec) {
		mounts := slices.Clone(s.Mounts)
		for i := range mounts {
			m := &mounts[i]
			if !m.Secret || m.Content != nil {
				continue
			}
			file, ok := strings.CutPrefix(m.ContentFrom, "file:")
			if !ok {
				errs = append(errs, fmt.Errorf("cannot restore secret %s of %s: it came from %s and is stored nowhere; run \"stack up\" again", m.Target, s.Name, strings.Replace(m.ContentFrom, ":", " variable ", 1)))
				continue
			}
			content, err := read(file)
			if err != nil {
				errs = append(errs, fmt.Errorf("cannot restore secret %s of %s: %w", m.Target, s.Name, err))
				continue
			}
			m.Content = content
			m.ContentDigest = Digest(content)
		}
		s.Mounts = mounts
	})
	return out, errors.Join(errs...)
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
