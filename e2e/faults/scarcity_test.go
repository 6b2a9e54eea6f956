package faults

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/stack-run/stack/e2e/machine"
)

// A scarcity takes something away that stack needs, and gives it back.
type scarcity struct {
	name string
	// says is what an error must say, in one of these ways.
	says []string
	// squeeze begins it and returns what ends it.
	squeeze func(in *installation) (ease func() error, err error)
	// wrap, if any, is the command line that starts each command.
	wrap []string
}

const (
	dataSize = 160 << 20
	runSize  = 8 << 20
)

// disks makes both roots disks of their own.
func disks(in *installation) error {
	for root, size := range map[string]int{in.DataRoot(): dataSize, in.RunRoot(): runSize} {
		if err := os.MkdirAll(root, 0o755); err != nil {
			return err
		}
		if err := unix.Mount("tmpfs", root, "tmpfs", 0, fmt.Sprintf("size=%d,nr_inodes=20000,mode=755", size)); err != nil {
			return err
		}
	}
	return nil
}

// fill leaves so many bytes of a disk.
func fill(root string, free int64) (func() error, error) {
	ballast := filepath.Join(root, "ballast")
	f, err := os.Create(ballast)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	n, err := io.Copy(f, zeros{})
	if !errors.Is(err, unix.ENOSPC) {
		return nil, fmt.Errorf("cannot fill %s: %w", root, err)
	}
	return func() error { return os.Remove(ballast) }, f.Truncate(max(0, n-free))
}

type zeros struct{}

func (zeros) Read(b []byte) (int, error) { clear(b); return len(b), nil }

// occupy takes all inodes of a disk but some.
func occupy(root string, free int) (func() error, error) {
	dir := filepath.Join(root, "ballast")
	if err := os.Mkdir(dir, 0o755); err != nil {
		return nil, err
	}
	n := 0
	for ; ; n++ {
		err := os.WriteFile(filepath.Join(dir, strconv.Itoa(n)), nil, 0o644)
		if errors.Is(err, unix.ENOSPC) {
			break
		}
		if err != nil {
			return nil, err
		}
	}
	for i := range min(free, n) {
		os.Remove(filepath.Join(dir, strconv.Itoa(i)))
	}
	return func() error { return os.RemoveAll(dir) }, nil
}

// limitKeepers sets the number of descriptors that each keeper may open to what
// it has open.
func limitKeepers(project string) (func() error, error) {
	old := map[int]unix.Rlimit{}
	for _, pids := range keepers(project) {
		for _, pid := range pids {
			open, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
			if err != nil {
				continue
			}
			var was unix.Rlimit
			if err := unix.Prlimit(pid, unix.RLIMIT_NOFILE, nil, &was); err != nil {
				return nil, err
			}
			if err := unix.Prlimit(pid, unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: uint64(len(open)), Max: was.Max}, nil); err != nil {
				return nil, err
			}
			old[pid] = was
		}
	}
	return func() error {
		for pid, l := range old {
			unix.Prlimit(pid, unix.RLIMIT_NOFILE, &l, nil) // it may have left
		}
		return nil
	}, nil
}

// group makes a control group with a limit, of v1 or v2, and returns its directory.
func group(controller, name string, limits map[string]string) (string, error) {
	for _, parent := range []string{filepath.Join(machine.CgroupRoot, controller), machine.CgroupRoot} {
		if _, err := os.Stat(filepath.Join(parent, "cgroup.procs")); err != nil {
			continue
		}
		dir := filepath.Join(parent, name)
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return "", err
		}
		for file, value := range limits {
			if err := os.WriteFile(filepath.Join(dir, file), []byte(value), 0o644); err != nil && !errors.Is(err, os.ErrPermission) && !errors.Is(err, os.ErrNotExist) {
				return "", err
			}
		}
		return dir, nil
	}
	return "", fmt.Errorf("there is no controller %s", controller)
}

// leaveGroup moves what is in a group to its parent and removes it.
func leaveGroup(dir string) error {
	return eventually(10*time.Second, func() error {
		pids, err := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
		if err != nil {
			return err
		}
		for pid := range strings.FieldsSeq(string(pids)) {
			to := filepath.Join(filepath.Dir(dir), "cgroup.procs")
			if _, err := os.Stat(filepath.Join(machine.CgroupRoot, "init", "cgroup.procs")); err == nil {
				to = filepath.Join(machine.CgroupRoot, "init", "cgroup.procs") // v2: no processes in inner nodes
			}
			os.WriteFile(to, []byte(pid), 0o644) // it may have ended
		}
		return os.Remove(dir)
	})
}

// scarcities are those of this machine; inotify's limits are the whole kernel's, and
// are tried in the virtual machine.
func scarcities() []scarcity {
	space := []string{"no space left on device"}
	disk := func(name string, squeeze func(in *installation) (func() error, error)) scarcity {
		return scarcity{name: name, says: space, squeeze: squeeze}
	}
	return []scarcity{
		disk("a full data root", func(in *installation) (func() error, error) { return fill(in.DataRoot(), 0) }),
		disk("a data root with 64 KiB", func(in *installation) (func() error, error) { return fill(in.DataRoot(), 64<<10) }),
		disk("a full run root", func(in *installation) (func() error, error) { return fill(in.RunRoot(), 0) }),
		disk("a run root with 32 KiB", func(in *installation) (func() error, error) { return fill(in.RunRoot(), 32<<10) }),
		disk("a data root without inodes", func(in *installation) (func() error, error) { return occupy(in.DataRoot(), 0) }),
		disk("a run root without inodes", func(in *installation) (func() error, error) { return occupy(in.RunRoot(), 0) }),
		disk("a run root with 20 inodes", func(in *installation) (func() error, error) { return occupy(in.RunRoot(), 20) }),
		{
			name: "no descriptors for the keepers", says: []string{"too many open files"},
			squeeze: func(*installation) (func() error, error) { return limitKeepers("one") },
		},
		{
			name: "16 descriptors for each command", says: []string{"too many open files"},
			wrap:    []string{"sh", "-c", `ulimit -n 16; exec "$0" "$@"`},
			squeeze: func(*installation) (func() error, error) { return func() error { return nil }, nil },
		},
		{
			name: "20 processes for commands and keepers", says: []string{"resource temporarily unavailable", "pids", "process"},
			squeeze: func(*installation) (func() error, error) {
				dir, err := group("pids", "few", map[string]string{"pids.max": "20"})
				return func() error {
					return errors.Join(os.WriteFile(filepath.Join(dir, "pids.max"), []byte("max"), 0o644), leaveGroup(dir))
				}, err
			},
			wrap: []string{"sh", "-c", `echo $$ >/sys/fs/cgroup/pids/few/cgroup.procs 2>/dev/null || echo $$ >/sys/fs/cgroup/few/cgroup.procs; exec "$0" "$@"`},
		},
		{
			name: "too little memory for the supervisor", says: []string{"supervisor", "memory"},
			squeeze: func(*installation) (func() error, error) {
				dir, err := group("memory", "small", map[string]string{
					"memory.limit_in_bytes": "4194304", "memory.max": "4194304", "memory.swap.max": "0",
				})
				if err != nil {
					return nil, err
				}
				for role, pids := range keepers("one") {
					for _, pid := range pids {
						if role == "supervisor" {
							err = os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte(strconv.Itoa(pid)), 0o644)
						}
					}
				}
				return func() error { return leaveGroup(dir) }, err
			},
		},
	}
}

func TestScarcity(t *testing.T) {
	begin(t)
	all := scarcities()
	if !*everything {
		// One of them, another each time.
		all = all[int(seed(t)%uint64(len(all))):][:1]
	}
	for _, s := range all {
		for _, begun := range []bool{true, false} {
			name := s.name
			if !begun {
				name += ", from the beginning"
			}
			t.Run(name, func(t *testing.T) {
				in, err := newInstallationOn(disks)
				if err != nil {
					t.Fatal(err)
				}
				var told []string
				if err := s.try(in, begun, &told); err != nil {
					t.Errorf("  %s\n  %v\n%s", strings.Join(told, "\n  "), err, in.state())
				}
				if err := in.destroy(); err != nil {
					t.Error(err)
				}
			})
		}
	}
}

// try gives commands while something is scarce, and again when it is not.
func (s scarcity) try(in *installation, begun bool, told *[]string) error {
	p := walkProject(in, "one", 18300)
	if err := os.WriteFile(filepath.Join(in.Root, "app", "compose.yaml"), []byte(p.text), 0o644); err != nil {
		return err
	}
	if begun {
		if err := in.run("up", "--detach").mustSucceed(); err != nil {
			return err
		}
		if err := p.reaches(in, target{phase: "up"}); err != nil {
			return err
		}
	}
	before, err := livings("one.")
	if err != nil {
		return err
	}
	ease, err := s.squeeze(in)
	if err != nil {
		return err
	}
	var errs []error
	for _, args := range [][]string{
		{"ps", "--all"}, {"logs", "--tail", "2"}, {"up", "--detach"}, {"exec", "-T", "web", "/probe", "payload", "-name", "exec-scarce", "-for", "50ms"},
		{"restart", "worker"}, {"run", "--rm", "-T", "--no-deps", "worker", "payload", "-name", "oneoff-scarce", "-for", "50ms"},
		{"up", "--detach", "--force-recreate", "worker"}, {"stop", "worker"}, {"start", "worker"}, {"down"}, {"up", "--detach"}, {"scale", "worker=3"},
	} {
		if begun && args[0] == "down" {
			// Nobody has stopped or killed it, so it runs.
			errs = append(errs, stillThere(before, ".web"), stillThere(before, ".talker"))
		}
		r := in.command(s.wrap, args...)
		*told = append(*told, r.String())
		if err := r.mustEnd(); err != nil {
			errs = append(errs, err)
			break // the others would be stuck as well
		}
		if crash := crashed(r.stderr); crash != "" {
			errs = append(errs, fmt.Errorf("%s crashes: %s", strings.Join(args, " "), crash))
		}
		if r.code != 0 && !s.named(r.stderr) && begun {
			errs = append(errs, fmt.Errorf("%s does not say what is scarce: %s", strings.Join(args, " "), tail(withoutProgress(r.stderr), 500)))
		}
	}
	if err := ease(); err != nil {
		errs = append(errs, err)
	}
	r := in.run("up", "--detach")
	*told = append(*told, "there is room again", r.String())
	if err := r.mustSucceed(); err != nil {
		return errors.Join(append(errs, fmt.Errorf("when there is room again: %w", err))...)
	}
	errs = append(errs, p.reaches(in, target{phase: "up"}), p.checkLogs(in, nil))
	r = in.run("down", "--volumes")
	*told = append(*told, r.String())
	return errors.Join(append(errs, r.mustSucceed(), in.nothingLeft())...)
}

// named says whether an error names what is scarce, or what it means: that
// something is not there which could not be made.
func (s scarcity) named(stderr string) bool {
	for _, w := range append([]string{"not running", "no such", "no container", "is not"}, s.says...) {
		if strings.Contains(strings.ToLower(stderr), w) {
			return true
		}
	}
	return false
}

// crashed returns the line with which a Go program's output says that it crashed.
func crashed(output string) string {
	for l := range strings.Lines(output) {
		for _, w := range []string{"panic:", "fatal error:", "runtime:", "SIGSEGV"} {
			if strings.HasPrefix(l, w) {
				return strings.TrimSpace(l)
			}
		}
	}
	return ""
}

// stillThere is an error unless a payload's process runs that ran before.
func stillThere(before []living, suffix string) error {
	for _, l := range before {
		if strings.HasSuffix(l.name, suffix) {
			if p, err := machine.ReadProc(l.pid); err != nil || p.State == "Z" {
				return fmt.Errorf("%s has died", l.name)
			}
		}
	}
	return nil
}
