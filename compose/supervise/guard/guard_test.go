package guard

import (
	"go/parser"
	"go/token"
	"path/filepath"
	"strings"
	"testing"
)

// TestImports keeps the package's init ahead of all large libraries: see the
// package comment.
func TestImports(t *testing.T) {
	allowed := map[string]bool{"syscall": true, "sync": true, "unsafe": true}
	files, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range files {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		f, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.ImportsOnly)
		if err != nil {
			t.Fatal(err)
		}
		for _, imp := range f.Imports {
			if path := strings.Trim(imp.Path.Value, `"`); !allowed[path] {
				t.Errorf("%s imports %s: the guard would start after the libraries it must not pay for", name, path)
			}
		}
	}
}

func TestEnvironmentIsReplacedNotDoubled(t *testing.T) {
	got := withEnv([]string{"A=1", "STACK_GUARD=warden", "STACK_GUARD_DIR=/x"}, [][2]string{{EnvRole, Guardian}})
	want := []string{"A=1", "STACK_GUARD_DIR=/x", "STACK_GUARD=guardian"}
	if strings.Join(got, " ") != strings.Join(want, " ") {
		t.Errorf("withEnv = %q, want %q", got, want)
	}
}

func TestSplitAndCut(t *testing.T) {
	if got := split("a\nb c\nd", '\n'); len(got) != 3 || got[1] != "b c" {
		t.Errorf("split = %q", got)
	}
	if split("", '\n') != nil {
		t.Error("split of nothing is not nothing")
	}
	if verb, rest := cut("hold dns:x y"); verb != "hold" || rest != "dns:x y" {
		t.Errorf("cut = %q, %q", verb, rest)
	}
}
