package cgroup

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Stats are a group's figures. What the host does not count is zero.
type Stats struct {
	Time   time.Time // when they were read
	CPU    CPUStats
	Memory MemoryStats
	PIDs   PIDStats
	IO     IOStats
}

// CPUStats is processor time used.
type CPUStats struct {
	Total, User, System time.Duration
	PerCPU              []time.Duration // v1 only
	Periods             uint64          // of enforcement of a CPU limit
	ThrottledPeriods    uint64
	Throttled           time.Duration
}

// MemoryStats are bytes.
type MemoryStats struct {
	// Usage is what Docker shows: everything charged, less the file cache that
	// is not in active use.
	Usage uint64
	Cache uint64 // the part of what is charged that is inactive file cache
	Peak  uint64
	Limit uint64 // 0: none
	// OOMKills is as Group.OOMKills.
	OOMKills uint64
}

// PIDStats counts tasks (threads too).
type PIDStats struct {
	Current uint64
	Limit   uint64 // 0: none
}

// IOStats are bytes of and operations on block devices.
type IOStats struct {
	ReadBytes, WriteBytes uint64
	Reads, Writes         uint64
}

// Stats reads the group's figures. Files that are not there count as zero; a
// group that is gone is an error.
func (g *Group) Stats() (*Stats, error) {
	r := statReader{}
	s := &Stats{Time: time.Now()}
	if g.h.Mode == V2 {
		g.statsV2(&r, s)
	} else {
		g.statsV1(&r, s)
	}
	if r.err == nil && !g.exists() {
		r.err = fs.ErrNotExist
	}
	if r.err != nil {
		return nil, fmt.Errorf("cannot read figures of cgroup %s: %w", g.path, r.err)
	}
	return s, nil
}

// statReader reads files and keeps the first error that matters.
type statReader struct{ err error }

func (r *statReader) text(dir, file string) string {
	if dir == "" {
		return ""
	}
	s, err := readFile(filepath.Join(dir, file))
	if err != nil && r.err == nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, unix.ENODEV) && !errors.Is(err, unix.EOPNOTSUPP) {
		r.err = err
	}
	return s
}

// number reads a file with one number; "max", and what v1 shows for no limit,
// are 0.
func (r *statReader) number(dir, file string) uint64 {
	n, err := strconv.ParseUint(strings.TrimSpace(r.text(dir, file)), 10, 64)
	if err != nil || n >= 1<<62 {
		return 0
	}
	return n
}

func (r *statReader) keyed(dir, file string) map[string]uint64 { return keyed(r.text(dir, file)) }

func (g *Group) statsV2(r *statReader, s *Stats) {
	dir := g.unified
	cpu := r.keyed(dir, "cpu.stat")
	s.CPU = CPUStats{
		Total: micros(cpu["usage_usec"]), User: micros(cpu["user_usec"]), System: micros(cpu["system_usec"]),
		Periods: cpu["nr_periods"], ThrottledPeriods: cpu["nr_throttled"], Throttled: micros(cpu["throttled_usec"]),
	}
	s.Memory = MemoryStats{
		Cache: r.keyed(dir, "memory.stat")["inactive_file"],
		Peak:  r.number(dir, "memory.peak"), // since 5.19
		Limit: r.number(dir, "memory.max"),
		Usage: r.number(dir, "memory.current"), OOMKills: r.keyed(dir, "memory.events")["oom_kill"],
	}
	s.Memory.Usage -= min(s.Memory.Cache, s.Memory.Usage)
	s.PIDs = PIDStats{r.number(dir, "pids.current"), r.number(dir, "pids.max")}
	// "8:0 rbytes=1 wbytes=2 rios=3 wios=4 …"
	for field := range strings.FieldsSeq(r.text(dir, "io.stat")) {
		key, value, _ := strings.Cut(field, "=")
		n, _ := strconv.ParseUint(value, 10, 64)
		switch key {
		case "rbytes":
			s.IO.ReadBytes += n
		case "wbytes":
			s.IO.WriteBytes += n
		case "rios":
			s.IO.Reads += n
		case "wios":
			s.IO.Writes += n
		}
	}
}

func (g *Group) statsV1(r *statReader, s *Stats) {
	dir := g.v1["cpuacct"]
	s.CPU.Total = time.Duration(r.number(dir, "cpuacct.usage"))
	s.CPU.User = time.Duration(r.number(dir, "cpuacct.usage_user"))
	s.CPU.System = time.Duration(r.number(dir, "cpuacct.usage_sys"))
	for field := range strings.FieldsSeq(r.text(dir, "cpuacct.usage_percpu")) {
		n, _ := strconv.ParseInt(field, 10, 64)
		s.CPU.PerCPU = append(s.CPU.PerCPU, time.Duration(n))
	}
	throttled := r.keyed(g.v1["cpu"], "cpu.stat")
	s.CPU.Periods, s.CPU.ThrottledPeriods = throttled["nr_periods"], throttled["nr_throttled"]
	s.CPU.Throttled = time.Duration(throttled["throttled_time"])

	dir = g.v1["memory"]
	s.Memory = MemoryStats{
		Cache: r.keyed(dir, "memory.stat")["total_inactive_file"],
		Peak:  r.number(dir, "memory.max_usage_in_bytes"),
		Limit: r.number(dir, "memory.limit_in_bytes"),
		Usage: r.number(dir, "memory.usage_in_bytes"), OOMKills: r.keyed(dir, "memory.oom_control")["oom_kill"],
	}
	s.Memory.Usage -= min(s.Memory.Cache, s.Memory.Usage)
	s.PIDs = PIDStats{r.number(g.v1["pids"], "pids.current"), r.number(g.v1["pids"], "pids.max")}
	s.IO.ReadBytes, s.IO.WriteBytes = blkioV1(r.text(g.v1["blkio"], "blkio.throttle.io_service_bytes_recursive"))
	s.IO.Reads, s.IO.Writes = blkioV1(r.text(g.v1["blkio"], "blkio.throttle.io_serviced_recursive"))
}

// blkioV1 sums "8:0 Read 4096" lines over the devices.
func blkioV1(s string) (read, write uint64) {
	for line := range strings.Lines(s) {
		f := strings.Fields(line)
		if len(f) != 3 {
			continue
		}
		n, _ := strconv.ParseUint(f[2], 10, 64)
		switch f[1] {
		case "Read":
			read += n
		case "Write":
			write += n
		}
	}
	return read, write
}

func micros(n uint64) time.Duration { return time.Duration(n) * time.Microsecond }
