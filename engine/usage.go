package engine

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Usage is a container's use of resources at one moment.
type Usage struct {
	Time                  time.Time
	CPU                   time.Duration // since the start, all CPUs together
	Memory, MemoryLimit   uint64        // bytes; Memory without inactive page cache
	PIDs                  uint64
	NetRx, NetTx          uint64 // bytes, all interfaces but lo
	BlockRead, BlockWrite uint64 // bytes
}

// Usage samples a running container.
func (e *Engine) Usage(c *Container) (Usage, error) {
	if c.State.Pid == 0 {
		return Usage{}, fmt.Errorf("container %s is not running", c.Spec.Name)
	}
	groups, err := e.Cgroups()
	if err != nil {
		return Usage{}, err
	}
	g, err := groups.Open(e.cgroupPath(c))
	if err != nil {
		return Usage{}, err
	}
	st, err := g.Stats()
	if err != nil {
		return Usage{}, err
	}
	u := Usage{
		Time: st.Time, CPU: st.CPU.Total, Memory: st.Memory.Usage, MemoryLimit: st.Memory.Limit, PIDs: st.PIDs.Current,
		BlockRead: st.IO.ReadBytes, BlockWrite: st.IO.WriteBytes,
	}
	if total := hostMemory(); u.MemoryLimit == 0 || u.MemoryLimit > total {
		u.MemoryLimit = total
	}
	// The process sees the counters of its own network namespace.
	f, err := os.Open(fmt.Sprintf("/proc/%d/net/dev", c.State.Pid))
	if err != nil {
		return u, nil
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		name, counters, found := strings.Cut(lines.Text(), ":")
		fields := strings.Fields(counters)
		if !found || strings.TrimSpace(name) == "lo" || len(fields) < 9 {
			continue
		}
		rx, _ := strconv.ParseUint(fields[0], 10, 64)
		tx, _ := strconv.ParseUint(fields[8], 10, 64)
		u.NetRx, u.NetTx = u.NetRx+rx, u.NetTx+tx
	}
	return u, nil
}

// hostMemory is MemTotal in bytes, proc_meminfo(5).
func hostMemory() uint64 {
	b, _ := os.ReadFile("/proc/meminfo")
	for line := range strings.Lines(string(b)) {
		if rest, ok := strings.CutPrefix(line, "MemTotal:"); ok {
			kib, _ := strconv.ParseUint(strings.Fields(rest)[0], 10, 64)
			return kib << 10
		}
	}
	return 0
}

// Processes lists the process IDs, on the host, of a container.
func (e *Engine) Processes(c *Container) ([]int, error) {
	groups, err := e.Cgroups()
	if err != nil {
		return nil, err
	}
	g, err := groups.Open(e.cgroupPath(c))
	if err != nil {
		return nil, err
	}
	return g.Processes()
}

// UpdateLimits puts the limits of c's spec into force, at once if it runs, and
// stores them.
func (e *Engine) UpdateLimits(c *Container) (warnings []string, err error) {
	r, err := resources(c.Spec, Facts{BlkioDevice: deviceNumber})
	if err != nil {
		return nil, err
	}
	if c.State.Pid != 0 {
		groups, err := e.Cgroups()
		if err != nil {
			return nil, err
		}
		g, err := groups.Open(e.cgroupPath(c))
		if err == nil {
			warnings, err = g.Update(r)
		}
		// A process that has ended takes its cgroup with it, before that is in the
		// record: the limits are for the next one.
		if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, unix.ENODEV) {
			return nil, fmt.Errorf("cannot update container %s: %w", c.Spec.Name, err)
		}
	}
	return warnings, e.Records.SaveConfig(c)
}
