package peer

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
)

// Side is one of the two that are compared. Its commands come without standard
// streams set.
type Side interface {
	Name() string
	// Version is the name and version of what runs.
	Version(ctx context.Context) string
	// Container is a command about a single container, such as "run --rm".
	Container(ctx context.Context, args ...string) *exec.Cmd
	// Network is a command about a network, such as "create".
	Network(ctx context.Context, args ...string) *exec.Cmd
	// Compose is a command about a project.
	Compose(ctx context.Context, file, project string, args ...string) *exec.Cmd
	// Import makes an image of a tar of a root filesystem.
	Import(ctx context.Context, tar, ref string) error
	// Pull brings an image from a registry, RemoveImage takes it away again.
	Pull(ctx context.Context, ref string) *exec.Cmd
	RemoveImage(ctx context.Context, ref string) *exec.Cmd
	// BuildImage builds the Dockerfile in a directory.
	BuildImage(ctx context.Context, dir, ref string) *exec.Cmd
	// Processes are the pids of the side's own processes, without those that
	// run in containers.
	Processes() ([]int, error)
	Close() error
}

// Run runs a command with its output in a file, so that what it leaves running
// cannot hold a pipe of ours open. The error has the last of the output.
func Run(cmd *exec.Cmd) ([]byte, error) {
	out, err := os.CreateTemp("", "peer-output-")
	if err != nil {
		return nil, err
	}
	defer os.Remove(out.Name())
	defer out.Close()
	errs, err := os.CreateTemp("", "peer-errors-")
	if err != nil {
		return nil, err
	}
	defer os.Remove(errs.Name())
	defer errs.Close()
	cmd.Stdout, cmd.Stderr = out, errs
	err = cmd.Run()
	text, readErr := os.ReadFile(out.Name())
	if err != nil {
		said, _ := os.ReadFile(errs.Name())
		return text, fmt.Errorf("%s: %w: %s", strings.Join(cmd.Args, " "), err, tail(append(text, said...)))
	}
	return text, readErr
}

func tail(out []byte) string {
	const most = 2000
	s := strings.TrimSpace(string(out))
	if len(s) > most {
		s = "…" + s[len(s)-most:]
	}
	return s
}

// processesOf lists the processes whose executable's base name is one of names,
// or which is itself one of names.
func processesOf(names ...string) ([]int, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	for i, name := range names {
		if real, err := filepath.EvalSymlinks(name); err == nil {
			names[i] = real
		}
	}
	var pids []int
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		exe, err := os.Readlink(filepath.Join("/proc", e.Name(), "exe"))
		if err != nil {
			continue // ended, or a kernel thread
		}
		for _, name := range names {
			if exe == name || filepath.Base(exe) == name {
				pids = append(pids, pid)
				break
			}
		}
	}
	return pids, nil
}

// PSS is the proportional memory of processes in bytes, proc_pid_smaps(5).
func PSS(pids []int) (int64, error) {
	var total int64
	for _, pid := range pids {
		data, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
		if err != nil {
			return 0, fmt.Errorf("cannot read the memory of process %d: %w", pid, err)
		}
		for line := range strings.Lines(string(data)) {
			rest, ok := strings.CutPrefix(line, "Pss:")
			if !ok {
				continue
			}
			kib, err := strconv.ParseInt(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(rest), "kB")), 10, 64)
			if err != nil {
				return 0, fmt.Errorf("cannot read the memory of process %d: %w", pid, err)
			}
			total += kib << 10
			break
		}
	}
	return total, nil
}
