package volumes

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// content is what fresh volumes are filled from.
func (r *resolver) content() (*os.File, error) {
	if r.req.Owners == nil {
		return r.req.RootFS, nil
	}
	var err error
	if r.filling == nil {
		r.filling, err = r.req.Owners.Content()
	}
	return r.filling, err
}

// mapOwners maps the owners of a detached mount, with all that is mounted below.
func mapOwners(mount, userNS *os.File) error {
	err := setAttr(mount, true, unix.MountAttr{Attr_set: unix.MOUNT_ATTR_IDMAP, Userns_fd: uint64(userNS.Fd())})
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EPERM) {
		return fmt.Errorf("its file system (%s) cannot map the owners of files for a user namespace: %w; set userns_mode: host", kindOf(mount), err)
	}
	return err
}

// kindOf names the file system of a mount, as far as it is known to be one that cannot
// map owners.
func kindOf(mount *os.File) string {
	var st unix.Statfs_t
	if err := unix.Fstatfs(int(mount.Fd()), &st); err != nil {
		return err.Error()
	}
	names := map[int64]string{
		unix.NFS_SUPER_MAGIC: "nfs", unix.SMB2_SUPER_MAGIC: "cifs", unix.OVERLAYFS_SUPER_MAGIC: "overlay", unix.V9FS_MAGIC: "9p",
		unix.FUSE_SUPER_MAGIC: "fuse", unix.TMPFS_MAGIC: "tmpfs, which can from Linux 6.3 on", unix.PROC_SUPER_MAGIC: "proc",
		unix.SYSFS_MAGIC: "sysfs", unix.CGROUP2_SUPER_MAGIC: "cgroup2", unix.CGROUP_SUPER_MAGIC: "cgroup",
	}
	if name, ok := names[int64(st.Type)]; ok {
		return name
	}
	return fmt.Sprintf("type %#x", st.Type)
}

// mapBind maps the owners of a bind mount. Where its file system cannot, the files
// belong to nobody in the container, and the user is told so.
func (r *resolver) mapBind(m Mount, source, mount *os.File) error {
	if r.req.Owners == nil {
		return nil
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(source.Fd()), &st); err != nil {
		return refuse(m, err, "cannot look at bind source %q: %v", m.Source, err)
	}
	userNS, err := r.req.Owners.Bind(st.Uid, st.Gid)
	if err != nil || userNS == nil {
		return err
	}
	if err := mapOwners(mount, userNS); err != nil {
		r.note(m, "files below %s belong to nobody in the container: %v", m.Source, err)
	}
	return nil
}

// ownedBy gives a tmpfs to users of the container: options are in IDs of the host.
func ownedBy(options []string, host func(uint32) (uint32, error)) ([]string, error) {
	owner := map[string]uint32{"uid": 0, "gid": 0}
	var out []string
	for _, o := range options {
		key, value, _ := strings.Cut(o, "=")
		if _, ok := owner[key]; !ok {
			out = append(out, o)
			continue
		}
		id, err := strconv.ParseUint(value, 10, 32)
		if err != nil {
			return nil, fmt.Errorf("option %q: %w", o, err)
		}
		owner[key] = uint32(id)
	}
	for _, key := range []string{"uid", "gid"} {
		id, err := host(owner[key])
		if err != nil {
			return nil, err
		}
		out = append(out, key+"="+strconv.FormatUint(uint64(id), 10))
	}
	return out, nil
}
