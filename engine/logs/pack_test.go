package logs

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stack-run/stack/internal/glob"
)

// A compressed log reads as any other, in all ways, also while it is compressed.
func TestCompressedLog(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "log")
	x := newPump(t, dir, Budget{MaxSize: 50_000, MaxFiles: 100})
	var want []string
	for i := range 30_000 {
		fmt.Fprintf(x.out, "line %d\n", i)
		want = append(want, fmt.Sprintf("out line %d", i))
	}
	x.drain(t)
	before := lines(t, dir, ReadOptions{Tail: 20_000})
	reading := make(chan []string)
	go func() { reading <- lines(t, dir, ReadOptions{}) }()
	if err := packAll(t.Context(), dir); err != nil {
		t.Fatal(err)
	}
	expect(t, <-reading, want...)
	expect(t, lines(t, dir, ReadOptions{}), want...)
	expect(t, lines(t, dir, ReadOptions{Tail: 20_000}), before...)
	list, err := segments(dir)
	if err != nil {
		t.Fatal(err)
	}
	packed, err := glob.In(dir, "*.out"+packedSuffix)
	if err != nil || len(packed) != len(list)-1 {
		t.Errorf("%d of %d segments are packed, %v", len(packed), len(list), err)
	}
	if got, size := Backlog(dir, Position{}), int64(len(strings.Join(want, "\n"))+1-len(want)*len("out ")); got != size {
		t.Errorf("its size is %d, not %d", got, size)
	}

	// A place in a packed segment is one, too.
	r, _ := Open(dir)
	enough := errors.New("enough")
	var at Position
	n := 0
	if err := r.Read(t.Context(), ReadOptions{}, func(e Entry) error {
		at = e.End
		if n++; n == 12_345 {
			return enough
		}
		return nil
	}); err != enough {
		t.Fatal(err)
	}
	expect(t, lines(t, dir, ReadOptions{After: &at}), want[12_345:]...)

	// What is deleted is deleted whole.
	if err := removeSegment(dir, list[0]); err != nil {
		t.Fatal(err)
	}
	if left, err := glob.In(dir, "00000001.*"); err != nil || len(left) > 0 {
		t.Errorf("%q, %v", left, err)
	}
}

// A pump compresses what it completes, and what was complete before.
func TestPumpCompresses(t *testing.T) {
	dir, run := filepath.Join(t.TempDir(), "log"), t.TempDir()
	if err := NewFIFOs(run); err != nil {
		t.Fatal(err)
	}
	start := func() (*Pump, *os.File) {
		t.Helper()
		c := PumpConfig{Dir: dir, Budget: Budget{MaxSize: 20_000, MaxFiles: 4}, Compress: true, Failed: func(err error) { t.Error(err) }}
		var err error
		if c.Stdout, err = OpenFIFO(filepath.Join(run, StdoutFIFO)); err != nil {
			t.Fatal(err)
		}
		if c.Stderr, err = OpenFIFO(filepath.Join(run, StderrFIFO)); err != nil {
			t.Fatal(err)
		}
		w, err := OpenContainerEnd(filepath.Join(run, StdoutFIFO))
		if err != nil {
			t.Fatal(err)
		}
		p, err := StartPump(t.Context(), c)
		if err != nil {
			t.Fatal(err)
		}
		return p, w
	}
	for range 2 {
		p, w := start()
		w.WriteString(strings.Repeat("one more line of the container\n", 10_000))
		if err := p.Drain(t.Context()); err != nil {
			t.Fatal(err)
		}
		w.Close()
	}
	p, w := start()
	defer w.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	for looked := time.NewTicker(5 * time.Millisecond); ; <-looked.C {
		raw, err := glob.In(dir, "*.out")
		if err != nil || ctx.Err() != nil {
			t.Fatalf("%q are not packed, %v", raw, err)
		}
		if len(raw) == 1 { // the current one
			break
		}
	}
	if err := p.Drain(t.Context()); err != nil {
		t.Fatal(err)
	}
	list, err := segments(dir)
	if err != nil || len(list) != 4 {
		t.Errorf("segments %d, %v", list, err)
	}
	for _, l := range lines(t, dir, ReadOptions{})[1:] {
		if l != "out one more line of the container" {
			t.Fatalf("%q", l)
		}
	}
}

// Whoever compresses may be killed at any moment.
func TestKilledWhileItCompresses(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "log")
	x := newPump(t, dir, Budget{MaxSize: 20_000, MaxFiles: 100})
	x.print(t, strings.Repeat("a line\n", 20_000))
	x.drain(t)
	want := lines(t, dir, ReadOptions{})
	// Half of a packed file, and one beside what it was made of.
	if err := os.WriteFile(rawPath(dir, 1, Stdout)+packingSuffix, []byte("half"), 0o600); err != nil {
		t.Fatal(err)
	}
	raw, err := os.ReadFile(rawPath(dir, 2, Stdout))
	if err != nil {
		t.Fatal(err)
	}
	if err := pack(t.Context(), dir, 2, Stdout); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(rawPath(dir, 2, Stdout), raw, 0o600); err != nil {
		t.Fatal(err)
	}
	expect(t, lines(t, dir, ReadOptions{}), want...)
	x.start(t, Budget{MaxSize: 20_000, MaxFiles: 100}, false)
	x.drain(t)
	if left, err := glob.In(dir, "*"+packingSuffix); err != nil || len(left) > 0 {
		t.Errorf("%q, %v", left, err)
	}
	if err := packAll(t.Context(), dir); err != nil {
		t.Fatal(err)
	}
	expect(t, lines(t, dir, ReadOptions{}), want...)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	x.start(t, Budget{MaxSize: 20_000, MaxFiles: 100}, false)
	x.print(t, strings.Repeat("a line\n", 20_000))
	x.drain(t)
	if err := packAll(ctx, dir); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if left, err := glob.In(dir, "*"+packingSuffix); err != nil || len(left) > 0 {
		t.Errorf("%q, %v", left, err)
	}
}
