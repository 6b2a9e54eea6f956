package driver

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stack-run/stack/e2e/receiver"
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
func (s *source) deliver(t *testing.T, driver, options string) (*Delivery, *receiver.Lines) {
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
	told := receiver.New()
	d, err := Open(Config{Dir: s.dir, Driver: how, Info: i, Watchers: &inotify.Shared{}, Tell: told.Take})
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
		t.Fatalf("not sent within the time: %d bytes", logs.Backlog(d.c.Dir, d.at))
	}
}

// listen serves until the test ends.
func listen(t *testing.T, network, address string, to *receiver.Lines, read receiver.Protocol) *receiver.Server {
	t.Helper()
	s, err := receiver.Listen(network, address, to, read)
	must(t, err)
	t.Cleanup(s.Kill)
	return s
}

func until(t *testing.T, x *receiver.Lines, is func([]string) bool) []string {
	t.Helper()
	lines, err := x.Until(is)
	must(t, err)
	return lines
}

func untilHas(t *testing.T, x *receiver.Lines, part string) []string {
	t.Helper()
	lines, err := x.UntilHas(part)
	must(t, err)
	return lines
}

func numbered(t *testing.T, lines []string, below int) (again, lost int) {
	t.Helper()
	again, lost, err := receiver.Numbered(lines, below)
	must(t, err)
	return again, lost
}

func TestStreamsOfLines(t *testing.T) {
	x := newSource(t)
	r := receiver.New()
	srv := listen(t, "tcp", "127.0.0.1:0", r, receiver.Syslog)
	d, told := x.deliver(t, "syslog", "syslog-address=tcp://"+srv.Address()+" tag={{.Name}}")
	x.start(t, logs.Budget{}, false)
	d.Start()
	fmt.Fprint(x.out, "one\n\ntwo")
	fmt.Fprint(x.err, "bad\n")
	untilHas(t, r, "bad")
	fmt.Fprint(x.out, " three\nunfinished")
	x.end(t)
	flush(t, d)
	untilHas(t, r, "unfinished")
	var got []string
	for _, l := range r.All() {
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
	if len(told.All()) > 0 {
		t.Errorf("%q", told.All())
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
	fmt.Fprint(x.out, receiver.Numbers(0, n))
	x.end(t)
	if !d.Behind() {
		t.Error("nobody took it, and it is sent")
	}
	untilHas(t, told, "cannot send")
	r := receiver.New()
	listen(t, "unix", socket, r, receiver.Syslog)
	flush(t, d)
	lines := untilHas(t, r, fmt.Sprintf("number %d.", n-1))
	if again, lost := numbered(t, lines, n); again+lost > 0 {
		t.Errorf("%d lines came twice, %d never", again, lost)
	}
	d.Stop()
	if told.Count("cannot send the log of container shop-web-1 to syslog at unix:") != 1 || len(told.All()) != 1 {
		t.Errorf("%q", told.All())
	}
}

// Receivers die and come back while the container prints.
func TestReceiverDies(t *testing.T) {
	const n, part, deaths = 40_000, 5_000, 4
	for _, c := range []struct {
		name, driver, network, options string
		read                           receiver.Protocol
		loses                          int // lines at each death, which were read, or in the kernel's buffer
	}{
		{"syslog over a unix socket", "syslog", "unix", "syslog-address=unix://%s", receiver.Syslog, 4096 / len("<30>")},
		{"syslog over TCP", "syslog", "tcp", "syslog-address=tcp://%s", receiver.Syslog, n},
		{"GELF over TCP", "gelf", "tcp", "gelf-address=tcp://%s", receiver.GELF, n},
		{"fluentd over TCP", "fluentd", "tcp", "fluentd-address=tcp://%s", receiver.Forward, n},
		{"fluentd with acknowledgements", "fluentd", "tcp", "fluentd-address=tcp://%s fluentd-request-ack=true", receiver.Forward, 0},
		{"fluentd with acknowledgements over a unix socket", "fluentd", "unix", "fluentd-address=unix://%s fluentd-request-ack=true", receiver.Forward, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			x := newSource(t)
			r := receiver.New()
			address := "127.0.0.1:0"
			if c.network == "unix" {
				address = filepath.Join(t.TempDir(), "s")
			}
			srv := listen(t, c.network, address, r, c.read)
			address = srv.Address()
			d, _ := x.deliver(t, c.driver, fmt.Sprintf(c.options, address))
			x.start(t, logs.Budget{}, false)
			d.Start()
			printed := make(chan error, 1)
			go func() {
				for i := 0; i < n; i += part {
					if _, err := io.WriteString(x.out, receiver.Numbers(i, i+part)); err != nil {
						printed <- err
						return
					}
				}
				printed <- nil
			}()
			for k := range deaths {
				until(t, r, func(l []string) bool { return len(l) > (k+1)*n/8 })
				srv.Kill()
				srv = listen(t, c.network, address, r, c.read)
			}
			must(t, <-printed)
			x.end(t)
			flush(t, d)
			lines := untilHas(t, r, fmt.Sprintf("number %d.", n-1))
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
	r := receiver.New()
	srv := listen(t, "tcp", "127.0.0.1:0", r, receiver.Syslog)
	options := "syslog-address=tcp://" + srv.Address()
	d, _ := x.deliver(t, "syslog", options)
	x.start(t, logs.Budget{}, false)
	d.Start()
	go io.WriteString(x.out, receiver.Numbers(0, n))
	for k := range 5 {
		until(t, r, func(l []string) bool { return len(l) > (k+1)*n/8 })
		d.Stop()
		x.pump.Close()
		d, _ = x.deliver(t, "syslog", options)
		x.start(t, logs.Budget{}, true)
		d.Start()
	}
	lines := untilHas(t, r, fmt.Sprintf("number %d.", n-1))
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
	fmt.Fprint(x.out, receiver.Numbers(0, n))
	r := receiver.New()
	listen(t, "unix", socket, r, receiver.Syslog)
	x.end(t)
	flush(t, d)
	untilHas(t, r, fmt.Sprintf("number %d.", n-1))
	d.Stop()
	if _, lost := numbered(t, r.All(), n); lost == 0 || told.Count("they were deleted from its log before") != 1 {
		t.Errorf("%d lines never came; told: %q", lost, told.All())
	}
}

func TestMaxBufferSize(t *testing.T) {
	x := newSource(t)
	socket := filepath.Join(t.TempDir(), "s")
	d, told := x.deliver(t, "syslog", "syslog-address=unix://"+socket+" mode=non-blocking max-buffer-size=64k")
	x.start(t, logs.Budget{}, false)
	d.Start()
	const n = 100_000
	fmt.Fprint(x.out, receiver.Numbers(0, n))
	x.end(t)
	untilHas(t, told, "cannot send")
	r := receiver.New()
	listen(t, "unix", socket, r, receiver.Syslog)
	flush(t, d)
	lines := untilHas(t, r, fmt.Sprintf("number %d.", n-1))
	d.Stop()
	if told.Count("more than max-buffer-size waited") == 0 {
		t.Errorf("told: %q", told.All())
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
	r := receiver.New()
	srv := listen(t, "tcp", "127.0.0.1:0", r, receiver.Syslog)
	d, _ := x.deliver(t, "syslog", "syslog-address=tcp://"+srv.Address())
	x.start(t, logs.Budget{}, false)
	d.Start()
	fmt.Fprint(x.out, "after\n")
	if lines := untilHas(t, r, "after"); len(lines) != 1 {
		t.Errorf("%q", lines)
	}
	x.end(t)
	d.Stop()
}

// A log that is removed is sent before, as far as it is taken.
func TestFinish(t *testing.T) {
	for _, there := range []bool{true, false} {
		x := newSource(t)
		r := receiver.New()
		socket := filepath.Join(t.TempDir(), "s")
		if there {
			listen(t, "unix", socket, r, receiver.Syslog)
		}
		d, told := x.deliver(t, "syslog", "syslog-address=unix://"+socket)
		x.start(t, logs.Budget{}, false)
		d.Start()
		fmt.Fprint(x.out, "the end\n")
		x.end(t)
		start := time.Now()
		d.Finish(t.Context())
		if there {
			untilHas(t, r, "the end")
		} else if took := time.Since(start); took > 2*time.Second || told.Count("is removed before the last 8 bytes") != 1 {
			t.Errorf("after %v: %q", took, told.All())
		}
	}
}

// Both streams and long lines, with the bookmark in the midst of everything.
func TestBookmarkInLongLines(t *testing.T) {
	x := newSource(t)
	r := receiver.New()
	srv := listen(t, "tcp", "127.0.0.1:0", r, receiver.Forward)
	options := "fluentd-address=tcp://" + srv.Address()
	d, _ := x.deliver(t, "fluentd", options)
	x.start(t, logs.Budget{}, false)
	d.Start()
	fmt.Fprint(x.err, "head of a line ")
	fmt.Fprint(x.out, strings.Repeat("x", 40_000), "\n")
	until(t, r, func(l []string) bool { return len(l) == 3 })
	flush(t, d)
	d.Stop()
	d, _ = x.deliver(t, "fluentd", options)
	d.Start()
	fmt.Fprint(x.err, "and its end\n")
	lines := untilHas(t, r, "its end")
	for i, l := range lines {
		lines[i] = strings.TrimPrefix(strings.TrimPrefix(l, "0123456789ab stdout "), "0123456789ab stderr ")
	}
	if len(lines) != 4 || lines[3] != "head of a line and its end" || strings.Join(lines[:3], "") != strings.Repeat("x", 40_000) {
		t.Errorf("%d lines, the last is %q", len(lines), lines[len(lines)-1])
	}
	x.end(t)
	d.Stop()
}
