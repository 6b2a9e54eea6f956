package engine

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// FuzzRecord has the files of a container say anything. It can be used or is told to be
// broken, under its ID in either case, is written as it was read, and its removal takes
// nothing with it that belongs to another.
func FuzzRecord(f *testing.F) {
	id := strings.Repeat("b", idDigits)
	c := Container{
		Version: schemaVersion, ID: id, Project: "shop", Service: "web", Index: 1, Created: time.Unix(1000, 0).UTC(),
		Spec:  Spec{Name: "shop-web-1", Labels: map[string]string{"com.docker.compose.project": "shop"}},
		State: State{Phase: Exited, ExitCode: 3, Pid: 7},
	}
	text := func(v any) []byte {
		data, err := json.Marshal(v)
		if err != nil {
			f.Fatal(err)
		}
		return data
	}
	config, state := text(c), text(newStateFile(&c, c.State))
	f.Add(config, state, state)
	f.Add(config, []byte{}, []byte{})
	f.Add(config[:len(config)/2], state, []byte{})
	f.Add(config[:len(config)/2], state[:len(state)/2], []byte("\x00\x00"))
	f.Add([]byte(`{"version":99,"phase":{}}`), []byte("null"), []byte("[]"))
	f.Add([]byte(`{"version":1,"id":"`+id+`","spec":{"name":"../containers/`+strings.Repeat("a", idDigits)+`"}}`), []byte(`{"name":"../../outside"}`), []byte("{}"))
	f.Fuzz(func(t *testing.T, config, state, final []byte) {
		root := t.TempDir()
		outside := filepath.Join(root, "outside")
		if err := os.WriteFile(outside, []byte("others'"), 0o600); err != nil {
			t.Fatal(err)
		}
		r := NewRecords(root+"/data", root+"/run")
		good := &Container{ID: strings.Repeat("a", idDigits), Spec: Spec{Name: "good"}, State: State{Phase: Created}}
		if err := r.Insert(good); err != nil {
			t.Fatal(err)
		}
		for path, data := range map[string][]byte{r.configPath(id): config, r.statePath(id): state, r.finalPath(id): final} {
			if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path, data, 0o600)); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.Symlink(id, r.namePath("shop-web-1")); err != nil {
			t.Fatal(err)
		}
		all, broken, err := r.Scan()
		if err != nil || len(all)+len(broken) != 2 {
			t.Fatalf("of two containers there are %d, and %d broken, %v", len(all), len(broken), err)
		}
		for _, ref := range []string{id, id[:5], "shop-web-1"} {
			c, err := r.Find(ref)
			var b *Broken
			switch {
			case err == nil && c.ID == id:
			case errors.As(err, &b) && b.ID == id && strings.Contains(err.Error(), "set aside"):
			default:
				t.Fatalf("%s is %+v, %v", ref, c, err)
			}
		}
		if c, err := r.Read(id); err == nil {
			if err := errors.Join(r.SaveConfig(c), r.SaveFinal(c)); err != nil {
				t.Fatal(err)
			}
			again, err := r.Read(id)
			if err != nil {
				t.Fatalf("it is written, and cannot be read: %v", err)
			}
			c.State.BootID, again.State.BootID = "", ""
			before, _ := json.Marshal(c)
			if after, _ := json.Marshal(again); string(after) != string(before) {
				t.Errorf("written\n%s\nread\n%s", before, after)
			}
			if err := r.Delete(c); err != nil {
				t.Error(err)
			}
		} else if err := errors.Join(r.forget(id), r.dropNames(id), r.deleteDirs(id)); err != nil {
			t.Error(err)
		}
		if c, err := r.Find("good"); err != nil || c.ID != good.ID {
			t.Errorf("of the other one there is %v, %v", c, err)
		}
		if data, err := os.ReadFile(outside); err != nil || string(data) != "others'" {
			t.Errorf("outside there is %q, %v", data, err)
		}
		if _, err := os.Lstat(r.DataDir(id)); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("it is still there: %v", err)
		}
	})
}
