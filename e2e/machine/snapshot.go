package machine

import (
	"bufio"
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
)

// A Snapshot is all that a program can leave on a machine: one line for each
// thing, under its kind.
type Snapshot struct {
	lines map[string]string // by what identifies the thing: the line up to detail
}

// detail comes before the part of a line that is for the reader only and may
// change, such as a process's arguments.
const detail = ": "

// Add adds a line.
func (s *Snapshot) Add(format string, args ...any) {
	line := fmt.Sprintf(format, args...)
	key, _, _ := strings.Cut(line, detail)
	s.lines[key] = line
}

// Has reports whether the thing a line is about is in the snapshot.
func (s *Snapshot) Has(line string) bool {
	key, _, _ := strings.Cut(line, detail)
	_, ok := s.lines[key]
	return ok
}

// A Look tells add about each thing of one kind that is there.
type Look func(add func(format string, args ...any)) error

// Kernel are the kinds of things that the kernel knows.
func Kernel() []Look { return []Look{Processes, Mounts, Links, Tables, Cgroups, Listeners} }

// Take looks at all kinds.
func Take(looks ...Look) (*Snapshot, error) {
	s := &Snapshot{lines: map[string]string{}}
	for _, look := range looks {
		if err := look(s.Add); err != nil {
			return nil, err
		}
	}
	return s, nil
}

// Lines are the snapshot's lines in their order.
func (s *Snapshot) Lines() []string { return slices.Sorted(maps.Values(s.lines)) }

// Since returns what is there and was not before.
func (s *Snapshot) Since(before *Snapshot) []string {
	return slices.DeleteFunc(s.Lines(), before.Has)
}

// Processes lists every process of the pid namespace but the tests' own.
func Processes(add func(string, ...any)) error {
	pids, err := PIDs()
	if err != nil {
		return err
	}
	for _, pid := range pids {
		p, err := ReadProc(pid)
		if err != nil || p.Ours() {
			continue // it ended meanwhile
		}
		add("%s", p.Line())
	}
	return nil
}

// PIDs lists the processes of the pid namespace.
func PIDs() ([]int, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	var pids []int
	for _, e := range entries {
		if pid, err := strconv.Atoi(e.Name()); err == nil {
			pids = append(pids, pid)
		}
	}
	return pids, nil
}

// A Proc is a process as /proc describes it.
type Proc struct {
	PID, Parent int
	State       string
	Start       string // clock ticks since boot
	Cmdline     string
}

// Line is the process in a snapshot.
func (p Proc) Line() string {
	return fmt.Sprintf("process %d (started %s)%s%s", p.PID, p.Start, detail, p.Cmdline)
}

// ReadProc describes a process.
func ReadProc(pid int) (Proc, error) {
	dir := fmt.Sprintf("/proc/%d/", pid)
	stat, err := os.ReadFile(dir + "stat")
	if err != nil {
		return Proc{}, err
	}
	// The name in parentheses may hold anything, so fields count from its end.
	text := string(stat)
	open, end := strings.IndexByte(text, '('), strings.LastIndexByte(text, ')')
	f := strings.Fields(text[end+1:])
	parent, err := strconv.Atoi(f[1])
	if err != nil {
		return Proc{}, err
	}
	cmdline, err := os.ReadFile(dir + "cmdline")
	if err != nil {
		return Proc{}, err
	}
	name := strings.TrimSpace(strings.ReplaceAll(string(cmdline), "\x00", " "))
	if name == "" {
		name = "[" + text[open+1:end] + "] state " + f[0]
	}
	return Proc{PID: pid, Parent: parent, State: f[0], Start: f[19], Cmdline: name}, nil
}

// Ours reports whether the process is part of the test harness: init, this
// process, or a command of its that has ended and that a failed test did not
// wait for.
func (p Proc) Ours() bool {
	return p.PID == 1 || p.PID == os.Getpid() || p.Parent == os.Getpid() && p.State == "Z"
}

// Alive reports whether the same process still runs.
func (p Proc) Alive() bool {
	now, err := ReadProc(p.PID)
	return err == nil && now.Start == p.Start && now.State != "Z" && now.State != "X"
}

// Mounts lists the mounts of the mount namespace.
func Mounts(add func(string, ...any)) error {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return err
	}
	defer f.Close()
	s := bufio.NewScanner(f)
	s.Buffer(nil, 1<<20)
	for s.Scan() {
		fields := strings.Fields(s.Text())
		if sep := slices.Index(fields, "-"); sep > 4 {
			add("mount %s (%s, id %s)", fields[4], fields[sep+1], fields[0])
		}
	}
	return s.Err()
}

// Links lists the links and routes of the network namespace.
func Links(add func(string, ...any)) error {
	list, err := netlink.LinkList()
	if err != nil {
		return err
	}
	names := map[int]string{}
	for _, l := range list {
		names[l.Attrs().Index] = l.Attrs().Name
		add("link %s (%s)", l.Attrs().Name, l.Type())
	}
	routes, err := netlink.RouteList(nil, netlink.FAMILY_ALL)
	if err != nil {
		return err
	}
	for _, r := range routes {
		add("route %v dev %s", r.Dst, cmp.Or(names[r.LinkIndex], fmt.Sprint("number ", r.LinkIndex)))
	}
	return nil
}

// Tables lists the nft tables of the network namespace.
func Tables(add func(string, ...any)) error {
	c, err := nftables.New()
	if err != nil {
		return err
	}
	list, err := c.ListTables()
	if err != nil {
		return err
	}
	for _, t := range list {
		add("nft table %s (family %d)", t.Name, t.Family)
	}
	return nil
}

// Cgroups lists the control groups of all hierarchies.
func Cgroups(add func(string, ...any)) error {
	return filepath.WalkDir(CgroupRoot, func(p string, d fs.DirEntry, err error) error {
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return nil // gone meanwhile
		case err != nil:
			return err
		case d.IsDir():
			add("cgroup %s", strings.TrimPrefix(p, CgroupRoot))
		}
		return nil
	})
}

// Listeners lists what accepts connections in the network namespace.
func Listeners(add func(string, ...any)) error {
	for _, proto := range []string{"tcp", "tcp6", "udp", "udp6"} {
		b, err := os.ReadFile("/proc/self/net/" + proto)
		if err != nil {
			return err
		}
		lines := strings.Split(string(b), "\n")
		for _, l := range lines[1:] {
			f := strings.Fields(l)
			if len(f) < 4 {
				continue
			}
			// 0A is TCP_LISTEN; a bound UDP socket is in state 07 (TCP_CLOSE).
			if f[3] == "0A" || strings.HasPrefix(proto, "udp") && f[3] == "07" {
				add("listener %s %s", proto, f[1])
			}
		}
	}
	b, err := os.ReadFile("/proc/self/net/unix")
	if err != nil {
		return err
	}
	for l := range strings.Lines(string(b)) {
		// Flags 00010000 is __SO_ACCEPTCON.
		if f := strings.Fields(l); len(f) >= 8 && f[3] == "00010000" {
			add("listener unix %s", f[7])
		}
	}
	return nil
}
