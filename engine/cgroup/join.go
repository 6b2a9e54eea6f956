package cgroup

import (
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// Entry is how a new process gets into a group.
type Entry struct {
	// Dir is the group's v2 directory, for CLONE_INTO_CGROUP of clone3(2), which
	// spares the migration. Nil where there is no v2 hierarchy.
	Dir *os.File
	// Tasks are open for writing: the process writes "0" to each while it has a
	// single thread, before it enters a cgroup namespace. They are the v1 "tasks"
	// files, which unlike cgroup.procs do not stop all forks on the machine for
	// the move.
	Tasks []*os.File
}

// Close closes the files.
func (e *Entry) Close() {
	if e.Dir != nil {
		e.Dir.Close()
	}
	for _, f := range e.Tasks {
		f.Close()
	}
}

// Entry opens what a process needs to start in the group.
func (g *Group) Entry() (_ *Entry, err error) {
	e := &Entry{}
	defer func() {
		if err != nil {
			e.Close()
			err = fmt.Errorf("cannot enter cgroup %s: %w", g.path, err)
		}
	}()
	if g.unified != "" {
		fd, err := openFD(g.unified, unix.O_PATH|unix.O_DIRECTORY)
		if err != nil {
			return nil, err
		}
		e.Dir = os.NewFile(uintptr(fd), g.unified)
	}
	for _, dir := range g.dirs() {
		if dir == g.unified {
			continue
		}
		path := filepath.Join(dir, "tasks")
		fd, err := openFD(path, unix.O_WRONLY)
		if err != nil {
			return nil, err
		}
		e.Tasks = append(e.Tasks, os.NewFile(uintptr(fd), path))
	}
	return e, nil
}

// ProcsFiles opens a file in each hierarchy to which a new process writes "0" to
// join. Entry is faster where clone3(2) can be used.
func (g *Group) ProcsFiles() ([]*os.File, error) {
	e, err := g.Entry()
	if err != nil {
		return nil, err
	}
	files := e.Tasks
	if e.Dir != nil {
		path := filepath.Join(e.Dir.Name(), "cgroup.procs")
		e.Dir.Close()
		fd, err := openFD(path, unix.O_WRONLY)
		if err != nil {
			e.Dir = nil
			e.Close()
			return nil, fmt.Errorf("cannot enter cgroup %s: %w", g.path, err)
		}
		files = append(files, os.NewFile(uintptr(fd), path))
	}
	return files, nil
}
