package watch

import (
	"fmt"
	"path"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/moby/patternmatcher"
)

// patterns are those of a .dockerignore file, relative to a directory.
type patterns struct {
	root string
	m    *patternmatcher.PatternMatcher
	// segments are the patterns' path elements, those with ! apart.
	plain, exceptions [][]string
}

func newPatterns(root string, lines []string) (*patterns, error) {
	p := &patterns{root: root}
	var clean []string
	for _, line := range lines {
		text, exception := strings.CutPrefix(strings.TrimSpace(line), "!")
		text = strings.TrimSpace(text)
		if text == "" {
			if exception {
				return nil, fmt.Errorf("pattern %q excepts nothing; write a path behind it", line)
			}
			continue
		}
		// An absolute path is one on this machine or, as in .dockerignore, one
		// from the directory that the patterns are about.
		if path.IsAbs(text) {
			text = "./" + strings.TrimPrefix(relative(root, path.Clean(text)), "/")
		}
		text = path.Clean(text)
		if !exception {
			// So does patternmatcher, for which a path behind a "/" may be blank, or an
			// exception.
			for before := ""; before != text && text != ""; {
				before = text
				if text = strings.TrimSpace(text); text != "" {
					text = path.Clean(text)
				}
			}
			if text == "" {
				continue
			}
			if strings.HasPrefix(text, "!") {
				text = `\` + text
			}
		}
		segments := strings.Split(text, "/")
		if exception {
			p.exceptions = append(p.exceptions, segments)
			text = "!" + text
		} else {
			p.plain = append(p.plain, segments)
		}
		clean = append(clean, text)
	}
	m, err := patternmatcher.New(clean)
	for _, text := range clean {
		if err == nil {
			// The first match compiles the pattern.
			var one *patternmatcher.PatternMatcher
			if one, err = patternmatcher.New([]string{strings.TrimPrefix(text, "!")}); err == nil {
				_, err = one.MatchesOrParentMatches("x")
			}
		}
		if err != nil {
			return nil, fmt.Errorf("pattern %q cannot be read: %w", text, err)
		}
	}
	p.m = m
	return p, nil
}

// relative is name below root, and name itself elsewhere.
func relative(root, name string) string {
	switch {
	case name == root:
		return "."
	case root == "/":
		return strings.TrimPrefix(name, "/")
	}
	if rest, ok := strings.CutPrefix(name, root+"/"); ok {
		return rest
	}
	return name
}

// Below tells whether name is dir or in it.
func Below(dir, name string) bool {
	return name == dir || dir == "/" || strings.HasPrefix(name, dir+"/")
}

// match tells whether name, an absolute path, or a directory above it matches.
func (p *patterns) match(name string) bool {
	if p == nil || len(p.plain) == 0 || name == p.root || !Below(p.root, name) {
		return false
	}
	ok, err := p.m.MatchesOrParentMatches(relative(p.root, name))
	return err == nil && ok
}

// matchAll tells whether dir and all that is or can be in it matches.
func (p *patterns) matchAll(dir string) bool {
	if !p.match(dir) {
		return false
	}
	segments := strings.Split(relative(p.root, dir), "/")
	return !slices.ContainsFunc(p.exceptions, func(e []string) bool { return mayReach(e, segments) })
}

// none tells that nothing in dir can match.
func (p *patterns) none(dir string) bool {
	if dir == p.root || !Below(p.root, dir) {
		return false
	}
	segments := strings.Split(relative(p.root, dir), "/")
	return !slices.ContainsFunc(p.plain, func(e []string) bool { return mayReach(e, segments) })
}

// mayReach tells whether a pattern can match something in a directory, or a
// directory above it.
func mayReach(pattern, dir []string) bool {
	// patternmatcher leaves most of what means something in a regular expression as it
	// is: one with alternatives may match anything.
	if slices.ContainsFunc(pattern, func(s string) bool { return strings.ContainsAny(s, "|()") }) {
		return true
	}
	for i := range min(len(pattern), len(dir)) {
		if crosses(pattern[i]) {
			return true
		}
		if ok, err := path.Match(pattern[i], dir[i]); err == nil && !ok {
			return false
		}
	}
	return true
}

// crosses tells whether a path element of a pattern can match slashes, in the regular
// expression that patternmatcher makes of it: two asterisks wherever they stand, what is
// behind a backslash, sets, which may have a slash, and what means something there. A
// byte that is no text stands for any other.
func crosses(segment string) bool {
	return strings.Contains(segment, "**") || strings.ContainsAny(segment, `[]\{}+^$`) || !utf8.ValidString(segment)
}

// passing tells whether a file is an editor's or a tool's own, made and deleted
// around each save, or git's. The names are those that docker compose ignores.
func passing(root, name string) bool {
	rest := relative(root, name)
	if rest == "." || rest == name {
		return false
	}
	for element := range strings.SplitSeq(rest, "/") {
		if element == ".git" || element == ".idea" {
			return true
		}
	}
	base := path.Base(rest)
	for _, suffix := range []string{"~", "___jb_old___", "___jb_tmp___", "-go-tmp-umask"} {
		if strings.HasSuffix(base, suffix) {
			return true
		}
	}
	switch {
	case base == "4913": // vim tries whether it may write here
		return true
	case strings.HasPrefix(base, ".#"), len(base) > 1 && base[0] == '#' && base[len(base)-1] == '#': // emacs
		return true
	case strings.HasPrefix(base, "."):
		switch path.Ext(base) {
		case ".swp", ".swx", ".swo", ".swn", ".kate-swp":
			return true
		}
	}
	return false
}
