package runner

import (
	"io"
	"os"
	"sync"

	"github.com/moby/buildkit/executor"
)

// streams are the standard streams of a command: the ends of pipes for it, and
// the copying between the other ends and BuildKit.
type streams struct {
	process               executor.ProcessInfo
	stdin, stdout, stderr *os.File // for the command
	in, out, err          *os.File // ours
	copies                sync.WaitGroup
}

func openStreams(process executor.ProcessInfo) (_ *streams, err error) {
	s := &streams{process: process}
	if process.Meta.Tty {
		return s, nil // a terminal comes with the process
	}
	defer func() {
		if err != nil {
			s.close()
		}
	}()
	if process.Stdin != nil {
		if s.stdin, s.in, err = os.Pipe(); err != nil {
			return nil, err
		}
	}
	if process.Stdout != nil {
		if s.out, s.stdout, err = os.Pipe(); err != nil {
			return nil, err
		}
	}
	if process.Stderr != nil {
		if s.err, s.stderr, err = os.Pipe(); err != nil {
			return nil, err
		}
	}
	return s, nil
}

// serve copies, once the command runs.
func (s *streams) serve(console *os.File) {
	closeFiles(s.stdin, s.stdout, s.stderr) // so that the end of the command is the end of its output
	if console != nil {
		s.in, s.out = console, console
	}
	if s.in != nil && s.process.Stdin != nil {
		// Not waited for: it ends with the giver of the input.
		go func() {
			io.Copy(s.in, s.process.Stdin)
			if console == nil {
				s.in.Close()
			}
		}()
	}
	s.copy(s.process.Stdout, s.out)
	s.copy(s.process.Stderr, s.err)
}

func (s *streams) copy(w io.Writer, r *os.File) {
	if w == nil || r == nil {
		return
	}
	s.copies.Go(func() {
		if _, err := io.Copy(w, r); err != nil {
			io.Copy(io.Discard, r) // a writer that nobody reads would stand still
		}
	})
}

// drain waits until all output has been passed on.
func (s *streams) drain() { s.copies.Wait() }

// close closes everything.
func (s *streams) close() {
	closeFiles(s.stdin, s.stdout, s.stderr, s.in, s.out, s.err)
}

func closeFiles(files ...*os.File) {
	for _, f := range files {
		if f != nil {
			f.Close()
		}
	}
}
