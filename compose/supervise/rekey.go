package supervise

import (
	"context"

	"github.com/stack-run/stack/compose/desired"
	"github.com/stack-run/stack/compose/spec"
	"github.com/stack-run/stack/engine"
)

// An earlier version has left plain digests of secrets in records and definitions, by which
// a short one can be guessed. They are keyed when they are read, and by the supervisor
// where they stand.

// keyDigests keys the digests of a container's record.
func keyDigests(e *engine.Engine, c *engine.Container) (_ *engine.Container, changed bool, err error) {
	s, hash, changed, err := desired.KeyDigests(&c.Spec, c.Hash, keyDigest(e))
	if err != nil || !changed {
		return c, false, err
	}
	own := *c
	own.Spec, own.Hash = *s, hash
	return &own, true, nil
}

// keyDefinition keys the digests of a definition.
func keyDefinition(e *engine.Engine, d *spec.Desired) (changed bool, err error) {
	for _, service := range d.All() {
		for i := range service.Replicas {
			r := &service.Replicas[i]
			s, hash, keyed, err := desired.KeyDigests(&r.Spec, r.Hash, keyDigest(e))
			if err != nil {
				return changed, err
			}
			if keyed {
				r.Spec, r.Hash, changed = *s, hash, true
			}
		}
	}
	return changed, nil
}

func keyDigest(e *engine.Engine) func(string) (string, error) {
	return func(digest string) (string, error) { return e.Sealed().KeyDigest(context.Background(), digest) }
}

// keyStored keys what stands in a realm's definition.
func (s *Supervisor) keyStored() error {
	d, changed, err := s.store.readKeyed(s.realm)
	if err != nil || !changed {
		return nil //nolint:nilerr // there is none, or one that others speak of
	}
	return s.store.Save(d)
}
