package engine

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// damages are what can happen to a file.
var damages = map[string]func(path string) error{
	"missing": os.Remove,
	"empty":   func(path string) error { return os.Truncate(path, 0) },
	"cut": func(path string) error {
		info, err := os.Stat(path)
		if err != nil {
			return err
		}
		return os.Truncate(path, info.Size()/2)
	},
	"garbled": func(path string) error { return os.WriteFile(path, []byte("\x7fELF\x02\x01"), 0o600) },
	"newer":   func(path string) error { return os.WriteFile(path, []byte(`{"version":99,"phase":{}}`), 0o600) },
	"a directory": func(path string) error {
		return errors.Join(os.Remove(path), os.Mkdir(path, 0o700))
	},
}

func each(t *testing.T, run func(t *testing.T, damage string, harm func(string) error)) {
	for name, harm := range damages {
		t.Run(name, func(t *testing.T) { run(t, name, harm) })
	}
}

// pair is two containers of two projects; the first is going to be damaged.
func pair(t *testing.T) (r *Records, told *[]string, bad, good *Container) {
	t.Helper()
	r, told = NewRecords(t.TempDir(), t.TempDir()), new([]string)
	r.warn = func(format string, args ...any) {
		for _, a := range args {
			if err, ok := a.(error); ok {
				*told = append(*told, err.Error())
			}
		}
	}
	add := func(project string) *Container {
		c := &Container{
			ID: NewID(), Project: project, Service: "web", Index: 1, Created: time.Now().UTC(),
			Spec:  Spec{Name: project + "-web-1", Labels: map[string]string{"com.docker.compose.project": project}},
			State: State{Phase: Exited, ExitCode: 3},
		}
		if err := errors.Join(r.Insert(c), r.SaveFinal(c)); err != nil {
			t.Fatal(err)
		}
		return c
	}
	return r, told, add("bad"), add("good")
}

func insert(t *testing.T, r *Records, name string) *Container {
	t.Helper()
	c := &Container{ID: NewID(), Project: "bad", Spec: Spec{Name: name}, State: State{Phase: Created}}
	if err := r.Insert(c); err != nil {
		t.Fatalf("the name %s cannot be had: %v", name, err)
	}
	return c
}

func TestABrokenRecordIsSetAside(t *testing.T) {
	each(t, func(t *testing.T, damage string, harm func(string) error) {
		r, told, bad, good := pair(t)
		if err := harm(r.configPath(bad.ID)); err != nil {
			t.Fatal(err)
		}
		all, err := r.List()
		if err != nil || len(all) != 1 || all[0].ID != good.ID {
			t.Fatalf("List gives %v, %v", all, err)
		}
		if c, err := r.Find(good.Spec.Name); err != nil || c.ID != good.ID {
			t.Errorf("Find(%s) gives %v", good.Spec.Name, err)
		}
		if damage == "missing" {
			// Without a record it is nobody's.
			if len(*told) != 0 {
				t.Errorf("told %q", *told)
			}
			insert(t, r, bad.Spec.Name)
			return
		}
		if len(*told) != 1 || !strings.Contains((*told)[0], r.configPath(bad.ID)) || !strings.Contains((*told)[0], bad.Spec.Name) {
			t.Errorf("told %q", *told)
		}
		_, broken, _ := r.Scan()
		if len(broken) != 1 {
			t.Fatalf("%d broken records", len(broken))
		}
		b := broken[0]
		if b.ID != bad.ID || b.Name != bad.Spec.Name || b.Project != "bad" || b.Service != "web" || b.Newer != (damage == "newer") {
			t.Errorf("got %+v", b)
		}
		for _, ref := range []string{bad.Spec.Name, bad.ID, bad.ID[:12]} {
			var found *Broken
			if _, err := r.Find(ref); !errors.As(err, &found) || found.ID != bad.ID {
				t.Errorf("Find(%s) gives %v", ref, err)
			}
		}
		err = r.Insert(&Container{ID: NewID(), Spec: Spec{Name: bad.Spec.Name}})
		if err == nil || !strings.Contains(err.Error(), r.configPath(bad.ID)) {
			t.Errorf("the error of who wants the name does not tell the file: %v", err)
		}
	})
}

// What is known without the state files is what the record and its name say.
func TestABrokenRecordAlone(t *testing.T) {
	for _, c := range []struct{ damage, project string }{{"cut", "bad"}, {"garbled", ""}, {"empty", ""}} {
		r, _, bad, _ := pair(t)
		text, err := os.ReadFile(r.configPath(bad.ID))
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(damages[c.damage](r.configPath(bad.ID)), os.Remove(r.statePath(bad.ID)), os.Remove(r.finalPath(bad.ID))); err != nil {
			t.Fatal(err)
		}
		if c.damage == "cut" && !strings.Contains(string(text[:len(text)/2]), "compose.project") {
			t.Skip("the project is in the second half")
		}
		_, broken, _ := r.Scan()
		if len(broken) != 1 || broken[0].Name != bad.Spec.Name || broken[0].Project != c.project {
			t.Errorf("%s: got %+v", c.damage, broken)
		}
	}
}

func TestABrokenStateIsRebuilt(t *testing.T) {
	each(t, func(t *testing.T, damage string, harm func(string) error) {
		if damage == "newer" {
			t.Skip("it has no version")
		}
		r, _, bad, good := pair(t)
		if err := harm(r.statePath(bad.ID)); err != nil {
			t.Fatal(err)
		}
		all, err := r.List()
		if err != nil || len(all) != 2 {
			t.Fatalf("List gives %v, %v", all, err)
		}
		c, err := r.Read(bad.ID)
		if err != nil || c.State.Phase != Exited || c.State.ExitCode != 3 {
			t.Errorf("without its file: %+v, %v", c.State, err)
		}
		// What the kernel knows goes first.
		r.facts = func(c *Container) (State, bool) {
			s := c.State
			s.Phase, s.Pid = Running, 4711
			return s, c.ID == bad.ID
		}
		if c, err = r.Read(bad.ID); err != nil || c.State.Phase != Running || c.State.Pid != 4711 {
			t.Errorf("with a process: %+v, %v", c.State, err)
		}
		if c, err = r.Read(good.ID); err != nil || c.State.Phase != Exited {
			t.Errorf("the other one: %+v, %v", c.State, err)
		}
		if err := r.SaveState(c); err != nil {
			t.Errorf("it cannot be written again: %v", err)
		}
	})
}

// It is written at a start first, so the container ran.
func TestABrokenFinalStateIsThatOfWhatRan(t *testing.T) {
	each(t, func(t *testing.T, damage string, harm func(string) error) {
		r, _, bad, _ := pair(t)
		if err := errors.Join(harm(r.finalPath(bad.ID)), os.RemoveAll(r.RunDir(bad.ID))); err != nil {
			t.Fatal(err)
		}
		want := Exited
		if damage == "missing" { // as after a power failure before anything was on disk
			want = Created
		}
		c, err := r.Read(bad.ID)
		if err != nil || c.State.Phase != want {
			t.Errorf("it is %s, %v", c.State.Phase, err)
		}
		if err := r.SaveFinal(c); err != nil {
			t.Errorf("it cannot be written again: %v", err)
		}
	})
}

func TestBrokenSecretsAreAskedForAgain(t *testing.T) {
	each(t, func(t *testing.T, _ string, harm func(string) error) {
		r, _, bad, _ := pair(t)
		path := r.secretsPath(bad.ID)
		if err := errors.Join(os.WriteFile(path, []byte(`{"/run/secrets/a":"eA=="}`), 0o600), harm(path)); err != nil {
			t.Fatal(err)
		}
		if got := r.Secrets(bad.ID); len(got) != 0 {
			t.Errorf("got %q", got)
		}
	})
}

func TestABrokenNameIsMended(t *testing.T) {
	for name, harm := range map[string]func(path string) error{
		"missing":        func(string) error { return nil },
		"a file":         func(path string) error { return os.WriteFile(path, nil, 0o600) },
		"a directory":    func(path string) error { return os.MkdirAll(filepath.Join(path, "x"), 0o700) },
		"to nobody":      func(path string) error { return os.Symlink(NewID(), path) },
		"to no ID":       func(path string) error { return os.Symlink("..", path) },
		"to another one": nil,
	} {
		t.Run(name, func(t *testing.T) {
			r, _, bad, good := pair(t)
			if harm == nil {
				harm = func(path string) error { return os.Symlink(good.ID, path) }
			}
			path := r.namePath(bad.Spec.Name)
			if err := errors.Join(os.Remove(path), harm(path)); err != nil {
				t.Fatal(err)
			}
			if all, err := r.List(); err != nil || len(all) != 2 {
				t.Errorf("List gives %v, %v", all, err)
			}
			// As Sweep does.
			l := leftovers{kinds: map[string][]string{}, groups: map[string][]string{}}
			if err := r.checkNames(&l, map[string]bool{bad.ID: true, good.ID: true}); err != nil {
				t.Fatal(err)
			}
			for _, stale := range l.names {
				if err := r.freeName(stale); err != nil {
					t.Error(err)
				}
			}
			if err := r.relink(l.unnamed); err != nil {
				t.Error(err)
			}
			for _, c := range []*Container{bad, good} {
				if id, err := os.Readlink(r.namePath(c.Spec.Name)); id != c.ID {
					t.Errorf("%s leads to %q, %v", c.Spec.Name, id, err)
				}
			}
		})
	}
}
