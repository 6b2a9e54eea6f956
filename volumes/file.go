package volumes

import (
	"math"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// files makes the mounts of type file among mounts, in their order. All lie on
// one tmpfs of the container's own, which is never written to disk where the
// kernel has noswap (6.4), and which nobody can list: each mount shows one file.
func (r *resolver) files(mounts []Mount) ([]*os.File, error) {
	var names []string
	var tree *os.File
	for _, m := range mounts {
		if m.Type != TypeFile {
			continue
		}
		if tree == nil {
			var err error
			tree, err = filesystem{kind: "tmpfs", source: "tmpfs", data: []string{"mode=0755"}, tries: []string{"noswap"}}.mount()
			if err != nil {
				return nil, refuse(m, err, "cannot mount %s: %v", describe(m), err)
			}
			defer tree.Close()
		}
		name := strconv.Itoa(len(names))
		if err := writeFile(tree, name, m); err != nil {
			return nil, err
		}
		names = append(names, name)
	}
	if tree == nil {
		return nil, nil
	}
	attrs := unix.MOUNT_ATTR_RDONLY | unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV | unix.MOUNT_ATTR_NOEXEC
	err := r.finish(tree, attrs, true, true, unix.MS_PRIVATE, true)
	if err == nil {
		var clones []*os.File
		if clones, err = cloneWithin(tree, names...); err == nil {
			return clones, nil
		}
	}
	return nil, &SourceError{Text: "cannot mount configs and secrets: " + err.Error(), Err: err}
}

func writeFile(tree *os.File, name string, m Mount) error {
	if m.Content == nil && m.ContentDigest != "" {
		return refuse(m, nil, "the content of %s is not at hand; run stack up again", m.Target)
	}
	uid, err := number(m, "uid", m.UID)
	if err != nil {
		return err
	}
	gid, err := number(m, "gid", m.GID)
	if err != nil {
		return err
	}
	mode := m.Mode
	if mode == 0 {
		mode = 0o444
	}
	fd, err := unix.Openat(int(tree.Fd()), name, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return refuse(m, err, "cannot write the file for %s: %v", m.Target, err)
	}
	f := os.NewFile(uintptr(fd), m.Target)
	defer f.Close()
	if _, err = f.Write(m.Content); err == nil {
		err = unix.Fchown(fd, uid, gid)
	}
	if err == nil {
		err = unix.Fchmod(fd, mode&0o7777)
	}
	if err != nil {
		return refuse(m, err, "cannot write the file for %s: %v", m.Target, err)
	}
	return nil
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
