package glob_test

import (
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/stack-run/stack/internal/glob"
)

func TestIn(t *testing.T) {
	dir := filepath.Join(t.TempDir(), `[a-z]* ?\`)
	for _, name := range []string{"one/x.json", "two/x.json", "two/y.json"} {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	got, err := glob.In(dir, "*/x.json")
	if want := []string{filepath.Join(dir, "one/x.json"), filepath.Join(dir, "two/x.json")}; err != nil || !slices.Equal(got, want) {
		t.Errorf("%q, %v, want %q", got, err, want)
	}
	if got, err := glob.In(filepath.Join(dir, "none"), "*"); err != nil || len(got) > 0 {
		t.Errorf("of no directory: %q, %v", got, err)
	}
}
