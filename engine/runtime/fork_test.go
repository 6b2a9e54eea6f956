package runtime

import (
	"os"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Behind the stack there may be anything: memory that is wiped in a child
// (MAP_DROPPABLE), or none. Only a region that ends with a page has no room left.
func TestChildStaysOnItsStack(t *testing.T) {
	r, w, err := os.Pipe()
	check(t, err)
	defer r.Close()
	defer w.Close()
	page := os.Getpagesize()
	tried := 0
	for pad := 0; pad < page; pad += 64 {
		c := &compiler{}
		for range 20 { // what was spilled is read again
			c.call("look", unix.SYS_GETPID)
		}
		c.call("end", unix.SYS_EXIT_GROUP, imm(7))
		c.data = append(c.data, make([]byte, pad)...)
		probe, err := c.link(map[string]int{}, fdOf(w))
		check(t, err)
		size := len(probe)
		check(t, unix.Munmap(probe))
		if size%page != 0 {
			continue
		}
		// A hole of that size with a page behind it that cannot be touched. The
		// kernel fills the highest hole that fits.
		all, err := unix.Mmap(-1, 0, size+page, unix.PROT_NONE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
		check(t, err)
		base := unsafe.Pointer(unsafe.SliceData(all))
		if _, _, e := unix.Syscall(unix.SYS_MUNMAP, uintptr(base), uintptr(size), 0); e != 0 {
			t.Fatal(e)
		}
		region, err := c.link(map[string]int{}, fdOf(w))
		check(t, err)
		if unsafe.Pointer(unsafe.SliceData(region)) == base {
			tried++
			_, pidfd, err := fork(region, -1)
			check(t, err)
			for err = unix.EINTR; err == unix.EINTR; { // the descriptor does not block
				_, err = unix.Poll([]unix.PollFd{{Fd: int32(fdOf(pidfd)), Events: unix.POLLIN}}, 5000)
			}
			check(t, err)
			var info unix.Siginfo
			check(t, unix.Waitid(unix.P_PIDFD, fdOf(pidfd), &info, unix.WEXITED, nil))
			st := *(*int32)(unsafe.Add(unsafe.Pointer(&info), 24)) // si_status
			if info.Code != 1 || st != 7 {                         // CLD_EXITED
				t.Errorf("with %d bytes of data: code %d, status %d", pad, info.Code, st)
			}
			pidfd.Close()
		}
		check(t, unix.Munmap(region))
		unix.Syscall(unix.SYS_MUNMAP, uintptr(base)+uintptr(size), uintptr(page), 0)
	}
	if tried == 0 {
		t.Skip("the kernel puts mappings elsewhere")
	}
}
