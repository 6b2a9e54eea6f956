package volumes

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

func nobody(string) []string { return nil }

func (s *Store) contentOf(t *testing.T, name string) string {
	t.Helper()
	v, err := s.Get(name)
	if err != nil {
		return err.Error()
	}
	text, err := os.ReadFile(filepath.Join(v.Mountpoint, "f"))
	if err != nil {
		return err.Error()
	}
	return string(text)
}

func filled(t *testing.T, s *Store, spec Spec, content string) Volume {
	t.Helper()
	v := create(t, s, spec)
	write(t, filepath.Join(v.Mountpoint, "f"), content)
	return v
}

func namesIn(t *testing.T, s *Store) string {
	t.Helper()
	entries, err := os.ReadDir(s.root())
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return strings.Join(names, " ")
}

func TestRename(t *testing.T) {
	s := openStore(t)
	before := filled(t, s, Spec{Name: "a", Labels: map[string]string{"k": "v"}}, "data")
	v, err := s.Rename(t.Context(), "a", "b", RenameOptions{Users: nobody})
	if err != nil || v.Name != "b" || !v.Created.Equal(before.Created) || v.Labels["k"] != "v" {
		t.Fatalf("%+v, %v", v, err)
	}
	if got, err := s.Get("b"); err != nil || got.Mountpoint != v.Mountpoint || s.contentOf(t, "b") != "data" || namesIn(t, s) != "b" {
		t.Errorf("%+v, %v, %s", got, err, namesIn(t, s))
	}
	if text, err := os.ReadFile(filepath.Join(s.dir("b"), recordName)); err != nil || strings.Contains(string(text), "renamed") {
		t.Errorf("the record still tells of the rename: %s, %v", text, err)
	}
	anonymous := filled(t, s, Spec{Name: anonymousName(), Anonymous: true, Project: "p", Labels: map[string]string{AnonymousLabel: ""}}, "x")
	if v, err := s.Rename(t.Context(), anonymous.Name, "named", RenameOptions{Users: nobody}); err != nil || v.Anonymous || len(v.Labels) > 0 {
		t.Errorf("%+v, %v", v, err)
	}
}

func TestRenameRefuses(t *testing.T) {
	s := openStore(t)
	filled(t, s, Spec{Name: "a"}, "a")
	filled(t, s, Spec{Name: "b"}, "b")
	filled(t, s, Spec{Name: "shop_data", Project: "shop", Key: "data"}, "shop")
	used := func(name string) []string { return []string{"web-1"} }
	for _, tt := range []struct {
		name, to string
		o        RenameOptions
		says     string
	}{
		{"a", "b", RenameOptions{Users: nobody}, "exists already"},
		{"a", "a", RenameOptions{Users: nobody}, "already"},
		{"a", "../b", RenameOptions{Users: nobody}, "only letters"},
		{"none", "c", RenameOptions{Users: nobody}, "does not exist"},
		{"../a", "c", RenameOptions{Users: nobody}, "does not exist"},
		{"a", "c", RenameOptions{Users: used}, "web-1"},
		{"shop_data", "c", RenameOptions{Users: nobody}, `"name: c" for volumes.data`},
	} {
		if _, err := s.Rename(t.Context(), tt.name, tt.to, tt.o); err == nil || !strings.Contains(err.Error(), tt.says) {
			t.Errorf("%s to %s: %v", tt.name, tt.to, err)
		}
	}
	if namesIn(t, s) != "a b shop_data" || s.contentOf(t, "a") != "a" || s.contentOf(t, "b") != "b" {
		t.Error(namesIn(t, s))
	}
	v, err := s.Rename(t.Context(), "shop_data", "c", RenameOptions{Users: nobody, Owned: true})
	if err != nil || v.Project != "shop" || v.Key != "data" {
		t.Errorf("%+v, %v", v, err)
	}
}

// A container may be made between the look at who uses a volume and its rename.
func TestRenameGoesBackForWhoCameMeanwhile(t *testing.T) {
	s := openStore(t)
	filled(t, s, Spec{Name: "a"}, "a")
	looks := 0
	_, err := s.Rename(t.Context(), "a", "b", RenameOptions{Users: func(string) []string {
		if looks++; looks == 1 {
			return nil
		}
		if _, err := s.Get("b"); err != nil {
			t.Errorf("the second look is before the rename: %v", err)
		}
		return []string{"web-1"}
	}})
	var used *InUseError
	if !errors.As(err, &used) || s.contentOf(t, "a") != "a" || namesIn(t, s) != "a" {
		t.Errorf("%v, %s", err, namesIn(t, s))
	}
}

// At each point at which a rename may be cut off, one of the names has all of it, and a
// further rename goes on from there.
func TestRenameCutOff(t *testing.T) {
	for point := range 3 {
		s := openStore(t)
		v := filled(t, s, Spec{Name: "a"}, "data")
		renamed := v
		renamed.Name = "b"
		has, lacks := "a", "b"
		steps := []func() error{
			func() error { return announceRename(s.dir("a"), v, renamed) },
			func() error { has, lacks = "b", "a"; return moveDir(s.dir("a"), s.dir("b")) },
			func() error { return writeRecord(s.dir("b"), renamed) },
		}
		for _, step := range steps[:point+1] {
			if err := step(); err != nil {
				t.Fatal(err)
			}
		}
		if s.contentOf(t, has) != "data" {
			t.Errorf("after step %d: %s", point, s.contentOf(t, has))
		}
		if _, err := s.Get(lacks); !isNotFound(err) {
			t.Errorf("after step %d: %s is there: %v", point, lacks, err)
		}
		if _, err := s.Rename(t.Context(), has, "c", RenameOptions{Users: nobody}); err != nil || s.contentOf(t, "c") != "data" || namesIn(t, s) != "c" {
			t.Errorf("after step %d: %v, %s", point, err, namesIn(t, s))
		}
	}
}

func TestManyRenamesAtOnce(t *testing.T) {
	s := openStore(t)
	filled(t, s, Spec{Name: "v0"}, "data")
	var wg sync.WaitGroup
	for i := range 60 {
		wg.Go(func() {
			_, err := s.Rename(t.Context(), fmt.Sprintf("v%d", i%3), fmt.Sprintf("v%d", (i+1)%3), RenameOptions{Users: nobody})
			var taken *ExistsError
			if err != nil && !isNotFound(err) && !errors.As(err, &taken) {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if name := namesIn(t, s); s.contentOf(t, name) != "data" {
		t.Errorf("%s: %s", name, s.contentOf(t, name))
	}
}
