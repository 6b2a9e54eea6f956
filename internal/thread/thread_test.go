package thread

import (
	"fmt"
	"os"
	"runtime"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Goroutines that give way get on all threads, also the first one.
func TestOwn(t *testing.T) {
	var all sync.WaitGroup
	for range 200 {
		all.Go(func() {
			runtime.Gosched()
			var tid int
			Own(func() { tid = unix.Gettid() })
			if tid == unix.Getpid() {
				t.Error("it ran on the first thread")
			}
			for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
				if _, err := os.Stat(fmt.Sprintf("/proc/self/task/%d", tid)); err != nil {
					return
				}
				if time.Now().After(deadline) {
					t.Error("the thread does not end")
					return
				}
			}
		})
	}
	all.Wait()
}

// A thread that is as it was is of use to others.
func TestLockedLeavesTheThread(t *testing.T) {
	var tid int
	Locked(func() bool {
		tid = unix.Gettid()
		return false
	})
	if _, err := os.Stat(fmt.Sprintf("/proc/self/task/%d", tid)); tid == unix.Getpid() || err != nil {
		t.Errorf("thread %d: %v", tid, err)
	}
}
