package runtime

import (
	"fmt"
	"os"
	"slices"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// How a child runs without Go. After clone3 the child has one thread and a
// copy of memory in which locks may be held and the garbage collector may be
// half-way, so it can use nothing of the Go runtime: no allocation, no stack
// growth, no goroutine. It gets a memory region of its own (an image: the linked
// program, its data, its stack), enters through a few lines of assembly, and
// interprets the program with raw system calls until execve.
//
// The region is mapped, not allocated, and the child touches nothing else but
// the text of the binary. That is why excludeHeap may exclude the whole Go heap
// from what is copied, and why a child that becomes nothing else, see hold, may
// share the memory.

// record is what the child tells the parent through a close-on-exec pipe.
//
//	parent                                child
//	clone3 ─────────────────────────────► makes the calls
//	caller's Created    ◄ (records: warnings)
//	caller's Prepared   ◄ record{prepared} if asked for: the root is mounted
//	release ────────────────────────────► read returns
//	                    ◄ record{ready}   last thing before execve
//	end of file = it runs                 execve
//	                    ◄ record{i, e}    call i failed with errno e
//
// A child that enters a user namespace forks there, since a pid namespace belongs
// to the user namespace of who makes it, and its first process is a child of its
// maker: record{fork, pid} is the first then, and another process goes on.
//
// End of file without the ready record means that the child was killed.
type record struct {
	op    int32
	errno int32
}

const (
	recordSize  = 8
	recordReady = int32(-1)
	// recordFork carries the pid of the child that goes on instead of an errno.
	recordFork = int32(-3)
	// recordPrepared comes before the wait for the release, where it is asked for.
	recordPrepared = int32(-4)
)

// image is the head of the region. Every field is read by the child.
type image struct {
	ops    unsafe.Pointer // of linkedOp
	count  uintptr
	slots  unsafe.Pointer // of int64
	errFD  uintptr
	record record
	ready  record
	action [4]uint64 // a zero kernel sigaction
	pidfd  int32
	oldset uint64
	newset uint64
	clone  cloneArgs
}

// linkedOp is an op with all addresses and descriptors filled in.
type linkedOp struct {
	nr       uintptr
	args     [6]uintptr
	fromSlot [6]bool
	is       condition
	flags    opFlags
	ignore   [4]uint16
	save     int32
	when     int32
	index    int32 // of the program's op
}

// cloneArgs is struct clone_args, clone3(2).
type cloneArgs struct {
	flags, pidfd, childTID, parentTID, exitSignal, stack, stackSize, tls, setTID, setTIDSize, cgroup uint64
}

const childStack = 32 << 10

// slotUnset is a slot whose call was not made; it satisfies no condition.
const slotUnset = int64(-1) << 62

// link lays the program out in a region. fds maps its names to descriptors.
func (p *program) link(fds map[string]int, errFD int) ([]byte, error) {
	keep := []int{errFD}
	numbers := make([]int, len(p.fds))
	for i, name := range p.fds {
		n, ok := fds[name]
		if !ok {
			return nil, fmt.Errorf("internal error: the program needs descriptor %q", name)
		}
		numbers[i] = n
		keep = append(keep, n)
	}
	var linked []linkedOp
	for i := range p.ops {
		o := &p.ops[i]
		l := linkedOp{nr: o.nr, is: o.when.is, when: int32(o.when.slot), save: int32(o.save), flags: o.flags, index: int32(i)}
		for j, e := range o.ignore {
			l.ignore[j] = uint16(e)
		}
		if o.nr == callCloseOthers || o.nr == callCloseBut {
			except := keep
			if o.nr == callCloseBut {
				except = []int{errFD}
				for _, a := range o.args {
					except = append(except, numbers[a.v])
				}
			}
			for _, r := range gaps(except) {
				c := l
				c.nr, c.args = unix.SYS_CLOSE_RANGE, [6]uintptr{r[0], r[1]}
				linked = append(linked, c)
			}
			continue
		}
		for j, a := range o.args {
			switch a.kind {
			case immediate, address:
				l.args[j] = uintptr(a.v)
			case result:
				l.args[j], l.fromSlot[j] = uintptr(a.v), true
			case resultAddress:
				l.args[j] = uintptr(a.v) * 8
			case descriptor:
				l.args[j] = uintptr(numbers[a.v])
			}
		}
		linked = append(linked, l)
	}

	round := func(n uintptr) uintptr { return (n + 63) &^ 63 }
	opsAt := round(unsafe.Sizeof(image{}))
	slotsAt := round(opsAt + unsafe.Sizeof(linkedOp{})*uintptr(len(linked)))
	dataAt := round(slotsAt + 8*uintptr(p.slots+1))
	stackAt := round(dataAt + uintptr(len(p.data)))
	region, err := unix.Mmap(-1, 0, int(stackAt+childStack), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		return nil, fmt.Errorf("cannot allocate memory for a process: %w", err)
	}
	base := unsafe.Pointer(unsafe.SliceData(region))
	img := (*image)(base)
	img.ops, img.count = unsafe.Add(base, opsAt), uintptr(len(linked))
	img.slots = unsafe.Add(base, slotsAt)
	img.errFD = uintptr(errFD)
	img.newset = ^uint64(0)

	dataBase := uintptr(base) + dataAt
	for i := range linked {
		l := &linked[i]
		switch l.nr {
		case unix.SYS_CLOSE_RANGE:
			continue
		case callReady:
			img.ready = record{recordReady, 0}
			l.nr = unix.SYS_WRITE
			l.args = [6]uintptr{uintptr(errFD), uintptr(unsafe.Pointer(&img.ready)), recordSize}
		}
		for j, a := range p.ops[l.index].args {
			switch a.kind {
			case address:
				l.args[j] += dataBase
			case resultAddress:
				l.args[j] += uintptr(img.slots)
			}
		}
	}
	copy(unsafe.Slice((*linkedOp)(img.ops), len(linked)), linked)
	slots := unsafe.Slice((*int64)(img.slots), p.slots+1)
	for i := range slots {
		slots[i] = slotUnset
	}
	data := region[dataAt : dataAt+uintptr(len(p.data))]
	copy(data, p.data)
	for _, r := range p.relocs {
		*(*uintptr)(unsafe.Pointer(&data[r.at])) = dataBase + uintptr(r.to)
	}
	img.clone = cloneArgs{
		flags:      p.flags | unix.CLONE_PIDFD | unix.CLONE_CLEAR_SIGHAND,
		pidfd:      uint64(uintptr(unsafe.Pointer(&img.pidfd))),
		exitSignal: uint64(unix.SIGCHLD),
		stack:      uint64(uintptr(base) + stackAt),
		stackSize:  childStack,
	}
	return region, nil
}

// gaps lists the ranges of descriptors from 3 up without those in keep.
func gaps(keep []int) [][2]uintptr {
	keep = slices.Clone(keep)
	slices.Sort(keep)
	var out [][2]uintptr
	next := 3
	for _, fd := range keep {
		if fd < next {
			continue
		}
		if fd > next {
			out = append(out, [2]uintptr{uintptr(next), uintptr(fd - 1)})
		}
		next = fd + 1
	}
	return append(out, [2]uintptr{uintptr(next), 1<<32 - 1})
}

// fork starts a child that runs the linked program. cgroupFD is a directory of
// cgroup v2 to be born in, or negative. The child's descriptor is close-on-exec.
func fork(region []byte, cgroupFD int) (pid int, pidfd *os.File, err error) {
	img := (*image)(unsafe.Pointer(unsafe.SliceData(region)))
	if cgroupFD >= 0 {
		img.clone.flags |= unix.CLONE_INTO_CGROUP
		img.clone.cgroup = uint64(cgroupFD)
	}
	excludeHeap()
	entry := runChild
	n, errno := forkImage(img, **(**uintptr)(unsafe.Pointer(&entry)))
	if errno != 0 {
		return 0, nil, errno
	}
	// The poller takes only what cannot block.
	if err := unix.SetNonblock(int(img.pidfd), true); err != nil {
		return 0, nil, err
	}
	return int(n), os.NewFile(uintptr(img.pidfd), "pidfd"), nil
}

// forkImage blocks all signals around the clone, so that no handler of the
// parent's runs in the child and this goroutine stays on its thread.
//
//go:nosplit
//go:norace
//go:noinline
func forkImage(img *image, entry uintptr) (uintptr, unix.Errno) {
	syscall.RawSyscall6(unix.SYS_RT_SIGPROCMASK, unix.SIG_SETMASK, uintptr(unsafe.Pointer(&img.newset)), uintptr(unsafe.Pointer(&img.oldset)), 8, 0, 0)
	r := cloneChild(uintptr(unsafe.Pointer(&img.clone)), unsafe.Sizeof(img.clone), uintptr(unsafe.Pointer(img)), entry)
	syscall.RawSyscall6(unix.SYS_RT_SIGPROCMASK, unix.SIG_SETMASK, uintptr(unsafe.Pointer(&img.oldset)), 0, 8, 0, 0)
	if int64(r) < 0 {
		return 0, unix.Errno(-int64(r))
	}
	return r, 0
}

// cloneChild calls clone3. The parent returns the raw result; the child jumps
// to entry, the address of runChild, with img as its argument, on its own stack.
// It does so by Go's internal calling convention (cmd/compile/abi-internal.md):
// the wrapper that assembly otherwise calls Go through looks for the current
// goroutine, and the race detector counts it.
//
//go:noescape
func cloneChild(args, size, img, entry uintptr) uintptr

// runChild is the child. It must not call anything that needs a goroutine.
//
//go:nosplit
//go:norace
//go:noinline
//go:nocheckptr
func runChild(img *image) {
	for i := uintptr(0); i < img.count; i++ {
		o := (*linkedOp)(unsafe.Add(img.ops, i*unsafe.Sizeof(linkedOp{})))
		if o.is != always {
			v := *(*int64)(unsafe.Add(img.slots, uintptr(o.when)*8))
			if v == slotUnset ||
				o.is == succeeded && v < 0 || o.is == failed && v >= 0 ||
				o.is == isZero && v != 0 {
				continue
			}
		}
		var a [6]uintptr
		for j := uintptr(0); j < 6; j++ {
			v := *(*uintptr)(unsafe.Add(unsafe.Pointer(&o.args), j*8))
			if *(*bool)(unsafe.Add(unsafe.Pointer(&o.fromSlot), j)) {
				v = *(*uintptr)(unsafe.Add(img.slots, v*8))
			}
			*(*uintptr)(unsafe.Add(unsafe.Pointer(&a), j*8)) = v
		}
		var r uintptr
		var e syscall.Errno
		switch o.nr {
		case callFail:
			e = syscall.Errno(a[0])
		case callDecimal:
			decimal(*(*unsafe.Pointer)(unsafe.Pointer(&a)), a[1])
		case callFork:
			// Without a new stack, for the memory is a copy.
			r, _, e = syscall.RawSyscall6(unix.SYS_CLONE, unix.CLONE_PARENT|uintptr(unix.SIGCHLD), 0, 0, 0, 0, 0)
			if e == 0 && r != 0 {
				send(img, recordFork, int32(r))
				for {
					syscall.RawSyscall(unix.SYS_EXIT_GROUP, 0, 0, 0)
				}
			}
		case callDefaultSignals:
			for sig := uintptr(1); sig <= 64; sig++ {
				if sig != uintptr(unix.SIGKILL) && sig != uintptr(unix.SIGSTOP) {
					syscall.RawSyscall6(unix.SYS_RT_SIGACTION, sig, uintptr(unsafe.Pointer(&img.action)), 0, 8, 0, 0)
				}
			}
		default:
			for {
				r, _, e = syscall.RawSyscall6(o.nr, a[0], a[1], a[2], a[3], a[4], a[5])
				if e != syscall.EINTR {
					break
				}
			}
		}
		if e == 0 && o.flags&full != 0 && r != a[2] {
			e = syscall.EPIPE
		}
		if o.save != 0 {
			v := int64(r)
			if e != 0 {
				v = -int64(e)
			}
			*(*int64)(unsafe.Add(img.slots, uintptr(o.save)*8)) = v
		}
		if e == 0 {
			if o.flags&reportOK != 0 {
				send(img, o.index, 0)
			}
			continue
		}
		if o.flags&report != 0 {
			send(img, o.index, int32(e))
		}
		if o.flags&optional != 0 ||
			uint16(e) == o.ignore[0] || uint16(e) == o.ignore[1] || uint16(e) == o.ignore[2] || uint16(e) == o.ignore[3] {
			continue
		}
		if o.flags&report == 0 {
			send(img, o.index, int32(e))
		}
		break
	}
	for {
		syscall.RawSyscall(unix.SYS_EXIT_GROUP, 255, 0, 0)
	}
}

//go:nosplit
//go:norace
func send(img *image, index, errno int32) {
	img.record.op, img.record.errno = index, errno
	syscall.RawSyscall(unix.SYS_WRITE, img.errFD, uintptr(unsafe.Pointer(&img.record)), recordSize)
}

// decimal writes v and a NUL.
//
//go:nosplit
//go:norace
//go:nocheckptr
func decimal(to unsafe.Pointer, v uintptr) {
	n := uintptr(1)
	for w := v; w >= 10; w /= 10 {
		n++
	}
	*(*byte)(unsafe.Add(to, n)) = 0
	for n > 0 {
		n--
		*(*byte)(unsafe.Add(to, n)) = byte('0' + v%10)
		v /= 10
	}
}
