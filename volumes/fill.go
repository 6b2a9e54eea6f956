package volumes

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/stack-run/stack/internal/durable"
	"github.com/stack-run/stack/internal/lock"
)

// FillOptions say what Fill makes.
type FillOptions struct {
	// Spec is that of the volume, if it has to be made. One that is there keeps its own.
	Spec Spec
	// Replace has what is in the volume replaced; else it must be empty.
	Replace bool
	// Mounted returns the containers that have a volume mounted now, and would not see
	// what takes the place of its content. It is asked while the volume is locked, so
	// that it must look anew each time.
	Mounted func(name string) ([]string, error)
	// Write writes the new content into a directory that is empty and has no name that
	// anybody knows.
	Write func(ctx context.Context, dir string) error
}

// fillPrefix begins the names of directories in which volumes are filled. Their maker
// holds their lock.
const fillPrefix = ".fill-"

// Fill gives a volume new content, and makes it if there is none of that name. The new
// content lies aside until it is complete and on disk; then it takes the volume's place
// by one rename, so that the volume has all of the old or all of the new content.
func (s *Store) Fill(ctx context.Context, o FillOptions) (Volume, error) {
	spec, err := normalize(o.Spec)
	if err != nil {
		return Volume{}, err
	}
	o.Spec = spec
	// What is refused is refused before anything is read.
	v, err := s.Get(spec.Name)
	there := err == nil
	if there {
		err = s.fillable(v, o)
	}
	if err != nil && !isNotFound(err) {
		return Volume{}, err
	}
	aside, err := s.makeAside(ctx)
	if err != nil {
		return Volume{}, fmt.Errorf("cannot fill volume %q: %w", spec.Name, err)
	}
	defer aside.discard()
	if there {
		err = aside.likeTop(v.Mountpoint)
	}
	if err == nil {
		err = o.Write(ctx, aside.data())
	}
	if err == nil {
		err = aside.sync()
	}
	if err != nil {
		return Volume{}, fmt.Errorf("cannot fill volume %q: %w; nothing was changed", spec.Name, err)
	}
	for {
		done, v, err := s.publish(ctx, aside, o)
		if done || err != nil {
			return v, err
		}
	}
}

// publish has what was filled aside take its place. It is not done where the volume
// came or went meanwhile.
func (s *Store) publish(ctx context.Context, a *aside, o FillOptions) (done bool, _ Volume, err error) {
	v, release, err := s.lockVolume(ctx, o.Spec.Name)
	missing := isNotFound(err)
	switch {
	case missing:
		v = Volume{Spec: o.Spec, Created: time.Now().UTC()}
	case err != nil:
		return false, Volume{}, err
	default:
		defer release()
	}
	unlock, err := s.lock(ctx)
	if err != nil {
		return false, Volume{}, err
	}
	defer unlock()
	how := uint(unix.RENAME_NOREPLACE)
	if !missing {
		how = unix.RENAME_EXCHANGE
		if err := s.fillable(v, o); err != nil {
			return false, Volume{}, err
		}
	}
	v.Seeded, v.Seeding = true, false
	dir := s.dir(v.Name)
	if err := writeRecord(a.path, v); err != nil {
		return false, Volume{}, fmt.Errorf("cannot fill volume %q: %w; nothing was changed", v.Name, err)
	}
	err = unix.Renameat2(unix.AT_FDCWD, a.path, unix.AT_FDCWD, dir, how)
	if missing && errors.Is(err, unix.EEXIST) || !missing && errors.Is(err, unix.ENOENT) {
		return false, Volume{}, nil
	}
	if err != nil {
		return false, Volume{}, fmt.Errorf("cannot fill volume %q: %w; nothing was changed", v.Name, os.NewSyscallError("renameat2", err))
	}
	a.placed()
	v.Mountpoint = filepath.Join(dir, dataName)
	return true, v, durable.SyncDir(s.root())
}

// fillable tells whether a volume that is there can be given other content.
func (s *Store) fillable(v Volume, o FillOptions) error {
	if opts, err := parseDriverOpts(v.DriverOpts); err != nil || !opts.empty() {
		return fmt.Errorf("cannot fill volume %q: its driver_opts mount %s, where its files are; write them there, or fill another volume", v.Name, mounted(v.DriverOpts))
	}
	if !o.Replace {
		dir, err := os.OpenFile(v.Mountpoint, unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
		if err != nil {
			return err
		}
		empty, err := isEmpty(dir)
		dir.Close()
		if err != nil {
			return err
		}
		if !empty {
			return &NotEmptyError{Name: v.Name}
		}
	}
	by, err := o.Mounted(v.Name)
	if err != nil {
		return fmt.Errorf("cannot fill volume %q: %w", v.Name, err)
	}
	if len(by) > 0 {
		return &InUseError{Name: v.Name, Users: by, To: "fill"}
	}
	if err := checkNoMounts(s.dir(v.Name)); err != nil {
		return fmt.Errorf("cannot fill volume %q: %w", v.Name, err)
	}
	return nil
}

// mounted says in words what driver_opts mount.
func mounted(opts map[string]string) string {
	if opts["device"] == "" {
		return "a file system of type " + opts["type"]
	}
	return opts["device"]
}

// aside is a volume's directory in the making. Once it has been placed, its path is
// that of what it has replaced, if anything.
type aside struct {
	path string
	held *lock.Held
}

// makeAside makes an empty one, after it has deleted what killed processes left.
func (s *Store) makeAside(ctx context.Context) (*aside, error) {
	unlock, err := s.lock(ctx) // between making it and locking it nobody may look
	if err != nil {
		return nil, err
	}
	a, err := s.newAside()
	unlock()
	if err == nil {
		err = s.sweep()
	}
	if err != nil && a != nil {
		a.discard()
	}
	return a, err
}

func (s *Store) newAside() (*aside, error) {
	if err := s.sweepFills(); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(s.root(), 0o711); err != nil {
		return nil, err
	}
	a := &aside{path: filepath.Join(s.root(), fillPrefix+randomHex(8))}
	if err := os.Mkdir(a.path, 0o711); err != nil {
		return nil, err
	}
	held, _, err := lock.TryExclusive(a.path, lock.Dir())
	if err != nil {
		return nil, errors.Join(err, os.Remove(a.path))
	}
	a.held = held
	err = held.File().Chmod(0o711) // because of the umask
	if err == nil {
		err = os.Mkdir(a.data(), 0o755)
	}
	if err == nil {
		err = a.changeTop(func(f *os.File) error { return f.Chmod(0o755) })
	}
	if err != nil {
		a.discard()
		return nil, err
	}
	return a, nil
}

func (a *aside) data() string { return filepath.Join(a.path, dataName) }

func (a *aside) changeTop(change func(*os.File) error) error {
	f, err := os.OpenFile(a.data(), unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	return change(f)
}

// likeTop gives the top directory the owner and mode of another one.
func (a *aside) likeTop(dir string) error {
	return a.changeTop(func(f *os.File) error {
		like, err := os.OpenFile(dir, unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
		if err != nil {
			return err
		}
		defer like.Close()
		var st unix.Stat_t
		if err := unix.Fstat(int(like.Fd()), &st); err != nil {
			return err
		}
		if err := f.Chown(int(st.Uid), int(st.Gid)); err != nil {
			return err
		}
		return unix.Fchmod(int(f.Fd()), st.Mode&0o7777)
	})
}

// sync has all of it reach the disk.
func (a *aside) sync() error {
	return a.changeTop(func(f *os.File) error { return os.NewSyscallError("syncfs", unix.Syncfs(int(f.Fd()))) })
}

// placed lets others have what has got its place.
func (a *aside) placed() {
	a.held.Unlock()
	a.held = nil
}

// discard deletes what lies aside. What it leaves is deleted by who comes next.
func (a *aside) discard() {
	removeTree(a.path)
	if a.held != nil {
		a.held.Unlock()
	}
}

// sweepFills deletes what processes left that were killed while they filled a volume.
// The store is locked.
func (s *Store) sweepFills() error {
	entries, err := os.ReadDir(s.root())
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("cannot list volumes: %w", err)
	}
	var errs []error
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), fillPrefix) {
			continue
		}
		path := filepath.Join(s.root(), e.Name())
		held, free, err := lock.TryExclusive(path, lock.Dir())
		switch {
		case errors.Is(err, fs.ErrNotExist):
		case err != nil:
			errs = append(errs, err)
		case free:
			// As retired, it is deleted without the lock of the store.
			errs = append(errs, os.Rename(path, filepath.Join(s.root(), ".gone-"+randomHex(8))), held.Unlock())
		}
	}
	return errors.Join(errs...)
}
