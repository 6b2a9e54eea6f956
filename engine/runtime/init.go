package runtime

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The init process is a few dozen instructions (init_*.s) in an executable
// without anything else. It has one page of memory and no file in the
// container. The container's child forks the command itself, so the init
// process only reaps, forwards signals to the command and exits as it does.

// initText returns the address of the init process's code.
func initText() unsafe.Pointer

// initEnd marks its end.
const initEnd = "INITEND\x00"

const initBase = 0x400000

// initELF builds the executable, elf(5): a header, two program headers, the code.
func initELF(machine uint16) []byte {
	code := unsafe.Slice((*byte)(initText()), 1024)
	code = code[:bytes.Index(code, []byte(initEnd))]
	const headers = 64 + 2*56
	size := uint64(headers + len(code))
	var b bytes.Buffer
	b.Write([]byte{0x7f, 'E', 'L', 'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0})
	put := func(v ...any) {
		for _, x := range v {
			binary.Write(&b, binary.LittleEndian, x)
		}
	}
	put(uint16(2), machine, uint32(1), // ET_EXEC
		uint64(initBase+headers), uint64(64), uint64(0), // entry, program headers, no sections
		uint32(0), uint16(64), uint16(56), uint16(2), uint16(64), uint16(0), uint16(0))
	put(uint32(1), uint32(5), uint64(0), uint64(initBase), uint64(initBase), size, size, uint64(0x1000))  // PT_LOAD, R+X
	put(uint32(0x6474e551), uint32(6), uint64(0), uint64(0), uint64(0), uint64(0), uint64(0), uint64(16)) // PT_GNU_STACK, R+W
	b.Write(code)
	return b.Bytes()
}

// init hands the child the init process's executable, sealed against changes.
func (l *launch) init() error {
	fd, err := unix.MemfdCreate("docker-init", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING|unix.MFD_EXEC)
	if err == unix.EINVAL { // Linux before 6.3
		fd, err = unix.MemfdCreate("docker-init", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	}
	if err != nil {
		return fmt.Errorf("cannot make the init process: %w; /proc/sys/vm/memfd_noexec may forbid it", err)
	}
	f := os.NewFile(uintptr(fd), "docker-init")
	l.keep("init", f)
	if _, err = f.Write(initELF(elfMachine)); err == nil {
		_, err = unix.FcntlInt(uintptr(fd), unix.F_ADD_SEALS, unix.F_SEAL_SEAL|unix.F_SEAL_SHRINK|unix.F_SEAL_GROW|unix.F_SEAL_WRITE)
	}
	if err != nil {
		return fmt.Errorf("cannot make the init process: %w", err)
	}
	return nil
}
