package logs

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// A pump that is killed again and again under a writer at full speed stores
// each line exactly once and in order, while a follower reads along.
func TestKilledPump(t *testing.T) {
	const n = 600_000
	run, dir := t.TempDir(), filepath.Join(t.TempDir(), "log")
	if err := NewFIFOs(run); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	// What the guardian does: keep the FIFOs' content.
	for _, name := range []string{StdoutFIFO, StderrFIFO} {
		f, err := OpenFIFO(filepath.Join(run, name))
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
	}
	follower := make(chan error, 1)
	checker := newNumbers(n)
	go func() {
		r, err := Open(dir)
		if err == nil {
			err = r.Read(t.Context(), ReadOptions{Follow: true, UntilExit: true}, checker.take)
		}
		follower <- err
	}()

	writer := child(t, "writer", nil, run, fmt.Sprint(n))
	written := make(chan error, 1)
	go func() { written <- writer.Wait() }()
	kills := 0
	for running := true; running || kills < 30; kills++ {
		up, theirs, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		pump := child(t, "pump", []*os.File{theirs}, run, dir, "3000000")
		theirs.Close()
		io.ReadAll(up)
		up.Close()
		select {
		case err := <-written:
			if err != nil {
				t.Fatal(err)
			}
			written, running = nil, false
		case <-time.After(rand.N(20 * time.Millisecond)): // the moment of the kill is arbitrary
		}
		pump.Process.Kill()
		pump.Wait()
	}
	t.Logf("%d kills", kills)

	x := &pumped{dir: dir, run: run}
	x.start(t, Budget{MaxSize: 3_000_000, MaxFiles: 1 << 30}, true)
	x.drain(t)
	if err := <-follower; err != nil {
		t.Fatal("follower:", err)
	}
	checker.complete(t)
	again := newNumbers(n)
	r, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Read(t.Context(), ReadOptions{}, again.take); err != nil {
		t.Fatal(err)
	}
	again.complete(t)
}

// numbers checks the writer's lines.
type numbers struct {
	n    int
	next [2]int
	seen int
}

func newNumbers(n int) *numbers { return &numbers{n: n, next: [2]int{0, 3}} }

func (x *numbers) take(e Entry) error {
	if e.Partial {
		return fmt.Errorf("partial line %.80q", e.Data)
	}
	want := x.next[e.Stream]
	text := fmt.Sprintf("line %d %0*d", want, want%300, want)
	if string(e.Data) != text {
		return fmt.Errorf("%s has %.60q after %d lines, not %.60q", e.Stream, e.Data, x.seen, text)
	}
	x.seen++
	for x.next[e.Stream]++; (x.next[e.Stream]%7 == 3) != (e.Stream == Stderr); {
		x.next[e.Stream]++
	}
	return nil
}

func (x *numbers) complete(t *testing.T) {
	t.Helper()
	if x.seen != x.n {
		t.Errorf("%d lines of %d", x.seen, x.n)
	}
}

// A terminal's output passes through a FIFO that outlives the pump.
func TestKilledTTYPump(t *testing.T) {
	const n = 60_000
	run, dir := t.TempDir(), filepath.Join(t.TempDir(), "log")
	if err := NewFIFOs(run); err != nil {
		t.Fatal(err)
	}
	via, err := OpenFIFO(filepath.Join(run, StdoutFIFO))
	if err != nil {
		t.Fatal(err)
	}
	defer via.Close()
	master, slave := openPTY(t)
	go func() {
		for i := range n {
			fmt.Fprintf(slave, "line %d\n", i)
		}
		slave.Close()
	}()
	stop := make(chan struct{})
	time.AfterFunc(600*time.Millisecond, func() { close(stop) })
	kills := 0
loop:
	for {
		up, theirs, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		pump := child(t, "tty-pump", []*os.File{theirs, master}, run, dir)
		theirs.Close()
		io.ReadAll(up)
		up.Close()
		select {
		case <-stop:
			pump.Process.Kill()
			pump.Wait()
			break loop
		case <-time.After(rand.N(10 * time.Millisecond)):
		}
		pump.Process.Kill()
		pump.Wait()
		kills++
	}
	t.Logf("%d kills", kills)
	p, err := StartPump(t.Context(), PumpConfig{Dir: dir, TTY: master, Stdout: via, Adopt: true})
	if err != nil {
		t.Fatal(err)
	}
	// The writer may still be at it; its end of file is the last line's arrival.
	r, _ := Open(dir)
	i := 0
	last := fmt.Errorf("last")
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	err = r.Read(ctx, ReadOptions{Follow: true}, func(e Entry) error {
		if got, want := string(e.Data), fmt.Sprintf("line %d\r", i); got != want {
			return fmt.Errorf("%.80q, not %q", got, want)
		}
		if i++; i == n {
			return last
		}
		return nil
	})
	if err != last {
		t.Error(err)
	}
	if err := p.Drain(t.Context()); err != nil {
		t.Error(err)
	}
}

func ttyPumpMain() {
	via, err := OpenFIFO(filepath.Join(os.Args[1], StdoutFIFO))
	check(err)
	master := os.NewFile(4, "ptmx")
	_, err = StartPump(context.Background(), PumpConfig{Dir: os.Args[2], TTY: master, Stdout: via, Adopt: true})
	check(err)
	unix.Close(3)
	select {}
}

func openPTY(t *testing.T) (master, slave *os.File) {
	t.Helper()
	fd, err := unix.Open("/dev/ptmx", unix.O_RDWR|unix.O_NOCTTY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	s, err := unix.Open(fmt.Sprintf("/dev/pts/%d", n), unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	master, slave = os.NewFile(uintptr(fd), "ptmx"), os.NewFile(uintptr(s), "pts")
	t.Cleanup(func() { master.Close(); slave.Close() })
	return master, slave
}
