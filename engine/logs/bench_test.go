package logs

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// BenchmarkPump is `yes` into a FIFO: bytes per second and CPUs that the pump
// takes (the writer's share counts too: it is in this process).
func BenchmarkPump(b *testing.B) {
	x := newPump(b, filepath.Join(b.TempDir(), "log"), Budget{})
	block := []byte(strings.Repeat("y\n", 32<<10))
	b.SetBytes(int64(len(block)))
	before, start := cpuTime(), time.Now()
	for b.Loop() {
		if _, err := x.out.Write(block); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(cpuTime()-before)/float64(time.Since(start)), "cpus")
	x.drain(b)
}

// BenchmarkLine is the way of one line from the container to a follower.
func BenchmarkLine(b *testing.B) {
	dir := filepath.Join(b.TempDir(), "log")
	x := newPump(b, dir, Budget{})
	r, _ := Open(dir)
	seen := make(chan struct{})
	go r.Read(b.Context(), ReadOptions{Follow: true}, func(Entry) error { seen <- struct{}{}; return nil })
	for b.Loop() {
		x.print(b, "a line of output\n")
		<-seen
	}
}

func BenchmarkRead(b *testing.B) {
	dir := filepath.Join(b.TempDir(), "log")
	x := newPump(b, dir, Budget{MaxSize: 100 << 20, MaxFiles: 2})
	block := strings.Repeat(fmt.Sprintln("a line of a usual length as services print them, with some words"), 1000)
	for range 500 {
		x.print(b, block)
	}
	x.drain(b)
	r, _ := Open(dir)
	b.Run("all", func(b *testing.B) {
		b.SetBytes(int64(500 * len(block)))
		for b.Loop() {
			if err := r.Read(b.Context(), ReadOptions{}, func(Entry) error { return nil }); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("tail", func(b *testing.B) {
		for b.Loop() {
			if err := r.Read(b.Context(), ReadOptions{Tail: 100}, func(Entry) error { return nil }); err != nil {
				b.Fatal(err)
			}
		}
	})
}

func cpuTime() time.Duration {
	var u unix.Rusage
	unix.Getrusage(unix.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
