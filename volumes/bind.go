package volumes

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"

	"github.com/stack-run/stack/internal/inode"
)

func (r *resolver) bind(m Mount) (ResolvedMount, error) {
	if !filepath.IsAbs(m.Source) {
		return ResolvedMount{}, refuse(m, nil, "bind source %q is not an absolute path", m.Source)
	}
	prop, propRecursive, needsShared, err := propagation(m.Propagation)
	if err != nil {
		return ResolvedMount{}, refuse(m, err, "%v", err)
	}
	if err := checkRecursive(m); err != nil {
		return ResolvedMount{}, err
	}
	source, err := r.source(m)
	if err != nil {
		return ResolvedMount{}, err
	}
	defer source.Close()
	dir, err := isDir(source)
	if err != nil {
		return ResolvedMount{}, refuse(m, err, "cannot look at bind source %q: %v", m.Source, err)
	}
	if at := r.look(m.Target); at.exists && at.isDir != dir {
		return ResolvedMount{}, refuse(m, nil, "cannot mount %s: %s", describe(m), mismatch(dir, m.Target))
	}
	if needsShared {
		if err := checkShared(m); err != nil {
			return ResolvedMount{}, err
		}
	}
	if err := relabel(m, source, r.req.SELinuxLabel); err != nil {
		return ResolvedMount{}, err
	}
	mount, err := cloneTree(source, "", m.Recursive != "disabled")
	if err != nil {
		return ResolvedMount{}, refuse(m, err, "cannot mount %s: %v", describe(m), err)
	}
	if err := r.mapBind(m, source, mount); err != nil {
		return r.closeFailed(ResolvedMount{FD: mount}, err)
	}
	done := ResolvedMount{FD: mount, IsFile: !dir, ReadOnly: m.ReadOnly, Source: m.Source, Propagation: m.Propagation}
	if err := r.finish(mount, 0, m.ReadOnly, m.Recursive != "writable", prop, propRecursive); err != nil {
		return r.closeFailed(done, refuse(m, err, "cannot set the flags of %s: %v", describe(m), err))
	}
	return done, nil
}

// checkRecursive keeps Docker's rules for bind-recursive.
func checkRecursive(m Mount) error {
	switch m.Recursive {
	case "", "enabled", "disabled":
	case "writable":
		if !m.ReadOnly {
			return refuse(m, nil, "bind recursive \"writable\" makes sense for a read-only mount only; add read_only: true")
		}
	case "readonly":
		if !m.ReadOnly || m.Propagation != "" && m.Propagation != "rprivate" {
			return refuse(m, nil, "bind recursive \"readonly\" needs read_only: true and propagation: rprivate")
		}
	default:
		return refuse(m, nil, "there is no bind recursive %q; use enabled, disabled, writable or readonly", m.Recursive)
	}
	return nil
}

// source opens what is to be bound, for reference only, and creates it where
// that was asked for.
func (r *resolver) source(m Mount) (*os.File, error) {
	const flags = unix.O_PATH | unix.O_CLOEXEC
	f, err := os.OpenFile(m.Source, flags, 0)
	if err == nil {
		return f, nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return nil, refuse(m, err, "cannot open bind source: %v", err)
	}
	if target, err := os.Readlink(m.Source); err == nil {
		return nil, refuse(m, fs.ErrNotExist, "bind source %q is a symbolic link to %q, which does not exist; create that or correct the link", m.Source, target)
	}
	if !m.CreateHostPath {
		return nil, refuse(m, err, "bind source %q does not exist; create it, or correct the path", m.Source)
	}
	if at := r.look(m.Target); at.exists && !at.isDir {
		return nil, refuse(m, err, "bind source %q does not exist, and %s is a file in the container; create the file, or correct the path", m.Source, m.Target)
	}
	if fileLike(m.Source) {
		return nil, refuse(m, err, "bind source %q does not exist; its name is that of a file, so no directory is created for it; create the file, or correct the path, or for a directory: mkdir -p %s", m.Source, m.Source)
	}
	f, owner, err := createHostPath(m.Source, r.req.UID, r.req.GID)
	if err != nil {
		return nil, refuse(m, err, "cannot create bind source: %v", err)
	}
	r.note(m, "created host directory %q, owned by %s", m.Source, owner)
	return f, nil
}

// createHostPath makes a directory and its parents, and returns it open. They belong
// to whom the nearest existing parent belongs, so that a user can remove what appears
// in his project; the directory itself belongs to the container's user if that is
// not root, so that the container can write to it.
//
// Who owns a parent, or a container that has it mounted, can put something else in
// the place of what is made: each step begins where the last one has arrived.
func createHostPath(dir string, uid, gid int) (_ *os.File, owner string, err error) {
	var missing []string
	parent := filepath.Clean(dir)
	at := -1
	for {
		if at, err = unix.Open(parent, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0); err == nil {
			break
		}
		if !errors.Is(err, unix.ENOENT) || parent == "/" {
			return nil, "", &fs.PathError{Op: "open", Path: parent, Err: err}
		}
		missing = append(missing, filepath.Base(parent))
		parent = filepath.Dir(parent)
	}
	defer func() {
		if err != nil {
			unix.Close(at)
		}
	}()
	var st unix.Stat_t
	if err := unix.Fstat(at, &st); err != nil {
		return nil, "", &fs.PathError{Op: "stat", Path: parent, Err: err}
	}
	owner = "another container's user" // who wanted it too
	slices.Reverse(missing)
	for i, name := range missing {
		parent = filepath.Join(parent, name)
		u, g := int(st.Uid), int(st.Gid)
		if i == len(missing)-1 && uid != 0 {
			u, g = uid, gid
		}
		next, made, err := makeIn(at, parent, u, g)
		if err != nil {
			return nil, "", err
		}
		unix.Close(at)
		at = next
		if made {
			owner = fmt.Sprintf("%d:%d", u, g)
		}
	}
	return os.NewFile(uintptr(at), dir), owner, nil
}

// makeIn makes the directory at path, whose parent is open, for somebody, or opens one
// that is there.
func makeIn(parent int, path string, uid, gid int) (dir int, made bool, err error) {
	name := filepath.Base(path)
	err = unix.Mkdirat(parent, name, 0o755)
	if err != nil && !errors.Is(err, fs.ErrExist) {
		return -1, false, &fs.PathError{Op: "mkdir", Path: path, Err: err}
	}
	if made = err == nil; made && afterMkdir != nil {
		afterMkdir(path)
	}
	if dir, err = inode.Open(parent, name, unix.S_IFDIR); err != nil {
		return -1, false, err
	}
	if made {
		if err := giveNew(dir, uid, gid); err != nil {
			unix.Close(dir)
			return -1, false, &fs.PathError{Op: "chown", Path: path, Err: err}
		}
	}
	return dir, made, nil
}

// afterMkdir is what tests have done to a directory that was just made.
var afterMkdir func(path string)

// giveNew gives a directory that was just made to somebody. One of ours that was moved
// to its place meanwhile is not new: something is in it.
func giveNew(dir, uid, gid int) error {
	var st unix.Stat_t
	if err := unix.Fstat(dir, &st); err != nil {
		return err
	}
	if int(st.Uid) != os.Geteuid() {
		return errors.New("somebody replaced it while it was made")
	}
	f, err := os.Open(inode.Path(dir))
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := f.Readdirnames(1); !errors.Is(err, io.EOF) {
		return errors.New("somebody replaced it while it was made")
	}
	return inode.Chown(dir, uid, gid)
}

// checkShared makes sure that shared and slave propagation have something to
// propagate from, as Docker does: the mount that the source is on must be
// shared. The peers would be in no relation otherwise, without a word.
func checkShared(m Mount) error {
	real, err := filepath.EvalSymlinks(m.Source)
	if err != nil {
		return refuse(m, err, "cannot look at bind source: %v", err)
	}
	mounts, err := mountinfo.GetMounts(mountinfo.ParentsFilter(real))
	if err != nil {
		return refuse(m, err, "cannot read the mount table: %v", err)
	}
	var on *mountinfo.Info
	for _, info := range mounts {
		if on == nil || len(info.Mountpoint) >= len(on.Mountpoint) {
			on = info
		}
	}
	if on == nil {
		return nil
	}
	shared := hasOptional(on, "shared:")
	slave := m.Propagation == "slave" || m.Propagation == "rslave"
	if shared || slave && hasOptional(on, "master:") {
		return nil
	}
	return refuse(m, nil, "cannot mount %s with propagation %s: the host mounts at %s are not shared; make them so with: mount --make-shared %s",
		describe(m), m.Propagation, on.Mountpoint, on.Mountpoint)
}

// hasOptional looks for an optional field, proc_pid_mountinfo(5).
func hasOptional(info *mountinfo.Info, prefix string) bool {
	return slices.ContainsFunc(strings.Fields(info.Optional), func(f string) bool { return strings.HasPrefix(f, prefix) })
}

// relabel gives a bind's files the SELinux label that containers may use, if
// the mount asks for it and the host has SELinux.
func relabel(m Mount, source *os.File, private string) error {
	if m.SELinux == "" {
		return nil
	}
	if m.SELinux != "z" && m.SELinux != "Z" {
		return refuse(m, nil, "there is no bind selinux option %q; use z (shared) or Z (private)", m.SELinux)
	}
	if _, err := os.Stat("/sys/fs/selinux/enforce"); err != nil {
		return nil
	}
	real, err := os.Readlink(inode.Path(int(source.Fd()))) // a link may lead to one of these
	if err != nil {
		return refuse(m, err, "cannot look at bind source: %v", err)
	}
	switch real {
	case "/", "/bin", "/boot", "/dev", "/etc", "/home", "/lib", "/lib64", "/opt", "/proc", "/root", "/run", "/sbin", "/srv", "/sys", "/tmp", "/usr", "/var":
		return refuse(m, nil, "cannot relabel %q for SELinux: the host would not work any more; bind a directory in it", m.Source)
	}
	label := "system_u:object_r:container_file_t:s0"
	if m.SELinux == "Z" && private != "" {
		label = private
	}
	if err := setOnTree(int(source.Fd()), m.Source, "security.selinux", label); err != nil {
		return refuse(m, err, "cannot relabel bind source for SELinux: %v", err)
	}
	return nil
}

// setOnTree gives an extended attribute to what is open at fd, with O_PATH, and to all
// that is in it, following no link: containers may be at work in there.
func setOnTree(fd int, path, name, value string) error {
	err := unix.Setxattr(inode.Path(fd), name, []byte(value), 0)
	if err != nil && !errors.Is(err, unix.ENOTSUP) {
		return &fs.PathError{Op: "relabel", Path: path, Err: err}
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil || st.Mode&unix.S_IFMT != unix.S_IFDIR {
		return err
	}
	dir, err := os.Open(inode.Path(fd))
	if err != nil {
		return &fs.PathError{Op: "relabel", Path: path, Err: err}
	}
	defer dir.Close()
	for {
		names, err := dir.Readdirnames(1000)
		for _, entry := range names {
			at, err := unix.Openat(fd, entry, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
			if errors.Is(err, unix.ENOENT) {
				continue // gone meanwhile
			}
			if err != nil {
				return &fs.PathError{Op: "relabel", Path: filepath.Join(path, entry), Err: err}
			}
			err = setOnTree(at, filepath.Join(path, entry), name, value)
			unix.Close(at)
			if err != nil {
				return err
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return &fs.PathError{Op: "relabel", Path: path, Err: err}
		}
	}
}
