package volumes

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

func openStore(t *testing.T) *Store {
	t.Helper()
	dir := t.TempDir()
	s, err := Open(Options{DataRoot: filepath.Join(dir, "data"), RunRoot: filepath.Join(dir, "run")})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func create(t *testing.T, s *Store, spec Spec) Volume {
	t.Helper()
	v, err := s.Create(t.Context(), spec)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func write(t *testing.T, path, content string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}

func TestCreateIsIdempotentAndNamesDifferences(t *testing.T) {
	s := openStore(t)
	spec := Spec{Name: "shop_data", Project: "shop", Key: "data", Labels: map[string]string{"a": "1"}}
	first := create(t, s, spec)
	write(t, filepath.Join(first.Mountpoint, "f"), "x")
	again := create(t, s, spec)
	if !again.Created.Equal(first.Created) || again.Driver != "local" {
		t.Errorf("second create gave %+v, first %+v", again, first)
	}
	spec.Labels = map[string]string{"a": "2", "b": ""}
	spec.DriverOpts = map[string]string{"type": "tmpfs", "device": "tmpfs"}
	v, err := s.Create(t.Context(), spec)
	var differs *DifferError
	if !errors.As(err, &differs) || strings.Join(differs.Fields, " ") != "driverOpts.device driverOpts.type labels.a labels.b" {
		t.Errorf("differing create: %v", err)
	}
	if v.Labels["a"] != "1" {
		t.Errorf("differing create returned %+v", v)
	}
}

func TestCreateRefuses(t *testing.T) {
	s := openStore(t)
	for _, spec := range []Spec{
		{Name: ""}, {Name: ".."}, {Name: ".new"}, {Name: "a/b"}, {Name: "a b"}, {Name: strings.Repeat("a", 256)},
		{Name: "x", Driver: "rclone"}, {Name: "x", DriverOpts: map[string]string{"foo": "bar"}},
	} {
		if _, err := s.Create(t.Context(), spec); err == nil {
			t.Errorf("%+v was created", spec)
		}
	}
	if list, err := s.List(); err != nil || len(list) != 0 {
		t.Errorf("List = %v, %v", list, err)
	}
}

func TestRemove(t *testing.T) {
	s := openStore(t)
	v := create(t, s, Spec{Name: "data"})
	users := func(name string) []string { return []string{"web-1", "web-2"} }
	var used *InUseError
	if err := s.Remove(t.Context(), "data", users); !errors.As(err, &used) || len(used.Users) != 2 {
		t.Errorf("remove of a used volume: %v", err)
	}
	if err := s.Remove(t.Context(), "data", func(string) []string { return nil }); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(v.Mountpoint); !os.IsNotExist(err) {
		t.Errorf("content is still there: %v", err)
	}
	for _, name := range []string{"data", "..", ""} {
		var missing *NotFoundError
		if err := s.Remove(t.Context(), name, nil); !errors.As(err, &missing) {
			t.Errorf("remove of %q: %v", name, err)
		}
	}
	if left, _ := os.ReadDir(s.root()); len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
}

func TestLeftoversOfADeadProcess(t *testing.T) {
	s := openStore(t)
	create(t, s, Spec{Name: "a"})
	for _, dir := range []string{".new/_data", ".gone-1/_data"} {
		if err := os.MkdirAll(filepath.Join(s.root(), dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	create(t, s, Spec{Name: "b"})
	if err := s.Remove(t.Context(), "a", nil); err != nil {
		t.Fatal(err)
	}
	entries, _ := os.ReadDir(s.root())
	if len(entries) != 1 || entries[0].Name() != "b" {
		t.Errorf("left: %v", entries)
	}
}

func TestManyProcessesAtOnce(t *testing.T) {
	s := openStore(t)
	var wg sync.WaitGroup
	for i := range 40 {
		wg.Go(func() {
			name := fmt.Sprintf("v%d", i%4)
			_, err := s.Create(context.Background(), Spec{Name: name})
			if err != nil {
				t.Error(err)
			}
			err = s.Remove(context.Background(), name, nil)
			if err != nil && !isNotFound(err) {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if left, _ := os.ReadDir(s.root()); len(left) != 0 {
		t.Errorf("left: %v", left)
	}
}

func TestALockCanBeGivenUp(t *testing.T) {
	s := openStore(t)
	unlock, err := s.lock(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := s.Create(ctx, Spec{Name: "a"}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("create under a held lock: %v", err)
	}
	unlock()
	create(t, s, Spec{Name: "a"})
}

func TestPrune(t *testing.T) {
	s := openStore(t)
	for _, spec := range []Spec{
		{Name: "anon", Anonymous: true}, {Name: "anon-used", Anonymous: true},
		{Name: "named"}, {Name: "named-keep", Labels: map[string]string{"keep": "yes"}},
	} {
		v := create(t, s, spec)
		write(t, filepath.Join(v.Mountpoint, "f"), strings.Repeat("x", 8192))
	}
	inUse := func(name string) bool { return name == "anon-used" }
	report, err := s.Prune(t.Context(), PruneFilter{}, inUse)
	if err != nil || fmt.Sprint(report.Deleted) != "[anon]" || report.Reclaimed < 8192 {
		t.Errorf("prune: %+v %v", report, err)
	}
	filter, err := ParsePruneFilter([]string{"all=true", "label!=keep=yes"})
	if err != nil {
		t.Fatal(err)
	}
	report, err = s.Prune(t.Context(), filter, inUse)
	if err != nil || fmt.Sprint(report.Deleted) != "[named]" {
		t.Errorf("prune -a: %+v %v", report, err)
	}
	if _, err := ParsePruneFilter([]string{"until=3h"}); err == nil {
		t.Error("an unknown filter passed")
	}
}

func TestUsageCountsHardLinksOnce(t *testing.T) {
	s := openStore(t)
	v := create(t, s, Spec{Name: "a"})
	write(t, filepath.Join(v.Mountpoint, "f"), strings.Repeat("x", 1<<20))
	one, err := s.Usage("a")
	if err != nil || one < 1<<20 {
		t.Fatalf("Usage = %d, %v", one, err)
	}
	if err := os.Link(filepath.Join(v.Mountpoint, "f"), filepath.Join(v.Mountpoint, "g")); err != nil {
		t.Fatal(err)
	}
	if two, err := s.Usage("a"); err != nil || two != one {
		t.Errorf("Usage with a hard link = %d, %v; without %d", two, err, one)
	}
}
