package image

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/stack-run/stack/engine/content"
	"github.com/stack-run/stack/internal/lock"
)

// partialAge is how long an interrupted download is kept for resuming.
const partialAge = 24 * time.Hour

// PruneOptions say which images Prune may remove.
type PruneOptions struct {
	// All takes images with names too, not only those without.
	All bool
	// Until spares images made at or after that time; zero spares none.
	Until time.Time
	// Labels, "KEY" or "KEY=VALUE", must all be there; NotLabels must not.
	Labels, NotLabels []string
	// DryRun reports and removes nothing.
	DryRun bool
	// InUse returns what uses an image. Such an image is never removed.
	InUse func(id digest.Digest) []string
}

// Prune removes images that nothing uses, and blobs that belong to no image.
// Killed at any moment, it has removed less, and what is left is whole.
func (s *Store) Prune(ctx context.Context, opts PruneOptions) (Removed, error) {
	held, err := lock.Exclusive(ctx, s.lockPath(), lock.Patiently())
	if err != nil {
		return Removed{}, err
	}
	defer held.Unlock()
	records, err := s.records()
	if err != nil {
		return Removed{}, err
	}
	var dropped []entry
	var gone []recordKey
	err = s.updateLocked(func(all names) (bool, error) {
		for _, r := range records {
			ok, err := opts.selects(r, all)
			if err != nil {
				return false, err
			}
			if ok {
				gone = append(gone, r.key())
			}
		}
		var changed bool
		dropped, changed = dropNames(all, gone)
		return changed && !opts.DryRun, nil
	})
	if err != nil {
		return Removed{}, err
	}
	removed := Removed{Untagged: familiarNames(dropped)}
	if !opts.DryRun {
		if err := s.removeTemporaries(); err != nil {
			return removed, err
		}
		return removed, s.drop(ctx, gone, dropped, &removed, true)
	}
	kept, without := partition(records, gone)
	removed.note(kept, without)
	// The names are still there, so what they lead to must not be kept for
	// their sake: only what the remaining records and names need.
	blobs, err := s.dryCollect(ctx, kept, gone)
	for _, b := range blobs {
		removed.Bytes += b.Size
	}
	return removed, err
}

// dryCollect returns the blobs that would go with the images gone.
func (s *Store) dryCollect(ctx context.Context, kept []record, gone []recordKey) ([]content.Info, error) {
	ix, err := s.readIndex()
	if err != nil {
		return nil, err
	}
	entries, err := ix.containing("")
	if err != nil {
		return nil, err
	}
	return s.content.Collect(ctx, content.CollectOptions{DryRun: true}, func() (map[digest.Digest]bool, error) {
		keep := make(map[digest.Digest]bool)
		for _, r := range kept {
			for _, d := range r.digests() {
				keep[d] = true
			}
		}
		for _, e := range entries {
			if slices.ContainsFunc(e.Images, func(m member) bool { return !slices.Contains(gone, m.key()) }) {
				s.keepTarget(e.Target.Digest, keep)
			}
		}
		return keep, nil
	})
}

// selects tells whether the options take the image r.
func (o PruneOptions) selects(r record, all names) (bool, error) {
	if !o.All && all.tagged(r.key()) {
		return false, nil
	}
	if o.InUse != nil && len(o.InUse(r.ID)) > 0 {
		return false, nil
	}
	if o.Until.IsZero() && len(o.Labels) == 0 && len(o.NotLabels) == 0 {
		return true, nil
	}
	img, err := r.image()
	if err != nil {
		return false, err
	}
	if !o.Until.IsZero() && !img.Created.Before(o.Until) {
		return false, nil
	}
	labels := img.Config.Config.Labels
	for _, l := range o.Labels {
		if !hasLabel(labels, l) {
			return false, nil
		}
	}
	for _, l := range o.NotLabels {
		if hasLabel(labels, l) {
			return false, nil
		}
	}
	return true, nil
}

// hasLabel tells whether labels contain want, "KEY" or "KEY=VALUE".
func hasLabel(labels map[string]string, want string) bool {
	key, value, exact := strings.Cut(want, "=")
	have, ok := labels[key]
	return ok && (!exact || have == value)
}
