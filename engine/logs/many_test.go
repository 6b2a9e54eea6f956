package logs

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"testing"
)

// Fifty pumps at once cost few threads and little memory, and mix nothing up.
func TestManyPumps(t *testing.T) {
	const pumps, each = 50, 2000
	root := t.TempDir()
	heap := heapSize()
	var all []*pumped
	for i := range pumps {
		all = append(all, newPump(t, filepath.Join(root, fmt.Sprint(i)), Budget{}))
	}
	perPump := (heapSize() - heap) / pumps
	t.Logf("%d bytes of heap and stacks for an idle pump, %d threads", perPump, threads(t))
	if perPump > 32<<10 {
		t.Errorf("%d bytes for a pump", perPump)
	}
	var writers sync.WaitGroup
	for i, x := range all {
		writers.Go(func() {
			for k := range each {
				fmt.Fprintf(x.out, "%d %d\n", i, k)
			}
		})
	}
	writers.Wait()
	t.Logf("%d threads, those of the writers included", threads(t))
	for i, x := range all {
		x.drain(t)
		got := lines(t, x.dir, ReadOptions{})
		if len(got) != each || got[each-1] != fmt.Sprintf("out %d %d", i, each-1) {
			t.Fatalf("log %d has %d lines", i, len(got))
		}
	}
}

func heapSize() int64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc + m.StackInuse)
}

func threads(t *testing.T) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/task")
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}
