package driver

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/fluent/fluent-logger-golang/fluent"
	"github.com/tinylib/msgp/msgp"

	"github.com/stack-run/stack/engine/logs"
	"github.com/stack-run/stack/engine/logs/inotify"
)

// A source is a log that is written as a container would.
type source struct {
	dir      string
	pump     *logs.Pump
	out, err *os.File
	run      string
}

func newSource(t *testing.T) *source {
	t.Helper()
	s := &source{dir: filepath.Join(t.TempDir(), "log"), run: t.TempDir()}
	must(t, logs.NewFIFOs(s.run))
	return s
}

// start begins a run, or with adopt goes on with one.
func (s *source) start(t *testing.T, budget logs.Budget, adopt bool) {
	t.Helper()
	c := logs.PumpConfig{Dir: s.dir, Budget: budget, Adopt: adopt}
	var err error
	for _, x := range []struct {
		name     string
		end      **os.File
		writable **os.File
	}{{logs.StdoutFIFO, &c.Stdout, &s.out}, {logs.StderrFIFO, &c.Stderr, &s.err}} {
		*x.end, err = logs.OpenFIFO(filepath.Join(s.run, x.name))
		must(t, err)
		if *x.writable == nil {
			*x.writable, err = logs.OpenContainerEnd(filepath.Join(s.run, x.name))
			must(t, err)
		}
	}
	s.pump, err = logs.StartPump(t.Context(), c)
	must(t, err)
}

func (s *source) end(t *testing.T) {
	t.Helper()
	must(t, s.pump.Drain(t.Context()))
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// deliver opens a delivery of a log; options are NAME=VALUE, separated by blanks.
func (s *source) deliver(t *testing.T, driver, options string) (*Delivery, *receiver) {
	t.Helper()
	values := map[string]string{}
	for pair := range strings.FieldsSeq(options) {
		name, value, _ := strings.Cut(pair, "=")
		values[name] = value
	}
	how, _, err := Parse(driver, values)
	must(t, err)
	how.Target.pause, how.Target.pauses = 5*time.Millisecond, 20*time.Millisecond
	i := web()
	i.Config = values
	told := newReceiver()
	d, err := Open(Config{Dir: s.dir, Driver: how, Info: i, Watchers: &inotify.Shared{}, Tell: told.take})
	must(t, err)
	return d, told
}

// flush waits until all is sent.
func flush(t *testing.T, d *Delivery) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	d.Flush(ctx, 20*time.Second)
	if d.Behind() {
		t.Fatalf("not sent within the time: %d bytes", logs.Backlog(s(d), d.at))
	}
}

func s(d *Delivery) string { return d.c.Dir }

// A receiver collects what is sent to it.
type receiver struct {
	mu    sync.Mutex
	lines []string
	more  chan struct{} // closed and replaced with each
}

func newReceiver() *receiver { return &receiver{more: make(chan struct{})} }

func (r *receiver) take(line string) {
	r.mu.Lock()
	r.lines = append(r.lines, line)
	close(r.more)
	r.more = make(chan struct{})
	r.mu.Unlock()
}

func (r *receiver) count(part string) (n int) {
	for _, l := range r.all() {
		if strings.Contains(l, part) {
			n++
		}
	}
	return n
}

func (r *receiver) all() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.lines)
}

// until waits until something is true of what has come.
func (r *receiver) until(t *testing.T, what string, is func([]string) bool) []string {
	t.Helper()
	over := time.After(20 * time.Second)
	for {
		r.mu.Lock()
		lines, more := slices.Clone(r.lines), r.more
		r.mu.Unlock()
		if is(lines) {
			return lines
		}
		select {
		case <-more:
		case <-over:
			t.Fatalf("%s: %d lines, the last is %.100q", what, len(lines), last(lines))
		}
	}
}

func (r *receiver) untilHas(t *testing.T, part string) []string {
	t.Helper()
	return r.until(t, "waiting for "+part, func(lines []string) bool {
		return slices.ContainsFunc(lines, func(l string) bool { return strings.Contains(l, part) })
	})
}

func last(lines []string) string {
	if len(lines) == 0 {
		return ""
	}
	return lines[len(lines)-1]
}

// server is a stream receiver that can be killed.
type server struct {
	*receiver
	l     net.Listener
	mu    sync.Mutex
	conns []net.Conn
	done  sync.WaitGroup
}

// listen serves each connection with read, which gives lines.
func listen(t *testing.T, network, address string, r *receiver, read func(net.Conn, func(string)) error) *server {
	t.Helper()
	l, err := net.Listen(network, address)
	must(t, err)
	x := &server{receiver: r, l: l}
	x.done.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			x.mu.Lock()
			x.conns = append(x.conns, c)
			x.mu.Unlock()
			x.done.Go(func() { read(c, r.take) })
		}
	})
	t.Cleanup(x.kill)
	return x
}

// kill ends all at once, as the end of a process does.
func (x *server) kill() {
	x.l.Close()
	x.mu.Lock()
	for _, c := range x.conns {
		c.Close()
	}
	x.mu.Unlock()
	x.done.Wait()
}

func readLines(c net.Conn, take func(string)) error {
	b := bufio.NewReader(c)
	for {
		line, err := b.ReadString('\n')
		if err != nil {
			return err
		}
		take(strings.TrimSuffix(line, "\n"))
	}
}

// readForward reads messages of the Forward protocol and acknowledges them.
func readForward(c net.Conn, take func(string)) error {
	r, w := msgp.NewReader(c), msgp.NewWriter(c)
	for {
		var m fluent.Message
		if err := m.DecodeMsg(r); err != nil {
			return err
		}
		take(fmt.Sprint(m.Record.(map[string]any)["log"]))
		if id := m.Option["chunk"]; id != "" {
			if err := errors.Join((&fluent.AckResp{Ack: id}).EncodeMsg(w), w.Flush()); err != nil {
				return err
			}
		}
	}
}

// numbered checks that the lines "N …" from 0 on are all there, and returns how often one
// came again.
func numbered(t *testing.T, lines []string, n int) (again, lost int) {
	t.Helper()
	seen := make([]int, n)
	for _, l := range lines {
		at := strings.LastIndex(l, "number ")
		if at < 0 {
			continue
		}
		var i int
		if _, err := fmt.Sscanf(l[at:], "number %d.", &i); err != nil || i < 0 || i >= n {
			t.Errorf("not a line of ours: %q", l)
			continue
		}
		seen[i]++
	}
	for _, k := range seen {
		again += max(0, k-1)
		if k == 0 {
			lost++
		}
	}
	return again, lost
}

func numbers(from, to int) string {
	var b strings.Builder
	for i := from; i < to; i++ {
		fmt.Fprintf(&b, "number %d.\n", i)
	}
	return b.String()
}

func TestStreamsOfLines(t *testing.T) {
	x := newSource(t)
	r := newReceiver()
	srv := listen(t, "tcp", "127.0.0.1:0", r, readLines)
	d, told := x.deliver(t, "syslog", "syslog-address=tcp://"+srv.l.Addr().String()+" tag={{.Name}}")
	x.start(t, logs.Budget{}, false)
	d.Start()
	fmt.Fprint(x.out, "one\n\ntwo")
	fmt.Fprint(x.err, "bad\n")
	r.untilHas(t, "bad")
	fmt.Fprint(x.out, " three\nunfinished")
	x.end(t)
	flush(t, d)
	r.untilHas(t, "unfinished")
	var got []string
	for _, l := range r.all() {
		pri, rest, _ := strings.Cut(l, ">")
		_, text, _ := strings.Cut(rest, "shop-web-1")
		got = append(got, pri+" "+text)
	}
	pid := fmt.Sprintf("[%d]: ", os.Getpid())
	slices.Sort(got)
	if want := []string{"<27 " + pid + "bad", "<30 " + pid + "one", "<30 " + pid + "two three", "<30 " + pid + "unfinished"}; !slices.Equal(got, want) {
		t.Errorf("%q", got)
	}
	d.Stop()
	if len(told.all()) > 0 {
		t.Errorf("%q", told.all())
	}
}

// A receiver that comes late gets all, the user is told once, and the container is not
// held up.
func TestReceiverComesLate(t *testing.T) {
	x := newSource(t)
	socket := filepath.Join(t.TempDir(), "s")
	d, told := x.deliver(t, "syslog", "syslog-address=unix://"+socket)
	x.start(t, logs.Budget{}, false)
	d.Start()
	const n = 50_000
	fmt.Fprint(x.out, numbers(0, n))
	x.end(t)
	if !d.Behind() {
		t.Error("nobody took it, and it is sent")
	}
	told.untilHas(t, "cannot send")
	r := newReceiver()
	listen(t, "unix", socket, r, readLines)
	flush(t, d)
	lines := r.untilHas(t, fmt.Sprintf("number %d.", n-1))
	if again, lost := numbered(t, lines, n); again+lost > 0 {
		t.Errorf("%d lines came twice, %d never", again, lost)
	}
	d.Stop()
	if told.count("cannot send the log of container shop-web-1 to syslog at unix:") != 1 || len(told.all()) != 1 {
		t.Errorf("%q", told.all())
	}
}

// Receivers die and come back while the container prints.
func TestReceiverDies(t *testing.T) {
	const n, part, deaths = 40_000, 5_000, 4
	for _, c := range []struct {
		name, driver, network, options string
		read                           func(net.Conn, func(string)) error
		loses                          int // lines at each death, which were read, or in the kernel's buffer
	}{
		{"syslog over a unix socket", "syslog", "unix", "syslog-address=unix://%s", readLines, 4096 / len("<30>")},
		{"syslog over TCP", "syslog", "tcp", "syslog-address=tcp://%s", readLines, n},
		{"GELF over TCP", "gelf", "tcp", "gelf-address=tcp://%s", func(c net.Conn, take func(string)) error {
			b := bufio.NewReader(c)
			for {
				m, err := b.ReadString(0)
				if err != nil {
					return err
				}
				_, text, _ := strings.Cut(m, `"short_message":"`)
				text, _, _ = strings.Cut(text, `"`)
				take(text)
			}
		}, n},
		{"fluentd over TCP", "fluentd", "tcp", "fluentd-address=tcp://%s", readForward, n},
		{"fluentd with acknowledgements", "fluentd", "tcp", "fluentd-address=tcp://%s fluentd-request-ack=true", readForward, 0},
		{"fluentd with acknowledgements over a unix socket", "fluentd", "unix", "fluentd-address=unix://%s fluentd-request-ack=true", readForward, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			x := newSource(t)
			r := newReceiver()
			address := "127.0.0.1:0"
			if c.network == "unix" {
				address = filepath.Join(t.TempDir(), "s")
			}
			srv := listen(t, c.network, address, r, c.read)
			address = srv.l.Addr().String()
			d, _ := x.deliver(t, c.driver, fmt.Sprintf(c.options, address))
			x.start(t, logs.Budget{}, false)
			d.Start()
			printed := make(chan error, 1)
			go func() {
				for i := 0; i < n; i += part {
					if _, err := io.WriteString(x.out, numbers(i, i+part)); err != nil {
						printed <- err
						return
					}
				}
				printed <- nil
			}()
			for k := range deaths {
				r.until(t, "under load", func(l []string) bool { return len(l) > (k+1)*n/8 })
				srv.kill()
				srv = listen(t, c.network, address, r, c.read)
			}
			must(t, <-printed)
			x.end(t)
			flush(t, d)
			lines := r.untilHas(t, fmt.Sprintf("number %d.", n-1))
			again, lost := numbered(t, lines, n)
			t.Logf("%d deaths: %d of %d lines came twice, %d never", deaths, again, n, lost)
			if lost > c.loses*deaths {
				t.Errorf("%d lines never came", lost)
			}
			d.Stop()
		})
	}
}

// Our own process dies and its successor goes on at the bookmark.
func TestDeliveryGoesOn(t *testing.T) {
	const n = 50_000
	x := newSource(t)
	r := newReceiver()
	srv := listen(t, "tcp", "127.0.0.1:0", r, readLines)
	options := "syslog-address=tcp://" + srv.l.Addr().String()
	d, _ := x.deliver(t, "syslog", options)
	x.start(t, logs.Budget{}, false)
	d.Start()
	go io.WriteString(x.out, numbers(0, n))
	for k := range 5 {
		r.until(t, "under load", func(l []string) bool { return len(l) > (k+1)*n/8 })
		d.Stop()
		x.pump.Close()
		d, _ = x.deliver(t, "syslog", options)
		x.start(t, logs.Budget{}, true)
		d.Start()
	}
	lines := r.untilHas(t, fmt.Sprintf("number %d.", n-1))
	x.end(t)
	flush(t, d)
	d.Stop()
	if again, lost := numbered(t, lines, n); again+lost > 0 {
		t.Errorf("%d lines came twice, %d never", again, lost)
	}
}

// What a log has no room for before it is sent is told.
func TestDeletedBeforeItIsSent(t *testing.T) {
	x := newSource(t)
	socket := filepath.Join(t.TempDir(), "s")
	d, told := x.deliver(t, "syslog", "syslog-address=unix://"+socket)
	x.start(t, logs.Budget{MaxSize: 256 << 10, MaxFiles: 2}, false)
	d.Start()
	const n = 200_000
	fmt.Fprint(x.out, numbers(0, n))
	r := newReceiver()
	listen(t, "unix", socket, r, readLines)
	x.end(t)
	flush(t, d)
	r.untilHas(t, fmt.Sprintf("number %d.", n-1))
	d.Stop()
	if _, lost := numbered(t, r.all(), n); lost == 0 || told.count("they were deleted from its log before") != 1 {
		t.Errorf("%d lines never came; told: %q", lost, told.all())
	}
}

func TestMaxBufferSize(t *testing.T) {
	x := newSource(t)
	socket := filepath.Join(t.TempDir(), "s")
	d, told := x.deliver(t, "syslog", "syslog-address=unix://"+socket+" mode=non-blocking max-buffer-size=64k")
	x.start(t, logs.Budget{}, false)
	d.Start()
	const n = 100_000
	fmt.Fprint(x.out, numbers(0, n))
	x.end(t)
	told.untilHas(t, "cannot send")
	r := newReceiver()
	listen(t, "unix", socket, r, readLines)
	flush(t, d)
	lines := r.untilHas(t, fmt.Sprintf("number %d.", n-1))
	d.Stop()
	if told.count("more than max-buffer-size waited") == 0 {
		t.Errorf("told: %q", told.all())
	}
	if _, lost := numbered(t, lines, n); lost < n/2 {
		t.Errorf("only %d lines of %d were left out", lost, n)
	}
}

// A container's earlier lines were not meant for a receiver that it got later.
func TestEarlierLinesAreNotSent(t *testing.T) {
	x := newSource(t)
	x.start(t, logs.Budget{}, false)
	fmt.Fprint(x.out, "before\n")
	x.end(t)
	r := newReceiver()
	srv := listen(t, "tcp", "127.0.0.1:0", r, readLines)
	d, _ := x.deliver(t, "syslog", "syslog-address=tcp://"+srv.l.Addr().String())
	x.start(t, logs.Budget{}, false)
	d.Start()
	fmt.Fprint(x.out, "after\n")
	if lines := r.untilHas(t, "after"); len(lines) != 1 {
		t.Errorf("%q", lines)
	}
	x.end(t)
	d.Stop()
}

// A log that is removed is sent before, as far as it is taken.
func TestFinish(t *testing.T) {
	for _, there := range []bool{true, false} {
		x := newSource(t)
		r := newReceiver()
		socket := filepath.Join(t.TempDir(), "s")
		if there {
			listen(t, "unix", socket, r, readLines)
		}
		d, told := x.deliver(t, "syslog", "syslog-address=unix://"+socket)
		x.start(t, logs.Budget{}, false)
		d.Start()
		fmt.Fprint(x.out, "the end\n")
		x.end(t)
		start := time.Now()
		d.Finish(t.Context())
		if there {
			r.untilHas(t, "the end")
		} else if took := time.Since(start); took > 2*time.Second || told.count("is removed before the last 8 bytes") != 1 {
			t.Errorf("after %v: %q", took, told.all())
		}
	}
}

// Both streams and long lines, with the bookmark in the midst of everything.
func TestBookmarkInLongLines(t *testing.T) {
	x := newSource(t)
	r := newReceiver()
	srv := listen(t, "tcp", "127.0.0.1:0", r, readForward)
	options := "fluentd-address=tcp://" + srv.l.Addr().String()
	d, _ := x.deliver(t, "fluentd", options)
	x.start(t, logs.Budget{}, false)
	d.Start()
	fmt.Fprint(x.err, "head of a line ")
	fmt.Fprint(x.out, strings.Repeat("x", 40_000), "\n")
	r.until(t, "pieces", func(l []string) bool { return len(l) == 3 })
	flush(t, d)
	d.Stop()
	d, _ = x.deliver(t, "fluentd", options)
	d.Start()
	fmt.Fprint(x.err, "and its end\n")
	lines := r.untilHas(t, "its end")
	if len(lines) != 4 || lines[3] != "head of a line and its end" || strings.Join(lines[:3], "") != strings.Repeat("x", 40_000) {
		t.Errorf("%d lines, the last is %q", len(lines), last(lines))
	}
	x.end(t)
	d.Stop()
}
