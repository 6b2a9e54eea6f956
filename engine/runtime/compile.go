package runtime

import (
	"errors"
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/stack-run/stack/engine/seccomp"
)

// startFacts are what compiling a container's program depends on beyond its
// specification. Descriptors are known by name only, so that a program does
// not depend on their numbers.
type startFacts struct {
	kernel  kernelFacts
	process processFacts
	mounts  []mountFact // one for each of Spec.Mounts
	cwd     string      // Process.Cwd with the links of the root file system resolved
	cgroups int         // descriptors "cgroup 0" … to write "0" into
	// bindDevices: device nodes are bind mounts "device /dev/null" …, since
	// this process may not make any.
	bindDevices bool
	init        bool // descriptor "init"
	// foreignNet: the container's user namespace does not own the network namespace.
	foreignNet bool
}

// mountFact describes the mount with the same index.
type mountFact struct {
	fd     bool   // descriptor "mount N" is its detached mount
	dir    bool   // … of a directory
	ready  bool   // … that has its options already
	proc   bool   // … of a proc file system
	target string // Destination with the links of the root file system resolved
}

// compiler builds a program.
type compiler struct {
	program
	warnings []string
	dev      slot         // directory descriptor of the container's /dev, 0 for none
	made     map[int]slot // file systems that are mounted before the root is entered
}

// compileStart translates a specification into the program of a container's
// first process.
func compileStart(s *specs.Spec, f startFacts) (*program, []string, error) {
	if err := validate(s); err != nil {
		return nil, nil, err
	}
	c := &compiler{}
	c.join(f.cgroups)
	c.oomScore(s.Process.OOMScoreAdj)
	_, userNS := namespacePath(s, specs.UserNamespace)
	if userNS {
		c.raise(s.Process, f.process)
		// In a user namespace a process has all capabilities towards what belongs
		// to it, user_namespaces(7), and may make no device nodes.
		f.kernel.permitted = 1<<(f.kernel.lastCap+1) - 1
		f.bindDevices = true
	}
	if err := c.namespaces(s); err != nil {
		return nil, nil, err
	}
	if userNS {
		c.kernelMounts(s, f)
	}
	c.root()
	if s.Hostname != "" {
		c.call("set the hostname", unix.SYS_SETHOSTNAME, c.str(s.Hostname), imm(len(s.Hostname)))
	}
	if s.Domainname != "" {
		c.call("set the domain name", unix.SYS_SETDOMAINNAME, c.str(s.Domainname), imm(len(s.Domainname)))
	}
	if err := c.mounts(s, f); err != nil {
		return nil, nil, err
	}
	if err := c.sysctls(s); err != nil {
		return nil, nil, err
	}
	c.makeDir("the working directory "+s.Process.Cwd, f.cwd)
	if err := c.protect(s); err != nil {
		return nil, nil, err
	}
	if err := c.process(s.Process, f.process, f.kernel, f.init); err != nil {
		return nil, nil, err
	}
	return &c.program, c.warnings, nil
}

// validate refuses what cannot be compiled.
func validate(s *specs.Spec) error {
	switch {
	case s.Process == nil || s.Linux == nil:
		return errors.New("cannot start a container: the specification has no process or no linux section")
	case !hasNamespace(s, specs.MountNamespace):
		return errors.New("cannot start a container without a mount namespace of its own")
	case s.Hostname != "" && !hasNamespace(s, specs.UTSNamespace):
		return errors.New("cannot set a hostname in the host's uts namespace; remove the hostname or the host's uts mode")
	case s.Domainname != "" && !hasNamespace(s, specs.UTSNamespace):
		return errors.New("cannot set a domain name in the host's uts namespace; remove the domain name or the host's uts mode")
	}
	for _, f := range []struct {
		name string
		set  bool
	}{
		{"linux.personality", s.Linux.Personality != nil}, {"linux.intelRdt", s.Linux.IntelRdt != nil},
		{"linux.memoryPolicy", s.Linux.MemoryPolicy != nil}, {"linux.netDevices", len(s.Linux.NetDevices) > 0},
		{"linux.seccomp.listenerPath", s.Linux.Seccomp != nil && s.Linux.Seccomp.ListenerPath != ""}, {"hooks", s.Hooks != nil},
	} {
		if f.set {
			return fmt.Errorf("cannot start a container with %s: not supported", f.name)
		}
	}
	return validateProcess(s.Process)
}

func validateProcess(p *specs.Process) error {
	switch {
	case len(p.Args) == 0 || p.Args[0] == "":
		return errors.New("cannot start a process without a command")
	case !path.IsAbs(p.Cwd):
		return fmt.Errorf("cannot start in the working directory %q: it is not an absolute path", p.Cwd)
	case p.Scheduler != nil || p.IOPriority != nil || p.ExecCPUAffinity != nil:
		return errors.New("cannot start a process with a scheduler, I/O priority or exec CPU affinity: not supported")
	}
	for _, list := range [][]string{p.Args, p.Env, {p.Cwd}} {
		for _, v := range list {
			if strings.ContainsRune(v, 0) {
				return fmt.Errorf("cannot start a process: %q contains a NUL byte", v)
			}
		}
	}
	return nil
}

func hasNamespace(s *specs.Spec, t specs.LinuxNamespaceType) bool {
	return slices.ContainsFunc(s.Linux.Namespaces, func(n specs.LinuxNamespace) bool { return n.Type == t })
}

// namespacePath returns the path of the namespace to join, "" for a new one; ok
// is false if the container stays in the host's.
func namespacePath(s *specs.Spec, t specs.LinuxNamespaceType) (path string, ok bool) {
	i := slices.IndexFunc(s.Linux.Namespaces, func(n specs.LinuxNamespace) bool { return n.Type == t })
	if i < 0 {
		return "", false
	}
	return s.Linux.Namespaces[i].Path, true
}

// join is what every child does first: close what is not its own, keep others
// from looking into it, enter the cgroups.
func (c *compiler) join(cgroups int) {
	c.call("close inherited descriptors", callCloseOthers).with(optional)
	// Until execve the child has more privileges than the container it may
	// already be visible in; no ptrace and no /proc/PID/fd for others.
	c.call("hide the process from ptrace", unix.SYS_PRCTL, named(unix.PR_SET_DUMPABLE, "PR_SET_DUMPABLE"), imm(0))
	zero := c.str("0")
	for i := range cgroups {
		c.call("join the container's cgroup", unix.SYS_WRITE, c.fd("cgroup "+strconv.Itoa(i)), zero, imm(1)).
			hint(unix.ENOSPC, "cpuset.cpus and cpuset.mems of the cgroup must be set")
	}
}

var namespaceFlags = []struct {
	kind specs.LinuxNamespaceType
	flag uint64
	name string
}{
	{specs.UserNamespace, unix.CLONE_NEWUSER, "CLONE_NEWUSER"},
	{specs.NetworkNamespace, unix.CLONE_NEWNET, "CLONE_NEWNET"},
	{specs.IPCNamespace, unix.CLONE_NEWIPC, "CLONE_NEWIPC"},
	{specs.UTSNamespace, unix.CLONE_NEWUTS, "CLONE_NEWUTS"},
	{specs.PIDNamespace, unix.CLONE_NEWPID, "CLONE_NEWPID"},
	{specs.MountNamespace, unix.CLONE_NEWNS, "CLONE_NEWNS"},
	{specs.CgroupNamespace, unix.CLONE_NEWCGROUP, "CLONE_NEWCGROUP"},
}

// namespaces joins and makes namespaces. A new pid namespace comes from clone;
// the one to join is set on the cloning thread by the parent. The others are
// made by the child, after it joined its cgroups: a cgroup namespace's root is
// the cgroup of its maker.
//
// With a user namespace those to join come first, for which the host's privileges
// may be needed, and the new ones, the pid namespace too, are made inside of it.
func (c *compiler) namespaces(s *specs.Spec) error {
	var flags uint64
	var names []string
	_, userNS := namespacePath(s, specs.UserNamespace)
	newPID := false
	for _, n := range namespaceFlags {
		p, ok := namespacePath(s, n.kind)
		switch {
		case !ok || n.kind == specs.UserNamespace:
		case n.kind == specs.PIDNamespace:
			newPID = p == ""
			if newPID && !userNS {
				c.flags |= n.flag
			}
		case p == "":
			flags |= n.flag
			names = append(names, n.name)
		case n.kind == specs.MountNamespace:
			return errors.New("cannot start a container in an existing mount namespace; execute the process in its owner instead")
		default:
			c.joinNamespace(n.kind, p, named(n.flag, n.name))
		}
	}
	for _, n := range s.Linux.Namespaces {
		if n.Type == specs.UserNamespace && n.Path == "" || n.Type == specs.TimeNamespace {
			return fmt.Errorf("cannot make a new %s namespace for the container: not supported", n.Type)
		}
	}
	if userNS {
		p, _ := namespacePath(s, specs.UserNamespace)
		c.joinNamespace(specs.UserNamespace, p, named(unix.CLONE_NEWUSER, "CLONE_NEWUSER"))
		const what = "become root of the user namespace"
		zero := imm(0)
		c.call(what, unix.SYS_SETGROUPS, zero, null)
		c.call(what, unix.SYS_SETRESGID, zero, zero, zero)
		c.call(what, unix.SYS_SETRESUID, zero, zero, zero)
		if newPID {
			flags |= unix.CLONE_NEWPID
			names = append(names, "CLONE_NEWPID")
		}
	}
	c.call("make the container's namespaces", unix.SYS_UNSHARE, named(flags, strings.Join(names, "|"))).
		hint(unix.EPERM, "this needs CAP_SYS_ADMIN: run as root").
		hint(unix.ENOSPC, "the limit is in /proc/sys/user/max_mnt_namespaces and its neighbours").
		hint(unix.EUSERS, "the limit is in /proc/sys/user/max_mnt_namespaces and its neighbours")
	if userNS && newPID {
		c.call("create the first process of the pid namespace", callFork).
			hint(unix.EAGAIN, "the limit of processes (pids limit, RLIMIT_NPROC) is reached")
		c.forks = true
	}
	return nil
}

func (c *compiler) joinNamespace(kind specs.LinuxNamespaceType, path string, flag arg) {
	c.call(fmt.Sprintf("join the %s namespace %s", kind, path), unix.SYS_SETNS, c.fd(string(kind)+" namespace"), flag).
		hint(unix.EINVAL, fmt.Sprintf("the file is not a %s namespace", kind))
}

// kernelMounts mounts proc and sysfs while the host's are still in sight, without
// which nobody in a user namespace may, mount_namespaces(7), "Restrictions".
func (c *compiler) kernelMounts(s *specs.Spec, f startFacts) {
	c.made = map[int]slot{}
	for i, m := range s.Mounts {
		switch o := parseMountOptions(m.Options); {
		case f.mounts[i].fd:
		case m.Type == "sysfs" && f.foreignNet:
			// sysfs is that of a network namespace, and only its owner may mount it.
			what := "mount the host's sysfs at " + m.Destination
			mnt := c.slot()
			c.call(what, unix.SYS_OPEN_TREE, cwdFD, c.str("/sys"),
				named(unix.OPEN_TREE_CLONE|unix.O_CLOEXEC|unix.AT_RECURSIVE, "OPEN_TREE_CLONE|AT_RECURSIVE")).to(mnt)
			c.setAttr(what, mnt.arg(), c.str(""), unix.AT_EMPTY_PATH|unix.AT_RECURSIVE, o.set|unix.MOUNT_ATTR_RDONLY, 0, unix.MS_PRIVATE)
			c.made[i] = mnt
		case m.Type == "proc" || m.Type == "sysfs":
			c.made[i] = c.fileSystem(m.Type, m.Source, path.Clean(m.Destination), o)
		}
	}
}

// root makes the root file system the root and forgets the host's. From then
// on every path is the container's own, so links in it cannot lead outside.
func (c *compiler) root() {
	const what = "change to the container's root file system"
	empty, dot, slash := c.str(""), c.str("."), c.str("/")
	c.call("isolate the container's mounts", unix.SYS_MOUNT, null, slash, null, named(unix.MS_REC|unix.MS_PRIVATE, "MS_REC|MS_PRIVATE"), null)
	c.call(what, unix.SYS_MOVE_MOUNT, c.fd("root"), empty, cwdFD, slash, named(unix.MOVE_MOUNT_F_EMPTY_PATH, "MOVE_MOUNT_F_EMPTY_PATH"))
	c.call(what, unix.SYS_FCHDIR, c.fd("root"))
	// pivot_root(2), "pivot_root(".", ".")": the old root ends up on top of the new one.
	c.call(what, unix.SYS_PIVOT_ROOT, dot, dot)
	c.call("detach the host's file systems", unix.SYS_UMOUNT2, dot, named(unix.MNT_DETACH, "MNT_DETACH"))
	c.call(what, unix.SYS_CHDIR, slash)
	c.call("set the umask", unix.SYS_UMASK, imm(0))
}

// sysctls writes namespaced kernel parameters.
func (c *compiler) sysctls(s *specs.Spec) error {
	keys := make([]string, 0, len(s.Linux.Sysctl))
	for k := range s.Linux.Sysctl {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	for _, key := range keys {
		file, err := SysctlFile(s, key)
		if err != nil {
			return err
		}
		value := s.Linux.Sysctl[key]
		what := fmt.Sprintf("set sysctl %s to %q", key, value)
		fd := c.slot()
		c.call(what, unix.SYS_OPENAT, cwdFD, c.str("/proc/sys/"+file), named(unix.O_WRONLY|unix.O_CLOEXEC|unix.O_NOFOLLOW, "O_WRONLY|O_NOFOLLOW")).to(fd).
			hint(unix.ENOENT, "the kernel has no such parameter")
		c.call(what, unix.SYS_WRITE, fd.arg(), c.blob([]byte(value), strconv.Quote(value)), imm(len(value))).
			hint(unix.EINVAL, "the value is out of the parameter's range")
	}
	return nil
}

// SysctlFile translates a key with dots (or slashes) to a path below /proc/sys,
// and refuses parameters of the whole host. The list is namespaces(7)'s.
func SysctlFile(s *specs.Spec, key string) (string, error) {
	file := key
	if i := strings.IndexAny(key, "./"); i >= 0 && key[i] == '.' {
		// sysctl(8): dots separate, and a slash is a dot within a name.
		file = strings.Map(func(r rune) rune {
			switch r {
			case '.':
				return '/'
			case '/':
				return '.'
			}
			return r
		}, key)
	}
	if !pathIsLocal(file) {
		return "", fmt.Errorf("cannot set sysctl %q: not a parameter's name", key)
	}
	need := func(t specs.LinuxNamespaceType, name string) error {
		if hasNamespace(s, t) {
			return nil
		}
		return fmt.Errorf("cannot set sysctl %q: the container uses the host's %s namespace; set it on the host", key, name)
	}
	switch {
	case strings.HasPrefix(file, "net/"):
		return file, need(specs.NetworkNamespace, "network")
	case strings.HasPrefix(file, "fs/mqueue/"),
		slices.Contains([]string{"kernel/msgmax", "kernel/msgmnb", "kernel/msgmni", "kernel/sem", "kernel/shmall", "kernel/shmmax", "kernel/shmmni", "kernel/shm_rmid_forced"}, file):
		return file, need(specs.IPCNamespace, "ipc")
	case file == "kernel/domainname", file == "kernel/hostname":
		return file, need(specs.UTSNamespace, "uts")
	}
	return "", fmt.Errorf("cannot set sysctl %q: it is not namespaced and would change the host; set it on the host", key)
}

func pathIsLocal(p string) bool {
	return p != "" && !path.IsAbs(p) && path.Clean(p) == p && p != ".." && !strings.HasPrefix(p, "../")
}

// processFacts are what compiling the process part depends on.
type processFacts struct {
	stdio    [3]stdioFact
	terminal bool // descriptor "terminal" is the slave side
	wait     bool // descriptor "release" is read before execve
	prepared bool // and before that, all is told to be mounted
	step     bool // descriptor "step" executes the command, and writes to "report"
	bound    bool // the command is not executed if the starter is gone
	limits   func(resource int) unix.Rlimit
	filter   *seccomp.Filter
}

// stdioFact describes one of the standard streams.
type stdioFact struct {
	given bool // else /dev/null
	// chown: it is a pipe or FIFO, which the container's user must own in order
	// to open /dev/stdout.
	chown bool
}
