package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"github.com/stack-run/stack/e2e/peer"
	"github.com/stack-run/stack/examples/images"
)

// kit is what all tests share; it is made once, outside the namespaces.
type kit struct {
	Module string // the module's directory
	Stack  string // the program under test
	// Registry is a program that serves images, see package peer.
	Registry string
	Temp     string                  // directory of all tests, short because of unix socket paths
	Images   map[string]images.Image // by reference
	// The caches of the go command, which would be sought below HOME otherwise.
	GoCache, GoModCache string
}

// shared is set by TestMain before any test and not changed afterwards.
var shared *kit

const (
	stageVar  = "STACK_E2E_STAGE" // "": outside; "init": pid 1 of the namespaces; "test": runs the tests
	kitVar    = "STACK_E2E_KIT"
	cgroupVar = "STACK_E2E_CGROUP"
	// binaryVar names a stack program to test instead of a fresh one.
	binaryVar = "STACK_E2E_BINARY"
)

func TestMain(m *testing.M) {
	code, err := stage(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, "e2e:", err)
		code = 1
	}
	os.Exit(code)
}

func stage(m *testing.M) (int, error) {
	switch os.Getenv(stageVar) {
	case "init":
		return initStage()
	case "test":
		shared = new(kit)
		if err := json.Unmarshal([]byte(os.Getenv(kitVar)), shared); err != nil {
			return 1, err
		}
		// What the product sees must be the user's environment, not the harness's.
		os.Unsetenv(stageVar)
		os.Unsetenv(kitVar)
		os.Unsetenv(cgroupVar)
		return m.Run(), nil
	}
	if os.Geteuid() != 0 {
		return m.Run(), nil // tests that need root skip themselves
	}
	return outside()
}

// outside builds what the tests need and starts them in namespaces.
func outside() (code int, err error) {
	k, err := makeKit()
	if err != nil {
		return 1, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(k.Temp), peer.RemoveCgroups(cgroupName())) }()
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
	return exitCode(cmd.Run())
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

func exitCode(err error) (int, error) {
	var exit *exec.ExitError
	switch {
	case err == nil:
		return 0, nil
	case errors.As(err, &exit) && exit.ExitCode() >= 0:
		return exit.ExitCode(), nil
	}
	return 1, err
}

func buildStack(module, to string) error {
	if err := os.Mkdir(filepath.Dir(to), 0o755); err != nil {
		return err
	}
	build := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-o", filepath.Dir(to)+"/", "./cmd/stack", "./cmd/stack-builder")
	build.Dir = module
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("cannot build stack: %w\n%s", err, out)
	}
	return nil
}

func makeKit() (*kit, error) {
	module, err := filepath.Abs("..")
	if err != nil {
		return nil, err
	}
	temp, err := os.MkdirTemp("/tmp", "e2e-")
	if err != nil {
		return nil, err
	}
	k := &kit{Module: module, Temp: temp, Stack: filepath.Join(temp, "bin", "stack"), Images: map[string]images.Image{}}
	if given := os.Getenv(binaryVar); given != "" {
		k.Stack = given
	} else if err := buildStack(module, k.Stack); err != nil {
		return nil, err
	}
	env := exec.Command("go", "env", "GOCACHE", "GOMODCACHE")
	caches, err := env.Output()
	if err != nil {
		return nil, fmt.Errorf("cannot ask go for its caches: %w", err)
	}
	k.GoCache, k.GoModCache, _ = strings.Cut(strings.TrimSpace(string(caches)), "\n")

	dir, err := images.DefaultDir()
	if err != nil {
		return nil, err
	}
	ctx := context.Background()
	if k.Registry, err = peer.RegistryProgram(ctx); err != nil {
		return nil, err
	}
	cache := images.Cache{Dir: dir, Log: os.Stderr}
	all, err := cache.Shop(ctx, module)
	if err != nil {
		return nil, err
	}
	// What README.md's first command builds the shop from needs the network once.
	if _, err := cache.ShopBase(ctx, module); err != nil {
		return nil, err
	}
	busybox, err := cache.BusyBox(ctx)
	if err != nil {
		return nil, err
	}
	probe, err := cache.Go(ctx, module, images.Program{
		Ref: "probe", Path: "/probe", Package: "./e2e/probe", Changes: []string{`ENTRYPOINT ["/probe"]`},
	})
	if err != nil {
		return nil, err
	}
	for _, img := range append(append(all, busybox), probe...) {
		k.Images[img.Ref] = img
	}
	return k, nil
}
