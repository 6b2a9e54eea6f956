package engine

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/stack-run/stack/engine/runtime"
	"github.com/stack-run/stack/engine/snapshot"
	"github.com/stack-run/stack/internal/lock"
	"github.com/stack-run/stack/internal/thread"
	"github.com/stack-run/stack/volumes"
)

// Files are a container's files as its processes see them, volumes included.
type Files struct {
	root  *os.File
	ids   runtime.IDs // what the container's IDs are here, none for themselves
	close func() error
}

// Change runs fn, which makes or changes files of the container. In a user namespace
// there are no files of users whom the container does not have.
func (f *Files) Change(fn func() error) error { return asRoot(f.ids, fn) }

// HostID is what a user or group ID of the container is to who opens its files.
func (f *Files) HostID(id uint32) (uint32, error) { return hostID(f.ids, id) }

func hostID(ids runtime.IDs, id uint32) (uint32, error) {
	host, ok := ids.Host(id)
	if !ok {
		return 0, fmt.Errorf("the container's user namespace has no user or group %d", id)
	}
	return host, nil
}

// ContainerID is what the ID of an owner is in the container.
func (f *Files) ContainerID(id uint32) uint32 {
	inside, _ := f.ids.Container(id)
	return inside
}

// Files opens a container's files: those of its process while it runs, else its
// layers with its volumes mounted as a start would. A start waits until they are
// closed.
func (e *Engine) Files(ctx context.Context, c *Container) (_ *Files, err error) {
	if f, err := filesOfProcess(c.State.Pid); f != nil || err != nil {
		return f, err
	}
	layers, err := e.LayersOf(ctx, c)
	if err != nil {
		return nil, err
	}
	held, err := layers.Use(ctx, c.ID, lock.Patiently(), filesOf(c))
	if err != nil {
		return nil, err
	}
	defer func() {
		if held != nil {
			held.Unlock()
		}
	}()
	// It may have been started before that.
	if c, err = e.Records.Find(c.ID); err != nil {
		return nil, err
	}
	if f, err := filesOfProcess(c.State.Pid); f != nil || err != nil {
		return f, err
	}
	f, err := e.filesAtRest(ctx, c, layers)
	if err != nil {
		return nil, err
	}
	unmount, mine := f.close, held
	f.close = func() error { return errors.Join(unmount(), mine.Unlock()) }
	held = nil
	return f, nil
}

// filesOf says what is locked while a container's files are mounted.
func filesOf(c *Container) lock.Option { return lock.Of("the files of container " + c.Spec.Name) }

// filesOfProcess opens what a process sees, nil if it has ended.
func filesOfProcess(pid int) (*Files, error) {
	if pid <= 0 {
		return nil, nil
	}
	root, err := os.OpenFile(fmt.Sprintf("/proc/%d/root/.", pid), unix.O_PATH|unix.O_DIRECTORY, 0)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ESRCH) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	ids, err := runtime.UserIDs(pid)
	if err != nil {
		return nil, errors.Join(err, root.Close())
	}
	return &Files{root, ids, func() error { return nil }}, nil
}

// filesAtRest mounts the files of a container that does not run.
func (e *Engine) filesAtRest(ctx context.Context, c *Container, layers *snapshot.Store) (*Files, error) {
	img, err := e.resolve(ctx, c.Spec)
	if err != nil {
		return nil, err
	}
	root, err := layers.Mount(c.ID, snapshot.MountOptions{})
	if err != nil {
		return nil, err
	}
	defer root.Close()
	own, _, err := e.ownMounts(c)
	if err != nil {
		return nil, err
	}
	u, _, err := resolveUser(root, first(c.Spec.Process.User, e.base(c).User), nil)
	if err != nil {
		return nil, err
	}
	mounts, err := e.resolveMounts(ctx, c, img, own, root, nil, u)
	if err != nil {
		return nil, err
	}
	defer mounts.Close()
	f, err := mountApart(e.run, root, mounts.Mounts)
	if err != nil {
		return nil, errors.Join(err, e.ReleaseVolumes(ctx))
	}
	unmount := f.close
	f.close = func() error { return errors.Join(unmount(), e.ReleaseVolumes(detached(ctx))) }
	return f, nil
}

// mountApart puts mounts onto root in a mount namespace that lives until Close.
func mountApart(run string, root *os.File, mounts []volumes.ResolvedMount) (*Files, error) {
	// A directory to mount on, in a namespace where nobody misses what is in it.
	dir := filepath.Join(run, "containers")
	if err := os.MkdirAll(dir, 0o711); err != nil {
		return nil, err
	}
	type result struct {
		root *os.File
		err  error
	}
	ready, done, ended := make(chan result), make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		thread.Own(func() { // the namespace goes with the thread
			at, err := attachAll(dir, root, mounts)
			ready <- result{at, err}
			<-done
			// The thread's end would not wait for this.
			unix.Unmount(dir, unix.MNT_DETACH)
		})
	}()
	r := <-ready
	end := func() error {
		close(done)
		<-ended
		return nil
	}
	if r.err != nil {
		return nil, errors.Join(r.err, end())
	}
	return &Files{r.root, nil, end}, nil
}

func attachAll(dir string, root *os.File, mounts []volumes.ResolvedMount) (_ *os.File, err error) {
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		return nil, fmt.Errorf("cannot make a mount namespace: %w", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return nil, fmt.Errorf("cannot make mounts private: %w", err)
	}
	const flags = unix.MOVE_MOUNT_F_EMPTY_PATH | unix.MOVE_MOUNT_T_EMPTY_PATH
	at, err := os.OpenFile(dir, unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return nil, err
	}
	err = unix.MoveMount(int(root.Fd()), "", int(at.Fd()), "", flags)
	at.Close()
	if err != nil {
		return nil, fmt.Errorf("cannot mount the container's files: %w", err)
	}
	if at, err = os.OpenFile(dir, unix.O_PATH|unix.O_DIRECTORY, 0); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			at.Close()
		}
	}()
	f := &Files{root: at}
	for _, m := range mounts {
		target, err := f.mountPoint(m)
		if err == nil {
			err = unix.MoveMount(int(m.FD.Fd()), "", int(target.Fd()), "", flags)
			target.Close()
		}
		if err != nil {
			return nil, fmt.Errorf("cannot mount %s: %w", m.Target, err)
		}
	}
	return at, nil
}

// mountPoint opens, or makes, what a mount goes on.
func (f *Files) mountPoint(m volumes.ResolvedMount) (*os.File, error) {
	if !m.IsFile {
		return f.MkdirAll(m.Target)
	}
	at, err := f.Open(m.Target, unix.O_PATH, 0)
	if !errors.Is(err, unix.ENOENT) {
		return at, err
	}
	dir, err := f.MkdirAll(path.Dir(m.Target))
	if err != nil {
		return nil, err
	}
	dir.Close()
	if at, err = f.Open(m.Target, unix.O_CREAT|unix.O_WRONLY, 0o644); err != nil {
		return nil, err
	}
	at.Close()
	return f.Open(m.Target, unix.O_PATH, 0)
}

// Close gives the files back.
func (f *Files) Close() error { return errors.Join(f.root.Close(), f.close()) }

// Open opens a path as the container would see it.
func (f *Files) Open(name string, flags, mode uint64) (*os.File, error) {
	name = strings.TrimPrefix(path.Clean("/"+name), "/")
	if name == "" {
		name = "."
	}
	at, err := openIn(f.root, name, flags, mode)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: "/" + strings.TrimPrefix(name, "."), Err: err}
	}
	return at, nil
}

// MkdirAll makes a directory and its parents, and opens it.
func (f *Files) MkdirAll(dir string) (*os.File, error) {
	at, err := f.Open(dir, unix.O_PATH|unix.O_DIRECTORY, 0)
	if err == nil || !errors.Is(err, unix.ENOENT) || dir == "/" {
		return at, err
	}
	parent, err := f.MkdirAll(path.Dir(dir))
	if err != nil {
		return nil, err
	}
	defer parent.Close()
	if err := unix.Mkdirat(int(parent.Fd()), path.Base(dir), 0o755); err != nil && err != unix.EEXIST {
		return nil, err
	}
	return f.Open(dir, unix.O_PATH|unix.O_DIRECTORY, 0)
}
