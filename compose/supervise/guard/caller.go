package guard

import (
	"syscall"
	"unsafe"
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
	// Each argument ends with a zero, proc_pid_cmdline(5). Where there are none, or exec
	// fails, it goes on with what its other threads have.
	if text := readFile("/proc/self/cmdline"); text != "" {
		syscall.Exec("/proc/self/exe", split(text[:len(text)-1], 0), syscall.Environ())
	}
}

// processors are those that this thread may run on, sched_setaffinity(2).
func processors() (mask [128]uint64) {
	syscall.RawSyscall(syscall.SYS_SCHED_GETAFFINITY, 0, unsafe.Sizeof(mask), uintptr(unsafe.Pointer(&mask)))
	return mask
}
