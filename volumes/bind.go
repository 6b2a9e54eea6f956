package volumes

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
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
	if err := relabel(m, r.req.SELinuxLabel); err != nil {
		return ResolvedMount{}, err
	}
	mount, err := cloneTree(source, "", m.Recursive != "disabled")
	if err != nil {
		return ResolvedMount{}, refuse(m, err, "cannot mount %s: %v", describe(m), err)
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
	owner, err := createHostPath(m.Source, r.req.UID, r.req.GID)
	if err != nil {
		return nil, refuse(m, err, "cannot create bind source: %v", err)
	}
	r.note(m, "created host directory %q, owned by %s", m.Source, owner)
	if f, err = os.OpenFile(m.Source, flags, 0); err != nil {
		return nil, refuse(m, err, "cannot open bind source: %v", err)
	}
	return f, nil
}

// createHostPath makes a directory and its parents. They belong to whom the
// nearest existing parent belongs, so that a user can remove what appears in
// his project; the directory itself belongs to the container's user if that is
// not root, so that the container can write to it.
func createHostPath(dir string, uid, gid int) (owner string, err error) {
	var missing []string
	parent := filepath.Clean(dir)
	var st unix.Stat_t
	for {
		err := unix.Stat(parent, &st)
		if err == nil {
			break
		}
		if !errors.Is(err, unix.ENOENT) || parent == "/" {
			return "", &fs.PathError{Op: "stat", Path: parent, Err: err}
		}
		missing = append(missing, parent)
		parent = filepath.Dir(parent)
	}
	slices.Reverse(missing)
	for i, path := range missing {
		u, g := int(st.Uid), int(st.Gid)
		if i == len(missing)-1 && uid != 0 {
			u, g = uid, gid
		}
		err := os.Mkdir(path, 0o755)
		if errors.Is(err, fs.ErrExist) {
			continue // another container wanted it too
		}
		if err == nil {
			err = os.Lchown(path, u, g)
		}
		if err != nil {
			return "", err
		}
		owner = fmt.Sprintf("%d:%d", u, g)
	}
	if owner == "" {
		owner = "another container's user"
	}
	return owner, nil
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
func relabel(m Mount, private string) error {
	if m.SELinux == "" {
		return nil
	}
	if m.SELinux != "z" && m.SELinux != "Z" {
		return refuse(m, nil, "there is no bind selinux option %q; use z (shared) or Z (private)", m.SELinux)
	}
	if _, err := os.Stat("/sys/fs/selinux/enforce"); err != nil {
		return nil
	}
	switch filepath.Clean(m.Source) {
	case "/", "/bin", "/boot", "/dev", "/etc", "/home", "/lib", "/lib64", "/opt", "/proc", "/root", "/run", "/sbin", "/srv", "/sys", "/tmp", "/usr", "/var":
		return refuse(m, nil, "cannot relabel %q for SELinux: the host would not work any more; bind a directory in it", m.Source)
	}
	label := "system_u:object_r:container_file_t:s0"
	if m.SELinux == "Z" && private != "" {
		label = private
	}
	err := filepath.WalkDir(m.Source, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		err = unix.Lsetxattr(path, "security.selinux", []byte(label), 0)
		if errors.Is(err, unix.ENOTSUP) || errors.Is(err, unix.ENOENT) {
			return nil
		} else if err != nil {
			return &fs.PathError{Op: "relabel", Path: path, Err: err}
		}
		return nil
	})
	if err != nil {
		return refuse(m, err, "cannot relabel bind source for SELinux: %v", err)
	}
	return nil
}
