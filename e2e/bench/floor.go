package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"syscall"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// floor is the work that the kernel must do for one container, and nothing
// else: new namespaces of all kinds but user, an overlay as the root, a veth
// pair with an address, exec, wait. No engine can be faster than that.
type floor struct {
	rootfs string // unpacked image
	upper  string // a directory for each run's upper and work directory
	runs   int
	err    error // of the preparation
}

func newFloor(dir string) *floor {
	f := &floor{rootfs: filepath.Join(dir, "floor-rootfs"), upper: filepath.Join(dir, "floor-upper")}
	f.err = errors.Join(os.MkdirAll(f.rootfs, 0o755), os.MkdirAll(f.upper, 0o755))
	if f.err == nil {
		// Preparation is not measured, so that the system's tar will do.
		out, err := exec.Command("tar", "-xf", imagePath(dir), "-C", f.rootfs).CombinedOutput()
		if err != nil {
			f.err = fmt.Errorf("cannot unpack the image: %w: %s", err, out)
		}
	}
	return f
}

func (f *floor) once() result {
	if f.err != nil {
		return result{err: f.err}
	}
	f.runs++
	dir := filepath.Join(f.upper, fmt.Sprint(f.runs))
	done := make(chan error, 1)
	start := time.Now()
	go func() {
		// Never unlocked: the thread ends, and the namespaces with it.
		runtime.LockOSThread()
		done <- f.container(dir)
	}()
	err := <-done
	return result{time.Since(start), err}
}

// container runs on a thread of its own. The thread makes the namespaces and
// the child inherits them, which is the same work as a clone(2) with all flags.
func (f *floor) container(dir string) error {
	for _, sub := range []string{"up", "work", "root"} {
		if err := os.MkdirAll(filepath.Join(dir, sub), 0o755); err != nil {
			return err
		}
	}
	const namespaces = unix.CLONE_NEWNS | unix.CLONE_NEWNET | unix.CLONE_NEWPID | unix.CLONE_NEWIPC | unix.CLONE_NEWUTS | unix.CLONE_NEWCGROUP
	host, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		return err
	}
	defer host.Close()
	if err := unix.Unshare(namespaces | unix.CLONE_FS); err != nil {
		return os.NewSyscallError("unshare", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return os.NewSyscallError("mount", err)
	}
	root := filepath.Join(dir, "root")
	data := "lowerdir=" + f.rootfs + ",upperdir=" + filepath.Join(dir, "up") + ",workdir=" + filepath.Join(dir, "work")
	if err := unix.Mount("overlay", root, "overlay", 0, data); err != nil {
		return os.NewSyscallError("mount", err)
	}
	if err := f.link(host); err != nil {
		return err
	}
	child, err := os.StartProcess("/bin/true", []string{"true"}, &os.ProcAttr{Dir: "/", Sys: &syscall.SysProcAttr{Chroot: root}})
	if err != nil {
		return err
	}
	state, err := child.Wait()
	if err == nil && !state.Success() {
		err = fmt.Errorf("true: %s", state)
	}
	return err
}

// link makes a veth pair between the thread's network namespace and the host's.
func (f *floor) link(host *os.File) error {
	attrs := netlink.NewLinkAttrs()
	attrs.Name = "eth0"
	pair := &netlink.Veth{LinkAttrs: attrs, PeerName: fmt.Sprintf("floor%d", f.runs), PeerNamespace: netlink.NsFd(host.Fd())}
	if err := netlink.LinkAdd(pair); err != nil {
		return fmt.Errorf("cannot make a veth pair: %w", err)
	}
	addr, err := netlink.ParseAddr("10.9.0.2/24")
	if err != nil {
		return err
	}
	return errors.Join(netlink.AddrAdd(pair, addr), netlink.LinkSetUp(pair))
}
