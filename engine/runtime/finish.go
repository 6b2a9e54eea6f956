package runtime

import (
	"encoding/binary"
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// initName is how the init process appears in ps, and initChild the variable
// that tells it its child's pid.
const (
	initName  = "/sbin/docker-init"
	initChild = "INIT_CHILD="
)

// rlimitNumbers is getrlimit(2) by name.
var rlimitNumbers = map[string]int{
	"RLIMIT_AS": unix.RLIMIT_AS, "RLIMIT_CORE": unix.RLIMIT_CORE, "RLIMIT_CPU": unix.RLIMIT_CPU, "RLIMIT_DATA": unix.RLIMIT_DATA,
	"RLIMIT_FSIZE": unix.RLIMIT_FSIZE, "RLIMIT_LOCKS": unix.RLIMIT_LOCKS, "RLIMIT_MEMLOCK": unix.RLIMIT_MEMLOCK,
	"RLIMIT_MSGQUEUE": unix.RLIMIT_MSGQUEUE, "RLIMIT_NICE": unix.RLIMIT_NICE, "RLIMIT_NOFILE": unix.RLIMIT_NOFILE,
	"RLIMIT_NPROC": unix.RLIMIT_NPROC, "RLIMIT_RSS": unix.RLIMIT_RSS, "RLIMIT_RTPRIO": unix.RLIMIT_RTPRIO,
	"RLIMIT_RTTIME": unix.RLIMIT_RTTIME, "RLIMIT_SIGPENDING": unix.RLIMIT_SIGPENDING, "RLIMIT_STACK": unix.RLIMIT_STACK,
}

const (
	capSetPCAP     = 8
	capSysAdmin    = 21
	capSysResource = 24
)

// process is the common end of a container's and of an exec's program: from a
// child inside the container's namespaces to execve.
func (c *compiler) process(p *specs.Process, f processFacts, k kernelFacts, init bool) error {
	caps, lacking, err := parseCapabilities(p.Capabilities, k.permitted)
	if err != nil {
		return err
	}
	if len(lacking) > 0 {
		c.warnings = append(c.warnings, fmt.Sprintf("the process does not get %s: this process does not have it", strings.Join(lacking, ", ")))
	}
	if f.prepared {
		c.call("tell that the root file system is ready", unix.SYS_WRITE, c.fd("report"), c.blob(record{recordPrepared, 0}.bytes(), "prepared"), imm(recordSize)).with(full)
	}
	if f.wait {
		one := c.blob([]byte{0}, "buffer")
		c.call("start the process: its starter is gone", unix.SYS_READ, c.fd("release"), one, imm(1)).with(full)
	}
	c.labels(p)
	c.session(p, f)
	// Nothing of the host's stays open when paths of the container's choosing
	// are followed (the working directory could be /proc/self/fd/N).
	var kept []arg
	if init {
		kept = append(kept, c.fd("init"))
	}
	// A label is for the next execve, which must be the command's.
	f.step = f.step && p.SelinuxLabel == ""
	if f.step {
		kept = append(kept, c.fd("step"))
	}
	c.call("close descriptors", callCloseBut, kept...).with(optional)
	cwd := c.str(p.Cwd)
	chdir := c.slot()
	cwdWhat := "change to the working directory " + p.Cwd
	c.call(cwdWhat, unix.SYS_CHDIR, cwd).to(chdir).expect(unix.EACCES)
	if err := c.limits(p, f, k); err != nil {
		return err
	}
	c.identity(p, f, k, caps)
	c.call(cwdWhat, unix.SYS_CHDIR, cwd).if_(chdir.failed())
	c.privileges(p, f, k, caps)
	c.execute(p, f, init)
	return nil
}

// limits sets resource limits. A hard limit can be raised with CAP_SYS_RESOURCE
// only; without it the limit stays where it is, with a warning.
func (c *compiler) limits(p *specs.Process, f processFacts, k kernelFacts) error {
	for _, l := range p.Rlimits {
		n, ok := rlimitNumbers[l.Type]
		if !ok {
			return fmt.Errorf("unknown resource limit %q; getrlimit(2) lists them", l.Type)
		}
		if l.Soft > l.Hard {
			return fmt.Errorf("cannot set %s: the soft limit %s is above the hard limit %s", l.Type, limitText(l.Soft), limitText(l.Hard))
		}
		soft, hard := l.Soft, l.Hard
		if k.permitted&(1<<capSysResource) == 0 {
			if now := f.limits(n); hard > now.Max {
				c.warnings = append(c.warnings, fmt.Sprintf("%s is %s instead of %s: raising a hard limit needs CAP_SYS_RESOURCE", l.Type, limitText(now.Max), limitText(hard)))
				hard = now.Max
				soft = min(soft, hard)
			}
		}
		c.call(fmt.Sprintf("set %s to %s:%s", l.Type, limitText(soft), limitText(hard)), unix.SYS_PRLIMIT64, imm(0), named(uint64(n), l.Type),
			c.words(fmt.Sprintf("{%s, %s}", limitText(soft), limitText(hard)), soft, hard), null).
			hint(unix.EPERM, "the limit is above what the kernel allows (for RLIMIT_NOFILE: /proc/sys/fs/nr_open)")
	}
	return nil
}

func limitText(v uint64) string {
	if v == unix.RLIM_INFINITY {
		return "unlimited"
	}
	return strconv.FormatUint(v, 10)
}

// oomScore runs while the host's /proc is still there.
func (c *compiler) oomScore(adj *int) {
	if adj == nil {
		return
	}
	v := strconv.Itoa(*adj)
	what := "set oom_score_adj to " + v
	fd := c.slot()
	c.call(what, unix.SYS_OPENAT, cwdFD, c.str("/proc/self/oom_score_adj"), named(unix.O_WRONLY|unix.O_CLOEXEC, "O_WRONLY")).to(fd)
	c.call(what, unix.SYS_WRITE, fd.arg(), c.str(v), imm(len(v))).with(report|optional).as(roleWarn).
		hint(unix.EACCES, "lowering it needs CAP_SYS_RESOURCE")
}

// labels sets the security modules' labels for the coming execve.
func (c *compiler) labels(p *specs.Process) {
	for _, l := range []struct{ label, prefix, file, what string }{
		{p.SelinuxLabel, "", "/proc/self/attr/exec", "set the SELinux label " + p.SelinuxLabel},
		{p.ApparmorProfile, "exec ", "/proc/self/attr/apparmor/exec", "set the AppArmor profile " + p.ApparmorProfile},
	} {
		if l.label == "" {
			continue
		}
		value := l.prefix + l.label
		fd := c.slot()
		c.call(l.what, unix.SYS_OPENAT, cwdFD, c.str(l.file), named(unix.O_WRONLY|unix.O_CLOEXEC|unix.O_NOFOLLOW, "O_WRONLY|O_NOFOLLOW")).to(fd).
			hint(unix.ENOENT, "the security module is not enabled on this host")
		c.call(l.what, unix.SYS_WRITE, fd.arg(), c.str(value), imm(len(value))).with(full).
			hint(unix.ENOENT, "the profile is not loaded")
	}
}

// session makes the child a session leader and puts its standard streams in place.
func (c *compiler) session(p *specs.Process, f processFacts) {
	c.call("start a session", unix.SYS_SETSID)
	if f.terminal {
		const what = "attach the terminal"
		for i := range 3 {
			c.call(what, unix.SYS_DUP3, c.fd("terminal"), imm(i), imm(0))
		}
		c.call(what, unix.SYS_IOCTL, imm(0), named(unix.TIOCSCTTY, "TIOCSCTTY"), imm(0))
		c.call(what, unix.SYS_FCHOWN, imm(0), imm(p.User.UID), named(^uint64(0), "-1")).with(optional)
		return
	}
	// Copies first, so that putting one in place does not overwrite another.
	var copies [3]slot
	for i, name := range stdioNames {
		copies[i] = c.slot()
		what := "attach " + name
		if f.stdio[i].given {
			c.call(what, unix.SYS_FCNTL, c.fd(name), named(unix.F_DUPFD_CLOEXEC, "F_DUPFD_CLOEXEC"), imm(3)).to(copies[i])
		} else {
			c.call(what, unix.SYS_OPENAT, cwdFD, c.str("/dev/null"), named(unix.O_RDWR|unix.O_CLOEXEC|unix.O_NOFOLLOW, "O_RDWR|O_NOFOLLOW")).to(copies[i])
		}
	}
	for i, name := range stdioNames {
		c.call("attach "+name, unix.SYS_DUP3, copies[i].arg(), imm(i), imm(0))
		if f.stdio[i].chown && p.User.UID != 0 {
			c.call("own "+name, unix.SYS_FCHOWN, imm(i), imm(p.User.UID), named(^uint64(0), "-1")).with(optional)
		}
	}
}

var stdioNames = [3]string{"stdin", "stdout", "stderr"}

// identity drops bounding capabilities and becomes the user, keeping the
// permitted capabilities for the calls that follow.
func (c *compiler) identity(p *specs.Process, f processFacts, k kernelFacts, caps capSets) {
	umask := uint32(0o022)
	if p.User.Umask != nil {
		umask = *p.User.Umask
	}
	c.call("set the umask", unix.SYS_UMASK, named(uint64(umask), "0"+strconv.FormatUint(uint64(umask), 8)))
	for n := 0; n <= k.lastCap; n++ {
		if caps.bounding&(1<<n) == 0 && k.permitted&(1<<capSetPCAP) != 0 {
			c.call("drop a capability from the bounding set", unix.SYS_PRCTL, named(unix.PR_CAPBSET_DROP, "PR_CAPBSET_DROP"), capArg(n))
		}
	}
	c.call("keep capabilities", unix.SYS_PRCTL, named(unix.PR_SET_KEEPCAPS, "PR_SET_KEEPCAPS"), imm(1))
	gids := make([]byte, 0, 4*len(p.User.AdditionalGids))
	for _, g := range p.User.AdditionalGids {
		gids = binary.NativeEndian.AppendUint32(gids, g)
	}
	c.call("set the additional groups", unix.SYS_SETGROUPS, imm(len(p.User.AdditionalGids)), c.blob(gids, fmt.Sprint(p.User.AdditionalGids)))
	gid, uid := imm(p.User.GID), imm(p.User.UID)
	c.call(fmt.Sprintf("become group %d", p.User.GID), unix.SYS_SETRESGID, gid, gid, gid).hint(unix.EINVAL, "the group is not mapped in the user namespace")
	c.call(fmt.Sprintf("become user %d", p.User.UID), unix.SYS_SETRESUID, uid, uid, uid).hint(unix.EINVAL, "the user is not mapped in the user namespace")
}

// privileges loads the filter and reduces the capabilities. Loading needs
// CAP_SYS_ADMIN unless new privileges are given up; with it the filter comes
// as late as possible, so that it must allow little more than execve.
func (c *compiler) privileges(p *specs.Process, f processFacts, k kernelFacts, caps capSets) {
	if p.NoNewPrivileges {
		c.call("set no_new_privs", unix.SYS_PRCTL, named(unix.PR_SET_NO_NEW_PRIVS, "PR_SET_NO_NEW_PRIVS"), imm(1), imm(0), imm(0), imm(0))
	} else if f.filter != nil {
		if p.User.UID != 0 { // setresuid cleared the effective set
			c.capset(k.permitted, k.permitted, 0)
		}
		c.filter(f)
	}
	c.capset(caps.effective, caps.permitted, caps.inheritable)
	c.call("clear the ambient capabilities", unix.SYS_PRCTL, named(unix.PR_CAP_AMBIENT, "PR_CAP_AMBIENT"), named(unix.PR_CAP_AMBIENT_CLEAR_ALL, "CLEAR_ALL"), imm(0), imm(0), imm(0))
	for n := range 64 {
		if caps.ambient&(1<<n) != 0 {
			c.call("raise an ambient capability", unix.SYS_PRCTL, named(unix.PR_CAP_AMBIENT, "PR_CAP_AMBIENT"), named(unix.PR_CAP_AMBIENT_RAISE, "RAISE"), capArg(n), imm(0), imm(0))
		}
	}
	if p.NoNewPrivileges && f.filter != nil {
		c.filter(f)
	}
}

func capArg(n int) arg {
	if n < len(capabilityNames) {
		return named(uint64(n), capabilityNames[n])
	}
	return imm(n)
}

func (c *compiler) capset(effective, permitted, inheritable uint64) {
	head := binary.NativeEndian.AppendUint32(nil, unix.LINUX_CAPABILITY_VERSION_3)
	head = binary.NativeEndian.AppendUint32(head, 0)
	var data []byte
	for shift := 0; shift <= 32; shift += 32 {
		for _, set := range []uint64{effective, permitted, inheritable} {
			data = binary.NativeEndian.AppendUint32(data, uint32(set>>shift))
		}
	}
	c.call("set the capabilities", unix.SYS_CAPSET, c.blob(head, "{version 3}"),
		c.blob(data, fmt.Sprintf("{effective=%#x, permitted=%#x, inheritable=%#x}", effective, permitted, inheritable)))
}

// filter loads the seccomp filter.
func (c *compiler) filter(f processFacts) {
	prog := make([]byte, 0, 8*len(f.filter.Program))
	for _, i := range f.filter.Program {
		prog = binary.NativeEndian.AppendUint16(prog, i.Code)
		prog = append(prog, i.Jt, i.Jf)
		prog = binary.NativeEndian.AppendUint32(prog, i.K)
	}
	code := c.blob(prog, "")
	fprog := c.words(fmt.Sprintf("{%d instructions}", len(f.filter.Program)), 0, 0)
	binary.NativeEndian.PutUint16(c.data[fprog.v:], uint16(len(f.filter.Program)))
	c.relocs = append(c.relocs, reloc{int(fprog.v) + 8, int(code.v)})
	c.call("load the seccomp filter", unix.SYS_SECCOMP, named(unix.SECCOMP_SET_MODE_FILTER, "SET_MODE_FILTER"), imm(f.filter.Flags), fprog).
		hint(unix.EINVAL, "the profile is too long or uses a flag the kernel does not know").
		hint(unix.EACCES, "this needs CAP_SYS_ADMIN or no-new-privileges")
}

// execute runs the command, in a child of its own when there is an init.
func (c *compiler) execute(p *specs.Process, f processFacts, init bool) {
	c.call("reset the signal actions", callDefaultSignals)
	argv, env := c.vector(p.Args), c.vector(p.Env)
	c.command = p.Args[0]
	var when cond
	var child slot
	if init {
		child = c.slot()
		when = child.zero()
		c.call("fork from the init process", unix.SYS_CLONE, named(uint64(unix.SIGCHLD), "SIGCHLD"), imm(0), imm(0), imm(0), imm(0)).to(child)
		c.call("make a process group", unix.SYS_SETPGID, imm(0), imm(0)).if_(when)
		if p.Terminal {
			// The child is in a background group still; its SIGTTOU is blocked.
			const what = "make the foreground process group"
			self := c.slot()
			c.call(what, unix.SYS_GETPID).to(self).if_(when)
			c.call(what, unix.SYS_IOCTL, imm(0), named(unix.TIOCSPGRP, "TIOCSPGRP"), self.address()).if_(when).with(optional)
		}
	}
	ready := c.call("report readiness", callReady).if_(when)
	if !f.bound {
		ready.with(optional)
	}
	// Signals were blocked until here. A SIGPIPE because of a parent that died
	// meanwhile must not end the command.
	c.call("forget SIGPIPE", unix.SYS_RT_SIGTIMEDWAIT, c.words("{SIGPIPE}", 1<<(unix.SIGPIPE-1)), null, c.words("{0 s}", 0, 0), imm(8)).if_(when).with(optional)
	if f.step {
		c.executeStep(p, env, when)
	} else {
		c.executeDirectly(p, argv, env, when)
	}
	if !init {
		return
	}
	variable := c.blob(append([]byte(initChild), make([]byte, 24)...), initChild)
	number := variable
	number.v += uint64(len(initChild))
	c.call("tell the init process its child", callDecimal, number, child.arg())
	initArgv := c.vector(slices.Concat([]string{initName, "--"}, p.Args))
	initEnv := c.vector(append([]string{""}, p.Env...))
	// The first variable is the one written above.
	i := slices.IndexFunc(c.relocs, func(r reloc) bool { return r.at == int(initEnv.v) })
	c.relocs[i].to = int(variable.v)
	c.call("start the init process", unix.SYS_EXECVEAT, c.fd("init"), c.str(""), initArgv, initEnv, named(unix.AT_EMPTY_PATH, "AT_EMPTY_PATH"))
}

// unblock lets the signals through that were blocked since the fork.
func (c *compiler) unblock(when cond) {
	c.call("unblock signals", unix.SYS_RT_SIGPROCMASK, named(unix.SIG_SETMASK, "SIG_SETMASK"), c.words("{}", 0), null, imm(8)).if_(when)
}

// executeStep has the step execute the command.
func (c *compiler) executeStep(p *specs.Process, env arg, when cond) {
	c.candidates = candidates(p.Args[0], searchPath(p.Env))
	report := c.fd("report")
	c.call("keep the report open", unix.SYS_FCNTL, report, named(unix.F_SETFD, "F_SETFD"), imm(0)).if_(when)
	first := c.blob(append([]byte(stepMagic), make([]byte, 24)...), stepMagic)
	number := first
	number.v += uint64(len(stepMagic))
	c.call("tell where to report to", callDecimal, number, report).if_(when)
	// The first argument is the one written above.
	argv := c.vector(slices.Concat([]string{stepMagic}, c.candidates, []string{""}, p.Args))
	i := slices.IndexFunc(c.relocs, func(r reloc) bool { return r.at == int(argv.v) })
	c.relocs[i].to = int(first.v)
	c.unblock(when)
	c.call("execute "+p.Args[0], unix.SYS_EXECVEAT, c.fd("step"), c.str(""), argv, env, named(unix.AT_EMPTY_PATH, "AT_EMPTY_PATH")).if_(when)
}

// executeDirectly is for where the step cannot be used.
func (c *compiler) executeDirectly(p *specs.Process, argv, env arg, when cond) {
	c.unblock(when)
	for _, candidate := range candidates(p.Args[0], searchPath(p.Env)) {
		e, present := c.slot(), c.slot()
		file := c.str(candidate)
		c.call(candidate, unix.SYS_EXECVE, file, argv, env).to(e).if_(when).expect(unix.ENOENT, unix.ENOTDIR, unix.EACCES).with(report).as(roleExecve)
		c.call(candidate, unix.SYS_FACCESSAT, cwdFD, file, imm(0)).to(present).if_(e.failed()).with(optional | reportOK).as(rolePresent)
		// A file that exists is an answer; the search goes on past EACCES only, as execvp(3)'s.
	}
	c.call(p.Args[0], callFail, imm(unix.ENOENT)).if_(when).as(roleNone)
}

// candidates lists the files that execvp(3) would try for a command.
func candidates(command, search string) []string {
	if strings.ContainsRune(command, '/') {
		return []string{command}
	}
	var out []string
	for dir := range strings.SplitSeq(search, ":") {
		if dir == "" {
			dir = "."
		}
		if f := path.Join(dir, command); dir == "." {
			out = append(out, "./"+command)
		} else if !slices.Contains(out, f) {
			out = append(out, f)
		}
	}
	return out
}

const defaultSearchPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

func searchPath(env []string) string {
	for i := len(env) - 1; i >= 0; i-- {
		if v, ok := strings.CutPrefix(env[i], "PATH="); ok {
			return v
		}
	}
	return defaultSearchPath
}
