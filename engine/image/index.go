package image

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/stack-run/stack/internal/durable"
	"github.com/stack-run/stack/internal/lock"
)

// entry is what a name leads to.
type entry struct {
	Name    string             `json:"-"`      // canonical
	Target  ocispec.Descriptor `json:"target"` // a manifest or an index
	Images  []member           `json:"images"`
	Updated time.Time          `json:"updated"`
}

// member is one image of an entry.
type member struct {
	ID       digest.Digest `json:"id"`
	Manifest digest.Digest `json:"manifest"`
	Platform string        `json:"platform"`
}

func (m member) key() recordKey { return recordKey{m.ID, m.Manifest} }

func (e entry) has(k recordKey) bool {
	return slices.ContainsFunc(e.Images, func(m member) bool { return m.key() == k })
}

// index is the content of the index file: lines "NAME\tJSON\n" in the order of
// the names. Lines are parsed when they are needed, so that a look-up costs the
// same in a store with a thousand names.
type index []byte

func (s *Store) readIndex() (index, error) {
	data, err := os.ReadFile(s.indexPath())
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("cannot read image index: %w", err)
	}
	return data, nil
}

// lookup returns the entry of the canonical name.
func (ix index) lookup(name string) (entry, bool, error) {
	key := []byte(name + "\t")
	rest := []byte(ix)
	if !bytes.HasPrefix(rest, key) {
		i := bytes.Index(rest, append([]byte{'\n'}, key...))
		if i < 0 {
			return entry{}, false, nil
		}
		rest = rest[i+1:]
	}
	line, _, _ := bytes.Cut(rest, []byte{'\n'})
	e, err := parseLine(line)
	return e, err == nil, err
}

// containing returns the entries whose line contains text; "" for all. A line
// that cannot be read stops only the name that it is of.
func (ix index) containing(text string) ([]entry, error) {
	var found []entry
	for line := range bytes.Lines(ix) {
		if !bytes.Contains(line, []byte(text)) {
			continue
		}
		if e, err := parseLine(line); err == nil {
			found = append(found, e)
		}
	}
	return found, nil
}

func parseLine(line []byte) (entry, error) {
	name, data, ok := bytes.Cut(line, []byte{'\t'})
	e := entry{Name: string(name)}
	if !ok {
		return e, fmt.Errorf("cannot read image index: no entry in line %q", line)
	}
	if err := json.Unmarshal(data, &e); err != nil {
		return e, fmt.Errorf("cannot read image index: entry of %s: %w", name, err)
	}
	return e, nil
}

// names is the index in a form that can be changed.
type names map[string]entry

// update changes the index under the store's lock. If fn fails, or changes
// nothing, nothing is written.
func (s *Store) update(ctx context.Context, fn func(names) (changed bool, err error)) error {
	held, err := lock.Exclusive(ctx, s.lockPath(), lock.Patiently())
	if err != nil {
		return err
	}
	defer held.Unlock()
	return s.updateLocked(fn)
}

func (s *Store) updateLocked(fn func(names) (changed bool, err error)) error {
	ix, err := s.readIndex()
	if err != nil {
		return err
	}
	entries, err := ix.containing("")
	if err != nil {
		return err
	}
	all := make(names, len(entries))
	for _, e := range entries {
		all[e.Name] = e
	}
	changed, err := fn(all)
	if err != nil || !changed {
		return err
	}
	return s.writeNames(all)
}

func (s *Store) writeNames(all names) error {
	var b bytes.Buffer
	for _, name := range slices.Sorted(maps.Keys(all)) {
		data, err := json.Marshal(all[name])
		if err != nil {
			return fmt.Errorf("cannot write image index: %w", err)
		}
		b.WriteString(name + "\t")
		b.Write(data)
		b.WriteByte('\n')
	}
	return durable.Write(s.indexPath(), b.Bytes(), 0o600)
}

// of returns the names that lead to one of the images, in order.
func (n names) of(keys ...recordKey) []string {
	var list []string
	for name, e := range n {
		if slices.ContainsFunc(keys, e.has) {
			list = append(list, name)
		}
	}
	slices.Sort(list)
	return list
}

// tagged tells whether a name with a tag leads to the image.
func (n names) tagged(k recordKey) bool {
	return slices.ContainsFunc(n.of(k), func(name string) bool { return !isDigested(name) })
}

func (s *Store) indexPath() string { return filepath.Join(s.dir, "index") }
func (s *Store) lockPath() string  { return filepath.Join(s.dir, "lock") }

// split sorts canonical names into tags and digests, in Docker's short form.
func split(canonical []string) (tags, digests []string) {
	for _, name := range canonical {
		if isDigested(name) {
			digests = append(digests, familiar(name))
		} else {
			tags = append(tags, familiar(name))
		}
	}
	slices.SortFunc(tags, strings.Compare)
	return tags, digests
}
