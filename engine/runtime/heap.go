package runtime

import (
	"bufio"
	"fmt"
	"os"
	"sync"
	"unsafe"

	"golang.org/x/sys/unix"
)

// maxHeap bounds the address range that is taken for the Go heap's.
const maxHeap = 64 << 30

// excludeHeap keeps the Go heap out of what fork copies. A child does not touch
// it, and copying the page tables of 30 MiB takes 0.6 ms, freeing them again in
// execve as much, and then the parent takes a page fault for each page it
// writes to. Other ways to start processes (os/exec) share memory until
// execve, and are not affected.
//
// It is called before each fork, since the heap may have grown; where nothing
// changed it is one cheap system call. It is an optimisation only: failing is fine.
func excludeHeap() {
	r := heapRange()
	if r.end <= r.start {
		return
	}
	// ENOMEM for the gaps in the range.
	unix.Syscall(unix.SYS_MADVISE, r.start, r.end-r.start, unix.MADV_DONTFORK)
}

type addressRange struct{ start, end uintptr }

// heapRange finds the mapping that an allocated object is in and extends it to
// the next one: the heap grows upwards from its first arena.
var heapRange = sync.OnceValue(func() addressRange {
	object := new([1 << 16]byte)
	maps, err := os.Open("/proc/self/maps")
	if err != nil {
		return addressRange{}
	}
	defer maps.Close()
	r := findHeap(bufio.NewScanner(maps), uintptr(unsafe.Pointer(object)))
	if image := uintptr(unsafe.Pointer(&capabilityNames)); image >= r.start && image < r.end {
		return addressRange{} // the child needs the binary's own data
	}
	r.end = min(r.end, r.start+maxHeap)
	return r
})

// findHeap reads /proc/PID/maps (proc_pid_maps(5)).
func findHeap(maps *bufio.Scanner, object uintptr) addressRange {
	var r addressRange // adjoining anonymous mappings
	found := false
	for maps.Scan() {
		var start, end, offset, inode uintptr
		var perms, device string
		if n, _ := fmt.Sscanf(maps.Text(), "%x-%x %s %x %s %d", &start, &end, &perms, &offset, &device, &inode); n != 6 {
			return addressRange{}
		}
		if found {
			if start != r.end {
				// What is free up to the next mapping is for the heap to grow.
				return addressRange{r.start, start}
			}
			r.end = end
			continue
		}
		if start != r.end || inode != 0 {
			r.start = start
		}
		r.end = end
		found = inode == 0 && object >= start && object < end
	}
	return addressRange{}
}
