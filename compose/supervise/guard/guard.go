// Package guard keeps a project's supervisor alive.
//
// A project has a chain of three processes, each the parent of the next:
//
//	warden ──► guardian ──► supervisor ──► containers
//
// Warden and guardian run this package's code and nothing else. Both are child
// subreapers (PR_SET_CHILD_SUBREAPER, prctl(2)): a container whose parent is
// killed becomes their child, and they write its wait status to a file that the
// next supervisor reads. Both keep duplicates of the file descriptors that
// cannot be opened a second time (the listening socket, DNS sockets and those that
// hold ports, pty masters, standard inputs, FIFOs of output), handed to them over a control socket, and hand all of them to each
// new child. Whoever dies is started again by its parent:
//
//	supervisor killed            the guardian starts a new one
//	guardian killed              the supervisor leaves, the warden starts both
//	guardian and supervisor      the warden reaps the containers and starts both
//	warden killed                the supervisor leaves, the guardian turns warden
//	warden and guardian killed   the supervisor turns warden (see Deserted)
//
// Kills that come while a chain mends itself can leave several processes that
// think they must turn warden. A warden therefore holds a lock. Who does not get
// it starts nothing, but stays as the reaper of the containers that it is the
// parent of, so that no exit status is lost, and ends after the last of them.
//
// The run directory may be deleted by somebody else. The supervisor then ends as if
// it were killed, and the guardian with it; the warden makes the directory and the
// socket in it again, unless another chain has been started there meanwhile: then
// it is the one that does not get the lock. A supervisor that leaves moves the socket
// aside first; one that is killed then gets its name back. Guards know the file of
// their socket, and replace one of that name on which nobody listens.
//
// A child that exits with status 0 had nothing left to own: its parent follows. The
// warden is the last and removes the control groups of the chain.
//
// After an upgrade the supervisor has the new program held, see HeldProgram, and
// ends as if it were killed.
//
// The package imports only syscall and sync. The linker runs package
// initialisers in the order of import paths as soon as their imports are done
// (Go spec, "Package initialization"), so this init runs before those of the
// large libraries in the same binary. A guardian therefore starts in about the
// time of an empty program and pays for none of them. TestImports keeps it so.
package guard

import (
	"sync"
	"syscall"
)

// The environment of a guard process and of its child.
const (
	// EnvRole is "warden" or "guardian" for a guard, "supervisor" for the last child.
	EnvRole = "STACK_GUARD"
	// EnvDir is the project's run directory.
	EnvDir = "STACK_GUARD_DIR"
	// EnvName is the project's name, for ps(1).
	EnvName = "STACK_GUARD_NAME"
	// EnvFDs lists the held descriptors, "NUMBER NAME" a line.
	EnvFDs = "STACK_GUARD_FDS"
	// EnvWarden is the warden's pid.
	EnvWarden = "STACK_GUARD_WARDEN"
	// envSocket tells the listening socket's file from others, see identity.
	envSocket = "STACK_GUARD_SOCKET"
)

// Roles in EnvRole.
const (
	Warden     = "warden"
	Guardian   = "guardian"
	Supervisor = "supervisor"
)

// HeldProgram is the held descriptor of the program that new children run; where
// there is none, they run their parent's.
const HeldProgram = "program"

// HeldListener is the held descriptor of the listening socket.
const HeldListener = "listener"

// Files in the run directory.
const (
	// Socket is where the supervisor listens.
	Socket = "supervisor.sock"
	// Leaving is what a supervisor calls the socket while it decides to leave.
	Leaving = Socket + ".leaving"
	// SpawnLock is held by who makes the directory and the socket.
	SpawnLock = "spawn.lock"
	// Shelter lists the chain's control groups: the directory of each and, on the
	// next line, a file cgroup.procs to which the last process in it writes itself.
	// While it is locked, who locked it removes them after the chain's end.
	Shelter = "shelter"

	wardenLock = "warden.lock"
)

// ControlFD is the control socket to the parent. A warden has none to talk to.
const ControlFD = 3

// maxMessage bounds one control message: a verb, a blank and a name.
const maxMessage = 512

func init() {
	role, _ := syscall.Getenv(EnvRole)
	if role != Warden && role != Guardian {
		return
	}
	g := &guard{role: role, control: -1, lock: -1, shelter: -1}
	g.socket, g.heir = syscall.Getenv(envSocket)
	if role == Warden && !g.heir {
		forgetCaller() // a client's
	}
	g.dir, _ = syscall.Getenv(EnvDir)
	g.name, _ = syscall.Getenv(EnvName)
	list, _ := syscall.Getenv(EnvFDs)
	for _, line := range split(list, '\n') {
		number, name := cut(line)
		fd := atoi(number)
		syscall.CloseOnExec(fd)
		g.held = append(g.held, heldFD{name, fd})
	}
	syscall.CloseOnExec(ControlFD)
	if !g.heir {
		g.socket = identity(g.dir + "/" + Socket) // a client made it for this chain
	}
	syscall.Exit(g.run())
}

type heldFD struct {
	name string
	fd   int
}

type guard struct {
	role, dir, name string
	socket          string // identity of the listening socket's file, "" for none

	mu      sync.Mutex
	held    []heldFD
	child   int           // pid, 0 while there is none
	control int           // our end of the child's control socket, -1 while there is none
	served  chan struct{} // closed when all is read that the child sent
	promote bool

	// The warden's.
	heir    bool   // it was a guardian or a supervisor before
	lock    int    // descriptor
	shelter int    // descriptor of the file, -1 for none
	groups  string // what is in it
}

func (g *guard) run() int {
	if _, _, errno := syscall.RawSyscall6(syscall.SYS_PRCTL, prSetChildSubreaper, 1, 0, 0, 0, 0); errno != 0 {
		return 70
	}
	setName("stack-" + g.role)
	ignoreTerminalSignals()
	switch g.role {
	case Warden:
		if !g.found() {
			return g.reapOnly()
		}
	case Guardian:
		g.writePid()
		go g.watchParent()
	}
	var lives int
	for {
		start := monotonic()
		if g.promoted() {
			g.becomeWarden()
			return 72
		}
		if err := g.spawn(); err != 0 {
			return 71
		}
		status := g.reap()
		switch {
		case g.promoted():
			g.becomeWarden()
			return 72
		case status.Exited() && status.ExitStatus() == 0:
			// The supervisor removed the run directory, under its lock: by now
			// the files in it may be those of a new chain.
			g.dissolve()
			return 0
		case !g.ownsDir() && !g.putBack():
			// Somebody else removed it.
			if g.role == Guardian {
				// All is the warden's to make, unless it was killed just now.
				warden, _ := syscall.Getenv(EnvWarden)
				if ends(atoi(warden)) {
					g.becomeWarden()
				}
				return 74
			}
			pause(deletionGrace)
			if !g.found() {
				return g.reapOnly()
			}
		}
		// A child that dies at once, again and again, must not take a whole CPU.
		if monotonic()-start > int64(2e9) {
			lives = 0
		}
		if lives++; lives > 3 {
			pause(int64(1e8) << min(lives-3, 6))
		}
	}
}

// deletionGrace is how long a warden waits whose run directory is being deleted, so
// that what it makes is not deleted as well.
const deletionGrace = 1e8 // ns

// found takes the warden's lock and completes the run directory. It fails when
// another warden has the lock, and when an heir has nothing to keep: a chain that
// left while it looked for its guards seems killed, and is not to begin again.
func (g *guard) found() bool {
	for {
		if g.heir && !exists(g.dir) && !hasChildren() {
			return false
		}
		makeDirs(g.dir)
		if g.lock >= 0 {
			syscall.Close(g.lock)
		}
		spawn := lock(g.dir+"/"+SpawnLock, true)
		g.lock = lock(g.dir+"/"+wardenLock, false)
		switch {
		case g.lock >= 0 && spawn >= 0 && g.holdsLock():
			g.complete()
			syscall.Close(spawn)
			return true
		case spawn >= 0:
			syscall.Close(spawn)
		}
		if g.lock < 0 && exists(g.dir+"/"+wardenLock) {
			return false // there is one
		}
		pause(deletionGrace) // the directory is being deleted
	}
}

// complete makes what is missing in the run directory.
func (g *guard) complete() {
	g.writePid()
	syscall.Mkdir(g.dir+"/exits", 0o700)
	if g.shelter < 0 {
		g.openShelter()
	}
	if g.shelter >= 0 && !exists(g.dir+"/"+Shelter) {
		syscall.Close(g.shelter)
		writeFile(g.dir+"/"+Shelter, g.groups)
		g.openShelter()
	}
	path := g.dir + "/" + Socket
	if g.listensAt(path) || g.listensAt(g.dir+"/"+Leaving) && syscall.Rename(g.dir+"/"+Leaving, path) == nil {
		return
	}
	// There is none, or that of a client whose warden found this one: nobody listens.
	if l := listen(g.dir, Socket); l >= 0 {
		g.socket = identity(path)
		g.mu.Lock()
		g.drop(HeldListener)
		g.held = append(g.held, heldFD{HeldListener, l})
		g.mu.Unlock()
	}
}

func (g *guard) openShelter() {
	fd, err := syscall.Open(g.dir+"/"+Shelter, syscall.O_RDWR|syscall.O_CLOEXEC, 0)
	if err != nil {
		g.shelter = -1
		return
	}
	g.shelter, g.groups = fd, readAll(fd)
}

// ownsDir tells whether the run directory is there and this chain's.
func (g *guard) ownsDir() bool {
	return g.listensAt(g.dir+"/"+Socket) && readFile(g.pidFile()) == itoa(syscall.Getpid())+"\n" && (g.role != Warden || g.holdsLock())
}

// listensAt tells whether a file is the socket that this chain listens on.
func (g *guard) listensAt(path string) bool { return g.socket != "" && identity(path) == g.socket }

// putBack gives the socket its name back, for a supervisor that was killed while it
// left, and tells whether the run directory is this chain's again.
func (g *guard) putBack() bool {
	if !g.listensAt(g.dir + "/" + Leaving) {
		return false
	}
	spawn := lock(g.dir+"/"+SpawnLock, true)
	if spawn < 0 {
		return false
	}
	defer syscall.Close(spawn)
	if !exists(g.dir + "/" + Socket) {
		syscall.Rename(g.dir+"/"+Leaving, g.dir+"/"+Socket)
	}
	return g.ownsDir()
}

// holdsLock tells whether the lock that is held is the one in the run directory.
func (g *guard) holdsLock() bool {
	var held, now syscall.Stat_t
	return syscall.Fstat(g.lock, &held) == nil && syscall.Lstat(g.dir+"/"+wardenLock, &now) == nil &&
		held.Ino == now.Ino && held.Dev == now.Dev
}

// reapOnly is what a warden without a chain does.
func (g *guard) reapOnly() int {
	for {
		pid := nextExited()
		if pid <= 0 {
			g.openShelter()
			g.dissolve()
			return 73
		}
		recordExit(g.dir, pid, startTicks(pid))
	}
}

// dissolve removes the chain's control groups, which this is the last process in,
// unless a client waits for that and will do it. This process moves to another
// group for that, which can take tens of milliseconds.
func (g *guard) dissolve() {
	if g.shelter < 0 || g.groups == "" || syscall.Flock(g.shelter, syscall.LOCK_EX|syscall.LOCK_NB) != nil {
		return
	}
	lines := split(g.groups, '\n')
	for i := 0; i+1 < len(lines); i += 2 {
		writeFile(lines[i+1], "0")
		syscall.Rmdir(lines[i])
	}
}

func (g *guard) pidFile() string { return g.dir + "/" + g.role + ".pid" }

func (g *guard) writePid() {
	replaceFile(g.pidFile(), itoa(syscall.Getpid())+"\n")
}

// spawn starts the next process of the chain with all held descriptors.
func (g *guard) spawn() syscall.Errno {
	pair, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_SEQPACKET|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return errno(err)
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	files := []uintptr{0, 1, 2, uintptr(pair[1])}
	names := ""
	const own = "/proc/self/exe"
	program := own
	for i, h := range g.held {
		if h.name == HeldProgram {
			program = "/proc/self/fd/" + itoa(len(files)) // the child's
		}
		if i > 0 {
			names += "\n"
		}
		names += itoa(len(files)) + " " + h.name
		files = append(files, uintptr(h.fd))
	}
	role := Guardian
	if g.role == Guardian {
		role = Supervisor
	}
	set := [][2]string{{EnvRole, role}, {EnvFDs, names}, {envSocket, g.socket}}
	if g.role == Warden {
		set = append(set, [2]string{EnvWarden, itoa(syscall.Getpid())})
	}
	argv := []string{"stack: " + role + " " + g.name}
	attr := &syscall.ProcAttr{Dir: "/", Env: withEnv(syscall.Environ(), set), Files: files}
	pid, err := syscall.ForkExec(program, argv, attr)
	if err != nil && program != own {
		pid, err = syscall.ForkExec(own, argv, attr)
	}
	syscall.Close(pair[1])
	if err != nil {
		syscall.Close(pair[0])
		return errno(err)
	}
	g.child, g.control, g.served = pid, pair[0], make(chan struct{})
	if g.promote {
		syscall.Shutdown(g.control, syscall.SHUT_RDWR) // as watchParent would have
	}
	go g.serve(pair[0], g.served)
	return 0
}

// serve takes the child's "hold NAME" (with a descriptor) and "drop NAME". What
// a guardian is asked to hold, the warden is asked to hold too.
func (g *guard) serve(conn int, served chan struct{}) {
	defer close(served)
	buf := make([]byte, maxMessage)
	oob := make([]byte, syscall.CmsgSpace(4))
	for {
		n, oobn, _, _, err := syscall.Recvmsg(conn, buf, oob, syscall.MSG_CMSG_CLOEXEC)
		if err == syscall.EINTR {
			continue
		}
		if err != nil || n == 0 {
			g.mu.Lock()
			g.control = -1
			g.mu.Unlock()
			syscall.Close(conn)
			return
		}
		verb, name := cut(string(buf[:n]))
		fd := received(oob[:oobn])
		g.mu.Lock()
		g.drop(name)
		keep := verb == "hold" && fd >= 0 && listable(name)
		if keep {
			g.held = append(g.held, heldFD{name, fd})
		}
		if g.role == Guardian && !g.promote {
			var rights []byte
			if fd >= 0 {
				rights = syscall.UnixRights(fd)
			}
			syscall.Sendmsg(ControlFD, buf[:n], rights, nil, syscall.MSG_NOSIGNAL)
		}
		if fd >= 0 && !keep {
			syscall.Close(fd)
		}
		g.mu.Unlock()
	}
}

// listable tells whether a name can stand in EnvFDs.
func listable(name string) bool {
	for i := 0; i < len(name); i++ {
		if name[i] == '\n' || name[i] == 0 {
			return false
		}
	}
	return true
}

func (g *guard) drop(name string) {
	for i, h := range g.held {
		if h.name == name {
			syscall.Close(h.fd)
			g.held = append(g.held[:i], g.held[i+1:]...)
			return
		}
	}
}

// reap waits until the child of the chain ends and returns its status. The
// others it reaps are containers that lost their supervisor: their status goes
// to a file named after pid and start time, which identify a process for good.
func (g *guard) reap() syscall.WaitStatus {
	for {
		pid := nextExited()
		if pid <= 0 {
			return 1 << 8 // no child at all: as if it had failed
		}
		ticks := startTicks(pid)
		g.mu.Lock()
		ours := pid == g.child
		g.mu.Unlock()
		var status syscall.WaitStatus
		if ours {
			syscall.Wait4(pid, &status, 0, nil)
			g.mu.Lock()
			g.child = 0
			if g.control >= 0 {
				// Nothing more comes, though a container that is being started may still
				// have a copy of the other end. What has come is for the next child.
				syscall.Shutdown(g.control, syscall.SHUT_RD)
			}
			served := g.served
			g.mu.Unlock()
			<-served
			return status
		}
		recordExit(g.dir, pid, ticks)
	}
}

// recordExit reaps pid after its status is written down, so that the file is
// there before the process is gone.
func recordExit(dir string, pid int, ticks string) {
	code, signal := peekStatus(pid)
	syscall.Mkdir(dir+"/exits", 0o700)
	replaceFile(dir+"/exits/"+itoa(pid)+"."+ticks, itoa(code)+" "+itoa(signal)+"\n")
	syscall.Wait4(pid, nil, 0, nil)
}

// watchParent turns a guardian into the warden when the warden dies: the
// control socket reads as closed then.
func (g *guard) watchParent() {
	var buf [1]byte
	for {
		n, err := syscall.Read(ControlFD, buf[:])
		if err == syscall.EINTR || n > 0 {
			continue
		}
		g.mu.Lock()
		g.promote = true
		// The supervisor leaves when its control socket closes; reap returns then.
		if g.control >= 0 {
			syscall.Shutdown(g.control, syscall.SHUT_RDWR)
		}
		g.mu.Unlock()
		return
	}
}

func (g *guard) promoted() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.promote
}

func (g *guard) becomeWarden() {
	g.mu.Lock()
	defer g.mu.Unlock()
	names := make([]string, len(g.held))
	fds := make([]int, len(g.held))
	for i, h := range g.held {
		names[i], fds[i] = h.name, h.fd
	}
	BecomeWarden(g.name, names, fds)
}

// successionGrace is how long a process that lost one guard watches whether another,
// who would start the next process, was killed together with it.
const successionGrace = 20e6 // ns

// Deserted tells a supervisor that lost its guardian that nobody is left to start
// the next one: neither the warden of that number nor a guardian that turns
// warden just now.
func Deserted(warden int) bool {
	for _, pid := range [...]int{syscall.Getppid(), warden} {
		if !ends(pid) {
			return false
		}
	}
	return true
}

// BecomeWarden replaces the calling process by a warden that holds fds. Its
// children stay its children. It returns only when the kernel refuses. The
// descriptors keep their numbers: the process still runs on other threads, whose
// own ones must not be overwritten.
func BecomeWarden(project string, names []string, fds []int) error {
	list := ""
	for i, fd := range fds {
		if _, _, errno := syscall.Syscall(syscall.SYS_FCNTL, uintptr(fd), syscall.F_SETFD, 0); errno != 0 {
			return errno
		}
		if i > 0 {
			list += "\n"
		}
		list += itoa(fd) + " " + names[i]
	}
	env := withEnv(syscall.Environ(), [][2]string{{EnvRole, Warden}, {EnvFDs, list}})
	return syscall.Exec("/proc/self/exe", []string{"stack: warden " + project}, env)
}
