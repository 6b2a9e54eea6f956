package e2e

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// A snapshot is all that a program can leave on a machine: one line for each
// thing, under its kind.
type snapshot struct {
	lines map[string]string // by what identifies the thing: the line up to detail
}

// detail comes before the part of a line that is for the reader only and may
// change, such as a process's arguments.
const detail = ": "

func (s *snapshot) add(format string, args ...any) {
	line := fmt.Sprintf(format, args...)
	key, _, _ := strings.Cut(line, detail)
	s.lines[key] = line
}

// has reports whether the thing a line is about is in the snapshot.
func (s *snapshot) has(line string) bool {
	key, _, _ := strings.Cut(line, detail)
	_, ok := s.lines[key]
	return ok
}

// snap looks at the kernel and at the box's directories.
func snap(t *testing.T, b *box) *snapshot {
	t.Helper()
	s := &snapshot{lines: map[string]string{}}
	for _, look := range []func(func(string, ...any)) error{
		processes, mounts, links, tables, cgroups, listeners, b.files,
	} {
		must(t, look(s.add))
	}
	return s
}

// since returns what is there now and was not before.
func (s *snapshot) since(before *snapshot) []string {
	var out []string
	for _, l := range slices.Sorted(maps.Values(s.lines)) {
		if !before.has(l) {
			out = append(out, l)
		}
	}
	return out
}

// nothingLeft fails unless the machine is as it was before, but for what keep
// names (prefixes of snapshot lines). The supervisor's own end and the
// kernel's deferred clean-up (network namespaces) may take a moment.
func (b *box) nothingLeft(t *testing.T, before *snapshot, keep ...string) {
	t.Helper()
	eventually(t, 3*time.Second, func() error {
		var left []string
	lines:
		for _, l := range snap(t, b).since(before) {
			for _, k := range keep {
				if strings.HasPrefix(l, k) {
					continue lines
				}
			}
			left = append(left, l)
		}
		if len(left) > 0 {
			return fmt.Errorf("left behind:\n  %s", strings.Join(left, "\n  "))
		}
		return nil
	})
}

// processes lists every process of the pid namespace but the tests' own.
func processes(add func(string, ...any)) error {
	pids, err := allPIDs()
	if err != nil {
		return err
	}
	for _, pid := range pids {
		p, err := readProc(pid)
		if err != nil || p.ours() {
			continue // it ended meanwhile
		}
		add("%s", p.line())
	}
	return nil
}

func allPIDs() ([]int, error) {
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

// A proc is a process as /proc describes it.
type proc struct {
	pid, parent int
	state       string
	start       string // clock ticks since boot
	cmdline     string
}

// line is the process in a snapshot.
func (p proc) line() string {
	return fmt.Sprintf("process %d (started %s)%s%s", p.pid, p.start, detail, p.cmdline)
}

func readProc(pid int) (proc, error) {
	dir := fmt.Sprintf("/proc/%d/", pid)
	stat, err := os.ReadFile(dir + "stat")
	if err != nil {
		return proc{}, err
	}
	// The name in parentheses may hold anything, so fields count from its end.
	text := string(stat)
	open, end := strings.IndexByte(text, '('), strings.LastIndexByte(text, ')')
	f := strings.Fields(text[end+1:])
	parent, err := strconv.Atoi(f[1])
	if err != nil {
		return proc{}, err
	}
	cmdline, err := os.ReadFile(dir + "cmdline")
	if err != nil {
		return proc{}, err
	}
	name := strings.TrimSpace(strings.ReplaceAll(string(cmdline), "\x00", " "))
	if name == "" {
		name = "[" + text[open+1:end] + "] state " + f[0]
	}
	return proc{pid: pid, parent: parent, state: f[0], start: f[19], cmdline: name}, nil
}

// ours reports whether the process is part of the test harness: init, this
// process, or a command of its that has ended and that a failed test did not
// wait for.
func (p proc) ours() bool {
	return p.pid == 1 || p.pid == os.Getpid() || p.parent == os.Getpid() && p.state == "Z"
}

// alive reports whether the same process still runs.
func (p proc) alive() bool {
	now, err := readProc(p.pid)
	return err == nil && now.start == p.start && now.state != "Z" && now.state != "X"
}

func mounts(add func(string, ...any)) error {
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

func links(add func(string, ...any)) error {
	list, err := netlink.LinkList()
	if err != nil {
		return err
	}
	for _, l := range list {
		add("link %s (%s)", l.Attrs().Name, l.Type())
	}
	routes, err := netlink.RouteList(nil, netlink.FAMILY_ALL)
	if err != nil {
		return err
	}
	for _, r := range routes {
		add("route %v", r.Dst)
	}
	return nil
}

func tables(add func(string, ...any)) error {
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

// cgroups lists the control groups of all hierarchies.
func cgroups(add func(string, ...any)) error {
	return filepath.WalkDir(cgroupRoot, func(p string, d fs.DirEntry, err error) error {
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return nil // gone meanwhile
		case err != nil:
			return err
		case d.IsDir():
			add("cgroup %s", strings.TrimPrefix(p, cgroupRoot))
		}
		return nil
	})
}

// listeners lists what accepts connections in the network namespace.
func listeners(add func(string, ...any)) error {
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

// files lists the run root, and the containers, volumes and networks of the
// data root. Images stay, and so do empty directories that hold kinds of things.
func (b *box) files(add func(string, ...any)) error {
	for _, root := range []string{b.runRoot(), b.dataRoot()} {
		err := filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
			if errors.Is(err, fs.ErrNotExist) {
				return nil
			}
			if err != nil {
				return err
			}
			rel := strings.TrimPrefix(p, b.root+"/")
			if d.IsDir() {
				if imageStore(rel) {
					return fs.SkipDir
				}
				return nil
			}
			add("file %s", rel)
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// imageStore reports whether a directory of the data root belongs to images.
func imageStore(rel string) bool {
	switch rel {
	case "data/images", "data/content", "data/layers", "data/snapshots", "data/blobs":
		return true
	}
	return false
}

// volumeFile begins the snapshot lines of a volume that is kept.
func volumeFile(name string) string { return "file data/volumes/" + name + "/" }

// destroy takes everything of the box away, whatever state it is in.
func (b *box) destroy(t *testing.T) {
	t.Helper()
	if !t.Failed() {
		b.removeProjects(t)
	}
	b.killAll(t)
	unmountBelow(t, b.root)
	b.deleteNetwork(t)
	b.deleteCgroups(t)
	if err := os.RemoveAll(b.root); err != nil {
		t.Errorf("cannot remove the box: %v", err)
	}
}

// killAll kills every process that began after the box was made. The pid
// namespace is the tests' own, so they all belong to the box.
func (b *box) killAll(t *testing.T) {
	t.Helper()
	eventually(t, 5*time.Second, func() error {
		pids, err := allPIDs()
		must(t, err)
		left := ""
		for _, pid := range pids {
			p, err := readProc(pid)
			if err != nil || p.ours() || b.before.has(p.line()) {
				continue
			}
			left = p.line()
			unix.Kill(pid, unix.SIGKILL) // may have ended by itself
		}
		if left != "" {
			return errors.New("cannot end " + left)
		}
		return nil
	})
}

// deleteCgroups removes control groups that were not there before, inner ones first.
func (b *box) deleteCgroups(t *testing.T) {
	t.Helper()
	for _, l := range slices.Backward(now(t, cgroups)) {
		if !b.before.has(l) {
			os.Remove(cgroupRoot + strings.TrimPrefix(l, "cgroup "))
		}
	}
}

// now returns the lines of one kind of thing.
func now(t *testing.T, look func(func(string, ...any)) error) []string {
	t.Helper()
	s := &snapshot{lines: map[string]string{}}
	must(t, look(s.add))
	return slices.Sorted(maps.Values(s.lines))
}

// removeProjects takes down what a passed test did not.
func (b *box) removeProjects(t *testing.T) {
	t.Helper()
	if _, err := os.Stat(filepath.Join(b.runRoot(), "projects")); err != nil {
		return
	}
	for _, p := range jsonLines[struct{ Name string }](t, b.stack(t, "ls", "--all", "--format", "json").stdout) {
		b.stack(t, "-p", p.Name, "down", "--volumes", "--remove-orphans", "--timeout", "0")
	}
}

func unmountBelow(t *testing.T, root string) {
	t.Helper()
	b, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Error(err)
		return
	}
	for _, l := range slices.Backward(strings.Split(string(b), "\n")) {
		if f := strings.Fields(l); len(f) > 4 && strings.HasPrefix(f[4], root+"/") {
			if err := unix.Unmount(f[4], unix.MNT_DETACH); err != nil {
				t.Errorf("cannot unmount %s: %v", f[4], err)
			}
		}
	}
}

// deleteNetwork removes links and tables that were not there before.
func (b *box) deleteNetwork(t *testing.T) {
	t.Helper()
	list, err := netlink.LinkList()
	if err != nil {
		t.Error(err)
	}
	for _, l := range list {
		if !b.before.has(fmt.Sprintf("link %s (%s)", l.Attrs().Name, l.Type())) {
			netlink.LinkDel(l) // a veth is gone with its peer
		}
	}
	c, err := nftables.New()
	if err != nil {
		t.Error(err)
		return
	}
	all, err := c.ListTables()
	if err != nil {
		t.Error(err)
	}
	for _, tab := range all {
		if !b.before.has(fmt.Sprintf("nft table %s (family %d)", tab.Name, tab.Family)) {
			c.DelTable(tab)
		}
	}
	if err := c.Flush(); err != nil {
		t.Error(err)
	}
}

// dump shows what is needed to understand a failure.
func (b *box) dump(t *testing.T) {
	t.Helper()
	for _, args := range [][]string{{"ls", "--all"}, {"container", "ls", "--all"}, {"logs", "--tail", "40", "--timestamps"}} {
		t.Log(b.stack(t, args...))
	}
	t.Logf("on the machine since the test began:\n  %s", strings.Join(snap(t, b).since(b.before), "\n  "))
	for _, root := range []string{b.runRoot(), b.dataRoot()} {
		filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
			if err != nil {
				return nil
			}
			if rel := strings.TrimPrefix(p, b.root+"/"); d.IsDir() && imageStore(rel) {
				return fs.SkipDir
			}
			switch filepath.Ext(p) {
			case ".json", ".log", ".pid":
				if text, err := os.ReadFile(p); err == nil {
					t.Logf("%s:\n%s", p, tail(string(text)))
				}
			}
			return nil
		})
	}
}

// crash makes the box's part of the machine look as after a power failure and a
// boot: no process, no run root, no link, no table.
func (b *box) crash(t *testing.T) {
	t.Helper()
	b.killAll(t)
	unmountBelow(t, b.root)
	b.deleteNetwork(t)
	b.deleteCgroups(t)
	must(t, os.RemoveAll(b.runRoot()))
}
