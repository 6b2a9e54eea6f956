package main

import (
	"os"
	"path/filepath"
	"runtime"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// bad is an address nothing is mapped at.
const bad = ^uintptr(0) - 4095

// none is a descriptor that is not open.
const none = ^uintptr(0)

type attempt struct {
	name string
	call uintptr
	args [6]uintptr
}

// attempts are system calls with arguments that make them fail (a bad address,
// a bad descriptor, unknown flags) or that touch but the calling thread, even
// where nothing confines the caller.
func attempts() []attempt {
	try := func(name string, call uintptr, args ...uintptr) attempt {
		a := attempt{name: name, call: call}
		copy(a.args[:], args)
		return a
	}
	missing := uintptr(unsafe.Pointer(&[]byte("/nonexistent\x00")[0]))
	list := []attempt{
		try("acct", unix.SYS_ACCT, bad),
		try("add_key", unix.SYS_ADD_KEY, bad, bad, 0, 0, 0),
		try("adjtimex", unix.SYS_ADJTIMEX, bad),
		try("bpf", unix.SYS_BPF, 0xffff, bad, 8),
		try("cachestat", unix.SYS_CACHESTAT, none, bad, bad, 0),
		try("chroot", unix.SYS_CHROOT, bad),
		try("clock_adjtime", unix.SYS_CLOCK_ADJTIME, 0, bad),
		try("clock_settime", unix.SYS_CLOCK_SETTIME, 0, bad),
		try("clone(NEWUSER)", unix.SYS_CLONE, unix.CLONE_NEWUSER|unix.CLONE_FS),                      // these two together: EINVAL
		try("clone(NEWNS)", unix.SYS_CLONE, unix.CLONE_NEWNS|unix.CLONE_FS),                          // the same
		try("clone(NEWPID)", unix.SYS_CLONE, unix.CLONE_NEWPID|unix.CLONE_THREAD|unix.CLONE_SIGHAND), // no VM: EINVAL
		try("clone(NEWNET)", unix.SYS_CLONE, unix.CLONE_NEWNET|unix.CLONE_THREAD),                    // no SIGHAND: EINVAL
		try("clone(NEWCGROUP)", unix.SYS_CLONE, unix.CLONE_NEWCGROUP|unix.CLONE_THREAD),              // the same
		try("clone3", unix.SYS_CLONE3, bad, 0),
		try("delete_module", unix.SYS_DELETE_MODULE, bad, 0),
		try("fanotify_init", unix.SYS_FANOTIFY_INIT, 0xffffffff, 0),
		try("fanotify_mark", unix.SYS_FANOTIFY_MARK, none, 0xffffffff, 0, none, bad),
		try("finit_module", unix.SYS_FINIT_MODULE, none, bad, 0xffff),
		try("fsconfig", unix.SYS_FSCONFIG, none, 0xffff, 0, 0, 0),
		try("fsmount", unix.SYS_FSMOUNT, none, 0xffff, 0),
		try("fsopen", unix.SYS_FSOPEN, bad, 0),
		try("fspick", unix.SYS_FSPICK, none, bad, 0xffff),
		try("futex_waitv", unix.SYS_FUTEX_WAITV, bad, 0, 0xffff, 0, 0),
		try("get_mempolicy", unix.SYS_GET_MEMPOLICY, bad, 0, 0, 0, 0xffff),
		try("init_module", unix.SYS_INIT_MODULE, bad, 8, bad),
		try("io_uring_enter", unix.SYS_IO_URING_ENTER, none, 0, 0, 0xffff, 0, 0),
		try("io_uring_register", unix.SYS_IO_URING_REGISTER, none, 0xffff, 0, 0),
		try("io_uring_setup", unix.SYS_IO_URING_SETUP, 0, bad),
		try("kcmp", unix.SYS_KCMP, none, none, 0xffff, 0, 0),
		try("kexec_load", unix.SYS_KEXEC_LOAD, 0, 1<<20, bad, 0xffff),
		try("keyctl", unix.SYS_KEYCTL, 0xffff, 0, 0, 0, 0),
		try("landlock_create_ruleset", unix.SYS_LANDLOCK_CREATE_RULESET, bad, 8, 0xffff),
		try("listmount", unix.SYS_LISTMOUNT, bad, bad, 0, 0xffff),
		try("mbind", unix.SYS_MBIND, 1, 0, 0xffff, 0, 0, 0xffff),
		try("memfd_secret", unix.SYS_MEMFD_SECRET, 0xffff),
		try("migrate_pages", unix.SYS_MIGRATE_PAGES, none, 0, bad, bad),
		try("mknodat", unix.SYS_MKNODAT, none, bad, unix.S_IFBLK, 0),
		try("mount", unix.SYS_MOUNT, bad, bad, bad, 0, 0),
		try("mount_setattr", unix.SYS_MOUNT_SETATTR, none, bad, 0, bad, 0),
		try("move_mount", unix.SYS_MOVE_MOUNT, none, bad, none, bad, 0xffff00),
		try("move_pages", unix.SYS_MOVE_PAGES, none, 1, bad, bad, bad, 0xffff),
		try("mseal", unix.SYS_MSEAL, 1, 0, 0xffff),
		try("name_to_handle_at", unix.SYS_NAME_TO_HANDLE_AT, none, bad, bad, bad, 0xffff),
		try("open_by_handle_at", unix.SYS_OPEN_BY_HANDLE_AT, none, bad, 0),
		try("open_tree", unix.SYS_OPEN_TREE, none, bad, 0xffffff),
		try("open_tree(CLONE)", unix.SYS_OPEN_TREE, none, bad, unix.OPEN_TREE_CLONE),
		try("perf_event_open", unix.SYS_PERF_EVENT_OPEN, bad, 0, none, none, 0xffff),
		try("personality(NO_RANDOMIZE)", unix.SYS_PERSONALITY, 0x0040000),
		try("pidfd_getfd", unix.SYS_PIDFD_GETFD, none, 0, 0xffff),
		try("pidfd_open", unix.SYS_PIDFD_OPEN, none, 0),
		try("pivot_root", unix.SYS_PIVOT_ROOT, bad, bad),
		try("process_madvise", unix.SYS_PROCESS_MADVISE, none, bad, 1, 0, 0xffff),
		try("process_mrelease", unix.SYS_PROCESS_MRELEASE, none, 0xffff),
		try("process_vm_readv", unix.SYS_PROCESS_VM_READV, none, bad, 1, bad, 1, 0xffff),
		try("process_vm_writev", unix.SYS_PROCESS_VM_WRITEV, none, bad, 1, bad, 1, 0xffff),
		try("ptrace", unix.SYS_PTRACE, 0xffff, none, 0, 0),
		try("quotactl", unix.SYS_QUOTACTL, 0xffffff00, bad, 0, bad),
		try("quotactl_fd", unix.SYS_QUOTACTL_FD, none, 0xffffff00, 0, bad),
		try("reboot", unix.SYS_REBOOT, 0, 0, 0, 0), // without the magic numbers
		try("request_key", unix.SYS_REQUEST_KEY, bad, bad, bad, 0),
		try("sched_setattr(bad)", unix.SYS_SCHED_SETATTR, 0, bad, 0),
		try("seccomp", unix.SYS_SECCOMP, 0xffff, 0, 0),
		try("set_mempolicy", unix.SYS_SET_MEMPOLICY, 0xffff, 0, 0),
		try("set_mempolicy_home_node", unix.SYS_SET_MEMPOLICY_HOME_NODE, 1, 0, 0, 0xffff),
		try("setdomainname", unix.SYS_SETDOMAINNAME, bad, 1),
		try("sethostname", unix.SYS_SETHOSTNAME, bad, 1),
		try("setns", unix.SYS_SETNS, none, 0),
		try("settimeofday", unix.SYS_SETTIMEOFDAY, bad, 0),
		try("socket(NETLINK_AUDIT)", unix.SYS_SOCKET, unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_AUDIT),
		try("socket(PACKET)", unix.SYS_SOCKET, unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0),
		try("socket(RAW)", unix.SYS_SOCKET, unix.AF_INET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_ICMP),
		try("socket(VSOCK)", unix.SYS_SOCKET, unix.AF_VSOCK, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0),
		try("socket(ALG)", unix.SYS_SOCKET, unix.AF_ALG, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0),
		try("statmount", unix.SYS_STATMOUNT, bad, bad, 0, 0xffff),
		try("swapoff", unix.SYS_SWAPOFF, bad),
		try("swapon", unix.SYS_SWAPON, bad, 0),
		try("syslog(size)", unix.SYS_SYSLOG, 10, 0, 0),
		try("syslog(read all)", unix.SYS_SYSLOG, 3, bad, 0),
		try("umount2", unix.SYS_UMOUNT2, missing, 0),
		try("unshare(NEWCGROUP)", unix.SYS_UNSHARE, unix.CLONE_NEWCGROUP),
		try("unshare(NEWIPC)", unix.SYS_UNSHARE, unix.CLONE_NEWIPC),
		try("unshare(NEWNET)", unix.SYS_UNSHARE, unix.CLONE_NEWNET),
		try("unshare(NEWNS)", unix.SYS_UNSHARE, unix.CLONE_NEWNS),
		try("unshare(NEWPID)", unix.SYS_UNSHARE, unix.CLONE_NEWPID),
		try("unshare(NEWTIME)", unix.SYS_UNSHARE, unix.CLONE_NEWTIME),
		try("unshare(NEWUSER)", unix.SYS_UNSHARE, unix.CLONE_NEWUSER), // with threads: EINVAL
		try("unshare(NEWUTS)", unix.SYS_UNSHARE, unix.CLONE_NEWUTS),
		try("userfaultfd", unix.SYS_USERFAULTFD, 0xffffff),
	}
	return append(list, archAttempts()...)
}

// syscalls makes the attempts, each on a thread of its own that ends with it.
func syscalls() map[string]string {
	out := map[string]string{}
	for _, a := range attempts() {
		done := make(chan string)
		go func() {
			runtime.LockOSThread() // never unlocked
			r, _, errno := unix.RawSyscall6(a.call, a.args[0], a.args[1], a.args[2], a.args[3], a.args[4], a.args[5])
			_ = r // a descriptor, at most; the process ends soon
			done <- result(errno)
		}()
		out[a.name] = <-done
	}
	return out
}

func result(err error) string {
	errno, ok := err.(syscall.Errno)
	switch {
	case err == nil || ok && errno == 0:
		return "ok"
	case !ok:
		return err.Error()
	}
	if name := unix.ErrnoName(errno); name != "" {
		return name
	}
	return errno.Error()
}

// devices makes device nodes and opens them for reading.
func devices() map[string]string {
	dir, err := os.MkdirTemp("", "probe")
	if err != nil {
		dir = "/dev/shm"
	} else {
		defer os.RemoveAll(dir)
	}
	out := map[string]string{}
	for _, d := range []struct {
		name         string
		kind         uint32
		major, minor uint32
	}{
		{"mem", unix.S_IFCHR, 1, 1}, {"port", unix.S_IFCHR, 1, 4}, {"null", unix.S_IFCHR, 1, 3}, {"kmsg", unix.S_IFCHR, 1, 11},
		{"tty", unix.S_IFCHR, 5, 0}, {"console", unix.S_IFCHR, 5, 1}, {"tty1", unix.S_IFCHR, 4, 1}, {"fuse", unix.S_IFCHR, 10, 229}, {"tun", unix.S_IFCHR, 10, 200},
		{"loop-control", unix.S_IFCHR, 10, 237}, {"kvm", unix.S_IFCHR, 10, 232},
		{"loop0", unix.S_IFBLK, 7, 0}, {"sda", unix.S_IFBLK, 8, 0}, {"vda", unix.S_IFBLK, 254, 0}, {"dm0", unix.S_IFBLK, 253, 0},
	} {
		path := filepath.Join(dir, d.name)
		if err := unix.Mknod(path, d.kind|0o600, int(unix.Mkdev(d.major, d.minor))); err != nil {
			out[d.name] = result(err)
			continue
		}
		fd, err := unix.Open(path, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
		out[d.name] = result(err)
		if err == nil {
			unix.Close(fd)
		}
		os.Remove(path)
	}
	return out
}
