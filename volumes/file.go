package volumes

import (
	"math"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// ownSize is how much space, bytes, the container's own files (/etc/hosts …) have
// together. It counts as the memory of whoever writes, and not as the host's.
const ownSize = 4 << 20

// fileMount is a mount of type file that is ready, and for one of the container's
// own files the open file.
type fileMount struct {
	mount, file *os.File
}

func closeFiles(files []fileMount) {
	for _, f := range files {
		f.mount.Close()
		if f.file != nil {
			f.file.Close()
		}
	}
}

// files makes the mounts of type file among mounts, in their order. Those with
// content from outside lie on one tmpfs, which is never written to disk where the
// kernel has noswap (6.4), and the container's own on another one. Nobody can
// list either: each mount shows one file.
func (r *resolver) files(mounts []Mount) (_ []fileMount, err error) {
	given, err := r.fileTree(mounts, false, nil, []string{"noswap"})
	if err != nil {
		return nil, err
	}
	own, err := r.fileTree(mounts, true, []string{"size=" + strconv.Itoa(ownSize), "nr_inodes=64"}, nil)
	if err != nil {
		closeFiles(given)
		return nil, err
	}
	var out []fileMount
	for _, m := range mounts {
		switch {
		case m.Type != TypeFile:
		case m.Own:
			out, own = append(out, own[0]), own[1:]
		default:
			out, given = append(out, given[0]), given[1:]
		}
	}
	return out, nil
}

// fileTree makes those mounts of type file that are the container's own, or not.
func (r *resolver) fileTree(mounts []Mount, own bool, data, tries []string) (_ []fileMount, err error) {
	var out []fileMount
	var names []string
	var readOnly []bool
	var tree *os.File
	defer func() {
		if err != nil {
			for _, f := range out {
				f.file.Close()
			}
		}
	}()
	for _, m := range mounts {
		if m.Type != TypeFile || m.Own != own {
			continue
		}
		if tree == nil {
			tree, err = filesystem{kind: "tmpfs", source: "tmpfs", data: append([]string{"mode=0755"}, data...), tries: tries}.mount()
			if err != nil {
				return nil, refuse(m, err, "cannot mount %s: %v", describe(m), err)
			}
			defer tree.Close()
		}
		name := strconv.Itoa(len(names))
		f, err := r.writeFile(tree, name, m)
		if err != nil {
			return nil, err
		}
		out = append(out, fileMount{file: f})
		names, readOnly = append(names, name), append(readOnly, m.ReadOnly || !own)
	}
	if tree == nil {
		return nil, nil
	}
	clones, err := cloneWithin(tree, names...)
	for i, clone := range clones {
		// The tree's own mount stays writable: files of it are open for writing.
		const attrs = unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV | unix.MOUNT_ATTR_NOEXEC
		if err == nil {
			err = r.finish(clone, attrs, readOnly[i], true, unix.MS_PRIVATE, true)
		}
	}
	if err != nil {
		closeAll(clones)
		return nil, &SourceError{Text: "cannot mount configs and secrets: " + err.Error(), Err: err}
	}
	for i, clone := range clones {
		out[i].mount = clone
		if !own {
			out[i].file.Close()
			out[i].file = nil
		}
	}
	return out, nil
}

func (r *resolver) writeFile(tree *os.File, name string, m Mount) (_ *os.File, err error) {
	if m.Content == nil && m.ContentDigest != "" {
		return nil, refuse(m, nil, "the content of %s is not at hand; run stack up again", m.Target)
	}
	uid, err := number(m, "uid", m.UID)
	if err != nil {
		return nil, err
	}
	gid, err := number(m, "gid", m.GID)
	if err != nil {
		return nil, err
	}
	mode := m.Mode
	if mode == 0 {
		mode = 0o444
	}
	fd, err := unix.Openat(int(tree.Fd()), name, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, refuse(m, err, "cannot write the file for %s: %v", m.Target, err)
	}
	f := os.NewFile(uintptr(fd), m.Target)
	defer func() {
		if err != nil {
			f.Close()
		}
	}()
	if _, err = f.Write(m.Content); err == nil {
		err = r.chown(fd, uint32(uid), uint32(gid))
	}
	if err == nil {
		err = unix.Fchmod(fd, mode&0o7777)
	}
	if err != nil {
		return nil, refuse(m, err, "cannot write the file for %s: %v", m.Target, err)
	}
	return f, nil
}

// chown gives a file to a user and a group of the container.
func (r *resolver) chown(fd int, uid, gid uint32) error {
	if o := r.req.Owners; o != nil {
		var err error
		if uid, err = o.Host(uid); err != nil {
			return err
		}
		if gid, err = o.Host(gid); err != nil {
			return err
		}
	}
	return unix.Fchown(fd, int(uid), int(gid))
}

// number reads a user or group ID; the Compose spec knows no names here.
func number(m Mount, what, s string) (int, error) {
	if s == "" {
		return 0, nil
	}
	n, err := strconv.ParseUint(s, 10, 32)
	if err != nil || n == math.MaxUint32 {
		return 0, refuse(m, err, "%s %q of %s is not a number", what, s, m.Target)
	}
	return int(n), nil
}
