package guard

import (
	"syscall"
	"unsafe"
)

// Constants that package syscall lacks.
const (
	prSetChildSubreaper = 36

	pAll   = 0
	pPid   = 1
	exited = 4          // WEXITED
	noWait = 0x01000000 // WNOWAIT

	cldExited = 1 // CLD_EXITED, si_code of a normal exit

	sysPidfdOpen = 434 // pidfd_open(2), on every architecture but alpha
	pollIn       = 1   // POLLIN, poll(2)

	oPath = 0x200000 // O_PATH, open(2)

	schedOther    = 0 // SCHED_OTHER, sched(7)
	ioprioProcess = 1 // IOPRIO_WHO_PROCESS, ioprio_set(2)
	rlimitRSS     = 5 // RLIMIT_RSS, getrlimit(2)
	unlimited     = ^uint64(0)
)

// siginfo is the head of siginfo_t for SIGCHLD on 64-bit Linux.
type siginfo struct {
	signo, errno, code, _ int32
	pid, uid, status      int32
	_                     [100]byte
}

// nextExited blocks until a child is a zombie and returns its pid without
// reaping it, or -1 when there are no children.
func nextExited() int {
	for {
		var info siginfo
		_, _, errno := syscall.Syscall6(syscall.SYS_WAITID, pAll, 0, uintptr(unsafe.Pointer(&info)), exited|noWait, 0, 0)
		switch errno {
		case 0:
			return int(info.pid)
		case syscall.EINTR:
		default:
			return -1
		}
	}
}

// hasChildren tells whether this process has children, running or zombies.
func hasChildren() bool {
	var info siginfo
	_, _, errno := syscall.Syscall6(syscall.SYS_WAITID, pAll, 0, uintptr(unsafe.Pointer(&info)), exited|noWait|syscall.WNOHANG, 0, 0)
	return errno != syscall.ECHILD
}

// peekStatus reads a zombie's status without reaping it.
func peekStatus(pid int) (code, signal int) {
	var info siginfo
	syscall.Syscall6(syscall.SYS_WAITID, pPid, uintptr(pid), uintptr(unsafe.Pointer(&info)), exited|noWait, 0, 0)
	if info.code == cldExited {
		return int(info.status), 0
	}
	return 128 + int(info.status), int(info.status)
}

// startTicks is field 22 of /proc/PID/stat, proc_pid_stat(5), as text.
func startTicks(pid int) string {
	fd, err := syscall.Open("/proc/"+itoa(pid)+"/stat", syscall.O_RDONLY|syscall.O_CLOEXEC, 0)
	if err != nil {
		return "0"
	}
	defer syscall.Close(fd)
	var buf [1024]byte
	n, _ := syscall.Read(fd, buf[:])
	s := string(buf[:max(n, 0)])
	// The command name, in parentheses, may hold blanks and parentheses.
	for i := len(s) - 1; i >= 0; i-- {
		if s[i] == ')' {
			s = s[i+1:]
			break
		}
	}
	field := 2
	for i := 0; i < len(s); i++ {
		if s[i] != ' ' {
			continue
		}
		if field++; field == 22 {
			j := i + 1
			for j < len(s) && s[j] != ' ' {
				j++
			}
			return s[i+1 : j]
		}
	}
	return "0"
}

// setName is what ps(1) and ss(8) call the process; after exec of /proc/self/exe
// it would be "exe".
func setName(name string) { writeFile("/proc/self/comm", name) }

// ignoreTerminalSignals keeps a Ctrl-C in the terminal that started us away.
// The chain is in a session of its own; this is for kill(1) with a wrong group.
func ignoreTerminalSignals() {
	type sigaction struct {
		handler, flags, restorer uintptr
		mask                     uint64
	}
	ignore := sigaction{handler: 1}
	for _, sig := range []syscall.Signal{syscall.SIGHUP, syscall.SIGINT, syscall.SIGTERM, syscall.SIGPIPE} {
		syscall.RawSyscall6(syscall.SYS_RT_SIGACTION, uintptr(sig), uintptr(unsafe.Pointer(&ignore)), 0, 8, 0, 0)
	}
}

func received(oob []byte) int {
	messages, err := syscall.ParseSocketControlMessage(oob)
	if err != nil || len(messages) == 0 {
		return -1
	}
	fds, err := syscall.ParseUnixRights(&messages[0])
	if err != nil || len(fds) == 0 {
		return -1
	}
	return fds[0]
}

func writeFile(path, text string) {
	fd, err := syscall.Open(path, syscall.O_WRONLY|syscall.O_CREAT|syscall.O_TRUNC|syscall.O_CLOEXEC, 0o600)
	if err != nil {
		return
	}
	syscall.Write(fd, []byte(text))
	syscall.Close(fd)
}

// replaceFile writes a file at once, since somebody may read it just now.
func replaceFile(path, text string) {
	writeFile(path+".tmp", text)
	syscall.Rename(path+".tmp", path)
}

// isGuard tells whether pid is a living warden or guardian. The name is looked
// at, not kill(pid, 0), which succeeds for a zombie too.
func isGuard(pid int) bool {
	fd, err := syscall.Open("/proc/"+itoa(pid)+"/cmdline", syscall.O_RDONLY|syscall.O_CLOEXEC, 0)
	if err != nil {
		return false
	}
	defer syscall.Close(fd)
	var buf [64]byte
	n, _ := syscall.Read(fd, buf[:])
	title, role := cut(string(buf[:max(n, 0)]))
	role, _ = cut(role)
	return title == "stack:" && (role == Warden || role == Guardian)
}

// deathBound limits the wait for a process that is dying, which a busy machine may
// not let run.
const deathBound = 10e9 // ns

// ends tells whether pid is no guard that lives on. It waits for the end of one that
// is dying, whose lock is not free before.
func ends(pid int) bool {
	if endsWithin(pid, successionGrace) {
		return true
	}
	if dies(pid) {
		return endsWithin(pid, deathBound)
	}
	return !isGuard(pid)
}

// dies tells whether a process has been killed that is still there: SIGKILL is
// pending, proc_pid_status(5), or it has let go of its memory, and with that its name.
func dies(pid int) bool {
	for _, line := range split(readFile("/proc/"+itoa(pid)+"/status"), '\n') {
		if n := len(line); n > 16 && (line[:7] == "SigPnd:" || line[:7] == "ShdPnd:") {
			digit := line[n-3] // of the signals 9 to 12
			if digit >= 'a' {
				digit -= 'a' - 10
			}
			if digit&1 != 0 {
				return true
			}
		}
	}
	return readFile("/proc/"+itoa(pid)+"/cmdline") == ""
}

// endsWithin waits for a process to end.
func endsWithin(pid int, ns int64) bool {
	fd, _, errno := syscall.Syscall(sysPidfdOpen, uintptr(pid), 0, 0)
	if errno != 0 {
		return true
	}
	defer syscall.Close(int(fd))
	poll := struct {
		fd              int32
		events, revents int16
	}{int32(fd), pollIn, 0}
	ts := syscall.NsecToTimespec(ns)
	n, _, errno := syscall.Syscall6(syscall.SYS_PPOLL, uintptr(unsafe.Pointer(&poll)), 1, uintptr(unsafe.Pointer(&ts)), 0, 0, 0)
	return errno == 0 && n > 0
}

// lock takes a lock, flock(2), that lasts until its descriptor, which it returns, is
// closed. Without wait it is -1 where another process has it.
func lock(path string, wait bool) int {
	fd, err := syscall.Open(path, syscall.O_RDWR|syscall.O_CREAT|syscall.O_CLOEXEC, 0o600)
	if err != nil {
		return -1
	}
	how := syscall.LOCK_EX
	if !wait {
		how |= syscall.LOCK_NB
	}
	for {
		err := syscall.Flock(fd, how)
		if err == syscall.EINTR {
			continue
		}
		if err != nil {
			syscall.Close(fd)
			return -1
		}
		return fd
	}
}

// listen makes a listening unix socket. Its path may be longer than a socket's
// address can hold, so it goes through a descriptor of the directory.
func listen(dir, name string) int {
	at, err := syscall.Open(dir, oPath|syscall.O_DIRECTORY|syscall.O_CLOEXEC, 0)
	if err != nil {
		return -1
	}
	defer syscall.Close(at)
	path := "/proc/self/fd/" + itoa(at) + "/" + name
	const half = ".new"
	syscall.Unlink(path + half)
	fd, err := syscall.Socket(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC|syscall.SOCK_NONBLOCK, 0)
	if err != nil {
		return -1
	}
	if syscall.Bind(fd, &syscall.SockaddrUnix{Name: path + half}) != nil || syscall.Chmod(path+half, 0o600) != nil ||
		syscall.Listen(fd, syscall.SOMAXCONN) != nil || syscall.Rename(path+half, path) != nil {
		syscall.Close(fd)
		return -1
	}
	return fd
}

// makeDirs makes a directory and its parents.
func makeDirs(dir string) {
	for i := 1; i < len(dir); i++ {
		if dir[i] == '/' {
			syscall.Mkdir(dir[:i], 0o711)
		}
	}
	syscall.Mkdir(dir, 0o700)
}

func readFile(path string) string {
	fd, err := syscall.Open(path, syscall.O_RDONLY|syscall.O_CLOEXEC, 0)
	if err != nil {
		return ""
	}
	defer syscall.Close(fd)
	return readAll(fd)
}

func readAll(fd int) string {
	var buf [4096]byte
	text := ""
	for {
		n, _ := syscall.Read(fd, buf[:])
		if n <= 0 {
			return text
		}
		text += string(buf[:n])
	}
}

func exists(path string) bool {
	var st syscall.Stat_t
	return syscall.Lstat(path, &st) != syscall.ENOENT
}

// identity tells a socket's file from all others, also from one that gets its inode
// when it is gone. Nothing changes it. It is "" for none.
func identity(path string) string {
	var st syscall.Stat_t
	if syscall.Lstat(path, &st) != nil {
		return ""
	}
	return itoa(int(st.Ino)) + "." + itoa(int(st.Mtim.Nano()))
}

func monotonic() int64 {
	var ts syscall.Timespec
	syscall.RawSyscall(syscall.SYS_CLOCK_GETTIME, 1, uintptr(unsafe.Pointer(&ts)), 0)
	return ts.Nano()
}

func pause(ns int64) {
	ts := syscall.NsecToTimespec(ns)
	syscall.Nanosleep(&ts, nil)
}

func errno(err error) syscall.Errno {
	if e, ok := err.(syscall.Errno); ok {
		return e
	}
	return syscall.EINVAL
}

// withEnv replaces or appends variables.
func withEnv(env []string, set [][2]string) []string {
	out := make([]string, 0, len(env)+len(set))
next:
	for _, kv := range env {
		for _, s := range set {
			if len(kv) > len(s[0]) && kv[:len(s[0])] == s[0] && kv[len(s[0])] == '=' {
				continue next
			}
		}
		out = append(out, kv)
	}
	for _, s := range set {
		out = append(out, s[0]+"="+s[1])
	}
	return out
}

func split(s string, by byte) []string {
	if s == "" {
		return nil
	}
	var out []string
	start := 0
	for i := 0; i < len(s); i++ {
		if s[i] == by {
			out = append(out, s[start:i])
			start = i + 1
		}
	}
	return append(out, s[start:])
}

func cut(s string) (verb, rest string) {
	for i := 0; i < len(s); i++ {
		if s[i] == ' ' {
			return s[:i], s[i+1:]
		}
	}
	return s, ""
}

func atoi(s string) int {
	n := 0
	for i := 0; i < len(s) && s[i] >= '0' && s[i] <= '9'; i++ {
		n = 10*n + int(s[i]-'0')
	}
	return n
}

func itoa(n int) string {
	if n < 0 {
		return "-" + itoa(-n)
	}
	var buf [20]byte
	i := len(buf)
	for {
		i--
		buf[i] = byte('0' + n%10)
		if n /= 10; n == 0 {
			return string(buf[i:])
		}
	}
}
