package daemon

import (
	"os"
	"path/filepath"
	"testing"
)

func TestWhatTheLastBuilderHalfWroteGoes(t *testing.T) {
	t.Setenv("TMPDIR", os.TempDir()) // useTemp sets it
	dir := t.TempDir()
	for _, name := range []string{".tmp-1234", "usage.json", "tmp/mount/file"} {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := useTemp(filepath.Join(dir, "tmp")); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]bool{".tmp-1234": false, "usage.json": true, "tmp": true, "tmp/mount": false} {
		if _, err := os.Stat(filepath.Join(dir, name)); (err == nil) != want {
			t.Errorf("%s: %v, want it there: %v", name, err, want)
		}
	}
}
