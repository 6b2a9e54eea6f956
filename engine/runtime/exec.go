package runtime

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/stack-run/stack/engine/seccomp"
)

// ExecConfig says how to run one more process in a running container.
type ExecConfig struct {
	// Target is the container's first process, in this process's pid namespace,
	// and StartTicks its start time, so that a reused pid is never entered.
	Target     int
	StartTicks uint64
	// Process is what to run. With Terminal set it gets a terminal of the
	// container's /dev/pts.
	Process *specs.Process

	// CgroupFD and CgroupProcs are as in Config.
	CgroupFD    *os.File
	CgroupProcs []*os.File

	Stdin, Stdout, Stderr *os.File

	// Seccomp is the compiled filter; nil compiles Profile, and with that nil
	// too there is none.
	Seccomp *seccomp.Filter
	Profile *specs.LinuxSeccomp

	// Stalled is asked now and then, while the process does not get as far as its
	// command, whether to wait on: the container may have been frozen meanwhile.
	// An error ends the process. Loosen is called before a process that does not
	// run its command yet is killed: to a process that the cgroup v1 freezer
	// stopped, a signal comes only once it is out of that. Both may be nil.
	Stalled func(p *Process) error
	Loosen  func(p *Process)

	// Created and Warn are as in Config.
	Created func(p *Process) error
	Warn    func(message string)
}

// Exec runs a process in all namespaces of a running one. The new process is
// the caller's child; if the caller dies before the command is executed, it is
// not. It returns ErrGone if the target has ended.
func Exec(ctx context.Context, cfg *ExecConfig) (*Process, error) {
	if err := validateProcess(cfg.Process); err != nil {
		return nil, err
	}
	k, err := kernel()
	if err != nil {
		return nil, err
	}
	target, err := Adopt(cfg.Target, cfg.StartTicks)
	if err != nil {
		return nil, err
	}
	defer target.Close()
	l := &launch{fds: map[string]int{}, warn: cfg.Warn, created: cfg.Created, cgroup: cfg.CgroupFD, pidns: target.PidFD,
		stalled: cfg.Stalled, loosen: cfg.Loosen}
	defer l.close()
	l.give("target", target.PidFD)
	for i, f := range cfg.CgroupProcs {
		l.give("cgroup "+strconv.Itoa(i), f)
	}
	userns, err := differentUserNamespace(cfg.Target)
	if err != nil {
		return nil, err
	}
	facts, err := l.process(cfg.Profile, cfg.Seccomp, [3]*os.File{cfg.Stdin, cfg.Stdout, cfg.Stderr}, cfg.Process.Terminal)
	if err != nil {
		return nil, err
	}
	facts.bound = true
	if cfg.Process.Terminal {
		if err := l.terminalOf(target, cfg.Process.ConsoleSize); err != nil {
			return nil, err
		}
	}
	if err := l.nullStreams(target, &facts); err != nil {
		return nil, err
	}
	if userns {
		ids, err := UserIDs(cfg.Target)
		if err != nil {
			return nil, err
		}
		if uid, ok := ids.Host(cfg.Process.User.UID); ok {
			l.handOver(&facts, uid)
		}
	}
	prog, warnings, err := compileExec(cfg.Process, execFacts{kernel: k, process: facts, cgroups: len(cfg.CgroupProcs), userNamespace: userns})
	if err != nil {
		return nil, err
	}
	p, err := l.run(ctx, prog, warnings)
	if errors.Is(err, unix.ESRCH) {
		err = fmt.Errorf("%w: pid %d", ErrGone, cfg.Target)
	}
	return p, err
}

// execFacts are what compiling an exec's program depends on.
type execFacts struct {
	kernel        kernelFacts
	process       processFacts
	cgroups       int
	userNamespace bool // the target has one of its own
}

// compileExec translates a process into the program that runs it in the
// namespaces of the process behind descriptor "target".
func compileExec(p *specs.Process, f execFacts) (*program, []string, error) {
	c := &compiler{}
	c.join(f.cgroups)
	c.oomScore(p.OOMScoreAdj)
	flags := uint64(unix.CLONE_NEWNS | unix.CLONE_NEWNET | unix.CLONE_NEWIPC | unix.CLONE_NEWUTS | unix.CLONE_NEWCGROUP | unix.CLONE_NEWPID)
	text := "CLONE_NEWNS|CLONE_NEWNET|CLONE_NEWIPC|CLONE_NEWUTS|CLONE_NEWCGROUP|CLONE_NEWPID"
	if f.userNamespace {
		c.raise(p, f.process)
		flags |= unix.CLONE_NEWUSER
		text += "|CLONE_NEWUSER"
	}
	c.call("enter the container", unix.SYS_SETNS, c.fd("target"), named(flags, text)).
		hint(unix.EPERM, "this needs CAP_SYS_ADMIN: run as root")
	if f.userNamespace {
		f.kernel.permitted = 1<<(f.kernel.lastCap+1) - 1
	}
	if err := c.process(p, f.process, f.kernel, false); err != nil {
		return nil, nil, err
	}
	return &c.program, c.warnings, nil
}

func differentUserNamespace(pid int) (bool, error) {
	own, err := os.Readlink("/proc/self/ns/user")
	if err != nil {
		return false, err
	}
	theirs, err := os.Readlink("/proc/" + strconv.Itoa(pid) + "/ns/user")
	if err != nil {
		return false, fmt.Errorf("%w: pid %d", ErrGone, pid)
	}
	return own != theirs, nil
}

// inRoot opens a path inside the target's root, with O_PATH.
func inRoot(target *Process, path string) (int, error) {
	root, err := unix.Open("/proc/"+strconv.Itoa(target.PID)+"/root", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("%w: pid %d", ErrGone, target.PID)
	}
	defer unix.Close(root)
	return unix.Openat2(root, strings.TrimPrefix(path, "/"), &unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS})
}

// device opens a character device of the target, after making sure that it is
// that device and not something the container put there (a FIFO would block).
func device(target *Process, path string, major, minor uint32) (fd int, err error) {
	fd, err = inRoot(target, path)
	if err != nil {
		return -1, fmt.Errorf("cannot open %s of the container: %w", path, err)
	}
	var st unix.Stat_t
	err = unix.Fstat(fd, &st)
	if err == nil && (st.Mode&unix.S_IFMT != unix.S_IFCHR || st.Rdev != unix.Mkdev(major, minor)) {
		err = fmt.Errorf("it is not the device %d:%d", major, minor)
	}
	if err != nil {
		unix.Close(fd)
		return -1, fmt.Errorf("cannot use %s of the container: %w", path, err)
	}
	return fd, nil
}

// terminalOf opens a terminal in the target's devpts.
func (l *launch) terminalOf(target *Process, size *specs.Box) error {
	fd, err := device(target, "/dev/pts/ptmx", 5, 2)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return l.terminal(unix.AT_FDCWD, "/proc/self/fd/"+strconv.Itoa(fd), size)
}

// nullStreams makes missing streams the container's /dev/null. It is not the
// host's, whose mode and owner a process could change through a descriptor.
func (l *launch) nullStreams(target *Process, f *processFacts) error {
	if f.terminal {
		return nil
	}
	var null *os.File
	for i := range f.stdio {
		if f.stdio[i].given {
			continue
		}
		if null == nil {
			fd, err := device(target, "/dev/null", 1, 3)
			if err != nil {
				return err
			}
			file, err := os.OpenFile("/proc/self/fd/"+strconv.Itoa(fd), os.O_RDWR, 0)
			unix.Close(fd)
			if err != nil {
				return fmt.Errorf("cannot open /dev/null of the container: %w", err)
			}
			l.keep("null", file)
			null = file
		}
		l.give(stdioNames[i], null)
		f.stdio[i].given = true
	}
	return nil
}
