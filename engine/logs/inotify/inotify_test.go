package inotify

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// A user who has all his instances in use is woken all the same.
func TestWakesWithoutAnInstance(t *testing.T) {
	var told []error
	w, err := open(func(int) (int, error) { return -1, unix.EMFILE }, func(err error) { told = append(told, err) })
	if err != nil {
		t.Fatal(err)
	}
	if len(told) != 1 || !strings.Contains(told[0].Error(), "fs.inotify.max_user_instances") {
		t.Errorf("what is scarce: %v", told)
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

// All who want a watcher at the same time have the same one.
func TestShared(t *testing.T) {
	var s Shared
	a, putA, err := s.Get()
	if err != nil {
		t.Fatal(err)
	}
	b, putB, err := s.Get()
	if err != nil {
		t.Fatal(err)
	}
	if a != b {
		t.Error("two watchers")
	}
	putA()
	putA()
	x := b.NewWatch()
	dir := t.TempDir()
	if err := x.Add(dir, unix.IN_CREATE); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(dir, "new"), 0o700); err != nil {
		t.Fatal(err)
	}
	<-x.C
	putB()
	if err := b.NewWatch().Add(dir, unix.IN_CREATE); !errors.Is(err, os.ErrClosed) {
		t.Errorf("the watcher that nobody uses any more: %v", err)
	}
}
