package runtime

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"os"
	"strings"
	"sync"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/stack-run/stack/engine/seccomp"
)

// Until a process executes another program, /proc/self/exe is this binary. A
// command that is a link to it, or a script that begins with "#!/proc/self/exe",
// would run it inside the container, read it, and once nobody else runs it, write
// it. (runc had that: CVE-2019-5736.) So the child executes a program of some
// hundred bytes first, from a sealed file in memory, which then executes the
// command: what /proc/self/exe means at that moment is of no use to anybody.
//
// That program (step_*.s) gets
//
//	argv  "-- STEP=FD" CANDIDATE... "" ARG...
//	envp  the command's
//
// executes the first candidate that it can with the arguments after the empty
// one, and otherwise reports to descriptor FD what execute would: a record
// stepFailed - 2*i with the errno of candidate i, stepPresent - 2*i if that file
// exists nevertheless, and stepNone after the last.
const (
	stepMagic   = "-- STEP="
	stepNone    = int32(-2)
	stepFailed  = int32(-16)
	stepPresent = int32(-17)
)

// stepText returns the address of the program's code, which ends with initEnd.
func stepText() unsafe.Pointer

// What the step calls before it executes the command, and what leads to it.
var stepCalls = []uintptr{unix.SYS_EXECVEAT, unix.SYS_EXECVE, unix.SYS_FCNTL, unix.SYS_WRITE}

// stepOp is what the op of a record says of a candidate.
func stepOp(op int32) (candidate int, present, ok bool) {
	if op > stepFailed {
		return 0, false, false
	}
	n := int(stepFailed - op)
	return n / 2, n%2 == 1, true
}

// step hands the child the program. Without a program the command is executed
// directly, which the warning is about.
func (l *launch) step(filter *seccomp.Filter) (given bool) {
	for _, nr := range stepCalls {
		if !filter.Allows(nr) {
			l.warning("the seccomp profile forbids execveat or fcntl, which protect this program's file from the container; allow them")
			return false
		}
	}
	f, err := stepFile()
	if err != nil {
		l.warning(fmt.Sprintf("the file of this program is not protected from the container: %v", err))
		return false
	}
	l.give("step", f)
	return true
}

// stepFile and initFile are made once: nobody can change them.
var (
	stepFile = sync.OnceValues(func() (*os.File, error) { return sealed("stack-step", program64(stepText())) })
	initFile = sync.OnceValues(func() (*os.File, error) { return sealed("docker-init", program64(initText())) })
)

// sealed is an executable file in memory that cannot be changed any more.
func sealed(name string, content []byte) (*os.File, error) {
	const flags = unix.MFD_CLOEXEC | unix.MFD_ALLOW_SEALING
	fd, err := unix.MemfdCreate(name, flags|unix.MFD_EXEC)
	if err == unix.EINVAL { // Linux before 6.3
		fd, err = unix.MemfdCreate(name, flags)
	}
	if err != nil {
		return nil, fmt.Errorf("cannot make an executable file in memory: %w; /proc/sys/vm/memfd_noexec may forbid it", err)
	}
	f := os.NewFile(uintptr(fd), name)
	if _, err = f.Write(content); err == nil {
		_, err = unix.FcntlInt(uintptr(fd), unix.F_ADD_SEALS, unix.F_SEAL_SEAL|unix.F_SEAL_SHRINK|unix.F_SEAL_GROW|unix.F_SEAL_WRITE)
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("cannot make an executable file in memory: %w", err)
	}
	return f, nil
}

// programBase is where the programs expect to be, initEnd what marks their end.
const (
	programBase = 0x400000
	initEnd     = "INITEND\x00"
)

// program64 builds an executable of the code at text, elf(5): a header, two
// program headers, the code.
func program64(text unsafe.Pointer) []byte {
	code := unsafe.Slice((*byte)(text), 1024)
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
	put(uint16(2), uint16(elfMachine), uint32(1), // ET_EXEC
		uint64(programBase+headers), uint64(64), uint64(0), // entry, program headers, no sections
		uint32(0), uint16(64), uint16(56), uint16(2), uint16(64), uint16(0), uint16(0))
	put(uint32(1), uint32(5), uint64(0), uint64(programBase), uint64(programBase), size, size, uint64(0x1000)) // PT_LOAD, R+X
	put(uint32(0x6474e551), uint32(6), uint64(0), uint64(0), uint64(0), uint64(0), uint64(0), uint64(16))      // PT_GNU_STACK, R+W
	b.Write(code)
	return b.Bytes()
}

// executes tells whether a process runs its command already, and is past this
// binary and the step.
func executes(pid int) bool {
	exe, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", pid))
	if err != nil || strings.HasPrefix(exe, "/memfd:stack-step") {
		return false
	}
	own, err := os.Readlink("/proc/self/exe")
	return err == nil && exe != own
}
