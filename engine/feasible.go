package engine

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// machine is what feasible needs to know of the host.
type machine struct {
	// online reads which "cpu" or "node" are, in the format of cpuset(7); "" where
	// that is not known.
	online func(what string) string
	// parameter tells whether a file below /proc/sys is there.
	parameter func(file string) bool
	// devices finds device nodes.
	devices func(Isolation) error
}

// Feasible tells what keeps containers from starting that can be known before
// one is made: devices, CPUs and kernel parameters that the host does not have.
func (e *Engine) Feasible(s Spec) []error {
	m := machine{
		parameter: func(file string) bool {
			_, err := os.Lstat(filepath.Join("/proc/sys", file))
			return err == nil
		},
		devices: func(iso Isolation) error {
			_, _, err := devices(iso)
			return err
		},
		online: func(what string) string {
			b, _ := os.ReadFile(filepath.Join("/sys/devices/system", what, "online"))
			return strings.TrimSpace(string(b))
		},
	}
	errs := feasible(s, m)
	if s.Limits.CPURealtimeRuntime != 0 { // a period alone gives no time away
		if err := e.checkRealtime(s.Isolation.CgroupParent); err != nil {
			errs = append(errs, fmt.Errorf("cpu_rt_runtime cannot be set: %w", err))
		}
	}
	if s.Limits.StorageOpt["size"] != "" {
		layers, err := e.Layers()
		if err == nil {
			err = layers.CanLimit()
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("storage_opt size cannot be kept to: %w", err))
		}
	}
	if _, err := deviceEdits(s.Isolation); err != nil {
		errs = append(errs, err)
	}
	if err := checkTarget(s.Log); err != nil {
		errs = append(errs, err)
	}
	return errs
}

func (e *Engine) checkRealtime(parent string) error {
	groups, err := e.Cgroups()
	if err != nil {
		return err
	}
	return groups.CheckRealtime(first(parent, e.ownParent()))
}

// startRoom is more than a start writes, in bytes: records, links to layers.
const startRoom = 256 << 10

// CheckRoom tells that a start would fail for want of space.
func (e *Engine) CheckRoom() error {
	var st unix.Statfs_t
	if err := unix.Statfs(e.data, &st); err != nil {
		return fmt.Errorf("cannot look for space in %s: %w", e.data, err)
	}
	if st.Bavail*uint64(st.Bsize) < startRoom || st.Files > 0 && st.Ffree < 64 {
		return fmt.Errorf("cannot write to %s: %w", e.data, unix.ENOSPC)
	}
	return nil
}

func feasible(s Spec, m machine) []error {
	var errs []error
	if len(s.Isolation.Devices) > 0 || len(s.Isolation.DeviceCgroupRules) > 0 {
		if err := m.devices(s.Isolation); err != nil {
			errs = append(errs, err)
		}
	}
	errs = append(errs, feasibleCPUs(s.Limits, m)...)
	return append(errs, feasibleSysctls(s, m)...)
}

func feasibleCPUs(l Limits, m machine) []error {
	var errs []error
	for _, set := range []struct{ name, kind, what, asked string }{
		{"cpuset", "CPU", "cpu", l.CpusetCPUs},
		{"cpuset-mems", "memory node", "node", l.CpusetMems},
	} {
		asked, err := parseCPUSet(set.asked)
		if err != nil || len(asked) == 0 {
			continue // Faults tells
		}
		have := m.online(set.what)
		online, err := parseCPUSet(have)
		if err != nil || len(online) == 0 {
			continue
		}
		for _, n := range asked {
			if !slices.Contains(online, n) {
				errs = append(errs, fmt.Errorf("%s %q: there is no %s %d; this host has %s", set.name, set.asked, set.kind, n, have))
				break
			}
		}
	}
	if l.NanoCPUs == 0 {
		return errs
	}
	// Docker's rule.
	if online, err := parseCPUSet(m.online("cpu")); err == nil && len(online) > 0 && l.NanoCPUs > int64(len(online))*1e9 {
		errs = append(errs, fmt.Errorf("cpus %s is more than there are: this host has %d", strconv.FormatFloat(float64(l.NanoCPUs)/1e9, 'f', -1, 64), len(online)))
	}
	return errs
}

// feasibleSysctls tells which kernel parameters are not there.
func feasibleSysctls(s Spec, m machine) []error {
	var errs []error
	for key, file := range sysctlFiles(s) {
		// Those of an interface are there once it is, and those of connection
		// tracking once it is loaded.
		late := strings.Contains(file, "/conf/") || strings.Contains(file, "/neigh/") || strings.HasPrefix(file, "net/netfilter/")
		if !late && !m.parameter(file) {
			errs = append(errs, fmt.Errorf("cannot set sysctl %q: this kernel has no such parameter", key))
		}
	}
	return errs
}
