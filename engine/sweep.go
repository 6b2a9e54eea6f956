package engine

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/stack-run/stack/engine/cgroup"
	"github.com/stack-run/stack/engine/runtime"
	"github.com/stack-run/stack/internal/glob"
	"github.com/stack-run/stack/internal/lock"
)

// Leftover is what a process left that was killed while it made or removed a
// container: nobody's, and free.
type Leftover struct {
	Kind    string `json:"kind"`    // "container", "name", "log", "layer" or "cgroup"
	Subject string `json:"subject"` // an ID, a name or a path
}

// Sweep removes what killed clients, supervisors and builders left behind:
// directories, names, logs, writable layers, cgroups with their processes, links,
// pins and ports of containers that have no record, deleted volumes, the default
// network if nobody is on it. It returns what it removed of containers.
//
// It may be called at any time, beside any other command, and again after it was
// killed. Where nothing is left it reads a few directories.
func (e *Engine) Sweep(ctx context.Context) ([]Leftover, error) {
	ctx = detached(ctx)
	found, err := e.findLeftovers()
	errs := []error{err}
	for _, id := range slices.Sorted(maps.Keys(found.kinds)) {
		errs = append(errs, e.clear(ctx, id, found.groups[id]))
	}
	for _, name := range found.names {
		if err := e.Records.freeName(name); err != nil && !errors.Is(err, errNameInUse) {
			errs = append(errs, err)
		}
	}
	errs = append(errs, e.Records.relink(found.unnamed), e.sweepBuild(ctx), e.SweepNetworks(ctx), e.sweepVolumes(ctx), e.DropDefaultNetwork(ctx))
	if err := errors.Join(errs...); err != nil {
		return found.list(), fmt.Errorf("cannot remove all that killed processes left: %w", err)
	}
	return found.list(), nil
}

// Leftovers tells what Sweep would remove of containers.
func (e *Engine) Leftovers() ([]Leftover, error) {
	found, err := e.findLeftovers()
	return found.list(), err
}

type leftovers struct {
	kinds   map[string][]string // what there is of each ID
	groups  map[string][]string // cgroups of each ID
	names   []string            // stale
	unnamed []string            // IDs of containers whose name has no link
}

func (l leftovers) list() []Leftover {
	var out []Leftover
	for _, id := range slices.Sorted(maps.Keys(l.kinds)) {
		for _, kind := range l.kinds[id] {
			out = append(out, Leftover{kind, id})
		}
	}
	for _, name := range l.names {
		out = append(out, Leftover{"name", name})
	}
	return out
}

func (e *Engine) findLeftovers() (leftovers, error) {
	l := leftovers{kinds: map[string][]string{}, groups: map[string][]string{}}
	exists := map[string]bool{}
	gone := func(id string) bool {
		if _, known := exists[id]; !known {
			exists[id] = e.Records.Exists(id)
		}
		return !exists[id]
	}
	var errs []error
	note := func(kind, id string) {
		// What is on this list may have come to be after the answer was remembered.
		if gone(id) && !e.Records.Exists(id) && !slices.Contains(l.kinds[id], kind) {
			l.kinds[id] = append(l.kinds[id], kind)
		}
	}
	for _, d := range []struct{ kind, path string }{
		{"container", filepath.Join(e.data, "containers")},
		{"container", filepath.Join(e.run, "containers")},
		{"layer", filepath.Join(e.data, "containers-rw")},
		{"log", filepath.Join(e.data, "logs")},
	} {
		ids, err := idsIn(d.path)
		errs = append(errs, err)
		for _, id := range ids {
			if gone(id) && d.kind == "log" && e.logInUse(id) {
				continue
			}
			note(d.kind, id)
		}
	}
	groups, err := e.Cgroups()
	if err == nil {
		for _, parent := range e.groupParents() {
			names, err := groups.Groups(parent)
			errs = append(errs, err)
			for _, id := range names {
				if isID(id) && gone(id) {
					note("cgroup", id)
					l.groups[id] = append(l.groups[id], filepath.Join(parent, id))
				}
			}
		}
	}
	errs = append(errs, err, e.Records.checkNames(&l, exists))
	return l, errors.Join(errs...)
}

// checkNames finds stale names, and containers whose name is not there.
func (r *Records) checkNames(l *leftovers, exists map[string]bool) error {
	entries, err := os.ReadDir(filepath.Join(r.data, "names"))
	if err != nil {
		return ignoreNotExist(err)
	}
	links := map[string][]string{}
	for _, entry := range entries {
		name := entry.Name()
		holder, err := os.Readlink(r.namePath(name))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if there, known := exists[holder]; err == nil && known && there {
			links[holder] = append(links[holder], name)
		} else if _, stale, err := r.stale(name); err == nil && stale {
			l.names = append(l.names, name)
		}
	}
	for id, there := range exists {
		if there && len(links[id]) == 0 {
			l.unnamed = append(l.unnamed, id)
		}
		if len(links[id]) > 1 {
			for _, name := range links[id] {
				if _, stale, err := r.stale(name); err == nil && stale {
					l.names = append(l.names, name)
				}
			}
		}
	}
	return nil
}

// relink gives containers back the link of their name, where it is free.
func (r *Records) relink(ids []string) error {
	var errs []error
	for _, id := range ids {
		c, err := r.Read(id)
		if err != nil {
			continue // it is gone, or broken and told of
		}
		if err := r.takeName(c.Spec.Name, id); err != nil && !errors.Is(err, errNameInUse) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

func idsIn(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, ignoreNotExist(err)
	}
	var ids []string
	for _, e := range entries {
		if isID(e.Name()) {
			ids = append(ids, e.Name())
		}
	}
	return ids, nil
}

// groupParents are the cgroups in which containers are.
func (e *Engine) groupParents() []string {
	parents := []string{e.ownParent()}
	notes, _ := os.ReadDir(filepath.Dir(e.parentNote("")))
	for _, note := range notes {
		if parent, ok := notedParent(note.Name()); ok {
			parents = append(parents, parent)
		}
	}
	return parents
}

// clearBound limits the wait for killed processes.
const clearBound = 10 * time.Second

// clear removes all that an ID has which has no record. Log readers that were
// promised all of a log keep it.
func (e *Engine) clear(ctx context.Context, id string, groups []string) error {
	if e.Records.Exists(id) {
		return nil
	}
	var errs []error
	for _, path := range groups {
		errs = append(errs, e.killGroup(ctx, path))
	}
	errs = append(errs, e.detachLost(ctx, id), runtime.Unpin(e.pinPath(id)))
	if layers, err := e.Layers(); err != nil {
		errs = append(errs, err)
	} else {
		errs = append(errs, layers.Remove(ctx, id))
	}
	if !e.logInUse(id) {
		errs = append(errs, os.RemoveAll(e.LogDir(id)))
	}
	marks, _ := glob.In(filepath.Dir(e.Records.RunDir("x")), "*/sharers/"+id)
	for _, mark := range marks {
		errs = append(errs, ignoreNotExist(os.Remove(mark)))
	}
	return errors.Join(append(errs, e.Records.clearDirs(id))...)
}

// detachLost takes the endpoint away that is still recorded for an ID.
func (e *Engine) detachLost(ctx context.Context, id string) error {
	nets, err := e.Networks()
	if err != nil {
		return err
	}
	ep, err := nets.Endpoint(id)
	if err != nil {
		return nil //nolint:nilerr // there is none, or SweepNetworks takes it
	}
	return nets.Detach(ctx, ep)
}

// clearDirs deletes the directories of an ID, unless it is being made now.
func (r *Records) clearDirs(id string) error {
	// Others may look at the same time. Whoever makes the directory waits, and
	// then sees that it is gone.
	held, free, err := lock.TryShared(r.DataDir(id), lock.Dir())
	if errors.Is(err, fs.ErrNotExist) {
		return removeAll(r.RunDir(id))
	}
	if err == nil && !free {
		return nil
	}
	if err == nil {
		defer held.Unlock()
		if _, err := os.Lstat(r.configPath(id)); err == nil {
			return nil
		}
	}
	return r.deleteDirs(id) // also of what is no directory, which cannot be locked
}

// killGroup ends the processes of a cgroup and removes it.
func (e *Engine) killGroup(ctx context.Context, path string) error {
	groups, err := e.Cgroups()
	if err != nil {
		return err
	}
	g, err := groups.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	return e.endGroup(ctx, g)
}

func (e *Engine) endGroup(ctx context.Context, g *cgroup.Group) error {
	ctx, cancel := context.WithTimeout(ctx, clearBound)
	defer cancel()
	if err := errors.Join(g.Kill(ctx), g.Delete(ctx)); err != nil {
		return err
	}
	return e.dropParent(g.Path())
}

// logInUse tells whether somebody writes a log or was promised all of it.
func (e *Engine) logInUse(id string) bool {
	files, _ := glob.In(e.LogDir(id), "*.idx")
	for i, path := range append(files, e.LogDir(id)) {
		var options []lock.Option
		if i == len(files) {
			options = append(options, lock.Dir())
		}
		held, free, err := lock.TryExclusive(path, options...)
		if err == nil && !free {
			return true
		}
		if err == nil {
			held.Unlock()
		}
	}
	return false
}

// sweepBuild ends what a killed builder ran. One that lives holds its lock.
func (e *Engine) sweepBuild(ctx context.Context) error {
	groups, err := e.Cgroups()
	if err != nil {
		return err
	}
	parent := filepath.Join(e.ownParent(), "build")
	names, err := groups.Groups(parent)
	if err != nil || len(names) == 0 {
		return err
	}
	held, free, err := lock.TryExclusive(builderLock(e.run))
	if errors.Is(err, fs.ErrNotExist) {
		free = true // it has no directory any more
	} else if err != nil {
		return err
	}
	if !free {
		return nil
	}
	if held != nil {
		defer held.Unlock()
	}
	var errs []error
	for _, name := range names {
		errs = append(errs, e.killGroup(ctx, filepath.Join(parent, name)))
	}
	return errors.Join(append(errs, groups.RemoveEmpty(parent))...)
}

func (e *Engine) sweepVolumes(ctx context.Context) error {
	vols, err := e.Volumes()
	if err != nil {
		return err
	}
	return errors.Join(vols.Tidy(ctx), e.ReleaseVolumes(ctx))
}

// RemoveBroken removes a container whose record cannot be used, with all that is
// its own: processes, network, layer, log, name. Anonymous volumes stay, for
// nothing tells which they are. It leaves alone what a later version recorded.
func (e *Engine) RemoveBroken(ctx context.Context, b *Broken) error {
	if b.Newer {
		return b
	}
	ctx = detached(ctx)
	groups, err := e.Cgroups()
	if err != nil {
		return err
	}
	var paths []string
	for _, parent := range e.groupParents() {
		if _, err := groups.Open(filepath.Join(parent, b.ID)); err == nil {
			paths = append(paths, filepath.Join(parent, b.ID))
		}
	}
	// From here on it is a leftover: if this process is killed, Sweep goes on.
	err = e.Records.forget(b.ID)
	if err == nil {
		err = e.clear(ctx, b.ID, paths)
	}
	if err != nil {
		return fmt.Errorf("cannot remove container %s: %w", b.ID[:12], err)
	}
	return e.Records.dropNames(b.ID)
}

// dropNames removes all names of an ID.
func (r *Records) dropNames(id string) error {
	entries, err := os.ReadDir(filepath.Join(r.data, "names"))
	errs := []error{ignoreNotExist(err)}
	for _, entry := range entries {
		errs = append(errs, r.dropName(entry.Name(), id))
	}
	return errors.Join(errs...)
}

// stateFromKernel is the state of a container that runs and whose file of state is
// lost: there is a process in its cgroup.
func (e *Engine) stateFromKernel(c *Container) (State, bool) {
	groups, err := e.Cgroups()
	if err != nil {
		return State{}, false
	}
	g, err := groups.Open(e.cgroupPath(c))
	if err != nil {
		return State{}, false
	}
	pids, err := g.Processes()
	if err != nil {
		return State{}, false
	}
	first, ok := firstProcess(pids)
	if !ok {
		return State{}, false
	}
	s := c.State
	s.Phase, s.Pid, s.StartTicks, s.BootID = Running, first.PID, first.StartTicks, bootID()
	s.ExitCode, s.Error, s.FinishedAt = 0, "", time.Time{}
	if frozen, err := g.Frozen(); err == nil && frozen {
		s.Phase = Paused
	}
	if s.StartedAt.IsZero() {
		s.StartedAt = bootTime().Add(time.Duration(first.StartTicks) * time.Second / ticksPerSecond)
	}
	if nets, err := e.Networks(); err == nil {
		if ep, err := nets.Endpoint(c.ID); err == nil {
			s.Endpoint = ep
		}
	}
	return s, true
}

// ticksPerSecond is USER_HZ, 100 on every architecture that Go runs Linux on.
const ticksPerSecond = 100

// firstProcess finds the one that all others come from: the init of a pid
// namespace if there is one, else the oldest.
func firstProcess(pids []int) (first runtime.Stat, ok bool) {
	firstInit := false
	for _, pid := range pids {
		st, err := runtime.ReadStat(pid)
		if err != nil || !st.Alive() {
			continue
		}
		isInit := isNamespaceInit(pid)
		older := st.StartTicks < first.StartTicks || st.StartTicks == first.StartTicks && st.PID < first.PID
		if !ok || isInit && !firstInit || isInit == firstInit && older {
			first, firstInit, ok = st, isInit, true
		}
	}
	return first, ok
}

// isNamespaceInit tells whether a process is PID 1 of its pid namespace.
func isNamespaceInit(pid int) bool {
	status, _ := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/status")
	for line := range strings.Lines(string(status)) {
		if rest, ok := strings.CutPrefix(line, "NSpid:"); ok {
			f := strings.Fields(rest)
			return len(f) > 1 && f[len(f)-1] == "1"
		}
	}
	return false
}
