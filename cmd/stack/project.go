package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/stack-run/stack/compose"
	"github.com/stack-run/stack/compose/load"
	"github.com/stack-run/stack/compose/spec"
)

// loadRequest says what a verb wants to know of the Compose files.
type loadRequest struct {
	// Services are named on the command line: their profiles become active.
	Services []string
	// NoDeps says that the verb does not look at what Services depend on, and
	// NoServices that it looks at none: faults of others do not stop it.
	NoDeps, NoServices bool
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

// insideProject reports whether the command line, the environment, .env or the
// working directory names a project. It looks into no Compose file.
func (a *app) insideProject() bool {
	g := a.global
	if len(g.Files) > 0 || g.ProjectName != "" || g.ProjectDirectory != "" || g.WorkDir != "" ||
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
	o.Services, o.NoDeps, o.NoServices = r.Services, r.NoDeps, r.NoServices
	l, err := load.Load(ctx, o)
	if err != nil {
		return nil, err
	}
	for _, w := range l.Warnings {
		a.warn("%s", w)
	}
	host, err := a.hostFacts(ctx, l)
	if err != nil {
		return nil, err
	}
	d, warnings, err := a.desired(l, host, r.Scale)
	if err != nil {
		return nil, err
	}
	for _, w := range warnings {
		a.warn("%s", w)
	}
	return &project{l, d}, nil
}

func (a *app) desired(l *load.Loaded, host spec.HostFacts, scale map[string]int) (*spec.Desired, []spec.Warning, error) {
	p := l.Project
	if len(scale) > 0 {
		var err error
		if p, err = spec.Scale(p, scale); err != nil {
			return nil, nil, err
		}
	}
	d, warnings, err := spec.Build(p, host)
	if d != nil {
		d.EnvFiles = l.EnvFiles
	}
	return d, warnings, err
}

// separator joins the parts of a container's name, "" for the usual one.
func (a *app) separator() string {
	if a.global.Compatibility {
		return "_"
	}
	return ""
}

// hostFacts are what the translation of a project needs besides it.
func (a *app) hostFacts(ctx context.Context, l *load.Loaded) (spec.HostFacts, error) {
	host := spec.HostFacts{
		Locate: l.Locate, StackVersion: strings.TrimPrefix(version, "v"), Separator: a.separator(),
		Touched: l.Touched, Aside: l.Aside,
	}
	if len(l.Touched) == len(l.Project.Services) {
		return host, nil
	}
	v, err := a.api(ctx)
	if err != nil {
		return host, err
	}
	host.Earlier, err = v.Definition(ctx, l.Project.Name)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return host, err
	}
	return host, nil
}

// scope is the project that the command line is about.
type scope struct {
	name     string
	services []string // known ones, sorted
	quiet    []string // services with attach: false
}

// scope finds the project's name, and its services as it was last brought up.
// That is enough for most verbs and costs no reading of the whole Compose file.
func (a *app) scope(ctx context.Context, v compose.API) (scope, error) {
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

// declared is what the Compose files say that the project of a name is, nil where
// there are none: then all that carries the name is meant. What was last brought
// up from the same files is as good as reading them again, and costs less.
func (a *app) declared(ctx context.Context, v compose.API, name string) (*spec.Desired, error) {
	o, err := a.loadOptions()
	if err != nil {
		return nil, err
	}
	id, err := load.Identify(ctx, o)
	if err != nil || len(id.Files) == 0 || id.Name != name {
		return nil, err
	}
	last, err := v.Definition(ctx, name)
	if err == nil && (last.WorkingDir != id.WorkingDir || !slices.Equal(last.ConfigFiles, id.Files)) {
		last = nil
	}
	if last != nil {
		return last, nil
	}
	p, err := a.loadProject(ctx, loadRequest{NoServices: true})
	if err != nil {
		return nil, err
	}
	return p.Desired, nil
}

// declare restricts a selection to what the Compose files declare.
func (a *app) declare(ctx context.Context, v compose.API, sel *selection) error {
	if sel.Project == "" {
		return nil
	}
	d, err := a.declared(ctx, v, sel.Project)
	sel.Declared = d
	return err
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
func (a *app) check(ctx context.Context, v compose.API, s scope, verb string, names []string) error {
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
		o.NoServices = true
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
