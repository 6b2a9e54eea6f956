package volumes

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"

	"github.com/stack-run/stack/internal/durable"
	"github.com/stack-run/stack/internal/lock"
	"github.com/stack-run/stack/volumes/copytree"
)

// AnonymousLabel marks anonymous volumes, as in Docker.
const AnonymousLabel = "com.docker.volume.anonymous"

// Options says where a Store lives and whom it asks.
type Options struct {
	DataRoot string // survives reboots: DataRoot/volumes
	RunRoot  string // does not: RunRoot/locks, RunRoot/volumes

	// CopyUp copies the content of the directory src, whose descriptor is
	// readable, into the existing directory dst, replacing what is of the same
	// name there, and gives dst the owner and mode of src. nil: copytree.Copy.
	CopyUp func(ctx context.Context, src *os.File, dst string) error
	// ImageView returns a detached, read-only mount of an image's files. nil:
	// mounts of type image are refused.
	ImageView func(ctx context.Context, ref string, userNS *os.File) (*os.File, error)
	// Warnf is told of records that cannot be read; nil: nobody is.
	Warnf func(format string, args ...any)
}

// Store is all volumes of one data root. It has no state in memory; any number
// of processes may use the same one at once.
type Store struct{ opts Options }

// Open returns the Store of a data root. It touches no file.
func Open(opts Options) (*Store, error) {
	if !filepath.IsAbs(opts.DataRoot) || !filepath.IsAbs(opts.RunRoot) {
		return nil, fmt.Errorf("cannot open volumes: roots %q and %q must be absolute paths", opts.DataRoot, opts.RunRoot)
	}
	if opts.CopyUp == nil {
		opts.CopyUp = copytree.Copy
	}
	if opts.Warnf == nil {
		opts.Warnf = func(string, ...any) {}
	}
	return &Store{opts: opts}, nil
}

func (s *Store) root() string           { return filepath.Join(s.opts.DataRoot, "volumes") }
func (s *Store) dir(name string) string { return filepath.Join(s.root(), name) }

// Create makes a volume, or writes the record of one again whose record is broken.
// If it exists with an equal specification it is
// returned as it is; if the specification differs it is returned with a
// *DifferError, and stays untouched.
func (s *Store) Create(ctx context.Context, spec Spec) (Volume, error) {
	spec, err := normalize(spec)
	if err != nil {
		return Volume{}, err
	}
	if v, err := s.existing(spec); !isNotFound(err) && !canHeal(err) {
		return v, err
	}
	unlock, err := s.lock(ctx)
	if err != nil {
		return Volume{}, err
	}
	defer unlock()
	v, err := s.existing(spec)
	switch {
	case isNotFound(err):
		v, err = s.create(spec)
	case canHeal(err):
		v, err = s.heal(spec)
	default:
		return v, err
	}
	if err != nil {
		return Volume{}, fmt.Errorf("cannot create volume %q: %w", spec.Name, err)
	}
	return v, nil
}

func (s *Store) existing(spec Spec) (Volume, error) {
	v, err := s.Get(spec.Name)
	if err != nil {
		return Volume{}, err
	}
	if fields := diff(v.Spec, spec); len(fields) > 0 {
		return v, &DifferError{Name: spec.Name, Fields: fields, Have: v.Spec, Want: spec}
	}
	return v, nil
}

// create makes the directory aside and renames it into place. The store is
// locked, so whatever lies aside is left from a process that died.
func (s *Store) create(spec Spec) (Volume, error) {
	// 0711: a process with another user ID may pass, nobody may list.
	if err := os.MkdirAll(s.root(), 0o711); err != nil {
		return Volume{}, err
	}
	aside := s.aside()
	if err := os.RemoveAll(aside); err != nil {
		return Volume{}, err
	}
	if err := os.Mkdir(aside, 0o711); err != nil {
		return Volume{}, err
	}
	// Chmod, because of the umask.
	data := filepath.Join(aside, dataName)
	err := errors.Join(os.Chmod(aside, 0o711), os.Mkdir(data, 0o755), os.Chmod(data, 0o755))
	v := Volume{Spec: spec, Created: time.Now().UTC()}
	if err == nil {
		err = writeRecord(aside, v)
	}
	if err == nil {
		err = unix.Renameat2(unix.AT_FDCWD, aside, unix.AT_FDCWD, s.dir(spec.Name), unix.RENAME_NOREPLACE)
	}
	if err != nil {
		return Volume{}, errors.Join(err, os.RemoveAll(aside))
	}
	v.Mountpoint = filepath.Join(s.dir(spec.Name), dataName)
	return v, durable.SyncDir(s.root())
}

func (s *Store) aside() string { return filepath.Join(s.root(), ".new") }

// Get returns a volume, or a *NotFoundError or *Broken.
func (s *Store) Get(name string) (Volume, error) {
	if checkName(name) != nil {
		return Volume{}, &NotFoundError{Name: name}
	}
	v, err := readRecord(s.dir(name))
	if err == nil && v.Name != name {
		err = &durable.BrokenError{Path: filepath.Join(s.dir(name), recordName), Err: fmt.Errorf("it is of volume %q", v.Name)}
	}
	if err != nil {
		return Volume{}, s.broken(name, err)
	}
	return v, nil
}

// List returns all volumes, sorted by name. A volume whose record cannot be
// read is left out and told of.
func (s *Store) List() ([]Volume, error) {
	list, broken, err := s.scan()
	for _, b := range broken {
		s.opts.Warnf("%v", b)
	}
	return list, err
}

func (s *Store) scan() (list []Volume, broken []*Broken, err error) {
	names, err := s.names()
	if err != nil {
		return nil, nil, fmt.Errorf("cannot list volumes: %w", err)
	}
	list = make([]Volume, 0, len(names))
	for _, name := range names {
		v, err := s.Get(name)
		var b *Broken
		switch {
		case err == nil:
			list = append(list, v)
		case errors.As(err, &b): // else removed meanwhile
			broken = append(broken, b)
		}
	}
	return list, broken, nil
}

func (s *Store) names() ([]string, error) {
	entries, err := os.ReadDir(s.root())
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	} else if err != nil {
		return nil, err
	}
	var names []string
	for _, e := range entries {
		if checkName(e.Name()) == nil {
			names = append(names, e.Name())
		}
	}
	return names, nil
}

// Remove deletes a volume and its content. users returns the containers that
// use a volume; it is called while nobody else can create or remove volumes.
func (s *Store) Remove(ctx context.Context, name string, users func(name string) []string) error {
	unlock, err := s.lock(ctx)
	if err != nil {
		return err
	}
	gone, err := s.retire(name, users)
	unlock()
	if err != nil {
		return err
	}
	return s.sweep(gone)
}

// retire renames a volume away, after which it does not exist any more. The
// store is locked.
func (s *Store) retire(name string, users func(name string) []string) (gone string, err error) {
	if _, err := os.Lstat(s.dir(name)); checkName(name) != nil || errors.Is(err, fs.ErrNotExist) {
		return "", &NotFoundError{Name: name}
	}
	if users != nil {
		if by := users(name); len(by) > 0 {
			return "", &InUseError{Name: name, Users: by}
		}
	}
	held, free, err := lock.TryExclusive(s.dir(name), lock.Dir())
	if err != nil {
		return "", fmt.Errorf("cannot remove volume %q: %w", name, err)
	}
	if !free {
		return "", &InUseError{Name: name}
	}
	defer held.Unlock()
	if err := s.unpin(name); err != nil {
		return "", err
	}
	if err := checkNoMounts(s.dir(name)); err != nil {
		return "", fmt.Errorf("cannot remove volume %q: %w", name, err)
	}
	gone = filepath.Join(s.root(), ".gone-"+randomHex(8))
	if err := os.Rename(s.dir(name), gone); err != nil {
		return "", fmt.Errorf("cannot remove volume %q: %w", name, err)
	}
	return gone, durable.SyncDir(s.root())
}

// sweep deletes what retire renamed, now or in a process that died.
func (s *Store) sweep(also ...string) error {
	entries, err := os.ReadDir(s.root())
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("cannot list volumes: %w", err)
	}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), ".gone-") {
			also = append(also, filepath.Join(s.root(), e.Name()))
		}
	}
	slices.Sort(also)
	var errs []error
	for _, dir := range slices.Compact(also) {
		if err := removeTree(dir); err != nil {
			errs = append(errs, fmt.Errorf("cannot delete volume content: %w; it is retried at the next removal", err))
		}
	}
	return errors.Join(errs...)
}

// removeTree deletes a tree, but never what is mounted in it.
func removeTree(dir string) error {
	if err := checkNoMounts(dir); err != nil {
		return err
	}
	return os.RemoveAll(dir)
}

func checkNoMounts(dir string) error {
	mounts, err := mountinfo.GetMounts(mountinfo.PrefixFilter(dir))
	if err != nil {
		return err
	}
	if len(mounts) > 0 {
		return fmt.Errorf("something is mounted at %s; unmount it", mounts[0].Mountpoint)
	}
	return nil
}

// Usage returns the disk space a volume's content takes, in bytes. What the
// driver mounts from elsewhere does not count.
func (s *Store) Usage(name string) (int64, error) {
	v, err := s.Get(name)
	if err != nil {
		return 0, err
	}
	n, err := diskUsage(v.Mountpoint)
	if err != nil {
		return 0, fmt.Errorf("cannot measure volume %q: %w", name, err)
	}
	return n, nil
}

// diskUsage adds up the blocks of a tree, of hard links only one, in bytes.
func diskUsage(root string) (int64, error) {
	type inode struct{ dev, ino uint64 }
	seen := map[inode]bool{}
	var total int64
	err := filepath.WalkDir(root, func(path string, e fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil // it lives
		} else if err != nil {
			return err
		}
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); errors.Is(err, unix.ENOENT) {
			return nil
		} else if err != nil {
			return &fs.PathError{Op: "lstat", Path: path, Err: err}
		}
		if st.Nlink > 1 && !e.IsDir() {
			id := inode{st.Dev, st.Ino}
			if seen[id] {
				return nil
			}
			seen[id] = true
		}
		total += st.Blocks * 512 // stat(2): always units of 512
		return nil
	})
	return total, err
}

// normalize checks a spec and gives empty fields their meaning.
func normalize(spec Spec) (Spec, error) {
	if err := checkName(spec.Name); err != nil {
		return Spec{}, err
	}
	if spec.Driver == "" {
		spec.Driver = "local"
	}
	if spec.Driver != "local" {
		return Spec{}, fmt.Errorf("cannot create volume %q: there is no volume driver %q; only \"local\" is supported, with driver_opts type, o and device", spec.Name, spec.Driver)
	}
	if _, err := parseDriverOpts(spec.DriverOpts); err != nil {
		return Spec{}, fmt.Errorf("cannot create volume %q: %w", spec.Name, err)
	}
	spec.DriverOpts = maps.Clone(spec.DriverOpts)
	spec.Labels = maps.Clone(spec.Labels)
	return spec, nil
}

// checkName accepts what Docker accepts, [a-zA-Z0-9][a-zA-Z0-9_.-]*, and also
// names of one character.
func checkName(name string) error {
	for i, r := range []byte(name) {
		switch {
		case r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z', r >= '0' && r <= '9':
		case i > 0 && (r == '_' || r == '.' || r == '-'):
		default:
			return fmt.Errorf("cannot use volume name %q: only letters, digits, \"_\", \".\" and \"-\" are allowed, first a letter or digit; for a host directory write a path such as ./%s", name, strings.TrimLeft(name, "./"))
		}
	}
	if name == "" || len(name) > unix.NAME_MAX {
		return fmt.Errorf("cannot use volume name %q: it must have 1 to %d characters", name, unix.NAME_MAX)
	}
	return nil
}

// diff names the fields in which two normalized specs differ.
func diff(have, want Spec) []string {
	var fields []string
	add := func(name string, differs bool) {
		if differs {
			fields = append(fields, name)
		}
	}
	add("driver", have.Driver != want.Driver)
	add("project", have.Project != want.Project)
	add("key", have.Key != want.Key)
	for _, m := range []struct {
		name       string
		have, want map[string]string
	}{{"driverOpts", have.DriverOpts, want.DriverOpts}, {"labels", have.Labels, want.Labels}} {
		keys := map[string]bool{}
		for k := range m.have {
			keys[k] = true
		}
		for k := range m.want {
			keys[k] = true
		}
		for k := range keys {
			a, inA := m.have[k]
			b, inB := m.want[k]
			add(m.name+"."+k, a != b || inA != inB)
		}
	}
	slices.Sort(fields)
	return fields
}

func isNotFound(err error) bool { return errors.Is(err, ErrNotFound) }

func randomHex(bytes int) string {
	b := make([]byte, bytes)
	rand.Read(b)
	return hex.EncodeToString(b)
}
