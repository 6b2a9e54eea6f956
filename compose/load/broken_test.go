package load

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stack-run/stack/compose/spec"
)

// A brokenCase is a part of testdata/broken.txt: files, variables, and what is said
// of them.
type brokenCase struct {
	name      string
	files     map[string]string
	variables []string
	text      string // all but what is said
	says      string
}

func brokenCases(t *testing.T, archive string) []*brokenCase {
	t.Helper()
	text, err := os.ReadFile(archive)
	if err != nil {
		t.Fatal(err)
	}
	var cases []*brokenCase
	var c *brokenCase
	file := ""
	for line := range strings.Lines(string(text)) {
		marker, rest, _ := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
		switch {
		case marker == "===":
			c, file = &brokenCase{name: rest, files: map[string]string{}}, ""
			cases = append(cases, c)
		case marker == "---":
			if file = rest; file != "says" {
				c.files[file] = ""
			}
		case file == "" && marker == "$":
			c.variables = append(c.variables, rest)
		case file == "says":
			c.says += line
			continue
		default:
			c.files[file] += line
		}
		c.text += line
	}
	return cases
}

// Whatever is wrong is told with file, line, column and path, and with what to do.
func TestBrokenFiles(t *testing.T) {
	archive := filepath.Join("testdata", "broken.txt")
	cases := brokenCases(t, archive)
	var written strings.Builder
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			o := project(t, c.files)
			o.Environ = append(o.Environ, c.variables...)
			got := strings.ReplaceAll(said(t, o), o.WorkingDir, "DIR")
			written.WriteString(c.text + got)
			if *update {
				return
			}
			if got != c.says {
				t.Errorf("it says\n%s\nand should say\n%s", got, c.says)
			}
			lines := strings.Split(strings.TrimSuffix(got, "\n"), "\n")
			if distinct := slices.Compact(slices.Sorted(slices.Values(lines))); len(distinct) != len(lines) {
				t.Errorf("something is said twice:\n%s", got)
			}
			if wrong := strings.HasPrefix(c.name, "warning"); wrong == strings.Contains("\n"+got, "\nerror: ") {
				t.Errorf("these are errors: %v\n%s", !wrong, got)
			}
		})
	}
	if *update && !t.Failed() {
		if err := os.WriteFile(archive, []byte(written.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// said is what a user is told of a project, a line each.
func said(t *testing.T, o Options) string {
	t.Helper()
	var out strings.Builder
	say := func(kind, where string, column int, path, text string) {
		if column > 0 {
			where += fmt.Sprintf(":%d", column)
		}
		parts := slices.DeleteFunc([]string{kind, where, path, text}, func(s string) bool { return s == "" })
		fmt.Fprintln(&out, strings.Join(parts, ": "))
	}
	diagnostics := func(kind string, list []Diagnostic) {
		for _, d := range list {
			say(kind, d.Where(), d.Column, d.Path, d.Text)
		}
	}
	l, err := Load(t.Context(), o)
	var known *Error
	switch {
	case errors.As(err, &known):
		diagnostics("error", known.Diagnostics)
	case err != nil:
		say("error", "", 0, "", err.Error())
	}
	if l == nil {
		return out.String()
	}
	diagnostics("warning", l.Warnings)
	_, warnings, err := spec.Build(l.Project, spec.HostFacts{Locate: l.Locate})
	column := func(path string) int { _, _, n := l.positions.find(path); return n }
	for _, w := range warnings {
		say("warning", w.Where, column(w.Path), w.Path, w.Text)
	}
	var list spec.Errors
	var single *spec.Error
	switch {
	case errors.As(err, &list):
	case errors.As(err, &single):
		list = spec.Errors{single}
	case err != nil:
		say("error", "", 0, "", err.Error())
	}
	for _, err := range list {
		if errors.As(err, &single) {
			say("error", single.Where, column(single.Path), single.Path, single.Text)
		} else {
			say("error", "", 0, "", err.Error())
		}
	}
	return out.String()
}
