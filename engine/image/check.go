package image

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/stack-run/stack/engine/content"
	"github.com/stack-run/stack/internal/durable"
	"github.com/stack-run/stack/internal/lock"
)

// Problem is one thing that Check found wrong.
type Problem struct {
	Kind    string // "blob", "image", "name" or "index"
	Subject string // a blob's digest, an image's ID, a name, or a line of the index
	Err     error
	// Images are those that are affected: a name where there is one, else an ID.
	Images []string
	// Repaired tells what was done, "" for nothing.
	Repaired string
}

func (p Problem) String() string { return fmt.Sprintf("%s %s: %v", p.Kind, p.Subject, p.Err) }

// CheckOptions say how Check works.
type CheckOptions struct {
	// Repair removes what is wrong: corrupt blobs, records of images that lack
	// a blob, and names that lead nowhere. Such an image must be pulled, loaded
	// or built again; everything else stays.
	Repair bool
	// InUse returns what uses an image. The record of such an image stays, for
	// its containers need it to be started again.
	InUse func(id digest.Digest) []string
	// Read is told how many bytes were read, from several goroutines.
	Read func(n int64)
}

// Check reads every blob and verifies it, and that each name leads to complete
// images. The error is for Check itself having failed. Others may use the store
// meanwhile: only the records are compared under its lock.
func (s *Store) Check(ctx context.Context, opts CheckOptions) ([]Problem, error) {
	bad, err := s.content.VerifyAll(ctx, opts.Read)
	if err != nil {
		return nil, err
	}
	held, err := lock.Exclusive(ctx, s.lockPath(), lock.Patiently())
	if err != nil {
		return nil, err
	}
	defer held.Unlock()
	c := checker{s: s, opts: opts, corrupt: make(map[digest.Digest]bool), good: make(map[recordKey]bool)}
	for _, step := range []func(context.Context) error{
		func(ctx context.Context) error { return c.blobs(ctx, bad) },
		c.records, c.index, c.names, c.temporaries,
	} {
		if err := step(ctx); err != nil {
			return nil, err
		}
	}
	return c.problems, nil
}

// checker is one run of Check.
type checker struct {
	s        *Store
	opts     CheckOptions
	corrupt  map[digest.Digest]bool
	good     map[recordKey]bool // complete images
	problems []Problem
}

// blobs notes the blobs that are still bad, with the images that have them, and
// removes them.
func (c *checker) blobs(ctx context.Context, bad []content.BadBlob) error {
	users, err := c.blobUsers(bad)
	if err != nil {
		return err
	}
	for _, b := range bad {
		p := Problem{Kind: "blob", Subject: b.Digest.String(), Err: b.Err, Images: users[b.Digest]}
		c.corrupt[b.Digest] = true
		if c.opts.Repair && errors.Is(b.Err, content.ErrCorrupt) {
			if err := c.s.content.DeleteCorrupt(ctx, b.Digest); err != nil {
				return err
			}
			p.Repaired = "removed"
		}
		c.problems = append(c.problems, p)
	}
	return nil
}

// blobUsers returns the images that have each of the blobs.
func (c *checker) blobUsers(bad []content.BadBlob) (map[digest.Digest][]string, error) {
	users := make(map[digest.Digest][]string)
	if len(bad) == 0 {
		return users, nil
	}
	keys, err := c.s.recordKeys("")
	if err != nil {
		return nil, err
	}
	for _, k := range keys {
		r, err := c.s.readRecord(k.id, k.manifest)
		if err != nil {
			continue // a problem of its own
		}
		for _, d := range r.digests() {
			if slices.ContainsFunc(bad, func(b content.BadBlob) bool { return b.Digest == d }) {
				users[d] = append(users[d], c.called(k.id)...)
			}
		}
	}
	return users, nil
}

// called returns the names of an image, or its short ID.
func (c *checker) called(id digest.Digest) []string {
	ix, err := c.s.readIndex()
	if err == nil {
		var list []string
		for line := range strings.Lines(string(ix)) {
			if e, err := parseLine([]byte(line)); err == nil && slices.ContainsFunc(e.Images, func(m member) bool { return m.ID == id }) {
				list = append(list, familiar(e.Name))
			}
		}
		if len(list) > 0 {
			return list
		}
	}
	return []string{shortID(id)}
}

// records compares the records with manifests and configs.
func (c *checker) records(context.Context) error {
	keys, err := c.s.recordKeys("")
	if err != nil {
		return err
	}
	for _, k := range keys {
		err := c.s.checkRecord(k, c.corrupt)
		if err == nil {
			c.good[k] = true
			continue
		}
		p := Problem{Kind: "image", Subject: k.id.String(), Err: err, Images: c.called(k.id)}
		var users []string
		if c.opts.InUse != nil {
			users = c.opts.InUse(k.id)
		}
		remade := false
		if !errors.Is(err, errNewer) {
			var failed error
			if remade, failed = c.remake(k); failed != nil {
				return failed
			}
		}
		switch {
		case errors.Is(err, errNewer):
			c.good[k] = true // not ours to judge
		case remade:
			p.Repaired = madeAgain
		case len(users) > 0:
			p.Err = fmt.Errorf("%w; %s has it, so it stays; pull, load or build it again", err, strings.Join(users, ", "))
		case c.opts.Repair:
			if err := os.Remove(c.s.recordPath(k.id, k.manifest)); err != nil {
				return fmt.Errorf("cannot remove record %s: %w", filepath.Base(c.s.recordPath(k.id, k.manifest)), err)
			}
			p.Repaired = "removed; pull, load or build it again"
		}
		c.problems = append(c.problems, p)
	}
	return nil
}

const madeAgain = "made again from the manifest"

// remake writes, if that is asked for, a record again from the blobs that its file's
// name tells of, and tells whether there is one now. The error is for a full disk and
// the like: nothing is wrong with the image then, and nothing may be taken from it.
func (c *checker) remake(k recordKey) (bool, error) {
	if !c.opts.Repair {
		return false, nil
	}
	r, err := c.s.fromManifest(ocispec.Descriptor{Digest: k.manifest})
	if err != nil || r.ID != k.id || slices.ContainsFunc(r.digests(), func(d digest.Digest) bool { return c.corrupt[d] }) {
		return false, nil //nolint:nilerr // its blobs are not there, of another image, or damaged
	}
	if err := c.s.replaceRecord(r); err != nil {
		return false, err
	}
	c.good[k] = true
	return true, nil
}

// fromManifest makes the record of the image that a manifest is of.
func (s *Store) fromManifest(desc ocispec.Descriptor) (record, error) {
	data, err := s.readManifest(&desc)
	if err != nil {
		return record{}, err
	}
	return s.readImage(nil, desc, data)
}

// checkRecord compares a record with the blobs that it was made from.
func (s *Store) checkRecord(k recordKey, corrupt map[digest.Digest]bool) error {
	r, err := s.readRecord(k.id, k.manifest)
	if err != nil {
		return err
	}
	fresh, err := s.fromManifest(r.Manifest)
	if err != nil {
		return err
	}
	if fresh.ID != r.ID || r.ID != k.id || !slices.Equal(fresh.Layers, r.Layers) || fresh.Size != r.Size {
		return errors.New("the record is not what the manifest and config say")
	}
	for _, d := range r.digests() {
		if corrupt[d] {
			return fmt.Errorf("it lacks blob %s", d)
		}
	}
	return nil
}

// index looks for lines that cannot be read, and drops them.
func (c *checker) index(context.Context) error {
	ix, err := c.s.readIndex()
	if err != nil {
		return err
	}
	var kept []byte
	broken := false
	for line := range strings.Lines(string(ix)) {
		_, err := parseLine([]byte(line))
		if err == nil {
			kept = append(kept, line...)
			continue
		}
		broken = true
		name, _, _ := strings.Cut(strings.TrimSpace(line), "\t")
		p := Problem{Kind: "index", Subject: fmt.Sprintf("%q", name), Err: err}
		if c.opts.Repair {
			p.Repaired = "removed"
		}
		c.problems = append(c.problems, p)
	}
	if !broken || !c.opts.Repair {
		return nil
	}
	return durable.Write(c.s.indexPath(), kept, 0o600)
}

// names looks for names that lead to images that are not complete.
func (c *checker) names(context.Context) error {
	ix, err := c.s.readIndex()
	if err != nil {
		return err
	}
	all := make(names)
	changed := false
	for line := range strings.Lines(string(ix)) {
		e, err := parseLine([]byte(line))
		if err != nil {
			continue // noted by index, and still there unless that was a repair
		}
		var whole []member
		for _, m := range e.Images {
			if c.good[m.key()] {
				whole = append(whole, m)
				continue
			}
			p := Problem{Kind: "name", Subject: familiar(e.Name), Images: []string{familiar(e.Name)},
				Err: fmt.Errorf("it leads to image %s, which is not complete; pull, load or build it again", shortID(m.ID))}
			remade, err := c.remake(m.key())
			if err != nil {
				return err
			}
			if remade {
				p.Repaired = madeAgain
				c.problems = append(c.problems, p)
				whole = append(whole, m)
				continue
			}
			if c.opts.Repair {
				p.Repaired = "untagged; pull, load or build it again"
			}
			c.problems = append(c.problems, p)
			changed = true
		}
		if e.Images = whole; len(whole) > 0 {
			all[e.Name] = e
		}
	}
	if !changed || !c.opts.Repair {
		return nil
	}
	return c.s.writeNames(all)
}

// temporaries removes the temporary files of writers that were killed. With the
// lock held there is no other writer.
func (c *checker) temporaries(context.Context) error {
	if !c.opts.Repair {
		return nil
	}
	return c.s.removeTemporaries()
}

func (s *Store) removeTemporaries() error {
	return errors.Join(durable.RemoveTemps(s.dir), durable.RemoveTemps(filepath.Join(s.dir, "records")))
}
