package runner

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/moby/buildkit/executor"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/stack-run/stack/engine"
	"github.com/stack-run/stack/engine/runtime"
	"github.com/stack-run/stack/engine/snapshot"
	"github.com/stack-run/stack/internal/inode"
)

// asRoot runs fn so that what it makes belongs to the command's root.
func (b *bundle) asRoot(fn func() error) error {
	if b.users == nil {
		return fn()
	}
	return b.users.AsRoot(fn)
}

// hostIDs are what IDs of the command are on the host.
func (b *bundle) hostIDs(ids ...uint32) ([]int, error) {
	var out []int
	for _, id := range ids {
		if b.users != nil {
			var err error
			if id, err = b.users.HostID(id); err != nil {
				return nil, err
			}
		}
		out = append(out, int(id))
	}
	return out, nil
}

// confine has the command join its user namespace.
func (b *bundle) confine(spec *specs.Spec) {
	if b.users == nil {
		return
	}
	spec.Linux.Namespaces = append(spec.Linux.Namespaces, specs.LinuxNamespace{
		Type: specs.UserNamespace, Path: fmt.Sprintf("/proc/self/fd/%d", b.users.User.Fd()),
	})
	spec.Linux.UIDMappings, spec.Linux.GIDMappings = b.users.IDs, b.users.IDs
}

// sources are mounts whose files have the owners in the command's user namespace that
// they have on disk.
func (b *bundle) sources(mounts []executor.Mount) []executor.Mount {
	if b.users == nil {
		return mounts
	}
	mounts = slices.Clone(mounts)
	for i := range mounts {
		if mounts[i].Src != nil {
			mounts[i].Src = mappedSource{mounts[i].Src, b, fmt.Sprintf("source-%d", i)}
		}
	}
	return mounts
}

// mappedSource is a source whose mounts are binds of what is mounted in the bundle,
// mapped. So BuildKit can take a part of it.
type mappedSource struct {
	executor.Mountable
	bundle *bundle
	name   string
}

func (s mappedSource) Mount(ctx context.Context, readonly bool) (executor.MountableRef, error) {
	ref, err := s.Mountable.Mount(ctx, readonly)
	return mappedRef{ref, s, readonly}, err
}

type mappedRef struct {
	executor.MountableRef
	source   mappedSource
	readonly bool
}

func (r mappedRef) Mount() ([]mount.Mount, func() error, error) {
	mounts, release, err := r.MountableRef.Mount()
	if err != nil {
		return nil, nil, err
	}
	all := []func() error{release}
	undo := func() error {
		var errs []error
		for _, f := range slices.Backward(all) {
			if f != nil {
				errs = append(errs, f())
			}
		}
		return errors.Join(errs...)
	}
	mounts = slices.Clone(mounts)
	for i, m := range mounts {
		if m.Type == "tmpfs" {
			continue // is mounted in the user namespace, and its root's
		}
		path, unmount, err := r.source.bundle.mountMapped(fmt.Sprintf("%s-%d", r.source.name, i), m)
		if err != nil {
			return nil, nil, errors.Join(err, undo())
		}
		all = append(all, unmount)
		options := []string{"rbind"}
		if m.Type != "overlay" {
			options = slices.Clone(m.Options)
		}
		if r.readonly || m.ReadOnly() {
			options = append(slices.DeleteFunc(options, func(o string) bool { return o == "rw" }), "ro")
		}
		mounts[i] = mount.Mount{Type: "bind", Source: path, Options: options}
	}
	return mounts, undo, nil
}

// mountMapped mounts a bind or an overlay in the bundle.
func (b *bundle) mountMapped(name string, m mount.Mount) (path string, unmount func() error, err error) {
	var f *os.File
	switch m.Type {
	case "bind", "rbind":
		if given, err := b.give(m.Source); err != nil || given {
			return m.Source, nil, err
		}
		f, err = snapshot.Mapped(m.Source, b.users.User)
	case "overlay":
		var release func() error
		if f, release, err = b.runner.overlay(dirs(m.Options), b.users); err == nil {
			b.add(release)
		}
	default:
		err = fmt.Errorf("cannot mount %s in a user namespace: not supported", m.Type)
	}
	if err != nil {
		return "", nil, err
	}
	defer f.Close()
	path = filepath.Join(b.dir, name)
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return "", nil, err
	}
	if st.Mode&unix.S_IFMT == unix.S_IFDIR {
		err = os.Mkdir(path, 0o700)
	} else {
		err = os.WriteFile(path, nil, 0o600)
	}
	if err != nil {
		return "", nil, err
	}
	if err := attach(f, path); err != nil {
		return "", nil, err
	}
	unmount = func() error { return mount.Unmount(path, unix.MNT_DETACH) }
	b.add(unmount)
	return path, unmount, nil
}

// share is a mapped overlay that commands write to.
type share struct {
	dir   string // where it is mounted
	ids   runtime.IDs
	users int
}

// overlay mounts directories for a user namespace. Commands that have a cache in common
// must have one mount of it, too: a second one would take the work directory away from
// the first. release is called by whoever does not need it any more.
func (r *Runner) overlay(d snapshot.Dirs, users *engine.BuildNamespaces) (_ *os.File, release func() error, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := r.shares[d.Upper]
	if s != nil && !slices.Equal(s.ids, users.IDs) {
		return nil, nil, errors.New("cannot share a cache with a command that has other user IDs; build one after the other, or have the cache with sharing=locked")
	}
	if s == nil {
		f, err := r.mountDirs(d, users)
		if err != nil || d.Upper == "" {
			return f, func() error { return nil }, err
		}
		defer f.Close()
		s = &share{ids: users.IDs}
		if s.dir, err = os.MkdirTemp(r.dir, "share-"); err != nil {
			return nil, nil, err
		}
		if err := attach(f, s.dir); err != nil {
			return nil, nil, errors.Join(err, os.Remove(s.dir))
		}
		r.shares[d.Upper] = s
	}
	s.users++
	f, err := clone(s.dir)
	if err != nil {
		return nil, nil, errors.Join(err, r.unshare(d.Upper, s))
	}
	return f, func() error {
		r.mu.Lock()
		defer r.mu.Unlock()
		return r.unshare(d.Upper, s)
	}, nil
}

func (r *Runner) mountDirs(d snapshot.Dirs, users *engine.BuildNamespaces) (*os.File, error) {
	layers, err := r.engine.Layers()
	if err != nil {
		return nil, err
	}
	return layers.MountDirs(d, snapshot.MountOptions{UserNS: users.User, Root: users.Root()})
}

// unshare is called with the lock.
func (r *Runner) unshare(upper string, s *share) error {
	if s.users--; s.users > 0 {
		return nil
	}
	delete(r.shares, upper)
	return errors.Join(mount.Unmount(s.dir, unix.MNT_DETACH), os.Remove(s.dir))
}

// give hands a file over that was made for this command, a secret: it is the only one on
// a tmpfs, which cannot map owners before Linux 6.3.
func (b *bundle) give(path string) (given bool, err error) {
	f, err := os.OpenFile(path, unix.O_PATH|unix.O_NOFOLLOW, 0)
	if err != nil {
		return false, err
	}
	defer f.Close()
	var fs unix.Statfs_t
	var st unix.Stat_t
	if err := errors.Join(unix.Fstatfs(int(f.Fd()), &fs), unix.Fstat(int(f.Fd()), &st)); err != nil {
		return false, &os.PathError{Op: "stat", Path: path, Err: err}
	}
	if fs.Type != unix.TMPFS_MAGIC || st.Mode&unix.S_IFMT != unix.S_IFREG {
		return false, nil
	}
	ids, err := b.hostIDs(st.Uid, st.Gid)
	if err != nil {
		return false, err
	}
	return true, inode.Chown(int(f.Fd()), ids[0], ids[1])
}

// dirs reads the options of an overlay mount.
func dirs(options []string) snapshot.Dirs {
	var d snapshot.Dirs
	for _, o := range options {
		key, value, _ := strings.Cut(o, "=")
		switch key {
		case "lowerdir":
			d.Lower = strings.Split(value, ":")
			slices.Reverse(d.Lower)
		case "upperdir":
			d.Upper = value
		case "workdir":
			d.Work = value
		case "userxattr":
			d.UserXattr = true
		}
	}
	return d
}
