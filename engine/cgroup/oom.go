package cgroup

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// OOMKills counts the processes of the group that the kernel killed because the
// group's memory limit was reached. Read it once the container's first process
// is gone: the counter is right then, an event may still be on its way.
func (g *Group) OOMKills() (uint64, error) {
	if dir := g.v1["memory"]; dir != "" {
		return readKey(filepath.Join(dir, "memory.oom_control"), "oom_kill")
	}
	if dir := g.ControllerDir("memory"); dir != "" {
		return readKey(filepath.Join(dir, "memory.events"), "oom_kill")
	}
	return 0, nil
}

// WatchOOM calls f when the group runs out of memory, at once if it has before,
// until ctx is done or the group is deleted. A call is a hint to read OOMKills: on
// v1 it may come just before that grows, and several times for one kill. Without
// a memory controller WatchOOM returns at once.
func (g *Group) WatchOOM(ctx context.Context, f func()) error {
	var err error
	switch {
	case g.v1["memory"] != "":
		err = watchOOMV1(ctx, g.v1["memory"], f)
	case g.ControllerDir("memory") != "":
		err = g.watchOOMV2(ctx, f)
	}
	if err != nil && ctx.Err() == nil {
		return fmt.Errorf("cannot watch cgroup %s for OOM kills: %w", g.path, err)
	}
	return nil
}

func (g *Group) watchOOMV2(ctx context.Context, f func()) error {
	path := filepath.Join(g.unified, "memory.events")
	last, err := uint64(0), error(nil)
	for err == nil {
		err = await(ctx, path, func(v map[string]uint64) bool {
			grown := v["oom_kill"] > last
			last = v["oom_kill"]
			return grown
		})
		if err == nil {
			f()
		}
	}
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENODEV) {
		return nil
	}
	return err
}

// watchOOMV1 registers an eventfd (kernel: cgroup-v1/memory.rst, section 10).
func watchOOMV1(ctx context.Context, dir string, f func()) error {
	fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		return err
	}
	event := os.NewFile(uintptr(fd), "eventfd")
	defer event.Close()
	control, err := openFD(filepath.Join(dir, "memory.oom_control"), unix.O_RDONLY)
	if err != nil {
		return err
	}
	defer unix.Close(control)
	err = writeFile(filepath.Join(dir, "cgroup.event_control"), strconv.Itoa(fd)+" "+strconv.Itoa(control))
	if err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { event.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	if n, err := readKey(filepath.Join(dir, "memory.oom_control"), "oom_kill"); err == nil && n > 0 {
		f()
	}
	var b [8]byte
	for {
		if _, err := event.Read(b[:]); err != nil {
			return err
		}
		// The kernel also wakes all when the group is deleted.
		var st unix.Stat_t
		if unix.Stat(dir, &st) != nil {
			return nil
		}
		if binary.NativeEndian.Uint64(b[:]) > 0 {
			f()
		}
	}
}
