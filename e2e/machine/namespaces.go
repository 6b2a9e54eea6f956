package machine

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// CgroupRoot is where control groups are mounted.
const CgroupRoot = "/sys/fs/cgroup"

// makeMachine completes the new namespaces to what a machine has: its own
// /proc, /sys, control groups and loopback link.
func makeMachine() error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("cannot make mounts private: %w", err)
	}
	hierarchies, err := cgroupMounts()
	if err != nil {
		return err
	}
	for _, h := range hierarchies {
		if err := h.enter(os.Getenv(cgroupVar)); err != nil {
			return fmt.Errorf("cannot make a control group in %s: %w", h.path, err)
		}
	}
	if err := unix.Unshare(unix.CLONE_NEWCGROUP); err != nil {
		return fmt.Errorf("cannot make a cgroup namespace: %w", err)
	}
	if err := mountMachine(hierarchies); err != nil {
		return err
	}
	// A new network namespace has its loopback link down.
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return err
	}
	return netlink.LinkSetUp(lo)
}

// mountMachine mounts what shows the new pid, network and cgroup namespaces.
func mountMachine(hierarchies []hierarchy) error {
	if err := unix.Mount("proc", "/proc", "proc", 0, ""); err != nil {
		return fmt.Errorf("cannot mount /proc: %w", err)
	}
	if err := unix.Mount("sysfs", "/sys", "sysfs", 0, ""); err != nil {
		return fmt.Errorf("cannot mount /sys: %w", err)
	}
	if len(hierarchies) != 1 || hierarchies[0].path != CgroupRoot {
		if err := unix.Mount("tmpfs", CgroupRoot, "tmpfs", 0, "mode=755"); err != nil {
			return fmt.Errorf("cannot mount %s: %w", CgroupRoot, err)
		}
	}
	for _, h := range hierarchies {
		if err := os.MkdirAll(h.path, 0o755); err != nil {
			return err
		}
		if err := unix.Mount("cgroup", h.path, h.kind, 0, h.options); err != nil {
			return fmt.Errorf("cannot mount %s: %w", h.path, err)
		}
		if h.kind == "cgroup2" {
			// A group that has processes cannot give controllers to others
			// (cgroup-v2.rst, "No Internal Process Constraint").
			if err := join(filepath.Join(h.path, "init")); err != nil {
				return err
			}
		}
	}
	return nil
}

// A hierarchy is one mount of cgroup v1 or v2.
type hierarchy struct {
	path    string // where it is mounted
	kind    string // "cgroup" or "cgroup2"
	options string // what a second mount of the same v1 hierarchy must say
}

func cgroupMounts() ([]hierarchy, error) {
	text, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	var out []hierarchy
	for line := range strings.Lines(string(text)) {
		f := strings.Fields(line)
		sep := slices.Index(f, "-")
		if sep < 0 || len(f) < sep+4 || !strings.HasPrefix(f[sep+1], "cgroup") {
			continue
		}
		h := hierarchy{path: f[4], kind: f[sep+1]}
		if h.kind == "cgroup" {
			options := strings.Split(f[sep+3], ",")
			h.options = strings.Join(slices.DeleteFunc(options, func(o string) bool { return o == "rw" || o == "ro" }), ",")
		}
		out = append(out, h)
	}
	return out, nil
}

// enter moves this process into a new control group of the hierarchy, which
// becomes the root of the cgroup namespace.
func (h hierarchy) enter(name string) error {
	dir := filepath.Join(h.path, name)
	if h.kind == "cgroup2" {
		enable(h.path)
		return join(dir)
	}
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}
	// A cpuset of cgroup v1 begins empty and takes no process like that.
	for _, f := range []string{"cpuset.cpus", "cpuset.mems"} {
		v, err := os.ReadFile(filepath.Join(h.path, f))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, f), v, 0o644)
		}
		if err != nil {
			return err
		}
	}
	return join(dir)
}

// enable gives a cgroup v2 group's children all controllers that there are. One
// that is not to be had is not had by the program under test either.
func enable(dir string) {
	all, err := os.ReadFile(filepath.Join(dir, "cgroup.controllers"))
	if err != nil {
		return
	}
	for _, c := range strings.Fields(string(all)) {
		os.WriteFile(filepath.Join(dir, "cgroup.subtree_control"), []byte("+"+c), 0o644)
	}
}

func join(dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte("0"), 0o644)
}

func cgroupName() string { return fmt.Sprintf("e2e-%d", os.Getpid()) }
