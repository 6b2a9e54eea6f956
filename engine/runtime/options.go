package runtime

import (
	"strings"

	"golang.org/x/sys/unix"
)

// mountOptions are the parsed options of a specs.Mount, mount(8).
type mountOptions struct {
	set, clear  uint64 // MOUNT_ATTR_*
	recSet      uint64 // the same for all submounts: rro, rnosuid …
	propagation uint64 // MS_SHARED, MS_SLAVE, MS_PRIVATE, MS_UNBINDABLE or 0
	recProp     bool
	bind, rec   bool
	data        []string // what is left is the file system's
}

var attrOptions = []struct {
	name       string
	set, clear uint64
}{
	{"ro", unix.MOUNT_ATTR_RDONLY, 0},
	{"rw", 0, unix.MOUNT_ATTR_RDONLY},
	{"nosuid", unix.MOUNT_ATTR_NOSUID, 0},
	{"suid", 0, unix.MOUNT_ATTR_NOSUID},
	{"nodev", unix.MOUNT_ATTR_NODEV, 0},
	{"dev", 0, unix.MOUNT_ATTR_NODEV},
	{"noexec", unix.MOUNT_ATTR_NOEXEC, 0},
	{"exec", 0, unix.MOUNT_ATTR_NOEXEC},
	{"nodiratime", unix.MOUNT_ATTR_NODIRATIME, 0},
	{"diratime", 0, unix.MOUNT_ATTR_NODIRATIME},
	{"nosymfollow", unix.MOUNT_ATTR_NOSYMFOLLOW, 0},
	{"symfollow", 0, unix.MOUNT_ATTR_NOSYMFOLLOW},
	{"relatime", unix.MOUNT_ATTR_RELATIME, unix.MOUNT_ATTR__ATIME},
	{"norelatime", unix.MOUNT_ATTR_STRICTATIME, unix.MOUNT_ATTR__ATIME},
	{"strictatime", unix.MOUNT_ATTR_STRICTATIME, unix.MOUNT_ATTR__ATIME},
	{"nostrictatime", unix.MOUNT_ATTR_RELATIME, unix.MOUNT_ATTR__ATIME},
	{"noatime", unix.MOUNT_ATTR_NOATIME, unix.MOUNT_ATTR__ATIME},
	{"atime", unix.MOUNT_ATTR_RELATIME, unix.MOUNT_ATTR__ATIME},
}

var propagationOptions = []struct {
	name string
	flag uint64
}{
	{"shared", unix.MS_SHARED}, {"slave", unix.MS_SLAVE}, {"private", unix.MS_PRIVATE}, {"unbindable", unix.MS_UNBINDABLE},
}

// parseMountOptions splits options into attributes, propagation and the file
// system's own.
func parseMountOptions(options []string) mountOptions {
	var o mountOptions
next:
	for _, opt := range options {
		switch opt {
		case "", "defaults", "async", "nomand", "copy", "nocopy", "z", "Z":
			continue
		case "bind":
			o.bind = true
			continue
		case "rbind":
			o.bind, o.rec = true, true
			continue
		}
		for _, a := range attrOptions {
			switch opt {
			case a.name:
				o.clear = o.clear&^a.set | a.clear
				o.set = o.set&^a.clear | a.set
				continue next
			case "r" + a.name:
				o.recSet |= a.set
				continue next
			}
		}
		for _, p := range propagationOptions {
			if name, rec := strings.CutPrefix(opt, "r"); opt == p.name || rec && name == p.name {
				o.propagation, o.recProp = p.flag, rec && name == p.name
				continue next
			}
		}
		o.data = append(o.data, opt)
	}
	return o
}

// parsePropagation reads linux.rootfsPropagation: "", "rprivate", "shared" …
func parsePropagation(s string) (flag uint64, rec, ok bool) {
	name, rec := s, false
	for _, p := range propagationOptions {
		if s == "r"+p.name {
			name, rec = p.name, true
		}
		if name == p.name {
			return p.flag, rec, true
		}
	}
	return 0, false, s == ""
}
