package watch

import (
	"fmt"
	"path"
	"slices"

	"github.com/stack-run/stack/compose/desired"
)

// Rule is one entry of a service's develop.watch, ready to match paths.
type Rule struct {
	desired.Trigger
	Service string

	ignore, docker, include *patterns
}

// NewRule compiles a trigger. dockerignore are the lines of the build's ignore
// file, which is called ignoreFile. An error names what is at fault.
func NewRule(service string, t desired.Trigger, ignoreFile string, dockerignore []string) (*Rule, error) {
	r := &Rule{Trigger: t, Service: service}
	var err error
	if r.ignore, err = newPatterns(t.Path, t.Ignore); err != nil {
		return nil, fmt.Errorf("ignore: %w", err)
	}
	if len(t.Include) > 0 {
		if r.include, err = newPatterns(t.Path, t.Include); err != nil {
			return nil, fmt.Errorf("include: %w", err)
		}
	}
	if t.BuildContext != "" {
		// As with docker compose: a "*" says that the build takes nothing but
		// the exceptions, and says nothing about what is to be watched.
		if slices.Contains(dockerignore, "*") {
			dockerignore = slices.DeleteFunc(slices.Clone(dockerignore), func(l string) bool { return l == "" || l[0] != '!' })
		}
		if r.docker, err = newPatterns(t.BuildContext, dockerignore); err != nil {
			return nil, fmt.Errorf("%s: %w", ignoreFile, err)
		}
	}
	return r, nil
}

// Covers tells whether a path is below the rule's and not ignored.
func (r *Rule) Covers(name string) bool {
	return Below(r.Path, name) && !passing(r.Path, name) && !r.docker.match(name) && !r.ignore.match(name)
}

// Matches tells whether a change of a path is the rule's business.
func (r *Rule) Matches(name string) bool {
	return r.Covers(name) && (r.include == nil || r.include.match(name) || name == r.Path)
}

// Prunes tells that nothing in a directory can be the rule's business.
func (r *Rule) Prunes(dir string) bool {
	if !Below(r.Path, dir) {
		return !Below(dir, r.Path)
	}
	return passing(r.Path, dir) || r.docker.matchAll(dir) || r.ignore.matchAll(dir) || r.include != nil && r.include.none(dir)
}

// In is where a path is in the container.
func (r *Rule) In(name string) string {
	return path.Join("/", r.Target, relative(r.Path, name))
}

// Copies tells whether the rule brings files into containers.
func (r *Rule) Copies() bool {
	switch r.Action {
	case desired.WatchSync, desired.WatchSyncRestart, desired.WatchSyncExec:
		return !r.Bound
	}
	return false
}

// NeedsContent tells whether what was in a file before decides if it has
// changed. Where a rule copies, what is in the container decides.
func (r *Rule) NeedsContent(name string) bool { return !r.Copies() && r.Matches(name) }
