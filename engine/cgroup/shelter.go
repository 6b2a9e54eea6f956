package cgroup

import (
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// A Shelter is a group of its own for a process that outlives whoever starts it.
//
// A process is born in the groups of its parent, and whoever ends those ends it as
// well: systemd when a unit or a login session ends (KillMode=, systemd.kill(5);
// KillUserProcesses=, logind.conf(5)), a CI runner after its job. Their limits hold
// for it, too. Therefore it is born in a group beside all others instead, in each
// hierarchy where its parent is not where the machine's first process is: that
// group nobody ends.
//
// (With systemd a transient scope would do the same. It has to be asked for over
// D-Bus, which takes longer than all the rest, and at shutdown systemd would end
// the scope before the containers, which are in groups beside its own, too.)
type Shelter struct {
	unified *unified  // nil without v2
	tasks   []taskDir // v1
	groups  []string  // see Groups
	room    int       // how many threads may still be started in it, -1 for any number
}

// taskDir is what a thread of v1 writes "0" to so as to move, there and back.
type taskDir struct {
	shelter, own string
	make         func() error // makes the group
}

// unified is the group of v2.
type unified struct {
	dir  *os.File // for CLONE_INTO_CGROUP
	make func() error
}

// Who was in the group of that name before may be about to remove it: who enters
// makes it again then. More often than this, others cannot have left it meanwhile.
const enterTries = 10

// isGone says whether an error is that of a group that was removed.
func isGone(err error) bool { return errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENODEV) }

// enter calls a function that enters a group, again after each time it was removed.
func enter(again, enter func() error) error {
	err := enter()
	for range enterTries {
		if !isGone(err) {
			return err
		}
		if err = again(); err == nil {
			err = enter()
		}
	}
	return err
}

// NewShelter makes the group name at the root of the hierarchies. One that is
// there is used. An error says what cannot be left: the shelter can be used all
// the same, and is none there.
func NewShelter(name string) (*Shelter, error) {
	s := &Shelter{room: -1}
	places, err := places()
	if err != nil {
		return s, err
	}
	var errs []error
	for _, p := range places {
		left := false
		if p.own != p.first && p.own != p.point {
			if err := s.leave(p, name); err != nil {
				errs = append(errs, fmt.Errorf("cannot leave control group %s: %w", p.own, err))
			} else {
				left = true
			}
		}
		s.measure(p, left)
	}
	return s, errors.Join(errs...)
}

// leave makes the group in one hierarchy.
func (s *Shelter) leave(p place, name string) error {
	dir := filepath.Join(p.point, name)
	again := func() error { return makeShelter(p, name) }
	if err := enter(again, again); err != nil {
		return err
	}
	s.groups = append(s.groups, dir, filepath.Join(p.first, "cgroup.procs"))
	if !p.v2 {
		s.tasks = append(s.tasks, taskDir{filepath.Join(dir, "tasks"), filepath.Join(p.own, "tasks"), again})
		return nil
	}
	s.unified = &unified{make: again}
	return enter(again, func() error { return s.unified.open(dir) })
}

func makeShelter(p place, name string) error {
	dir := filepath.Join(p.point, name)
	if err := unix.Mkdir(dir, 0o755); err != nil && err != unix.EEXIST {
		return err
	}
	if p.v2 || !slices.Contains(p.controllers, "cpuset") {
		return nil
	}
	err := inheritCPUSet(p.point, name)
	if err != nil && !isGone(err) {
		return errors.Join(err, unix.Rmdir(dir))
	}
	return err
}

// open opens the directory, which may be another one of the same name now.
func (u *unified) open(dir string) error {
	fd, err := openFD(dir, unix.O_PATH|unix.O_DIRECTORY)
	if err != nil {
		return err
	}
	if u.dir != nil {
		u.dir.Close()
	}
	u.dir = os.NewFile(uintptr(fd), dir)
	return nil
}

// measure finds how many threads the limits on processes leave room for.
func (s *Shelter) measure(p place, left bool) {
	if !p.v2 && !slices.Contains(p.controllers, "pids") {
		return
	}
	dir := p.own
	if left {
		dir = p.point
	}
	for {
		limit, err1 := readFile(filepath.Join(dir, "pids.max"))
		now, err2 := readFile(filepath.Join(dir, "pids.current"))
		if err1 == nil && err2 == nil {
			n, err1 := strconv.Atoi(strings.TrimSpace(limit)) // not for "max"
			used, err2 := strconv.Atoi(strings.TrimSpace(now))
			if room := max(n-used, 0); err1 == nil && err2 == nil && (s.room < 0 || room < s.room) {
				s.room = room
			}
		}
		if len(dir) <= len(p.point) {
			return
		}
		dir = filepath.Dir(dir)
	}
}

// Room fails when limits leave no room for that many threads.
func (s *Shelter) Room(threads int) error {
	if s.room < 0 || s.room >= threads {
		return nil
	}
	return fmt.Errorf("the limit on processes (pids.max) of this command's control group leaves room for %d more, and %d are needed; raise it (TasksMax= of a systemd unit, --pids-limit of a container) and try again", s.room, threads)
}

// Groups lists the directories that were made, each followed by a cgroup.procs file
// that the last process in it writes itself to in order to remove it.
func (s *Shelter) Groups() []string { return s.groups }

// Close closes what is open. The group stays.
func (s *Shelter) Close() {
	if s.unified != nil && s.unified.dir != nil {
		s.unified.dir.Close()
	}
}

// Start is syscall.ForkExec into the shelter. The process gets the descriptors in
// attr and no other, even where this process was started with some that are not
// closed on exec.
func (s *Shelter) Start(argv0 string, argv []string, attr *syscall.ProcAttr) (pid int, err error) {
	if err := closeOnExec(); err != nil {
		return 0, err
	}
	done := make(chan struct{})
	// In v1 a process is born in the groups of the thread that forks.
	go func() {
		defer close(done)
		runtime.LockOSThread()
		var back []string
		for _, t := range s.tasks {
			if err = enter(t.make, func() error { return writeFile(t.shelter, "0") }); err != nil {
				break
			}
			back = append(back, t.own)
		}
		if err == nil {
			pid, err = s.fork(argv0, argv, attr)
		}
		for _, own := range back {
			if writeFile(own, "0") != nil {
				return // locked still, the thread ends with this goroutine
			}
		}
		runtime.UnlockOSThread()
	}()
	<-done
	return pid, err
}

func (s *Shelter) fork(argv0 string, argv []string, attr *syscall.ProcAttr) (pid int, err error) {
	if s.unified == nil || s.unified.dir == nil {
		return syscall.ForkExec(argv0, argv, attr)
	}
	dir := s.unified.dir.Name()
	again := func() error { return errors.Join(s.unified.make(), s.unified.open(dir)) }
	err = enter(again, func() error {
		a, sys := *attr, syscall.SysProcAttr{}
		if attr.Sys != nil {
			sys = *attr.Sys
		}
		sys.UseCgroupFD, sys.CgroupFD = true, int(s.unified.dir.Fd())
		a.Sys = &sys
		pid, err = syscall.ForkExec(argv0, argv, &a)
		return err
	})
	if err == nil || errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.ENOMEM) {
		return pid, err
	}
	// Where clone3(2) is refused, the process moves a moment after its birth.
	if pid, err = syscall.ForkExec(argv0, argv, attr); err == nil {
		err = enter(s.unified.make, func() error { return writeFile(filepath.Join(dir, "cgroup.procs"), strconv.Itoa(pid)) })
		if errors.Is(err, unix.ESRCH) {
			err = nil
		}
	}
	return pid, err
}

// closeOnExec marks all descriptors from 3 on. Those of Go are marked already, not
// those that the shell or the program before this one left open.
func closeOnExec() error {
	err := unix.CloseRange(3, math.MaxUint32, unix.CLOSE_RANGE_CLOEXEC)
	if err == nil {
		return nil
	}
	// Before Linux 5.11.
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return err
	}
	for _, e := range entries {
		if fd, err := strconv.Atoi(e.Name()); err == nil && fd >= 3 {
			unix.CloseOnExec(fd)
		}
	}
	return nil
}

// A place is one mounted hierarchy: where its root, this process's group and that
// of the first process are.
type place struct {
	point, own, first string
	v2                bool
	controllers       []string // v1
}

// places lists the hierarchies, the named ones of v1 too.
func places() ([]place, error) {
	mountinfo, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, fmt.Errorf("cannot find control groups: %w", err)
	}
	own, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return nil, fmt.Errorf("cannot find control groups: %w", err)
	}
	first, err := os.ReadFile("/proc/1/cgroup") // another user's may be hidden
	if err != nil && !errors.Is(err, fs.ErrPermission) && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("cannot find control groups: %w", err)
	}
	return parsePlaces(string(mountinfo), string(own), string(first)), nil
}

func parsePlaces(mountinfo, own, first string) (out []place) {
	owns, firsts := ownPaths(own), ownPaths(first)
	seen := map[string]bool{}
	for _, m := range visible(mountinfo) {
		p := place{point: m.point, v2: m.fstype == "cgroup2"}
		key := ""
		if !p.v2 {
			for _, o := range m.options {
				if _, ok := owns[o]; ok && o != "" {
					key = o
					p.controllers = append(p.controllers, o)
				}
			}
			if key == "" {
				continue
			}
		}
		path, ok := owns[key]
		if !ok || seen[key] {
			continue
		}
		seen[key] = true
		// What the mount does not show is as good as its root.
		p.own, p.first = below(m, path), below(m, firsts[key])
		out = append(out, p)
	}
	return out
}

// visible lists the mounts of control groups that no later mount hides.
func visible(mountinfo string) (out []mount) {
	for line := range strings.Lines(mountinfo) {
		m, ok := parseMount(line)
		if !ok {
			continue
		}
		out = slices.DeleteFunc(out, func(c mount) bool {
			return c.point == m.point || strings.HasPrefix(c.point, m.point+"/")
		})
		if m.fstype == "cgroup" || m.fstype == "cgroup2" {
			out = append(out, m)
		}
	}
	return out
}

// below is where a mount shows a group.
func below(m mount, path string) string {
	rel, err := filepath.Rel(m.root, path)
	if err != nil || rel == ".." || strings.HasPrefix(rel, "../") {
		return m.point
	}
	return filepath.Join(m.point, rel)
}

// LeaveGroups removes what Groups listed as the last process in it. Where others are
// in it, it stays.
func LeaveGroups(groups []string) {
	for i := 0; i+1 < len(groups); i += 2 {
		if writeFile(groups[i+1], "0") == nil {
			unix.Rmdir(groups[i])
		}
	}
}

// removePatience is how long RemoveGroups waits for processes that have ended to
// be gone from their group.
const removePatience = 100 * time.Millisecond

// RemoveGroups removes what Groups listed, after the last process in it has ended.
// Where others are in it, it stays.
func RemoveGroups(groups []string) {
	for i := 0; i+1 < len(groups); i += 2 {
		for pause := time.Millisecond; pause < removePatience; pause *= 2 {
			if err := unix.Rmdir(groups[i]); err != unix.EBUSY {
				break
			}
			if pids, err := processes(groups[i]); err != nil || len(pids) > 0 {
				break
			}
			time.Sleep(pause)
		}
	}
}
