package load

import (
	"cmp"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
)

// Diagnostic is one remark on the input.
type Diagnostic struct {
	File   string // absolute; "-" for the standard input; "" if no file is to blame
	Line   int    // from 1; 0 if not known
	Column int
	Path   string // in the model: "services.web.ports[0]"
	Text   string // what is wrong and what to do
	// short is File as it is shown: relative to the working directory where
	// that is shorter.
	short string
}

// Where is "compose.yaml:12", as far as known.
func (d Diagnostic) Where() string {
	file := cmp.Or(d.short, d.File)
	switch {
	case file == "":
		return ""
	case d.Line == 0:
		return file
	}
	return fmt.Sprintf("%s:%d", file, d.Line)
}

func (d Diagnostic) String() string {
	var parts []string
	for _, p := range []string{d.Where(), d.Path, d.Text} {
		if p != "" {
			parts = append(parts, p)
		}
	}
	return strings.Join(parts, ": ")
}

// Warning is a remark that stops nothing.
type Warning = Diagnostic

// Error is all that is wrong with the input.
type Error struct {
	Diagnostics []Diagnostic
	cause       error
}

func (e *Error) Error() string {
	lines := make([]string, len(e.Diagnostics))
	for i, d := range e.Diagnostics {
		lines[i] = d.String()
	}
	return strings.Join(lines, "\n")
}

func (e *Error) Unwrap() error { return e.cause }

// diagnostics collects remarks while loading.
type diagnostics struct {
	base     string // working directory, for short file names
	errors   []Diagnostic
	warnings []Diagnostic
}

func (c *diagnostics) place(d Diagnostic) Diagnostic {
	d.short = shortName(c.base, d.File)
	return d
}

func (c *diagnostics) fail(d Diagnostic) { c.errors = append(c.errors, c.place(d)) }
func (c *diagnostics) warn(d Diagnostic) { c.warnings = append(c.warnings, c.place(d)) }

// err is nil or an *Error with everything found, each once, in the order of
// the files.
func (c *diagnostics) err() error {
	if len(c.errors) == 0 {
		return nil
	}
	return &Error{Diagnostics: unique(c.errors)}
}

func unique(list []Diagnostic) []Diagnostic {
	out := slices.Clone(list)
	slices.SortStableFunc(out, func(a, b Diagnostic) int {
		return cmp.Or(strings.Compare(a.File, b.File), cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column))
	})
	return slices.CompactFunc(out, func(a, b Diagnostic) bool {
		return a.File == b.File && a.Line == b.Line && a.Path == b.Path && a.Text == b.Text
	})
}

// shortName is file relative to base, if it lies there or right above.
func shortName(base, file string) string {
	if file == "" || file == "-" || base == "" {
		return file
	}
	rel, err := filepath.Rel(base, file)
	if err != nil || strings.HasPrefix(rel, "../../") {
		return file
	}
	return rel
}
