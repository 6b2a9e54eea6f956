package spec

import (
	"fmt"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/compose-spec/compose-go/v2/cli"
	"github.com/compose-spec/compose-go/v2/types"

	"github.com/stack-run/stack/compose/desired"
)

// watch translates develop.watch. What has no effect is told; what is wrong is an
// error of a watch alone, since nothing else looks at it (see CheckWatch).
func (b *builder) watch(s types.ServiceConfig) []desired.Trigger {
	if s.Develop == nil {
		return nil
	}
	var out []desired.Trigger
	for i, w := range s.Develop.Watch {
		at := fmt.Sprintf("services.%s.develop.watch[%d]", s.Name, i)
		t := desired.Trigger{
			At: at, Where: b.where(at), Path: resolved(filepath.Clean(w.Path)), Action: string(w.Action), Target: w.Target,
			Ignore: slices.Clone(w.Ignore), Include: slices.Clone(w.Include), InitialSync: w.InitialSync,
			Exec:  hooks([]types.ServiceHook{w.Exec})[0],
			Aside: b.aside(s, w.Path),
		}
		if t.Where == "" {
			t.Where = b.where("services." + s.Name)
		}
		if s.Build != nil && filepath.IsAbs(s.Build.Context) {
			t.BuildContext, t.Dockerfile = filepath.Clean(s.Build.Context), s.Build.Dockerfile
		}
		if t.Target != "" {
			t.Bound = slices.ContainsFunc(s.Volumes, func(v types.ServiceVolumeConfig) bool { return binds(v, t) })
		}
		out = append(out, t)
	}
	return out
}

// resolved is a path without links, as far as it is there. The loader resolves only
// the first link in it.
func resolved(name string) string {
	real, err := filepath.EvalSymlinks(name)
	if err == nil {
		return real
	}
	if dir := filepath.Dir(name); dir != name {
		return filepath.Join(resolved(dir), filepath.Base(name))
	}
	return name
}

// binds tells whether a mount has a trigger's path at its target.
func binds(v types.ServiceVolumeConfig, t desired.Trigger) bool {
	if v.Type != types.VolumeTypeBind {
		return false
	}
	source, err := filepath.EvalSymlinks(v.Source)
	if err != nil {
		source = v.Source
	}
	rest, err := filepath.Rel(source, t.Path)
	return err == nil && rest != ".." && !strings.HasPrefix(rest, "../") && path.Join(v.Target, rest) == path.Join("/", t.Target)
}

// aside are what docker compose leaves out of an initial sync, too: the Compose
// files and the Dockerfile, under their usual names or their own.
func (b *builder) aside(s types.ServiceConfig, dir string) []string {
	out := slices.Clone(b.project.ComposeFiles)
	for _, name := range slices.Concat(cli.DefaultFileNames, cli.DefaultOverrideFileNames, []string{"Dockerfile"}) {
		out = append(out, filepath.Join(dir, name))
	}
	if s.Build != nil && s.Build.Dockerfile != "" {
		file := s.Build.Dockerfile
		if !filepath.IsAbs(file) {
			file = filepath.Join(s.Build.Context, file)
		}
		out = append(out, file)
	}
	return out
}

// CheckWatch says what is wrong in the develop.watch of services, or of all: in
// errs what keeps them from being watched, in warnings what has no effect.
func CheckWatch(d *Desired, services []string) (warnings []Warning, err error) {
	var errs []error
	for _, name := range d.Watched(services) {
		s := d.Services[name]
		for _, t := range s.Watch {
			fail := func(attribute, format string, args ...any) {
				errs = append(errs, &Error{Where: t.Where, Path: t.At + attribute, Text: fmt.Sprintf(format, args...)})
			}
			warn := func(attribute, format string, args ...any) {
				warnings = append(warnings, Warning{Where: t.Where, Path: t.At + attribute, Text: fmt.Sprintf(format, args...)})
			}
			copies := false
			switch t.Action {
			case desired.WatchSync, desired.WatchSyncRestart, desired.WatchSyncExec:
				copies = true
			case desired.WatchRebuild:
				if !s.HasBuild {
					fail(".action", "can't watch service %q with action rebuild without a build section; add one, or use sync or restart", name)
				}
			}
			switch {
			case t.Action == desired.WatchSyncExec && len(t.Exec.Command) == 0:
				fail(".exec", "action sync+exec needs a command; add exec: {command: …}, or use sync")
			case t.Action != desired.WatchSyncExec && len(t.Exec.Command) > 0:
				warn(".exec", "the command is never run: action %s has none; use sync+exec", t.Action)
			}
			switch {
			case !copies && t.Target != "":
				warn(".target", "it has no effect: action %s copies nothing", t.Action)
			case !copies && t.InitialSync:
				warn(".initial_sync", "it has no effect: action %s copies nothing", t.Action)
			case copies && !path.IsAbs(t.Target):
				warn(".target", "%q is taken as %s: it is relative to the container's root, not to its working directory", t.Target, path.Join("/", t.Target))
			}
			if t.Bound && t.Action == desired.WatchSync {
				warn(".path", "path %s is also declared by a bind mount volume at %s, where its changes are seen anyway: nothing is copied", t.Path, t.Target)
			}
		}
	}
	if len(errs) == 0 {
		return warnings, nil
	}
	return warnings, joinErrors(errs)
}
