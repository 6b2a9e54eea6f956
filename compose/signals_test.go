package compose

import (
	"testing"

	"golang.org/x/sys/unix"
)

// TestImpatience sends the signals to this process, which passes them on.
func TestImpatience(t *testing.T) {
	got, left := make(chan unix.Signal, 1), make(chan struct{})
	defer forwardSignals(func(s unix.Signal) { got <- s }, func() { close(left) })()
	for _, s := range []unix.Signal{unix.SIGUSR1, unix.SIGINT, unix.SIGTERM} {
		if err := unix.Kill(unix.Getpid(), s); err != nil {
			t.Fatal(err)
		}
		if passed := <-got; passed != s {
			t.Errorf("passed %v on, want %v", passed, s)
		}
	}
	select {
	case <-left:
		t.Error("two are taken for three")
	default:
	}
	if err := unix.Kill(unix.Getpid(), unix.SIGINT); err != nil {
		t.Fatal(err)
	}
	<-left
}
