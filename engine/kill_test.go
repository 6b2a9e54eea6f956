package engine

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// killAt is where the test program, started again, ends itself:
// "insert:3:DATAROOT:RUNROOT:ID".
const killAt = "TEST_RECORDS_KILL_AT"

// TestKilledProcess is the process that is killed in TestKilledAtAnyStep.
func TestKilledProcess(t *testing.T) {
	order, ok := os.LookupEnv(killAt)
	if !ok {
		t.Skip("for TestKilledAtAnyStep")
	}
	f := strings.Split(order, ":")
	left, err := strconv.Atoi(f[1])
	if err != nil {
		t.Fatal(err)
	}
	r := NewRecords(f[2], f[3])
	r.step = func(string) {
		if left--; left == 0 {
			unix.Kill(os.Getpid(), unix.SIGKILL)
			select {}
		}
	}
	switch f[0] {
	case "insert":
		err = r.Insert(&Container{ID: f[4], Spec: Spec{Name: "web"}, State: State{Phase: Created, StartBy: time.Now()}})
	case "rename":
		var c *Container
		if c, err = r.Read(f[4]); err == nil {
			err = r.Rename(c, "api")
		}
	case "delete":
		var c *Container
		if c, err = r.Read(f[4]); err == nil {
			err = r.Delete(c)
		}
	}
	if err != nil {
		t.Fatal(err)
	}
}

// TestKilledAtAnyStep ends a process before each change of a file: the names are
// to be had afterwards, and Sweep leaves nothing.
func TestKilledAtAnyStep(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("Sweep needs root")
	}
	for _, verb := range []string{"insert", "insert over a dead one", "rename", "delete"} {
		for step := 1; ; step++ {
			killed := false
			t.Run(fmt.Sprintf("%s, step %d", verb, step), func(t *testing.T) { killed = killedAt(t, verb, step) })
			if !killed {
				break
			}
		}
	}
}

func killedAt(t *testing.T, verb string, step int) (killed bool) {
	e, err := Open(Options{DataRoot: t.TempDir(), RunRoot: t.TempDir(), Warn: func(w string) { t.Error(w) }})
	if err != nil {
		t.Fatal(err)
	}
	r, id := e.Records, NewID()
	switch verb {
	case "insert":
	case "insert over a dead one":
		if err := errors.Join(os.MkdirAll(r.DataDir(NewID()), 0o700), os.MkdirAll(r.namePath(""), 0o700), os.Symlink(NewID(), r.namePath("web"))); err != nil {
			t.Fatal(err)
		}
	default:
		if err := r.Insert(&Container{ID: id, Spec: Spec{Name: "web"}}); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.Command(os.Args[0], "-test.run=^TestKilledProcess$")
	action, _, _ := strings.Cut(verb, " ")
	cmd.Env = append(os.Environ(), fmt.Sprintf("%s=%s:%d:%s:%s:%s", killAt, action, step, e.DataRoot(), e.RunRoot(), id))
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if killed = errors.As(err, &exit) && exit.Sys().(interface{ Signaled() bool }).Signaled(); err != nil && !killed {
		t.Fatalf("%v: %s", err, out)
	}
	// Of the container there is all or nothing.
	all, broken, err := r.Scan()
	if err != nil || len(broken) != 0 || len(all) > 1 {
		t.Fatalf("%d containers, %d broken, %v", len(all), len(broken), err)
	}
	for _, c := range all {
		if c.ID != id || c.Spec.Name != "web" && c.Spec.Name != "api" {
			t.Errorf("found %s %s", c.ID, c.Spec.Name)
		}
		if action == "insert" && c.State.StartBy.IsZero() {
			t.Error("it has lost until when it waits to be started")
		}
	}
	// The names that it does not have are free, before anything is swept.
	for _, name := range []string{"web", "api"} {
		if len(all) == 1 && all[0].Spec.Name == name {
			continue
		}
		if err := r.Delete(insert(t, r, name)); err != nil {
			t.Error(err)
		}
	}
	for _, c := range all {
		if found, err := r.Find(c.Spec.Name); err != nil || found.ID != id {
			t.Errorf("Find(%s): %v", c.Spec.Name, err)
		}
		if err := r.Delete(c); err != nil {
			t.Error(err)
		}
	}
	if _, err := e.Sweep(t.Context()); err != nil {
		t.Error(err)
	}
	if found, err := e.Leftovers(); err != nil || len(found) != 0 {
		t.Errorf("left: %v, %v", found, err)
	}
	for _, dir := range []string{"containers", "names", "logs", "containers-rw"} {
		for _, root := range []string{e.DataRoot(), e.RunRoot()} {
			if entries, _ := os.ReadDir(root + "/" + dir); len(entries) != 0 {
				t.Errorf("left in %s: %v", dir, entries)
			}
		}
	}
	return killed
}
