// Package peer runs what stack is compared with: a Docker daemon of its own,
// beside a stack of its own, both in one throw-away sandbox.
//
// The sandbox is a set of pid, mount and network namespaces. Nothing of the
// host changes (bridges, firewall, ip_forward, mounts), and when the sandbox's
// first process ends, the kernel ends everything in it, however it came to be.
package peer

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"syscall"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// stageVariable tells a process of this program which part it plays.
const stageVariable = "STACK_PEER_STAGE"

const (
	stageInit = "init" // first process of the sandbox: sets it up and reaps
	stageWork = "work" // does what the program is for
)

// Inside says that this process works in a sandbox.
func Inside() bool { return os.Getenv(stageVariable) == stageWork }

// Enter runs this program again, with the same arguments and env added, as the
// only work of a new sandbox. In the process that calls it first it returns the
// exit code; inside it returns at once with inside true.
//
// It must be called before anything else is done: the program passes it three
// times, as itself, as the sandbox's first process, and as the worker.
func Enter(ctx context.Context, env ...string) (inside bool, code int, err error) {
	switch os.Getenv(stageVariable) {
	case stageWork:
		return true, 0, nil
	case stageInit:
		code, err := initSandbox()
		return false, code, err
	}
	if os.Geteuid() != 0 {
		return false, 1, errors.New("cannot make a sandbox: it needs root; run it with sudo")
	}
	cmd := again(stageInit, env)
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWNET,
		Pdeathsig:  unix.SIGKILL,
	}
	if err := cmd.Start(); err != nil {
		return false, 1, fmt.Errorf("cannot make a sandbox: %w", err)
	}
	stop := context.AfterFunc(ctx, func() { cmd.Process.Signal(unix.SIGTERM) })
	defer stop()
	err = cmd.Wait()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		err = nil
	}
	return false, cmd.ProcessState.ExitCode(), err
}

func again(stage string, env []string) *exec.Cmd {
	cmd := exec.Command("/proc/self/exe")
	cmd.Args = os.Args
	cmd.Env = append(append(os.Environ(), env...), stageVariable+"="+stage)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	return cmd
}

// initSandbox is the sandbox's process 1. It returns when the worker has ended.
func initSandbox() (int, error) {
	steps := []struct {
		what string
		do   func() error
	}{
		{"detach mounts from the host", func() error { return unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, "") }},
		{"mount /proc", func() error {
			return unix.Mount("proc", "/proc", "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "")
		}},
		// No daemon of the host is found here, and none is disturbed.
		{"mount /run", func() error { return unix.Mount("tmpfs", "/run", "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=755") }},
		{"bring up the loopback", func() error {
			lo, err := netlink.LinkByName("lo")
			if err != nil {
				return err
			}
			return netlink.LinkSetUp(lo)
		}},
	}
	for _, s := range steps {
		if err := s.do(); err != nil {
			return 1, fmt.Errorf("cannot %s in the sandbox: %w", s.what, err)
		}
	}
	cmd := again(stageWork, nil)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: unix.SIGKILL}
	if err := cmd.Start(); err != nil {
		return 1, fmt.Errorf("cannot start the work in the sandbox: %w", err)
	}
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, unix.SIGTERM, unix.SIGINT)
	go func() {
		for s := range signals {
			cmd.Process.Signal(s)
		}
	}()
	for {
		var status unix.WaitStatus
		pid, err := unix.Wait4(-1, &status, 0, nil)
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return 1, fmt.Errorf("cannot wait for the work in the sandbox: %w", err)
		case pid == cmd.Process.Pid && status.Exited():
			return status.ExitStatus(), nil
		case pid == cmd.Process.Pid:
			return 128 + int(status.Signal()), nil
		}
	}
}
