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
	file *os.File // nil without an instance
	fd   int      // of file, valid until closed

	mu      sync.Mutex
	targets map[int32]map[*Watch]uint32 // by watch descriptor
	closed  bool
	scarce  error         // what there is too little of, once it is known
	told    func(error)   // is told of it; may be nil
	stop    chan struct{} // ends tick, which runs when something is scarce
	unseen  int32         // the last number that stands for a watch descriptor, below 0
}

// lack begins to wake all watches now and then.
func (w *Watcher) lack(what error) {
	if w.scarce != nil {
		return
	}
	w.scarce = what
	go w.tick()
	if w.told != nil {
		w.told(what)
	}
}

// tick stands in for run where the kernel cannot tell of all events.
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

// register begins to watch a path and returns its watch descriptor, or a number
// below 0 for one that is to be had no more.
func (w *Watcher) register(path string, mask uint32) (int32, error) {
	if w.file != nil {
		wd, err := unix.InotifyAddWatch(w.fd, path, mask|unix.IN_MASK_ADD)
		if !errors.Is(err, unix.ENOSPC) {
			return int32(wd), err
		}
		w.lack(fmt.Errorf("too many files are watched: %w; raise the sysctl fs.inotify.max_user_watches", err))
	}
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return 0, err
	}
	if mask&unix.IN_ONLYDIR != 0 && st.Mode&unix.S_IFMT != unix.S_IFDIR {
		return 0, unix.ENOTDIR
	}
	w.unseen--
	return w.unseen, nil
}

// Watch is a set of paths whose events wake one receiver.
type Watch struct {
	// C receives after events. Several events may be merged into one value.
	C chan struct{}

	w   *Watcher
	wds map[string]int32 // by path
}

// lookAgain is how often who waits is woken where the kernel cannot tell him.
const lookAgain = 250 * time.Millisecond

// New opens an inotify instance. Where the user has as many as he may
// (fs.inotify.max_user_instances), all watches are woken now and then instead:
// slower, and with the same result, since who is woken looks again. The same goes
// for paths beyond fs.inotify.max_user_watches. Scarce, if set, is told once.
func New(scarce func(error)) (*Watcher, error) { return open(unix.InotifyInit1, scarce) }

func open(instance func(flags int) (int, error), scarce func(error)) (*Watcher, error) {
	w := &Watcher{fd: -1, told: scarce, stop: make(chan struct{}), targets: map[int32]map[*Watch]uint32{}}
	fd, err := instance(unix.IN_NONBLOCK | unix.IN_CLOEXEC)
	switch {
	case errors.Is(err, unix.EMFILE):
		w.lack(fmt.Errorf("no inotify instance is left: %w; raise the sysctl fs.inotify.max_user_instances", err))
		return w, nil
	case err != nil:
		return nil, fmt.Errorf("cannot watch files: %w; raise the limit of open files", err)
	}
	w.file, w.fd = os.NewFile(uintptr(fd), "inotify"), fd
	go w.run()
	return w, nil
}

// Shared is one Watcher for all in a process who want one at the same time. The
// zero value is ready.
type Shared struct {
	Scarce func(error) // see New

	mu      sync.Mutex
	watcher *Watcher
	users   int
}

// Get returns the watcher, and what the caller calls when it is through with it.
func (s *Shared) Get() (*Watcher, func(), error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.watcher == nil {
		w, err := New(s.Scarce)
		if err != nil {
			return nil, nil, err
		}
		s.watcher = w
	}
	s.users++
	return s.watcher, sync.OnceFunc(s.put), nil
}

func (s *Shared) put() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.users--; s.users == 0 {
		s.watcher.Close()
		s.watcher = nil
	}
}

// Close ends the instance. It wakes all watches once more.
func (w *Watcher) Close() error {
	w.mu.Lock()
	again := w.closed
	w.closed = true
	w.mu.Unlock()
	var err error
	if !again {
		close(w.stop)
		if w.file != nil {
			err = w.file.Close()
		}
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
	if id, ok := x.wds[path]; ok && id < 0 {
		w.drop(id, x)
	}
	id, err := w.register(path, mask)
	if err != nil {
		return &os.PathError{Op: "watch", Path: path, Err: err}
	}
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
		if !w.closed && id >= 0 {
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
