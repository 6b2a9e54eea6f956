// Package machine gives tests a machine of their own, and tells what a program
// has left on it.
//
// The tests run in new pid, mount, network, ipc and cgroup namespaces: they leave
// no process, mount, link or firewall rule behind whatever happens, and may be run
// beside anything else.
package machine

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"syscall"
	"testing"

	"github.com/stack-run/stack/e2e/conformance"
	"github.com/stack-run/stack/e2e/peer"
)

const (
	stageVar  = "STACK_E2E_STAGE" // "": outside; "init": pid 1 of the namespaces; "test": runs the tests
	kitVar    = "STACK_E2E_KIT"
	cgroupVar = "STACK_E2E_CGROUP"
)

// Main is the body of a TestMain whose tests run in a machine of their own.
//
// Outside, prepare makes what the tests need, which becomes JSON, and returns what
// removes it in the end. Inside, use gets the JSON before the first test, and after the
// last one compose/CONFORMANCE.md must say what they saw (conformance.Run). Without root
// neither is called, and the tests run where they are, to skip themselves.
func Main(m *testing.M, prepare func() (kit any, done func() error, err error), use func(kit []byte) error) {
	code, err := stage(m, prepare, use)
	if err != nil {
		fmt.Fprintln(os.Stderr, "e2e:", err)
		code = 1
	}
	os.Exit(code)
}

func stage(m *testing.M, prepare func() (any, func() error, error), use func([]byte) error) (int, error) {
	switch os.Getenv(stageVar) {
	case "init":
		return initStage()
	case "test":
		if err := use([]byte(os.Getenv(kitVar))); err != nil {
			return 1, err
		}
		// What the product sees must be the user's environment, not the harness's.
		os.Unsetenv(stageVar)
		os.Unsetenv(kitVar)
		os.Unsetenv(cgroupVar)
		return conformance.Run(m), nil
	}
	if os.Geteuid() != 0 {
		return m.Run(), nil // tests that need root skip themselves
	}
	return outside(prepare)
}

// outside makes what the tests need and starts them in namespaces.
func outside(prepare func() (any, func() error, error)) (code int, err error) {
	k, done, err := prepare()
	if err != nil {
		return 1, err
	}
	defer func() { err = errors.Join(err, done(), peer.RemoveCgroups(cgroupName())) }()
	b, err := json.Marshal(k)
	if err != nil {
		return 1, err
	}
	cmd := again("init")
	cmd.Env = append(cmd.Env, kitVar+"="+string(b), cgroupVar+"="+cgroupName())
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWNS | syscall.CLONE_NEWPID | syscall.CLONE_NEWNET | syscall.CLONE_NEWIPC,
		Pdeathsig:  syscall.SIGKILL,
		Setsid:     true, // a signal to the tests' process group must stay inside
	}
	// A parent death signal comes when the thread ends that made the child.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	return ExitCode(cmd.Run())
}

// initStage is pid 1 of the namespaces: it mounts what a machine has, starts
// the tests and reaps whatever is orphaned, as every init does.
func initStage() (int, error) {
	// Namespaces belong to threads until a process is started from one.
	runtime.LockOSThread()
	if err := makeMachine(); err != nil {
		return 1, err
	}
	cmd := again("test")
	cmd.Env = append(cmd.Env, kitVar+"="+os.Getenv(kitVar))
	if err := cmd.Start(); err != nil {
		return 1, err
	}
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM, syscall.SIGQUIT)
	go func() {
		for s := range signals {
			cmd.Process.Signal(s)
		}
	}()
	for {
		var ws syscall.WaitStatus
		pid, err := syscall.Wait4(-1, &ws, 0, nil)
		if err == syscall.EINTR {
			continue
		}
		if err != nil {
			return 1, fmt.Errorf("cannot wait for the tests: %w", err)
		}
		if pid == cmd.Process.Pid {
			if ws.Signaled() {
				return 128 + int(ws.Signal()), nil
			}
			return ws.ExitStatus(), nil
		}
	}
}

// again is a command that runs this test binary with the same arguments.
func again(stage string) *exec.Cmd {
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Args[0] = os.Args[0]
	cmd.Env = append(os.Environ(), stageVar+"="+stage)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	return cmd
}

// ExitCode is the exit code of a command that has run; err remains what is wrong otherwise.
func ExitCode(err error) (int, error) {
	var exit *exec.ExitError
	switch {
	case err == nil:
		return 0, nil
	case errors.As(err, &exit) && exit.ExitCode() >= 0:
		return exit.ExitCode(), nil
	}
	return 1, err
}
