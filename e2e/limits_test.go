package e2e

import (
	"bufio"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

// statusField reads a hexadecimal or decimal field of /proc/PID/status.
func statusField(pid int, name string, v *uint64) error {
	f, err := os.Open(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return err
	}
	defer f.Close()
	s := bufio.NewScanner(f)
	for s.Scan() {
		if text, ok := strings.CutPrefix(s.Text(), name+":"); ok {
			base := 16
			if strings.HasPrefix(name, "NoNew") || name == "Seccomp" {
				base = 10
			}
			*v, err = strconv.ParseUint(strings.TrimSpace(text), base, 64)
			return err
		}
	}
	return fmt.Errorf("/proc/%d/status has no %s", pid, name)
}

// limitOf reads the first file that exists of a process's control groups:
// files are names of cgroup v2 and v1, such as "memory.max".
func limitOf(t *testing.T, pid int, files ...string) string {
	t.Helper()
	value, ok := findLimit(pid, files...)
	if !ok {
		t.Fatalf("process %d has none of %v", pid, files)
	}
	return value
}

func findLimit(pid int, files ...string) (value string, ok bool) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
	if err != nil {
		return "", false
	}
	for line := range strings.Lines(string(text)) {
		f := strings.SplitN(strings.TrimSpace(line), ":", 3)
		for _, controller := range append(strings.Split(f[1], ","), "unified", "") {
			for _, name := range files {
				p := filepath.Join("/sys/fs/cgroup", strings.TrimPrefix(controller, "name="), f[2], name)
				if v, err := os.ReadFile(p); err == nil {
					return strings.TrimSpace(string(v)), true
				}
			}
		}
	}
	return "", false
}

func TestLimits(t *testing.T) {
	b := newBox(t, "probe", "busybox:latest")
	b.compose(t, `
		name: app
		services:
			limited:
				image: busybox # a Go program would raise its own limit of open files
				command: [sleep, infinity]
				mem_limit: 64m
				memswap_limit: 64m
				pids_limit: 20
				cpus: 0.5
				cpuset: "0"
				cpu_shares: 512
				ulimits: {nofile: {soft: 1000, hard: 2000}, core: 0}
				oom_score_adj: 300
			hungry: {image: probe, command: [eat, "200"], mem_limit: 32m, memswap_limit: 32m}
			forker: {image: probe, command: [fork, "60"], pids_limit: 40}
			spinner: {image: probe, command: [spin], cpus: 0.2}
	`)
	b.ok(t, "up", "--detach")
	pid := b.look(t, "app-limited-1").State.Pid

	t.Run("the control group has the limits", func(t *testing.T) {
		for _, c := range []struct {
			want  []string // any of them
			files []string
		}{
			{[]string{"67108864"}, []string{"memory.max", "memory.limit_in_bytes"}},
			{[]string{"20"}, []string{"pids.max"}},
			{[]string{"50000 100000", "50000"}, []string{"cpu.max", "cpu.cfs_quota_us"}},
			{[]string{"0"}, []string{"cpuset.cpus"}},
			{[]string{"20", "59", "512"}, []string{"cpu.weight", "cpu.shares"}},
		} {
			got := limitOf(t, pid, c.files...)
			ok := false
			for _, w := range c.want {
				ok = ok || got == w
			}
			if !ok {
				t.Errorf("%v is %q, must be %v", c.files, got, c.want)
			}
		}
	})
	t.Run("rlimits and the OOM score are set", func(t *testing.T) {
		limits, err := os.ReadFile(fmt.Sprintf("/proc/%d/limits", pid))
		must(t, err)
		for _, want := range [][]string{{"Max open files", "1000", "2000"}, {"Max core file size", "0", "0"}} {
			_, rest, _ := strings.Cut(string(limits), want[0])
			if f := strings.Fields(rest); len(f) < 2 || f[0] != want[1] || f[1] != want[2] {
				t.Errorf("%v: %v", want, f[:2])
			}
		}
		if adj, err := os.ReadFile(fmt.Sprintf("/proc/%d/oom_score_adj", pid)); err != nil || strings.TrimSpace(string(adj)) != "300" {
			t.Errorf("oom_score_adj is %s (%v)", adj, err)
		}
	})
	t.Run("sysctls are the container's own", func(t *testing.T) {
		out := b.ok(t, "container", "run", "--rm", "--sysctl", "kernel.msgmax=4096", "--sysctl", "net.ipv4.ip_forward=0",
			"busybox", "cat", "/proc/sys/kernel/msgmax", "/proc/sys/net/ipv4/ip_forward")
		if out != "4096\n0\n" {
			t.Errorf("they are %q", out)
		}
	})
	t.Run("too much memory is an OOM kill, and recorded as one", func(t *testing.T) {
		i := b.eventuallyState(t, "app-hungry-1", "exited")
		if i.State.ExitCode != 137 || !i.State.OOMKilled {
			t.Errorf("%+v", i.State)
		}
	})
	t.Run("a plain kill is not recorded as OOM", func(t *testing.T) {
		b.ok(t, "kill", "limited")
		if i := b.eventuallyState(t, "app-limited-1", "exited"); i.State.OOMKilled {
			t.Errorf("%+v", i.State)
		}
	})
	t.Run("too many processes cannot be started", func(t *testing.T) {
		eventually(t, 10*time.Second, func() error {
			if log := strings.Join(b.logLines(t, "forker"), "\n"); !strings.Contains(log, "stopped:") {
				return fmt.Errorf("forker wrote %q", log)
			}
			return nil
		})
	})
	t.Run("a fifth of a CPU is a fifth of a CPU", func(t *testing.T) {
		pid := b.look(t, "app-spinner-1").State.Pid
		was, start := cpuTime(t, pid), time.Now()
		eventually(t, 10*time.Second, func() error {
			if d := time.Since(start); d < 2*time.Second {
				return fmt.Errorf("only %v", d)
			}
			return nil
		})
		share := (cpuTime(t, pid) - was).Seconds() / time.Since(start).Seconds()
		if share > 0.3 {
			t.Errorf("it uses %.2f CPUs", share)
		}
	})
	b.ok(t, "down", "--timeout", "0")
	b.nothingLeft(t, b.before)
}

// cpuTime is the processor time of a process (fields 14 and 15 of
// proc_pid_stat(5), in ticks of 10 ms).
func cpuTime(t *testing.T, pid int) time.Duration {
	t.Helper()
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	must(t, err)
	f := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
	var user, system int64
	fmt.Sscan(f[11], &user)
	fmt.Sscan(f[12], &system)
	return time.Duration(user+system) * 10 * time.Millisecond
}
