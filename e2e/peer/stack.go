package peer

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Stack is a stack with roots of its own.
type Stack struct{ binary, dir string }

// NewStack returns the side of a stack program whose roots are below dir.
func NewStack(binary, dir string) *Stack { return &Stack{binary: binary, dir: dir} }

// Command is a stack command.
func (s *Stack) Command(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, s.binary, args...)
	cmd.Env = append(os.Environ(), "STACK_DATA_ROOT="+filepath.Join(s.dir, "data"), "STACK_RUN_ROOT="+filepath.Join(s.dir, "run"))
	return cmd
}

// Name implements Side.
func (s *Stack) Name() string { return "stack" }

// Version implements Side.
func (s *Stack) Version(ctx context.Context) string {
	out, err := Run(s.Command(ctx, "version"))
	if err != nil {
		return err.Error()
	}
	first, _, _ := strings.Cut(strings.TrimSpace(string(out)), "\n")
	return first
}

// Start is the shortest command there is.
func (s *Stack) Start(ctx context.Context) *exec.Cmd { return s.Command(ctx, "version") }

// Container implements Side.
func (s *Stack) Container(ctx context.Context, args ...string) *exec.Cmd {
	return s.Command(ctx, append([]string{"container"}, args...)...)
}

// Network implements Side.
func (s *Stack) Network(ctx context.Context, args ...string) *exec.Cmd {
	return s.Command(ctx, append([]string{"network"}, args...)...)
}

// Compose implements Side.
func (s *Stack) Compose(ctx context.Context, file, project string, args ...string) *exec.Cmd {
	return s.Command(ctx, append([]string{"-f", file, "-p", project}, args...)...)
}

// Import implements Side.
func (s *Stack) Import(ctx context.Context, tar, ref string) error {
	_, err := Run(s.Command(ctx, "image", "import", tar, ref))
	return err
}

// Pull implements Side.
func (s *Stack) Pull(ctx context.Context, ref string) *exec.Cmd {
	return s.Command(ctx, "image", "pull", ref)
}

// RemoveImage implements Side.
func (s *Stack) RemoveImage(ctx context.Context, ref string) *exec.Cmd {
	return s.Command(ctx, "image", "rm", ref)
}

// BuildImage implements Side.
func (s *Stack) BuildImage(ctx context.Context, dir, ref string) *exec.Cmd {
	return s.Command(ctx, "image", "build", "--tag", ref, dir)
}

// Processes implements Side.
func (s *Stack) Processes() ([]int, error) { return processesOf(s.binary) }

// untilIdle is how long a supervisor may take to leave that has nothing to own.
const untilIdle = 15 * time.Second

// Idle waits until stack has no process.
func (s *Stack) Idle(ctx context.Context) error {
	deadline := time.Now().Add(untilIdle)
	for {
		pids, err := s.Processes()
		if err == nil {
			err = ctx.Err()
		}
		if err != nil || len(pids) == 0 {
			return err
		}
		ended, err := endsBefore(pids[0], deadline)
		if err != nil {
			return err
		}
		if !ended {
			return fmt.Errorf("process %d of stack did not end within %s although nothing runs", pids[0], untilIdle)
		}
	}
}

// endsBefore waits for the end of a process.
func endsBefore(pid int, deadline time.Time) (bool, error) {
	fd, err := unix.PidfdOpen(pid, 0)
	if errors.Is(err, unix.ESRCH) {
		return true, nil
	}
	if err != nil {
		return false, err
	}
	defer unix.Close(fd)
	for {
		left := max(time.Until(deadline), 0)
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, int(left.Milliseconds()))
		if !errors.Is(err, unix.EINTR) {
			return n > 0, err
		}
	}
}

// Close ends the processes that are still there. Supervisors end by themselves
// when nothing is left to own; one that does not is ended here, by its pid.
func (s *Stack) Close() error {
	pids, err := processesOf(s.binary, "stack-builder")
	errs := []error{err}
	var ended []unix.PollFd
	for _, pid := range pids {
		fd, err := unix.PidfdOpen(pid, 0)
		if err == nil {
			defer unix.Close(fd)
			ended = append(ended, unix.PollFd{Fd: int32(fd), Events: unix.POLLIN})
		}
		if err := unix.Kill(pid, unix.SIGKILL); err != nil && !errors.Is(err, unix.ESRCH) {
			errs = append(errs, err)
		}
	}
	for _, p := range ended {
		if _, err := unix.Poll([]unix.PollFd{p}, 5000); err != nil {
			errs = append(errs, err)
		}
	}
	return errors.Join(append(errs, RemoveCgroups(s.cgroup()))...)
}

// cgroup is the name of the installation's control groups, which one that is
// killed leaves behind.
func (s *Stack) cgroup() string {
	sum := sha256.Sum256([]byte(filepath.Join(s.dir, "data") + "\x00" + filepath.Join(s.dir, "run")))
	return "stack-" + hex.EncodeToString(sum[:3])
}
