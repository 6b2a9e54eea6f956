package watch

import (
	"path"
	"strings"
	"testing"
)

// FuzzPatterns reads any lines of a .dockerignore file. What they say of a directory as
// a whole is true of all that is in it, or changes would go unseen.
func FuzzPatterns(f *testing.F) {
	for _, lines := range []string{"*", "**", "a/b\n!a/b/c", "*\n!src", "/src/a\n/b", "**/*.go\n!**/x/*.go", "a/**/b", "[a-c]/?", "\\*", "!a\na", "a/../b", "./", "..", "a//b/", "[", "a\x00", "(", "é*"} {
		f.Add(lines, "a/b/c")
		f.Add(lines, "src/x/y.go")
	}
	const root = "/src"
	f.Fuzz(func(t *testing.T, lines, name string) {
		p, err := newPatterns(root, strings.Split(lines, "\n"))
		if err != nil {
			if strings.TrimSpace(err.Error()) == "" {
				t.Error("an error without a text")
			}
			return
		}
		name = path.Join(root, path.Clean("/"+name))
		matches := p.match(name)
		if matches != p.match(name) {
			t.Fatalf("%q: %q matches once", lines, name)
		}
		for dir := path.Dir(name); Below(root, dir) && dir != root; dir = path.Dir(dir) {
			if p.none(dir) && matches {
				t.Errorf("%q: %q matches, and nothing in %q does", lines, name, dir)
			}
			if p.matchAll(dir) && !matches {
				t.Errorf("%q: %q does not match, and all in %q does", lines, name, dir)
			}
		}
	})
}
