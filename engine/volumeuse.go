package engine

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/stack-run/stack/engine/snapshot"
	"github.com/stack-run/stack/internal/lock"
	"github.com/stack-run/stack/volumes"
)

// VolumeUsers returns a function that names the containers using a volume, those
// with the IDs except left out.
func (e *Engine) VolumeUsers(except ...string) func(volume string) []string {
	all, broken, err := e.Records.Scan()
	return func(volume string) []string {
		if err != nil {
			return []string{"unknown: " + err.Error()}
		}
		var out []string
		for _, b := range broken {
			if !slices.Contains(except, b.ID) && b.mentions(volume) {
				out = append(out, b.String())
			}
		}
		for _, c := range all {
			if !slices.Contains(except, c.ID) && usesVolume(c, volume, anyMount) {
				out = append(out, c.Spec.Name)
			}
		}
		return out
	}
}

// usesVolume tells whether a container has a volume that is its own, or by a mount that
// counts.
func usesVolume(c *Container, name string, counts func(volumes.Mount) bool) bool {
	for _, v := range c.Volumes {
		if v == name {
			return true
		}
	}
	return slices.ContainsFunc(slices.Concat(c.Spec.Mounts, c.Inherited), func(m volumes.Mount) bool {
		return m.Type == volumes.TypeVolume && m.Source == name && counts(m)
	})
}

func anyMount(volumes.Mount) bool { return true }

// WritesVolume tells whether a container has a volume mounted so that it may write to it.
func WritesVolume(c *Container, name string) bool {
	return usesVolume(c, name, func(m volumes.Mount) bool { return !m.ReadOnly })
}

// VolumeMounted names the containers that use a volume and have its content mounted,
// or are about to have: a later start sees what is then there. ended tells of a record
// whether its process has ended unnoticed.
func (e *Engine) VolumeMounted(ctx context.Context, volume string, ended func(*Container) bool) ([]string, error) {
	all, broken, err := e.Records.Scan()
	if err != nil {
		return nil, err
	}
	var out []string
	for _, b := range broken {
		if b.mentions(volume) {
			out = append(out, b.String())
		}
	}
	for _, c := range all {
		if !usesVolume(c, volume, anyMount) {
			continue
		}
		mounted, err := e.mountsNow(ctx, c, ended)
		if err != nil {
			return nil, err
		}
		if mounted {
			out = append(out, c.Spec.Name)
		}
	}
	return out, nil
}

// mountsNow tells whether a container has its files mounted, by its process or for one
// that is being started.
func (e *Engine) mountsNow(ctx context.Context, c *Container, ended func(*Container) bool) (bool, error) {
	if c.State.Pid != 0 {
		return !ended(c), nil
	}
	layers, err := e.Layers()
	if err != nil {
		return false, err
	}
	held, err := layers.Use(ctx, c.ID, lock.Within(time.Millisecond))
	var busy *lock.HeldError
	switch {
	case errors.Is(err, snapshot.ErrNotPrepared):
		return false, nil
	case errors.As(err, &busy):
		return true, nil
	case err != nil:
		return false, err
	}
	defer held.Unlock()
	// It may have been started before that.
	now, err := e.Records.Find(c.ID)
	if errors.Is(err, ErrNotFound) {
		return false, nil
	}
	return err == nil && now.State.Pid != 0, err
}
