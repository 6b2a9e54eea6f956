package engine

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/stack-run/stack/engine/logs"
	"github.com/stack-run/stack/engine/logs/driver"
)

// stdio is the container's side of its standard streams for one start.
type stdio struct {
	stdin, stdout, stderr *os.File
}

func (s *stdio) close() {
	for _, f := range []*os.File{s.stdin, s.stdout, s.stderr} {
		if f != nil {
			f.Close()
		}
	}
}

// openStdio makes the FIFOs and opens the container's ends. With a terminal the
// runtime opens them inside the container.
func (e *Engine) openStdio(c *Container, k FDs, back *undo) (_ *stdio, err error) {
	dir := e.Records.RunDir(c.ID)
	s := &stdio{}
	defer func() {
		if err != nil {
			s.close()
			err = fmt.Errorf("cannot open the standard streams: %w", err)
		}
	}()
	if err := logs.NewFIFOs(dir); err != nil {
		return nil, err
	}
	if k == nil || k.Get(HeldName(c.ID, logs.StdoutFIFO)) == nil { // else it has the last run's output
		back.add(func() error { e.dropStdio(c.ID, k); return nil })
	}
	for _, what := range streams {
		f, err := logs.OpenFIFO(filepath.Join(dir, what))
		if err != nil {
			return nil, err
		}
		err = hold(k, HeldName(c.ID, what), f)
		if err := errors.Join(err, f.Close()); err != nil {
			return nil, err
		}
	}
	if c.Spec.Process.TTY {
		return s, nil
	}
	if c.Spec.Process.Stdin {
		if s.stdin, err = openInput(k, HeldName(c.ID, StdinName)); err != nil {
			return nil, err
		}
	} else if s.stdin, err = os.Open(os.DevNull); err != nil {
		return nil, err
	}
	if s.stdout, err = logs.OpenContainerEnd(filepath.Join(dir, logs.StdoutFIFO)); err != nil {
		return nil, err
	}
	if s.stderr, err = logs.OpenContainerEnd(filepath.Join(dir, logs.StderrFIFO)); err != nil {
		return nil, err
	}
	return s, nil
}

// StdinName is for [HeldName] what a container's standard input is written to.
const StdinName = "stdin"

// openInput opens the container's end of its standard input. The other one stays as long
// as somebody may want to attach: Docker's stdin_open. What the last run has not read is
// the next one's.
func openInput(k FDs, name string) (*os.File, error) {
	if k != nil {
		if held := k.Get(name); held != nil {
			return logs.OpenInput(held)
		}
	}
	f, err := logs.NewInput()
	if err != nil {
		return nil, err
	}
	defer f.Close()
	end, err := logs.OpenInput(f)
	if err == nil {
		err = hold(k, name, f)
	}
	return end, err
}

// hold is k.Hold for a k that may be nil.
func hold(k FDs, name string, f *os.File) error {
	if k == nil {
		return nil
	}
	return k.Hold(name, f)
}

// streams are the held names of what a pump reads: as long as the guardian has
// them open, what a container wrote before it died waits in the pipe.
var streams = [...]string{logs.StdoutFIFO, logs.StderrFIFO}

func (e *Engine) dropStdio(id string, k FDs) {
	if k == nil {
		return
	}
	for _, what := range []string{logs.StdoutFIFO, logs.StderrFIFO, StdinName, "tty"} {
		k.Drop(HeldName(id, what))
	}
}

// startPump begins to move a new process' output to its log.
func (e *Engine) startPump(c *Container, t *Task, console *os.File, k FDs) error {
	if console != nil {
		if err := hold(k, HeldName(c.ID, "tty"), console); err != nil {
			return err
		}
	}
	return e.pump(c, t, console, false)
}

// resumePump takes over the output of a process that runs already.
func (e *Engine) resumePump(c *Container, t *Task, k FDs) error {
	var console *os.File
	if k != nil {
		console = k.Get(HeldName(c.ID, "tty"))
		e.resumeInput(c, k)
	}
	return e.pump(c, t, console, true)
}

// resumeInput holds an input again that is to stay open, if who held it was killed. The
// container's process has its other end, if it has not closed it.
func (e *Engine) resumeInput(c *Container, k FDs) {
	name, p := HeldName(c.ID, StdinName), c.Spec.Process
	if !p.Stdin || p.TTY || p.StdinOnce || k.Get(name) != nil {
		return
	}
	at, err := openPipeOf(c.State.Pid, 0)
	if err != nil {
		return
	}
	defer at.Close()
	if f, err := logs.ReopenInput(at); err == nil {
		if err := errors.Join(k.Hold(name, f), f.Close()); err != nil {
			e.Warnf("cannot keep the standard input of container %s open: %v", c.Spec.Name, err)
		}
	}
}

func (e *Engine) pump(c *Container, t *Task, console *os.File, adopt bool) error {
	how, _, err := driver.Parse(c.Spec.Log.Driver, c.Spec.Log.Options)
	if err != nil {
		return fmt.Errorf("cannot use the logging options of container %s: %w", c.Spec.Name, err)
	}
	dir := e.Records.RunDir(c.ID)
	cfg := logs.PumpConfig{
		Dir: e.LogDir(c.ID), Budget: how.Budget, Compress: how.Compress, TTY: console, Adopt: adopt,
		Failed: func(err error) { e.Warnf("cannot store the output of container %s: %v", c.Spec.Name, err) },
	}
	open := func(name string, fd int) (*os.File, error) {
		f, err := logs.OpenFIFO(filepath.Join(dir, name))
		if adopt && errors.Is(err, fs.ErrNotExist) {
			return e.openHeldFIFO(c, fd)
		}
		return f, err
	}
	if cfg.Stdout, err = open(logs.StdoutFIFO, 1); err != nil {
		return err
	}
	if console == nil {
		if cfg.Stderr, err = open(logs.StderrFIFO, 2); err != nil {
			return errors.Join(err, cfg.Stdout.Close())
		}
	}
	deliver, err := e.openDelivery(c, how)
	if err == nil {
		t.pump, err = logs.StartPump(context.Background(), cfg)
	}
	if err != nil {
		err = errors.Join(err, cfg.Stdout.Close(), e.dropDelivery(c, how))
		if cfg.Stderr != nil {
			err = errors.Join(err, cfg.Stderr.Close())
		}
		return err
	}
	deliver()
	return nil
}

// openHeldFIFO opens a container's output whose name is gone, as when the run
// directory was deleted: the container's process has it open still. Where it has
// not, nothing more is read: a process that is not logged is better than one that
// nobody sees to.
func (e *Engine) openHeldFIFO(c *Container, fd int) (*os.File, error) {
	if at, err := openPipeOf(c.State.Pid, fd); err == nil {
		defer at.Close()
		return logs.OpenFIFO(fmt.Sprintf("/proc/self/fd/%d", at.Fd()))
	}
	e.Warnf("container %s: descriptor %d cannot be logged any more: its FIFO was deleted, and the process has it no more; restart the container", c.Spec.Name, fd)
	if err := os.MkdirAll(e.Records.RunDir(c.ID), 0o711); err != nil {
		return nil, err
	}
	name := map[int]string{1: logs.StdoutFIFO, 2: logs.StderrFIFO}[fd]
	path := filepath.Join(e.Records.RunDir(c.ID), name)
	if err := unix.Mkfifo(path, 0o600); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, err
	}
	return logs.OpenFIFO(path)
}

// openPipeOf opens a descriptor of a container's process, for nothing but to be opened
// again, if it is a pipe: it is the container's, so what is there may be anything.
func openPipeOf(pid, fd int) (*os.File, error) {
	at, err := os.OpenFile(fmt.Sprintf("/proc/%d/fd/%d", pid, fd), unix.O_PATH, 0)
	if err != nil {
		return nil, err
	}
	info, err := at.Stat()
	if err == nil && info.Mode().Type() != fs.ModeNamedPipe {
		err = errors.New("it is no pipe")
	}
	if err != nil {
		return nil, errors.Join(err, at.Close())
	}
	return at, nil
}
