// Package thread runs functions on operating system threads that they may change: their
// namespaces, identity or working directory.
package thread

import (
	"runtime"

	"golang.org/x/sys/unix"
)

// Own runs fn on a thread that ends with it, so that what fn does to the thread does
// not outlive it.
func Own(fn func()) {
	Locked(func() (ends bool) {
		fn()
		return true
	})
}

// Locked runs fn alone on a thread, which ends with fn if that returns true. It is
// never the program's first thread, which would not end, and whose namespaces are taken
// for the program's: /proc/PID shows them.
func Locked(fn func() (ends bool)) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread()
		if unix.Gettid() == unix.Getpid() {
			Locked(fn) // while this goroutine holds the first thread it gets another
			runtime.UnlockOSThread()
		} else if !fn() {
			runtime.UnlockOSThread() // else the thread ends with its goroutine
		}
	}()
	<-done
}
