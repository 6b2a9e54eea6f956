package logs

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// Names of the FIFOs in a container's run directory.
const (
	StdoutFIFO = "stdout"
	StderrFIFO = "stderr"
)

// pipeSize is the capacity asked for a FIFO, bytes. It is what a container can
// print before it has to wait while no pump runs. The kernel allows up to
// /proc/sys/fs/pipe-max-size (1 MiB by default), and takes memory only for what
// is inside.
const pipeSize = 256 << 10

// maxPipe is more than any pipe has, bytes.
const maxPipe = 64 << 20

// NewFIFOs makes the FIFOs of a container's output in dir. FIFOs that are there already
// stay as they are.
func NewFIFOs(dir string) error {
	for _, name := range []string{StdoutFIFO, StderrFIFO} {
		path := filepath.Join(dir, name)
		if err := unix.Mkfifo(path, 0o600); err != nil && !errors.Is(err, fs.ErrExist) {
			return fmt.Errorf("cannot make FIFO %s: %w", path, err)
		}
	}
	return nil
}

// OpenFIFO opens a FIFO for a pump: readable and nonblocking, never at its end.
// It is open for writing too, so its content stays while this descriptor, or
// any copy of it in a process that keeps it, is open.
func OpenFIFO(path string) (*os.File, error) {
	f, err := open(path, unix.O_RDWR|unix.O_NONBLOCK)
	if err != nil {
		return nil, err
	}
	// A larger pipe is a comfort; an unprivileged user may be over a quota.
	unix.FcntlInt(f.Fd(), unix.F_SETPIPE_SZ, pipeSize)
	return f, nil
}

// OpenContainerEnd opens the container's end of its stdout or stderr FIFO:
// blocking, and for reading too, which is what saves it from SIGPIPE. The inode
// should belong to the container's user, who may open /dev/stdout again.
func OpenContainerEnd(path string) (*os.File, error) {
	return open(path, unix.O_RDWR)
}

// NewInput makes a container's standard input: a pipe without a name. A process that opens
// /dev/stdin, which leads to it, sees what is left in the pipe and then its end, while with
// a FIFO it would wait for a writer when there is none any more, fifo(7).
//
// Like OpenFIFO's, it is open for reading, too, and keeps its content while it is open.
func NewInput() (*os.File, error) {
	var ends [2]int
	if err := unix.Pipe2(ends[:], unix.O_CLOEXEC); err != nil {
		return nil, os.NewSyscallError("pipe2", err)
	}
	r := os.NewFile(uintptr(ends[0]), "input")
	defer r.Close()
	defer unix.Close(ends[1])
	f, err := ReopenInput(r)
	if err != nil {
		return nil, err
	}
	unix.FcntlInt(f.Fd(), unix.F_SETPIPE_SZ, pipeSize)
	return f, nil
}

// ReopenInput opens what NewInput made, by any end of it.
func ReopenInput(f *os.File) (*os.File, error) { return reopen(f, unix.O_RDWR) }

// OpenInput opens the container's end of its standard input: it sees the end of input once
// nobody has the pipe open for writing any more.
func OpenInput(f *os.File) (*os.File, error) { return reopen(f, unix.O_RDONLY) }

// OpenInputWriter opens the end for who gives the input.
func OpenInputWriter(f *os.File) (*os.File, error) { return reopen(f, unix.O_WRONLY) }

func reopen(f *os.File, flags int) (_ *os.File, err error) {
	conn, err := f.SyscallConn()
	if err != nil {
		return nil, err
	}
	var again *os.File
	controlErr := conn.Control(func(fd uintptr) { again, err = open(fmt.Sprintf("/proc/self/fd/%d", fd), flags) })
	return again, errors.Join(controlErr, err)
}

// open is open(2) without what os.OpenFile does beyond it: that makes FIFOs
// nonblocking, which the container would notice.
func open(path string, flags int) (*os.File, error) {
	for {
		fd, err := unix.Open(path, flags|unix.O_CLOEXEC, 0)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return nil, &os.PathError{Op: "open", Path: path, Err: err}
		}
		return os.NewFile(uintptr(fd), path), nil
	}
}
