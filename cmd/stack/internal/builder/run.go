package builder

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"syscall"
	"time"
)

// Streams are the user's, which the program inherits.
type Streams struct {
	In       io.Reader
	Out, Err io.Writer
}

// ExitError says that the program failed and has told the user why.
type ExitError struct{ Code int }

func (e ExitError) Error() string { return fmt.Sprintf("the builder failed with exit code %d", e.Code) }

// patience is how long a cancelled build may take to end.
const patience = 10 * time.Second

// Run runs a verb of the program with a request and reads the answer into
// result. The answer is read even where the program fails.
func Run(ctx context.Context, program, verb string, environ []string, s Streams, ask, result any) error {
	asked, ask1, err := os.Pipe()
	if err != nil {
		return err
	}
	defer ask1.Close()
	answered, answer1, err := os.Pipe()
	if err != nil {
		asked.Close()
		return err
	}
	defer answered.Close()

	cmd := exec.CommandContext(ctx, program, verb)
	cmd.Env = environ
	cmd.Stdin, cmd.Stdout, cmd.Stderr = s.In, s.Out, s.Err
	cmd.ExtraFiles = []*os.File{asked, answer1} // request.RequestFD and request.ResultFD
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = patience
	err = cmd.Start()
	asked.Close()
	answer1.Close()
	if err != nil {
		return fmt.Errorf("cannot start the builder %s: %w", program, err)
	}
	// The pipe stays open: its end tells the program that nobody waits any more.
	writeErr := make(chan error, 1)
	go func() { writeErr <- json.NewEncoder(ask1).Encode(ask) }()
	readErr := make(chan error, 1)
	go func() { readErr <- json.NewDecoder(answered).Decode(result) }()

	err = cmd.Wait()
	var exit *exec.ExitError
	switch {
	case errors.As(err, &exit):
		answered.Close()
		<-readErr
		if ws, ok := exit.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
			return ended(ctx, ws.Signal())
		}
		return ExitError{exit.ExitCode()}
	case err != nil && ctx.Err() == nil:
		return fmt.Errorf("cannot run the builder: %w", err)
	case ctx.Err() != nil:
		return context.Cause(ctx)
	}
	if err := <-readErr; err != nil {
		return fmt.Errorf("the builder gave no answer: %w", errors.Join(err, <-writeErr))
	}
	return nil
}

// ended is the error of a program that a signal ended. It takes up its signals only
// after its large libraries have initialised, so that a build that is given up early
// ends like this too.
func ended(ctx context.Context, signal syscall.Signal) error {
	switch signal {
	case syscall.SIGINT, syscall.SIGHUP, syscall.SIGPIPE:
		// From the terminal, or for want of one: the user knows.
		return ExitError{128 + int(signal)}
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	hint := ""
	if signal == syscall.SIGKILL {
		hint = "; where nobody has sent it, memory ran out: see the kernel's log (dmesg)"
	}
	return fmt.Errorf("the builder was ended by signal %d (%s)%s", signal, signal, hint)
}
