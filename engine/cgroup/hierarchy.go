package cgroup

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

	"golang.org/x/sys/unix"
)

// Mode is how a host has its control groups mounted.
type Mode string

const (
	V1     Mode = "v1"
	Hybrid Mode = "hybrid" // v1 controllers, and a v2 hierarchy for the rest
	V2     Mode = "v2"
)

// Hierarchy is a host's control groups as this process sees them.
type Hierarchy struct {
	Mode Mode
	// V1 is the mount point of each v1 controller, the base path included.
	V1 map[string]string
	// Unified is the mount point of the v2 hierarchy with the base path, "" for
	// none, and UnifiedControllers what it controls.
	Unified            string
	UnifiedControllers []string

	programs programs
}

// Controllers lists the controllers that limit or count something here, sorted.
func (h *Hierarchy) Controllers() []string {
	all := slices.AppendSeq(slices.Clone(h.UnifiedControllers), maps.Keys(h.V1))
	slices.Sort(all)
	return slices.Compact(all)
}

// Has tells whether a controller is there in any version.
func (h *Hierarchy) Has(controller string) bool {
	_, v1 := h.V1[controller]
	return v1 || slices.Contains(h.UnifiedControllers, controller)
}

// Detect finds the mounted hierarchies. It reads three files and makes nothing.
func Detect() (*Hierarchy, error) {
	mountinfo, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, fmt.Errorf("cannot find control groups: %w", err)
	}
	own, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return nil, fmt.Errorf("cannot find control groups: %w", err)
	}
	h, err := parse(string(mountinfo), string(own), os.Geteuid() != 0)
	if err != nil {
		return nil, err
	}
	// A mount that another one hides is listed all the same.
	for controller, dir := range h.V1 {
		var st unix.Statfs_t
		if unix.Statfs(dir, &st) != nil || st.Type != unix.CGROUP_SUPER_MAGIC {
			delete(h.V1, controller)
		}
	}
	if h.Unified != "" {
		list, err := os.ReadFile(filepath.Join(h.Unified, "cgroup.controllers"))
		if err != nil {
			return nil, fmt.Errorf("cannot find cgroup controllers: %w", err)
		}
		h.UnifiedControllers = strings.Fields(string(list))
	}
	return h, nil
}

// parse reads /proc/self/mountinfo and /proc/self/cgroup (proc_pid_mountinfo(5),
// cgroups(7)). Below own's cgroup is where a process without root may make
// groups, if anywhere.
func parse(mountinfo, own string, belowOwn bool) (*Hierarchy, error) {
	paths := ownPaths(own)
	h := &Hierarchy{V1: map[string]string{}}
	for line := range strings.Lines(mountinfo) {
		m, ok := parseMount(line)
		if !ok {
			continue
		}
		base := func(controller string) string {
			if !belowOwn {
				return m.point
			}
			rel, err := filepath.Rel(m.root, paths[controller])
			if err != nil || strings.HasPrefix(rel, "..") {
				return m.point
			}
			return filepath.Join(m.point, rel)
		}
		switch m.fstype {
		case "cgroup2":
			// The first mount is the system's; what comes later is someone's own.
			if h.Unified == "" {
				h.Unified = base("")
			}
		case "cgroup":
			for _, option := range m.options {
				if isV1Controller(option) && h.V1[option] == "" {
					h.V1[option] = base(option)
				}
			}
		}
	}
	switch {
	case h.Unified != "" && len(h.V1) > 0:
		h.Mode = Hybrid
	case h.Unified != "":
		h.Mode = V2
	case len(h.V1) > 0:
		h.Mode = V1
	default:
		return nil, errors.New("cannot find control groups: no cgroup file system is mounted; mount one (mount -t cgroup2 cgroup2 /sys/fs/cgroup) and try again")
	}
	return h, nil
}

// isV1Controller tells the v1 controllers that this package uses from mount
// options.
func isV1Controller(option string) bool {
	switch option {
	case "cpu", "cpuacct", "cpuset", "memory", "devices", "freezer", "blkio", "pids", "hugetlb", "net_cls", "net_prio":
		return true
	}
	return false
}

type mount struct {
	root, point, fstype string
	options             []string // of the superblock
}

// parseMount reads a line of mountinfo: ID, parent, dev, root, point, options,
// optional fields, "-", type, source, super options.
func parseMount(line string) (m mount, ok bool) {
	before, after, ok := strings.Cut(line, " - ")
	if !ok {
		return m, false
	}
	left, right := strings.Fields(before), strings.Fields(after)
	if len(left) < 5 || len(right) < 3 {
		return m, false
	}
	return mount{unescape(left[3]), unescape(left[4]), right[0], strings.Split(right[2], ",")}, true
}

// unescape replaces the octal escapes of mountinfo.
func unescape(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) {
			if n, err := strconv.ParseUint(s[i+1:i+4], 8, 8); err == nil {
				b.WriteByte(byte(n))
				i += 3
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

// ownPaths reads /proc/self/cgroup: the path by controller, "" for v2.
func ownPaths(s string) map[string]string {
	paths := map[string]string{}
	for line := range strings.Lines(s) {
		fields := strings.SplitN(strings.TrimSuffix(line, "\n"), ":", 3)
		if len(fields) != 3 {
			continue
		}
		for controller := range strings.SplitSeq(fields[1], ",") {
			paths[controller] = fields[2]
		}
	}
	return paths
}

// writeFile writes a value to a file of a control group with one write(2).
func writeFile(path, value string) error {
	fd, err := openFD(path, unix.O_WRONLY)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return writeFD(fd, path, value)
}

func writeFD(fd int, path, value string) error {
	for {
		_, err := unix.Write(fd, []byte(value))
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return &fs.PathError{Op: fmt.Sprintf("write %q to", value), Path: path, Err: err}
		}
		return nil
	}
}

func openFD(path string, flags int) (int, error) {
	for {
		fd, err := unix.Open(path, flags|unix.O_CLOEXEC, 0)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return -1, &fs.PathError{Op: "open", Path: path, Err: err}
		}
		return fd, nil
	}
}

// readFile reads a file of a control group. (os.ReadFile would register it with
// the poller: these files can be polled.)
func readFile(path string) (string, error) {
	fd, err := openFD(path, unix.O_RDONLY)
	if err != nil {
		return "", err
	}
	defer unix.Close(fd)
	b := make([]byte, 0, 4096)
	for {
		n, err := unix.Read(fd, b[len(b):cap(b)])
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return "", &fs.PathError{Op: "read", Path: path, Err: err}
		}
		if n == 0 {
			return string(b), nil
		}
		b = b[:len(b)+n]
		if len(b) == cap(b) {
			b = slices.Grow(b, cap(b))
		}
	}
}

// keyed reads "key value" lines.
func keyed(s string) map[string]uint64 {
	m := map[string]uint64{}
	scan := bufio.NewScanner(strings.NewReader(s))
	for scan.Scan() {
		key, value, _ := strings.Cut(scan.Text(), " ")
		if n, err := strconv.ParseUint(value, 10, 64); err == nil {
			m[key] = n
		}
	}
	return m
}

// readKey returns one value of a keyed file.
func readKey(path, key string) (uint64, error) {
	s, err := readFile(path)
	if err != nil {
		return 0, err
	}
	n, ok := keyed(s)[key]
	if !ok {
		return 0, fmt.Errorf("cannot read %s: it has no %q", path, key)
	}
	return n, nil
}
