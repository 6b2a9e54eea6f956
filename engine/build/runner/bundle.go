package runner

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/moby/buildkit/executor"
	"golang.org/x/sys/unix"

	"github.com/stack-run/stack/engine"
)

// bundle is the directory of one command: its root file system, mounted, and the
// files that are made for it.
type bundle struct {
	dir    string
	root   string
	runner *Runner
	users  *engine.BuildNamespaces // nil for the host's
	undo   []func() error
}

// bundle makes the bundle of container id and mounts its root.
func (r *Runner) bundle(ctx context.Context, id string, root executor.Mount, users *engine.BuildNamespaces) (_ *bundle, err error) {
	b := &bundle{dir: filepath.Join(r.dir, id), runner: r, users: users}
	defer func() {
		if err != nil {
			err = errors.Join(err, b.close())
		}
	}()
	if err := os.Mkdir(b.dir, 0o711); err != nil {
		return nil, err
	}
	b.add(func() error { return os.RemoveAll(b.dir) })
	ref, err := root.Src.Mount(ctx, false)
	if err != nil {
		return nil, err
	}
	mounts, release, err := ref.Mount()
	if err != nil {
		return nil, err
	}
	if release != nil {
		b.add(release)
	}
	if users == nil {
		b.root, err = b.mount("rootfs", mounts)
	} else {
		b.root, _, err = b.mountMapped("rootfs", mounts[0])
	}
	return b, err
}

func (b *bundle) add(f func() error) { b.undo = append(b.undo, f) }

// mount mounts something in the bundle.
func (b *bundle) mount(name string, mounts []mount.Mount) (string, error) {
	dir := filepath.Join(b.dir, name)
	if err := os.Mkdir(dir, 0o700); err != nil {
		return "", err
	}
	if err := mount.All(mounts, dir); err != nil {
		return "", fmt.Errorf("cannot mount %s: %w", name, err)
	}
	b.add(func() error { return mount.Unmount(dir, unix.MNT_DETACH) })
	return dir, nil
}

// write makes a file in the bundle.
func (b *bundle) write(name string, content []byte) (string, error) {
	path := filepath.Join(b.dir, name)
	err := b.asRoot(func() error { return os.WriteFile(path, content, 0o644) })
	if err != nil {
		return "", err
	}
	return path, os.Chmod(path, 0o644)
}

// detach returns a detached copy of the root's mount, for the runtime to take.
func (b *bundle) detach() (*os.File, error) { return clone(b.root) }

// clone returns a detached copy of a mount.
func clone(dir string) (*os.File, error) {
	fd, err := unix.OpenTree(unix.AT_FDCWD, dir, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("cannot clone the mount at %s: %w", dir, err)
	}
	return os.NewFile(uintptr(fd), dir), nil
}

// attach mounts a detached mount at path.
func attach(f *os.File, path string) error {
	if err := unix.MoveMount(int(f.Fd()), "", unix.AT_FDCWD, path, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		return fmt.Errorf("cannot mount at %s: %w", path, err)
	}
	return nil
}

// close takes everything back, last first.
func (b *bundle) close() error {
	var errs []error
	for i := len(b.undo) - 1; i >= 0; i-- {
		errs = append(errs, b.undo[i]())
	}
	b.undo = nil
	return errors.Join(errs...)
}
