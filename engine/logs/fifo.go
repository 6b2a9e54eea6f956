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
	StdinFIFO  = "stdin"
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

// NewFIFOs makes the FIFOs of a container's output in dir, and that of its input,
// if it has one. FIFOs that are there already stay as they are.
func NewFIFOs(dir string, stdin bool) error {
	names := []string{StdoutFIFO, StderrFIFO}
	if stdin {
		names = append(names, StdinFIFO)
	}
	for _, name := range names {
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

// OpenContainerStdin opens the container's end of its stdin FIFO: it sees the
// end of input once nobody has the FIFO open for writing any more. A writer must
// be open before the container's process reads.
func OpenContainerStdin(path string) (*os.File, error) {
	// Nonblocking only for the open itself, which else waits for a writer.
	f, err := open(path, unix.O_RDONLY|unix.O_NONBLOCK)
	if err != nil {
		return nil, err
	}
	if err := unix.SetNonblock(int(f.Fd()), false); err != nil {
		f.Close()
		return nil, fmt.Errorf("cannot open %s: %w", path, err)
	}
	return f, nil
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
