package image

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/stack-run/stack/engine/content"
	"github.com/stack-run/stack/internal/durable"
	"github.com/stack-run/stack/internal/lock"
)

// Tag gives the image src the further name dst. If another image had that name,
// it loses it.
func (s *Store) Tag(ctx context.Context, src, dst string) error {
	name, err := canonicalName(dst)
	if err != nil {
		return err
	}
	if isDigested(name) {
		return fmt.Errorf("cannot tag image as %s: a digest is not a name one can give; leave out what follows @", dst)
	}
	return s.update(ctx, func(all names) (bool, error) {
		// Under the lock, so that src cannot be removed in between.
		ix, err := s.readIndex()
		if err != nil {
			return false, err
		}
		e, ok, err := findName(ix, src)
		if err != nil {
			return false, err
		}
		if !ok {
			members, err := s.find(ix, src)
			if err != nil {
				return false, err
			}
			r, err := s.readRecord(members[0].ID, members[0].Manifest)
			if err != nil {
				return false, err
			}
			e = entry{Target: r.Manifest, Images: members}
		}
		e.Name, e.Updated = name, time.Now().UTC()
		all[name] = e
		return true, nil
	})
}

// RemoveOptions say how far Remove may go.
type RemoveOptions struct {
	// Force removes an image with several names, and takes the name from an
	// image that is in use; the image itself stays as long as it is.
	Force bool
	// InUse returns what uses an image, such as the names of containers.
	InUse func(id digest.Digest) []string
}

// Removed tells what was, or in a dry run would be, removed.
type Removed struct {
	Untagged []string // names and name@digest
	// Deleted are image IDs; of an image whose ID another one has too, the digest
	// of its manifest.
	Deleted []digest.Digest
	Layers  []digest.Digest // diff IDs that no image has any more
	Bytes   int64           // freed in the content store
}

// Remove takes the name ref from its image, and deletes the image if that was
// its last name. If ref is an ID, the image goes with all its names.
func (s *Store) Remove(ctx context.Context, ref string, opts RemoveOptions) (Removed, error) {
	held, err := lock.Exclusive(ctx, s.lockPath(), lock.Patiently())
	if err != nil {
		return Removed{}, err
	}
	defer held.Unlock()
	ix, err := s.readIndex()
	if err != nil {
		return Removed{}, err
	}
	e, isName, err := findName(ix, ref)
	if err != nil {
		return Removed{}, err
	}
	if isName {
		return s.removeName(ctx, e, opts)
	}
	members, err := s.find(ix, ref)
	if err != nil {
		return Removed{}, err
	}
	keys, err := s.recordKeys(members[0].ID.Encoded())
	if err != nil {
		return Removed{}, err
	}
	return s.removeImages(ctx, keys, opts)
}

// RemovePlatform deletes of the image that ref means that for a platform only, and
// leaves the name to the others, if there are any.
func (s *Store) RemovePlatform(ctx context.Context, ref, platform string, opts RemoveOptions) (Removed, error) {
	held, err := lock.Exclusive(ctx, s.lockPath(), lock.Patiently())
	if err != nil {
		return Removed{}, err
	}
	defer held.Unlock()
	img, err := s.resolveFor(ctx, ref, platform)
	if err != nil {
		return Removed{}, err
	}
	return s.removeImages(ctx, []recordKey{{img.ID, img.Manifest.Digest}}, opts)
}

// removeName untags e, and deletes those of its images that have no other tag.
func (s *Store) removeName(ctx context.Context, e entry, opts RemoveOptions) (Removed, error) {
	dropped := []entry{e}
	var gone []recordKey
	err := s.updateLocked(func(all names) (bool, error) {
		delete(all, e.Name)
		for _, m := range e.Images {
			if all.tagged(m.key()) || isDigested(e.Name) && len(all.of(m.key())) > 0 {
				continue
			}
			users, err := s.needing([]recordKey{m.key()}, opts)
			if err != nil {
				return false, err
			}
			if len(users) > 0 && !opts.Force {
				return false, inUse(familiar(e.Name), users)
			}
			if len(users) == 0 {
				gone = append(gone, m.key())
			}
		}
		more, _ := dropNames(all, gone)
		dropped = append(dropped, more...)
		return true, nil
	})
	if err != nil {
		return Removed{}, err
	}
	removed := Removed{Untagged: familiarNames(dropped)}
	return removed, s.drop(ctx, gone, dropped, &removed, false)
}

// removeImages deletes images of one ID, and their names.
func (s *Store) removeImages(ctx context.Context, keys []recordKey, opts RemoveOptions) (Removed, error) {
	id := keys[0].id
	var dropped []entry
	var gone []recordKey
	err := s.updateLocked(func(all names) (changed bool, err error) {
		tags, _ := split(all.of(keys...))
		if len(tags) > 1 && !opts.Force {
			return false, fmt.Errorf("cannot remove image %s: it has %d names (%s); remove them one by one, or use --force", shortID(id), len(tags), strings.Join(tags, ", "))
		}
		users, err := s.needing(keys, opts)
		if err != nil {
			return false, err
		}
		if len(users) == 0 {
			gone = keys
		} else if !opts.Force || len(tags) == 0 {
			return false, inUse(shortID(id), users)
		}
		dropped, changed = dropNames(all, keys)
		return changed, nil
	})
	if err != nil {
		return Removed{}, err
	}
	removed := Removed{Untagged: familiarNames(dropped)}
	return removed, s.drop(ctx, gone, dropped, &removed, false)
}

// needing returns what would miss the images of one ID if they went: whatever
// uses them, unless another image with that ID stays.
func (s *Store) needing(gone []recordKey, opts RemoveOptions) ([]string, error) {
	users := opts.users(gone[0].id)
	if len(users) == 0 {
		return nil, nil
	}
	all, err := s.recordKeys(gone[0].id.Encoded())
	if slices.ContainsFunc(all, func(k recordKey) bool { return !slices.Contains(gone, k) }) {
		users = nil
	}
	return users, err
}

func (o RemoveOptions) users(id digest.Digest) []string {
	if o.InUse == nil {
		return nil
	}
	return o.InUse(id)
}

func inUse(what string, users []string) error {
	return fmt.Errorf("cannot remove image %s: it is used by %s; remove that first", what, strings.Join(users, ", "))
}

// dropNames deletes the names of images and returns them. A name that
// also leads to an image for another platform keeps that; it is changed too.
func dropNames(all names, keys []recordKey) (dropped []entry, changed bool) {
	for _, k := range keys {
		for _, name := range all.of(k) {
			changed = true
			e, rest := all[name], all[name]
			rest.Images = slices.DeleteFunc(slices.Clone(e.Images), func(m member) bool { return m.key() == k })
			if len(rest.Images) > 0 {
				all[name] = rest
				continue
			}
			delete(all, name)
			dropped = append(dropped, e)
		}
	}
	return dropped, changed
}

func familiarNames(entries []entry) []string {
	var all []string
	for _, e := range entries {
		all = append(all, familiar(e.Name))
	}
	return all
}

// drop deletes images, whose names dropped are gone from the index, with
// the blobs that no other image needs. The caller holds the lock. With sweep it
// also removes blobs that belong to nothing.
func (s *Store) drop(ctx context.Context, keys []recordKey, dropped []entry, removed *Removed, sweep bool) error {
	if len(keys)+len(dropped) == 0 && !sweep {
		return nil
	}
	records, err := s.records()
	if err != nil {
		return err
	}
	kept, gone := partition(records, keys)
	for _, r := range gone {
		if err := os.Remove(s.recordPath(r.ID, r.Manifest.Digest)); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("cannot remove image %s: %w", shortID(r.ID), err)
		}
	}
	if len(gone) > 0 {
		if err := durable.SyncDir(filepath.Join(s.dir, "records")); err != nil {
			return err
		}
	}
	removed.note(kept, gone)
	var opts content.CollectOptions
	if sweep {
		opts.PartialAge = partialAge
	} else {
		opts.Only = s.candidates(gone, dropped)
	}
	blobs, err := s.collect(ctx, opts, kept)
	for _, b := range blobs {
		removed.Bytes += b.Size
	}
	return err
}

// partition divides records into those to keep and those with the keys.
func partition(records []record, keys []recordKey) (kept, gone []record) {
	for _, r := range records {
		if slices.Contains(keys, r.key()) {
			gone = append(gone, r)
		} else {
			kept = append(kept, r)
		}
	}
	return kept, gone
}

// note adds the images gone, and the layers that kept does not have.
func (r *Removed) note(kept, gone []record) {
	still := diffIDs(kept)
	for _, g := range gone {
		name := g.ID
		if slices.ContainsFunc(kept, func(k record) bool { return k.ID == g.ID }) {
			name = g.Manifest.Digest
		}
		if !slices.Contains(r.Deleted, name) {
			r.Deleted = append(r.Deleted, name)
		}
		for _, l := range g.Layers {
			if !still[l.DiffID] {
				still[l.DiffID] = true
				r.Layers = append(r.Layers, l.DiffID)
			}
		}
	}
}

// candidates are the blobs that may be of no use without the records gone and
// the names dropped.
func (s *Store) candidates(gone []record, dropped []entry) []digest.Digest {
	all := make(map[digest.Digest]bool)
	for _, e := range dropped {
		s.keepTarget(e.Target.Digest, all)
	}
	for _, r := range gone {
		for _, d := range r.digests() {
			all[d] = true
		}
	}
	return slices.Collect(maps.Keys(all))
}

// collect removes blobs that belong neither to a record in kept nor to an index
// that a name leads to. The caller holds the lock.
func (s *Store) collect(ctx context.Context, opts content.CollectOptions, kept []record) ([]content.Info, error) {
	ix, err := s.readIndex()
	if err != nil {
		return nil, err
	}
	entries, err := ix.containing("")
	if err != nil {
		return nil, err
	}
	return s.content.Collect(ctx, opts, func() (map[digest.Digest]bool, error) {
		keep := make(map[digest.Digest]bool)
		for _, r := range kept {
			for _, d := range r.digests() {
				keep[d] = true
			}
		}
		for _, e := range entries {
			s.keepTarget(e.Target.Digest, keep)
		}
		return keep, nil
	})
}

// discard removes those of blobs that belong to no image. It is for cleaning up
// after an error, which its own error must not hide: what it leaves, Prune
// removes.
func (s *Store) discard(ctx context.Context, blobs []digest.Digest) {
	held, err := lock.Exclusive(ctx, s.lockPath(), lock.Patiently())
	if err != nil {
		return
	}
	defer held.Unlock()
	records, err := s.records()
	if err != nil {
		return
	}
	s.collect(ctx, content.CollectOptions{Only: blobs}, records)
}
