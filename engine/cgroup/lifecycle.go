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
	"time"

	"golang.org/x/sys/unix"
)

// Freeze stops all processes of the group and waits until they stand, for
// freezeBound at most; then it lets them go on and names those that did not.
func (g *Group) Freeze(ctx context.Context) error {
	return g.freeze(ctx, true)
}

// Thaw lets them go on.
func (g *Group) Thaw(ctx context.Context) error {
	return g.freeze(ctx, false)
}

func (g *Group) freeze(ctx context.Context, on bool) error {
	ctx, cancel := bounded(ctx, freezeBound)
	defer cancel()
	verb, want := "thaw", uint64(0)
	if on {
		verb, want = "freeze", 1
	}
	var err error
	switch {
	case g.unified != "":
		if err = writeFile(filepath.Join(g.unified, "cgroup.freeze"), decimal(want)); err != nil {
			break
		}
		err = await(ctx, filepath.Join(g.unified, "cgroup.events"), func(v map[string]uint64) bool { return v["frozen"] == want })
		if on && err != nil && ctx.Err() != nil {
			err = errors.Join(err, writeFile(filepath.Join(g.unified, "cgroup.freeze"), "0"))
		}
	case g.v1["freezer"] != "":
		err = freezeV1(ctx, g.v1["freezer"], on)
	default:
		err = errors.New("no hierarchy that can freeze is mounted")
	}
	if !on && (errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENODEV)) {
		return nil // its last process has ended, and it with that
	}
	if on && errors.Is(err, context.DeadlineExceeded) {
		pids, _ := g.Processes()
		err = fmt.Errorf("%w: not all of its processes could be stopped, so they go on: %s", err, who(pids))
	}
	if err != nil {
		return fmt.Errorf("cannot %s cgroup %s: %w", verb, g.path, err)
	}
	return nil
}

// freezeV1 uses the v1 freezer, which sends no events: writing the state tries
// again to stop what was forked meanwhile (kernel: freezer-subsystem.rst), and
// the pauses give tasks time to reach the point where they can be stopped.
func freezeV1(ctx context.Context, dir string, on bool) error {
	file := filepath.Join(dir, "freezer.state")
	if !on {
		return writeFile(file, "THAWED")
	}
	for pause := 50 * time.Microsecond; ; pause = min(2*pause, 10*time.Millisecond) {
		if err := writeFile(file, "FROZEN"); err != nil {
			return err
		}
		state, err := readFile(file)
		if err != nil || strings.TrimSpace(state) == "FROZEN" {
			return err
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			// Half frozen is worse than not at all.
			return errors.Join(context.Cause(ctx), writeFile(file, "THAWED"))
		}
	}
}

// Frozen tells whether the group is frozen, or about to be.
func (g *Group) Frozen() (bool, error) {
	if g.unified != "" {
		on, err := readFile(filepath.Join(g.unified, "cgroup.freeze"))
		if err != nil || strings.TrimSpace(on) == "1" {
			return err == nil, err
		}
		// A group around it may be frozen.
		n, err := readKey(filepath.Join(g.unified, "cgroup.events"), "frozen")
		return n == 1, err
	}
	if dir := g.v1["freezer"]; dir != "" {
		state, err := readFile(filepath.Join(dir, "freezer.state"))
		return strings.TrimSpace(state) != "THAWED", err
	}
	return false, nil
}

// killBound is how long processes may go on to fork while they are killed one by
// one, and freezeToKill how long the kernel may take to stop them before.
const (
	killBound    = 10 * time.Second
	freezeToKill = time.Second
)

// Kill kills all processes of the group and of the groups in it, frozen ones
// too. It does not wait for their end: WaitEmpty does. A group that is gone is no
// error.
func (g *Group) Kill(ctx context.Context) error {
	if g.unified != "" {
		err := writeFile(filepath.Join(g.unified, "cgroup.kill"), "1")
		if err == nil || errors.Is(err, unix.ENODEV) || errors.Is(err, fs.ErrNotExist) && !g.exists() {
			return nil
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("cannot kill cgroup %s: %w", g.path, err)
		}
	}
	ctx, cancel := bounded(ctx, killBound)
	defer cancel()
	// Before 5.14 and in v1: nobody forks while all stand. Who cannot be stopped
	// is killed all the same.
	stand, enough := context.WithTimeout(ctx, freezeToKill)
	err := g.freeze(stand, true)
	enough()
	if err == nil {
		defer g.freeze(context.WithoutCancel(ctx), false)
	}
	killed := map[int]bool{}
	for {
		pids, err := g.Processes()
		if err != nil {
			return fmt.Errorf("cannot kill cgroup %s: %w", g.path, err)
		}
		news := 0
		for _, pid := range pids {
			// Number 0 would be this process's own group.
			if pid > 0 && !killed[pid] && unix.Kill(pid, unix.SIGKILL) == nil {
				killed[pid] = true
				news++
			}
		}
		if news == 0 {
			return nil
		}
		if ctx.Err() != nil {
			return fmt.Errorf("cannot kill cgroup %s: %w: new processes appear as fast as they are killed: %s", g.path, context.Cause(ctx), who(pids))
		}
	}
}

func (g *Group) exists() bool {
	var st unix.Stat_t
	return slices.ContainsFunc(g.dirs(), func(dir string) bool { return unix.Stat(dir, &st) == nil })
}

// Processes lists the pids of the group and of the groups in it, unsorted, as
// this process's pid namespace numbers them. A group that is gone has none.
func (g *Group) Processes() ([]int, error) {
	return processes(g.listDir())
}

// listDir is the directory that knows best who is in the group.
func (g *Group) listDir() string {
	if g.unified != "" {
		return g.unified
	}
	for _, c := range []string{"freezer", "pids", "memory"} {
		if g.v1[c] != "" {
			return g.v1[c]
		}
	}
	return g.dirs()[0]
}

func processes(dir string) (pids []int, err error) {
	list, err := readFile(filepath.Join(dir, "cgroup.procs"))
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENODEV) {
		return nil, nil
	}
	if err != nil && !errors.Is(err, unix.EOPNOTSUPP) { // a threaded group of v2
		return nil, err
	}
	for line := range strings.Lines(list) {
		if pid, err := strconv.Atoi(strings.TrimSpace(line)); err == nil {
			pids = append(pids, pid)
		}
	}
	var st unix.Stat_t
	if unix.Stat(dir, &st) == nil && st.Nlink == 2 {
		return pids, nil // no child groups
	}
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return pids, nil
	}
	for _, e := range entries {
		if e.IsDir() {
			below, err := processes(filepath.Join(dir, e.Name()))
			if err != nil {
				return nil, err
			}
			pids = append(pids, below...)
		}
	}
	return pids, err
}

// WaitEmpty waits until no process is left in the group and the groups in it,
// for emptyBound at most; then it names those that are left. A group that is gone
// is empty.
func (g *Group) WaitEmpty(ctx context.Context) error {
	dir := g.unified
	if dir == "" {
		dir = g.listDir()
	}
	ctx, cancel := bounded(ctx, emptyBound)
	defer cancel()
	if err := g.h.waitEmpty(ctx, dir); err != nil {
		return fmt.Errorf("cannot wait for the end of cgroup %s: %w", g.path, left(err, dir))
	}
	return nil
}

// left completes the error of a wait with the processes that it waited for.
func left(err error, dir string) error {
	pids, lerr := processes(dir)
	if lerr != nil {
		return errors.Join(err, lerr)
	}
	return fmt.Errorf("%w: still in it: %s", err, who(pids))
}

func (h *Hierarchy) waitEmpty(ctx context.Context, dir string) error {
	if h.Unified != "" && strings.HasPrefix(dir, h.Unified+"/") {
		err := await(ctx, filepath.Join(dir, "cgroup.events"), func(v map[string]uint64) bool { return v["populated"] == 0 })
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENODEV) {
			return nil
		}
		return err
	}
	// v1 sends no event, so wait for the processes one by one.
	for last := -1; ; {
		pids, err := processes(dir)
		if err != nil || len(pids) == 0 {
			return err
		}
		// A process that another pid namespace hides (0) cannot be waited for, and
		// one that has ended may be listed for a moment.
		pid := slices.Max(pids)
		if pid == last {
			if err := pause(ctx); err != nil {
				return err
			}
		}
		last = pid
		if err := waitExit(ctx, pid); err != nil {
			return err
		}
	}
}

// pause lets the kernel do what it does not announce.
func pause(ctx context.Context) error {
	select {
	case <-time.After(time.Millisecond):
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// waitExit waits until a process has exited.
func waitExit(ctx context.Context, pid int) error {
	fd, err := unix.PidfdOpen(pid, unix.PIDFD_NONBLOCK)
	if err == unix.ESRCH || err == unix.EINVAL {
		return nil
	}
	if err != nil {
		return fmt.Errorf("cannot wait for process %d: %w", pid, err)
	}
	f := os.NewFile(uintptr(fd), "pidfd")
	defer f.Close()
	stop := context.AfterFunc(ctx, func() { f.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	conn, err := f.SyscallConn()
	if err != nil {
		return err
	}
	err = conn.Read(func(fd uintptr) bool {
		p := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		n, _ := unix.Poll(p, 0)
		return n > 0
	})
	if err != nil && ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

// Delete removes the group in all hierarchies, and the groups in it. It waits
// for processes that are still ending, until ctx is done and for emptyBound at
// most; it kills none. A group that is gone is no error.
func (g *Group) Delete(ctx context.Context) error {
	ctx, cancel := bounded(ctx, emptyBound)
	defer cancel()
	var errs []error
	for _, dir := range g.dirs() {
		for {
			err := removeTree(dir)
			if errors.Is(err, unix.EBUSY) {
				werr := g.h.waitEmpty(ctx, dir)
				if werr == nil {
					// Empty and busy still: the kernel is about to be through with it.
					werr = pause(ctx)
				}
				if werr != nil {
					errs = append(errs, fmt.Errorf("%w: %w", err, left(werr, dir)))
					break
				}
				continue
			}
			if err != nil {
				errs = append(errs, err)
			}
			break
		}
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("cannot delete cgroup %s: %w", g.path, err)
	}
	return nil
}

// RemoveEmpty removes the group path and then its parents in every hierarchy, as
// far as they have neither processes nor groups. It is for the groups that
// Create made on the way, when a project goes.
func (h *Hierarchy) RemoveEmpty(path string) error {
	path, err := checkPath(path)
	if err != nil {
		return err
	}
	var errs []error
	for _, root := range h.roots() {
		for p := path; p != "."; p = filepath.Dir(p) {
			err := unix.Rmdir(filepath.Join(root, p))
			if err == unix.EBUSY || err == unix.ENOTEMPTY {
				break
			}
			if err != nil && err != unix.ENOENT {
				errs = append(errs, &fs.PathError{Op: "rmdir", Path: filepath.Join(root, p), Err: err})
				break
			}
		}
	}
	return errors.Join(errs...)
}

// Missing lists the directories of the group path, and of its parents, that are
// not there in any of the hierarchies, children before parents.
func (h *Hierarchy) Missing(path string) ([]string, error) {
	path, err := checkPath(path)
	if err != nil {
		return nil, err
	}
	var out []string
	for _, root := range h.roots() {
		for p := path; p != "."; p = filepath.Dir(p) {
			dir := filepath.Join(root, p)
			if _, err := os.Lstat(dir); !errors.Is(err, fs.ErrNotExist) {
				break
			}
			out = append(out, dir)
		}
	}
	return out, nil
}

// RemoveDirs removes directories of groups, as Missing listed them, that have
// neither processes nor groups, and tells whether none is left.
func RemoveDirs(dirs []string) (gone bool, err error) {
	gone = true
	for _, dir := range dirs {
		switch err := unix.Rmdir(dir); err {
		case nil, unix.ENOENT:
		case unix.EBUSY, unix.ENOTEMPTY:
			gone = false
		default:
			return false, &fs.PathError{Op: "rmdir", Path: dir, Err: err}
		}
	}
	return gone, nil
}

// roots lists the mount points, each once.
func (h *Hierarchy) roots() (out []string) {
	for _, root := range h.V1 {
		out = append(out, root)
	}
	slices.Sort(out)
	out = slices.Compact(out)
	if h.Unified != "" {
		out = append(out, h.Unified)
	}
	return out
}

// Groups lists the groups directly below path in any hierarchy, sorted: what a
// new supervisor finds of containers that ran under an earlier one.
func (h *Hierarchy) Groups(path string) ([]string, error) {
	path, err := checkPath(path)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, root := range h.roots() {
		entries, err := os.ReadDir(filepath.Join(root, path))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("cannot list cgroups below %s: %w", path, err)
		}
		for _, e := range entries {
			if e.IsDir() {
				names = append(names, e.Name())
			}
		}
	}
	slices.Sort(names)
	return slices.Compact(names), nil
}
