package session

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stack-run/stack/compose/desired"
	"github.com/stack-run/stack/compose/watch"
)

// host notes what is asked of it.
type host struct {
	mu         sync.Mutex
	changed    *sync.Cond
	calls      []string
	containers []Container
	replaced   []Container // what there is after a Replace
	listErr    error
	build      func(ctx context.Context) error
	copied     map[string]bool // what a copy is told to be a change of
}

func newHost() *host {
	h := &host{containers: []Container{{"1", "web-1", true}, {"2", "web-2", false}}, replaced: []Container{{"3", "web-1", true}}, copied: map[string]bool{}}
	h.changed = sync.NewCond(&h.mu)
	return h
}

func (h *host) note(format string, args ...any) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.calls = append(h.calls, fmt.Sprintf(format, args...))
	h.changed.Broadcast()
}

// until waits for a call and returns all up to it, which it forgets.
func (h *host) until(t *testing.T, call string) []string {
	t.Helper()
	late := false
	timer := time.AfterFunc(20*time.Second, func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		late = true
		h.changed.Broadcast()
	})
	defer timer.Stop()
	h.mu.Lock()
	defer h.mu.Unlock()
	for {
		if i := slices.Index(h.calls, call); i >= 0 {
			out := slices.Clone(h.calls[:i+1])
			h.calls = h.calls[i+1:]
			return out
		}
		if late {
			t.Fatalf("no %q; but %q", call, h.calls)
		}
		h.changed.Wait()
	}
}

func (h *host) Containers(context.Context, string) ([]Container, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.containers), h.listErr
}

func (h *host) Copy(_ context.Context, container string, copies []watch.Copy) ([]bool, error) {
	changed := make([]bool, len(copies))
	for i, c := range copies {
		h.mu.Lock()
		changed[i] = !h.copied[container+c.Source+fmt.Sprint(c.Gone)]
		h.mu.Unlock()
		what := "copy"
		if c.Gone {
			what = "remove"
		}
		if changed[i] {
			h.note("%s %s in %s", what, c.Target, container)
		}
	}
	return changed, nil
}

func (h *host) Build(ctx context.Context, service string) error {
	h.note("build %s", service)
	if h.build != nil {
		return h.build(ctx)
	}
	return nil
}

func (h *host) Replace(_ context.Context, service string) error {
	h.mu.Lock()
	h.containers = h.replaced
	h.mu.Unlock()
	h.note("replace %s", service)
	return nil
}

func (h *host) Restart(_ context.Context, service string) error {
	h.note("restart %s", service)
	return nil
}

func (h *host) Exec(_ context.Context, c Container, hook desired.Hook) error {
	h.note("exec %s in %s", strings.Join(hook.Command, " "), c.ID)
	return nil
}

func (h *host) Say(text string)  { h.note("say: %s", text) }
func (h *host) Warn(text string) { h.note("warn: %s", text) }

func start(t *testing.T, h *host, triggers ...desired.Trigger) {
	t.Helper()
	var rules []*watch.Rule
	for _, tr := range triggers {
		r, err := watch.NewRule("web", tr, "", nil)
		if err != nil {
			t.Fatal(err)
		}
		rules = append(rules, r)
	}
	s, err := Open(t.Context(), rules, h)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx, func() { h.note("ready") }) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	h.until(t, "ready")
}

func write(t *testing.T, dir, name, text string) {
	t.Helper()
	p := filepath.Join(dir, name)
	if err := errors.Join(os.MkdirAll(filepath.Dir(p), 0o755), os.WriteFile(p, []byte(text), 0o644)); err != nil {
		t.Fatal(err)
	}
}

// What could not be copied because nobody could say where is copied with the next.
func TestNothingIsOwedForEver(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "s/old", "1")
	h := newHost()
	start(t, h, desired.Trigger{Path: dir + "/s", Action: "sync", Target: "/s"})
	h.mu.Lock()
	h.listErr = errors.New("no list")
	h.mu.Unlock()
	write(t, dir, "s/a", "1")
	h.until(t, `warn: cannot sync service "web": no list`)
	h.mu.Lock()
	h.listErr = nil
	h.mu.Unlock()
	write(t, dir, "s/b", "1")
	got := h.until(t, `say: Syncing service "web" after 2 changes were detected`)
	for _, want := range []string{"copy /s/a in 1", "copy /s/a in 2", "copy /s/b in 1", "copy /s/b in 2"} {
		if !slices.Contains(got, want) {
			t.Errorf("no %q in %q", want, got)
		}
	}
}

// A container that is new stands beside one that has all.
func TestANewContainerCatchesUp(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "s/old", "1")
	write(t, dir, "b/old", "1")
	h := newHost()
	h.replaced = []Container{{"0", "web-0", true}, {"1", "web-1", true}, {"2", "web-2", true}}
	start(t, h, desired.Trigger{Path: dir + "/s", Action: "sync", Target: "/s"}, desired.Trigger{Path: dir + "/b", Action: "rebuild"})
	write(t, dir, "s/a", "1")
	h.until(t, `say: Syncing service "web" after 1 changes were detected`)
	write(t, dir, "b/x", "1")
	h.until(t, "replace web")
	h.until(t, "copy /s/a in 0")
}

func TestActions(t *testing.T) {
	dir := t.TempDir()
	for _, d := range []string{"sync", "restart", "syncrestart", "exec"} {
		write(t, dir, d+"/old", "1")
	}
	h := newHost()
	start(t, h,
		desired.Trigger{Path: dir + "/sync", Action: "sync", Target: "/s"},
		desired.Trigger{Path: dir + "/restart", Action: "restart"},
		desired.Trigger{Path: dir + "/syncrestart", Action: "sync+restart", Target: "/r"},
		desired.Trigger{Path: dir + "/exec", Action: "sync+exec", Target: "/e", Exec: desired.Hook{Command: []string{"make", "it"}}},
	)
	write(t, dir, "sync/a", "1")
	got := h.until(t, `say: Syncing service "web" after 1 changes were detected`)
	slices.Sort(got)
	if want := []string{"copy /s/a in 1", "copy /s/a in 2", got[2]}; !slices.Equal(got, want) {
		t.Errorf("%q", got)
	}
	write(t, dir, "restart/a", "1")
	h.until(t, "restart web")
	write(t, dir, "syncrestart/a", "1")
	h.until(t, "copy /r/a in 1")
	h.until(t, "restart web")
	write(t, dir, "exec/a", "1")
	h.until(t, "copy /e/a in 1")
	h.until(t, "exec make it in 1") // and in none that does not run

	// Where a copy changes nothing, nothing follows.
	h.mu.Lock()
	for _, c := range []string{"1", "2"} {
		h.copied[c+dir+"/syncrestart/afalse"] = true
	}
	h.mu.Unlock()
	write(t, dir, "syncrestart/a", "1")
	write(t, dir, "exec/b", "1")
	if got := h.until(t, "exec make it in 1"); slices.Contains(got, "restart web") {
		t.Errorf("%q", got)
	}
	if err := os.Remove(filepath.Join(dir, "sync/a")); err != nil {
		t.Fatal(err)
	}
	h.until(t, "remove /s/a in 1")
}

func TestRebuild(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "main", "1")
	h := newHost()
	fail := errors.New("it does not compile")
	building, goOn := make(chan struct{}), make(chan error)
	h.build = func(ctx context.Context) error {
		building <- struct{}{}
		select {
		case err := <-goOn:
			return err
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	start(t, h,
		desired.Trigger{Path: dir + "/main", Action: "rebuild"},
		desired.Trigger{Path: dir + "/static", Action: "sync", Target: "/static"},
		desired.Trigger{Path: dir + "/conf", Action: "restart"},
	)
	write(t, dir, "static/a", "1")
	h.until(t, "copy /static/a in 1")

	// A build that fails replaces nothing, and a restart that waited for it is done.
	write(t, dir, "main", "2")
	<-building
	write(t, dir, "conf", "1")
	write(t, dir, "static/b", "1") // a copy waits for no build
	h.until(t, "copy /static/b in 1")
	goOn <- fail
	h.until(t, `warn: Build failed, service "web" stays as it is: it does not compile`)
	if got := h.until(t, "restart web"); slices.Contains(got, "replace web") {
		t.Errorf("%q", got)
	}

	// A change calls off the build that is of what was before.
	write(t, dir, "main", "3")
	<-building
	write(t, dir, "main", "4")
	<-building
	write(t, dir, "conf", "2") // done by the replacement
	write(t, dir, "static/c", "1")
	h.until(t, "copy /static/c in 1")
	write(t, dir, "static/e", "1")
	h.until(t, "copy /static/e in 1") // the batch before has been asked for in full
	goOn <- nil
	got := h.until(t, "replace web")
	if slices.ContainsFunc(got, func(c string) bool { return strings.HasPrefix(c, "warn") }) {
		t.Errorf("%q", got)
	}
	// The new container gets what has been copied before.
	got = h.until(t, `say: Syncing service "web" after 5 changes were detected`)
	for _, want := range []string{"copy /static/a in 3", "copy /static/b in 3", "copy /static/c in 3"} {
		if !slices.Contains(got, want) {
			t.Errorf("no %q in %q", want, got)
		}
	}
	write(t, dir, "static/d", "1")
	if got := h.until(t, "copy /static/d in 3"); slices.Contains(got, "restart web") {
		t.Errorf("%q", got)
	}
}

func TestInitialSync(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "src/a", "1")
	write(t, dir, "src/d/b", "1")
	write(t, dir, "src/Dockerfile", "1")
	write(t, dir, "other/x", "1")
	h := newHost()
	r1, err := watch.NewRule("web", desired.Trigger{Path: dir + "/src", Action: "sync", Target: "/app", InitialSync: true, Aside: []string{dir + "/src/Dockerfile"}}, "", nil)
	if err != nil {
		t.Fatal(err)
	}
	r2, err := watch.NewRule("web", desired.Trigger{Path: dir + "/other", Action: "sync", Target: "/other"}, "", nil)
	if err != nil {
		t.Fatal(err)
	}
	s, err := Open(t.Context(), []*watch.Rule{r1, r2}, h)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	if err := s.Run(ctx, func() { h.note("ready"); cancel() }); err != nil {
		t.Error(err)
	}
	got := h.until(t, "ready")
	for _, want := range []string{"copy /app/a in 1", "copy /app/d in 1", "copy /app/d/b in 1", "copy /app/a in 2"} {
		if !slices.Contains(got, want) {
			t.Errorf("no %q in %q", want, got)
		}
	}
	if slices.ContainsFunc(got, func(c string) bool { return strings.Contains(c, "Dockerfile") || strings.Contains(c, "other") }) {
		t.Errorf("%q", got)
	}
}
