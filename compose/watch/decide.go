package watch

import (
	"cmp"
	"maps"
	"slices"

	"github.com/stack-run/stack/compose/desired"
)

// Change is one path that is not what it was.
type Change struct {
	Path string
	// Gone says that there is nothing any more, Dir that there is, or was, a
	// directory.
	Gone, Dir bool
	// Same says that only attributes differ, not what is in it.
	Same bool
}

// Task is what a batch of changes asks for in one service.
type Task struct {
	Service string
	Copies  []Copy
	// Rebuild, Restart and Exec do not wait for a copy. Exec has the rules whose
	// command is run.
	Rebuild, Restart bool
	Exec             []*Rule
}

// Copy is one path to be brought into the containers. What follows if that
// changes something there is up to the rule's action.
type Copy struct {
	Rule   *Rule
	Source string
	Target string
	// Gone says that nothing is there any more, Dir that a directory is, or was.
	Gone, Dir bool
	// Empty says that a directory is removed only if nothing is left in it.
	Empty bool
}

// Keeps tells whether a path in a directory that is gone stays in the container,
// since it was never the rule's business. name is relative to Source.
func (c Copy) Keeps(name string) bool { return !c.Rule.Matches(c.Source + "/" + name) }

// Decide says what a batch of changes asks for, by service.
func Decide(rules []*Rule, changes []Change) []Task {
	tasks := map[string]*Task{}
	changes = slices.Clone(changes)
	slices.SortFunc(changes, func(a, b Change) int { return cmp.Compare(a.Path, b.Path) })
	for _, r := range rules {
		task := tasks[r.Service]
		if task == nil {
			task = &Task{Service: r.Service}
			tasks[r.Service] = task
		}
		if r.Copies() {
			task.Copies = append(task.Copies, copies(r, changes)...)
			continue
		}
		if !slices.ContainsFunc(changes, func(c Change) bool { return r.asks(c) }) {
			continue
		}
		switch r.Action {
		case desired.WatchRebuild:
			task.Rebuild = true
		case desired.WatchRestart, desired.WatchSyncRestart:
			task.Restart = true
		case desired.WatchSyncExec:
			task.Exec = append(task.Exec, r)
		}
	}
	var out []Task
	for _, name := range slices.Sorted(maps.Keys(tasks)) {
		if t := tasks[name]; len(t.Copies) > 0 || t.Rebuild || t.Restart || len(t.Exec) > 0 {
			out = append(out, *t)
		}
	}
	return out
}

// asks tells whether a change has a rule act that copies nothing. A mode is part
// of an image, and no reason to restart.
func (r *Rule) asks(c Change) bool {
	return r.Matches(c.Path) && (!c.Same || r.Action == desired.WatchRebuild)
}

// copies are those of one rule: parents before what is in them.
func copies(r *Rule, changes []Change) []Copy {
	var out, empty []Copy
	gone := "" // the last directory that goes as a whole
	for _, c := range changes {
		if !r.Covers(c.Path) || gone != "" && Below(gone, c.Path) && c.Gone {
			continue
		}
		copied := Copy{Rule: r, Source: c.Path, Target: r.In(c.Path), Gone: c.Gone, Dir: c.Dir}
		switch {
		case c.Gone && c.Dir && (c.Path == r.Path || !r.Matches(c.Path)):
			// What else is in the container's directory did not come from here.
			copied.Empty = true
			empty = append(empty, copied)
			continue
		case !r.Matches(c.Path):
			continue
		case c.Gone && c.Dir:
			gone = c.Path
		}
		out = append(out, copied)
	}
	slices.Reverse(empty) // the deepest first
	return append(out, empty...)
}
