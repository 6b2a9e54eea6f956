package spec

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/stack-run/stack/engine"
	"github.com/stack-run/stack/volumes"
)

// WithoutSecrets is a copy of d that may be stored: the content of secrets is
// left out, their digest stays. Hashes stay the same.
func (d *Desired) WithoutSecrets() *Desired {
	return d.mapSpecs(func(s *engine.Spec) { s.Mounts = withoutSecrets(s.Mounts) })
}

// SpecWithoutSecrets is a copy of s that may be stored.
func SpecWithoutSecrets(s engine.Spec) engine.Spec {
	s.Mounts = withoutSecrets(s.Mounts)
	return s
}

func withoutSecrets(mounts []volumes.Mount) []volumes.Mount {
	out := slices.Clone(mounts)
	for i := range out {
		if out[i].Secret {
			out[i].Content = nil
		}
	}
	return out
}

// WithSecrets is a copy of d with the content of secrets read again from where
// they came from. read is os.ReadFile if nil. The value of an environment
// variable is gone: such a secret is an error, which "stack up" mends.
func (d *Desired) WithSecrets(read func(string) ([]byte, error)) (*Desired, error) {
	if read == nil {
		read = os.ReadFile
	}
	var errs []error
	out := d.mapSpecs(func(s *engine.Spec) {
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
			m.ContentDigest = digest(content)
		}
		s.Mounts = mounts
	})
	return out, errors.Join(errs...)
}

func (d *Desired) mapSpecs(change func(*engine.Spec)) *Desired {
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
