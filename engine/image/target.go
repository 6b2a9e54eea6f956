package image

import (
	"context"
	"fmt"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Named is a name and what it leads to.
type Named struct {
	Name   string             // canonical, "docker.io/library/nginx:latest"
	Target ocispec.Descriptor // a manifest or an index
	Tagged time.Time
}

// Target returns what a name leads to, for a reader who chooses the platform
// himself. The error wraps ErrNotFound if no image has the name.
func (s *Store) Target(_ context.Context, name string) (Named, error) {
	key, err := canonicalName(name)
	if err != nil {
		return Named{}, err
	}
	ix, err := s.readIndex()
	if err != nil {
		return Named{}, err
	}
	e, found, err := ix.lookup(key)
	if err != nil {
		return Named{}, err
	}
	if !found {
		return Named{}, fmt.Errorf("cannot find image %s: %w", familiar(key), ErrNotFound)
	}
	return named(e), nil
}

// Targets returns all names, sorted, and what they lead to.
func (s *Store) Targets(context.Context) ([]Named, error) {
	ix, err := s.readIndex()
	if err != nil {
		return nil, err
	}
	entries, err := ix.containing("")
	if err != nil {
		return nil, err
	}
	all := make([]Named, 0, len(entries))
	for _, e := range entries {
		all = append(all, named(e))
	}
	return all, nil
}

func named(e entry) Named {
	return Named{Name: e.Name, Target: e.Target, Tagged: e.Updated}
}
