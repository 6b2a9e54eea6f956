package tree

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"os"

	"golang.org/x/sys/unix"
)

// instance is one of inotify(7). Its reader sleeps in the runtime's poller.
type instance struct {
	file  *os.File
	fd    int
	limit int // of watches, above 0 in tests
}

// mask is what is worth a look. Reading is not, and neither is what happens to a
// file that has no name any more.
const mask = unix.IN_CREATE | unix.IN_DELETE | unix.IN_MODIFY | unix.IN_CLOSE_WRITE | unix.IN_ATTRIB | unix.IN_MOVED_FROM | unix.IN_MOVED_TO |
	unix.IN_DELETE_SELF | unix.IN_MOVE_SELF | unix.IN_ONLYDIR | unix.IN_DONT_FOLLOW | unix.IN_EXCL_UNLINK

func newInstance() (*instance, error) {
	fd, err := unix.InotifyInit1(unix.IN_NONBLOCK | unix.IN_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("inotify_init1", err)
	}
	return &instance{file: os.NewFile(uintptr(fd), "inotify"), fd: fd}, nil
}

func (i *instance) add(dir string) (int32, error) {
	if i.limit == 1 {
		return -1, unix.ENOSPC
	}
	if i.limit > 0 {
		i.limit--
	}
	wd, err := unix.InotifyAddWatch(i.fd, dir, mask)
	return int32(wd), err
}

// remove cannot fail but where the directory and its watch are gone already.
func (i *instance) remove(wd int32) { unix.InotifyRmWatch(i.fd, uint32(wd)) }

// isScarce tells that the kernel has no more instances or watches for this user.
func isScarce(err error) bool { return errors.Is(err, unix.EMFILE) || errors.Is(err, unix.ENOSPC) }

func scarcity(err error) error {
	if errors.Is(err, unix.EMFILE) {
		return fmt.Errorf("no inotify instance is left; raise the sysctl fs.inotify.max_user_instances (%w)", err)
	}
	return fmt.Errorf("no inotify watch is left; raise the sysctl fs.inotify.max_user_watches or ignore more directories (%w)", err)
}

// read hands on what the kernel tells. It reads on while the receiver works: the
// kernel drops events beyond fs.inotify.max_queued_events.
func (i *instance) read(to chan<- []byte, done <-chan struct{}) error {
	buf := make([]byte, 64<<10)
	for {
		n, err := i.file.Read(buf)
		if err != nil {
			return fmt.Errorf("cannot read from inotify: %w", err)
		}
		select {
		case to <- bytes.Clone(buf[:n]):
		case <-done:
			return nil
		}
	}
}

type event struct {
	wd   int32
	mask uint32
	name string
}

// decode reads struct inotify_event: wd, mask, cookie, len, name.
func decode(b []byte) iter.Seq[event] {
	return func(yield func(event) bool) {
		for len(b) >= unix.SizeofInotifyEvent {
			size := unix.SizeofInotifyEvent + int(binary.NativeEndian.Uint32(b[12:]))
			if size > len(b) {
				return
			}
			name, _, _ := bytes.Cut(b[unix.SizeofInotifyEvent:size], []byte{0})
			e := event{int32(binary.NativeEndian.Uint32(b)), binary.NativeEndian.Uint32(b[4:]), string(name)}
			if !yield(e) {
				return
			}
			b = b[size:]
		}
	}
}
