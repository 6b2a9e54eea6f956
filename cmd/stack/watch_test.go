package main

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/stack-run/stack/cmd/stack/internal/cli"
	"github.com/stack-run/stack/compose"
)

// watchedDir is a project with something to watch.
func watchedDir(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	text := "name: shop\nservices:\n  web:\n    image: web\n    develop:\n      watch:\n        - {path: ., action: sync, target: /app}\n  db:\n    image: db\n  top:\n    image: top\n    depends_on: [web]\n"
	if err := os.WriteFile(filepath.Join(dir, "compose.yaml"), []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return dir
}

func TestMenuWatches(t *testing.T) {
	user, tty := openPTY(t)
	s := newSession(t, watchedDir(t))
	s.App.In, s.App.Out = tty, tty
	s.fake.up = started
	s.fake.follow = func(ctx context.Context, _ compose.LogOptions, _ func(compose.LogLine) error) error {
		<-ctx.Done()
		return nil
	}
	// Each text is answered with a key when it appears on the screen.
	steps := []struct{ text, key string }{
		{"Enable Watch", "w"}, {"Watch enabled", ""}, {"Disable Watch", "w"}, {"Watch disabled", ""}, {"Enable Watch", "d"},
	}
	var mu sync.Mutex
	var screen strings.Builder
	go func() {
		seen := 0
		buf := make([]byte, 4096)
		for {
			n, err := user.Read(buf)
			if err != nil {
				return
			}
			mu.Lock()
			screen.Write(buf[:n])
			all := screen.String()
			mu.Unlock()
			for len(steps) > 0 {
				i := strings.Index(all[seen:], steps[0].text)
				if i < 0 {
					break
				}
				user.WriteString(steps[0].key)
				steps = steps[1:]
				if len(steps) != 1 && len(steps) != 3 { // these two come in either order
					seen += i + 1
				}
			}
		}
	}()
	s.App.Global = cli.GlobalOptions{}
	if code := run(t.Context(), s.App, "stack", []string{"up"}); code != 0 {
		t.Errorf("exit code %d: %s", code, s.err.String())
	}
	if n := len(slices.DeleteFunc(s.fake.noted(), func(c string) bool { return !strings.HasPrefix(c, "watch shop") })); n != 1 {
		t.Errorf("watched %d times: %q", n, s.fake.noted())
	}
	mu.Lock()
	defer mu.Unlock()
	if !strings.Contains(screen.String(), "Watch disabled") {
		t.Errorf("%q", screen.String())
	}
}

func TestWatchOptions(t *testing.T) {
	s := newSession(t, "shop")
	for _, args := range [][]string{{"watch"}, {"up", "--watch"}, {"watch", "--no-up"}} {
		if _, text, code := s.do(t, args...); code != 1 || !strings.Contains(text, "none of the selected services is configured for watch") {
			t.Errorf("%v: exit code %d: %s", args, code, text)
		}
	}
	s = newSession(t, watchedDir(t))
	if _, text, code := s.do(t, "watch", "db"); code != 1 || !strings.Contains(text, "none of the selected services") {
		t.Errorf("exit code %d: %s", code, text)
	}
	if _, text, code := s.do(t, "watch", "--dry-run", "--no-up"); code != 0 || !strings.Contains(text, "Service web  would be watched: sync at changes of ") {
		t.Errorf("exit code %d: %s", code, text)
	}
	// What a service depends on is watched with it.
	if _, text, code := s.do(t, "watch", "--dry-run", "--no-up", "top"); code != 0 || !strings.Contains(text, "Service web  would be watched") {
		t.Errorf("exit code %d: %s", code, text)
	}
	if len(s.fake.noted()) > 0 {
		t.Errorf("%q", s.fake.noted())
	}
	if out, _, _ := s.do(t, "__complete", "watch", ""); !strings.Contains(out, "web") {
		t.Errorf("completion: %s", out)
	}
	if out, _, _ := s.do(t, "watch", "--help"); !strings.Contains(out, "--no-up") || !strings.Contains(out, "--prune") || !strings.Contains(out, "--quiet") {
		t.Error(out)
	}
}
