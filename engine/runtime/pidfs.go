package runtime

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A pidfd is a file of pidfs since Linux 6.9. Since 6.15 it can be bound to a
// path, and the kernel tells the exit status of a process that was reaped while
// somebody held such a file. So a pinned process's status survives the death of
// everybody who could have waited for it.

// siginfoStatus reads si_status, which x/sys leaves in the padding: signo,
// errno, code, (4 bytes on 64-bit), pid, uid, status.
func siginfoStatus(info *unix.Siginfo) int32 {
	return *(*int32)(unsafe.Add(unsafe.Pointer(info), 24))
}

// pidfdInfo is struct pidfd_info, linux/pidfd.h (PIDFD_INFO_SIZE_VER0).
type pidfdInfo struct {
	mask, cgroupID                                   uint64
	pid, tgid, ppid                                  uint32
	ruid, rgid, euid, egid, suid, sgid, fsuid, fsgid uint32
	exitCode                                         int32
}

const (
	pidfdGetInfo  = 0xc040ff0b // _IOWR(0xFF, 11, 64 bytes)
	pidfdInfoExit = 1 << 3
)

// pidfdExit asks for the exit status of a reaped process. An error means that
// the kernel cannot tell; known is false while there is no status yet.
func pidfdExit(fd int) (status ExitStatus, known bool, err error) {
	info := pidfdInfo{mask: pidfdInfoExit}
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), pidfdGetInfo, uintptr(unsafe.Pointer(&info)))
	switch {
	case errno == unix.ESRCH:
		return ExitStatus{}, false, ErrStatusUnknown
	case errno != 0:
		return ExitStatus{}, false, errno
	case info.mask&pidfdInfoExit == 0:
		return ExitStatus{}, false, nil
	}
	return waitStatus(unix.WaitStatus(info.exitCode)), true, nil
}

// Pin binds the process's pidfd to a new file at path, so that ReadPin gives
// its exit status as long as the machine runs, whoever reaped it. On a kernel
// that cannot do that the error is errors.ErrUnsupported.
func (p *Process) Pin(path string) error {
	if err := p.control(func(fd int) error { _, _, err := pidfdExit(fd); return err }); err != nil && !errors.Is(err, ErrStatusUnknown) {
		return fmt.Errorf("cannot pin process %d: %w: the kernel keeps no exit statuses (Linux 6.15 does)", p.PID, errors.ErrUnsupported)
	}
	create := func() (*os.File, error) { return os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_RDONLY, 0o600) }
	f, err := create()
	if errors.Is(err, fs.ErrExist) { // an earlier run's, whose end is known
		if err := Unpin(path); err != nil {
			return fmt.Errorf("cannot pin process %d: %w", p.PID, err)
		}
		f, err = create()
	}
	if err != nil {
		return fmt.Errorf("cannot pin process %d: %w", p.PID, err)
	}
	f.Close()
	if err := p.control(func(fd int) error { return bindPidfd(fd, path) }); err != nil {
		return errors.Join(fmt.Errorf("cannot pin process %d: %w", p.PID, err), os.Remove(path))
	}
	return nil
}

func bindPidfd(fd int, path string) error {
	tree, err := unix.OpenTree(fd, "", unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_EMPTY_PATH)
	if err != nil {
		return err
	}
	defer unix.Close(tree)
	return unix.MoveMount(tree, "", unix.AT_FDCWD, path, unix.MOVE_MOUNT_F_EMPTY_PATH)
}

// ReadPin returns the exit status of a pinned process, exited false while it
// runs or is not reaped yet. It returns fs.ErrNotExist without a pin.
func ReadPin(path string) (status ExitStatus, exited bool, err error) {
	f, err := os.Open(path)
	if err != nil {
		return ExitStatus{}, false, err
	}
	defer f.Close()
	status, exited, err = pidfdExit(int(f.Fd()))
	if err != nil {
		return ExitStatus{}, false, fmt.Errorf("cannot read the exit status at %s: %w", path, err)
	}
	return status, exited, nil
}

// Unpin removes a pin. It is no error if there is none.
func Unpin(path string) error {
	if err := unix.Unmount(path, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil && err != unix.EINVAL && err != unix.ENOENT {
		return fmt.Errorf("cannot unpin %s: %w", path, err)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}
