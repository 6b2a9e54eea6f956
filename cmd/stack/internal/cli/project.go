package cli

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
	"github.com/stack-run/stack/compose/desired"
	"github.com/stack-run/stack/compose/load"
	"github.com/stack-run/stack/compose/load/publish"
	"github.com/stack-run/stack/compose/load/remote"
	"github.com/stack-run/stack/compose/spec"
	"github.com/stack-run/stack/engine/sealed"
)

// LoadRequest says what a verb wants to know of the Compose files.
type LoadRequest struct {
	// Services are named on the command line: their profiles become active.
	Services []string
	// Jobs says that Services may be jobs.
	Jobs bool
	// NoDeps says that the verb does not look at what Services depend on, and
	// NoServices that it looks at none: faults of others do not stop it.
	NoDeps, NoServices bool
	// Verb names docker's form of it where one of Services is none.
	Verb string
	// Scale overrides the number of replicas.
	Scale map[string]int
	// Provide runs providers, which set variables in the project's services.
	Provide func(ctx context.Context, p *Project) error
}

// Project is a loaded Compose project.
type Project struct {
	*load.Loaded
	Desired *spec.Desired
}

// LoadOptions are the global flags in the loader's words.
func (a *App) LoadOptions() (load.Options, error) {
	dir, err := a.Cwd()
	if err != nil {
		return load.Options{}, fmt.Errorf("cannot find the working directory: %w", err)
	}
	g := a.Global
	return load.Options{
		Files: g.Files, ProjectName: g.ProjectName, ProjectDir: g.ProjectDirectory, EnvFiles: g.EnvFiles,
		Profiles: g.Profiles, AllResources: g.AllResources, Stdin: a.In, Environ: a.Environ, WorkingDir: dir,
		Fetch: a.fetch,
	}, nil
}

// fetch has a copy of a project that is in a git repository or a registry.
func (a *App) fetch(ctx context.Context, ref string) (string, error) {
	dir := filepath.Join(a.Roots().Data, "remote")
	if name, ok := strings.CutPrefix(ref, "oci://"); ok {
		return a.fetchPublished(ctx, dir, name)
	}
	address, ok := remote.ParseGit(ref)
	if !ok {
		return "", fmt.Errorf("cannot fetch %s: it is no git repository; fetch it by hand and name the local file", ref)
	}
	return remote.Git{Dir: dir, Environ: a.Environ}.Fetch(ctx, address)
}

// fetchPublished has a copy of a project that was published in a registry.
func (a *App) fetchPublished(ctx context.Context, dir, name string) (string, error) {
	v, err := a.API(ctx)
	if err != nil {
		return "", err
	}
	artifact, digest, err := v.PullArtifact(ctx, name, publish.ArtifactType, a.Global.Insecure...)
	if err != nil {
		return "", err
	}
	_, hex, _ := strings.Cut(digest, ":")
	dir = filepath.Join(dir, hex)
	if _, err := os.Stat(dir); err == nil {
		return dir, nil
	}
	docs := make([]publish.Document, len(artifact.Documents))
	for i, d := range artifact.Documents {
		docs[i] = publish.Document(d)
	}
	if err := publish.UnpackNew(dir, docs); err != nil {
		return "", fmt.Errorf("cannot use the project %s: %w", name, err)
	}
	return dir, nil
}

// InsideProject reports whether the command line, the environment, .env or the
// working directory names a project. It looks into no Compose file.
func (a *App) InsideProject() bool {
	g := a.Global
	if a.ProjectMeant || len(g.Files) > 0 || g.ProjectName != "" || g.ProjectDirectory != "" || g.WorkDir != "" ||
		a.Getenv("COMPOSE_FILE") != "" || a.Getenv("COMPOSE_PROJECT_NAME") != "" {
		return true
	}
	return a.composeFileNear()
}

// composeFileNear looks for the default Compose files in the project directory
// or upwards from the working directory.
func (a *App) composeFileNear() bool {
	dir := a.Global.ProjectDirectory
	if dir == "" {
		var err error
		if dir, err = a.Cwd(); err != nil {
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

// LoadProject loads the project, prints what is odd about it, and translates it
// into the engine's terms.
func (a *App) LoadProject(ctx context.Context, r LoadRequest) (*Project, error) {
	o, err := a.LoadOptions()
	if err != nil {
		return nil, err
	}
	o.Services, o.Jobs, o.NoDeps, o.NoServices = r.Services, r.Jobs, r.NoDeps, r.NoServices
	l, err := load.Load(ctx, o)
	if err != nil {
		return nil, NamingEngine(err, r.Verb, r.Services)
	}
	for _, w := range l.Warnings {
		a.Warn("%s", w)
	}
	host, err := a.HostFacts(ctx, l)
	if err != nil {
		return nil, err
	}
	d, warnings, err := a.Desired(l, host, r.Scale)
	if err != nil {
		return nil, err
	}
	for _, w := range warnings {
		a.Warn("%s", w)
	}
	p := &Project{l, d}
	if r.Provide == nil || len(d.Providers) == 0 {
		return p, nil
	}
	if err := r.Provide(ctx, p); err != nil {
		return nil, err
	}
	p.Desired, _, err = a.Desired(l, host, r.Scale)
	return p, err
}

func (a *App) Desired(l *load.Loaded, host spec.HostFacts, scale map[string]int) (*spec.Desired, []spec.Warning, error) {
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

// Separator joins the parts of a container's name, "" for the usual one.
func (a *App) Separator() string {
	if a.Global.Compatibility {
		return "_"
	}
	return ""
}

// HostFacts are what the translation of a project needs besides it.
func (a *App) HostFacts(ctx context.Context, l *load.Loaded) (spec.HostFacts, error) {
	host := spec.HostFacts{
		Locate: l.Locate, StackVersion: strings.TrimPrefix(Version, "v"), Separator: a.Separator(),
		Touched: l.Touched, Aside: l.Aside, Stored: a.Stored(ctx), KeyDigest: a.keyDigest(ctx),
	}
	if len(l.Touched) == len(l.Project.Services)+len(l.Project.Jobs) {
		return host, nil
	}
	v, err := a.API(ctx)
	if err != nil {
		return host, err
	}
	host.Earlier, err = v.Definition(ctx, l.Project.Name)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return host, err
	}
	return host, nil
}

// Stored reads from the store of secrets and configs, which is opened when the first
// one is asked for.
func (a *App) Stored(ctx context.Context) func(kind, name string) ([]byte, string, error) {
	return func(kind, name string) ([]byte, string, error) {
		v, err := a.API(ctx)
		if err != nil {
			return nil, "", err
		}
		content, object, err := v.StoredContent(ctx, sealed.Kind(kind), name)
		return content, object.Digest, err
	}
}

// keyDigest keys digests of secrets for this machine.
func (a *App) keyDigest(ctx context.Context) func(digest string) (string, error) {
	return func(digest string) (string, error) {
		v, err := a.API(ctx)
		if err != nil {
			return "", err
		}
		return v.KeyDigest(ctx, digest)
	}
}

// scope is the project that the command line is about.
type scope struct {
	Name     string
	Services []string // known ones, sorted
	Jobs     []string // likewise
	Quiet    []string // services with attach: false
}

// Scope finds the project's name, and its services as it was last brought up.
// That is enough for most verbs and costs no reading of the whole Compose file.
func (a *App) Scope(ctx context.Context, v compose.API) (scope, error) {
	o, err := a.LoadOptions()
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
	return scope{Name: id.Name}, nil
}

// Declared is what the Compose files say that the project of a name is, nil where
// there are none: then all that carries the name is meant. What was last brought
// up from the same files is as good as reading them again, and costs less.
func (a *App) Declared(ctx context.Context, v compose.API, name string) (*spec.Desired, error) {
	o, err := a.LoadOptions()
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
	p, err := a.LoadProject(ctx, LoadRequest{NoServices: true})
	if err != nil {
		return nil, err
	}
	return p.Desired, nil
}

// Declare restricts a selection to what the Compose files declare.
func (a *App) Declare(ctx context.Context, v compose.API, sel *selection) error {
	if sel.Project == "" {
		return nil
	}
	d, err := a.Declared(ctx, v, sel.Project)
	sel.Declared = d
	return err
}

func scopeOf(d *spec.Desired) scope {
	s := scope{Name: d.Project, Services: slices.Sorted(maps.Keys(d.Services)), Jobs: slices.Sorted(maps.Keys(d.Jobs))}
	for name, service := range d.Services {
		if service.NoAttach {
			s.Quiet = append(s.Quiet, name)
		}
	}
	return s
}

// OfProject is the door and the project of a verb whose arguments are services.
func (a *App) OfProject(ctx context.Context, verb string, services []string) (compose.API, scope, error) {
	v, err := a.API(ctx)
	if err != nil {
		return nil, scope{}, err
	}
	s, err := a.Scope(ctx, v)
	if err == nil {
		err = a.Check(ctx, v, s, verb, services)
	}
	return v, s, err
}

// Check complains about services that neither a container nor the project's
// definition nor the Compose file knows, in the order of what a look costs, and about
// jobs where the verb is not for them.
func (a *App) Check(ctx context.Context, v compose.API, s scope, verb string, names []string) error {
	known := append(slices.Clone(s.Services), s.Jobs...)
	unknown := func() int {
		return slices.IndexFunc(names, func(n string) bool { return !slices.Contains(known, n) })
	}
	refused := func(jobs []string) error {
		for _, name := range names {
			if slices.Contains(jobs, name) && !forJobs(verb) {
				return desired.RunOnly(name)
			}
		}
		return nil
	}
	if err := refused(s.Jobs); err != nil || unknown() < 0 {
		return err
	}
	cs, err := v.Containers(ctx, compose.Selector{Project: s.Name, All: true, OneOff: true})
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
	if o, err := a.LoadOptions(); err == nil {
		o.NoServices = true
		if l, err := load.Load(ctx, o); err == nil && l.Project.Name == s.Name {
			known = append(known, l.Project.ServiceNames()...)
			known = append(known, l.Project.DisabledServiceNames()...)
			jobs := slices.Sorted(maps.Keys(l.Project.AllJobs()))
			if err := refused(jobs); err != nil {
				return err
			}
			known = append(known, jobs...)
		}
	}
	if i := unknown(); i >= 0 {
		return NoSuchService(verb, names[i], known)
	}
	return nil
}

// forJobs says that a verb looks at containers, or takes away those that there are:
// a job's are as good as others.
func forJobs(verb string) bool {
	switch verb {
	case "start", "stop", "restart", "pause", "unpause", "down":
		return false
	}
	return true
}

// NoSuchService names what was probably meant and how a container is named.
func NoSuchService(verb, name string, known []string) error {
	text := "no such service: " + name
	if near := spec.Nearest(name, known); near != "" {
		text += fmt.Sprintf("; did you mean %q?", near)
	}
	if form := EngineForm(verb, name); form != "" {
		text += "; " + form
	}
	return errors.New(text)
}
