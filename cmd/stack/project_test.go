package main

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stack-run/stack/cmd/stack/internal/cli"
	"github.com/stack-run/stack/cmd/stack/internal/project"
	"github.com/stack-run/stack/compose"
	"github.com/stack-run/stack/compose/plan"
	"github.com/stack-run/stack/compose/spec"
	"github.com/stack-run/stack/engine"
	"github.com/stack-run/stack/engine/build/request"
)

const oneService = "services:\n  web:\n    image: shop/web\n"

// lay writes files below a directory that is in no project.
func lay(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// TestWhatNamesAProject says when "run" is about a service and not an image.
func TestWhatNamesAProject(t *testing.T) {
	for _, tt := range []struct {
		name    string
		files   map[string]string
		args    string
		environ []string
		outside bool
	}{
		{name: "nothing", outside: true},
		{name: "a file here", files: map[string]string{"compose.yaml": oneService}},
		{name: "-f", files: map[string]string{"d/prod.yml": oneService}, args: "-f d/prod.yml"},
		{name: "--file=", files: map[string]string{"d/prod.yml": oneService}, args: "--file=d/prod.yml"},
		{name: "--project-directory", files: map[string]string{"d/compose.yaml": oneService}, args: "--project-directory d"},
		{name: "--workdir", files: map[string]string{"d/compose.yaml": oneService}, args: "--workdir d"},
		{name: "-p and a file", files: map[string]string{"d/prod.yml": oneService}, args: "-p x -f d/prod.yml"},
		{name: "behind other flags", files: map[string]string{"d/prod.yml": oneService}, args: "--ansi never --profile x -f d/prod.yml"},
		{name: "COMPOSE_FILE", files: map[string]string{"d/prod.yml": oneService}, environ: []string{"COMPOSE_FILE=d/prod.yml"}},
		{name: "COMPOSE_FILE in .env", files: map[string]string{"d/prod.yml": oneService, ".env": "COMPOSE_FILE=d/prod.yml\n"}},
		{name: "COMPOSE_FILE in a given env file", files: map[string]string{"d/prod.yml": oneService, "my.env": "COMPOSE_FILE=d/prod.yml\n"}, args: "--env-file my.env"},
		{name: "an .env of something else", files: map[string]string{".env": "PORT=80\n"}, outside: true},
		{name: "an .env that is not to be read", files: map[string]string{".env": "COMPOSE_FILE=d/prod.yml\n"}, environ: []string{"COMPOSE_DISABLE_ENV_FILE=1"}, outside: true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := newSession(t, lay(t, tt.files))
			s.Environ = append(s.Environ, tt.environ...)
			_, errOut, code := s.do(t, slices.Concat(strings.Fields(tt.args), strings.Fields("run --rm -T web true"))...)
			if code != 0 {
				t.Fatalf("exit code %d: %s", code, errOut)
			}
			calls := strings.Join(s.fake.noted(), "\n")
			if tt.outside != (calls == `run web  ["true"]`) || !tt.outside && calls != `run shop/web web ["true"]` {
				t.Errorf("got %s", calls)
			}
		})
	}
}

// TestVerbsFindTheFileOfDotEnv runs verbs that do not load the whole file.
func TestVerbsFindTheFileOfDotEnv(t *testing.T) {
	dir := lay(t, map[string]string{"shop/prod.yml": oneService, ".env": "COMPOSE_FILE=shop/prod.yml\n"})
	for line, want := range map[string]string{
		"exec -T web true": `exec a00 ["true"]`,
		"stop web":         "stop shop:web",
		"logs web":         "logs shop:web all follow=false tail=-1 since=0001-01-01T00:00:00Z",
		"pause":            "pause shop:",
		"ps -q web":        "",
	} {
		s := newSession(t, dir)
		if _, errOut, code := s.do(t, strings.Fields(line)...); code != 0 {
			t.Errorf("%s: exit code %d: %s", line, code, errOut)
		}
		if got := strings.Join(s.fake.noted(), "\n"); got != want {
			t.Errorf("%s: got %s, want %s", line, got, want)
		}
	}
}

// TestSettingsOfDotEnv says that what sets docker compose up may stand in .env.
func TestSettingsOfDotEnv(t *testing.T) {
	for _, tt := range []struct{ dotEnv, environ, line, want string }{
		{"COMPOSE_REMOVE_ORPHANS=true", "", "up -d", "RemoveOrphans:true"},
		{"COMPOSE_REMOVE_ORPHANS=true", "", "down", "orphans=true"},
		{"COMPOSE_REMOVE_ORPHANS=true", "COMPOSE_REMOVE_ORPHANS=0", "down", "orphans=false"},
		{"COMPOSE_IGNORE_ORPHANS=1", "", "up -d", "IgnoreOrphans:true"},
		{"", "COMPOSE_IGNORE_ORPHANS=1", "create", "IgnoreOrphans:true"},
		{"COMPOSE_PARALLEL_LIMIT=3", "", "up -d", "Parallel:3"},
	} {
		s := newSession(t, lay(t, map[string]string{"compose.yaml": oneService, ".env": tt.dotEnv + "\n"}))
		if tt.environ != "" {
			s.Environ = append(s.Environ, tt.environ)
		}
		s.must(t, strings.Fields(tt.line)...)
		if got := strings.Join(s.fake.noted(), "\n"); !strings.Contains(got, tt.want) {
			t.Errorf("%s with %s: got %s", tt.line, tt.dotEnv, got)
		}
	}
}

func TestRmOutsideAProject(t *testing.T) {
	for _, tt := range []struct {
		line, want string
		code       int
	}{
		{"rm -f box", "remove 5 all force", 0},
		{"rm -fv box", "remove 5 all force volumes", 0},
		{"rm shop-migrate-1", "remove e all", 0},
		{"rm -s box", "", 125}, // docker's rm has none
		{"rm box", "", 1},
		{"rm -f nosuch", "", 0},
		{"rm nosuch", "", 1},
		{"rm", "", 1},
	} {
		s := newSession(t, t.TempDir())
		_, errOut, code := s.do(t, strings.Fields(tt.line)...)
		got := strings.ReplaceAll(strings.Join(s.fake.noted(), "\n"), "00", "")
		if code != tt.code || tt.code == 0 && got != tt.want {
			t.Errorf("%s: exit code %d, calls %q: %s", tt.line, code, got, errOut)
		}
	}
}

// TestExecFindsOneOffs prefers the service's own containers.
func TestExecFindsOneOffs(t *testing.T) {
	s := newSession(t, "shop")
	oneOff := engine.Container{
		ID: id('1'), Project: "shop", Service: "migrate", OneOff: true,
		Spec: engine.Spec{Name: "shop-migrate-run-1"}, State: engine.State{Phase: engine.Running},
	}
	ofWeb := oneOff
	ofWeb.ID, ofWeb.Service, ofWeb.Spec.Name = id('2'), "web", "shop-web-run-1"
	s.fake.containers = append([]engine.Container{oneOff, ofWeb}, s.fake.containers...)
	s.fake.definition["shop"] = &spec.Desired{Project: "shop", Services: map[string]*spec.Service{"web": {}, "migrate": {}}}
	s.must(t, "exec", "-T", "migrate", "true")
	s.must(t, "exec", "-T", "web", "true")
	if got := strings.Join(s.fake.noted(), "\n"); got != "exec 100 [\"true\"]\nexec a00 [\"true\"]" {
		t.Errorf("got %s", got)
	}
}

// TestFaultsOfOthers runs verbs on a service beside one with a fault.
func TestFaultsOfOthers(t *testing.T) {
	const beside = `
  b: {image: b}
  needs: {image: n, depends_on: [a]}
`
	for name, a := range map[string]string{
		"gpus":              "a: {image: a, gpus: [{driver: none, count: 1}]}",
		"secret file":       "a: {image: a, secrets: [s]}",
		"env file":          "a: {image: a, env_file: nosuch.env}",
		"label file":        "a: {image: a, label_file: nosuch.labels}",
		"container name":    "a: {image: a, container_name: x}\n  c: {image: a, container_name: x}",
		"undefined network": "a: {image: a, networks: [nosuch]}",
		"cycle":             "a: {image: a, depends_on: [c]}\n  c: {image: a, depends_on: [a]}",
	} {
		t.Run(name, func(t *testing.T) {
			s := newSession(t, lay(t, map[string]string{
				"compose.yaml": "services:\n  " + a + beside + "secrets: {s: {file: ./nosuch}}\n",
			}))
			for line, works := range map[string]bool{
				"up -d b":               true,
				"create b":              true,
				"plan b":                true,
				"run -T --rm b true":    true,
				"--dry-run build b":     true,
				"up -d --no-deps needs": true,
				"config -q b":           true,
				"up -d":                 false,
				"up -d a":               false,
				"up -d needs":           false,
				"run -T --rm a true":    false,
			} {
				_, errOut, code := s.do(t, strings.Fields(line)...)
				if name == "container name" && !works && line != "up -d" {
					continue // c, with the same name, is not touched
				}
				if (code == 0) != works {
					t.Errorf("%s: exit code %d: %s", line, code, errOut)
				}
			}
		})
	}
}

// TestDownNeedsNoSecrets takes a project down of which nothing was brought up.
func TestDownNeedsNoSecrets(t *testing.T) {
	s := newSession(t, lay(t, map[string]string{
		"compose.yaml": "name: p\nservices:\n  a: {image: a, secrets: [s]}\n  b: {image: b, configs: [c]}\nsecrets: {s: {file: ./none}}\nconfigs: {c: {external: true}}\n",
	}))
	s.must(t, "down")
	if got := s.fake.noted(); len(got) != 1 || !strings.HasPrefix(got[0], "down p ") {
		t.Errorf("asked for %q", got)
	}
}

// TestFaultyServiceStaysAsItWas says what becomes of a service that ran before
// its part of the file broke.
func TestFaultyServiceStaysAsItWas(t *testing.T) {
	files := map[string]string{
		"s":            "secret",
		"compose.yaml": "name: shop\nservices:\n  a: {image: a, secrets: [s], networks: [n], volumes: [\"vol:/v\"]}\n  b: {image: b, depends_on: [a]}\n  c: {image: c, depends_on: [a]}\nsecrets: {s: {file: ./s}}\nnetworks: {n: }\nvolumes: {vol: }\n",
	}
	dir := lay(t, files)
	s := newSession(t, dir)
	earlier := s.desired(t)
	if err := os.Remove(filepath.Join(dir, "s")); err != nil {
		t.Fatal(err)
	}
	load := func() *spec.Desired {
		t.Helper()
		p, err := s.App.LoadProject(t.Context(), cli.LoadRequest{Services: []string{"b"}, NoDeps: true})
		if err != nil {
			t.Fatal(err)
		}
		return p.Desired
	}
	d := load()
	if d.Services["a"] != nil || d.Services["c"] != nil || !slices.Equal(d.Disabled, []string{"a", "c"}) || len(d.Services["b"].DependsOn) > 0 {
		t.Errorf("new: services %v, disabled %v", d.Services, d.Disabled)
	}
	s.fake.definition["shop"] = earlier
	d = load()
	if d.Services["a"] != earlier.Services["a"] || d.Services["c"] == nil || len(d.Disabled) > 0 || d.Networks["n"] == nil || d.Volumes["vol"] == nil {
		t.Errorf("known: services %v, disabled %v", d.Services, d.Disabled)
	}
	if _, ok := d.Services["b"].DependsOn["a"]; !ok {
		t.Error("b forgot what it depends on")
	}
}

func TestFilesWithoutServices(t *testing.T) {
	s := newSession(t, lay(t, map[string]string{"compose.yaml": "name: p\nnetworks: {n: }\nvolumes: {v: }\n"}))
	for _, line := range []string{"config -q", "config", "--dry-run up", "up -d", "create"} {
		s.must(t, strings.Fields(line)...)
	}
	if d := s.desired(t); d.Networks["n"] == nil || d.Volumes["v"] == nil {
		t.Errorf("got networks %v, volumes %v", d.Networks, d.Volumes)
	}
	s = newSession(t, lay(t, map[string]string{"compose.yaml": "name: p\n"}))
	if _, _, code := s.do(t, "config", "-q"); code == 0 {
		t.Error("a file of nothing is taken")
	}
}

func TestConfigChecksTheModelOnly(t *testing.T) {
	s := newSession(t, lay(t, map[string]string{
		"compose.yaml": "services:\n  a: {image: a, secrets: [s, t], configs: [c]}\nsecrets: {s: {file: ./nosuch}, t: {environment: NOSUCH}}\nconfigs: {c: {file: ./nosuch}}\n",
	}))
	s.must(t, "config", "-q")
	s.must(t, "config")
	if _, _, code := s.do(t, "up", "-d"); code == 0 {
		t.Error("up works without the files")
	}
}

// TestPlanShowsWhatIsPulled needs the images no more than up does.
func TestPlanShowsWhatIsPulled(t *testing.T) {
	s := newSession(t, "shop")
	s.fake.images = []plan.ImageOp{
		{Kind: plan.PullImage, Image: "postgres:16", Services: []string{"db"}, Cause: "not here"},
		{Kind: plan.BuildImage, Image: "shop/web", Services: []string{"web"}, Cause: "not here"},
	}
	want := "pull image postgres:16: not here\nbuild image shop/web: not here\n"
	if out := s.must(t, "--dry-run", "up"); out != want {
		t.Errorf("got %q", out)
	}
	// What exists is as it should be: pull_policy always alone is no difference.
	if out := s.must(t, "plan"); out != want {
		t.Errorf("got %q", out)
	}
	s.fake.images = nil
	if out := s.must(t, "plan"); out != "Nothing to do.\n" {
		t.Errorf("got %q", out)
	}
}

func TestLogsGoToStdout(t *testing.T) {
	s := newSession(t, "shop")
	s.fake.logs = []compose.LogLine{{Container: shop()[0], Stream: "stderr", Text: []byte("to stderr")}}
	if out, errOut, _ := s.do(t, "logs", "web"); !strings.Contains(out, "web-1  | to stderr") || errOut != "" {
		t.Errorf("stdout %q, stderr %q", out, errOut)
	}
	if out, errOut, _ := s.do(t, "container", "logs", "shop-web-1"); out != "" || errOut != "to stderr\n" {
		t.Errorf("a container's: stdout %q, stderr %q", out, errOut)
	}
}

func TestAttestationsStandBehindABlank(t *testing.T) {
	var got project.BuildOptions
	s := newSession(t, "shop")
	cmd := project.NewBuildCmd(s.App, func(_ context.Context, _ *cli.App, o *project.BuildOptions) error { got = *o; return nil })
	s.App.Global.ANSI = "auto"
	cmd.SetArgs([]string{"--provenance", "mode=max", "--sbom", "true", "web"})
	if err := cmd.Execute(); err != nil {
		t.Fatal(err)
	}
	if got.Provenance != "mode=max" || got.SBOM != "true" || !slices.Equal(got.Services, []string{"web"}) {
		t.Errorf("got %+v", got)
	}
}

// TestUsualFormats reads them from Docker's configuration file.
func TestUsualFormats(t *testing.T) {
	s := newSession(t, "shop")
	config := lay(t, map[string]string{"config.json": `{"auths": {}, "psFormat": "{{.Names}} {{.State}}", "imagesFormat": "{{.ID}}"}`})
	s.Environ = append(s.Environ, "DOCKER_CONFIG="+config)
	for line, want := range map[string]string{
		"ps db":                                       "shop-db-1 running\n",
		"container ls -f name=db":                     "shop-db-1 running\n",
		"ps db --format {{.Service}}":                 "db\n",
		"container ls -q -f name=db":                  id('d')[:12] + "\n",
		"container ls -f name=db --format {{.Names}}": "shop-db-1\n",
	} {
		if got := s.must(t, strings.Fields(line)...); got != want {
			t.Errorf("%s: got %q, want %q", line, got, want)
		}
	}
}

// TestCodesOfDocker are those that scripts tell a wrong call by from a command
// that failed.
func TestCodesOfDocker(t *testing.T) {
	failing := func(compose.RunOptions) (int, error) { return 125, errors.New("the name is in use") }
	for _, tt := range []struct {
		line   string
		inside bool
		want   int
	}{
		{"run --nosuch web", true, 125},
		{"run --nosuch web", false, 125},
		{"container run --nosuch web", true, 125},
		{"container create web", true, 1},
		{"container create --nosuch web", true, 125},
		{"container run web", true, 125},
		{"container run -d web", true, 125},
		{"run -T web", true, 1}, // as docker compose
		{"run -d web", false, 125},
	} {
		dir := t.TempDir()
		if tt.inside {
			dir = "shop"
		}
		s := newSession(t, dir)
		s.fake.run = failing
		if _, errOut, code := s.do(t, strings.Fields(tt.line)...); code != tt.want {
			t.Errorf("%s: exit code %d, want %d: %s", tt.line, code, tt.want, errOut)
		}
	}
}

// Scripts search docker compose's output for what was built: the log is on the
// standard output, and a line for each image on the standard error.
func TestBuildSaysWhatIsBuilt(t *testing.T) {
	dir := lay(t, map[string]string{"compose.yaml": "name: made\nservices:\n  a: {build: {dockerfile_inline: FROM scratch}}\n  b: {build: {dockerfile_inline: FROM scratch}, image: there}\n"})
	s := newSession(t, dir)
	fail := ""
	var asked request.Build
	s.fake.builder = func(_ context.Context, verb string, ask, result any, _ compose.Streams) error {
		asked = *ask.(*request.Build)
		r := result.(*request.Result)
		for _, t := range asked.Targets {
			built := request.Built{Name: t.Name, Digest: "sha256:" + t.Name}
			if t.Name == fail {
				built = request.Built{Name: t.Name, Error: "broken"}
			}
			r.Targets = append(r.Targets, built)
		}
		if fail != "" {
			return cli.ExitError{Code: 1}
		}
		return nil
	}
	_, said, _ := s.do(t, "build")
	for _, line := range []string{" Image made-a Building \n", " Image made-a Built \n", " Image there Built \n"} {
		if !strings.Contains(said, line) {
			t.Errorf("no line %q in %q", line, said)
		}
	}
	if !asked.ProgressOut {
		t.Error("the builder is not asked to log on the standard output")
	}
	fail = "b"
	if _, said, _ = s.do(t, "build"); !strings.Contains(said, "made-a Built") || strings.Contains(said, "there Built") {
		t.Errorf("where b fails: %q", said)
	}
	if _, said, _ = s.do(t, "build", "--quiet"); said != "" {
		t.Errorf("--quiet says %q", said)
	}
}

// What config cannot do it says, in docker compose's words.
func TestConfigOfModelsAndAllServices(t *testing.T) {
	dir := lay(t, map[string]string{"compose.yaml": "name: m\nservices:\n  a: {image: \"a:${TAG:-1}\", models: [llm]}\n  b: {image: b}\nmodels: {llm: {model: ai/example}}\n"})
	s := newSession(t, dir)
	if out, _, _ := s.do(t, "config", "--models"); out != "ai/example\n" {
		t.Errorf("the models are %q", out)
	}
	want := "TAG:\n    name: TAG\n    defaultvalue: \"1\"\n    presencevalue: \"\"\n    required: false\n"
	if out, _, _ := s.do(t, "config", "--variables", "--format", "yaml"); out != want {
		t.Errorf("the variables are %q", out)
	}
	for flag, want := range map[string]string{
		"--no-interpolate": "the full model will be rendered", "--variables": "variables from the full model will be rendered",
	} {
		_, said, code := s.do(t, "config", flag, "a")
		if want := "service filtering is not applied when " + flag + " is set, " + want; code != 0 || !strings.Contains(said, want) {
			t.Errorf("config %s a exits with %d and says %q", flag, code, said)
		}
		if _, said, _ = s.do(t, "config", flag); strings.Contains(said, "filtering") {
			t.Errorf("config %s says %q", flag, said)
		}
	}
}

// A restart says what of the Compose file it does not apply.
func TestRestartTellsWhatChanged(t *testing.T) {
	s := newSession(t, lay(t, map[string]string{"compose.yaml": "name: shop\nservices:\n  web: {image: web}\n  db: {image: db}\n"}))
	s.fake.plan = &plan.Plan{Ops: []*plan.Op{
		{ID: 1, Kind: plan.CreateContainer, Service: "web", Index: 1, Replaces: "old", Diffs: []plan.FieldDiff{{Path: "environment.A", Old: "1", New: "2"}}},
		{ID: 2, Kind: plan.CreateContainer, Service: "db", Index: 1},
	}}
	_, said, code := s.do(t, "restart", "web")
	if want := "Warning: web was restarted as it was made, but the Compose file has changed (environment.A 1 → 2); to apply it: stack up -d web\n"; code != 0 || said != want {
		t.Errorf("%d, %q", code, said)
	}
	s.fake.plan = nil
	if _, said, code := s.do(t, "restart"); code != 0 || said != "" {
		t.Errorf("of nothing that changed: %d, %q", code, said)
	}
	if _, said, code := s.do(t, "-p", "other", "restart"); code != 0 || said != "" {
		t.Errorf("of another project: %d, %q", code, said)
	}
}

// What config lists is all that docker compose lists.
func TestConfigLists(t *testing.T) {
	files := map[string]string{"compose.yaml": `name: l
services:
  a: {image: a, pre_start: [{image: early, command: "true"}, {command: "true"}]}
  b: {build: ., init: "${INIT}", scale: 0, volumes: [{type: volume, source: data, target: /data, volume: {subpath: sub}}]}
jobs:
  j: {image: nightly, triggers: {manual: true}}
  k: {build: ., triggers: {manual: true}}
volumes: {data: }
`}
	s := newSession(t, lay(t, files))
	s.Environ = append(s.Environ, "INIT=true")
	for line, want := range map[string]string{
		"config --images":                    "a\nearly\nl-b\nl-k\nnightly\n",
		"config --services --no-interpolate": "a\nb\n",
		"config --explain b.init":            "services.b.init: true\n  compose.yaml:4: ${INIT}\n    INIT is true, of the environment\n",
	} {
		out, said, code := s.do(t, strings.Fields(line)...)
		if code != 0 || out != want {
			t.Errorf("%s: %d, %q, %q", line, code, out, said)
		}
	}
	if out := s.must(t, "--compatibility", "config"); strings.Contains(out, "dockerfile") || strings.Contains(out, "networks:") {
		t.Errorf("with --compatibility defaults are filled in:\n%s", out)
	}
	s.must(t, "--compatibility", "config", "--quiet")
	s.must(t, "config", "--quiet", "--no-interpolate")
	if out := s.must(t, "config", "--no-normalize", "--hash", "a"); out != s.must(t, "config", "--hash", "a") {
		t.Errorf("with --no-normalize the hash is %q", out)
	}
	if out := s.must(t, "config", "--hash", "b"); !strings.HasPrefix(out, "b ") {
		t.Errorf("a service that is scaled to 0 has the hash %q", out)
	}
	if out := s.must(t, "config", "--explain", "b.init", "--format", "json"); !strings.Contains(out, `"where": "compose.yaml:4"`) {
		t.Errorf("got %s", out)
	}
	for line, want := range map[string]string{
		"config --explain b.inti":                  `services.b has no "inti"; did you mean "init"?`,
		"config --explain b.init --format toml":    `unknown format "toml"`,
		"config --explain b.init --no-interpolate": "give one of them",
		"build --print":                            "without bake",
	} {
		if _, said, code := s.do(t, strings.Fields(line)...); code == 0 || !strings.Contains(said, want) {
			t.Errorf("%s: %d, %q", line, code, said)
		}
	}
}

// A service's hash needs its own files, and nobody else's.
func TestConfigHashNeedsNoOtherService(t *testing.T) {
	s := newSession(t, lay(t, map[string]string{"compose.yaml": "name: h\nservices:\n  a: {image: a}\n  b: {image: b, env_file: nosuch.env}\n"}))
	if out := s.must(t, "config", "--hash", "a"); !strings.HasPrefix(out, "a ") {
		t.Errorf("the hash is %q", out)
	}
	if _, said, code := s.do(t, "config", "--hash", "b"); code == 0 || !strings.Contains(said, "env file nosuch.env not found") {
		t.Errorf("of b: %d, %q", code, said)
	}
	if out := s.must(t, "config", "--no-env-resolution", "--hash", "b"); !strings.HasPrefix(out, "b ") {
		t.Errorf("without its file the hash is %q", out)
	}
}

// A provider is a program: it is run before the services that depend on it are made,
// which have the variables that it sets, and again when the project goes.
func TestProviders(t *testing.T) {
	dir := lay(t, map[string]string{
		"compose.yaml": "name: cloud\nservices:\n  app: {image: app, depends_on: [db], environment: {REGION: us}}\n  other: {image: other}\n  db: {provider: {type: made-here, options: {size: 1}}}\n",
		"bin/made-here": `#!/bin/sh
echo "$@" >>"$CALLS"
case "$3" in up) echo '{"type": "setenv", "message": "URL=db://"}'; echo '{"type": "rawsetenv", "message": "REGION=eu"}';; esac
`,
	})
	if err := os.Chmod(filepath.Join(dir, "bin/made-here"), 0o755); err != nil {
		t.Fatal(err)
	}
	s := newSession(t, dir)
	calls := filepath.Join(t.TempDir(), "calls")
	s.Environ = append(s.Environ, "PATH="+filepath.Join(dir, "bin")+":"+os.Getenv("PATH"), "CALLS="+calls)
	called := func(want string) {
		t.Helper()
		got, _ := os.ReadFile(calls)
		os.Remove(calls)
		if want += "\n"; !strings.HasSuffix(string(got), want) && (want != "\n" || len(got) > 0) {
			t.Errorf("the provider was called with %q, not %q", got, want)
		}
	}
	const up = "compose --project-name=cloud up --size=1 db"
	_, said, code := s.do(t, "up", "-d")
	if code != 0 || !strings.Contains(said, `provider "db" overrides environment variable "REGION" in service "app"`) || !strings.Contains(said, " db Created \n") {
		t.Errorf("up exits with %d and says %q", code, said)
	}
	called(up)
	d := s.fake.brought
	if env := d.Services["app"].Replicas[0].Spec.Process.Env; !slices.Equal(env, []string{"DB_URL=db://", "REGION=eu"}) {
		t.Errorf("the service's variables are %q", env)
	}
	if d.Services["db"] != nil || d.Providers["db"].Type != "made-here" {
		t.Errorf("the providers are %+v", d.Providers)
	}
	s.must(t, "up", "-d", "db")
	called(up)
	s.must(t, "up", "-d", "other")
	called("")
	s.must(t, "--dry-run", "up")
	called("")
	s.fake.definition["cloud"] = d
	s.must(t, "down")
	called("compose --project-name=cloud down --size=1 db")
}

// Before a project is published, its user is asked about each thing that others would
// see; each question reads its own answer.
func TestPublishAsks(t *testing.T) {
	dir := lay(t, map[string]string{
		"compose.yaml": "name: p\nservices:\n  a: {image: a, volumes: [\".:/data\"], environment: {DB_PASSWORD: x}, env_file: a.env}\n",
		"a.env":        "TOKEN=ghp_1234567890abcdefghijklmnopqrstuvwxyz\n",
	})
	s := newSession(t, dir)
	const published = " test/test published "
	for _, c := range []struct {
		line, in string
		asked    []string
		code     int
	}{
		{"", "", []string{"bind mount"}, 130},
		{"", "n\n", []string{"bind mount"}, 130},
		{"", "y\nn\n", []string{"bind mount", "sensitive"}, 130},
		{"", "y\ny\n", []string{"bind mount", "sensitive", `"a": env_file declared`, `"a": literal value for "DB_PASSWORD"`}, 130},
		{"", "y\ny\ny\n", []string{"bind mount", "sensitive", "env declarations"}, 0},
		{"--with-env", "y\ny\n", []string{"bind mount", "Github authentication\n\"TOKEN\": ghp_"}, 0},
		{"-y", "", nil, 0},
	} {
		s.App.In = strings.NewReader(c.in)
		_, said, code := s.do(t, append(strings.Fields("publish test/test --dry-run"), strings.Fields(c.line)...)...)
		if code != c.code || strings.Contains(said, published) != (c.code == 0) {
			t.Errorf("%s with %q exits with %d and says %q", c.line, c.in, code, said)
		}
		for _, question := range c.asked {
			if !strings.Contains(said, question) {
				t.Errorf("%s with %q does not ask %q: %q", c.line, c.in, question, said)
			}
		}
		if c.asked == nil && strings.Contains(said, "Are you ok") {
			t.Errorf("%s asks: %q", c.line, said)
		}
	}
	for text, want := range map[string]string{
		"services: {b: {build: .}}\n":       "only contains a build section for service(s):\n- \"b\"",
		"include: [a.yaml]\nservices: {}\n": "cannot publish compose file with local includes: a.yaml",
	} {
		s := newSession(t, lay(t, map[string]string{"compose.yaml": text, "a.yaml": "services: {c: {image: c}}\n"}))
		if _, said, code := s.do(t, "publish", "test/test", "--dry-run"); code != 1 || !strings.Contains(said, want) {
			t.Errorf("%q: %d, %q", text, code, said)
		}
	}
	if _, said, code := s.do(t, "publish", "--app", "test/test"); code != 1 || !strings.Contains(said, "--app") {
		t.Errorf("--app: %d, %q", code, said)
	}
}
