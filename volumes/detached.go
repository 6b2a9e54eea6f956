package volumes

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/stack-run/stack/internal/thread"
)

// cloneTree returns a detached copy of the mount at path, as seen from at (nil:
// path is absolute; path "" is at itself).
func cloneTree(at *os.File, path string, recursive bool) (*os.File, error) {
	flags := uint(unix.OPEN_TREE_CLONE | unix.OPEN_TREE_CLOEXEC)
	if recursive {
		flags |= unix.AT_RECURSIVE
	}
	if path == "" {
		flags |= unix.AT_EMPTY_PATH
	}
	dirfd := unix.AT_FDCWD
	if at != nil {
		dirfd = int(at.Fd())
	}
	fd, err := unix.OpenTree(dirfd, path, flags)
	if err != nil {
		return nil, os.NewSyscallError("open_tree", err)
	}
	return os.NewFile(uintptr(fd), "mount:"+path), nil
}

// cloneWithin returns detached copies of what lies at paths in the detached
// mount root, which is not to be used afterwards. Kernels before 6.15 clone
// only what is in the caller's mount namespace; see cloneAttached.
func cloneWithin(root *os.File, paths ...string) ([]*os.File, error) {
	clones, err := clonePaths(root, paths)
	if errors.Is(err, unix.EINVAL) {
		return cloneAttached(root, paths)
	}
	return clones, err
}

func clonePaths(root *os.File, paths []string) (clones []*os.File, err error) {
	defer func() {
		if err != nil {
			closeAll(clones)
		}
	}()
	for _, path := range paths {
		object, err := openIn(root, path)
		if err != nil {
			return clones, err
		}
		clone, err := cloneTree(object, "", true)
		object.Close()
		if err != nil {
			return clones, err
		}
		clones = append(clones, clone)
	}
	return clones, nil
}

// cloneAttached is cloneWithin for older kernels: it moves root into a mount
// namespace of its own and clones from there. The thread that does so ends, and
// with it the namespace; the clones are detached and outlive it.
func cloneAttached(root *os.File, paths []string) (clones []*os.File, err error) {
	thread.Own(func() {
		if err = attachAlone(root); err == nil {
			clones, err = clonePaths(root, paths)
		}
	})
	return clones, err
}

// attachAlone puts the calling thread into a new mount namespace and root on
// top of everything in it.
func attachAlone(root *os.File) error {
	if err := unix.Unshare(unix.CLONE_FS | unix.CLONE_NEWNS); err != nil {
		return os.NewSyscallError("unshare", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return os.NewSyscallError("mount", err)
	}
	return os.NewSyscallError("move_mount",
		unix.MoveMount(int(root.Fd()), "", unix.AT_FDCWD, "/", unix.MOVE_MOUNT_F_EMPTY_PATH))
}

func closeAll(files []*os.File) {
	for _, f := range files {
		f.Close()
	}
}

// openIn opens path for reference only (O_PATH), with root as the root
// directory: neither ".." nor a symbolic link leads out of it.
func openIn(root *os.File, path string) (*os.File, error) {
	fd, err := openat2(root, path, unix.O_PATH)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	return os.NewFile(uintptr(fd), path), nil
}

func openat2(root *os.File, path string, flags uint64) (int, error) {
	path = strings.TrimLeft(path, "/")
	if path == "" {
		path = "."
	}
	how := unix.OpenHow{
		Flags:   flags | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS,
	}
	for {
		// EAGAIN: something was renamed while ".." was looked at, openat2(2).
		fd, err := unix.Openat2(int(root.Fd()), path, &how)
		if err != unix.EAGAIN && err != unix.EINTR {
			return fd, err
		}
	}
}

func isDir(f *os.File) (bool, error) {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return false, os.NewSyscallError("fstat", err)
	}
	return st.Mode&unix.S_IFMT == unix.S_IFDIR, nil
}

// setAttr changes the flags and the propagation of a detached mount.
func setAttr(mount *os.File, recursive bool, attr unix.MountAttr) error {
	flags := uint(unix.AT_EMPTY_PATH)
	if recursive {
		flags |= unix.AT_RECURSIVE
	}
	return os.NewSyscallError("mount_setattr", unix.MountSetattr(int(mount.Fd()), "", flags, &attr))
}

// filesystem is a filesystem to mount.
type filesystem struct {
	kind   string   // "tmpfs"
	source string   // "/dev/sdb1"
	data   []string // options of the filesystem: "size=64m", "noswap"
	tries  []string // the same, but a kernel that does not know them is fine
	attrs  int      // MOUNT_ATTR_*
}

// mount makes a detached mount of the filesystem.
func (fs filesystem) mount() (*os.File, error) {
	fd, err := unix.Fsopen(fs.kind, unix.FSOPEN_CLOEXEC)
	if errors.Is(err, unix.ENODEV) {
		return nil, fmt.Errorf("this kernel has no filesystem %q", fs.kind)
	} else if err != nil {
		return nil, os.NewSyscallError("fsopen", err)
	}
	context := os.NewFile(uintptr(fd), "fsopen:"+fs.kind)
	defer context.Close()
	if fs.source != "" {
		if err := unix.FsconfigSetString(fd, "source", fs.source); err != nil {
			return nil, fsError(context, "source", err)
		}
	}
	for _, option := range fs.data {
		if err := fsOption(fd, option); err != nil {
			return nil, fsError(context, "option "+option, err)
		}
	}
	for _, option := range fs.tries {
		if err := fsOption(fd, option); err != nil {
			kernelWords(context) // read them away
		}
	}
	if err := unix.FsconfigCreate(fd); err != nil {
		return nil, fsError(context, "", err)
	}
	mount, err := unix.Fsmount(fd, unix.FSMOUNT_CLOEXEC, fs.attrs)
	if err != nil {
		return nil, fsError(context, "", err)
	}
	return os.NewFile(uintptr(mount), "mount:"+fs.kind), nil
}

func fsOption(fd int, option string) error {
	key, value, has := strings.Cut(option, "=")
	if !has {
		return unix.FsconfigSetFlag(fd, key)
	}
	return unix.FsconfigSetString(fd, key, value)
}

// fsError adds the words the kernel leaves in a filesystem context.
func fsError(context *os.File, what string, err error) error {
	text := err.Error()
	if words := kernelWords(context); words != "" {
		text = words
	}
	if what != "" {
		text = what + ": " + text
	}
	return &mountError{text: text, cause: err}
}

// kernelWords reads the messages of a filesystem context, fsopen(2): one a
// read, each starting with "e ", "w " or "i ".
func kernelWords(context *os.File) string {
	var words []string
	buf := make([]byte, 512)
	for {
		n, err := unix.Read(int(context.Fd()), buf)
		if n <= 0 || err != nil {
			return strings.Join(words, "; ")
		}
		if line := strings.TrimSpace(string(buf[:n])); strings.HasPrefix(line, "e ") {
			words = append(words, line[2:])
		}
	}
}

type mountError struct {
	text  string
	cause error
}

func (e *mountError) Error() string { return e.text }
func (e *mountError) Unwrap() error { return e.cause }
