package load

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/tools/txtar"
)

var update = flag.Bool("update", false, "write golden files anew")

// What Explain says of the projects in testdata/explain: files, the environment, and
// the paths that are asked about.
func TestExplain(t *testing.T) {
	names, err := filepath.Glob("testdata/explain/*.txtar")
	if err != nil || len(names) == 0 {
		t.Fatalf("no projects: %v", err)
	}
	for _, name := range names {
		t.Run(strings.TrimSuffix(filepath.Base(name), ".txtar"), func(t *testing.T) {
			archive, err := txtar.ParseFile(name)
			if err != nil {
				t.Fatal(err)
			}
			files := map[string]string{}
			for _, f := range archive.Files {
				files[f.Name] = string(f.Data)
			}
			paths, want, environ := files["paths"], files["want"], strings.Fields(files["environ"])
			for _, name := range []string{"paths", "want", "environ"} {
				delete(files, name)
			}
			o := project(t, files)
			o.Environ = environ
			var got strings.Builder
			for _, path := range strings.Fields(paths) {
				all, _, err := Explain(t.Context(), o, path)
				if err != nil {
					fmt.Fprintf(&got, "error: %v\n", err)
				}
				for _, e := range all {
					got.WriteString(e.String())
				}
			}
			out := strings.ReplaceAll(got.String(), o.WorkingDir, "DIR")
			if *update {
				archive.Files[len(archive.Files)-1].Data = []byte(out)
				if err := os.WriteFile(name, txtar.Format(archive), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			if diff := cmp.Diff(want, out); diff != "" {
				t.Error(diff)
			}
		})
	}
}
