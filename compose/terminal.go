package compose

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/signal"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/stack-run/stack/compose/supervise"
	"github.com/stack-run/stack/engine"
)

// errDetached says that the user pressed the detach keys.
var errDetached = errors.New("detached")

// defaultDetachKeys is Docker's ctrl-p,ctrl-q.
const defaultDetachKeys = "ctrl-p,ctrl-q"

// parseKeys reads "ctrl-p,ctrl-q" or "a": the bytes a terminal sends for it.
func parseKeys(s string) ([]byte, error) {
	if s == "" {
		s = defaultDetachKeys
	}
	var out []byte
	for _, key := range strings.Split(s, ",") {
		rest, ctrl := strings.CutPrefix(key, "ctrl-")
		if len(rest) != 1 {
			return nil, fmt.Errorf("cannot read detach keys %q: want single characters or ctrl-x, separated by commas", s)
		}
		b := rest[0]
		if ctrl {
			switch {
			case b >= 'a' && b <= 'z':
				b = b - 'a' + 1
			case b >= '@' && b <= '_':
				b -= '@'
			default:
				return nil, fmt.Errorf("cannot read detach keys %q: ctrl-%c does not exist", s, b)
			}
		}
		out = append(out, b)
	}
	return out, nil
}

// keyReader passes on what it reads until the detach keys appear in a row. Keys
// that begin the sequence are held back until it is clear that they do not.
type keyReader struct {
	r    io.Reader
	keys []byte
	held int // how many of keys were seen
	out  []byte
	done bool // the keys were seen
}

func (k *keyReader) Read(p []byte) (int, error) {
	for len(k.out) == 0 {
		if k.done {
			return 0, errDetached
		}
		buf := make([]byte, 4096)
		n, err := k.r.Read(buf)
		for _, b := range buf[:n] {
			if b == k.keys[k.held] {
				if k.held++; k.held == len(k.keys) {
					k.done = true
					break
				}
				continue
			}
			k.out = append(k.out, k.keys[:k.held]...)
			k.held = 0
			if b == k.keys[0] {
				k.held = 1
				continue
			}
			k.out = append(k.out, b)
		}
		if err != nil && len(k.out) == 0 && !k.done {
			return 0, err
		}
	}
	n := copy(p, k.out)
	k.out = k.out[n:]
	return n, nil
}

// resizes keeps the console's size that of the user's terminal, until stop, after
// which neither is touched.
func resizes(terminal, console *os.File) (stop func()) {
	set := func() {
		if ws, err := unix.IoctlGetWinsize(int(terminal.Fd()), unix.TIOCGWINSZ); err == nil {
			unix.IoctlSetWinsize(int(console.Fd()), unix.TIOCSWINSZ, ws)
		}
	}
	set()
	changed := make(chan os.Signal, 1)
	signal.Notify(changed, unix.SIGWINCH)
	over := make(chan struct{})
	go func() {
		defer close(over)
		for range changed {
			set()
		}
	}()
	return func() {
		signal.Stop(changed)
		close(changed)
		<-over
	}
}

// terminalSize is the size of a terminal, nil where f is none.
func terminalSize(f *os.File) *unix.Winsize {
	if f == nil {
		return nil
	}
	ws, err := unix.IoctlGetWinsize(int(f.Fd()), unix.TIOCGWINSZ)
	if err != nil {
		return nil
	}
	return ws
}

// impatient is how many SIGINT or SIGTERM say that the user wants to leave,
// whatever the container makes of them. It is docker's number.
const impatient = 3

// forwardSignals passes the signals this process gets on to send, one after the
// other, until stop. leave, if set, is called when they are not heeded.
func forwardSignals(send func(unix.Signal), leave func()) (stop func()) {
	signals := make(chan os.Signal, 16)
	signal.Notify(signals, unix.SIGINT, unix.SIGTERM, unix.SIGHUP, unix.SIGQUIT, unix.SIGUSR1, unix.SIGUSR2)
	queue := make(chan unix.Signal, 16)
	go func() {
		for sig := range queue {
			send(sig)
		}
	}()
	go func() {
		defer close(queue)
		ends := 0
		for s := range signals {
			sig, ok := s.(unix.Signal)
			if !ok {
				continue
			}
			if sig == unix.SIGINT || sig == unix.SIGTERM {
				if ends++; ends == impatient && leave != nil {
					leave()
				}
			}
			select {
			case queue <- sig:
			default: // the first sixteen have not got through
			}
		}
	}()
	return func() {
		signal.Stop(signals)
		close(signals)
	}
}

// Exec runs a command in a running container and returns its exit code. The
// command is this process' child: no supervisor is involved, unless it is to go
// on alone.
func (c *Client) Exec(ctx context.Context, container string, o ExecOptions) (int, error) {
	r, err := c.find(ctx, container)
	if err != nil {
		return 1, err
	}
	o.Process.Entrypoint, o.Process.Command = []string{}, o.Command
	id := engine.NewID()
	told := make(chan struct{}) // beside the work: telling takes a tenth of the time
	go func() {
		defer close(told)
		c.execEvent(r, "exec_create: "+strings.Join(o.Command, " "), id, nil)
		c.execEvent(r, "exec_start: "+strings.Join(o.Command, " "), id, nil)
	}()
	var code int
	if o.Detach {
		code, err = c.execDetached(ctx, r, o, id)
	} else {
		code, err = c.exec(ctx, r, o)
	}
	<-told
	if !o.Detach {
		c.execEvent(r, "exec_die", id, map[string]string{"exitCode": fmt.Sprint(code)})
	}
	return code, err
}

// execExitCode is what "docker exec" ends with: 126 and 127 speak of the command, as
// with a start, and all else is a plain 1.
func execExitCode(err error) int {
	for _, code := range []int{engine.StartExitCode(err), exitCode(err)} { // here, or a supervisor's
		if code == 126 || code == 127 {
			return code
		}
	}
	return 1
}

// execEvent adds to the project's event log. Exec needs no supervisor, so it
// tells of itself; where nobody keeps a log, there is nothing to tell.
func (c *Client) execEvent(r *engine.Container, action, id string, extra map[string]string) {
	attrs := map[string]string{"execID": id}
	maps.Copy(attrs, extra)
	supervise.AppendEvent(c.projectDir(r.Project), r, action, attrs)
}

// execDetached has the supervisor start a command.
func (c *Client) execDetached(ctx context.Context, r *engine.Container, o ExecOptions, id string) (int, error) {
	if err := c.Engine.CheckExec(r); err != nil {
		return 1, err // there may be no supervisor, and no need for one
	}
	err := c.call(ctx, r.Project, "exec", supervise.ExecRequest{ID: r.ID, Process: o.Process, Privileged: o.Privileged, ExecID: id}, nil, nil)
	if err == nil {
		return 0, nil
	}
	return execExitCode(err), err
}

func (c *Client) exec(ctx context.Context, r *engine.Container, o ExecOptions) (int, error) {
	req := engine.ExecRequest{Process: o.Process, Privileged: o.Privileged}
	if o.Process.TTY {
		return c.execTTY(ctx, r, req, o)
	}
	pipes, err := plumb(o)
	if err != nil {
		return 1, err
	}
	defer pipes.abort()
	req.Stdin, req.Stdout, req.Stderr = pipes.stdin, pipes.stdout, pipes.stderr
	x, err := c.Engine.Exec(ctx, r, req)
	if err != nil {
		return execExitCode(err), err
	}
	defer x.Close()
	pipes.started()
	stop := forwardSignals(func(sig unix.Signal) {
		if sig != unix.SIGUSR1 && sig != unix.SIGUSR2 && x.Frozen() {
			c.Engine.Warnf("container %s is paused and hears no signal, so the command was killed", r.Spec.Name)
			x.Kill()
			return
		}
		x.Signal(sig)
	}, nil)
	defer stop()
	code, err := x.Wait()
	pipes.finish()
	return code, err
}

func (c *Client) execTTY(ctx context.Context, r *engine.Container, req engine.ExecRequest, o ExecOptions) (int, error) {
	keys, err := parseKeys(o.DetachKeys)
	if err != nil {
		return 1, err
	}
	req.Size = terminalSize(o.Stdout)
	x, err := c.Engine.Exec(ctx, r, req)
	if err != nil {
		return execExitCode(err), err
	}
	defer x.Close()
	console, err := pollable(x.Console())
	if err != nil {
		return 1, err
	}
	defer console.Close()
	if o.Stdout != nil && terminalSize(o.Stdout) != nil {
		defer resizes(o.Stdout, console)()
	}
	detach := make(chan struct{})
	if o.Stdin != nil {
		go func() {
			if _, err := io.Copy(console, &keyReader{r: o.Stdin, keys: keys}); errors.Is(err, errDetached) {
				close(detach)
			}
		}()
	}
	output := make(chan struct{})
	go func() {
		defer close(output)
		io.Copy(o.Stdout, console) // EIO when the last process closed the terminal
	}()
	type result struct {
		code int
		err  error
	}
	ended := make(chan result, 1)
	go func() {
		code, err := x.Wait()
		ended <- result{code, err}
	}()
	select {
	case <-detach:
		return 0, nil
	case res := <-ended:
		// What was printed is read; a background process that keeps the terminal
		// open is not waited for.
		console.SetReadDeadline(time.Now().Add(hangUp))
		<-output
		return res.code, res.err
	}
}

// hangUp is how long a terminal is read after its command has ended.
const hangUp = 50 * time.Millisecond

// pollable duplicates f so that reads of it can have a deadline.
func pollable(f *os.File) (*os.File, error) {
	fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	if err := unix.SetNonblock(fd, true); err != nil {
		unix.Close(fd)
		return nil, err
	}
	return os.NewFile(uintptr(fd), f.Name()), nil
}

// plumbing connects a command's streams. A pipe is handed over as it is. A
// terminal or a file is not: whoever has its descriptor in a container could
// push input into the terminal or open the file for writing, so its bytes go
// through a pipe.
type plumbing struct {
	stdin, stdout, stderr *os.File // the command's ends
	owned                 []*os.File
	ours                  []*os.File
	copies                []func()
	outputs               []chan struct{}
}

func plumb(o ExecOptions) (*plumbing, error) {
	p := &plumbing{}
	var err error
	if p.stdin, err = p.input(o.Stdin); err == nil {
		if p.stdout, err = p.output(o.Stdout); err == nil {
			if o.Stderr != nil && o.Stdout != nil && sameFile(o.Stderr, o.Stdout) && p.stdout != o.Stdout {
				p.stderr = p.stdout // one pipe keeps their order
			} else {
				p.stderr, err = p.output(o.Stderr)
			}
		}
	}
	if err != nil {
		p.abort()
		return nil, err
	}
	return p, nil
}

func sameFile(a, b *os.File) bool {
	x, err1 := a.Stat()
	y, err2 := b.Stat()
	return err1 == nil && err2 == nil && os.SameFile(x, y)
}

// harmless tells whether a descriptor can be handed to a container.
func harmless(f *os.File) bool {
	var st unix.Stat_t
	if unix.Fstat(int(f.Fd()), &st) != nil {
		return false
	}
	return st.Mode&unix.S_IFMT == unix.S_IFIFO
}

func (p *plumbing) input(f *os.File) (*os.File, error) {
	if f == nil {
		null, err := os.Open(os.DevNull)
		if err == nil {
			p.owned = append(p.owned, null)
		}
		return null, err
	}
	if harmless(f) {
		return f, nil
	}
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	p.owned, p.ours = append(p.owned, r), append(p.ours, w)
	p.copies = append(p.copies, func() {
		io.Copy(w, f)
		w.Close()
	})
	return r, nil
}

func (p *plumbing) output(f *os.File) (*os.File, error) {
	if f == nil {
		null, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
		if err == nil {
			p.owned = append(p.owned, null)
		}
		return null, err
	}
	if harmless(f) {
		return f, nil
	}
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	p.owned, p.ours = append(p.owned, w), append(p.ours, r)
	done := make(chan struct{})
	p.outputs = append(p.outputs, done)
	p.copies = append(p.copies, func() {
		io.Copy(f, r)
		close(done)
	})
	return w, nil
}

// started closes the command's ends on our side and begins to copy.
func (p *plumbing) started() {
	for _, f := range p.owned {
		f.Close()
	}
	p.owned = nil
	for _, c := range p.copies {
		go c()
	}
}

// finish waits until the output has been passed on. A process that the command
// left behind may keep the pipe open; it is waited for, as docker exec does.
func (p *plumbing) finish() {
	for _, done := range p.outputs {
		<-done
	}
}

func (p *plumbing) abort() {
	for _, f := range p.owned {
		f.Close()
	}
	for _, f := range p.ours {
		f.Close()
	}
	p.owned, p.ours = nil, nil
}
