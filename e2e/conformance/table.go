package conformance

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/compose-spec/compose-go/v2/schema"
)

// table is what has been seen of attributes, by path. A test's name has its package
// before it.
type table map[string]shown

// read reads the rows of the file. What else is in it, render writes anew.
func read(file string) (table, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("cannot read what tests have seen of Compose attributes: %w", err)
	}
	out := table{}
	for line := range strings.Lines(string(text)) {
		cells := strings.Split(strings.Trim(strings.TrimSpace(line), "|"), " | ")
		if len(cells) != 3 || !strings.HasPrefix(line, "| `") {
			continue
		}
		path := strings.Trim(cells[0], " `")
		best := verdict(strings.TrimSpace(cells[1]))
		out[path] = shown{}
		tests, _, _ := strings.Cut(cells[2], " (")
		for entry := range strings.SplitSeq(tests, ",") {
			entry = strings.TrimSpace(entry)
			v, test := best, entry
			if word, rest, ok := strings.Cut(entry, " "); ok {
				v, test = verdict(word), rest
			}
			if v.rank() >= 0 && !strings.HasPrefix(entry, byParts) {
				out[path][test] = v
			}
		}
	}
	return out, nil
}

// only is the part of a table that keep wants.
func (t table) only(keep func(path, test string) bool) table {
	out := table{}
	for path, tests := range t {
		for test, v := range tests {
			if keep(path, test) {
				out.set(path, test, v)
			}
		}
	}
	return out
}

func (t table) set(path, test string, v verdict) {
	if t[path] == nil {
		t[path] = shown{}
	}
	t[path][test] = v
}

// of are the rows that tests of one package have shown.
func (t table) of(in string) table {
	return t.only(func(_, test string) bool { return packageOf(test) == in })
}

// blind takes out what tests could not see on this machine.
func (t table) blind() table {
	out := t.only(func(path, test string) bool { return t[path][test] == unseen })
	for path, tests := range out {
		for test := range tests {
			delete(t[path], test)
		}
	}
	return out
}

func (t table) without(other table) table {
	return t.only(func(path, test string) bool { return other[path][test] == "" })
}

// and adds what written has of those rows.
func (t table) and(written, rows table) table {
	out := t.only(func(string, string) bool { return true })
	for path, tests := range written {
		for test, v := range tests {
			if rows[path][test] != "" {
				out.set(path, test, v)
			}
		}
	}
	return out
}

// with is the table with what tests of a package have seen: in place of what it had
// of that package, or in addition.
func (t table) with(in string, seen table, instead bool) table {
	out := t.only(func(_, test string) bool { return !instead || packageOf(test) != in })
	for path, tests := range seen {
		for test, v := range tests {
			out.set(path, test, v)
		}
	}
	return out
}

func packageOf(test string) string {
	in, _, _ := strings.Cut(test, ".")
	return in
}

// byParts stands where nothing is to be seen but the attributes below.
const byParts = "by what is below"

// verdictOf is what was seen of a path, or of what is below it.
func (t table) verdictOf(path string) (v verdict, parts bool) {
	if v := t[path].verdict(); v != "" {
		return v, false
	}
	for other, tests := range t {
		if !strings.HasPrefix(other, path+".") {
			continue
		}
		if found := tests.verdict(); found != "" && (v == "" || found.rank() < v.rank()) {
			v = found
		}
	}
	return v, v != ""
}

const preface = `# What becomes of each attribute of the Compose specification

Generated from tests, see CONTRIBUTING.md; do not edit. Each row is a path of compose-go's schema, in
which ` + "`*`" + ` stands for a name and ` + "`[]`" + ` for an item of a list:

* **works**: the tests named have seen the effect: in the kernel, in a container, in an answer, or, for
  what acts while files are read, in the loaded project.
* **warns**: it has no effect, which is said once, with file, line and path.
* **errors**: it is refused, with file, line, path and what to do instead.

A test after the word "warns" or "errors" has seen values that are not acted on, or refused. A row
"by what is below" has no meaning but that of the rows below it.
`

// render is the file: a row for each path of the schema.
func render(t table, rules []rule) string {
	var out strings.Builder
	out.WriteString(preface)
	count := map[verdict]int{}
	var body strings.Builder
	for _, section := range sections() {
		fmt.Fprintf(&body, "\n## %s\n\n| path | what | seen by |\n|---|---|---|\n", section.title)
		for _, path := range section.paths {
			v, parts := t.verdictOf(path)
			seen := t[path].String()
			switch {
			case v == "":
				v, seen = "not seen", "-"
			case parts:
				seen = byParts
			}
			if r, ok := ruleOf(rules, path); ok && r.reason != "" {
				seen += " (" + r.reason + ")"
			}
			count[v]++
			fmt.Fprintf(&body, "| `%s` | %s | %s |\n", path, v, seen)
		}
	}
	fmt.Fprintf(&out, "\nOf %d attributes %d work, %d warn, %d are errors.\n", len(schema.AttributePaths()), count[works], count[warns], count[fails])
	return out.String() + body.String()
}

type section struct {
	title string
	paths []string
}

// sections divides the schema's paths: one section for each part of the model, and
// for the parts of a service that have many.
func sections() []section {
	parts := []string{"services.*.build", "services.*.deploy", "services.*.develop", "services.*.pre_start", "services", "jobs", "networks", "volumes", "configs", "secrets", "models"}
	out := []section{{title: "top level"}}
	for _, p := range parts {
		out = append(out, section{title: strings.ReplaceAll(p, "services.*.", "services: ")})
	}
	for _, p := range schema.AttributePaths() {
		path := string(p)
		i := slices.IndexFunc(parts, func(part string) bool { return path == part || strings.HasPrefix(path, part+".") })
		out[i+1].paths = append(out[i+1].paths, path)
	}
	order := []string{"top level", "services", "services: build", "services: deploy", "services: develop", "services: pre_start", "networks", "volumes", "configs", "secrets", "models", "jobs"}
	slices.SortFunc(out, func(a, b section) int { return slices.Index(order, a.title) - slices.Index(order, b.title) })
	return out
}

// rule is a line of attributes.txt, the loader's own table.
type rule struct {
	path    string
	below   bool // it holds for all below, too
	verdict verdict
	reason  string
}

func readRules(root string) ([]rule, error) {
	text, err := os.ReadFile(filepath.Join(root, "compose/load/attributes.txt"))
	if err != nil {
		return nil, err
	}
	words := map[string]verdict{"pass": works, "warn": warns, "error": fails}
	var out []rule
	for line := range strings.Lines(string(text)) {
		cells := strings.SplitN(strings.TrimSpace(line), "  ", 3)
		if len(cells) < 2 || strings.HasPrefix(line, "#") {
			continue
		}
		path, below := strings.CutSuffix(cells[0], ".**")
		r := rule{path: path, below: below, verdict: words[cells[1]]}
		if len(cells) == 3 {
			r.reason = cells[2]
		}
		out = append(out, r)
	}
	return out, nil
}

// ruleOf is the most specific rule for a path.
func ruleOf(rules []rule, path string) (best rule, found bool) {
	for _, r := range rules {
		fits := r.path == path || r.below && strings.HasPrefix(path, r.path+".")
		if fits && (!found || len(r.path) > len(best.path)) {
			best, found = r, true
		}
	}
	return best, found
}

// faults is what is wrong with a table: a path that nobody has seen, a verdict that
// is not the loader's, a path that is none, a test that nobody compares with it.
func faults(t table, rules []rule, packages []string) []string {
	var out []string
	known := map[string]bool{}
	for _, p := range schema.AttributePaths() {
		path := string(p)
		known[path] = true
		v, _ := t.verdictOf(path)
		r, ruled := ruleOf(rules, path)
		switch {
		case v == "":
			out = append(out, path+": no test has seen what becomes of it; let one say so with conformance.Works, Warns or Errors")
		case ruled && r.verdict != works && v != r.verdict:
			out = append(out, fmt.Sprintf("%s: %s, says compose/load/attributes.txt, but %s has seen that it %s", path, r.verdict, t[path], v))
		}
	}
	for _, path := range slices.Sorted(maps.Keys(t)) {
		if !known[path] {
			out = append(out, path+": is no attribute of the Compose specification")
		}
		for _, test := range slices.Sorted(maps.Keys(t[path])) {
			if !slices.Contains(packages, packageOf(test)) {
				out = append(out, fmt.Sprintf("%s: %s is in a package whose tests are not compared with the table; its TestMain must end with conformance.Run", path, test))
			}
		}
	}
	return out
}
