package cgroup

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// Group is a control group in the hierarchies it needs.
type Group struct {
	h       *Hierarchy
	path    string
	unified string            // directory in the v2 hierarchy, or ""
	v1      map[string]string // directory by v1 controller
}

// Path is the group's path below the hierarchies' roots.
func (g *Group) Path() string { return g.path }

// Dir is the group's directory in the v2 hierarchy, or "".
func (g *Group) Dir() string { return g.unified }

// ControllerDir is where a controller's files of the group are, "" where the
// group has not joined it.
func (g *Group) ControllerDir(controller string) string {
	if dir := g.v1[controller]; dir != "" {
		return dir
	}
	if slices.Contains(g.h.UnifiedControllers, controller) {
		return g.unified
	}
	return ""
}

// checkPath refuses paths that would leave the hierarchy.
func checkPath(path string) (string, error) {
	clean := strings.Trim(filepath.Clean("/"+path), "/")
	if clean == "" || strings.ContainsAny(clean, "\x00\n") {
		return "", fmt.Errorf("cannot use cgroup %q: not a path below the root", path)
	}
	return clean, nil
}

// group returns the group of a path with the v1 controllers chosen by want.
func (h *Hierarchy) group(path string, want func(controller string) bool) *Group {
	g := &Group{h: h, path: path, v1: map[string]string{}}
	if h.Unified != "" {
		g.unified = filepath.Join(h.Unified, path)
	}
	for controller, root := range h.V1 {
		if want(controller) {
			g.v1[controller] = filepath.Join(root, path)
		}
	}
	return g
}

// needs tells whether a container with these resources has to join a v1
// controller: to limit it, or to count for Stats and OOM kills.
func (h *Hierarchy) needs(controller string, settings []setting, filter bool) bool {
	switch controller {
	case "memory", "cpuacct", "pids", "blkio":
		return true
	case "freezer":
		return h.Unified == "" // cgroup.freeze is better
	case "devices":
		return filter && h.Unified == "" // a device program is better
	}
	return slices.ContainsFunc(settings, func(s setting) bool { return s.controller == controller })
}

// dirs lists the group's directories, each once: v1 controllers may share one.
func (g *Group) dirs() []string {
	var out []string
	for _, dir := range g.v1 {
		out = append(out, dir)
	}
	slices.Sort(out)
	out = slices.Compact(out)
	if g.unified != "" {
		out = append(out, g.unified)
	}
	return out
}

// Create makes a group and sets its limits. A group of the same path that a
// killed process left behind is replaced, unless processes live in it. Warnings
// name limits that do not hold. On failure nothing is left.
func (h *Hierarchy) Create(path string, r *specs.LinuxResources) (_ *Group, warnings []string, err error) {
	if path, err = checkPath(path); err != nil {
		return nil, nil, err
	}
	if r == nil {
		r = &specs.LinuxResources{}
	}
	settings := h.settings(r)
	rules := r.Devices
	filter := !allowsAll(rules)
	g := h.group(path, func(c string) bool { return h.needs(c, settings, filter) })
	defer func() {
		if err != nil {
			ctx, cancel := context.WithCancel(context.Background())
			cancel() // nobody lives in it, so nothing is to be waited for
			g.Delete(ctx)
			err = fmt.Errorf("cannot create cgroup %s: %w", path, err)
		}
	}()
	var missing []string
	for _, dir := range g.dirs() {
		err := makeDir(dir)
		if err == nil {
			continue
		}
		if dir == g.unified || !errors.Is(err, fs.ErrPermission) && !errors.Is(err, unix.EROFS) {
			return nil, warnings, err
		}
		for controller, d := range g.v1 {
			if d == dir {
				delete(g.v1, controller)
				missing = append(missing, controller)
			}
		}
	}
	if len(missing) > 0 {
		slices.Sort(missing)
		warnings = append(warnings, fmt.Sprintf("cannot use the cgroup controllers %s: no permission; their limits and figures are missing", strings.Join(missing, ", ")))
	}
	if h.Unified != "" {
		// Only now: while the group is there nobody removes its parents.
		warnings = append(warnings, h.enable(path, settings)...)
	}
	if g.v1["cpuset"] != "" {
		if err := inheritCPUSet(h.V1["cpuset"], path); err != nil {
			return nil, warnings, err
		}
	}
	w, err := g.apply(settings)
	warnings = append(warnings, w...)
	if err != nil {
		return nil, warnings, err
	}
	if filter {
		if err := g.filterDevices(rules); err != nil {
			return nil, warnings, err
		}
	}
	return g, warnings, nil
}

// Open opens a group that exists.
func (h *Hierarchy) Open(path string) (*Group, error) {
	path, err := checkPath(path)
	if err != nil {
		return nil, err
	}
	exists := func(dir string) bool {
		var st unix.Stat_t
		return unix.Stat(dir, &st) == nil
	}
	g := h.group(path, func(c string) bool { return exists(filepath.Join(h.V1[c], path)) })
	if g.unified != "" && !exists(g.unified) {
		g.unified = ""
	}
	if len(g.dirs()) == 0 {
		return nil, fmt.Errorf("cannot open cgroup %s: %w", path, fs.ErrNotExist)
	}
	return g, nil
}

// settings translates resources for the hierarchy in use.
func (h *Hierarchy) settings(r *specs.LinuxResources) []setting {
	if h.Mode == V2 {
		return v2Settings(r)
	}
	return v1Settings(r)
}

// makeDir makes a group's directory and its parents. One that is there is made
// again, so that it has no old counters and limits.
func makeDir(dir string) error {
	for range 100 {
		err := unix.Mkdir(dir, 0o755)
		switch err {
		case nil:
			return nil
		case unix.EEXIST:
			if err := removeTree(dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return fmt.Errorf("%w; a process lives in it", err)
			}
		case unix.ENOENT:
			// A parent is missing, or has just been removed with its last child.
			err := os.MkdirAll(filepath.Dir(dir), 0o755)
			if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, fs.ErrExist) {
				return err
			}
		case unix.EINTR:
		default:
			return &fs.PathError{Op: "mkdir", Path: dir, Err: err}
		}
	}
	return &fs.PathError{Op: "mkdir", Path: dir, Err: unix.EBUSY}
}

// removeTree removes a group and the groups in it that have no processes.
func removeTree(dir string) error {
	for {
		err := unix.Rmdir(dir)
		switch err {
		case nil, unix.ENOENT:
			return nil
		case unix.EINTR:
			continue
		case unix.EBUSY, unix.ENOTEMPTY:
			entries, e := os.ReadDir(dir)
			children := 0
			for _, entry := range entries {
				if !entry.IsDir() {
					continue
				}
				children++
				if err := removeTree(filepath.Join(dir, entry.Name())); err != nil {
					return err
				}
			}
			if children > 0 && e == nil {
				continue
			}
		}
		return &fs.PathError{Op: "rmdir", Path: dir, Err: err}
	}
}

// inheritCPUSet fills the sets of CPUs and memory nodes from the root down: a v1
// cpuset is born empty, and no process can join an empty one.
func inheritCPUSet(root, path string) error {
	dir := root
	for part := range strings.SplitSeq(path, "/") {
		child := filepath.Join(dir, part)
		for _, file := range []string{"cpuset.cpus", "cpuset.mems"} {
			have, err := readFile(filepath.Join(child, file))
			if err != nil {
				return err
			}
			if strings.TrimSpace(have) != "" {
				continue
			}
			parents, err := readFile(filepath.Join(dir, file))
			if err != nil {
				return err
			}
			if err := writeFile(filepath.Join(child, file), strings.TrimSpace(parents)); err != nil {
				return err
			}
		}
		dir = child
	}
	return nil
}

// enable hands the controllers that are needed down to a v2 group, which exists.
func (h *Hierarchy) enable(path string, settings []setting) (warnings []string) {
	var want []string
	for _, c := range h.UnifiedControllers {
		switch c {
		case "memory", "cpu", "pids", "io":
			want = append(want, c)
		default:
			if slices.ContainsFunc(settings, func(s setting) bool { return s.controller == c }) {
				want = append(want, c)
			}
		}
	}
	if len(want) == 0 {
		return nil
	}
	dir := h.Unified
	parts := strings.Split(path, "/")
	var failed []string
	for i := range parts {
		if i > 0 {
			dir = filepath.Join(dir, parts[i-1])
		}
		control := filepath.Join(dir, "cgroup.subtree_control")
		have, err := readFile(control)
		if err != nil {
			return append(warnings, err.Error())
		}
		lacking := slices.DeleteFunc(slices.Clone(want), func(c string) bool { return slices.Contains(strings.Fields(have), c) })
		if len(lacking) == 0 || writeFile(control, "+"+strings.Join(lacking, " +")) == nil {
			continue
		}
		for _, c := range lacking {
			if writeFile(control, "+"+c) != nil && !slices.Contains(failed, c) {
				failed = append(failed, c)
			}
		}
	}
	if len(failed) > 0 {
		warnings = append(warnings, fmt.Sprintf("cannot use the cgroup controllers %s below %s: they are not delegated, or processes live in the parent; their limits and figures are missing", strings.Join(failed, ", "), h.Unified))
	}
	return warnings
}

// apply writes settings. A limit that cannot be set is a warning, for each
// reason once; a value the kernel refuses is an error.
func (g *Group) apply(settings []setting) (warnings []string, err error) {
	var absent []string
	for _, s := range settings {
		dir := g.v1[s.controller]
		if g.h.Mode == V2 {
			dir = g.unified
		}
		if dir == "" || s.file == "" {
			absent = append(absent, s.what)
			continue
		}
		err := writeFile(filepath.Join(dir, s.file), s.value)
		if errors.Is(err, unix.EBUSY) && s.file == "memory.limit_in_bytes" || errors.Is(err, unix.EINVAL) && strings.HasPrefix(s.file, "memory.") && strings.HasSuffix(s.file, "limit_in_bytes") {
			err = g.widenMemory(s, settings, err)
		}
		switch {
		case err == nil:
		case errors.Is(err, fs.ErrNotExist), errors.Is(err, unix.EOPNOTSUPP):
			if !alternative(s, settings) {
				absent = append(absent, s.what)
			}
		case errors.Is(err, fs.ErrPermission), errors.Is(err, unix.EROFS):
			absent = append(absent, s.what)
		default:
			return warnings, fmt.Errorf("cannot set %s: %w", s.what, err)
		}
	}
	if len(absent) > 0 {
		slices.Sort(absent)
		warnings = append(warnings, fmt.Sprintf("this host's cgroups (%s) do not support %s; going on without", g.h.Mode, strings.Join(slices.Compact(absent), ", ")))
	}
	return warnings, nil
}

// alternative tells whether another setting stands for the same wish, of which
// a host has one: io.weight and io.bfq.weight.
func alternative(s setting, all []setting) bool {
	return s.file == "io.bfq.weight" && slices.ContainsFunc(all, func(o setting) bool { return o.file == "io.weight" })
}

// widenMemory sets both v1 memory limits in the other order: neither may ever be
// above the other one, so raising needs the sum first.
func (g *Group) widenMemory(s setting, all []setting, cause error) error {
	if s.file != "memory.limit_in_bytes" {
		return cause
	}
	i := slices.IndexFunc(all, func(o setting) bool { return o.file == "memory.memsw.limit_in_bytes" })
	if i < 0 {
		return cause
	}
	dir := g.v1["memory"]
	if writeFile(filepath.Join(dir, all[i].file), all[i].value) != nil {
		return cause
	}
	return writeFile(filepath.Join(dir, s.file), s.value)
}

// Update changes limits of a living group. It may have to join further v1
// controllers with all its processes. Device rules stay as they are.
func (g *Group) Update(r *specs.LinuxResources) (warnings []string, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("cannot update cgroup %s: %w", g.path, err)
		}
	}()
	settings := g.h.settings(r)
	if g.h.Mode == V2 {
		warnings = g.h.enable(g.path, settings)
	}
	for _, s := range settings {
		root := g.h.V1[s.controller]
		if root == "" || g.v1[s.controller] != "" {
			continue
		}
		dir := filepath.Join(root, g.path)
		if err := makeDir(dir); err != nil {
			return warnings, err
		}
		if s.controller == "cpuset" {
			if err := inheritCPUSet(root, g.path); err != nil {
				return warnings, err
			}
		}
		if err := g.moveInto(dir); err != nil {
			return warnings, err
		}
		g.v1[s.controller] = dir
	}
	w, err := g.apply(settings)
	return append(warnings, w...), err
}

// moveInto moves the group's processes into another hierarchy's directory, until
// none has been forked meanwhile.
func (g *Group) moveInto(dir string) error {
	moved := map[int]bool{}
	for {
		pids, err := g.Processes()
		if err != nil {
			return err
		}
		news := 0
		for _, pid := range pids {
			if moved[pid] {
				continue
			}
			moved[pid] = true
			news++
			err := writeFile(filepath.Join(dir, "cgroup.procs"), strconv.Itoa(pid))
			if err != nil && !errors.Is(err, unix.ESRCH) {
				return err
			}
		}
		if news == 0 {
			return nil
		}
	}
}
