package load

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync"

	"github.com/compose-spec/compose-go/v2/dotenv"
	"github.com/compose-spec/compose-go/v2/loader"
	"github.com/compose-spec/compose-go/v2/types"
	"github.com/compose-spec/compose-go/v2/validation"
	"github.com/sirupsen/logrus"

	"github.com/stack-run/stack/compose/desired"
	"github.com/stack-run/stack/compose/spec"
	"go.yaml.in/yaml/v4"
)

// composer is step 3: what compose-go does.
type composer struct {
	options   Options
	source    *source
	inspector *inspector
	report    *diagnostics
	name      string
	// touched are the services whose faults count, aside others that have some.
	touched, aside map[string]bool
	// jobs are all of the project. While it is checked they are services, see
	// spec.WithJobs.
	jobs types.Jobs
}

func (c *composer) details() types.ConfigDetails {
	details := types.ConfigDetails{WorkingDir: c.source.dir, Environment: c.source.env.Clone()}
	if c.options.NoInterpolate {
		// compose-go gives names without a value ("environment: [TOKEN]", secrets)
		// theirs even then, which must not come into a model that is to be shown.
		details.Environment = types.Mapping{}
	}
	for _, f := range c.source.files {
		if doc := c.inspector.parsed[f]; doc != nil && len(doc.roots) == 0 {
			continue // nothing but comments
		}
		details.ConfigFiles = append(details.ConfigFiles, types.ConfigFile{Filename: f, Content: c.source.contents[f]})
	}
	return details
}

func (c *composer) loaderOptions() func(*loader.Options) {
	return func(l *loader.Options) {
		l.SetProjectName(c.name, true)
		l.SkipValidation = true       // the inspector validates, package jsonschema
		l.SkipConsistencyCheck = true // step 4 does it
		l.SkipResolveEnvironment = true
		l.SkipResolveLabels = true
		l.SkipInterpolation = c.options.NoInterpolate
		l.SkipNormalization = c.options.NoNormalize
		l.ResolvePaths = !c.options.NoPathResolution
		l.Profiles = c.source.profiles
	}
}

// model merges the files into one tree.
func (c *composer) model(ctx context.Context) (dict map[string]any, err error) {
	defer func() {
		// With validation off, compose-go relies on shapes that step 2 has
		// checked; what only interpolation shows may still surprise it.
		if r := recover(); r != nil {
			dict, err = nil, fmt.Errorf("internal error: compose-go: %v", r)
		}
	}()
	dict, err = loader.LoadModelWithContext(ctx, c.details(), c.loaderOptions())
	if err == nil {
		err = validation.Validate(c.checked(dict))
	}
	delete(dict, "version")
	return dict, err
}

// checked is the tree as compose-go's checks expect it. Configs whose source is a
// variable have got content, which they take for a second source, and addresses of
// ports, and what is external, may still be variables.
func (c *composer) checked(dict map[string]any) map[string]any {
	dict = maps.Clone(dict)
	replaceEach(dict, "configs", func(config map[string]any) {
		if config["environment"] != nil {
			delete(config, "content")
		}
	})
	if c.options.NoInterpolate {
		replaceEach(dict, "services", func(service map[string]any) {
			delete(service, "ports")
		})
		for _, section := range []string{"volumes", "configs", "secrets"} {
			if all, ok := dict[section].(map[string]any); ok {
				all = maps.Clone(all)
				maps.DeleteFunc(all, func(_ string, value any) bool { return isVariable(value, "external") })
				dict[section] = all
			}
		}
	}
	return dict
}

// isVariable says whether an attribute is a string yet and may become anything.
func isVariable(value any, attribute string) bool {
	m, _ := value.(map[string]any)
	_, text := m[attribute].(string)
	return text
}

// replaceEach replaces the mappings of a section by copies that are changed.
func replaceEach(dict map[string]any, section string, change func(map[string]any)) {
	all, ok := dict[section].(map[string]any)
	if !ok {
		return
	}
	all = maps.Clone(all)
	for name, value := range all {
		if m, ok := value.(map[string]any); ok {
			m = maps.Clone(m)
			change(m)
			all[name] = m
		}
	}
	dict[section] = all
}

func (c *composer) project(ctx context.Context) (*types.Project, error) {
	dict, err := c.model(ctx)
	if err == nil {
		var p *types.Project
		if p, err = c.bind(dict); err == nil {
			return c.finish(p)
		}
	}
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	if path, found := c.emptyService(); found {
		err = fmt.Errorf("%s must be a mapping, not empty; give it an image or a build section", path)
	}
	return nil, c.decorate(err)
}

// emptyService finds a service or job without any attribute, which no single file shows
// to be wrong (another may fill it) and compose-go does not expect.
func (c *composer) emptyService() (path string, found bool) {
	filled := map[string]bool{}
	for _, content := range c.source.contents {
		var file struct {
			Services map[string]any `yaml:"services"`
			Jobs     map[string]any `yaml:"jobs"`
		}
		if yaml.Unmarshal(content, &file) != nil {
			continue // other faults have been told
		}
		for section, all := range map[string]map[string]any{"services": file.Services, "jobs": file.Jobs} {
			for name, attributes := range all {
				path := section + "." + name
				filled[path] = filled[path] || attributes != nil
			}
		}
	}
	for _, path := range slices.Sorted(maps.Keys(filled)) {
		if !filled[path] {
			return path, true
		}
	}
	return "", false
}

// bind decodes the tree into compose-go's types.
func (c *composer) bind(dict map[string]any) (p *types.Project, err error) {
	defer func() {
		if r := recover(); r != nil {
			p, err = nil, fmt.Errorf("internal error: compose-go: %v", r)
		}
	}()
	details := c.details()
	opts := loader.ToOptions(&details, []func(*loader.Options){c.loaderOptions()})
	details.Environment["COMPOSE_PROJECT_NAME"] = c.name
	p, err = loader.ModelToProject(dict, opts, details)
	if err != nil {
		return nil, err
	}
	p.ComposeFiles = slices.Clone(c.source.files)
	return p, nil
}

// finish selects services, checks consistency and resolves env files.
func (c *composer) finish(p *types.Project) (*types.Project, error) {
	c.jobs = p.AllJobs()
	for _, name := range slices.Sorted(maps.Keys(c.jobs)) {
		if _, ok := p.AllServices()[name]; ok {
			c.fail("jobs."+name, "there is a service of the same name; rename one")
			return nil, c.report.err()
		}
	}
	p, err := c.finished(spec.WithJobs(p))
	if err != nil {
		return nil, err
	}
	return spec.WithoutJobs(p, c.jobs), nil
}

func (c *composer) finished(p *types.Project) (*types.Project, error) {
	for _, name := range c.options.Services {
		if _, job := c.jobs[name]; job && !c.options.Jobs {
			return nil, &Error{Diagnostics: []Diagnostic{{Text: desired.RunOnly(name).Error()}}}
		}
		_, enabled := p.Services[name]
		_, disabled := p.DisabledServices[name]
		if !enabled && !disabled {
			return nil, &Error{Diagnostics: []Diagnostic{{Text: fmt.Sprintf("no such service: %q%s", name, suggestion(name, slices.Sorted(maps.Keys(p.AllServices()))))}}}
		}
	}
	p, err := p.WithServicesEnabled(c.options.Services...)
	if err != nil {
		return nil, err
	}
	chooseNetworks(p)
	dependOnUsed(p)
	c.touch(p)
	if !c.options.NoConsistency {
		(&consistency{composer: c, project: p}).check()
		if err := c.report.err(); err != nil {
			return nil, err
		}
	}
	if c.options.OnlyServices && len(c.options.Services) > 0 {
		all := p.Services
		if p, err = p.WithSelectedServices(c.options.Services); err != nil {
			return nil, c.decorate(err)
		}
		// As docker compose shows them, jobs are none of what is selected from.
		for name := range c.jobs {
			if s, ok := all[name]; ok {
				p.Services[name] = s
				delete(p.DisabledServices, name)
			}
		}
	}
	// Where there is no service at all, the rest is what the files are for.
	if !c.options.AllResources && len(p.AllServices()) > 0 {
		p = withoutUnused(p)
	}
	// As docker compose shows them, what files say is not in jobs.
	shown := types.Services{}
	if c.options.DiscardEnvFiles {
		own := types.Services{}
		for name, s := range p.Services {
			if _, job := c.jobs[name]; job {
				shown[name] = s
			} else {
				own[name] = s
			}
		}
		without := *p
		without.Services = own
		p = &without
	}
	if !c.options.NoEnvResolution {
		registerRawFormat()
		for _, name := range p.ServiceNames() {
			c.oneService(name, func() { c.checkEnvFiles(p.Services[name]) })
			if c.aside[name] {
				s := p.Services[name]
				s.EnvFiles, s.LabelFiles = nil, nil
				p.Services[name] = s
			}
		}
		if err := c.report.err(); err != nil {
			return nil, err
		}
		var files []string
		for _, s := range p.Services {
			for _, f := range s.EnvFiles {
				files = append(files, f.Path)
			}
		}
		if p, err = p.WithServicesEnvironmentResolved(c.options.DiscardEnvFiles); err != nil {
			return nil, c.envFileFault(files, err)
		}
	}
	var files []string
	for _, s := range p.Services {
		files = append(files, s.LabelFiles...)
	}
	if p, err = p.WithServicesLabelsResolved(false); err != nil {
		return nil, c.envFileFault(files, err)
	}
	maps.Copy(p.Services, shown)
	if len(c.source.envFiles) > 0 {
		for name, s := range p.Services {
			s.CustomLabels = types.Labels{spec.LabelEnvironmentFile: strings.Join(c.source.envFiles, ",")}
			p.Services[name] = s
		}
	}
	return p, nil
}

// touch finds the services whose faults count: those that are named, and what
// they depend on, directly or not.
func (c *composer) touch(p *types.Project) {
	c.touched, c.aside = map[string]bool{}, map[string]bool{}
	var add func(name string)
	add = func(name string) {
		s, ok := p.Services[name]
		if !ok || c.touched[name] {
			return
		}
		c.touched[name] = true
		if !c.options.NoDeps {
			for dep := range s.DependsOn {
				add(dep)
			}
		}
	}
	names := c.options.Services
	switch {
	case c.options.NoServices:
		names = nil
	case len(names) == 0:
		names = slices.DeleteFunc(p.ServiceNames(), c.byHand)
	}
	for _, name := range names {
		add(name)
	}
}

// byHand says of a job that nothing but an explicit run makes it run: up and the like
// work whatever is wrong with it.
func (c *composer) byHand(name string) bool {
	j, ok := c.jobs[name]
	return ok && !c.options.Jobs && j.Triggers != nil && j.Triggers.Manual != nil && len(j.Triggers.Schedule) == 0
}

// in is the path of a service or job.
func (c *composer) in(name string) string {
	if _, job := c.jobs[name]; job {
		return "jobs." + name
	}
	return "services." + name
}

// oneService runs checks of one service. If faults of it do not count, it is set
// aside instead.
func (c *composer) oneService(name string, check func()) {
	before := len(c.report.errors)
	check()
	if !c.touched[name] && len(c.report.errors) > before {
		c.report.errors = c.report.errors[:before]
		c.aside[name] = true
	}
}

// envFileFault is a fault in one of the files, or another one.
func (c *composer) envFileFault(files []string, err error) error {
	if slices.ContainsFunc(files, func(f string) bool { return strings.Contains(err.Error(), f) }) {
		return envFileError(c.report, files, err)
	}
	return c.decorate(err)
}

func (c *composer) checkEnvFiles(s types.ServiceConfig) {
	var expanded []string
	for i, f := range s.EnvFiles {
		if f.Format != "" && f.Format != "raw" {
			c.fail(fmt.Sprintf("%s.env_file[%d].format", c.in(s.Name), i), fmt.Sprintf("unknown format %q; use raw, or leave it out", f.Format))
		}
		c.checkEnvFile(fmt.Sprintf("%s.env_file[%d]", c.in(s.Name), i), f.Path, bool(f.Required))
		if f.Format == "" {
			expanded = append(expanded, f.Path)
		}
	}
	warnOfDollars(c.report, c.source.env, expanded)
	for i, f := range s.LabelFiles {
		c.checkEnvFile(fmt.Sprintf("%s.label_file[%d]", c.in(s.Name), i), f, true)
	}
}

func (c *composer) checkEnvFile(path, file string, required bool) {
	info, err := os.Stat(file)
	short := shortName(c.source.cwd, file)
	switch {
	case errors.Is(err, fs.ErrNotExist) && required:
		what, hint := "label file", ""
		if strings.Contains(path, ".env_file") {
			what, hint = "env file", ", or write {path: …, required: false}"
		}
		c.fail(path, fmt.Sprintf("%s %s not found; create it%s", what, short, hint))
	case err == nil && info.IsDir():
		c.fail(path, short+" is a directory; name a file")
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		c.fail(path, fmt.Sprintf("cannot read %s: %v", short, bare(err)))
	}
}

func (c *composer) fail(path, text string) {
	file, line, column := c.inspector.positions.find(path)
	c.report.fail(Diagnostic{File: file, Line: line, Column: column, Path: path, Text: text})
}

// pathIn finds a path of the model in a message of compose-go.
var pathIn = sync.OnceValue(func() *regexp.Regexp {
	return regexp.MustCompile(`\b(?:services|networks|volumes|secrets|configs|include|jobs|models)(?:\.(?:[A-Za-z0-9_-]+|\[\])|\[\d*\])+`)
})

// keyIn finds a key in brackets, which is no index.
var keyIn = sync.OnceValue(func() *regexp.Regexp {
	return regexp.MustCompile(`\[([A-Za-z_][A-Za-z0-9._-]*)\]`)
})

// serviceIn finds the service that a message names without a path.
var serviceIn = sync.OnceValue(func() *regexp.Regexp {
	return regexp.MustCompile(`service "?([A-Za-z0-9._-]+)"?`)
})

// decorate gives an error of compose-go the file and line of the path that it
// names.
func (c *composer) decorate(err error) error {
	var known *Error
	if errors.As(err, &known) {
		return err
	}
	text := err.Error()
	if rest, ok := strings.CutPrefix(text, "Circular reference:"); ok {
		text = c.extendsCycle(rest)
	}
	for _, f := range c.inspector.files {
		text = strings.TrimPrefix(text, "validating "+f+": ")
		text = strings.TrimPrefix(text, "failed to parse "+f+": ")
	}
	for _, line := range strings.Split(text, "\n") {
		if line = strings.TrimSpace(line); line != "" && !strings.HasPrefix(line, "decoding failed due to") {
			c.report.fail(c.placed(line))
		}
	}
	if len(c.report.errors) == 0 {
		c.report.fail(Diagnostic{Text: text})
	}
	out := c.report.err().(*Error)
	out.cause = err
	return out
}

// extendsCycle puts a cycle that compose-go prints in lines ("  web in FILE",
// "  extends base in FILE") in one.
func (c *composer) extendsCycle(lines string) string {
	var names []string
	for line := range strings.Lines(lines) {
		name, _, _ := strings.Cut(strings.TrimPrefix(strings.TrimSpace(line), "extends "), " in ")
		if name != "" {
			names = append(names, name)
		}
	}
	if len(names) < 2 {
		return "extends cycle; remove one extends"
	}
	// compose-go begins anywhere in it.
	circle := names[:len(names)-1]
	first := slices.Index(circle, slices.Min(circle))
	names = append(slices.Concat(circle[first:], circle[:first]), circle[first])
	return fmt.Sprintf("services.%s.extends: extends cycle: %s; remove one extends", names[0], strings.Join(names, " -> "))
}

// placed finds the place of one line of an error.
func (c *composer) placed(line string) Diagnostic {
	line = keyIn().ReplaceAllString(line, ".$1") // 'services[web].x', as mapstructure writes it
	d := Diagnostic{Text: line}
	if path := pathIn().FindString(line); path != "" {
		d.Path = path
		d.File, d.Line, d.Column = c.inspector.positions.find(strings.ReplaceAll(path, ".[]", ""))
		_, after, _ := strings.Cut(line, path)
		if strings.HasPrefix(line, path) || strings.HasPrefix(line, "'"+path) || strings.HasPrefix(line, "error while interpolating") {
			d.Text = strings.TrimLeft(after, "': ")
		}
	} else if m := serviceIn().FindStringSubmatch(line); m != nil {
		d.Path = "services." + m[1]
		d.File, d.Line, d.Column = c.inspector.positions.find(d.Path)
	}
	if d.File == "" && len(c.source.files) > 0 {
		d.File = c.source.files[0]
	}
	if value, ok := strings.CutPrefix(d.Text, "invalid suffix: "); ok {
		d.Text = "invalid size: ends with " + value
	}
	if _, parsing, ok := strings.Cut(d.Text, "strconv.ParseFloat: parsing "); ok {
		value, _, _ := strings.Cut(parsing, ": ")
		d.Text = value + " is no number; write it like 1.5"
	}
	d.Path = strings.ReplaceAll(d.Path, ".Rate", ".rate") // a field of compose-go's
	d.Text = plainer(d.Text) + valueHint(d.Text)
	if _, cast, ok := strings.Cut(d.Text, "failed to cast to expected type: "); ok {
		// strconv.Atoi: parsing "x": invalid syntax
		numeric := strings.HasPrefix(cast, "strconv.")
		_, cast, _ = strings.Cut(cast, "parsing ")
		value, _, _ := strings.Cut(cast, ": ")
		if value != "" {
			value = ": " + value
		}
		want := "true or false"
		if numeric {
			want = "a whole number"
		}
		d.Text = fmt.Sprintf("has a value of the wrong type%s; give %s", value, want)
	}
	return d
}

// plainer says in other words what compose-go says in those of its code.
func plainer(text string) string {
	attributes := func(list string) []string { return strings.Split(list, "|") }
	if list, ok := strings.CutSuffix(text, " must be set"); ok && strings.HasPrefix(list, "one of ") {
		return fmt.Sprintf("nothing says where its content comes from; give one of %s, external", strings.Join(attributes(list[len("one of "):]), ", "))
	}
	if list, ok := strings.CutSuffix(text, " attributes are mutually exclusive"); ok {
		return strings.Join(attributes(list), ", ") + " exclude each other; keep one"
	}
	switch {
	case strings.HasPrefix(text, "conflicting parameters \"external\""):
		return text + "; what is external is made by others: keep external and name alone"
	case strings.Contains(text, "overflows uint"):
		return "must be 0 or more"
	case strings.HasPrefix(text, "strconv.ParseInt: parsing "):
		value, _, _ := strings.Cut(strings.TrimPrefix(text, "strconv.ParseInt: parsing "), ": ")
		return value + " is no octal number; write it like 0440"
	case strings.Contains(text, "invalid additional host, missing IP"):
		return text + "; write HOST=ADDRESS"
	case text == "empty compose file":
		return "nothing is left of the file; it needs at least \"services:\" with one service"
	}
	return text
}

// valueHint says how a duration or a size is written.
func valueHint(text string) string {
	switch {
	case strings.Contains(text, "duration"):
		return "; write it like 500ms, 10s or 1m30s"
	case strings.Contains(text, "invalid size"):
		return "; write it like 512k, 64m or 2g"
	}
	return ""
}

// composeWarnings passes on what compose-go logged, but for what the inspector
// says better.
func (c *composer) composeWarnings(lines []string) {
	for _, line := range lines {
		if strings.Contains(line, "variable is not set") || strings.Contains(line, "attribute `version` is obsolete") {
			continue
		}
		c.report.warn(Diagnostic{Text: line})
	}
}

// composeLog serialises loads: compose-go writes its warnings to logrus'
// standard logger, which a library must share with nobody while it listens.
var composeLog sync.Mutex

// silenceCompose catches what compose-go logs until release is called.
func silenceCompose() (lines func() []string, release func()) {
	composeLog.Lock()
	logger := logrus.StandardLogger()
	out, hooks := logger.Out, logger.Hooks
	caught := &logCatcher{}
	logger.SetOutput(io.Discard)
	logger.ReplaceHooks(logrus.LevelHooks{logrus.WarnLevel: {caught}})
	return func() []string { return caught.lines }, func() {
		logger.SetOutput(out)
		logger.ReplaceHooks(hooks)
		composeLog.Unlock()
	}
}

type logCatcher struct{ lines []string }

func (l *logCatcher) Levels() []logrus.Level { return []logrus.Level{logrus.WarnLevel} }

func (l *logCatcher) Fire(e *logrus.Entry) error {
	l.lines = append(l.lines, e.Message)
	return nil
}

// registerRawFormat teaches compose-go "format: raw" of env_file: the lines as
// "docker run --env-file" reads them, without quotes or interpolation.
var registerRawFormat = sync.OnceFunc(func() { dotenv.RegisterFormat("raw", rawEnvFile) })

func rawEnvFile(r io.Reader, filename string, vars map[string]string, lookup func(string) (string, bool)) error {
	scanner := bufio.NewScanner(r)
	scanner.Buffer(nil, 1<<20)
	for n := 1; scanner.Scan(); n++ {
		line := strings.TrimLeft(strings.TrimPrefix(scanner.Text(), "\ufeff"), " \t")
		if line == "" || line[0] == '#' {
			continue
		}
		key, value, ok := strings.Cut(line, "=")
		if key == "" || strings.ContainsAny(key, " \t") {
			return fmt.Errorf("failed to read %s: line %d: %q is no variable name", filename, n, key)
		}
		if !ok {
			if value, ok = lookup(key); !ok {
				continue
			}
		}
		vars[key] = value
	}
	if err := scanner.Err(); err != nil {
		return fmt.Errorf("failed to read %s: %w", filename, err)
	}
	return nil
}
