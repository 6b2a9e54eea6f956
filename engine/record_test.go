package engine

import (
	"bytes"
	"errors"
	"io"
	"os"
	"strings"
	"sync"
	"testing"
)

func TestRecords(t *testing.T) {
	r := NewRecords(t.TempDir(), t.TempDir())
	c := &Container{ID: NewID(), Spec: Spec{Name: "web"}, State: State{Phase: Created}}
	if err := r.Insert(c); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(r.LogDir(c.ID)); err != nil {
		t.Errorf("it has no log: %v", err)
	}
	for _, ref := range []string{"web", "/web", c.ID, c.ID[:6]} {
		if got, err := r.Find(ref); err != nil || got.ID != c.ID {
			t.Errorf("Find(%q) = %v, %v", ref, got, err)
		}
	}
	if _, err := r.Find("other"); !errors.Is(err, ErrNotFound) {
		t.Errorf("Find(other) = %v", err)
	}
	err := r.Insert(&Container{ID: NewID(), Spec: Spec{Name: "web"}})
	if err == nil || !strings.Contains(err.Error(), "in use") {
		t.Errorf("a name taken twice gives %v", err)
	}
	if err := r.Rename(c, "api"); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Find("web"); !errors.Is(err, ErrNotFound) {
		t.Errorf("the old name still leads to %v", err)
	}
	if err := r.Delete(c); err != nil {
		t.Fatal(err)
	}
	if ids, err := r.IDs(); err != nil || len(ids) != 0 {
		t.Errorf("left: %v, %v", ids, err)
	}
}

func TestANameOfAGoneContainerIsFree(t *testing.T) {
	r := NewRecords(t.TempDir(), t.TempDir())
	old := &Container{ID: NewID(), Spec: Spec{Name: "db"}}
	if err := r.Insert(old); err != nil {
		t.Fatal(err)
	}
	// As after a crash between removing the record and its name.
	if err := os.RemoveAll(r.DataDir(old.ID)); err != nil {
		t.Fatal(err)
	}
	if err := r.Insert(&Container{ID: NewID(), Spec: Spec{Name: "db"}}); err != nil {
		t.Error(err)
	}
}

func TestOneOfManyGetsTheName(t *testing.T) {
	r := NewRecords(t.TempDir(), t.TempDir())
	var wg sync.WaitGroup
	errs := make([]error, 10)
	for i := range errs {
		wg.Go(func() { errs[i] = r.Insert(&Container{ID: NewID(), Spec: Spec{Name: "only"}}) })
	}
	wg.Wait()
	won := 0
	for _, err := range errs {
		if err == nil {
			won++
		}
	}
	if ids, _ := r.IDs(); won != 1 || len(ids) != 1 {
		t.Errorf("%d of 10 got the name, %d records are left", won, len(ids))
	}
}

func TestWhatRanBeforeABootIsExited(t *testing.T) {
	r := NewRecords(t.TempDir(), t.TempDir())
	c := &Container{ID: NewID(), Spec: Spec{Name: "web"}, State: State{Phase: Running, Pid: 7}}
	if err := r.Insert(c); err != nil {
		t.Fatal(err)
	}
	if err := r.SaveStarted(c); err != nil {
		t.Fatal(err)
	}
	if got, _ := r.Read(c.ID); got.State.Phase != Running || got.State.Pid != 7 {
		t.Errorf("in the same boot: %+v", got.State)
	}
	if err := os.RemoveAll(r.RunDir(c.ID)); err != nil {
		t.Fatal(err)
	}
	if got, _ := r.Read(c.ID); got.State.Phase != Exited || got.State.Pid != 0 || got.State.ExitCode != 255 {
		t.Errorf("after a boot: %+v", got.State)
	}
	// The power failed before the copy was on disk, and after its name was.
	if err := os.WriteFile(r.finalPath(c.ID), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if got, _ := r.Read(c.ID); got.State.Phase != Exited || got.State.ExitCode != 255 {
		t.Errorf("with an empty copy after a boot: %+v", got.State)
	}
	if err := os.Remove(r.finalPath(c.ID)); err != nil {
		t.Fatal(err)
	}
	if got, _ := r.Read(c.ID); got.State.Phase != Created {
		t.Errorf("without a copy after a boot: %+v", got.State)
	}
}

// A host name of digits alone would be taken for an address.
func TestNewIDIsNoNumber(t *testing.T) {
	digits, good := bytes.Repeat([]byte{0x42}, 32), bytes.Repeat([]byte{0xb1}, 32)
	if id := newID(io.MultiReader(bytes.NewReader(digits), bytes.NewReader(good))); id != strings.Repeat("b1", 32) {
		t.Errorf("the ID is %s", id)
	}
}
