package inotify

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// A user who has all his instances in use is woken all the same.
func TestWakesWithoutAnInstance(t *testing.T) {
	w, err := open(func(int) (int, error) { return -1, unix.EMFILE })
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	x := w.NewWatch()
	if err := x.Add(filepath.Join(dir, "none"), unix.IN_MODIFY); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a path that is not there: %v", err)
	}
	for range 2 {
		if err := x.Add(dir, unix.IN_CREATE|unix.IN_ONLYDIR); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 {
		select {
		case <-x.C:
		case <-time.After(10 * time.Second):
			t.Fatal("nobody was woken")
		}
	}
	x.Remove(dir)
	x.Close()
	if err := errors.Join(w.Close(), w.Close()); err != nil {
		t.Error(err)
	}
	if err := x.Add(dir, unix.IN_CREATE); !errors.Is(err, os.ErrClosed) {
		t.Errorf("a closed watcher: %v", err)
	}
}
