package logs

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
)

// fastLine is line i of the writer in the tests below; its text shows a tear and
// its length makes pieces end anywhere.
func fastLine(i int) string {
	return fmt.Sprintf("%d %s %d", i, strings.Repeat("x", i*7%300), i)
}

// sequence checks that lines are whole and in order, and where some lack.
type sequence struct {
	next, first, seen, gaps int
}

func (q *sequence) take(e Entry) error {
	var i int
	if _, err := fmt.Sscan(string(e.Data), &i); err != nil || string(e.Data) != fastLine(i) || e.Partial {
		return fmt.Errorf("a torn line after %d: %.100q, partial %v", q.next-1, e.Data, e.Partial)
	}
	switch {
	case q.seen == 0:
		q.first = i
	case i > q.next:
		q.gaps++
	case i < q.next:
		return fmt.Errorf("line %d comes after line %d", i, q.next-1)
	}
	q.next = i + 1
	q.seen++
	return nil
}

// Under a writer at full speed and a small budget, whoever reads sees whole lines
// only, in order, and is told where some were deleted before.
func TestWholeLinesAtRotation(t *testing.T) {
	for _, budget := range []Budget{{MaxSize: 4 << 10, MaxFiles: 2}, {MaxSize: 4 << 10, MaxFiles: 1 << 20}, {MaxSize: 200 << 10, MaxFiles: 3}} {
		t.Run(fmt.Sprint(budget), func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "log")
			x := newPump(t, dir, budget)
			const n = 20_000
			kept := budget.MaxFiles > 1000
			var readers sync.WaitGroup
			written, stop := context.WithCancel(t.Context())
			for range 2 {
				readers.Go(func() {
					var q sequence
					told := 0
					r, err := Open(dir)
					if err == nil {
						err = r.Read(t.Context(), ReadOptions{Follow: true, UntilExit: true, Gap: func(uint64) { told++ }}, q.take)
					}
					if err != nil || q.next != n || kept && q.seen != n || q.gaps > told {
						t.Errorf("follower: %v; %d lines to %d, %d gaps, told of %d", err, q.seen, q.next, q.gaps, told)
					}
				})
			}
			for _, tail := range []int{1, 7, 100, 1 << 20, 0} {
				readers.Go(func() {
					last := 0
					for written.Err() == nil {
						var q sequence
						told := 0
						r, err := Open(dir)
						if err == nil {
							err = r.Read(t.Context(), ReadOptions{Tail: tail, Gap: func(uint64) { told++ }}, q.take)
						}
						if err != nil || q.gaps > told || told == 0 && (q.next < last || tail > 0 && q.seen > tail) {
							t.Errorf("tail %d: %v; %d lines to %d after %d, %d gaps, told of %d", tail, err, q.seen, q.next, last, q.gaps, told)
							return
						}
						last = max(last, q.next)
					}
				})
			}
			var b bytes.Buffer
			for i := range n {
				b.WriteString(fastLine(i) + "\n")
				if rand.N(20) == 0 {
					if _, err := b.WriteTo(x.out); err != nil {
						t.Fatal(err)
					}
				}
			}
			b.WriteTo(x.out)
			x.drain(t)
			stop()
			readers.Wait()
			for _, tail := range []int{1, 7, 40, 0} {
				var q sequence
				r, _ := Open(dir)
				err := r.Read(t.Context(), ReadOptions{Tail: tail}, q.take)
				if err != nil || q.next != n || q.gaps > 0 || tail > 0 && q.seen != min(tail, q.seen) || kept && tail == 0 && q.seen != n {
					t.Errorf("tail %d at the end: %v; %d lines to %d", tail, err, q.seen, q.next)
				}
			}
		})
	}
}

// The first line that is left is shown where its head is left, and only then.
func TestFirstLineAfterDeletion(t *testing.T) {
	for _, c := range []struct {
		name    string
		options ReadOptions
	}{
		{"all", ReadOptions{}}, {"tail", ReadOptions{Tail: 1000}}, {"last run", ReadOptions{From: LastRun}}, {"tail of last run", ReadOptions{From: LastRun, Tail: 1000}},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "log")
			s := newTestStore(t, dir)
			s.put(t, 1, Stdout, "deleted\n")
			s.put(t, 2, Stderr, "a line whose head is ")
			s.budget = Budget{MaxSize: 1, MaxFiles: 1 << 20}
			if err := s.rotate(false); err != nil {
				t.Fatal(err)
			}
			s.budget.MaxSize = 1 << 20
			if err := s.dropOldest(); err != nil {
				t.Fatal(err)
			}
			s.put(t, 3, Stdout, "first\n")
			s.put(t, 4, Stderr, "deleted\nsecond\n")
			s.close()
			expect(t, lines(t, dir, c.options), "out first", "err second")
		})
	}
}

// A segment that is deleted between two looks at it counts as a gap.
func TestSegmentDeletedAfterEntering(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "log")
	s := newTestStore(t, dir)
	s.budget = Budget{MaxSize: 1 << 20, MaxFiles: 1 << 20}
	c := &cursor{dir: dir}
	if err := c.enter(1); err != nil {
		t.Fatal(err)
	}
	s.put(t, 1, Stdout, "half of a ")
	s.budget.MaxSize = 1
	if err := s.rotate(false); err != nil {
		t.Fatal(err)
	}
	s.budget.MaxSize = 1 << 20
	s.put(t, 2, Stdout, "line\nwhole\n")
	if err := s.dropOldest(); err != nil {
		t.Fatal(err)
	}
	s.close()
	var got []string
	gaps := uint64(0)
	out := &lineSink{}
	for i := range out.splitters {
		out.splitters[i] = splitter{stream: Stream(i), emit: func(e Entry) error { got = append(got, show(e)); return nil }}
	}
	w := walk{c: c, out: out, streams: [2]bool{true, true}, until: untilNano(ReadOptions{}.Until), o: ReadOptions{Gap: func(n uint64) { gaps += n }}}
	defer c.close()
	if err := w.all(t.Context()); err != nil {
		t.Fatal(err)
	}
	expect(t, got, "out whole")
	if gaps != 1 {
		t.Errorf("%d gaps", gaps)
	}
}

// An unfinished line of a container that runs is shown, though late.
func TestUnfinishedLine(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "log")
	x := newPump(t, dir, Budget{})
	x.print(t, "one\npassword: ")
	await(t, dir, 1)
	expect(t, lines(t, dir, ReadOptions{Tail: 1}), "out password: …")
}

// A directory that changes while it is read may be told of in part.
func TestSegmentsThatAListingMissed(t *testing.T) {
	dir := t.TempDir()
	for n := uint64(3); n <= 7; n++ {
		if err := os.WriteFile(indexPath(dir, n), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, seen := range [][]uint64{{3}, {5}, {7}, {3, 7}, {4, 6}, {3, 4, 5, 6, 7}} {
		if got := complete(dir, seen); !slices.Equal(got, []uint64{3, 4, 5, 6, 7}) {
			t.Errorf("of %v: %v", seen, got)
		}
	}
	if got := complete(dir, nil); len(got) > 0 {
		t.Errorf("of none: %v", got)
	}
}
