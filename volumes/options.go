package volumes

import (
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// attrOption is a mount option that is a property of the mount and not of the
// filesystem, mount(8) "FILESYSTEM-INDEPENDENT MOUNT OPTIONS".
func attrOption(word string) (set, clear int, ok bool) {
	switch word {
	case "rw":
		return 0, unix.MOUNT_ATTR_RDONLY, true
	case "ro":
		return unix.MOUNT_ATTR_RDONLY, 0, true
	case "nosuid":
		return unix.MOUNT_ATTR_NOSUID, 0, true
	case "suid":
		return 0, unix.MOUNT_ATTR_NOSUID, true
	case "nodev":
		return unix.MOUNT_ATTR_NODEV, 0, true
	case "dev":
		return 0, unix.MOUNT_ATTR_NODEV, true
	case "noexec":
		return unix.MOUNT_ATTR_NOEXEC, 0, true
	case "exec":
		return 0, unix.MOUNT_ATTR_NOEXEC, true
	case "noatime":
		return unix.MOUNT_ATTR_NOATIME, unix.MOUNT_ATTR__ATIME, true
	case "relatime", "atime":
		return unix.MOUNT_ATTR_RELATIME, unix.MOUNT_ATTR__ATIME, true
	case "strictatime":
		return unix.MOUNT_ATTR_STRICTATIME, unix.MOUNT_ATTR__ATIME, true
	case "nodiratime":
		return unix.MOUNT_ATTR_NODIRATIME, 0, true
	case "diratime":
		return 0, unix.MOUNT_ATTR_NODIRATIME, true
	case "nosymfollow":
		return unix.MOUNT_ATTR_NOSYMFOLLOW, 0, true
	case "symfollow":
		return 0, unix.MOUNT_ATTR_NOSYMFOLLOW, true
	}
	return 0, 0, false
}

// splitOptions separates options of the mount from options of the filesystem.
// A later word wins over an earlier one of the same kind.
func splitOptions(words []string, attrs int) (int, []string) {
	var data []string
	for _, word := range words {
		if word == "" || word == "defaults" {
			continue
		}
		if set, clear, ok := attrOption(word); ok {
			attrs = attrs&^clear | set
			continue
		}
		data = append(data, word)
	}
	return attrs, data
}

// driverOpts are the local driver's options, as in Docker: those of mount(8).
type driverOpts struct {
	bind      bool
	recursive bool
	fs        filesystem // unless bind, where only source and attrs count
	host      string     // to be resolved, of addr=
}

// empty says that the volume is a plain directory.
func (o driverOpts) empty() bool { return !o.bind && o.fs.kind == "" }

// perUse says that mounting twice gives the same filesystem, because the kernel
// knows it by its source. Of others (tmpfs, overlay) each mount is a new one,
// so that one mount must be kept for all users.
func (o driverOpts) perUse() bool {
	switch o.fs.kind {
	case "nfs", "nfs4", "cifs", "smb3", "ceph", "9p", "virtiofs":
		return true
	}
	return o.bind || strings.HasPrefix(o.fs.source, "/dev/")
}

// parseDriverOpts reads the local driver's options type, o and device.
func parseDriverOpts(opts map[string]string) (driverOpts, error) {
	var d driverOpts
	for key := range opts {
		switch key {
		case "type", "o", "device":
		case "size":
			return d, fmt.Errorf("driver_opts.size is not supported: it needs a project quota; use type: tmpfs with o: size=%s, or limit the filesystem", opts[key])
		default:
			return d, fmt.Errorf("there is no driver_opts.%s; the local driver has type, o and device", key)
		}
	}
	if len(opts) == 0 {
		return d, nil
	}
	d.fs.kind, d.fs.source = opts["type"], opts["device"]
	words := strings.FieldsFunc(opts["o"], func(r rune) bool { return r == ',' })
	words = slices.DeleteFunc(words, func(w string) bool {
		switch w {
		case "bind":
			d.bind = true
		case "rbind":
			d.bind, d.recursive = true, true
		default:
			return false
		}
		return true
	})
	d.fs.attrs, d.fs.data = splitOptions(words, 0)
	switch {
	case d.fs.source == "" && d.fs.kind != "tmpfs" && d.fs.kind != "ramfs":
		return d, fmt.Errorf("driver_opts.device is missing: what is to be mounted")
	case d.bind && !path.IsAbs(d.fs.source):
		return d, fmt.Errorf("driver_opts.device %q must be an absolute path for o: bind", d.fs.source)
	case d.bind && len(d.fs.data) > 0:
		return d, fmt.Errorf("driver_opts.o: option %q does not go with bind", d.fs.data[0])
	case d.bind:
		d.fs.kind = ""
	case d.fs.kind == "" || d.fs.kind == "none":
		return d, fmt.Errorf("driver_opts.type is missing: which filesystem %q is; for a host directory add o: bind", d.fs.source)
	}
	if d.fs.attrs&unix.MOUNT_ATTR_RDONLY != 0 && !d.bind {
		// Read-only is a property of the filesystem as well: without this a
		// read-only device cannot be mounted.
		d.fs.data = append(d.fs.data, "ro")
	}
	if strings.HasPrefix(d.fs.kind, "nfs") || d.fs.kind == "cifs" {
		for i, word := range d.fs.data {
			if host, ok := strings.CutPrefix(word, "addr="); ok {
				d.host = host
				d.fs.data = slices.Delete(d.fs.data, i, i+1)
				break
			}
		}
	}
	return d, nil
}

// tmpfsOptions are the options of a tmpfs mount. modeIfNone is the mode of the
// directory it covers, 0 for none: Docker gives the tmpfs that mode.
func tmpfsOptions(m Mount, modeIfNone uint32) (filesystem, error) {
	// Docker's default for tmpfs is noexec,nosuid,nodev; "exec" lifts it.
	attrs, data := splitOptions(m.Options, unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NODEV|unix.MOUNT_ATTR_NOEXEC)
	if m.ReadOnly {
		attrs |= unix.MOUNT_ATTR_RDONLY
	}
	has := func(key string) bool {
		return slices.ContainsFunc(data, func(w string) bool { return strings.HasPrefix(w, key+"=") })
	}
	for _, word := range data {
		key, _, _ := strings.Cut(word, "=")
		switch key {
		case "size", "nr_blocks", "nr_inodes", "mode", "uid", "gid", "huge", "mpol", "noswap", "inode32", "inode64":
		default:
			return filesystem{}, fmt.Errorf("tmpfs has no option %q; see tmpfs(5)", key)
		}
	}
	if m.Size < 0 {
		return filesystem{}, fmt.Errorf("tmpfs size %d is negative", m.Size)
	}
	if m.Size > 0 {
		data = append(data, "size="+strconv.FormatInt(m.Size, 10))
	}
	switch {
	case m.Mode != 0:
		data = append(data, "mode="+strconv.FormatUint(uint64(m.Mode), 8))
	case has("mode"):
	case modeIfNone != 0:
		data = append(data, "mode="+strconv.FormatUint(uint64(modeIfNone), 8))
	default:
		data = append(data, "mode=1777")
	}
	return filesystem{kind: "tmpfs", source: "tmpfs", data: data, attrs: attrs}, nil
}

// propagation is what mount_setattr(2) needs for a bind's propagation.
func propagation(word string) (flag uint64, recursive, needsShared bool, err error) {
	switch word {
	case "", "rprivate":
		return unix.MS_PRIVATE, true, false, nil
	case "private":
		return unix.MS_PRIVATE, false, false, nil
	case "rslave":
		return unix.MS_SLAVE, true, true, nil
	case "slave":
		return unix.MS_SLAVE, false, true, nil
	case "rshared":
		return unix.MS_SHARED, true, true, nil
	case "shared":
		return unix.MS_SHARED, false, true, nil
	}
	return 0, false, false, fmt.Errorf("there is no bind propagation %q; use rprivate, private, rshared, shared, rslave or slave", word)
}
