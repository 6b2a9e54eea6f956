package logs

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

func expect(t *testing.T, got []string, want ...string) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("got %.300q\nwant %.300q", got, want)
	}
}

// await follows a log until it has n entries.
func await(t testing.TB, dir string, n int) []string {
	t.Helper()
	r, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	enough := errors.New("enough")
	var got []string
	err = r.Read(ctx, ReadOptions{Follow: true}, func(e Entry) error {
		if got = append(got, show(e)); len(got) == n {
			return enough
		}
		return nil
	})
	if err != enough {
		t.Fatalf("after %d entries: %v", len(got), err)
	}
	return got
}

func TestLinesOfBothStreams(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "log")
	x := newPump(t, dir, Budget{})
	x.print(t, "one\ntwo")
	await(t, dir, 1)
	x.errOut.WriteString("warn\n")
	await(t, dir, 2)
	x.print(t, " three\n\n\x00\xff bin\nunfinished")
	x.drain(t)
	expect(t, lines(t, dir, ReadOptions{}), "out one", "err warn", "out two three", "out ", "out \x00\xff bin", "out unfinished…")
	expect(t, lines(t, dir, ReadOptions{Stderr: true}), "err warn")
	expect(t, lines(t, dir, ReadOptions{Stdout: true, Tail: 2}), "out \x00\xff bin", "out unfinished…")
	for n := 1; n < 8; n++ {
		all := lines(t, dir, ReadOptions{})
		expect(t, lines(t, dir, ReadOptions{Tail: n}), all[max(0, len(all)-n):]...)
	}
	expect(t, lines(t, dir, ReadOptions{Tail: NoTail}))

	var out, errs bytes.Buffer
	r, _ := Open(dir)
	if err := r.Raw(t.Context(), ReadOptions{}, &out, &errs); err != nil {
		t.Fatal(err)
	}
	if out.String() != "one\ntwo three\n\n\x00\xff bin\nunfinished" || errs.String() != "warn\n" {
		t.Errorf("raw: %q, %q", &out, &errs)
	}

	// The next run does not go on with the unfinished line.
	x.start(t, Budget{}, false)
	x.print(t, "second\n")
	x.drain(t)
	expect(t, lines(t, dir, ReadOptions{Tail: 2}), "out unfinished…", "out second")
	expect(t, lines(t, dir, ReadOptions{From: LastRun}), "out second")
	expect(t, lines(t, dir, ReadOptions{From: LastRun, Tail: 9}), "out second")
	expect(t, lines(t, dir, ReadOptions{Follow: true, UntilExit: true, Tail: 1}), "out second")
}

func TestLongLine(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "log")
	x := newPump(t, dir, Budget{MaxSize: 3 << 20, MaxFiles: 100})
	long := strings.Repeat("0123456789abcdef", 1<<19) // 8 MiB over several segments
	x.print(t, "before\n"+long+"\nafter\n")
	x.drain(t)
	r, _ := Open(dir)
	var got strings.Builder
	count := 0
	err := r.Read(t.Context(), ReadOptions{}, func(e Entry) error {
		count++
		got.Write(e.Data)
		if !e.Partial {
			got.WriteByte('\n')
		}
		return nil
	})
	if err != nil || got.String() != "before\n"+long+"\nafter\n" {
		t.Errorf("%v, %d bytes in %d entries", err, got.Len(), count)
	}
	expect(t, lines(t, dir, ReadOptions{Tail: 1}), "out after")
	if two := lines(t, dir, ReadOptions{Tail: 2}); len(two) < 32 || two[len(two)-1] != "out after" {
		t.Errorf("tail 2 gives %d entries", len(two))
	}
}

// Rotation keeps the newest bytes and the budget.
func TestRotation(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "log")
	x := newPump(t, dir, Budget{MaxSize: 4096, MaxFiles: 3})
	for i := range 4000 {
		fmt.Fprintf(x.out, "line %d\n", i)
	}
	x.drain(t)
	if size := diskUse(t, dir); size > 3*4096+200 {
		t.Errorf("the log has %d bytes", size)
	}
	got := lines(t, dir, ReadOptions{})
	if len(got) < 300 {
		t.Errorf("only %d lines left", len(got))
	}
	got = got[1:] // may begin within a line
	for i, line := range got {
		if want := fmt.Sprintf("out line %d", 4000-len(got)+i); line != want {
			t.Fatalf("%q, not %q", line, want)
		}
	}
	for _, n := range []int{1, 2, 77, 200} {
		expect(t, lines(t, dir, ReadOptions{Tail: n}), got[len(got)-n:]...)
	}
}

func diskUse(t *testing.T, dir string) (size int64) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		info, err := e.Info()
		if err != nil {
			t.Fatal(err)
		}
		size += info.Size()
	}
	return size
}

func TestSinceUntil(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "log")
	s := newTestStore(t, dir)
	for i := range 10 {
		s.put(t, int64(100+i), Stdout, fmt.Sprintf("a%d\nb%d ", i, i))
	}
	s.close()
	at := func(n int64) time.Time { return time.Unix(0, n) }
	expect(t, lines(t, dir, ReadOptions{Since: at(108)}), "out b7 a8", "out b8 a9", "out b9 …")
	expect(t, lines(t, dir, ReadOptions{Since: at(999)}))
	expect(t, lines(t, dir, ReadOptions{Until: at(101)}), "out a0", "out b0 a1", "out b1 …")
	expect(t, lines(t, dir, ReadOptions{Since: at(103), Until: at(104)}), "out b2 a3", "out b3 a4", "out b4 …")
	expect(t, lines(t, dir, ReadOptions{Since: at(103), Until: at(106), Tail: 2}), "out b5 a6", "out b6 …")
	expect(t, lines(t, dir, ReadOptions{Follow: true, Until: at(101)}), "out a0", "out b0 a1", "out b1 …")
}

// testStore writes a log with made-up times.
type testStore struct{ *store }

func newTestStore(t *testing.T, dir string) testStore {
	t.Helper()
	s, err := openStore(t.Context(), dir, Budget{MaxSize: 300, MaxFiles: 100})
	if err != nil {
		t.Fatal(err)
	}
	return testStore{s}
}

func (s testStore) put(t *testing.T, now int64, stream Stream, text string) {
	t.Helper()
	if err := s.rotate(false); err != nil {
		t.Fatal(err)
	}
	f, err := s.rawFile(stream)
	if err == nil {
		_, err = f.WriteAt([]byte(text), s.rawEnd[stream])
	}
	if err != nil {
		t.Fatal(err)
	}
	s.rawEnd[stream] += int64(len(text))
	if err := s.indexRaw(now); err != nil {
		t.Fatal(err)
	}
}

// A line whose beginning is in an earlier segment, and far before the tail.
func TestTailOfInterleavedLines(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "log")
	s := newTestStore(t, dir)
	s.put(t, 1, Stderr, "old\nbegun ")
	for i := range 100 {
		s.put(t, int64(2+i), Stdout, fmt.Sprintf("out %d\n", i))
	}
	s.put(t, 200, Stderr, "long ago\n")
	s.put(t, 201, Stdout, "x\n")
	s.close()
	expect(t, lines(t, dir, ReadOptions{Tail: 3}), "out out 99", "err begun long ago", "out x")
	expect(t, lines(t, dir, ReadOptions{Tail: 1, Stderr: true}), "err begun long ago")
	expect(t, lines(t, dir, ReadOptions{Tail: 2, Stderr: true}), "err old", "err begun long ago")
}

func TestRecovery(t *testing.T) {
	for _, c := range []struct {
		name   string
		damage func(dir string) error
		want   []string
	}{
		{"killed before the record", func(dir string) error { return grow(rawPath(dir, 1, Stdout), "three\n") },
			[]string{"out one", "err two", "out three", "out new"}},
		{"torn record", func(dir string) error { return grow(indexPath(dir, 1), "torn") },
			[]string{"out one", "err two", "out new"}},
		{"record without bytes", func(dir string) error { return os.Truncate(rawPath(dir, 1, Stderr), 2) },
			[]string{"out one", "err tw", "out new"}},
		{"zeros", func(dir string) error { return grow(indexPath(dir, 1), strings.Repeat("\x00", 48)) },
			[]string{"out one", "err two", "out new"}},
		{"no index content", func(dir string) error { return os.Truncate(indexPath(dir, 1), 0) },
			[]string{"out one", "err two", "out new"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "log")
			s := newTestStore(t, dir)
			s.put(t, 1, Stdout, "one\n")
			s.put(t, 2, Stderr, "two\n")
			s.close()
			if err := c.damage(dir); err != nil {
				t.Fatal(err)
			}
			// Before the repair a reader sees the same lines already.
			want := c.want[:len(c.want)-1]
			got := lines(t, dir, ReadOptions{})
			for i := range got {
				got[i] = strings.TrimSuffix(got[i], "…")
			}
			expect(t, got, want...)
			if tail := lines(t, dir, ReadOptions{Tail: 1}); strings.TrimSuffix(tail[0], "…") != want[len(want)-1] {
				t.Errorf("tail: %q", tail)
			}
			s = newTestStore(t, dir)
			if err := s.mark(kindRunStart, 0); err != nil {
				t.Fatal(err)
			}
			s.put(t, 3, Stdout, "new\n")
			s.close()
			got = lines(t, dir, ReadOptions{})
			for i := range got {
				got[i] = strings.TrimSuffix(got[i], "…")
			}
			expect(t, got, c.want...)
		})
	}
}

func grow(path, s string) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(s)
	return errors.Join(err, f.Close())
}

// A lossless reader holds the container back and then gets every byte.
func TestLosslessReaderHoldsBack(t *testing.T) {
	dir := t.TempDir() // Hold works on a directory without a log, too
	r, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Hold(End); err != nil {
		t.Fatal(err)
	}
	x := newPump(t, dir, Budget{MaxSize: 16 << 10, MaxFiles: 2})
	const n = 200_000
	written := make(chan error, 1)
	go func() {
		for i := range n {
			if _, err := fmt.Fprintf(x.out, "line %d\n", i); err != nil {
				written <- err
				return
			}
		}
		written <- x.Drain(t.Context())
	}()
	// The writer fills budget and FIFO, and then waits.
	waitFull(t, dir, 30<<10)
	select {
	case err := <-written:
		t.Fatal("the writer was not held back", err)
	default:
	}
	pr, pw := io.Pipe()
	go func() {
		pw.CloseWithError(r.Raw(t.Context(), ReadOptions{Lossless: true, Follow: true, UntilExit: true}, pw, pw))
	}()
	got, err := io.ReadAll(pr)
	if err != nil {
		t.Fatal(err)
	}
	if err := <-written; err != nil {
		t.Fatal(err)
	}
	var want bytes.Buffer
	for i := range n {
		fmt.Fprintf(&want, "line %d\n", i)
	}
	if !bytes.Equal(got, want.Bytes()) {
		t.Errorf("got %d bytes of %d", len(got), want.Len())
	}
	if size := diskUse(t, dir); size > 40<<10+pipeSize {
		t.Errorf("the log has %d bytes", size)
	}
}

func waitFull(t *testing.T, dir string, size int64) {
	t.Helper()
	r, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	full := errors.New("full")
	var seen int64
	err = r.Read(t.Context(), ReadOptions{Follow: true}, func(e Entry) error {
		if seen += int64(len(e.Data)) + 1; seen > size/5 {
			return full
		}
		return nil
	})
	if err != full {
		t.Fatal(err)
	}
}

// A reader that is killed or closed lets the pump go on.
// Whoever is about to read a log that is removed at that moment does not make it anew.
func TestHoldOfARemovedLog(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "log")
	if _, err := Open(dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("opening what there is not: %v", err)
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	r, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if err := Remove(t.Context(), dir); err != nil {
		t.Fatal(err)
	}
	if err := r.Hold(End); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("holding it: %v", err)
	}
	if _, err := os.Stat(dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("it is there again: %v", err)
	}
}

func TestReleasedHold(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "log")
	x := newPump(t, dir, Budget{MaxSize: 8 << 10, MaxFiles: 2})
	r, _ := Open(dir)
	if err := r.Hold(Beginning); err != nil {
		t.Fatal(err)
	}
	written := make(chan struct{})
	go func() {
		for i := range 60_000 {
			fmt.Fprintf(x.out, "line %d\n", i)
		}
		close(written)
	}()
	waitFull(t, dir, 12<<10)
	r.Close()
	<-written
	x.drain(t)
	if got := lines(t, dir, ReadOptions{Tail: 1}); got[0] != "out line 59999" {
		t.Errorf("%q", got)
	}
}

// Close while the pump is held back returns, and loses nothing.
func TestCloseWhileHeldBack(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "log")
	x := newPump(t, dir, Budget{MaxSize: 8 << 10, MaxFiles: 2})
	r, _ := Open(dir)
	if err := r.Hold(Beginning); err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	x.print(t, strings.Repeat("0123456\n", 6<<10))
	waitFull(t, dir, 12<<10)
	x.Close()
	x.start(t, Budget{MaxSize: 8 << 10, MaxFiles: 2}, true)
	x.drain(t)
	if got := lines(t, dir, ReadOptions{}); len(got) != 6<<10 {
		t.Errorf("%d lines", len(got))
	}
}

func TestFollowEnds(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "log")
	x := newPump(t, dir, Budget{})
	x.print(t, "a\n")
	got := make(chan []string, 2)
	await(t, dir, 1)
	for _, o := range []ReadOptions{{Follow: true}, {Follow: true, Lossless: true, UntilExit: true}} {
		begun := make(chan struct{})
		once := sync.OnceFunc(func() { close(begun) })
		o.CaughtUp = func(Position) error { once(); return nil }
		go func() { got <- lines(t, dir, o) }()
		<-begun
	}
	x.print(t, "b\n")
	x.drain(t)
	if err := Remove(t.Context(), dir); err != nil {
		t.Fatal(err)
	}
	expect(t, <-got, "out a", "out b")
	expect(t, <-got, "out a", "out b")
	if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
}

// A removal that cannot wait for a reader goes on without it.
func TestRemoveDoesNotWaitForever(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "log")
	x := newPump(t, dir, Budget{})
	x.drain(t)
	r, _ := Open(dir)
	if err := r.Hold(Beginning); err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := Remove(ctx, dir); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
}

func TestSecondPumpWaits(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "log")
	x := newPump(t, dir, Budget{})
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	f, err := OpenFIFO(filepath.Join(x.run, StdoutFIFO))
	if err != nil {
		t.Fatal(err)
	}
	_, err = StartPump(ctx, PumpConfig{Dir: dir, Stdout: f, Stderr: f})
	if err == nil || !strings.Contains(err.Error(), fmt.Sprintf("in use by process %d", os.Getpid())) {
		t.Error(err)
	}
}

func TestMerge(t *testing.T) {
	root := t.TempDir()
	var readers []*Reader
	for i := range 3 {
		dir := filepath.Join(root, fmt.Sprint(i))
		s := newTestStore(t, dir)
		for k := range 1000 {
			s.put(t, int64(100+3*k+i), Stream(k%2), fmt.Sprintf("%d\n", 3*k+i))
		}
		s.close()
		r, err := Open(dir)
		if err != nil {
			t.Fatal(err)
		}
		readers = append(readers, r)
	}
	n := 0
	err := Merge(t.Context(), readers, ReadOptions{}, func(source int, e Entry) error {
		if string(e.Data) != fmt.Sprint(n) || source != n%3 {
			return fmt.Errorf("%q of %d as number %d", e.Data, source, n)
		}
		n++
		return nil
	})
	if err != nil || n != 3000 {
		t.Error(err, n)
	}
}

// What is to be told after a line that was just stored comes after it.
func TestMergeNotes(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "log")
	x := newTestStore(t, dir)
	r, _ := Open(dir)
	got := make(chan string, 100)
	m := NewMerger(nil, func(_ int, e Entry) error { got <- string(e.Data); return nil })
	m.Add(t.Context(), 0, r, ReadOptions{Follow: true, UntilExit: true})
	done := make(chan error, 1)
	go func() { done <- m.Run(t.Context()) }()
	var want []string
	for i := range 20 {
		line, note := fmt.Sprint("line ", i), fmt.Sprint("note ", i)
		x.put(t, time.Now().UnixNano(), Stdout, line+"\n")
		m.Note(func() { got <- note })
		want = append(want, line, note)
		for _, want := range want[2*i:] {
			if s := <-got; s != want {
				t.Errorf("%q instead of %q", s, want)
			}
		}
	}
	if err := x.mark(kindRunEnd, 0); err != nil {
		t.Fatal(err)
	}
	x.close()
	m.Note(func() { got <- "last" })
	m.Seal()
	if err := <-done; err != nil || <-got != "last" {
		t.Error("no last note", err)
	}
}

func TestMergeFollows(t *testing.T) {
	root := t.TempDir()
	const logs, each = 5, 40
	var pumps []*pumped
	var readers []*Reader
	for i := range logs {
		x := newPump(t, filepath.Join(root, fmt.Sprint(i)), Budget{})
		pumps = append(pumps, x)
		r, _ := Open(x.dir)
		readers = append(readers, r)
	}
	seen := make(chan string, logs*each)
	done := make(chan error, 1)
	go func() {
		done <- Merge(t.Context(), readers, ReadOptions{Follow: true, UntilExit: true}, func(_ int, e Entry) error {
			seen <- string(e.Data)
			return nil
		})
	}()
	for k := range each {
		for i, x := range pumps {
			x.print(t, fmt.Sprintf("%d %d\n", k, i))
		}
		for range pumps {
			if got := <-seen; !strings.HasPrefix(got, fmt.Sprint(k)+" ") {
				t.Fatalf("%q in round %d", got, k)
			}
		}
	}
	for _, x := range pumps {
		x.drain(t)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// The format on disk is fixed.
func TestRecordFormat(t *testing.T) {
	b := record{time: 0x0102030405060708, value: 77, kind: kindErr}.append(nil, 3)
	want := "\x08\x07\x06\x05\x04\x03\x02\x01M\x00\x00\x00\x00\x00\x00\x00\x02\x00\x00\x00"
	if string(b[:20]) != want || len(b) != recordSize {
		t.Errorf("%q", b)
	}
	if _, ok := decodeRecord(b, 3); !ok {
		t.Error("not valid")
	}
	if _, ok := decodeRecord(b, 4); ok {
		t.Error("valid in another segment")
	}
	b[9]++
	if _, ok := decodeRecord(b, 3); ok {
		t.Error("valid after a change")
	}
}
