package volumes

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
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
	"garbled": func(path string) error { return os.WriteFile(path, []byte("\x7fELF"), 0o600) },
	"newer":   func(path string) error { return os.WriteFile(path, []byte(`{"version":99,"name":["x"]}`), 0o600) },
	"a directory": func(path string) error {
		return errors.Join(os.Remove(path), os.Mkdir(path, 0o700))
	},
}

func TestABrokenVolumeIsSetAside(t *testing.T) {
	for damage, harm := range damages {
		t.Run(damage, func(t *testing.T) {
			s := openStore(t)
			var told []string
			s.opts.Warnf = func(_ string, args ...any) { told = append(told, args[0].(error).Error()) }
			spec := Spec{Name: "shop_data", Project: "shop", Key: "data"}
			bad := create(t, s, spec)
			write(t, filepath.Join(bad.Mountpoint, "precious"), "x")
			create(t, s, Spec{Name: "good"})
			path := filepath.Join(s.dir("shop_data"), recordName)
			if err := harm(path); err != nil {
				t.Fatal(err)
			}
			list, err := s.List()
			if err != nil || len(list) != 1 || list[0].Name != "good" {
				t.Fatalf("List gives %v, %v", list, err)
			}
			if len(told) != 1 || !strings.Contains(told[0], path) {
				t.Errorf("told %q", told)
			}
			var b *Broken
			if _, err := s.Get("shop_data"); !errors.As(err, &b) || b.Newer != (damage == "newer") {
				t.Errorf("Get gives %v", err)
			}
			// Pruning does not take what nobody can tell the use of.
			if _, err := s.Prune(t.Context(), PruneFilter{All: true}, func(string) bool { return false }); err != nil {
				t.Error(err)
			}
			if content, err := os.ReadFile(filepath.Join(bad.Mountpoint, "precious")); string(content) != "x" {
				t.Fatalf("the data: %v", err)
			}
			v, err := s.Create(t.Context(), spec)
			if damage == "newer" {
				if !errors.As(err, &b) {
					t.Errorf("what a newer version recorded is written over: %v", err)
				}
			} else if err != nil || v.Mountpoint != bad.Mountpoint {
				t.Errorf("Create gives %v, %v", v, err)
			} else if v, err := s.Get("shop_data"); err != nil || v.Project != "shop" {
				t.Errorf("it is not healed: %+v, %v", v, err)
			}
			if content, _ := os.ReadFile(filepath.Join(bad.Mountpoint, "precious")); string(content) != "x" {
				t.Error("the data is gone")
			}
			if err := harm(path); err != nil {
				t.Fatal(err)
			}
			if err := s.Remove(t.Context(), "shop_data", nil); err != nil {
				t.Errorf("it cannot be removed: %v", err)
			}
			if _, err := s.Get("shop_data"); !isNotFound(err) {
				t.Errorf("after the removal Get gives %v", err)
			}
		})
	}
}

func TestTidy(t *testing.T) {
	s := openStore(t)
	create(t, s, Spec{Name: "keep"})
	for _, name := range []string{".new", ".gone-0123"} {
		if err := os.MkdirAll(filepath.Join(s.root(), name, "_data"), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Tidy(t.Context()); err != nil {
		t.Fatal(err)
	}
	entries, err := os.ReadDir(s.root())
	if err != nil || len(entries) != 1 {
		t.Errorf("left: %v, %v", entries, err)
	}
}
