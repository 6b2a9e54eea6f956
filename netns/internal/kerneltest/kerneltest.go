// Package kerneltest gives tests a network of their own: the test binary starts
// itself again inside new network and mount namespaces, where it is free to add
// links, routes and firewall rules, and which the kernel takes down afterwards.
package kerneltest

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"testing"

	"github.com/stack-run/stack/netns/link"
	"golang.org/x/sys/unix"
)

const mark = "STACK_KERNELTEST"

// Main runs the tests inside namespaces of their own, or as they are when not
// root. Use it in TestMain.
func Main(m *testing.M) {
	if os.Geteuid() != 0 || os.Getenv(mark) != "" {
		if os.Geteuid() == 0 {
			// What is mounted here stays here.
			if err := errors.Join(unix.Mount("", "/", "", unix.MS_PRIVATE|unix.MS_REC, ""), loopback()); err != nil {
				fmt.Fprintln(os.Stderr, err)
				os.Exit(1)
			}
		}
		os.Exit(m.Run())
	}
	// The namespaces belong to the thread that starts the child and so to it.
	runtime.LockOSThread()
	c := exec.Command("/proc/self/exe", os.Args[1:]...)
	c.Env = append(os.Environ(), mark+"=1")
	c.Stdin, c.Stdout, c.Stderr = os.Stdin, os.Stdout, os.Stderr
	c.SysProcAttr = &unix.SysProcAttr{Cloneflags: unix.CLONE_NEWNET | unix.CLONE_NEWNS, Pdeathsig: unix.SIGKILL}
	err := c.Run()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		os.Exit(exit.ExitCode())
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func loopback() error {
	s, err := link.Open()
	if err != nil {
		return err
	}
	var b link.Batch
	b.Up("lo")
	return errors.Join(s.Do(&b), s.Close())
}

// NeedRoot skips a test that needs the kernel's networking.
func NeedRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
}

// Inside runs fn in the network namespace of a pin.
func Inside(t testing.TB, pin string, fn func() error) {
	t.Helper()
	if err := link.Enter(pin, func(int) error { return fn() }); err != nil {
		t.Fatal(err)
	}
}
