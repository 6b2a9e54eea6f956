package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/stack-run/stack/compose"
	"github.com/stack-run/stack/compose/load"
	"github.com/stack-run/stack/compose/spec"
	"github.com/stack-run/stack/engine"
)

// loadRequest says what a verb wants to know of the Compose files.
type loadRequest struct {
	// Services are named on the command line: their profiles become active.
	Services []string
	// Scale overrides the number of replicas.
	Scale map[string]int
}

// project is a loaded Compose project.
type project struct {
	*load.Loaded
	Desired *spec.Desired
}

// loadOptions are the global flags in the loader's words.
func (a *app) loadOptions() (load.Options, error) {
	dir, err := a.cwd()
	if err != nil {
		return load.Options{}, fmt.Errorf("cannot find the working directory: %w", err)
	}
	g := a.global
	return load.Options{
		Files: g.Files, ProjectName: g.ProjectName, ProjectDir: g.ProjectDirectory, EnvFiles: g.EnvFiles,
		Profiles: g.Profiles, AllResources: g.AllResources, Stdin: a.in, Environ: a.environ, WorkingDir: dir,
	}, nil
}

// insideProject reports whether the command line or the working directory
// names a project. It reads no file.
func (a *app) insideProject() bool {
	if len(a.global.Files) > 0 || a.global.ProjectName != "" || a.global.ProjectDirectory != "" ||
		a.getenv("COMPOSE_FILE") != "" || a.getenv("COMPOSE_PROJECT_NAME") != "" {
		return true
	}
	return a.composeFileNear()
}

// composeFileNear looks for the default Compose files in the project directory
// or upwards from the working directory.
func (a *app) composeFileNear() bool {
	dir := a.global.ProjectDirectory
	if dir == "" {
		var err error
		if dir, err = a.cwd(); err != nil {
			return false
		}
	}
	for {
		for _, name := range []string{"compose.yaml", "compose.yml", "docker-compose.yml", "docker-compose.yaml"} {
			if s, err := os.Stat(filepath.Join(dir, name)); err == nil && !s.IsDir() {
				return true
			}
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			return false
		}
		dir = parent
	}
}

// loadProject loads the project, prints what is odd about it, and translates it
// into the engine's terms.
func (a *app) loadProject(ctx context.Context, r loadRequest) (*project, error) {
	o, err := a.loadOptions()
	if err != nil {
		return nil, err
	}
	o.Services = r.Services
	l, err := load.Load(ctx, o)
	if err != nil {
		return nil, err
	}
	for _, w := range l.Warnings {
		a.warn("%s", w)
	}
	d, warnings, err := a.desired(l, r.Scale)
	if err != nil {
		return nil, err
	}
	for _, w := range warnings {
		a.warn("%s", w)
	}
	return &project{l, d}, nil
}

func (a *app) desired(l *load.Loaded, scale map[string]int) (*spec.Desired, []spec.Warning, error) {
	p := l.Project
	if len(scale) > 0 {
		var err error
		if p, err = spec.Scale(p, scale); err != nil {
			return nil, nil, err
		}
	}
	host := spec.HostFacts{Locate: l.Locate, StackVersion: strings.TrimPrefix(version, "v")}
	if a.global.Compatibility {
		host.Separator = "_"
	}
	d, warnings, err := spec.Build(p, host)
	if d != nil {
		d.EnvFiles = l.EnvFiles
	}
	return d, warnings, err
}

// scope is the project that the command line is about.
type scope struct {
	name     string
	services []string // known ones, sorted
	quiet    []string // services with attach: false
}

// scope finds the project's name, and its services as it was last brought up.
// That is enough for most verbs and costs no reading of the whole Compose file.
func (a *app) scope(ctx context.Context, v compose.Verbs) (scope, error) {
	o, err := a.loadOptions()
	if err != nil {
		return scope{}, err
	}
	id, err := load.Identify(ctx, o)
	if err != nil {
		return scope{}, err
	}
	if d, err := v.Definition(ctx, id.Name); err == nil {
		return scopeOf(d), nil
	}
	return scope{name: id.Name}, nil
}

func scopeOf(d *spec.Desired) scope {
	s := scope{name: d.Project, services: slices.Sorted(maps.Keys(d.Services))}
	for name, service := range d.Services {
		if service.NoAttach {
			s.quiet = append(s.quiet, name)
		}
	}
	return s
}

// check complains about services that neither a container nor the project's
// definition nor the Compose file knows, in the order of what a look costs.
func (a *app) check(ctx context.Context, v compose.Verbs, s scope, verb string, names []string) error {
	known := slices.Clone(s.services)
	unknown := func() int {
		return slices.IndexFunc(names, func(n string) bool { return !slices.Contains(known, n) })
	}
	if unknown() < 0 {
		return nil
	}
	cs, err := v.Containers(ctx, compose.Selector{Project: s.name, All: true, OneOff: true})
	if err != nil {
		return err
	}
	for _, c := range cs {
		known = append(known, c.Service)
	}
	if unknown() < 0 {
		return nil
	}
	// A file that does not load is no reason against a verb on what runs.
	if o, err := a.loadOptions(); err == nil {
		if l, err := load.Load(ctx, o); err == nil && l.Project.Name == s.name {
			known = append(known, l.Project.ServiceNames()...)
			known = append(known, l.Project.DisabledServiceNames()...)
		}
	}
	if i := unknown(); i >= 0 {
		return noSuchService(verb, names[i], known)
	}
	return nil
}

// noSuchService names what was probably meant and how a container is named.
func noSuchService(verb, name string, known []string) error {
	text := "no such service: " + name
	if near := spec.Nearest(name, known); near != "" {
		text += fmt.Sprintf("; did you mean %q?", near)
	}
	if verb != "" {
		text += fmt.Sprintf("; for a container use \"stack container %s %s\"", verb, name)
	}
	return errors.New(text)
}

// errNoProject says that the command line names no project and that the working
// directory is in none.
func errNoProject() error {
	return fmt.Errorf("%w: there is no compose.yaml here or in any directory above; name one with -f, a project with -p, or a container as argument", load.ErrNoFile)
}

// selection is what the arguments of a verb mean: services of a project, or
// containers where there is no project.
type selection struct {
	compose.Selector
	scope scope
}

// choose turns a verb's arguments into a selection. Outside a project the
// names are containers, of which there must be at least one.
func (a *app) choose(ctx context.Context, v compose.Verbs, verb string, names []string) (selection, error) {
	if !a.insideProject() {
		if len(names) == 0 {
			return selection{}, errNoProject()
		}
		return selection{Selector: compose.Selector{IDs: names, All: true}}, nil
	}
	s, err := a.scope(ctx, v)
	if err != nil {
		return selection{}, err
	}
	if err := a.check(ctx, v, s, containerVerb(verb), names); err != nil {
		return selection{}, err
	}
	return selection{Selector: compose.Selector{Project: s.name, Services: names}, scope: s}, nil
}

// containerVerb is the verb when there is one of that name for containers.
func containerVerb(verb string) string {
	switch verb {
	case "ps", "images", "volumes", "events", "up", "scale", "down":
		return ""
	}
	return verb
}

// one finds the one container that a verb such as exec works on: a service's
// with that index, or its first, or outside a project the container of that name.
func (a *app) one(ctx context.Context, v compose.Verbs, verb, name string, index int, running bool) (engine.Container, error) {
	sel, err := a.choose(ctx, v, verb, []string{name})
	if err != nil {
		return engine.Container{}, err
	}
	sel.Index = index
	sel.All = true
	cs, err := v.Containers(ctx, sel.Selector)
	if err != nil {
		return engine.Container{}, err
	}
	if len(sel.IDs) > 0 {
		if len(cs) == 0 {
			return engine.Container{}, fmt.Errorf("no such container: %s", name)
		}
		return cs[0], nil
	}
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

// parseScale reads SERVICE=NUM.
func parseScale(args []string) (map[string]int, error) {
	if len(args) == 0 {
		return nil, nil
	}
	out := map[string]int{}
	for _, arg := range args {
		name, number, ok := strings.Cut(arg, "=")
		n, err := strconv.Atoi(number)
		if !ok || name == "" || err != nil || n < 0 {
			return nil, fmt.Errorf("cannot read the scale %q; write SERVICE=NUM, such as web=3", arg)
		}
		out[name] = n
	}
	return out, nil
}

// target is one for verbs that exist for services and for containers.
func (a *app) target(ctx context.Context, v compose.Verbs, verb, name string, index int, container bool) (engine.Container, error) {
	if !container {
		return a.one(ctx, v, verb, name, index, verb != "cp")
	}
	cs, err := v.Containers(ctx, compose.Selector{IDs: []string{name}, All: true})
	if err != nil {
		return engine.Container{}, err
	}
	if len(cs) == 0 {
		return engine.Container{}, fmt.Errorf("no such container: %s", name)
	}
	return cs[0], nil
}
