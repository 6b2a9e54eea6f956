package guard

import (
	"syscall"
	"unsafe"
)

// Constants that package syscall lacks.
const (
	schedOther    = 0 // SCHED_OTHER, sched(7)
	ioprioProcess = 1 // IOPRIO_WHO_PROCESS, ioprio_set(2)
	rlimitRSS     = 5 // RLIMIT_RSS, getrlimit(2)
	unlimited     = ^uint64(0)
)

// forgetCaller takes back what a client's shell had set for itself: its priority, its
// processors, its limits and its umask would be those of all containers of the project, of
// other clients', too. With a daemon they are nobody's either.
//
// Priority and processors are a thread's. The first thread takes them back and begins
// anew, with exec, where it had any: then all threads have what it has.
func forgetCaller() {
	syscall.Umask(0o022)
	for _, resource := range []int{syscall.RLIMIT_FSIZE, syscall.RLIMIT_CPU, syscall.RLIMIT_AS, syscall.RLIMIT_DATA, rlimitRSS} {
		var l syscall.Rlimit
		if syscall.Getrlimit(resource, &l) != nil || l.Cur == unlimited {
			continue
		}
		if syscall.Setrlimit(resource, &syscall.Rlimit{Cur: unlimited, Max: unlimited}) != nil {
			syscall.Setrlimit(resource, &syscall.Rlimit{Cur: l.Max, Max: l.Max}) // without CAP_SYS_RESOURCE
		}
	}
	anew := false
	// The kernel returns 20 for a nice value of 0, getpriority(2).
	if p, err := syscall.Getpriority(syscall.PRIO_PROCESS, 0); err == nil && p != 20 {
		anew = syscall.Setpriority(syscall.PRIO_PROCESS, 0, 0) == nil
	}
	if policy, _, errno := syscall.RawSyscall(syscall.SYS_SCHED_GETSCHEDULER, 0, 0, 0); errno == 0 && policy != schedOther {
		var priority int32
		_, _, errno = syscall.RawSyscall(syscall.SYS_SCHED_SETSCHEDULER, 0, schedOther, uintptr(unsafe.Pointer(&priority)))
		anew = anew || errno == 0
	}
	if p, _, errno := syscall.RawSyscall(syscall.SYS_IOPRIO_GET, ioprioProcess, 0, 0); errno == 0 && p != 0 {
		_, _, errno = syscall.RawSyscall(syscall.SYS_IOPRIO_SET, ioprioProcess, 0, 0)
		anew = anew || errno == 0
	}
	before := processors()
	var all [len(before)]uint64
	for i := range all {
		all[i] = ^uint64(0)
	}
	syscall.RawSyscall(syscall.SYS_SCHED_SETAFFINITY, 0, unsafe.Sizeof(all), uintptr(unsafe.Pointer(&all)))
	if anew = anew || processors() != before; !anew {
		return
	}
	if args, err := arguments(); err == nil {
		syscall.Exec("/proc/self/exe", args, syscall.Environ()) // else it goes on with what its other threads have
	}
}

// processors are those that this thread may run on, sched_setaffinity(2).
func processors() (mask [128]uint64) {
	syscall.RawSyscall(syscall.SYS_SCHED_GETAFFINITY, 0, unsafe.Sizeof(mask), uintptr(unsafe.Pointer(&mask)))
	return mask
}

// arguments are this process's, which only package os has.
func arguments() (args []string, err error) {
	fd, err := syscall.Open("/proc/self/cmdline", syscall.O_RDONLY|syscall.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	defer syscall.Close(fd)
	var text []byte
	buf := make([]byte, 4096)
	for {
		n, err := syscall.Read(fd, buf)
		if err == syscall.EINTR {
			continue
		}
		if err != nil {
			return nil, err
		}
		if n == 0 {
			break
		}
		text = append(text, buf[:n]...)
	}
	start := 0
	for i, c := range text {
		if c == 0 {
			args, start = append(args, string(text[start:i])), i+1
		}
	}
	return args, nil
}
