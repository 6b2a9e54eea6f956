package engine

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// devices resolves the devices a container asks for, and their cgroup rules. A
// privileged container gets all of the host's.
func devices(iso Isolation) (list []specs.LinuxDevice, rules []specs.LinuxDeviceCgroup, err error) {
	if iso.Privileged {
		list, err = hostDevices("/dev")
		return list, nil, err
	}
	for _, d := range iso.Devices {
		target := first(d.Target, d.Source)
		access := first(d.Permissions, "rwm")
		found, err := devicesAt(d.Source, target)
		if err != nil {
			return nil, nil, err
		}
		for _, dev := range found {
			list = append(list, dev)
			rules = append(rules, deviceRule(dev, access))
		}
	}
	for _, r := range iso.DeviceCgroupRules {
		rule, err := parseDeviceRule(r)
		if err != nil {
			return nil, nil, err
		}
		rules = append(rules, rule)
	}
	return list, rules, nil
}

// devicesAt is one device node, or all below a directory.
func devicesAt(source, target string) ([]specs.LinuxDevice, error) {
	resolved, err := filepath.EvalSymlinks(source)
	if err != nil {
		return nil, fmt.Errorf("cannot add device %s: %w", source, err)
	}
	info, err := os.Stat(resolved)
	if err != nil {
		return nil, fmt.Errorf("cannot add device %s: %w", source, err)
	}
	if !info.IsDir() {
		d, err := deviceNode(resolved, target)
		if err != nil {
			return nil, err
		}
		return []specs.LinuxDevice{d}, nil
	}
	below, err := hostDevices(resolved)
	for i := range below {
		below[i].Path = filepath.Join(target, strings.TrimPrefix(below[i].Path, resolved))
	}
	return below, err
}

// hostDevices lists the device nodes below dir, without those that every
// container has of its own.
func hostDevices(dir string) ([]specs.LinuxDevice, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var out []specs.LinuxDevice
	for _, entry := range entries {
		path := filepath.Join(dir, entry.Name())
		switch {
		case entry.IsDir():
			switch entry.Name() {
			case "pts", "shm", "fd", "mqueue", ".lxc", ".lxd-mounts", ".udev":
				continue
			}
			below, err := hostDevices(path)
			if err != nil {
				return nil, err
			}
			out = append(out, below...)
		case entry.Name() == "console", entry.Type()&os.ModeDevice == 0:
		default:
			d, err := deviceNode(path, path)
			if os.IsNotExist(err) {
				continue
			}
			if err != nil {
				return nil, err
			}
			out = append(out, d)
		}
	}
	return out, nil
}

func deviceNode(source, target string) (specs.LinuxDevice, error) {
	var st unix.Stat_t
	if err := unix.Stat(source, &st); err != nil {
		return specs.LinuxDevice{}, &os.PathError{Op: "stat", Path: source, Err: err}
	}
	kind := ""
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFCHR:
		kind = "c"
	case unix.S_IFBLK:
		kind = "b"
	default:
		return specs.LinuxDevice{}, fmt.Errorf("cannot add device %s: it is not a device node", source)
	}
	mode := os.FileMode(st.Mode & 0o777)
	return specs.LinuxDevice{
		Path: target, Type: kind, FileMode: &mode, UID: &st.Uid, GID: &st.Gid,
		Major: int64(unix.Major(st.Rdev)), Minor: int64(unix.Minor(st.Rdev)),
	}, nil
}

// deviceNumber is the device number of a block device, for blkio limits.
func deviceNumber(path string) (major, minor int64, err error) {
	d, err := deviceNode(path, path)
	return d.Major, d.Minor, err
}

// parseDeviceRule reads "c 13:* rwm", the syntax of the cgroup v1 device controller.
func parseDeviceRule(s string) (specs.LinuxDeviceCgroup, error) {
	bad := fmt.Errorf("cannot read device_cgroup_rules %q: want \"TYPE MAJOR:MINOR ACCESS\", such as \"c 13:* rwm\"", s)
	fields := strings.Fields(s)
	if len(fields) != 3 || !strings.Contains("abc", fields[0]) || strings.Trim(fields[2], "rwm") != "" {
		return specs.LinuxDeviceCgroup{}, bad
	}
	number := func(s string) (*int64, error) {
		if s == "*" {
			return nil, nil
		}
		n, err := strconv.ParseInt(s, 10, 32)
		return &n, err
	}
	majorText, minorText, found := strings.Cut(fields[1], ":")
	major, err1 := number(majorText)
	minor, err2 := number(minorText)
	if !found || err1 != nil || err2 != nil {
		return specs.LinuxDeviceCgroup{}, bad
	}
	return specs.LinuxDeviceCgroup{Allow: true, Type: fields[0], Major: major, Minor: minor, Access: fields[2]}, nil
}
