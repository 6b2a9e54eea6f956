package logs

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// The test binary is also the child processes that the tests kill.
func TestMain(m *testing.M) {
	switch os.Getenv("LOGS_TEST_ROLE") {
	case "pump":
		pumpMain()
	case "tty-pump":
		ttyPumpMain()
	case "writer":
		writerMain()
	default:
		os.Exit(m.Run())
	}
}

// child starts this binary in a role. Its stdin ends with the test.
func child(t *testing.T, role string, files []*os.File, args ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command(os.Args[0], args...)
	cmd.Env = append(os.Environ(), "LOGS_TEST_ROLE="+role)
	cmd.ExtraFiles = files
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	return cmd
}

// pumpMain pumps the FIFOs of run directory 1 to log 2 until it is killed. It
// says "up" on descriptor 3 by closing it.
func pumpMain() {
	out, err := OpenFIFO(filepath.Join(os.Args[1], StdoutFIFO))
	check(err)
	errs, err := OpenFIFO(filepath.Join(os.Args[1], StderrFIFO))
	check(err)
	size, err := strconv.ParseInt(os.Args[3], 10, 64)
	check(err)
	_, err = StartPump(context.Background(), PumpConfig{
		Dir: os.Args[2], Stdout: out, Stderr: errs, Adopt: true,
		Budget: Budget{MaxSize: size, MaxFiles: 1 << 30},
	})
	check(err)
	unix.Close(3)
	select {}
}

// writerMain writes numbered lines, some long, some in two writes, in turn to
// both FIFOs of run directory 1.
func writerMain() {
	n, err := strconv.Atoi(os.Args[2])
	check(err)
	var outs [2]*bufio.Writer
	for i, name := range []string{StdoutFIFO, StderrFIFO} {
		f, err := OpenContainerEnd(filepath.Join(os.Args[1], name))
		check(err)
		outs[i] = bufio.NewWriterSize(f, 1+i*5000)
	}
	for i := range n {
		w := outs[0]
		if i%7 == 3 {
			w = outs[1]
		}
		fmt.Fprintf(w, "line %d %0*d\n", i, i%300, i)
	}
	for _, w := range outs {
		check(w.Flush())
	}
}

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "child:", err)
		os.Exit(1)
	}
}

// pumped is a pump in this process with the container's ends of its FIFOs.
type pumped struct {
	*Pump
	dir, run    string
	out, errOut *os.File
}

func newPump(t testing.TB, dir string, budget Budget) *pumped {
	t.Helper()
	x := &pumped{dir: dir, run: t.TempDir()}
	if err := NewFIFOs(x.run); err != nil {
		t.Fatal(err)
	}
	x.start(t, budget, false)
	var err error
	if x.out, err = OpenContainerEnd(filepath.Join(x.run, StdoutFIFO)); err != nil {
		t.Fatal(err)
	}
	if x.errOut, err = OpenContainerEnd(filepath.Join(x.run, StderrFIFO)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { x.Close(); x.out.Close(); x.errOut.Close() })
	return x
}

func (x *pumped) start(t testing.TB, budget Budget, adopt bool) {
	t.Helper()
	out, err := OpenFIFO(filepath.Join(x.run, StdoutFIFO))
	if err != nil {
		t.Fatal(err)
	}
	errs, err := OpenFIFO(filepath.Join(x.run, StderrFIFO))
	if err != nil {
		t.Fatal(err)
	}
	x.Pump, err = StartPump(t.Context(), PumpConfig{
		Dir: x.dir, Stdout: out, Stderr: errs, Budget: budget, Adopt: adopt,
		Failed: func(err error) { t.Error(err) },
	})
	if err != nil {
		t.Fatal(err)
	}
}

func (x *pumped) print(t testing.TB, s string) {
	t.Helper()
	if _, err := x.out.WriteString(s); err != nil {
		t.Fatal(err)
	}
}

func (x *pumped) drain(t testing.TB) {
	t.Helper()
	if err := x.Drain(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// lines reads a log as strings "out text", with "…" behind unfinished lines.
func lines(t testing.TB, dir string, o ReadOptions) []string {
	t.Helper()
	r, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var got []string
	if err := r.Read(ctx, o, func(e Entry) error { got = append(got, show(e)); return nil }); err != nil {
		t.Fatal(err)
	}
	return got
}

func show(e Entry) string {
	s := e.Stream.String()[3:] + " " + string(e.Data)
	if e.Partial {
		s += "…"
	}
	return s
}
