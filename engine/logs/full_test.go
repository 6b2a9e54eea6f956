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

	"golang.org/x/sys/unix"
)

// smallDisk is a log's directory on a disk of its own, with what fills it.
type smallDisk struct{ dir, ballast string }

func newSmallDisk(t *testing.T, options string) smallDisk {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("mounting needs root")
	}
	mnt := t.TempDir()
	if err := unix.Mount("tmpfs", mnt, "tmpfs", 0, options); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Unmount(mnt, unix.MNT_DETACH) })
	return smallDisk{filepath.Join(mnt, "log"), filepath.Join(mnt, "ballast")}
}

// fill leaves no room.
func (d smallDisk) fill(t *testing.T) {
	t.Helper()
	err := os.WriteFile(d.ballast, make([]byte, 64<<20), 0o600)
	if !errors.Is(err, unix.ENOSPC) {
		t.Fatal(err)
	}
}

func (d smallDisk) ease(t *testing.T) {
	t.Helper()
	if err := os.Remove(d.ballast); err != nil {
		t.Fatal(err)
	}
}

// pumpOn starts a pump that may fail to store.
func pumpOn(t *testing.T, dir string, copies bool, budget Budget) (*pumped, chan error) {
	t.Helper()
	x := &pumped{dir: dir, run: t.TempDir()}
	if err := NewFIFOs(x.run); err != nil {
		t.Fatal(err)
	}
	told := make(chan error, 1000)
	x.again(t, false, budget, func(err error) { told <- err })
	x.mu.Lock()
	x.store.noSplice = copies
	x.mu.Unlock()
	var err error
	if x.out, err = OpenContainerEnd(filepath.Join(x.run, StdoutFIFO)); err != nil {
		t.Fatal(err)
	}
	if x.errOut, err = OpenContainerEnd(filepath.Join(x.run, StderrFIFO)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { x.Close(); x.out.Close(); x.errOut.Close() })
	return x, told
}

func (x *pumped) again(t *testing.T, adopt bool, budget Budget, failed func(error)) {
	t.Helper()
	out, err := OpenFIFO(filepath.Join(x.run, StdoutFIFO))
	if err != nil {
		t.Fatal(err)
	}
	errs, err := OpenFIFO(filepath.Join(x.run, StderrFIFO))
	if err != nil {
		t.Fatal(err)
	}
	if x.Pump, err = StartPump(t.Context(), PumpConfig{Dir: x.dir, Stdout: out, Stderr: errs, Budget: budget, Adopt: adopt, Failed: failed}); err != nil {
		t.Fatal(err)
	}
}

func numbered(from, to int) []string {
	var out []string
	for i := from; i < to; i++ {
		out = append(out, fmt.Sprintf("out line %d", i))
	}
	return out
}

// On a full disk the container waits and no byte is lost; the user is told once.
func TestFullDisk(t *testing.T) {
	for _, c := range []struct {
		name, options string
		copies        bool
		budget        Budget
	}{
		{"without room", "size=512k", false, Budget{}},
		{"without room for what cannot be spliced", "size=512k", true, Budget{}},
		{"without inodes for a new segment", "size=8m,nr_inodes=6", false, Budget{MaxSize: 16 << 10, MaxFiles: 1 << 20}},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := newSmallDisk(t, c.options)
			x, told := pumpOn(t, d.dir, c.copies, c.budget)
			inodes := strings.Contains(c.options, "inodes")
			var took []string
			if inodes {
				for i := 0; ; i++ {
					name := fmt.Sprint(d.ballast, i)
					if err := os.WriteFile(name, nil, 0o600); errors.Is(err, unix.ENOSPC) {
						break
					} else if err != nil {
						t.Fatal(err)
					}
					took = append(took, name)
				}
			} else {
				x.print(t, "line 0\n")
				await(t, d.dir, 1)
				d.fill(t)
			}
			const n = 80_000
			written := make(chan error, 1)
			go func() {
				from := 1
				if inodes {
					from = 0
				}
				for i := from; i < n; i++ {
					if _, err := fmt.Fprintf(x.out, "line %d\n", i); err != nil {
						written <- err
						return
					}
				}
				written <- nil
			}()
			if err := <-told; !errors.Is(err, unix.ENOSPC) {
				t.Error(err)
			}
			awaitFull(t, x.out)
			if inodes {
				unix.Mount("", filepath.Dir(d.dir), "", unix.MS_REMOUNT, "nr_inodes=10000")
				for _, name := range took {
					os.Remove(name)
				}
			} else {
				d.ease(t)
				if err := unix.Mount("", filepath.Dir(d.dir), "", unix.MS_REMOUNT, "size=16m"); err != nil {
					t.Fatal(err)
				}
			}
			if err := <-written; err != nil {
				t.Fatal(err)
			}
			x.drain(t)
			expect(t, lines(t, d.dir, ReadOptions{Lost: func(n int64) { t.Errorf("%d bytes lost", n) }}), numbered(0, n)...)
			if len(told) != 0 {
				t.Errorf("told again: %v", <-told)
			}
		})
	}
}

// awaitFull waits until a pipe has no room.
func awaitFull(t *testing.T, f *os.File) {
	t.Helper()
	deadline := time.Now().Add(30 * time.Second)
	for {
		ready := []unix.PollFd{{Fd: int32(f.Fd()), Events: unix.POLLOUT}}
		if n, err := unix.Poll(ready, 0); err == nil && n == 0 {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal("the pipe does not become full")
		}
		time.Sleep(time.Millisecond)
	}
}

// A follower sees what is stored as soon as there is room, though the container
// prints nothing more.
func TestFollowerAfterFullDisk(t *testing.T) {
	d := newSmallDisk(t, "size=512k")
	x, told := pumpOn(t, d.dir, false, Budget{})
	x.print(t, "line 0\n")
	await(t, d.dir, 1)
	d.fill(t)
	x.print(t, strings.Repeat("x", 4096)+"\n")
	<-told
	got := make(chan []string, 1)
	go func() { got <- lines(t, d.dir, ReadOptions{Follow: true, UntilExit: true}) }()
	d.ease(t)
	await(t, d.dir, 2)
	x.drain(t)
	expect(t, <-got, "out line 0", "out "+strings.Repeat("x", 4096))
}

// A container that ends with the disk full leaves its last lines in the FIFO, and
// its next start stores them. Neither Drain nor Close waits for long.
func TestDrainOnFullDisk(t *testing.T) {
	d := newSmallDisk(t, "size=512k")
	x, told := pumpOn(t, d.dir, false, Budget{})
	x.print(t, "line 0\n")
	await(t, d.dir, 1)
	d.fill(t)
	for i := 1; i < 2000; i++ {
		x.print(t, fmt.Sprintf("line %d\n", i))
	}
	<-told
	begin := time.Now()
	x.Close()
	x.again(t, true, Budget{}, func(error) {}) // a pump that begins on a full disk
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if err := x.Drain(ctx); !errors.Is(err, ErrUnread) {
		t.Errorf("Drain: %v", err)
	}
	if took := time.Since(begin); took > 10*time.Second {
		t.Errorf("the end took %v", took)
	}
	d.ease(t)
	x.again(t, false, Budget{}, func(err error) { t.Error(err) })
	x.print(t, "line 2000\n")
	x.drain(t)
	expect(t, lines(t, d.dir, ReadOptions{}), numbered(0, 2001)...)
	expect(t, lines(t, d.dir, ReadOptions{From: LastRun}), "out line 2000")
}

// Removal names whom it waited for, and goes on.
func TestRemoveNamesTheReader(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "log")
	x := newPump(t, dir, Budget{})
	x.drain(t)
	r, _ := Open(dir)
	if err := r.Hold(Beginning); err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	err := remove(t.Context(), dir, 10*time.Millisecond)
	if err == nil || !strings.Contains(err.Error(), fmt.Sprintf("process %d ", os.Getpid())) {
		t.Errorf("removal says %v", err)
	}
	if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
}
