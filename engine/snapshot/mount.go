package snapshot

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"github.com/stack-run/stack/internal/inode"
	"github.com/stack-run/stack/internal/lock"
	"github.com/stack-run/stack/internal/thread"
)

// MountOptions say how a container's root file system is mounted.
type MountOptions struct {
	// ReadOnly makes the mount read-only. A runtime that has still to make
	// mount points in it takes a writable one, and sets MOUNT_ATTR_RDONLY with
	// mount_setattr(2) when it is done.
	ReadOnly bool
	// Attrs are further MOUNT_ATTR_ flags, such as MOUNT_ATTR_NODEV.
	Attrs int
	// UserNS is a user namespace in which the owners of all files are what they are
	// on disk, or nil for this process's. It needs Linux 5.19.
	UserNS *os.File
	// Root is what ID 0 of UserNS is on this host.
	Root int
}

// overlayOptions switch off what would make the writable layer depend on more
// than its lower directories, or fail when it is mounted twice. Redirects would
// put renamed directories into attributes, where Changes does not look.
var overlayOptions = [...][2]string{
	{"index", "off"},
	{"metacopy", "off"},
	{"redirect_dir", "off"},
	{"xino", "off"},
}

// options returns the mount options that have values. With user attributes
// overlayfs follows no redirects anyway, and refuses to be told so.
func (o overlay) options() [][2]string {
	var all [][2]string
	for _, option := range overlayOptions {
		if !o.userXattr || option[0] != "redirect_dir" && option[0] != "metacopy" {
			all = append(all, option)
		}
	}
	return all
}

// overlay is one overlayfs mount: directories by path.
type overlay struct {
	lower       []string // lowest first
	upper, work string   // "" for a read-only mount
	userXattr   bool
	attrs       int // MOUNT_ATTR_…
	userNS      *os.File
	root        int // ID 0 of userNS
}

// Use waits until nobody else mounts a container, and keeps others from it. A second
// mount that can be written takes the work directory away from the first, which can
// then change nothing any more (Linux, Documentation/filesystems/overlayfs.rst,
// "Sharing and copying layers").
func (s *Store) Use(ctx context.Context, containerID string, options ...lock.Option) (*lock.Held, error) {
	dir, err := s.containerDir(containerID)
	if err != nil {
		return nil, err
	}
	held, err := lock.Exclusive(ctx, dir, append(options, lock.Dir())...)
	if errors.Is(err, fs.ErrNotExist) {
		err = fmt.Errorf("cannot use container %s: %w", short(containerID), ErrNotPrepared)
	}
	return held, err
}

// Mount mounts the root file system of a prepared container and returns the
// detached mount, for whom [Store.Use] let in. It is attached with move_mount(2) and
// vanishes when the last descriptor of it, and the last place it is attached to, are
// gone.
func (s *Store) Mount(containerID string, opts MountOptions) (*os.File, error) {
	dir, st, err := s.lower(containerID)
	if err != nil {
		return nil, err
	}
	o := s.containerOverlay(st)
	o.upper, o.work = dir+"/upper", dir+"/work"
	o.attrs, o.userNS, o.root = opts.Attrs, opts.UserNS, opts.Root
	if opts.ReadOnly {
		o.attrs |= unix.MOUNT_ATTR_RDONLY
	}
	f, err := s.mount(o, "rootfs")
	if err != nil {
		return nil, fmt.Errorf("cannot mount the root file system of container %s: %w", short(containerID), err)
	}
	return f, nil
}

// View mounts the unpacked layers diffIDs, lowest first, read-only and returns
// the detached mount. The layers must not be removed while it is used; see Pin.
//
// With userNS, the owners of files are in that user namespace what they are on disk.
func (s *Store) View(diffIDs []digest.Digest, userNS *os.File) (*os.File, error) {
	st, err := s.readStack(diffIDs)
	if err != nil {
		return nil, err
	}
	f, err := s.view(st, userNS)
	if err != nil {
		return nil, fmt.Errorf("cannot mount image: %w", err)
	}
	return f, nil
}

func (s *Store) view(st stack, userNS *os.File) (*os.File, error) {
	o := s.overlay(st)
	o.attrs, o.userNS = unix.MOUNT_ATTR_RDONLY, userNS
	return s.mount(s.stacked(o), "image")
}

// stacked adds a directory with nothing in it to a single one that nobody writes to:
// without an upper directory overlayfs wants two lower ones.
func (s *Store) stacked(o overlay) overlay {
	if len(o.lower) == 1 && o.upper == "" {
		o.lower = append([]string{s.layers + "/" + emptyDir + "/under"}, o.lower...)
	}
	return o
}

// Dirs are directories to mount on top of each other: the builder's, which are none of a
// Store's layers.
type Dirs struct {
	Lower       []string // lowest first
	Upper, Work string   // of one parent; "" for a mount that nobody writes to
	UserXattr   bool     // overlayfs has its own attributes in user.*
}

// MountDirs is [Store.Mount] for directories of somebody else's.
func (s *Store) MountDirs(d Dirs, opts MountOptions) (*os.File, error) {
	return s.mount(s.stacked(overlay{
		lower: d.Lower, upper: d.Upper, work: d.Work, userXattr: d.UserXattr,
		attrs: opts.Attrs, userNS: opts.UserNS, root: opts.Root,
	}), "directories")
}

// containerOverlay is the overlay of a container's image over the mount points.
func (s *Store) containerOverlay(st stack) overlay {
	o := s.overlay(st)
	o.lower = slices.Insert(o.lower, 0, s.points())
	return o
}

func (s *Store) overlay(st stack) overlay {
	o := overlay{userXattr: strings.HasPrefix(s.xattr, "user.")}
	for _, name := range uppermost(st.Dirs) {
		o.lower = append(o.lower, s.dirPath(name))
	}
	return o
}

// uppermost leaves the last one of each name, because overlayfs refuses the same
// directory twice (ELOOP), and images have layers twice: each command that
// changes nothing makes the same, empty layer. The lower one does not matter:
// whatever it has or hides, the upper one has and hides too.
func uppermost(names []string) []string {
	var kept []string
	for i, name := range names {
		if !slices.Contains(names[i+1:], name) {
			kept = append(kept, name)
		}
	}
	return kept
}

func (s *Store) mount(o overlay, name string) (*os.File, error) {
	if !s.noAppend.Load() && (o.userNS == nil || !s.noDetached.Load()) {
		fd, err := o.mountMapped()
		if err == nil {
			return os.NewFile(uintptr(fd), name), nil
		}
		switch {
		case errors.Is(err, errNoAppend):
			s.noAppend.Store(true)
		case o.userNS != nil && errors.Is(err, unix.EINVAL):
			s.noDetached.Store(true)
		default:
			return nil, err
		}
	}
	fd, err := o.mountClassic(s.layers + "/tmp")
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), name), nil
}

// lacksAppend tells by a kernel's release, uname(2), that it has no option
// "lowerdir+", which came with 6.7. One before 6.5 must not be asked: it takes
// any option, and refuses the mount in the end.
func lacksAppend(release string) bool {
	var major, minor int
	if n, _ := fmt.Sscanf(release, "%d.%d", &major, &minor); n != 2 {
		return false
	}
	return major < 6 || major == 6 && minor < 7
}

func kernelRelease() string {
	var u unix.Utsname
	if unix.Uname(&u) != nil {
		return ""
	}
	return unix.ByteSliceToString(u.Release[:])
}

// errNoAppend says that the kernel cannot take lower directories one by one.
var errNoAppend = errors.New("the kernel has no overlayfs option lowerdir+")

// mountMapped is mount on a thread that may do so for a user namespace.
func (o overlay) mountMapped() (fd int, err error) {
	if o.userNS == nil {
		return o.mount()
	}
	thread.Own(func() {
		if err = inode.MakeFilesOf(o.root); err == nil {
			fd, err = o.mount()
		}
	})
	return fd, err
}

// mapped clones the mount that has dir, with the owners of its files mapped. Overlayfs
// itself cannot map them, but takes layers of mounts that do; before Linux 6.15 these
// must be attached somewhere.
func (o overlay) mapped(dir string) (int, error) { return mapped(dir, o.userNS) }

// Mapped clones the mount that has path, a directory or a file. In userNS the owners are
// what they are on disk.
func Mapped(path string, userNS *os.File) (*os.File, error) {
	fd, err := mapped(path, userNS)
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), path), nil
}

func mapped(path string, userNS *os.File) (int, error) {
	fd, err := unix.OpenTree(unix.AT_FDCWD, path, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		return -1, &os.PathError{Op: "open_tree", Path: path, Err: err}
	}
	attr := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_IDMAP, Userns_fd: uint64(userNS.Fd())}
	if err := unix.MountSetattr(fd, "", unix.AT_EMPTY_PATH, &attr); err != nil {
		unix.Close(fd)
		return -1, fmt.Errorf("cannot map the owners of %s for a user namespace: %v; this needs Linux 5.19 and a file system such as ext4, xfs or btrfs; use userns_mode: host, or have the data root on another file system", path, err)
	}
	return fd, nil
}

// base is the deepest directory that all directories of an overlay are below, if they are
// of the same mount, and "" otherwise. It is mapped once for all of them: the kernel waits
// for all processors when it lets go of a mount.
func (o overlay) base() string {
	dirs := slices.Clone(o.lower)
	if o.upper != "" {
		dirs = append(dirs, filepath.Dir(o.upper))
	}
	base := commonDir(dirs)
	fd, err := unix.Open(base, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return ""
	}
	defer unix.Close(fd)
	for _, dir := range dirs {
		p, err := openInMount(fd, base, dir)
		if err != nil {
			return ""
		}
		unix.Close(p)
	}
	return base
}

// openInMount opens dir, which is below base, by a descriptor of base, if there is no other
// mount and no link between them.
func openInMount(fd int, base, dir string) (int, error) {
	rel, err := filepath.Rel(base, dir)
	if err != nil {
		return -1, err
	}
	p, err := unix.Openat2(fd, rel, &unix.OpenHow{
		Flags:   unix.O_PATH | unix.O_DIRECTORY | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_XDEV | unix.RESOLVE_NO_SYMLINKS,
	})
	if err != nil {
		return -1, &os.PathError{Op: "openat2", Path: dir, Err: err}
	}
	return p, nil
}

// commonDir is the deepest directory that has all of dirs, which are absolute paths, in it
// or is them.
func commonDir(dirs []string) string {
	base := filepath.Clean(dirs[0])
	for _, dir := range dirs[1:] {
		for base != "/" && dir != base && !strings.HasPrefix(dir, base+"/") {
			base = filepath.Dir(base)
		}
	}
	return base
}

// mount makes the mount with fsopen(2) and its relatives. Each lower directory
// is a parameter of its own, so that their number is bounded by overlayfs (500)
// and not by the length of a string.
func (o overlay) mount() (int, error) {
	fd, err := unix.Fsopen("overlay", unix.FSOPEN_CLOEXEC)
	if errors.Is(err, unix.ENOSYS) {
		return -1, errNoAppend
	}
	if err != nil {
		return -1, overlayError(-1, err)
	}
	defer unix.Close(fd)
	var opened []int
	defer func() {
		for _, p := range opened {
			unix.Close(p)
		}
	}()
	base := ""
	tree := -1 // base, with the owners mapped
	if o.userNS != nil {
		if base = o.base(); base != "" {
			if tree, err = o.mapped(base); err != nil {
				return -1, overlayError(-1, err)
			}
			opened = append(opened, tree)
		}
	}
	// name is what a directory is called for overlayfs.
	name := func(dir string) (string, error) {
		var p int
		var err error
		switch {
		case base != "":
			p, err = openInMount(tree, base, dir)
		case o.userNS != nil:
			p, err = o.mapped(dir)
		case needsAlias(dir):
			if p, err = unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0); err != nil {
				err = fmt.Errorf("%s: %w", dir, err)
			}
		default:
			return dir, nil
		}
		if err != nil {
			return "", err
		}
		opened = append(opened, p)
		return procPath(p), nil
	}
	for i, dir := range slices.Backward(o.lower) {
		dir, err := name(dir)
		if err == nil {
			err = unix.FsconfigSetString(fd, "lowerdir+", dir)
		}
		if err != nil {
			if i == len(o.lower)-1 && errors.Is(err, unix.EINVAL) && o.userNS == nil {
				return -1, errNoAppend
			}
			return -1, overlayError(fd, err)
		}
	}
	if o.upper != "" {
		dir, err := name(filepath.Dir(o.upper)) // both must be of one mount
		if err == nil {
			err = unix.FsconfigSetString(fd, "upperdir", filepath.Join(dir, filepath.Base(o.upper)))
		}
		if err == nil {
			err = unix.FsconfigSetString(fd, "workdir", filepath.Join(dir, filepath.Base(o.work)))
		}
		if err != nil {
			return -1, overlayError(fd, err)
		}
	}
	if err := unix.FsconfigSetString(fd, "source", "overlay"); err != nil {
		return -1, overlayError(fd, err)
	}
	for _, option := range o.options() {
		if err := unix.FsconfigSetString(fd, option[0], option[1]); err != nil {
			return -1, overlayError(fd, err)
		}
	}
	if o.userXattr {
		if err := unix.FsconfigSetFlag(fd, "userxattr"); err != nil {
			return -1, overlayError(fd, err)
		}
	}
	if err := unix.FsconfigCreate(fd); err != nil {
		return -1, overlayError(fd, err)
	}
	mnt, err := unix.Fsmount(fd, unix.FSMOUNT_CLOEXEC, o.attrs)
	if err != nil {
		return -1, overlayError(fd, err)
	}
	return mnt, nil
}

// needsAlias tells whether a path must be given as /proc/self/fd/N: fsconfig(2)
// takes strings of less than 256 bytes, and overlayfs gives a meaning to some
// characters.
func needsAlias(path string) bool {
	return len(path) > 200 || strings.ContainsAny(path, `:,\`)
}

// overlayError adds to err what overlayfs says in the log of the context fd.
func overlayError(fd int, err error) error {
	var said []string
	buf := make([]byte, 1024)
	for fd >= 0 && len(said) < 8 {
		n, readErr := unix.Read(fd, buf)
		if readErr != nil || n <= 0 {
			break
		}
		// A message starts with its class: "e ", "w " or "i ".
		said = append(said, strings.TrimSpace(strings.TrimLeft(string(buf[:n]), "ewi")))
	}
	what := ""
	if len(said) > 0 {
		what = " (" + strings.Join(said, "; ") + ")"
	}
	switch {
	case errors.Is(err, unix.ENODEV):
		return fmt.Errorf("the kernel has no overlayfs: %w; load the module \"overlay\"", err)
	case errors.Is(err, unix.EPERM):
		return fmt.Errorf("overlayfs: %w%s; stack needs CAP_SYS_ADMIN here", err, what)
	}
	return fmt.Errorf("overlayfs: %w%s", err, what)
}
