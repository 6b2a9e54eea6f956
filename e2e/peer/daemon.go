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

// startDaemon starts one that writes a line with text when it listens. It must not
// be a CommandContext: close ends it, in order.
func startDaemon(ctx context.Context, name, text string, cmd *exec.Cmd) (*daemon, error) {
	out, in, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	cmd.Stdout, cmd.Stderr = in, in
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	err = cmd.Start()
	in.Close()
	if err != nil {
		out.Close()
		return nil, fmt.Errorf("cannot start %s: %w", name, err)
	}
	d := &daemon{name: name, cmd: cmd, ended: make(chan struct{})}
	go func() {
		cmd.Wait()
		close(d.ended)
	}()
	ready := make(chan error, 1)
	go func() {
		defer out.Close()
		ready <- awaitLine(out, text)
		io.Copy(io.Discard, out)
	}()
	select {
	case err = <-ready:
	case <-time.After(time.Minute):
		err = errors.New("it did not listen after a minute")
	case <-ctx.Done():
		err = ctx.Err()
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("cannot start %s: %w", name, err), d.close())
	}
	return d, nil
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
