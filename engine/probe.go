package engine

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"regexp"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/stack-run/stack/engine/logs"
	"github.com/stack-run/stack/engine/runtime"
	"github.com/stack-run/stack/healthcheck"
	"github.com/stack-run/stack/healthcheck/health"
	"github.com/stack-run/stack/netns"
)

// Prober returns what probes a running container's health. wake, if any, tells that
// what is probed for has happened. What it needs for that ends with ctx.
func (e *Engine) Prober(ctx context.Context, c *Container, check *healthcheck.Spec) (probe healthcheck.Probe, wake <-chan struct{}) {
	if !check.Direct() {
		return func(ctx context.Context) healthcheck.Result { return e.probeByCommand(ctx, c, check) }, nil
	}
	what := check.Test[1]
	var ask func(context.Context) (string, error)
	switch check.Test[0] {
	case health.HTTP:
		ask = func(ctx context.Context) (string, error) { return askHTTP(ctx, c, what) }
	case health.TCP:
		ask = func(ctx context.Context) (string, error) { return askTCP(ctx, c, what) }
	case health.File:
		ask = (&filePoll{c: c, path: what}).ask
	default:
		w := e.watchLog(ctx, c, what)
		ask, wake = w.ask, w.wake
	}
	return func(ctx context.Context) healthcheck.Result {
		res := healthcheck.Result{Start: time.Now().UTC()}
		output, err := ask(ctx)
		res.End, res.Output = time.Now().UTC(), output
		if err != nil {
			res.ExitCode, res.Output = 1, err.Error()
		}
		return res
	}, wake
}

// probeByCommand runs a health check's command.
func (e *Engine) probeByCommand(ctx context.Context, c *Container, check *healthcheck.Spec) healthcheck.Result {
	res := healthcheck.Result{Start: time.Now().UTC()}
	var shell []string
	if img, err := e.resolve(context.Background(), c.Spec); err == nil {
		shell = img.Config.Config.Shell
	}
	out, code, err := e.ExecOutput(ctx, c, ExecRequest{Process: Process{Command: check.Command(shell)}})
	res.End, res.ExitCode, res.Output = time.Now().UTC(), code, string(out)
	if err != nil && ctx.Err() == nil {
		res.ExitCode, res.Output = -1, err.Error()
	}
	return res
}

// ofProcess opens a file below /proc of a container's first process, and not of one
// that has its pid since it ended.
func ofProcess(c *Container, name string, flags int) (*os.File, error) {
	f, err := os.OpenFile(fmt.Sprintf("/proc/%d/%s", c.State.Pid, name), flags, 0)
	if err != nil {
		return nil, fmt.Errorf("container %s has ended: %w", c.Spec.Name, err)
	}
	if st, err := runtime.ReadStat(c.State.Pid); err != nil || st.StartTicks != c.State.StartTicks {
		return nil, errors.Join(fmt.Errorf("container %s has ended", c.Spec.Name), f.Close())
	}
	return f, nil
}

// dialInside connects to HOST:PORT as the container's own processes would.
func dialInside(ctx context.Context, c *Container, to string) (net.Conn, error) {
	host, text, err := net.SplitHostPort(to)
	if err != nil {
		return nil, err
	}
	port, err := strconv.ParseUint(text, 10, 16)
	if err != nil {
		return nil, err
	}
	addresses := []netip.Addr{netip.AddrFrom4([4]byte{127, 0, 0, 1}), netip.IPv6Loopback()}
	if host != "localhost" {
		a, err := netip.ParseAddr(host)
		if err != nil {
			return nil, err
		}
		addresses = []netip.Addr{a}
	}
	ns, err := ofProcess(c, "ns/net", os.O_RDONLY)
	if err != nil {
		return nil, err
	}
	defer ns.Close()
	var first error
	for _, a := range addresses {
		conn, err := netns.Dial(ctx, ns, netip.AddrPortFrom(a, uint16(port)))
		if err == nil {
			return conn, nil
		}
		if first == nil {
			first = fmt.Errorf("cannot connect to %s: %w", to, err)
		}
	}
	return nil, first
}

func askTCP(ctx context.Context, c *Container, to string) (string, error) {
	conn, err := dialInside(ctx, c, to)
	if err != nil {
		return "", err
	}
	return to + " accepts connections", conn.Close()
}

// maxAnswer bounds what is read of an answer, bytes.
const maxAnswer = 64 << 10

// askHTTP asks for a URL. A redirection is an answer and is not followed, and whoever
// has the certificate of an https server is not asked for, as in Kubernetes' probes.
func askHTTP(ctx context.Context, c *Container, to string) (string, error) {
	answer, err := getInside(ctx, c, to)
	if err != nil {
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return "", fmt.Errorf("GET %s: %w", to, err)
	}
	return answer, nil
}

func getInside(ctx context.Context, c *Container, to string) (string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, to, nil)
	if err != nil {
		return "", err
	}
	req.Header.Set("User-Agent", "stack-healthcheck")
	req.Close = true
	host, port := req.URL.Hostname(), req.URL.Port()
	if port == "" {
		port = map[string]string{"http": "80", "https": "443"}[req.URL.Scheme]
	}
	raw, err := dialInside(ctx, c, net.JoinHostPort(host, port))
	if err != nil {
		return "", err
	}
	defer raw.Close()
	defer context.AfterFunc(ctx, func() { _ = raw.SetDeadline(time.Unix(1, 0)) })()
	conn := raw
	if req.URL.Scheme == "https" {
		conn = tls.Client(raw, &tls.Config{InsecureSkipVerify: true, ServerName: host}) //nolint:gosec // the container asks itself
	}
	if err := req.Write(conn); err != nil {
		return "", err
	}
	limited := &io.LimitedReader{R: conn, N: maxAnswer}
	answer := bufio.NewReader(limited)
	var res *http.Response
	for res == nil || res.StatusCode >= 100 && res.StatusCode < 200 { // RFC 9110, section 15.2
		if res, err = http.ReadResponse(answer, req); err != nil {
			if limited.N <= 0 {
				err = fmt.Errorf("the header of the answer is longer than %d KiB", maxAnswer>>10)
			}
			return "", err
		}
	}
	if res.StatusCode >= 200 && res.StatusCode < 400 {
		return fmt.Sprintf("GET %s: %s", to, res.Status), nil
	}
	// What comes of it is worth telling; that the rest does not come is not.
	body, _ := io.ReadAll(io.LimitReader(res.Body, health.MaxOutput))
	return "", fmt.Errorf("%s: %s", res.Status, strings.TrimSpace(string(body)))
}

// filePoll looks for a file in a container. A file system that does not answer (FUSE,
// NFS) is asked once at a time.
type filePoll struct {
	c       *Container
	path    string
	pending atomic.Bool
}

func (p *filePoll) ask(ctx context.Context) (string, error) {
	if !p.pending.CompareAndSwap(false, true) {
		return "", fmt.Errorf("the file system of %s has not answered yet", p.path)
	}
	found := make(chan error, 1)
	go func() {
		defer p.pending.Store(false)
		found <- p.look()
	}()
	select {
	case err := <-found:
		if err != nil {
			return "", err
		}
		return p.path + " is there", nil
	case <-ctx.Done():
		return "", fmt.Errorf("the file system of %s does not answer", p.path)
	}
}

func (p *filePoll) look() error {
	root, err := ofProcess(p.c, "root/.", unix.O_PATH|unix.O_DIRECTORY)
	if err != nil {
		return err
	}
	defer root.Close()
	fd, err := unix.Openat2(int(root.Fd()), strings.TrimPrefix(p.path, "/"), &unix.OpenHow{
		Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS,
	})
	if err != nil {
		return fmt.Errorf("%s: %w", p.path, err)
	}
	return unix.Close(fd)
}

// logWatch waits for a line of a container's log.
type logWatch struct {
	pattern *regexp.Regexp
	wake    chan struct{}
	seen    atomic.Bool
	failure atomic.Pointer[error]
}

// watchLog reads the log of a container's run until a line matches. One that has been
// healthy has printed it.
func (e *Engine) watchLog(ctx context.Context, c *Container, pattern string) *logWatch {
	w := &logWatch{wake: make(chan struct{}, 1)}
	var err error
	if w.pattern, err = regexp.Compile(pattern); err != nil { // an image's, which nobody has checked
		w.failure.Store(&err)
		return w
	}
	if c.State.Health == health.Healthy {
		w.seen.Store(true)
		return w
	}
	go func() {
		if err := w.read(ctx, e, c); err != nil && !w.seen.Load() && ctx.Err() == nil {
			w.failure.Store(&err)
		}
	}()
	return w
}

// errSeen ends the reading of a log.
var errSeen = errors.New("the line has been seen")

func (w *logWatch) read(ctx context.Context, e *Engine, c *Container) error {
	log, err := logs.Open(e.LogDir(c.ID))
	if err != nil {
		return err
	}
	defer log.Close()
	watcher, done, err := e.deliveries.watchers.Get()
	if err != nil {
		return err
	}
	defer done()
	return log.Read(ctx, logs.ReadOptions{From: logs.LastRun, Follow: true, UntilExit: true, Watcher: watcher}, func(x logs.Entry) error {
		if !w.pattern.Match(x.Data) {
			return nil
		}
		w.seen.Store(true)
		w.wake <- struct{}{}
		return errSeen
	})
}

func (w *logWatch) ask(context.Context) (string, error) {
	if w.seen.Load() {
		return "the log has a line like " + strconv.Quote(w.pattern.String()), nil
	}
	if err := w.failure.Load(); err != nil {
		return "", fmt.Errorf("cannot look into the log: %w", *err)
	}
	return "", fmt.Errorf("no line of the log is like %q yet", w.pattern)
}
