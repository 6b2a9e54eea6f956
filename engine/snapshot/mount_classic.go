package snapshot

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/stack-run/stack/internal/inode"
	"github.com/stack-run/stack/internal/thread"
)

// mountClassic makes the mount with mount(2), for kernels before 6.7 and for user
// namespaces, and detaches it. All options must fit in a page there, so that paths
// are replaced by links with short names. The links and the mount itself exist only in a
// mount namespace of the thread that does it, which ends with the thread. at is
// any directory.
func (o overlay) mountClassic(at string) (fd int, err error) {
	thread.Own(func() { fd, err = o.mountInPrivate(at) })
	return fd, err
}

func (o overlay) mountInPrivate(at string) (int, error) {
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		return -1, overlayError(-1, err)
	}
	// Nothing done here may show elsewhere.
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return -1, os.NewSyscallError("mount private", err)
	}
	if err := unix.Mount("tmpfs", at, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=700"); err != nil {
		return -1, os.NewSyscallError("mount tmpfs", err)
	}
	if err := unix.Chdir(at); err != nil { // of this thread: unshare took CLONE_FS too
		return -1, os.NewSyscallError("chdir", err)
	}
	if err := unix.Mkdir("m", 0o700); err != nil {
		return -1, os.NewSyscallError("mkdir", err)
	}
	base, err := o.aliasAll()
	if err != nil {
		return -1, err
	}
	var names []string
	for i := len(o.lower) - 1; i >= 0; i-- {
		name := strconv.Itoa(i)
		if err := o.alias(base, o.lower[i], name); err != nil {
			return -1, err
		}
		names = append(names, name)
	}
	options := []string{"lowerdir=" + strings.Join(names, ":")}
	if o.upper != "" {
		// Both must be of one mount.
		if err := o.alias(base, filepath.Dir(o.upper), "c"); err != nil {
			return -1, err
		}
		options = append(options, "upperdir=c/"+filepath.Base(o.upper), "workdir=c/"+filepath.Base(o.work))
	}
	for _, option := range o.options() {
		options = append(options, option[0]+"="+option[1])
	}
	if o.userXattr {
		options = append(options, "userxattr")
	}
	data := strings.Join(options, ",")
	if len(data) >= os.Getpagesize() {
		return -1, fmt.Errorf("overlayfs: %d layers are more than this kernel can mount; use Linux 6.7 or newer", len(o.lower))
	}
	if o.userNS != nil {
		// Overlayfs makes files in the work directory as who mounts it, and there are
		// no files of anybody whom userNS does not have.
		if err := inode.MakeFilesOf(o.root); err != nil {
			return -1, err
		}
	}
	if err := unix.Mount("overlay", "m", "overlay", 0, data); err != nil {
		return -1, overlayError(-1, err)
	}
	fd, err := unix.OpenTree(unix.AT_FDCWD, "m", unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		return -1, os.NewSyscallError("open_tree", err)
	}
	if o.attrs != 0 {
		attr := unix.MountAttr{Attr_set: uint64(o.attrs)}
		if err := unix.MountSetattr(fd, "", unix.AT_EMPTY_PATH, &attr); err != nil {
			unix.Close(fd)
			return -1, os.NewSyscallError("mount_setattr", err)
		}
	}
	return fd, nil
}

// mappedBase is where overlay.base is mounted with the owners mapped.
const mappedBase = "b"

// aliasAll mounts the directory that all others are below with the owners mapped. base is
// "" where that is not needed, or cannot be.
func (o overlay) aliasAll() (base string, err error) {
	if o.userNS == nil {
		return "", nil
	}
	if base = o.base(); base == "" {
		return "", nil
	}
	return base, o.attachMapped(base, mappedBase)
}

// alias makes name another name of dir: a link, or a mount with the owners mapped.
func (o overlay) alias(base, dir, name string) error {
	switch {
	case base != "":
		rel, err := filepath.Rel(base, dir)
		if err != nil {
			return err
		}
		dir = filepath.Join(mappedBase, rel)
	case o.userNS != nil:
		return o.attachMapped(dir, name)
	}
	return os.NewSyscallError("symlink", unix.Symlink(dir, name))
}

func (o overlay) attachMapped(dir, name string) error {
	fd, err := o.mapped(dir)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := unix.Mkdir(name, 0o700); err != nil {
		return os.NewSyscallError("mkdir", err)
	}
	return os.NewSyscallError("move_mount", unix.MoveMount(fd, "", unix.AT_FDCWD, name, unix.MOVE_MOUNT_F_EMPTY_PATH))
}
