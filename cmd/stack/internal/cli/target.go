package cli

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	"github.com/stack-run/stack/compose"
	"github.com/stack-run/stack/engine"
)

// selection is what the arguments of a project's verb mean.
type selection struct {
	compose.Selector
	Scope scope
}

// Choose turns a verb's arguments into a selection.
func (a *App) Choose(ctx context.Context, v compose.API, verb string, names []string) (selection, error) {
	s, err := a.Scope(ctx, v)
	if err != nil {
		return selection{}, err
	}
	if err := a.Check(ctx, v, s, verb, names); err != nil {
		return selection{}, err
	}
	// Of a job there is nothing but what run has made.
	job := slices.ContainsFunc(names, func(name string) bool { return slices.Contains(s.Jobs, name) })
	return selection{Selector: compose.Selector{Project: s.Name, Services: names, OneOff: job}, Scope: s}, nil
}

// One finds the one container that a verb such as exec works on: a service's
// with that index, or its first.
func (a *App) One(ctx context.Context, v compose.API, verb, name string, index int, running bool) (engine.Container, error) {
	sel, err := a.Choose(ctx, v, verb, []string{name})
	if err != nil {
		return engine.Container{}, err
	}
	sel.Index = index
	sel.All, sel.OneOff = true, true
	cs, err := v.Containers(ctx, sel.Selector)
	if err != nil {
		return engine.Container{}, err
	}
	// A container of "stack run" will do where the service has none of its own.
	slices.SortStableFunc(cs, func(x, y engine.Container) int { return cmp.Compare(last(x.OneOff), last(y.OneOff)) })
	live := slices.DeleteFunc(slices.Clone(cs), func(c engine.Container) bool {
		return c.State.Phase != engine.Running && c.State.Phase != engine.Paused
	})
	switch {
	case len(live) > 0:
		return live[0], nil
	case !running && len(cs) > 0:
		return cs[0], nil
	case index > 0:
		return engine.Container{}, fmt.Errorf("service %q is not running container #%d; \"stack ps --all\" shows its containers", name, index)
	case !running:
		return engine.Container{}, fmt.Errorf("no container found for service %q; create it with: stack up -d %s", name, name)
	}
	return engine.Container{}, fmt.Errorf("service %q is not running; start it with: stack up -d %s", name, name)
}

// last is a key that puts what it is true of behind the rest.
func last(b bool) int {
	if b {
		return 1
	}
	return 0
}

func noSuchContainer(name string) error { return fmt.Errorf("%w: %s", engine.ErrNotFound, name) }

// Target is one for verbs that exist for services and for containers.
func (a *App) Target(ctx context.Context, v compose.API, verb, name string, index int, container bool) (engine.Container, error) {
	if !container {
		ofFiles := verb == "cp" || verb == "commit" || verb == "export" // which a stopped one has too
		return a.One(ctx, v, verb, name, index, !ofFiles)
	}
	cs, err := v.Containers(ctx, compose.Selector{IDs: []string{name}, All: true})
	if err != nil {
		return engine.Container{}, err
	}
	if len(cs) == 0 {
		return engine.Container{}, noSuchContainer(name)
	}
	return cs[0], nil
}
