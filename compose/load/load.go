package load

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/compose-spec/compose-go/v2/types"
	"github.com/stack-run/stack/compose/spec"
)

// Loaded is a project with what is known of its sources.
type Loaded struct {
	Project  *types.Project
	Warnings []Warning
	// EnvFiles are the files of --env-file.
	EnvFiles []string
	// Touched are the services whose faults count (Options.Services), Aside others
	// that have some and are not to be used.
	Touched, Aside []string

	positions *positions
	scope     scope
	base      string
}

// Locate is "compose.yaml:12" for a path in the model, or "". It is what
// spec.HostFacts.Locate wants.
func (l *Loaded) Locate(path string) string {
	file, line, _ := l.positions.find(path)
	if file == "" {
		return ""
	}
	return fmt.Sprintf("%s:%d", cmp.Or(shortName(l.base, file), file), line)
}

// Load loads a project and keeps where each part of it stands.
func Load(ctx context.Context, o Options) (*Loaded, error) {
	logs, release := silenceCompose()
	defer release()
	d := &diagnostics{}
	s, in, err := prepare(ctx, o, d)
	if err != nil {
		return nil, err
	}
	name, err := s.projectName(o, last(in.names))
	if err != nil {
		return nil, err
	}
	c := &composer{options: o, source: s, inspector: in, report: d, name: name}
	project, err := c.project(ctx)
	if err != nil {
		return nil, err
	}
	c.composeWarnings(logs())
	return &Loaded{
		Touched:   sortedNames(c.touched),
		Aside:     slices.Sorted(maps.Keys(c.aside)),
		Project:   project,
		Warnings:  unique(d.warnings),
		EnvFiles:  s.envFiles,
		positions: &in.positions,
		scope:     scope{base: s.cwd, flagName: o.ProjectName, name: name, env: s.env, shell: s.shell, envFiles: in.envFiles},
		base:      s.cwd,
	}, nil
}

// prepare is steps 1 and 2: discover, read and check the files.
func prepare(ctx context.Context, o Options, d *diagnostics) (*source, *inspector, error) {
	s, err := discover(ctx, o, d)
	if err != nil {
		return nil, nil, err
	}
	s.read(o, d)
	if err := d.err(); err != nil {
		return nil, nil, err
	}
	in, err := newInspector(o, d, s.contents)
	if err != nil {
		return nil, nil, err
	}
	in.partial = len(s.files) > 1
	in.envFiles[""] = s.dotEnv
	env := s.env.Clone()
	if name, err := s.projectName(o, ""); err == nil {
		env["COMPOSE_PROJECT_NAME"] = name
	}
	for _, f := range s.files {
		in.file(f, s.dir, env, nil)
	}
	if !slices.ContainsFunc(in.positions.docs, func(doc *document) bool { return len(doc.roots) > 0 }) && len(d.errors) == 0 {
		d.fail(Diagnostic{File: s.files[0], Text: "none of the files has content but comments; a Compose file needs at least \"services:\" with one service"})
	}
	if err := d.err(); err != nil {
		return nil, nil, err
	}
	return s, in, nil
}

func last(list []string) string {
	if len(list) == 0 {
		return ""
	}
	return list[len(list)-1]
}

// Identity is what most commands need of a project: which one it is.
type Identity struct {
	Name       string
	WorkingDir string
	Files      []string
}

// Identify finds the project of a directory without loading it: commands such
// as exec and ps do not pay for the whole model. Faults below "name:" are not
// looked for. Without a Compose file the error is ErrNoFile, unless the name is
// given by flag, environment or .env.
func Identify(ctx context.Context, o Options) (Identity, error) {
	d := &diagnostics{}
	s, err := discover(ctx, o, d)
	if err != nil {
		named := cmp.Or(o.ProjectName, environValue(o, "COMPOSE_PROJECT_NAME"))
		if s != nil {
			named = cmp.Or(named, s.env["COMPOSE_PROJECT_NAME"])
		}
		if named == "" {
			return Identity{}, err
		}
		s = &source{env: types.Mapping{"COMPOSE_PROJECT_NAME": named}}
		name, err := s.projectName(o, "")
		return Identity{Name: name}, err
	}
	id := Identity{WorkingDir: s.dir, Files: s.files}
	fromFiles := ""
	if o.ProjectName == "" && s.env["COMPOSE_PROJECT_NAME"] == "" {
		s.read(o, d)
		if err := d.err(); err != nil {
			return Identity{}, err
		}
		in := &inspector{opts: o}
		for _, f := range s.files {
			name, fault := topLevelName(f, s.contents[f])
			if fault != nil {
				fault.Text += "; until then name the project with -p"
				return Identity{}, &Error{Diagnostics: []Diagnostic{*fault}}
			}
			if name != "" {
				fromFiles = in.expand(name, s.env)
			}
		}
	}
	id.Name, err = s.projectName(o, fromFiles)
	return id, err
}

func environValue(o Options, key string) string {
	for _, e := range o.Environ {
		if value, ok := strings.CutPrefix(e, key+"="); ok {
			return value
		}
	}
	return ""
}

// topLevelName finds "name:" at the top level. Only a file that has such a line
// is parsed, and if that fails nobody knows which project is meant.
func topLevelName(file string, content []byte) (string, *Diagnostic) {
	for line := range strings.Lines(string(content)) {
		if key, _, ok := strings.Cut(line, ":"); ok && strings.Trim(strings.TrimSpace(key), `"'{`) == "name" && !strings.HasPrefix(line, " ") {
			doc, fault := parse(file, content, true)
			if fault != nil {
				return "", fault
			}
			name := ""
			for _, root := range doc.roots {
				name = cmp.Or(text(child(root, "name")), name)
			}
			return name, nil
		}
	}
	return "", nil
}

// serviceHint is `; did you mean "db"?` for a name that no service has.
func serviceHint(name string, p *types.Project) string {
	if _, ok := p.DisabledServices[name]; ok {
		profiles := p.DisabledServices[name].Profiles
		if len(profiles) == 0 {
			return "; it is not selected"
		}
		return fmt.Sprintf("; it is disabled: enable it with --profile %s", profiles[0])
	}
	return suggestion(name, p.ServiceNames())
}

func suggestion(name string, candidates []string) string {
	if near := spec.Nearest(name, candidates); near != "" {
		return fmt.Sprintf("; did you mean %q?", near)
	}
	if len(candidates) > 0 && len(candidates) <= 8 {
		list := slices.Clone(candidates)
		slices.Sort(list)
		return "; there is " + strings.Join(list, ", ")
	}
	return ""
}

// sortedNames is never nil: no names are not all of them.
func sortedNames(set map[string]bool) []string {
	names := slices.AppendSeq([]string{}, maps.Keys(set))
	slices.Sort(names)
	return names
}
