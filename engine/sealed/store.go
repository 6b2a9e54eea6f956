package sealed

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/stack-run/stack/internal/durable"
	"github.com/stack-run/stack/internal/lock"
)

// Store is all secrets and configs of one data root. It has no state in memory; any
// number of processes may use the same one at once.
type Store struct{ dir string }

// Open returns the Store of a data root. It touches no file.
func Open(dataRoot string) *Store { return &Store{dir: filepath.Join(dataRoot, Dir)} }

// Dir is the name of the store's directory in the data root.
const Dir = "sealed"

func (s *Store) keyPath() string                 { return filepath.Join(s.dir, "key") }
func (s *Store) kindDir(k Kind) string           { return filepath.Join(s.dir, string(k)+"s") }
func (s *Store) path(k Kind, name string) string { return filepath.Join(s.kindDir(k), name) }

// CreateOptions say how an object is created.
type CreateOptions struct {
	Labels map[string]string
	// Replace gives an object of that name, if there is one, the new content and labels.
	Replace bool
	// DryRun only says whether it could be created.
	DryRun bool
}

// Create stores a content under a name. The error is an *ExistsError where the name
// is taken and not to be replaced.
func (s *Store) Create(ctx context.Context, k Kind, name string, content []byte, o CreateOptions) (Object, error) {
	if err := errors.Join(CheckName(k, name), checkLabels(k, name, o.Labels)); err != nil {
		return Object{}, err
	}
	if err := checkContent(k, name, content); err != nil {
		return Object{}, err
	}
	object, err := s.create(ctx, k, name, content, o)
	var exists *ExistsError
	if err != nil && !errors.As(err, &exists) {
		err = fmt.Errorf("cannot create %s %q: %w", k, name, err)
	}
	return object, err
}

func (s *Store) create(ctx context.Context, k Kind, name string, content []byte, o CreateOptions) (Object, error) {
	if !o.DryRun {
		if err := s.makeDirs(k); err != nil {
			return Object{}, err
		}
		held, err := s.lock(ctx)
		if err != nil {
			return Object{}, err
		}
		defer held.Unlock()
		if err := errors.Join(durable.RemoveTemps(s.dir), durable.RemoveTemps(s.kindDir(k))); err != nil {
			return Object{}, err
		}
	}
	now := time.Now().UTC()
	object := Object{Kind: k, ID: newID(), Name: name, Labels: maps.Clone(o.Labels), Created: now, Updated: now}
	old, err := s.read(k, name)
	var damaged *DamagedError
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case errors.As(err, &damaged):
		if damaged.Newer || !o.Replace {
			return Object{}, err
		}
	case err != nil:
		return Object{}, err
	case !o.Replace:
		return Object{}, &ExistsError{old.Object}
	default:
		object.ID, object.Created = old.ID, old.Created
	}
	key, err := s.keyToSeal(k, name)
	if err != nil || o.DryRun {
		return object, err
	}
	if key == nil {
		if key, err = s.makeKey(); err != nil {
			return Object{}, err
		}
	}
	r, err := key.seal(object, content)
	if err != nil {
		return Object{}, err
	}
	return r.Object, durable.WriteJSON(s.path(k, name), r, durable.Synced)
}

// Content returns what was stored. The error is a *NotFoundError, a *DamagedError or
// a *KeyError.
func (s *Store) Content(k Kind, name string) ([]byte, Object, error) {
	r, err := s.read(k, name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, Object{}, &NotFoundError{k, name}
	}
	if err != nil {
		return nil, Object{}, err
	}
	key, err := s.keyOf(r)
	if err != nil {
		return nil, Object{}, err
	}
	content, err := key.open(r)
	if err != nil {
		return nil, Object{}, s.damaged(k, name, errAltered)
	}
	return content, r.Object, nil
}

// keyOf returns the key that sealed a record.
func (s *Store) keyOf(r *record) (*key, error) {
	key, err := s.key()
	if errors.Is(err, fs.ErrNotExist) {
		err = &KeyError{s.keyPath(), errMissing}
	}
	if err == nil && key.id != r.KeyID {
		err = &KeyError{s.keyPath(), anotherKey(r)}
	}
	if err != nil {
		return nil, fmt.Errorf("cannot read %s %q: %w", r.Kind, r.Name, err)
	}
	return key, nil
}

func anotherKey(r *record) error {
	return fmt.Errorf("it is not the one that sealed %s %q, which has the ID %s", r.Kind, r.Name, r.KeyID)
}

// List returns the objects of a kind by name, without those whose files cannot be
// used; they are in the error.
func (s *Store) List(k Kind) ([]Object, error) {
	names, err := s.names(k)
	errs := []error{err}
	var out []Object
	for _, name := range names {
		r, err := s.read(k, name)
		switch {
		case err == nil:
			out = append(out, r.Object)
		case !errors.Is(err, fs.ErrNotExist): // else it was removed just now
			errs = append(errs, err)
		}
	}
	return out, errors.Join(errs...)
}

// minID is how much of an ID stands for it. Less could be a name that was mistyped.
const minID = 8

// Get returns the object with this name, ID or unambiguous beginning of an ID, of at
// least minID characters.
func (s *Store) Get(k Kind, ref string) (Object, error) {
	if CheckName(k, ref) != nil {
		return Object{}, &NotFoundError{k, ref}
	}
	r, err := s.read(k, ref)
	if err == nil {
		return r.Object, nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return Object{}, err
	}
	if len(ref) < minID {
		return Object{}, &NotFoundError{k, ref}
	}
	all, _ := s.List(k) // one that cannot be read is not meant by an ID
	var found []Object
	for _, o := range all {
		if strings.HasPrefix(o.ID, ref) {
			found = append(found, o)
		}
	}
	switch len(found) {
	case 0:
		return Object{}, &NotFoundError{k, ref}
	case 1:
		return found[0], nil
	}
	return Object{}, fmt.Errorf("cannot tell which %s %q means: %d IDs begin so; give more characters", k, ref, len(found))
}

// Remove forgets an object, given by name or ID, also one whose file is damaged.
// users names the containers that have it; then the error is an *InUseError. A dry
// run only says whether it could be removed.
func (s *Store) Remove(ctx context.Context, k Kind, ref string, users func(name string) []string, dryRun bool) (name string, err error) {
	o, err := s.Get(k, ref)
	name = o.Name
	var damaged *DamagedError
	switch {
	case errors.As(err, &damaged) && !damaged.Newer:
		name = damaged.Name
	case err != nil:
		return "", err
	}
	held, err := s.lock(ctx)
	if err != nil {
		return "", fmt.Errorf("cannot remove %s %q: %w", k, name, err)
	}
	defer held.Unlock()
	if by := users(name); len(by) > 0 {
		return "", &InUseError{k, name, by}
	}
	if _, err := os.Lstat(s.path(k, name)); errors.Is(err, fs.ErrNotExist) {
		return "", &NotFoundError{k, ref} // removed meanwhile
	}
	if dryRun {
		return name, nil
	}
	// RemoveAll: a damaged record may be anything.
	err = errors.Join(os.RemoveAll(s.path(k, name)), durable.RemoveTemps(s.kindDir(k)))
	if err == nil {
		err = durable.SyncDir(s.kindDir(k))
	}
	if err != nil {
		return "", fmt.Errorf("cannot remove %s %q: %w", k, name, err)
	}
	return name, nil
}

// Keep makes sure that an object is there, for a user that Remove's users names by
// now: it cannot go any more.
func (s *Store) Keep(ctx context.Context, k Kind, name string) error {
	held, err := lock.Shared(ctx, s.dir, lock.Dir(), ofStore)
	if errors.Is(err, fs.ErrNotExist) {
		return &NotFoundError{k, name}
	}
	if err != nil {
		return err
	}
	defer held.Unlock()
	if _, err := os.Lstat(s.path(k, name)); errors.Is(err, fs.ErrNotExist) {
		return &NotFoundError{k, name}
	}
	return nil
}

// Check opens everything and returns what is wrong, a key that cannot be used once.
func (s *Store) Check() []error {
	var errs []error
	keyTold := false
	for _, k := range []Kind{Secret, Config} {
		names, err := s.names(k)
		if err != nil {
			errs = append(errs, err)
		}
		for _, name := range names {
			_, _, err := s.Content(k, name)
			var gone *NotFoundError
			var noKey *KeyError
			switch {
			case err == nil, errors.As(err, &gone):
			case !errors.As(err, &noKey):
				errs = append(errs, err)
			case !keyTold:
				errs, keyTold = append(errs, err), true
			}
		}
	}
	return errs
}

var ofStore = lock.Of("the secrets and configs")

// lock keeps others from changing the store.
func (s *Store) lock(ctx context.Context) (*lock.Held, error) {
	return lock.Exclusive(ctx, s.dir, lock.Dir(), ofStore)
}

// makeDirs makes the directories, and their names durable.
func (s *Store) makeDirs(k Kind) error {
	dir := s.kindDir(k)
	if _, err := os.Stat(dir); err == nil {
		return nil
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	return errors.Join(durable.SyncDir(s.dir), durable.SyncDir(filepath.Dir(s.dir)))
}

// names are those of the objects of a kind, also of damaged ones.
func (s *Store) names(k Kind) ([]string, error) {
	if !k.valid() {
		return nil, fmt.Errorf("internal error: there is no kind %q of object", k)
	}
	entries, err := os.ReadDir(s.kindDir(k))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	var out []string
	for _, e := range entries {
		if CheckName(k, e.Name()) == nil { // else it is a temporary file, or not ours
			out = append(out, e.Name())
		}
	}
	return out, err
}

// read returns an object's record. The error is fs.ErrNotExist, or a *DamagedError.
func (s *Store) read(k Kind, name string) (*record, error) {
	if err := CheckName(k, name); err != nil {
		return nil, fmt.Errorf("%w: %w", fs.ErrNotExist, err)
	}
	var r record
	err := durable.ReadVersioned(s.path(k, name), &r, &r.Version, schemaVersion)
	if err == nil && (r.Kind != k || r.Name != name) {
		err = &durable.BrokenError{Path: s.path(k, name), Err: fmt.Errorf("it is of %s %q", r.Kind, r.Name)}
	}
	if broken := durable.Broken(err); broken != nil {
		return nil, &DamagedError{k, name, broken.Path, broken.Newer, broken.Err}
	}
	return &r, err
}

func (s *Store) damaged(k Kind, name string, err error) error {
	return &DamagedError{Kind: k, Name: name, Path: s.path(k, name), Err: err}
}

// key returns the key. The error is fs.ErrNotExist, or a *KeyError.
func (s *Store) key() (*key, error) {
	text, err := os.ReadFile(s.keyPath())
	if errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	if err == nil {
		var k *key
		if k, err = decodeKey(text); err == nil {
			return k, nil
		}
	}
	return nil, &KeyError{s.keyPath(), err}
}

// keyToSeal returns the key that everything but one object is sealed with, nil where
// nothing is and there is none. With another key the user would have two to keep, of
// which one is known to be missing.
func (s *Store) keyToSeal(but Kind, name string) (*key, error) {
	key, err := s.key()
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	for _, k := range []Kind{Secret, Config} {
		names, err := s.names(k)
		if err != nil {
			return nil, err
		}
		for _, n := range names {
			switch r, err := s.read(k, n); {
			case k == but && n == name: // it is replaced
			case key == nil:
				return nil, &KeyError{s.keyPath(), errMissing}
			case err == nil && r.KeyID != key.id:
				return nil, &KeyError{s.keyPath(), anotherKey(r)}
			}
		}
	}
	return key, nil
}

// makeKey makes a key where there is none. Its caller holds the lock: nobody else
// makes one, and so none is overwritten.
func (s *Store) makeKey() (*key, error) {
	master := make([]byte, keySize)
	rand.Read(master) // never fails
	if err := durable.Write(s.keyPath(), encodeKey(master), 0o600); err != nil {
		return nil, err
	}
	return newKey(master)
}

// idLength is the length of Docker's IDs of secrets and configs.
const idLength = 25

func newID() string { return strings.ToLower(rand.Text())[:idLength] }
