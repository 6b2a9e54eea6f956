// Package conformance keeps compose/CONFORMANCE.md: what becomes of each attribute
// of the Compose specification, and which tests have seen it.
//
// A test that has seen an effect says so with Works, one that has seen a warning or
// an error with Warns or Errors. What was said counts once the test has passed. At
// the end of a run of all tests of a package the table must say the same of it; of a
// run of some tests nothing is asked. With WriteVar in the environment, what was
// said goes into the table instead: that of all tests in place of what the package
// had there, that of some in addition.
package conformance

import (
	"cmp"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/compose-spec/compose-go/v2/schema"
)

// WriteVar has a run write the table anew where it is set.
const WriteVar = "STACK_WRITE_CONFORMANCE"

// tableFile is where the table is in the module.
const tableFile = "compose/CONFORMANCE.md"

// said is what the tests of this program have said. It cannot be a value that is
// handed around: only the package testing knows all tests.
var said struct {
	sync.Mutex
	by map[string]shown // of the tests that have passed, by path
}

// Works says that t has seen what attributes do, in the kernel, in a container or in
// the model that the loader made of them. A path is one of the schema's, such as
// "services.*.ports.[].mode"; with ".**" at its end it stands for all below, too.
func Works(t testing.TB, paths ...string) { t.Helper(); say(t, works, paths) }

// Warns says that t has seen the warning that attributes have no effect.
func Warns(t testing.TB, paths ...string) { t.Helper(); say(t, warns, paths) }

// Errors says that t has seen attributes be refused.
func Errors(t testing.TB, paths ...string) { t.Helper(); say(t, fails, paths) }

// Unseen says that t cannot see attributes on this machine, which lacks what they
// are about: what the table has of it stays as it is.
func Unseen(t testing.TB, paths ...string) { t.Helper(); say(t, unseen, paths) }

func say(t testing.TB, v verdict, paths []string) {
	t.Helper()
	dependsOn()
	var all []string
	for _, pattern := range paths {
		found := expand(pattern)
		if len(found) == 0 {
			t.Errorf("%s is no attribute of the Compose specification", pattern)
		}
		all = append(all, found...)
	}
	test, _, _ := strings.Cut(t.Name(), "/")
	t.Cleanup(func() {
		if t.Failed() || t.Skipped() {
			return
		}
		said.Lock()
		defer said.Unlock()
		if said.by == nil {
			said.by = map[string]shown{}
		}
		for _, path := range all {
			if said.by[path] == nil {
				said.by[path] = shown{}
			}
			said.by[path].add(test, v)
		}
	})
}

// dependsOn tells the go command, which keeps results, what they depend on: it sees
// only what is asked for during a test.
var dependsOn = sync.OnceFunc(func() {
	os.Getenv(WriteVar)
	if root, _, err := whereami(); err == nil {
		os.ReadFile(filepath.Join(root, tableFile))
	}
})

// expand is the paths that a pattern stands for.
func expand(pattern string) []string {
	above, below := strings.CutSuffix(pattern, ".**")
	var out []string
	for _, p := range schema.AttributePaths() {
		if path := string(p); path == above || below && strings.HasPrefix(path, above+".") {
			out = append(out, path)
		}
	}
	return out
}

// Run is the end of a TestMain: it runs the tests, and compares what they said with
// the table.
func Run(m interface{ Run() int }) int {
	code := m.Run()
	if code != 0 {
		return code
	}
	if err := settle(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// settle compares or writes the rows of this program's package.
func settle() error {
	root, in, err := whereami()
	if errors.Is(err, fs.ErrNotExist) {
		return nil // a test program somewhere else: there is no table
	}
	if err != nil {
		return err
	}
	file := filepath.Join(root, tableFile)
	said.Lock()
	defer said.Unlock()
	seen := table{}
	for path, tests := range said.by {
		seen[path] = shown{}
		for test, v := range tests {
			seen[path].add(in+"."+test, v)
		}
	}
	write := os.Getenv(WriteVar) != ""
	if !write && !complete() {
		return nil
	}
	written, err := read(file)
	if err != nil {
		return err
	}
	blind := seen.blind()
	if !write {
		written = written.without(blind)
		if faults := differences(seen, written.of(in)); len(faults) > 0 {
			return fmt.Errorf("%s does not say what the tests of %s have seen; run them all with %s=1, and read the difference:\n%s", tableFile, in, WriteVar, strings.Join(faults, "\n"))
		}
		return nil
	}
	rules, err := readRules(root)
	if err != nil {
		return err
	}
	return os.WriteFile(file, []byte(render(written.with(in, seen.and(written, blind), complete()), rules)), 0o644)
}

// complete says whether all tests of the program ran.
func complete() bool {
	for _, name := range []string{"test.run", "test.skip", "test.list", "test.fuzz"} {
		if f := flag.Lookup(name); f != nil && f.Value.String() != "" {
			return false
		}
	}
	return true
}

// whereami finds the module that the working directory is in, and the package in it.
func whereami() (root, in string, err error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", "", err
	}
	for root = dir; ; root = filepath.Dir(root) {
		if _, err = os.Stat(filepath.Join(root, "go.mod")); err == nil {
			in, err = filepath.Rel(root, dir)
			return root, in, err
		}
		if root == filepath.Dir(root) {
			return "", "", err
		}
	}
}

// differences says what seen and written do not have in common, by path and test.
func differences(seen, written table) []string {
	var out []string
	compare := func(a, b table, text string) {
		for _, path := range slices.Sorted(maps.Keys(a)) {
			for _, test := range slices.Sorted(maps.Keys(a[path])) {
				if v := a[path][test]; b[path][test] != v {
					out = append(out, fmt.Sprintf("  %s: %s %s", path, fmt.Sprintf(text, test), v))
				}
			}
		}
	}
	compare(seen, written, "%s saw that it")
	compare(written, seen, "no longer seen by %s, which saw that it")
	return out
}

// verdict is what becomes of an attribute.
type verdict string

const (
	works verdict = "works"
	warns verdict = "warns"
	fails verdict = "errors"
	// unseen is in no table.
	unseen verdict = "unseen"
)

// rank orders verdicts: what works with some values may warn or fail with others.
func (v verdict) rank() int { return slices.Index([]verdict{works, warns, fails, unseen}, v) }

// shown are the tests that saw an attribute, each with the best that it saw.
type shown map[string]verdict

func (s shown) add(test string, v verdict) {
	if was, ok := s[test]; !ok || v.rank() < was.rank() {
		s[test] = v
	}
}

// verdict is the best that any test saw, "" if none saw any.
func (s shown) verdict() verdict {
	var best verdict
	for _, v := range s {
		if best == "" || v.rank() < best.rank() {
			best = v
		}
	}
	return best
}

func (s shown) String() string {
	best := s.verdict()
	names := slices.SortedFunc(maps.Keys(s), func(a, b string) int {
		return cmp.Or(cmp.Compare(s[a].rank(), s[b].rank()), strings.Compare(a, b))
	})
	for i, name := range names {
		if s[name] != best {
			names[i] = string(s[name]) + " " + name
		}
	}
	return strings.Join(names, ", ")
}
