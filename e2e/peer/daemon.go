package peer

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"
)

// daemon is a program that serves until it is closed.
type daemon struct {
	name  string
	cmd   *exec.Cmd
	ended chan struct{}
}

// startDaemon starts one that writes a line with text when it listens.
func startDaemon(ctx context.Context, name, text string, cmd *exec.Cmd) (*daemon, error) {
	out, in, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	cmd.Stdout, cmd.Stderr = in, in
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	d, err := launch(name, cmd)
	in.Close()
	if err != nil {
		out.Close()
		return nil, err
	}
	err = d.await(ctx, func() error {
		err := awaitLine(out, text)
		go func() {
			defer out.Close()
			io.Copy(io.Discard, out)
		}()
		return err
	})
	if err != nil {
		return nil, errors.Join(err, d.close())
	}
	return d, nil
}

// launch starts a daemon, which must not be a CommandContext: close ends it, in
// order.
func launch(name string, cmd *exec.Cmd) (*daemon, error) {
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("cannot start %s: %w", name, err)
	}
	d := &daemon{name: name, cmd: cmd, ended: make(chan struct{})}
	go func() {
		cmd.Wait()
		close(d.ended)
	}()
	return d, nil
}

// await waits until ready returns, which it does when the daemon is.
func (d *daemon) await(ctx context.Context, ready func() error) error {
	done := make(chan error, 1)
	go func() { done <- ready() }()
	var err error
	select {
	case err = <-done:
	case <-d.ended:
		select {
		case err = <-done: // knows why, from what the daemon has written
		case <-time.After(time.Second):
			err = fmt.Errorf("it ended: %v", d.cmd.ProcessState)
		}
	case <-time.After(time.Minute):
		err = errors.New("it was not ready after a minute")
	case <-ctx.Done():
		err = ctx.Err()
	}
	if err != nil {
		return fmt.Errorf("cannot start %s: %w", d.name, err)
	}
	return nil
}

func awaitLine(r io.Reader, text string) error {
	var all []byte
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		if strings.Contains(lines.Text(), text) {
			return nil
		}
		all = append(append(all, lines.Bytes()...), '\n')
	}
	return fmt.Errorf("it ended: %s", tail(all))
}

// close ends the daemon, if need be by SIGKILL after a minute.
func (d *daemon) close() error {
	if err := d.cmd.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("cannot stop %s: %w", d.name, err)
	}
	select {
	case <-d.ended:
	case <-time.After(time.Minute):
		d.cmd.Process.Kill()
		<-d.ended
	}
	return nil
}
