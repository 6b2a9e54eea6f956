package link

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/stack-run/stack/internal/thread"
)

const threadNS = "/proc/thread-self/ns/net"

// Create makes a network namespace, calls setup inside it with a descriptor of
// the caller's namespace, and pins it to the file pin, which must not exist. When
// anything fails nothing is left. With given it takes that network namespace, which
// somebody has just made, instead of a new one.
func Create(pin string, given *os.File, setup func(hostNS int) error) error {
	return onThread(func() error {
		host, err := os.Open(threadNS)
		if err != nil {
			return fmt.Errorf("cannot open own network namespace: %w", err)
		}
		defer host.Close()
		if given != nil {
			err = unix.Setns(int(given.Fd()), unix.CLONE_NEWNET)
		} else {
			err = unix.Unshare(unix.CLONE_NEWNET)
		}
		if err != nil {
			return fmt.Errorf("cannot make network namespace: %w", err)
		}
		if err := pinHere(pin); err != nil {
			return errors.Join(err, comeBack(host))
		}
		if err := setup(int(host.Fd())); err != nil {
			return errors.Join(err, Unpin(pin), comeBack(host))
		}
		return comeBack(host)
	})
}

// Enter calls fn inside the network namespace of the file path. Sockets that fn
// opens stay there. fn must not start goroutines that count on it.
func Enter(path string, fn func(hostNS int) error) error {
	target, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("cannot open network namespace: %w", err)
	}
	defer target.Close()
	return onThread(func() error {
		host, err := os.Open(threadNS)
		if err != nil {
			return fmt.Errorf("cannot open own network namespace: %w", err)
		}
		defer host.Close()
		if err := unix.Setns(int(target.Fd()), unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("cannot enter network namespace %s: %w", path, err)
		}
		return errors.Join(fn(int(host.Fd())), comeBack(host))
	})
}

// errLostThread says that a thread is in a foreign namespace for good.
var errLostThread = errors.New("cannot return to own network namespace")

func comeBack(host *os.File) error {
	if err := unix.Setns(int(host.Fd()), unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("%w: %w", errLostThread, err)
	}
	return nil
}

// onThread runs fn on a thread that goes on, unless fn could not return from where it was.
func onThread(fn func() error) (err error) {
	thread.Locked(func() (ends bool) {
		err = fn()
		return errors.Is(err, errLostThread)
	})
	return err
}

// pinHere bind mounts the calling thread's network namespace onto the file.
func pinHere(pin string) error {
	f, err := os.OpenFile(pin, os.O_CREATE|os.O_EXCL|os.O_RDONLY|unix.O_CLOEXEC, 0o444)
	if err != nil {
		return fmt.Errorf("cannot make network namespace pin: %w", err)
	}
	_ = f.Close()
	if err := unix.Mount(threadNS, pin, "", unix.MS_BIND, ""); err != nil {
		return errors.Join(fmt.Errorf("cannot pin network namespace to %s: %w", pin, err), os.Remove(pin))
	}
	return nil
}

// Unpin takes the pin away; what is not there is not an error. The namespace
// goes with its last process.
func Unpin(pin string) error {
	// EINVAL: the file is there but nothing is mounted on it.
	if err := unix.Unmount(pin, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil &&
		!errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("cannot unpin network namespace %s: %w", pin, err)
	}
	if err := os.Remove(pin); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("cannot remove network namespace pin: %w", err)
	}
	return nil
}

// Pinned reports whether the file is the pin of a network namespace.
func Pinned(pin string) bool {
	var st unix.Statfs_t
	return unix.Statfs(pin, &st) == nil && st.Type == unix.NSFS_MAGIC
}

// PreparePins makes dir a private mount, so that pins made in it do not show up
// in other mount namespaces and keep namespaces alive there.
func PreparePins(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("cannot make directory for network namespaces: %w", err)
	}
	err := unix.Mount("", dir, "", unix.MS_PRIVATE, "")
	if errors.Is(err, unix.EINVAL) { // not a mount point yet
		if err = unix.Mount(dir, dir, "", unix.MS_BIND, ""); err == nil {
			err = unix.Mount("", dir, "", unix.MS_PRIVATE, "")
		}
	}
	if err != nil {
		return fmt.Errorf("cannot make %s a private mount: %w", dir, err)
	}
	return nil
}

// RemovePins undoes [PreparePins] when no pin is left and reports whether it did.
func RemovePins(dir string) bool {
	if entries, err := os.ReadDir(dir); err != nil || len(entries) > 0 {
		return false
	}
	for unix.Unmount(dir, unix.UMOUNT_NOFOLLOW) == nil {
		continue
	}
	return os.Remove(dir) == nil
}

// WriteSysctl sets a sysctl given in dots ("net.ipv4.ip_forward") or slashes;
// with dots a slash stands for a dot inside an interface name, as in sysctl(8).
// net.* sysctls are those of the calling thread's network namespace.
func WriteSysctl(key, value string) error {
	// Not os.WriteFile: it would hand the file to the runtime's poller.
	fd, err := unix.Open(SysctlPath(key), unix.O_WRONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("cannot set sysctl %s: %w", key, err)
	}
	_, err = unix.Write(fd, []byte(value))
	if err = errors.Join(err, unix.Close(fd)); err != nil {
		return fmt.Errorf("cannot set sysctl %s to %q: %w", key, value, err)
	}
	return nil
}

// EnsureSysctl is WriteSysctl for one that is mostly so already. A read is cheap, while
// the kernel spins in a write to some sysctls of interfaces for as long as another task
// changes any network interface of the machine (restart_syscall in net/ipv6/addrconf.c).
func EnsureSysctl(key, value string) error {
	if now, err := ReadSysctl(key); err == nil && now == value {
		return nil
	}
	return WriteSysctl(key, value)
}

// ReadSysctl reads a sysctl without its line end.
func ReadSysctl(key string) (string, error) {
	b, err := os.ReadFile(SysctlPath(key))
	return strings.TrimRight(string(b), "\n"), err
}

// SysctlPath is the file of a sysctl.
func SysctlPath(key string) string {
	if i := strings.IndexAny(key, "./"); i >= 0 && key[i] == '.' {
		key = strings.Map(func(r rune) rune {
			switch r {
			case '.':
				return '/'
			case '/':
				return '.'
			}
			return r
		}, key)
	}
	return filepath.Join("/proc/sys", filepath.Clean("/"+key))
}
