// Package inotify wakes goroutines when files change, over one inotify(7)
// instance for any number of paths: a user may have only 128 instances by
// default (fs.inotify.max_user_instances), but thousands of watches.
//
// A wake-up carries no content. Who is woken looks at the files again, so a
// lost, merged or surplus event does no harm.
package inotify

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Watcher is one inotify instance with one goroutine, which sleeps in the
// runtime's poller and so costs no thread.
type Watcher struct {
	file *os.File
	fd   int // of file, valid until closed

	mu      sync.Mutex
	targets map[int32]map[*Watch]uint32 // by watch descriptor
	closed  bool
	stop    chan struct{} // ends tick; without an instance only
	last    int32         // of the numbers that stand for watch descriptors then
}

// tick stands in for run where there is no instance.
func (w *Watcher) tick() {
	t := time.NewTicker(lookAgain)
	defer t.Stop()
	for {
		select {
		case <-t.C:
			w.wakeAll()
		case <-w.stop:
			return
		}
	}
}

// register begins to watch a path and returns its watch descriptor.
func (w *Watcher) register(path string, mask uint32) (int, error) {
	if w.stop == nil {
		return unix.InotifyAddWatch(w.fd, path, mask|unix.IN_MASK_ADD)
	}
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return -1, err
	}
	if mask&unix.IN_ONLYDIR != 0 && st.Mode&unix.S_IFMT != unix.S_IFDIR {
		return -1, unix.ENOTDIR
	}
	w.last++
	return int(w.last), nil
}

// Watch is a set of paths whose events wake one receiver.
type Watch struct {
	// C receives after events. Several events may be merged into one value.
	C chan struct{}

	w   *Watcher
	wds map[string]int32 // by path
}

// lookAgain is how often who waits is woken where there is no inotify instance to
// be had.
const lookAgain = 250 * time.Millisecond

// New opens an inotify instance. Where the user has as many as he may
// (fs.inotify.max_user_instances), all watches are woken now and then instead:
// slower, and with the same result, since who is woken looks again.
func New() (*Watcher, error) { return open(unix.InotifyInit1) }

func open(instance func(flags int) (int, error)) (*Watcher, error) {
	fd, err := instance(unix.IN_NONBLOCK | unix.IN_CLOEXEC)
	if errors.Is(err, unix.EMFILE) {
		w := &Watcher{fd: -1, stop: make(chan struct{}), targets: map[int32]map[*Watch]uint32{}}
		go w.tick()
		return w, nil
	}
	if err != nil {
		return nil, fmt.Errorf("cannot watch files: %w; raise the sysctl fs.inotify.max_user_instances", err)
	}
	w := &Watcher{file: os.NewFile(uintptr(fd), "inotify"), fd: fd, targets: map[int32]map[*Watch]uint32{}}
	go w.run()
	return w, nil
}

// Close ends the instance. It wakes all watches once more.
func (w *Watcher) Close() error {
	w.mu.Lock()
	again := w.closed
	w.closed = true
	w.mu.Unlock()
	var err error
	switch {
	case w.stop == nil:
		err = w.file.Close()
	case !again:
		close(w.stop)
	}
	w.wakeAll()
	return err
}

// NewWatch returns a watch without paths.
func (w *Watcher) NewWatch() *Watch {
	return &Watch{C: make(chan struct{}, 1), w: w, wds: map[string]int32{}}
}

// Add begins to watch a path for the events in mask (IN_MODIFY …).
func (x *Watch) Add(path string, mask uint32) error {
	w := x.w
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed {
		return os.ErrClosed
	}
	if id, ok := x.wds[path]; ok && w.stop != nil {
		w.drop(id, x)
	}
	wd, err := w.register(path, mask)
	if err != nil {
		if errors.Is(err, unix.ENOSPC) {
			err = fmt.Errorf("%w; raise the sysctl fs.inotify.max_user_watches", err)
		}
		return &os.PathError{Op: "watch", Path: path, Err: err}
	}
	id := int32(wd)
	if w.targets[id] == nil {
		w.targets[id] = map[*Watch]uint32{}
	}
	w.targets[id][x] |= mask
	x.wds[path] = id
	return nil
}

// Remove ends watching one path.
func (x *Watch) Remove(path string) {
	x.w.mu.Lock()
	defer x.w.mu.Unlock()
	if id, ok := x.wds[path]; ok {
		delete(x.wds, path)
		x.w.drop(id, x)
	}
}

// Close ends watching all paths.
func (x *Watch) Close() {
	x.w.mu.Lock()
	defer x.w.mu.Unlock()
	for path, id := range x.wds {
		delete(x.wds, path)
		x.w.drop(id, x)
	}
}

func (w *Watcher) drop(id int32, x *Watch) {
	set, ok := w.targets[id]
	if !ok {
		return
	}
	delete(set, x)
	if len(set) == 0 {
		delete(w.targets, id)
		if !w.closed && w.stop == nil {
			// EINVAL: the file is gone and took its watch along.
			unix.InotifyRmWatch(w.fd, uint32(id))
		}
	}
}

func (w *Watcher) run() {
	buf := make([]byte, 4096)
	for {
		n, err := w.file.Read(buf)
		if err != nil {
			return
		}
		w.dispatch(buf[:n])
	}
}

// dispatch decodes struct inotify_event: wd, mask, cookie, len, name.
func (w *Watcher) dispatch(b []byte) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for len(b) >= unix.SizeofInotifyEvent {
		id := int32(binary.NativeEndian.Uint32(b))
		mask := binary.NativeEndian.Uint32(b[4:])
		size := unix.SizeofInotifyEvent + int(binary.NativeEndian.Uint32(b[12:]))
		if mask&unix.IN_Q_OVERFLOW != 0 {
			for _, set := range w.targets {
				wake(set)
			}
		}
		wake(w.targets[id])
		if mask&unix.IN_IGNORED != 0 {
			// The number may be used again for another file.
			for x := range w.targets[id] {
				for path, have := range x.wds {
					if have == id {
						delete(x.wds, path)
					}
				}
			}
			delete(w.targets, id)
		}
		b = b[min(size, len(b)):]
	}
}

func (w *Watcher) wakeAll() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, set := range w.targets {
		wake(set)
	}
}

func wake(set map[*Watch]uint32) {
	for x := range set {
		select {
		case x.C <- struct{}{}:
		default:
		}
	}
}
