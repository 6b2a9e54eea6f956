package system

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestLinks(t *testing.T) {
	dir := t.TempDir()
	self := filepath.Join(dir, "stack")
	other := filepath.Join(dir, "other")
	for _, f := range []string{self, other} {
		if err := os.WriteFile(f, nil, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("PATH", filepath.Join(dir, "path"))
	at := filepath.Join(dir, "docker")
	if err := checkLink("docker", at, self); err != nil {
		t.Error(err)
	}
	if made, err := link(at, self); !made || err != nil {
		t.Errorf("%v, %v", made, err)
	}
	if err := checkLink("docker", at, self); err != nil {
		t.Error(err)
	}
	if made, err := link(at, self); made || err != nil {
		t.Errorf("again: %v, %v", made, err)
	}
	// A docker of another kind, where the link would be or before it, a dangling link too.
	for _, place := range []string{at, filepath.Join(dir, "path", "docker")} {
		for _, target := range []string{other, "/nonexistent"} {
			os.RemoveAll(filepath.Join(dir, "path"))
			os.Remove(at)
			if err := os.MkdirAll(filepath.Dir(place), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.Symlink(target, place); err != nil {
				t.Fatal(err)
			}
			err := checkLink("docker", at, self)
			if target == "/nonexistent" && place != at {
				continue // no shell would find it either
			}
			if err == nil || !strings.Contains(err.Error(), "is another program") {
				t.Errorf("%s to %s: %v", place, target, err)
			}
			if place == at {
				if _, err := link(at, self); err == nil {
					t.Errorf("%s to %s was taken over", place, target)
				}
			}
		}
	}
}
