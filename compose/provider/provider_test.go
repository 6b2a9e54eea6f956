package provider

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/stack-run/stack/compose/apply"
	"github.com/stack-run/stack/compose/desired"
)

// program writes a provider that is a shell script.
func program(t *testing.T, name, script string) Runner {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, name), []byte("#!/bin/sh\n"+script), 0o755); err != nil {
		t.Fatal(err)
	}
	return Runner{Project: "shop", Environ: []string{"PATH=" + dir + ":" + os.Getenv("PATH"), "LOG=" + filepath.Join(dir, "log")}, Tell: func(apply.Event) {}}
}

const describing = `case "$2" in metadata) echo '{"description": "d", "up": {"parameters": [{"name": "size"}, {"name": "type", "required": true}]}, "down": {}, "stop": {}}'; exit;; esac
echo "$@" >>$LOG
`

func TestRun(t *testing.T) {
	p := desired.Provider{Type: "cloud", Options: map[string][]string{"type": {"pg"}, "size": {"1", "2"}}, Service: []byte(`{"name": "db"}`)}
	for _, c := range []struct {
		name, script string
		verb         Verb
		provider     desired.Provider
		want         Variables
		err          string
		called       string
		told         string
	}{
		{
			name: "up sets variables and reads its service", verb: Up, provider: p,
			script: describing + `printf '%s\n' '{"type": "info", "message": "half\nway"}'; echo '{"type": "debug"}'
echo '{"type": "get-service-config"}'; read config; case $config in *db*) echo '{"type": "setenv", "message": "URL=a=b"}';; esac
echo '{"type": "rawsetenv", "message": "REGION=eu"}'`,
			want:   Variables{Prefixed: map[string]string{"URL": "a=b"}, Raw: map[string]string{"REGION": "eu"}},
			called: "compose --project-name=shop up --size=1 --size=2 --type=pg db\n", told: "Creating half Created",
		},
		{name: "down takes no options", verb: Down, provider: p, script: describing, called: "compose --project-name=shop down db\n", told: "Removing Removed"},
		{name: "stop", verb: Stop, provider: p, script: describing, called: "compose --project-name=shop stop db\n", told: "Stopping Stopped"},
		{name: "nothing to stop", verb: Stop, provider: p, script: "echo \"$@\" >>$LOG"},
		{name: "one that says nothing gets all", verb: Up, provider: p, script: `case "$2" in metadata) exit 1;; esac; echo "$@" >>$LOG`, called: "compose --project-name=shop up --size=1 --size=2 --type=pg db\n", told: "Creating Created"},
		{name: "needs an option", verb: Up, provider: desired.Provider{Type: "cloud"}, script: describing, err: `needs the option "type"`},
		{name: "says what failed", verb: Up, provider: p, script: describing + `echo '{"type": "error", "message": "no quota"}'; sleep 60`, err: "the provider of service db failed: no quota", told: "Creating Error"},
		{name: "fails", verb: Up, provider: p, script: describing + "echo broken >&2; exit 3", err: "exit status 3: broken", told: "Creating Error"},
		{name: "wants more than there is", verb: Up, provider: p, script: describing + `echo '{"type": "publish-endpoint", "message": "80=h:1"}'`, err: `message "publish-endpoint" is not understood`, told: "Creating Error"},
		{name: "speaks no JSON", verb: Up, provider: p, script: describing + "echo hello", err: "does not speak in JSON", told: "Creating Error"},
		{name: "is not there", verb: Up, provider: desired.Provider{Type: "nosuch-provider"}, err: "no program nosuch-provider in the PATH"},
		{name: "is a path", verb: Up, provider: desired.Provider{Type: "../cloud"}, err: "is no type of a provider"},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := program(t, "cloud", c.script)
			var told []string
			r.Tell = func(e apply.Event) { told = append(told, e.Status) }
			got, err := r.Run(t.Context(), "db", c.provider, c.verb)
			if (err == nil) != (c.err == "") || err != nil && !strings.Contains(err.Error(), c.err) {
				t.Fatalf("the error is %v", err)
			}
			if c.want.Raw != nil {
				if diff := cmp.Diff(c.want, got); diff != "" {
					t.Error(diff)
				}
			}
			if said := strings.Join(told, " "); said != c.told {
				t.Errorf("told %q", said)
			}
			log, _ := os.ReadFile(strings.TrimPrefix(r.Environ[1], "LOG="))
			if c.called != "" && string(log) != c.called {
				t.Errorf("called with %q", log)
			}
		})
	}
}

// A plugin of Docker's is found before a program in the PATH.
func TestFind(t *testing.T) {
	r := program(t, "model", "")
	plugins := t.TempDir()
	r.Plugins = []string{filepath.Join(plugins, "nosuch"), plugins}
	if err := os.WriteFile(filepath.Join(plugins, "docker-model"), nil, 0o755); err != nil {
		t.Fatal(err)
	}
	if got, err := r.find("model"); err != nil || got != filepath.Join(plugins, "docker-model") {
		t.Errorf("found %s, %v", got, err)
	}
}
