package load

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/compose-spec/compose-go/v2/dotenv"
	"github.com/compose-spec/compose-go/v2/loader"
	"github.com/compose-spec/compose-go/v2/types"
	"github.com/compose-spec/compose-go/v2/utils"
	"github.com/stack-run/stack/compose/spec"
)

// Options say what to load. The zero value loads what "docker compose" would
// find from the working directory.
type Options struct {
	Files       []string // -f, "-" is Stdin; empty: COMPOSE_FILE, then discovery
	ProjectName string   // -p
	ProjectDir  string   // --project-directory
	EnvFiles    []string // --env-file; empty: COMPOSE_ENV_FILES, then .env
	Profiles    []string // --profile; empty: COMPOSE_PROFILES
	// Services are named on the command line: their profiles are enabled, and only
	// their faults count and those of what they depend on. Empty: all services.
	Services []string
	// Jobs says that Services may name jobs, as for run, and that all jobs count, as
	// for pull. Else a job is refused, and only those with a schedule count.
	Jobs bool
	// NoDeps leaves out the faults of what Services depend on, NoServices those of
	// all services.
	NoDeps, NoServices bool
	// OnlyServices leaves out all services but Services and what they depend on.
	OnlyServices bool
	// AllResources keeps networks, volumes, configs and secrets that no service uses.
	AllResources bool
	// Fetch has a copy of a file that is elsewhere, see package remote, and returns
	// its path, or that of its directory. nil refuses such files.
	Fetch func(ctx context.Context, ref string) (string, error)

	NoInterpolate    bool
	NoNormalize      bool
	NoPathResolution bool
	NoConsistency    bool
	NoEnvResolution  bool
	// DiscardEnvFiles leaves env_file out of the model once it is resolved into
	// environment, as "config" does.
	DiscardEnvFiles bool

	Stdin      io.Reader // nil: os.Stdin
	Environ    []string  // nil: os.Environ()
	WorkingDir string    // where relative paths and discovery start; "": os.Getwd()
}

// source is what was found: the files, the environment and the names.
type source struct {
	cwd      string
	dir      string // project directory
	files    []string
	contents map[string][]byte
	env      types.Mapping
	envFiles []string // given with --env-file
	// shell are the variables of the environment alone, dotEnv the files that env has
	// the others from, in lists of which the first counts.
	shell    types.Mapping
	dotEnv   [][]string
	profiles []string
}

// The names that discovery looks for, best first.
func fileNames() []string {
	return []string{"compose.yaml", "compose.yml", "docker-compose.yml", "docker-compose.yaml"}
}

func overrideNames() []string {
	return []string{"compose.override.yml", "compose.override.yaml", "docker-compose.override.yml", "docker-compose.override.yaml"}
}

// ErrNoFile says that there is no Compose file here, which is no fault where a
// command works without one.
var ErrNoFile = errors.New("no Compose file")

// discover follows docker compose's order: the environment wins over .env; .env
// may name the files; and once the files are known, the .env beside them counts.
//
// With ErrNoFile it returns what it knows without a file.
func discover(ctx context.Context, o Options, d *diagnostics) (*source, error) {
	s, err := surroundings(o, d)
	if err != nil {
		return nil, err
	}
	if err := s.findFiles(o, d); err != nil {
		return s, err
	}
	if err := s.fetchFiles(ctx, o); err != nil {
		return nil, err
	}
	s.dir = s.directory(o)
	if err := s.loadDotEnv(d); err != nil {
		return nil, err
	}
	s.profiles = o.Profiles
	if len(s.profiles) == 0 {
		for _, p := range strings.Split(s.env["COMPOSE_PROFILES"], ",") {
			s.profiles = append(s.profiles, strings.TrimSpace(p))
		}
	}
	return s, nil
}

// Environment is what is set before the Compose files are known: the variables
// of Options.Environ and, behind them, those of .env or the given env files. Files
// that cannot be read are left out, as loading the project tells of them.
func Environment(o Options) map[string]string {
	s, err := surroundings(o, &diagnostics{})
	if err != nil {
		return nil
	}
	return s.env
}

// surroundings is the part of discover that needs no Compose file.
func surroundings(o Options, d *diagnostics) (*source, error) {
	s := &source{contents: map[string][]byte{}}
	var err error
	if s.cwd = o.WorkingDir; s.cwd == "" {
		if s.cwd, err = os.Getwd(); err != nil {
			return nil, fmt.Errorf("cannot find the working directory: %w", err)
		}
	}
	d.base = s.cwd
	environ := o.Environ
	if environ == nil {
		environ = os.Environ()
	}
	s.env = types.Mapping(utils.GetAsEqualsMap(environ))
	s.shell = s.env.Clone()
	if _, ok := s.env["PWD"]; !ok {
		s.env["PWD"] = s.cwd
	}
	if s.envFiles = o.EnvFiles; len(s.envFiles) == 0 {
		s.envFiles = strings.FieldsFunc(s.env["COMPOSE_ENV_FILES"], func(r rune) bool { return r == ',' })
	}
	s.envFiles = slices.Clone(s.envFiles)
	for i := range s.envFiles {
		s.envFiles[i] = s.abs(s.envFiles[i])
	}
	for _, f := range o.Files {
		s.files = append(s.files, s.absFile(f))
	}
	s.dir = s.directory(o)
	return s, s.loadDotEnv(d)
}

func (s *source) abs(path string) string {
	if filepath.IsAbs(path) {
		return filepath.Clean(path)
	}
	return filepath.Join(s.cwd, path)
}

func (s *source) absFile(file string) string {
	if file == "-" || isRemote(file) {
		return file
	}
	return s.abs(file)
}

func (s *source) directory(o Options) string {
	if o.ProjectDir != "" {
		return s.abs(o.ProjectDir)
	}
	for _, f := range s.files {
		if f != "-" {
			return filepath.Dir(f)
		}
	}
	return s.cwd
}

func (s *source) loadDotEnv(d *diagnostics) error {
	files := s.envFiles
	if len(files) == 0 {
		if v, ok := s.env["COMPOSE_DISABLE_ENV_FILE"]; ok {
			off, err := strconv.ParseBool(v)
			if err != nil {
				return fmt.Errorf("COMPOSE_DISABLE_ENV_FILE=%q is neither true nor false", v)
			}
			if off {
				return nil
			}
		}
		file := filepath.Join(s.dir, ".env")
		info, err := os.Stat(file)
		if errors.Is(err, fs.ErrNotExist) || err == nil && info.IsDir() {
			return nil
		}
		if errors.Is(err, fs.ErrPermission) {
			d.warn(Diagnostic{File: file, Text: "cannot be read and is left out: permission denied"})
			return nil
		}
		files = []string{file}
	}
	values, err := dotenv.GetEnvFromFile(s.env, files)
	if err != nil {
		return envFileError(d, files, err)
	}
	warnOfDollars(d, s.env, files)
	s.env.Merge(values)
	s.dotEnv = append(s.dotEnv, files)
	return nil
}

// envFileError puts file and line first.
func envFileError(d *diagnostics, files []string, err error) error {
	out := Diagnostic{Text: err.Error()}
	for _, f := range files {
		if !strings.Contains(err.Error(), f) {
			continue
		}
		out.File = f
		switch {
		case errors.Is(err, fs.ErrNotExist), strings.Contains(err.Error(), "couldn't find env file"):
			out.Text = "no such env file; create it, or correct the path"
		case errors.Is(err, fs.ErrPermission):
			out.Text = "cannot read env file: permission denied"
		case strings.Contains(err.Error(), "required variable"):
			_, rest, _ := strings.Cut(err.Error(), "required variable ")
			name, reason, _ := strings.Cut(rest, " ")
			reason = strings.TrimPrefix(reason, "is missing a value")
			out.Line = lineOf(f, "${"+name)
			out.Text = fmt.Sprintf("required variable %s is not set%s; set it in the environment, or above its use", name, reason)
		default:
			_, rest, _ := strings.Cut(err.Error(), f)
			out.Line, out.Text = findLine(strings.TrimPrefix(rest, ": "))
			out.Text = "invalid env file: " + out.Text + "; write KEY=VALUE lines"
		}
		break
	}
	return &Error{Diagnostics: []Diagnostic{d.place(out)}, cause: err}
}

// lineOf is the line of a file that has a text, 0 if none has.
func lineOf(file, text string) int {
	content, _ := os.ReadFile(file)
	before, _, found := strings.Cut(string(content), text)
	if !found {
		return 0
	}
	return strings.Count(before, "\n") + 1
}

func (s *source) findFiles(o Options, d *diagnostics) error {
	if len(s.files) == 0 {
		if list, ok := s.env["COMPOSE_FILE"]; ok && list != "" {
			separator := s.env["COMPOSE_PATH_SEPARATOR"]
			if separator == "" {
				separator = string(os.PathListSeparator)
			}
			for _, f := range strings.Split(list, separator) {
				s.files = append(s.files, s.absFile(f))
			}
		}
	}
	if len(s.files) > 0 {
		return nil
	}
	for dir := s.dir; ; dir = filepath.Dir(dir) {
		found := existing(dir, fileNames())
		if len(found) == 0 {
			if dir == filepath.Dir(dir) {
				break
			}
			continue
		}
		if len(found) > 1 {
			d.warn(Diagnostic{File: found[0], Text: fmt.Sprintf("is used; there is also %s", baseNames(found[1:]))})
		}
		s.files = found[:1]
		if overrides := existing(dir, overrideNames()); len(overrides) > 0 {
			if len(overrides) > 1 {
				d.warn(Diagnostic{File: overrides[0], Text: fmt.Sprintf("is used; there is also %s", baseNames(overrides[1:]))})
			}
			s.files = append(s.files, overrides[0])
		}
		return nil
	}
	return fmt.Errorf("%w: there is no %s in %s or any directory above; create one, go to the project's directory, or name it with -f", ErrNoFile, fileNames()[0], s.dir)
}

// fetchFiles replaces the files that are elsewhere by copies of them.
func (s *source) fetchFiles(ctx context.Context, o Options) error {
	for i, f := range s.files {
		if !isRemote(f) || o.Fetch == nil {
			continue
		}
		path, err := o.Fetch(ctx, f)
		if err != nil {
			return err
		}
		if info, err := os.Stat(path); err == nil && info.IsDir() {
			found := existing(path, fileNames())
			if len(found) == 0 {
				return fmt.Errorf("%w: there is no %s in %s; name its directory, as in #main:dir", ErrNoFile, fileNames()[0], f)
			}
			path = found[0]
		}
		s.files[i] = path
	}
	return nil
}

func existing(dir string, names []string) []string {
	var found []string
	for _, n := range names {
		f := filepath.Join(dir, n)
		if _, err := os.Stat(f); err == nil {
			found = append(found, f)
		}
	}
	return found
}

func baseNames(files []string) string {
	names := make([]string, len(files))
	for i, f := range files {
		names[i] = filepath.Base(f)
	}
	return strings.Join(names, ", ")
}

// read reads the project's files.
func (s *source) read(o Options, d *diagnostics) {
	for _, f := range s.files {
		switch {
		case isRemote(f):
			d.fail(Diagnostic{File: f, Text: "this kind of remote Compose file is not supported; fetch it and name the local file"})
		case f == "-":
			in := o.Stdin
			if in == nil {
				in = os.Stdin
			}
			data, err := io.ReadAll(in)
			if err != nil {
				d.fail(Diagnostic{File: f, Text: fmt.Sprintf("cannot read the standard input: %v", err)})
			}
			s.contents[f] = data
		default:
			if data, err := readFile(f); err != nil {
				d.fail(Diagnostic{File: f, Text: err.Error()})
			} else {
				s.contents[f] = data
			}
		}
	}
}

// readFile reads a Compose file and says what to do if it cannot.
func readFile(file string) ([]byte, error) {
	info, err := os.Stat(file)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		hint := "; create it, or correct the path"
		if near := nearestFile(file); near != "" {
			hint = fmt.Sprintf("; did you mean %s?", near)
		}
		return nil, fmt.Errorf("cannot read Compose file: no such file%s", hint)
	case err != nil:
		return nil, fmt.Errorf("cannot read Compose file: %w", bare(err))
	case info.IsDir():
		return nil, errors.New("cannot read Compose file: it is a directory; name the file in it")
	}
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("cannot read Compose file: %w", bare(err))
	}
	return data, nil
}

// nearestFile is a YAML file in the same directory whose name is close.
func nearestFile(file string) string {
	list, err := os.ReadDir(filepath.Dir(file))
	if err != nil {
		return ""
	}
	var names []string
	for _, e := range list {
		if ext := filepath.Ext(e.Name()); ext == ".yaml" || ext == ".yml" {
			names = append(names, e.Name())
		}
	}
	return spec.Nearest(filepath.Base(file), names)
}

// bare takes the path off an error whose path is said elsewhere.
func bare(err error) error {
	var pathError *fs.PathError
	if errors.As(err, &pathError) {
		return pathError.Err
	}
	return err
}

// IsRemote says whether a reference to a Compose file is one to fetch.
func IsRemote(ref string) bool { return isRemote(ref) }

// isRemote says whether a reference is a git repository or an OCI artifact.
func isRemote(ref string) bool {
	for _, prefix := range []string{"oci://", "git://", "git@", "ssh://", "http://", "https://", "github.com/"} {
		if strings.HasPrefix(ref, prefix) {
			return true
		}
	}
	return false
}

// projectName is -p, then COMPOSE_PROJECT_NAME, then "name:" of the files, then
// the directory's name.
func (s *source) projectName(o Options, fromFiles string) (string, error) {
	for _, given := range []struct{ name, from string }{{o.ProjectName, "--project-name"}, {s.env["COMPOSE_PROJECT_NAME"], "COMPOSE_PROJECT_NAME"}} {
		if given.name == "" {
			continue
		}
		if good := loader.NormalizeProjectName(given.name); good != given.name {
			hint := ""
			if good != "" {
				hint = fmt.Sprintf("; did you mean %q?", good)
			}
			return "", fmt.Errorf("invalid project name %q (%s): use lower-case letters, digits, \"-\" and \"_\", and begin with a letter or digit%s", given.name, given.from, hint)
		}
		return given.name, nil
	}
	if name := loader.NormalizeProjectName(fromFiles); name != "" {
		return name, nil
	}
	if name := loader.NormalizeProjectName(filepath.Base(s.dir)); name != "" {
		return name, nil
	}
	return "", fmt.Errorf("no project name can be made of the directory %s; give one with --project-name or \"name:\"", s.dir)
}
