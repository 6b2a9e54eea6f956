package request

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// TargetPrefix marks an additional context that is another target's image.
const TargetPrefix = "target:"

// Needs returns the names of the targets whose images t builds on, sorted.
func (t *Target) Needs() []string {
	var out []string
	for _, c := range t.Contexts {
		if name, ok := strings.CutPrefix(c, TargetPrefix); ok && !slices.Contains(out, name) {
			out = append(out, name)
		}
	}
	slices.Sort(out)
	return out
}

// Check says what is wrong with the targets' names and dependencies: a name used
// twice, a target that is not there, a cycle.
func (b *Build) Check() error {
	byName := map[string]*Target{}
	for i := range b.Targets {
		t := &b.Targets[i]
		if byName[t.Name] != nil {
			return fmt.Errorf("internal error: two targets are named %q", t.Name)
		}
		byName[t.Name] = t
	}
	done := map[string]bool{}
	var visit func(name string, path []string) error
	visit = func(name string, path []string) error {
		if done[name] {
			return nil
		}
		if i := slices.Index(path, name); i >= 0 {
			return fmt.Errorf("cannot build %s: its additional_contexts lead back to itself: %s", name, strings.Join(append(path[i:], name), " -> "))
		}
		for _, need := range byName[name].Needs() {
			if byName[need] == nil {
				return fmt.Errorf("cannot build %s: its additional context %s%s is not among what is built", name, TargetPrefix, need)
			}
			if err := visit(need, append(slices.Clone(path), name)); err != nil {
				return err
			}
		}
		done[name] = true
		return nil
	}
	for _, name := range slices.Sorted(maps.Keys(byName)) {
		if err := visit(name, nil); err != nil {
			return err
		}
	}
	return nil
}
