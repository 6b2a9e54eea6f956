package volumes

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/stack-run/stack/internal/lock"
)

// writing fills a volume with one file.
func writing(name, content string) FillOptions {
	return FillOptions{
		Spec:    Spec{Name: name},
		Mounted: func(string) ([]string, error) { return nil, nil },
		Write: func(_ context.Context, dir string) error {
			return os.WriteFile(filepath.Join(dir, "f"), []byte(content), 0o600)
		},
	}
}

func TestFill(t *testing.T) {
	s := openStore(t)
	if v, err := s.Fill(t.Context(), writing("new", "one")); err != nil || !v.Seeded || s.contentOf(t, "new") != "one" {
		t.Errorf("%+v, %v", v, err)
	}
	empty := create(t, s, Spec{Name: "empty", Project: "p", Labels: map[string]string{"k": "v"}})
	if err := os.Chmod(empty.Mountpoint, os.ModeSticky|0o770); err != nil {
		t.Fatal(err)
	}
	if v, err := s.Fill(t.Context(), writing("empty", "two")); err != nil || v.Project != "p" || v.Labels["k"] != "v" || s.contentOf(t, "empty") != "two" {
		t.Errorf("%+v, %v", v, err)
	}
	if i, err := os.Stat(empty.Mountpoint); err != nil || i.Mode() != os.ModeDir|os.ModeSticky|0o770 {
		t.Errorf("the top directory has another mode: %v, %v", i, err)
	}
	var full *NotEmptyError
	if _, err := s.Fill(t.Context(), writing("empty", "three")); !errors.As(err, &full) || s.contentOf(t, "empty") != "two" {
		t.Errorf("%v", err)
	}
	o := writing("empty", "three")
	o.Replace = true
	if _, err := s.Fill(t.Context(), o); err != nil || s.contentOf(t, "empty") != "three" {
		t.Errorf("%v", err)
	}
	if namesIn(t, s) != "empty new" {
		t.Errorf("left: %s", namesIn(t, s))
	}
}

func TestFillThatFails(t *testing.T) {
	s := openStore(t)
	filled(t, s, Spec{Name: "a"}, "data")
	create(t, s, Spec{Name: "elsewhere", DriverOpts: map[string]string{"type": "none", "o": "bind", "device": "/srv"}})
	failing := writing("a", "")
	failing.Replace = true
	failing.Write = func(_ context.Context, dir string) error {
		return errors.Join(os.WriteFile(filepath.Join(dir, "half"), nil, 0o600), errors.New("no space"))
	}
	used := writing("a", "")
	used.Replace, used.Mounted = true, func(string) ([]string, error) { return []string{"web-1"}, nil }
	late := writing("a", "other")
	late.Replace = true
	wrote := false
	late.Write = func(context.Context, string) error { wrote = true; return nil }
	late.Mounted = func(string) ([]string, error) {
		if wrote {
			return []string{"web-2"}, nil
		}
		return nil, nil
	}
	fresh := failing
	fresh.Spec.Name = "fresh"
	for says, o := range map[string]FillOptions{
		"no space": failing, "web-1": used, "web-2": late, "/srv": writing("elsewhere", ""), "only letters": writing("../x", ""), "space": fresh,
	} {
		if v, err := s.Fill(t.Context(), o); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: %+v, %v", says, v, err)
		}
	}
	if s.contentOf(t, "a") != "data" || namesIn(t, s) != "a elsewhere" {
		t.Errorf("%s, %s", s.contentOf(t, "a"), namesIn(t, s))
	}
}

// What another process is about to fill is left alone, and what one left that was
// killed goes.
func TestFillLeftovers(t *testing.T) {
	s := openStore(t)
	create(t, s, Spec{Name: "a"})
	for _, name := range []string{".fill-dead", ".fill-alive"} {
		if err := os.MkdirAll(filepath.Join(s.root(), name, dataName, "x"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	held, err := lock.Exclusive(t.Context(), filepath.Join(s.root(), ".fill-alive"), lock.Dir())
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Tidy(t.Context()); err != nil || namesIn(t, s) != ".fill-alive a" {
		t.Errorf("%v, %s", err, namesIn(t, s))
	}
	held.Unlock()
	if _, err := s.Fill(t.Context(), writing("b", "x")); err != nil || namesIn(t, s) != "a b" {
		t.Errorf("%v, %s", err, namesIn(t, s))
	}
}

// Of a volume that comes and goes while it is filled there is always one whole.
func TestFillBesideOthers(t *testing.T) {
	s := openStore(t)
	var removed atomic.Int64
	done := make(chan struct{})
	go func() {
		defer close(done)
		for range 200 {
			if s.Remove(context.Background(), "a", nil) == nil {
				removed.Add(1)
			}
		}
	}()
	for range 50 {
		o := writing("a", "content")
		o.Replace = true
		if _, err := s.Fill(t.Context(), o); err != nil {
			t.Error(err)
		}
		if got := s.contentOf(t, "a"); got != "content" && !strings.Contains(got, "not exist") && !strings.Contains(got, "no such file") {
			t.Error(got)
		}
	}
	<-done
	if _, err := s.Fill(t.Context(), writing("b", "x")); err != nil || strings.Contains(namesIn(t, s), ".") {
		t.Errorf("%v, %s (%d removed)", err, namesIn(t, s), removed.Load())
	}
}

func TestContentIsCopied(t *testing.T) {
	s := openStore(t)
	filled(t, s, Spec{Name: "a"}, "data")
	c, err := s.Content(t.Context(), "a")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	o := writing("b", "")
	o.Write = c.CopyTo
	if _, err := s.Fill(t.Context(), o); err != nil || s.contentOf(t, "b") != "data" {
		t.Error(err)
	}
	if err := c.Intact(); err != nil {
		t.Error(err)
	}
	// Who reads is in nobody's way, but is told.
	if err := s.Remove(t.Context(), "a", nil); err != nil {
		t.Error(err)
	}
	if err := c.Intact(); err == nil {
		t.Error("a removed volume is taken for whole")
	}
	create(t, s, Spec{Name: "memory", DriverOpts: map[string]string{"type": "tmpfs", "device": "tmpfs"}})
	if _, err := s.Content(t.Context(), "memory"); err == nil || !strings.Contains(err.Error(), "tmpfs has content only while") {
		t.Error(err)
	}
}
