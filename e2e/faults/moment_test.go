package faults

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A moment is when a command's processes are killed: a time after its start, or a
// number of changes it has made to its files.
type moment struct {
	after time.Duration
	steps int // 0: after a time
}

func (m moment) String() string {
	if m.steps > 0 {
		return fmt.Sprintf("after %d changes of files", m.steps)
	}
	return fmt.Sprintf("after %v", m.after.Round(time.Millisecond))
}

// wait waits for the moment, or for the command's end and linger more.
func (m moment) wait(c *client, w *stepWatch, linger time.Duration) {
	if m.steps == 0 {
		<-time.After(m.after)
		return
	}
	late := make(chan struct{})
	stop := make(chan struct{})
	defer close(stop)
	go func() {
		select {
		case <-c.done:
			time.AfterFunc(linger, func() { close(late) })
		case <-stop:
		}
	}()
	select {
	case <-w.reached(m.steps):
	case <-late:
	case <-time.After(limit()):
	}
}

// A stepWatch counts the changes of an installation's records: files and
// directories made, moved, removed or closed after writing.
type stepWatch struct {
	fd    *os.File
	mu    sync.Mutex
	dirs  map[int]string
	count int
	goal  int
	hit   chan struct{}
}

func watchSteps(in *installation) (*stepWatch, error) {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("cannot watch files: %w", err)
	}
	w := &stepWatch{fd: os.NewFile(uintptr(fd), "inotify"), dirs: map[int]string{}}
	for _, root := range []string{in.DataRoot(), in.RunRoot()} {
		os.MkdirAll(root, 0o755)
		w.add(root)
	}
	go w.read()
	return w, nil
}

// add watches a directory and those in it, but not what containers see.
func (w *stepWatch) add(dir string) {
	filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil || !d.IsDir() {
			return nil
		}
		switch d.Name() {
		case "rootfs", "merged", "diff", "upper", "work", "fs", "_data", "layers", "images", "content", "blobs", "snapshots":
			return fs.SkipDir
		}
		wd, err := unix.InotifyAddWatch(int(w.fd.Fd()), p, unix.IN_CREATE|unix.IN_DELETE|unix.IN_MOVED_TO|unix.IN_CLOSE_WRITE|unix.IN_ONLYDIR)
		if err == nil {
			w.mu.Lock()
			w.dirs[wd] = p
			w.mu.Unlock()
		}
		return nil
	})
}

func (w *stepWatch) read() {
	buf := make([]byte, 64<<10)
	for {
		n, err := w.fd.Read(buf)
		if err != nil {
			return
		}
		for b := buf[:n]; len(b) >= unix.SizeofInotifyEvent; {
			e := (*unix.InotifyEvent)(unsafe.Pointer(&b[0]))
			name := strings.TrimRight(string(b[unix.SizeofInotifyEvent:unix.SizeofInotifyEvent+e.Len]), "\x00")
			b = b[unix.SizeofInotifyEvent+e.Len:]
			w.mu.Lock()
			w.count++
			if w.hit != nil && w.count == w.goal {
				close(w.hit)
			}
			dir := w.dirs[int(e.Wd)]
			w.mu.Unlock()
			if e.Mask&unix.IN_ISDIR != 0 && e.Mask&unix.IN_CREATE != 0 {
				w.add(filepath.Join(dir, name))
			}
		}
	}
}

// reached is closed at the n-th change.
func (w *stepWatch) reached(n int) <-chan struct{} {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.goal, w.hit = n, make(chan struct{})
	if w.count >= n {
		close(w.hit)
	}
	return w.hit
}

// close ends the watch and returns how many changes there were.
func (w *stepWatch) close() int {
	w.fd.Close()
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.count
}
