package engine

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/stack-run/stack/engine/logs"
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
	back.add(func() error { e.dropStdio(c.ID, k); return nil })
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
		// The write end exists before the process reads, and stays as long as
		// somebody may want to attach: Docker's stdin_open.
		w, err := logs.OpenFIFO(filepath.Join(dir, logs.StdinFIFO))
		if err != nil {
			return nil, err
		}
		err = hold(k, HeldName(c.ID, "stdin"), w)
		w.Close()
		if err != nil {
			return nil, err
		}
		if s.stdin, err = logs.OpenContainerStdin(filepath.Join(dir, logs.StdinFIFO)); err != nil {
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
	for _, what := range []string{logs.StdoutFIFO, logs.StderrFIFO, "stdin", "tty"} {
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
	}
	return e.pump(c, t, console, true)
}

func (e *Engine) pump(c *Container, t *Task, console *os.File, adopt bool) error {
	budget, _, err := logs.ParseOptions(c.Spec.Log.Driver, c.Spec.Log.Options)
	if err != nil {
		return fmt.Errorf("cannot use the logging options of container %s: %w", c.Spec.Name, err)
	}
	dir := e.Records.RunDir(c.ID)
	cfg := logs.PumpConfig{
		Dir: e.LogDir(c.ID), Budget: budget, TTY: console, Adopt: adopt,
		Failed: func(err error) { e.Warnf("cannot store the output of container %s: %v", c.Spec.Name, err) },
	}
	if cfg.Stdout, err = logs.OpenFIFO(filepath.Join(dir, logs.StdoutFIFO)); err != nil {
		return err
	}
	if console == nil {
		if cfg.Stderr, err = logs.OpenFIFO(filepath.Join(dir, logs.StderrFIFO)); err != nil {
			return errors.Join(err, cfg.Stdout.Close())
		}
	}
	if t.pump, err = logs.StartPump(context.Background(), cfg); err != nil {
		err = errors.Join(err, cfg.Stdout.Close())
		if cfg.Stderr != nil {
			err = errors.Join(err, cfg.Stderr.Close())
		}
	}
	return err
}
