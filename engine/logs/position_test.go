package logs

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Reading goes on behind each line, with both streams and unfinished lines about.
func TestPositions(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "log")
	x := newPump(t, dir, Budget{MaxSize: 600, MaxFiles: 100})
	n := 0
	for i := range 40 {
		fmt.Fprintf(x.errOut, "head of %d ", i)
		x.print(t, fmt.Sprintf("line %d\nand %d\n", i, i))
		n += 2
		await(t, dir, n)
		x.errOut.WriteString("its end\n")
		n++
		await(t, dir, n)
	}
	x.print(t, "unfinished")
	x.drain(t)
	all := lines(t, dir, ReadOptions{})
	r, _ := Open(dir)
	var ends []Position
	if err := r.Read(t.Context(), ReadOptions{}, func(e Entry) error { ends = append(ends, e.End); return nil }); err != nil {
		t.Fatal(err)
	}
	for i, at := range ends[:n] {
		expect(t, lines(t, dir, ReadOptions{After: &at}), all[i+1:]...)
	}
	if ends[n] != (Position{}) {
		t.Errorf("a line that is not finished ends at %v", ends[n])
	}
	var here Position
	if err := r.Read(t.Context(), ReadOptions{Follow: true, UntilExit: true, CaughtUp: func(p Position) error { here = p; return nil }}, func(Entry) error { return nil }); err != nil {
		t.Fatal(err)
	}
	expect(t, lines(t, dir, ReadOptions{After: &here}))
	if n := Backlog(dir, here); n != 0 {
		t.Errorf("%d bytes are left", n)
	}
}

// A place that is deleted, or that a power failure took.
func TestPlacesThatAreGone(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "log")
	x := newPump(t, dir, Budget{MaxSize: 600, MaxFiles: 3})
	for i := range 600 {
		x.print(t, fmt.Sprintf("line %d\n", i))
	}
	x.drain(t)
	kept := lines(t, dir, ReadOptions{})
	list, err := segments(dir)
	if err != nil {
		t.Fatal(err)
	}
	if list[0] < 2 {
		t.Fatalf("nothing is deleted of %d", list)
	}
	r, _ := Open(dir)
	for _, c := range []struct {
		at   Position
		gap  uint64
		want []string
	}{
		{Position{Segment: list[0] - 1, Next: 48}, 1, kept},
		{Position{}, list[0] - 1, kept},
		{Position{Segment: 1 << 40}, 0, nil},
		{Position{Segment: list[len(list)-1], Next: 1 << 30}, 0, nil},
	} {
		var got []string
		gap := uint64(0)
		err := r.Read(t.Context(), ReadOptions{After: &c.at, Gap: func(n uint64) { gap += n }}, func(e Entry) error { got = append(got, show(e)); return nil })
		if err != nil || gap != c.gap {
			t.Errorf("%v: gap %d, want %d, %v", c.at, gap, c.gap, err)
		}
		expect(t, got, c.want...)
	}
}

func TestBookmark(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "log")
	open := func() *Bookmark {
		t.Helper()
		b, err := OpenBookmark(dir)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	at := Position{3, 48, [2]int64{7, 8}}
	b := open()
	if b.At() != (Position{}) {
		t.Errorf("%v", b.At())
	}
	if err := b.Save(at); err != nil {
		t.Fatal(err)
	}
	b.Close()
	if b = open(); b.At() != at {
		t.Errorf("%v", b.At())
	}
	b.Close()
	if err := os.WriteFile(filepath.Join(dir, bookmarkName), []byte(strings.Repeat("x", 20)), 0o600); err != nil {
		t.Fatal(err)
	}
	if b = open(); b.At() != (Position{}) {
		t.Errorf("%v", b.At())
	}
	b.Close()
}
