package snapshot

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"

	"github.com/stack-run/stack/internal/durable"
	"github.com/stack-run/stack/internal/lock"
)

// Collected is what Collect and RemoveLayer removed.
type Collected struct {
	Layers []digest.Digest // diff IDs
	Bytes  int64           // of disk, as LayerInfo.Disk counts
}

// CollectOptions say what Collect does.
type CollectOptions struct {
	// DryRun only reports. It takes the containers Without, and with WithoutLent
	// those whom layers are lent to, as removed already.
	DryRun      bool
	Without     []string
	WithoutLent bool
}

// Collect removes the layers that neither keep, called while no layer can come
// into use, returns, nor a container has, nor are lent, and what killed processes
// left.
func (s *Store) Collect(ctx context.Context, o CollectOptions, keep func() (map[digest.Digest]bool, error)) (Collected, error) {
	if !o.DryRun {
		o = CollectOptions{}
	}
	held, err := lock.Exclusive(ctx, s.lockPath(), lock.Patiently())
	if err != nil {
		return Collected{}, err
	}
	defer held.Unlock()
	kept, err := keep()
	if err != nil {
		return Collected{}, err
	}
	all, err := s.layerNames()
	if err != nil {
		return Collected{}, err
	}
	gone := slices.DeleteFunc(all, func(d digest.Digest) bool { return kept[d] })
	c, err := s.removeLayers(ctx, gone, o)
	if err == nil && !o.DryRun {
		err = errors.Join(s.removeLeftovers(), s.removeTemporaries())
	}
	return c, err
}

// RemoveLayer removes unpacked layers, except those that a container has or that
// are lent.
func (s *Store) RemoveLayer(ctx context.Context, diffIDs ...digest.Digest) (Collected, error) {
	held, err := lock.Exclusive(ctx, s.lockPath(), lock.Patiently())
	if err != nil {
		return Collected{}, err
	}
	defer held.Unlock()
	return s.removeLayers(ctx, diffIDs, CollectOptions{})
}

// removeLayers removes layers with the store's lock held. First go the stacks
// that name them, so that no one finds a stack with a layer missing.
func (s *Store) removeLayers(ctx context.Context, diffIDs []digest.Digest, o CollectOptions) (Collected, error) {
	used, err := s.used(o)
	if err != nil {
		return Collected{}, err
	}
	gone := make(map[string]bool)
	var c Collected
	for _, d := range diffIDs {
		if d.Validate() != nil || used[d.Encoded()] || gone[d.Encoded()] {
			continue
		}
		if !s.unpacked(d) {
			continue
		}
		info, err := s.readInfo(d.Encoded())
		if err != nil { // damaged, and it goes
			info.Disk, err = diskUsage(ctx, s.layerDir(d))
		}
		if err != nil {
			return Collected{}, err
		}
		gone[d.Encoded()] = true
		c.Layers = append(c.Layers, d)
		c.Bytes += info.Disk
	}
	if o.DryRun || len(gone) == 0 {
		return c, nil
	}
	fixes, err := s.removeStacks(gone)
	if err != nil {
		return Collected{}, err
	}
	for _, fix := range fixes {
		gone[fix] = !used[fix]
	}
	for name, remove := range gone {
		if !remove {
			continue
		}
		if ctx.Err() != nil {
			return c, context.Cause(ctx)
		}
		if err := s.removeDir(ctx, name); err != nil {
			return c, fmt.Errorf("cannot remove layer %s: %w", short(name), err)
		}
	}
	return c, durable.SyncDir(s.layers)
}

// removeDir deletes the directory of one layer: at once as far as its name goes.
func (s *Store) removeDir(ctx context.Context, name string) error {
	held, err := lock.Exclusive(ctx, filepath.Join(s.layers, "locks", name), lock.Patiently())
	if err != nil {
		return err
	}
	defer held.Remove()
	tmp := filepath.Join(s.layers, "tmp", name)
	if err := removeTree(tmp); err != nil {
		return err
	}
	if err := os.Rename(filepath.Join(s.layers, name), tmp); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return err
	}
	return removeTree(tmp)
}

// removeStacks deletes the stacks that contain one of the directories gone, and
// returns the corrections that they had.
func (s *Store) removeStacks(gone map[string]bool) ([]string, error) {
	dir := filepath.Join(s.layers, "stacks")
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("cannot list layer stacks: %w", err)
	}
	var fixes []string
	kept := make(map[string]bool)
	for _, e := range entries {
		path := filepath.Join(dir, e.Name())
		var st stack
		data, err := os.ReadFile(path)
		if err == nil && json.Unmarshal(data, &st) == nil && !slices.ContainsFunc(st.Dirs, func(name string) bool { return gone[name] }) {
			for _, name := range st.Dirs {
				kept[name] = true
			}
			continue
		}
		for _, name := range st.Dirs {
			if strings.HasPrefix(name, "fix-") {
				fixes = append(fixes, name)
			}
		}
		if err := os.Remove(path); err != nil {
			return nil, fmt.Errorf("cannot remove layer stack: %w", err)
		}
	}
	if err := durable.SyncDir(dir); err != nil {
		return nil, err
	}
	return slices.DeleteFunc(fixes, func(name string) bool { return kept[name] }), nil
}

// used returns the names of the layer directories that containers have or that
// are lent, without those that o leaves out.
func (s *Store) used(o CollectOptions) (map[string]bool, error) {
	used := make(map[string]bool)
	err := s.eachContainer(func(id string, dirs []string) error {
		if slices.Contains(o.Without, id) {
			return nil
		}
		for _, name := range dirs {
			used[name] = true
		}
		return nil
	})
	if err != nil || o.WithoutLent {
		return used, err
	}
	err = s.eachLent(func(_, name string) error {
		used[name] = true
		return nil
	})
	return used, err
}

// eachContainer calls fn for each container with the layer directories that it
// has.
func (s *Store) eachContainer(fn func(id string, dirs []string) error) error {
	entries, err := os.ReadDir(s.containers)
	if err != nil {
		return fmt.Errorf("cannot list containers: %w", err)
	}
	for _, e := range entries {
		_, st, err := s.lower(e.Name())
		if err != nil && !errors.Is(err, ErrNotPrepared) {
			return err
		}
		pinned, err := s.pinned(e.Name())
		if err != nil {
			return err
		}
		if err := fn(e.Name(), append(pinned, st.Dirs...)); err != nil {
			return err
		}
	}
	return nil
}

// pinned returns the layer directories that Pin keeps for a container.
func (s *Store) pinned(containerID string) ([]string, error) {
	dir := filepath.Join(s.containers, containerID)
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, ignoreGone(err)
	}
	var names []string
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), pinPrefix) {
			continue
		}
		data, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			return nil, ignoreGone(err)
		}
		var st stack
		if json.Unmarshal(data, &st) == nil { // else power failed, and nothing is mounted
			names = append(names, st.Dirs...)
		}
	}
	return names, nil
}

// removeLeftovers deletes what is below tmp and belongs to nobody alive, and the
// locks of those who were killed once there was nothing below tmp any more.
func (s *Store) removeLeftovers() error {
	if err := s.eachLeftover(removeTree); err != nil {
		return err
	}
	dir := filepath.Join(s.layers, "locks")
	entries, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("cannot list leftovers: %w", err)
	}
	for _, e := range entries {
		held, free, err := lock.TryExclusive(filepath.Join(dir, e.Name()))
		if err == nil && free {
			err = held.Remove()
		}
		if err != nil {
			return fmt.Errorf("cannot remove leftovers: %w", err)
		}
	}
	return nil
}

// removeTemporaries deletes stacks that were not written to their end. With the
// store's lock held nobody writes one.
func (s *Store) removeTemporaries() error {
	return durable.RemoveTemps(filepath.Join(s.layers, "stacks"))
}

// eachLeftover calls fn for what is below tmp and belongs to nobody alive.
func (s *Store) eachLeftover(fn func(path string) error) error {
	dir := filepath.Join(s.layers, "tmp")
	entries, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("cannot list leftovers: %w", err)
	}
	for _, e := range entries {
		held, free, err := lock.TryExclusive(filepath.Join(s.layers, "locks", e.Name()))
		if err != nil {
			return fmt.Errorf("cannot list leftovers: %w", err)
		}
		if !free {
			continue
		}
		err = fn(filepath.Join(dir, e.Name()))
		if err := errors.Join(err, held.Remove()); err != nil {
			return err
		}
	}
	return nil
}
