package load

import (
	"context"
	"errors"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/compose-spec/compose-go/v2/types"
	"github.com/stack-run/stack/compose/spec"
)

const minimal = "services:\n  web:\n    image: nginx\n"

func TestDiscovery(t *testing.T) {
	tests := []struct {
		name    string
		files   map[string]string
		dir     string // working directory below the project's
		environ []string
		change  func(dir string, o *Options)
		want    []string // base names
		project string
	}{
		{name: "best name wins", files: map[string]string{"docker-compose.yml": minimal, "compose.yaml": minimal, "compose.yml": minimal}, want: []string{"compose.yaml"}, project: "shop"},
		{name: "old name", files: map[string]string{"docker-compose.yml": minimal}, want: []string{"docker-compose.yml"}, project: "shop"},
		{name: "override", files: map[string]string{"compose.yaml": minimal, "compose.override.yaml": minimal}, want: []string{"compose.yaml", "compose.override.yaml"}, project: "shop"},
		{name: "parent directory", files: map[string]string{"compose.yaml": minimal, "a/b/x": ""}, dir: "a/b", want: []string{"compose.yaml"}, project: "shop"},
		{name: "COMPOSE_FILE", files: map[string]string{"a.yaml": minimal, "b.yaml": minimal}, environ: []string{"COMPOSE_FILE=a.yaml:b.yaml"}, want: []string{"a.yaml", "b.yaml"}, project: "shop"},
		{name: "COMPOSE_PATH_SEPARATOR", files: map[string]string{"a.yaml": minimal, "b.yaml": minimal}, environ: []string{"COMPOSE_FILE=a.yaml,b.yaml", "COMPOSE_PATH_SEPARATOR=,"}, want: []string{"a.yaml", "b.yaml"}, project: "shop"},
		{name: "COMPOSE_FILE in .env", files: map[string]string{"a.yaml": minimal, ".env": "COMPOSE_FILE=a.yaml\n"}, want: []string{"a.yaml"}, project: "shop"},
		{name: "name in the file", files: map[string]string{"compose.yaml": "name: other\n" + minimal}, want: []string{"compose.yaml"}, project: "other"},
		{name: "name from a variable", files: map[string]string{"compose.yaml": "name: ${N:-x}y\n" + minimal}, want: []string{"compose.yaml"}, project: "xy"},
		{name: "COMPOSE_PROJECT_NAME", files: map[string]string{"compose.yaml": "name: other\n" + minimal}, environ: []string{"COMPOSE_PROJECT_NAME=third"}, want: []string{"compose.yaml"}, project: "third"},
		{name: "flag wins", files: map[string]string{"compose.yaml": "name: other\n" + minimal}, environ: []string{"COMPOSE_PROJECT_NAME=third"}, change: func(_ string, o *Options) { o.ProjectName = "flag" }, want: []string{"compose.yaml"}, project: "flag"},
		{name: "project directory", files: map[string]string{"Sub.dir/compose.yaml": minimal}, change: func(dir string, o *Options) { o.ProjectDir = "Sub.dir" }, want: []string{"compose.yaml"}, project: "subdir"},
		{name: "standard input", files: map[string]string{"x": ""}, change: func(_ string, o *Options) { o.Files = []string{"-"}; o.Stdin = strings.NewReader(minimal) }, want: []string{"-"}, project: "shop"},
		{name: "two files", files: map[string]string{"a.yaml": minimal, "b/b.yaml": "services:\n  web:\n    command: x\n"}, change: func(_ string, o *Options) { o.Files = []string{"a.yaml", "b/b.yaml"} }, want: []string{"a.yaml", "b.yaml"}, project: "shop"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			o := project(t, tt.files)
			dir := o.WorkingDir
			o.WorkingDir = filepath.Join(dir, tt.dir)
			o.Environ = tt.environ
			if o.Environ == nil {
				o.Environ = []string{}
			}
			if tt.change != nil {
				tt.change(dir, &o)
			}
			id, err := Identify(t.Context(), o)
			if err != nil {
				t.Fatal(err)
			}
			if r, ok := o.Stdin.(*strings.Reader); ok {
				r.Seek(0, 0)
			}
			p, _, err := loaded(t.Context(), o)
			if err != nil {
				t.Fatal(err)
			}
			var names []string
			for _, f := range p.ComposeFiles {
				names = append(names, filepath.Base(f))
			}
			if !slices.Equal(names, tt.want) || p.Name != tt.project {
				t.Errorf("got %v of %q, want %v of %q", names, p.Name, tt.want, tt.project)
			}
			if id.Name != p.Name || id.WorkingDir != p.WorkingDir || !slices.Equal(id.Files, p.ComposeFiles) {
				t.Errorf("Identify says %+v, Load %q %q %q", id, p.Name, p.WorkingDir, p.ComposeFiles)
			}
		})
	}
}

func TestNoFileIsErrNoFile(t *testing.T) {
	o := Options{WorkingDir: t.TempDir(), Environ: []string{}}
	if _, err := Load(t.Context(), o); !errors.Is(err, ErrNoFile) {
		t.Errorf("got %v", err)
	}
	if _, err := Identify(t.Context(), o); !errors.Is(err, ErrNoFile) {
		t.Errorf("got %v", err)
	}
	o.ProjectName = "shop"
	if id, err := Identify(t.Context(), o); err != nil || id.Name != "shop" {
		t.Errorf("got %v, %v", id, err)
	}
}

func TestBadProjectName(t *testing.T) {
	o := project(t, map[string]string{"compose.yaml": minimal})
	o.ProjectName = "My Shop"
	_, err := Load(t.Context(), o)
	want := `invalid project name "My Shop" (--project-name): use lower-case letters, digits, "-" and "_", and begin with a letter or digit; did you mean "myshop"?`
	if err == nil || err.Error() != want {
		t.Errorf("got %v", err)
	}
}

func TestEnvironmentPrecedence(t *testing.T) {
	o := project(t, map[string]string{
		".env":   "A=dotenv\nB=dotenv\nC=dotenv\n",
		"b.env":  "B=file\nC=file\n",
		"c.env":  "C=file2\nX=${A}\n",
		"raw":    "Q='a$b'\n",
		"secret": "s",
		"compose.yaml": `services:
  web:
    image: "${A}-${B}-${C}"
    env_file: [c.env, {path: raw, format: raw}, {path: none, required: false}]
    environment: {C: explicit, A: null}
`})
	o.Environ = []string{"A=shell"}
	p, _, err := loaded(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	s := p.Services["web"]
	if s.Image != "shell-dotenv-dotenv" {
		t.Errorf("image %s", s.Image)
	}
	o.EnvFiles = []string{"b.env", "c.env"}
	if p, _, err = loaded(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	if s := p.Services["web"]; s.Image != "shell-file-file2" {
		t.Errorf("with --env-file: image %s", s.Image)
	}
	want := map[string]string{"A": "shell", "C": "explicit", "X": "shell", "Q": "'a$b'"}
	for k, v := range want {
		if got := s.Environment[k]; got == nil || *got != v {
			t.Errorf("environment %s: got %v, want %q", k, got, v)
		}
	}
}

func TestBadEnvFileNamesFileAndLine(t *testing.T) {
	o := project(t, map[string]string{"compose.yaml": minimal, ".env": "A=1\nB C=2\n"})
	_, err := Load(t.Context(), o)
	if err == nil || !strings.HasPrefix(err.Error(), ".env:2: invalid env file: ") {
		t.Errorf("got %v", err)
	}
	o = project(t, map[string]string{"compose.yaml": minimal})
	o.EnvFiles = []string{"x.env"}
	_, err = Load(t.Context(), o)
	if err == nil || err.Error() != "x.env: no such env file; create it, or correct the path" {
		t.Errorf("got %v", err)
	}
}

func TestProfilesAndSelection(t *testing.T) {
	o := project(t, map[string]string{"compose.yaml": `services:
  web: {image: a, depends_on: [db]}
  db: {image: b, networks: [back]}
  debug: {image: c, profiles: [tools], env_file: missing.env}
networks: {back: , unused: }
`})
	p, _, err := loaded(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	if got := p.ServiceNames(); !slices.Equal(got, []string{"db", "web"}) || !slices.Equal(p.DisabledServiceNames(), []string{"debug"}) {
		t.Errorf("services %v, disabled %v", got, p.DisabledServiceNames())
	}
	if _, ok := p.Networks["unused"]; ok {
		t.Error("a network that nobody uses is kept")
	}
	o.Services = []string{"debug"}
	if _, _, err = loaded(t.Context(), o); err == nil || !strings.HasPrefix(err.Error(), "compose.yaml:4: services.debug.env_file[0]: env file missing.env not found") {
		t.Errorf("naming a service enables its profile: got %v", err)
	}
	o.Services, o.OnlyServices = []string{"db"}, true
	if p, _, err = loaded(t.Context(), o); err != nil || !slices.Equal(p.ServiceNames(), []string{"db"}) {
		t.Errorf("got %v, %v", p.ServiceNames(), err)
	}
	o.Services = []string{"dbb"}
	if _, _, err = loaded(t.Context(), o); err == nil || err.Error() != `no such service: "dbb"; did you mean "db"?` {
		t.Errorf("got %v", err)
	}
}

func TestIncludeAndExtendsKeepTheirLines(t *testing.T) {
	o := project(t, map[string]string{
		"compose.yaml":    "include: [db/compose.yaml]\nservices:\n  web:\n    extends: {file: base.yaml, service: base}\n    command: x\n",
		"base.yaml":       "services:\n  base:\n    image: a\n    environment:\n      A: b\n",
		"db/compose.yaml": "services:\n  db:\n    image: ${TAG}\n    volumes: [\"./data:/data\"]\n",
		"db/.env":         "TAG=postgres\n",
	})
	l, err := Load(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	if image := l.Project.Services["db"].Image; image != "postgres" {
		t.Errorf("image %q", image)
	}
	if source := l.Project.Services["db"].Volumes[0].Source; source != filepath.Join(o.WorkingDir, "db/data") {
		t.Errorf("source %q", source)
	}
	for path, want := range map[string]string{
		"services.web.command":       "compose.yaml:5",
		"services.web.environment.A": "base.yaml:5",
		"services.db.volumes[0]":     "db/compose.yaml:4",
		"services.db.volumes":        "db/compose.yaml:4",
		"services.web.nothing":       "compose.yaml:3",
		"nothing":                    "",
	} {
		if got := l.Locate(path); got != want {
			t.Errorf("%s: got %q, want %q", path, got, want)
		}
	}
	if len(l.Warnings) > 0 {
		t.Errorf("warnings: %v", l.Warnings)
	}
}

func TestListItemsAreCountedThroughAllFiles(t *testing.T) {
	o := project(t, map[string]string{
		"compose.yaml":          "services:\n  my.web:\n    image: a\n    ports:\n      - \"1:1\"\n      - \"2:2\"\n",
		"compose.override.yaml": "services:\n  my.web:\n    ports:\n      - \"3:3\"\n",
	})
	l, err := Load(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{"services.my.web.ports[1]": "compose.yaml:6", "services.my.web.ports[2]": "compose.override.yaml:4"} {
		if got := l.Locate(path); got != want {
			t.Errorf("%s: got %q, want %q", path, got, want)
		}
	}
}

func TestResetAndOverrideTags(t *testing.T) {
	o := project(t, map[string]string{
		"compose.yaml":          "services:\n  web:\n    image: a\n    ports: [\"1:1\"]\n    environment: {A: b}\n",
		"compose.override.yaml": "services:\n  web:\n    ports: !override [\"3:3\"]\n    environment: !reset null\n",
	})
	p, _, err := loaded(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	s := p.Services["web"]
	if len(s.Ports) != 1 || s.Ports[0].Target != 3 || len(s.Environment) > 0 {
		t.Errorf("ports %v, environment %v", s.Ports, s.Environment)
	}
}

func TestConfigLoadsAgainToTheSame(t *testing.T) {
	o := project(t, map[string]string{
		"a.env": "FROM_FILE=1\n",
		"compose.yaml": `name: shop
services:
  web:
    image: nginx:${TAG:-1}
    env_file: a.env
    environment: {PRICE: "5$$", HASH: "$${x}"}
    ports: ["8080-8081:80-81", "127.0.0.1:53:53/udp"]
    volumes: ["data:/data", "./src:/src:ro", {type: tmpfs, target: /t, tmpfs: {size: 1m}}]
    command: echo "a b"
    healthcheck: {test: curl localhost}
x-extra: {a: b}
volumes: {data: }
`})
	first, _, err := Config(t.Context(), o, ConfigOptions{})
	if err != nil {
		t.Fatal(err)
	}
	again := o
	again.Files = []string{"-"}
	again.Stdin = strings.NewReader(string(first))
	second, _, err := Config(t.Context(), again, ConfigOptions{})
	if err != nil {
		t.Fatalf("%v\n%s", err, first)
	}
	if string(first) != string(second) {
		t.Errorf("first:\n%s\nsecond:\n%s", first, second)
	}
	if !strings.Contains(string(first), "PRICE: 5$$") || strings.Contains(string(first), "env_file") {
		t.Errorf("got:\n%s", first)
	}
	if out, _, err := Config(t.Context(), o, ConfigOptions{Format: "json"}); err != nil || !strings.HasPrefix(string(out), "{") {
		t.Errorf("json: %v\n%s", err, out)
	}
	raw := o
	raw.NoInterpolate = true
	out, _, err := Config(t.Context(), raw, ConfigOptions{})
	if err != nil || !strings.Contains(string(out), "nginx:${TAG:-1}") {
		t.Errorf("not interpolated: %v\n%s", err, out)
	}
	variables, err := Variables(t.Context(), o)
	if err != nil || len(variables) != 1 || variables[0] != (Variable{Name: "TAG", Default: "1"}) {
		t.Errorf("variables %v, %v", variables, err)
	}
}

// As docker compose prints them: the attributes of a service by name, all else
// in the order of the specification.
func TestConfigOrder(t *testing.T) {
	o := project(t, map[string]string{"compose.yaml": `
name: p
services:
  b:
    restart: always
    image: x
    healthcheck: {interval: 5s, test: [CMD, "true"]}
    command: a
  a: {image: y}
volumes: {v: {}}
networks: {n: {}}
`})
	out, _, err := Config(t.Context(), o, ConfigOptions{})
	if err != nil {
		t.Fatal(err)
	}
	want := `name: p
services:
  a:
    image: "y"
    networks:
      default: null
  b:
    restart: always
    command:
      - a
    image: x
    networks:
      default: null
    healthcheck:
      test:
        - CMD
        - "true"
      interval: 5s
networks:
  default:
    name: p_default
`
	if string(out) != want {
		t.Errorf("%s", out)
	}
}

func TestLoadLeavesTheEnvironmentAlone(t *testing.T) {
	o := project(t, map[string]string{"compose.yaml": minimal, ".env": "FROM_DOTENV=1\n"})
	if _, _, err := loaded(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	if _, set := os.LookupEnv("FROM_DOTENV"); set {
		t.Error("the process's environment was changed")
	}
}

func TestFilesOfCommentsOnly(t *testing.T) {
	for _, tt := range []struct {
		extras string
		files  []string
		ok     bool
	}{
		{"# nothing yet\n", []string{"compose.yaml", "extras.yaml"}, true},
		{"# nothing yet\n", []string{"extras.yaml", "compose.yaml"}, true},
		{"", []string{"compose.yaml", "extras.yaml"}, true},
		{"---\n# a\n---\n", []string{"compose.yaml", "extras.yaml"}, true},
		{"# nothing yet\n", []string{"extras.yaml"}, false},
		{"# nothing yet\n", []string{"extras.yaml", "extras.yaml"}, false},
	} {
		o := project(t, map[string]string{"compose.yaml": minimal, "extras.yaml": tt.extras})
		o.Files = tt.files
		if _, err := Load(t.Context(), o); (err == nil) != tt.ok {
			t.Errorf("%q in %v: %v", tt.extras, tt.files, err)
		}
	}
}

// TestConfigShowsNoValues looks for a secret in the model that is not interpolated.
func TestConfigShowsNoValues(t *testing.T) {
	o := project(t, map[string]string{
		".env": "TOKEN=hunter2\n",
		"compose.yaml": `services:
  web:
    image: a:${TAG}
    environment: [TOKEN]
    build: {context: ., args: [TOKEN]}
    secrets: [s]
    configs: [c]
  map: {image: b, environment: {TOKEN: , A: $TOKEN}}
secrets: {s: {environment: TOKEN}}
configs: {c: {environment: TOKEN}}
`})
	o.NoInterpolate = true
	out, _, err := Config(t.Context(), o, ConfigOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if text := string(out); strings.Contains(text, "hunter2") || !strings.Contains(text, "- TOKEN") && !strings.Contains(text, "TOKEN: null") || !strings.Contains(text, "a:${TAG}") {
		t.Errorf("got\n%s", text)
	}
}

func TestContentOfVariables(t *testing.T) {
	o := project(t, map[string]string{
		"compose.yaml":     "include: [{path: sub/compose.yaml, env_file: sub/my.env}]\nservices:\n  web: {image: a, configs: [c], secrets: [s]}\nconfigs: {c: {environment: V}}\nsecrets: {s: {environment: V}}\n",
		"sub/compose.yaml": "services:\n  sub: {image: a, secrets: [inner], configs: [conf]}\nsecrets: {inner: {environment: INNER}}\nconfigs: {conf: {environment: INNER}}\n",
		"sub/my.env":       "INNER=from the include\n",
	})
	o.Environ = []string{"V=value"}
	l, err := Load(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	d, _, err := spec.Build(l.Project, spec.HostFacts{Locate: l.Locate})
	if err != nil {
		t.Fatal(err)
	}
	for service, want := range map[string]string{"web": "value", "sub": "from the include"} {
		mounts := d.Services[service].Replicas[0].Spec.Mounts
		if len(mounts) != 2 {
			t.Errorf("%s has mounts %v", service, mounts)
		}
		for _, m := range mounts {
			if string(m.Content) != want {
				t.Errorf("%s: %s has %q, want %q", service, m.Target, m.Content, want)
			}
		}
	}
	o.Environ = []string{"V=value"}
	bad := project(t, map[string]string{"compose.yaml": minimal + "configs: {c: {environment: V, file: ./x}}\n"})
	bad.Environ = o.Environ
	if _, err := Load(t.Context(), bad); err == nil || !strings.Contains(err.Error(), "exclude each other") {
		t.Errorf("two sources: %v", err)
	}
}

// loaded loads a project without where its parts stand.
func loaded(ctx context.Context, o Options) (*types.Project, []Warning, error) {
	l, err := Load(ctx, o)
	if err != nil {
		return nil, nil, err
	}
	return l.Project, l.Warnings, nil
}

// A file that is elsewhere is loaded from a copy, whose directory is the project's.
func TestLoadFetches(t *testing.T) {
	there := project(t, map[string]string{"app/compose.yml": "services: {web: {image: web, env_file: web.env}}\n", "app/web.env": "A=there\n"}).WorkingDir
	o := Options{WorkingDir: t.TempDir(), Environ: []string{}, ProjectName: "p", Files: []string{"https://h/app.git#main:app"}}
	if _, err := Load(t.Context(), o); err == nil || !strings.Contains(err.Error(), "fetch it and name the local file") {
		t.Errorf("without a way to fetch: %v", err)
	}
	o.Fetch = func(_ context.Context, ref string) (string, error) {
		if ref != o.Files[0] {
			t.Errorf("asked for %s", ref)
		}
		return filepath.Join(there, "app"), nil
	}
	l, err := Load(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	if got := l.Project.Services["web"].Environment["A"]; got == nil || *got != "there" || l.Project.WorkingDir != filepath.Join(there, "app") {
		t.Errorf("A is %v, the directory %s", got, l.Project.WorkingDir)
	}
	o.Fetch = func(context.Context, string) (string, error) { return there, nil }
	if _, err := Load(t.Context(), o); !errors.Is(err, ErrNoFile) {
		t.Errorf("a directory without a file: %v", err)
	}
}

// What compose-go does for services is done for the steps before them, too.
func TestStepsUseWhatServicesDo(t *testing.T) {
	o := project(t, map[string]string{"compose.yaml": `services:
  web:
    image: nginx
    networks: [front]
    pre_start:
      - {command: [a], networks: [back], volumes: ["data:/data"], configs: [conf], secrets: [pw]}
      - {command: [b], network_mode: host, volumes_from: [files], pid: "service:db"}
  files: {image: a}
  db: {image: b}
networks: {front: {}, back: {}, unused: {}}
volumes: {data: {}, unused: {}}
configs: {conf: {content: a}, unused: {content: a}}
secrets: {pw: {environment: HOME}, unused: {environment: HOME}}
`})
	p, _, err := loaded(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	got := [][]string{p.NetworkNames(), p.VolumeNames(), p.ConfigNames(), p.SecretNames(), slices.Sorted(maps.Keys(p.Services["web"].DependsOn))}
	want := [][]string{{"back", "default", "front"}, {"data"}, {"conf"}, {"pw"}, {"db", "files"}}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("%v, not %v", got, want)
	}
	steps := p.Services["web"].PreStart
	if len(steps[0].Networks) != 2 || len(steps[1].Networks) != 0 || steps[1].NetworkMode != "host" {
		t.Errorf("%v %v %q", steps[0].Networks, steps[1].Networks, steps[1].NetworkMode)
	}
	o = project(t, map[string]string{"compose.yaml": "services:\n  web:\n    image: nginx\n    pre_start:\n      - {command: [b], ipc: \"service:dbb\"}\n  db: {image: a}\n"})
	if _, _, err := loaded(t.Context(), o); err == nil || err.Error() != `compose.yaml:5: services.web.pre_start[0].ipc: no such service "dbb"; did you mean "db"?` {
		t.Error(err)
	}
}
