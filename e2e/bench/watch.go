package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/stack-run/stack/e2e/peer"
)

const (
	watchName    = "watch: from a write to the byte in the container"
	watchDirs    = 500
	filesPerDir  = 100
	watchIdle    = time.Minute
	watchTimeout = time.Minute
	// watchSleeper is what the container does: a command that nothing else is.
	watchSleeper = "sleep 86399"
)

// watchRow is what one side's watch takes.
type watchRow struct {
	who     string
	times   []time.Duration // sorted
	watches int
	idle    time.Duration // of a CPU while nothing happens for watchIdle
}

// watch measures how long a change of a file takes into a container, one in a tree of
// many, and what a watch costs that has nothing to do.
func (b *bench) watch(ctx context.Context) error {
	if !b.wants(watchName) {
		return nil
	}
	tree := filepath.Join(b.dir, "tree")
	for d := range watchDirs {
		dir := filepath.Join(tree, "d"+strconv.Itoa(d))
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
		for f := range filesPerDir {
			if err := os.WriteFile(filepath.Join(dir, "f"+strconv.Itoa(f)), []byte("before"), 0o644); err != nil {
				return err
			}
		}
	}
	file := filepath.Join(b.dir, "compose-watch.yaml")
	text := fmt.Sprintf("services:\n  web:\n    image: %s\n    command: %s\n    stop_grace_period: 0s\n    develop:\n      watch: [{path: ./tree, action: sync, target: /app}]\n", imageRef, watchSleeper)
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		return err
	}
	for _, s := range b.sides {
		row, err := b.watchOf(ctx, s, file, tree)
		if err != nil {
			b.report.broken(s.Name()+", "+watchName, err)
			continue
		}
		b.report.watch(row)
	}
	return os.RemoveAll(tree)
}

func (b *bench) watchOf(ctx context.Context, s peer.Side, file, tree string) (row watchRow, err error) {
	row.who = s.Name()
	const project = "benchwatch"
	cmd := s.Compose(ctx, file, project, "watch")
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // a plugin is a process of its own
	group, err := startWatch(cmd)
	if err != nil {
		return row, err
	}
	defer func() {
		unix.Kill(-group, unix.SIGINT)
		_ = cmd.Wait()
		if r := timed(s.Compose(context.WithoutCancel(ctx), file, project, "down")); err == nil {
			err = r.err
		}
	}()
	root, err := rootOfCommand(watchSleeper)
	if err != nil {
		return row, err
	}
	b.settle()
	for i := range 5 * b.o.runs {
		name := fmt.Sprintf("d%d/f%d", i*7%watchDirs, i*13%filesPerDir)
		took, err := carried(ctx, filepath.Join(tree, name), filepath.Join(root, "app", name), fmt.Sprintf("after %d of %s", i, s.Name()))
		if err != nil {
			return row, err
		}
		row.times = append(row.times, took)
		time.Sleep(200 * time.Millisecond) // so that each is a change of its own
	}
	slices.Sort(row.times)
	row.watches = inotifyWatches(group)
	before := groupCPU(group)
	select {
	case <-time.After(watchIdle):
	case <-ctx.Done():
		return row, ctx.Err()
	}
	row.idle = groupCPU(group) - before
	return row, nil
}

// startWatch starts a watch and returns its process group once it watches.
func startWatch(cmd *exec.Cmd) (group int, err error) {
	r, w, err := os.Pipe()
	if err != nil {
		return 0, err
	}
	cmd.Stdout, cmd.Stderr = w, w
	err = cmd.Start()
	w.Close()
	if err != nil {
		return 0, errors.Join(err, r.Close())
	}
	watches := make(chan bool, 1)
	var last atomic.Value
	last.Store("nothing")
	go func() {
		defer r.Close()
		lines := bufio.NewScanner(r)
		for lines.Scan() {
			last.Store(lines.Text())
			if strings.Contains(lines.Text(), "Watch enabled") {
				select {
				case watches <- true:
				default:
				}
			}
		}
		close(watches)
	}()
	select {
	case yes := <-watches:
		if yes {
			return cmd.Process.Pid, nil
		}
	case <-time.After(watchTimeout):
	}
	unix.Kill(-cmd.Process.Pid, unix.SIGKILL)
	return 0, fmt.Errorf("it did not begin to watch (%w) and said last: %s", cmd.Wait(), last.Load())
}

// rootOfCommand is the root of the process that runs a command.
func rootOfCommand(command string) (string, error) {
	want := []byte(strings.ReplaceAll(command, " ", "\x00") + "\x00")
	all, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		return "", err
	}
	for _, name := range all {
		if text, err := os.ReadFile(name); err == nil && bytes.Equal(text, want) {
			return filepath.Join(filepath.Dir(name), "root"), nil
		}
	}
	return "", fmt.Errorf("no process is %q", command)
}

// carried is how long a file's new content takes to another place.
func carried(ctx context.Context, from, to, content string) (time.Duration, error) {
	began := time.Now()
	if err := os.WriteFile(from, []byte(content), 0o644); err != nil {
		return 0, err
	}
	for time.Since(began) < watchTimeout && ctx.Err() == nil {
		if got, err := os.ReadFile(to); err == nil && string(got) == content {
			return time.Since(began), nil
		}
		time.Sleep(200 * time.Microsecond)
	}
	return 0, fmt.Errorf("%s has not come within %v", to, watchTimeout)
}

// inGroup calls do with the directory in /proc of each process of a group.
func inGroup(group int, do func(dir string)) {
	all, _ := filepath.Glob("/proc/[0-9]*")
	for _, dir := range all {
		pid, err := strconv.Atoi(filepath.Base(dir))
		if err != nil {
			continue
		}
		if pgid, err := unix.Getpgid(pid); err == nil && pgid == group {
			do(dir)
		}
	}
}

// inotifyWatches counts the watches of a group's processes, proc(5).
func inotifyWatches(group int) int {
	n := 0
	inGroup(group, func(dir string) {
		infos, _ := filepath.Glob(filepath.Join(dir, "fdinfo", "*"))
		for _, info := range infos {
			text, _ := os.ReadFile(info)
			n += bytes.Count(text, []byte("inotify wd:"))
		}
	})
	return n
}

// groupCPU is the time on a CPU that a group's processes have used, proc(5).
func groupCPU(group int) time.Duration {
	const tick = time.Second / 100 // USER_HZ
	total := time.Duration(0)
	inGroup(group, func(dir string) {
		text, _ := os.ReadFile(filepath.Join(dir, "stat"))
		_, rest, _ := strings.Cut(string(text), ") ")
		fields := strings.Fields(rest)
		if len(fields) < 13 {
			return
		}
		for _, f := range fields[11:13] { // utime, stime
			n, _ := strconv.Atoi(f)
			total += time.Duration(n) * tick
		}
	})
	return total
}

// percentile of sorted times.
func percentile(times []time.Duration, p int) time.Duration {
	if len(times) == 0 {
		return 0
	}
	return times[min(len(times)*p/100, len(times)-1)]
}
