package compose

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// A project that ends moves its directory aside and deletes it, which must not
// end those who wait for events of all projects, nor be told to them twice.
func TestEventsOutliveProjects(t *testing.T) {
	c, err := Open(Options{DataRoot: t.TempDir(), RunRoot: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	projects := filepath.Join(c.Engine.RunRoot(), "projects")
	if err := os.MkdirAll(projects, 0o700); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	heard := make(chan string)
	ended := make(chan error, 1)
	since := time.Now()
	go func() {
		ended <- c.Events(ctx, Selector{}, since, time.Time{}, func(e EngineEvent) error {
			select {
			case heard <- e.ID:
			case <-ctx.Done():
			}
			return nil
		})
	}()
	for i := range 200 {
		dir := filepath.Join(projects, fmt.Sprint("p", i))
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		line := fmt.Sprintf("{\"id\":%q,\"time\":%q}\n", fmt.Sprint(i), time.Now().Format(time.RFC3339Nano))
		if err := os.WriteFile(filepath.Join(dir, "events.jsonl"), []byte(line), 0o600); err != nil {
			t.Fatal(err)
		}
		select {
		case id := <-heard:
			if id != fmt.Sprint(i) {
				t.Fatalf("event %s, want %d", id, i)
			}
		case err := <-ended:
			t.Fatalf("after %d projects: %v", i, err)
		case <-time.After(10 * time.Second):
			t.Fatalf("no event of project %d", i)
		}
		gone := filepath.Join(projects, fmt.Sprint(".gone-", i))
		if err := os.Rename(dir, gone); err != nil {
			t.Fatal(err)
		}
		if err := os.RemoveAll(gone); err != nil {
			t.Fatal(err)
		}
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}
