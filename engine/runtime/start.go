package runtime

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	goruntime "runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/stack-run/stack/engine/seccomp"
)

// Config says how to start a container.
type Config struct {
	// Spec is the resolved specification. Root.Path is not used when RootFS is
	// given; Process.Terminal asks for a terminal.
	Spec *specs.Spec
	// RootFS is a detached mount of the root file system, as fsmount(2) and
	// open_tree(2) return it. The container takes the mount; the caller closes
	// the descriptor.
	RootFS *os.File
	// MountFDs are detached mounts by index in Spec.Mounts, each of a directory
	// or a file. Bind mounts without one are opened by their source path.
	MountFDs map[int]*os.File

	// DeviceSources are where on this host device nodes are, by their place in the
	// container; for a process that may not make any. /dev/char and /dev/block have
	// the others by number.
	DeviceSources map[string]string

	// CgroupFD is a cgroup v2 directory to be born in, or nil.
	CgroupFD *os.File
	// CgroupProcs are files to write "0" into: "tasks" of cgroup v1 hierarchies.
	// ("cgroup.procs" means the same here, but takes a lock that waits for an
	// RCU grace period, 5 to 30 ms.)
	CgroupProcs []*os.File

	// Stdin, Stdout and Stderr are the standard streams without a terminal; nil
	// is /dev/null. They become blocking, as with os/exec, and pipes are given
	// to the container's user.
	Stdin, Stdout, Stderr *os.File

	// Seccomp is the compiled filter; nil compiles Spec.Linux.Seccomp.
	Seccomp *seccomp.Filter
	// Init runs the command under a small init process that reaps zombies and
	// forwards signals.
	Init bool

	// Created is called when the process exists but does not run its command
	// yet: the place to record it. An error stops it from running.
	Created func(p *Process) error
	// Prepared is called after Created, once the root file system is mounted and all
	// namespaces are made, and before anything of the container runs: the moment for
	// hooks. May be nil; it needs Created.
	Prepared func(p *Process) error
	// Program gets the program of system calls that the process is going to run before
	// the command, in words. May be nil.
	Program func(text string)
	// Warn is told what could not be granted. May be nil.
	Warn func(message string)
}

// Start starts a container's first process and returns when its command runs.
// On an error nothing is left behind. A command that cannot be executed is a
// *CommandError.
func Start(ctx context.Context, cfg *Config) (*Process, error) {
	s := cfg.Spec
	if err := validate(s); err != nil {
		return nil, err
	}
	k, err := kernel()
	if err != nil {
		return nil, err
	}
	if len(cfg.CgroupProcs) > 0 && namespaced(s, specs.CgroupNamespace) {
		k.hierarchies = joined(k.hierarchies, cfg.CgroupProcs)
	}
	l := &launch{fds: map[string]int{}, warn: cfg.Warn, created: cfg.Created, prepared: cfg.Prepared, cgroup: cfg.CgroupFD}
	defer l.close()
	root, err := l.root(cfg)
	if err != nil {
		return nil, err
	}
	facts := startFacts{kernel: k, cgroups: len(cfg.CgroupProcs), init: cfg.Init, bindDevices: k.permitted&(1<<capMknod) == 0}
	l.give("root", root)
	for i, f := range cfg.CgroupProcs {
		l.give("cgroup "+strconv.Itoa(i), f)
	}
	if facts.mounts, err = l.mounts(cfg, root); err != nil {
		return nil, err
	}
	if facts.cwd, err = resolveInRoot(root, s.Process.Cwd); err != nil {
		return nil, fmt.Errorf("cannot use the working directory %s: %w", s.Process.Cwd, err)
	}
	if err := l.namespaces(s); err != nil {
		return nil, err
	}
	if _, ok := namespacePath(s, specs.UserNamespace); ok {
		facts.bindDevices = true
		if facts.foreignNet, err = l.owned(s); err != nil {
			return nil, err
		}
	}
	if facts.bindDevices {
		if err := l.devices(s, cfg.DeviceSources); err != nil {
			return nil, err
		}
	}
	if cfg.Init {
		if err := l.init(); err != nil {
			return nil, err
		}
	}
	facts.process, err = l.process(s.Linux.Seccomp, cfg.Seccomp, [3]*os.File{cfg.Stdin, cfg.Stdout, cfg.Stderr}, s.Process.Terminal)
	if err != nil {
		return nil, err
	}
	if s.Process.Terminal {
		if err := l.newTerminal(s, &facts); err != nil {
			return nil, err
		}
	}
	if ids := IDs(s.Linux.UIDMappings); len(ids) > 0 {
		uid, ok := ids.Host(s.Process.User.UID)
		if !ok {
			return nil, fmt.Errorf("cannot start the process as user %d: the container's user namespace has no such user", s.Process.User.UID)
		}
		l.handOver(&facts.process, uid)
	}
	prog, warnings, err := compileStart(s, facts)
	if err != nil {
		return nil, err
	}
	if cfg.Program != nil {
		cfg.Program(prog.String())
	}
	return l.run(ctx, prog, warnings)
}

const capMknod = 27

// joined keeps the cgroup v1 hierarchies that the container gets a cgroup of its
// own in. In the others it stays where its maker is, often in the root: mounted,
// they would show the host's files, such as release_agent.
func joined(hierarchies []string, procs []*os.File) []string {
	var out []string
	for _, h := range hierarchies {
		dir := "/" + strings.TrimPrefix(h, "name=") + "/"
		if slices.ContainsFunc(procs, func(f *os.File) bool { return strings.Contains(f.Name(), dir) }) {
			out = append(out, h)
		}
	}
	return out
}

// namespaced tells whether a specification asks for a new namespace of a kind.
func namespaced(s *specs.Spec, kind specs.LinuxNamespaceType) bool {
	return slices.ContainsFunc(s.Linux.Namespaces, func(n specs.LinuxNamespace) bool { return n.Type == kind && n.Path == "" })
}

// launch is the parent's side of one start: the descriptors it opens for the
// child, and the child while it is not running yet.
type launch struct {
	fds     map[string]int
	own     []*os.File // to close at the end
	cgroup  *os.File
	warn    func(string)
	created func(*Process) error
	// prepared is called on a record of its own, and only then the child is released.
	prepared func(*Process) error
	console  *os.File // the master side, until the process has it
	pidns    *os.File // to clone into, nil for the present one
	release  *os.File // the write end of the pipe that lets the child run
	// stalled is asked now and then whether a child that does not get ready
	// should go on, and loosen is called before a child is killed. Both may be nil.
	stalled func(*Process) error
	loosen  func(*Process)
}

// killBound is how long a killed process may take to end, and stallTick how often
// one that does not get ready is looked at.
const (
	killBound = 10 * time.Second
	stallTick = 100 * time.Millisecond
)

// kill ends a child that is not running its command yet.
func (l *launch) kill(p *Process) {
	if l.loosen != nil {
		l.loosen(p)
	}
	p.Signal(unix.SIGKILL)
}

// give lends the child a descriptor that the caller owns.
func (l *launch) give(name string, f *os.File) { l.fds[name] = fdOf(f) }

// keep hands the child a descriptor that this launch owns.
func (l *launch) keep(name string, f *os.File) {
	l.own = append(l.own, f)
	l.fds[name] = fdOf(f)
}

// fdOf is f.Fd without its side effect of making the file blocking.
func fdOf(f *os.File) int {
	fd := -1
	if conn, err := f.SyscallConn(); err == nil {
		conn.Control(func(n uintptr) { fd = int(n) })
	}
	return fd
}

func (l *launch) close() {
	if l.console != nil {
		l.console.Close()
	}
	for _, f := range l.own {
		f.Close()
	}
}

// root returns the detached mount of the root file system.
func (l *launch) root(cfg *Config) (*os.File, error) {
	if cfg.RootFS != nil {
		return cfg.RootFS, nil
	}
	if cfg.Spec.Root == nil || cfg.Spec.Root.Path == "" {
		return nil, errors.New("cannot start a container without a root file system")
	}
	f, err := openTree(cfg.Spec.Root.Path, true)
	if err != nil {
		return nil, fmt.Errorf("cannot open the root file system: %w", err)
	}
	l.own = append(l.own, f)
	return f, nil
}

// openTree returns a detached copy of the mount at path.
func openTree(path string, recursive bool) (*os.File, error) {
	flags := uint(unix.OPEN_TREE_CLONE | unix.OPEN_TREE_CLOEXEC)
	if recursive {
		flags |= unix.AT_RECURSIVE
	}
	fd, err := unix.OpenTree(unix.AT_FDCWD, path, flags)
	if err != nil {
		return nil, &os.PathError{Op: "open_tree", Path: path, Err: err}
	}
	return os.NewFile(uintptr(fd), path), nil
}

// mounts collects or opens the detached mounts and looks at the mount points.
func (l *launch) mounts(cfg *Config, root *os.File) ([]mountFact, error) {
	facts := make([]mountFact, len(cfg.Spec.Mounts))
	for i, m := range cfg.Spec.Mounts {
		f := cfg.MountFDs[i]
		o := parseMountOptions(m.Options)
		name := "mount " + strconv.Itoa(i)
		switch {
		case f != nil:
			l.give(name, f)
		case o.bind || m.Type == "bind":
			var err error
			if f, err = openTree(m.Source, o.rec); err != nil {
				return nil, fmt.Errorf("cannot mount %s at %s: %w", m.Source, m.Destination, err)
			}
			l.keep(name, f)
		}
		if f != nil {
			var st unix.Stat_t
			if err := unix.Fstat(fdOf(f), &st); err != nil {
				return nil, fmt.Errorf("cannot mount %s at %s: %w", m.Source, m.Destination, err)
			}
			facts[i].fd, facts[i].dir = true, st.Mode&unix.S_IFMT == unix.S_IFDIR
			var fs unix.Statfs_t
			facts[i].proc = unix.Fstatfs(fdOf(f), &fs) == nil && fs.Type == unix.PROC_SUPER_MAGIC
		}
		dest := path.Clean(m.Destination)
		// Below another mount the root file system does not say what is there.
		below := slices.ContainsFunc(cfg.Spec.Mounts[:i], func(o specs.Mount) bool { return isBelow(dest, path.Clean(o.Destination)) })
		if !below {
			target, err := resolveInRoot(root, dest)
			if err != nil {
				return nil, fmt.Errorf("cannot mount at %s: %w", m.Destination, err)
			}
			facts[i].target = target
		}
	}
	return facts, nil
}

// namespaces opens the namespaces to join.
func (l *launch) namespaces(s *specs.Spec) error {
	for _, n := range s.Linux.Namespaces {
		if n.Path == "" {
			continue
		}
		f, err := os.Open(n.Path)
		if err != nil {
			return fmt.Errorf("cannot join the %s namespace: %w", n.Type, err)
		}
		if n.Type == specs.PIDNamespace {
			l.own = append(l.own, f)
			l.pidns = f
			continue
		}
		l.keep(string(n.Type)+" namespace", f)
	}
	return nil
}

// owned makes sure that the pid and the IPC namespace to join belong to the user
// namespace to join, for else /proc and /dev/mqueue cannot be mounted, and tells
// whether the network namespace does not.
func (l *launch) owned(s *specs.Spec) (foreignNet bool, err error) {
	user := l.fds[string(specs.UserNamespace)+" namespace"]
	for _, n := range s.Linux.Namespaces {
		fd, ok := l.fds[string(n.Type)+" namespace"]
		if n.Type == specs.PIDNamespace && l.pidns != nil {
			fd, ok = fdOf(l.pidns), true
		}
		if !ok || n.Type == specs.UserNamespace || ownedBy(fd, user) {
			continue
		}
		if n.Type == specs.NetworkNamespace {
			foreignNet = true
			continue
		}
		if n.Type == specs.PIDNamespace || n.Type == specs.IPCNamespace {
			return false, fmt.Errorf("cannot join the %s namespace: it belongs to another user namespace; give both containers the same userns_mode, and share pid and ipc of one container only", n.Type)
		}
	}
	return foreignNet, nil
}

// devices opens the device nodes for a process that may not make any.
func (l *launch) devices(s *specs.Spec, sources map[string]string) error {
	paths := map[string]string{}
	for _, d := range defaultDevices {
		paths["/dev/"+d.name] = "/dev/" + d.name
	}
	for _, d := range s.Linux.Devices {
		paths[path.Clean(d.Path)] = fmt.Sprintf("/dev/%s/%d:%d", map[bool]string{true: "block", false: "char"}[d.Type == "b"], d.Major, d.Minor)
		if source := sources[path.Clean(d.Path)]; source != "" {
			paths[path.Clean(d.Path)] = source
		}
	}
	for target, source := range paths {
		f, err := openTree(source, false)
		if err != nil {
			return fmt.Errorf("cannot give the container the device %s: %w", target, err)
		}
		l.keep("device "+target, f)
	}
	return nil
}

// process prepares what containers and execs have in common.
func (l *launch) process(profile *specs.LinuxSeccomp, filter *seccomp.Filter, stdio [3]*os.File, terminal bool) (processFacts, error) {
	f := processFacts{filter: filter, terminal: terminal, limits: currentLimit}
	if filter == nil && profile != nil {
		var err error
		if f.filter, err = seccomp.Compile(profile); err != nil {
			return f, err
		}
	}
	f.step = l.step(f.filter)
	if !terminal {
		for i, file := range stdio {
			if file == nil {
				continue
			}
			// As os/exec does: a program does not expect EAGAIN from its stdout.
			l.give(stdioNames[i], file)
			unix.SetNonblock(fdOf(file), false)
			f.stdio[i].given = true
			var st unix.Stat_t
			if unix.Fstat(fdOf(file), &st) == nil {
				kind := st.Mode & unix.S_IFMT
				f.stdio[i].chown = kind == unix.S_IFIFO || kind == unix.S_IFSOCK
			}
		}
	}
	if l.created != nil {
		var fds [2]int // not os.Pipe's, which does not block
		if err := unix.Pipe2(fds[:], unix.O_CLOEXEC); err != nil {
			return f, err
		}
		l.keep("release", os.NewFile(uintptr(fds[0]), "release"))
		l.release = os.NewFile(uintptr(fds[1]), "release")
		l.own = append(l.own, l.release)
		f.wait, f.prepared = true, l.prepared != nil
	}
	return f, nil
}

func currentLimit(resource int) unix.Rlimit {
	var r unix.Rlimit
	unix.Getrlimit(resource, &r)
	return r
}

// run forks the child and waits until it executes its command.
func (l *launch) run(ctx context.Context, prog *program, warnings []string) (*Process, error) {
	for _, w := range warnings {
		l.warning(w)
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer r.Close()
	defer w.Close()
	l.give("report", w)
	region, err := prog.link(l.fds, fdOf(w))
	if err != nil {
		return nil, err
	}
	pid, pidfd, err := l.fork(region)
	unix.Munmap(region)
	if err != nil {
		return nil, fmt.Errorf("cannot create a process: %w%s", err, forkHint(err))
	}
	w.Close()
	p := &Process{PID: pid, PidFD: pidfd, Console: l.console}
	o := &outcome{program: prog}
	err = nil
	if prog.forks {
		err = l.follow(ctx, p, r, o)
	}
	if err == nil {
		err = l.watch(ctx, p, r, o)
	}
	if err != nil {
		// This waits for nothing but the kernel; then nothing is left.
		l.kill(p)
		if werr := p.waitFor(killBound); werr != nil {
			err = fmt.Errorf("%w (and the process that was to become it, %d, does not end: %w)", err, p.PID, werr)
		}
		p.Close()
		return nil, err
	}
	l.console = nil
	return p, nil
}

func forkHint(err error) string {
	switch {
	case errors.Is(err, unix.EAGAIN):
		return "; the limit of processes (pids limit, RLIMIT_NPROC) is reached"
	case errors.Is(err, unix.EPERM):
		return "; this needs CAP_SYS_ADMIN: run as root"
	case errors.Is(err, unix.ENOMEM):
		return "; the pid namespace to join has ended, or there is no memory"
	}
	return ""
}

// fork clones, from a thread that has entered the pid namespace to join.
func (l *launch) fork(region []byte) (pid int, pidfd *os.File, err error) {
	cgroup := -1
	if l.cgroup != nil {
		cgroup = fdOf(l.cgroup)
	}
	if l.pidns == nil {
		return fork(region, cgroup)
	}
	own, err := os.Open("/proc/thread-self/ns/pid")
	if err != nil {
		return 0, nil, err
	}
	defer own.Close()
	goruntime.LockOSThread()
	if err := unix.Setns(fdOf(l.pidns), unix.CLONE_NEWPID); err != nil {
		goruntime.UnlockOSThread()
		return 0, nil, fmt.Errorf("cannot join the pid namespace: %w", err)
	}
	pid, pidfd, err = fork(region, cgroup)
	if unix.Setns(fdOf(own), unix.CLONE_NEWPID) == nil {
		goruntime.UnlockOSThread()
	} // else the thread stays locked and ends with this goroutine
	return pid, pidfd, err
}

// follow goes over from a child that forks to the process that goes on.
//
// Where the first is killed between its fork and its word of it, the second is not
// known. It ends by itself then: what it waits for is closed.
func (l *launch) follow(ctx context.Context, p *Process, r *os.File, o *outcome) error {
	stop := context.AfterFunc(ctx, func() { l.kill(p) })
	defer stop()
	var buf [recordSize]byte
	got := 0 // bytes of buf
	for over := false; ; {
		r.SetReadDeadline(time.Now().Add(stallTick))
		n, err := io.ReadFull(r, buf[got:])
		got += n
		switch {
		case err == nil:
		case ctx.Err() != nil:
			return ctx.Err()
		case errors.Is(err, os.ErrDeadlineExceeded) && !over:
			over = p.ended() // what it wrote is there by now
			continue
		default: // the end of the pipe, or of the child, or another error
			return cmp.Or(o.err(), errDiedEarly)
		}
		got = 0
		rec := decodeRecord(buf)
		if rec.op != recordFork {
			if w := o.add(rec); w != "" {
				l.warning(w)
			}
			continue
		}
		// It is a child of this process, so its pid cannot be another's meanwhile.
		next, err := Adopt(int(rec.errno), 0)
		if err != nil {
			return err
		}
		if err := p.waitFor(killBound); err != nil {
			next.Signal(unix.SIGKILL)
			return errors.Join(err, next.waitFor(killBound), next.Close())
		}
		p.PidFD.Close()
		p.PID, p.PidFD = next.PID, next.PidFD
		return nil
	}
}

// watch reads what the child reports until it runs its command.
func (l *launch) watch(ctx context.Context, p *Process, r *os.File, outcome *outcome) error {
	stat, err := ReadStat(p.PID)
	if err != nil && !errors.Is(err, ErrGone) {
		return err
	}
	p.StartTicks = stat.StartTicks
	stop := context.AfterFunc(ctx, func() {
		l.kill(p)
		r.SetReadDeadline(time.Unix(1, 0))
	})
	defer stop()
	if l.created != nil {
		if err := l.created(p); err != nil {
			return err
		}
		if l.prepared == nil {
			l.release.Write([]byte{0})
		}
	}
	if err := l.listen(ctx, p, r, outcome); err != nil {
		return err
	}
	if err := outcome.err(); err != nil {
		if errors.Is(err, errDiedEarly) {
			if err := ctx.Err(); err != nil {
				return err
			}
			status, werr := p.wait(killBound)
			if werr == nil && status.Signal != 0 {
				return fmt.Errorf("cannot start the process: signal %d (%v) killed it while it was set up%s", int(status.Signal), status.Signal, killHint(status.Signal))
			}
		}
		return err
	}
	if !stop() && ctx.Err() != nil {
		return ctx.Err()
	}
	return nil
}

// listen reads a child's records to their end, which is when all copies of the
// pipe are closed. A process of the container's may have taken one while the
// child was on its way, so that end is not all that is waited for.
func (l *launch) listen(ctx context.Context, p *Process, r *os.File, o *outcome) error {
	var buf [recordSize]byte
	got := 0 // bytes of buf
	for {
		if ctx.Err() == nil {
			r.SetReadDeadline(time.Now().Add(stallTick))
		}
		n, err := io.ReadFull(r, buf[got:])
		got += n
		switch {
		case err == nil:
			got = 0
			rec := decodeRecord(buf)
			if rec.op == recordPrepared {
				if err := l.prepared(p); err != nil {
					return err
				}
				l.release.Write([]byte{0})
				continue
			}
			if w := o.add(rec); w != "" {
				l.warning(w)
			}
			continue
		case errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF):
			return nil
		case !errors.Is(err, os.ErrDeadlineExceeded):
			return err
		case ctx.Err() != nil:
			return ctx.Err()
		case p.ended() || o.ready && executes(p.PID):
			return l.rest(r, buf[:got], o)
		}
		if l.stalled != nil {
			if err := l.stalled(p); err != nil {
				return err
			}
		}
	}
}

// rest takes what is in the pipe of a child that writes no more: it may have come after
// the last look at it, and its end is not told while another process that was forked
// meanwhile has the pipe open.
func (l *launch) rest(r *os.File, begun []byte, o *outcome) error {
	raw, err := r.SyscallConn()
	if err != nil {
		return err
	}
	if err := r.SetReadDeadline(time.Time{}); err != nil {
		return err
	}
	buf := slices.Grow(slices.Clone(begun), recordSize)
	for {
		var n int
		var readErr error
		err := raw.Read(func(fd uintptr) bool {
			n, readErr = unix.Read(int(fd), buf[len(buf):recordSize])
			return true // without waiting
		})
		switch {
		case err != nil:
			return err
		case errors.Is(readErr, unix.EINTR):
			continue
		case errors.Is(readErr, unix.EAGAIN) || n == 0:
			return nil
		case readErr != nil:
			return readErr
		}
		if buf = buf[:len(buf)+n]; len(buf) == recordSize {
			if w := o.add(decodeRecord([recordSize]byte(buf))); w != "" {
				l.warning(w)
			}
			buf = buf[:0]
		}
	}
}

func killHint(sig unix.Signal) string {
	switch sig {
	case unix.SIGKILL:
		return "; was its memory limit too low?"
	case unix.SIGSYS:
		return "; the seccomp profile forbids a call that execution needs"
	}
	return ""
}

func (l *launch) warning(w string) {
	if l.warn != nil {
		l.warn(w)
	}
}
