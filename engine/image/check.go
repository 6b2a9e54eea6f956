package image

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"github.com/opencontainers/go-digest"

	"github.com/stack-run/stack/engine/content"
	"github.com/stack-run/stack/engine/content/flock"
)

// Problem is one thing that Check found wrong.
type Problem struct {
	// Subject is a blob's digest, an image's ID or a name.
	Subject string
	Err     error
	// Images are the images that are affected, as Docker shows them.
	Images []string
}

func (p Problem) String() string {
	return fmt.Sprintf("%s: %v", p.Subject, p.Err)
}

// Check reads every blob and verifies it, and that each name leads to complete
// images. The error is for Check itself having failed.
func (s *Store) Check(ctx context.Context) ([]Problem, error) {
	return s.check(ctx, false)
}

// Repair is Check, and removes what is wrong: corrupt blobs, records of images
// that lack a blob, and names that lead nowhere. Such an image must be pulled,
// loaded or built again; everything else stays.
func (s *Store) Repair(ctx context.Context) ([]Problem, error) {
	return s.check(ctx, true)
}

func (s *Store) check(ctx context.Context, repair bool) ([]Problem, error) {
	lock, err := flock.Exclusive(ctx, s.lockPath())
	if err != nil {
		return nil, err
	}
	defer lock.Unlock()
	problems, err := s.checkBlobs(ctx, repair)
	if err != nil {
		return nil, err
	}
	broken, good, err := s.checkRecords(repair)
	if err != nil {
		return nil, err
	}
	problems = append(problems, broken...)
	err = s.updateLocked(func(all names) (bool, error) {
		changed := false
		for name, e := range all {
			missing := slices.DeleteFunc(slices.Clone(e.Images), func(m member) bool { return good[recordKey{m.ID, m.Manifest}] })
			for _, m := range missing {
				problems = append(problems, Problem{Subject: familiar(name), Err: fmt.Errorf("leads to image %s, which is not complete; pull or load it again", shortID(m.ID)), Images: []string{familiar(name)}})
			}
			if len(missing) == 0 || !repair {
				continue
			}
			changed = true
			e.Images = slices.DeleteFunc(slices.Clone(e.Images), func(m member) bool { return !good[recordKey{m.ID, m.Manifest}] })
			if all[name] = e; len(e.Images) == 0 {
				delete(all, name)
			}
		}
		return changed, nil
	})
	return problems, err
}

func (s *Store) checkBlobs(ctx context.Context, repair bool) ([]Problem, error) {
	var blobs []digest.Digest
	err := s.content.Walk(func(b content.Info) error {
		blobs = append(blobs, b.Digest)
		return nil
	})
	if err != nil {
		return nil, err
	}
	var problems []Problem
	for _, d := range blobs {
		err := s.content.Verify(ctx, d)
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		if err == nil || errors.Is(err, content.ErrNotFound) {
			continue
		}
		problems = append(problems, Problem{Subject: d.String(), Err: err})
		if repair && errors.Is(err, content.ErrCorrupt) {
			if err := s.content.Delete(ctx, d); err != nil {
				return nil, err
			}
		}
	}
	return problems, nil
}

// checkRecords returns what is wrong with records, and which are good.
func (s *Store) checkRecords(repair bool) ([]Problem, map[recordKey]bool, error) {
	keys, err := s.recordKeys("")
	if err != nil {
		return nil, nil, err
	}
	var problems []Problem
	good := make(map[recordKey]bool)
	for _, k := range keys {
		err := s.checkRecord(k)
		if err == nil {
			good[k] = true
			continue
		}
		problems = append(problems, Problem{Subject: k.id.String(), Err: err})
		if repair {
			if err := os.Remove(s.recordPath(k.id, k.manifest)); err != nil {
				return nil, nil, fmt.Errorf("cannot remove record %s: %w", filepath.Base(s.recordPath(k.id, k.manifest)), err)
			}
		}
	}
	return problems, good, nil
}

// checkRecord compares a record with the blobs that it was made from.
func (s *Store) checkRecord(k recordKey) error {
	r, err := s.readRecord(k.id, k.manifest)
	if err != nil {
		return err
	}
	desc := r.Manifest
	data, err := s.readManifest(&desc)
	if err != nil {
		return err
	}
	fresh, err := s.readImage(desc, data)
	if err != nil {
		return err
	}
	if fresh.ID != r.ID || r.ID != k.id || !slices.Equal(fresh.Layers, r.Layers) || fresh.Size != r.Size {
		return errors.New("the record is not what the manifest and config say")
	}
	return nil
}
