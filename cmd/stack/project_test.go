package main

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stack-run/stack/compose/spec"
	"github.com/stack-run/stack/engine"
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
			s.environ = append(s.environ, tt.environ...)
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
			s.environ = append(s.environ, tt.environ)
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
		{"rm -s box", "stop box\nremove 5 all", 1}, // the fake's container runs on
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
