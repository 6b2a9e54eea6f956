package cgroup

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Nested is a group within a group, for processes that may have to be killed
// apart from the others. It limits nothing, and there is one directory of it, in
// the hierarchy that knows best who is in a group.
type Nested struct {
	in  *Group
	own *Group
	dir string
}

// Nest makes a group of that name in the group.
func (g *Group) Nest(name string) (*Nested, error) {
	n := g.nested(name)
	if err := unix.Mkdir(n.dir, 0o755); err != nil {
		return nil, fmt.Errorf("cannot make cgroup %s: %w", n.own.path, err)
	}
	if n.own.v1["cpuset"] != "" {
		if err := inheritCPUSet(g.h.V1["cpuset"], n.own.path); err != nil {
			return nil, errors.Join(err, unix.Rmdir(n.dir))
		}
	}
	return n, nil
}

func (g *Group) nested(name string) *Nested {
	parent := g.listDir()
	n := &Nested{in: g, dir: filepath.Join(parent, name), own: &Group{h: g.h, path: filepath.Join(g.path, name), v1: map[string]string{}}}
	if parent == g.unified {
		n.own.unified = n.dir
		return n
	}
	for c, dir := range g.v1 {
		if dir == parent {
			n.own.v1[c] = n.dir
		}
	}
	return n
}

// Entry opens what a process needs to start in it: in all other hierarchies it
// joins the group around.
func (n *Nested) Entry() (*Entry, error) {
	e, err := n.in.Entry()
	if err != nil {
		return nil, err
	}
	replace := func(f **os.File, path string, flags int) error {
		fd, err := openFD(path, flags)
		if err != nil {
			return err
		}
		(*f).Close()
		*f = os.NewFile(uintptr(fd), path)
		return nil
	}
	if n.own.unified != "" {
		err = replace(&e.Dir, n.dir, unix.O_PATH|unix.O_DIRECTORY)
	}
	for i, f := range e.Tasks {
		if filepath.Dir(f.Name()) == filepath.Dir(n.dir) {
			err = errors.Join(err, replace(&e.Tasks[i], filepath.Join(n.dir, "tasks"), unix.O_WRONLY))
		}
	}
	if err != nil {
		e.Close()
		return nil, fmt.Errorf("cannot enter cgroup %s: %w", n.own.path, err)
	}
	return e, nil
}

// End kills all processes in it and waits until they are gone.
func (n *Nested) End(ctx context.Context) error {
	return errors.Join(n.own.Kill(ctx), n.own.WaitEmpty(ctx))
}

// Close removes it. Processes that live on in it go to the group around.
func (n *Nested) Close() error {
	// Each round takes what was forked in the one before.
	for range 100 {
		err := unix.Rmdir(n.dir)
		if err == nil || err == unix.ENOENT {
			return nil
		}
		pids, perr := n.own.Processes()
		if err != unix.EBUSY || perr != nil {
			return fmt.Errorf("cannot remove cgroup %s: %w", n.own.path, errors.Join(err, perr))
		}
		if len(pids) == 0 {
			if err := removeTree(n.dir); err == nil {
				return nil
			}
			pause(context.Background())
		}
		for _, pid := range pids {
			writeFile(filepath.Join(filepath.Dir(n.dir), "cgroup.procs"), strconv.Itoa(pid))
		}
	}
	return fmt.Errorf("cannot remove cgroup %s: processes are in it and fork: %s", n.own.path, n.who())
}

func (n *Nested) who() string {
	pids, _ := n.own.Processes()
	return who(pids)
}

// KillNested kills and removes the groups in the group whose name begins so: what
// those left behind who were killed before they could close them.
func (g *Group) KillNested(ctx context.Context, prefix string) error {
	entries, err := os.ReadDir(g.listDir())
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	errs := []error{err}
	for _, e := range entries {
		if !e.IsDir() || !strings.HasPrefix(e.Name(), prefix) {
			continue
		}
		own := g.nested(e.Name()).own
		errs = append(errs, own.Kill(ctx), own.Delete(ctx))
	}
	return errors.Join(errs...)
}

// Release takes a process out of the group's v1 freezer, if it is in one: a frozen
// process does not even die of SIGKILL there. The process is about to be killed.
func (g *Group) Release(pid int) error {
	root := g.h.V1["freezer"]
	if g.v1["freezer"] == "" || root == "" {
		return nil
	}
	return writeFile(filepath.Join(root, "tasks"), strconv.Itoa(pid))
}
