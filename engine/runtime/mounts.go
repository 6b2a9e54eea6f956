package runtime

import (
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// defaultDevices are those every container has (OCI runtime specification,
// config-linux.md, "Default Devices").
var defaultDevices = [...]struct {
	name         string
	major, minor uint32
}{{"null", 1, 3}, {"zero", 1, 5}, {"full", 1, 7}, {"random", 1, 8}, {"urandom", 1, 9}, {"tty", 5, 0}}

var devLinks = [...][2]string{
	{"pts/ptmx", "ptmx"}, {"/proc/self/fd", "fd"}, {"/proc/self/fd/0", "stdin"}, {"/proc/self/fd/1", "stdout"}, {"/proc/self/fd/2", "stderr"},
}

// openHow is struct open_how for O_PATH.
func (c *compiler) openHow(flags, resolve uint64) arg {
	text := "{O_PATH"
	if flags&unix.O_DIRECTORY != 0 {
		text += "|O_DIRECTORY"
	}
	if resolve == unix.RESOLVE_NO_SYMLINKS {
		text += ", NO_SYMLINKS"
	}
	return c.words(text+"}", unix.O_PATH|unix.O_CLOEXEC|flags, 0, resolve)
}

// makeDir makes a directory and its parents where it is missing.
func (c *compiler) makeDir(what, dir string) {
	if dir == "/" {
		return
	}
	s := c.slot()
	c.call("open "+what, unix.SYS_OPENAT2, cwdFD, c.str(dir), c.openHow(0, 0), imm(24)).to(s).expect(unix.ENOENT)
	c.mkdirs(what, dir, s.failed())
}

func (c *compiler) mkdirs(what, dir string, when cond) {
	for i := 1; i <= len(dir); i++ {
		if i == len(dir) || dir[i] == '/' {
			c.call("create "+what, unix.SYS_MKDIRAT, cwdFD, c.str(dir[:i]), named(0o755, "0755")).if_(when).expect(unix.EEXIST)
		}
	}
}

// target opens the place for a mount and makes it where it is missing.
//
// Links were resolved before, and none may have come meanwhile: a volume that is
// shared with another container must not lead a mount to another place.
func (c *compiler) target(dest, target string, dir bool) slot {
	what := "the mount point " + dest
	var flags uint64
	if dir {
		flags = unix.O_DIRECTORY
	}
	open := func(s slot) *op {
		return c.call("open "+what, unix.SYS_OPENAT2, cwdFD, c.str(target), c.openHow(flags, unix.RESOLVE_NO_SYMLINKS), imm(24)).to(s).
			hint(unix.ENOTDIR, "the source is a directory and the mount point a file").
			hint(unix.ELOOP, "there is a symbolic link in a place where none may be")
	}
	s := c.slot()
	open(s).expect(unix.ENOENT)
	if dir {
		c.mkdirs(what, target, s.failed())
	} else {
		if parent := path.Dir(target); parent != "/" {
			c.mkdirs(what, parent, s.failed())
		}
		c.call("create "+what, unix.SYS_OPENAT, cwdFD, c.str(target),
			named(unix.O_CREAT|unix.O_CLOEXEC, "O_CREAT"), named(0o644, "0644")).if_(s.failed())
	}
	open(s).if_(s.failed())
	return s
}

// only makes the calls from an index on depend on a condition.
func (c *compiler) only(from int, when cond) {
	for i := from; i < len(c.ops); i++ {
		c.ops[i].when = when
	}
}

// attach moves a detached mount to an open target.
func (c *compiler) attach(what string, mount, target arg) {
	c.call(what, unix.SYS_MOVE_MOUNT, mount, c.str(""), target, c.str(""),
		named(unix.MOVE_MOUNT_F_EMPTY_PATH|unix.MOVE_MOUNT_T_EMPTY_PATH, "F_EMPTY_PATH|T_EMPTY_PATH")).
		hint(unix.EINVAL, "one of source and mount point is a directory and the other a file")
}

// fileSystem makes a detached mount of a new file system.
func (c *compiler) fileSystem(kind, source, dest string, o mountOptions) slot {
	what := fmt.Sprintf("mount %s at %s", kind, dest)
	fs, mnt := c.slot(), c.slot()
	c.call(what, unix.SYS_FSOPEN, c.str(kind), named(unix.FSOPEN_CLOEXEC, "FSOPEN_CLOEXEC")).to(fs).
		hint(unix.ENODEV, "the kernel does not know this file system")
	if source != "" {
		c.call(what, unix.SYS_FSCONFIG, fs.arg(), named(unix.FSCONFIG_SET_STRING, "SET_STRING"), c.str("source"), c.str(source), imm(0))
	}
	for _, option := range o.data {
		key, value, isString := strings.Cut(option, "=")
		if kind == "devpts" && key == "newinstance" {
			continue // always so, and unknown to newer kernels
		}
		w := fmt.Sprintf("set option %q of %s at %s", option, kind, dest)
		if isString {
			c.call(w, unix.SYS_FSCONFIG, fs.arg(), named(unix.FSCONFIG_SET_STRING, "SET_STRING"), c.str(key), c.str(value), imm(0))
		} else {
			c.call(w, unix.SYS_FSCONFIG, fs.arg(), named(unix.FSCONFIG_SET_FLAG, "SET_FLAG"), c.str(key), null, imm(0))
		}
	}
	c.call(what, unix.SYS_FSCONFIG, fs.arg(), named(unix.FSCONFIG_CMD_CREATE, "CMD_CREATE"), null, null, imm(0))
	c.call(what, unix.SYS_FSMOUNT, fs.arg(), named(unix.FSMOUNT_CLOEXEC, "FSMOUNT_CLOEXEC"), named(o.set, attrText(o.set))).to(mnt)
	return mnt
}

func attrText(set uint64) string {
	var out []string
	for _, a := range attrOptions {
		if a.set != 0 && a.clear == 0 && set&a.set != 0 {
			out = append(out, a.name)
		}
	}
	switch set & unix.MOUNT_ATTR__ATIME {
	case unix.MOUNT_ATTR_NOATIME:
		out = append(out, "noatime")
	case unix.MOUNT_ATTR_STRICTATIME:
		out = append(out, "strictatime")
	}
	return "{" + strings.Join(out, ",") + "}"
}

// setAttr changes attributes of a mount, mount_setattr(2).
func (c *compiler) setAttr(what string, dir, name arg, flags uint64, set, clear, propagation uint64) {
	text := fmt.Sprintf("{+%s -%s propagation=%#x}", attrText(set), attrText(clear), propagation)
	f := "0"
	switch flags {
	case unix.AT_RECURSIVE | unix.AT_EMPTY_PATH:
		f = "AT_RECURSIVE|AT_EMPTY_PATH"
	case unix.AT_EMPTY_PATH:
		f = "AT_EMPTY_PATH"
	case unix.AT_RECURSIVE:
		f = "AT_RECURSIVE"
	}
	c.call(what, unix.SYS_MOUNT_SETATTR, dir, name, named(flags, f), c.words(text, set, clear, propagation, 0), imm(32))
}

// mounts mounts everything in the specification's order.
func (c *compiler) mounts(s *specs.Spec, f startFacts) error {
	devManaged := true
	for i, m := range s.Mounts {
		o := parseMountOptions(m.Options)
		dest := path.Clean(m.Destination)
		if !path.IsAbs(m.Destination) || dest == "/" {
			return fmt.Errorf("cannot mount at %q: the destination must be an absolute path below /", m.Destination)
		}
		fact := f.mounts[i]
		if fact.target == "" {
			fact.target = dest
		}
		what := fmt.Sprintf("mount %s at %s", mountName(m, o), dest)
		if err := checkProc(what, fact, m.Type); err != nil {
			return err
		}
		var mnt arg
		dir := true
		switch {
		case fact.fd:
			mnt, dir = c.fd("mount "+strconv.Itoa(i)), fact.dir
			if !fact.ready {
				c.bindAttributes(what, mnt, o)
			}
			if dest == "/dev" {
				devManaged = false
			}
		case m.Type == "cgroup" || m.Type == "cgroup2":
			c.cgroup(dest, o, f.kernel)
			continue
		case o.bind || m.Type == "bind":
			return fmt.Errorf("internal error: the bind mount at %s has no descriptor", dest)
		default:
			// What the runtime relies on must really be where it seems to be.
			if (m.Type == "proc" || m.Type == "sysfs" || dest == "/dev") && fact.target != dest {
				return fmt.Errorf("cannot mount %s at %s: the image has a symbolic link there, to %s", m.Type, dest, fact.target)
			}
			if made, ok := c.made[i]; ok {
				mnt = made.arg()
			} else {
				mnt = c.fileSystem(m.Type, m.Source, dest, o).arg()
			}
		}
		at := c.target(dest, fact.target, dir)
		c.attach(what, mnt, at.arg())
		if o.propagation != 0 && !fact.fd {
			c.setAttr("set the propagation of "+dest, mnt, c.str(""), unix.AT_EMPTY_PATH, 0, 0, o.propagation)
		}
		if dest == "/dev" && devManaged {
			c.dev = slot(mnt.v)
			c.devices(s, f)
		}
	}
	if c.dev == 0 && devManaged {
		c.makeDir("/dev", "/dev")
		c.dev = c.slot()
		c.call("open /dev", unix.SYS_OPENAT2, cwdFD, c.str("/dev"), c.openHow(unix.O_DIRECTORY, unix.RESOLVE_NO_SYMLINKS), imm(24)).to(c.dev)
		c.devices(s, f)
	}
	if f.process.terminal && c.dev != 0 {
		c.console()
	}
	return nil
}

// procFiles are the files of /proc that may be covered, as lxcfs does.
var procFiles = [...]string{
	"cpuinfo", "diskstats", "loadavg", "meminfo", "net/dev", "slabinfo", "stat", "swaps", "uptime", "sys/kernel/ns_last_pid", "sys/crypto/fips_enabled",
}

// checkProc keeps /proc what it is: the kernel's security interfaces are there,
// and writing to a look-alike would be believed to have worked.
func checkProc(what string, fact mountFact, kind string) error {
	switch {
	case !isBelow(fact.target, "/proc"), fact.target == "/proc" && (kind == "proc" || fact.proc):
		return nil
	case slices.Contains(procFiles[:], strings.TrimPrefix(fact.target, "/proc/")):
		return nil
	}
	return fmt.Errorf("cannot %s: it would cover %s, and nothing but proc may be mounted there", what, fact.target)
}

func mountName(m specs.Mount, o mountOptions) string {
	if o.bind || m.Type == "bind" || m.Type == "" || m.Type == "none" {
		if m.Source == "" {
			return "a volume"
		}
		return m.Source
	}
	return m.Type
}

// bindAttributes gives a detached bind mount its options. Without a
// propagation option it becomes private, Docker's default.
func (c *compiler) bindAttributes(what string, mnt arg, o mountOptions) {
	empty := c.str("")
	if o.set|o.clear != 0 {
		c.setAttr(what, mnt, empty, unix.AT_EMPTY_PATH, o.set, o.clear, 0)
	}
	propagation, recursive := o.propagation, o.recProp
	if propagation == 0 {
		propagation, recursive = unix.MS_PRIVATE, true
	}
	switch {
	case recursive || o.recSet != 0:
		c.setAttr(what, mnt, empty, unix.AT_EMPTY_PATH|unix.AT_RECURSIVE, o.recSet, 0, propagation)
	default:
		c.setAttr(what, mnt, empty, unix.AT_EMPTY_PATH, 0, 0, propagation)
	}
}

// cgroup mounts the cgroup file system: v2 as it is, v1 as a tmpfs with one
// mount for each hierarchy. In a cgroup namespace they show the container's own
// cgroups only.
func (c *compiler) cgroup(dest string, o mountOptions, k kernelFacts) {
	if k.cgroupV2 || len(k.hierarchies) == 0 {
		mnt := c.fileSystem("cgroup2", "cgroup", dest, mountOptions{set: o.set, data: o.data})
		at := c.target(dest, dest, true)
		c.attach("mount cgroup2 at "+dest, mnt.arg(), at.arg())
		return
	}
	what := "mount cgroup at " + dest
	readonly := o.set & unix.MOUNT_ATTR_RDONLY
	mnt := c.fileSystem("tmpfs", "tmpfs", dest, mountOptions{set: o.set &^ readonly, data: []string{"mode=755", "size=65536k"}})
	at := c.target(dest, dest, true)
	c.attach(what, mnt.arg(), at.arg())
	c.call(what, unix.SYS_FCHDIR, mnt.arg())
	kind := c.str("cgroup")
	flags := mountFlags(o.set)
	for _, h := range k.hierarchies {
		name := c.str(strings.TrimPrefix(h, "name="))
		c.call(what, unix.SYS_MKDIRAT, cwdFD, name, named(0o755, "0755"))
		// A hierarchy that cannot be mounted is missing in the container, no more.
		c.call("mount cgroup "+h, unix.SYS_MOUNT, kind, name, kind, flags, c.str(h)).with(optional)
		if controllers := strings.Split(h, ","); len(controllers) > 1 {
			for _, ctl := range controllers {
				c.call(what, unix.SYS_SYMLINKAT, name, cwdFD, c.str(ctl))
			}
		}
	}
	c.call(what, unix.SYS_CHDIR, c.str("/"))
	if readonly != 0 {
		c.setAttr(what, mnt.arg(), c.str(""), unix.AT_EMPTY_PATH, readonly, 0, 0)
	}
}

// mountFlags translates mount attributes to mount(2)'s flags.
func mountFlags(attrs uint64) arg {
	var flags uint64
	for _, f := range [...][2]uint64{
		{unix.MOUNT_ATTR_RDONLY, unix.MS_RDONLY}, {unix.MOUNT_ATTR_NOSUID, unix.MS_NOSUID}, {unix.MOUNT_ATTR_NODEV, unix.MS_NODEV},
		{unix.MOUNT_ATTR_NOEXEC, unix.MS_NOEXEC},
	} {
		if attrs&f[0] != 0 {
			flags |= f[1]
		}
	}
	return named(flags, attrText(attrs))
}

// devices fills /dev. The umask is 0 here.
func (c *compiler) devices(s *specs.Spec, f startFacts) {
	for _, d := range defaultDevices {
		c.device("/dev/"+d.name, d.name, c.dev.arg(), unix.S_IFCHR|0o666, unix.Mkdev(d.major, d.minor), f.bindDevices)
	}
	for _, d := range s.Linux.Devices {
		p := path.Clean(d.Path)
		dir, name := c.dev.arg(), strings.TrimPrefix(p, "/dev/")
		if name == p { // not below /dev
			dir, name = cwdFD, p
			c.mkdirs("the device "+p, path.Dir(p), cond{})
		} else {
			for i := range name {
				if name[i] == '/' {
					c.call("create the device "+p, unix.SYS_MKDIRAT, dir, c.str(name[:i]), named(0o755, "0755")).expect(unix.EEXIST)
				}
			}
		}
		c.device(p, name, dir, deviceMode(d), unix.Mkdev(uint32(d.Major), uint32(d.Minor)), f.bindDevices)
		if !f.bindDevices && (d.UID != nil || d.GID != nil) {
			c.call("set the owner of the device "+p, unix.SYS_FCHOWNAT, dir, c.str(name), id(d.UID), id(d.GID), imm(0))
		}
	}
	for _, l := range devLinks {
		c.call("create the link /dev/"+l[1], unix.SYS_SYMLINKAT, c.str(l[0]), c.dev.arg(), c.str(l[1])).expect(unix.EEXIST)
	}
	if f.kernel.kcore {
		c.call("create the link /dev/core", unix.SYS_SYMLINKAT, c.str("/proc/kcore"), c.dev.arg(), c.str("core")).expect(unix.EEXIST)
	}
}

func deviceMode(d specs.LinuxDevice) uint32 {
	mode := uint32(0o666)
	if d.FileMode != nil {
		mode = uint32(d.FileMode.Perm())
	}
	switch d.Type {
	case "b":
		return mode | unix.S_IFBLK
	case "p":
		return mode | unix.S_IFIFO
	}
	return mode | unix.S_IFCHR
}

func id(v *uint32) arg {
	if v == nil {
		return named(^uint64(0), "-1")
	}
	return imm(*v)
}

func (c *compiler) device(p, name string, dir arg, mode uint32, number uint64, bind bool) {
	what := "create the device " + p
	if !bind {
		c.call(what, unix.SYS_MKNODAT, dir, c.str(name), named(uint64(mode), "0"+strconv.FormatUint(uint64(mode), 8)), imm(number)).expect(unix.EEXIST).
			hint(unix.EPERM, "this needs CAP_MKNOD")
		return
	}
	n := c.str(name)
	c.call(what, unix.SYS_MKNODAT, dir, n, named(unix.S_IFREG|0o644, "0100644"), imm(0)).expect(unix.EEXIST)
	c.call(what, unix.SYS_MOVE_MOUNT, c.fd("device "+p), c.str(""), dir, n, named(unix.MOVE_MOUNT_F_EMPTY_PATH, "F_EMPTY_PATH"))
}

// console binds the terminal to /dev/console.
func (c *compiler) console() {
	const what = "create /dev/console"
	name, empty := c.str("console"), c.str("")
	mnt := c.slot()
	c.call(what, unix.SYS_MKNODAT, c.dev.arg(), name, named(unix.S_IFREG|0o600, "0100600"), imm(0)).expect(unix.EEXIST)
	c.call(what, unix.SYS_OPEN_TREE, c.fd("terminal"), empty, cloneTree).to(mnt)
	c.call(what, unix.SYS_MOVE_MOUNT, mnt.arg(), empty, c.dev.arg(), name, named(unix.MOVE_MOUNT_F_EMPTY_PATH, "F_EMPTY_PATH"))
}

var cloneTree = named(unix.OPEN_TREE_CLONE|unix.O_CLOEXEC|unix.AT_EMPTY_PATH, "OPEN_TREE_CLONE|AT_EMPTY_PATH")

// protect covers paths, makes others read-only, then the root.
func (c *compiler) protect(s *specs.Spec) error {
	var dev arg
	if len(s.Linux.MaskedPaths) > 0 {
		if c.dev == 0 {
			c.dev = c.slot()
			c.call("open /dev", unix.SYS_OPENAT2, cwdFD, c.str("/dev"), c.openHow(unix.O_DIRECTORY, unix.RESOLVE_NO_SYMLINKS), imm(24)).to(c.dev)
		}
		dev = c.dev.arg()
	}
	null, empty := c.str("null"), c.str("")
	for _, p := range s.Linux.MaskedPaths {
		what := "mask " + p
		dir, file, mnt := c.slot(), c.slot(), c.slot()
		// A directory gets an empty read-only file system, all else /dev/null.
		c.call(what, unix.SYS_OPENAT2, cwdFD, c.str(p), c.openHow(unix.O_DIRECTORY, 0), imm(24)).to(dir).expect(unix.ENOENT, unix.ENOTDIR)
		from := len(c.ops)
		c.attach(what, c.fileSystem("tmpfs", "tmpfs", p, mountOptions{set: unix.MOUNT_ATTR_RDONLY, data: []string{"nr_blocks=1", "nr_inodes=1"}}).arg(), dir.arg())
		c.only(from, dir.ok())
		c.call(what, unix.SYS_OPENAT2, cwdFD, c.str(p), c.openHow(0, 0), imm(24)).to(file).if_(dir.failed()).expect(unix.ENOENT, unix.ENOTDIR)
		from = len(c.ops)
		c.call(what, unix.SYS_OPEN_TREE, dev, null, named(unix.OPEN_TREE_CLONE|unix.O_CLOEXEC|unix.AT_SYMLINK_NOFOLLOW, "OPEN_TREE_CLONE|AT_SYMLINK_NOFOLLOW")).to(mnt)
		c.setAttr(what, mnt.arg(), empty, unix.AT_EMPTY_PATH, unix.MOUNT_ATTR_RDONLY, 0, 0)
		c.attach(what, mnt.arg(), file.arg())
		c.only(from, file.ok())
	}
	for _, p := range s.Linux.ReadonlyPaths {
		what := "make " + p + " read-only"
		at, mnt := c.slot(), c.slot()
		from := len(c.ops)
		c.call(what, unix.SYS_OPENAT2, cwdFD, c.str(p), c.openHow(0, 0), imm(24)).to(at).expect(unix.ENOENT, unix.ENOTDIR)
		c.call(what, unix.SYS_OPEN_TREE, at.arg(), empty, named(unix.OPEN_TREE_CLONE|unix.O_CLOEXEC|unix.AT_EMPTY_PATH|unix.AT_RECURSIVE, "OPEN_TREE_CLONE|AT_EMPTY_PATH|AT_RECURSIVE")).to(mnt)
		c.setAttr(what, mnt.arg(), empty, unix.AT_EMPTY_PATH|unix.AT_RECURSIVE, unix.MOUNT_ATTR_RDONLY, 0, 0)
		c.attach(what, mnt.arg(), at.arg())
		c.only(from+1, at.ok())
	}
	propagation, rec, ok := parsePropagation(s.Linux.RootfsPropagation)
	if !ok {
		return fmt.Errorf("unknown rootfs propagation %q", s.Linux.RootfsPropagation)
	}
	if propagation != 0 && propagation != unix.MS_PRIVATE {
		var flags uint64
		if rec {
			flags = unix.AT_RECURSIVE
		}
		c.setAttr("set the propagation of /", cwdFD, c.str("/"), flags, 0, 0, propagation)
	}
	if s.Root != nil && s.Root.Readonly {
		c.setAttr("make / read-only", cwdFD, c.str("/"), 0, unix.MOUNT_ATTR_RDONLY, 0, 0)
	}
	return nil
}
